"""The pairs that the lists suggest: neighbours of neighbours; and all pairs of vectors whose lists stayed too short."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession

from image_similarity.knn import candidates, engine, graphs
from image_similarity.knn.candidates import NONE
from image_similarity.knn.distances import METRICS
from image_similarity.runtime.progress import progress
from image_similarity.settings import NeighboursSettings
from image_similarity.stages.neighbours.graph import Graph, layout_positions
from image_similarity.stages.neighbours.offers import (
    OFFERS,
    exact_keys,
    for_blocks,
    merge,
    offer,
)

_REACH = 64
"""The number of a list's entries whose neighbours are considered; the work grows with its square."""


def exchange(
    spark: SparkSession, graph: Graph, nprobe: int, round_number: int, settings: NeighboursSettings
) -> tuple[Graph, float]:
    """Compare neighbours of neighbours. Returns the next graph, and the share of the lists' first k entries that
    changed.
    """
    layout = graph.layout
    tasks, offers = for_blocks(spark, np.array(layout.blocks.new), partial(_proposals, graph, nprobe), OFFERS)
    with progress(spark, f"exchange neighbours, round {round_number}", layout.size, "vectors", tasks):
        graph, changed = merge(spark, graph, offers, settings, are_scores=False, add_to_fresh=False)
    return graph, changed / (layout.size * settings.similar)


def _proposals(graph: Graph, nprobe: int, block: int) -> Iterator[pa.RecordBatch]:
    """Rows of `OFFERS` from the neighbours of neighbours of residents of ``block``: offers to the residents, and the
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
    row, offered = exact_keys(layout, block, row, position.astype(np.int64))
    other = position_of[candidates.positions_of(offered)]
    number = layout.blocks.whole(block).index
    better = offered < keys[row, -1]
    yield from offer(layout, residents[:1], np.array([NONE]))
    yield from offer(layout, residents[row[better]], offered[better])
    last = graph.last_of(other)
    offered_back = candidates.moved(offered, number[row])
    better = offered_back < last
    yield from offer(layout, other[better], offered_back[better])


def filled_by_brute_force(spark: SparkSession, graph: Graph, settings: NeighboursSettings) -> Graph:
    """Compare vectors whose lists are incomplete with all vectors by brute force. Lists are incomplete where the probed
    partitions are very small.
    """
    layout, required = graph.layout, min(settings.similar, graph.layout.size - 1)
    metric = METRICS[layout.metric]
    at_once = max(1, min(settings.block_rows, settings.task_bytes // 16 // (8 * layout.blocks.dimensions)))

    def fill(block: int) -> Iterator[pa.RecordBatch]:
        yield from offer(layout, layout.positions(block)[:1], np.array([NONE]))
        incomplete_rows = np.nonzero(graph.load(block)[0][:, required - 1] == NONE)[0]
        for start in range(0, len(incomplete_rows), at_once):
            part = layout.blocks.part(block)[incomplete_rows[start : start + at_once]]
            keys = engine.brute_force(metric, part, layout.blocks.parts(), graph.list_length, 0)[0].keys
            yield from offer(layout, np.repeat(part.positions, graph.list_length), keys.ravel())

    tasks, offers = for_blocks(spark, np.ones(len(layout), dtype=np.int64), fill, OFFERS)
    with progress(spark, "compare at full precision", graph.incomplete * layout.size, "pairs", tasks):
        return merge(spark, graph, offers, settings, are_scores=False, add_to_fresh=True)[0]
