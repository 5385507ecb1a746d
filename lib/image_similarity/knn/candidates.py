"""The best of each row by fast scores, and a lower bound on what was dropped.

1. `Strip.offer` multiplies two blocks and shows every score to the running lists of both; only scores that beat the
   last of a list touch it. Lists hold some more than the k that are asked for.
2. `image_similarity.knn.rerank` gives the kept pairs their exact distances.

Order is by distance, then by index. The bits of a distance above the index make one 64-bit integer, a *key*: integer
order of keys is the total order, and lists are plain arrays. Lists of scores are kept the same way: bits that order
scores, above the position."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn import scoring
from image_similarity.knn.compiled import compiled
from image_similarity.knn.distances import BITS_MAX, Bits, Indices, Reals, Values
from image_similarity.knn.scoring import Copies, Screen

Keys = NDArray[np.int64]

NONE = np.iinfo(np.int64).max
"""Stands in a list where there is no neighbour; behind every key."""

MAX_INDEX = 2**31
_LOW = 2**32 - 1
_RUN = 32  # scores that are looked at together


class Best:
    """For each row the ``k`` greatest scores seen so far, each with its position; a heap, the least of them first."""

    def __init__(self, rows: int, k: int, cut: Values | None = None):
        """``cut``: (n,) float32, what scores must exceed from the beginning."""
        self.scores = np.full((rows, k), -np.inf, dtype=np.float32)
        self.positions = np.full((rows, k), -1, dtype=np.int32)
        self.cut = np.full(rows, -np.inf if k else np.inf, dtype=np.float32) if cut is None else cut
        """What a score must exceed."""

    def keys(self) -> Keys:
        """(n, k): the lists as keys, greatest score first in their order."""
        return keys_of_scores(self.scores, self.positions)


def keys_of_scores(scores: Values, positions: NDArray[np.int32]) -> Keys:
    """Keys whose order is that of ``scores``, greatest first; `NONE` for negative positions."""
    bits = (-scores).view(np.int32)  # read as integers, negative floats are ordered backwards
    ordered = np.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).astype(np.int64)
    return np.where(positions < 0, NONE, (ordered << 32) | positions)


def scores_of(keys: Keys) -> Reals:
    """The scores in the keys of `Best`; -inf for `NONE`."""
    ordered = (keys >> 32).astype(np.int32)
    scores = -np.where(ordered >= 0, ordered, ordered ^ 0x7FFFFFFF).astype(np.int32).view(np.float32).astype(np.float64)
    return np.where(keys == NONE, -np.inf, scores)


@compiled()
def _push(scores, positions, cut, i, score, position):  # type: ignore[no-untyped-def]
    """The least of heap ``i`` gives way."""
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
    """Every score of ``product`` to the lists of its row and of its column. ``near_*``, ``far_*``: scores, positions,
    cut."""
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
    """Some vectors of which some are compared with some others, for nearest ones only: what parts of a collection are
    made of.

    ``positions``: (n,) int32, their names in lists; ``cut``: see `Best`.
    """

    def __init__(self, copies: Copies, positions: NDArray[np.int32], k: int, cut: Values | None = None):
        self._low, self._half, self.positions = copies.low, copies.half, positions
        self.similar = Best(len(positions), k, cut)

    def compare(self, a: Indices, b: Indices) -> None:
        """All pairs of places ``a`` with places ``b``, which have none in common or are the same array: both get their
        best."""
        product = self._low[a] @ self._low[b].T
        best = self.similar
        _offer_some(product, self._half, self.positions, a, b, a is b, best.scores, best.positions, best.cut)


@compiled()
def _offer_some(product, half, positions, a, b, diagonal, scores, found, cut):  # type: ignore[no-untyped-def]
    """The same as `_offer` for rows ``a`` and columns ``b`` of one pool, and one relation."""
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
                        _push(scores, found, cut, at, score, positions[b[j]])
                    if score > cut[b[j]]:
                        _push(scores, found, cut, b[j], score, positions[at])
                        cut_b[j] = cut[b[j]]


class Strip:
    """A block on its way through comparisons: copies of its vectors, and for each the best so far.

    ``positions``: (n,) int32, the names of its rows in the lists of others.
    """

    def __init__(self, copies: Copies, positions: NDArray[np.int32], similar: int, dissimilar: int):
        self.copies, self.positions = copies, positions
        self.similar, self.dissimilar = Best(len(copies), similar), Best(len(copies), dissimilar)
        self.error = np.zeros(len(copies), dtype=np.float32)
        """How wrong scores against all that was offered can be."""

    def offer(self, other: "Strip", screen: Screen, room: Values, dimensions: int) -> None:
        """Compare with ``other``, which may be this strip itself: both get their best. ``room``: for the product."""
        product = screen.product(self.copies.low, other.copies.low, room)
        for of, against in ((self, other), (other, self)):
            np.maximum(of.error, scoring.bounds(of.copies, against.copies, screen, dimensions), out=of.error)
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
    """For each row the keys kept for one relation, in order, and what is known of all others.

    ``keys``: (n, k) int64, padded with `NONE`; ``lower_bound``: (n,) int64, a key that no neighbour outside the list
    comes before. For dissimilar ones the bits are those of the greatest possible distance minus the distance's."""

    keys: Keys
    lower_bound: Keys

    @classmethod
    def empty(cls, rows: int, k: int) -> "Lists":
        return cls(np.full((rows, k), NONE), np.full(rows, NONE))

    @classmethod
    def complete(cls, keys: Keys) -> "Lists":
        """The k best keys of each row, in any order: all others come after them."""
        keys = np.sort(keys, axis=1)
        return cls(keys, keys[:, -1] + (keys[:, -1] != NONE) if keys.shape[1] else np.full(len(keys), NONE))

    def merged(self, *others: "Lists") -> "Lists":
        """The best of several lists of the same rows. Each pair of rows may be in one of them only."""
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
        """The same with room for ``k``."""
        return Lists(np.pad(self.keys, ((0, 0), (0, k - self.keys.shape[1])), constant_values=NONE), self.lower_bound)

    def renumbered(self, numbers: Indices) -> "Lists":
        """With ``numbers[old]`` for each neighbour; those with a negative number, or none, are removed.

        Among equal distances any number may be new and small now: the lower bound is the least key of its distance.
        """
        old = self.keys & _LOW
        numbered = np.where(old < len(numbers), numbers[np.minimum(old, len(numbers) - 1)], -1)
        there = (self.keys != NONE) & (numbered >= 0)
        keys = np.where(there, moved(self.keys, numbered), NONE)
        return Lists(np.sort(keys, axis=1), np.where(self.lower_bound == NONE, NONE, self.lower_bound & ~_LOW))

    def certain(self, k: int, others: int) -> NDArray[np.bool_]:
        """(n,): rows whose first min(``k``, ``others``) keys are proven to be the best of ``others``."""
        wanted = min(k, others)
        if wanted == 0:
            return np.ones(len(self.keys), dtype=np.bool_)
        if wanted > self.keys.shape[1]:
            return np.zeros(len(self.keys), dtype=np.bool_)
        proven: NDArray[np.bool_] = self.keys[:, wanted - 1] < self.lower_bound
        return proven


