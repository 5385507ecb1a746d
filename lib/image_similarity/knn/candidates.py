"""The best candidates of each row by fast scores, and a lower bound on the dropped ones.

1. `Strip.offer` multiplies two blocks and offers every score to the running lists of both. A score enters a list only
   if it beats the worst score there. Lists hold more entries than the k that are asked for.
2. `image_similarity.knn.rerank` computes exact distances of the candidates.

Neighbours are ordered by distance, then by index. A *key* is a 64-bit integer: the bits of a distance, above the index.
The integer order of keys is this total order, so lists are plain arrays. Lists of scores are stored the same way: bits
that order scores, above the position.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn import scoring
from image_similarity.knn.compiled import compiled
from image_similarity.knn.distances import BITS_MAX, Bits, Indices, Reals, Values
from image_similarity.knn.scoring import Copies, Screen

Keys = NDArray[np.int64]

NONE = np.iinfo(np.int64).max
"""Marks a place in a list without a neighbour. It is greater than every key."""

MAX_INDEX = 2**31
_LOW = 2**32 - 1
_RUN = 32  # scores that are tested together


class Best:
    """For each row the ``k`` greatest scores so far, each with its position: a heap, the least score first."""

    def __init__(self, rows: int, k: int, cut: Values | None = None):
        """``cut``: (n,) float32, the value that scores must exceed from the beginning."""
        self.scores = np.full((rows, k), -np.inf, dtype=np.float32)
        self.positions = np.full((rows, k), -1, dtype=np.int32)
        self.cut = np.full(rows, -np.inf if k else np.inf, dtype=np.float32) if cut is None else cut
        """(n,) float32: a score enters a list only if it exceeds this."""

    def keys(self) -> Keys:
        """(n, k): the lists as keys, unsorted. The greatest score has the least key."""
        return keys_of_scores(self.scores, self.positions)


def keys_of_scores(scores: Values, positions: NDArray[np.int32]) -> Keys:
    """Keys in the order of ``scores``, greatest first. A negative position gives `NONE`."""
    bits = (-scores).view(np.int32)  # the bits of negative floats, read as integers, are in reverse order
    ordered = np.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).astype(np.int64)
    return np.where(positions < 0, NONE, (ordered << 32) | positions)


def scores_of(keys: Keys) -> Reals:
    """The scores in keys of `Best`; -inf for `NONE`."""
    ordered = (keys >> 32).astype(np.int32)
    scores = -np.where(ordered >= 0, ordered, ordered ^ 0x7FFFFFFF).astype(np.int32).view(np.float32).astype(np.float64)
    return np.where(keys == NONE, -np.inf, scores)


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


class Strip:
    """A block while it is compared: copies of its vectors, and the best candidates of each so far.

    ``positions``: (n,) int32, the numbers of its rows in the lists of other vectors.
    """

    def __init__(self, copies: Copies, positions: NDArray[np.int32], similar: int, dissimilar: int):
        self.copies, self.positions = copies, positions
        self.similar, self.dissimilar = Best(len(copies), similar), Best(len(copies), dissimilar)
        self.error = np.zeros((len(copies), 2), dtype=np.float32)
        """(n, 2) float32: `scoring.bounds` against all vectors offered so far."""

    def offer(self, other: "Strip", screen: Screen, buffer: Values, dimensions: int) -> None:
        """Compare with ``other``, and update the lists of both. ``other`` may be this strip itself.

        ``buffer``: float32 memory for the product.
        """
        product = screen.product(self.copies.low, other.copies.low, buffer)
        for strip, partner in ((self, other), (other, self)):
            np.maximum(strip.error, scoring.bounds(strip.copies, partner.copies, screen, dimensions), out=strip.error)
        _offer(
            product,
            self.copies.half,
            other.copies.half,
            self.positions,
            other.positions,
            self is other,
            *((best.scores, best.positions, best.cut) for best in (self.similar, other.similar)),
            *((best.scores, best.positions, best.cut) for best in (self.dissimilar, other.dissimilar)),
        )


@dataclass(frozen=True)
class Lists:
    """For each row the keys kept for one relation, sorted, and a lower bound on the keys of all other neighbours.

    ``keys``: (n, k) int64, padded with `NONE`; ``lower_bound``: (n,) int64, no neighbour outside the list has a smaller
    key. Keys of dissimilar neighbours hold the bits of the greatest possible distance minus the bits of the distance.
    """

    keys: Keys
    lower_bound: Keys

    @classmethod
    def empty(cls, rows: int, k: int) -> "Lists":
        return cls(np.full((rows, k), NONE), np.full(rows, NONE))

    @classmethod
    def complete(cls, keys: Keys) -> "Lists":
        """Lists of the k best keys of each row, given in any order. All other keys are greater."""
        keys = np.sort(keys, axis=1)
        return cls(keys, keys[:, -1] + (keys[:, -1] != NONE) if keys.shape[1] else np.full(len(keys), NONE))

    def merged(self, *others: "Lists") -> "Lists":
        """The best of several lists of the same rows. No neighbour of a row may be in two of the lists."""
        keys = np.sort(np.concatenate([self.keys, *(other.keys for other in others)], axis=1), axis=1)
        k = self.keys.shape[1]
        cut = keys[:, k] if keys.shape[1] > k else np.full(len(keys), NONE)
        return Lists(
            keys[:, :k].copy(), np.minimum.reduce([self.lower_bound, *(other.lower_bound for other in others), cut])
        )

    @classmethod
    def from_bytes(cls, keys: bytes, lower_bound: bytes, rows: int) -> "Lists":
        return cls(keys_from_bytes(keys, rows), np.frombuffer(lower_bound, np.int64))

    def widened(self, k: int) -> "Lists":
        """The same lists, padded to ``k`` places."""
        return Lists(np.pad(self.keys, ((0, 0), (0, k - self.keys.shape[1])), constant_values=NONE), self.lower_bound)

    def renumbered(self, numbers: Indices) -> "Lists":
        """The same lists with ``numbers[old]`` in place of each neighbour ``old``.

        A neighbour whose number is negative or missing is removed. Among equal distances, neighbours outside the list
        may have smaller numbers now, so the lower bound becomes the least key of its distance.
        """
        old = self.keys & _LOW
        numbered = np.where(old < len(numbers), numbers[np.minimum(old, len(numbers) - 1)], -1)
        there = (self.keys != NONE) & (numbered >= 0)
        keys = np.where(there, moved(self.keys, numbered), NONE)
        return Lists(np.sort(keys, axis=1), np.where(self.lower_bound == NONE, NONE, self.lower_bound & ~_LOW))

    def certain(self, k: int, others: int) -> NDArray[np.bool_]:
        """(n,) bool: whether the first min(``k``, ``others``) keys of a row are proven to be the best.

        ``others``: number of vectors that can be neighbours of the row.
        """
        needed = min(k, others)
        if needed == 0:
            return np.ones(len(self.keys), dtype=np.bool_)
        if needed > self.keys.shape[1]:
            return np.zeros(len(self.keys), dtype=np.bool_)
        proven: NDArray[np.bool_] = self.keys[:, needed - 1] < self.lower_bound
        return proven


def keys_from_bytes(content: bytes, rows: int) -> Keys:
    """(``rows``, k) keys. k follows from the length of ``content`` and may be 0."""
    keys = np.frombuffer(content, np.int64)
    return keys.reshape(rows, len(keys) // max(rows, 1))


def distances_of(keys: Keys) -> Reals:
    """The distances in keys of similar neighbours; nan for `NONE`."""
    return np.where(keys == NONE, np.nan, (keys >> 32).astype(np.uint32).view(np.float32).astype(np.float64))


def key_of(bits: Bits, index: Indices, farthest: bool) -> Keys:
    """Keys of neighbours ``index`` at the distances ``bits``. ``farthest``: the greatest distance has the least key."""
    order = bits.astype(np.int64)
    return ((BITS_MAX - order if farthest else order) << 32) | index


def least(keys: Keys, k: int) -> Keys:
    """The ``k`` least keys of each row, unsorted, padded with `NONE`."""
    if keys.shape[1] > k > 0:
        keys = np.partition(keys, k - 1, axis=1)
    kept = keys[:, :k]
    if kept.shape[1] == k:
        return kept.copy()  # a view would keep the whole of a large array alive
    return np.pad(kept, ((0, 0), (0, k - kept.shape[1])), constant_values=NONE)


def positions_of(keys: Keys) -> NDArray[np.int64]:
    """The positions or indices in ``keys``, none of which may be `NONE`."""
    return keys & _LOW


def moved(keys: Keys, index: Indices) -> Keys:
    """``keys`` with ``index`` in place of their neighbours, at the same distances."""
    return (keys & ~_LOW) | index
