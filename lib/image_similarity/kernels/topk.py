"""Exact nearest and farthest neighbours: distances between blocks of vectors, and running lists of the best.

What a distance is. It is computed in float64 and rounded once: cosine and correlation distances (1 - similarity, in [0, 2]) to the
nearest multiple of 2**-23, which float32 holds exactly, euclidean ones to float32. The rounded value *is* the distance; order is by
it, then by the neighbour's index.

How it is made exact. A matrix product is fast, but its last bits depend on how it was cut into blocks. Wherever those bits could
change the rounded value (`doubtful` below: about one pair in 100,000), the pair is computed again by itself, always in the same
order of additions. So the lists do not depend on block size, partitions, or the order in which pairs of blocks are compared.

How it is ordered. Distances are not negative, so the bits of a float32, read as an integer, are ordered like its value. Above the
neighbour's index they make one 64-bit integer, a *key*: integer order of keys is the total order, and lists are plain arrays.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
Distances = NDArray[np.float32]
Keys = NDArray[np.int64]

NONE = np.iinfo(np.int64).max
"""Stands in a list where there is no neighbour; behind every key."""

GRID = float(2**23)
MAX_INDEX = 2**32

SQUARE = 4
_BITS_MAX = int(np.float32(np.inf).view(np.uint32))
_PAIRS_AT_ONCE_BYTES = 32 * 2**20
# Half of the unit in the last place of 1.0: the relative error of one float64 operation.
_U = 2.0**-53


@dataclass(frozen=True)
class Block:
    """Vectors of one metric, ready to be compared, with consecutive indices.

    ``rows``: (n, d) float64, for cosine and correlation of unit length; ``first``: the index of the first.
    """

    rows: Rows
    first: int

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Metric:
    """One distance: how vectors are made ready for it, and the distances between two blocks."""

    name: str
    ready: Callable[[NDArray[np.float32]], Rows]
    """(n, d) float32 -> (n, d) float64."""
    distances: Callable[[Rows, Rows], Distances]
    """(a, d), (b, d) -> (a, b) float32, rounded as the module says, the same for a pair whatever stands around it."""
    unusable: Callable[[NDArray[np.float32]], NDArray[np.bool_]]
    """(n, d) float32 -> (n,): vectors that have no such distance."""
    unusable_reason: str


def _unit(rows: Rows) -> Rows:
    unit: Rows = rows / np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    return unit


def _ready_cosine(vectors: NDArray[np.float32]) -> Rows:
    return _unit(vectors.astype(np.float64))


def _ready_correlation(vectors: NDArray[np.float32]) -> Rows:
    rows = vectors.astype(np.float64)
    return _unit(rows - rows.mean(axis=1, keepdims=True))


def _ready_euclidean(vectors: NDArray[np.float32]) -> Rows:
    return vectors.astype(np.float64)


def _on_grid(similarity: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 - similarity as a number of grid steps, not yet rounded."""
    return (1.0 - similarity) * GRID


def _angular_distances(a: Rows, b: Rows) -> Distances:
    """Of vectors of unit length: 1 - their product, rounded to the grid."""
    steps = _on_grid(a @ b.T)
    nearest = np.rint(steps)
    # Two ways to add d products of unit vectors differ by at most 2 d u; 1 - x and its scaling add little.
    slack = GRID * (2 * a.shape[1] + 8) * _U
    doubtful = np.nonzero(np.abs(steps - nearest) > 0.5 - slack)
    nearest[doubtful] = np.rint(_on_grid(_by_pairs(lambda x, y: (x * y).sum(axis=1), a, b, doubtful)))
    # Adding 0.0 turns -0.0, whose bits would not be in order, into 0.0.
    distances: Distances = (np.clip(nearest, 0.0, 2.0 * GRID) / GRID + 0.0).astype(np.float32)
    return distances


def _euclidean_distances(a: Rows, b: Rows) -> Distances:
    """The length of the difference, rounded to float32."""
    squares = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None, :]
    squared = squares - 2.0 * (a @ b.T)
    # The product's error is at most d u |a| |b| <= d u (|a|^2 + |b|^2) / 2, those of the squares are as large; and some roundings.
    slack = squares * ((3 * a.shape[1] + 16) * _U)
    distances: Distances = np.sqrt(np.maximum(squared, 0.0)).astype(np.float32)
    low = np.sqrt(np.maximum(squared - slack, 0.0)).astype(np.float32)
    high = np.sqrt(np.maximum(squared + slack, 0.0)).astype(np.float32)
    doubtful = np.nonzero(low != high)
    distances[doubtful] = np.sqrt(_by_pairs(lambda x, y: np.square(x - y).sum(axis=1), a, b, doubtful)).astype(np.float32)
    return distances


