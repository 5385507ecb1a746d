"""The pairs that the partitions suggest: residents of one block, then vectors with the partitions that they probe."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from image_similarity.errors import counted
from image_similarity.knn import candidates, graphs, rerank, scoring
from image_similarity.knn.backends.cpu import Pool
from image_similarity.knn.candidates import NONE, Keys
from image_similarity.knn.distances import METRICS, Values
from image_similarity.knn.nndescent import Descent
from image_similarity.runtime.progress import progress
from image_similarity.settings import ApproximateSettings, NeighboursSettings
from image_similarity.stages.neighbours.graph import Graph
from image_similarity.stages.neighbours.layout import Layout
from image_similarity.stages.neighbours.numbers import save
from image_similarity.stages.neighbours.offers import (
    CHANGED,
    OFFERS,
    exact_keys,
    for_blocks,
    merge,
    next_graph,
    offer,
    save_lists,
)
from image_similarity.storage import uris

_ROWS_AT_ONCE = 1024
_LIST_BYTES = 40
"""Bytes of memory for each entry of a list while lists are made."""


def within_blocks(
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
        row, keys = exact_keys(layout, block, row, candidates.positions_of(keys[row, place]))
        keys, fresh = graphs.merged(graph.load(block)[0], row, keys)
        # Where all pairs were compared, an exchange between neighbours would bring nothing: no entry is fresh.
        yield save_lists(graph, block, keys, fresh & layout.uses_nndescent(block), settings)

    sizes = np.array(layout.blocks.new)
    tasks, changes = for_blocks(spark, sizes * (sizes - 1) // 2, compare, CHANGED)
    with progress(
        spark, f"compare within {counted(len(layout), 'block')}", int((sizes * (sizes - 1) // 2).sum()), "pairs", tasks
    ):
        return next_graph(graph, changes)[0]


def probe(
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
        yield from offer(layout, layout.positions(block)[:1], np.array([NONE]))
        if layout.uses_nndescent(block):
            yield from _probed_by_nndescent(graph, block, probers, at_once, approximate)
        else:
            yield from _probed_pairs(graph, block, probers, at_once)

    pairs = np.add.reduceat(np.diff(layout.partition_starts) * np.diff(starts), layout.block_partitions[:-1])
    tasks, offers = for_blocks(spark, pairs, compare, OFFERS)
    with progress(spark, f"visit {counted(nprobe - probed, 'part')}", int(pairs.sum()), "pairs", tasks):
        return merge(spark, graph, offers, settings, are_scores=True, add_to_fresh=True)[0]


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
    """Rows of `OFFERS` from all pairs of the residents of ``block`` with the vectors that probe their partition.

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
        yield from offer(layout, pool.positions[row], keys[row, place])


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
        yield from offer(layout, owners, offered)
        yield from offer(
            layout, candidates.positions_of(offered), candidates.moved(offered, owners.astype(np.int64))
        )  # the same pairs for the residents


def _nndescent(layout: Layout, copies: scoring.Copies, list_length: int, approximate: ApproximateSettings) -> Descent:
    return Descent(copies.low, list_length, METRICS[layout.metric].angular, approximate.seed, approximate.threads)


def _scored(positions: NDArray[np.int32], place: NDArray[np.int32], score: Values) -> Keys:
    return candidates.keys_of_scores(score, np.where(place < 0, -1, positions[place]))


def _pieces(places: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """``places`` in pieces whose products fit into the processor's cache."""
    return np.array_split(places, -(-len(places) // _ROWS_AT_ONCE)) if len(places) else []
