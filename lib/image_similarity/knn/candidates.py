"""Keys of neighbours, and sorted lists of them with a lower bound on the dropped ones.

Neighbours are ordered by distance, then by index. A *key* is a 64-bit integer: the bits of a distance, above the index.
The integer order of keys is this total order, so lists are plain arrays. Lists of scores are stored the same way: bits
that order scores, above the position.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn.distances import BITS_MAX, Bits, Indices, Reals, Values

Keys = NDArray[np.int64]

NONE = np.iinfo(np.int64).max
"""Marks a place in a list without a neighbour. It is greater than every key."""

MAX_INDEX = 2**31
_LOW = 2**32 - 1


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
