"""Stars in a component that is too large for a matrix of all its distances.

The groups are those of `stars`. Its pairs are the edges of lists, and the pairs within ``strict`` of nodes whose lists
may end before. These are compared tile by tile, once to count them, and again where a centre takes its neighbours.
Memory is bounded by the nodes and their lists, however many pairs there are.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_similarity.grouping import stars
from image_similarity.grouping.local_scale import Limits
from image_similarity.grouping.matrices import matrix
from image_similarity.grouping.stars import Stars
from image_similarity.knn import distances, trees
from image_similarity.knn.compiled import compiled
from image_similarity.knn.distances import Indices, Metric, Reals, Values, Vectors

_TILE_ROWS = 1024
_CENTRES_AT_ONCE = 128


@dataclass(frozen=True)
class Component:
    """Nodes that edges connect, ordered by name.

    ``scale`` (n,) float32, ``weight`` (n,) int64: see `stars.of`. ``saturated``: (n,) bool. ``a``, ``b``, ``distance``:
    (m,) edges by row, each pair once.
    """

    metric: Metric
    vectors: Vectors
    scale: Values
    weight: Indices
    saturated: NDArray[np.bool_]
    a: Indices
    b: Indices
    distance: Values


def of(component: Component, limits: Limits) -> Stars:
    """The groups of a component: see `stars`."""
    crowd = _Crowd(component, limits)
    listed = _Listed(component, crowd.has(component.a, component.b, component.distance))
    degree = listed.degrees(component.weight) + crowd.degrees()
    free = np.ones(len(component.scale), dtype=np.bool_)
    all_stars = []
    order = np.argsort(-degree, kind="stable")
    crowd.expect(order)
    for centre in order.tolist():
        if not free[centre]:
            continue
        free[centre] = False
        (row, reach), (more, more_reach) = listed.of(centre), crowd.of(centre, free)
        row, reach = np.append(row, more), np.append(reach, more_reach)
        row, reach = row[free[row]], reach[free[row]]
        if not len(row) and component.weight[centre] == 1:
            continue
        nearest = np.lexsort((row, reach))
        row, reach = np.append(centre, row[nearest]), np.append(np.float32(0), reach[nearest])
        chosen, link, widest = _split(component, row, reach, limits)
        free[row[chosen]] = False
        of_group = (np.array([value], dtype=np.float32) for value in (link, widest))
        all_stars.append(Stars(row[chosen], reach[chosen], np.array([len(chosen)]), *of_group))
    return stars.joined(all_stars)


class _Listed:
    """The neighbours of each row by edges."""

    def __init__(self, component: Component, left_out: NDArray[np.bool_]):
        a, b, distance = (of[~left_out] for of in (component.a, component.b, component.distance))
        row = np.concatenate([a, b])
        order = np.argsort(row, kind="stable")
        self._neighbour, self._distance = np.concatenate([b, a])[order], np.concatenate([distance, distance])[order]
        self._start = np.searchsorted(row[order], np.arange(len(component.scale) + 1))

    def degrees(self, weight: Indices) -> Indices:
        total = np.concatenate([[0], np.cumsum(weight[self._neighbour])])
        degrees: Indices = total[self._start[1:]] - total[self._start[:-1]] + weight
        return degrees

    def of(self, row: int) -> tuple[Indices, Values]:
        chosen = slice(self._start[row], self._start[row + 1])
        return self._neighbour[chosen], self._distance[chosen]


class _Crowd:
    """The saturated rows. Their pairs within ``strict`` may be too many to be kept: they are computed when needed."""

    def __init__(self, component: Component, limits: Limits):
        self._component, self._strict = component, np.float64(limits.strict)
        self._rows = np.nonzero(component.saturated)[0]
        self._kept: dict[int, tuple[Indices, Values]] = {}
        self._to_come = self._rows

    def has(self, a: Indices, b: Indices, distance: Values) -> NDArray[np.bool_]:
        """Whether pairs are among these rows, and within ``strict``."""
        saturated = self._component.saturated
        has: NDArray[np.bool_] = saturated[a] & saturated[b] & (distance <= self._strict)
        return has

    def degrees(self) -> Indices:
        """The number of nodes within ``strict`` of each row of the component."""
        weight, rows = self._component.weight, self._rows
        degree = np.zeros(len(weight), dtype=np.int64)
        for a, b, between in _tiles(self._component.metric, self._component.vectors, rows):
            near = between <= self._strict
            if a is b:
                np.fill_diagonal(near, False)
            else:
                degree[b] += weight[a] @ near
            degree[a] += near @ weight[b]
        return degree

    def expect(self, order: Indices) -> None:
        """``order``: in which centres will be asked for."""
        self._to_come = order[self._component.saturated[order]]

    def of(self, centre: int, free: NDArray[np.bool_]) -> tuple[Indices, Values]:
        """The free rows within ``strict`` of ``centre``, and their distances."""
        if not self._component.saturated[centre]:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        if centre not in self._kept:
            self._keep(centre, free)
        return self._kept.pop(centre)

    def _keep(self, centre: int, free: NDArray[np.bool_]) -> None:
        """Compute the neighbours of ``centre`` and of the next free centres."""
        place = int(np.nonzero(self._to_come == centre)[0][0])
        self._to_come = self._to_come[place + 1 :][free[self._to_come[place + 1 :]]]
        centres = np.append(centre, self._to_come[: _CENTRES_AT_ONCE - 1])
        self._rows = self._rows[free[self._rows]]
        vectors, metric = self._component.vectors, self._component.metric
        all_stars: list[list[tuple[Indices, Values]]] = [[] for _ in centres]
        for start in range(0, len(self._rows), _TILE_ROWS):
            rows = self._rows[start : start + _TILE_ROWS]
            between = distances.block(metric, vectors[centres], vectors[rows]).view(np.float32)
            for of_centre, own, distance in zip(all_stars, centres, between):
                near = (distance <= self._strict) & (rows != own)
                of_centre.append((rows[near], distance[near]))
        nothing = np.empty(0, np.int64), np.empty(0, np.float32)
        self._kept = {
            int(own): (np.concatenate([nothing[0], *rows]), np.concatenate([nothing[1], *reach]))
            for own, (rows, reach) in zip(centres, (tuple(zip(*of)) or ((), ()) for of in all_stars))
        }


def _tiles(metric: Metric, vectors: Vectors, rows: Indices) -> Iterator[tuple[Indices, Indices, Values]]:
    """The distances of all pairs of ``rows``, tile by tile: each pair once, but twice, and with the diagonal, in a tile
    of rows with themselves.
    """
    strips = [rows[start : start + _TILE_ROWS] for start in range(0, len(rows), _TILE_ROWS)]
    for place, a in enumerate(strips):
        of_a = vectors[a]
        for b in strips[place:]:
            between = distances.block(metric, of_a, of_a if b is a else vectors[b]).view(np.float32)
            if b is a:
                np.fill_diagonal(between, 0.0)
            yield a, b, between


def _split(component: Component, row: Indices, reach: Values, limits: Limits) -> tuple[Indices, float, float]:
    """The places of ``row``, a centre and its neighbours, that stay together; weakest link and widest pair of these.

    ``reach``: the distances to the centre.
    """
    far = stars.far_from(reach, component.scale[row], component.scale[row[0]], limits)
    if len(row) <= _TILE_ROWS:
        between = matrix(component.metric, component.vectors[row])
        chosen = stars.accepted(between, component.scale[row], far, limits)
        return chosen, *stars.widths(between[np.ix_(chosen, chosen)])
    chosen = _accepted(component, row, far, limits)
    return chosen, *widths(component.metric, component.vectors[row[chosen]])


def _accepted(component: Component, row: Indices, far: Reals, limits: Limits) -> Indices:
    """The same as `stars.accepted`, tile by tile."""
    metric, vectors, scale = component.metric, component.vectors[row], component.scale[row]
    kept = np.empty(0, dtype=np.int64)
    for start in range(0, len(row), _TILE_ROWS):
        places = np.arange(start, min(start + _TILE_ROWS, len(row)))
        for first in range(0, len(kept), _TILE_ROWS):
            before = kept[first : first + _TILE_ROWS]
            between = distances.block(metric, vectors[places], vectors[before]).view(np.float32)
            limit = limits.wider_of_pairs(scale[places][:, None], scale[before][None, :])
            limit = np.maximum(limit, np.maximum(far[places][:, None], far[before][None, :]))
            places = places[(between <= limit).all(axis=1)]
        between = matrix(metric, vectors[places])
        kept = np.append(kept, places[stars.accepted(between, scale[places], far[places], limits)])
    return kept


def widths(metric: Metric, vectors: Vectors) -> tuple[float, float]:
    """The longest edge of the minimum spanning tree of a group, and the greatest distance, tile by tile.

    At the limit sought, every part of the group is connected with another one. So it is at least the greatest of the
    parts' distances to their nearest others. At that limit more is connected. This is done again until all is one part
    (Boruvka's algorithm, of which only the last edge is wanted).
    """
    rows = np.arange(len(vectors))
    parent = rows.astype(np.int32)
    part, limit, widest = parent.copy(), np.float32(0), np.float32(0)
    while part.any():  # the root of the only part is 0
        least = np.full(len(rows), np.inf, dtype=np.float32)
        for a, b, between in _tiles(metric, vectors, rows):
            widest = max(widest, between.max())
            _nearest_others(between, part[a], part[b], least)
        limit = least[np.unique(part)].max()
        for a, b, between in _tiles(metric, vectors, rows):
            _connect(between, a, b, part, limit, parent)
        part = trees.root_of(parent, rows)
    return float(limit), float(widest)


@compiled()
def _nearest_others(distance, part_a, part_b, least):  # type: ignore[no-untyped-def]
    """Lower ``least`` of each part to the least distance to another part."""
    for i in range(distance.shape[0]):
        for j in range(distance.shape[1]):
            x, y = part_a[i], part_b[j]
            if x != y:
                least[x], least[y] = min(least[x], distance[i, j]), min(least[y], distance[i, j])


@compiled()
def _connect(distance, a, b, part, limit, parent):  # type: ignore[no-untyped-def]
    """Connect the pairs of different parts that are within the limit."""
    for i in range(distance.shape[0]):
        x = a[i]
        while parent[x] != x:
            x = parent[x]
        for j in range(distance.shape[1]):
            if distance[i, j] <= limit and part[a[i]] != part[b[j]]:
                y = b[j]
                while parent[y] != y:
                    parent[y] = parent[parent[y]]
                    y = parent[y]
                if x < y:
                    parent[y] = x
                elif y < x:
                    parent[x] = y
                    x = y
