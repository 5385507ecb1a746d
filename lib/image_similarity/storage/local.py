"""The operations of `image_similarity.storage.files` on a local disk."""

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from image_similarity.storage.files import Change


class LocalFiles:
    """Paths are local paths."""

    def read(self, path: str) -> bytes | None:
        try:
            return Path(path).read_bytes()
        except FileNotFoundError:
            return None

    def entries(self, path: str) -> list[str]:
        try:
            return os.listdir(path)
        except FileNotFoundError:
            return []

    def write(self, path: str, content: bytes) -> None:
        temporary, folder, existing = f"{path}.{secrets.token_hex(4)}.tmp", os.path.dirname(path), _existing(path)
        try:
            with _created(temporary) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync(folder)
            while len(folder) > len(existing):  # the names of new folders
                folder = os.path.dirname(folder)
                with suppress(PermissionError):  # a folder that may be written, and not listed
                    _sync(folder)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)  # frees space if the disk is full
            raise

    def sync(self, path: str) -> None:
        for folder, _, names in os.walk(path):
            for name in names:
                _sync(os.path.join(folder, name))
            _sync(folder)
        _sync(os.path.dirname(path))

    def delete(self, path: str) -> None:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            Path(path).unlink(missing_ok=True)

    def delete_empty(self, path: str) -> None:
        with suppress(OSError):  # it is not empty, or another job has removed it
            os.rmdir(path)

    def size(self, path: str) -> int:
        if os.path.isfile(path):
            return os.path.getsize(path)
        return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names)

    def modified(self, path: str) -> float | None:
        try:
            return os.stat(path).st_mtime
        except FileNotFoundError:
            return None

    def update(self, path: str, change: Change) -> None:
        with self.locked(os.path.join(os.path.dirname(path), "_lock")):
            content = self.read(path)
            changed = change(content)
            if changed != content:
                self.write(path, changed)

    @contextmanager
    def locked(self, path: str) -> Iterator[None]:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel releases it when the process dies
            yield


def _created(path: str) -> IO[bytes]:
    """A new file, with its folders. Another job may remove an empty folder at the same moment, see `delete_empty`."""
    for _ in range(5):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with suppress(FileNotFoundError):
            return open(path, "wb")
    return open(path, "wb")


def _existing(path: str) -> str:
    """The nearest folder above ``path`` that exists."""
    folder = os.path.dirname(path)
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return folder


def _sync(path: str) -> None:
    """Write what the system still holds of a file, or of the names in a folder. Not all file systems do so."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of folders, on network drives
            raise
    finally:
        os.close(descriptor)
