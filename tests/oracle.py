"""The neighbour tables by definition: all distances in float64, rounded as the documentation says, sorted."""

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn import engine

Row = tuple[int, int, int, float]
"""row, rank, neighbour, distance"""


def distances(vectors: NDArray[np.float32], metric: str) -> NDArray[np.float32]:
    x = vectors.astype(np.float64)
    if metric == "euclidean":
        return np.stack([np.sqrt(((x - row) ** 2).sum(axis=1)) for row in x]).astype(np.float32)
    if metric == "correlation":
        x = x - x.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(x, axis=1)
    cosine = (x @ x.T) / np.outer(lengths, lengths)
    return (np.clip(np.rint((1 - cosine) * 2**23), 0, 2**24) / 2**23).astype(np.float32)


def neighbours(vectors: NDArray[np.float32], metric: str, k: int, farthest: bool = False) -> list[Row]:
    """The ``k`` nearest (or farthest) others of each row: by distance, then by index; fewer where there are fewer."""
    rows: list[Row] = []
    for i, of_i in enumerate(distances(vectors, metric)):
        order = np.lexsort((np.arange(len(of_i)), -of_i if farthest else of_i))
        kept = order[order != i][:k]
        rows += [(i, rank, int(j), float(of_i[j])) for rank, j in enumerate(kept, start=1)]
    return rows


def planted(n: int, d: int, seed: int) -> NDArray[np.float32]:
    """Random vectors, among them copies, scaled copies, opposites, and small integers with many equal distances."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, d)).astype(np.float32)
    part = n // 20
    vectors[part : 2 * part] = vectors[:part]
    vectors[2 * part : 3 * part] = 2 * vectors[:part]
    vectors[3 * part : 4 * part] = -vectors[:part]
    vectors[4 * part : 5 * part] = vectors[0]
    vectors[5 * part : 7 * part] = rng.integers(-1, 2, (2 * part, d))
    vectors[5 * part : 7 * part, 0] = 1  # none of them zero or constant
    vectors[5 * part : 7 * part, 1] = -1
    return vectors[rng.permutation(n)]


def rows_of(found: engine.Ranked) -> list[Row]:
    """What the kernels found, as `neighbours` gives it."""
    return list(zip(found.row.tolist(), found.rank.tolist(), found.neighbour.tolist(), found.distance.tolist()))
