"""Mapped copies of vectors in the user's cache folder: files that this machine's processes share.

A copy is a folder. It is written under another name, and renamed once it is whole. Whoever uses it holds a shared lock
on its file ``lock``, which the kernel releases when the process ends. A copy is removed only by one who gets that lock
alone: so none goes that is in use, and what a dead process left half written goes with the next copy that is made.
"""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from image_similarity.errors import WrongInput
from image_similarity.storage import disk_space

LIMIT = "IMAGE_SIMILARITY_CACHE_BYTES"
"""The environment variable with the most bytes that copies take together. 0: no copy is kept."""
DEFAULT_LIMIT = 10 * 2**30

_LOCK = "lock"
_WHOLE = "whole"
"""Is written last. It has no content."""


class CannotKeep(Exception):
    """A copy cannot be kept. The message says why, in one line."""


@dataclass(frozen=True)
class Copy:
    """A copy in use, as long as this object is."""

    folder: Path
    lock: IO[bytes]
    """Open while the copy is used."""


def folder() -> Path:
    """``image-similarity/vectors`` in ``$XDG_CACHE_HOME``, or in ``~/.cache``."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(home) if os.path.isabs(home) else Path("~/.cache").expanduser()
    return base / "image-similarity" / "vectors"


def limit() -> int:
    """Most bytes of all copies. Raises ``WrongInput`` if the environment has no number there."""
    text = os.environ.get(LIMIT, "").strip()
    if not text:
        return DEFAULT_LIMIT
    if not text.isdecimal():
        raise WrongInput(f"{LIMIT} = {text!r} is no number of bytes, as {DEFAULT_LIMIT}")
    return int(text)


def existing(name: str) -> Copy | None:
    """The whole copy ``name``; None if there is none."""
    place = folder() / name
    lock = _locked(place, fcntl.LOCK_SH)
    if lock is None:
        return None
    if not (place / _WHOLE).exists():
        lock.close()
        return None
    with suppress(OSError):  # of another user
        os.utime(place / _LOCK)  # the last use
    return Copy(place, lock)


def made(name: str, size: int, write: Callable[[Path], None]) -> Copy:
    """The copy ``name``, which ``write`` makes in the folder that it is given, unless another process has just made it.

    ``size``: its bytes, about. Copies that were not used for longest go first where they are more than `limit`. Raises
    `CannotKeep` where the folder cannot be written, the disk is full, or the copy alone takes more than `limit`.
    """
    if size > limit():
        raise CannotKeep(f"{disk_space.shown(size)} are more than {LIMIT} allows ({disk_space.shown(limit())})")
    try:
        folder().mkdir(parents=True, exist_ok=True, mode=0o700)
        with _one_at_a_time(name[:1]):
            copy = existing(name)
            return copy if copy is not None else _made(name, size, write)
    except OSError as error:
        raise CannotKeep(f"{folder()}: {error.strerror or error}") from None


def _made(name: str, size: int, write: Callable[[Path], None]) -> Copy:
    partial = folder() / f".{name}.{secrets.token_hex(4)}"
    with _one_at_a_time("room"):  # else another process could remove the folder before it is locked
        _make_room(size)
        partial.mkdir(mode=0o700)
        lock = open(partial / _LOCK, "w+b")
        _flock(lock, fcntl.LOCK_SH)
    try:
        write(partial)
        (partial / _WHOLE).touch()
        final = folder() / name
        if final.exists():  # not whole: somebody has damaged it
            _remove(final)
        os.rename(partial, final)
        return Copy(final, lock)
    except BaseException:
        lock.close()
        shutil.rmtree(partial, ignore_errors=True)
        raise


def forget(copy: Copy) -> None:
    """Removes a copy that is damaged, whoever uses it: their mapping stays."""
    copy.lock.close()
    _discard(copy.folder)


def _make_room(size: int) -> None:
    """Removes copies that nobody uses, the one used longest ago first, until ``size`` more bytes fit.

    What dead processes left half written is removed, too. Raises `CannotKeep` if what is in use leaves too little room.
    """
    places = sorted((place for place in folder().iterdir() if place.is_dir()), key=_last_use)
    for place in places:
        if place.name.startswith("."):
            _remove(place)
    sizes = {place: _size(place) for place in places}
    for place in places:
        if _lack(size, sum(sizes.values())) is None:
            return
        if _remove(place):
            sizes[place] = 0
    if (lack := _lack(size, sum(sizes.values()))) is not None:
        raise CannotKeep(lack)


def _lack(size: int, others: int) -> str | None:
    """Why ``size`` more bytes do not fit beside the ``others`` of all copies; None if they do."""
    if size + others > limit():
        allowed = disk_space.shown(limit())
        return f"copies in use take {disk_space.shown(others)} of the {allowed} that {LIMIT} allows"
    return disk_space.lack("a copy of the vectors", [disk_space.Need("in", str(folder()), size)])


def _remove(place: Path) -> bool:
    """Removes a copy, unless it is in use. Whether it is gone."""
    lock = _locked(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if lock is None and (place / _LOCK).exists():
        return False
    try:
        return _discard(place)
    finally:
        if lock is not None:
            lock.close()


def _discard(place: Path) -> bool:
    gone = place.with_name(f".gone.{secrets.token_hex(4)}")
    try:
        os.rename(place, gone)  # at once: nobody finds half of it
    except OSError:
        return False
    shutil.rmtree(gone, ignore_errors=True)
    return True


def _locked(place: Path, operation: int) -> IO[bytes] | None:
    """The locked ``lock`` of the copy at ``place``; None if it is gone, or is locked against that."""
    try:
        lock = _opened(place / _LOCK)
    except OSError:
        return None
    try:
        _flock(lock, operation)
        if os.path.samestat(os.fstat(lock.fileno()), os.stat(place / _LOCK)):
            return lock
    except OSError:  # somebody uses it, or has just removed it
        pass
    lock.close()
    return None


def _opened(path: Path) -> IO[bytes]:
    try:
        return open(path, "r+b")  # network drives lock nothing that is open for reading alone
    except OSError:
        return open(path, "rb")  # a home that cannot be written


@contextmanager
def _one_at_a_time(what: str) -> Iterator[None]:
    """Entered by one process at a time, and by one thread, for the same ``what``."""
    with open(folder() / f".one-{what}", "wb") as lock:
        _flock(lock, fcntl.LOCK_EX)
        yield


def _flock(file: IO[bytes], operation: int) -> None:
    try:
        fcntl.flock(file, operation)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):  # some network drives know no locks
            raise


def _last_use(place: Path) -> float:
    try:
        return (place / _LOCK).stat().st_mtime
    except OSError:
        return 0.0


def _size(place: Path) -> int:
    with suppress(OSError):
        return sum(file.stat().st_size for file in place.iterdir())
    return 0
