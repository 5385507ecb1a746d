"""Offers: candidates that a step found for lists of neighbours, merged into the lists, with exact distances.

A step runs a function for each block, which yields rows of `OFFERS` for residents of any block. `merge` brings the
offers for a block together and saves its lists for the next step.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from image_similarity.knn import candidates, graphs
from image_similarity.knn.candidates import NONE, Keys
from image_similarity.knn.distances import METRICS, pairs
from image_similarity.settings import NeighboursSettings
from image_similarity.stages.neighbours.graph import Graph
from image_similarity.stages.neighbours.layout import Layout
from image_similarity.stages.neighbours.plan import TASKS_PER_CORE, cores_of

OFFERS = pa.schema([("block", pa.int32()), ("position", pa.binary()), ("key", pa.binary())])
"""Candidates for residents of a block: positions of the residents (int32), and as many keys (int64)."""
CHANGED = pa.schema([("block", pa.int32()), ("changed", pa.int64()), ("incomplete", pa.int64())])


def for_blocks(
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


def offer(layout: Layout, positions: NDArray[Any], keys: Keys) -> Iterator[pa.RecordBatch]:
    """Rows of `OFFERS`: ``keys`` (n,) for the vectors at ``positions`` (n,)."""
    blocks = layout.block_of(positions)
    order = np.argsort(blocks, kind="stable")
    positions, keys, blocks = positions[order].astype(np.int32), keys[order], blocks[order]
    ends = np.nonzero(np.diff(blocks, prepend=-1, append=-1))[0]
    spans = list(zip(ends, ends[1:]))
    contents = [[values[start:end].tobytes() for start, end in spans] for values in (positions, keys)]
    yield pa.record_batch(
        [pa.array(blocks[ends[:-1]], pa.int32()), *(pa.array(content, pa.binary()) for content in contents)],
        schema=OFFERS,
    )


def merge(
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
            row, keys = exact_keys(layout, block, *_best(row, keys, len(stored), graph.list_length))
        merged_lists = graphs.merged(stored, row, keys, fresh if add_to_fresh else None)
        return pa.Table.from_batches([save_lists(graph, block, *merged_lists, settings)])

    groups = min(len(layout), TASKS_PER_CORE * cores_of(spark))
    return next_graph(
        graph, offers.repartition(groups, "block").groupBy("block").applyInArrow(merged, from_arrow_schema(CHANGED))
    )


def _flat(offers: pa.Table, first: int) -> tuple[NDArray[np.int64], Keys]:
    """Rows of `OFFERS` as pairs: the row of the resident in its block, which begins at position ``first``, and a
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


def exact_keys(
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


def save_lists(
    graph: Graph, block: int, keys: Keys, fresh: NDArray[np.bool_], settings: NeighboursSettings
) -> pa.RecordBatch:
    """Save the lists of ``block`` for the next step, and return their row of `CHANGED`."""
    graph.following.save(block, keys, fresh)
    required = min(settings.similar, graph.layout.size - 1)
    incomplete = int((keys[:, required - 1] == NONE).sum()) if required else 0
    return pa.RecordBatch.from_pydict(
        {"block": [block], "changed": [int(fresh[:, : settings.similar].sum())], "incomplete": [incomplete]},
        schema=CHANGED,
    )


def next_graph(graph: Graph, changes: DataFrame) -> tuple[Graph, int]:
    """Run the step whose rows of `CHANGED` are ``changes``. Returns the next graph, and the number of fresh entries
    among the first k of each list.
    """
    rows = changes.toArrow()
    assert rows.num_rows == len(graph.layout), "every block takes part"
    return replace(graph.following, incomplete=sum(rows.column("incomplete").to_pylist())), sum(
        rows.column("changed").to_pylist()
    )
