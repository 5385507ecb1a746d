"""manifest -> embeddings and failures: what each image looks like to a network.

Vectors are known by the sha256 of the file they come from. An image whose uri and version are those of the last run is not even
read; one whose content is known is read but not decoded; the rest goes through the network, once.
"""

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark import Broadcast
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from image_similarity import images
from image_similarity.errors import JobFailed
from image_similarity.kernels import decoding
from image_similarity.kernels.decoding import Unreadable
from image_similarity.kernels.fingerprints.networks import Network, NetworkFingerprint
from image_similarity.settings import EmbeddingsSettings
from image_similarity.spark import progress, shipped, task_count, task_device
from image_similarity.tables import SCHEMAS
from image_similarity.warehouse import Scratch

FAILURE_REASONS = {
    **images.FETCH_REASONS,
    **decoding.UNREADABLE_REASONS,
    "non_finite": "the network's answer has infinite or undefined values",
}
"""Every ``reason`` that this stage writes into ``failures``."""

LEAST_IMAGES_PER_TASK = 32
_RESULT = "content_sha256 string, width int, height int, is_embedded boolean, embedding array<float>, reason string, detail string"


@dataclass(frozen=True)
class Inputs:
    manifest: DataFrame
    previous: DataFrame
    """Rows of ``embeddings`` of this fingerprint as published, of any key; may be empty."""
    vectors: DataFrame
    """Rows of ``vectors`` of this key as published; may be empty."""


@dataclass(frozen=True)
class Fingerprint:
    """A fingerprint as workers need it: its name, what determines its vectors, and the shipped file of parameters."""

    name: str
    network: Network
    file: str

    @property
    def key(self) -> str:
        return self.network.key


@dataclass(frozen=True)
class Outputs:
    """Frames in the schemas of the tables; ``vectors`` holds only what is new."""

    embeddings: DataFrame
    vectors: DataFrame
    failures: DataFrame
    images: int
    reused: int
    """Images that were not read again."""
    embedded: int
    """Images that went through the network."""


def run(spark: SparkSession, inputs: Inputs, fingerprint: Fingerprint, settings: EmbeddingsSettings, scratch: Scratch) -> Outputs:
    """Embed what is not known yet. Inference runs once, into ``scratch``; the tables are split from there."""
    reused = _unchanged(inputs, fingerprint, settings)
    unread = inputs.manifest.join(reused, "image_id", "left_anti")
    images, reused_images = inputs.manifest.count(), reused.count()
    to_read = images - reused_images
    known = _known_contents(spark, inputs.vectors)
    tasks = task_count(spark, to_read, LEAST_IMAGES_PER_TASK, settings.images_per_task)
    # In order of size, copies of a file come to the same task (but for a border between two), which embeds them once.
    # The largest come first, so that none is late.
    ordered = unread.repartitionByRange(tasks, F.desc("size_bytes"), "image_id").select("image_id", "uri", "source_version")
    results = ordered.withColumn("result", _embed(fingerprint, settings, known))
    with progress(spark, f"embed {fingerprint.name}", to_read, "images", tasks):
        results = scratch.write("results", results)
    results = results.select("image_id", "uri", "source_version", "result.*")
    return _split(results, reused, fingerprint, images, reused_images)


def _unchanged(inputs: Inputs, fingerprint: Fingerprint, settings: EmbeddingsSettings) -> DataFrame:
    """Rows of ``embeddings`` that hold as they are: same image, same version, same key."""
    same_key = inputs.previous.where(F.col("fingerprint_key") == fingerprint.key)
    if settings.recheck == "always":
        same_key = same_key.limit(0)
    return (
        inputs.manifest.select("image_id", "source_version")
        .join(same_key, ["image_id", "source_version"])
        .select(*SCHEMAS["embeddings"].fieldNames())
    )


