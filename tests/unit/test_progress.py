"""Progress: the share of the stage that does the work, and the lines made of it."""

import io
from types import SimpleNamespace
from typing import Any

from image_similarity import spark


def session_with(*stages: tuple[int, int, int]) -> Any:
    """A session whose only job has stages of (id, tasks, finished tasks)."""
    infos = {number: SimpleNamespace(stageId=number, numTasks=tasks, numCompletedTasks=done) for number, tasks, done in stages}
    tracker = SimpleNamespace(
        getJobIdsForGroup=lambda group: [0],
        getJobInfo=lambda job: SimpleNamespace(stageIds=list(infos)),
        getStageInfo=infos.get,
    )
    return SimpleNamespace(sparkContext=SimpleNamespace(statusTracker=lambda: tracker))


def test_stages_that_only_prepare_do_not_count() -> None:
    assert spark._share_done(session_with((1, 2, 2)), "g", 8) == 0
    assert spark._share_done(session_with((1, 2, 2), (2, 8, 2)), "g", 8) == 0.25
    assert spark._share_done(session_with((1, 8, 8), (2, 8, 4)), "g", 8) == 0.5


def test_lines_elsewhere_than_on_a_terminal() -> None:
    stream = io.StringIO()
    report = spark._Report("embed", 200, "images", stream)
    report._start -= 10
    report.update(0.5)
    report.done()
    first, last = stream.getvalue().splitlines()
    assert first.startswith("embed: 100 of 200 images (50%), ") and first.endswith("0:10 left")
    assert last.startswith("embed: 200 images in 10.0 s (")


def test_times() -> None:
    assert [spark._clock(seconds) for seconds in (0, 59.6, 3725)] == ["0:00", "1:00", "1:02:05"]
