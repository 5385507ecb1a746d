"""What compares the vectors of find_neighbours: this process, or Spark's tasks. Both write the tables of a run."""

# What compares vectors is imported where it is used: what is wrong in the arguments should not wait for it.

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from image_similarity.errors import JobFailed, WrongInput, counted
from image_similarity.jobs import early
from image_similarity.jobs.job import Failures, Job
from image_similarity.runtime.session import is_local_mode, local_cores
from image_similarity.settings import ApproximateSettings, NeighboursSettings
from image_similarity.storage import uris

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from image_similarity.knn.screening import Choice
    from image_similarity.stages.neighbours.local_source import LocalFiles, LocalSource
    from image_similarity.stages.neighbours.numbers import Numbers
    from image_similarity.stages.neighbours.plan import Plan
    from image_similarity.stages.neighbours.previous import PreviousRun
    from image_similarity.stages.neighbours.quality import Approximation
    from image_similarity.stages.neighbours.sources import Source
    from image_similarity.stages.neighbours.stage import Outputs
    from image_similarity.warehouse.workspace import Workspace


@dataclass(frozen=True)
class Result:
    """What was compared, once the tables are written."""

    counts: dict[str, Any]
    failures: Failures
    numbers: "Numbers"
    screen: "Choice | None"
    """The precision of exact search, if there was any."""
    approximate: "Approximation | None" = None
    changed_mind: str | None = None
    """Why exact search took the place of the planned one; None if it did not."""


@dataclass(frozen=True)
class InProcess:
    """Search by this process, see `stages.neighbours.in_process` and `approximate_in_process`."""

    files: "LocalFiles"
    source: "LocalSource"
    plan: "Plan"
    approximate: ApproximateSettings

    @property
    def inputs(self) -> dict[str, list[str]]:
        return self.files.inputs

    def run(self, job: Job, settings: NeighboursSettings, state: "Workspace", previous: "PreviousRun | None") -> Result:
        from image_similarity.stages.neighbours import approximate_in_process, in_process
        from image_similarity.stages.neighbours.plan import APPROXIMATE

        outputs: in_process.Outputs | approximate_in_process.Outputs
        approximation, changed_mind = None, None
        with job.step("find neighbours"):
            if self.plan.method == APPROXIMATE:
                outputs = approximate_in_process.run(
                    job.session, self.source, settings, self.approximate, self.plan, state, previous
                )
                approximation, changed_mind = outputs.approximate, outputs.changed_mind
            else:
                outputs = in_process.run(job.session, self.source, settings, self.plan, state, previous)
        loaded = outputs.loaded
        with job.step("write tables"):
            job.warehouse.write_here("failures", job.run_id, outputs.failures())
            rows = job.warehouse.write_here("neighbours", job.run_id, outputs.neighbours())
        _check_rows(rows, outputs.rows)
        counts = {
            **_counts_of(approximation),
            "images": len(loaded.numbers),
            "vectors": len(loaded.vectors),
            "dimensions": loaded.dimensions,
            "brute_force": outputs.brute_force,
            "kept": outputs.kept,
            "rows": rows,
        }
        failures = _failures_in(loaded.failures.to_pylist())
        counts["failures"] = failures.counts
        return Result(counts, failures, loaded.numbers, outputs.screen, approximation, changed_mind)


@dataclass(frozen=True)
class BySpark:
    """Exact or approximate search by Spark's tasks."""

    source: "Source | LocalSource"
    inputs: dict[str, list[str]]
    plan: "Plan"
    approximate: ApproximateSettings

    def run(self, job: Job, settings: NeighboursSettings, state: "Workspace", previous: "PreviousRun | None") -> Result:
        from image_similarity.stages.neighbours import stage

        with job.warehouse.scratch(job.run_id) as scratch:
            with job.step("find neighbours"):
                table = _Table(job)
                outputs = stage.run(
                    job.session, self.source, settings, self.approximate, self.plan, scratch, state, table, previous
                )
            with job.step("write tables"):
                counts, failures = _counted(job, outputs)
        return Result(counts, failures, outputs.packed.numbers, outputs.screen, outputs.approximate)


