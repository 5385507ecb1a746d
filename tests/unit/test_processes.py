"""Worker processes of a job: tasks whose worker dies are tried again, and nothing outlives the job."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import working
from image_similarity.errors import JobFailed
from image_similarity.runtime import processes

HERE = Path(working.__file__).parent


@pytest.fixture
def server() -> Iterator[processes.Server]:
    server = processes.Server(["working"])
    yield server
    server.close()


def answers(server: processes.Server, function: processes.Run, tasks: list[Any], most: int = 2) -> dict[int, list[Any]]:
    """The answers of the attempts that succeeded, by the number of the task."""
    collected, done = dict[int, list[Any]](), set[int]()
    for number, answer in processes.run(server, function, tasks, most):
        if answer == processes.BEGUN:
            collected[number] = []
        elif answer == processes.DONE:
            done.add(number)
        else:
            collected[number].append(answer)
    assert done == set(range(len(tasks)))
    return collected


def test_tasks_are_shared_out_and_workers_used_again(server: processes.Server) -> None:
    told = answers(server, working.twice, list(range(7)))
    assert {number: [value for value, _ in values] for number, values in told.items()} == {
        number: [number, number] for number in range(7)
    }
    assert len({process for values in told.values() for _, process in values}) <= 2


@pytest.mark.parametrize("how", ["killed", "raises", "exits", "nonsense"])
def test_a_task_whose_worker_fails_is_tried_again_and_knows_it(server: processes.Server, how: str) -> None:
    """Others go on, and what the first attempt answered does not count."""
    told = answers(server, working.fails_first, ["well", how, "well"])
    assert told == {0: ["well 0"], 1: [f"{how} 1"], 2: ["well 0"]}


def test_the_last_attempt_decides(server: processes.Server) -> None:
    with pytest.raises(JobFailed, match="ValueError: no luck"):
        answers(server, working.always_raises, [0])
    assert server.is_closed, "workers that are still at work are ended"


def test_a_worker_that_dies_each_time_ends_the_job(server: processes.Server) -> None:
    with pytest.raises(JobFailed, match="killed, or crashed, in each attempt"):
        answers(server, working.always_dies, [0])


def test_answers_are_not_unpickled(server: processes.Server, tmp_path: Path) -> None:
    """A worker that a hostile file has taken over can answer whatever it likes."""
    with pytest.raises(JobFailed, match="killed, or crashed"):
        answers(server, working.answers_a_pickle, [str(tmp_path / "opened")])
    assert not (tmp_path / "opened").exists()


def test_the_same_server_serves_until_it_is_released() -> None:
    first = processes.prepare("working")
    assert processes.prepare("working") is first
    processes.release()
    second = processes.prepare("working")
    assert second is not first and first.is_closed
    assert answers(second, working.twice, [1])[0][0][0] == 1
    processes.release()


@pytest.mark.timeout(60)
def test_nothing_outlives_a_job_that_is_killed() -> None:
    program = textwrap.dedent("""
        import sys
        sys.path.insert(0, sys.argv[1])
        import working
        from image_similarity.runtime import processes
        for number, answer in processes.run(processes.prepare("working"), working.goes_on, [0, 1], 2):
            print(answer, flush=True)
    """)
    job = subprocess.Popen([sys.executable, "-c", program, str(HERE)], stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    workers = set[int]()
    while len(workers) < 2:
        line = job.stdout.readline().strip()
        workers |= {int(line)} if line.isdigit() else set()
    job.kill()
    job.wait()
    deadline = time.monotonic() + 30
    while any(map(is_running, workers)):
        assert time.monotonic() < deadline, "workers are still there"
        time.sleep(0.05)


def is_running(process: int) -> bool:
    """Whether there is such a process, other than one that has ended and that nobody has waited for."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True)
    return done.stdout.strip()[:1] not in ("", "Z")


def test_workers_have_one_thread_each_and_the_job_is_left_alone(server: processes.Server) -> None:
    before = os.environ.get("OMP_NUM_THREADS"), signal.getsignal(signal.SIGINT)
    [[threads]] = answers(server, working.threads, [0]).values()
    assert threads == "1" and (os.environ.get("OMP_NUM_THREADS"), signal.getsignal(signal.SIGINT)) == before
