"""The Spark session, and progress of what runs."""

import itertools
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark import SparkFiles
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from image_similarity import reporting
from image_similarity.errors import JobFailed
from image_similarity.warehouse import Scratch

JAVA_VERSION = 17

_BITS_FOR_ROWS = 33  # of monotonically_increasing_id: the number of the partition stands above

_CANCEL_SECONDS = 10

SPARK_ERRORS = (PySparkException, Py4JJavaError)
"""What a call of Spark raises, depending on where in the JVM it failed."""


def cause_of(error: Exception) -> str:
    """The line of a `SPARK_ERRORS` that tells what is wrong, without the class of the Java exception."""
    text = str(error.java_exception) if isinstance(error, Py4JJavaError) else str(error)
    return re.sub(r"^([a-z]\w*\.)+[A-Z]\w*: ", "", text.splitlines()[0]) if text else type(error).__name__


def session(name: str, conf_folder: Path | None) -> SparkSession:
    """The session of this application.

    Under spark-submit everything is set by its flags and files. Started with plain python, ``spark/local.conf`` and
    ``log4j2.properties`` of ``conf_folder`` serve, and workers run the same python. Raises ``JobFailed`` where Java is missing
    or Spark cannot start.
    """
    builder = SparkSession.builder.appName(name)
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    if not submitted:
        check_java()
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        if conf_folder is not None:
            os.environ.setdefault("SPARK_CONF_DIR", str(conf_folder))
            for key, value in read_properties(conf_folder / "spark" / "local.conf").items():
                builder = builder.config(key, value)
    try:
        return builder.getOrCreate()
    except SPARK_ERRORS as error:  # a master that does not answer, too little memory, an address that is not this machine's
        raise JobFailed(f"Spark could not start: {cause_of(error)} (what Spark printed above may tell more)") from error


def check_java() -> None:
    """Raise ``JobFailed`` unless a Java that Spark can use is found (JAVA_HOME, else PATH)."""
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    advice = f"Spark needs Java {JAVA_VERSION} or newer: install it (Debian, Ubuntu: apt-get install default-jre-headless; "
    advice += "macOS: brew install openjdk) or set JAVA_HOME"
    try:
        told = subprocess.run([java or "java", "-version"], capture_output=True, text=True, check=True).stderr
    except (OSError, subprocess.CalledProcessError):
        raise JobFailed(f"no working java found. {advice}") from None
    match = re.search(r'version "(\d+)', told)
    if match is None or int(match.group(1)) < JAVA_VERSION:
        raise JobFailed(f"java is {told.splitlines()[0] if told else 'of an unknown version'}. {advice}")


def read_properties(file: Path) -> dict[str, str]:
    """``key value`` or ``key=value`` lines of a Spark properties file; ``#`` begins a comment line."""
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    pairs = (re.split(r"\s*=\s*|\s+", line, maxsplit=1) for line in lines if line and not line.startswith("#"))
    return {key: value for key, value in pairs}


def interrupt(spark: SparkSession) -> None:
    """In the handler of a signal: cancel what Spark is doing, and wait a little for its tasks, which write what is removed next.

    The main thread may be waiting for an answer of Spark at this moment, and must not ask for another on the same connection:
    another thread does so, and the main thread gets a new connection for what it does next.
    """
    canceller = threading.Thread(target=_cancel, args=(spark,), name="cancel", daemon=True)
    canceller.start()
    canceller.join(_CANCEL_SECONDS + 5)
    with suppress(Exception):
        connection = spark.sparkContext._gateway._gateway_client.get_thread_connection()  # type: ignore[union-attr]
        connection.close()


def _cancel(spark: SparkSession) -> None:
    deadline = time.monotonic() + _CANCEL_SECONDS
    with suppress(Exception):  # Spark may be at its end already
        spark.sparkContext.cancelAllJobs()
        while _running_tasks(spark) and time.monotonic() < deadline:
            time.sleep(0.1)


def _running_tasks(spark: SparkSession) -> int:
    """Asked of the scheduler: what `statusTracker` says lags behind, and a task that is cancelled goes on for up to seconds."""
    counts = spark.sparkContext._jsc.sc().taskScheduler().runningTasksByExecutors().valuesIterator()
    running = 0
    while counts.hasNext():
        running += int(counts.next())
    return running


