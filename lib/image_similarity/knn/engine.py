"""Similar and dissimilar neighbours of vectors, exactly: scores of all pairs, exact distances of the best, and a proof.

1. `compare` offers the scores of strips of vectors to each other's lists of candidates.
2. `merge` joins the lists that the same vectors have from several comparisons.
3. `rerank_candidates` gives the candidates their exact distances, and a lower bound on what was dropped.
4. `certify` tells the vectors whose neighbours this proves. `brute_force` compares the others with all.

Spark's tasks call these for parts of a collection that is larger than a machine's memory. `all_pairs` calls them
for one that is in memory, with threads or on a GPU.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn import rerank
from image_similarity.knn.backends import Backend, Strip, screens_of
from image_similarity.knn.backends.cpu import Cpu
from image_similarity.knn.candidates import _LOW, NONE, Keys, Lists, least
from image_similarity.knn.distances import BITS_MAX, METRICS, Indices, Metric, Values
from image_similarity.knn.rerank import Part, Reranker, Scored
from image_similarity.knn.scoring import Comparison, Screen, candidate_count

Pair = tuple[Lists, Lists]
"""The similar and the dissimilar lists of the same vectors."""

MAX_UNCERTAIN_SHARE = 0.1
"""Share of the compared vectors that may be left to brute force. Above it, another pass in float32 costs less. Measured
with synthetic vectors of 4,096 values, where scores in bfloat16 left 98 % unproven: 8 s for the pass, 65 s for brute
force."""


@dataclass(frozen=True)
class Search:
    """What is looked for, and how it is scored: plain values, which can be sent to workers."""

    metric: str
    screen: str
    """The precision of scores: a name among the screens of the kind of backend."""
    dimensions: int
    common_scale: float
    """See `scoring.scale_of`."""
    similar: int
    dissimilar: int
    others: int
    """The number of vectors that each vector is compared with."""
    kind: str = Cpu.kind
    """The kind of backend that compares."""

    @property
    def measure(self) -> Metric:
        return METRICS[self.metric]

    @property
    def precision(self) -> Screen:
        return screens_of(self.kind)[self.screen]

    @property
    def list_lengths(self) -> tuple[int, int]:
        """The number of candidates in a list, similar and dissimilar."""
        return candidate_count(self.similar, self.precision), candidate_count(self.dissimilar, self.precision)

    @property
    def comparison(self) -> Comparison:
        return Comparison(self.measure, self.precision, self.dimensions, self.common_scale)

    def strip(self, backend: Backend, part: Part, list_lengths: tuple[int, int] | None = None) -> Any:
        """``part`` while it is compared. ``list_lengths``: others than those of the search."""
        lengths = self.list_lengths if list_lengths is None else list_lengths
        return backend.strip(part, self.comparison, *lengths)


def compare(rows: Sequence[Strip], columns: Sequence[Strip]) -> None:
    """Offer the scores of all pairs of ``rows`` and ``columns`` to the lists of both. They may be the same strips: then
    each pair is compared once.
    """
    for i, strip in enumerate(rows):
        for other in columns[i:] if rows is columns else columns:
            strip.offer(other)


def merge(
    search: Search,
    similar: Sequence[Keys],
    dissimilar: Sequence[Keys],
    errors: Sequence[Values],
    list_lengths: tuple[int, int] | None = None,
) -> Scored:
    """The lists of scores that the same vectors have from several comparisons, as one list for each vector.

    ``list_lengths``: others than those of the search.
    """
    lengths = search.list_lengths if list_lengths is None else list_lengths
    best = [least(np.concatenate(lists, axis=1), k) for lists, k in zip((similar, dissimilar), lengths)]
    return Scored(best[0], best[1], np.maximum.reduce(errors), search.comparison)


def rerank_candidates(
    rows: Part, scored: Scored, add_vectors: Callable[[Reranker], None], known: Pair | None = None
) -> Pair:
    """Exact lists of ``rows``. ``add_vectors`` gives a `Reranker` the vectors of all its candidates.

    ``known``: exact lists that ``rows`` have of other neighbours; they are merged in.
    """
    reranker = Reranker(rows, scored, known)
    add_vectors(reranker)
    lists = reranker.lists()
    return lists if known is None else (known[0].merged(lists[0]), known[1].merged(lists[1]))


def certify(search: Search, lists: Pair) -> NDArray[np.bool_]:
    """(n,): whether the neighbours of a vector in both of its lists are proven to be the best."""
    similar, dissimilar = lists
    proven: NDArray[np.bool_] = similar.certain(search.similar, search.others) & dissimilar.certain(
        search.dissimilar, search.others
    )
    return proven


def brute_force(metric: Metric, rows: Part, others: Iterable[Part], similar: int, dissimilar: int) -> Pair:
    """The exact lists of ``rows`` among ``others``, all of which they are compared with, without scores."""
    keys = (
        rerank.brute_force(metric, rows.vectors, rows.index, other.vectors, other.index, similar, dissimilar)
        for other in others
    )
    return best_of(keys, len(rows), similar, dissimilar)


def best_of(keys: Iterable[tuple[Keys, Keys]], rows: int, similar: int, dissimilar: int) -> Pair:
    """The lists of ``rows`` vectors from their ``keys`` among several parts of the others."""
    lists = Lists.empty(rows, similar), Lists.empty(rows, dissimilar)
    for near, far in keys:
        lists = lists[0].merged(Lists.complete(near)), lists[1].merged(Lists.complete(far))
    return lists


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
