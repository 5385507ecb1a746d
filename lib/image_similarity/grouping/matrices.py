"""All distances of a few vectors, as square matrices."""

import numpy as np

from image_similarity.knn import distances
from image_similarity.knn.compiled import compiled
from image_similarity.knn.distances import Indices, Metric, Values, Vectors

SINGLE_PAIRS = 32
"""Up to so many vectors, distances of single pairs are faster than a product."""


def matrix(metric: Metric, vectors: Vectors) -> Values:
    """(m, m) float32, 0 on the diagonal."""
    if len(vectors) <= SINGLE_PAIRS:
        between = matrices(metric, vectors, np.arange(len(vectors)), np.array([0, len(vectors)]))
        return between.reshape(len(vectors), len(vectors))
    between = distances.block(metric, vectors, vectors).view(np.float32)
    np.fill_diagonal(between, 0.0)
    return between


def matrices(metric: Metric, vectors: Vectors, rows: Indices, first: Indices) -> Values:
    """The matrices of several small sets, one after the other, flat. Set s has ``rows[first[s] : first[s + 1]]``."""
    size = np.diff(first)
    pairs = int((size * (size - 1) // 2).sum())
    a, b, place, mirrored = np.empty((4, pairs), dtype=np.int64)
    _pairs(rows, first, a, b, place, mirrored)
    between = np.zeros(int(np.square(size).sum()), dtype=np.float32)
    between[place] = between[mirrored] = distances.pairs(metric, vectors, vectors, a, b).view(np.float32)
    return between


@compiled()
def _pairs(rows, first, a, b, place, mirrored):  # type: ignore[no-untyped-def]
    pair, begin = 0, 0
    for s in range(len(first) - 1):
        m = first[s + 1] - first[s]
        for i in range(m):
            for j in range(i):
                a[pair], b[pair] = rows[first[s] + i], rows[first[s] + j]
                place[pair], mirrored[pair] = begin + i * m + j, begin + j * m + i
                pair += 1
        begin += m * m
