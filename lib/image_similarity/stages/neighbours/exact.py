"""Exact neighbours: a blocked cross-join.

Pairs of strips of blocks (i <= j) are the tasks; one matrix product serves both sides, similar and dissimilar at once.
Tasks keep running lists of scores and hand on only those (`_LISTS`: 8 bytes for each score kept). Lists of the same
rows are then merged, and what they hold is given exact distances; rows for which that does not prove the answer are
compared in full. Memory is set by ``neighbours.task_bytes``, whatever the size of the collection."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from image_similarity.errors import JobFailed
from image_similarity.knn import candidates, rerank, scoring
from image_similarity.knn.candidates import Keys, Lists, Strip
from image_similarity.knn.distances import METRICS
from image_similarity.knn.rerank import Part, Reranker, Scored
from image_similarity.knn.scoring import FLOAT32, SCREENS
from image_similarity.reporting import current
from image_similarity.runtime.progress import progress, step
from image_similarity.settings import NeighboursSettings
from image_similarity.stages.neighbours.plan import Plan, cores_of, merged_at_once, tiled
from image_similarity.stages.neighbours.previous import (
    LISTS,
    SETTLED,
    SETTLED_BY_BRUTE_FORCE,
    Before,
    keep,
    lists_of,
    previous,
)
from image_similarity.stages.neighbours.vectors import Blocks, Packed
from image_similarity.warehouse.schemas import DISSIMILAR, SIMILAR
from image_similarity.warehouse.workspace import Workspace

AUTO = "auto"
SCORES = "lists"
MOST_UNCERTAIN = 0.1
"""Of the vectors that are compared: with more, another pass in float32 costs less than comparing them in full (measured
at 4,096 values, where scores in bfloat16 left 98 % of made vectors unproven: 8 s for the pass, 65 s in full)."""

_LISTS = pa.schema(
    [
        ("block", pa.int32()),
        ("new", pa.bool_()),
        ("piece", pa.int32()),
        ("similar", pa.binary()),
        ("dissimilar", pa.binary()),
        ("error", pa.binary()),
    ]
)
_SETTLED = pa.schema([("block", pa.int32()), *LISTS, ("uncertain", pa.binary())])
"""Exact lists of some vectors of a block, and the positions of those whose lists are not proven."""


@dataclass(frozen=True)
class Work:
    """What every task needs to know; plain values, sent to workers."""

    blocks: Blocks
    metric: str
    screen: str
    common_scale: float
    similar: int
    dissimilar: int
    others: int
    """That each vector can have as neighbours."""
    strip_rows: int
    """Of a strip within a tile, at most: as many as of a block."""
    rows_in_full: int
    """How many vectors are compared in full at once."""
    piece_rows: int
    """How many vectors of a block are merged at once."""

    @property
    def kept(self) -> tuple[int, int]:
        """Length of the lists that are kept, similar and dissimilar."""
        screen = SCREENS[self.screen]
        return scoring.candidate_count(self.similar, screen), scoring.candidate_count(self.dissimilar, screen)


def run(
    spark: SparkSession,
    packed: Packed,
    common_scale: float,
    settings: NeighboursSettings,
    plan: Plan,
    scratch: Workspace,
    state: Workspace,
    before: Before | None,
) -> tuple[DataFrame, int]:
    """`_SETTLED` lists of all packed vectors, kept in ``state``; and how many had to be compared in full.

    ``common_scale``: see `screening.scale_of`. ``before``: what a run of the same metric left; only what is new is
    compared."""
    of_before = None
    if before is not None and len(packed.kept.vector):
        piece_rows = merged_at_once(packed.vectors, packed.dimensions, plan, settings)
        of_before = previous(before, packed, piece_rows, scratch)
    screens = _screens(packed, settings, plan)
    for screen in screens:
        work = _work(packed, common_scale, screen, settings, plan)
        settled, uncertain = _merge(spark, work, _compare(spark, work, packed, settings, scratch), of_before, state)
        if uncertain <= MOST_UNCERTAIN * sum(packed.blocks.new) or screen == screens[-1]:
            break
        told = f"{screen} does not tell the neighbours of {uncertain:,} of {packed.vectors:,} vectors: "
        told += f"{FLOAT32.name} follows"
        current().tell("note", f"  note: {told}")
        scratch.remove(SCORES)
        state.remove(SETTLED)
    settled = _completed(spark, work, settled, uncertain, state)
    keep(packed.numbers, state)
    return settled, uncertain


def _screens(packed: Packed, settings: NeighboursSettings, plan: Plan) -> list[str]:
    """The precisions that scores are made in, the fastest first; the next one only where that leaves too much
    unproven."""
    if settings.screen != AUTO:
        return [plan.rate.screen]
    try:
        tiled(packed.vectors, packed.dimensions, plan.cores, FLOAT32.name, plan.block_rows, settings)
    except JobFailed:  # its copies need twice the memory, which the plan did not ask for
        return [plan.rate.screen]
    return list(dict.fromkeys([plan.rate.screen, FLOAT32.name]))


def _work(packed: Packed, common_scale: float, screen: str, settings: NeighboursSettings, plan: Plan) -> Work:
    return Work(
        packed.blocks,
        settings.metric,
        screen,
        common_scale,
        settings.similar,
        settings.dissimilar,
        max(0, packed.vectors - 1),
        plan.block_rows,
        max(1, settings.task_bytes // 4 // (40 * plan.block_rows + 24 * packed.dimensions)),
        merged_at_once(packed.vectors, packed.dimensions, plan, settings),
    )


# -- all pairs ---------------------------------------------------------------------------------------------------------


def _compare(
    spark: SparkSession, work: Work, packed: Packed, settings: NeighboursSettings, scratch: Workspace
) -> DataFrame:
    """The lists of scores of each block from each tile: rows of `_LISTS`. Of two vectors that are not new there is no
    tile."""
    fresh, kept, cores = sum(work.blocks.new), sum(work.blocks.old), cores_of(spark)
    tiles = tiled(fresh, packed.dimensions, cores, work.screen, work.strip_rows, settings)
    new = _cut(work.blocks.new, tiles.strips, True)
    sides = [(new[i], new[j]) for i, j in tiles.pairs if max(i, j) < len(new)]
    if kept:
        strips = tiled(kept, packed.dimensions, 1, work.screen, work.strip_rows, settings).strips
        old = _cut(work.blocks.old, max(strips, -(-4 * cores // max(1, len(new)))), False)
        sides = [(of_new, of_old) for of_new in new for of_old in old] + sides
    shared = spark.sparkContext.broadcast(sides)
    dimensions = work.blocks.dimensions

    def compared(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for task in batch.column("id").to_pylist():
                yield from _tile(work, *shared.value[task])

    lists = spark.range(0, len(sides), 1, max(1, len(sides))).mapInArrow(compared, from_arrow_schema(_LISTS))
    pairs = fresh * (fresh - 1) // 2 + fresh * kept
    with progress(spark, f"compare {dimensions:,} values", pairs, "pairs", max(1, len(sides))):
        return scratch.write(SCORES, lists)


def _cut(counts: list[int], strips: int, new: bool) -> "list[_Side]":
    """The blocks as at most ``strips`` sides of about as many vectors each; ``counts``: those of each block that
    count."""
    ends = np.cumsum([0, *counts])
    cuts = np.searchsorted(ends, [ends[-1] * i / strips for i in range(1, strips)])
    parts = np.split(np.arange(len(counts)), cuts)
    return [_Side(part, new) for part in parts if sum(counts[block] for block in part)]


@dataclass(frozen=True)
class _Side:
    """One side of a tile: of some blocks the vectors that are new, or those that are not."""

    blocks: NDArray[np.int64]
    new: bool

    def strips(self, work: Work) -> list[tuple[Strip, list[tuple[int, int]]]]:
        """Strips, with the blocks in each and their numbers of vectors: blocks of which little is left share one."""
        strips: list[tuple[Strip, list[tuple[int, int]]]] = []
        parts: list[Part] = []
        origin: list[tuple[int, int]] = []
        for block in self.blocks.tolist():
            part = work.blocks.part(block, self.new)
            if parts and sum(map(len, parts)) + len(part) > work.strip_rows:
                strips.append((_strip(work, parts), origin))
                parts, origin = [], []
            if len(part):
                parts.append(part)
                origin.append((block, len(part)))
        return [*strips, (_strip(work, parts), origin)] if parts else strips


def _tile(work: Work, a: _Side, b: _Side) -> Iterator[pa.RecordBatch]:
    """Compare all vectors of one side with all of the other, which may be the same."""
    screen, itself = SCREENS[work.screen], a.new == b.new and bool(a.blocks[0] == b.blocks[0])
    rows = a.strips(work)
    columns = rows if itself else b.strips(work)
    room = np.empty((work.strip_rows, work.strip_rows), dtype=np.float32)
    for i, (strip, _) in enumerate(rows):
        for other, _ in columns[i:] if itself else columns:
            strip.offer(other, screen, room, work.blocks.dimensions)
    for side, strips in ((a, rows),) if itself else ((a, rows), (b, columns)):
        for strip, origin in strips:
            yield from _told(work, side.new, strip, origin)


def _told(work: Work, new: bool, strip: Strip, origin: list[tuple[int, int]]) -> Iterator[pa.RecordBatch]:
    """What the strip has gathered, taken apart by block and piece: rows of `_LISTS`."""
    contents = strip.similar.keys(), strip.dissimilar.keys(), strip.error
    places = []
    start = 0
    for block, rows in origin:
        step = work.piece_rows
        places += [
            (block, piece, start + first, start + min(first + step, rows))
            for piece, first in enumerate(range(0, rows, step))
        ]
        start += rows
    for block, piece, first, end in places:
        columns = [[block], [new], [piece], *([content[first:end].tobytes()] for content in contents)]
        yield pa.RecordBatch.from_arrays(
            [pa.array(column, kind) for column, kind in zip(columns, _LISTS.types)], schema=_LISTS
        )


def _strip(work: Work, parts: list[Part]) -> Strip:
    part = rerank.joined(parts)
    copies = scoring.copies(part.vectors, METRICS[work.metric], SCREENS[work.screen], work.common_scale)
    return Strip(copies, part.positions, *work.kept)


# -- exact distances ---------------------------------------------------------------------------------------------------


def _merge(
    spark: SparkSession, work: Work, lists: DataFrame, of_before: DataFrame | None, state: Workspace
) -> tuple[DataFrame, int]:
    """Exact lists as `_SETTLED`, kept in ``state``; and of how many vectors they are not proven."""
    groups = max(1, min(len(work.blocks), 8 * cores_of(spark)))
    key = ["block", "new", "piece"]
    of_block = lists.repartition(groups, *key).groupBy(*key)
    kind = from_arrow_schema(_SETTLED)
    if of_before is None:
        merged = of_block.applyInArrow(_merging(work), kind)
    else:
        kept = of_before.withColumn("new", F.lit(False)).repartition(groups, *key).groupBy(*key)
        merged = of_block.cogroup(kept).applyInArrow(_merging_with_previous(work), kind)
    with step(spark, "merge lists"):
        settled = state.write(SETTLED, merged)
    lengths = [
        pc.sum(pc.binary_length(part.column("uncertain"))).as_py() or 0 for part in state.parts(SETTLED, ["uncertain"])
    ]
    return settled, sum(lengths) // np.dtype(np.int32).itemsize


def _completed(spark: SparkSession, work: Work, settled: DataFrame, uncertain: int, state: Workspace) -> DataFrame:
    """``settled``, and the lists of those that it does not prove, which are compared with all in full."""
    if uncertain == 0:
        return settled
    # Each task takes some of the vectors and reads all.
    tasks = min(uncertain, 4 * cores_of(spark))
    rows = settled.mapInArrow(_listing, "block int, position int").repartition(tasks)
    with progress(spark, "compare in full", uncertain * work.others, "pairs", tasks):
        full = state.write(SETTLED_BY_BRUTE_FORCE, rows.mapInArrow(_in_full(work), from_arrow_schema(_SETTLED)))
    return settled.unionAll(full)


def _merging(work: Work) -> Any:
    """A function that merges all lists of one block and gives what is left exact distances."""

    def merged(lists: pa.Table) -> pa.Table:
        block, part = _part_of(work, lists)
        return _settled(work, block, part, *_rescored(work, part, lists))

    return merged


def _merging_with_previous(work: Work) -> Any:
    """The same, for vectors that are not new together with the lists that they have from the run before."""

    def merged(lists: pa.Table, of_before: pa.Table) -> pa.Table:
        if lists.num_rows and lists.column("new")[0].as_py():
            return _merging(work)(lists)
        block, part = _part_of(work, of_before if of_before.num_rows else lists)
        known = lists_of(of_before, part.index)
        if lists.num_rows:
            similar, dissimilar = _rescored(work, part, lists, known)
            known = known[0].merged(similar), known[1].merged(dissimilar)
        return _settled(work, block, part, *known)

    return merged


def _part_of(work: Work, rows: pa.Table) -> tuple[int, Part]:
    """The block, and the vectors, that a group of rows (block, new, piece) is about."""
    block, new, piece = (rows.column(name)[0].as_py() for name in ("block", "new", "piece"))
    return block, work.blocks.part(block, new)[piece * work.piece_rows : (piece + 1) * work.piece_rows]


def _rescored(work: Work, part: Part, lists: pa.Table, known: tuple[Lists, Lists] | None = None) -> tuple[Lists, Lists]:
    """The merged lists of scores of ``part``, with exact distances."""
    best = [
        candidates.least(_side_by_side(lists.column(name), len(part)), kept)
        for name, kept in zip((SIMILAR, DISSIMILAR), work.kept)
    ]
    error = np.maximum.reduce([np.frombuffer(content.as_py(), np.float32) for content in lists.column("error")])
    scored = Scored(best[0], best[1], error, SCREENS[work.screen], work.common_scale)
    reranker = Reranker(METRICS[work.metric], part, scored, known)
    work.blocks.rescore(reranker)
    return reranker.lists()


def _side_by_side(contents: Any, rows: int) -> Keys:
    return np.concatenate([candidates.keys_from_bytes(content.as_py(), rows) for content in contents], axis=1)


def _settled(work: Work, block: int, part: Part, similar: Lists, dissimilar: Lists) -> pa.Table:
    """The lists that are proven, and which are not: one row of `_SETTLED`."""
    certain = similar.certain(work.similar, work.others) & dissimilar.certain(work.dissimilar, work.others)
    of_lists = [content[certain] for lists in (similar, dissimilar) for content in (lists.keys, lists.lower_bound)]
    contents = [part.index[certain], *of_lists, part.positions[~certain]]
    columns = [[block], *([np.ascontiguousarray(content).tobytes()] for content in contents)]
    return pa.Table.from_arrays(
        [pa.array(column, kind) for column, kind in zip(columns, _SETTLED.types)], schema=_SETTLED
    )


def _listing(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The uncertain vectors of `_SETTLED`, one by one."""
    for batch in batches:
        for block, content in zip(batch.column("block").to_pylist(), batch.column("uncertain").to_pylist()):
            position = np.frombuffer(content, np.int32)
            columns = {"block": pa.array(np.full(len(position), block, np.int32)), "position": pa.array(position)}
            yield pa.RecordBatch.from_pydict(columns)


def _in_full(work: Work) -> Any:
    """A function that compares vectors (block, position) with all, without screening: rows of `_SETTLED`."""

    def brute_force(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for start in range(0, batch.num_rows, work.rows_in_full):
                rows = batch.slice(start, work.rows_in_full)
                part = _gathered(work.blocks, rows.column("block").to_numpy(), rows.column("position").to_numpy())
                lists = work.blocks.brute_force(part, METRICS[work.metric], *work.kept)
                yield from _settled(work, -1, part, *lists).to_batches()

    return brute_force


def _gathered(blocks: Blocks, block: NDArray[np.int32], position: NDArray[np.int32]) -> Part:
    """Single vectors of many blocks as one part."""
    found = []
    for number in np.unique(block).tolist():
        part = blocks.part(number)
        found.append(part[np.searchsorted(part.positions, position[block == number])])
    return rerank.joined(found)
