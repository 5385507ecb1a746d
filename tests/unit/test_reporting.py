"""What is said, as text and as JSON, and how long steps take."""

import json
import logging
import threading
import time
from datetime import datetime, timedelta

import pytest
from py4j.protocol import Py4JNetworkError
from pyspark.errors import PySparkException

from image_similarity import reporting
from image_similarity.errors import Terminated
from image_similarity.jobs import clean_warehouse, command_line
from image_similarity.jobs.job import Failures
from image_similarity.reporting import JSON, Reporter, reporting_to
from image_similarity.runtime import shutdown
from image_similarity.runtime.session import cause_of

Captured = pytest.CaptureFixture[str]


def test_results_go_to_stdout_and_the_rest_to_stderr(capsys: Captured) -> None:
    reporter = Reporter()
    for event in ("plan", "note", "summary", "already_published", "progress", "step", "error"):
        reporter.tell(event, event, number=1)
    told = capsys.readouterr()
    assert told.out.split() == ["plan", "note", "summary", "already_published"]
    assert told.err.split() == ["progress", "step", "error"]


def test_details_are_for_machines_and_for_those_who_ask(capsys: Captured) -> None:
    for reporter, expected in ((Reporter(), ""), (Reporter(verbose=True), "told\n")):
        reporter.tell("published", "told", detail=True)
        assert capsys.readouterr().out == expected
    Reporter(JSON).tell("published", "told", detail=True)
    assert json.loads(capsys.readouterr().out)["message"] == "told"


def test_an_event_is_one_line_of_json(capsys: Captured) -> None:
    with reporting_to(Reporter(JSON, label="night 1", about={"job": "embed_images", "slot": "a", "run_id": "r1"})):
        reporting.say("two\nlines", "é\u2028ü", counts={"images": 2})
        reporting.say("")
        reporting.note("beware")
    out, err = capsys.readouterr()
    first, second = (json.loads(line) for line in out.splitlines())
    assert err == "" and "\u2028" not in out, "which some take for the end of a line"
    told = datetime.fromisoformat(first.pop("time"))
    assert told.utcoffset() == timedelta(0) and abs(told.timestamp() - time.time()) < 60
    assert first == {
        "level": "info",
        "job": "embed_images",
        "slot": "a",
        "run_id": "r1",
        "label": "night 1",
        "event": "summary",
        "message": "two\nlines\n  é\u2028ü",
        "counts": {"images": 2},
    }
    assert (second["event"], second["level"], second["message"]) == ("note", "warning", "note: beware")


def test_lines_of_several_threads_stay_whole(capfd: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter(JSON)

    def talk() -> None:
        for _ in range(50):
            reporter.tell("note", "x" * 20_000)

    threads = [threading.Thread(target=talk) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 200 and all(json.loads(line)["message"] == "x" * 20_000 for line in lines)


def test_nested_steps_are_counted_once() -> None:
    reporter = Reporter()
    with reporter.timed("before"):
        pass
    began = time.monotonic()
    with reporter.timed("outer"):
        time.sleep(0.02)
        for _ in range(2):
            with reporter.timed("inner"):
                time.sleep(0.04)
    with pytest.raises(ValueError), reporter.timed("fails"):
        raise ValueError
    whole = time.monotonic() - began
    seconds = reporter.seconds_by_step(began)
    assert list(seconds) == ["outer", "inner", "fails"], "in the order of the work"
    assert seconds["inner"] >= 0.08 and 0.02 <= seconds["outer"] < 0.04
    assert sum(seconds.values()) == pytest.approx(whole, abs=0.01)
    assert reporting.longest(seconds, 1).startswith("inner 0.1 s")


def test_the_root_logger_is_left_alone() -> None:
    before = list(logging.getLogger().handlers)
    with reporting_to(Reporter(JSON)):
        reporting.current().tell("note", "told")
    assert logging.getLogger().handlers == before


def test_failures_are_told_in_the_same_form_everywhere() -> None:
    failures = Failures({"not_found": 1234, "truncated": 1}, {"not_found": "a.png", "truncated": "b.png"})
    assert failures.total == 1235
    assert failures.lines == ["failed: 1,234 not_found, for example a.png", "failed: 1 truncated, for example b.png"]
    assert failures.fields["truncated"] == {"count": 1, "example": "b.png"}
    assert reporting.printable("new\nline") == "new\\nline" and reporting.printable("日本") == "日本"


def test_what_ended_a_job_is_told_whatever_failed_after_it() -> None:
    """Where Spark was ended, too, tidying up fails in its turn."""

    def failing_after(first: BaseException) -> OSError:
        with pytest.raises(OSError) as raised:
            try:
                raise first
            finally:
                raise OSError("cannot tidy up")
        return raised.value

    terminated, interrupted = (
        shutdown._end_from_outside(failing_after(end)) for end in (Terminated(), KeyboardInterrupt())
    )
    assert terminated is not None and (terminated.exit_code, str(terminated)) == (143, "ended by SIGTERM")
    assert interrupted is not None and interrupted.exit_code == 130
    assert shutdown._end_from_outside(failing_after(ValueError())) is None
    gone = failing_after(Py4JNetworkError("Answer from Java side is empty"))
    assert "Spark's own process has ended" in shutdown._root_cause(gone)
    assert "Spark's own process has ended" in shutdown._root_cause(Unasked())


class Unasked(Exception):
    """Its message is in a JVM, as that of py4j's errors, and the JVM is gone."""

    def __str__(self) -> str:
        raise ConnectionRefusedError


@pytest.mark.parametrize(
    "wrong", [["--log-every", "0"], ["--log-every", "nan"], ["--log-every", "ten"], ["--log-format", "xml"]]
)
def test_wrong_flags_end_with_2(wrong: list[str], capsys: Captured) -> None:
    assert command_line.main(clean_warehouse, ["--warehouse", "w", *wrong]) == 2
    assert wrong[0] in capsys.readouterr().err


def test_an_error_of_spark_is_told_by_the_line_that_says_what_is_wrong() -> None:
    trace = "Traceback (most recent call last):\n  File x, line 3, in write\n    raise OSError(28)\n    ^^^\n"
    worker = f"\n  An exception was thrown from the Python worker:\n{trace}OSError: disk full\n\tat org.apache.x\n"
    assert cause_of(PySparkException(worker)) == "OSError: disk full"
    assert cause_of(PySparkException("java.io.IOException: no space\n\tat org.apache.x")) == "no space"
    assert cause_of(PySparkException("")) == "PySparkException"
