"""Vectors on their way to being compared: checked, numbered in the order of their ids, packed into blocks of rows.

The number of an image is its place in the byte order of all usable ids, so that to compare numbers is to compare ids.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from image_similarity import storage
from image_similarity.errors import JobFailed, WrongInput
from image_similarity.kernels.topk import MAX_INDEX, METRICS
from image_similarity.spark import numbered
from image_similarity.warehouse import Scratch

FAILURE_REASONS = {
    "no_vector": "the embedding is null or empty",
    "wrong_length": "the embedding has another length than most",
    "non_finite": "the embedding has nulls, infinite or undefined values",
    "zero_vector": "all values are 0: no direction, so no cosine distance",
    "constant_vector": "all values are the same: no correlation distance",
}
"""Every ``reason`` that `find_neighbours` writes into ``failures``."""

_CHECKED = pa.schema([("image_id", pa.string()), ("length", pa.int32()), ("reason", pa.string())])


@dataclass(frozen=True)
class Checked:
    ids: DataFrame
    """image_id, index: usable vectors, numbered from 0 in the order of their ids."""
    failures: DataFrame
    """image_id, reason, detail: the others."""
    usable: int
    unusable: int
    dimensions: int
    """Length of a usable vector; 0 if there is none."""


def check(vectors: DataFrame, metric: str, scratch: Scratch) -> Checked:
    """Which of ``vectors`` (image_id, embedding) ``metric`` can compare. Vectors of another length than most cannot be."""
    unusable, reason = METRICS[metric].unusable, METRICS[metric].unusable_reason

    def checked(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            reasons = np.full(batch.num_rows, None, dtype=object)
            for rows, values in by_length(batch.column("embedding")):
                if values.shape[1] == 0:
                    reasons[rows] = "no_vector"
                    continue
                finite = np.isfinite(values).all(axis=1)
                reasons[rows[finite & unusable(values)]] = reason
                reasons[rows[~finite]] = "non_finite"
            lengths = pc.fill_null(pc.list_value_length(batch.column("embedding")), 0).cast(pa.int32())
            columns = [batch.column("image_id").cast(pa.string()), lengths, pa.array(reasons, pa.string())]
            yield pa.RecordBatch.from_arrays(columns, schema=_CHECKED)

    told = scratch.write("checked", vectors.mapInArrow(checked, "image_id string, length int, reason string"))
    lengths = told.where("reason is null").groupBy("length").count().orderBy(F.desc("count"), "length").collect()
    dimensions, usable = (lengths[0]["length"], lengths[0]["count"]) if lengths else (0, 0)
    if usable >= MAX_INDEX:
        raise WrongInput(f"{usable:,} vectors: at most {MAX_INDEX - 1:,} can be compared")
    is_other_length = F.col("reason").isNull() & (F.col("length") != dimensions)
    detail = F.when(is_other_length, F.concat_ws(" ", "length", F.lit(f"values, not {dimensions}")))
    named = F.when(is_other_length, F.lit("wrong_length")).otherwise(F.col("reason"))
    failures = told.select("image_id", named.alias("reason"), detail.alias("detail")).where("reason is not null")
    compared = told.where(F.col("reason").isNull() & (F.col("length") == dimensions)).select("image_id")
    ids = scratch.write("ids", numbered(compared, ["image_id"], "index", scratch))
    return Checked(ids, failures, usable, failures.count(), dimensions)


def by_length(lists: pa.ListArray) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Rows of ``lists`` (list<float>) with equal lengths: their places, and their values (n, length) float32; null is nan."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    for length in np.unique(lengths):
        rows = np.nonzero(lengths == length)[0]
        of_one_length = lists if len(rows) == len(lists) else lists.take(pa.array(rows))
        values = of_one_length.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
        yield rows, values.reshape(len(rows), int(length))


@dataclass(frozen=True)
class Blocks:
    """Packed vectors: block ``b`` holds the indices ``b * rows`` to ``(b + 1) * rows - 1`` (the last may hold fewer)."""

    files: dict[int, str]
    rows: int


def pack(vectors: DataFrame, checked: Checked, block_rows: int, scratch: Scratch) -> Blocks:
    """Write the usable ``vectors`` as one file for each block, sorted by index, for workers to read by path."""
    count = -(-checked.usable // block_rows)
    block = F.expr(f"index div {block_rows}").cast("int")
    numbered = vectors.join(checked.ids, "image_id").select(block.alias("block"), "index", "embedding")
    packed = numbered.repartition(max(1, min(count, 1000)), "block").sortWithinPartitions("block", "index")
    scratch.write("blocks", packed, partition_by="block")
    number = re.compile(r"/block=(\d+)/")
    files = {int(match.group(1)): file for file in scratch.files("blocks") if (match := number.search(file))}
    if sorted(files) != list(range(count)):
        raise JobFailed(
            f"{count} blocks of vectors were packed, {len(files)} found: an id stands more than once, or files are gone"
        )
    return Blocks(files, block_rows)


def read_block(file: str, dimensions: int) -> NDArray[np.float32]:
    """The vectors of one block: (n, dimensions) float32, in order of their index."""
    with storage.open_input_file(file) as opened:
        table = pq.read_table(opened, columns=["index", "embedding"])
    index = table.column("index").to_numpy()
    if not np.array_equal(index, np.arange(index[0], index[0] + len(index))):
        raise JobFailed(f"{file}: rows are not in order, or an id stands more than once")
    values: NDArray[np.float32] = table.column("embedding").combine_chunks().flatten().to_numpy()
    return values.reshape(-1, dimensions)
