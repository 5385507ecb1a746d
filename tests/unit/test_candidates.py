"""The exact kernels against the definition."""

from typing import Any

import numpy as np
import pytest

import oracle
from adversaries import ADVERSARIES, drawn
from image_similarity.knn import all_pairs, candidates, distances, rerank, scoring
from image_similarity.knn.backends.cpu import Pool
from image_similarity.knn.distances import METRICS
from image_similarity.knn.scoring import FLOAT32, SCREENS


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("block_rows", [100, 333, 2048])
@pytest.mark.parametrize("screen", SCREENS)
def test_equal_to_the_definition(metric: str, block_rows: int, screen: str) -> None:
    vectors = oracle.planted(1000, 32, seed=5)
    similar, dissimilar = all_pairs.neighbours(vectors, metric, 12, 7, block_rows, SCREENS[screen])
    assert oracle.rows_of(similar) == oracle.neighbours(vectors, metric, 12)
    assert oracle.rows_of(dissimilar) == oracle.neighbours(vectors, metric, 7, farthest=True)


@pytest.mark.parametrize("n", range(1, 21))
def test_every_small_number_of_rows(n: int) -> None:
    vectors = np.random.default_rng(n).integers(-2, 3, (n, 3)).astype(np.float32)
    vectors[:, 0] = 1
    for k in (1, n - 1, n, n + 5):
        for block_rows in (1, 3, 64):
            similar, dissimilar = all_pairs.neighbours(vectors, "cosine", k, k, block_rows)
            assert oracle.rows_of(similar) == oracle.neighbours(vectors, "cosine", k), (k, block_rows)
            assert oracle.rows_of(dissimilar) == oracle.neighbours(vectors, "cosine", k, farthest=True), (k, block_rows)


