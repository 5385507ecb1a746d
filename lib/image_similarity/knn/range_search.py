"""All pairs of vectors within a radius, and the pairs that connect what is within a radius.

A float32 product of two tiles screens: pairs whose score may be within the radius, by the bound of `scoring`, get exact
distances. Where most pairs of a tile pass, one float64 product is faster.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn import distances, scoring
from image_similarity.knn.all_pairs import one_core
from image_similarity.knn.compiled import compiled
from image_similarity.knn.distances import GRID, Indices, Metric, Values, Vectors
from image_similarity.knn.scoring import FLOAT32, Copies, Extremes
from image_similarity.knn.threads import in_threads
from image_similarity.knn.trees import join, root_of

_TILE_ROWS = 1024
_CROWDED = 0.02
"""Share of a tile's pairs above which a float64 product of the tile is faster than distances of single pairs."""
_CANDIDATES = 4096
"""Candidates of a connection that get exact distances at a time."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of vectors, by position: ``a`` < ``b`` (m,) int64, and their distances (m,) float32."""

    a: Indices
    b: Indices
    distance: Values


def within(metric: Metric, vectors: Vectors, positions: Indices, radius: float, threads: int = 1) -> Pairs:
    """All pairs of ``vectors`` whose distance is at most ``radius``, each once, by exact distances.

    ``positions``: (n,) distinct, the numbers of the vectors in pairs. ``radius``: a raw distance; it may be 0. There
    may be n (n - 1) / 2 pairs: `connections` gives at most n - 1.
    """
    search = _Search(metric, vectors, radius)

    def of_tile(tile: tuple[slice, slice]) -> Pairs:
        a, b, distance = search.pairs(*tile)
        once = (a < b) if tile[0] == tile[1] else slice(None)
        a, b = positions[a[once]], positions[b[once]]
        return Pairs(np.minimum(a, b), np.maximum(a, b), distance[once])

    with one_core(FLOAT32):
        return _joined(in_threads(threads, of_tile, _tiles(len(vectors))))


def connections(
    metric: Metric,
    vectors: Vectors,
    positions: Indices,
    radius: float,
    label: NDArray[np.integer] | None = None,
    threads: int = 1,
) -> Pairs:
    """Pairs within ``radius`` that connect all vectors that the pairs of `within` connect: at most n - 1 of them.

    ``label``: (n,) 0 or more; vectors with one label are connected already, and only pairs of different labels are
    looked at. Tight labels make it fast: what is farther from their centres than their members are is not compared.
    What is connected does not depend on ``threads``. Which pairs connect it may.
    """
    first, equal = equal_vectors(vectors.values)
    twins = np.nonzero(first[equal] != np.arange(len(vectors)))[0]
    own = np.arange(len(vectors)) if label is None else np.unique(label, return_inverse=True)[1]
    parent = _first_of_each(own)[own].astype(np.int32)
    joins = join(parent, first[equal[twins]].astype(np.int32), twins.astype(np.int32))
    order = first[np.argsort(own[first], kind="stable")]  # vectors of one label stand together
    found = _connect(metric, vectors[order], order, own[order], parent, radius, threads)
    twins = twins[joins]
    found = _joined([found, Pairs(first[equal[twins]], twins, np.zeros(len(twins), dtype=np.float32))])
    a, b = positions[found.a], positions[found.b]
    return Pairs(np.minimum(a, b), np.maximum(a, b), found.distance)


def equal_vectors(values: Values) -> tuple[Indices, Indices]:
    """Vectors (n, d) that are equal bit for bit: the first of each class (u,), ascending; the class of each (n,)."""
    hashed = _hashed(np.ascontiguousarray(values).view(np.uint32))
    _, first, equal = np.unique(hashed, return_index=True, return_inverse=True)
    leader = first[equal]
    # Vectors with one hash that differ are classes of their own.
    for start in range(0, len(values), _TILE_ROWS):
        rows = slice(start, start + _TILE_ROWS)
        same = (values[rows].view(np.uint32) == values[leader[rows]].view(np.uint32)).all(axis=1)
        leader[rows] = np.where(same, leader[rows], np.arange(len(values))[rows])
    first, equal = np.unique(leader, return_inverse=True)
    return first, equal


