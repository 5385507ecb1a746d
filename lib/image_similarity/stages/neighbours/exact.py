"""Exact neighbours: a blocked cross-join.

Pairs of strips of blocks (i <= j) are the tasks; one matrix product serves both sides, similar and dissimilar at once. Tasks keep
running lists of scores and hand on only those (`_LISTS`: 8 bytes for each score kept). Lists of the same rows are then merged, and
what they hold is given exact distances; rows for which that does not prove the answer are compared in full. Memory is set by
``neighbours.task_bytes``, whatever the size of the collection.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from image_similarity.kernels import screening, topk
from image_similarity.kernels.distances import METRICS, Vectors
from image_similarity.kernels.screening import SCREENS
from image_similarity.kernels.topk import Keys, Lists, Part, Rescoring, Strip
from image_similarity.settings import NeighboursSettings
from image_similarity.spark import progress
from image_similarity.stages.neighbours.plan import Plan, Tiles, block_rows, cores_of, tiled
from image_similarity.stages.neighbours.vectors import Blocks, Packed, pack
from image_similarity.tables import DISSIMILAR, SCHEMAS, SIMILAR
from image_similarity.warehouse import Scratch

METHOD = "exact"

_LISTS = pa.schema([("block", pa.int32()), ("similar", pa.binary()), ("dissimilar", pa.binary()), ("error", pa.binary())])
_SETTLED = pa.schema(
    [
        ("block", pa.int32()),
        ("index", pa.binary()),
        ("similar", pa.binary()),
        ("similar_floor", pa.binary()),
        ("dissimilar", pa.binary()),
        ("dissimilar_floor", pa.binary()),
        ("uncertain", pa.binary()),
    ]
)
_RANKED = pa.schema(
    [("row", pa.int64()), ("relation", pa.string()), ("rank", pa.int32()), ("neighbour", pa.int64()), ("distance", pa.float32())]
)
_LISTS_DDL = "block int, similar binary, dissimilar binary, error binary"
_SETTLED_DDL = (
    "block int, index binary, similar binary, similar_floor binary, dissimilar binary, dissimilar_floor binary, uncertain binary"
)
_RANKED_DDL = "row long, relation string, rank int, neighbour long, distance float"


@dataclass(frozen=True)
class Outputs:
    """Frames in the schemas of the tables, and what was counted."""

    neighbours: DataFrame
    failures: DataFrame
    packed: Packed
    rows: int
    """Rows that ``neighbours`` must have."""
    in_full: int
    """Vectors whose scores did not prove their neighbours, and that were compared in full."""


@dataclass(frozen=True)
class Work:
    """What every task needs to know; plain values, sent to workers."""

    blocks: Blocks
    metric: str
    screen: str
    shrink: float
    similar: int
    dissimilar: int
    others: int
    """That each vector can have as neighbours."""

    @property
    def kept(self) -> tuple[int, int]:
        """Length of the lists that are kept, similar and dissimilar."""
        screen = SCREENS[self.screen]
        return screening.candidates(self.similar, screen), screening.candidates(self.dissimilar, screen)


def run(
    spark: SparkSession, images: DataFrame | None, vectors: DataFrame, settings: NeighboursSettings, plan: Plan, scratch: Scratch
) -> Outputs:
    """Neighbours among ``images`` (image_id, content) with ``vectors`` (content, embedding array<float>), each content once.

    ``images`` None: each content is an image.
    """
    packed = pack(images, vectors, settings.metric, block_rows(plan.rows, settings), scratch)
    shrink = screening.shrink_of(packed.largest, packed.dimensions, METRICS[settings.metric])
    work = Work(
        packed.blocks, settings.metric, plan.rate.screen, shrink, settings.similar, settings.dissimilar, max(0, packed.vectors - 1)
    )
    tiles = tiled(packed.vectors, packed.dimensions, cores_of(spark), work.screen, settings)
    lists = _compare(spark, work, tiles, packed.vectors, scratch)
    settled, in_full = _settle(spark, work, lists, scratch)
    failures = packed.failures.withColumn("uri", F.lit(None).cast("string"))
    others = max(packed.usable - 1, 0)
    return Outputs(
        neighbours=_labelled(_named(settled.mapInArrow(_ranking(work), _RANKED_DDL), packed, settings), settings)
        .select(*SCHEMAS["neighbours"].fieldNames())
        .sortWithinPartitions("image_id", "relation", "rank"),
        failures=_labelled(failures, settings).select(*SCHEMAS["failures"].fieldNames()),
        packed=packed,
        rows=packed.usable * (min(settings.similar, others) + min(settings.dissimilar, others)),
        in_full=in_full,
    )


def _labelled(rows: DataFrame, settings: NeighboursSettings) -> DataFrame:
    labels = {"fingerprint": settings.fingerprint, "metric": settings.metric, "method": METHOD}
    return rows.withColumns({name: F.lit(value) for name, value in labels.items()})


# -- all pairs -----------------------------------------------------------------------------------------------------------------


def _compare(spark: SparkSession, work: Work, tiles: Tiles, vectors: int, scratch: Scratch) -> DataFrame:
    """The lists of scores of each block from each tile: rows of `_LISTS`."""
    strips = np.array_split(np.arange(len(work.blocks)), tiles.strips)
    pairs = [(i, j) for i, j in tiles.pairs if len(strips[i]) and len(strips[j])]
    shared = spark.sparkContext.broadcast([(strips[i], strips[j]) for i, j in pairs])
    dimensions = work.blocks.dimensions

    def compared(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for task in batch.column("id").to_pylist():
                yield from _tile(work, *shared.value[task])

    lists = spark.range(0, len(pairs), 1, max(1, len(pairs))).mapInArrow(compared, _LISTS_DDL)
    with progress(spark, f"compare {dimensions:,} values", vectors * (vectors - 1) // 2, "pairs", max(1, len(pairs))):
        return scratch.write("lists", lists)


def _tile(work: Work, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
    """Compare all blocks of one strip with all of another, which may be the same."""
    screen = SCREENS[work.screen]
    strips = {block: _strip(work, block) for block in {*rows.tolist(), *columns.tolist()}}
    most = max(len(strip.positions) for strip in strips.values())
    room = np.empty((most, most), dtype=np.float32)
    for i in rows.tolist():
        for j in columns.tolist():
            if i <= j or rows[0] != columns[0]:
                strips[i].offer(strips[j], screen, room, work.blocks.dimensions)
    for block, strip in strips.items():
        columns_of = [[block], *([content.tobytes()] for content in (strip.similar.keys(), strip.dissimilar.keys(), strip.error))]
        yield pa.RecordBatch.from_arrays([pa.array(column, kind) for column, kind in zip(columns_of, _LISTS.types)], schema=_LISTS)


def _strip(work: Work, block: int) -> Strip:
    part = work.blocks.part(block)
    copies = screening.copies(part.vectors, METRICS[work.metric], SCREENS[work.screen], work.shrink)
    return Strip(copies, part.positions, *work.kept)


# -- exact distances -----------------------------------------------------------------------------------------------------------


def _settle(spark: SparkSession, work: Work, lists: DataFrame, scratch: Scratch) -> tuple[DataFrame, int]:
    """Exact lists of all rows, as `_SETTLED`, and how many rows had to be compared in full."""
    groups = max(1, min(len(work.blocks), 1000))
    merged = lists.repartition(groups, "block").groupBy("block").applyInArrow(_merging(work), _SETTLED_DDL)
    settled = scratch.write("settled", merged)
    row = settled.agg(F.sum(F.length("uncertain")).alias("bytes")).collect()[0]
    uncertain = (row["bytes"] or 0) // np.dtype(np.int32).itemsize
    if uncertain == 0:
        return settled, 0
    # Each task takes some of the rows and reads all vectors.
    tasks = 4 * cores_of(spark)
    rows = settled.mapInArrow(_listing, "block int, row int").repartition(tasks)
    with progress(spark, "compare in full", uncertain * work.others, "pairs", tasks):
        full = scratch.write("full", rows.mapInArrow(_in_full(work), _SETTLED_DDL))
    return settled.unionAll(full), uncertain


def _merging(work: Work) -> Any:
    """A function that merges all lists of one block and gives what is left exact distances."""

    def merged(lists: pa.Table) -> pa.Table:
        block = lists.column("block")[0].as_py()
        metric, part = METRICS[work.metric], work.blocks.part(block)
        best = [
            topk.least(_side_by_side(lists.column(name), len(part)), kept) for name, kept in zip((SIMILAR, DISSIMILAR), work.kept)
        ]
        error = np.maximum.reduce([np.frombuffer(content.as_py(), np.float32) for content in lists.column("error")])
        rescoring = Rescoring(metric, part, best[0], best[1])
        for other in range(len(work.blocks)):
            rescoring.add(part if other == block else work.blocks.part(other))
        similar, dissimilar = rescoring.lists(error, SCREENS[work.screen], work.shrink)
        certain = similar.certain(work.similar, work.others) & dissimilar.certain(work.dissimilar, work.others)
        return pa.Table.from_batches([_settled(block, part.index, similar, dissimilar, np.nonzero(~certain)[0])])

    return merged


def _side_by_side(contents: Any, rows: int) -> Keys:
    return np.concatenate([_table(content.as_py(), rows) for content in contents], axis=1)


def _table(content: bytes, rows: int) -> Keys:
    """Bytes as (rows, k) keys, whatever k is, 0 too."""
    keys = np.frombuffer(content, np.int64)
    return keys.reshape(rows, len(keys) // rows)


def _settled(
    block: int, index: NDArray[np.int64], similar: Lists, dissimilar: Lists, uncertain: NDArray[np.int64]
) -> pa.RecordBatch:
    contents = [index, similar.keys, similar.floor, dissimilar.keys, dissimilar.floor, uncertain.astype(np.int32)]
    columns = [[block], *([np.ascontiguousarray(content).tobytes()] for content in contents)]
    return pa.RecordBatch.from_arrays([pa.array(column, kind) for column, kind in zip(columns, _SETTLED.types)], schema=_SETTLED)


def _listing(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The uncertain rows of `_SETTLED`, one by one."""
    for batch in batches:
        for block, content in zip(batch.column("block").to_pylist(), batch.column("uncertain").to_pylist()):
            rows = np.frombuffer(content, np.int32)
            yield pa.RecordBatch.from_pydict({"block": pa.array(np.full(len(rows), block, np.int32)), "row": pa.array(rows)})


