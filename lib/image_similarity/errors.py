"""The errors that people are meant to read: one line that says what, where, and what to do.

Each class of `JobFailed` has an exit code of the jobs. `Unreadable` is about one image and becomes a row of
``failures``. Any other exception is a defect of this project, and keeps its traceback.

What their messages suggest is here, too: the names that are near a wrong one. So are the words of lists and counts,
which all parts of the library may use.
"""

import difflib
import os
import re
import stat
from collections.abc import Iterable
from typing import Any

_LISTED = 8
_NEAR = 3
_PROGRAMS = (".py", ".pyc", ".sh")
"""Endings that nobody means who names data."""
_AS_NEAR = 0.1  # of difflib's ratio


class JobFailed(Exception):
    """The job failed for reasons other than its input (a lost race, an unreachable address). Exit code 1."""

    exit_code = 1

    def __init__(self, message: str = "", **fields: Any):
        """``fields``: values for machines, in addition to the message."""
        super().__init__(message)
        self.fields = fields


class WrongInput(JobFailed):
    """Arguments, settings or input files must be changed before the job can work. Exit code 2."""

    exit_code = 2


class TooManyFailures(JobFailed):
    """More images failed than ``max_failed_fraction`` (of ``embeddings``, of ``downloads``) allows. Exit code 3."""

    exit_code = 3


class Interrupted(BaseException):
    """The job was ended by Ctrl-C. Like ``KeyboardInterrupt`` it is not an ``Exception``. Exit code 130."""

    exit_code = 130

    def __str__(self) -> str:
        return "interrupted"


class Terminated(Interrupted):
    """The job was ended by SIGTERM, as schedulers do. Exit code 143."""

    exit_code = 143

    def __str__(self) -> str:
        return "ended by SIGTERM"


class DeviceFailed(Exception):
    """A GPU failed, or has too little memory for the least work. The message names it and its machine."""


class Unreadable(Exception):
    """An image that cannot be used. ``reason``: a word for the table ``failures``; ``detail``: one line for people."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = " ".join(detail.split())[:300]


def near(word: str, known: Iterable[str]) -> list[str]:
    """At most three of ``known`` that ``word`` may be a misspelling or the beginning of, the nearest first.

    Capitals, and which of ``_`` and ``-`` is written, make no difference.
    """
    names = {_plain(name): name for name in reversed(list(known))}
    wanted = _plain(word)
    longer = sorted((name for name in names if wanted and name.startswith(wanted)), key=len)
    found = dict.fromkeys([*longer, *_close(wanted, names)])
    return [names[name] for name in found][:_NEAR]


def _close(word: str, names: Iterable[str]) -> list[str]:
    """Those of ``names`` that are spelled like ``word``; none that is much farther from it than the nearest."""
    found = difflib.get_close_matches(word, list(names), n=_NEAR)
    ratios = [difflib.SequenceMatcher(None, name, word).ratio() for name in found]
    return [name for name, ratio in zip(found, ratios) if ratio > ratios[0] - _AS_NEAR]


def near_by_words(word: str, known: Iterable[str]) -> list[str]:
    """At most three of ``known`` that share words with ``word``, as ``images_per_page`` with ``pagesize``.

    Those with most of the words come first. Words of fewer than four letters are in too many names. An ``s`` at the end
    makes no difference.
    """
    wanted = _plain(word)
    shared = {
        name: sum(part.rstrip("s") in wanted for part in _plain(name).split("-") if len(part) > 3) for name in known
    }
    return [name for name in sorted(shared, key=lambda name: -shared[name]) if shared[name]][:_NEAR]


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def did_you_mean(word: str, known: Iterable[str], remedy: str = "") -> str:
    """``; did you mean a or b?`` for a message about ``word``; empty if none of ``known`` is near.

    ``remedy``: what helps where none of them is meant. It follows as a sentence, or as ``: remedy`` if none is near.
    """
    names = near(word, known)
    if not names:
        return f": {remedy}" if remedy else ""
    return sentences(f"; did you mean {' or '.join(names)}?", remedy[:1].upper() + remedy[1:])


def sentences(first: str, second: str) -> str:
    """``first`` and ``second`` as two sentences, where ``first`` may end in a question; ``first`` if that is all."""
    if not second:
        return first
    return f"{first} {second}" if first.endswith((".", "?", "!")) else f"{first}. {second}"


def listed(names: Iterable[str]) -> str:
    """``names`` in their order, as text. Of many, the first eight and how many more; ``none`` if there are none."""
    known = list(names)
    more = f" and {len(known) - _LISTED:,} more" if len(known) > _LISTED + 1 else ""
    return (", ".join(known[:_LISTED] if more else known) or "none") + more


def counted(count: int, one: str, many: str | None = None) -> str:
    """``count`` and its noun: ``1 image``, ``1,460 images``, ``2 copies``.

    ``many``: for all counts but 1, where it is no regular plural of ``one``: ``run is active``, ``runs are active``.
    """
    return f"{count:,} {one if count == 1 else many or _plural(one)}"


def _plural(noun: str) -> str:
    """``images``, ``copies``, ``classes``."""
    if re.search("[^aeiou]y$", noun):
        return f"{noun[:-1]}ies"
    return f"{noun}{'es' if noun.endswith(('s', 'x', 'ch', 'sh')) else 's'}"


def no_such_file(path: str) -> str:
    """``no such file: PATH``, with `near_files`; or, of a link, where it leads."""
    try:
        return f"no such file: {path}{f' ({what_is(path)})' if os.path.islink(path) else near_files(path)}"
    except OSError:  # a link into a folder that may not be entered, or a name that is gone by now
        return f"no such file: {path}"


def near_files(path: str) -> str:
    """For a message about ``path``, which is not there: the folder of it that is missing, and ``; did you mean a?``.

    ``path``: of this machine, absolute. Near names are those in the folder where the path leaves what is there.
    """
    wanted = path.rstrip("/")
    folder, name = os.path.split(wanted)
    while folder != os.path.dirname(folder) and not os.path.isdir(folder):
        folder, name = os.path.split(folder)
    try:
        there = sorted(os.listdir(folder))
    except OSError:  # others may not list it
        there = []
    missing = os.path.join(folder, name)
    if missing == wanted:
        return did_you_mean(name, _of_kind(name, there))
    return f" (there is no {missing})" + did_you_mean(name, there)


def _of_kind(name: str, there: Iterable[str]) -> list[str]:
    """Those that may be meant by the file ``name``: of the same ending, or spelled alike but for the ending.

    Of weights.pth, weights.py is no near name, but weights.pt is.
    """
    stem, ending = os.path.splitext(name)
    if not ending[1:].isalpha():
        return list(there)
    others = [(other, *os.path.splitext(other)) for other in there]
    same = [other for other, _, of_other in others if of_other.lower() == ending.lower()]
    if near(name, same):
        return same
    return [other for other, of_stem, of_other in others if of_stem == stem and of_other.lower() not in _PROGRAMS]


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISREG, "a file"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def what_is(path: str) -> str:
    """What is at ``path``, for a message: ``a file``, ``a named pipe``, ``a link to /gone, which is not there``.

    Links are followed. Raises ``OSError`` if nothing is there, or nobody may look.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if not os.path.islink(path) or isinstance(error, PermissionError):
            raise
        fault = (
            "which is not there" if isinstance(error, FileNotFoundError) else f"which leads nowhere: {error.strerror}"
        )
        return f"a link to {os.readlink(path)}, {fault}"
    return next((kind for is_one, kind in _KINDS if is_one(mode)), "no file")
