"""Approximate neighbours: parts of near vectors compared on their own, then lists improved by what neighbours know, then audited.

1. `layout` gives each vector a home and other parts to visit.
2. In each part residents are compared with one another and with visitors, all pairs, or by pynndescent where a part is so large
   that this is cheaper. Both ends of a pair learn of it.
3. What the parts found for a vector is merged, and gets exact distances.
4. Neighbours of neighbours that were not compared before are looked at, until lists hardly change.
5. An exact audit of some vectors says how good the lists are. Where that is not enough, more parts are visited.

The lists depend on vectors, settings and seed, not on the order of the data, tasks or executors; but processors that round float32
products differently may choose differently among scores that are almost equal.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from image_similarity import storage
from image_similarity.kernels import graphs, topk
from image_similarity.kernels.descent import LEAST_ROWS, Descent
from image_similarity.kernels.distances import METRICS, Values, pairs
from image_similarity.kernels.recall import Recall
from image_similarity.kernels.topk import NONE, Keys, Pool
from image_similarity.settings import ApproximateSettings, NeighboursSettings
from image_similarity.spark import progress
from image_similarity.stages.neighbours.audit import Audit
from image_similarity.stages.neighbours.layout import Layout, lay_out
from image_similarity.stages.neighbours.numbers import load, save
from image_similarity.stages.neighbours.plan import cores_of, parts_for
from image_similarity.stages.neighbours.previous import LISTS
from image_similarity.stages.neighbours.vectors import Packed
from image_similarity.warehouse import Scratch

_OFFERS = pa.schema([("block", pa.int32()), ("slot", pa.binary()), ("key", pa.binary())])
"""Candidates for residents of a block: their slots (int32), and as many keys (int64) for each of them."""
_CHANGED = pa.schema([("block", pa.int32()), ("changed", pa.int64()), ("short", pa.int64())])
_BLOCK_ROWS = 4096
_ROWS_AT_ONCE = 2048
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


@dataclass(frozen=True)
class Graph:
    """The lists after some steps, in files that tasks map: keys (n, k) of each block, and which entries the last step brought."""

    layout: Layout
    kept: int
    step: int = 0
    short: int = 0
    """Lists with fewer entries than are wanted, where there are more."""

    @property
    def following(self) -> "Graph":
        return replace(self, step=self.step + 1)

    def _file(self, name: str, block: int) -> str:
        return storage.join(self.layout.folder, f"{name}-{self.step}-{block:06d}.npy")

    def load(self, block: int) -> tuple[Keys, NDArray[np.bool_]]:
        """Nothing yet at step 0."""
        if self.step == 0:
            size = self.layout.blocks.new[block]
            return np.full((size, self.kept), NONE), np.zeros((size, self.kept), dtype=np.bool_)
        return load(self._file("keys", block)), load(self._file("fresh", block))

    def save(self, block: int, keys: Keys, fresh: NDArray[np.bool_]) -> None:
        for name, values in (("keys", keys), ("fresh", fresh), ("last", keys[:, -1])):
            save(self._file(name, block), values)

    def last(self, block: int) -> Keys:
        """(n,): the last key of each list."""
        return load(self._file("last", block)) if self.step else np.full(self.layout.blocks.new[block], NONE)


def run(
    spark: SparkSession, packed: Packed, shrink: float, settings: NeighboursSettings, how: ApproximateSettings, scratch: Scratch
) -> Found:
    """Similar neighbours of all packed vectors; ``shrink``: see `screening.shrink_of`."""
    parts = parts_for(packed.vectors, how)
    visited, most = how.visits, how.visits * 2**how.widenings
    block_rows = max(
        1, min(_BLOCK_ROWS, settings.task_bytes // 16 // (4 * packed.dimensions), -(-packed.vectors // (4 * cores_of(spark))))
    )
    layout = lay_out(spark, packed, settings.metric, shrink, parts, most, block_rows, how.seed, scratch.location("parts"))
    graph, seen, rounds = Graph(layout, min(settings.similar, packed.vectors - 1) + _SPARE), 0, 0
    audit = Audit.begin(spark, packed, shrink, settings, how)
    slots = layout.array("slots")[audit.vectors]
    while True:
        visited = min(visited, layout.visits)
        graph = _visit(spark, graph, seen, visited, settings, how)
        seen = visited
        graph, more = _exchange(spark, graph, visited, settings, how)
        rounds += more
        graph = _filled(spark, graph, settings) if graph.short else graph
        recall = audit.recall(topk.distances_of(audit.of_images(_gathered_lists(graph, slots)[0])))
        good = recall.estimate >= how.recall_target and recall.lower >= how.recall_target - how.recall_slack
        if good or visited >= layout.visits:
            return Found(_lists(spark, graph), recall, len(layout.first) - 1, visited, rounds, good)
        visited *= 2


# -- comparing within parts ----------------------------------------------------------------------------------------------------


def _visit(
    spark: SparkSession, graph: Graph, seen: int, visited: int, settings: NeighboursSettings, how: ApproximateSettings
) -> Graph:
    """Compare all vectors with the residents of the parts that they visit, from number ``seen`` to before ``visited``."""
    layout = graph.layout
    starts = _visitors(layout, seen, visited)
    kept, guests_at_once = graph.kept, max(settings.block_rows, settings.task_bytes // 8 // (4 * layout.blocks.dimensions))
    sizes = np.diff(layout.first)
    of_parts = sizes * np.diff(starts) + (sizes * (sizes - 1) // 2 if seen == 0 else 0)
    of_blocks = np.add.reduceat(of_parts, layout.of_block[:-1])
    order = np.argsort(-of_blocks, kind="stable").tolist()  # the long tasks first

    def compared(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        visitors = layout.array(f"visitors-{seen}")
        for batch in batches:
            for task in batch.column("id").to_pylist():
                block = order[task]
                first, end = layout.of_block[block], layout.of_block[block + 1]
                visits = {part: visitors[starts[part] : starts[part + 1]] for part in range(first, end)}
                large = [part for part in visits if sizes[part] >= max(how.descent_rows, LEAST_ROWS)]
                for part in large:
                    yield from _descended(layout, block, part, visits.pop(part), seen == 0, guests_at_once, kept, how)
                if visits:
                    yield from _multiplied(layout, block, visits, seen == 0, guests_at_once, kept)

    offers = spark.range(0, len(layout), 1, len(layout)).mapInArrow(compared, from_arrow_schema(_OFFERS))
    with progress(spark, f"compare in {len(sizes):,} parts", int(of_parts.sum()), "pairs", len(layout)):
        return _merge(spark, graph, offers, settings.similar, True)[0]


def _visitors(layout: Layout, seen: int, visited: int) -> list[int]:
    """Write the slots that visit each part, and tell where those of each begin."""
    visits = layout.array("visits")[:, max(seen, 1) : visited]
    part = visits.T.ravel()
    order = np.argsort(part, kind="stable")
    save(
        storage.join(layout.folder, f"visitors-{seen}.npy"), np.tile(np.arange(len(visits), dtype=np.int32), visits.shape[1])[order]
    )
    starts: list[int] = np.searchsorted(part[order], np.arange(len(layout.first))).tolist()
    return starts


def _multiplied(
    layout: Layout, block: int, visits: dict[int, NDArray[np.int32]], first_time: bool, guests_at_once: int, kept: int
) -> Iterator[pa.RecordBatch]:
    """All pairs in the parts of ``block``: of residents if it is the ``first_time``, and of visitors (slots, by part) with them."""
    residents = layout.blocks.part(block)
    own = len(residents)
    guests = np.unique(np.concatenate(list(visits.values())))
    best = np.full((own, kept), NONE)
    for start in range(0, max(len(guests), 1), guests_at_once):
        some = guests[start : start + guests_at_once]
        both = topk.joined([residents, layout.gathered(some)]) if len(some) else residents
        pool = Pool(layout.copies(both), both.positions, kept)
        for part, visitors in visits.items():
            mine = np.arange(layout.first[part], layout.first[part + 1]) - layout.blocks.first[block]
            pieces = np.array_split(mine, max(1, -(-len(mine) // _ROWS_AT_ONCE)))
            if first_time and start == 0:
                for i, piece in enumerate(pieces):
                    for other in pieces[i:]:
                        pool.compare(piece, other)
            place = np.searchsorted(some, visitors)
            here = (place < len(some)) & (some[np.minimum(place, len(some) - 1)] == visitors) if len(some) else place < 0
            for theirs in np.array_split(own + place[here], max(1, -(-int(here.sum()) // _ROWS_AT_ONCE))):
                for piece in pieces:
                    pool.compare(theirs, piece)
        keys = pool.similar.keys()
        yield from _offered(layout, pool.positions[own:], keys[own:])
        best = topk.least(np.concatenate([best, keys[:own]], axis=1), kept)
    yield from _offered(layout, residents.positions, best)


def _descended(
    layout: Layout,
    block: int,
    part: int,
    visitors: NDArray[np.int32],
    first_time: bool,
    guests_at_once: int,
    kept: int,
    how: ApproximateSettings,
) -> Iterator[pa.RecordBatch]:
    """The same of one large part by pynndescent, which does not look at all pairs."""
    first = layout.blocks.first[block]
    residents = layout.blocks.part(block)[layout.first[part] - first : layout.first[part + 1] - first]
    angular, slots = METRICS[layout.metric].angular, residents.positions
    index = Descent(layout.copies(residents).low, kept, angular, how.seed, how.threads)
    if first_time:
        yield from _offered(layout, slots, _scored(slots, *index.residents()))
    else:
        yield from _offered(layout, slots, np.empty((len(slots), 0), dtype=np.int64))
    for start in range(0, len(visitors), guests_at_once):
        some = visitors[start : start + guests_at_once]
        place, score = index.visitors(layout.copies(layout.gathered(some)).low)
        keys = _scored(slots, place, score)
        yield from _offered(layout, some, keys)
        # Both ways.
        row, at = np.nonzero(keys != NONE)
        yield from _offered(layout, slots[place[row, at]], topk.moved(keys[row, at], some[row].astype(np.int64))[:, None])


def _scored(slots: NDArray[np.int32], place: NDArray[np.int32], score: Values) -> Keys:
    return topk.keys_of_scores(score, np.where(place < 0, -1, slots[place]))


def _offered(layout: Layout, slots: NDArray[np.int32], keys: Keys) -> Iterator[pa.RecordBatch]:
    """Rows of `_OFFERS`: ``keys`` (n, any) for ``slots`` (n,)."""
    home = layout.home(slots)
    order = np.argsort(home, kind="stable")
    slots, keys, home = slots[order].astype(np.int32), keys[order], home[order]
    ends = np.nonzero(np.diff(home, prepend=-1, append=-1))[0]
    spans = list(zip(ends, ends[1:]))
    contents = [[values[start:end].tobytes() for start, end in spans] for values in (slots, keys)]
    yield pa.record_batch([pa.array(home[ends[:-1]], pa.int32()), *(pa.array(of, pa.binary()) for of in contents)], schema=_OFFERS)


# -- merging and exchange ------------------------------------------------------------------------------------------------------


def _merge(spark: SparkSession, graph: Graph, offers: DataFrame, k: int, are_scores: bool) -> tuple[Graph, int]:
    """The next graph, and how many of the ``k`` first entries of lists changed. ``are_scores``: of keys, which name slots."""
    layout, following = graph.layout, graph.following
    wanted = min(k, layout.size - 1)

    def merged(offers: pa.Table) -> pa.Table:
        block = offers.column("block")[0].as_py()
        before, _ = graph.load(block)
        row, keys = _flat(offers, layout.blocks.first[block])
        if are_scores:
            row, keys = _exact(layout, block, *_best(row, keys, len(before), graph.kept))
        after, fresh = graphs.merged(before, row, keys)
        following.save(block, after, fresh)
        short = int((after[:, wanted - 1] == NONE).sum()) if wanted else 0
        return pa.table({"block": pa.array([block], pa.int32()), "changed": [int(fresh[:, :k].sum())], "short": [short]})

    groups = min(len(layout), 8 * cores_of(spark))
    told = offers.repartition(groups, "block").groupBy("block").applyInArrow(merged, from_arrow_schema(_CHANGED)).toArrow()
    assert told.num_rows == len(layout), "every block takes part"
    return replace(following, short=sum(told.column("short").to_pylist())), sum(told.column("changed").to_pylist())


def _flat(offers: pa.Table, first: int) -> tuple[NDArray[np.int64], Keys]:
    """Rows of `_OFFERS` as pairs: the resident, counted from ``first``, and a key."""
    rows, keys = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for slot, key in zip(offers.column("slot"), offers.column("key")):
        slots = np.frombuffer(slot.as_py(), np.int32).astype(np.int64) - first
        of = topk.keys_from_bytes(key.as_py(), len(slots))
        row, place = np.nonzero(of != NONE)
        rows.append(slots[row])
        keys.append(of[row, place])
    row, key = np.concatenate(rows), np.concatenate(keys)
    # Scores of the same pair may differ in their last bits: the better one first, whatever the order of arrival.
    order = np.argsort(key)
    return row[order], key[order]


def _best(row: NDArray[np.int64], keys: Keys, rows: int, kept: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of scored pairs the best ``kept`` of each row, each once: (row, slot)."""
    best, _ = graphs.merged(np.full((rows, kept), NONE), row, keys)
    row, place = np.nonzero(best != NONE)
    return row, topk.positions_of(best[row, place])