@compiled()
def _hashed(words):  # type: ignore[no-untyped-def]
    n, d = words.shape
    hashed = np.empty(n, dtype=np.uint64)
    for i in range(n):
        value = np.uint64(14695981039346656037)
        for c in range(d):
            value = (value ^ np.uint64(words[i, c])) * np.uint64(1099511628211)
            value ^= value >> np.uint64(29)
        hashed[i] = value
    return hashed


def _first_of_each(label: Indices) -> Indices:
    """The first index of each label, labels being 0, 1, 2..."""
    first = np.empty(int(label.max(initial=-1)) + 1, dtype=np.int64)
    first[label[::-1]] = np.arange(len(label))[::-1]
    return first


def _tiles(n: int) -> Iterator[tuple[slice, slice]]:
    starts = range(0, n, _TILE_ROWS)
    for row in starts:
        for column in starts:
            if column >= row:
                yield slice(row, min(row + _TILE_ROWS, n)), slice(column, min(column + _TILE_ROWS, n))


def _joined(parts: list[Pairs]) -> Pairs:
    nothing = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    return Pairs(
        *(np.concatenate([getattr(part, name) for part in (nothing, *parts)]) for name in ("a", "b", "distance"))
    )


class _Search:
    """Vectors that are screened for pairs within a radius."""

    def __init__(self, metric: Metric, vectors: Vectors, radius: float):
        self._metric, self._vectors = metric, vectors
        self._radius = np.float64(radius)  # a Python float would be compared as float32
        self._dimensions = vectors.values.shape[1]
        self._scale = scoring.scale_of(float(np.abs(vectors.values).max(initial=0.0)), self._dimensions, metric)
        self._copies = scoring.copies(vectors, metric, FLOAT32, self._scale)

    def pairs(self, rows: slice, columns: slice) -> tuple[Indices, Indices, Values]:
        """The pairs of a tile that are within the radius, and their exact distances."""
        score, least = self.scores(rows, columns)
        a, b = np.nonzero(score >= least[:, None])
        if len(a) > _CROWDED * score.size:
            between = distances.block(self._metric, self._vectors[rows], self._vectors[columns]).view(np.float32)
            a, b = np.nonzero(between <= self._radius)
            return a + rows.start, b + columns.start, between[a, b]
        return self.exact(a + rows.start, b + columns.start)

    def exact(self, a: Indices, b: Indices) -> tuple[Indices, Indices, Values]:
        """Those of the pairs that are within the radius, and their distances."""
        distance = distances.pairs(self._metric, self._vectors, self._vectors, a, b).view(np.float32)
        near = distance <= self._radius
        return a[near], b[near], distance[near]

    def scores(self, rows: slice | Indices, columns: slice | Indices) -> tuple[Values, Values]:
        """Scores of the pairs, and for each row the least score that a pair within the radius can have."""
        a, b = self._of(rows), self._of(columns)
        score = a.low @ b.low.T
        if not self._metric.angular:
            score -= a.half[:, None]
            score -= b.half[None, :]
        error = scoring.bounds_against(a, Extremes.of(b, self._dimensions), FLOAT32, self._dimensions)[:, 0]
        return score, np.nextafter((self._least() - error).astype(np.float32), np.float32(-np.inf))

    def _least(self) -> float:
        """The least exact score within the radius; more than makes up for the rounding of distances."""
        if self._metric.angular:
            return 1.0 - self._radius - 1.0 / GRID
        return -(((self._radius * (1.0 + 2.0**-20) + 2.0**-149) * self._scale) ** 2) / 2

    def _of(self, rows: slice | Indices) -> Copies:
        every = self._copies
        return Copies(every.low[rows], every.error[rows], every.length[rows], every.half[rows], every.angular)


