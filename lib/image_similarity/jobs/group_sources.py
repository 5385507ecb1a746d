"""What group_images and render_map read: published neighbours, the images they were found among, and their vectors."""

# What computes is imported where it is used: what is wrong in the arguments should not wait for it.

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from image_similarity.errors import JobFailed, WrongInput, counted
from image_similarity.jobs import early
from image_similarity.jobs.find_neighbours import COMPARED
from image_similarity.jobs.job import Job
from image_similarity.runtime.session import local_cores
from image_similarity.settings import NeighboursSettings, renamed
from image_similarity.storage import uris
from image_similarity.warehouse import provenance
from image_similarity.warehouse.snapshot import Snapshot

if TYPE_CHECKING:
    from image_similarity.neighbour_graph import Images
    from image_similarity.stages.groups.vectors import Source
    from image_similarity.warehouse.workspace import Workspace

PROCESS, SPARK = "process", "spark"


@dataclass(frozen=True)
class Inputs:
    """A published run of ``neighbours``, and what it was made of."""

    run: str
    settings: NeighboursSettings
    images: int
    dimensions: int
    embeddings: list[str]
    """Runs of ``embeddings``; or the address of vectors of one's own."""
    vectors: list[str]
    """Runs of ``vectors``; none for vectors of one's own."""
    key: str | None = None
    """The ``fingerprint_key``; None for vectors of one's own."""
    compared: str | None = None
    """A hash of the ids and vectors that were compared; None where an earlier version compared them."""

    @property
    def own_vectors(self) -> str | None:
        return None if self.vectors else self.embeddings[0]

    @property
    def known_by(self) -> str:
        """What is the same for equal vectors alone: the ``fingerprint_key``, or else what is known of all of them.

        Vectors of one's own have another one if any of them has changed, has come or is gone.
        """
        return self.key or self.compared or self.run

    @property
    def runs(self) -> dict[str, list[str]]:
        """table -> runs read."""
        read = {"neighbours": [self.run], "embeddings": self.embeddings, "vectors": self.vectors}
        return {table: runs for table, runs in read.items() if runs}


def of(published: Snapshot, slot: str, for_copies: bool = True) -> Inputs:
    """The neighbours that are published for ``slot``.

    Raises ``WrongInput`` where there are none, or none are similar ones; ``for_copies``, also where equal vectors were
    left out of lists. Raises ``JobFailed`` if their run has no record. No table is read.
    """
    (run,) = early.runs_of(published, "neighbours", slot, "find_neighbours")
    record = published.runs.get(run)
    if record is None:
        raise JobFailed(f"run {run} of neighbours {slot} is not in runs: run find_neighbours again")
    settings = NeighboursSettings(**renamed.section("neighbours", record.settings["neighbours"]))
    if not settings.similar:
        raise WrongInput(
            f"run {run} of neighbours {slot} has no similar neighbours: run find_neighbours with -k 12, say"
        )
    vectors = list(record.inputs.get("vectors", []))
    if for_copies and not vectors and settings.drop_duplicates:
        raise WrongInput(
            f"run {run} of neighbours {slot} left equal vectors out of its lists: run find_neighbours with --set "
            "neighbours.drop_duplicates=false"
        )
    counts = record.counts
    return Inputs(
        run,
        settings,
        int(counts.get("images", 0)),
        int(counts.get("dimensions", 0)),
        list(record.inputs["embeddings"]),
        vectors,
        compared=record.settings.get(COMPARED),
    )


def check_current(job: Job, inputs: Inputs) -> Inputs:
    """``inputs`` with the runs of ``embeddings`` that are published now, and their key.

    Raises ``WrongInput`` where these have other images than the neighbours were found among: groups of files that are
    gone, or are others by now, would be wrong, and a list to clean by dangerous.
    """
    if inputs.own_vectors is not None:
        return inputs
    published, name = job.base_snapshot, inputs.settings.fingerprint
    now = early.runs_of(published, "embeddings", name, "embed_images")
    keys = _keys(published, now)
    if len(keys) != 1 and keys:
        raise JobFailed(f"the embeddings {name} mix the keys {', '.join(keys)}: run embed_images again")
    if now != inputs.embeddings and (changed := _changed(published, inputs.embeddings, now)):
        raise WrongInput(
            f"{changed} new or gone, since the neighbours {job.slot.rpartition('/')[0]} "
            f"were found: run find_neighbours --fingerprint {name} --metric {inputs.settings.metric} first"
        )
    return Inputs(
        inputs.run,
        inputs.settings,
        inputs.images,
        inputs.dimensions,
        now,
        inputs.vectors,
        keys[0] if keys else None,
    )


