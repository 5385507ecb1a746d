"""Publication by atomic renames: every order of the steps of several publishers, deaths and lost answers among them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from image_similarity.storage import locks, renames
from image_similarity.storage.files import Change
from interleavings import Process, State, Tree, explore, interleavings  # noqa: F401

PATH = "w/_current.json"


def publisher(update: Any) -> Any:
    """A program that adds its name to the file."""

    def program(name: str, files: Any) -> None:
        update(files, PATH, lambda content: (content or b"") + f"{name} ".encode())

    return program


def content(tree: Tree) -> bytes:
    return dict(tree).get(PATH) or b""


def check(processes: list[Process], update: Any = renames.update) -> int:
    """Checks every step, and that a publisher who comes later goes on from every state. Returns the number of steps."""
    count, seen = 0, set()
    for (before, _), (after, now) in explore(frozenset({("w", None)}), processes, publisher(update)):
        count += 1
        old, new = content(before), content(after)
        assert new == old or (new.startswith(old) and len(new.split()) == len(old.split()) + 1), "an update was lost"
        names = new.decode().split()
        assert len(set(names)) == len(names), "an update was made twice"
        for process in now:
            assert {f"{process.name}{number}" for number in range(process.done)} <= set(names), "it is not there"
        if all(process.done == process.times for process in now) and not any(process.faults for process in processes):
            assert {name for name, _ in after} == {"w", PATH}, "something is left"
        if after not in seen:
            seen.add(after)
            check_later_publisher(after, update)
    return count


def check_later_publisher(tree: Tree, update: Any) -> None:
    """All others are dead. One who comes now loses nothing of theirs, and need not wait for ever."""
    for _, (after, (later,)) in explore(tree, [Process("z", long_pauses=3)], publisher(update)):
        if later.operation is None:
            assert later.error is None and content(after) == content(tree) + b"z0 "
            return
    raise AssertionError("it waits for ever")


@pytest.mark.parametrize(
    "processes",
    [
        [Process("a", long_pauses=1), Process("b", long_pauses=1)],
        [Process("a"), Process("b", times=2, long_pauses=1)],
        [Process("a", long_pauses=1), Process("b", times=2)],
        [Process("a", faults=1), Process("b", long_pauses=1)],
    ],
    ids=["both take the other for dead", "one of two", "two of one", "lost answers"],
)
@pytest.mark.usefixtures("interleavings")
def test_every_order_of_steps(processes: list[Process]) -> None:
    assert check(processes) > 5_000


@pytest.mark.usefixtures("interleavings")
def test_the_check_finds_what_is_wrong_with_a_lock_that_is_a_file() -> None:
    def update(files: Any, path: str, change: Change) -> None:
        patience = locks.Patience()
        while not files.create_new("w/_lock"):
            if patience.ends("the lock"):
                files.delete("w/_lock")
            locks.pause()
        files.create(f"{path}.tmp", change(files.read(path)))
        files.rename(f"{path}.tmp", path, overwrite=True)
        files.delete("w/_lock")

    with pytest.raises(AssertionError, match="an update was lost|it is not there"):
        check([Process("a"), Process("b", long_pauses=1)], update)


PUBLISHER = """
import os, random, sys, time
from image_similarity.storage import locks, renames
from image_similarity.storage.local import LocalFiles

class OnDisk(LocalFiles):
    "A local disk renames in one step, too."

    def create(self, path, content):
        os.makedirs(os.path.dirname(path))
        with open(path, "wb") as file:
            file.write(content)

    def rename(self, source, target, overwrite=False):
        time.sleep(random.choice([0, 0, 0.15]))  # so that others often take this process for dead
        try:
            os.rename(source, target)
        except OSError:
            return False
        return True

path, name = sys.argv[1:]
locks.LOCK_SECONDS = 0.1
for turn in range(15):
    renames.update(OnDisk(), path, lambda content: (content or b"") + f"{name}-{turn} ".encode())
"""


def test_slow_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "_current.json"
    processes = [subprocess.Popen([sys.executable, "-c", PUBLISHER, path, str(number)]) for number in range(3)]
    assert [process.wait() for process in processes] == [0] * 3
    made = path.read_text().split()
    assert sorted(made) == sorted(f"{number}-{turn}" for number in range(3) for turn in range(15))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
