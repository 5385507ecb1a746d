"""The Spark session: how and when it starts, what its errors mean, how its work is cancelled.

Importing this module imports no Spark: a job that needs none is not kept waiting for it.
"""

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from image_similarity import conf
from image_similarity.errors import JobFailed

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_CANCEL_SECONDS = 10
_UMASK = "spark.hadoop.fs.permissions.umask-mode"
"""Hadoop's own is 022, whatever that of the process is."""

_LOCAL_DIR, _LOCAL_DIRS, _JAVAS_OWN = "spark.local.dir", "SPARK_LOCAL_DIRS", "/tmp"
"""Where Spark writes its own files: the setting, the variable, which wins, and Java's java.io.tmpdir, the default."""
_JAVA_OPTIONS = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "SPARK_SUBMIT_OPTS")
_DRIVER_OPTIONS = ("spark.driver.extraJavaOptions", "spark.driver.defaultJavaOptions")


def spark_errors(*others: type[Exception]) -> tuple[type[Exception], ...]:
    """What a call of Spark raises, depending on where in the JVM it failed, and ``others``: for an except clause.

    Where Spark is not imported it raises nothing.
    """
    if "pyspark" not in sys.modules:
        return others
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PySparkException

    return *others, PySparkException, Py4JJavaError


def is_of_spark(error: BaseException) -> bool:
    """Whether Spark, or the connection to its JVM, raised ``error``."""
    return type(error).__module__.partition(".")[0] in ("pyspark", "py4j")


def cause_of(error: Exception) -> str:
    """The line of one of the `spark_errors` that tells what is wrong, without the class of the Java exception.

    Of an error in a Python worker it is the last line of the worker's traceback.
    """
    from py4j.protocol import Py4JJavaError

    text = str(error.java_exception) if isinstance(error, Py4JJavaError) else str(error)
    raised = re.search(r"^Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*(\S.*)", text, re.MULTILINE)
    if raised:
        return raised[1]
    return re.sub(r"^([a-z]\w*\.)+[A-Z]\w*: ", "", text.splitlines()[0]) if text else type(error).__name__


class _LazySession:
    """Stands for a session, and starts it when something of it is first used."""

    def __init__(self, start: "Callable[[], SparkSession]"):
        self._start, self._started, self._lock = start, cast("SparkSession | None", None), threading.Lock()
        self._properties: dict[str, str | None] = {}
        """Local properties for the work of the thread that starts the session."""

    def __getattr__(self, name: str) -> Any:
        with self._lock:
            if self._started is None:
                self._started = self._start()
                set_properties(self._started, self._properties)
        return getattr(self._started, name)


def lazy_session(start: "Callable[[], SparkSession]") -> "SparkSession":
    """A session that ``start`` returns, and that is started when something of it is first used.

    Naming work in it, or asking whether it is `started`, does not start it. It is used from one thread until then.
    """
    return cast("SparkSession", _LazySession(start))


def started(spark: "SparkSession") -> "SparkSession | None":
    """``spark`` itself; None if it is a `lazy_session` that was not started yet."""
    return spark._started if isinstance(spark, _LazySession) else spark


def get_property(spark: "SparkSession", name: str) -> str | None:
    """A local property of this thread: Spark's name for what its jobs are about."""
    if isinstance(spark, _LazySession) and spark._started is None:
        return spark._properties.get(name)
    return spark.sparkContext.getLocalProperty(name)


def set_properties(spark: "SparkSession", properties: Mapping[str, str | None]) -> None:
    """Sets local properties of this thread; None removes one. A session that is not started gets them at its start."""
    if isinstance(spark, _LazySession) and spark._started is None:
        spark._properties.update(properties)
        return
    for name, value in properties.items():
        spark.sparkContext.setLocalProperty(name, value)  # type: ignore[arg-type]  # None removes it


def is_submitted() -> bool:
    """Whether spark-submit started this process. Its JVM is there already, and a cluster waits for a session."""
    return "PYSPARK_GATEWAY_PORT" in os.environ


def open_session(name: str) -> "SparkSession":
    """The session of this application.

    Under spark-submit everything is set by its flags and files. Started with plain python, `image_similarity.conf`
    serves, and workers run the same python. Raises ``JobFailed`` where Java is missing
    or Spark cannot start.
    """
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.appName(name)
    if not is_submitted():
        for key, value in local_settings().items():
            builder = builder.config(key, value)
    try:
        return builder.getOrCreate()
    except spark_errors() as error:  # no answer from the master, too little memory, an address of another machine
        raise JobFailed(f"Spark could not start: {cause_of(error)} (what Spark printed above may tell more)") from error


def local_settings() -> dict[str, str]:
    """Spark's settings for a session that this process starts itself, on one machine.

    Sets JAVA_HOME, PYSPARK_PYTHON and SPARK_CONF_DIR for this process and its children where they are not set. Raises
    ``JobFailed`` where Java is missing, or where one of them points to what cannot serve.
    """
    from image_similarity.runtime import class_archive, environment, java

    used = java.use()
    environment.prepare()
    folder = conf.folder()
    if folder is None:
        return {}
    os.environ.setdefault("SPARK_CONF_DIR", str(folder))
    settings = {_UMASK: f"{environment.umask():03o}", **read_properties(folder / "spark" / "local.conf")}
    theirs = _users_defaults(Path(os.environ["SPARK_CONF_DIR"]))
    if not settings.get("spark.master", "").startswith("local"):
        return settings
    return {**settings, class_archive.DEFAULT_OPTIONS: class_archive.driver_options(used, {**theirs, **settings})}


