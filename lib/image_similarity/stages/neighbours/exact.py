"""Exact neighbours: a blocked cross-join.

Each pair of strips (i <= j) is a task. One matrix product serves both strips, and similar and dissimilar neighbours at
once. Tasks keep running lists of scores, and pass on only these (`_LISTS`: 8 bytes for each candidate). The lists of
the same rows are then merged, and their candidates get exact distances. Rows whose lists this does not prove are
compared by brute force. ``neighbours.task_bytes`` sets the memory of a task, whatever the size of the collection.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from image_similarity.errors import JobFailed
from image_similarity.knn import candidates, engine, rerank, screening
from image_similarity.knn.backends import Backend, Strip
from image_similarity.knn.backends.cpu import Cpu
from image_similarity.knn.engine import MAX_UNCERTAIN_SHARE, Pair, Search
from image_similarity.knn.rerank import Part
from image_similarity.knn.scoring import FLOAT32
from image_similarity.knn.screening import Choice
from image_similarity.reporting import current
from image_similarity.runtime.progress import progress, step
from image_similarity.settings import NeighboursSettings
from image_similarity.stages.neighbours.plan import Plan, cores_of, merged_at_once, tiled
from image_similarity.stages.neighbours.previous import (
    SETTLED,
    SETTLED_BY_BRUTE_FORCE,
    SETTLED_LISTS,
    PreviousRun,
    lists_of,
    renumbered_lists,
    save_known,
    settled_rows,
)
from image_similarity.stages.neighbours.vectors import Blocks, Packed
from image_similarity.warehouse.schemas import DISSIMILAR, SIMILAR
from image_similarity.warehouse.workspace import Workspace

AUTO = "auto"
SCORES = "lists"
_BLOCKS_TRIED = 8
"""Blocks whose vectors precisions are tried with: a task reads them, and takes seconds at most."""
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


@dataclass(frozen=True)
class Work:
    """The parameters of every task; plain values, sent to workers."""

    blocks: Blocks
    search: Search
    strip_rows: int
    """The maximum number of vectors in a strip within a tile, equal to that of a block."""
    brute_force_rows: int
    """The number of vectors that are compared by brute force at once."""
    piece_rows: int
    """The number of a block's vectors whose lists are merged at once."""


def run(
    spark: SparkSession,
    packed: Packed,
    common_scale: float,
    settings: NeighboursSettings,
    plan: Plan,
    scratch: Workspace,
    state: Workspace,
    previous_run: PreviousRun | None,
) -> tuple[DataFrame, int, Choice]:
    """`SETTLED_LISTS` of all packed vectors, written to ``state``; the number of vectors that were compared by brute
    force; and the precision of scores.

    ``common_scale``: see `scoring.scale_of`. ``previous_run``: the state of a run with the same metric; with it, no two
    vectors are compared that are both not new.
    """
    previous_lists = None
    if previous_run is not None and len(packed.kept.vector):
        piece_rows = merged_at_once(packed.vectors, packed.dimensions, plan, settings)
        previous_lists = renumbered_lists(previous_run, packed, piece_rows, scratch)
    choice = _choice(spark, packed, common_scale, settings, plan)
    screens = _screens(packed, choice.screen, settings, plan)
    for screen in screens:
        work = _work(packed, common_scale, screen, settings, plan)
        settled, uncertain = _merge(
            spark, work, _compare(spark, work, packed, settings, scratch), previous_lists, state
        )
        if uncertain <= MAX_UNCERTAIN_SHARE * sum(packed.blocks.new) or screen == screens[-1]:
            break
        plain, detail = screening.once_more(screen, uncertain, packed.vectors)
        current().tell("note", plain)
        current().tell("note", detail, detail=True)
        scratch.remove(SCORES)
        state.remove(SETTLED)
    settled = _completed(spark, work, settled, uncertain, state)
    save_known(packed.numbers, state)
    return settled, uncertain, replace(choice, screen=screen)


def _screens(packed: Packed, screen: str, settings: NeighboursSettings, plan: Plan) -> list[str]:
    """``screen``, and what follows where it leaves too many vectors unproven."""
    can_follow = settings.screen == AUTO and _fits_in_float32(packed, settings, plan)
    return list(dict.fromkeys([screen, FLOAT32.name])) if can_follow else [screen]


