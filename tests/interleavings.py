"""Tries every order in which processes can do their steps on a file system, and looks at each state on the way.

A process is a function that does one operation on the files after the other. It is run again from its beginning for
every step, with the answers that it got before, up to the next operation. A process that is never continued is one that
died, so every death is among the orders, too. A state that was reached before is not looked at again.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from image_similarity.storage import locks, renames

Tree = frozenset[tuple[str, bytes | None]]
"""The files and their contents; folders have None."""

SHORT, LONG = 0.1, locks.LOCK_SECONDS + 1
"""Seconds that a pause can take: a moment, or so long that another process, which is slow, seems to be dead."""


REPLACED = ((locks, "time"), (locks, "pause"), (renames, "time"), (renames, "secrets"))
"""What the code has of the outer world, besides the files."""


class Stopped(BaseException):
    """A process comes to its next operation. No handler of errors takes it for one."""


@dataclass(frozen=True)
class Process:
    name: str
    answers: tuple[Any, ...] = ()
    """What its operations answered. An exception was raised."""
    pauses_at: Tree | None = None
    """The tree when it paused, while it does so."""
    operation: tuple[Any, ...] | None = ()
    """What it does next; None if it has ended."""
    times: int = 1
    """How often it does its work."""
    done: int = 0
    """How often it has done so. Answers of earlier times are forgotten, which makes states few."""
    error: str | None = None
    """The error that it ended with."""
    long_pauses: int = 0
    faults: int = 0
    """How many of each may still happen to it."""


State = tuple[Tree, tuple[Process, ...]]
Program = Callable[[str, Any], None]
"""Its arguments are a name, another one each time, and the files."""


class Replayed:
    """The file system and the clock as one process sees them: answers of earlier steps, and then a stop."""

    def __init__(self, process: Process):
        self._answers = list(process.answers)
        self.name, self._tokens, self.seconds = f"{process.name}{process.done}", 0, 0.0
        self.operation: tuple[Any, ...] | None = None

    def _next(self, *operation: Any) -> Any:
        if not self._answers:
            self.operation = self.operation or operation
            raise Stopped
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def read(self, path: str) -> Any:
        return self._next("read", path)

    def entries(self, path: str) -> Any:
        return list(self._next("entries", path))

    def create(self, path: str, content: bytes) -> None:
        self._next("create", path, content)

    def create_new(self, path: str) -> Any:
        return self._next("create_new", path)

    def rename(self, source: str, target: str, overwrite: bool = False) -> Any:
        return self._next("rename", source, target, overwrite)

    def delete(self, path: str) -> None:
        self._next("delete", path)

    def delete_empty(self, path: str) -> None:
        self._next("delete_empty", path)

    def pause(self) -> None:
        self.seconds += self._next("pause")

    def monotonic(self) -> float:
        return self.seconds

    def token_hex(self, _: int) -> str:
        self._tokens += 1
        return f"{self.name}-{self._tokens}"


def perform(tree: Tree, operation: str, path: str, *more: Any) -> tuple[Tree, Any]:
    """One operation, as HDFS does it: the new tree, and the answer."""
    files = dict(tree)
    inside = {name for name in files if name.startswith(f"{path}/")}
    if operation == "read":
        return tree, files.get(path)
    if operation == "entries":
        return tree, tuple(sorted({name[len(path) + 1 :].partition("/")[0] for name in inside}))
    if operation == "create":
        return frozenset({**files, path.rpartition("/")[0]: None, path: more[0]}.items()), None
    if operation == "create_new":
        return frozenset({path: b"", **files}.items()), path not in files
    if operation == "rename":
        target, overwrite = more
        if path not in files or (target in files and not overwrite):
            return tree, False
        assert not inside or target not in files, "a folder never replaces a folder"
        moved = {f"{target}{name.removeprefix(path)}": files.pop(name) for name in [path, *inside]}
        return frozenset({**files, **moved}.items()), True
    if operation == "delete":
        return frozenset((name, content) for name, content in tree if name != path and name not in inside), None
    assert operation == "delete_empty"
    return (tree if inside else tree - {(path, None)}), None


def advanced(process: Process, answer: Any, program: Program) -> Process:
    """``process`` after the next ``answer``: it stops at another operation, or has ended."""
    process = replace(process, answers=(*process.answers, answer) if process.operation else (), pauses_at=None)
    files = Replayed(process)
    for module, name in REPLACED:
        setattr(module, name, files.pause if name == "pause" else files)
    try:
        program(files.name, files)
    except Stopped:
        return replace(process, operation=files.operation)
    except OSError as error:
        return replace(process, operation=None, error=str(error))
    process = replace(process, answers=(), operation=None, done=process.done + 1)
    return process if process.done == process.times else advanced(replace(process, operation=()), None, program)


def steps(tree: Tree, process: Process) -> Iterator[tuple[Tree, Process, Any]]:
    """What can come of the next operation of ``process``: the tree, the process and the answer."""
    assert process.operation
    if process.operation == ("pause",):
        if process.long_pauses:
            yield tree, replace(process, long_pauses=process.long_pauses - 1), LONG
        if process.pauses_at != tree:  # otherwise it would see what it saw before
            yield tree, process, SHORT
        return
    after, answer = perform(tree, *process.operation)
    yield after, process, answer
    if process.faults:
        poorer = replace(process, faults=process.faults - 1)
        yield tree, poorer, OSError("it was not done")
        if after != tree:
            yield after, poorer, OSError("the answer was lost")


def explore(tree: Tree, processes: list[Process], program: Program) -> Iterator[tuple[State, State]]:
    """Every step that can happen: the states before and after it."""
    beginning = tree, tuple(advanced(process, None, program) for process in processes)
    reached, ahead = {beginning}, [beginning]
    while ahead:
        before = ahead.pop()
        alive = [number for number, process in enumerate(before[1]) if process.operation is not None]
        # What only one process can see comes first: the others' steps are the same before and after it.
        for number in [number for number in alive if is_private(before[1][number].operation)][:1] or alive:
            for after, changed, answer in steps(before[0], before[1][number]):
                changed = advanced(changed, answer, program)
                if changed.operation == ("pause",):
                    changed = replace(changed, pauses_at=after)
                state = after, (*before[1][:number], changed, *before[1][number + 1 :])
                yield before, state
                if state not in reached:
                    reached.add(state)
                    ahead.append(state)


def is_private(operation: Any) -> bool:
    """Whether it writes or removes a file that has no name yet by which others would know it."""
    return operation[0] in ("create", "delete") and ".tmp" in operation[1]


@pytest.fixture
def interleavings(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`explore`. It gives the code another clock, and other random names, until the test ends."""
    for module, name in REPLACED:
        monkeypatch.setattr(module, name, getattr(module, name))
    return explore
