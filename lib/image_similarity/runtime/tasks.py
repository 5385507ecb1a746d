"""Divides work into Spark tasks, and ships files to them."""

import itertools
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pyspark import SparkFiles, TaskContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from image_similarity.runtime import processes, watchdog
from image_similarity.runtime.session import is_local_mode
from image_similarity.settings import EmbeddingsSettings
from image_similarity.storage import blobs
from image_similarity.storage.budget import ByteBudget
from image_similarity.warehouse.workspace import Workspace

T = TypeVar("T")

_BITS_FOR_ROWS = 33  # monotonically_increasing_id holds the number of the partition above them


def task_count(spark: SparkSession, units: int, least: int, most: int) -> int:
    """`processes.task_count` for the cores of ``spark``."""
    return processes.task_count(spark.sparkContext.defaultParallelism, units, least, most)


def by_host(rows: DataFrame, address: str, partitions: int) -> DataFrame:
    """``rows`` in ``partitions``, all http(s) addresses of one host in the same one; other rows are spread evenly.

    So a host is asked by one task only, and a limit of the task is a limit of the job.
    """
    host = F.lower(F.regexp_extract(address, r"(?i)^https?://(?:[^/?#]*@)?([^/?#]*)", 1))
    spread = F.xxhash64(address).cast("string")
    return rows.repartition(partitions, F.when(host != "", host).otherwise(spread))


def numbered(rows: DataFrame, order: list[str], number: str, scratch: Workspace) -> DataFrame:
    """``rows`` with their position in the order of the columns ``order``, from 0, in a column ``number``.

    Sorts the rows, then counts each partition, so no partition holds all rows. Materialises the sorted rows in
    ``scratch``.
    """
    ordered = rows.orderBy(*order).withColumn("_position", F.monotonically_increasing_id())
    ordered = scratch.write(f"ordered-{number}", ordered)
    partition = F.shiftright("_position", _BITS_FOR_ROWS).cast("int")
    counts = ordered.groupBy(partition.alias("_partition")).count().orderBy("_partition").collect()
    ends = itertools.accumulate(row["count"] for row in counts)
    offsets = [
        (row["_partition"], end - row["count"] - (row["_partition"] << _BITS_FOR_ROWS))
        for row, end in zip(counts, ends)
    ]
    table = F.broadcast(rows.sparkSession.createDataFrame(offsets, "_partition int, _offset long"))
    joined = ordered.withColumn("_partition", partition).join(table, "_partition")
    return joined.select(*rows.columns, (F.col("_position") + F.col("_offset")).alias(number))


def chunk_rows(
    spark: SparkSession,
    scratch: Workspace,
    name: str,
    chunks: Iterable[Any],
    work: Callable[[Any], Iterator[pa.RecordBatch]],
    columns: str,
) -> tuple[DataFrame, int]:
    """What ``work`` makes of each of ``chunks`` in a Spark task of its own, as rows of ``columns``; and how many tasks.

    The chunks are this process's own objects. They wait as files in ``scratch``, and pass through no JVM.
    """
    place, tasks = scratch.location(f"chunks-{name}"), 0
    for tasks, chunk in enumerate(chunks, 1):
        blobs.write(f"{place}/{tasks}", pickle.dumps(chunk, pickle.HIGHEST_PROTOCOL), "application/octet-stream")

    def worked(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                yield from work(pickle.loads(blobs.read(f"{place}/{number}")))

    return spark.range(1, tasks + 1, 1, max(1, tasks)).mapInArrow(worked, columns), tasks


def over_chunks(
    spark: SparkSession,
    scratch: Workspace,
    name: str,
    chunks: Iterable[Any],
    work: Callable[[Any], Iterator[pa.RecordBatch]],
    columns: str,
) -> pa.Table:
    """The rows of `chunk_rows` as one table, in this process."""
    rows, _ = chunk_rows(spark, scratch, name, chunks, work, columns)
    return rows.toArrow()


def ship(spark: SparkSession, file: Path) -> str:
    """Makes a driver's file available to all workers. Returns the name by which `shipped` finds it there."""
    if not is_local_mode(spark):  # in local mode workers open the file itself, which saves a copy of large weights
        spark.sparkContext.addFile(str(file))
    return str(file)


def shipped(name: str) -> str:
    """In a worker: the path of the file that `ship` returned ``name`` for."""
    return name if os.path.exists(name) else SparkFiles.get(os.path.basename(name))


def is_retry() -> bool:
    """In a worker: whether this task was tried before. Its worker may have died of a hostile file."""
    context = TaskContext.get()
    return context is not None and context.attemptNumber() > 0


def watched(seconds: float, decode: Callable[..., T]) -> Callable[..., T]:
    """In a worker: `watchdog.watched`, except in a retried task. That decodes in a child process, which has a limit of
    its own, so ``decode`` is returned as it is.
    """
    if is_retry():
        return decode
    return watchdog.watched(seconds, decode)


@contextmanager
def decoders(
    settings: EmbeddingsSettings, opened: Callable[..., AbstractContextManager[Callable[..., T]]]
) -> Iterator[tuple[ThreadPoolExecutor, Callable[..., T], ByteBudget]]:
    """In a worker: threads that decode, the function that they call (see `watched`), and what they may hold of files.

    ``opened``: a context of that function, as `sandbox.thumbnailer`. In a retried task it decodes in a child process,
    since a file may have killed the worker before.
    """
    limits = settings.max_pixels, settings.decode_bytes, settings.decode_seconds
    threads = settings.decode_threads_on_cpu
    with opened(is_retry(), *limits) as decode, ThreadPoolExecutor(threads, "pictures") as pool:
        yield pool, watched(settings.decode_seconds, decode), ByteBudget(settings.fetch_bytes, threads)
