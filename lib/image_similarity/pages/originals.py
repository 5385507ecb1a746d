"""Small pictures of originals, for pages: read within limits, checked to be what was embedded, and made in child
processes, since a file from outside may be hostile.

The gallery has code of its own, which makes many in Spark's tasks.
"""

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

from image_similarity.errors import Unreadable, counted
from image_similarity.imaging.decoding import UNREADABLE_REASONS
from image_similarity.imaging.sandbox import IsolatedDecoders
from image_similarity.imaging.thumbnails import Thumbnails
from image_similarity.storage.budget import ByteBudget
from image_similarity.storage.fetch import FETCH_REASONS, fetched
from image_similarity.storage.http_connections import HttpOptions

UNKNOWN, CHANGED = "unknown", "changed"
REASONS: Mapping[str, str] = {
    **{reason: what.partition(" (")[0] for reason, what in {**FETCH_REASONS, **UNREADABLE_REASONS}.items()},
    "too_many_bytes": "the file is too large",
    "too_many_pixels": "the picture has too many pixels, tiles or blocks",
    UNKNOWN: "the manifest has no image of this id",
    CHANGED: "the file was replaced since it was embedded",
}
"""Reason of `Unreadable` -> why there is no picture, for people who look at pages: no setting is named."""

_READERS = 2
"""For each process: so many files are read while one is decoded."""
_MOST_SMALL, _MOST_LARGE = 2**20, 2**23
"""Bytes. A small file has about 20 KB; only a child process that was taken over makes larger ones."""

T = TypeVar("T")
U = TypeVar("U")


class Limits(Protocol):
    """What originals may take. ``[embeddings]`` of the settings documents it."""

    @property
    def max_bytes(self) -> int: ...
    @property
    def fetch_bytes(self) -> int: ...
    @property
    def read_seconds(self) -> float: ...
    @property
    def max_pixels(self) -> int: ...
    @property
    def decode_bytes(self) -> int: ...
    @property
    def decode_seconds(self) -> float: ...


@dataclass(frozen=True)
class Original:
    """Where a picture is, and what it was when it was embedded."""

    uri: str | None
    """None if nobody knows."""
    contents: frozenset[str] = frozenset()
    """The sha256 of what was embedded: several if fingerprints saw several versions, none if nobody knows."""

    @classmethod
    def of(cls, uri: str | None, content_sha256: str | None) -> "Original":
        return cls(uri, frozenset() if content_sha256 is None else frozenset([content_sha256]))


class Originals:
    """Makes small pictures; can be called from any thread. Its processes end with the context, or when it is closed.

    ``processes``: pictures that are made at a time. The files that its threads hold take ``limits.fetch_bytes``
    together.
    """

    def __init__(self, processes: int, limits: Limits, http: HttpOptions):
        readers = _READERS * processes
        self._limits, self._http, self._budget = limits, http, ByteBudget(limits.fetch_bytes, readers)
        self._decoders = IsolatedDecoders(processes, limits.max_pixels, limits.decode_bytes, limits.decode_seconds)
        self._readers = ThreadPoolExecutor(readers, "pictures")

    def __enter__(self) -> "Originals":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for pictures that are being made, and ends the processes."""
        try:
            self._readers.shutdown(cancel_futures=True)
        finally:
            self._decoders.close()

    def of(self, original: Original) -> Thumbnails:
        """Raises `Unreadable` with one of `REASONS`: ``changed`` for a file that is not what was embedded."""
        if original.uri is None:
            raise Unreadable(UNKNOWN)
        limits = self._limits
        with fetched(original.uri, self._budget, limits.max_bytes, self._http, limits.read_seconds) as content:
            if original.contents and hashlib.sha256(content).hexdigest() not in original.contents:
                raise Unreadable(CHANGED)
            return self.of_content(content)

    def of_content(self, content: bytes) -> Thumbnails:
        """Of the bytes of a file. Raises `Unreadable`."""
        thumbnails = self._decoders.thumbnails(content)
        for file, most in ((thumbnails.small, _MOST_SMALL), (thumbnails.large or b"", _MOST_LARGE)):
            if len(file) > most:
                raise Unreadable("decoder_crashed", f"a thumbnail of {counted(len(file), 'byte')}")
        return thumbnails

    def each(self, make: Callable[[T], U], wanted: Iterable[T]) -> Iterator[U]:
        """``make`` of each of ``wanted``, in their order, some at a time. It may call `of` and `of_content`."""
        return self._readers.map(make, wanted)


def words(error: Unreadable) -> str:
    """Why there is no picture: one of `REASONS`, or what else a table calls it."""
    return REASONS.get(error.reason, error.reason.replace("_", " "))


def data_address(thumbnails: Thumbnails) -> str:
    """The small file as a ``data:`` address, for pages that need no other file."""
    return f"data:image/webp;base64,{base64.b64encode(thumbnails.small).decode()}"
