"""What is searched for: the bytes of a picture, an image of the collection, or a vector."""

import hashlib
import os
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_similarity.collection.vectors import Store
from image_similarity.errors import JobFailed, Unreadable, WrongInput, counted, did_you_mean, near_files, what_is
from image_similarity.redaction import redacted
from image_similarity.settings import EmbeddingsSettings, HttpSettings
from image_similarity.storage import fetch, uris

_OF_THE_PLACE = ("timeout", "io_error", "incomplete", "rate_limited", "server_error")
"""Reasons that may be gone at the next try. All others are about the picture or its name."""
_MOST_NAMES = 10_000
"""Ids that are looked through for near ones. More take seconds."""
_KINDS = "a path, an address, the bytes of a file, a PIL image, or a vector"


@dataclass(frozen=True)
class Picture:
    content: bytes
    name: str
    """For messages."""

    @property
    def content_sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Member:
    """An image of the collection."""

    image_id: str
    row: int


@dataclass(frozen=True, eq=False)
class Vector:
    values: NDArray[np.float32]
    """(d,)"""


Query = Picture | Member | Vector


def understood(query: Any, image_id: str | None, store: Store, settings: EmbeddingsSettings) -> Query:
    """What ``query`` or ``image_id`` means. Of a picture no more than ``settings.max_bytes`` are read.

    Raises ``WrongInput`` for nothing, for both, for a text that is an image here as well as a file, for a file that
    cannot be read, and for a vector of another length; ``JobFailed`` for an address that does not answer.
    """
    if (query is None) == (image_id is None):
        raise WrongInput(f"search takes one query: {_KINDS}; or image_id=, an image of the collection")
    if image_id is not None:
        return _member(image_id, store)
    if isinstance(query, str):
        return _text(query, store, settings)
    if isinstance(query, os.PathLike):
        return _file(os.fsdecode(query), settings)
    if isinstance(query, (bytes, bytearray, memoryview)):
        return _bytes(bytes(query), settings)
    if type(query).__module__.partition(".")[0] == "PIL":
        return Picture(_as_png(query), "the image")
    return _vector(query, store)


def refused(name: str, fault: Unreadable) -> JobFailed:
    """The error for the picture ``name``, in the words of ``failures``."""
    detail = f": {fault.detail}" if fault.detail else ""
    kind = JobFailed if fault.reason in _OF_THE_PLACE else WrongInput
    return kind(f"{name}: {fault.reason}{detail}", reason=fault.reason, detail=fault.detail)


def without_settings(fault: Unreadable, instead: str) -> Unreadable:
    """``fault``; if a setting of jobs would allow it, which whoever asks here has not, in words that say what to give.

    ``instead``: of the address.
    """
    if fault.reason != "private_address":
        return fault
    detail = f"the host is not on the public internet: fetch the picture yourself, and give {instead}"
    return Unreadable(fault.reason, detail)


# -- images of the collection ------------------------------------------------------------------------------------------


def _member(image_id: Any, store: Store) -> Member:
    if not isinstance(image_id, str):
        raise WrongInput(f"image_id is a text, not {image_id!r}")
    row = store.row_of(image_id)
    if row is None:
        raise WrongInput(f"no image {image_id!r} has a vector here{_near_ids(image_id, store)}")
    return Member(image_id, row)


def _near_ids(image_id: str, store: Store) -> str:
    return did_you_mean(image_id, store.ids.to_pylist()) if len(store) <= _MOST_NAMES else ""


# -- files and addresses -----------------------------------------------------------------------------------------------


def _text(query: str, store: Store, settings: EmbeddingsSettings) -> Query:
    """The file or address ``query``; or the image of the collection that has this id."""
    row = store.row_of(query)
    if not uris.is_local(query):
        return Member(query, row) if row is not None else _address(query, settings)
    path = _path(query)
    is_there = bool(query) and os.path.lexists(path)
    if row is not None and is_there:
        raise WrongInput(
            f"{query!r} is an image of the collection, and a file here: write image_id={query!r} or "
            f"pathlib.Path({query!r})"
        )
    if row is not None:
        return Member(query, row)
    if not is_there:
        files, images = near_files(path), _near_ids(query, store)
        near = files if "did you mean" in files else images or files
        raise WrongInput(f"{query!r} is neither a file here nor an image of the collection{near}")
    return _file(query, settings)


