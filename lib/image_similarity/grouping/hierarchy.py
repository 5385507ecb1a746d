"""Groups of images that belong together, at three levels, from the neighbours table alone.

Average linkage (`linkage`) makes one tree of all nodes. A group stands apart where the tree has a step: its members are
much nearer to one another than to what is around them. "Much" compares a group with its own surroundings, so dense and
sparse parts of a collection are judged alike, and what has no partner stays alone. Where a group holds others that
stand apart, the larger sum of links, each weighted by how far its group stands apart, wins (as excess of mass in
HDBSCAN*, Campello, Moulavi and Sander 2013).

Level 0, close groups: no larger than a list can show, and judged by the distances of all members.
Level 1, groups that stand apart: of any size.
Level 2, groups that are alike: images that have the same neighbours, whether or not they stand apart.

The limits were chosen on other fingerprints and made-up data; `tests/benchmarks/hierarchies.py` measures them.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from image_similarity.grouping import linkage
from image_similarity.grouping.linkage import Integers, Reals, Tree
from image_similarity.knn.compiled import compiled

Distances = NDArray[np.float32]
Flags = NDArray[np.bool_]

CLOSE = 0.58
"""Level 0: most that the mean distance inside a group may be, as a share of the mean distance to neighbours outside."""

STEP = 0.7
"""Level 1: most that the height of a group may be, as a share of the height at which it joins others."""

APART = 0.6
"""Level 1: the same for groups whose height is compared with the mean distance to neighbours outside."""

COMMON = 0.4
"""Level 2: least share of their neighbours that two listed neighbours must have in common to count as alike."""

ALIKE = 0.1
"""Level 2: least share of common neighbours over all pairs of a group, those that are not alike counted as 0."""

ENOUGH_RANKS = 4
"""Lists this long that hold nobody outside a group show that it stands apart. Shorter ones do so by chance."""


class Groups(NamedTuple):
    """What is known of the groups of one level from the lists: (g,) each, by label."""

    representative: Integers
    """The member with the least sum of distances to the others; a pair that is not listed counts as far as the
    member's list reaches. Ties: the lesser node."""

    weakest_link: Distances
    """The least limit at which the listed pairs within it still connect the group."""

    widest_listed: Distances
    """The largest distance of a listed pair. Pairs that are not listed may be farther apart."""


def levels(neighbour: Integers, distance: Distances) -> list[Integers]:
    """The groups of the three levels, finest first: labels (n,) int32, from 0 in the order of their least nodes, -1
    for none.

    ``neighbour`` (n, k) int32: each node's nearest others, nearest first, padded with -1. ``distance`` (n, k) float32:
    their exact distances, padded with inf. Nodes are ordered by name; ties are broken by that order.

    A group of a level is a union of groups and single nodes of the level before; a level may equal the one before. No
    group has more than half of the nodes. With fewer than `ENOUGH_RANKS` ranks, groups that fill their lists cannot be
    told from chance, and are not found.
    Raises ValueError for arrays that do not fit each other, numbers that are no nodes, distances that are no finite
    numbers from 0, and lists that name their own node, or another one twice.
    """
    neighbour, distance = _checked(neighbour, distance)
    n = len(neighbour)
    tree = linkage.nearest_first(n, linkage.listed_pairs(neighbour, distance))
    groups = _Measured(neighbour, distance, tree)
    close, apart = groups.standing_apart()
    labels_of_levels = [linkage.tops(n, tree, close), linkage.tops(n, tree, apart)]
    labels_of_levels.append(_alike(neighbour, labels_of_levels[-1]))
    return [_by_least_node(level) for level in labels_of_levels]


def described(neighbour: Integers, distance: Distances, labels: Integers) -> Groups:
    """What the lists say of the groups of one of the `levels`. ``labels`` (n,) int32."""
    neighbour, distance = _checked(neighbour, distance)
    pairs = linkage.listed_pairs(neighbour, distance)
    inside = (labels[pairs.a] == labels[pairs.b]) & (labels[pairs.a] >= 0)
    a, b = pairs.a[inside], pairs.b[inside]
    apart = pairs.total[inside] / pairs.entries[inside]
    count = int(labels.max(initial=-1)) + 1
    order = np.argsort(apart, kind="stable")
    weakest, widest = _links(labels, count, a[order], b[order], apart[order])
    size = np.bincount(labels[labels >= 0], minlength=count)
    representative = _representatives(labels, size, a, b, apart, _reach(distance))
    return Groups(representative, weakest.astype(np.float32), widest.astype(np.float32))


