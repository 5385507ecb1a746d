"""Parts are of about the same size, whatever the vectors; the nearest centres are the nearest."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from image_similarity.knn import partitioning


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def lopsided(n: int) -> NDArray[np.float32]:
    """80 % in one narrow cluster."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((n, 16))
    rows[: n * 8 // 10] = rng.standard_normal(16) * 4 + 0.3 * rng.standard_normal((n * 8 // 10, 16))
    return unit(rows[rng.permutation(n)])


def test_a_large_cluster_is_cut() -> None:
    rows = lopsided(4000)
    found = partitioning.centres(rows[:1000], 10, True, seed=0)
    sizes = np.bincount(partitioning.nearest(rows, found, 1)[:, 0], minlength=len(found))
    assert 7 <= len(found) <= 20 and sizes.max() <= 3 * 400 and sizes.min() > 0
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_many_parts_are_found_in_two_steps() -> None:
    rows = unit(np.random.default_rng(3).standard_normal((20_000, 8)))
    found = partitioning.centres(rows[:6000], 200, True, seed=0)
    sizes = np.bincount(partitioning.nearest(rows, found, 1)[:, 0], minlength=len(found))
    assert 150 <= len(found) <= 300 and sizes.max() <= 4 * 100 and sizes.min() > 0
    # Vectors are nearly as near to their centres as after k-means at once.
    at_once = unit(KMeans(len(found), n_init=1, max_iter=12, random_state=0).fit(rows[:6000]).cluster_centers_)
    assert (1 - (rows @ found.T).max(axis=1)).mean() <= 1.1 * (1 - (rows @ at_once.T).max(axis=1)).mean()


def test_the_same_sample_gives_the_same_centres() -> None:
    rows = lopsided(600)
    assert (partitioning.centres(rows, 5, True, seed=1) == partitioning.centres(rows, 5, True, seed=1)).all()


@pytest.mark.parametrize("parts", [1, 2, 5, 50])
def test_few_vectors_and_vectors_that_are_one(parts: int) -> None:
    rows = np.ones((5, 3), dtype=np.float32)
    found = partitioning.centres(rows, parts, False, seed=0)
    assert 1 <= len(found) <= 5 and np.allclose(found, 1)
    assert partitioning.nearest(rows, found, 3).shape == (5, min(3, len(found)))


def test_nearest_centres_in_order() -> None:
    rng = np.random.default_rng(2)
    rows, found = rng.standard_normal((300, 8)).astype(np.float32), rng.standard_normal((20, 8)).astype(np.float32)
    away = ((rows[:, None, :].astype(np.float64) - found[None]) ** 2).sum(axis=2)
    for count in (1, 6, 20, 40):
        assert (partitioning.nearest(rows, found, count) == np.argsort(away, axis=1)[:, :count]).all()
