"""The best candidates of each row by fast scores, on the processor: numpy multiplies, numba selects.

`CpuStrip.offer` multiplies two blocks and offers every score to the running lists of both. A score enters a list only
if it beats the worst score there. Lists hold more entries than the k that are asked for.
"""

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn import distances, rerank, scoring
from image_similarity.knn.candidates import Keys, Lists, keys_of_scores
from image_similarity.knn.compiled import compiled
from image_similarity.knn.distances import Bits, Indices, Metric, Values, Vectors
from image_similarity.knn.rerank import Part, Reranker, Scored
from image_similarity.knn.scoring import FLOAT32, Comparison, Copies, Extremes, Screen

_RUN = 32  # scores that are tested together
_TILE_ROWS = 512
"""Rows that are compared at once with a strip that keeps no lists: their scores are still in the cache when they are
tested."""


class Best:
    """For each row the ``k`` greatest scores so far, each with its position: a heap, the least score first."""

    def __init__(self, rows: int, k: int, cut: Values | None = None):
        """``cut``: (n,) float32, the value that scores must exceed from the beginning."""
        self.scores = np.full((rows, k), -np.inf, dtype=np.float32)
        self.positions = np.full((rows, k), -1, dtype=np.int32)
        self.cut = np.full(rows, -np.inf if k else np.inf, dtype=np.float32) if cut is None else cut
        """(n,) float32: a score enters a list only if it exceeds this."""

    def of(self, rows: slice) -> tuple[Values, NDArray[np.int32], Values]:
        """Scores, positions and cut of some rows."""
        return self.scores[rows], self.positions[rows], self.cut[rows]

    def keys(self) -> Keys:
        """(n, k): the lists as keys, unsorted. The greatest score has the least key."""
        return keys_of_scores(self.scores, self.positions)


@compiled()
def _push(scores, positions, cut, i, score, position):  # type: ignore[no-untyped-def]
    """Replace the least score of heap ``i``."""
    k = scores.shape[1]
    hole = 0
    while True:
        child = 2 * hole + 1
        if child >= k:
            break
        if child + 1 < k and scores[i, child + 1] < scores[i, child]:
            child += 1
        if scores[i, child] >= score:
            break
        scores[i, hole], positions[i, hole] = scores[i, child], positions[i, child]
        hole = child
    scores[i, hole], positions[i, hole] = score, position
    cut[i] = max(cut[i], scores[i, 0])


@compiled()
def _offer(product, half_a, half_b, at_a, at_b, diagonal, near_a, near_b, far_a, far_b):  # type: ignore[no-untyped-def]
    """Offer every score of ``product`` to the lists of its row and of its column.

    ``near_*``, ``far_*``: scores, positions and cut of a `Best`. ``diagonal``: rows and columns are the same vectors.
    """
    near_cut_b, far_cut_b = near_b[2], far_b[2]
    columns = product.shape[1]
    for i in range(product.shape[0]):
        own = half_a[i]
        for start in range(i + 1 if diagonal else 0, columns, _RUN):
            end = min(start + _RUN, columns)
            near_cut, far_cut = near_a[2][i], far_a[2][i]
            any_passes = False
            for j in range(start, end):
                score = product[i, j] - own - half_b[j]
                any_passes |= (
                    (score > near_cut) | (-score > far_cut) | (score > near_cut_b[j]) | (-score > far_cut_b[j])
                )
            if any_passes:
                for j in range(start, end):
                    score = product[i, j] - own - half_b[j]
                    if score > near_a[2][i]:
                        _push(near_a[0], near_a[1], near_a[2], i, score, at_b[j])
                    if -score > far_a[2][i]:
                        _push(far_a[0], far_a[1], far_a[2], i, -score, at_b[j])
                    if score > near_cut_b[j]:
                        _push(near_b[0], near_b[1], near_cut_b, j, score, at_a[i])
                    if -score > far_cut_b[j]:
                        _push(far_b[0], far_b[1], far_cut_b, j, -score, at_a[i])


_LONG_RUN = 64  # numba's loop becomes vector instructions, where one of `_RUN` does not