def _known_contents(spark: SparkSession, vectors: DataFrame) -> "Broadcast[NDArray[np.int64]] | None":
    """The contents whose vectors are in the store, as sorted numbers of 60 bits: 8 bytes for each, for all workers."""
    numbers = vectors.select(F.conv(F.substring("content_sha256", 1, 15), 16, 10).cast("long").alias("content"))
    known = np.unique(numbers.toArrow()["content"].to_numpy())
    return spark.sparkContext.broadcast(known) if len(known) else None


def _split(results: DataFrame, reused: DataFrame, fingerprint: Fingerprint, images: int, reused_images: int) -> Outputs:
    """The tables, from what inference wrote."""
    named = results.withColumn("fingerprint", F.lit(fingerprint.name)).withColumn("fingerprint_key", F.lit(fingerprint.key))
    usable = named.where(F.col("reason").isNull())
    embedded = usable.where("is_embedded")  # the vectors themselves need not be read to be counted
    counted = embedded.agg(F.count("*").alias("all"), F.count_distinct("content_sha256").alias("contents")).collect()[0]
    vectors = embedded if counted["all"] == counted["contents"] else embedded.dropDuplicates(["content_sha256"])
    return Outputs(
        embeddings=reused.unionByName(usable.select(*SCHEMAS["embeddings"].fieldNames())),
        vectors=vectors.select(*SCHEMAS["vectors"].fieldNames()),
        failures=named.where(F.col("reason").isNotNull()).select(*SCHEMAS["failures"].fieldNames()),
        images=images,
        reused=reused_images,
        embedded=counted["all"],
    )


def check(manifest: DataFrame, embeddings: DataFrame, failures: DataFrame, vectors: DataFrame) -> None:
    """Raise ``JobFailed`` unless every image of the manifest is embedded or failed, once, and every embedding has its vector."""
    outcomes = embeddings.select("image_id").unionAll(failures.select("image_id"))
    images, told = manifest.count(), outcomes.count()
    missing = manifest.join(outcomes, "image_id", "left_anti").count()
    if images != told or missing:
        raise JobFailed(
            f"{images:,} images in the manifest, {told:,} embedded or failed, {missing:,} neither: nothing was published"
        )
    lost = embeddings.join(vectors.select("content_sha256"), "content_sha256", "left_anti").count()
    if lost:
        raise JobFailed(
            f"{lost:,} embeddings have no vector in the store: nothing was published; run again with recheck = 'always'"
        )


# -- in the workers ------------------------------------------------------------------------------------------------------------


