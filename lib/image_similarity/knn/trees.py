"""Connected components by a forest of parents (union-find). The root of a tree is its least node."""

from image_similarity.knn.compiled import compiled


@compiled()
def join(parent, a, b):  # type: ignore[no-untyped-def]
    """Connect ``a[i]`` and ``b[i]`` for each i. Returns (m,) bool: the connections that joined two trees.

    ``parent``: (n,) int32, changed: no parent is greater than its node, and roots are their own parents.
    """
    joins = a != b
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
        else:
            parent[x] = y
        joins[i] = x != y
    return joins


@compiled()
def root_of(parent, nodes):  # type: ignore[no-untyped-def]
    """The root of each of ``nodes``."""
    root = parent[nodes]
    for i in range(len(root)):
        while parent[root[i]] != root[i]:
            root[i] = parent[root[i]]
    return root
