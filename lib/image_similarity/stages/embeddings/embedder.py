"""A task's work: threads fetch and decode each image once, ahead of the fingerprints that embed it. No Spark."""

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from image_similarity.errors import Unreadable, counted
from image_similarity.fingerprints.spec import Fingerprint, FingerprintSpec, WithLogits
from image_similarity.imaging import decoding, framing
from image_similarity.imaging.framing import Framed, Framing
from image_similarity.imaging.sandbox import IsolatedDecoders
from image_similarity.runtime import devices, watchdog
from image_similarity.runtime.devices import CPU, Devices
from image_similarity.settings import EmbeddingsSettings, HttpSettings
from image_similarity.stages.embeddings.checkpoints import (
    CheckpointWriter,
    ImageScores,
    MeasurementWriter,
    VectorSource,
)
from image_similarity.stages.embeddings.kept_classes import image_scores
from image_similarity.stages.embeddings.known import KnownContents
from image_similarity.storage import fetch
from image_similarity.storage.budget import ByteBudget

Results = dict[str, list[Any]]
"""The outcomes of some images, as columns: content_sha256, why it is unreadable (reason, detail), and by fingerprint
the device that embedded it (embedded_on) or why its vector was refused (refused)."""

NON_FINITE = "non_finite"

_FIRST_BATCH = 16
UNKNOWN_SIZE = -1


class Shared(Protocol):
    """A broadcast of Spark's."""

    @property
    def value(self) -> KnownContents: ...


@dataclass(frozen=True)
class Work:
    """One fingerprint, as it is sent to tasks. All values are small; the known contents are broadcast."""

    spec: FingerprintSpec
    file: str | None
    """The file that the driver shipped for it."""
    folder: str
    """Where its checkpoints are written."""
    known: KnownContents | Shared | None
    """Contents whose vectors exist already."""
    classifier: str | None = None
    """The key of the classifier whose most probable classes are kept with each vector; None if none are kept."""


@dataclass(frozen=True)
class Measuring:
    """What tasks measure of each picture that they decode, as it is sent to them."""

    folder: str
    """Where checkpoints of measurements are written."""
    known: KnownContents | Shared | None
    """Contents that are measured already."""


@dataclass(frozen=True)
class Attempt:
    """One attempt of a task. The numbers are those in the names of its checkpoints."""

    partition: int
    number: int
    is_retry: bool
    """Whether the task was tried before. Its worker may have died of a hostile file."""


_fingerprints: dict[tuple[FingerprintSpec, str | None, str, str | None], Fingerprint] = {}


