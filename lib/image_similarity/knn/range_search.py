"""All pairs of vectors within a radius."""

from dataclasses import dataclass

import numpy as np

from image_similarity.knn import distances
from image_similarity.knn.distances import Indices, Metric, Values, Vectors

_TILE_ROWS = 1024


@dataclass(frozen=True)
class Pairs:
    """Pairs of vectors, by position: ``a`` < ``b`` (m,) int64, and their distances (m,) float32."""

    a: Indices
    b: Indices
    distance: Values


def within(metric: Metric, vectors: Vectors, positions: Indices, radius: float, threads: int = 1) -> Pairs:
    """All pairs of ``vectors`` whose distance is at most ``radius``, each once, by exact distances.

    ``positions``: (n,) distinct, the numbers of the vectors in pairs. ``radius``: a raw distance; it may be 0.
    """
    pairs = [Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
    for row in range(0, len(vectors), _TILE_ROWS):
        rows = vectors[row : row + _TILE_ROWS]
        for column in range(row, len(vectors), _TILE_ROWS):
            between = distances.block(metric, rows, vectors[column : column + _TILE_ROWS]).view(np.float32)
            a, b = np.nonzero(between <= radius)
            length = between[a, b]
            a, b = a + row, b + column
            once = a < b
            a, b = positions[a[once]], positions[b[once]]
            pairs.append(Pairs(np.minimum(a, b), np.maximum(a, b), length[once]))
    return Pairs(*(np.concatenate([getattr(part, name) for part in pairs]) for name in ("a", "b", "distance")))


def connections(metric: Metric, vectors: Vectors, positions: Indices, radius: float, threads: int = 1) -> Pairs:
    """Pairs within ``radius`` that connect all that `within` connects: at most n - 1 of them."""
    return within(metric, vectors, positions, radius, threads)
