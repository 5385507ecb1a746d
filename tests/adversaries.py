"""Vectors that are made to mislead fast scores."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn.distances import METRICS

Adversary = Callable[[np.random.Generator], NDArray[np.float32]]


def near_ties(rng: np.random.Generator) -> NDArray[np.float32]:
    """Around a few centres, with differences that float32 scores cannot tell apart."""
    centres = rng.standard_normal((4, 96))
    return (centres[rng.integers(0, 4, 300)] + 1e-7 * rng.standard_normal((300, 96))).astype(np.float32)


def one_point_in_bfloat16(rng: np.random.Generator) -> NDArray[np.float32]:
    return (1 + 1e-3 * rng.uniform(-1, 1, (300, 96))).astype(np.float32)


def huge_dimensions(rng: np.random.Generator) -> NDArray[np.float32]:
    vectors = rng.standard_normal((300, 96)).astype(np.float32)
    vectors[:, :3] += np.float32(1e6)
    return vectors


def many_copies(rng: np.random.Generator) -> NDArray[np.float32]:
    vectors = rng.standard_normal((300, 96)).astype(np.float32)
    vectors[:120] = vectors[0]
    return vectors[rng.permutation(300)]


def extreme_lengths(rng: np.random.Generator) -> NDArray[np.float32]:
    lengths = np.float32(10) ** rng.integers(-18, 18, (300, 1)).astype(np.float32)
    return rng.standard_normal((300, 96)).astype(np.float32) * lengths


def small_integers(rng: np.random.Generator) -> NDArray[np.float32]:
    """Exact in bfloat16, which their products are not; near ones far from the origin."""
    return (rng.integers(100, 250, (10, 96))[rng.integers(0, 10, 300)] + rng.integers(0, 6, (300, 96))).astype(
        np.float32
    )


def outliers(rng: np.random.Generator) -> NDArray[np.float32]:
    """Some vectors are far longer than the others, some far shorter, and one is zero. Some of each have neighbours."""
    vectors = rng.standard_normal((300, 96)).astype(np.float32)
    for first, length in ((0, 1e5), (3, 1e5), (6, 1e12), (9, 1e36), (12, 1e-12), (15, 1e-30), (18, 1e-36), (21, 0.0)):
        vectors[first : first + 3] *= np.float32(length)
    vectors[4:6] = vectors[3] * np.float32(1 + 1e-6)
    return vectors[rng.permutation(300)]


ADVERSARIES = [
    small_integers,
    near_ties,
    one_point_in_bfloat16,
    huge_dimensions,
    many_copies,
    extreme_lengths,
    outliers,
]


def drawn(adversary: Adversary, metric: str, seed: int) -> NDArray[np.float32]:
    vectors = adversary(np.random.default_rng(seed))
    return vectors[~METRICS[metric].unusable(vectors)]
