"""Stars in components whose distances fit into a matrix.

In each component, the node with the most neighbours within the limit comes first, ties by row. It takes its free
neighbours, the nearest first, ties by row, as long as each is within the wider limit of all members so far. The others
stay free. A node that is left alone is in no group.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from image_similarity.grouping.local_scale import Limits
from image_similarity.knn.compiled import compiled
from image_similarity.knn.distances import Indices, Reals, Values

SLACK = 1.25
"""Two copies of a centre that are both beyond the limit of it may be that much farther from one another."""


@dataclass(frozen=True)
class Stars:
    """``row``: (m,) int64, the members of all groups, one group after the other: the centre, then the nearest first;
    ``reach``: (m,) float32, their distances to the centre. ``size``, ``weakest_link``, ``widest_pair``: (groups,).
    """

    row: Indices
    reach: Values
    size: Indices
    weakest_link: Values
    widest_pair: Values

    def renamed(self, rows: Indices) -> "Stars":
        """The same groups of ``rows[row]``."""
        return replace(self, row=rows[self.row])


def joined(parts: list[Stars]) -> Stars:
    """The groups of all ``parts``, in order."""
    none = np.empty(0, np.int64)
    first = Stars(none, none.astype(np.float32), none, none.astype(np.float32), none.astype(np.float32))
    return Stars(
        np.concatenate([part.row for part in (first, *parts)]),
        np.concatenate([part.reach for part in (first, *parts)]),
        np.concatenate([part.size for part in (first, *parts)]),
        np.concatenate([part.weakest_link for part in (first, *parts)]),
        np.concatenate([part.widest_pair for part in (first, *parts)]),
    )


def of(
    distance: Values, near: NDArray[np.bool_], first: Indices, scale: Values, weight: Indices, limits: Limits
) -> Stars:
    """The groups of several components. Component c has the rows from ``first[c]`` to before ``first[c + 1]``.

    ``distance``: the components' square matrices of distances, one after the other, flat; ``near``: as ``distance``,
    which of these pairs are near-duplicates. ``scale``: (n,) float32.
    ``weight``: (n,) int64, the number of equal nodes that a row stands for; a row of several may be a group by itself.
    """
    n = len(scale)
    row, reach, size = np.empty(n, np.int64), np.empty(n, np.float32), np.empty(n, np.int64)
    link, widest = np.empty(n, np.float32), np.empty(n, np.float32)
    values = limits.scaled, limits.strict, limits.wide, limits.least
    members, groups = _stars(distance, near, first, scale, weight, *values, row, reach, size, link, widest)
    return Stars(row[:members], reach[:members], size[:groups], link[:groups], widest[:groups])


def far_from(reach: Values, scale: Values, centre_scale: np.floating, limits: Limits) -> Reals:
    """How far members may be from one another because they are far from the centre, which they are copies of beyond
    doubt: (m,) float64, `SLACK` times ``reach`` where that is beyond the limit; else 0.
    """
    limit = limits.of_pairs(scale, np.full_like(scale, centre_scale))
    return np.where(reach > limit, SLACK * reach.astype(np.float64), 0.0)


def accepted(distance: Values, scale: Values, far: Reals, limits: Limits) -> Indices:
    """The rows of a star that stay in it, by all distances of its members (m, m): row 0, the centre, and in order those
    that are within the wider limit of all before. ``far``: (m,), see `far_from`.
    """
    order = np.arange(len(distance))
    return _accepted(distance, scale, far, order, limits.scaled, limits.strict, limits.wide, limits.least)  # type: ignore[no-any-return]


def widths(distance: Values) -> tuple[float, float]:
    """The longest edge of the minimum spanning tree, and the greatest of all distances (m, m) of a group."""
    link, widest = _widths(distance, np.arange(len(distance)))
    return float(link), float(widest)


@compiled()
def _stars(distance, near, first, scale, weight, scaled, strict, wide, least, row, reach, size, link, widest):  # type: ignore[no-untyped-def]
    members, groups, begin = 0, 0, 0
    for component in range(len(first) - 1):
        start, m = first[component], first[component + 1] - first[component]
        between = distance[begin : begin + m * m].reshape(m, m)
        joined = near[begin : begin + m * m].reshape(m, m)
        begin += m * m
        scales, weights = scale[start : start + m], weight[start : start + m]
        free = np.ones(m, dtype=np.bool_)
        candidates = np.empty(m, dtype=np.int64)
        for centre in np.argsort(-_degrees(joined, weights), kind="mergesort"):
            if not free[centre]:
                continue
            candidates[0], count = centre, 1
            free[centre] = False
            for j in range(m):
                if free[j] and joined[centre, j]:
                    candidates[count] = j
                    count += 1
            if count == 1 and weights[centre] == 1:
                continue
            nearest = 1 + np.argsort(between[centre][candidates[1:count]], kind="mergesort")
            candidates[1:count] = candidates[nearest]
            far = np.zeros(m)
            for j in candidates[:count]:
                if between[centre, j] > _limit(scales, centre, j, scaled, strict):
                    far[j] = SLACK * np.float64(between[centre, j])
            chosen = candidates[_accepted(between, scales, far, candidates[:count], scaled, strict, wide, least)]
            for j in chosen:
                free[j] = False
                row[members], reach[members] = start + j, between[centre, j] if j != centre else 0.0
                members += 1
            size[groups] = len(chosen)
            link[groups], widest[groups] = _widths(between, chosen)
            groups += 1
    return members, groups


@compiled()
def _degrees(near, weight):  # type: ignore[no-untyped-def]
    """The number of near-duplicates of each row, itself among them."""
    degree = weight.copy()
    for i in range(len(degree)):
        for j in range(i):
            if near[i, j]:
                degree[i] += weight[j]
                degree[j] += weight[i]
    return degree


@compiled()
def _limit(scale, i, j, scaled, strict):  # type: ignore[no-untyped-def]
    """The same as `Limits.of_pairs`, to the last bit."""
    return max(scaled * np.sqrt(np.float64(scale[i]) * np.float64(scale[j])), strict)


@compiled()
def _accepted(distance, scale, far, candidates, scaled, strict, wide, least):  # type: ignore[no-untyped-def]
    """The places of those ``candidates`` that are within the wider limit of all accepted before."""
    places = np.empty(len(candidates), dtype=np.int64)
    count = 0
    for place in range(len(candidates)):
        j, fits = candidates[place], True
        for other in range(count):
            i = candidates[places[other]]
            limit = wide * max(_limit(scale, i, j, scaled, strict), least)
            if not distance[j, i] <= max(limit, far[i], far[j]):
                fits = False
                break
        if fits:
            places[count] = place
            count += 1
    return places[:count]


@compiled()
def _widths(distance, members):  # type: ignore[no-untyped-def]
    """Prim's algorithm on a matrix. 0 and 0 for one member."""
    m = len(members)
    least = np.full(m, np.inf, dtype=np.float32)
    outside = np.ones(m, dtype=np.bool_)
    link, widest, last = np.float32(0), np.float32(0), 0
    outside[0] = False
    for _ in range(m - 1):
        nearest = -1
        for i in range(m):
            if outside[i]:
                to_last = distance[members[last], members[i]]
                widest = max(widest, to_last)
                least[i] = min(least[i], to_last)
                if nearest < 0 or least[i] < least[nearest]:
                    nearest = i
        outside[nearest] = False
        link = max(link, least[nearest])
        last = nearest
    return link, widest
