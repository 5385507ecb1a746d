"""Small files of pictures: the gallery's, or made here of the original."""

import threading
from collections import OrderedDict
from pathlib import Path

from image_similarity.imaging.thumbnails import Thumbnails
from image_similarity.pages import paths
from image_similarity.pages.originals import Original, Originals
from image_similarity.pages.paths import LARGE, SMALL
from image_similarity.settings.sections import EmbeddingsSettings, HttpSettings

SIZES = (SMALL, LARGE)
MOST_BYTES = 64 << 20
"""Of pictures that are kept in memory."""
_PROCESSES = 2
_DECODE_SECONDS = 30.0
"""A person waits."""


class Pictures:
    """Can be called from any thread. ``gallery``: a folder, if there is one. Close it, which ends its processes."""

    def __init__(self, gallery: Path | None, embeddings: EmbeddingsSettings, http: HttpSettings):
        self._gallery = gallery
        self._kept: "OrderedDict[tuple[str, str], bytes]" = OrderedDict()
        self._bytes, self._lock = 0, threading.Lock()
        seconds = min(_DECODE_SECONDS, embeddings.decode_seconds)
        self._originals = Originals(_PROCESSES, embeddings.model_copy(update={"decode_seconds": seconds}), http)

    def close(self) -> None:
        self._originals.close()

    def of_query(self, content: bytes) -> Thumbnails:
        """The small files of a picture that was sent. They are not kept. Raises `Unreadable`."""
        return self._originals.of_content(content)

    def of(self, original: Original, size: str) -> bytes:
        """A WebP file of a picture of the collection; ``size``: one of `SIZES`. Raises `Unreadable`."""
        name = paths.picture_name(min(original.contents, default=None), original.uri, None)
        content = self._of_gallery(name, size) or self._of_memory((name, size))
        return content if content is not None else self._made(original, name, size)

    def _of_gallery(self, name: str, size: str) -> bytes | None:
        if self._gallery is None:
            return None
        for each in dict.fromkeys((size, SMALL)):  # of a small picture there is no large file
            try:
                return (self._gallery / paths.picture_path(name, each)).read_bytes()
            except OSError:
                pass
        return None

    def _of_memory(self, key: tuple[str, str]) -> bytes | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _made(self, original: Original, name: str, size: str) -> bytes:
        thumbnails = self._originals.of(original)
        both = {SMALL: thumbnails.small, LARGE: thumbnails.large or thumbnails.small}
        for each in SIZES:
            self._keep((name, each), both[each])
        return both[size]

    def _keep(self, key: tuple[str, str], content: bytes) -> None:
        with self._lock:
            self._bytes += len(content) - len(self._kept.pop(key, b""))
            self._kept[key] = content
            while self._bytes > MOST_BYTES:
                self._bytes -= len(self._kept.popitem(last=False)[1])
