"""What embeds the images of embed_images: this process with workers of its own, or Spark's tasks. Both write the tables
of a run.
"""

# Spark, and what embeds images, are imported where they are used: a job that needs neither should not wait for them.

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from image_similarity.errors import WrongInput, counted
from image_similarity.jobs import early
from image_similarity.jobs.job import Failures, Job
from image_similarity.reporting import note
from image_similarity.runtime.session import is_local_mode, local_cores, starts_locally
from image_similarity.settings import PcaSettings, Settings
from image_similarity.stages.embeddings import checkpoints, measurements
from image_similarity.stages.embeddings.outcomes import Counts, Retry
from image_similarity.stages.embeddings.prepare import PreparedFingerprint
from image_similarity.storage import uris
from image_similarity.warehouse import retention
from image_similarity.warehouse.schemas import CLASS_SCORES, QUALITY, scores_slot
from image_similarity.warehouse.snapshot import Snapshot

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from image_similarity.runtime import processes
    from image_similarity.stages.embeddings import in_process, stage

PROCESS = "process"
_KNOWN_OF = ("embeddings", "failures", "vectors", CLASS_SCORES, QUALITY)
MEASUREMENTS = f"{retention.CHECKPOINTS}/{measurements.STATE}"
"""The state slot that holds measurements of pictures, as `state_of` a key holds vectors."""


@dataclass(frozen=True)
class Embedding:
    """One fingerprint in the pass: its run, and its inputs."""

    job: Job
    prepared: PreparedFingerprint
    inputs: dict[str, list[str]]
    previous: str | None
    """The fingerprint key of the published vectors; None if there are none."""

    @property
    def key(self) -> str:
        return self.prepared.spec.key

    @property
    def classifier(self) -> str | None:
        """The key of the classifier whose classes are kept while images are embedded, since they do not follow from
        vectors; None if none are kept.
        """
        known = self.prepared.classifier
        return known.key if known is not None and self.prepared.keeps_classes else None

    @property
    def scores_slot(self) -> str | None:
        """The slot of ``class_scores`` for `classifier`; None if no classes are kept."""
        return None if self.classifier is None else scores_slot(self.key, self.classifier)

    @property
    def scores(self) -> list[str]:
        """The published runs of `scores_slot`."""
        return [] if self.scores_slot is None else self.job.base_snapshot.run_ids(CLASS_SCORES, self.scores_slot)

    @property
    def state(self) -> str:
        return state_of(self.key)

    @property
    def folder(self) -> str:
        """Where this run's tasks write checkpoints, as programs outside Hadoop name it."""
        return self.job.warehouse.state_of(self.state, self.job.run_id).location(checkpoints.FOLDER)


@dataclass(frozen=True)
class Written:
    """The tables of a run, once they are written."""

    counts: dict[str, Any]
    failures: Failures
    failed_before: int
    """Images whose failure stands from an earlier run."""
    is_measured: bool = False
    """Whether the run has written ``quality``, of the images of all fingerprints in the pass."""


def state_of(key: str) -> str:
    """The state slot that holds the checkpoints for ``key``, see `Warehouse.state`."""
    return f"{retention.CHECKPOINTS}/{key}"


# -- the choice --------------------------------------------------------------------------------------------------------


def chosen(job: Job) -> "InProcess | BySpark":
    """What embeds the images of ``job`` and of others in its pass."""
    check(job.settings, job.warehouse.uri)
    runner = job.settings.embeddings.runner
    here = runner == PROCESS or (runner == "auto" and is_local_mode(job.session))
    if here and job.warehouse.local_root is not None and _is_small(job.base_snapshot, job.settings):
        return InProcess()
    return BySpark()


def check(settings: Settings, warehouse: str) -> None:
    """Raises ``WrongInput`` where this process is asked for what needs Spark."""
    if settings.embeddings.runner == PROCESS and not uris.is_local(warehouse):
        raise WrongInput(f"embeddings.runner = {PROCESS}, but {warehouse} is not on this machine: choose spark")