def _fits_in_float32(packed: Packed, settings: NeighboursSettings, plan: Plan) -> bool:
    try:
        tiled(packed.vectors, packed.dimensions, plan.cores, FLOAT32.name, plan.block_rows, settings)
    except JobFailed:  # float32 copies need twice the memory, which the plan did not include
        return False
    return True


def _choice(
    spark: SparkSession, packed: Packed, common_scale: float, settings: NeighboursSettings, plan: Plan
) -> Choice:
    """The precision that the plan found to be fast, unless a sample shows that it proves too little."""
    screen = plan.rate.screen
    if settings.screen != AUTO:
        return Choice(screen, "neighbours.screen asks for it")
    if screen == FLOAT32.name or not _fits_in_float32(packed, settings, plan):
        return Choice(screen, "it is the fastest one on this machine")
    work = _work(packed, common_scale, FLOAT32.name, settings, plan)

    def tried(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            yield pa.RecordBatch.from_pydict({"shares": [json.dumps(_unproven(work))]})

    with step(spark, "try precisions"):
        (row,) = spark.range(0, 1, 1, 1).mapInArrow(tried, "shares string").collect()
    share = json.loads(row["shares"])[screen]
    if share > MAX_UNCERTAIN_SHARE:
        return Choice(FLOAT32.name, f"{screen} would leave {share:.0%} of the vectors unproven, by a sample")
    return Choice(screen, f"it is the fastest one, and leaves {share:.0%} of a sample unproven")


def _unproven(work: Work) -> dict[str, float]:
    """The shares of vectors that each precision would leave unproven, from a sample of blocks."""
    blocks = np.unique(np.linspace(0, len(work.blocks) - 1, _BLOCKS_TRIED).astype(np.int64)).tolist()
    parts = [work.blocks.part(block) for block in blocks]
    each = -(-screening.QUERIES // len(parts))
    queries = rerank.joined([part[_spread(len(part), each)] for part in parts])
    backend = Cpu()
    strips = (work.search.strip(backend, part, (0, 0)) for part in parts)
    tried = sum(map(len, parts))
    everyone = sum(work.blocks.new) + sum(work.blocks.old)
    return screening.unproven(work.search, queries, strips, work.blocks.rescore, everyone, tried)


def _spread(rows: int, count: int) -> NDArray[np.intp]:
    return np.unique(np.linspace(0, rows - 1, count).astype(np.intp))


def _search(packed: Packed, common_scale: float, screen: str, settings: NeighboursSettings) -> Search:
    return Search(
        settings.metric,
        screen,
        packed.dimensions,
        common_scale,
        settings.similar,
        settings.dissimilar,
        max(0, packed.vectors - 1),
    )


def _work(packed: Packed, common_scale: float, screen: str, settings: NeighboursSettings, plan: Plan) -> Work:
    return Work(
        packed.blocks,
        _search(packed, common_scale, screen, settings),
        plan.block_rows,
        max(1, settings.task_bytes // 4 // (40 * plan.block_rows + 24 * packed.dimensions)),
        merged_at_once(packed.vectors, packed.dimensions, plan, settings),
    )


# -- all pairs ---------------------------------------------------------------------------------------------------------


def _compare(
    spark: SparkSession, work: Work, packed: Packed, settings: NeighboursSettings, scratch: Workspace
) -> DataFrame:
    """The lists of scores of each block from each tile: rows of `_LISTS`. No tile pairs vectors that are both not
    new.
    """
    new_rows, old_rows, cores = sum(work.blocks.new), sum(work.blocks.old), cores_of(spark)
    tiles = tiled(new_rows, packed.dimensions, cores, work.search.screen, work.strip_rows, settings)
    new_sides = _cut(work.blocks.new, tiles.strips, True)
    sides = [(new_sides[i], new_sides[j]) for i, j in tiles.pairs if max(i, j) < len(new_sides)]
    if old_rows:
        strips = tiled(old_rows, packed.dimensions, 1, work.search.screen, work.strip_rows, settings).strips
        old_sides = _cut(work.blocks.old, max(strips, -(-4 * cores // max(1, len(new_sides)))), False)
        sides = [(new_side, old_side) for new_side in new_sides for old_side in old_sides] + sides
    shared = spark.sparkContext.broadcast(sides)

    def compared(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for task in batch.column("id").to_pylist():
                yield from _tile(work, *shared.value[task])

    lists = spark.range(0, len(sides), 1, max(1, len(sides))).mapInArrow(compared, from_arrow_schema(_LISTS))
    pairs = new_rows * (new_rows - 1) // 2 + new_rows * old_rows
    with progress(spark, f"compare in {work.search.screen}", pairs, "pairs", max(1, len(sides))):
        return scratch.write(SCORES, lists)


def _cut(counts: list[int], strips: int, new: bool) -> "list[_Side]":
    """The blocks as at most ``strips`` sides with about equal numbers of vectors; ``counts``: for each block, its
    number of vectors that are new, or of those that are not.
    """
    ends = np.cumsum([0, *counts])
    cuts = np.searchsorted(ends, [ends[-1] * i / strips for i in range(1, strips)])
    sides = np.split(np.arange(len(counts)), cuts)
    return [_Side(blocks, new) for blocks in sides if sum(counts[block] for block in blocks)]


@dataclass(frozen=True)
class _Side:
    """One side of a tile: the new vectors of some blocks, or their other vectors."""

    blocks: NDArray[np.int64]
    new: bool

    def strips(self, work: Work, backend: Backend) -> list[tuple[Strip, list[tuple[int, int]]]]:
        """Strips, each with its blocks and their numbers of vectors. Blocks with few vectors on this side share a
        strip.
        """
        strips: list[tuple[Strip, list[tuple[int, int]]]] = []
        parts: list[Part] = []
        origin: list[tuple[int, int]] = []
        for block in self.blocks.tolist():
            part = work.blocks.part(block, self.new)
            if parts and sum(map(len, parts)) + len(part) > work.strip_rows:
                strips.append((work.search.strip(backend, rerank.joined(parts)), origin))
                parts, origin = [], []
            if len(part):
                parts.append(part)
                origin.append((block, len(part)))
        return [*strips, (work.search.strip(backend, rerank.joined(parts)), origin)] if parts else strips


def _tile(work: Work, a: _Side, b: _Side) -> Iterator[pa.RecordBatch]:
    """Compare all vectors of side ``a`` with all vectors of side ``b``, which may be the same side: rows of
    `_LISTS`.
    """
    backend, is_diagonal = Cpu(), a.new == b.new and bool(a.blocks[0] == b.blocks[0])
    rows = a.strips(work, backend)
    columns = rows if is_diagonal else b.strips(work, backend)
    a_strips = [strip for strip, _ in rows]
    engine.compare(a_strips, a_strips if is_diagonal else [strip for strip, _ in columns])
    for side, strips in ((a, rows),) if is_diagonal else ((a, rows), (b, columns)):
        for strip, origin in strips:
            yield from _lists_by_piece(work, side.new, strip, origin)


def _lists_by_piece(work: Work, new: bool, strip: Strip, origin: list[tuple[int, int]]) -> Iterator[pa.RecordBatch]:
    """The lists of a strip, split by block and piece: rows of `_LISTS`. ``origin``: see `_Side.strips`."""
    arrays = *strip.keys(), strip.error
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
        columns = [[block], [new], [piece], *([array[first:end].tobytes()] for array in arrays)]
        yield pa.RecordBatch.from_arrays(
            [pa.array(column, dtype) for column, dtype in zip(columns, _LISTS.types)], schema=_LISTS
        )


# -- exact distances ---------------------------------------------------------------------------------------------------


def _merge(
    spark: SparkSession, work: Work, lists: DataFrame, previous_lists: DataFrame | None, state: Workspace
) -> tuple[DataFrame, int]:
    """Exact lists as `SETTLED_LISTS`, written to ``state``, and the number of vectors whose lists are not proven."""
    groups = max(1, min(len(work.blocks), 8 * cores_of(spark)))
    key = ["block", "new", "piece"]
    by_piece = lists.repartition(groups, *key).groupBy(*key)
    schema = from_arrow_schema(SETTLED_LISTS)
    if previous_lists is None:
        merged = by_piece.applyInArrow(_merging(work), schema)
    else:
        previous_by_piece = previous_lists.withColumn("new", F.lit(False)).repartition(groups, *key).groupBy(*key)
        merged = by_piece.cogroup(previous_by_piece).applyInArrow(_merging_with_previous(work), schema)
    with step(spark, "merge lists"):
        settled = state.write(SETTLED, merged)
    lengths = [
        pc.sum(pc.binary_length(part.column("uncertain"))).as_py() or 0 for part in state.parts(SETTLED, ["uncertain"])
    ]
    return settled, sum(lengths) // np.dtype(np.int32).itemsize


def _completed(spark: SparkSession, work: Work, settled: DataFrame, uncertain: int, state: Workspace) -> DataFrame:
    """``settled``, and the lists of the ``uncertain`` vectors that it does not prove, found by brute force."""
    if uncertain == 0:
        return settled
    # Each task takes some of the uncertain vectors, and reads all blocks.
    tasks = min(uncertain, 4 * cores_of(spark))
    rows = settled.mapInArrow(_uncertain_rows, "block int, position int").repartition(tasks)
    with progress(spark, "compare at full precision", uncertain * work.search.others, "pairs", tasks):
        by_brute_force = state.write(
            SETTLED_BY_BRUTE_FORCE, rows.mapInArrow(_by_brute_force(work), from_arrow_schema(SETTLED_LISTS))
        )
    return settled.unionAll(by_brute_force)


def _merging(work: Work) -> Any:
    """A function that merges all lists of one piece and gives the remaining candidates exact distances."""

    def merged(lists: pa.Table) -> pa.Table:
        block, part = _part_of(work, lists)
        return settled_rows(work.search, block, part, _rescored(work, part, lists))

    return merged


def _merging_with_previous(work: Work) -> Any:
    """The same as `_merging`, but vectors that are not new also keep their lists from the previous run."""

    def merged(lists: pa.Table, previous_lists: pa.Table) -> pa.Table:
        if lists.num_rows and lists.column("new")[0].as_py():
            return _merging(work)(lists)
        block, part = _part_of(work, previous_lists if previous_lists.num_rows else lists)
        known = lists_of(previous_lists, part.index)
        return settled_rows(work.search, block, part, _rescored(work, part, lists, known) if lists.num_rows else known)

    return merged


def _part_of(work: Work, rows: pa.Table) -> tuple[int, Part]:
    """The block and the vectors of a group of ``rows`` with equal block, new and piece."""
    block, new, piece = (rows.column(name)[0].as_py() for name in ("block", "new", "piece"))
    return block, work.blocks.part(block, new)[piece * work.piece_rows : (piece + 1) * work.piece_rows]


def _rescored(work: Work, part: Part, lists: pa.Table, known: Pair | None = None) -> Pair:
    """The merged lists of ``part``, with exact distances; ``known``: see `engine.rerank_candidates`."""
    similar, dissimilar = (
        [candidates.keys_from_bytes(content.as_py(), len(part)) for content in lists.column(relation)]
        for relation in (SIMILAR, DISSIMILAR)
    )
    errors = [np.frombuffer(content.as_py(), np.float32).reshape(-1, 2) for content in lists.column("error")]
    scored = engine.merge(work.search, similar, dissimilar, errors)
    return engine.rerank_candidates(part, scored, work.blocks.rescore, known)


def _uncertain_rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Rows block, position: one for each uncertain vector of `SETTLED_LISTS`."""
    for batch in batches:
        for block, content in zip(batch.column("block").to_pylist(), batch.column("uncertain").to_pylist()):
            position = np.frombuffer(content, np.int32)
            columns = {"block": pa.array(np.full(len(position), block, np.int32)), "position": pa.array(position)}
            yield pa.RecordBatch.from_pydict(columns)


def _by_brute_force(work: Work) -> Any:
    """A function that compares vectors (block, position) with all vectors by brute force: rows of `SETTLED_LISTS`."""

    def brute_force(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for start in range(0, batch.num_rows, work.brute_force_rows):
                rows = batch.slice(start, work.brute_force_rows)
                part = _gathered(work.blocks, rows.column("block").to_numpy(), rows.column("position").to_numpy())
                lists = engine.brute_force(work.search.measure, part, work.blocks.parts(), *work.search.list_lengths)
                yield from settled_rows(work.search, -1, part, lists).to_batches()

    return brute_force


def _gathered(blocks: Blocks, block: NDArray[np.int32], position: NDArray[np.int32]) -> Part:
    """The vectors at ``position`` (n,) of ``block`` (n,) as one part, in the order of blocks."""
    parts = []
    for block_number in np.unique(block).tolist():
        part = blocks.part(block_number)
        parts.append(part[np.searchsorted(part.positions, position[block == block_number])])
    return rerank.joined(parts)