def key_of(published: Snapshot, inputs: Inputs) -> str | None:
    """The ``fingerprint_key`` of the vectors that neighbours were found among.

    None for vectors of one's own, and where their rows are gone or have several keys.
    """
    try:
        keys = _keys(published, inputs.embeddings) if inputs.own_vectors is None else []
    except FileNotFoundError:
        return None
    return keys[0] if len(keys) == 1 else None


def _keys(published: Snapshot, runs: list[str]) -> list[str]:
    return sorted(provenance.fingerprint_keys(published, runs))


def _changed(published: Snapshot, before: list[str], now: list[str]) -> str | None:
    """How many images differ between two states of ``embeddings``, as a sentence begins; None if none do."""
    from image_similarity.stages.groups import staleness

    try:
        images = staleness.changed_images(published, before, now)
    except FileNotFoundError:
        return "some images may have other vectors, or are"
    if not images:
        return None
    return counted(images, "image has other vectors, or is", "images have other vectors, or are")


def images_of(job: Job, inputs: Inputs) -> "Images":
    """The images that neighbours were found among."""
    from image_similarity import neighbour_graph

    if inputs.own_vectors is None:
        return neighbour_graph.images_of(job.base_snapshot.dataset("embeddings", inputs.settings.fingerprint))
    return neighbour_graph.images_in(job.base_snapshot.dataset("neighbours", _slot(inputs)))


def images_compared(job: Job, inputs: Inputs) -> "Images":
    """As `images_of`, of the embeddings that neighbours were found among, whatever is published by now.

    Where these are gone, copies of a file are not known as such: each image is a node.
    """
    from image_similarity import neighbour_graph

    if inputs.own_vectors is None:
        try:
            return neighbour_graph.images_of(job.base_snapshot.dataset_of("embeddings", inputs.embeddings))
        except FileNotFoundError:
            pass
    return neighbour_graph.images_in(job.base_snapshot.dataset("neighbours", _slot(inputs)))


def _slot(inputs: Inputs) -> str:
    return f"{inputs.settings.fingerprint}/{inputs.settings.metric}"


def runner(job: Job, inputs: Inputs, asked: str) -> tuple[str, str]:
    """What compares the images of groups, and why. Raises ``WrongInput`` as `check_runner` does."""
    if asked != "auto":
        check_runner(asked, job.warehouse.uri, inputs)
        return asked, "groups.runner asks for it"
    remote = _remote(job.warehouse.uri, inputs)
    return (SPARK, f"{remote} is not on this machine") if remote else (PROCESS, "all is on this machine")


def check_runner(asked: str, warehouse: str, inputs: Inputs) -> None:
    """Raises ``WrongInput`` where this process is asked for what needs Spark."""
    if asked == PROCESS and (remote := _remote(warehouse, inputs)):
        raise WrongInput(f"groups.runner = process, but {remote} is not on this machine: choose spark")


def _remote(warehouse: str, inputs: Inputs) -> str | None:
    """The first of the places that is not on this machine's disks."""
    return next((uri for uri in (warehouse, inputs.own_vectors) if uri is not None and not uris.is_local(uri)), None)


def vectors_of(job: Job, inputs: Inputs, chosen: str, scratch: "Workspace") -> "Source":
    """Where the vectors are read from, by the runner ``chosen``."""
    from image_similarity.stages.groups import vectors

    own, read_seconds = inputs.own_vectors, job.settings.embeddings.read_seconds
    if chosen == PROCESS and own is None:
        return vectors.Here(vectors.stored(job.base_snapshot, inputs.key or ""))
    if chosen == PROCESS:
        from image_similarity.stages.neighbours import local_source

        source = local_source.from_parquet(str(own), read_seconds).open(local_cores(job.session))

        def batches() -> Iterator[pa.RecordBatch]:
            for group in source.groups:
                yield from group()

        return vectors.Here(batches)
    if own is not None:
        from image_similarity.stages.neighbours import sources

        return vectors.BySpark(sources.from_parquet(job.session, own, read_seconds).vectors, scratch)
    from pyspark.sql import functions as F

    stored = job.warehouse.read("vectors", inputs.vectors)
    return vectors.BySpark(stored.select(F.col("content_sha256").alias(vectors.CONTENT), vectors.VECTOR), scratch)