def _checked(neighbour: Integers, distance: Distances) -> tuple[Integers, Distances]:
    neighbour = np.ascontiguousarray(neighbour, dtype=np.int32)
    distance = np.ascontiguousarray(distance, dtype=np.float32)
    if neighbour.ndim != 2 or neighbour.shape != distance.shape:
        raise ValueError(f"neighbours {neighbour.shape} and distances {distance.shape} must be two alike tables")
    if neighbour.size and not -1 <= neighbour.min() <= neighbour.max() < len(neighbour):
        raise ValueError(f"neighbours must be -1 to {len(neighbour) - 1}, the numbers of the nodes")
    if not (distance[neighbour >= 0] >= 0).all() or np.isinf(distance[neighbour >= 0]).any():
        raise ValueError("distances must be finite numbers from 0")
    if (bad := _first_bad(neighbour)) >= 0:
        raise ValueError(f"the list of node {bad} has the node itself, or another one twice")
    return neighbour, distance


@compiled()
def _first_bad(neighbour):  # type: ignore[no-untyped-def]
    n, k = neighbour.shape
    for i in range(n):
        for rank in range(k):
            j = neighbour[i, rank]
            if j >= 0 and (j == i or j in neighbour[i, :rank]):
                return i
    return -1


def _reach(distance: Distances) -> Reals:
    """(n,) The last distance of each list; 0 for an empty one."""
    reach: Reals = np.where(np.isfinite(distance), distance, 0).max(axis=1, initial=0).astype(np.float64)
    return reach


class _Measured:
    """Each group of the tree: (n + merges,) arrays, of which the first n are single nodes."""

    def __init__(self, neighbour: Integers, distance: Distances, tree: Tree):
        n, self.tree = len(neighbour), tree
        listed = neighbour >= 0
        self.ranks = int(listed.sum(axis=1).max(initial=0))
        reach = _reach(distance)
        self.size = linkage.summed(np.ones(n, dtype=np.int64), tree)
        self.height = np.concatenate([np.zeros(n), tree.height])
        self.inside = linkage.summed(np.zeros(n), tree, tree.total)
        self.inside_entries = linkage.summed(np.zeros(n, dtype=np.int64), tree, tree.entries)
        everything = np.where(listed, distance, 0).sum(axis=1, dtype=np.float64)
        self.outside = linkage.summed(everything, tree) - self.inside
        self.outside_entries = linkage.summed(listed.sum(axis=1), tree) - self.inside_entries
        self.reach = linkage.summed(reach, tree) / self.size
        self.possible = (self.size > 1) & (2 * self.size <= n)

    def standing_apart(self) -> tuple[Flags, Flags]:
        """The groups of level 0 and of level 1."""
        left, right, n = self.tree.left, self.tree.right, len(self.size) - len(self.tree.left)
        around = self._around()
        step = self._step()
        closeness = _contrast(self._mean_inside(), around)
        in_a_list = self.possible & (self.size <= self.ranks + 1)
        near = in_a_list & (closeness >= 1 - CLOSE)
        close = _best(n, left, right, (self.size - 1) * closeness, near)
        within = _within(n, left, right, close)
        apart = (step >= 1 - STEP) | (_contrast(self.height, around) >= 1 - APART)
        worth = (self.size - 1) * np.where(close, np.maximum(step, closeness), step)
        return close, _best(n, left, right, worth, (self.possible & apart & ~within) | close)

    def _mean_inside(self) -> Reals:
        """Mean distance of all ordered pairs of members: those that are not listed are at least at the list's end."""
        full = np.maximum(1, self.size * (self.size - 1))
        mean: Reals = (self.inside + (full - self.inside_entries) * self.reach) / full
        return mean

    def _around(self) -> Reals:
        """Mean distance of the members' listed neighbours outside. Where there is none, it is beyond all lists;
        but lists that are full of equal images show nothing of it.
        """
        enough = (self.ranks >= ENOUGH_RANKS) & (self.reach > 0)
        beyond = np.where(enough, np.inf, self.reach)
        return np.where(self.outside_entries > 0, self.outside / np.maximum(1, self.outside_entries), beyond)

    def _step(self) -> Reals:
        """How much higher a group joins others than it was made. One that joins none is only known to stand apart."""
        n = len(self.size) - len(self.tree.left)
        joins = np.full(len(self.size), -1.0)
        for half in (self.tree.left, self.tree.right):
            joins[half] = self.height[n:]
        least = 1 - STEP if self.ranks >= ENOUGH_RANKS else 0.0
        alone = np.maximum(_contrast(self.height, self.reach), least)
        return np.where(joins >= 0, _contrast(self.height, joins), alone)


def _contrast(inside: Reals, outside: Reals) -> Reals:
    """1 where ``inside`` is nothing to ``outside``, 0 where it is as much. Equal images have none to equal ones."""
    share = np.divide(inside, outside, out=np.ones(len(inside)), where=outside > 0)
    contrast: Reals = np.maximum(0, 1 - share)
    return contrast


