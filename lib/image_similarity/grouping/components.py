"""Connected components of nodes."""

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn import trees

Nodes = NDArray[np.int32]


def of(n: int, a: Nodes, b: Nodes) -> Nodes:
    """The component of each of ``n`` nodes, (n,) int32, where the nodes ``a[i]`` and ``b[i]`` are connected for each i.

    Components are numbered from 0 in the order of their least nodes. -1 for nodes without a connection.
    """
    parent = np.arange(n, dtype=np.int32)
    trees.join(parent, a, b)
    connected = np.zeros(n, dtype=np.bool_)
    connected[a], connected[b] = True, True
    # A root is the least node of its component.
    root = trees.root_of(parent, np.arange(n, dtype=np.int32))
    number = np.cumsum(connected & (root == np.arange(n)), dtype=np.int32) - np.int32(1)
    return np.where(connected, number[root], np.int32(-1))
