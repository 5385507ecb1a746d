"""What lists and embeds the pictures of search_images: this process with workers of its own, or Spark's tasks.

Vectors of queries are never published: they enter no collection. They are in the state of the run, where the next
search of the same queries finds them. A query whose bytes the collection has takes the vector that is there.
"""

# Spark, and what embeds images, are imported where they are used: a job that needs neither should not wait for them.

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from image_similarity.errors import JobFailed, WrongInput, counted
from image_similarity.jobs import embedding_runners, search_runners
from image_similarity.jobs.job import Failures, Job
from image_similarity.jobs.search_runners import Side
from image_similarity.reporting import note, printable
from image_similarity.runtime.session import is_local_mode, local_cores
from image_similarity.settings import Settings
from image_similarity.stages.embeddings import checkpoints
from image_similarity.stages.embeddings.outcomes import Retry
from image_similarity.stages.embeddings.prepare import PreparedFingerprint
from image_similarity.stages.search.queries import ROWS, Queries, failures_slot, state_slot
from image_similarity.storage import blobs, uris
from image_similarity.warehouse.schemas import CLASS_SCORES, SCHEMAS, VECTORS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from image_similarity.runtime import processes
    from image_similarity.warehouse.workspace import Workspace

PROCESS = "process"
_LISTED, _VECTORS = "queries", "vectors"
"""Folders of the state: which bytes each query has, and the vectors of those that the collection lacks."""
_LISTING = ["image_id", "uri", "source_version", "size_bytes"]
_ROWS_AT_ONCE = 1024


def check(settings: Settings, warehouse: str, images: str) -> None:
    """Raises ``WrongInput`` where this process is asked for what needs Spark: a warehouse, a folder or list, or a place
    in that list, that is not on this machine.
    """
    embedding_runners.check(settings, warehouse)
    if settings.embeddings.runner != PROCESS:
        return
    if not uris.is_local(images):
        raise WrongInput(f"embeddings.runner = {PROCESS}, but {images} is not on this machine: choose spark")
    from image_similarity.stages.manifest import in_process

    if place := in_process.elsewhere(images, settings.manifest, settings.embeddings.read_seconds):
        raise WrongInput(
            f"embeddings.runner = {PROCESS}, but {images} names {printable(place)}, which is not on this machine: "
            "choose spark"
        )


@dataclass(frozen=True)
class Embedded:
    """Queries, and where their vectors are."""

    queries: Queries | None
    """None for vectors of one's own: their ids are known once they are compared."""
    side: Side
    """As `search_runners` takes them."""
    files: Sequence[str]
    """Parquet files with the vectors, and thumbprints, that the collection lacks."""
    counts: dict[str, Any]


@dataclass(frozen=True)
class Pictures:
    """The pictures of one search, and what embeds them."""

    job: Job
    images: str
    fingerprint: str
    prepared: PreparedFingerprint
    name: str
    """Of the queries."""

    @property
    def key(self) -> str:
        return self.prepared.spec.key

    @property
    def slot(self) -> str:
        """Of the state."""
        return state_slot(self.name, self.key)

    @property
    def state(self) -> "Workspace":
        return self.job.warehouse.state_of(self.slot, self.job.run_id)

    def embedded(self) -> Embedded | None:
        """Lists and embeds them. None where a folder has no picture in it, as that of what came in on a quiet day.

        Raises ``TooManyFailures`` above the fraction that embeddings allow, ``WrongInput`` as build_manifest does.
        """
        from image_similarity.stages.manifest.images import NoImages

        try:
            return _by_process(self) or _by_spark(self)
        except NoImages as nothing:
            note(f"{nothing}: there is nothing to search for")
            return None

    def earlier(self, folder: str) -> list[str]:
        """The files in ``folder`` of the states that earlier searches of these queries left, oldest first."""
        states = [self.job.warehouse.state_of(self.slot, run) for run in self.job.warehouse.states(self.slot)]
        return [file for state in states for file in _whole(state.location(folder))]

    @property
    def failed_runs(self) -> list[str]:
        """The run of the search that is published, if it was by the same fingerprint key: its failures may stand."""
        published = self.job.base_snapshot
        runs = published.run_ids("failures", failures_slot(self.job.slot))
        records = [published.runs.get(run) for run in runs]
        same = [of is not None and of.settings.get("fingerprint_key") == self.key for of in records]
        return runs if all(same) else []

    def forget(self, before: str) -> None:
        """Called once the run is published. What an earlier published one left stays: another job may read it."""
        self.job.forget_state(self.slot, before)


