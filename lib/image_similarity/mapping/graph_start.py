"""Where the layout begins: the slowest waves of the neighbour graph. No vectors are needed.

A node's first place is its value in the two eigenvectors of the normalised adjacency matrix whose eigenvalues follow
the largest: what many short paths connect has nearly the same values (Belkin and Niyogi: Laplacian eigenmaps, Neural
Computation 2003). In large parts, a fixed number of products with the graph comes near enough to them. A solver that
goes on until it has converged may need hours at millions of nodes.

Parts of the graph that nothing connects would all have the same value. So each part has waves of its own, and the parts
lie around the largest on a spiral.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components
from threadpoolctl import threadpool_limits

from image_similarity.knn.distances import Reals, Values

Nodes = NDArray[np.int32]

_DENSE = 128
"""The most nodes of a part whose eigenvectors are computed exactly."""
_ROUNDS = 20
_DEGREE = 10
"""Products of the graph and the columns in a round."""
_COLUMNS = 8
"""Waves that are iterated. More than two, since the slower the others are, the later the first two part from them."""
_MOST = 1 - 1e-6
"""The greatest lower bound of the eigenvalues that are kept."""
_GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))


def graph_start(neighbour: Nodes, distance: Values, seed: int) -> Reals:
    """(n, 2): the places from which the layout begins.

    ``neighbour`` (n, k) int32, padded with -1, and ``distance`` (n, k), padded with inf. A part of the graph fills a
    disc whose area is its number of nodes. A node without an edge is a part of its own.
    """
    graph = _symmetric(neighbour, distance)
    _, part = connected_components(graph, directed=False)
    order = np.argsort(part, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(part))]) if len(part) else np.zeros(1, np.int64)
    size = np.diff(starts)
    places = np.zeros((len(neighbour), 2))
    graph = graph[order][:, order]  # then each part is a block on the diagonal
    before = 0
    with threadpool_limits(1):  # with one thread, sums are added in one order
        for rank, each in enumerate(np.argsort(-size, kind="stable").tolist()):
            block = slice(starts[each], starts[each + 1])
            radius = np.sqrt(size[each])
            away = np.sqrt(before) + radius if rank else 0.0
            middle = away * np.array([np.cos(rank * _GOLDEN_ANGLE), np.sin(rank * _GOLDEN_ANGLE)])
            places[order[block]] = middle + radius * _waves(graph[block, block], seed)
            before += size[each]
    return places


def _symmetric(neighbour: Nodes, distance: Values) -> csr_matrix:
    """(n, n): the weight of each edge, which falls with its distance on the scale of the list that it is in."""
    n, k = neighbour.shape
    is_edge = neighbour >= 0
    finite = np.where(is_edge, distance, 0).astype(np.float64)
    scale = finite.sum(axis=1) / np.maximum(is_edge.sum(axis=1), 1)
    weight = np.exp(-finite / np.where(scale > 0, scale, 1)[:, None])
    row = np.repeat(np.arange(n, dtype=np.int32), k).reshape(n, k)
    graph = coo_matrix((weight[is_edge], (row[is_edge], neighbour[is_edge])), shape=(n, n)).tocsr()
    return graph.maximum(graph.T)


def _waves(graph: csr_matrix, seed: int) -> Reals:
    """(n, 2): the two slowest waves of a connected graph, equally wide, within a circle of radius 1."""
    n = graph.shape[0]
    if n <= 2:
        return np.array([[-0.5, 0.0], [0.5, 0.0]]) if n == 2 else np.zeros((n, 2))
    root = np.sqrt(np.asarray(graph.sum(axis=1)).ravel())
    row = np.repeat(np.arange(n), np.diff(graph.indptr))
    graph = csr_matrix((graph.data / (root[row] * root[graph.indices]), graph.indices, graph.indptr), graph.shape)
    if n <= _DENSE:
        waves = np.linalg.eigh(graph.toarray())[1][:, [-2, -3]]
    else:
        waves = _iterated(graph, root / np.linalg.norm(root), seed)
    waves = waves / root[:, None]
    waves = waves / np.maximum(np.abs(waves).max(axis=0), np.finfo(np.float64).tiny)
    return np.asarray(waves / np.linalg.norm(waves, axis=1).max())


def _iterated(graph: csr_matrix, first: Reals, seed: int) -> Reals:
    """(n, 2): the eigenvectors that follow ``first``, by Chebyshev-filtered subspace iteration (Zhou, Saad, Tiago and
    Chelikowsky: Self-consistent-field calculations using Chebyshev-filtered subspace iteration, J. Comput. Phys. 2006).
    """
    columns = np.random.default_rng(seed).standard_normal((len(first), _COLUMNS))
    lower_bound = 0.0
    for _ in range(_ROUNDS):
        columns = _filtered(graph, columns, lower_bound)
        columns = np.linalg.qr(columns - np.outer(first, first @ columns))[0]
        values, turn = np.linalg.eigh(columns.T @ (graph @ columns))
        columns = columns @ turn
        lower_bound = min(max(values[0], 0.0), _MOST)
    return np.asarray(columns[:, [-1, -2]])


def _filtered(graph: csr_matrix, columns: Reals, lower_bound: float) -> Reals:
    """``columns`` times a Chebyshev polynomial of ``graph``, which damps eigenvalues from -1 to ``lower_bound``."""
    middle, half = (lower_bound - 1) / 2, (lower_bound + 1) / 2
    before, columns = columns, (graph @ columns - middle * columns) / half
    for _ in range(_DEGREE - 1):
        before, columns = columns, 2 / half * (graph @ columns - middle * columns) - before
    return columns
