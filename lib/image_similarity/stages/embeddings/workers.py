"""A task's work: threads fetch and decode each image once, ahead of the fingerprints that embed it."""

import hashlib
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark import Broadcast, TaskContext
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from image_similarity.errors import Unreadable
from image_similarity.fingerprints.spec import Fingerprint, FingerprintSpec
from image_similarity.imaging import decoding, framing
from image_similarity.imaging.framing import Framed, Framing
from image_similarity.imaging.sandbox import IsolatedDecoders
from image_similarity.runtime import devices
from image_similarity.runtime.devices import CPU, Devices
from image_similarity.runtime.tasks import DECODE_THREADS, is_retry, shipped, watched
from image_similarity.settings import EmbeddingsSettings, HttpSettings
from image_similarity.stages.embeddings.checkpoints import CheckpointWriter, VectorSource
from image_similarity.stages.embeddings.known import KnownContents
from image_similarity.storage import fetch
from image_similarity.storage.budget import ByteBudget

RESULT = "content_sha256 string, reason string, detail string, embedded_on array<string>, refused array<string>"
"""The outcome of an image: its content, why it is unreadable, and by fingerprint the device that embedded it or why its
vector was refused."""

NON_FINITE = "non_finite"

_FIRST_BATCH = 16
_UNKNOWN_SIZE = -1


@dataclass(frozen=True)
class Work:
    """One fingerprint, as it is sent to tasks. All values are small; the known contents are broadcast."""

    spec: FingerprintSpec
    file: str | None
    """The file that the driver shipped for it."""
    folder: str
    """Where its checkpoints are written."""
    known: "Broadcast[KnownContents] | None"
    """Contents whose vectors exist already."""


def embed(
    work: Sequence[Work], available: Devices, settings: EmbeddingsSettings, http: HttpSettings, started: float
) -> Column:
    """A column of `RESULT` from image_id, uri, source_version, size_bytes and needed_by (bit i: fingerprint i needs the
    image).

    An Iterator pandas UDF that loads networks once per worker. It returns the outcome of each image. The worker itself
    writes the vectors to files, see `checkpoints`. Measured from workers to Parquet, for 20,000 vectors of 4,096 values
    on two cores: arrays through a pandas UDF 5.2 s, the same Arrow-backed 5.6 s (Spark converts them again), packed as
    binary 1.4 s (but then the column is no array), by mapInArrow 2.6 s, written by the worker 1.1 s. The table that
    Spark finally makes of the files takes 3.3 s more, as it would in each of these ways. That is 0.3 % of VGG16's time
    for as many images.
    """
    work = list(work)

    @pandas_udf(RESULT)  # type: ignore[call-overload]
    def results(batches: Iterator[tuple[pd.Series, ...]]) -> Iterator[pd.DataFrame]:
        yield from _results(batches, work, available, settings, http, started)

    # Without this the optimiser may run the network again for every table that is computed from its results.
    size = F.coalesce("size_bytes", F.lit(_UNKNOWN_SIZE))  # pandas makes floats of integers with nulls
    column: Column = results.asNondeterministic()("image_id", "uri", "source_version", "needed_by", size)
    return column


def _results(
    batches: Iterator[tuple[pd.Series, ...]],
    work: Sequence[Work],
    available: Devices,
    settings: EmbeddingsSettings,
    http: HttpSettings,
    started: float,
) -> Iterator[pd.DataFrame]:
    with decoding.quiet_decoders():
        loaded = _load(work, available, settings, started)
        with _isolated(loaded, available, settings) as isolated:
            embedder = Embedder(loaded, settings, http, isolated)
            yield from embedder.results(_Row(*row) for batch in batches for row in zip(*batch))


_fingerprints: dict[tuple[str, str | None, str], Fingerprint] = {}


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

    def knows(self, content_sha256: str) -> bool:
        return content_sha256 in self.done or (self.known is not None and content_sha256 in self.known)


