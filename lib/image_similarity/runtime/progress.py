"""Reports the progress of Spark's work, and names the work in Spark's own pages and logs."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from py4j.protocol import Py4JError
from pyspark.sql import SparkSession

from image_similarity import reporting
from image_similarity.runtime.session import SPARK_ERRORS


@contextmanager
def progress(
    spark: SparkSession, what: str, units: int, unit: str, tasks: int, share: Callable[[], float] | None = None
) -> Iterator[None]:
    """Reports the Spark work in this context as a step of its own: rate, share of ``units`` done, time left.

    On a terminal one line is updated; elsewhere a line is written at intervals (``--log-every``). The share is that of
    finished tasks in the stage of ``tasks`` tasks; Spark's preparations do not count. ``share``: a function that
    returns the share instead, for tasks that are few and long.
    """
    group = f"{what}-{time.monotonic_ns()}"
    reporter = reporting.current()
    report = reporting.Progress(reporter, what, units, unit)
    stop = threading.Event()

    def watch() -> None:
        with suppress(*SPARK_ERRORS, Py4JError, OSError):  # Spark has ended: the main thread reports that
            while not stop.wait(report.every):
                report.update(share() if share is not None else _share_done(spark, group, tasks))

    watcher = threading.Thread(target=watch, name=f"progress of {what}", daemon=True)
    with described(spark, what, group), reporter.timed(what):
        watcher.start()
        try:
            yield
            report.done()
        finally:
            stop.set()
            watcher.join(timeout=5)
            report.end()


@contextmanager
def named(spark: SparkSession, job: str) -> Iterator[None]:
    """Names Spark's work in this context ``job``, except work that gets a name of its own."""
    previous = spark.sparkContext.getLocalProperty(_DESCRIPTION)
    spark.sparkContext.setJobDescription(job)
    try:
        yield
    finally:
        _set_properties(spark, {_DESCRIPTION: previous})


@contextmanager
def step(spark: SparkSession, what: str) -> Iterator[None]:
    """A step of a job without progress reports. Its duration is recorded, and Spark's work in it has its name."""
    with described(spark, what), reporting.current().step(what):
        yield


_DESCRIPTION, _GROUP = "spark.job.description", "spark.jobGroup.id"


@contextmanager
def described(spark: SparkSession, what: str, group: str | None = None) -> Iterator[None]:
    """Names Spark's work in this context ``<job>: <what>``, in its own pages, event logs and history server."""
    context = spark.sparkContext
    job = reporting.current().about.get("job")
    previous = {name: context.getLocalProperty(name) for name in (_DESCRIPTION, _GROUP)}
    current = {_DESCRIPTION: f"{job}: {what}" if job else what, _GROUP: group or previous[_GROUP]}
    try:
        _set_properties(spark, current)
        yield
    finally:
        _set_properties(spark, previous)


def _set_properties(spark: SparkSession, properties: Mapping[str, str | None]) -> None:
    for name, value in properties.items():
        spark.sparkContext.setLocalProperty(name, value)  # type: ignore[arg-type]  # None removes it


def _share_done(spark: SparkSession, group: str, tasks: int) -> float:
    """The share of finished tasks in the stage that does the work; 0 before it starts.

    That is the last stage of ``group`` with ``tasks`` tasks.
    """
    tracker = spark.sparkContext.statusTracker()
    jobs = [tracker.getJobInfo(job) for job in tracker.getJobIdsForGroup(group)]
    stages = [tracker.getStageInfo(stage) for job in jobs if job is not None for stage in job.stageIds]
    working = [stage for stage in stages if stage is not None and stage.numTasks == tasks]
    return max(working, key=lambda stage: stage.stageId).numCompletedTasks / tasks if working else 0.0
