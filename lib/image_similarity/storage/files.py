"""The few file operations that publishing needs: read, replace, delete, and one writer at a time.

`Files` is the interface. `filesystems.files_of` picks what serves a URI: `local`, `object_store` or `hadoop`. All raise
``OSError`` when something cannot be done.
"""

from collections.abc import Callable
from typing import Any, Protocol

from image_similarity.storage import uris

LOCK_SECONDS = 60
"""A lock older than this belongs to a holder that died: what is done under one takes a second."""

Change = Callable[[bytes | None], bytes]


class Files(Protocol):
    def read(self, path: str) -> bytes | None:
        """The content of ``path``; None if there is no such file."""

    def entries(self, path: str) -> list[str]:
        """The names of what is in the folder ``path``; none if there is no such folder. ``NotADirectoryError`` for a
        file."""

    def write(self, path: str, content: bytes) -> None:
        """Replace ``path``, and create its folders; readers see the old content or the new, never a part."""

    def delete(self, path: str) -> None:
        """Remove a file or a folder with all that is in it; nothing happens if there is none."""

    def size(self, path: str) -> int:
        """Bytes of a file, or of all files in a folder; 0 if there is none."""

    def modified(self, path: str) -> float | None:
        """When the file was written, in seconds by the store's own clock; None if there is no such file."""

    def update(self, path: str, change: Change) -> None:
        """Replace what ``path`` holds by what ``change`` makes of it (None: there is no file), and lose nobody else's
        update.

        ``change`` may be called several times, the last time with what is really replaced; what it raises ends the
        update."""

    def locked(self, path: str) -> Any:
        """A context in which no other publisher is, by means of the file ``path``."""


class UpdatesUnderLock:
    """`Files.update` where a lock is what keeps others out."""

    def update(self: Any, path: str, change: Change) -> None:
        with self.locked(f"{uris.parent(path)}/_lock"):
            self.write(path, change(self.read(path)))