def _whole(folder: str) -> list[str]:
    whole, damaged = checkpoints.files(folder)
    if damaged:
        files, its = counted(len(damaged), "damaged file"), "its" if len(damaged) == 1 else "their"
        note(f"{files} of an earlier search, as {damaged[0]}: {its} pictures are embedded again")
    return whole


# -- vectors of one's own ----------------------------------------------------------------------------------------------


def own(job: Job, uri: str) -> Embedded:
    """The user's own Parquet, with columns image_id and embedding. Raises ``WrongInput`` as find_neighbours does."""
    with job.step("list queries"):
        side = search_runners.own(job, uri)
    return Embedded(None, side, [], {})


# -- this process ------------------------------------------------------------------------------------------------------


def _by_process(pictures: Pictures) -> Embedded | None:
    """By this process and its workers; None where Spark has to do it, as for build_manifest and embed_images."""
    from image_similarity.stages.embeddings import in_process
    from image_similarity.stages.manifest import in_process as listing

    job = pictures.job
    settings, published = job.settings, job.base_snapshot
    asked = settings.embeddings.runner == PROCESS
    here = asked or (settings.embeddings.runner == "auto" and is_local_mode(job.session))
    if not here or not all(map(uris.is_local, (job.warehouse.uri, pictures.images))):
        return None
    if not asked and published.dataset(VECTORS, pictures.key).count_rows() > in_process.MOST_KNOWN:
        return None
    with job.step("list queries"):
        most = sys.maxsize if asked else listing.MOST_IMAGES
        listed = listing.run(pictures.images, settings.manifest, settings.embeddings.read_seconds, most)
        if listed is None:
            return None
        manifest = pa.Table.from_batches(listed.rows, schema=SCHEMAS["manifest"]).select(_LISTING)
    earlier = pictures.earlier(_VECTORS)
    fingerprint = in_process.Fingerprint(
        name=pictures.fingerprint,
        spec=pictures.prepared.spec,
        file=str(pictures.prepared.file) if pictures.prepared.file else None,
        published=_listed(pictures),
        failures=published.of_runs("failures", pictures.failed_runs, SCHEMAS["failures"].names),
        failures_hold=True,
        contents=_contents_in(pictures).union(in_process.contents_of(earlier)),
        checkpoints=pictures.earlier(checkpoints.FOLDER),
        folder=pictures.state.location(checkpoints.FOLDER),
    )
    with job.step("embed queries"):
        (outputs,) = in_process.run(
            job.session,
            local_cores(job.session),
            lambda: _workers(pictures),
            manifest,
            [fingerprint],
            settings.embeddings,
            settings.http,
            Retry(),
        )
    check_failures(job, outputs.failures, outputs.images)
    with job.step("keep the vectors of queries"):
        ours, _ = checkpoints.files(fingerprint.folder)
        files = [*fingerprint.checkpoints, *ours, *earlier]
        new = len(in_process.contents_of(ours))
        store(pictures, outputs.embeddings, _vectors_of(files, _missing(pictures, outputs.embeddings)))
    counts = {"embedded": new, "not_read_again": outputs.reused, "devices": outputs.embedded_on}
    return _embedded(pictures, manifest, outputs.embeddings, outputs.failures, counts)


def _workers(pictures: Pictures) -> "processes.Server":
    from image_similarity.stages.embeddings import in_process, published

    declared = published.declared_of(pictures.job.base_snapshot, pictures.fingerprint)
    return in_process.prepare_workers([declared])


def _contents_in(pictures: Pictures) -> frozenset[str]:
    """The contents whose vectors the collection has."""
    stored = pictures.job.base_snapshot.dataset(VECTORS, pictures.key)
    return frozenset(stored.to_table(columns=["content_sha256"])[0].to_pylist())


def _listed(pictures: Pictures) -> pa.Table:
    """What earlier searches of these queries say of the bytes of each, in the schema of ``embeddings``."""
    schema = SCHEMAS["embeddings"]
    tables = [pq.read_table(blobs.open_input_file(file), schema=schema) for file in pictures.earlier(_LISTED)]
    return pa.concat_tables([schema.empty_table(), *tables])