def _in_full(work: Work) -> Any:
    """A function that compares rows (block, row) with all vectors, without screening: rows of `_SETTLED` for block -1."""

    def in_full(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            part = _gathered(work.blocks, batch.column("block").to_numpy(), batch.column("row").to_numpy())
            metric = METRICS[work.metric]
            lists = [Lists.empty(len(part), kept) for kept in work.kept]
            for block in range(len(work.blocks)):
                other = work.blocks.part(block)
                keys = topk.in_full(metric, part.vectors, part.index, other.vectors, other.index, *work.kept)
                lists = [of.merged(Lists.complete(found)) for of, found in zip(lists, keys)]
            yield _settled(-1, part.index, lists[0], lists[1], np.empty(0, dtype=np.int64))

    return in_full


def _gathered(blocks: Blocks, block: NDArray[np.int32], row: NDArray[np.int32]) -> Part:
    """Single rows of many blocks as one part."""
    found = []
    for number in np.unique(block):
        part, rows = blocks.part(int(number)), row[block == number]
        found.append((part.vectors[rows], part.positions[rows], part.index[rows]))
    vectors = [vectors for vectors, _, _ in found]
    joined = Vectors(*(np.concatenate([getattr(of, name) for of in vectors]) for name in ("values", "shift", "scale")))
    return Part(joined, np.concatenate([positions for _, positions, _ in found]), np.concatenate([index for _, _, index in found]))


# -- the table -----------------------------------------------------------------------------------------------------------------


def _ranking(work: Work) -> Any:
    """A function that makes rows of `_RANKED` from those of `_SETTLED` that are certain."""

    def ranking(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for settled in batch.to_pylist():
                index = np.frombuffer(settled["index"], np.int64)
                certain = np.ones(len(index), dtype=np.bool_)
                certain[np.frombuffer(settled["uncertain"], np.int32)] = False
                for relation, k in ((SIMILAR, work.similar), (DISSIMILAR, work.dissimilar)):
                    keys = _table(settled[relation], len(index))[certain, :k]
                    yield _long(topk.ranked(keys, index[certain], relation == DISSIMILAR), relation)

    return ranking


def _long(found: topk.Ranked, relation: str) -> pa.RecordBatch:
    relations = pa.repeat(pa.scalar(relation), len(found.row))
    columns = [pa.array(found.row), relations, pa.array(found.rank), pa.array(found.neighbour), pa.array(found.distance)]
    return pa.RecordBatch.from_arrays(columns, schema=_RANKED)


def _named(ranked: DataFrame, packed: Packed, settings: NeighboursSettings) -> DataFrame:
    """image_id, relation, rank, neighbour_id, distance, for every image, from the lists of vectors."""
    if packed.vectors == packed.usable:
        mine = packed.ids.select(F.col("index").alias("row"), "image_id")
        theirs = packed.ids.select(F.col("index").alias("neighbour"), F.col("image_id").alias("neighbour_id"))
        return ranked.join(theirs, "neighbour").join(mine, "row")
    return _shared(ranked, packed, max(settings.similar, settings.dissimilar), settings)


def _shared(ranked: DataFrame, packed: Packed, most: int, settings: NeighboursSettings) -> DataFrame:
    """The same where images share vectors: each image gets all that share a neighbour's vector, and those that share its own."""
    members = packed.ids.select("image_id", "index", "vector")
    place = F.row_number().over(Window.partitionBy("vector").orderBy("index"))
    # One more than can be needed: an image is in its own group, and not its own neighbour.
    theirs = members.withColumn("place", place).where(F.col("place") <= most + 1)
    theirs = theirs.select(
        F.col("vector").alias("neighbour"), F.col("index").alias("neighbour_index"), F.col("image_id").alias("neighbour_id")
    )
    several = members.groupBy("vector").count().where("count > 1").select(F.col("vector").alias("row"))
    relations = [relation for relation, k in ((SIMILAR, settings.similar), (DISSIMILAR, settings.dissimilar)) if k]
    own = several.select(
        "row",
        F.explode(F.array(*map(F.lit, relations))).alias("relation"),
        F.lit(1).alias("rank"),
        F.col("row").alias("neighbour"),
        F.lit(0.0).cast("float").alias("distance"),
    )
    mine = members.select(F.col("vector").alias("row"), "image_id", "index")
    pairs = ranked.unionByName(own).join(theirs, "neighbour").join(mine, "row").where("index != neighbour_index")
    nearest_first = F.when(F.col("relation") == DISSIMILAR, -F.col("distance")).otherwise(F.col("distance"))
    order = Window.partitionBy("index", "relation").orderBy(nearest_first, "neighbour_index")
    wanted = F.when(F.col("relation") == DISSIMILAR, settings.dissimilar).otherwise(settings.similar)
    return pairs.withColumn("rank", F.row_number().over(order)).where(F.col("rank") <= wanted)
