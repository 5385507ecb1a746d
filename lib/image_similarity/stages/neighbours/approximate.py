"""Approximate neighbours: what is near is compared first, then lists are improved by what neighbours know, and audited.

1. `layout` gives each vector a home, a part of the collection, and other parts to visit; parts that are near share a
   block.
2. The vectors of a block are compared with one another: all pairs, or by pynndescent where one part alone is so large
   that this is cheaper.
3. Vectors visit parts of other blocks, and both ends of a pair learn of it, if it is nearer than what they have. What
   was found in many places for a vector is merged, and gets exact distances.
4. An exact audit of some vectors says how good the lists are. Until that is enough, neighbours of neighbours that were
   not compared before are looked at. When this changes little, more parts are visited.

The lists depend on vectors, settings and seed, not on the order of the data, tasks or executors. One exception: what is
equal but for the rounding of float32 products (two centres, two scores) may fall differently on other processors, or in
another order."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from image_similarity.knn import candidates, graphs, recall, rerank, scoring
from image_similarity.knn.candidates import NONE, Keys, Pool
from image_similarity.knn.distances import METRICS, Values, pairs
from image_similarity.knn.nndescent import Descent
from image_similarity.knn.recall import Recall
from image_similarity.knn.warmup import warm_up
from image_similarity.runtime.progress import progress, step
from image_similarity.settings import ApproximateSettings, NeighboursSettings
from image_similarity.stages.neighbours.audit import Audit
from image_similarity.stages.neighbours.graph import Graph, slots_of
from image_similarity.stages.neighbours.layout import Layout, lay_out
from image_similarity.stages.neighbours.numbers import save
from image_similarity.stages.neighbours.plan import TASKS_OF_A_CORE, block_rows_for, cores_of, parts_for, visits_for
from image_similarity.stages.neighbours.previous import LISTS
from image_similarity.stages.neighbours.vectors import Packed
from image_similarity.storage import uris
from image_similarity.warehouse.workspace import Workspace

_OFFERS = pa.schema([("block", pa.int32()), ("slot", pa.binary()), ("key", pa.binary())])
"""Candidates for residents of a block: slots of these (int32), and as many keys (int64)."""
_CHANGED = pa.schema([("block", pa.int32()), ("changed", pa.int64()), ("short", pa.int64())])
_ROWS_AT_ONCE = 1024
_LIST_BYTES = 40
"""For each entry of a list, while it is made."""
_REACH = 64
"""Entries of a list whose neighbours are looked at: what that takes grows with the square."""
_SPARE = 14
"""Entries of lists beyond the k wanted: their neighbours are looked at too."""


@dataclass(frozen=True)
class Found:
    """Lists, and how they came about."""

    lists: DataFrame
    """index, similar, dissimilar: of the vectors of each block, as `exact` leaves them; dissimilar is empty."""
    recall: Recall
    parts: int
    visited: int
    """Parts that each vector was compared with, its home among them."""
    rounds: int
    """Of exchange between neighbours."""
    good_enough: bool
    across_borders: float | None
    """The share that was found of true neighbours whose home is another part than the vector's own; None if there are
    none."""


def run(
    spark: SparkSession,
    packed: Packed,
    common_scale: float,
    settings: NeighboursSettings,
    how: ApproximateSettings,
    scratch: Workspace,
) -> Found:
    """Similar neighbours of all packed vectors; ``common_scale``: see `screening.scale_of`."""
    parts = parts_for(packed.vectors, packed.dimensions, settings, how)
    visited = visits_for(packed.vectors, parts, how)
    most = visited * 2**how.probe_doublings
    block_rows = block_rows_for(packed.vectors, packed.dimensions, settings)
    with step(spark, "cut into parts"):
        folder = scratch.location("parts")
        layout = lay_out(spark, packed, settings.metric, common_scale, parts, most, block_rows, settings, how, folder)
    graph, seen, rounds = Graph(layout, min(settings.similar, packed.vectors - 1) + _SPARE), 0, 0
    _compile(spark, layout, how)
    graph = _among_residents(spark, graph, settings, how)
    audit = Audit.begin(spark, packed, common_scale, settings, how)
    slots = layout.array("slots")[audit.vectors]

    def measured(graph: Graph) -> tuple[Recall, bool]:
        recall = audit.recall(candidates.distances_of(audit.of_images(graph.lists(slots)[0])))
        return recall, recall.reaches(how.recall_target, how.recall_slack)

    while True:
        visited = min(visited, layout.visits)
        graph = _visit(spark, graph, seen, visited, settings, how)
        seen = visited
        graph = _filled(spark, graph, settings) if graph.short else graph
        (recall, good), changed, since = measured(graph), 1.0, 0
        while not good and changed > how.delta and since < how.rounds:
            graph, changed = _exchange(spark, graph, visited, rounds + 1, settings)
            (recall, good), since, rounds = measured(graph), since + 1, rounds + 1
        if good or visited >= layout.visits:
            return Found(
                _lists(spark, graph),
                recall,
                len(layout.first) - 1,
                visited,
                rounds,
                good,
                _across_borders(graph, audit),
            )
        visited *= 2


def _compile(spark: SparkSession, layout: Layout, how: ApproximateSettings) -> None:
    """In every worker and before the work, so that the first parts take no longer than others."""
    descent = any(map(layout.descended, range(len(layout))))
    workers = cores_of(spark)

    def compiled(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            warm_up(layout.metric, descent, how.threads)
            yield batch

    with progress(spark, "compile, with pynndescent" if descent else "compile", workers, "workers", workers):
        spark.range(0, workers, 1, workers).mapInArrow(compiled, "id long").count()


def _across_borders(graph: Graph, audit: Audit) -> float | None:
    """See `Found`; of the vectors that were audited. Where all were found or others as near, that is not a miss."""
    slot_of, home = graph.layout.array("slots"), graph.layout.array("visits")[:, 0]
    slots = slot_of[audit.vectors]
    lists = audit.nearest, graph.lists(slots)[0]
    true, found = (slots_of(keys, slot_of) for keys in lists)
    whole = recall.of_each(*(candidates.distances_of(keys) for keys in reversed(lists))) == 1
    across = (true >= 0) & (home[np.maximum(true, 0)] != home[slots][:, None])
    there = np.array([np.isin(wanted, of) for wanted, of in zip(true, found)]).reshape(true.shape)
    return float((there | whole[:, None])[across].mean()) if across.any() else None


# -- comparing by parts ------------------------------------------------------------------------------------------------


def _among_residents(
    spark: SparkSession, graph: Graph, settings: NeighboursSettings, how: ApproximateSettings
) -> Graph:
    """Compare the vectors of each block with one another. What is found is a good start, so that few pairs get past it
    later."""
    layout = graph.layout

    def compared(block: int) -> Iterator[pa.RecordBatch]:
        residents = layout.blocks.part(block)
        copies, slots = layout.copies(residents), residents.positions
        if layout.descended(block):
            keys = _scored(slots, *_descent(layout, copies, graph.kept, how).residents())
        else:
            pool = Pool(copies, slots, graph.kept)
            pieces = _pieces(np.arange(len(residents)))
            for apart in range(len(pieces)):  # near ones first: the less often are lists changed
                for one, other in zip(pieces, pieces[apart:]):
                    pool.compare(one, other)
            keys = pool.similar.keys()
        row, place = np.nonzero(keys != NONE)
        row, keys = _exact(layout, block, row, candidates.positions_of(keys[row, place]))
        keys, fresh = graphs.merged(graph.load(block)[0], row, keys)
        # Where all were compared, neighbours have nothing new to tell one another.
        yield _changed(graph, block, keys, fresh & layout.descended(block), settings)

    sizes = np.array(layout.blocks.new)
    tasks, told = _for_blocks(spark, sizes * (sizes - 1) // 2, compared, _CHANGED)
    with progress(
        spark, f"compare within {len(layout):,} blocks", int((sizes * (sizes - 1) // 2).sum()), "pairs", tasks
    ):
        return _stepped(graph, told)[0]


def _visit(
    spark: SparkSession, graph: Graph, seen: int, visited: int, settings: NeighboursSettings, how: ApproximateSettings
) -> Graph:
    """Compare all vectors with the residents of the parts that they visit, from number ``seen`` to before
    ``visited``."""
    layout = graph.layout
    starts = _visitors(layout, seen, visited)
    at_once = max(1, settings.task_bytes // 8 // (4 * layout.blocks.dimensions + _LIST_BYTES * graph.kept))

    def compared(block: int) -> Iterator[pa.RecordBatch]:
        visitors = layout.array(f"visitors-{seen}")
        visits = {
            part: visitors[starts[part] : starts[part + 1]] for part in range(*layout.of_block[block : block + 2])
        }
        yield from _offered(layout, layout.slots(block)[:1], np.array([NONE]))
        if layout.descended(block):
            yield from _descended(graph, block, visits, at_once, how)
        else:
            yield from _multiplied(graph, block, visits, at_once)

    pairs = np.add.reduceat(np.diff(layout.first) * np.diff(starts), layout.of_block[:-1])
    tasks, offers = _for_blocks(spark, pairs, compared, _OFFERS)
    with progress(spark, f"visit {visited - seen:,} parts", int(pairs.sum()), "pairs", tasks):
        return _merge(spark, graph, offers, settings, are_scores=True, add_to_fresh=True)[0]


def _visitors(layout: Layout, seen: int, visited: int) -> list[int]:
    """Write the slots that visit each part, of other blocks, and tell where those of each begin."""
    visits = layout.array("visits")[:, seen:visited]
    part, slot = visits.ravel(), np.repeat(np.arange(len(visits), dtype=np.int32), visits.shape[1])
    block_of = np.repeat(np.arange(len(layout)), np.diff(layout.of_block))
    away = block_of[part] != layout.home(slot)
    part, slot = part[away], slot[away]
    order = np.argsort(part, kind="stable")
    save(uris.join(layout.folder, f"visitors-{seen}.npy"), slot[order])
    starts: list[int] = np.searchsorted(part[order], np.arange(len(layout.first))).tolist()
    return starts


def _multiplied(
    graph: Graph, block: int, visits: dict[int, NDArray[np.int32]], at_once: int
) -> Iterator[pa.RecordBatch]:
    """All pairs of the residents of the parts of ``block`` with their visitors (slots, by part)."""
    layout = graph.layout
    residents, last = layout.blocks.part(block), graph.last(block)
    guests = np.unique(np.concatenate(list(visits.values())))
    for start in range(0, len(guests), at_once):
        some = guests[start : start + at_once]
        both = rerank.joined([residents, layout.gathered(some)])
        known = candidates.distances_of(np.concatenate([last, graph.last_of(some)]))
        pool = Pool(
            layout.copies(both),
            both.positions,
            graph.kept,
            scoring.score_at(METRICS[layout.metric], known, layout.common_scale),
        )
        for part, visitors in visits.items():
            mine = np.arange(layout.first[part], layout.first[part + 1]) - layout.blocks.first[block]
            place = np.searchsorted(some, visitors)
            here = some[np.minimum(place, len(some) - 1)] == visitors
            for theirs in _pieces(len(residents) + place[here]):
                for piece in _pieces(mine):
                    pool.compare(theirs, piece)
        keys = pool.similar.keys()
        row, place = np.nonzero(keys != NONE)
        yield from _offered(layout, pool.positions[row], keys[row, place])


def _descended(
    graph: Graph, block: int, visits: dict[int, NDArray[np.int32]], at_once: int, how: ApproximateSettings
) -> Iterator[pa.RecordBatch]:
    """The same of one large part by pynndescent, which does not look at all pairs."""
    layout = graph.layout
    residents = layout.blocks.part(block)
    index = _descent(layout, layout.copies(residents), graph.kept, how)
    visitors = max(visits.values(), key=len)  # parts without residents may share the block
    for start in range(0, len(visitors), at_once):
        some = visitors[start : start + at_once]
        keys = _scored(residents.positions, *index.visitors(layout.copies(layout.gathered(some)).low))
        row, at = np.nonzero(keys != NONE)
        found, theirs = keys[row, at], some[row]
        yield from _offered(layout, theirs, found)
        yield from _offered(
            layout, candidates.positions_of(found), candidates.moved(found, theirs.astype(np.int64))
        )  # both ways


def _descent(layout: Layout, copies: scoring.Copies, kept: int, how: ApproximateSettings) -> Descent:
    return Descent(copies.low, kept, METRICS[layout.metric].angular, how.seed, how.threads)


def _scored(slots: NDArray[np.int32], place: NDArray[np.int32], score: Values) -> Keys:
    return candidates.keys_of_scores(score, np.where(place < 0, -1, slots[place]))


def _pieces(places: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """``places`` in pieces whose products fit into the processor's cache."""
    return np.array_split(places, -(-len(places) // _ROWS_AT_ONCE)) if len(places) else []


# -- steps -------------------------------------------------------------------------------------------------------------


def _for_blocks(
    spark: SparkSession, work: NDArray[np.int64], function: Callable[[int], Iterator[pa.RecordBatch]], schema: pa.Schema
) -> tuple[int, DataFrame]:
    """What ``function`` yields for each block, and in how many tasks: few, since to begin one takes longer than some
    blocks.

    ``work``: of each block, for tasks that take about as long.
    """
    turns: list[list[int]] = [[] for _ in range(min(len(work), TASKS_OF_A_CORE * cores_of(spark)))]
    loads = np.zeros(len(turns))
    for block in np.argsort(-work, kind="stable").tolist():
        least = int(loads.argmin())
        turns[least].append(block)
        loads[least] += work[block] + 1

    def in_turn(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for turn in batch.column("id").to_pylist():
                for block in turns[turn]:
                    yield from function(block)

    return len(turns), spark.range(0, len(turns), 1, len(turns)).mapInArrow(in_turn, from_arrow_schema(schema))


def _changed(
    graph: Graph, block: int, keys: Keys, fresh: NDArray[np.bool_], settings: NeighboursSettings
) -> pa.RecordBatch:
    """Save the lists of the next step; a row of `_CHANGED` about them."""
    graph.following.save(block, keys, fresh)
    wanted = min(settings.similar, graph.layout.size - 1)
    short = int((keys[:, wanted - 1] == NONE).sum()) if wanted else 0
    return pa.RecordBatch.from_pydict(
        {"block": [block], "changed": [int(fresh[:, : settings.similar].sum())], "short": [short]}, schema=_CHANGED
    )


def _stepped(graph: Graph, told: DataFrame) -> tuple[Graph, int]:
    """Take the step that rows of `_CHANGED` tell about: the next graph, and how many of the first entries of lists
    changed."""
    rows = told.toArrow()
    assert rows.num_rows == len(graph.layout), "every block takes part"
    return replace(graph.following, short=sum(rows.column("short").to_pylist())), sum(
        rows.column("changed").to_pylist()
    )


def _offered(layout: Layout, slots: NDArray[Any], keys: Keys) -> Iterator[pa.RecordBatch]:
    """Rows of `_OFFERS`: ``keys`` (n,) for ``slots`` (n,)."""
    home = layout.home(slots)
    order = np.argsort(home, kind="stable")
    slots, keys, home = slots[order].astype(np.int32), keys[order], home[order]
    ends = np.nonzero(np.diff(home, prepend=-1, append=-1))[0]
    spans = list(zip(ends, ends[1:]))
    contents = [[values[start:end].tobytes() for start, end in spans] for values in (slots, keys)]
    yield pa.record_batch(
        [pa.array(home[ends[:-1]], pa.int32()), *(pa.array(of, pa.binary()) for of in contents)], schema=_OFFERS
    )


def _merge(
    spark: SparkSession,
    graph: Graph,
    offers: DataFrame,
    settings: NeighboursSettings,
    are_scores: bool,
    add_to_fresh: bool,
) -> tuple[Graph, int]:
    """The next graph, and how many of the first entries of lists changed.

    ``are_scores``: of keys, which name slots. ``add_to_fresh``: what is fresh in the lists remains so, since neighbours
    did not yet tell one another."""
    layout = graph.layout

    def merged(offers: pa.Table) -> pa.Table:
        block = offers.column("block")[0].as_py()
        before, fresh = graph.load(block)
        row, keys = _flat(offers, layout.blocks.first[block])
        if are_scores:
            row, keys = _exact(layout, block, *_best(row, keys, len(before), graph.kept))
        after = graphs.merged(before, row, keys, fresh if add_to_fresh else None)
        return pa.Table.from_batches([_changed(graph, block, *after, settings)])

    groups = min(len(layout), TASKS_OF_A_CORE * cores_of(spark))
    return _stepped(
        graph, offers.repartition(groups, "block").groupBy("block").applyInArrow(merged, from_arrow_schema(_CHANGED))
    )


def _flat(offers: pa.Table, first: int) -> tuple[NDArray[np.int64], Keys]:
    """Rows of `_OFFERS` as pairs: the resident, counted from ``first``, and a key."""
    slots, keys = (
        np.frombuffer(b"".join(offers.column(name).to_pylist()), of)
        for name, of in (("slot", np.int32), ("key", np.int64))
    )
    # Scores of the same pair may differ in their last bits: the better one first, whatever the order of arrival.
    order = np.argsort(keys)
    order = order[keys[order] != NONE]
    return slots[order].astype(np.int64) - first, keys[order]


def _best(row: NDArray[np.int64], keys: Keys, rows: int, kept: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of scored pairs the best ``kept`` of each row, each once: (row, slot)."""
    best, _ = graphs.merged(np.full((rows, kept), NONE), row, keys)
    row, place = np.nonzero(best != NONE)
    return row, candidates.positions_of(best[row, place])


def _exact(
    layout: Layout, block: int, row: NDArray[np.int64], slot: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Keys]:
    """Exact keys, which name numbers, of pairs of a resident of ``block`` and any slot."""
    residents = layout.blocks.part(block)
    order = np.argsort(slot, kind="stable")
    row, slot = row[order], slot[order]
    keys = np.empty(len(row), dtype=np.int64)
    ends = np.searchsorted(slot, [*layout.blocks.first, layout.size])
    for other in np.nonzero(np.diff(ends))[0].tolist():
        chosen = slice(ends[other], ends[other + 1])
        theirs = layout.blocks.whole(other)
        at = slot[chosen] - layout.blocks.first[other]
        bits = pairs(METRICS[layout.metric], residents.vectors, theirs.vectors, row[chosen], at)
        keys[chosen] = candidates.key_of(bits, theirs.index[at], False)
    return row, keys


def _exchange(
    spark: SparkSession, graph: Graph, visited: int, number: int, settings: NeighboursSettings
) -> tuple[Graph, float]:
    """Look at neighbours of neighbours; returns also the share of entries that this changed. ``number``: of the
    round."""
    layout = graph.layout
    tasks, offers = _for_blocks(spark, np.array(layout.blocks.new), partial(_proposals, graph, visited), _OFFERS)
    with progress(spark, f"exchange neighbours, round {number}", layout.size, "vectors", tasks):
        graph, changed = _merge(spark, graph, offers, settings, are_scores=False, add_to_fresh=False)
    return graph, changed / (layout.size * settings.similar)


def _filled(spark: SparkSession, graph: Graph, settings: NeighboursSettings) -> Graph:
    """Compare vectors that met too few others, as in very small parts, with all."""
    layout, wanted = graph.layout, min(settings.similar, graph.layout.size - 1)
    metric = METRICS[layout.metric]
    at_once = max(1, min(settings.block_rows, settings.task_bytes // 16 // (8 * layout.blocks.dimensions)))

    def filled(block: int) -> Iterator[pa.RecordBatch]:
        yield from _offered(layout, layout.slots(block)[:1], np.array([NONE]))
        short = np.nonzero(graph.load(block)[0][:, wanted - 1] == NONE)[0]
        for start in range(0, len(short), at_once):
            part = layout.blocks.part(block)[short[start : start + at_once]]
            keys = layout.blocks.brute_force(part, metric, graph.kept, 0)[0].keys
            yield from _offered(layout, np.repeat(part.positions, graph.kept), keys.ravel())

    tasks, offers = _for_blocks(spark, np.ones(len(layout), dtype=np.int64), filled, _OFFERS)
    with progress(spark, "compare in full", graph.short * layout.size, "pairs", tasks):
        return _merge(spark, graph, offers, settings, are_scores=False, add_to_fresh=True)[0]


def _proposals(graph: Graph, visited: int, block: int) -> Iterator[pa.RecordBatch]:
    """Rows of `_OFFERS` with what neighbours of neighbours bring to residents of ``block``, and these to them."""
    layout = graph.layout
    slot_of, visits = layout.array("slots"), layout.array("visits")[:, :visited]
    keys, fresh = graph.load(block)
    slots, fresh = np.ascontiguousarray(slots_of(keys, slot_of)[:, :_REACH]), np.ascontiguousarray(fresh[:, :_REACH])
    known = np.unique(slots[slots >= 0])
    of, of_fresh = graph.lists(known, _REACH)
    near = np.searchsorted(known, np.maximum(slots, 0)).astype(np.int32)
    mine = layout.slots(block)
    row, slot = graphs.second_neighbours(
        slots,
        fresh,
        int(mine[0]),
        not layout.descended(block),
        near,
        slots_of(of, slot_of),
        of_fresh,
        np.ascontiguousarray(visits[mine]),
        visits,
        visits[:, 0],
    )
    row, found = _exact(layout, block, row, slot.astype(np.int64))
    other = slot_of[candidates.positions_of(found)]
    number = layout.blocks.whole(block).index
    better = found < keys[row, -1]
    yield from _offered(layout, mine[:1], np.array([NONE]))
    yield from _offered(layout, mine[row[better]], found[better])
    last = graph.last_of(other)
    back = candidates.moved(found, number[row])
    better = back < last
    yield from _offered(layout, other[better], back[better])


def _lists(spark: SparkSession, graph: Graph) -> DataFrame:
    """The lists as a frame of `Found`."""
    layout = graph.layout
    schema = pa.schema([field for field in LISTS if not field[0].endswith("_floor")])

    def told(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for block in batch.column("id").to_pylist():
                keys, _ = graph.load(block)
                content = [layout.blocks.part(block).index.tobytes(), keys.tobytes(), b""]
                yield pa.RecordBatch.from_arrays([pa.array([of], pa.binary()) for of in content], schema=schema)

    return spark.range(0, len(layout), 1, min(len(layout), 2 * cores_of(spark))).mapInArrow(
        told, from_arrow_schema(schema)
    )