def _is_small(published: Snapshot, settings: Settings) -> bool:
    """Whether what is known of all images fits into the memory of this process, or has to. Rows of earlier manifests
    and of other fingerprints are looked through, too.
    """
    from image_similarity.stages.embeddings import in_process

    if settings.embeddings.runner == PROCESS:
        return True
    most = {"manifest": in_process.MOST_IMAGES} | dict.fromkeys(_KNOWN_OF, in_process.MOST_KNOWN)
    try:
        return all(published.dataset(table).count_rows() <= rows for table, rows in most.items())
    except (OSError, pa.ArrowException):  # whoever needs the table says what is wrong with it
        return False


def will_embed(published: Snapshot | None, settings: Settings, names: Sequence[str]) -> bool:
    """Whether workers of this process are likely to embed images soon, so that they may begin to import torch."""
    if published is None or settings.embeddings.runner == "spark" or not starts_locally():
        return False
    if all(isinstance(settings.fingerprint(name), PcaSettings) for name in names):
        return False
    return _is_small(published, settings) and (
        not published.run_ids("manifest") or any(early.unread_images(published, name) for name in names)
    )


def prepare_workers(settings: Settings, names: Sequence[str]) -> "processes.Server":
    """The server of workers for the fingerprints ``names``, see `in_process.prepare_workers`."""
    from image_similarity.stages.embeddings import in_process

    return in_process.prepare_workers([settings.fingerprint(name) for name in names])


# -- this process ------------------------------------------------------------------------------------------------------


class InProcess:
    """Tables by this process, images by worker processes, see `stages.embeddings.in_process`."""

    def key_of(self, job: Job, runs: list[str]) -> str | None:
        """The fingerprint key of published embeddings; None if there are none."""
        first = job.base_snapshot.dataset("embeddings", job.slot).head(1, columns=["fingerprint_key"]).to_pylist()
        return first[0]["fingerprint_key"] if first else None

    def run(self, embeddings: Sequence[Embedding], retry: Retry) -> Iterator[Written]:
        """Embeds the images in one pass, and writes all tables."""
        from image_similarity.stages.embeddings import in_process

        first = embeddings[0].job
        settings = first.settings
        with first.step("sort out what is new"):
            manifest = first.base_snapshot.dataset("manifest").to_table(
                columns=["image_id", "uri", "source_version", "size_bytes"]
            )
            fingerprints = [self._fingerprint(embedding) for embedding in embeddings]
            quality = self._quality(first) if settings.quality.enabled else None
            outputs = in_process.run(
                first.session,
                local_cores(first.session),
                lambda: prepare_workers(settings, [embedding.job.slot for embedding in embeddings]),
                manifest,
                fingerprints,
                settings.embeddings,
                settings.http,
                retry,
                quality,
            )
        with first.step("write tables"):
            written = list(map(self._write, embeddings, fingerprints, outputs))
            if quality is not None:
                rows = in_process.quality_rows(outputs, quality, measurements.limits_in(settings.quality))
                first.warehouse.write_here(QUALITY, first.run_id, [rows])
                decoded = len(set().union(*(output.decoded for output in outputs)))
                written[0] = _measured(written[0], rows, decoded)
        return iter(written)

    def _quality(self, job: Job) -> "in_process.Quality":
        from image_similarity.stages.embeddings import in_process

        return in_process.Quality(
            published=job.base_snapshot.table(QUALITY),
            checkpoints=[file for folder in _measurement_folders(job) for file in _readable(folder)[0]],
            folder=_own_measurements(job),
        )

    def _fingerprint(self, embedding: Embedding) -> "in_process.Fingerprint":
        from image_similarity.stages.embeddings import in_process

        job, published = embedding.job, embedding.job.base_snapshot
        columns = ["image_id", "source_version"]
        prepared = embedding.prepared
        classified = published.of_runs(CLASS_SCORES, embedding.scores, ["content_sha256", "rest"])
        return in_process.Fingerprint(
            name=job.slot,
            spec=prepared.spec,
            file=str(prepared.file) if prepared.file else None,
            published=published.table("embeddings", job.slot, [*columns, "content_sha256", "fingerprint_key"]),
            failures=published.table("failures", job.slot, [*columns, "reason", "detail"]),
            failures_hold=embedding.previous == embedding.key,
            contents=frozenset(published.table("vectors", embedding.key, ["content_sha256"])[0].to_pylist()),
            checkpoints=_whole_checkpoints(embedding),
            folder=embedding.folder,
            classifier=embedding.classifier,
            classified=in_process.are_clear(classified),
        )

    def _write(
        self, embedding: Embedding, fingerprint: "in_process.Fingerprint", outputs: "in_process.Outputs"
    ) -> Written:
        from image_similarity.stages.embeddings import in_process

        job, warehouse = embedding.job, embedding.job.warehouse
        warehouse.write_here("failures", job.run_id, [outputs.failures])
        failures = failures_in(outputs.failures.to_pylist())
        job.check_failures(failures, "image", outputs.images, "embeddings")
        warehouse.write_here("embeddings", job.run_id, [outputs.embeddings])
        # Counted from checkpoints and not from results: a worker that died may have written some, and the next attempt
        # does not embed those contents again.
        ours, _ = checkpoints.files(embedding.folder)
        new, added, contents = in_process.contents_of(ours), 0, set(fingerprint.contents)
        if new or fingerprint.checkpoints:  # of earlier runs, perhaps for images that have another name now
            files = [*fingerprint.checkpoints, *ours]
            added = warehouse.write_here("vectors", job.run_id, in_process.new_vectors(files, fingerprint.contents))
            contents |= in_process.contents_of(files)
        in_process.check(outputs, contents)
        counts = _counts(outputs, len(new), added, failures)
        if embedding.classifier is not None:
            counts |= self._write_classes(job, fingerprint, embedding.classifier, outputs, ours)
        return Written(counts, failures, outputs.failed_before)

    def _write_classes(
        self,
        job: Job,
        fingerprint: "in_process.Fingerprint",
        classifier: str,
        outputs: "in_process.Outputs",
        ours: Sequence[str],
    ) -> dict[str, int]:
        """Writes the new classes, and counts. ``ours``: the checkpoints of this run."""
        from image_similarity.stages.embeddings import in_process

        files, published = [*fingerprint.checkpoints, *ours], fingerprint.classified
        classified = {**in_process.classified_in(files, classifier), **published}
        if len(classified) > len(published):
            rows = in_process.new_class_scores(files, published, classifier)
            job.warehouse.write_here(CLASS_SCORES, job.run_id, rows)
        images = Counter(map(classified.get, outputs.embeddings["content_sha256"].to_pylist()))
        return _class_counts(len(classified) - len(published), images[None] + images[False], images[False])


