"""pynndescent on one part of a collection: lists for its residents, and for visitors.

Rows are copies as scores are made of (`screening.copies`). Distances come back as scores, greater for nearer ones:
minus half of the squared distance, and 1 more for unit vectors, whose score is their product."""

from typing import Any

import numpy as np
from numba import config
from numpy.typing import NDArray
from pynndescent import NNDescent
from threadpoolctl import threadpool_limits

from image_similarity.knn.distances import Values

LEAST_ROWS = 512
"""pynndescent wants far more rows than neighbours."""


class Descent:
    """An index over ``rows`` (n, d) float32, with ``k`` neighbours of each; the same for the same rows, order, seed and
    threads.

    ``threads``: at most as many as numba has, else ``ValueError``.
    """

    def __init__(self, rows: Values, k: int, angular: bool, seed: int, threads: int):
        most = config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
        if threads > most:
            raise ValueError(f"approximate.threads is {threads}, but numba has {most} here: set it to {most} or less")
        self._angular, self._k = angular, k
        # Its lists begin with the row itself.
        self._index: Any = NNDescent(rows, metric="euclidean", n_neighbors=k + 1, random_state=seed, n_jobs=threads)

    def residents(self) -> tuple[NDArray[np.int32], Values]:
        """Places (n, k) int32, -1 where there is none, and scores (n, k)."""
        found, away = self._index.neighbor_graph
        found = np.where(found == np.arange(len(found))[:, None], -1, found)
        return found.astype(np.int32), self._scores(away)

    def visitors(self, rows: Values) -> tuple[NDArray[np.int32], Values]:
        """The same for other rows (m, d)."""
        with threadpool_limits(1):
            found, away = self._index.query(rows, self._k)
        return found.astype(np.int32), self._scores(away)

    def _scores(self, away: Values) -> Values:
        return ((1.0 if self._angular else 0.0) - away.astype(np.float32) ** 2 / 2).astype(np.float32)