def is_local_mode(spark: SparkSession) -> bool:
    return str(spark.sparkContext.master).startswith("local")


def task_count(spark: SparkSession, units: int, least: int, most: int) -> int:
    """Tasks of equal length for ``units`` of work, ``least`` to ``most`` in each, if it can be.

    Enough of them to show progress and to end together, few enough not to pay for starting them; a multiple of the cores.
    """
    cores = spark.sparkContext.defaultParallelism
    wanted = max(units / most, min(units / least, 4 * cores))
    return max(1, -(-round(wanted) // cores) * cores)


def by_host(rows: DataFrame, address: str, partitions: int) -> DataFrame:
    """``rows`` in ``partitions`` such that all http(s) addresses of one host are in the same; the others are spread evenly.

    A host is then asked by one task at a time, however many there are: what bounds the task bounds the job.
    """
    host = F.lower(F.regexp_extract(address, r"(?i)^https?://(?:[^/?#]*@)?([^/?#]*)", 1))
    spread = F.xxhash64(address).cast("string")
    return rows.repartition(partitions, F.when(host != "", host).otherwise(spread))


def numbered(rows: DataFrame, order: list[str], number: str, scratch: Scratch) -> DataFrame:
    """``rows`` with their place in the order of the columns ``order``, from 0, in a column ``number``.

    A sort, then a count of each partition: no partition holds everything. Materialises the sorted rows in ``scratch``.
    """
    ordered = rows.orderBy(*order).withColumn("_place", F.monotonically_increasing_id())
    ordered = scratch.write(f"ordered-{number}", ordered)
    partition = F.shiftright("_place", _BITS_FOR_ROWS).cast("int")
    counts = ordered.groupBy(partition.alias("_partition")).count().orderBy("_partition").collect()
    ends = itertools.accumulate(row["count"] for row in counts)
    offsets = [(row["_partition"], end - row["count"] - (row["_partition"] << _BITS_FOR_ROWS)) for row, end in zip(counts, ends)]
    table = F.broadcast(rows.sparkSession.createDataFrame(offsets, "_partition int, _offset long"))
    joined = ordered.withColumn("_partition", partition).join(table, "_partition")
    return joined.select(*rows.columns, (F.col("_place") + F.col("_offset")).alias(number))


def ship(spark: SparkSession, file: Path) -> str:
    """Make a driver's file available to all workers; `shipped` finds it there under the returned name."""
    if not is_local_mode(spark):  # on one machine workers open the file itself: weights may be large
        spark.sparkContext.addFile(str(file))
    return str(file)


def shipped(name: str) -> str:
    """In a worker: the path of the file that the driver shipped as ``name``."""
    return name if os.path.exists(name) else SparkFiles.get(os.path.basename(name))


@contextmanager
def progress(
    spark: SparkSession, what: str, units: int, unit: str, tasks: int, share: Callable[[], float] | None = None
) -> Iterator[None]:
    """Report the Spark work done in this context as a share of ``units``: rate, share done, time left; a step of its own.

    On a terminal one line is kept up to date; elsewhere a line is written now and then (``--log-every``). The share is that of
    finished tasks in the stage of ``tasks`` tasks; what Spark does to prepare it does not count. ``share`` tells it instead where
    tasks are few and long.
    """
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
    """A step of a job that tells no progress: how long it takes is recorded, and what Spark does in it is called by its name."""
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
    """The share of finished tasks of the stage that does the work: the last one of ``group`` with ``tasks`` tasks, 0 before it."""
    tracker = spark.sparkContext.statusTracker()
    jobs = [tracker.getJobInfo(job) for job in tracker.getJobIdsForGroup(group)]
    stages = [tracker.getStageInfo(stage) for job in jobs if job is not None for stage in job.stageIds]
    working = [stage for stage in stages if stage is not None and stage.numTasks == tasks]
    return max(working, key=lambda stage: stage.stageId).numCompletedTasks / tasks if working else 0.0