def failures_in(rows: Sequence[dict[str, Any]]) -> Failures:
    """The same as `Job.failures`, from rows of ``failures``."""
    counts = Counter(row["reason"] for row in rows)
    first = {reason: min(row["uri"] or row["image_id"] for row in rows if row["reason"] == reason) for reason in counts}
    return Failures.by_reason((reason, counts[reason], first[reason]) for reason in sorted(counts))


# -- Spark -------------------------------------------------------------------------------------------------------------


class BySpark:
    """Tables and images by Spark, see `stages.embeddings.stage`."""

    def key_of(self, job: Job, runs: list[str]) -> str | None:
        """The fingerprint key of published embeddings; None if there are none."""
        return key_in(job.warehouse.read("embeddings", runs))

    def run(self, embeddings: Sequence[Embedding], retry: Retry) -> Iterator[Written]:
        """Embeds the images in one pass, and writes all tables."""
        from image_similarity.stages.embeddings import stage

        first = embeddings[0].job
        settings = first.settings
        manifest = first.warehouse.read("manifest", embeddings[0].inputs["manifest"])
        with first.warehouse.scratch(first.run_id) as scratch:
            fingerprints = [self._fingerprint(embedding) for embedding in embeddings]
            quality = self._quality(first) if settings.quality.enabled else None
            with first.step("sort out what is new"):
                outputs = stage.run(
                    first.session, manifest, fingerprints, settings.embeddings, settings.http, retry, scratch, quality
                )
            with first.step("write tables"):
                written = [
                    self._write(embedding, manifest, fingerprint, result)
                    for embedding, fingerprint, result in zip(embeddings, fingerprints, outputs)
                ]
                if quality is not None:
                    images = stage.decoded_images(outputs, quality)
                    # Again: the tasks have written measurements meanwhile.
                    rows = stage.quality_rows(images, self._quality(first), measurements.limits_in(settings.quality))
                    first.warehouse.write(QUALITY, first.run_id, rows)
                    flags = first.warehouse.read(QUALITY, [first.run_id]).select("flags")
                    written[0] = _measured(written[0], flags.toArrow(), images.count())
        return iter(written)

    def _quality(self, job: Job) -> "stage.Quality":
        from image_similarity.stages.embeddings import stage

        runs = job.base_snapshot.run_ids(QUALITY)
        return stage.Quality(
            published=job.warehouse.read(QUALITY, runs),
            checkpoints=_saved(job, MEASUREMENTS, checkpoints.MEASUREMENTS),
            folder=_own_measurements(job),
        )

    def _fingerprint(self, embedding: Embedding) -> "stage.Fingerprint":
        from image_similarity.runtime.tasks import ship
        from image_similarity.stages.embeddings import stage

        job, prepared = embedding.job, embedding.prepared
        return stage.Fingerprint(
            name=job.slot,
            spec=prepared.spec,
            file=ship(job.session, prepared.file) if prepared.file else None,
            published=job.warehouse.read("embeddings", embedding.inputs["embeddings"]),
            failures=job.warehouse.read("failures", job.base_snapshot.run_ids("failures", job.slot)),
            failures_hold=embedding.previous == embedding.key,
            vectors=job.warehouse.read("vectors", embedding.inputs["vectors"]),
            checkpoints=_checkpoints(job, embedding.key),
            folder=embedding.folder,
            classifier=embedding.classifier,
            classified=job.warehouse.read(CLASS_SCORES, embedding.scores),
        )

    def _write(
        self, embedding: Embedding, manifest: "DataFrame", fingerprint: "stage.Fingerprint", outputs: "stage.Outputs"
    ) -> Written:
        """Writes the tables, checks that every image is embedded or failed, and counts."""
        from image_similarity.stages.embeddings import stage

        job, run = embedding.job, embedding.job.run_id
        failures = write_failures(job, outputs.failures, outputs.images)
        job.warehouse.write("embeddings", run, outputs.embeddings)
        vectors, added = fingerprint.vectors, 0
        # Counted from checkpoints and not from results: a task that was lost with its executor may have written some,
        # and its retry does not embed those contents again.
        ours = _checkpoints(job, embedding.key, this_run_only=True)
        embedded = ours.select("content_sha256").distinct().count()
        if embedded or any(checkpoints.files(folder)[0] for folder in _folders(embedding)):  # see `InProcess._write`
            new = stage.new_vectors(_checkpoints(job, embedding.key), vectors)
            job.warehouse.write("vectors", run, new)
            written = job.warehouse.read("vectors", [run])
            vectors, added = vectors.unionByName(written), written.count()
        rows = job.warehouse.read("embeddings", [run])
        stage.check(manifest, rows, job.warehouse.read("failures", [run]), vectors)
        counts = _counts(outputs, embedded, added, failures)
        if embedding.classifier is not None:
            counts |= self._write_classes(embedding, embedding.classifier, fingerprint.classified, rows)
        return Written(counts, failures, outputs.failed_before)

    def _write_classes(
        self, embedding: Embedding, classifier: str, published: "DataFrame", embeddings: "DataFrame"
    ) -> dict[str, int]:
        """Writes the new classes, and counts."""
        from image_similarity.stages.embeddings import stage

        job, run, classified = embedding.job, embedding.job.run_id, published
        new = stage.new_class_scores(_checkpoints(job, embedding.key), published, classifier)
        job.warehouse.write(CLASS_SCORES, run, new)
        added = job.warehouse.count(CLASS_SCORES, run)
        if added:
            classified = published.unionByName(job.warehouse.read(CLASS_SCORES, [run]))
        else:
            job.warehouse.remove(CLASS_SCORES, run)
        return _class_counts(added, *stage.class_counts(embeddings, classified))