def _missing(pictures: Pictures, embeddings: pa.Table) -> pa.Array:
    """The contents of queries whose vectors the collection lacks, each once."""
    contents = embeddings["content_sha256"].combine_chunks().unique()
    stored = pictures.job.base_snapshot.dataset(VECTORS, pictures.key)
    known = [
        batch.column(0).filter(pc.is_in(batch.column(0), value_set=contents))
        for batch in stored.to_batches(columns=["content_sha256"])
    ]
    there = pa.concat_arrays([pa.array([], pa.string()), *known])
    return contents.filter(pc.invert(pc.is_in(contents, value_set=there)))


def _vectors_of(files: Sequence[str], contents: pa.Array) -> Iterator[pa.Table]:
    """Rows for ``vectors``: each of ``contents`` once, from ``files``."""
    seen: set[str] = set()
    for file in files:
        with blobs.open_input_file(file) as opened:
            for batch in pq.ParquetFile(opened).iter_batches(_ROWS_AT_ONCE, columns=SCHEMAS[VECTORS].names):
                names = batch.column("content_sha256")
                rows = []
                for row, (name, is_wanted) in enumerate(zip(names.to_pylist(), pc.is_in(names, contents).to_pylist())):
                    if is_wanted and name not in seen:
                        seen.add(name)
                        rows.append(row)
                if rows:
                    yield pa.Table.from_batches([batch.take(pa.array(rows))]).cast(SCHEMAS[VECTORS])


# -- Spark -------------------------------------------------------------------------------------------------------------


def _by_spark(pictures: Pictures) -> Embedded:
    from image_similarity.runtime.tasks import ship
    from image_similarity.stages.embeddings import stage
    from image_similarity.stages.manifest import by_spark as listing

    job, prepared = pictures.job, pictures.prepared
    settings, warehouse = job.settings, job.warehouse
    stored = warehouse.read(VECTORS, job.base_snapshot.run_ids(VECTORS, pictures.key))
    with warehouse.scratch(f"{job.run_id}") as scratch:
        with job.step("list queries"):
            listed = listing.run(
                *(job.session, pictures.images, settings.manifest, scratch),
                *(None, 0, settings.http, settings.embeddings.read_seconds),
            )
            frame = scratch.write("listed-queries", listed.rows)
        earlier = warehouse.read_folders(list(map(uris.for_spark, pictures.earlier(_VECTORS))), SCHEMAS[VECTORS])
        fingerprint = stage.Fingerprint(
            name=pictures.fingerprint,
            spec=prepared.spec,
            file=ship(job.session, prepared.file) if prepared.file else None,
            published=scratch.store("earlier-queries", SCHEMAS["embeddings"], _listed(pictures).to_batches()),
            failures=warehouse.read("failures", pictures.failed_runs),
            failures_hold=True,
            vectors=stored.unionByName(earlier),
            checkpoints=_checkpoints(pictures),
            folder=pictures.state.location(checkpoints.FOLDER),
            classifier=None,
            classified=warehouse.read(CLASS_SCORES, []),
        )
        with job.step("embed queries"):
            (outputs,) = stage.run(
                job.session, frame, [fingerprint], settings.embeddings, settings.http, Retry(), scratch
            )
            embeddings, failures = outputs.embeddings.toArrow(), outputs.failures.toArrow()
            manifest = frame.select(*_LISTING).toArrow()
        embeddings, failures = embeddings.cast(SCHEMAS["embeddings"]), failures.cast(SCHEMAS["failures"])
        check_failures(job, failures, outputs.images)
        with job.step("keep the vectors of queries"):
            saved = _checkpoints(pictures).select(*SCHEMAS[VECTORS].names).unionByName(earlier)
            wanted = scratch.store(
                "wanted-queries", _WANTED, [pa.record_batch([_missing(pictures, embeddings)], schema=_WANTED)]
            )
            ours, _ = checkpoints.files(fingerprint.folder)
            own = warehouse.read_folders(list(map(uris.for_spark, ours)), checkpoints.SCHEMA)
            new = own.select("content_sha256").distinct().count()
            rows = saved.dropDuplicates(["content_sha256"]).join(wanted, "content_sha256", "left_semi")
            pictures.state.write(_VECTORS, rows.select(*SCHEMAS[VECTORS].names))
            store(pictures, embeddings, None)
    counts = {"embedded": new, "not_read_again": outputs.reused, "devices": outputs.embedded_on}
    return _embedded(pictures, manifest, embeddings, failures, counts)