class _Table:
    """The table ``neighbours`` of a job's run."""

    def __init__(self, job: Job):
        self._job, self._begun = job, False

    def write(self, rows: "DataFrame") -> None:
        self._job.warehouse.write("neighbours", self._job.run_id, rows, more=self._begun)
        self._begun = True

    def clear(self) -> None:
        self._job.warehouse.remove("neighbours", self._job.run_id)
        self._begun = False


def chosen(
    job: Job, settings: NeighboursSettings, approximate: ApproximateSettings, own_embeddings: str | None
) -> InProcess | BySpark:
    """What compares the vectors: this process, if it can, and Spark otherwise."""
    files = _files(job, settings, own_embeddings)
    here, because = _in_process(job, settings, approximate, own_embeddings, files)
    if here is not None:
        return here
    from image_similarity.stages.neighbours import plan as planning
    from image_similarity.stages.neighbours import quality

    source: Source | LocalSource
    if files is not None:
        source, inputs, dimensions = files.open(local_cores(job.session)), files.inputs, files.dimensions
    else:
        of_spark = from_parquet(job, own_embeddings) if own_embeddings else from_published(job, settings.fingerprint)
        source, inputs = of_spark
        dimensions = source.dimensions()
    plan = planning.make(job.session, source.count, dimensions, settings, approximate)
    if plan.method == planning.APPROXIMATE:
        quality.check(source.count, approximate)
    return BySpark(source, inputs, replace(plan, because=because), approximate)


def _files(job: Job, settings: NeighboursSettings, own_embeddings: str | None) -> "LocalFiles | None":
    """The vectors, if they are on this machine."""
    from image_similarity.stages.neighbours import local_source

    check(settings, job.warehouse.uri, own_embeddings)
    if not own_embeddings:
        return published_files(job, settings.fingerprint) if uris.is_local(job.warehouse.uri) else None
    if not uris.is_local(own_embeddings):
        return None
    return local_source.from_parquet(own_embeddings, job.settings.embeddings.read_seconds)


def _in_process(
    job: Job,
    settings: NeighboursSettings,
    approximate: ApproximateSettings,
    own_embeddings: str | None,
    files: "LocalFiles | None",
) -> tuple[InProcess | None, str]:
    """The search by this process. None, and why, if Spark is to do it."""
    from image_similarity.stages.neighbours import plan as planning
    from image_similarity.stages.neighbours import quality
    from image_similarity.stages.neighbours.plan import APPROXIMATE, SPARK

    if settings.runner == SPARK:
        return None, "neighbours.runner asks for it"
    remote = _remote(job.warehouse.uri, own_embeddings)
    if remote or files is None:
        return None, f"{remote} is not on this machine"
    cores = local_cores(job.session)
    if because := planning.too_large(files.count, files.dimensions, cores, settings):
        _check_device(settings, because)
        return None, because
    plan = planning.make_here(files.count, files.dimensions, cores, settings, approximate)
    plan = planning.with_runner(plan, settings, is_local_mode(job.session))
    if plan.runner == SPARK:
        _check_device(settings, plan.because)
        return None, plan.because
    if plan.method == APPROXIMATE:
        quality.check(files.count, approximate)
    return InProcess(files, files.open(cores), plan, approximate), plan.because


def _remote(warehouse: str, own_embeddings: str | None) -> str | None:
    """The first of the places that is not on this machine's disks."""
    return next((uri for uri in (warehouse, own_embeddings) if uri is not None and not uris.is_local(uri)), None)


def check(settings: NeighboursSettings, warehouse: str, own_embeddings: str | None) -> None:
    """Raises ``WrongInput`` where this process is asked for what needs Spark, or for a GPU that is not there."""
    remote = _remote(warehouse, own_embeddings)
    if settings.runner == "process" and remote:
        raise WrongInput(f"neighbours.runner = process, but {remote} is not on this machine: choose spark")
    if settings.device == "cuda":
        if settings.method == "approximate" and settings.similar:
            raise WrongInput(
                "neighbours.device = cuda, but approximate search uses no GPU: choose device = auto, or method = exact"
            )
        if settings.runner == "spark":
            _check_device(settings, "neighbours.runner asks for Spark")
        if remote:
            _check_device(settings, f"{remote} is not on this machine")
        from image_similarity.runtime import devices

        devices.check_process()