@compiled()
def _any_passes(row, own, halves, start, near_cut, far_cut):  # type: ignore[no-untyped-def]
    """Whether one of the scores from ``start`` on, `_LONG_RUN` of them, beats a list. True where there are fewer."""
    if len(row) - start < _LONG_RUN:
        return True
    run, half, passing = row[start : start + _LONG_RUN], halves[start : start + _LONG_RUN], np.int32(0)
    for j in range(_LONG_RUN):
        score = run[j] - own - half[j]
        passing += np.int32((score > near_cut) | (-score > far_cut))
    return passing > 0


@compiled()
def _offer_to_rows(product, half_a, half_b, at_b, near, far):  # type: ignore[no-untyped-def]
    """The same as `_offer` where the columns keep no lists."""
    columns = product.shape[1]
    for i in range(product.shape[0]):
        own, row = half_a[i], product[i]
        for start in range(0, columns, _LONG_RUN):
            if _any_passes(row, own, half_b, start, near[2][i], far[2][i]):
                for j in range(start, min(start + _LONG_RUN, columns)):
                    score = row[j] - own - half_b[j]
                    if score > near[2][i]:
                        _push(near[0], near[1], near[2], i, score, at_b[j])
                    if -score > far[2][i]:
                        _push(far[0], far[1], far[2], i, -score, at_b[j])


class Pool:
    """Vectors of which chosen subsets are compared, for similar neighbours only. Approximate search puts partitions
    into a pool.

    ``positions``: (n,) int32, the numbers that lists use for these vectors; ``cut``: see `Best`.
    """

    def __init__(self, copies: Copies, positions: NDArray[np.int32], k: int, cut: Values | None = None):
        self._low, self._half, self.positions = copies.low, copies.half, positions
        self.similar = Best(len(positions), k, cut)

    def compare(self, a: Indices, b: Indices) -> None:
        """Compare all pairs of the rows ``a`` with the rows ``b`` of this pool, and update the lists of both.

        ``a`` and ``b`` are the same array or have no row in common.
        """
        product = self._low[a] @ self._low[b].T
        best = self.similar
        _offer_some(product, self._half, self.positions, a, b, a is b, best.scores, best.positions, best.cut)


@compiled()
def _offer_some(product, half, positions, a, b, diagonal, scores, neighbours, cut):  # type: ignore[no-untyped-def]
    """The same as `_offer`, for rows ``a`` and columns ``b`` of one pool and for one relation.

    ``scores``, ``neighbours``, ``cut``: scores, positions and cut of its `Best`.
    """
    columns = len(b)
    cut_b, half_b = cut[b], half[b]
    for i in range(len(a)):
        at, own = a[i], half[a[i]]
        for start in range(i + 1 if diagonal else 0, columns, _RUN):
            end = min(start + _RUN, columns)
            near, any_passes = cut[at], False
            for j in range(start, end):
                score = product[i, j] - own - half_b[j]
                any_passes |= (score > near) | (score > cut_b[j])
            if any_passes:
                for j in range(start, end):
                    score = product[i, j] - own - half_b[j]
                    if score > cut[at]:
                        _push(scores, neighbours, cut, at, score, positions[b[j]])
                    if score > cut[b[j]]:
                        _push(scores, neighbours, cut, b[j], score, positions[at])
                        cut_b[j] = cut[b[j]]


