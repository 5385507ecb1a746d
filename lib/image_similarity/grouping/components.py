"""Connected components of nodes, by a forest of parents (union-find)."""

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn.compiled import compiled

Nodes = NDArray[np.int32]


def of(n: int, a: Nodes, b: Nodes) -> Nodes:
    """The component of each of ``n`` nodes, (n,) int32, where the nodes ``a[i]`` and ``b[i]`` are connected for each i.

    Components are numbered from 0 in the order of their least nodes. -1 for nodes without a connection.
    """
    parent = np.arange(n, dtype=np.int32)
    join(parent, a, b)
    root = roots(parent)
    connected = np.zeros(n, dtype=np.bool_)
    connected[a], connected[b] = True, True
    # A root is the least node of its component.
    number = np.cumsum(connected & (root == np.arange(n)), dtype=np.int32) - np.int32(1)
    return np.where(connected, number[root], np.int32(-1))


@compiled()
def join(parent, a, b):  # type: ignore[no-untyped-def]
    """Connect ``a[i]`` and ``b[i]`` for each i. ``parent``: (n,), no greater than the node itself; roots are their own
    parents. Returns (m,) bool: the connections that joined two trees.
    """
    joins = np.zeros(len(a), dtype=np.bool_)
    for i in range(len(a)):
        x, y = a[i], b[i]
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        while parent[y] != y:
            parent[y] = parent[parent[y]]
            y = parent[y]
        if x < y:
            parent[y] = x
        elif y < x:
            parent[x] = y
        joins[i] = x != y
    return joins


@compiled()
def roots(parent):  # type: ignore[no-untyped-def]
    """The root of each node, (n,): the least node of its tree."""
    root = parent.copy()
    for i in range(len(root)):
        root[i] = root[root[i]]  # a parent is no greater than its node, so its root is known
    return root
