"""The neighbour graph of a sample, from the graph of all. No distance is computed, and no vector is read.

Of a sample of one in five, a list of twelve has two or three. The others are reached through nodes outside of the
sample: by the shortest paths of the graph, whose lengths stand for distances as in Isomap (Tenenbaum, de Silva and
Langford: A global geometric framework for nonlinear dimensionality reduction, Science 2000).
"""

import heapq

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn.compiled import compiled
from image_similarity.knn.distances import Indices, Values
from image_similarity.knn.hashing import mixed

Nodes = NDArray[np.int32]

_VISITS = 100
"""For each place in a list: the most nodes that the search for one list visits."""


def choose(hashes: NDArray[np.uint64], most: int, seed: int = 0) -> Indices:
    """The nodes of a sample, ascending: at most ``most``, chosen by the hashes (n,) of their names.

    So the order of the nodes does not matter, and of a collection that grows, most that were chosen are chosen again.
    """
    if len(hashes) <= most:
        return np.arange(len(hashes))
    return np.sort(np.argsort(mixed(hashes, seed), kind="stable")[:most])


def sampled(neighbour: Nodes, distance: Values, chosen: Indices) -> tuple[Nodes, Values]:
    """The lists of the ``chosen`` nodes (m,) among themselves: rows of ``chosen`` (m, k) int32, and distances (m, k).

    ``neighbour`` (n, k) int32, padded with -1, and ``distance`` (n, k) float32, padded with inf: the lists of all. The
    result is padded alike, the nearest first. Listed nodes have their own distance, others the length of the shortest
    path, which is an estimate. A list is shorter where the search ends before: at 100 visited nodes for each place.
    """
    row = np.full(len(neighbour), -1, dtype=np.int32)
    row[chosen] = np.arange(len(chosen), dtype=np.int32)
    nearest = np.full((len(chosen), neighbour.shape[1]), -1, dtype=np.int32)
    length = np.full(nearest.shape, np.inf, dtype=np.float32)
    _search(neighbour, distance, chosen, row, nearest, length)
    return nearest, length


@compiled()
def _search(neighbour, distance, chosen, row, nearest, length):  # type: ignore[no-untyped-def]
    """From each chosen node, the shortest paths first (Dijkstra), until its list is full."""
    k = neighbour.shape[1]
    visited = np.full(len(neighbour), -1, dtype=np.int32)
    """The last search that visited a node."""
    for search in range(len(chosen)):
        heap = [(np.float32(0.0), np.int32(chosen[search]))]
        visits = count = 0
        while len(heap) > 0 and count < k and visits <= _VISITS * k:
            so_far, node = heapq.heappop(heap)
            if visited[node] == search:
                continue
            visited[node] = search
            visits += 1
            if row[node] >= 0 and row[node] != search:
                nearest[search, count], length[search, count] = row[node], so_far
                count += 1
            for rank in range(k):
                other = neighbour[node, rank]
                if other >= 0 and visited[other] != search:
                    heapq.heappush(heap, (np.float32(so_far + distance[node, rank]), other))