@compiled()
def _best(n, left, right, worth, accepted):  # type: ignore[no-untyped-def]
    """Disjoint accepted groups, of the largest sum of worth. Of equal ones the larger group."""
    value, picked = np.zeros(len(worth)), np.zeros(len(worth), dtype=np.bool_)
    for m in range(len(left)):
        x, below = n + m, value[left[m]] + value[right[m]]
        picked[x] = accepted[x] and worth[x] >= below
        value[x] = worth[x] if picked[x] else below
    hidden = np.zeros(len(worth), dtype=np.bool_)
    for m in range(len(left) - 1, -1, -1):
        x = n + m
        hidden[left[m]] = hidden[right[m]] = hidden[x] or picked[x]
        picked[x] = picked[x] and not hidden[x]
    return picked


@compiled()
def _within(n, left, right, chosen):  # type: ignore[no-untyped-def]
    """The groups that are inside a chosen one."""
    within = np.zeros(len(chosen), dtype=np.bool_)
    for m in range(len(left) - 1, -1, -1):
        within[left[m]] = within[right[m]] = within[n + m] or chosen[n + m]
    return within


def _alike(neighbour: Integers, start: Integers) -> Integers:
    """Level 2: groups of ``start`` (n,), -1 for none, and single nodes are joined where they have common neighbours."""
    n = len(neighbour)
    names = np.where(start >= 0, start, start.max(initial=0) + 1 + np.arange(n, dtype=np.int64))
    _, group = np.unique(names, return_inverse=True)
    size = np.bincount(group)
    with_self = np.sort(np.column_stack([neighbour, np.arange(n, dtype=np.int32)]), axis=1)
    a, b, share = _common(neighbour, with_self)
    a, b = group[a].astype(np.int32), group[b].astype(np.int32)
    strong = (share >= COMMON) & (a != b)
    tree = linkage.alike(size, a[strong], b[strong], share[strong], ALIKE, n // 2)
    parent = np.zeros(len(size) + len(tree.left), dtype=np.bool_)
    parent[len(size) :] = True
    top = linkage.tops(len(size), tree, parent)
    top = np.where((top < 0) & (size > 1), np.arange(len(size)), top)
    return top[group].astype(np.int32)


@compiled()
def _common(neighbour, lists):  # type: ignore[no-untyped-def]  # noqa: C901 (one loop)
    """Each pair of a node and a listed neighbour, once, and the share of their lists (with themselves) in common."""
    n, k = neighbour.shape
    count = 0
    a, b = np.empty(n * k, dtype=np.int32), np.empty(n * k, dtype=np.int32)
    share = np.empty(n * k, dtype=np.float32)
    for i in range(n):
        for rank in range(k):
            j = neighbour[i, rank]
            if j < 0:
                continue
            twice = False
            if j < i:
                for other in range(k):
                    twice = twice or neighbour[j, other] == i
            if twice:
                continue
            x, y, both, entries_i, entries_j = 0, 0, 0, 0, 0
            for place in range(k + 1):
                entries_i += lists[i, place] >= 0
                entries_j += lists[j, place] >= 0
            while x <= k and y <= k:
                if lists[i, x] == lists[j, y]:
                    both += lists[i, x] >= 0
                    x += 1
                    y += 1
                elif lists[i, x] < lists[j, y]:
                    x += 1
                else:
                    y += 1
            a[count], b[count], share[count] = i, j, both / max(entries_i, entries_j)
            count += 1
    return a[:count], b[:count], share[:count]


def _by_least_node(group: Integers) -> Integers:
    """Labels from 0 in the order of the groups' least nodes."""
    labels = np.full(len(group), -1, dtype=np.int32)
    member = group >= 0
    _, first, which = np.unique(group[member], return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    labels[member] = rank[which]
    return labels


@compiled()
def _links(labels, count, a, b, apart):  # type: ignore[no-untyped-def]
    """The longest edge of the minimum spanning tree, and the longest edge, of each group. Edges: shortest first."""
    weakest, widest = np.zeros(count), np.zeros(count)
    above = np.arange(len(labels))
    for e in range(len(a)):
        x, y, group = a[e], b[e], labels[a[e]]
        while above[x] != x:
            above[x] = above[above[x]]
            x = above[x]
        while above[y] != y:
            above[y] = above[above[y]]
            y = above[y]
        widest[group] = apart[e]
        if x != y:
            above[max(x, y)] = min(x, y)
            weakest[group] = apart[e]
    return weakest, widest


@compiled()
def _representatives(labels, size, a, b, apart, reach):  # type: ignore[no-untyped-def]
    n, count = len(labels), len(size)
    total, listed = np.zeros(n), np.zeros(n, dtype=np.int64)
    for e in range(len(a)):
        for i in (a[e], b[e]):
            total[i] += apart[e]
            listed[i] += 1
    best, least = np.full(count, -1, dtype=np.int32), np.full(count, np.inf)
    for i in range(n):
        group = labels[i]
        if group >= 0:
            value = total[i] + (size[group] - 1 - listed[i]) * reach[i]
            if value < least[group]:
                best[group], least[group] = i, value
    return best
