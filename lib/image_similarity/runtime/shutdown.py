"""How jobs end that do not end well: signals that let everything be tidied up, one line for people, an exit code for
machines."""

import errno
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from py4j.protocol import Py4JNetworkError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from image_similarity import reporting
from image_similarity.errors import Interrupted, JobFailed, Terminated
from image_similarity.runtime.session import interrupt


@contextmanager
def interruptible(session: SparkSession) -> Iterator[None]:
    """Let SIGTERM, by which Airflow, YARN and Kubernetes end a task, and Ctrl-C raise what lets everything be tidied
    up."""
    if threading.current_thread() is not threading.main_thread():  # others cannot have handlers
        yield
        return

    def end(number: int, frame: Any) -> None:
        for once in before:
            signal.signal(once, signal.SIG_IGN)
        interrupt(session)
        raise Terminated if number == signal.SIGTERM else Interrupted

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def explain(name: str, error: BaseException, published: list[str], verbose: bool) -> int:
    """Say why the job ended, and return its exit code."""
    ended = _end_from_outside(error)
    if ended is not None:
        _tell_error(
            name,
            f"{ended} before it was done; published until then: {', '.join(published) or 'nothing'}",
            ended.exit_code,
        )
        return ended.exit_code
    if not isinstance(error, Exception):  # SystemExit and the like are not ours to explain
        raise error
    told = "".join(traceback.format_exception(error)) if verbose else None
    if isinstance(error, JobFailed):
        _tell_error(name, f"error: {error}", error.exit_code, told, **error.fields)
        return error.exit_code
    _tell_error(name, f"error: {_root_cause(error)} (--verbose shows the traceback)", JobFailed.exit_code, told)
    return JobFailed.exit_code


def _end_from_outside(error: BaseException) -> Interrupted | None:
    """The `Interrupted` behind ``error``, if there is one: where Spark was ended, too, tidying up fails in its turn."""
    for one in _chain(error):
        if isinstance(one, KeyboardInterrupt):
            return Interrupted()
        if isinstance(one, Interrupted):
            return one
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """``error``, and what was being handled when it was raised."""
    while error is not None:
        yield error
        error = error.__context__


def _tell_error(name: str, message: str, exit_code: int, told: str | None = None, **fields: Any) -> None:
    if told is not None:
        fields["traceback"] = told
    reporter = reporting.current()
    text = (
        f"{told}{name}: {message}" if told is not None and reporter.format == reporting.TEXT else f"{name}: {message}"
    )
    reporter.tell("error", text, exit_code=exit_code, **fields)


def _root_cause(error: Exception) -> str:
    """The line that matters of an error that came through Spark: that of the exception in the worker, if there was
    one."""
    if any(isinstance(one, Py4JNetworkError) for one in _chain(error)):
        return "Spark's own process has ended: it was killed, or had too little memory (spark.driver.memory)"
    text = str(error)
    if os.strerror(errno.ENOSPC) in text:  # of Python and of the JVM, here or in a worker
        return (
            "no space is left on the disk of the warehouse, or on one of Spark's own: nothing of this job was "
            "published. Free "
            "some; what runs that did not come to their end have left is removed by clean_warehouse.py --warehouse URI "
            "--discard-checkpoints"
        )
    if isinstance(error, PySparkException) or type(error).__module__.startswith("py4j"):
        own = [line for line in text.splitlines() if line.startswith(f"{JobFailed.__module__}.")]
        if own:
            return own[-1].partition(": ")[2]
        python = [
            line for line in text.splitlines() if line and not line[0].isspace() and "Error" in line.split(":")[0]
        ]
        causes = [line for line in text.splitlines() if line.startswith("Caused by: ")]
        return (python or causes or text.splitlines() or [type(error).__name__])[-1 if python or causes else 0]
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"
