"""What worker processes do in the tests of `runtime.processes`. They import this module."""

import os
import pickle
import signal
import time
from collections.abc import Iterator
from typing import Any

from image_similarity.runtime.processes import Task


def twice(task: Task) -> Iterator[Any]:
    yield task.work, os.getpid()
    yield task.work, os.getpid()


def fails_first(task: Task) -> Iterator[str]:
    if task.work != "well" and task.attempt == 0:
        yield "of no account"
        _fail(task.work)
    yield f"{task.work} {task.attempt}"


def _fail(how: str) -> None:
    if how == "raises":
        raise ValueError("no luck")
    if how == "exits":
        os._exit(0)
    if how == "nonsense":
        for number in range(3, 20):  # one of these is the socket
            try:
                os.write(number, b"\0\0\0\4gibb")
            except OSError:
                continue
    os.kill(os.getpid(), signal.SIGKILL)


def always_raises(task: Task) -> Iterator[Any]:
    yield "something"
    raise ValueError("no luck")


def always_dies(task: Task) -> Iterator[Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    yield


class _Hostile:
    def __init__(self, file: str):
        self.file = file

    def __reduce__(self) -> Any:
        return open, (self.file, "w")


def answers_a_pickle(task: Task) -> Iterator[Any]:
    content = pickle.dumps(_Hostile(task.work))
    for number in range(3, 20):
        try:
            os.write(number, len(content).to_bytes(4, "big") + content)
        except OSError:
            continue
    yield


def goes_on(task: Task) -> Iterator[int]:
    while True:
        yield os.getpid()
        time.sleep(0.01)


def threads(task: Task) -> Iterator[str]:
    yield os.environ["OMP_NUM_THREADS"]
