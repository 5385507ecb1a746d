"""Exact neighbours: a blocked cross-join.

Pairs of blocks (i <= j) are the work; one matrix product serves both blocks, similar and dissimilar at once. A task takes pairs
that share blocks, keeps a running list for every row it meets, and hands on only those lists; they are merged by the total order.
Memory is bounded by the size of a block, whatever the size of the collection.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from image_similarity.kernels import topk
from image_similarity.kernels.topk import METRICS, Block, Lists
from image_similarity.settings import NeighboursSettings
from image_similarity.spark import progress
from image_similarity.stages.neighbours.vectors import Blocks, Checked, check, pack, read_block
from image_similarity.tables import DISSIMILAR, SCHEMAS, SIMILAR
from image_similarity.warehouse import Scratch

METHOD = "exact"
BLOCKS_IN_MEMORY = topk.SQUARE + 2
PAIRS_PER_TASK = topk.SQUARE**2

_LISTS = pa.schema([("block", pa.int32()), ("similar", pa.binary()), ("dissimilar", pa.binary())])
_RANKED = pa.schema(
    [("row", pa.int64()), ("relation", pa.string()), ("rank", pa.int32()), ("neighbour", pa.int64()), ("distance", pa.float32())]
)


@dataclass(frozen=True)
class Outputs:
    """Frames in the schemas of the tables, and what was counted."""

    neighbours: DataFrame
    failures: DataFrame
    checked: Checked
    rows: int
    """Rows that ``neighbours`` must have."""


def run(spark: SparkSession, vectors: DataFrame, settings: NeighboursSettings, scratch: Scratch) -> Outputs:
    """Neighbours among ``vectors`` (image_id string, embedding array<float>), each id once."""
    checked = check(vectors, settings.metric, scratch)
    blocks = pack(vectors, checked, settings.block_rows, scratch)
    lists = _compare(spark, blocks, checked, settings, scratch)
    ranked = lists.groupBy("block").applyInArrow(
        _merge(blocks, settings), "row long, relation string, rank int, neighbour long, distance float"
    )
    mine = checked.ids.select(F.col("index").alias("row"), "image_id")
    theirs = checked.ids.select(F.col("index").alias("neighbour"), F.col("image_id").alias("neighbour_id"))
    named = _labelled(ranked.join(theirs, "neighbour").join(mine, "row"), settings)
    failures = checked.failures.withColumn("uri", F.lit(None).cast("string"))
    others = max(checked.usable - 1, 0)
    return Outputs(
        neighbours=named.select(*SCHEMAS["neighbours"].fieldNames()).sortWithinPartitions("image_id", "relation", "rank"),
        failures=_labelled(failures, settings).select(*SCHEMAS["failures"].fieldNames()),
        checked=checked,
        rows=checked.usable * (min(settings.similar, others) + min(settings.dissimilar, others)),
    )


def _labelled(rows: DataFrame, settings: NeighboursSettings) -> DataFrame:
    labels = {"fingerprint": settings.fingerprint, "metric": settings.metric, "method": METHOD}
    return rows.withColumns({name: F.lit(value) for name, value in labels.items()})


def _compare(spark: SparkSession, blocks: Blocks, checked: Checked, settings: NeighboursSettings, scratch: Scratch) -> DataFrame:
    """The lists that tasks hand on: block, similar and dissimilar keys as bytes; several rows for each block."""
    pairs = topk.block_pairs(len(blocks.files))
    tasks = _task_count(len(pairs), spark.sparkContext.defaultParallelism)
    shared = spark.sparkContext.broadcast(np.array_split(np.array(pairs, dtype=np.int32).reshape(-1, 2), tasks))
    dimensions = checked.dimensions

    def compared(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for task in batch.column("id").to_pylist():
                worker = _Worker(blocks, dimensions, settings)
                yield from worker.lists_of(shared.value[task])

    lists = spark.range(0, tasks, 1, tasks).mapInArrow(compared, "block int, similar binary, dissimilar binary")
    with progress(spark, "compare", checked.usable * (checked.usable - 1) // 2, "pairs", tasks):
        return scratch.write("lists", lists)


def _task_count(pairs: int, cores: int) -> int:
    wanted = max(pairs / PAIRS_PER_TASK, 4 * cores)
    return max(1, min(pairs, -(-round(wanted) // cores) * cores))


class _Worker:
    """Compares pairs of blocks, one after the other, with few blocks in memory."""

    def __init__(self, blocks: Blocks, dimensions: int, settings: NeighboursSettings):
        self._blocks, self._dimensions, self._settings = blocks, dimensions, settings
        self._metric = METRICS[settings.metric]
        self._loaded: dict[int, Block] = {}
        self._lists: dict[int, Lists] = {}

    def lists_of(self, pairs: NDArray[np.int32]) -> Iterator[pa.RecordBatch]:
        similar, dissimilar = self._settings.similar, self._settings.dissimilar
        for i, j in pairs.tolist():
            of_i, of_j = topk.compare(self._metric, self._block(i), self._block(j), similar, dissimilar)
            self._add(i, of_i)
            if i != j:
                self._add(j, of_j)
        for number, lists in self._lists.items():
            columns = [[number], [lists.similar.tobytes()], [lists.dissimilar.tobytes()]]
            yield pa.RecordBatch.from_arrays([pa.array(column, kind) for column, kind in zip(columns, _LISTS.types)], schema=_LISTS)

    def _add(self, number: int, lists: Lists) -> None:
        self._lists[number] = self._lists[number].merged(lists) if number in self._lists else lists

    def _block(self, number: int) -> Block:
        block = self._loaded.pop(number, None)
        if block is None:
            if len(self._loaded) == BLOCKS_IN_MEMORY:
                del self._loaded[next(iter(self._loaded))]  # the one not used for longest
            vectors = read_block(self._blocks.files[number], self._dimensions)
            block = Block(self._metric.ready(vectors), number * self._blocks.rows)
        self._loaded[number] = block
        return block


def _merge(blocks: Blocks, settings: NeighboursSettings):  # type: ignore[no-untyped-def]
    """A function that merges all lists of one block and ranks what is left: rows of `_RANKED`."""
    wanted = {SIMILAR: settings.similar, DISSIMILAR: settings.dissimilar}

    def merged(lists: pa.Table) -> pa.Table:
        first = lists.column("block")[0].as_py() * blocks.rows
        parts = []
        for relation, k in wanted.items():
            if k == 0:
                continue
            keys = [np.frombuffer(content.as_py(), np.int64).reshape(-1, k) for content in lists.column(relation)]
            best = topk.least(np.concatenate(keys, axis=1), k)
            found = topk.ranked(best, first, farthest=relation == DISSIMILAR)
            relations = pa.array([relation], pa.string()).take(pa.array(np.zeros(len(found.row), dtype=np.int32)))
            columns = [pa.array(found.row), relations, pa.array(found.rank), pa.array(found.neighbour), pa.array(found.distance)]
            parts.append(pa.Table.from_arrays(columns, schema=_RANKED))
        return pa.concat_tables(parts)

    return merged
