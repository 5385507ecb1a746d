"""Compare-and-swap, and locks, on file systems that rename in one step.

The lock is a folder with one file, whose name is the holder's alone. The folder is prepared under another name and
renamed to its place, which fails where another one is. So one holder gets in, whoever else tries.

The file in the lock is the new content of the file that is replaced. Renaming it to its place publishes, and fails if
the lock was taken away, because then the file is gone. So a holder that was taken for dead by mistake does no harm: it
cannot publish any more, and begins again. No clock can do harm, either. Clocks decide only how long others wait.
"""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from image_similarity.storage import locks, uris
from image_similarity.storage.files import Change

LOCK = "_lock"


class Renames(Protocol):
    """What is needed of a file system. Each operation but `create` is one step, for all machines that see it."""

    def read(self, path: str) -> bytes | None:
        """The content of ``path``; None if there is no such file."""

    def entries(self, path: str) -> list[str]:
        """The names in the folder ``path``; none if there is no such folder. ``NotADirectoryError`` for a file."""

    def create(self, path: str, content: bytes) -> None:
        """Write a file, and create its folders. Nobody else knows its name yet."""

    def rename(self, source: str, target: str, overwrite: bool = False) -> bool:
        """Rename a file or folder. False, and nothing is changed, if ``source`` is gone or ``target`` exists.

        ``overwrite``: replace the file ``target``, if there is one.
        """

    def delete(self, path: str) -> None:
        """Remove the file ``path``, or the folder with everything in it, if there is one."""

    def delete_empty(self, path: str) -> None:
        """Remove the folder ``path`` if there is nothing in it."""


def update(files: Renames, path: str, change: Change) -> None:
    """`Files.update`. A publisher that dies in the middle holds up the others for a minute.

    Raises ``OSError`` after `locks.GIVE_UP_SECONDS`.
    """
    lock, patience, deadline = f"{uris.parent(path)}/{LOCK}", locks.Patience(), time.monotonic() + locks.GIVE_UP_SECONDS
    while time.monotonic() < deadline:
        _wait(files, lock, patience)
        old = files.read(path)
        new = change(old)
        if new == old:
            return
        holder = secrets.token_hex(8)
        if _acquire(files, lock, holder, new) and _replace(files, path, f"{lock}/{holder}", old, new):
            return
    raise OSError(
        f"{path} could not be replaced for {locks.GIVE_UP_SECONDS:.0f} s: does the file system rename in one step?"
    )


def _replace(files: Renames, path: str, source: str, old: bytes | None, new: bytes) -> bool:
    """Rename ``source``, in the lock, to ``path`` if that still is ``old``; end the lock. Whether it was renamed."""
    try:
        return files.read(path) == old and files.rename(source, path, overwrite=True)
    except OSError:
        files.delete(source)  # from now on a request that is still on its way cannot rename it
        if files.read(path) == new:
            return True  # only the answer was lost
        raise
    finally:
        _release(files, source)


@contextmanager
def locked(files: Renames, lock: str) -> Iterator[None]:
    """`Files.locked`. The holder renames its file every few seconds, as a sign of life.

    Raises ``OSError`` at the end if another job took the lock away meanwhile.
    """
    holder, patience = secrets.token_hex(8), locks.Patience()
    _wait(files, lock, patience)
    while not _acquire(files, lock, holder, b""):
        _wait(files, lock, patience)

    def name() -> str | None:
        return next((name for name in files.entries(lock) if name.startswith(holder)), None)

    def renew() -> None:
        if latest := name():
            files.rename(f"{lock}/{latest}", f"{lock}/{holder}.{secrets.token_hex(4)}")

    try:
        with locks.beating(renew, locks.BEAT_SECONDS, f"lock {lock}"):
            yield
        if name() is None:
            raise OSError(f"{lock}: {locks.LOST}")
    finally:
        with suppress(OSError):
            if latest := name():
                _release(files, f"{lock}/{latest}")


def _acquire(files: Renames, lock: str, holder: str, content: bytes) -> bool:
    """Make ``lock`` a folder with the file ``holder``. False if another holder has it."""
    prepared = f"{lock}.{secrets.token_hex(4)}.tmp"
    try:
        files.create(f"{prepared}/{holder}", content)
        if files.rename(prepared, lock):
            return True
    except BaseException:  # it may have been renamed, though an error came back
        with suppress(OSError):
            files.delete(prepared)
            _release(files, f"{lock}/{holder}")
        raise
    files.delete(prepared)
    return False


def _wait(files: Renames, lock: str, patience: locks.Patience) -> None:
    """Return when ``lock`` is free, or its dead holder was removed."""
    while holders := _holders(files, lock):
        if patience.ends(holders):
            for holder in holders:
                _release(files, f"{lock}/{holder}")
            return
        locks.pause()
    files.delete_empty(lock)  # its holder has published, and died or is about to do this. Fails if a new one has come


def _holders(files: Renames, lock: str) -> list[str]:
    try:
        return files.entries(lock)
    except NotADirectoryError:  # a lock of an older version was a file
        return [""]


def _release(files: Renames, source: str) -> None:
    """Remove the file ``source`` and the lock that it is in. An error costs others a minute, and is no failure."""
    with suppress(OSError):
        files.delete(source.rstrip("/"))
        files.delete_empty(uris.parent(source))