def _embed(fingerprint: Fingerprint, settings: EmbeddingsSettings, known: "Broadcast[NDArray[np.int64]] | None") -> Column:
    """A column of `_RESULT` for the column ``uri``: an Iterator pandas UDF that loads the network once per worker."""

    @pandas_udf(_RESULT)  # type: ignore[call-overload]
    def results(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        device = task_device(settings.device)
        embedder = _Embedder(_loaded(fingerprint, device), settings, known.value if known is not None else None)
        with decoding.quiet_decoders():
            yield from embedder.results(uri for batch in batches for uri in batch)

    # Without this the optimiser may run the network once for every table that is made from its answer.
    column: Column = results.asNondeterministic()("uri")
    return column


_networks: dict[tuple[str, str, str], NetworkFingerprint] = {}


def _loaded(fingerprint: Fingerprint, device: str) -> NetworkFingerprint:
    """The network of this process; workers are reused, so the last one is kept."""
    wanted = (fingerprint.key, fingerprint.file, device)
    if wanted not in _networks:
        _networks.clear()
        _networks[wanted] = NetworkFingerprint(fingerprint.network, shipped(fingerprint.file), device)
    return _networks[wanted]


@dataclass
class _Image:
    """One image on its way: as it was read, then with its vector."""

    content_sha256: str | None = None
    width: int | None = None
    height: int | None = None
    pixels: NDArray[np.uint8] | None = None
    embedding: NDArray[np.float32] | None = None
    reason: str | None = None
    detail: str | None = None


class _Embedder:
    """uris -> results, in order. Threads fetch and decode the next batch while the network works on the current one."""

    def __init__(self, network: NetworkFingerprint, settings: EmbeddingsSettings, known: NDArray[np.int64] | None):
        self._network, self._settings, self._known = network, settings, known
        self._batch_size = max(1, settings.batch_bytes // network.image_bytes)
        self._embedded: set[str] = set()
        self._refused: dict[str, tuple[str, str]] = {}
        decoding.prepare_process(settings.max_pixels)

    def results(self, uris: Iterator[str]) -> Iterator[pd.DataFrame]:
        batch: list[_Image] = []
        to_embed = 0
        for image in self._read_ahead(uris):
            batch.append(image)
            if image.pixels is not None and image.content_sha256 in self._embedded:
                image.pixels = None  # a copy of one that is done
            if image.pixels is not None:
                self._embedded.add(str(image.content_sha256))
                to_embed += 1
            if to_embed == self._batch_size or len(batch) == 16 * self._batch_size:
                yield self._finished(batch)
                batch, to_embed = [], 0
        if batch:
            yield self._finished(batch)

    def _read_ahead(self, uris: Iterator[str]) -> Iterator[_Image]:
        """Read images of ``uris``, in order; at most two batches are waiting."""
        waiting: deque[Future[_Image]] = deque()
        with ThreadPoolExecutor(self._settings.decode_threads, "decode") as pool:
            for uri in uris:
                waiting.append(pool.submit(self._read, uri))
                if len(waiting) > 2 * self._batch_size:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _read(self, uri: str) -> _Image:
        image = _Image()
        try:
            content = images.fetch(uri, self._settings.max_bytes)
            image.content_sha256 = hashlib.sha256(content).hexdigest()
            if not self._is_known(image.content_sha256):
                pixels = decoding.decode(content, self._settings.max_pixels)
                image.height, image.width = pixels.shape[:2]
                image.pixels = self._network.fit(pixels)
        except Unreadable as error:
            image.reason, image.detail = error.reason, error.detail
        return image

    def _is_known(self, content_sha256: str) -> bool:
        if self._known is None:
            return False
        number = int(content_sha256[:15], 16)
        place = int(np.searchsorted(self._known, number))
        return place < len(self._known) and int(self._known[place]) == number

    def _finished(self, batch: list[_Image]) -> pd.DataFrame:
        """Put the pictures of ``batch`` through the network; one row of `_RESULT` for every image."""
        waiting = [image for image in batch if image.pixels is not None]
        copies = [image for image in batch if image.pixels is None]
        if waiting:
            vectors = self._network(np.stack([image.pixels for image in waiting if image.pixels is not None]))
            finite = np.logical_and.reduce(np.isfinite(vectors), axis=1)
            for image, vector, is_finite in zip(waiting, vectors, finite):
                if is_finite:
                    image.embedding = vector
                else:
                    refusal = "non_finite", f"{int((~np.isfinite(vector)).sum())} of {len(vector)} values"
                    self._refused[str(image.content_sha256)] = image.reason, image.detail = refusal
        for image in copies:
            if image.reason is None and image.content_sha256 in self._refused:
                image.reason, image.detail = self._refused[image.content_sha256]
        return _frame(batch)


def _frame(batch: list[_Image]) -> pd.DataFrame:
    columns: dict[str, Any] = {
        "content_sha256": [image.content_sha256 for image in batch],
        "width": pd.array([image.width for image in batch], dtype="Int32"),
        "height": pd.array([image.height for image in batch], dtype="Int32"),
        "is_embedded": [image.embedding is not None for image in batch],
        "embedding": pd.Series([image.embedding for image in batch], dtype=object),
        "reason": [image.reason for image in batch],
        "detail": [image.detail for image in batch],
    }
    return pd.DataFrame(columns)
