"""Queries against a collection by Spark's tasks: blocks of queries times blocks of the collection.

A task compares some blocks of queries with some of the collection, and hands on the queries' lists of scores, 8 bytes
for each candidate. The tasks of a second stage merge the lists of a block of queries, and give the candidates exact
distances. Queries whose answers this does not prove are compared with all by brute force. A task's memory is bounded
(``neighbours.task_bytes``), however many queries and vectors there are. The driver holds the answers.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from image_similarity.knn import calibration, candidates, engine, queries, rerank, scoring, screening
from image_similarity.knn.backends.cpu import Cpu
from image_similarity.knn.candidates import MAX_INDEX, NONE, Keys
from image_similarity.knn.distances import METRICS, Indices
from image_similarity.knn.engine import MAX_UNCERTAIN_SHARE, Search
from image_similarity.knn.rerank import Part, Reranker
from image_similarity.knn.scoring import BFLOAT16, FLOAT32, SCREENS
from image_similarity.knn.screening import Choice
from image_similarity.reporting import current
from image_similarity.runtime.progress import progress, step
from image_similarity.settings import NeighboursSettings
from image_similarity.stages.search.answers import Answers, Images, Nearest, Vectors, named
from image_similarity.warehouse.workspace import Workspace

SCORES, EXACT, BRUTE_FORCED = "scores", "exact", "brute-forced"
"""Folders of the workspace."""
_SCORES = pa.schema([("block", pa.int32()), *((name, pa.binary()) for name in ("similar", "dissimilar", "error"))])
"""Lists of scores of a block of queries from one task."""
_KEYS = pa.schema([(name, pa.binary()) for name in ("index", "similar", "dissimilar", "proven")])
"""Sorted exact lists of some queries, and whether they are proven to be the best."""
AUTO = "auto"
_PROCESS_BYTES = 300 * 2**20
"""Memory of a worker before it holds a vector."""
_TASKS_PER_CORE = 4
_WORTH_CUTTING, _LONG = 2e10, 2e13
"""Multiplications and additions for which a task is worth its start, and for which a task takes minutes: what is
lost where it fails, and what progress is measured in."""
_WORTH_TRYING = 1e12
"""Multiplications and additions of a core. Shorter work is done in float32: torch, which multiplies bfloat16, takes
seconds to import."""
_BLOCKS_TRIED = 8
"""Blocks that precisions are tried with: a task reads them, and takes seconds at most."""
_MOST_PARTS = 1000
"""Parts of the collection. The lists of each cross the network."""


class Blocks(Protocol):
    """Distinct vectors in files that tasks read by path."""

    @property
    def new(self) -> list[int]:
        """For each block, the number of its vectors."""
        ...

    @property
    def dimensions(self) -> int: ...

    def __len__(self) -> int: ...

    def part(self, block: int) -> Part: ...

    def rescore(self, reranker: Reranker) -> None:
        """Give ``reranker`` the vectors of all its candidates."""
        ...


class Packed(Vectors, Protocol):
    """Vectors in blocks, checked and numbered."""

    @property
    def blocks(self) -> Blocks: ...


@dataclass(frozen=True)
class Cut:
    """How work is cut into tasks, before any vector is read."""

    block_rows: int
    """The most queries in a block. One task merges its lists from all parts of the collection."""
    query_rows: int
    """The queries that a task compares."""
    parts: int
    """The parts of the collection that tasks compare with."""
    cores: int
    """The number of tasks that run at once."""
    bytes_of_lists: int
    """The lists of scores that tasks write."""

    @classmethod
    def of(cls, asked: int, vectors: int, dimensions: int, cores: int, settings: NeighboursSettings) -> "Cut":
        """``asked`` queries against ``vectors`` of ``dimensions`` values, by ``cores`` that each run a task."""
        candidates_each = sum(_lengths(settings))
        half = max(2**20, settings.task_bytes - _PROCESS_BYTES) // 2  # the other half is for vectors of the collection
        query_rows = max(1, min(asked, half // (8 * dimensions + 16 * candidates_each)))
        groups = max(1, -(-asked // query_rows))
        work = 2 * asked * vectors * dimensions
        tasks = max(min(_TASKS_PER_CORE * cores, work // int(_WORTH_CUTTING)), work // int(_LONG), 1)
        parts = min(_MOST_PARTS, -(-tasks // groups))
        # Lists arrive as bytes, are joined, and are partitioned. Candidates get rows, places and exact keys.
        merged = half // (candidates_each * (24 * parts + 64) + 12 * dimensions)
        block_rows = max(1, min(settings.block_rows, merged))
        return cls(block_rows, query_rows, parts, cores, 8 * candidates_each * parts * asked)


def _lengths(settings: NeighboursSettings) -> tuple[int, int]:
    """The most candidates in a list, similar and dissimilar, of any precision."""
    similar, dissimilar = (
        max(scoring.candidate_count(k, screen) + 1 for screen in SCREENS.values())
        for k in (settings.similar, settings.dissimilar)
    )
    return similar, dissimilar


@dataclass(frozen=True)
class Work:
    """The parameters of every task; plain values, sent to workers."""

    queries: Blocks
    collection: Blocks
    search: Search

    @property
    def pairs(self) -> int:
        return sum(self.queries.new) * sum(self.collection.new)

    def asked(self, block: int) -> Part:
        return queries.strangers(self.queries.part(block))


def run(
    spark: SparkSession,
    asked: Packed,
    asked_images: Images,
    collection: Packed,
    images: Images,
    cut: Cut,
    settings: NeighboursSettings,
    scratch: Workspace,
) -> Answers:
    """The answers to ``asked``, whose vectors are as long as those of ``collection``.

    ``asked_images``, ``images``: the images of both. ``settings``: which answers, and how to compare.
    """
    work = Work(asked.blocks, collection.blocks, _search(asked, collection, settings))
    choice = _choice(spark, work, cut, settings)
    screens = list(dict.fromkeys([choice.screen, FLOAT32.name])) if settings.screen == AUTO else [choice.screen]
    for screen in screens:
        work = replace(work, search=replace(work.search, screen=screen))
        lists = _lists(spark, work, cut, scratch)
        uncertain = np.sort(lists.index[~lists.proven])
        if len(uncertain) <= MAX_UNCERTAIN_SHARE * len(lists.index) or screen == screens[-1]:
            break
        plain, detail = screening.once_more(screen, len(uncertain), len(lists.index))
        current().tell("note", plain)
        current().tell("note", detail, detail=True)
        scratch.remove(SCORES)
        scratch.remove(EXACT)
    if len(uncertain):
        _complete(spark, work, uncertain, cut, settings, scratch)
        lists = lists.completed(scratch)
    choice = replace(choice, screen=screen)
    neighbours = Nearest(lists.index - MAX_INDEX, lists.similar, lists.dissimilar, len(uncertain), choice)
    with step(spark, "name answers"):
        return named(asked_images, asked.failures, images, collection, neighbours)


def _search(asked: Packed, collection: Packed, settings: NeighboursSettings) -> Search:
    dimensions, largest = collection.dimensions, max(asked.largest, collection.largest)
    return Search(
        settings.metric,
        FLOAT32.name,
        dimensions,
        scoring.scale_of(largest, dimensions, METRICS[settings.metric]),
        settings.similar,
        settings.dissimilar,
        sum(collection.blocks.new),
    )


# -- the precision of scores -------------------------------------------------------------------------------------------


def _choice(spark: SparkSession, work: Work, cut: Cut, settings: NeighboursSettings) -> Choice:
    """The precision that a worker multiplies fastest, unless a sample shows that it proves too little."""
    if settings.screen != AUTO:
        return Choice(settings.screen, "neighbours.screen asks for it")
    if 2 * work.pairs * work.search.dimensions < _WORTH_TRYING * cut.cores:
        return Choice(FLOAT32.name, "the work is too short for another one")

    def tried(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            yield pa.RecordBatch.from_pydict({"shares": [json.dumps(_unproven(work))]})

    with step(spark, "try precisions"):
        (row,) = spark.range(0, 1, 1, 1).mapInArrow(tried, "shares string").collect()
    shares = json.loads(row["shares"])
    if not shares:
        return Choice(FLOAT32.name, "it is the fastest one of a worker")
    share = shares[BFLOAT16.name]
    if share > MAX_UNCERTAIN_SHARE:
        return Choice(FLOAT32.name, f"{BFLOAT16.name} would leave {share:.0%} of the queries unproven, by a sample")
    return Choice(BFLOAT16.name, f"it is the fastest one of a worker, and leaves {share:.0%} of a sample unproven")


def _unproven(work: Work) -> dict[str, float]:
    """The shares of queries that each precision would leave unproven, from a sample of blocks; nothing where a worker
    multiplies float32 fastest.
    """
    search = work.search
    vectors = sum(work.collection.new)
    rate = calibration.rate(vectors, search.dimensions, search.metric, search.similar, search.dissimilar, AUTO)
    if rate.screen == FLOAT32.name:
        return {}
    parts = [work.collection.part(block) for block in _spread(len(work.collection), _BLOCKS_TRIED)]
    blocks = _spread(len(work.queries), _BLOCKS_TRIED)
    asked = [work.asked(block) for block in blocks]
    some = rerank.joined([part[_spread(len(part), -(-screening.QUERIES // len(asked)))] for part in asked])
    strips = (search.strip(Cpu(), part, (0, 0)) for part in parts)
    return screening.unproven(search, some, strips, work.collection.rescore, vectors, sum(map(len, parts)))


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """At most ``most`` of so many numbers."""
    return np.unique(np.linspace(0, count - 1, most).astype(np.int64))


# -- scores ------------------------------------------------------------------------------------------------------------


def _compared(spark: SparkSession, work: Work, cut: Cut, scratch: Workspace) -> DataFrame:
    """Rows of `_SCORES`: the lists of each block of queries from each part of the collection."""
    groups = _grouped(work.queries.new, -(-sum(work.queries.new) // cut.query_rows))
    tasks = [(group, part) for group in groups for part in _grouped(work.collection.new, cut.parts)]
    shared = spark.sparkContext.broadcast(tasks)

    def compared(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for task in batch.column("id").to_pylist():
                yield from _task(work, *shared.value[task])

    with progress(spark, f"compare in {work.search.screen}", work.pairs, "pairs", len(tasks)):
        lists = spark.range(0, len(tasks), 1, len(tasks)).mapInArrow(compared, from_arrow_schema(_SCORES))
        return scratch.write(SCORES, lists)


def _grouped(counts: list[int], groups: int) -> list[list[int]]:
    """Blocks with ``counts`` vectors in at most ``groups`` groups of about as many vectors, none of them empty."""
    ends = np.cumsum(counts)
    group = (ends - 1) * groups // max(1, int(ends[-1]))
    return [np.nonzero(group == number)[0].tolist() for number in np.unique(group)]


def _task(work: Work, blocks: list[int], part: list[int]) -> Iterator[pa.RecordBatch]:
    """Compares ``blocks`` of queries with the blocks of the collection in ``part``: rows of `_SCORES`."""
    backend, search = Cpu(), work.search
    strips = [search.strip(backend, work.asked(block), queries.list_lengths(search)) for block in blocks]
    for block in part:
        engine.compare(strips, [search.strip(backend, work.collection.part(block), (0, 0))])
    for block, strip in zip(blocks, strips):
        columns = [[block], *([array.tobytes()] for array in (*strip.keys(), strip.error))]
        yield pa.RecordBatch.from_arrays(list(map(pa.array, columns, _SCORES.types)), schema=_SCORES)


# -- exact distances ---------------------------------------------------------------------------------------------------


def _lists(spark: SparkSession, work: Work, cut: Cut, scratch: Workspace) -> "_Lists":
    """The exact lists of all queries by their best scores, proven or not."""
    if not len(work.queries):
        return _Lists.of([], work.search)
    scores = _compared(spark, work, cut, scratch)
    with step(spark, "exact distances"):
        _settle(work, scores, cut, scratch)
        return _Lists.of(_rows(scratch, EXACT), work.search)


def _settle(work: Work, scores: DataFrame, cut: Cut, scratch: Workspace) -> None:
    """Writes rows of `_KEYS`: the exact lists of all queries."""

    def settled(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows = (row for batch in batches for number in range(len(batch)) for row in batch.slice(number, 1).to_pylist())
        for block, of_block in groupby(rows, lambda row: int(row["block"])):
            yield _exact(work, work.asked(block), list(of_block))

    tasks = min(len(work.queries), _TASKS_PER_CORE * cut.cores)
    by_block = scores.repartition(tasks, "block").sortWithinPartitions("block")
    scratch.write(EXACT, by_block.mapInArrow(settled, from_arrow_schema(_KEYS)))


def _exact(work: Work, part: Part, rows: list[dict[str, Any]]) -> pa.RecordBatch:
    """The exact lists of ``part`` from ``rows`` (`_SCORES`) about it, as a row of `_KEYS`."""
    similar, dissimilar = (
        [candidates.keys_from_bytes(row[relation], len(part)) for row in rows] for relation in ("similar", "dissimilar")
    )
    errors = [np.frombuffer(row["error"], np.float32).reshape(-1, 2) for row in rows]
    scored = engine.merge(work.search, similar, dissimilar, errors, queries.list_lengths(work.search))
    (near, far), proven = queries.settled(work.search, part, scored, work.collection.rescore)
    search = work.search
    return _row(part.index, near.keys[:, : search.similar], far.keys[:, : search.dissimilar], proven)


def _row(*arrays: Any) -> pa.RecordBatch:
    columns = [pa.array([np.ascontiguousarray(array).tobytes()], pa.binary()) for array in arrays]
    return pa.RecordBatch.from_arrays(columns, schema=_KEYS)


# -- brute force -------------------------------------------------------------------------------------------------------


def _complete(
    spark: SparkSession,
    work: Work,
    uncertain: Indices,
    cut: Cut,
    settings: NeighboursSettings,
    scratch: Workspace,
) -> None:
    """Compares the ``uncertain`` queries with all vectors: writes rows of `_KEYS`, some for each query."""
    rows = max(work.collection.new)
    at_once = max(1, settings.task_bytes // 4 // (40 * rows + 24 * work.search.dimensions))
    chunks = np.array_split(uncertain, -(-len(uncertain) // at_once))
    parts = _grouped(work.collection.new, -(-_TASKS_PER_CORE * cut.cores // len(chunks)))
    tasks = [(chunk, part) for chunk in chunks for part in parts]
    shared = spark.sparkContext.broadcast(tasks)

    def compared(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for task in batch.column("id").to_pylist():
                yield _by_brute_force(work, *shared.value[task])

    with progress(spark, "compare at full precision", len(uncertain) * work.search.others, "pairs", len(tasks)):
        keys = spark.range(0, len(tasks), 1, len(tasks)).mapInArrow(compared, from_arrow_schema(_KEYS))
        scratch.write(BRUTE_FORCED, keys)


def _by_brute_force(work: Work, chunk: Indices, blocks: list[int]) -> pa.RecordBatch:
    """The exact lists of the queries ``chunk`` among the vectors of ``blocks``: a row of `_KEYS`."""
    asked, search = (work.asked(block) for block in range(len(work.queries))), work.search
    part = rerank.joined([part[np.nonzero(np.isin(part.index, chunk))[0]] for part in asked])
    others = map(work.collection.part, blocks)
    near, far = engine.brute_force(search.measure, part, others, search.similar, search.dissimilar)
    return _row(part.index, near.keys, far.keys, np.ones(len(part), dtype=np.bool_))


# -- in the driver -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lists:
    """Sorted exact lists of queries, arrays (m, ...), as rows of `_KEYS` have them."""

    index: Indices
    similar: Keys
    dissimilar: Keys
    proven: NDArray[np.bool_]

    @classmethod
    def of(cls, rows: Iterable[tuple[Any, ...]], search: Search) -> "_Lists":
        """Those of ``rows`` that `_settle` wrote."""
        nothing = np.empty(0, np.int64), *(np.empty((0, k), np.int64) for k in (search.similar, search.dissimilar))
        return cls(*map(np.concatenate, zip((*nothing, np.empty(0, np.bool_)), *rows)))

    def completed(self, scratch: Workspace) -> "_Lists":
        """These lists; in place of those that are not proven what `_complete` wrote, merged from all of its tasks."""
        order = np.argsort(self.index)
        lists = [np.where(self.proven[:, None], keys, NONE) for keys in (self.similar, self.dissimilar)]
        for index, *of_part, _ in _rows(scratch, BRUTE_FORCED):
            place = order[np.searchsorted(self.index[order], index)]
            for keys, some in zip(lists, of_part):
                keys[place] = np.sort(np.concatenate([keys[place], some], axis=1), axis=1)[:, : keys.shape[1]]
        return replace(self, similar=lists[0], dissimilar=lists[1])


def _rows(scratch: Workspace, name: str) -> Iterator[tuple[Any, ...]]:
    """The rows of `_KEYS` in the folder ``name`` as arrays."""
    for row in (row for part in scratch.parts(name, _KEYS.names) for row in part.to_pylist()):
        index = np.frombuffer(row["index"], np.int64)
        lists = (candidates.keys_from_bytes(row[relation], len(index)) for relation in ("similar", "dissimilar"))
        yield (index, *lists, np.frombuffer(row["proven"], np.bool_))