def _users_defaults(folder: Path) -> dict[str, str]:
    """The properties of the user's own spark-defaults.conf, if there is one."""
    defaults = folder / "spark-defaults.conf"
    return read_properties(defaults) if defaults.exists() else {}


def scratch_folders(spark: "SparkSession | None" = None) -> list[str]:
    """The folders on this machine that Spark writes its own files to, as those of shuffles (``spark.local.dir``).

    Without ``spark``: those of the session that `open_session` will start. Empty where they are not known yet, or on
    other machines.
    """
    if spark is None:
        named = _scratch_of_new_session()
    elif is_local_mode(spark):
        system = spark.sparkContext._jvm.java.lang.System  # type: ignore[union-attr]
        named = system.getenv(_LOCAL_DIRS) or spark.sparkContext.getConf().get(_LOCAL_DIR)
        named = named or system.getProperty("java.io.tmpdir")
    else:
        named = None
    return [os.path.abspath(name.strip()) for name in (named or "").split(",") if name.strip()]


def _scratch_of_new_session() -> str | None:
    """The value of ``spark.local.dir``. None where something may set it, or Java's default, that only the JVM knows."""
    folder = conf.folder()
    if "PYSPARK_GATEWAY_PORT" in os.environ:  # the JVM is there already, and gave this process its variables
        return os.environ.get(_LOCAL_DIRS)
    if folder is None or os.environ.get("PYSPARK_SUBMIT_ARGS"):
        return None
    theirs = Path(os.environ.get("SPARK_CONF_DIR", folder))
    if (theirs / "spark-env.sh").exists():
        return None
    settings = {**_users_defaults(theirs), **read_properties(folder / "spark" / "local.conf")}
    if named := os.environ.get(_LOCAL_DIRS) or settings.get(_LOCAL_DIR):
        return named
    options = [os.environ.get(name, "") for name in _JAVA_OPTIONS] + [settings.get(key, "") for key in _DRIVER_OPTIONS]
    return None if any("java.io.tmpdir" in given for given in options) else _JAVAS_OWN


def read_properties(file: Path) -> dict[str, str]:
    """``key value`` or ``key=value`` lines of a Spark properties file; ``#`` begins a comment line."""
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    pairs = (re.split(r"\s*=\s*|\s+", line, maxsplit=1) for line in lines if line and not line.startswith("#"))
    return {key: value for key, value in pairs}


def interrupt(spark: "SparkSession") -> None:
    """In the handler of a signal: cancel what Spark is doing, and wait a little for its tasks, which write what is
    removed next.

    The main thread may be waiting for an answer of Spark at this moment, and must not ask for another on the same
    connection: another thread does so, and the main thread gets a new connection for what it does next.
    """
    if started(spark) is None:
        return
    canceller = threading.Thread(target=_cancel, args=(spark,), name="cancel", daemon=True)
    canceller.start()
    canceller.join(_CANCEL_SECONDS + 5)
    with suppress(Exception):
        connection = spark.sparkContext._gateway._gateway_client.get_thread_connection()  # type: ignore[union-attr]
        connection.close()


def _cancel(spark: "SparkSession") -> None:
    deadline = time.monotonic() + _CANCEL_SECONDS
    with suppress(Exception):  # Spark may be at its end already
        spark.sparkContext.cancelAllJobs()
        while _running_tasks(spark) and time.monotonic() < deadline:
            time.sleep(0.1)


def _running_tasks(spark: "SparkSession") -> int:
    """Asked of the scheduler: what `statusTracker` says lags behind, and a task that is cancelled goes on for up to
    seconds.
    """
    counts = spark.sparkContext._jsc.sc().taskScheduler().runningTasksByExecutors().valuesIterator()
    running = 0
    while counts.hasNext():
        running += int(counts.next())
    return running


def starts_locally() -> bool:
    """Whether the session that `open_session` will start is one of this machine."""
    return not is_submitted() and _master_of_settings().startswith("local")


def is_local_mode(spark: "SparkSession") -> bool:
    """Whether everything runs on this machine. Does not start a session."""
    return master(spark).startswith("local")


def master(spark: "SparkSession") -> str:
    """The master of ``spark``: that of the settings of one machine while it is not started."""
    if (running := started(spark)) is not None:
        return str(running.sparkContext.master)
    return _master_of_settings()


def _master_of_settings() -> str:
    folder = conf.folder()
    settings = read_properties(folder / "spark" / "local.conf") if folder is not None else {}
    return settings.get("spark.master", "local[*]")


def local_cores(spark: "SparkSession") -> int:
    """The number of cores that work on this machine may use: as many as a session in local mode has, or would have."""
    if (running := started(spark)) is not None and is_local_mode(running):
        return max(1, int(running.sparkContext.defaultParallelism))
    given = re.match(r"local\[(\d+)", master(spark))
    return int(given[1]) if given else available_cores()


def available_cores() -> int:
    """The cores that this process may use, as far as its affinity and its container (cgroup v2) limit them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # "max" is no number, and there is no limit then
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores
