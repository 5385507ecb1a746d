"""What a task does with its images: fetch and decode each once, while fingerprints work on those before."""

import hashlib
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark import Broadcast, TaskContext
from pyspark.sql import Column
from pyspark.sql.pandas.functions import pandas_udf

from image_similarity.errors import Unreadable
from image_similarity.fingerprints.spec import Fingerprint, FingerprintSpec
from image_similarity.imaging import decoding
from image_similarity.imaging.decoding import Picture
from image_similarity.imaging.sandbox import IsolatedDecoder
from image_similarity.runtime import devices
from image_similarity.runtime.devices import CPU, Devices
from image_similarity.runtime.tasks import shipped
from image_similarity.settings import EmbeddingsSettings, HttpSettings
from image_similarity.stages.embeddings.saved import Made, Saver
from image_similarity.storage import fetch

RESULT = "content_sha256 string, reason string, detail string, embedded_on array<string>, refused array<string>"
"""Of an image: what it is, why it is unreadable, and for each fingerprint the device that made a vector of it, or why
there is none."""

NON_FINITE = "non_finite"

_FIRST_BATCH = 16

Contents = NDArray[np.int64]
"""Sorted numbers of contents, 60 bits of their sha256: 8 bytes each."""


@dataclass(frozen=True)
class Work:
    """One fingerprint as tasks get it: small values, for everything but known contents travels apart."""

    description: FingerprintSpec
    file: str | None
    """What the driver shipped for it."""
    folder: str
    """Where its vectors are saved."""
    known: "Broadcast[Contents] | None"
    """Contents whose vectors need not be made."""


def number_of(content_sha256: str) -> int:
    return int(content_sha256[:15], 16)


def embed(
    work: Sequence[Work], available: Devices, settings: EmbeddingsSettings, http: HttpSettings, started: float
) -> Column:
    """A column of `RESULT` from image_id, uri, source_version and wanted (bit i: fingerprint i wants the image).

    An Iterator pandas UDF that loads networks once per worker. It returns what became of each image; the vectors go
    into files (see `saved`) that the worker writes. Measured for 20,000 vectors of 4,096 values on two cores, from
    workers to Parquet: as arrays through a pandas UDF 5.2 s, Arrow-backed 5.6 s (Spark takes them apart again), packed
    as binary 1.4 s (which then is no array), by mapInArrow 2.6 s, and written by the worker 1.1 s. The table that Spark
    makes of it at the end takes 3.3 s more, as it would in each of these ways: 0.3 % of what VGG16 takes for as many
    pictures."""
    work = list(work)

    @pandas_udf(RESULT)  # type: ignore[call-overload]
    def results(batches: Iterator[tuple[pd.Series, pd.Series, pd.Series, pd.Series]]) -> Iterator[pd.DataFrame]:
        with decoding.quiet_decoders():
            embedder = Embedder(_load(work, available, settings, started), settings, http, _isolated(settings))
            yield from embedder.results(_Row(*row) for batch in batches for row in zip(*batch))

    # Without this the optimiser may run the network once for every table that is made from its answer.
    column: Column = results.asNondeterministic()("image_id", "uri", "source_version", "wanted")
    return column


def _isolated(settings: EmbeddingsSettings) -> IsolatedDecoder | None:
    """A decoder in a process of its own where a task is tried again: a file may have brought the first worker down."""
    context = TaskContext.get()
    if context is None or context.attemptNumber() == 0:
        return None
    return IsolatedDecoder(settings.max_pixels, settings.decode_bytes, settings.decode_seconds)


_kernels: dict[tuple[str, str | None, str], Fingerprint] = {}


@dataclass
class Loaded:
    """A fingerprint in a task: itself, what it need not do, and where its vectors go."""

    kernel: Fingerprint
    known: Contents | None
    saver: Saver
    done: set[str] = field(default_factory=set)
    """Contents that this task has made vectors of, or found saved."""
    refused: dict[str, str] = field(default_factory=dict)
    """Contents that it cannot make a vector of, and why."""
    device: str = CPU
    """What it computes on, as `devices.name_of` tells."""

    def knows(self, content_sha256: str) -> bool:
        if content_sha256 in self.done:
            return True
        if self.known is None:
            return False
        number = number_of(content_sha256)
        place = int(np.searchsorted(self.known, number))
        return place < len(self.known) and int(self.known[place]) == number


def _load(work: Sequence[Work], available: Devices, settings: EmbeddingsSettings, started: float) -> list[Loaded]:
    device = available.of_task() if any(one.description.uses_torch for one in work) else CPU
    on = [device if one.description.uses_torch else CPU for one in work]
    kernels = _kernels_for(list(zip(work, on)))
    return [_loaded(one, kernel, where, settings, started) for one, kernel, where in zip(work, kernels, on)]


def _kernels_for(wanted: Sequence[tuple[Work, str]]) -> list[Fingerprint]:
    """Workers are reused, and so are the fingerprints that they have loaded; those of another job or device make room
    first."""
    names = [(one.description.key, one.file, device) for one, device in wanted]
    others = _kernels.keys() - names
    for other in others:
        del _kernels[other]
    if others:
        devices.release()
    for name, (one, device) in zip(names, wanted):
        if name not in _kernels:
            file = shipped(one.file) if one.file is not None else None
            _kernels[name] = one.description.load(file, device)
    return [_kernels[name] for name in names]


def _loaded(work: Work, kernel: Fingerprint, device: str, settings: EmbeddingsSettings, started: float) -> Loaded:
    context = TaskContext.get()
    partition, attempt = (context.partitionId(), context.taskAttemptId()) if context is not None else (0, 0)
    saver = Saver(work.folder, work.description.key, partition, attempt, started, settings.save_seconds)
    saved_before = set(saver.before()) if context is not None and context.attemptNumber() else set()
    known = work.known.value if work.known is not None else None
    return Loaded(kernel, known, saver, saved_before, device=devices.name_of(device))


@dataclass(frozen=True)
class _Row:
    image_id: str
    uri: str
    source_version: str | None
    wanted: int


@dataclass
class _Image:
    """One image on its way."""

    row: _Row
    content_sha256: str | None = None
    width: int = 0
    height: int = 0
    pixels: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    """Of the fingerprints that have to make a vector, by their number."""
    embedded_on: dict[int, str] = field(default_factory=dict)
    """By the fingerprints that have made one."""
    reason: str | None = None
    detail: str | None = None


