"""Average linkage on a graph of neighbours: of all pairs of groups, the nearest two become one, again and again.

Only pairs of nodes that a list holds are known, so the distance of two groups is the mean of the entries that lists of
one have in the other. A heap holds the pairs of groups. The group with fewer neighbours is joined to the other, so an
edge is renamed about log n times, even where one group swallows all others.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn.compiled import compiled

Integers = NDArray[np.int32]
Reals = NDArray[np.float64]


class Pairs(NamedTuple):
    """Pairs of nodes that are in a list, each once, in the order of the lists. ``entries``: 2 if either is in the
    other's list; ``total``: the sum of the entries' distances.
    """

    a: Integers
    b: Integers
    total: Reals
    entries: Integers


class Tree(NamedTuple):
    """Merges, in their order. Merge m makes the group n + m; numbers below n are the groups at the start.

    ``total``, ``entries``: of the entries that lists of one half have in the other.
    """

    left: Integers
    right: Integers
    height: Reals
    total: Reals
    entries: Integers


def listed_pairs(neighbour: Integers, distance: NDArray[np.float32]) -> Pairs:
    """The pairs of ``neighbour`` (n, k), padded with -1. No list has its own node, or a
    node twice.
    """
    count = _pairs(neighbour, distance, _NONE32, _NONE32, _NONE64, _NONE32)
    a, b, entries = (np.empty(count, dtype=np.int32) for _ in range(3))
    total = np.empty(count)
    _pairs(neighbour, distance, a, b, total, entries)
    return Pairs(a, b, total, entries)


def nearest_first(nodes: int, pairs: Pairs) -> Tree:
    """The tree of average linkage among ``nodes`` nodes, by the mean of the entries. Heights never fall. Ties: the
    pair that is listed first.
    """
    return _tree(np.ones(nodes, dtype=np.int64), pairs, False, np.inf, nodes)


def alike(size: NDArray[np.int64], a: Integers, b: Integers, share: Reals, least: float, largest: int) -> Tree:
    """The tree of average linkage by similarity: groups of ``size`` (g,) nodes merge while the mean of ``share`` over
    all pairs of their nodes is at least ``least``. Pairs of nodes that are not given have 0. ``a``, ``b``: the groups
    of each given pair; a pair of groups may be there more than once. No merge has more than ``largest`` nodes.
    """
    low, high = np.minimum(a, b).astype(np.int64), np.maximum(a, b).astype(np.int64)
    key, where = np.unique(low * len(size) + high, return_inverse=True)
    total = np.bincount(where, share, len(key))
    entries = np.bincount(where, minlength=len(key)).astype(np.int32)
    given = Pairs((key // len(size)).astype(np.int32), (key % len(size)).astype(np.int32), total, entries)
    return _tree(size, given, True, 1 - least, largest)


_NONE32, _NONE64 = np.empty(0, dtype=np.int32), np.empty(0)


@compiled()
def _pairs(neighbour, distance, a, b, total, entries):  # type: ignore[no-untyped-def]
    count, fill = 0, len(a) > 0
    n, k = neighbour.shape
    for i in range(n):
        for rank in range(k):
            j = neighbour[i, rank]
            if j < 0:
                continue
            back = -1
            for other in range(k):
                if neighbour[j, other] == i:
                    back = other
                    break
            if back >= 0 and j < i:
                continue
            if fill:
                a[count], b[count] = min(i, j), max(i, j)
                total[count] = np.float64(distance[i, rank])
                entries[count] = 1
                if back >= 0:
                    total[count] += np.float64(distance[j, back])
                    entries[count] = 2
            count += 1
    return count


def _tree(size: NDArray[np.int64], pairs: Pairs, complete: bool, limit: float, largest: int) -> Tree:
    a, b, total, entries = (column.copy() for column in pairs)
    start = 1 - total / (size[a] * size[b]) if complete else total / entries
    order = np.argsort(start, kind="stable").astype(np.int32)
    slots = 1 << max(3, int(2 * len(a)).bit_length())
    table = np.full(slots, -1, dtype=np.int32)
    return Tree(*_merged(size.copy(), a, b, total, entries, start, order, table, complete, limit, largest))


@compiled()
def _merged(size, a, b, total, entries, start, order, table, complete, limit, largest):  # type: ignore[no-untyped-def]  # noqa: C901 (one loop)
    n, edges = len(size), len(a)
    now, alive = start.copy(), np.ones(edges, dtype=np.bool_)
    head, tail = np.full(n, -1, dtype=np.int32), np.full(n, -1, dtype=np.int32)
    following, degree = np.full(2 * edges, -1, dtype=np.int32), np.zeros(n, dtype=np.int64)
    for e in range(edges):
        _insert(table, a, b, e)
        _append(head, tail, following, degree, a[e], 2 * e)
        _append(head, tail, following, degree, b[e], 2 * e + 1)
    name = np.arange(n)
    heap, members, held, next_start = np.empty(1024), np.empty(1024, dtype=np.int32), 0, 0
    most = max(0, n - 1)
    left, right, height = np.empty(most, dtype=np.int32), np.empty(most, dtype=np.int32), np.empty(most)
    totals, counts, merges = np.empty(most), np.empty(most, dtype=np.int32), 0
    while True:
        while next_start < edges:  # the nearest pair that has its distance of the start
            e = order[next_start]
            if alive[e] and now[e] == start[e]:
                break
            next_start += 1
        while held and not (alive[members[0]] and now[members[0]] == heap[0]):
            held = _pop(heap, members, held)
        if next_start == edges and not held:
            break
        e = members[0] if held else order[next_start]
        if held and next_start < edges:
            first = order[next_start]
            if start[first] < heap[0] or (start[first] == heap[0] and first < e):
                e = first
        if now[e] > limit:
            break
        x, y = a[e], b[e]
        alive[e] = False
        _remove(table, a, b, e)
        if size[x] + size[y] > largest:  # for ever
            continue
        left[merges], right[merges], height[merges] = name[x], name[y], now[e]
        totals[merges], counts[merges] = total[e], entries[e]
        if degree[x] < degree[y]:
            x, y = y, x
        size[x] += size[y]
        name[x] = n + merges
        merges += 1
        t = head[y]
        while t >= 0:
            following_t, e = following[t], t >> 1
            if alive[e]:
                z = b[e] if a[e] == y else a[e]
                _remove(table, a, b, e)
                known = _find(table, a, b, min(x, z), max(x, z))
                if known >= 0:
                    alive[e] = False
                    total[known] += total[e]
                    entries[known] += entries[e]
                    if not complete:
                        now[known] = total[known] / entries[known]
                        heap, members = _room(heap, members, held)
                        held = _push(heap, members, held, now[known], known)
                else:
                    a[e], b[e] = min(x, z), max(x, z)
                    _insert(table, a, b, e)
                    _append(head, tail, following, degree, x, t)
            t = following_t
        if complete:  # every distance of the group has changed
            t, head[x], tail[x], degree[x] = head[x], -1, -1, 0
            while t >= 0:
                following_t, e = following[t], t >> 1
                if alive[e]:
                    _append(head, tail, following, degree, x, t)
                    now[e] = 1 - total[e] / (size[a[e]] * size[b[e]])
                    heap, members = _room(heap, members, held)
                    held = _push(heap, members, held, now[e], e)
                t = following_t
    return left[:merges], right[:merges], height[:merges], totals[:merges], counts[:merges]


@compiled()
def _append(head, tail, following, degree, group, end):  # type: ignore[no-untyped-def]
    following[end] = -1
    if tail[group] < 0:
        head[group] = end
    else:
        following[tail[group]] = end
    tail[group] = end
    degree[group] += 1


@compiled()
def _slot(low, high, mask):  # type: ignore[no-untyped-def]
    h = (np.int64(low) * 0x1E3779B97F4A7C15 + np.int64(high)) * 0x3F58476D1CE4E5B9
    return (h ^ (h >> 29)) & mask


@compiled()
def _find(table, a, b, low, high):  # type: ignore[no-untyped-def]
    mask = len(table) - 1
    slot = _slot(low, high, mask)
    while table[slot] >= 0:
        e = table[slot]
        if a[e] == low and b[e] == high:
            return e
        slot = (slot + 1) & mask
    return -1


@compiled()
def _insert(table, a, b, e):  # type: ignore[no-untyped-def]
    mask = len(table) - 1
    slot = _slot(a[e], b[e], mask)
    while table[slot] >= 0:
        slot = (slot + 1) & mask
    table[slot] = e


@compiled()
def _remove(table, a, b, e):  # type: ignore[no-untyped-def]
    """Later entries move up, so that no search stops before them."""
    mask = len(table) - 1
    free = _slot(a[e], b[e], mask)
    while table[free] != e:
        free = (free + 1) & mask
    slot = (free + 1) & mask
    while table[slot] >= 0:
        other = table[slot]
        if ((slot - _slot(a[other], b[other], mask)) & mask) >= ((slot - free) & mask):
            table[free] = other
            free = slot
        slot = (slot + 1) & mask
    table[free] = -1


@compiled()
def _room(heap, members, held):  # type: ignore[no-untyped-def]
    if held < len(heap):
        return heap, members
    longer, more = np.empty(2 * held), np.empty(2 * held, dtype=np.int32)
    longer[:held], more[:held] = heap, members
    return longer, more


@compiled()
def _push(heap, members, held, value, e):  # type: ignore[no-untyped-def]
    at = held
    while at > 0:
        above = (at - 1) >> 1
        if heap[above] < value or (heap[above] == value and members[above] <= e):
            break
        heap[at], members[at] = heap[above], members[above]
        at = above
    heap[at], members[at] = value, e
    return held + 1


@compiled()
def _pop(heap, members, held):  # type: ignore[no-untyped-def]
    held -= 1
    value, e, at = heap[held], members[held], 0
    while 2 * at + 1 < held:
        below = 2 * at + 1
        if below + 1 < held and (
            heap[below + 1] < heap[below] or (heap[below + 1] == heap[below] and members[below + 1] < members[below])
        ):
            below += 1
        if value < heap[below] or (value == heap[below] and e <= members[below]):
            break
        heap[at], members[at] = heap[below], members[below]
        at = below
    heap[at], members[at] = value, e
    return held


def tops(groups: int, tree: Tree, chosen: NDArray[np.bool_]) -> Integers:
    """(groups,) The highest group of the tree that is ``chosen`` (groups + merges,) and holds each group of the start;
    -1 for none.
    """
    return np.asarray(_tops(groups, tree.left, tree.right, chosen), dtype=np.int32)


@compiled()
def _tops(groups, left, right, chosen):  # type: ignore[no-untyped-def]
    own = np.full(groups + len(left), -1, dtype=np.int32)
    for m in range(len(left) - 1, -1, -1):
        x = groups + m
        if own[x] < 0 and chosen[x]:
            own[x] = x
        own[left[m]] = own[right[m]] = own[x]
    return own[:groups]


def summed(groups: Any, tree: Tree, merged: Any = 0) -> Any:
    """(groups + merges,) ``groups`` of the start summed over the tree, and ``merged`` of each merge added."""
    values = np.concatenate([groups, np.broadcast_to(merged, len(tree.left)).astype(groups.dtype)])
    _summed(len(groups), tree.left, tree.right, values)
    return values


@compiled()
def _summed(groups, left, right, values):  # type: ignore[no-untyped-def]
    for m in range(len(left)):
        values[groups + m] += values[left[m]] + values[right[m]]