class _Balls:
    """A ball around the vectors of each label. The distance of two balls bounds the distances of their vectors.

    By angular metrics the distance x of unit vectors is half of their squared euclidean distance.
    """

    def __init__(self, metric: Metric, vectors: Vectors, label: Indices, radius: float):
        """``label``: ascending."""
        self.start = np.concatenate([np.nonzero(np.diff(label, prepend=-1))[0], [len(label)]])
        self.reach = (np.sqrt(2 * (radius + 1 / GRID)) if metric.angular else radius) * (1 + 1e-5)
        count = len(self.start) - 1
        self.number = np.repeat(np.arange(count), np.diff(self.start))
        self.centre, self.radius = np.empty((count, vectors.values.shape[1])), np.empty(count)
        for ball in range(count):
            rows = vectors[slice(int(self.start[ball]), int(self.start[ball + 1]))].rows()
            self.centre[ball] = rows.mean(axis=0)
            self.radius[ball] = np.sqrt(np.square(rows - self.centre[ball]).sum(axis=1).max())
        self.square = np.square(self.centre).sum(axis=1)

    def near(self, rows: slice, columns: slice) -> tuple[Indices, Indices]:
        """The rows and columns of a tile whose balls may have a pair within the radius."""
        a, b = (slice(self.number[of.start], self.number[of.stop - 1] + 1) for of in (rows, columns))
        both = self.square[a][:, None] + self.square[b][None, :]
        squared = both * (1 - 1e-9) - 2 * (self.centre[a] @ self.centre[b].T)
        apart = np.sqrt(np.maximum(squared, 0.0)) * (1 - 1e-6)
        near = apart <= (self.radius[a][:, None] + self.radius[b][None, :]) * (1 + 1e-6) + self.reach
        near &= np.arange(a.start, a.stop)[:, None] != np.arange(b.start, b.stop)[None, :]
        return self._vectors(near.any(axis=1), a, rows), self._vectors(near.any(axis=0), b, columns)

    def _vectors(self, near: NDArray[np.bool_], balls: slice, rows: slice) -> Indices:
        chosen: Indices = np.nonzero(near[self.number[rows] - balls.start])[0] + rows.start
        return chosen


def _connect(
    metric: Metric,
    vectors: Vectors,
    node: Indices,
    label: Indices,
    parent: NDArray[np.int32],
    radius: float,
    threads: int,
) -> Pairs:
    """Pairs of nodes that join trees of ``parent``: see `connections`. ``vectors``: those of ``node``, by ``label``."""
    search, lock = _Search(metric, vectors, radius), threading.Lock()
    tight = len(label) >= 4 * len(np.unique(label))
    balls = _Balls(metric, vectors, label, radius) if tight else None

    def of_tile(tile: tuple[slice, slice]) -> Pairs:
        rows, columns = (np.arange(of.start, of.stop) for of in tile) if balls is None else balls.near(*tile)
        joins: list[Pairs] = []
        if not len(rows) or not len(columns):
            return _joined(joins)
        score, least = search.scores(rows, columns)
        at = np.zeros(2, dtype=np.int64)
        a, b = np.empty(_CANDIDATES, np.int64), np.empty(_CANDIDATES, np.int64)
        while at[0] < len(rows):
            with lock:
                trees = root_of(parent, node[rows]), root_of(parent, node[columns])
            count = _candidates(score, least, *trees, at, a, b)
            near_a, near_b, distance = search.exact(rows[a[:count]], columns[b[:count]])
            near_a, near_b = node[near_a], node[near_b]
            with lock:
                new = join(parent, near_a.astype(np.int32), near_b.astype(np.int32))
            joins.append(Pairs(near_a[new], near_b[new], distance[new]))
        return _joined(joins)

    with one_core(FLOAT32):
        return _joined(in_threads(threads, of_tile, _tiles(len(vectors))))


@compiled()
def _candidates(score, least, trees_a, trees_b, at, a, b):  # type: ignore[no-untyped-def]
    """Write the next pairs of different trees whose score may be within the radius. ``at``: where to go on."""
    count = 0
    for i in range(at[0], score.shape[0]):
        for j in range(at[1] if i == at[0] else 0, score.shape[1]):
            if score[i, j] >= least[i] and trees_a[i] != trees_b[j]:
                if count == len(a):
                    at[0], at[1] = i, j
                    return count
                a[count], b[count] = i, j
                count += 1
    at[0], at[1] = score.shape[0], 0
    return count
