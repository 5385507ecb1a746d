"""Similar and dissimilar neighbours in one process. The Spark stage does the same in many tasks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn import distances, scoring
from image_similarity.knn.candidates import _LOW, NONE, Keys, Lists, Strip, least
from image_similarity.knn.distances import BITS_MAX, Indices, Metric, Values
from image_similarity.knn.rerank import Part, Reranker, Scored, brute_force
from image_similarity.knn.scoring import Screen, candidate_count


@dataclass(frozen=True)
class Ranked:
    """Neighbours in long form, arrays of one length: row (int64), rank (int32, from 1), neighbour (int64), distance
    (float32).
    """

    row: Indices
    rank: NDArray[np.int32]
    neighbour: Indices
    distance: Values


def ranked(keys: Keys, index: Indices, farthest: bool) -> Ranked:
    """The lists of the rows ``index``, sorted, in long form. ``farthest``: the neighbours are dissimilar ones."""
    ordered = np.sort(keys, axis=1)
    row, place = np.nonzero(ordered != NONE)
    kept = ordered[row, place]
    bits = kept >> 32
    bits = BITS_MAX - bits if farthest else bits
    return Ranked(
        row=index[row],
        rank=(place + 1).astype(np.int32),
        neighbour=kept & _LOW,
        distance=bits.astype(np.uint32).view(np.float32),
    )


def neighbours(
    vectors: Values,
    metric: str,
    similar: int,
    dissimilar: int,
    block_rows: int = 2048,
    screen: Screen = scoring.FLOAT32,
) -> tuple[Ranked, Ranked]:
    """Similar and dissimilar neighbours among ``vectors`` (n, d) float32.

    ``metric``: a name in `distances.METRICS`; all ``vectors`` must be usable for it. ``similar``, ``dissimilar``: the
    most neighbours of each row. ``block_rows``: vectors in a block.
    """
    chosen = distances.METRICS[metric]
    results: list[list[Ranked]] = [[], []]
    blocks = [
        Part(
            distances.measured(vectors[start : start + block_rows], chosen),
            np.arange(start, min(start + block_rows, len(vectors)), dtype=np.int32),
            np.arange(start, min(start + block_rows, len(vectors)), dtype=np.int64),
        )
        for start in range(0, len(vectors), block_rows)
    ]
    common_scale = scoring.scale_of(
        max((float(np.abs(block.vectors.values).max(initial=0)) for block in blocks), default=0.0),
        vectors.shape[1],
        chosen,
    )
    strips = [
        Strip(
            scoring.copies(block.vectors, chosen, screen, common_scale),
            block.positions,
            candidate_count(similar, screen),
            candidate_count(dissimilar, screen),
        )
        for block in blocks
    ]
    buffer = np.empty((block_rows, block_rows), dtype=np.float32)
    for i, strip in enumerate(strips):
        for other in strips[i:]:
            strip.offer(other, screen, buffer, vectors.shape[1])
    for block, strip in zip(blocks, strips):
        arguments = chosen, screen, vectors.shape[1], common_scale
        reranker = Reranker(block, Scored(strip.similar.keys(), strip.dissimilar.keys(), strip.error, *arguments))
        for other_block in blocks:
            reranker.add(other_block)
        lists = reranker.lists()
        for relation, keys in enumerate(
            _certain_keys(chosen, block, blocks, lists, (similar, dissimilar), len(vectors) - 1)
        ):
            results[relation].append(ranked(keys, block.index, relation == 1))
    return _joined(results[0]), _joined(results[1])


def _certain_keys(
    metric: Metric,
    block: Part,
    blocks: Sequence[Part],
    lists: tuple[Lists, Lists],
    counts: tuple[int, int],
    others: int,
) -> tuple[Keys, Keys]:
    """The first ``counts`` keys of both relations. Rows whose lists are not certain get theirs by brute force.

    ``others``: number of vectors that can be neighbours of a row.
    """
    uncertain = np.nonzero(~(lists[0].certain(counts[0], others) & lists[1].certain(counts[1], others)))[0]
    keys = [lists_of.keys[:, :k].copy() for lists_of, k in zip(lists, counts)]
    if len(uncertain):
        best = [
            brute_force(metric, block.vectors[uncertain], block.index[uncertain], other.vectors, other.index, *counts)
            for other in blocks
        ]
        for relation, k in enumerate(counts):
            keys[relation][uncertain] = np.sort(
                least(np.concatenate([near_and_far[relation] for near_and_far in best], axis=1), k), axis=1
            )
    return keys[0], keys[1]


def _joined(results: Sequence[Ranked]) -> Ranked:
    dtypes = {"row": np.int64, "rank": np.int32, "neighbour": np.int64, "distance": np.float32}
    return Ranked(
        **{
            name: np.concatenate([np.empty(0, dtype), *(getattr(result, name) for result in results)])
            for name, dtype in dtypes.items()
        }
    )
