"""Groups of near-duplicates: pairs within the limits, what they connect, and stars in each component.

1. `edges` are the pairs of lists of neighbours that are within their limits.
2. Lists of `saturated` nodes may end too early. `knn.range_search` has the other pairs among these.
3. `components.of` says what edges connect. Components are blocks of work only: they can be chains.
4. `grouped` makes the groups of components. Every pair of a group is within the wider limit, by exact distances.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_similarity.grouping import components, stars
from image_similarity.grouping.components import Nodes
from image_similarity.grouping.local_scale import Limits, saturated, scales, strict_limit
from image_similarity.knn import distances
from image_similarity.knn.compiled import compiled
from image_similarity.knn.distances import Indices, Metric, Values, Vectors

__all__ = ["Edges", "Groups", "Limits", "Part", "edges", "grouped", "saturated", "scales", "strict_limit"]


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


def grouped(part: Part, metric: Metric, limits: Limits) -> Groups:
    """The groups of near-duplicates among the nodes of ``part``, by exact distances.

    In each component, the node with the most neighbours within the limit comes first, ties by node. It takes its free
    neighbours, the nearest first, as long as each is within the wider limit of all members so far. The others stay
    free. Nodes that are left alone are in no group.
    """
    order = np.argsort(part.node)
    node = part.node[order]
    a, b = np.searchsorted(node, part.edges.a), np.searchsorted(node, part.edges.b)
    label = components.of(len(node), a.astype(np.int32), b.astype(np.int32))
    members: list[Indices] = []
    links: list[float] = []
    widest: list[float] = []
    for component in range(int(label.max(initial=-1)) + 1):
        rows = order[label == component]
        vectors = part.vectors[rows]
        between = distances.block(metric, vectors, vectors).view(np.float32)
        limit = limits.of_pairs(part.scale[rows][:, None], part.scale[rows][None, :])
        for group in stars.of(between, limit, limits.wide):
            members.append(rows[group])
            inside = between[np.ix_(group, group)]
            links.append(stars.weakest_link(inside))
            widest.append(float(inside.max()))
    return _with_outsiders(part, members, links, widest)


def _with_outsiders(part: Part, members: list[Indices], links: list[float], widest: list[float]) -> Groups:
    """``members``: rows of ``part``."""
    in_order = sorted(range(len(members)), key=lambda group: int(part.node[members[group]].min()))
    nearest, outsider = [], []
    for group in in_order:
        rows = members[group]
        listed, distance = part.neighbour[rows].ravel(), part.distance[rows].ravel()
        outside = (listed >= 0) & ~np.isin(listed, part.node[rows])
        best = min(zip(distance[outside].tolist(), listed[outside].tolist()), default=(np.nan, -1))
        nearest.append(best[0])
        outsider.append(best[1])
    sizes = [len(members[group]) for group in in_order]
    return Groups(
        node=np.concatenate([np.empty(0, np.int32), *(part.node[members[group]] for group in in_order)]),
        start=np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]),
        weakest_link=np.array([links[group] for group in in_order], dtype=np.float32),
        widest_pair=np.array([widest[group] for group in in_order], dtype=np.float32),
        nearest_outside=np.array(nearest, dtype=np.float32),
        nearest_outside_node=np.array(outsider, dtype=np.int32),
    )
