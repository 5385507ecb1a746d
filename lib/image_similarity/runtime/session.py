"""The Spark session: how it starts, what its errors mean, how its work is cancelled."""

import os
import re
import threading
import time
from contextlib import suppress
from pathlib import Path

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from image_similarity import conf
from image_similarity.errors import JobFailed
from image_similarity.runtime import class_archive, environment, java

_CANCEL_SECONDS = 10
_UMASK = "spark.hadoop.fs.permissions.umask-mode"
"""Hadoop's own is 022, whatever that of the process is."""

_LOCAL_DIR, _LOCAL_DIRS, _JAVAS_OWN = "spark.local.dir", "SPARK_LOCAL_DIRS", "/tmp"
"""Where Spark writes its own files: the setting, the variable, which wins, and Java's java.io.tmpdir, the default."""
_JAVA_OPTIONS = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "SPARK_SUBMIT_OPTS")
_DRIVER_OPTIONS = ("spark.driver.extraJavaOptions", class_archive.DEFAULT_OPTIONS)

SPARK_ERRORS = (PySparkException, Py4JJavaError)
"""What a call of Spark raises, depending on where in the JVM it failed."""


def cause_of(error: Exception) -> str:
    """The line of a `SPARK_ERRORS` that tells what is wrong, without the class of the Java exception.

    Of an error in a Python worker it is the last line of the worker's traceback.
    """
    text = str(error.java_exception) if isinstance(error, Py4JJavaError) else str(error)
    raised = re.search(r"^Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*(\S.*)", text, re.MULTILINE)
    if raised:
        return raised[1]
    return re.sub(r"^([a-z]\w*\.)+[A-Z]\w*: ", "", text.splitlines()[0]) if text else type(error).__name__


def open_session(name: str) -> SparkSession:
    """The session of this application.

    Under spark-submit everything is set by its flags and files. Started with plain python, `image_similarity.conf`
    serves, and workers run the same python. Raises ``JobFailed`` where Java is missing
    or Spark cannot start.
    """
    builder = SparkSession.builder.appName(name)
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # spark-submit sets it
        for key, value in local_settings().items():
            builder = builder.config(key, value)
    try:
        return builder.getOrCreate()
    except SPARK_ERRORS as error:  # no answer from the master, too little memory, an address of another machine
        raise JobFailed(f"Spark could not start: {cause_of(error)} (what Spark printed above may tell more)") from error


def local_settings() -> dict[str, str]:
    """Spark's settings for a session that this process starts itself, on one machine.

    Sets JAVA_HOME, PYSPARK_PYTHON and SPARK_CONF_DIR for this process and its children where they are not set. Raises
    ``JobFailed`` where Java is missing, or where one of them points to what cannot serve.
    """
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


def scratch_folders(spark: SparkSession | None = None) -> list[str]:
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


def interrupt(spark: SparkSession) -> None:
    """In the handler of a signal: cancel what Spark is doing, and wait a little for its tasks, which write what is
    removed next.

    The main thread may be waiting for an answer of Spark at this moment, and must not ask for another on the same
    connection: another thread does so, and the main thread gets a new connection for what it does next.
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
    """Asked of the scheduler: what `statusTracker` says lags behind, and a task that is cancelled goes on for up to
    seconds.
    """
    counts = spark.sparkContext._jsc.sc().taskScheduler().runningTasksByExecutors().valuesIterator()
    running = 0
    while counts.hasNext():
        running += int(counts.next())
    return running


def is_local_mode(spark: SparkSession) -> bool:
    return str(spark.sparkContext.master).startswith("local")
