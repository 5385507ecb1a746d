"""The small pictures of a report: taken from a gallery where it has them, or made by this process."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from image_similarity.errors import Unreadable
from image_similarity.imaging import thumbnails
from image_similarity.pages import originals
from image_similarity.pages.originals import Original, Originals
from image_similarity.runtime.progress import progress
from image_similarity.settings import Settings
from image_similarity.storage import blobs

FOLDER = "pictures"
"""Below the rendering."""


@dataclass(frozen=True)
class Wanted:
    """A picture to show. ``name``: of its file."""

    name: str
    original: Original
    in_gallery: str | None = None
    """The small file that a gallery may have of it."""


@dataclass(frozen=True)
class Picture:
    """``path``: below the rendering; None where there is none, for the ``reason``, in words. Width and height in
    pixels.
    """

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
    pictures = dict[str, Picture]()
    with (
        progress(session, "pictures", len(distinct), "pictures", 1, lambda: len(pictures) / max(1, len(distinct))),
        Originals(processes, settings.embeddings, settings.http) as opened,
    ):
        for name, picture in zip(distinct, opened.each(lambda one: _one(one, folder, opened), distinct.values())):
            pictures[name] = picture
    return pictures


def _one(wanted: Wanted, folder: str, opened: Originals) -> Picture:
    try:
        small, size = _of_gallery(wanted) or _made(wanted, opened)
    except Unreadable as error:
        return Picture(None, reason=originals.words(error))
    path = f"{FOLDER}/{wanted.name[:2]}/{wanted.name}.webp"
    blobs.write(f"{folder}/{path}", small, "image/webp")
    return Picture(path, *size)


def _of_gallery(wanted: Wanted) -> tuple[bytes, tuple[int, int]] | None:
    """The gallery's own file, with its width and height; None where it has none, or a damaged one."""
    if wanted.in_gallery is None:
        return None
    try:
        small = blobs.read(wanted.in_gallery)
        return small, thumbnails.size_of(small)
    except (OSError, ValueError):
        return None


def _made(wanted: Wanted, opened: Originals) -> tuple[bytes, tuple[int, int]]:
    thumbnails = opened.of(wanted.original)
    return thumbnails.small, thumbnails.small_size