def _load(work: Sequence[Work], available: Devices, settings: EmbeddingsSettings, started: float) -> list[Loaded]:
    device = available.of_task() if any(item.spec.uses_torch for item in work) else CPU
    used_devices = [device if item.spec.uses_torch else CPU for item in work]
    fingerprints = _fingerprints_for(list(zip(work, used_devices)))
    return [
        _loaded(item, fingerprint, used_device, settings, started)
        for item, fingerprint, used_device in zip(work, fingerprints, used_devices)
    ]


def _fingerprints_for(pairs: Sequence[tuple[Work, str]]) -> list[Fingerprint]:
    """The loaded fingerprints of ``pairs`` of work and device, in that order.

    Workers are reused, and so are their loaded fingerprints. Those of another job or device are released first.
    """
    names = [(item.spec.key, item.file, device) for item, device in pairs]
    unused = _fingerprints.keys() - names
    for name in unused:
        del _fingerprints[name]
    if unused:
        devices.release()
    for name, (item, device) in zip(names, pairs):
        if name not in _fingerprints:
            file = shipped(item.file) if item.file is not None else None
            _fingerprints[name] = item.spec.load(file, device)
    return [_fingerprints[name] for name in names]


def _loaded(work: Work, fingerprint: Fingerprint, device: str, settings: EmbeddingsSettings, started: float) -> Loaded:
    context = TaskContext.get()
    partition, attempt = (context.partitionId(), context.taskAttemptId()) if context is not None else (0, 0)
    writer = CheckpointWriter(work.folder, work.spec.key, partition, attempt, started, settings.save_seconds)
    checkpointed = set(writer.earlier_contents()) if context is not None and context.attemptNumber() else set()
    known = work.known.value if work.known is not None else None
    return Loaded(fingerprint, known, writer, checkpointed, device=devices.name_of(device))


@contextmanager
def _isolated(
    loaded: "Sequence[Loaded]", available: Devices, settings: EmbeddingsSettings
) -> Iterator[IsolatedDecoders | None]:
    """Child processes that decode; None if the threads of this process do.

    Child processes, if this task was tried before: a file may have killed the first worker. And if a GPU computes,
    which takes more pictures a second than the threads of one Python process decode. Those children then go on with the
    worker's next task.
    """
    limits = settings.max_pixels, settings.decode_bytes, settings.decode_seconds
    if is_retry():
        with IsolatedDecoders(settings.decode_threads or DECODE_THREADS, *limits) as decoders:
            yield decoders
    elif any(item.device != CPU for item in loaded):
        yield _decoders_of_worker(settings.decode_threads or available.cores_of_task(), *limits)
    else:
        yield None


@lru_cache(maxsize=1)
def _decoders_of_worker(*limits: Any) -> IsolatedDecoders:
    return IsolatedDecoders(*limits)


@dataclass(frozen=True)
class _Row:
    image_id: str
    uri: str
    source_version: str | None
    needed_by: int
    size_bytes: int = _UNKNOWN_SIZE
    """As the manifest says: a file may have changed since, and a server may say what it likes."""


@dataclass
class _Image:
    """One image on its way through the task."""

    row: _Row
    content_sha256: str | None = None
    width: int = 0
    height: int = 0
    pixels: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    """By the number of the fingerprint: the framed pixels, for those that still have to embed the image."""
    embedded_on: dict[int, str] = field(default_factory=dict)
    """By the number of the fingerprint: the device that embedded the image."""
    reason: str | None = None
    detail: str | None = None


