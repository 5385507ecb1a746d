"""One picture becomes a vector, as the collection's pictures did.

What takes seconds (torch, the network) is loaded once, in a thread, while a child process decodes the picture. A file
may be hostile: no picture is decoded in this process.
"""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from image_similarity.collection import reading
from image_similarity.errors import JobFailed, Unreadable, WrongInput, counted
from image_similarity.fingerprints.spec import Fingerprint
from image_similarity.imaging.framing import Framed
from image_similarity.imaging.sandbox import IsolatedDecoders
from image_similarity.runtime import garbage
from image_similarity.settings import EmbeddingsSettings, HttpSettings
from image_similarity.stages.embeddings import published
from image_similarity.warehouse.snapshot import Snapshot

_CPU = "cpu"
_DECODERS = 2
"""Pictures that are decoded at a time, where several threads ask."""
_SAME_ALONE = ("float32", "tf32")
"""Precisions in which a picture alone has nearly the same vector as in a batch. Others round too coarsely for that."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A picture, as it was decoded and embedded."""

    content_sha256: str
    vector: NDArray[np.float32]
    """(d,)"""
    width: int
    """Of the whole picture, upright, in pixels."""
    height: int
    thumbprint: bytes
    """32 x 32 grey values, see `imaging.thumbprint`."""
    device: str
    """What computed the vector: ``cpu``, or the GPU's model."""


class Encoder:
    """Embeds one picture at a time by a published fingerprint. It may be used by several threads.

    ``weights``: fingerprint -> file or address, see `published.prepare_published`. Nothing is loaded before the first
    picture. Raises as `published.from_images` does.
    """

    def __init__(self, snapshot: Snapshot, fingerprint: str, weights: Mapping[str, str]):
        self._snapshot, self._fingerprint, self._weights = snapshot, fingerprint, weights
        self._origin = published.from_images(snapshot, fingerprint)
        self.settings = settings_of(snapshot, fingerprint)
        self._lock, self._one_at_a_time = threading.Lock(), threading.Lock()
        self._loading: Future[Loaded] | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether nothing more is read of the published state."""
        loading = self._loading
        return loading is not None and loading.done() and loading.exception() is None

    def look(self, content: bytes) -> Seen:
        """The vector of the picture in ``content``.

        Raises `Unreadable`, with a reason of ``failures``, if it has none; and as `published.prepare_published` does
        where the network cannot be loaded.
        """
        loading = self._load()
        framed = self._framed(content)
        loaded = self._result(loading)
        with self._one_at_a_time:
            vector = loaded.fingerprint(np.stack(framed.squares))[0]
        if not np.isfinite(vector).all():
            raise Unreadable("non_finite", f"{int((~np.isfinite(vector)).sum())} of {counted(len(vector), 'value')}")
        return Seen(
            hashlib.sha256(content).hexdigest(),
            vector,
            framed.width,
            framed.height,
            framed.thumbprints[0].tobytes(),
            loaded.device,
        )

    def _framed(self, content: bytes) -> Framed:
        try:
            return decoders(self.settings).framed(content, [self._origin.framing])
        except RuntimeError as error:  # of no file
            raise JobFailed(str(error)) from None

    def _load(self) -> "Future[Loaded]":
        """The fingerprint, which one thread loads. A second call is given the same one."""
        with self._lock:
            if self._loading is None:
                pool = ThreadPoolExecutor(1, "encoder")
                self._loading = pool.submit(self._loaded)
                pool.shutdown(wait=False)  # the thread ends when it is done
            return self._loading

    def _result(self, loading: "Future[Loaded]") -> "Loaded":
        try:
            return loading.result()
        except BaseException:
            with self._lock:
                if self._loading is loading:
                    self._loading = None  # the next query tries again: weights may be back
            raise

    def _loaded(self) -> "Loaded":
        with garbage.paused():
            return self._prepared()

    def _prepared(self) -> "Loaded":
        with reading.named_errors(self._snapshot):
            prepared = published.prepare_published(
                self._snapshot, self._fingerprint, None, HttpSettings(), self._weights
            )
        used = devices_of(self._snapshot, self._fingerprint)
        device = device_for(used) if prepared.spec.uses_torch else _CPU
        precision = getattr(self._origin.declared, "precision", "float32")
        fingerprint = prepared.load(device, batch=1 if precision in _SAME_ALONE else None)
        return Loaded(fingerprint, device if device == _CPU else _name_of(device))


@dataclass(frozen=True)
class Loaded:
    fingerprint: Fingerprint
    device: str


def device_for(collections: Sequence[str]) -> str:
    """The device for a query, as torch names it. ``collections``: what computed the published vectors.

    Where that was a GPU, a GPU is used if there is one. Else the processor: it needs less time for one picture than a
    GPU takes to start.
    """
    if all(name == _CPU for name in collections):
        return _CPU
    from image_similarity.runtime import devices

    try:
        return devices.of_process("auto")
    except JobFailed:  # it is in use, or broken: the answer says what computed the vector
        return _CPU


def _name_of(device: str) -> str:
    from image_similarity.runtime import devices

    return devices.name_of(device)


def devices_of(snapshot: Snapshot, fingerprint: str) -> list[str]:
    """What computed the published vectors, by the records of runs: ``cpu``, and names of GPUs."""
    origin = published.from_images(snapshot, fingerprint)
    runs = {*snapshot.run_ids("vectors", origin.record.settings.get("fingerprint_key")), origin.record.run_id}
    used = [snapshot.runs[run].counts.get("devices", {}) for run in runs if run in snapshot.runs]
    return sorted({str(name) for names in used for name in names})


def settings_of(snapshot: Snapshot, fingerprint: str) -> EmbeddingsSettings:
    """The limits that the collection's own pictures had. The defaults where they are not recorded."""
    try:
        recorded: Any = published.from_images(snapshot, fingerprint).record.settings.get("embeddings", {})
        known = {key: value for key, value in recorded.items() if key in EmbeddingsSettings.model_fields}
        return EmbeddingsSettings.model_validate(known)
    except (AttributeError, ValidationError, WrongInput):  # pictures that have their vectors are searched for anyway
        return EmbeddingsSettings()


def decoders(settings: EmbeddingsSettings) -> IsolatedDecoders:
    """The child processes that decode. They are shared, start when they are needed, and end with this process."""
    return _decoders(settings.max_pixels, settings.decode_bytes, settings.decode_seconds)


@cache
def _decoders(max_pixels: int, memory_bytes: int, seconds: float) -> IsolatedDecoders:
    return IsolatedDecoders(_DECODERS, max_pixels, memory_bytes, seconds)