def _exact(layout: Layout, block: int, row: NDArray[np.int64], slot: NDArray[np.int64]) -> tuple[NDArray[np.int64], Keys]:
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
        keys[chosen] = topk.key_of(bits, theirs.index[at], False)
    return row, keys


def _exchange(
    spark: SparkSession, graph: Graph, visited: int, settings: NeighboursSettings, how: ApproximateSettings
) -> tuple[Graph, int]:
    """Look at neighbours of neighbours until few entries change; and how many rounds that took."""
    layout = graph.layout
    entries = layout.size * settings.similar
    for done in range(how.rounds):

        def proposed(batches: Iterator[pa.RecordBatch], graph: Graph = graph) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                for block in batch.column("id").to_pylist():
                    yield from _proposals(graph, block, visited)

        offers = spark.range(0, len(layout), 1, len(layout)).mapInArrow(proposed, from_arrow_schema(_OFFERS))
        with progress(spark, f"exchange neighbours, round {done + 1}", layout.size, "vectors", len(layout)):
            graph, changed = _merge(spark, graph, offers, settings.similar, False)
        if changed <= how.settled * entries:
            return graph, done + 1
    return graph, how.rounds


def _filled(spark: SparkSession, graph: Graph, settings: NeighboursSettings) -> Graph:
    """Compare vectors that met too few others, as in very small parts, with all."""
    layout, wanted = graph.layout, min(settings.similar, graph.layout.size - 1)
    metric = METRICS[layout.metric]

    def filled(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for block in batch.column("id").to_pylist():
                yield from _offered(layout, layout.slots(block), np.empty((layout.blocks.new[block], 0), dtype=np.int64))
                short = np.nonzero(graph.load(block)[0][:, wanted - 1] == NONE)[0]
                for start in range(0, len(short), settings.block_rows):
                    part = layout.blocks.part(block)[short[start : start + settings.block_rows]]
                    lists, _ = layout.blocks.in_full(part, metric, graph.kept, 0)
                    yield from _offered(layout, part.positions, lists.keys)

    offers = spark.range(0, len(layout), 1, len(layout)).mapInArrow(filled, from_arrow_schema(_OFFERS))
    with progress(spark, "compare in full", graph.short * layout.size, "pairs", len(layout)):
        return _merge(spark, graph, offers, settings.similar, False)[0]


def _proposals(graph: Graph, block: int, visited: int) -> Iterator[pa.RecordBatch]:
    """Rows of `_OFFERS` with what neighbours of neighbours bring to residents of ``block``, and these to them."""
    layout = graph.layout
    slot_of, visits = layout.array("slots"), layout.array("visits")[:, :visited]
    keys, fresh = graph.load(block)
    slots = _slots(keys, slot_of)
    known = np.unique(slots[slots >= 0])
    of, of_fresh = _gathered_lists(graph, known)
    near = np.searchsorted(known, np.maximum(slots, 0)).astype(np.int32)
    mine = layout.slots(block)
    row, slot = graphs.second_neighbours(
        slots,
        fresh,
        int(mine[0]),
        near,
        _slots(of, slot_of),
        of_fresh,
        np.ascontiguousarray(visits[mine]),
        visits,
        visits[:, 0],
    )
    row, found = _exact(layout, block, row, slot.astype(np.int64))
    other = slot_of[topk.positions_of(found)]
    number = layout.blocks.whole(block).index
    better = found < keys[row, -1]
    yield from _offered(layout, mine, np.empty((len(mine), 0), dtype=np.int64))
    yield from _offered(layout, mine[row[better]], found[better][:, None])
    last = _gathered_last(graph, other)
    back = topk.moved(found, number[row])
    better = back < last
    yield from _offered(layout, other[better], back[better][:, None])


def _slots(keys: Keys, slot_of: NDArray[np.int32]) -> NDArray[np.int32]:
    """(n, k): the slots that ``keys`` name, -1 for none."""
    slots: NDArray[np.int32] = np.where(keys == NONE, np.int32(-1), slot_of[np.where(keys == NONE, 0, topk.positions_of(keys))])
    return slots


def _gathered_lists(graph: Graph, slots: NDArray[np.int32]) -> tuple[Keys, NDArray[np.bool_]]:
    """The lists of ``slots`` (n,), ascending."""
    keys = np.empty((len(slots), graph.kept), dtype=np.int64)
    fresh = np.empty((len(slots), graph.kept), dtype=np.bool_)
    home = graph.layout.home(slots)
    for block in np.unique(home).tolist():
        some = home == block
        at = slots[some] - graph.layout.blocks.first[block]
        of_keys, of_fresh = graph.load(block)
        keys[some], fresh[some] = of_keys[at], of_fresh[at]
    return keys, fresh


def _gathered_last(graph: Graph, slots: NDArray[np.int32]) -> Keys:
    """The last keys of the lists of ``slots`` (n,), in any order."""
    last = np.empty(len(slots), dtype=np.int64)
    home = graph.layout.home(slots)
    for block in np.unique(home).tolist():
        some = home == block
        last[some] = graph.last(block)[slots[some] - graph.layout.blocks.first[block]]
    return last


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

    return spark.range(0, len(layout), 1, min(len(layout), 2 * cores_of(spark))).mapInArrow(told, from_arrow_schema(schema))
