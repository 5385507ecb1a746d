"""pynndescent on one partition of a collection: lists for its own vectors, and for vectors that probe it.

Rows are the copies that scores are computed from (`scoring.copies`). Distances are returned as scores, which are
greater for nearer vectors: minus half of the squared distance, plus 1 for unit vectors, whose score is their product.
"""

from typing import Any

import numpy as np
from numba import config
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from image_similarity.knn.distances import Values

LEAST_ROWS = 512
"""The fewest rows for pynndescent, which needs far more rows than neighbours."""


class Descent:
    """An index over ``rows`` (n, d) float32, with ``k`` neighbours of each.

    The index is the same for the same rows in the same order, seed and threads. ``ValueError`` if ``threads`` exceeds
    the number of numba's threads.
    """

    def __init__(self, rows: Values, k: int, angular: bool, seed: int, threads: int):
        available = config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
        if threads > available:
            raise ValueError(
                f"approximate.threads is {threads}, but numba has {available} here: set it to {available} or less"
            )
        from pynndescent import NNDescent  # here, since importing it takes a second, and few workers use it

        self._angular, self._k = angular, k
        # The lists of pynndescent begin with the row itself, hence k + 1.
        self._index: Any = NNDescent(rows, metric="euclidean", n_neighbors=k + 1, random_state=seed, n_jobs=threads)

    def residents(self) -> tuple[NDArray[np.int32], Values]:
        """Neighbours of the index's own rows, as row numbers (n, k + 1) int32, and their scores (n, k + 1).

        -1 stands for the row itself and for a missing neighbour.
        """
        neighbours, distance = self._index.neighbor_graph
        neighbours = np.where(neighbours == np.arange(len(neighbours))[:, None], -1, neighbours)
        return neighbours.astype(np.int32), self._scores(distance)

    def visitors(self, rows: Values) -> tuple[NDArray[np.int32], Values]:
        """Neighbours of other ``rows`` (m, d) float32: row numbers of the index (m, k) int32, and scores (m, k)."""
        with threadpool_limits(1):
            neighbours, distance = self._index.query(rows, self._k)
        return neighbours.astype(np.int32), self._scores(distance)

    def _scores(self, distance: Values) -> Values:
        return ((1.0 if self._angular else 0.0) - distance.astype(np.float32) ** 2 / 2).astype(np.float32)
