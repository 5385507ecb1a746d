"""Small pictures within a page. They are made of the originals, in child processes: images are not trusted."""

import base64
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from image_similarity.errors import Unreadable
from image_similarity.imaging import thumbnails
from image_similarity.imaging.sandbox import IsolatedDecoders
from image_similarity.settings import EmbeddingsSettings, HttpSettings
from image_similarity.storage import fetch
from image_similarity.storage.budget import ByteBudget

_FETCHERS = 8
_MOST_DECODERS = 4


@dataclass(frozen=True)
class Picture:
    source: str | None
    """A ``data:`` address; None if there is no picture."""
    width: int = 0
    """In pixels; 0 if there is no picture."""
    height: int = 0
    reason: str = ""
    """Why there is no picture, in words."""


class Pictures:
    """Makes small pictures. An original that several answers have is read once."""

    def __init__(self, decoders: IsolatedDecoders, pool: ThreadPoolExecutor, limits: EmbeddingsSettings):
        self._decoders, self._pool, self._limits = decoders, pool, limits
        self._budget = ByteBudget(limits.fetch_bytes, _FETCHERS)
        self._made: dict[str | None, Picture] = {None: Picture(None, reason="not in the manifest")}

    def of_content(self, content: bytes) -> Picture:
        try:
            made = self._decoders.thumbnails(content)
        except Unreadable as error:
            return Picture(None, reason=error.reason.replace("_", " "))
        shrunk = min(1.0, thumbnails.SMALL / max(made.width, made.height))
        source = f"data:image/webp;base64,{base64.b64encode(made.small).decode()}"
        return Picture(source, max(1, round(made.width * shrunk)), max(1, round(made.height * shrunk)))

    def of_originals(self, uris: Iterable[str | None]) -> Mapping[str | None, Picture]:
        """At least those of ``uris``, by uri. None stands for an original that nobody knows the place of."""
        new = list({uri for uri in uris if uri is not None} - self._made.keys())
        self._made.update(zip(new, self._pool.map(self._of_original, new)))
        return self._made

    def _of_original(self, uri: str) -> Picture:
        limits = self._limits
        try:
            with fetch.fetched(uri, self._budget, limits.max_bytes, HttpSettings(), limits.read_seconds) as content:
                return self.of_content(content)
        except Unreadable as error:
            return Picture(None, reason=error.reason.replace("_", " "))


@contextmanager
def opened(limits: EmbeddingsSettings) -> Iterator[Pictures]:
    """`Pictures`, whose child processes end with the context."""
    processes = min(_MOST_DECODERS, os.cpu_count() or 1)
    with (
        IsolatedDecoders(processes, limits.max_pixels, limits.decode_bytes, limits.decode_seconds) as decoders,
        ThreadPoolExecutor(_FETCHERS, "pictures") as pool,
    ):
        yield Pictures(decoders, pool, limits)
