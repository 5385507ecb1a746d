"""Embedding in Spark's Python workers."""

from collections.abc import Iterator, Sequence

import pandas as pd
from pyspark import TaskContext
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from image_similarity.imaging import decoding
from image_similarity.runtime.devices import CPU, Devices
from image_similarity.runtime.tasks import is_retry, shipped
from image_similarity.settings import EmbeddingsSettings, HttpSettings
from image_similarity.stages.embeddings.embedder import (
    UNKNOWN_SIZE,
    Attempt,
    Embedder,
    Loaded,
    Measuring,
    Row,
    Work,
    isolated,
    load,
    measurer_of,
)

RESULT = "content_sha256 string, reason string, detail string, embedded_on array<string>, refused array<string>"
"""The outcome of an image: its content, why it is unreadable, and by fingerprint the device that embedded it or why its
vector was refused."""


def embed(
    work: Sequence[Work],
    available: Devices,
    settings: EmbeddingsSettings,
    http: HttpSettings,
    started: float,
    measuring: Measuring | None = None,
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
        yield from _results(batches, work, available, settings, http, started, measuring)

    # Without this the optimiser may run the network again for every table that is computed from its results.
    size = F.coalesce("size_bytes", F.lit(UNKNOWN_SIZE))  # pandas makes floats of integers with nulls
    column: Column = results.asNondeterministic()("image_id", "uri", "source_version", "needed_by", size)
    return column


def _results(
    batches: Iterator[tuple[pd.Series, ...]],
    work: Sequence[Work],
    available: Devices,
    settings: EmbeddingsSettings,
    http: HttpSettings,
    started: float,
    measuring: Measuring | None = None,
) -> Iterator[pd.DataFrame]:
    rows = (Row(*row) for batch in batches for row in zip(*batch))
    with decoding.quiet_decoders():
        attempt = _attempt()
        loaded = _load(work, available, settings, started, attempt)
        measurer = measurer_of(measuring, loaded, settings, started, attempt)
        with isolated(loaded, available, settings, is_retry()) as decoders:
            yield from map(pd.DataFrame, Embedder(loaded, settings, http, decoders, measurer).results(rows))


def _attempt() -> Attempt:
    context = TaskContext.get()
    if context is None:
        return Attempt(0, 0, is_retry=False)
    return Attempt(context.partitionId(), context.taskAttemptId(), context.attemptNumber() > 0)


def _load(
    work: Sequence[Work], available: Devices, settings: EmbeddingsSettings, started: float, attempt: Attempt
) -> list[Loaded]:
    device = available.of_task() if any(item.spec.uses_torch for item in work) else CPU
    return load(work, device, settings, started, attempt, shipped)