def write_failures(job: Job, rows: "DataFrame", images: int) -> Failures:
    """Writes ``failures``, and counts them by reason. Raises ``TooManyFailures`` above the allowed fraction."""
    job.warehouse.write("failures", job.run_id, rows)
    failures = job.failures()
    job.check_failures(failures, "image", images, "embeddings")
    return failures


def key_in(embeddings: "DataFrame") -> str | None:
    """The fingerprint key of rows of ``embeddings``; None if there are none."""
    row = embeddings.select("fingerprint_key").first()
    return None if row is None else str(row.fingerprint_key)


def _checkpoints(job: Job, key: str, this_run_only: bool = False) -> "DataFrame":
    """The checkpoints for ``key`` of this run and of earlier runs that were not published, without damaged files."""
    return _saved(job, state_of(key), checkpoints.SCHEMA, this_run_only)


def _saved(job: Job, slot: str, schema: pa.Schema, this_run_only: bool = False) -> "DataFrame":
    """The rows of the checkpoints in the state ``slot``, as `_checkpoints`."""
    runs = [run for run in job.warehouse.states(slot) if run == job.run_id or not this_run_only]
    readable: list[str] = []
    for state in (job.warehouse.state_of(slot, run) for run in runs):
        whole, damaged = _readable(state.location(checkpoints.FOLDER))
        readable += map(uris.for_spark, whole) if damaged else [state.folder(checkpoints.FOLDER)]
    return job.warehouse.read_folders(readable, schema)


