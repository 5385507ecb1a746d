"""Progress of Spark's work, and the names that it has in Spark's own pages and logs."""

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
    """Report the Spark work done in this context as a share of ``units``: rate, share done, time left; a step of its
    own.

    On a terminal one line is kept up to date; elsewhere a line is written now and then (``--log-every``). The share is
    that of finished tasks in the stage of ``tasks`` tasks; what Spark does to prepare it does not count. ``share``
    tells it instead where tasks are few and long."""
    group = f"{what}-{time.monotonic_ns()}"
    reporter = reporting.current()
    report = reporting.Progress(reporter, what, units, unit)
    stop = threading.Event()

    def watch() -> None:
        with suppress(*SPARK_ERRORS, Py4JError, OSError):  # Spark is gone: the main thread tells
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
    """What Spark does in this context is called ``job``, where nothing else is said."""
    before = spark.sparkContext.getLocalProperty(_DESCRIPTION)
    spark.sparkContext.setJobDescription(job)
    try:
        yield
    finally:
        _set_properties(spark, {_DESCRIPTION: before})


@contextmanager
def step(spark: SparkSession, what: str) -> Iterator[None]:
    """A step of a job that tells no progress: how long it takes is recorded, and what Spark does in it is called by its
    name."""
    with described(spark, what), reporting.current().step(what):
        yield


_DESCRIPTION, _GROUP = "spark.job.description", "spark.jobGroup.id"


@contextmanager
def described(spark: SparkSession, what: str, group: str | None = None) -> Iterator[None]:
    """What Spark does in this context is called ``<job>: <what>`` in its own pages, event logs and history server."""
    context = spark.sparkContext
    job = reporting.current().about.get("job")
    before = {name: context.getLocalProperty(name) for name in (_DESCRIPTION, _GROUP)}
    now = {_DESCRIPTION: f"{job}: {what}" if job else what, _GROUP: group or before[_GROUP]}
    try:
        _set_properties(spark, now)
        yield
    finally:
        _set_properties(spark, before)


def _set_properties(spark: SparkSession, properties: Mapping[str, str | None]) -> None:
    for name, value in properties.items():
        spark.sparkContext.setLocalProperty(name, value)  # type: ignore[arg-type]  # None removes it


def _share_done(spark: SparkSession, group: str, tasks: int) -> float:
    """The share of finished tasks of the stage that does the work: the last one of ``group`` with ``tasks`` tasks, 0
    before it."""
    tracker = spark.sparkContext.statusTracker()
    jobs = [tracker.getJobInfo(job) for job in tracker.getJobIdsForGroup(group)]
    stages = [tracker.getStageInfo(stage) for job in jobs if job is not None for stage in job.stageIds]
    working = [stage for stage in stages if stage is not None and stage.numTasks == tasks]
    return max(working, key=lambda stage: stage.stageId).numCompletedTasks / tasks if working else 0.0
