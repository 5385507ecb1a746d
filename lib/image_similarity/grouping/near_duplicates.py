"""Groups of near-duplicates: pairs within the limits, what they connect, and stars in each component.

1. `edges` are the pairs of lists of neighbours that are within their limits.
2. Lists of `saturated` nodes may end too early. `knn.range_search` has the other pairs among these.
3. `components.of` says what edges connect. Components are blocks of work only: they can be chains.
4. `grouped` makes the groups of components. Every pair of a group is within the wider limit, by exact distances.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from image_similarity.grouping import components, large, stars
from image_similarity.grouping.components import Nodes
from image_similarity.grouping.local_scale import Limits, common_scale, least_limit, saturated, scales, strict_limit
from image_similarity.grouping.matrices import SINGLE_PAIRS, matrices, matrix
from image_similarity.grouping.stars import Stars
from image_similarity.knn import range_search
from image_similarity.knn.all_pairs import one_core
from image_similarity.knn.compiled import compiled
from image_similarity.knn.distances import Indices, Metric, Values, Vectors
from image_similarity.knn.scoring import FLOAT32
from image_similarity.knn.threads import in_threads

__all__ = [
    "Edges",
    "Groups",
    "Limits",
    "Part",
    "common_scale",
    "edges",
    "grouped",
    "least_limit",
    "saturated",
    "scales",
    "strict_limit",
]

MATRIX_ROWS = 1024
"""Components of more distinct vectors are not compared all with all."""
_TINY_AT_ONCE = 2**18
"""Nodes in tiny components whose distances are computed at a time."""


@dataclass(frozen=True)
class Edges:
    """Pairs of nodes within their limits: ``a`` < ``b`` (m,) int32, with raw distances (m,) float32."""

    a: Nodes
    b: Nodes
    distance: Values

    def __len__(self) -> int:
        return len(self.a)

    def __getitem__(self, chosen: slice | Indices | NDArray[np.bool_]) -> "Edges":
        return Edges(self.a[chosen], self.b[chosen], self.distance[chosen])


@dataclass(frozen=True)
class Part:
    """Whole components of nodes: one, or several. The order of the nodes does not matter.

    ``node``: (m,) int32, their numbers. ``vectors``: m of them. ``scale``: (m,) float32. ``saturated``: (m,) bool.
    ``edges``: all edges between these nodes, by the nodes' numbers; a pair may be there twice.
    ``neighbour``: (m, k) int32, lists of the nodes' numbers, padded with -1; ``distance``: (m, k) float32.
    """

    node: Nodes
    vectors: Vectors
    scale: Values
    saturated: NDArray[np.bool_]
    edges: Edges
    neighbour: Nodes
    distance: Values

    def by_node(self) -> "Part":
        """The same, the nodes in order."""
        order = np.argsort(self.node)
        values = {of.name: getattr(self, of.name) for of in fields(self)}
        return Part(**{name: value if name == "edges" else value[order] for name, value in values.items()})


@dataclass(frozen=True)
class Groups:
    """Groups of nodes, ordered by their least nodes. Raw distances.

    ``node``: int32, the members of all groups, one group after the other: the centre, then by distance to the centre,
    ties by node. ``start``: (groups + 1,) int64, where in ``node`` each group begins, and the end.
    ``weakest_link``: (groups,) float32, the longest edge of the minimum spanning tree: at that limit the group falls
    apart. ``widest_pair``: (groups,) float32. ``nearest_outside``: (groups,) float32, ``nearest_outside_node``: int32,
    the nearest node in the members' lists that is not in the group, ties by node; NaN and -1 if there is none.
    """

    node: Nodes
    start: Indices
    weakest_link: Values
    widest_pair: Values
    nearest_outside: Values
    nearest_outside_node: Nodes

    def __len__(self) -> int:
        return len(self.weakest_link)

    def members(self, group: int) -> Nodes:
        return self.node[self.start[group] : self.start[group + 1]]


def edges(neighbour: Nodes, distance: Values, scale: Values, limits: Limits) -> Edges:
    """The pairs of lists that are within their limits, each pair once.

    ``neighbour``: (n, k) int32, the lists of all nodes, padded with -1; ``distance``: (n, k) float32, exact, so the
    same in the lists of both; ``scale``: (n,) float32, see `local_scale.scales`.
    """
    counted = np.zeros(len(neighbour), dtype=np.int64)
    nothing = Edges(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))
    _edges(neighbour, distance, scale, limits.scaled, limits.strict, counted, nothing.a, nothing.b, nothing.distance)
    place = np.cumsum(counted) - counted
    total = int(counted.sum())
    a, b, length = np.empty(total, np.int32), np.empty(total, np.int32), np.empty(total, np.float32)
    _edges(neighbour, distance, scale, limits.scaled, limits.strict, place, a, b, length)
    return Edges(a, b, length)


@compiled()
def _edges(neighbour, distance, scale, scaled, strict, place, a, b, length):  # type: ignore[no-untyped-def]
    """Write the edges of each row to the places from ``place`` on, or count them there if ``a`` is empty."""
    n, k = neighbour.shape
    for i in range(n):
        for c in range(k):
            j = neighbour[i, c]
            if j < 0:
                break
            limit = max(scaled * np.sqrt(np.float64(scale[i]) * np.float64(scale[j])), strict)
            if not distance[i, c] <= limit:
                continue
            if j < i:  # the other list has the pair, too, or this is its only place
                known = False
                for other in neighbour[j]:
                    known |= other == i
                if known:
                    continue
            if len(a):
                a[place[i]], b[place[i]], length[place[i]] = min(i, j), max(i, j), distance[i, c]
            place[i] += 1


def grouped(part: Part, metric: Metric, limits: Limits, threads: int = 1) -> Groups:
    """The groups of near-duplicates among the nodes of ``part``: see `stars`.

    Near-duplicates are the pairs of ``part.edges``, and those of two saturated nodes within ``strict``. Within a star,
    all pairs are compared. A thread works on one component at a time.
    """
    part = part.by_node()
    a, b = (np.searchsorted(part.node, of).astype(np.int32) for of in (part.edges.a, part.edges.b))
    label = components.of(len(part.node), a, b)
    rows = np.argsort(label, kind="stable")[np.count_nonzero(label < 0) :]
    first = np.searchsorted(label[rows], np.arange(int(label.max(initial=-1)) + 2))
    size = np.diff(first)
    tiny = np.nonzero(size <= SINGLE_PAIRS)[0]
    all_stars = [*_of_tiny(part, metric, limits, [rows[first[c] : first[c + 1]] for c in tiny], a, b)]
    of_edge = label[a]
    by_component = np.argsort(of_edge, kind="stable")
    starts = np.searchsorted(of_edge[by_component], np.arange(len(size) + 1))

    def of_one(component: int) -> Stars:
        members = rows[first[component] : first[component + 1]]
        inside = by_component[starts[component] : starts[component + 1]]
        if len(members) > MATRIX_ROWS:
            return _of_many(part, metric, limits, members, a[inside], b[inside], part.edges.distance[inside])
        own_a, own_b = (np.searchsorted(members, of[inside]) for of in (a, b))
        return _of_matrix(part, metric, limits, members, np.ones_like(members), own_a, own_b)

    with one_core(FLOAT32):  # small products in many threads took ten times as long
        all_stars.extend(in_threads(threads, of_one, np.nonzero(size > SINGLE_PAIRS)[0].tolist()))
    return _summarised(part, stars.joined(all_stars))


def _of_tiny(part: Part, metric: Metric, limits: Limits, members: list[Indices], a: Nodes, b: Nodes) -> Iterator[Stars]:
    """The groups of tiny components, many at a time. ``members``: the rows of each; ``a``, ``b``: rows of all edges."""
    at_once = _TINY_AT_ONCE // SINGLE_PAIRS
    for start in range(0, len(members), at_once):
        chosen = members[start : start + at_once]
        rows, first = np.concatenate(chosen), np.concatenate([[0], np.cumsum([len(of) for of in chosen])])
        between = matrices(metric, part.vectors, rows, first)
        place = np.full(len(part.node), -1)
        place[rows] = np.arange(len(rows))
        inside = place[a] >= 0
        near = _near(between, first, place[a[inside]], place[b[inside]], part.saturated[rows], limits.strict)
        all_stars = stars.of(between, near, first, part.scale[rows], np.ones(len(rows), dtype=np.int64), limits)
        yield all_stars.renamed(rows)


def _of_matrix(
    part: Part, metric: Metric, limits: Limits, rows: Indices, weight: Indices, a: Indices, b: Indices
) -> Stars:
    """The groups of one component, from all its distances. ``a``, ``b``: places in ``rows`` of its edges."""
    between = matrix(metric, part.vectors[rows]).ravel()
    first = np.array([0, len(rows)])
    near = _near(between, first, a, b, part.saturated[rows], limits.strict)
    return stars.of(between, near, first, part.scale[rows], weight, limits).renamed(rows)


@compiled()
def _near(distance, first, a, b, saturated, strict):  # type: ignore[no-untyped-def]
    """As ``distance``, the components' matrices: the pairs of edges, and those of saturated rows within ``strict``."""
    near = np.zeros(len(distance), dtype=np.bool_)
    component, begin = np.empty(first[-1], dtype=np.int64), np.empty(len(first), dtype=np.int64)
    begin[0] = 0
    for c in range(len(first) - 1):
        m = first[c + 1] - first[c]
        begin[c + 1] = begin[c] + m * m
        component[first[c] : first[c + 1]] = c
        for i in range(m):
            for j in range(i):
                if saturated[first[c] + i] and saturated[first[c] + j] and distance[begin[c] + i * m + j] <= strict:
                    near[begin[c] + i * m + j] = near[begin[c] + j * m + i] = True
    for edge in range(len(a)):
        c = component[a[edge]]
        m, i, j = first[c + 1] - first[c], a[edge] - first[c], b[edge] - first[c]
        near[begin[c] + i * m + j] = near[begin[c] + j * m + i] = True
    return near


