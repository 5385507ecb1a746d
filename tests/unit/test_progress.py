"""Progress: the share of the stage that does the work, and the lines made of it."""

import io
import json
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

from image_similarity import reporting
from image_similarity.reporting import JSON, Progress, Reporter
from image_similarity.runtime import progress


def session_with(*stages: tuple[int, int, int]) -> Any:
    """A session whose only job has stages of (id, tasks, finished tasks)."""
    infos = {
        number: SimpleNamespace(stageId=number, numTasks=tasks, numCompletedTasks=done)
        for number, tasks, done in stages
    }
    tracker = SimpleNamespace(
        getJobIdsForGroup=lambda group: [0],
        getJobInfo=lambda job: SimpleNamespace(stageIds=list(infos)),
        getStageInfo=infos.get,
    )
    return SimpleNamespace(sparkContext=SimpleNamespace(statusTracker=lambda: tracker))


def test_stages_that_only_prepare_do_not_count() -> None:
    assert progress._share_done(session_with((1, 2, 2)), "g", 8) == 0
    assert progress._share_done(session_with((1, 2, 2), (2, 8, 2)), "g", 8) == 0.25
    assert progress._share_done(session_with((1, 8, 8), (2, 8, 4)), "g", 8) == 0.5


def half_and_whole(reporter: Reporter) -> Progress:
    """What is told of 200 images, of which half are done after ten seconds, and all at the same moment."""
    report = Progress(reporter, "embed", 200, "images")
    report._start -= 10
    report.update(0.5)
    report.done()
    report.update(0.9)  # a watcher that comes late says nothing
    report.end()
    return report


def test_the_time_left_falls_between_steps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Tasks end together: the share stands still for long, and the time left must not rise meanwhile."""
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    report = Progress(Reporter(), "embed", 240, "images")
    for seconds, share in ((10, 0.0), (20, 0.25), (40, 0.25), (79, 0.25), (90, 0.25), (100, 0.5)):
        clock[0] = 100.0 + seconds
        report.update(share)
    first, *others = capsys.readouterr().err.splitlines()
    assert first == "embed: 240 images, no results yet after 0:10"
    assert [line.partition("images/s")[2] for line in others] == [
        ", 1:00 left",
        ", 0:40 left",
        ", 0:01 left",
        "",
        ", 1:40 left",
    ]
    assert all(", 3.0 images/s" in line for line in others[:4]), "the rate is that of the last step"


def test_lines_elsewhere_than_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    report = half_and_whole(Reporter(every=7))
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("embed: 100 of 200 images (50%), ") and first.endswith("0:10 left")
    assert last.startswith("embed: 200 images in 10.0 s (")
    assert report.every == 7


def test_one_is_no_plural(capsys: pytest.CaptureFixture[str]) -> None:
    report = Progress(Reporter(), "embed", 1, "images")
    report._start -= 10
    for share in (0, 1):
        report.update(share)
    report.done()
    waiting, whole, last = capsys.readouterr().err.splitlines()
    assert waiting == "embed: 1 image, no results yet after 0:10"
    assert whole.startswith("embed: 1 of 1 image (100%), 0.1 images/s")
    assert last.startswith("embed: 1 image in 10.0 s (0.1 images/s)")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def test_on_a_terminal_one_line_is_kept_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_terminal(monkeypatch)
    report = half_and_whole(Reporter(every=7))
    told = terminal.getvalue()
    assert told.count("\n") == 1 and told.endswith("\n") and told.count("\r\x1b[K") == 2
    assert report.every <= 1


def test_machines_get_lines_on_a_terminal_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = on_terminal(monkeypatch)
    half_and_whole(Reporter(JSON))
    first, last = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert [first[name] for name in ("event", "step", "done", "total", "unit")] == [
        "progress",
        "embed",
        100,
        200,
        "images",
    ]
    assert first["rate"] == pytest.approx(10, rel=0.1) and first["seconds_left"] == pytest.approx(10, rel=0.1)
    assert (last["event"], last["done"], last["seconds_left"]) == ("step", 200, 0)
    assert terminal.getvalue() == ""


def test_times() -> None:
    assert [reporting._clock(seconds) for seconds in (0, 59.6, 3725)] == ["0:00", "1:00", "1:02:05"]