class Embedder:
    """Rows -> frames of `RESULT`, in order. Threads fetch and decode what comes next while fingerprints work."""

    def __init__(
        self,
        loaded: Sequence[Loaded],
        settings: EmbeddingsSettings,
        http: HttpSettings = HttpSettings(),
        isolated: IsolatedDecoder | None = None,
    ):
        self._loaded, self._settings, self._http, self._isolated = list(loaded), settings, http, isolated
        self._batch_size = max(one.kernel.batch for one in loaded)
        self._decoders = threading.Semaphore(settings.decode_threads)
        self._decoding_since: dict[int, float] = {}
        decoding.prepare_process(settings.max_pixels)

    def results(self, rows: Iterator[_Row]) -> Iterator[pd.DataFrame]:
        batch: list[_Image] = []
        to_embed = 0
        full = min(self._batch_size, max(_FIRST_BATCH, self._batch_size // 4))  # for the first ones all must wait
        for image in self._read_ahead(rows):
            batch.append(image)
            to_embed += bool(image.pixels)
            if to_embed == full or len(batch) == 16 * self._batch_size:
                yield self._finished(batch)
                batch, to_embed, full = [], 0, min(2 * full, self._batch_size)
        if batch:
            yield self._finished(batch)
        for one in self._loaded:
            one.saver.save()
        if self._isolated is not None:
            self._isolated.close()

    # -- reading -------------------------------------------------------------------------------------------------------

    def _read_ahead(self, rows: Iterator[_Row]) -> Iterator[_Image]:
        """Read images, in order; at most two batches are waiting, and as many more as are being fetched."""
        waiting: deque[Future[_Image]] = deque()
        ahead = 2 * self._batch_size + self._settings.fetch_threads
        with ThreadPoolExecutor(self._settings.fetch_threads, "fetch") as pool:
            for row in rows:
                waiting.append(pool.submit(self._read, row))
                if len(waiting) > ahead:
                    yield self._awaited(waiting.popleft())
            while waiting:
                yield self._awaited(waiting.popleft())

    def _awaited(self, future: "Future[_Image]") -> _Image:
        """A thread that hangs in a decoder cannot be stopped: this process is, and the task is tried again with
        care."""
        while True:
            try:
                return future.result(timeout=1)
            except TimeoutError:
                if future.done():
                    raise
                longest = time.monotonic() - min(self._decoding_since.values(), default=time.monotonic())
                if self._isolated is None and longest > self._settings.decode_seconds:
                    os.kill(os.getpid(), signal.SIGKILL)

    def _read(self, row: _Row) -> _Image:
        image = _Image(row)
        try:
            content = fetch.fetch(row.uri, self._settings.max_bytes, self._http)
            image.content_sha256 = hashlib.sha256(content).hexdigest()
            wanted = [number for number in range(len(self._loaded)) if row.wanted >> number & 1]
            needed = [number for number in wanted if not self._loaded[number].knows(image.content_sha256)]
            if needed:
                self._decode(image, content, needed)
        except Unreadable as error:
            image.reason, image.detail = error.reason, error.detail
        return image

    def _decode(self, image: _Image, content: bytes, needed: list[int]) -> None:
        """Decode ``content`` once for all fingerprints that want it of the same size, and cut out what each takes."""

        def side(number: int) -> int:
            return self._loaded[number].kernel.framing.decode_side or 0

        with self._decoders:
            for at_least, numbers in groupby(sorted(needed, key=side), key=side):
                picture = self._decoded(content, at_least or None)
                image.width, image.height = picture.width, picture.height
                squares: dict[object, NDArray[np.uint8]] = {}
                for number in numbers:
                    framing = self._loaded[number].kernel.framing
                    if framing not in squares:
                        squares[framing] = framing.fit(picture.pixels)
                    image.pixels[number] = squares[framing]

    def _decoded(self, content: bytes, at_least: int | None) -> Picture:
        if self._isolated is not None:
            return self._isolated.decode(content, at_least)
        thread = threading.get_ident()
        self._decoding_since[thread] = time.monotonic()
        try:
            return decoding.decode(content, self._settings.max_pixels, at_least)
        finally:
            del self._decoding_since[thread]

    # -- embedding -----------------------------------------------------------------------------------------------------

    def _finished(self, batch: list[_Image]) -> pd.DataFrame:
        """Put the pictures of ``batch`` through each fingerprint; one row of `RESULT` for every image."""
        for number, one in enumerate(self._loaded):
            self._embed(number, one, [image for image in batch if number in image.pixels])
        for image in batch:
            image.pixels.clear()
        return self._frame(batch)

    def _embed(self, number: int, one: Loaded, batch: list[_Image]) -> None:
        first_of = {image.content_sha256: image for image in reversed(batch) if image.content_sha256 not in one.done}
        waiting = [image for image in batch if first_of.get(image.content_sha256) is image]  # copies are embedded once
        if not waiting:
            return
        vectors = one.kernel(np.stack([image.pixels[number] for image in waiting]))
        finite: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(vectors), axis=1)
        for image, vector, is_finite in zip(waiting, vectors, finite):
            content = str(image.content_sha256)
            if is_finite:
                image.embedded_on[number] = one.device
                one.done.add(content)
            else:
                one.refused[content] = f"{int((~np.isfinite(vector)).sum())} of {len(vector)} values"
        made = [
            Made(str(image.content_sha256), image.width, image.height, image.row.image_id, image.row.source_version)
            for image, is_finite in zip(waiting, finite)
            if is_finite
        ]
        one.saver.add(made, vectors[finite])

    def _frame(self, batch: list[_Image]) -> pd.DataFrame:
        numbers = range(len(self._loaded))
        refused = [[one.refused.get(image.content_sha256 or "") for one in self._loaded] for image in batch]
        return pd.DataFrame(
            {
                "content_sha256": [image.content_sha256 for image in batch],
                "reason": [image.reason for image in batch],
                "detail": [image.detail for image in batch],
                "embedded_on": [[image.embedded_on.get(number) for number in numbers] for image in batch],
                "refused": refused,
            }
        )