# -- both --------------------------------------------------------------------------------------------------------------


def _whole_checkpoints(embedding: Embedding) -> list[str]:
    """The files of checkpoints of earlier runs that were not published, without damaged ones."""
    return [file for folder in _folders(embedding) for file in _readable(folder)[0]]


def _folders(embedding: Embedding) -> list[str]:
    """Where checkpoints of this run and of earlier ones are that were not published."""
    return _folders_in(embedding.job, embedding.state)


def _measurement_folders(job: Job) -> list[str]:
    """As `_folders`, of measurements."""
    return _folders_in(job, MEASUREMENTS)


def _folders_in(job: Job, slot: str) -> list[str]:
    states = [job.warehouse.state_of(slot, run) for run in job.warehouse.states(slot)]
    return [state.location(checkpoints.FOLDER) for state in states]


def _own_measurements(job: Job) -> str:
    """Where the tasks of the pass that ``job`` is the first of write measurements."""
    return job.warehouse.state_of(MEASUREMENTS, job.run_id).location(checkpoints.FOLDER)


def _readable(folder: str) -> tuple[list[str], list[str]]:
    """`checkpoints.files`. A damaged file is passed over, with a note: its images are embedded again."""
    whole, damaged = checkpoints.files(folder)
    if damaged:
        its = "its" if len(damaged) == 1 else "their"
        note(f"{counted(len(damaged), 'damaged checkpoint')}, as {damaged[0]}: {its} images are embedded again")
    return whole, damaged


def _counts(outputs: Counts, embedded: int, added: int, failures: Failures) -> dict[str, Any]:
    """For ``runs.counts``."""
    return {
        "images": outputs.images,
        "not_read_again": outputs.reused,
        "resumed": outputs.resumed,
        "read": outputs.read,
        "embedded": embedded,
        "devices": outputs.embedded_on,
        "vectors_added": added,
        "failures": failures.counts,
    }


def _class_counts(added: int, lacking: int, unclear: int) -> dict[str, int]:
    """For ``runs.counts``. ``added``: contents; ``lacking``: images without classes; ``unclear``: those of them whose
    logits are not finite.
    """
    return {"classes_added": added, "without_classes": lacking, "logits_not_finite": unclear}


def _measured(written: Written, rows: pa.Table, decoded: int) -> Written:
    """``written``, with what is counted of ``rows`` of ``quality``. ``decoded``: images that can be decoded."""
    flags = measurements.flag_counts(rows["flags"])
    counts = {"measured": len(rows), "not_measured": decoded - len(rows), "flags": flags}
    return replace(written, counts={**written.counts, **counts}, is_measured=True)