def _of_many(part: Part, metric: Metric, limits: Limits, rows: Indices, a: Nodes, b: Nodes, distance: Values) -> Stars:
    """The groups of one large component. Equal vectors count as one, of their weight: they have the same neighbours.

    ``a``, ``b``: rows of ``part``, ``distance``: the component's edges.
    """
    leader, equal = _equal(part, rows)
    weight = np.bincount(equal)
    low, high = np.sort([equal[np.searchsorted(rows, of)] for of in (a, b)], axis=0)
    if len(leader) <= MATRIX_ROWS:
        others = low != high
        all_stars = _of_matrix(part, metric, limits, rows[leader], weight, low[others], high[others])
    else:
        once = np.unique(low * len(leader) + high, return_index=True)[1]
        once = once[low[once] != high[once]]
        chosen = rows[leader]
        component = large.Component(
            *(metric, part.vectors[chosen], part.scale[chosen], weight, part.saturated[chosen]),
            *(low[once], high[once], distance[once]),
        )
        all_stars = large.of(component, limits).renamed(chosen)
    return _with_equals(all_stars, rows, leader, equal)


def _equal(part: Part, rows: Indices) -> tuple[Indices, Indices]:
    """Nodes with equal vectors and scales: the place in ``rows`` of the first of each class, ascending; and the class
    of each.
    """
    of_vector = range_search.equal_vectors(part.vectors.values[rows])[1]
    key = np.stack([of_vector, part.scale[rows].view(np.int32), part.saturated[rows]], axis=1)
    _, first, equal = np.unique(key, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return first[order], rank[equal.ravel()]


def _with_equals(all_stars: Stars, rows: Indices, leader: Indices, equal: Indices) -> Stars:
    """``all_stars``, groups of leaders, with the nodes that are equal to these. Members are ordered as in `stars`."""
    star = np.repeat(np.arange(len(all_stars.size)), all_stars.size)
    of_class = np.full(len(leader), -1)
    of_class[np.searchsorted(rows[leader], all_stars.row)] = np.arange(len(all_stars.row))
    member = of_class[equal]
    row, member = rows[member >= 0], member[member >= 0]
    star, reach = star[member], all_stars.reach[member]
    centre = np.concatenate([[0], np.cumsum(all_stars.size)])[:-1]
    is_centre = np.isin(row, all_stars.row[centre])
    order = np.lexsort((row, reach, ~is_centre, star))
    return Stars(
        row[order],
        reach[order],
        np.bincount(star, minlength=len(all_stars.size)),
        all_stars.weakest_link,
        all_stars.widest_pair,
    )


def _summarised(part: Part, all_stars: Stars) -> Groups:
    """The groups in the order of their least rows, with the nearest nodes outside."""
    group = np.repeat(np.arange(len(all_stars.size)), all_stars.size)
    start = np.concatenate([[0], np.cumsum(all_stars.size)])
    least = np.minimum.reduceat(all_stars.row, start[:-1]) if len(all_stars.size) else all_stars.size
    order = np.argsort(least)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    row = all_stars.row[np.argsort(rank[group], kind="stable")]
    size = all_stars.size[order]
    group_of = np.full(len(part.node), -1)
    group_of[row] = np.repeat(np.arange(len(size)), size)
    nearest, outside = np.full(len(size), np.nan, dtype=np.float32), np.full(len(size), -1, dtype=np.int32)
    _outside(part.node, group_of, part.neighbour, part.distance, nearest, outside)
    return Groups(
        node=part.node[row],
        start=np.concatenate([[0], np.cumsum(size)]),
        weakest_link=all_stars.weakest_link[order],
        widest_pair=all_stars.widest_pair[order],
        nearest_outside=nearest,
        nearest_outside_node=outside,
    )


@compiled()
def _outside(node, group, neighbour, distance, nearest, outside):  # type: ignore[no-untyped-def]
    """For each group the nearest listed node that is not in it, ties by node. ``node`` ascends; ``group``: of rows."""
    for i in range(len(node)):
        own = group[i]
        if own < 0:
            continue
        for c in range(neighbour.shape[1]):
            other, length = neighbour[i, c], distance[i, c]
            if other < 0:
                break
            if outside[own] >= 0 and (length > nearest[own] or (length == nearest[own] and other >= outside[own])):
                continue
            row = np.searchsorted(node, other)
            if row == len(node) or node[row] != other or group[row] != own:
                nearest[own], outside[own] = length, other