def _path(name: str) -> str:
    return uris.absolute(os.path.expanduser(name))


def _file(name: str, settings: EmbeddingsSettings) -> Picture:
    path = _path(name)
    try:
        if (kind := what_is(path)) != "a file":
            more = "; search_images.py takes many pictures" if kind == "a folder" else ""
            raise WrongInput(f"{name}: this is {kind}: name the file of a picture{more}")
        size = os.stat(path).st_size
    except FileNotFoundError:
        raise WrongInput(f"{name}: no such file{near_files(path)}") from None
    except OSError as error:
        raise WrongInput(f"{name}: {error.strerror}") from None
    if size > settings.max_bytes:
        raise refused(name, _too_many_bytes(size, settings))
    return _fetched(path, name, settings)


def _address(address: str, settings: EmbeddingsSettings) -> Picture:
    shown = redacted(address)
    try:
        address.encode()
    except UnicodeEncodeError:
        raise WrongInput(f"{shown!r}: this address has bytes that are no UTF-8: write them as %XX") from None
    return _fetched(address, shown, settings)


def _fetched(uri: str, name: str, settings: EmbeddingsSettings) -> Picture:
    try:
        return Picture(fetch.fetch(uri, settings.max_bytes, HttpSettings(), settings.read_seconds), name)
    except Unreadable as fault:
        raise refused(name, without_settings(fault, "its file or its bytes")) from None


def _bytes(content: bytes, settings: EmbeddingsSettings) -> Picture:
    name = f"the picture ({counted(len(content), 'byte')})"
    if len(content) > settings.max_bytes:
        raise refused(name, _too_many_bytes(len(content), settings))
    return Picture(content, name)


def _too_many_bytes(size: int, settings: EmbeddingsSettings) -> Unreadable:
    return Unreadable("too_many_bytes", f"{counted(size, 'byte')}, more than {settings.max_bytes:,}")


def _as_png(image: Any) -> bytes:
    """A PIL image as the bytes of a file, upright. It is the caller's own: this process may decode it."""
    from PIL import ImageOps

    from image_similarity.imaging import decoding

    try:
        with decoding.as_unreadable():
            content = BytesIO()
            decoding.to_rgb(ImageOps.exif_transpose(image)).save(content, "PNG", compress_level=1)
            return content.getvalue()
    except Unreadable as fault:
        raise refused("the image", fault) from None


# -- vectors -----------------------------------------------------------------------------------------------------------


def _vector(query: Any, store: Store) -> Vector:
    try:
        # A tensor may be on a GPU, or be the output of a network that is being trained.
        given = np.asarray(query.detach().cpu() if hasattr(query, "detach") else query)
    except (ValueError, TypeError, RuntimeError):  # lists of several lengths
        given = np.empty(1, object)
    if given.dtype.kind not in "fiu" or not given.ndim:
        raise WrongInput(f"a query is {_KINDS}, not {type(query).__name__}")
    if given.ndim != 1:
        raise WrongInput(
            f"a query is one vector of {counted(store.dimensions, 'number')}, not an array of shape {given.shape}"
        )
    if len(given) != store.dimensions:
        raise WrongInput(f"the vector has {counted(len(given), 'value')}, those of the collection {store.dimensions:,}")
    with np.errstate(over="ignore"):  # what float32 does not hold is told below
        values = np.ascontiguousarray(given, np.float32)
    if not np.isfinite(values).all():
        wrong = int((~np.isfinite(values)).sum())
        raise refused("the vector", Unreadable("non_finite", f"{wrong:,} of {counted(len(values), 'value')}"))
    return Vector(values)
