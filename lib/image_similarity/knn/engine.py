"""Similar and dissimilar neighbours in one process: what the Spark stage does with many."""

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
    (float32)."""

    row: Indices
    rank: NDArray[np.int32]
    neighbour: Indices
    distance: Values


def ranked(keys: Keys, index: Indices, farthest: bool) -> Ranked:
    """The lists of the rows ``index``, sorted and taken apart. ``farthest``: they are of dissimilar ones."""
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
    """Similar and dissimilar neighbours among ``vectors`` (n, d), in one process: what the Spark stage does with
    many."""
    chosen = distances.METRICS[metric]
    found: list[list[Ranked]] = [[], []]
    parts = [
        Part(
            distances.measured(vectors[start : start + block_rows], chosen),
            np.arange(start, min(start + block_rows, len(vectors)), dtype=np.int32),
            np.arange(start, min(start + block_rows, len(vectors)), dtype=np.int64),
        )
        for start in range(0, len(vectors), block_rows)
    ]
    common_scale = scoring.scale_of(
        max((float(np.abs(part.vectors.values).max(initial=0)) for part in parts), default=0.0),
        vectors.shape[1],
        chosen,
    )
    strips = [
        Strip(
            scoring.copies(part.vectors, chosen, screen, common_scale),
            part.positions,
            candidate_count(similar, screen),
            candidate_count(dissimilar, screen),
        )
        for part in parts
    ]
    room = np.empty((block_rows, block_rows), dtype=np.float32)
    for i, strip in enumerate(strips):
        for other in strips[i:]:
            strip.offer(other, screen, room, vectors.shape[1])
    for part, strip in zip(parts, strips):
        reranker = Reranker(
            chosen, part, Scored(strip.similar.keys(), strip.dissimilar.keys(), strip.error, screen, common_scale)
        )
        for other_part in parts:
            reranker.add(other_part)
        lists = reranker.lists()
        for relation, keys in enumerate(_settled(chosen, part, parts, lists, (similar, dissimilar), len(vectors) - 1)):
            found[relation].append(ranked(keys, part.index, relation == 1))
    return _joined(found[0]), _joined(found[1])


def _settled(
    metric: Metric, part: Part, parts: Sequence[Part], lists: tuple[Lists, Lists], wanted: tuple[int, int], others: int
) -> tuple[Keys, Keys]:
    """The keys wanted, of rows that are not certain from a comparison in full."""
    uncertain = np.nonzero(~(lists[0].certain(wanted[0], others) & lists[1].certain(wanted[1], others)))[0]
    keys = [lists_of.keys[:, :k].copy() for lists_of, k in zip(lists, wanted)]
    if len(uncertain):
        found = [
            brute_force(metric, part.vectors[uncertain], part.index[uncertain], p.vectors, p.index, *wanted)
            for p in parts
        ]
        for relation, k in enumerate(wanted):
            keys[relation][uncertain] = np.sort(
                least(np.concatenate([of[relation] for of in found], axis=1), k), axis=1
            )
    return keys[0], keys[1]


def _joined(parts: Sequence[Ranked]) -> Ranked:
    kinds = {"row": np.int64, "rank": np.int32, "neighbour": np.int64, "distance": np.float32}
    return Ranked(
        **{
            name: np.concatenate([np.empty(0, kind), *(getattr(part, name) for part in parts)])
            for name, kind in kinds.items()
        }
    )
