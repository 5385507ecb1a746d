"""Weights that are named by a path on this machine: whether they are there, seen before torch is loaded."""

import errno
import os
from collections.abc import Sequence

from image_similarity.errors import JobFailed, WrongInput, listed, no_such_file, what_is
from image_similarity.storage import timeouts, uris

SECONDS_TO_ANSWER = 120.0
"""For a drive to say whether a file is there. Drives that are gone may never answer."""

_silent: set[str] = set()
"""Paths on drives that gave no answer. This process does not wait for them again."""


def is_path(name: str) -> bool:
    """Whether ``name`` is a local path, and neither an address nor a name as ``IMAGENET1K_V1`` or ``untrained``."""
    return uris.is_local(name) and ("/" in name or "." in name or os.path.lexists(name))


def check(names: Sequence[str]) -> None:
    """Raises ``WrongInput``, with names that are near, if all of ``names`` are paths and none is there; or for what is
    no file that can be read. ``JobFailed`` if there is nothing but paths on drives that do not answer.
    """
    paths = [uris.absolute(name) for name in names if is_path(name)]
    there, missing, silent = list[str](), list[str](), list[str]()
    for path in paths:
        try:
            if is_there(path):
                there.append(path)
            else:
                missing.append(f"weights: {no_such_file(path)}")
        except TimeoutError as error:
            silent.append(f"weights {path} cannot be reached: {error}")
    if there or len(paths) < len(names):
        return
    raise JobFailed("; ".join([*silent, *missing])) if silent else WrongInput("; ".join(missing))


def is_there(path: str) -> bool:
    """Whether there is a file at ``path`` (absolute).

    Raises ``WrongInput`` for a folder, and for what cannot be read; ``TimeoutError`` if its drive does not answer, at
    once if it did not answer before.
    """
    if path in _silent:
        raise TimeoutError(f"no answer within {SECONDS_TO_ANSWER:g} s")
    try:
        return timeouts.within(SECONDS_TO_ANSWER, _is_there, path)
    except TimeoutError:
        _silent.add(path)
        raise


def _is_there(path: str) -> bool:
    try:
        kind = what_is(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise WrongInput(f"weights {path}: cannot be read: {error.strerror}") from None
    if kind == "a folder":
        raise WrongInput(f"weights {path}: this is a folder, name a file in it; {_inside(path)}")
    if kind != "a file" and not os.path.exists(path):  # a link to a drive that is not mounted, say
        return False
    if kind != "a file":
        raise WrongInput(f"weights {path}: this is {kind}; name a file")
    if not os.access(path, os.R_OK):
        raise WrongInput(f"weights {path}: cannot be read: {os.strerror(errno.EACCES)}")
    return True


def _inside(folder: str) -> str:
    try:
        return f"there are: {listed(sorted(os.listdir(folder)))}"
    except OSError as error:
        return f"what is in it cannot be listed ({error.strerror})"