class CpuStrip:
    """A block while it is compared: copies of its vectors, and the best candidates of each so far.

    Lists of other vectors name its rows by ``part.positions``.
    """

    def __init__(
        self,
        part: Part,
        comparison: Comparison,
        similar: int,
        dissimilar: int,
        memory: "_Memory",
        copies: Copies | None = None,
    ):
        """``copies``: of the vectors of ``part``, if they were made."""
        self.part, self._comparison, self._memory = part, comparison, memory
        self.similar, self.dissimilar = Best(len(part), similar), Best(len(part), dissimilar)
        metric, screen = comparison.metric, comparison.screen
        self.copies = copies or scoring.copies(part.vectors, metric, screen, comparison.common_scale)
        self._extremes = Extremes.of(self.copies, comparison.dimensions)
        self._met = Extremes()

    def without_lists(self) -> "CpuStrip":
        """The same vectors, which others are compared with: no list of this strip changes."""
        return CpuStrip(self.part, self._comparison, 0, 0, self._memory, self.copies)

    def with_empty_lists(self) -> "CpuStrip":
        """The same vectors, for another thread: no list of this strip changes."""
        of_lists = self.similar.scores.shape[1], self.dissimilar.scores.shape[1]
        return CpuStrip(self.part, self._comparison, *of_lists, self._memory, self.copies)

    @property
    def has_lists(self) -> bool:
        return self.similar.scores.shape[1] + self.dissimilar.scores.shape[1] > 0

    def offer(self, other: "CpuStrip") -> None:
        """Compare with ``other``, and update the lists of both. ``other`` may be this strip itself."""
        self._met, other._met = self._met.joined(other._extremes), other._met.joined(self._extremes)
        if not other.has_lists:
            self._take(other)
            return
        memory = self._memory.of(len(self.part), len(other.part))
        product = self._comparison.screen.product(self.copies.low, other.copies.low, memory)
        _offer(
            product,
            self.copies.half,
            other.copies.half,
            self.part.positions,
            other.part.positions,
            self is other,
            *((best.scores, best.positions, best.cut) for best in (self.similar, other.similar)),
            *((best.scores, best.positions, best.cut) for best in (self.dissimilar, other.dissimilar)),
        )

    def _take(self, other: "CpuStrip") -> None:
        """Compare with ``other``, which keeps no lists."""
        for start in range(0, len(self.part), _TILE_ROWS):
            rows = slice(start, start + _TILE_ROWS)
            low = self.copies.low[rows]
            memory = self._memory.of(len(low), len(other.part))
            _offer_to_rows(
                self._comparison.screen.product(low, other.copies.low, memory),
                self.copies.half[rows],
                other.copies.half,
                other.part.positions,
                *(
                    (best.scores[rows], best.positions[rows], best.cut[rows])
                    for best in (self.similar, self.dissimilar)
                ),
            )

    @property
    def error(self) -> Values:
        """(n, 2) float32: `scoring.bounds` against all vectors offered so far."""
        return scoring.bounds_against(self.copies, self._met, self._comparison.screen, self._comparison.dimensions)

    def keys(self) -> tuple[Keys, Keys]:
        """The candidates so far as keys of scores (n, k), unsorted: similar and dissimilar."""
        return self.similar.keys(), self.dissimilar.keys()

    def brute_force(self, rows: Part, similar: int, dissimilar: int) -> tuple[Keys, Keys]:
        """Exact keys of the best of this strip's vectors for ``rows``: see `rerank.brute_force`."""
        own, metric = self.part, self._comparison.metric
        return rerank.brute_force(metric, rows.vectors, rows.index, own.vectors, own.index, similar, dissimilar)


class _Memory(threading.local):
    """Memory for products, used again for each; every thread has its own."""

    def __init__(self) -> None:
        self._values = np.empty(0, dtype=np.float32)

    def of(self, rows: int, columns: int) -> Values:
        if rows * columns > len(self._values):
            self._values = np.empty(rows * columns, dtype=np.float32)
        return self._values[: rows * columns].reshape(rows, columns)


class Cpu:
    """Compares on the processor, in the threads that call it, and in those of its libraries."""

    kind = "cpu"
    screens: Sequence[Screen] = (FLOAT32,)
    block_rows = 2048

    def __init__(self) -> None:
        self._memory = _Memory()

    def strip(self, part: Part, comparison: Comparison, similar: int, dissimilar: int) -> CpuStrip:
        return CpuStrip(part, comparison, similar, dissimilar, self._memory)

    def rerank(
        self,
        strip: CpuStrip,
        strips: Sequence[CpuStrip],
        vectors: Part,
        comparison: Comparison,
        list_lengths: tuple[int, int],
        known: tuple[Lists, Lists] | None = None,
    ) -> tuple[Lists, Lists]:
        """Exact lists of the candidates of ``strip``, merged with ``known``."""
        reranker = Reranker(strip.part, Scored(*strip.keys(), strip.error, comparison), known)
        reranker.add(vectors)
        similar, dissimilar = reranker.lists()
        return (similar, dissimilar) if known is None else (known[0].merged(similar), known[1].merged(dissimilar))

    def pairs(self, metric: Metric, a: Vectors, b: Vectors, rows: Indices, columns: Indices) -> Bits:
        return distances.pairs(metric, a, b, rows, columns)
