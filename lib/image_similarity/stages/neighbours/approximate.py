"""Approximate neighbours: nearby partitions are compared, then neighbours of neighbours, until an audit is satisfied.

1. `layout` gives each vector a home partition and further partitions to probe. Neighbouring partitions share a block,
   and the vectors of a block's partitions are its residents.
2. The residents of a block are compared with one another: all pairs, or by pynndescent where a single partition is so
   large that this is cheaper.
3. Vectors probe partitions of other blocks. Each pair is offered to the lists of both vectors, and enters a list if it
   is nearer than the list's last entry. The offers to a list are merged, and get exact distances.
4. An exact audit of a sample measures the recall of the lists. While the recall is too low, neighbours of neighbours
   that were not compared yet are compared. When this changes few entries, nprobe is doubled.

The lists depend on the vectors, the settings and the seed, not on the order of the data, tasks or executors. There is
one exception: ties up to the rounding of float32 products (two centres, two scores) may be broken differently on
another processor, or if the order of the data is another.
"""

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
from image_similarity.stages.neighbours.graph import Graph, layout_positions
from image_similarity.stages.neighbours.layout import Layout, lay_out
from image_similarity.stages.neighbours.numbers import save
from image_similarity.stages.neighbours.plan import TASKS_PER_CORE, block_rows_for, cores_of, nlist_for, nprobe_for
from image_similarity.stages.neighbours.previous import LISTS
from image_similarity.stages.neighbours.vectors import Packed
from image_similarity.storage import uris
from image_similarity.warehouse.workspace import Workspace

_OFFERS = pa.schema([("block", pa.int32()), ("position", pa.binary()), ("key", pa.binary())])
"""Candidates for residents of a block: positions of the residents (int32), and as many keys (int64)."""
_CHANGED = pa.schema([("block", pa.int32()), ("changed", pa.int64()), ("incomplete", pa.int64())])
_ROWS_AT_ONCE = 1024
_LIST_BYTES = 40
"""Bytes of memory for each entry of a list while lists are made."""
_REACH = 64
"""The number of a list's entries whose neighbours are considered; the work grows with its square."""
_EXTRA_ENTRIES = 14
"""Entries of a list beyond the required k; their neighbours are considered, too."""


@dataclass(frozen=True)
class ApproximateResult:
    """Lists of similar neighbours, their recall, and how they were found."""

    lists: DataFrame
    """index, similar, dissimilar: one row for each block, in the form that `exact` leaves; dissimilar is empty."""
    recall: Recall
    nlist: int
    nprobe: int
    """The number of partitions that each vector was compared with, its home partition among them."""
    rounds: int
    """The number of rounds in which neighbours of neighbours were compared."""
    good_enough: bool
    across_borders: float | None
    """The recall of those true neighbours whose home partition is not the vector's own; None if there are none."""


def run(
    spark: SparkSession,
    packed: Packed,
    common_scale: float,
    settings: NeighboursSettings,
    approximate: ApproximateSettings,
    scratch: Workspace,
) -> ApproximateResult:
    """Similar neighbours of all packed vectors; ``common_scale``: see `scoring.scale_of`.

    The caller decides what to do with a result that is not good enough.
    """
    nlist = nlist_for(packed.vectors, packed.dimensions, settings, approximate)
    nprobe = nprobe_for(packed.vectors, nlist, approximate)
    max_nprobe = nprobe * 2**approximate.probe_doublings
    block_rows = block_rows_for(packed.vectors, packed.dimensions, settings)
    with step(spark, "cut into parts"):
        folder = scratch.location("parts")
        layout = lay_out(
            spark, packed, settings.metric, common_scale, nlist, max_nprobe, block_rows, settings, approximate, folder
        )
    graph, probed, rounds = Graph(layout, min(settings.similar, packed.vectors - 1) + _EXTRA_ENTRIES), 0, 0
    _compile(spark, layout, approximate)
    graph = _within_blocks(spark, graph, settings, approximate)
    audit = Audit.begin(spark, packed, common_scale, settings, approximate)
    positions = layout.array("positions")[audit.vectors]

    def measure(graph: Graph) -> tuple[Recall, bool]:
        recall = audit.recall(candidates.distances_of(audit.of_images(graph.lists(positions)[0])))
        return recall, recall.reaches(approximate.recall_target, approximate.recall_slack)

    while True:
        nprobe = min(nprobe, layout.max_nprobe)
        graph = _probe(spark, graph, probed, nprobe, settings, approximate)
        probed = nprobe
        graph = _filled_by_brute_force(spark, graph, settings) if graph.incomplete else graph
        (recall, is_good), changed, rounds_since = measure(graph), 1.0, 0
        while not is_good and changed > approximate.delta and rounds_since < approximate.rounds:
            graph, changed = _exchange(spark, graph, nprobe, rounds + 1, settings)
            (recall, is_good), rounds_since, rounds = measure(graph), rounds_since + 1, rounds + 1
        if is_good or nprobe >= layout.max_nprobe:
            return ApproximateResult(
                _lists(spark, graph),
                recall,
                len(layout.partition_starts) - 1,
                nprobe,
                rounds,
                is_good,
                _across_borders(graph, audit),
            )
        nprobe *= 2