def keys_from_bytes(content: bytes, rows: int) -> Keys:
    """(``rows``, k) keys, whatever k is, 0 too."""
    keys = np.frombuffer(content, np.int64)
    return keys.reshape(rows, len(keys) // max(rows, 1))


def distances_of(keys: Keys) -> Reals:
    """The distances in keys of similar ones; nan for `NONE`."""
    return np.where(keys == NONE, np.nan, (keys >> 32).astype(np.uint32).view(np.float32).astype(np.float64))


def key_of(bits: Bits, index: Indices, farthest: bool) -> Keys:
    order = bits.astype(np.int64)
    return ((BITS_MAX - order if farthest else order) << 32) | index


def least(keys: Keys, k: int) -> Keys:
    """The ``k`` least of each row, in no order, padded with `NONE`."""
    if keys.shape[1] > k > 0:
        keys = np.partition(keys, k - 1, axis=1)
    kept = keys[:, :k]
    if kept.shape[1] == k:
        return kept.copy()  # not a view that keeps the whole of a large array alive
    return np.pad(kept, ((0, 0), (0, k - kept.shape[1])), constant_values=NONE)


def positions_of(keys: Keys) -> NDArray[np.int64]:
    """Of keys that are not `NONE`: what stands below their bits."""
    return keys & _LOW


def moved(keys: Keys, index: Indices) -> Keys:
    """The same distances, of others."""
    return (keys & ~_LOW) | index
