"""Reports the progress of Spark's work, and names the work in Spark's own pages and logs."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from image_similarity import reporting
from image_similarity.runtime.session import get_property, is_of_spark, set_properties

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@contextmanager
def progress(
    spark: "SparkSession", what: str, units: int, unit: str, tasks: int, share: Callable[[], float] | None = None
) -> Iterator[None]:
    """Reports the Spark work in this context as a step of its own: rate, share of ``units`` done, time left.

    On a terminal one line is updated; elsewhere a line is written at intervals (``--log-every``). The share is that of
    finished tasks in the stage of ``tasks`` tasks; Spark's preparations do not count. ``share``: a function that
    returns the share instead, for tasks that are few and long, and for work of this process alone.
    """
    group = f"{what}-{time.monotonic_ns()}"
    reporter = reporting.current()
    report = reporting.Progress(reporter, what, units, unit)
    stop = threading.Event()

    def watch() -> None:
        try:
            while not stop.wait(report.every):
                report.update(share() if share is not None else _share_done(spark, group, tasks))
        except Exception as error:  # Spark has ended: the main thread reports that
            if not (isinstance(error, OSError) or is_of_spark(error)):
                raise

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
def named(spark: "SparkSession", job: str) -> Iterator[None]:
    """Names Spark's work in this context ``job``, except work that gets a name of its own."""
    previous = get_property(spark, _DESCRIPTION)
    name_work(spark, job)
    try:
        yield
    finally:
        set_properties(spark, {_DESCRIPTION: previous})


def name_work(spark: "SparkSession", job: str) -> None:
    """Names Spark's work from now on ``job``."""
    set_properties(spark, {_DESCRIPTION: job})


@contextmanager
def step(spark: "SparkSession", what: str) -> Iterator[None]:
    """A step of a job without progress reports. Its duration is recorded, and Spark's work in it has its name."""
    with described(spark, what), reporting.current().step(what):
        yield


_DESCRIPTION, _GROUP = "spark.job.description", "spark.jobGroup.id"


@contextmanager
def described(spark: "SparkSession", what: str, group: str | None = None) -> Iterator[None]:
    """Names Spark's work in this context ``<job>: <what>``, in its own pages, event logs and history server."""
    job = reporting.current().about.get("job")
    previous = {name: get_property(spark, name) for name in (_DESCRIPTION, _GROUP)}
    current = {_DESCRIPTION: f"{job}: {what}" if job else what, _GROUP: group or previous[_GROUP]}
    try:
        set_properties(spark, current)
        yield
    finally:
        set_properties(spark, previous)


def _share_done(spark: "SparkSession", group: str, tasks: int) -> float:
    """The share of finished tasks in the stage that does the work; 0 before it starts.

    That is the last stage of ``group`` with ``tasks`` tasks.
    """
    tracker = spark.sparkContext.statusTracker()
    jobs = [tracker.getJobInfo(job) for job in tracker.getJobIdsForGroup(group)]
    stages = [tracker.getStageInfo(stage) for job in jobs if job is not None for stage in job.stageIds]
    working = [stage for stage in stages if stage is not None and stage.numTasks == tasks]
    return max(working, key=lambda stage: stage.stageId).numCompletedTasks / tasks if working else 0.0
