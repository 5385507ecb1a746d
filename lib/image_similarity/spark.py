"""The Spark session, and progress of what runs."""

import itertools
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from py4j.protocol import Py4JJavaError
from pyspark import SparkFiles
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from image_similarity.errors import JobFailed
from image_similarity.warehouse import Scratch

JAVA_VERSION = 17

_BITS_FOR_ROWS = 33  # of monotonically_increasing_id: the number of the partition stands above

SPARK_ERRORS = (PySparkException, Py4JJavaError)
"""What a call of Spark raises, depending on where in the JVM it failed."""


def cause_of(error: Exception) -> str:
    """The line of a `SPARK_ERRORS` that tells what is wrong, without the class of the Java exception."""
    text = str(error.java_exception) if isinstance(error, Py4JJavaError) else str(error)
    return re.sub(r"^([a-z]\w*\.)+[A-Z]\w*: ", "", text.splitlines()[0]) if text else type(error).__name__


def session(name: str, conf_folder: Path | None) -> SparkSession:
    """The session of this application.

    Under spark-submit everything is set by its flags and files. Started with plain python, ``spark/local.conf`` and
    ``log4j2.properties`` of ``conf_folder`` serve, and workers run the same python. Raises ``JobFailed`` where Java is missing.
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
    return builder.getOrCreate()


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
    spark: SparkSession,
    what: str,
    units: int,
    unit: str,
    tasks: int,
    every: float = 10.0,
    share: Callable[[], float] | None = None,
) -> Iterator[None]:
    """Report the Spark work done in this context as a share of ``units``: rate, share done, time left.

    On a terminal one line is kept up to date; elsewhere a line is printed every ``every`` seconds. The share is that of finished
    tasks in the stage of ``tasks`` tasks; what Spark does to prepare it does not count. ``share`` tells it instead where tasks are
    few and long.
    """
    group = f"{what}-{time.monotonic_ns()}"
    spark.sparkContext.setJobGroup(group, what)
    report = _Report(what, units, unit, sys.stderr)
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.5 if report.on_terminal else every):
            report.update(share() if share is not None else _share_done(spark, group, tasks))

    watcher = threading.Thread(target=watch, name=f"progress of {what}", daemon=True)
    watcher.start()
    try:
        yield
        report.done()
    finally:
        stop.set()
        watcher.join(timeout=5)
        spark.sparkContext.setLocalProperty("spark.jobGroup.id", None)  # type: ignore[arg-type]
        report.end()


def _share_done(spark: SparkSession, group: str, tasks: int) -> float:
    """The share of finished tasks of the stage that does the work: the last one of ``group`` with ``tasks`` tasks, 0 before it."""
    tracker = spark.sparkContext.statusTracker()
    jobs = [tracker.getJobInfo(job) for job in tracker.getJobIdsForGroup(group)]
    stages = [tracker.getStageInfo(stage) for job in jobs if job is not None for stage in job.stageIds]
    working = [stage for stage in stages if stage is not None and stage.numTasks == tasks]
    return max(working, key=lambda stage: stage.stageId).numCompletedTasks / tasks if working else 0.0


class _Report:
    def __init__(self, what: str, units: int, unit: str, stream: TextIO):
        self.on_terminal = stream.isatty()
        self._what, self._units, self._unit, self._stream = what, units, unit, stream
        self._start = time.monotonic()
        self._finished = False

    def update(self, share: float) -> None:
        if self._finished:
            return
        seconds = time.monotonic() - self._start
        done = round(share * self._units)
        line = f"{self._what}: {done:,} of {self._units:,} {self._unit} ({share:.0%})"
        if done and seconds > 0:
            line += f", {_rate(done, seconds)} {self._unit}/s, {_clock(seconds / share - seconds)} left"
        self._write(line)

    def done(self) -> None:
        self._finished = True
        seconds = time.monotonic() - self._start
        rate = f" ({_rate(self._units, seconds)} {self._unit}/s)" if self._units else ""
        self._write(f"{self._what}: {self._units:,} {self._unit} in {seconds:.1f} s{rate}")

    def end(self) -> None:
        if self.on_terminal:
            self._stream.write("\n")
            self._stream.flush()

    def _write(self, line: str) -> None:
        self._stream.write(f"\r\x1b[K{line}" if self.on_terminal else f"{line}\n")
        self._stream.flush()


def _rate(units: int, seconds: float) -> str:
    rate = units / max(seconds, 1e-9)
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
