"""The small pictures of a report: taken from a gallery where it has them, or made by this process.

Files are decoded in child processes with limits, as files from outside may be hostile.
"""

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from image_similarity.errors import Unreadable
from image_similarity.imaging import thumbnails
from image_similarity.imaging.sandbox import IsolatedDecoders
from image_similarity.runtime.progress import progress
from image_similarity.settings import Settings
from image_similarity.storage import blobs, fetch
from image_similarity.storage.budget import ByteBudget

FOLDER = "pictures"
"""Below the rendering."""


@dataclass(frozen=True)
class Wanted:
    """A picture to show. ``name``: of its file."""

    name: str
    uri: str | None
    """None for a vector of one's own."""
    in_gallery: str | None = None
    """The small file that a gallery may have of it."""


@dataclass(frozen=True)
class Picture:
    """``path``: below the rendering; None where there is none, for the ``reason``. Width and height in pixels."""

    path: str | None
    width: int = 0
    height: int = 0
    reason: str = ""


def name_of(kind: str, id_: str) -> str:
    """The name of the file of a query's or an image's picture, whatever characters the id has."""
    return hashlib.sha256(f"{kind}/{id_}".encode()).hexdigest()[:32]


def make(
    session: Any, wanted: Iterable[Wanted], folder: str, settings: Settings, processes: int
) -> Mapping[str, Picture]:
    """Writes the pictures below ``folder``, each once: name -> `Picture`. ``session`` only names the work."""
    distinct = {one.name: one for one in wanted}
    embeddings, made = settings.embeddings, dict[str, Picture]()
    limits = embeddings.max_pixels, embeddings.decode_bytes, embeddings.decode_seconds
    threads = 2 * processes
    budget = ByteBudget(embeddings.fetch_bytes, threads)
    with (
        progress(session, "pictures", len(distinct), "pictures", 1, lambda: len(made) / max(1, len(distinct))),
        IsolatedDecoders(processes, *limits) as decoders,
        ThreadPoolExecutor(threads, "pictures") as pool,
    ):
        for name, picture in pool.map(lambda one: _one(one, folder, settings, decoders, budget), distinct.values()):
            made[name] = picture
    return made


def _one(
    wanted: Wanted, folder: str, settings: Settings, decoders: IsolatedDecoders, budget: ByteBudget
) -> tuple[str, Picture]:
    try:
        small = _of_gallery(wanted) or _small(wanted, settings, decoders, budget)
    except Unreadable as error:
        return wanted.name, Picture(None, reason=error.reason)
    path = f"{FOLDER}/{wanted.name[:2]}/{wanted.name}.webp"
    blobs.write(f"{folder}/{path}", small, "image/webp")
    return wanted.name, Picture(path, *thumbnails.size_of(small))


def _of_gallery(wanted: Wanted) -> bytes | None:
    """The gallery's own file; None where it has none, or a damaged one."""
    if wanted.in_gallery is None:
        return None
    try:
        small = blobs.read(wanted.in_gallery)
        thumbnails.size_of(small)
    except (OSError, ValueError):
        return None
    return small


def _small(wanted: Wanted, settings: Settings, decoders: IsolatedDecoders, budget: ByteBudget) -> bytes:
    if wanted.uri is None:
        raise Unreadable("no_picture")
    embeddings = settings.embeddings
    with fetch.fetched(wanted.uri, budget, embeddings.max_bytes, settings.http, embeddings.read_seconds) as content:
        return decoders.thumbnails(content).small