def _check_device(settings: NeighboursSettings, because: str) -> None:
    """Raises ``WrongInput`` where a GPU is asked for, but Spark's tasks compare, and ``because`` of what they do."""
    if settings.device == "cuda":
        raise WrongInput(
            f"neighbours.device = cuda, but Spark's tasks, which use no GPU, would compare ({because}): choose auto"
        )


def _check_rows(rows: int, wanted: int) -> None:
    if rows != wanted:
        raise JobFailed(f"{counted(rows, 'row')} of neighbours where there must be {wanted:,}: nothing was published")


def _failures_in(rows: list[dict[str, Any]]) -> Failures:
    """The same as `Job.failures`, from rows of image_id and reason."""
    counts = Counter(row["reason"] for row in rows)
    first = {reason: min(row["image_id"] for row in rows if row["reason"] == reason) for reason in counts}
    return Failures.by_reason((reason, counts[reason], first[reason]) for reason in sorted(counts))


def from_parquet(job: Job, embeddings: str) -> "tuple[Source, dict[str, list[str]]]":
    """The user's own embeddings, and the inputs to record."""
    from image_similarity.stages.neighbours import sources

    source = sources.from_parquet(job.session, embeddings, job.settings.embeddings.read_seconds)
    return source, {"embeddings": [uris.absolute(embeddings)]}


def from_published(job: Job, fingerprint: str) -> "tuple[Source, dict[str, list[str]]]":
    """The published embeddings of ``fingerprint``, and the runs read.

    Raises ``WrongInput`` if there are none, and ``JobFailed`` if they have several fingerprint keys.
    """
    from image_similarity.stages.neighbours import sources
    from image_similarity.stages.neighbours.usable import check_keys

    runs = early.runs_of(job.base_snapshot, "embeddings", fingerprint, "embed_images")
    keys = [
        row.fingerprint_key
        for row in job.warehouse.read("embeddings", runs).select("fingerprint_key").distinct().collect()
    ]
    check_keys(fingerprint, keys)
    inputs = {"embeddings": runs, "vectors": [run for key in keys for run in job.base_snapshot.run_ids("vectors", key)]}
    return sources.from_runs(job.warehouse, inputs), inputs


def published_files(job: Job, fingerprint: str) -> "LocalFiles":
    from image_similarity.stages.neighbours import local_source

    early.runs_of(job.base_snapshot, "embeddings", fingerprint, "embed_images")
    return local_source.from_runs(job.base_snapshot, fingerprint)


def _counted(job: Job, outputs: "Outputs") -> tuple[dict[str, Any], Failures]:
    """Write failures, check that every image has its rows, and return the counts and failures."""
    warehouse, run = job.warehouse, job.run_id
    if warehouse.local_root is not None:
        warehouse.write_here("failures", run, [outputs.failures])
    else:
        warehouse.write("failures", run, job.session.createDataFrame(outputs.failures))
    failures = _failures_in(outputs.failures.to_pylist())
    rows = warehouse.count("neighbours", run)
    _check_rows(rows, outputs.rows)
    counts = {
        **_counts_of(outputs.approximate),
        "images": outputs.packed.usable,
        "vectors": outputs.packed.vectors,
        "dimensions": outputs.packed.dimensions,
        "brute_force": outputs.brute_force,
        "kept": len(outputs.packed.kept.vector),
        "rows": rows,
        "failures": failures.counts,
    }
    return counts, failures


def _counts_of(approximation: "Approximation | None") -> dict[str, Any]:
    if approximation is None:
        return {}
    recall = approximation.recall
    return {
        "nlist": approximation.nlist,
        "nprobe": approximation.nprobe,
        "rounds": approximation.rounds,
        "recall": [recall.estimate, recall.lower, recall.upper],
        "recall_across_borders": approximation.across_borders,
    }
