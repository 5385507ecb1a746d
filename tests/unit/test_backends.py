"""All backends give the same table, to the last bit. What runs on a GPU runs here on torch's CPU."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import oracle
from adversaries import ADVERSARIES, Adversary, drawn
from image_similarity.knn import engine
from image_similarity.knn.backends import cuda
from image_similarity.knn.backends.cuda import Cuda
from image_similarity.knn.distances import METRICS

Vectors = NDArray[np.float32]


def assert_same(vectors: Vectors, metric: str, similar: int, dissimilar: int, backend: Any, **options: Any) -> None:
    expected = engine.neighbours(vectors, metric, similar, dissimilar)
    got = engine.neighbours(vectors, metric, similar, dissimilar, backend=backend, **options)
    for of_expected, of_got in zip(expected, got):
        for name in ("row", "rank", "neighbour", "distance"):
            np.testing.assert_array_equal(getattr(of_got, name), getattr(of_expected, name), err_msg=name)


def clustered(n: int, d: int, seed: int) -> Vectors:
    """Clusters one after the other: most neighbours of a row are in a tile of its own."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, n // 100), d))
    of_centres = centres[np.sort(rng.integers(0, len(centres), n))]
    return (of_centres + 0.1 * rng.standard_normal((n, d))).astype(np.float32)


@pytest.mark.parametrize("screen", cuda.SCREENS.values(), ids=lambda screen: screen.name)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("tile", [256, 300, 4096])
def test_planted_vectors(metric: str, screen: Any, tile: int) -> None:
    vectors = oracle.planted(1500, 32, seed=5)
    assert_same(vectors, metric, 12, 7, Cuda("cpu", tile), block_rows=333, screen=screen)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_adversaries(metric: str, adversary: Adversary) -> None:
    assert_same(drawn(adversary, metric, 2), metric, 12, 7, Cuda("cpu"), block_rows=70)
