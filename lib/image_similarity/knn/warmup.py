"""Compiles numba's functions before the work is timed: once in each process, and at once if they are in the cache on
disk.
"""

from functools import lru_cache

import numpy as np

from image_similarity.knn import candidates, graphs, scoring
from image_similarity.knn.backends.cpu import Pool
from image_similarity.knn.candidates import NONE
from image_similarity.knn.distances import METRICS, measured, pairs
from image_similarity.knn.nndescent import LEAST_ROWS, Descent
from image_similarity.knn.scoring import FLOAT32


@lru_cache(maxsize=None)
def warm_up(metric: str, descent: bool, threads: int) -> None:
    """Call every compiled function of approximate search. ``descent``: those of pynndescent, too.

    A second call in the same process does nothing. pynndescent compiles parts of itself in every process.
    """
    rows, chosen = LEAST_ROWS if descent else 8, METRICS[metric]
    vectors = measured(np.random.default_rng(0).standard_normal((rows, 4)).astype(np.float32), chosen)
    copies, positions = scoring.copies(vectors, chosen, FLOAT32, 1.0), np.arange(rows, dtype=np.int32)
    pool = Pool(copies, positions, 2)
    pool.compare(np.arange(4), np.arange(4, 8))
    pair_rows = np.arange(2, dtype=np.int64)
    keys, fresh = graphs.merged(
        np.full((8, 2), NONE),
        pair_rows,
        candidates.key_of(pairs(chosen, vectors, vectors, pair_rows, pair_rows + 2), pair_rows, False),
    )
    lists = np.zeros((8, 2), dtype=np.int32)
    for probed in (lists, np.zeros((8, 4), dtype=np.int32)[:, :2]):  # numba compiles once for each memory layout
        graphs.second_neighbours(lists, fresh, 0, True, lists, lists, fresh, lists, probed, probed[:, 0])
    if descent:
        index = Descent(copies.low, 2, chosen.angular, 0, threads)
        index.residents()
        index.visitors(copies.low[:8])