def _compile(spark: SparkSession, layout: Layout, approximate: ApproximateSettings) -> None:
    """Compile numba's functions in every worker before the work, so that the first blocks take no longer than
    others.
    """
    descent = any(map(layout.uses_nndescent, range(len(layout))))
    workers = cores_of(spark)

    def compile_all(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            warm_up(layout.metric, descent, approximate.threads)
            yield batch

    with progress(spark, "compile, with pynndescent" if descent else "compile", workers, "workers", workers):
        spark.range(0, workers, 1, workers).mapInArrow(compile_all, "id long").count()


def _across_borders(graph: Graph, audit: Audit) -> float | None:
    """`ApproximateResult.across_borders`, measured on the audited vectors.

    A true neighbour that is not in the list counts as found if the list is complete: others in it are as near.
    """
    position_of, home = graph.layout.array("positions"), graph.layout.array("probes")[:, 0]
    positions = position_of[audit.vectors]
    lists = audit.nearest, graph.lists(positions)[0]
    true_positions, listed_positions = (layout_positions(keys, position_of) for keys in lists)
    is_complete = recall.of_each(*(candidates.distances_of(keys) for keys in reversed(lists))) == 1
    across = (true_positions >= 0) & (home[np.maximum(true_positions, 0)] != home[positions][:, None])
    is_listed = np.array(
        [np.isin(true_row, listed_row) for true_row, listed_row in zip(true_positions, listed_positions)]
    ).reshape(true_positions.shape)
    return float((is_listed | is_complete[:, None])[across].mean()) if across.any() else None


# -- comparing partitions ----------------------------------------------------------------------------------------------


def _within_blocks(
    spark: SparkSession, graph: Graph, settings: NeighboursSettings, approximate: ApproximateSettings
) -> Graph:
    """Compare the residents of each block with one another. These lists are a good start: few later pairs are nearer
    than their last entries.
    """
    layout = graph.layout

    def compare(block: int) -> Iterator[pa.RecordBatch]:
        residents = layout.blocks.part(block)
        copies, positions = layout.copies(residents), residents.positions
        if layout.uses_nndescent(block):
            keys = _scored(positions, *_nndescent(layout, copies, graph.list_length, approximate).residents())
        else:
            pool = Pool(copies, positions, graph.list_length)
            pieces = _pieces(np.arange(len(residents)))
            for offset in range(len(pieces)):  # neighbouring pieces first, so that lists change less often
                for piece, other in zip(pieces, pieces[offset:]):
                    pool.compare(piece, other)
            keys = pool.similar.keys()
        row, place = np.nonzero(keys != NONE)
        row, keys = _exact(layout, block, row, candidates.positions_of(keys[row, place]))
        keys, fresh = graphs.merged(graph.load(block)[0], row, keys)
        # Where all pairs were compared, an exchange between neighbours would bring nothing: no entry is fresh.
        yield _saved(graph, block, keys, fresh & layout.uses_nndescent(block), settings)

    sizes = np.array(layout.blocks.new)
    tasks, changes = _for_blocks(spark, sizes * (sizes - 1) // 2, compare, _CHANGED)
    with progress(
        spark, f"compare within {len(layout):,} blocks", int((sizes * (sizes - 1) // 2).sum()), "pairs", tasks
    ):
        return _next_graph(graph, changes)[0]


def _probe(
    spark: SparkSession,
    graph: Graph,
    probed: int,
    nprobe: int,
    settings: NeighboursSettings,
    approximate: ApproximateSettings,
) -> Graph:
    """Compare all vectors with the residents of the partitions that they probe: of each vector's nearest partitions,
    those from number ``probed`` to before ``nprobe``.
    """
    layout = graph.layout
    starts = _probers(layout, probed, nprobe)
    at_once = max(1, settings.task_bytes // 8 // (4 * layout.blocks.dimensions + _LIST_BYTES * graph.list_length))

    def compare(block: int) -> Iterator[pa.RecordBatch]:
        all_probers = layout.array(f"probers-{probed}")
        probers = {
            partition: all_probers[starts[partition] : starts[partition + 1]]
            for partition in range(*layout.block_partitions[block : block + 2])
        }
        yield from _offered(layout, layout.positions(block)[:1], np.array([NONE]))
        if layout.uses_nndescent(block):
            yield from _probed_by_nndescent(graph, block, probers, at_once, approximate)
        else:
            yield from _probed_pairs(graph, block, probers, at_once)

    pairs = np.add.reduceat(np.diff(layout.partition_starts) * np.diff(starts), layout.block_partitions[:-1])
    tasks, offers = _for_blocks(spark, pairs, compare, _OFFERS)
    with progress(spark, f"visit {nprobe - probed:,} parts", int(pairs.sum()), "pairs", tasks):
        return _merge(spark, graph, offers, settings, are_scores=True, add_to_fresh=True)[0]


def _probers(layout: Layout, probed: int, nprobe: int) -> list[int]:
    """Write the positions of the vectors that probe each partition from another block.

    Returns the index of the first prober of each partition, and the end of the last.
    """
    probes = layout.array("probes")[:, probed:nprobe]
    partition, position = probes.ravel(), np.repeat(np.arange(len(probes), dtype=np.int32), probes.shape[1])
    block_of = np.repeat(np.arange(len(layout)), np.diff(layout.block_partitions))
    is_elsewhere = block_of[partition] != layout.block_of(position)
    partition, position = partition[is_elsewhere], position[is_elsewhere]
    order = np.argsort(partition, kind="stable")
    save(uris.join(layout.folder, f"probers-{probed}.npy"), position[order])
    starts: list[int] = np.searchsorted(partition[order], np.arange(len(layout.partition_starts))).tolist()
    return starts


def _probed_pairs(
    graph: Graph, block: int, probers: dict[int, NDArray[np.int32]], at_once: int
) -> Iterator[pa.RecordBatch]:
    """Rows of `_OFFERS` from all pairs of the residents of ``block`` with the vectors that probe their partition.

    ``probers``: positions, by partition. ``at_once``: the number of probers in memory.
    """
    layout = graph.layout
    residents, last = layout.blocks.part(block), graph.last(block)
    all_probers = np.unique(np.concatenate(list(probers.values())))
    for start in range(0, len(all_probers), at_once):
        chunk = all_probers[start : start + at_once]
        joined = rerank.joined([residents, layout.gather(chunk)])
        last_distances = candidates.distances_of(np.concatenate([last, graph.last_of(chunk)]))
        pool = Pool(
            layout.copies(joined),
            joined.positions,
            graph.list_length,
            scoring.score_at(METRICS[layout.metric], last_distances, layout.common_scale),
        )
        for partition, partition_probers in probers.items():
            resident_rows = (
                np.arange(layout.partition_starts[partition], layout.partition_starts[partition + 1])
                - layout.blocks.first[block]
            )
            place = np.searchsorted(chunk, partition_probers)
            in_chunk = chunk[np.minimum(place, len(chunk) - 1)] == partition_probers
            for prober_rows in _pieces(len(residents) + place[in_chunk]):
                for resident_piece in _pieces(resident_rows):
                    pool.compare(prober_rows, resident_piece)
        keys = pool.similar.keys()
        row, place = np.nonzero(keys != NONE)
        yield from _offered(layout, pool.positions[row], keys[row, place])


def _probed_by_nndescent(
    graph: Graph, block: int, probers: dict[int, NDArray[np.int32]], at_once: int, approximate: ApproximateSettings
) -> Iterator[pa.RecordBatch]:
    """The same as `_probed_pairs` for the single large partition of ``block``, by pynndescent, which does not compare
    all pairs.
    """
    layout = graph.layout
    residents = layout.blocks.part(block)
    index = _nndescent(layout, layout.copies(residents), graph.list_length, approximate)
    partition_probers = max(probers.values(), key=len)  # the block may also hold partitions without residents
    for start in range(0, len(partition_probers), at_once):
        chunk = partition_probers[start : start + at_once]
        keys = _scored(residents.positions, *index.visitors(layout.copies(layout.gather(chunk)).low))
        row, column = np.nonzero(keys != NONE)
        offered, owners = keys[row, column], chunk[row]
        yield from _offered(layout, owners, offered)
        yield from _offered(
            layout, candidates.positions_of(offered), candidates.moved(offered, owners.astype(np.int64))
        )  # the same pairs for the residents


def _nndescent(layout: Layout, copies: scoring.Copies, list_length: int, approximate: ApproximateSettings) -> Descent:
    return Descent(copies.low, list_length, METRICS[layout.metric].angular, approximate.seed, approximate.threads)


def _scored(positions: NDArray[np.int32], place: NDArray[np.int32], score: Values) -> Keys:
    return candidates.keys_of_scores(score, np.where(place < 0, -1, positions[place]))


def _pieces(places: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """``places`` in pieces whose products fit into the processor's cache."""
    return np.array_split(places, -(-len(places) // _ROWS_AT_ONCE)) if len(places) else []


# -- steps -------------------------------------------------------------------------------------------------------------


def _for_blocks(
    spark: SparkSession, work: NDArray[np.int64], function: Callable[[int], Iterator[pa.RecordBatch]], schema: pa.Schema
) -> tuple[int, DataFrame]:
    """The number of tasks, and the frame of all that ``function`` yields for each block.

    Tasks are few, because starting one takes longer than some blocks. ``work`` (blocks,) is the estimated work of each
    block, which is distributed evenly among the tasks.
    """
    turns: list[list[int]] = [[] for _ in range(min(len(work), TASKS_PER_CORE * cores_of(spark)))]
    loads = np.zeros(len(turns))
    for block in np.argsort(-work, kind="stable").tolist():
        idlest = int(loads.argmin())
        turns[idlest].append(block)
        loads[idlest] += work[block] + 1

    def in_turn(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for turn in batch.column("id").to_pylist():
                for block in turns[turn]:
                    yield from function(block)

    return len(turns), spark.range(0, len(turns), 1, len(turns)).mapInArrow(in_turn, from_arrow_schema(schema))


def _saved(
    graph: Graph, block: int, keys: Keys, fresh: NDArray[np.bool_], settings: NeighboursSettings
) -> pa.RecordBatch:
    """Save the lists of ``block`` for the next step, and return their row of `_CHANGED`."""
    graph.following.save(block, keys, fresh)
    required = min(settings.similar, graph.layout.size - 1)
    incomplete = int((keys[:, required - 1] == NONE).sum()) if required else 0
    return pa.RecordBatch.from_pydict(
        {"block": [block], "changed": [int(fresh[:, : settings.similar].sum())], "incomplete": [incomplete]},
        schema=_CHANGED,
    )


def _next_graph(graph: Graph, changes: DataFrame) -> tuple[Graph, int]:
    """Run the step whose rows of `_CHANGED` are ``changes``. Returns the next graph, and the number of fresh entries
    among the first k of each list.
    """
    rows = changes.toArrow()
    assert rows.num_rows == len(graph.layout), "every block takes part"
    return replace(graph.following, incomplete=sum(rows.column("incomplete").to_pylist())), sum(
        rows.column("changed").to_pylist()
    )


def _offered(layout: Layout, positions: NDArray[Any], keys: Keys) -> Iterator[pa.RecordBatch]:
    """Rows of `_OFFERS`: ``keys`` (n,) for the vectors at ``positions`` (n,)."""
    blocks = layout.block_of(positions)
    order = np.argsort(blocks, kind="stable")
    positions, keys, blocks = positions[order].astype(np.int32), keys[order], blocks[order]
    ends = np.nonzero(np.diff(blocks, prepend=-1, append=-1))[0]
    spans = list(zip(ends, ends[1:]))
    contents = [[values[start:end].tobytes() for start, end in spans] for values in (positions, keys)]
    yield pa.record_batch(
        [pa.array(blocks[ends[:-1]], pa.int32()), *(pa.array(content, pa.binary()) for content in contents)],
        schema=_OFFERS,
    )


def _merge(
    spark: SparkSession,
    graph: Graph,
    offers: DataFrame,
    settings: NeighboursSettings,
    are_scores: bool,
    add_to_fresh: bool,
) -> tuple[Graph, int]:
    """Merge ``offers`` into the lists.

    Returns the next graph, and the number of fresh entries among the first k of each list.

    ``are_scores``: the offered keys hold scores and positions; else, exact distances and numbers. ``add_to_fresh``:
    entries that are fresh remain fresh, since they were not exchanged between neighbours yet.
    """
    layout = graph.layout

    def merged(offers: pa.Table) -> pa.Table:
        block = offers.column("block")[0].as_py()
        stored, fresh = graph.load(block)
        row, keys = _flat(offers, layout.blocks.first[block])
        if are_scores:
            row, keys = _exact(layout, block, *_best(row, keys, len(stored), graph.list_length))
        merged_lists = graphs.merged(stored, row, keys, fresh if add_to_fresh else None)
        return pa.Table.from_batches([_saved(graph, block, *merged_lists, settings)])

    groups = min(len(layout), TASKS_PER_CORE * cores_of(spark))
    return _next_graph(
        graph, offers.repartition(groups, "block").groupBy("block").applyInArrow(merged, from_arrow_schema(_CHANGED))
    )


def _flat(offers: pa.Table, first: int) -> tuple[NDArray[np.int64], Keys]:
    """Rows of `_OFFERS` as pairs: the row of the resident in its block, which begins at position ``first``, and a
    key.
    """
    positions, keys = (
        np.frombuffer(b"".join(offers.column(name).to_pylist()), dtype)
        for name, dtype in (("position", np.int32), ("key", np.int64))
    )
    # Scores of the same pair may differ in their last bits. Sorting puts the better one first, whatever the order of
    # arrival.
    order = np.argsort(keys)
    order = order[keys[order] != NONE]
    return positions[order].astype(np.int64) - first, keys[order]


def _best(
    row: NDArray[np.int64], keys: Keys, rows: int, list_length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The best ``list_length`` of the scored pairs of each row, without repetitions: (row, position)."""
    best, _ = graphs.merged(np.full((rows, list_length), NONE), row, keys)
    row, place = np.nonzero(best != NONE)
    return row, candidates.positions_of(best[row, place])


def _exact(
    layout: Layout, block: int, row: NDArray[np.int64], position: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Keys]:
    """Exact keys of the pairs of a resident of ``block`` (``row``) and the vector at any ``position``. Returns the rows
    in another order, and their keys, which hold numbers.
    """
    residents = layout.blocks.part(block)
    order = np.argsort(position, kind="stable")
    row, position = row[order], position[order]
    keys = np.empty(len(row), dtype=np.int64)
    ends = np.searchsorted(position, [*layout.blocks.first, layout.size])
    for other in np.nonzero(np.diff(ends))[0].tolist():
        in_block = slice(ends[other], ends[other + 1])
        other_part = layout.blocks.whole(other)
        other_rows = position[in_block] - layout.blocks.first[other]
        bits = pairs(METRICS[layout.metric], residents.vectors, other_part.vectors, row[in_block], other_rows)
        keys[in_block] = candidates.key_of(bits, other_part.index[other_rows], False)
    return row, keys


def _exchange(
    spark: SparkSession, graph: Graph, nprobe: int, round_number: int, settings: NeighboursSettings
) -> tuple[Graph, float]:
    """Compare neighbours of neighbours. Returns the next graph, and the share of the lists' first k entries that
    changed.
    """
    layout = graph.layout
    tasks, offers = _for_blocks(spark, np.array(layout.blocks.new), partial(_proposals, graph, nprobe), _OFFERS)
    with progress(spark, f"exchange neighbours, round {round_number}", layout.size, "vectors", tasks):
        graph, changed = _merge(spark, graph, offers, settings, are_scores=False, add_to_fresh=False)
    return graph, changed / (layout.size * settings.similar)


def _filled_by_brute_force(spark: SparkSession, graph: Graph, settings: NeighboursSettings) -> Graph:
    """Compare vectors whose lists are incomplete with all vectors by brute force. Lists are incomplete where the probed
    partitions are very small.
    """
    layout, required = graph.layout, min(settings.similar, graph.layout.size - 1)
    metric = METRICS[layout.metric]
    at_once = max(1, min(settings.block_rows, settings.task_bytes // 16 // (8 * layout.blocks.dimensions)))

    def fill(block: int) -> Iterator[pa.RecordBatch]:
        yield from _offered(layout, layout.positions(block)[:1], np.array([NONE]))
        incomplete_rows = np.nonzero(graph.load(block)[0][:, required - 1] == NONE)[0]
        for start in range(0, len(incomplete_rows), at_once):
            part = layout.blocks.part(block)[incomplete_rows[start : start + at_once]]
            keys = layout.blocks.brute_force(part, metric, graph.list_length, 0)[0].keys
            yield from _offered(layout, np.repeat(part.positions, graph.list_length), keys.ravel())

    tasks, offers = _for_blocks(spark, np.ones(len(layout), dtype=np.int64), fill, _OFFERS)
    with progress(spark, "compare in full", graph.incomplete * layout.size, "pairs", tasks):
        return _merge(spark, graph, offers, settings, are_scores=False, add_to_fresh=True)[0]


def _proposals(graph: Graph, nprobe: int, block: int) -> Iterator[pa.RecordBatch]:
    """Rows of `_OFFERS` from the neighbours of neighbours of residents of ``block``: offers to the residents, and the
    same pairs offered to the other vectors.
    """
    layout = graph.layout
    position_of, probes = layout.array("positions"), layout.array("probes")[:, :nprobe]
    keys, fresh = graph.load(block)
    positions, fresh = (
        np.ascontiguousarray(layout_positions(keys, position_of)[:, :_REACH]),
        np.ascontiguousarray(fresh[:, :_REACH]),
    )
    neighbours = np.unique(positions[positions >= 0])
    their_keys, their_fresh = graph.lists(neighbours, _REACH)
    neighbour_rows = np.searchsorted(neighbours, np.maximum(positions, 0)).astype(np.int32)
    residents = layout.positions(block)
    row, position = graphs.second_neighbours(
        positions,
        fresh,
        int(residents[0]),
        not layout.uses_nndescent(block),
        neighbour_rows,
        layout_positions(their_keys, position_of),
        their_fresh,
        np.ascontiguousarray(probes[residents]),
        probes,
        probes[:, 0],
    )
    row, offered = _exact(layout, block, row, position.astype(np.int64))
    other = position_of[candidates.positions_of(offered)]
    number = layout.blocks.whole(block).index
    better = offered < keys[row, -1]
    yield from _offered(layout, residents[:1], np.array([NONE]))
    yield from _offered(layout, residents[row[better]], offered[better])
    last = graph.last_of(other)
    offered_back = candidates.moved(offered, number[row])
    better = offered_back < last
    yield from _offered(layout, other[better], offered_back[better])


def _lists(spark: SparkSession, graph: Graph) -> DataFrame:
    """The lists as `ApproximateResult.lists`."""
    layout = graph.layout
    schema = pa.schema([field for field in LISTS if not field[0].endswith("_floor")])

    def rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for block in batch.column("id").to_pylist():
                keys, _ = graph.load(block)
                contents = [layout.blocks.part(block).index.tobytes(), keys.tobytes(), b""]
                yield pa.RecordBatch.from_arrays(
                    [pa.array([content], pa.binary()) for content in contents], schema=schema
                )

    return spark.range(0, len(layout), 1, min(len(layout), 2 * cores_of(spark))).mapInArrow(
        rows, from_arrow_schema(schema)
    )