@pytest.mark.parametrize("metric", METRICS)
def test_the_last_bits_do_not_depend_on_the_blocks(metric: str) -> None:
    """Distances of the same pairs from differently cut products, of vectors made so that many are close to a rounding's
    edge.
    """
    rng = np.random.default_rng(1)
    base = rng.standard_normal(257)
    chosen = METRICS[metric]
    vectors = distances.measured((base + 1e-4 * rng.standard_normal((600, 257))).astype(np.float32), chosen)
    whole = distances.block(chosen, vectors, vectors)
    np.testing.assert_array_equal(whole, whole.T)
    for cut in (1, 7, 128):
        parts = [distances.block(chosen, vectors[start : start + cut], vectors) for start in range(0, 600, cut)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    rows, columns = (places.ravel() for places in np.indices((600, 600)))
    np.testing.assert_array_equal(distances.pairs(chosen, vectors, vectors, rows, columns), whole.ravel())


@pytest.mark.parametrize("metric", METRICS)
def test_doubtful_pairs_are_computed_again(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a product that is wrong within its error bound, the distances stay what they are.

    As if float64 had 20 bits less, for otherwise one pair in millions would show a difference.
    """
    unit = 2.0**-33
    monkeypatch.setattr(distances, "_U", unit)
    chosen = METRICS[metric]
    vectors = distances.measured(oracle.planted(400, 64, seed=2), chosen)
    right = distances.block(chosen, vectors, vectors)

    class Inexact(np.ndarray):
        def __matmul__(self, other: Any) -> Any:
            product = np.asarray(self) @ np.asarray(other)
            lengths = np.linalg.norm(np.asarray(self), axis=1), np.linalg.norm(np.asarray(other), axis=0)
            noise = np.random.default_rng(3).uniform(-1, 1, product.shape) * np.outer(*lengths)
            return product + noise * 64 * unit

    rows = distances.Vectors.rows
    monkeypatch.setattr(distances.Vectors, "rows", lambda self: rows(self).view(Inexact))
    np.testing.assert_array_equal(np.asarray(distances.block(chosen, vectors, vectors)), right)
    assert_best(chosen, vectors, right, 12, 7)


def assert_best(metric: Any, vectors: Any, bits: Any, similar: int, dissimilar: int) -> None:
    """By brute force, the first half have the best by ``bits``, the distances of all pairs."""
    index = np.random.default_rng(4).permutation(len(vectors)).astype(np.int64)
    half = len(vectors) // 2
    found = rerank.brute_force(metric, vectors[:half], index[:half], vectors, index, similar, dissimilar)
    for farthest, keys, k in zip((False, True), found, (similar, dissimilar)):
        wanted = candidates.key_of(np.asarray(bits)[:half], index[None, :], farthest)
        wanted[np.arange(half), np.arange(half)] = candidates.NONE
        wanted = candidates.least(wanted, k)
        np.testing.assert_array_equal(np.sort(keys, axis=1), np.sort(wanted, axis=1))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("adversary", [*ADVERSARIES, lambda random: oracle.planted(400, 24, 3)])
def test_brute_force_has_the_best_of_all_distances(metric: str, adversary: Any) -> None:
    chosen = METRICS[metric]
    vectors = distances.measured(drawn(adversary, metric, 5), chosen)
    bits = distances.block(chosen, vectors, vectors)
    for counts in ((12, 7), (0, 5), (5, 0), (len(vectors) + 3, 2), (0, 0)):
        assert_best(chosen, vectors, bits, *counts)


def test_copies_are_at_distance_zero_and_opposites_at_two() -> None:
    vectors = np.random.default_rng(0).standard_normal((3, 4096)).astype(np.float32)
    vectors[1], vectors[2] = 3 * vectors[0], -vectors[0]
    similar, dissimilar = all_pairs.neighbours(vectors, "cosine", 1, 1)
    assert similar.distance.tolist()[:2] == [0.0, 0.0] and dissimilar.distance.tolist() == [2.0, 2.0, 2.0]
    assert not np.signbit(similar.distance).any()


def test_rows_that_a_metric_cannot_use() -> None:
    vectors = np.array([[0, 0, 0], [5, 5, 5], [1, 2, 3]], dtype=np.float32)
    assert METRICS["cosine"].unusable(vectors).tolist() == [True, False, False]
    assert METRICS["correlation"].unusable(vectors).tolist() == [True, True, False]
    assert METRICS["euclidean"].unusable(vectors).tolist() == [False, False, False]


def test_no_distance_exceeds_float32_and_the_longest_keep_their_order() -> None:
    """Distances that were infinite had lost their order."""
    longest = np.float32(distances.MAX_LENGTH)
    vectors = np.array([[longest, 0], [-longest, 0], [0, longest], [np.finfo(np.float32).max, 0]], dtype=np.float32)
    vectors = np.concatenate([vectors, np.array([[1.5e38, 1.5e38], [np.inf, 0], [np.nan, 0]], dtype=np.float32)])
    assert METRICS["euclidean"].unusable(vectors).tolist() == [False, False, False, True, True, True, True]
    rng = np.random.default_rng(6)
    usable = np.concatenate([vectors[:3], rng.uniform(-1e37, 1e37, (200, 2)), rng.uniform(-1, 1, (50, 2))])
    usable = usable.astype(np.float32)
    similar, dissimilar = all_pairs.neighbours(usable, "euclidean", 12, 7, 64)
    assert np.isfinite(dissimilar.distance).all()
    assert oracle.rows_of(similar) == oracle.neighbours(usable, "euclidean", 12)
    assert oracle.rows_of(dissimilar) == oracle.neighbours(usable, "euclidean", 7, farthest=True)


def test_merging_in_any_order_gives_the_same() -> None:
    rng = np.random.default_rng(4)
    keys = rng.permutation(300).reshape(3, 5, 20).astype(np.int64)
    lists = [candidates.Lists.complete(part) for part in keys]
    forward = lists[0].merged(lists[1], lists[2])
    backward = lists[2].merged(lists[1]).merged(lists[0])
    np.testing.assert_array_equal(forward.keys, backward.keys)
    np.testing.assert_array_equal(forward.lower_bound, backward.lower_bound)
    np.testing.assert_array_equal(forward.keys, np.sort(keys.transpose(1, 0, 2).reshape(5, 60))[:, :20])


@pytest.mark.parametrize("metric", ["cosine", "correlation", "euclidean"])
def test_a_pool_that_knows_what_to_beat_keeps_what_beats_it(metric: str) -> None:
    """Lists that begin with a cut hold the same as those that do not, as far as it goes."""
    chosen = METRICS[metric]
    vectors = distances.measured(oracle.planted(120, 16, seed=9), chosen)
    common_scale = scoring.scale_of(float(np.abs(vectors.values).max()), 16, chosen)
    copies, positions = scoring.copies(vectors, chosen, FLOAT32, common_scale), np.arange(120, dtype=np.int32)
    away = distances.block(chosen, vectors, vectors).view(np.float32).astype(np.float64)
    np.fill_diagonal(away, np.inf)
    cut_at = np.where(np.arange(120) % 3 == 0, np.nan, np.sort(away, axis=1)[:, 7] * (1 + 1e-5) + 1e-6)
    pool = Pool(copies, positions, 5, scoring.score_at(chosen, cut_at, common_scale))
    pool.compare(np.arange(60), np.arange(60, 120))
    keys = np.sort(pool.similar.keys(), axis=1)
    for row in range(120):
        others = np.arange(60, 120) if row < 60 else np.arange(60)
        beating = others[away[row, others] < cut_at[row]] if row % 3 else others
        found = candidates.positions_of(keys[row][keys[row] != candidates.NONE])
        assert set(found) <= set(beating) and np.allclose(away[row, found], np.sort(away[row, beating])[:5], atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 4), (60, 3)])
def test_brute_force_has_the_least_index_among_equal_distances_of_the_least_numbers(shape: tuple[int, int]) -> None:
    """The least float32 are rounded by more than a share of them. Indices are not in the order of rows."""
    chosen, random = METRICS["euclidean"], np.random.default_rng(1)
    values = (random.integers(-3, 4, shape) * 1.4e-45).astype(np.float32)
    vectors, index = distances.measured(values, chosen), random.permutation(len(values)).astype(np.int64)
    bits = distances.block(chosen, vectors, vectors)
    near, far = rerank.brute_force(chosen, vectors, index, vectors, index, 5, 5)
    for row in range(len(values)):
        others = [place for place in range(len(values)) if place != row]
        by_distance = sorted((int(bits[row, place]), int(index[place])) for place in others)
        by_farthest = sorted((-int(bits[row, place]), int(index[place])) for place in others)
        assert candidates.positions_of(np.sort(near[row])).tolist() == [at for _, at in by_distance[:5]]
        assert candidates.positions_of(np.sort(far[row])).tolist() == [at for _, at in by_farthest[:5]]