class Embedder:
    """Rows -> frames of `RESULT`, in order. Threads fetch and decode ahead of the fingerprints."""

    def __init__(
        self,
        loaded: Sequence[Loaded],
        settings: EmbeddingsSettings,
        http: HttpSettings = HttpSettings(),
        isolated: IsolatedDecoders | None = None,
    ):
        self._loaded, self._settings, self._http, self._isolated = list(loaded), settings, http, isolated
        self._batch_size = max(item.fingerprint.batch for item in loaded)
        self._decode_threads = settings.decode_threads or DECODE_THREADS if isolated is None else isolated.processes
        self._fetching = threading.Semaphore(settings.fetch_threads)
        self._decoding = threading.Semaphore(self._decode_threads)
        self._budget = ByteBudget(settings.fetch_bytes, settings.fetch_threads)
        decoding.prepare_process(settings.max_pixels)

    def results(self, rows: Iterator[_Row]) -> Iterator[pd.DataFrame]:
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
        for loaded in self._loaded:
            loaded.writer.write()

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read_ahead(self, rows: Iterator[_Row]) -> Iterator[_Image]:
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

    def _read(self, row: _Row) -> _Image:
        image = _Image(row)
        try:
            self._take_in(image)
        except Unreadable as error:
            image.reason, image.detail = error.reason, error.detail
        return image

    def _take_in(self, image: _Image) -> None:
        """Fetches and decodes ``image``. Its bytes are held as long as that takes."""
        settings = self._settings
        expected = None if image.row.size_bytes == _UNKNOWN_SIZE else image.row.size_bytes
        source = image.row.uri, self._budget, settings.max_bytes, self._http, settings.read_seconds, expected
        with ExitStack() as held:
            with self._fetching:
                content = held.enter_context(fetch.fetched(*source))
            image.content_sha256 = hashlib.sha256(content).hexdigest()
            self._decode(image, content)

    def _decode(self, image: _Image, content: bytes) -> None:
        """Decodes ``content`` for the fingerprints that need it, and frames it for each."""
        wanted = [number for number in range(len(self._loaded)) if image.row.needed_by >> number & 1]
        needed = [number for number in wanted if not self._loaded[number].knows(str(image.content_sha256))]
        if not needed:
            return
        with self._decoding:
            framed = self._framed(content, [self._loaded[number].fingerprint.framing for number in needed])
        image.width, image.height = framed.width, framed.height
        image.pixels = dict(zip(needed, framed.squares))

    def _framed(self, content: bytes, framings: Sequence[Framing]) -> Framed:
        if self._isolated is not None:
            return self._isolated.framed(content, framings)
        bounded = watched(self._settings.decode_seconds, framing.framed)
        return bounded(content, framings, self._settings.max_pixels)

    # -- embedding -----------------------------------------------------------------------------------------------------

    def _finished(self, batch: list[_Image]) -> pd.DataFrame:
        """Embeds the images of ``batch`` by each fingerprint. One row of `RESULT` for every image."""
        for number, loaded in enumerate(self._loaded):
            self._embed(number, loaded, [image for image in batch if number in image.pixels])
        for image in batch:
            image.pixels.clear()
        return self._frame(batch)

    def _embed(self, number: int, loaded: Loaded, batch: list[_Image]) -> None:
        first_of = {image.content_sha256: image for image in reversed(batch) if image.content_sha256 not in loaded.done}
        waiting = [image for image in batch if first_of.get(image.content_sha256) is image]  # each content once
        if not waiting:
            return
        vectors = loaded.fingerprint(np.stack([image.pixels[number] for image in waiting]))
        finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(vectors), axis=1)
        for image, vector, is_finite in zip(waiting, vectors, finite):
            content = str(image.content_sha256)
            if is_finite:
                image.embedded_on[number] = loaded.device
                loaded.done.add(content)
            else:
                loaded.refused[content] = f"{int((~np.isfinite(vector)).sum())} of {len(vector)} values"
        sources = [
            VectorSource(
                str(image.content_sha256), image.width, image.height, image.row.image_id, image.row.source_version
            )
            for image, is_finite in zip(waiting, finite)
            if is_finite
        ]
        loaded.writer.add(sources, vectors[finite])

    def _frame(self, batch: list[_Image]) -> pd.DataFrame:
        numbers = range(len(self._loaded))
        refused = [[loaded.refused.get(image.content_sha256 or "") for loaded in self._loaded] for image in batch]
        return pd.DataFrame(
            {
                "content_sha256": [image.content_sha256 for image in batch],
                "reason": [image.reason for image in batch],
                "detail": [image.detail for image in batch],
                "embedded_on": [[image.embedded_on.get(number) for number in numbers] for image in batch],
                "refused": refused,
            }
        )