@dataclass
class Loaded:
    """A fingerprint in a task, with its known contents and its checkpoints."""

    fingerprint: Fingerprint
    known: KnownContents | None
    writer: CheckpointWriter
    done: set[str] = field(default_factory=set)
    """Contents that this task has embedded, or that an earlier attempt of it has checkpointed."""
    refused: dict[str, str] = field(default_factory=dict)
    """Contents whose vectors are not finite, and the detail of the failure."""
    device: str = CPU
    """The device that it computes on, as named by `devices.name_of`."""
    keeps_classes: bool = False

    def vectors_of(self, pictures: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """(n, crop, crop, 3) uint8 -> (n, d) float32, and logits (n, c) float32 where classes are kept."""
        if not self.keeps_classes:
            return self.fingerprint(pictures), None
        return cast(WithLogits, self.fingerprint).with_logits(pictures)

    def knows(self, content_sha256: str) -> bool:
        return content_sha256 in self.done or (self.known is not None and content_sha256 in self.known)


@dataclass
class Measurer:
    """In a task: what is measured already, and the checkpoints of what it measures."""

    known: KnownContents | None
    writer: MeasurementWriter
    done: set[str] = field(default_factory=set)
    """Contents that this task has measured, or that an earlier attempt of it has checkpointed."""

    def knows(self, content_sha256: str) -> bool:
        return content_sha256 in self.done or (self.known is not None and content_sha256 in self.known)

    def add(self, images: "Sequence[_Image]") -> None:
        """What was measured of ``images``: each content once."""
        first_of = {str(image.content_sha256): image for image in reversed(images) if image.measured is not None}
        new = {content: image.measured for content, image in first_of.items() if content not in self.done}
        self.done.update(new)
        self.writer.add((content, *measured) for content, measured in new.items() if measured is not None)


def load(
    work: Sequence[Work],
    device: str,
    settings: EmbeddingsSettings,
    started: float,
    attempt: Attempt,
    opened: Callable[[str], str] = str,
) -> list[Loaded]:
    """The fingerprints of ``work`` for a task that computes on ``device``.

    ``started``: when the job began, in seconds since 1970. ``opened``: the name of a file in `Work` -> its path here.
    """
    used_devices = [device if item.spec.uses_torch else CPU for item in work]
    fingerprints = _fingerprints_for(list(zip(work, used_devices)), opened)
    return [
        _loaded(item, fingerprint, used_device, settings, started, attempt)
        for item, fingerprint, used_device in zip(work, fingerprints, used_devices)
    ]


def measurer_of(
    measuring: Measuring | None,
    loaded: Sequence[Loaded],
    settings: EmbeddingsSettings,
    started: float,
    attempt: Attempt,
) -> Measurer | None:
    """What measures the pictures of a task, if anything does. It writes checkpoints before those of ``loaded``."""
    if measuring is None:
        return None
    writer = MeasurementWriter(measuring.folder, attempt.partition, attempt.number, started, settings.save_seconds)
    for item in loaded:
        item.writer.before_each = writer.write
    done = set(writer.earlier_contents()) if attempt.is_retry else set()
    return Measurer(_value_of(measuring.known), writer, done)


def _value_of(known: KnownContents | Shared | None) -> KnownContents | None:
    return known if known is None or isinstance(known, KnownContents) else known.value


def _fingerprints_for(pairs: Sequence[tuple[Work, str]], opened: Callable[[str], str] = str) -> list[Fingerprint]:
    """The loaded fingerprints of ``pairs`` of work and device, in that order.

    Workers are reused, and so are their loaded fingerprints. Those of another job or device are released first.
    """
    # The spec and not its key: programs of one key may differ in what their outputs are, so what is loaded differs.
    names = [(item.spec, item.file, device, item.classifier) for item, device in pairs]
    unused = _fingerprints.keys() - names
    for name in unused:
        del _fingerprints[name]
    if unused:
        devices.release()
    for name, (item, device) in zip(names, pairs):
        if name not in _fingerprints:
            file = opened(item.file) if item.file is not None else None
            _fingerprints[name] = item.spec.load(file, device, logits=item.classifier is not None)
    return [_fingerprints[name] for name in names]


def _loaded(
    work: Work, fingerprint: Fingerprint, device: str, settings: EmbeddingsSettings, started: float, attempt: Attempt
) -> Loaded:
    writer = CheckpointWriter(
        work.folder,
        work.spec.key,
        attempt.partition,
        attempt.number,
        started,
        settings.save_seconds,
        work.classifier,
    )
    done = set(writer.earlier_contents()) if attempt.is_retry else set()
    name = devices.name_of(device)
    keeps_classes = work.classifier is not None
    return Loaded(fingerprint, _value_of(work.known), writer, done, device=name, keeps_classes=keeps_classes)


@contextmanager
def isolated(
    loaded: Sequence[Loaded], available: Devices, settings: EmbeddingsSettings, is_retry: bool
) -> Iterator[IsolatedDecoders | None]:
    """Child processes that decode; None if the threads of this process do.

    Child processes, if this task was tried before: a file may have killed the first worker. And if a GPU computes,
    which takes more pictures a second than the threads of one Python process decode. Those children then go on with the
    worker's next task.
    """
    limits = settings.max_pixels, settings.decode_bytes, settings.decode_seconds
    if is_retry:
        with IsolatedDecoders(settings.decode_threads_on_cpu, *limits) as decoders:
            yield decoders
    elif any(item.device != CPU for item in loaded):
        yield _decoders_of_worker(settings.decode_threads or available.cores_of_task(), *limits)
    else:
        yield None


@lru_cache(maxsize=1)
def _decoders_of_worker(*limits: Any) -> IsolatedDecoders:
    return IsolatedDecoders(*limits)


@dataclass(frozen=True)
class Row:
    image_id: str
    uri: str
    source_version: str | None
    needed_by: int
    size_bytes: int = UNKNOWN_SIZE
    """As the manifest says: a file may have changed since, and a server may say what it likes."""


@dataclass
class _Image:
    """One image on its way through the task."""

    row: Row
    content_sha256: str | None = None
    width: int = 0
    height: int = 0
    pixels: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    """By the number of the fingerprint: the framed pixels, for those that still have to embed the image."""
    thumbprints: dict[int, bytes] = field(default_factory=dict)
    """By the number of the fingerprint: the thumbprint, for the same."""
    embedded_on: dict[int, str] = field(default_factory=dict)
    """By the number of the fingerprint: the device that embedded the image."""
    measured: tuple[Any, ...] | None = None
    """Width, height, size_bytes, format and `quality.MEASURES`, for pictures that were measured."""
    reason: str | None = None
    detail: str | None = None


class Embedder:
    """Rows -> results, in order. Threads fetch and decode ahead of the fingerprints."""

    def __init__(
        self,
        loaded: Sequence[Loaded],
        settings: EmbeddingsSettings,
        http: HttpSettings = HttpSettings(),
        isolated: IsolatedDecoders | None = None,
        measurer: Measurer | None = None,
    ):
        self._measurer = measurer
        self._loaded, self._settings, self._http, self._isolated = list(loaded), settings, http, isolated
        self._batch_size = max(item.fingerprint.batch for item in loaded)
        self._decode_threads = settings.decode_threads_on_cpu if isolated is None else isolated.processes
        self._fetching = threading.Semaphore(settings.fetch_threads)
        self._decoding = threading.Semaphore(self._decode_threads)
        self._budget = ByteBudget(settings.fetch_bytes, settings.fetch_threads)
        decoding.prepare_process(settings.max_pixels)

    def results(self, rows: Iterator[Row]) -> Iterator[Results]:
        batch: list[_Image] = []
        to_embed = 0
        # The first batches are smaller, because everything waits for them.
        full = min(self._batch_size, max(_FIRST_BATCH, self._batch_size // 4))
        for image in self._read_ahead(rows):
            batch.append(image)
            to_embed += bool(image.pixels)
            if to_embed == full or len(batch) == 16 * self._batch_size:
                yield self._finished(batch)
                batch, to_embed, full = [], 0, min(2 * full, self._batch_size)
        if batch:
            yield self._finished(batch)
        if self._measurer is not None:
            self._measurer.writer.write()
        for loaded in self._loaded:
            loaded.writer.write()

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read_ahead(self, rows: Iterator[Row]) -> Iterator[_Image]:
        """Images in the order of ``rows``. At most two batches wait, besides the images that are being fetched."""
        waiting: deque[Future[_Image]] = deque()
        threads = self._settings.fetch_threads + self._decode_threads
        ahead = 2 * self._batch_size + threads
        pool = ThreadPoolExecutor(threads, "pictures")
        try:
            for row in rows:
                waiting.append(pool.submit(self._read, row))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)  # after an error nobody needs the images that wait

    def _read(self, row: Row) -> _Image:
        image = _Image(row)
        try:
            self._take_in(image)
        except Unreadable as error:
            image.reason, image.detail = error.reason, error.detail
        return image

    def _take_in(self, image: _Image) -> None:
        """Fetches and decodes ``image``. Its bytes are held as long as that takes."""
        settings = self._settings
        expected = None if image.row.size_bytes == UNKNOWN_SIZE else image.row.size_bytes
        source = image.row.uri, self._budget, settings.max_bytes, self._http, settings.read_seconds, expected
        with ExitStack() as held:
            with self._fetching:
                content = held.enter_context(fetch.fetched(*source))
            image.content_sha256 = hashlib.sha256(content).hexdigest()
            self._decode(image, content)

    def _decode(self, image: _Image, content: bytes) -> None:
        """Decodes ``content`` for the fingerprints that need it, frames it for each, and measures it if nobody has."""
        digest = str(image.content_sha256)
        wanted = [number for number in range(len(self._loaded)) if image.row.needed_by >> number & 1]
        needed = [number for number in wanted if not self._loaded[number].knows(digest)]
        measured = self._measurer is not None and not self._measurer.knows(digest)
        if not needed and not measured:
            return
        try:
            with self._decoding:
                framed = self._framed(
                    content, [self._loaded[number].fingerprint.framing for number in needed], measured
                )
        except Unreadable:
            if needed:
                raise
            return  # its vectors are there, which an earlier version made: that it cannot be measured is no failure
        image.width, image.height = framed.width, framed.height
        image.pixels = dict(zip(needed, framed.squares))
        image.thumbprints = {number: made.tobytes() for number, made in zip(needed, framed.thumbprints)}
        if framed.measures is not None:
            image.measured = (framed.width, framed.height, len(content), framed.format, *framed.measures)

    def _framed(self, content: bytes, framings: Sequence[Framing], measured: bool) -> Framed:
        if self._isolated is not None:
            return self._isolated.framed(content, framings, measured)
        bounded = watchdog.watched(self._settings.decode_seconds, framing.framed)
        return bounded(content, framings, self._settings.max_pixels, measured=measured)

    # -- embedding -----------------------------------------------------------------------------------------------------

    def _finished(self, batch: list[_Image]) -> Results:
        """Embeds the images of ``batch`` by each fingerprint. One result for every image."""
        if self._measurer is not None:
            self._measurer.add(batch)  # first, see `CheckpointWriter`
        for number, loaded in enumerate(self._loaded):
            self._embed(number, loaded, [image for image in batch if number in image.pixels])
        for image in batch:
            image.pixels.clear()
        return self._columns(batch)

    def _embed(self, number: int, loaded: Loaded, batch: list[_Image]) -> None:
        first_of = {image.content_sha256: image for image in reversed(batch) if image.content_sha256 not in loaded.done}
        waiting = [image for image in batch if first_of.get(image.content_sha256) is image]  # each content once
        if not waiting:
            return
        vectors, logits = loaded.vectors_of(np.stack([image.pixels[number] for image in waiting]))
        kept: Sequence[ImageScores | None]
        kept = [None] * len(waiting) if logits is None else image_scores(logits)
        finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(vectors), axis=1)
        for image, vector, is_finite in zip(waiting, vectors, finite):
            content = str(image.content_sha256)
            if is_finite:
                image.embedded_on[number] = loaded.device
                loaded.done.add(content)
            else:
                loaded.refused[content] = f"{int((~np.isfinite(vector)).sum())} of {counted(len(vector), 'value')}"
        sources = [
            VectorSource(
                str(image.content_sha256),
                image.width,
                image.height,
                image.thumbprints[number],
                image.row.image_id,
                image.row.source_version,
                scores,
            )
            for image, scores, is_finite in zip(waiting, kept, finite)
            if is_finite
        ]
        loaded.writer.add(sources, vectors[finite])

    def _columns(self, batch: list[_Image]) -> Results:
        numbers = range(len(self._loaded))
        refused = [[loaded.refused.get(image.content_sha256 or "") for loaded in self._loaded] for image in batch]
        return {
            "content_sha256": [image.content_sha256 for image in batch],
            "reason": [image.reason for image in batch],
            "detail": [image.detail for image in batch],
            "embedded_on": [[image.embedded_on.get(number) for number in numbers] for image in batch],
            "refused": refused,
        }