_WANTED = pa.schema([("content_sha256", pa.string())])


def _checkpoints(pictures: Pictures) -> "DataFrame":
    """Those of this run, and of earlier ones that were not published."""
    return pictures.job.warehouse.read_folders(
        list(map(uris.for_spark, pictures.earlier(checkpoints.FOLDER))), checkpoints.SCHEMA
    )


# -- both --------------------------------------------------------------------------------------------------------------


def check_failures(job: Job, failures: pa.Table, count: int) -> None:
    """Raises ``TooManyFailures`` above the fraction that embeddings allow, and leaves the rows, which it names."""
    by_reason = failures_in(failures)
    if by_reason.total <= job.settings.embeddings.max_failed_fraction * count:
        return
    write_failures(job, failures)
    job.check_failures(by_reason, "query", count, "embeddings")


def write_failures(job: Job, failures: pa.Table) -> None:
    """The table ``failures`` of the run."""
    if job.warehouse.local_root is not None:
        job.warehouse.write_here("failures", job.run_id, [failures])
    else:
        job.warehouse.write("failures", job.run_id, job.session.createDataFrame(failures))


def store(pictures: Pictures, embeddings: pa.Table, vectors: Iterator[pa.Table] | None) -> None:
    """Leaves the queries and their vectors to the next search of them. Checkpoints are in these vectors, then."""
    state = pictures.state
    if vectors is not None:
        state.store_file(_VECTORS, SCHEMAS[VECTORS], vectors)
    state.store_file(_LISTED, SCHEMAS["embeddings"], [embeddings])
    state.remove(checkpoints.FOLDER)
    pictures.job.warehouse.sync_state(pictures.slot, pictures.job.run_id)


def _embedded(
    pictures: Pictures, manifest: pa.Table, embeddings: pa.Table, failures: pa.Table, counts: dict[str, Any]
) -> Embedded:
    if len(embeddings) + len(failures) != len(manifest):
        raise JobFailed(
            f"{counted(len(embeddings), 'query was', 'queries were')} embedded and {len(failures):,} failed, of "
            f"{len(manifest):,}: nothing was published; run it again"
        )
    content = (
        embeddings["content_sha256"]
        .combine_chunks()
        .take(pc.index_in(manifest["image_id"].combine_chunks(), value_set=embeddings["image_id"].combine_chunks()))
    )
    rows = pa.table([manifest["image_id"], manifest["uri"], content], schema=ROWS)
    rows = rows.filter(pc.is_valid(rows["content"])).sort_by("query_id").combine_chunks()
    files = _whole(pictures.state.location(_VECTORS))
    side = _side(pictures, rows, files)
    return Embedded(Queries(rows, failures), side, files, {"queries": len(manifest), **counts})


def _side(pictures: Pictures, rows: pa.Table, files: Sequence[str]) -> Side:
    """The vectors of queries: those of ``files``, and those that the collection has."""
    job, images = pictures.job, pa.table({"image_id": rows["query_id"], "content": rows["content"]})
    if job.warehouse.local_root is not None:
        from image_similarity.stages.neighbours import local_source

        stored = job.base_snapshot.dataset(VECTORS, pictures.key).files
        return Side(local_source.from_files([*files, *stored], len(images), lambda: images, {}), {})
    from pyspark.sql import functions as F

    from image_similarity.stages.neighbours import sources

    frame = job.session.createDataFrame(images)
    own = job.warehouse.read_folders(list(map(uris.for_spark, files)), SCHEMAS[VECTORS])
    vectors = own.unionByName(job.warehouse.read(VECTORS, job.base_snapshot.run_ids(VECTORS, pictures.key)))
    contents = F.broadcast(frame.select("content").distinct())
    wanted = vectors.select(F.col("content_sha256").alias("content"), "embedding").join(
        contents, "content", "left_semi"
    )
    return Side(sources.Source(frame, wanted, len(images)), {}, job.warehouse.uri)


def failures_in(rows: pa.Table) -> Failures:
    """By reason, from rows of ``failures``."""
    return embedding_runners.failures_in(rows.to_pylist())