def _by_pairs(
    function: Callable[[Rows, Rows], NDArray[np.float64]], a: Rows, b: Rows, pairs: tuple[NDArray[np.intp], ...]
) -> NDArray[np.float64]:
    """``function`` of single pairs of rows; it must treat both alike and add in an order that depends on d alone."""
    values = np.empty(len(pairs[0]))
    step = max(1, _PAIRS_AT_ONCE_BYTES // (a.shape[1] * a.itemsize))
    for start in range(0, len(values), step):
        chunk = slice(start, start + step)
        values[chunk] = function(a[pairs[0][chunk]], b[pairs[1][chunk]])
    return values


def _is_zero(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    zero: NDArray[np.bool_] = np.logical_not(vectors.any(axis=1))
    return zero


def _is_constant(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    constant: NDArray[np.bool_] = np.logical_and.reduce(vectors == vectors[:, :1], axis=1)
    return constant


def _is_never(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.zeros(len(vectors), dtype=np.bool_)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("cosine", _ready_cosine, _angular_distances, _is_zero, "zero_vector"),
        Metric("correlation", _ready_correlation, _angular_distances, _is_constant, "constant_vector"),
        Metric("euclidean", _ready_euclidean, _euclidean_distances, _is_never, "unusable"),
    )
}


@dataclass(frozen=True)
class Lists:
    """For each row of a block its best keys so far, in no particular order; `NONE` where there are fewer.

    ``similar``: (n, k) int64, ``dissimilar``: (n, m) int64.
    """

    similar: Keys
    dissimilar: Keys

    @classmethod
    def empty(cls, rows: int, similar: int, dissimilar: int) -> "Lists":
        return cls(np.full((rows, similar), NONE), np.full((rows, dissimilar), NONE))

    def merged(self, *others: "Lists") -> "Lists":
        """The best of several lists of the same rows. Each pair of rows may be in one of them only."""
        similar = np.concatenate([self.similar, *(other.similar for other in others)], axis=1)
        dissimilar = np.concatenate([self.dissimilar, *(other.dissimilar for other in others)], axis=1)
        return Lists(least(similar, self.similar.shape[1]), least(dissimilar, self.dissimilar.shape[1]))


def compare(metric: Metric, a: Block, b: Block, similar: int, dissimilar: int) -> tuple[Lists, Lists]:
    """The best of ``b`` for each row of ``a``, and of ``a`` for each row of ``b``, from one matrix product.

    For a block and itself both answers are the same, and no row is its own neighbour.
    """
    bits = metric.distances(a.rows, b.rows).view(np.uint32)
    itself = a.first == b.first
    of_a = _select(bits, b.first, similar, dissimilar, itself)
    return of_a, of_a if itself else _select(np.ascontiguousarray(bits.T), a.first, similar, dissimilar, itself)


def _select(bits: NDArray[np.uint32], first: int, similar: int, dissimilar: int, itself: bool) -> Lists:
    """The best columns of each row; column j is the neighbour ``first + j``."""
    index = np.arange(first, first + bits.shape[1], dtype=np.int64)
    return Lists(
        similar=_best(bits.astype(np.int64), index, similar, itself),
        dissimilar=_best(_BITS_MAX - bits.astype(np.int64), index, dissimilar, itself),
    )


def _best(order: NDArray[np.int64], index: NDArray[np.int64], k: int, itself: bool) -> Keys:
    if k == 0:
        return np.empty((len(order), 0), dtype=np.int64)
    keys = (order << 32) | index
    if itself:
        np.fill_diagonal(keys, NONE)
    return least(keys, k)


def least(keys: Keys, k: int) -> Keys:
    """The ``k`` least of each row, padded with `NONE`."""
    if keys.shape[1] > k > 0:
        keys = np.partition(keys, k - 1, axis=1)
    kept = keys[:, :k]
    if kept.shape[1] == k:
        return kept.copy()  # not a view that keeps the whole of a large array alive
    return np.pad(kept, ((0, 0), (0, k - kept.shape[1])), constant_values=NONE)


@dataclass(frozen=True)
class Ranked:
    """Neighbours in long form, arrays of one length: row (int64), rank (int32, from 1), neighbour (int64), distance (float32)."""

    row: NDArray[np.int64]
    rank: NDArray[np.int32]
    neighbour: NDArray[np.int64]
    distance: Distances


def ranked(keys: Keys, first: int, farthest: bool) -> Ranked:
    """The lists of rows ``first``, ``first + 1``, ..., sorted and taken apart. ``farthest``: they are of dissimilar ones."""
    ordered = np.sort(keys, axis=1)
    row, place = np.nonzero(ordered != NONE)
    kept = ordered[row, place]
    bits = kept >> 32
    bits = _BITS_MAX - bits if farthest else bits
    return Ranked(
        row=row + first,
        rank=(place + 1).astype(np.int32),
        neighbour=kept & (MAX_INDEX - 1),
        distance=bits.astype(np.uint32).view(np.float32),
    )


def neighbours(
    vectors: NDArray[np.float32], metric: str, similar: int, dissimilar: int, block_rows: int = 2048
) -> tuple[Ranked, Ranked]:
    """Similar and dissimilar neighbours among ``vectors`` (n, d), in one process: what the Spark stage does with many."""
    chosen = METRICS[metric]
    starts = range(0, len(vectors), block_rows)
    blocks = [Block(chosen.ready(vectors[start : start + block_rows]), start) for start in starts]
    lists = [Lists.empty(len(block), similar, dissimilar) for block in blocks]
    for i, j in block_pairs(len(blocks)):
        of_i, of_j = compare(chosen, blocks[i], blocks[j], similar, dissimilar)
        lists[i] = lists[i].merged(of_i)
        if i != j:
            lists[j] = lists[j].merged(of_j)
    parts = [(ranked(found.similar, start, False), ranked(found.dissimilar, start, True)) for start, found in zip(starts, lists)]
    return _joined([part[0] for part in parts]), _joined([part[1] for part in parts])


def _joined(parts: Sequence[Ranked]) -> Ranked:
    names = ("row", "rank", "neighbour", "distance")
    return Ranked(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def block_pairs(blocks: int) -> list[tuple[int, int]]:
    """All pairs i <= j, in squares of `SQUARE` x `SQUARE` blocks, so that pairs that follow one another share blocks."""
    pairs = ((i, j) for i in range(blocks) for j in range(i, blocks))
    return sorted(pairs, key=lambda pair: (pair[0] // SQUARE, pair[1] // SQUARE, pair))
