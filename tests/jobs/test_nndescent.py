"""pynndescent in this process: what is asked of it, and what comes back. In Spark it is tested by ``make
test-long``.
"""

import numpy as np
import pytest

from image_similarity.knn.nndescent import Descent


def test_more_threads_than_there_are() -> None:
    with pytest.raises(ValueError, match="approximate.threads is 4000, but numba has"):
        Descent(np.zeros((600, 4), dtype=np.float32), 5, True, 0, 4000)


def test_residents_and_visitors_get_most_of_their_neighbours() -> None:
    rng, k = np.random.default_rng(3), 5
    rows, others = (rng.normal(size=(n, 8)).astype(np.float32) for n in (600, 40))
    made = Descent(rows, k, False, 0, 1)
    for queries, (places, scores), least in ((rows, made.residents(), 0.95), (others, made.visitors(others), 0.7)):
        assert places.dtype == np.int32 and scores.dtype == np.float32 and len(places) == len(scores) == len(queries)
        away = ((queries[:, None].astype(np.float64) - rows) ** 2).sum(axis=2)
        there = places >= 0
        if queries is rows:
            assert not (places == np.arange(len(rows))[:, None]).any(), "no row is its own neighbour"
            np.fill_diagonal(away, np.inf)
        assert np.allclose(
            scores[there], -np.take_along_axis(away, np.maximum(places, 0), axis=1)[there] / 2, atol=1e-4
        )
        right = np.argsort(away, axis=1)[:, :k]
        hits = sum(len(set(mine[mine >= 0]) & set(true)) for mine, true in zip(places, right))
        assert hits >= least * len(queries) * k
