"""The few file operations that publishing needs: read, replace, delete, and one writer at a time.

`Files` is the interface. `filesystems.files_of` selects the implementation for a URI: `local`, `object_store` or
`hadoop`. Operations that fail raise ``OSError``.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

Change = Callable[[bytes | None], bytes]


class Files(Protocol):
    def read(self, path: str) -> bytes | None:
        """The content of ``path``; None if there is no such file."""

    def entries(self, path: str) -> list[str]:
        """The names of the files and folders in the folder ``path``; none if there is no such folder.

        ``NotADirectoryError`` if ``path`` is a file.
        """

    def write(self, path: str, content: bytes) -> None:
        """Replace ``path``, and create its folders. Readers see the old or the new content, never a part."""

    def sync(self, path: str) -> None:
        """Return when all files below the folder ``path`` would survive a loss of power."""

    def delete(self, path: str) -> None:
        """Remove the file ``path``, or the folder with everything in it, if there is one."""

    def delete_empty(self, path: str) -> None:
        """Remove the folder ``path`` if there is nothing in it."""

    def size(self, path: str) -> int:
        """Bytes of a file, or of all files below a folder; 0 if there is none."""

    def modified(self, path: str) -> float | None:
        """Modification time of a file, in seconds since 1970 by the store's clock; None if there is no such file."""

    def update(self, path: str, change: Change) -> None:
        """Replace the content of ``path`` by ``change(content)``, and lose no other writer's update.

        ``change`` receives None if there is no file. It may be called several times; the last call receives the content
        that is replaced. An exception of ``change`` ends the update. Nothing is written if nothing is changed.
        """

    def locked(self, path: str) -> AbstractContextManager[None]:
        """A context that one job at a time can enter, for changes of several files. ``path`` is the lock's.

        Except on local disks, a job that is stopped inside for more than a minute (a machine that sleeps, say) loses
        the lock. Then the context ends with an ``OSError``. An `update` needs no such exception.
        """
