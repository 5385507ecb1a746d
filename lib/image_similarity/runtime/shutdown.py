"""Shutdown of jobs that fail: signals that allow cleaning up, one line for people, and an exit code for machines."""

import errno
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from image_similarity import reporting
from image_similarity.errors import Interrupted, JobFailed, Terminated
from image_similarity.runtime.session import interrupt, is_of_spark

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

_SPARK_HAS_ENDED = "Spark's own process has ended: it was killed, or had too little memory (spark.driver.memory)"


@contextmanager
def interruptible(session: "SparkSession") -> Iterator[None]:
    """Makes SIGTERM and Ctrl-C raise `Terminated` and `Interrupted`, so that the job can clean up.

    Airflow, YARN and Kubernetes end a task by SIGTERM. A second signal is ignored.
    """
    if threading.current_thread() is not threading.main_thread():  # other threads cannot set handlers
        yield
        return

    def end(number: int, frame: Any) -> None:
        for handled in previous:
            signal.signal(handled, signal.SIG_IGN)
        interrupt(session)
        raise Terminated if number == signal.SIGTERM else Interrupted

    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in previous:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler or signal.SIG_DFL)


def explain(name: str, error: BaseException, published: list[str], verbose: bool) -> int:
    """Reports why the job ended, and returns its exit code."""
    ended = _end_from_outside(error)
    if ended is not None:
        _tell_error(
            name,
            f"{ended} before it was done; published until then: {', '.join(published) or 'nothing'}",
            ended.exit_code,
        )
        return ended.exit_code
    if not isinstance(error, Exception):  # SystemExit and the like are not errors of the job
        raise error
    traceback_text = "".join(traceback.format_exception(error)) if verbose else None
    if isinstance(error, JobFailed) and os.strerror(errno.ENOSPC) not in str(error):
        _tell_error(name, f"error: {error}", error.exit_code, traceback_text, **error.fields)
        return error.exit_code
    _tell_error(
        name, f"error: {_root_cause(error)} (--verbose shows the traceback)", JobFailed.exit_code, traceback_text
    )
    return JobFailed.exit_code


def _end_from_outside(error: BaseException) -> Interrupted | None:
    """The `Interrupted` behind ``error``, if there is one. If Spark was ended too, cleaning up raises another error."""
    for cause in _chain(error):
        if isinstance(cause, KeyboardInterrupt):
            return Interrupted()
        if isinstance(cause, Interrupted):
            return cause
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """``error``, and the errors that were being handled when it was raised."""
    while error is not None:
        yield error
        error = error.__context__


def _tell_error(name: str, message: str, exit_code: int, traceback_text: str | None = None, **fields: Any) -> None:
    if traceback_text is not None:
        fields["traceback"] = traceback_text
    reporter = reporting.current()
    text = (
        f"{traceback_text}{name}: {message}"
        if traceback_text is not None and reporter.format == reporting.TEXT
        else f"{name}: {message}"
    )
    reporter.tell("error", text, exit_code=exit_code, **fields)


def _root_cause(error: Exception) -> str:
    """The most informative line of an error that came through Spark: the worker's exception, if there is one."""
    if any(type(cause).__name__ == "Py4JNetworkError" for cause in _chain(error)):
        return _SPARK_HAS_ENDED
    try:
        text = str(error)
    except Exception:  # the message is in a JVM that is gone
        return _SPARK_HAS_ENDED
    if os.strerror(errno.ENOSPC) in text:  # from Python or the JVM, here or in a worker
        return (
            "no space is left on the disk of the warehouse, or on one of Spark's own: nothing of this job was "
            "published. Free some; clean_warehouse.py --warehouse URI --discard-checkpoints removes what unpublished "
            "runs have left"
        )
    if is_of_spark(error):
        own = [line for line in text.splitlines() if line.startswith(f"{JobFailed.__module__}.")]
        if own:
            return own[-1].partition(": ")[2]
        python = [
            line for line in text.splitlines() if line and not line[0].isspace() and "Error" in line.split(":")[0]
        ]
        causes = [line for line in text.splitlines() if line.startswith("Caused by: ")]
        return (python or causes or text.splitlines() or [type(error).__name__])[-1 if python or causes else 0]
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"
