"""Exact neighbours: a blocked cross-join.

Each pair of strips (i <= j) is a task. One matrix product serves both strips, and similar and dissimilar neighbours at
once. Tasks keep running lists of scores, and pass on only these (`_LISTS`: 8 bytes for each candidate). The tasks of a
second stage merge the lists of the same rows, give the candidates exact distances, keep the lists for the next run, and
name the rows of the table. Rows whose lists this does not prove are compared by brute force. ``neighbours.task_bytes``
sets the memory of a task, whatever the size of the collection.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
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
from image_similarity.stages.neighbours.numbers import Images
from image_similarity.stages.neighbours.plan import Plan, cores_of, merged_at_once, tiled
from image_similarity.stages.neighbours.previous import (
    LISTS,
    SETTLED,
    SETTLED_BY_BRUTE_FORCE,
    SETTLED_LISTS,
    PreviousRun,
    lists_of,
    renumbered_lists,
    save_known,
    settled_rows,
)
from image_similarity.stages.neighbours.table import ROWS, Naming
from image_similarity.stages.neighbours.vectors import Blocks, Packed
from image_similarity.storage import uris
from image_similarity.warehouse import parquet
from image_similarity.warehouse.schemas import DISSIMILAR, SIMILAR
from image_similarity.warehouse.workspace import Workspace

AUTO = "auto"
SCORES = "lists"
_MERGED_BY_A_TASK = 2048
"""The fewest vectors for whose lists a task of their own is started, on average."""
_BLOCKS_TRIED = 8
"""Blocks whose vectors precisions are tried with: a task reads them, and takes seconds at most."""
_KEY = [("block", pa.int32()), ("new", pa.bool_()), ("piece", pa.int32())]
_LISTS = pa.schema([*_KEY, *((name, pa.binary()) for name in ("similar", "dissimilar", "error"))])
"""Lists of scores of some vectors of a block."""
_ANY_LISTS = pa.schema([*_LISTS, *(field for field in pa.schema(LISTS) if field.name not in _LISTS.names)])
"""The same, or lists that the previous run left, whose ``error`` is null."""


class Output(Protocol):
    """The table."""

    def write(self, rows: DataFrame) -> None:
        """Add ``rows`` (`table.ROWS`)."""
        ...

    def clear(self) -> None:
        """Remove all rows that were written."""
        ...


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
    naming: Naming
    state: str
    """The folder for the lists that the next run may need."""


def run(
    spark: SparkSession,
    packed: Packed,
    common_scale: float,
    settings: NeighboursSettings,
    plan: Plan,
    scratch: Workspace,
    state: Workspace,
    previous_run: PreviousRun | None,
    output: Output,
) -> tuple[int, Choice]:
    """Writes the rows of all packed vectors to ``output``, and `SETTLED_LISTS` to ``state``. Returns the number of
    vectors that were compared by brute force, and the precision of scores.

    ``common_scale``: see `scoring.scale_of`. ``previous_run``: the state of a run with the same metric; with it, no two
    vectors are compared that are both not new.
    """
    previous_lists = None
    if previous_run is not None and len(packed.kept.vector):
        piece_rows = merged_at_once(packed.vectors, packed.dimensions, plan, settings)
        previous_lists = renumbered_lists(previous_run, packed, piece_rows, scratch)
    location = state.location("")
    choice = _choice(spark, packed, common_scale, settings, plan, location)
    screens = _screens(packed, choice.screen, settings, plan)
    for screen in screens:
        work = _work(packed, common_scale, screen, settings, plan, location)
        lists = _compare(spark, work, packed, settings, scratch)
        uncertain = _merge(spark, work, lists, previous_lists, state, output)
        if len(uncertain) <= MAX_UNCERTAIN_SHARE * sum(packed.blocks.new) or screen == screens[-1]:
            break
        plain, detail = screening.once_more(screen, len(uncertain), packed.vectors)
        current().tell("note", plain)
        current().tell("note", detail, detail=True)
        scratch.remove(SCORES)
        state.remove(SETTLED)
        output.clear()
    _complete(spark, work, uncertain, output)
    save_known(packed.numbers, state)
    return len(uncertain), replace(choice, screen=screen)


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
    spark: SparkSession, packed: Packed, common_scale: float, settings: NeighboursSettings, plan: Plan, state: str
) -> Choice:
    """The precision that the plan found to be fast, unless a sample shows that it proves too little."""
    screen = plan.rate.screen
    if settings.screen != AUTO:
        return Choice(screen, "neighbours.screen asks for it")
    if screen == FLOAT32.name or not _fits_in_float32(packed, settings, plan):
        return Choice(screen, "it is the fastest one on this machine")
    work = _work(packed, common_scale, FLOAT32.name, settings, plan, state)

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


def _work(
    packed: Packed, common_scale: float, screen: str, settings: NeighboursSettings, plan: Plan, state: str
) -> Work:
    return Work(
        packed.blocks,
        _search(packed, common_scale, screen, settings),
        plan.block_rows,
        max(1, settings.task_bytes // 4 // (40 * plan.block_rows + 24 * packed.dimensions)),
        merged_at_once(packed.vectors, packed.dimensions, plan, settings),
        Naming(settings.similar, settings.dissimilar, settings.drop_duplicates),
        state,
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
    spark: SparkSession,
    work: Work,
    lists: DataFrame,
    previous_lists: DataFrame | None,
    state: Workspace,
    output: Output,
) -> NDArray[Any]:
    """Writes exact lists, and the rows of the vectors whose lists are proven. Returns `_UNCERTAIN` of the others."""
    if not len(work.blocks):
        state.store_file(SETTLED, SETTLED_LISTS, [])
    vectors = sum(work.blocks.new) + sum(work.blocks.old)
    groups = max(1, min(len(work.blocks), 8 * cores_of(spark), -(-vectors // _MERGED_BY_A_TASK)))
    lists = _any_lists(lists)
    if previous_lists is not None:
        lists = lists.unionAll(_any_lists(previous_lists.withColumn("new", F.lit(False))))
    key = [name for name, _ in _KEY]
    pieces = lists.repartition(groups, *key).sortWithinPartitions(*key)
    with step(spark, "merge lists"):
        output.write(pieces.mapInArrow(_merging(work), from_arrow_schema(ROWS)))
    places = []
    for part in state.parts(SETTLED, ["block", "uncertain"], _of_screen(work.search)):
        for block, content in zip(part["block"].to_pylist(), part["uncertain"].to_pylist()):
            position = np.frombuffer(content, np.int32)
            places.append(np.empty(len(position), _UNCERTAIN))
            places[-1]["block"], places[-1]["position"] = block, position
    return np.sort(np.concatenate([np.empty(0, _UNCERTAIN), *places]))


_UNCERTAIN = np.dtype([("block", np.int32), ("position", np.int32)])
"""A vector whose list is not proven."""


def _any_lists(lists: DataFrame) -> DataFrame:
    kinds = from_arrow_schema(_ANY_LISTS)
    return lists.select(
        *(
            F.col(field.name) if field.name in lists.columns else F.lit(None).cast(field.dataType).alias(field.name)
            for field in kinds
        )
    )


def _complete(spark: SparkSession, work: Work, uncertain: NDArray[Any], output: Output) -> None:
    """Writes the rows and lists of the ``uncertain`` vectors, found by brute force."""
    if not len(uncertain):
        return
    # Each task takes some of the uncertain vectors, and reads all blocks.
    tasks = min(len(uncertain), 4 * cores_of(spark))
    shared = spark.sparkContext.broadcast(np.array_split(uncertain, tasks))

    def by_brute_force(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for task in batch.column("id").to_pylist():
                yield from _by_brute_force(work, shared.value[task], task)

    with progress(spark, "compare at full precision", len(uncertain) * work.search.others, "pairs", tasks):
        output.write(spark.range(0, tasks, 1, tasks).mapInArrow(by_brute_force, from_arrow_schema(ROWS)))


def _merging(work: Work) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A function that turns all lists of pieces, which come piece by piece, into exact lists and rows of the table."""

    def merged(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        images = Images.load(work.blocks.folder)
        rows = (row for batch in batches for number in range(len(batch)) for row in batch.slice(number, 1).to_pylist())
        for (block, new, piece), of_piece in groupby(rows, lambda row: (row["block"], row["new"], row["piece"])):
            part = work.blocks.part(block, new)[piece * work.piece_rows : (piece + 1) * work.piece_rows]
            settled = settled_rows(work.search, block, part, _lists_of_piece(work, part, new, list(of_piece)))
            _keep(work, SETTLED, f"{block:06d}-{'new' if new else 'old'}-{piece:04d}", settled)
            yield from work.naming.rows_of(images, settled)

    return merged


def _keep(work: Work, name: str, part: str, settled: pa.Table) -> None:
    """Writes ``settled`` for the next run. A task that is tried again writes the same to the same place."""
    file = uris.join(work.state, f"{name}/{_of_screen(work.search)}{part}.parquet")
    parquet.write_whole_file(file, SETTLED_LISTS, [settled])


def _of_screen(search: Search) -> str:
    """How the names of files begin that hold lists of one precision: a late task of another may still write its own."""
    return f"part-{search.screen}-"


def _lists_of_piece(work: Work, part: Part, new: bool, rows: list[dict[str, Any]]) -> Pair:
    """The exact lists of ``part`` from all ``rows`` (`_ANY_LISTS`) about it.

    Raises ``JobFailed`` if vectors that are not ``new`` have no lists of the run before.
    """
    scores = [row for row in rows if row["error"] is not None]
    previous = [row for row in rows if row["error"] is None]
    known = None if new else lists_of(previous, part.index)
    if known is not None and not scores:
        return known
    similar, dissimilar = (
        [candidates.keys_from_bytes(row[relation], len(part)) for row in scores] for relation in (SIMILAR, DISSIMILAR)
    )
    errors = [np.frombuffer(row["error"], np.float32).reshape(-1, 2) for row in scores]
    scored = engine.merge(work.search, similar, dissimilar, errors)
    return engine.rerank_candidates(part, scored, work.blocks.rescore, known)


def _by_brute_force(work: Work, uncertain: NDArray[Any], task: int) -> Iterator[pa.RecordBatch]:
    """Compares the ``uncertain`` vectors with all others: keeps their lists, and yields their rows of the table."""
    images = Images.load(work.blocks.folder)
    for start in range(0, len(uncertain), work.brute_force_rows):
        chunk = uncertain[start : start + work.brute_force_rows]
        part = _gathered(work.blocks, chunk["block"], chunk["position"])
        lists = engine.brute_force(work.search.measure, part, work.blocks.parts(), *work.search.list_lengths)
        settled = settled_rows(work.search, -1, part, lists)
        _keep(work, SETTLED_BY_BRUTE_FORCE, f"{task:06d}-{start:09d}", settled)
        yield from work.naming.rows_of(images, settled)


def _gathered(blocks: Blocks, block: NDArray[np.int32], position: NDArray[np.int32]) -> Part:
    """The vectors at ``position`` (n,) of ``block`` (n,) as one part, in the order of blocks."""
    parts = []
    for block_number in np.unique(block).tolist():
        part = blocks.part(block_number)
        parts.append(part[np.searchsorted(part.positions, position[block == block_number])])
    return rerank.joined(parts)
