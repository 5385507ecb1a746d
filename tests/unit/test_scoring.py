"""Scores are never more wrong than their bound, and lists from them are those of the definition."""

import numpy as np
import pytest
from numpy.typing import NDArray

import oracle
from adversaries import ADVERSARIES, Adversary, drawn, one_point_in_bfloat16
from image_similarity.knn import all_pairs, candidates, distances, rerank, scoring
from image_similarity.knn.backends.cpu import Cpu
from image_similarity.knn.distances import METRICS
from image_similarity.knn.scoring import SCREENS


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_no_score_is_more_wrong_than_its_bound(metric: str, screen: str, adversary: Adversary) -> None:
    vectors = drawn(adversary, metric, 1)
    n, chosen, of = len(vectors), METRICS[metric], SCREENS[screen]
    common_scale = scoring.scale_of(float(np.abs(vectors).max()), 96, chosen)
    measured = distances.measured(vectors, chosen)
    copies = scoring.copies(measured, chosen, of, common_scale)
    scores = of.product(copies.low, copies.low, np.empty((n, n), dtype=np.float32)).astype(np.float64)
    scores -= copies.half[:, None].astype(np.float64) + copies.half[None, :]
    rows = measured.rows() * common_scale
    halves = np.zeros(n) if chosen.angular else np.square(rows).sum(axis=1) / 2
    right = rows @ rows.T - halves[:, None] - halves[None, :]
    error = scoring.bounds(copies, copies, of, 96)[:, None, :].astype(np.float64)
    row = error, scoring.lengths(measured, chosen, common_scale)[:, None], chosen, of, 96
    others = ~np.eye(n, dtype=bool)
    slack = 1e-9 * np.abs(right)  # of `right` itself: it is a difference of squares
    assert (scoring.best_possible(scores, *row, farthest=False) + slack >= right)[others].all()
    assert (scoring.best_possible(-scores, *row, farthest=True) + slack >= -right)[others].all()
    if screen == "bfloat16" and adversary is one_point_in_bfloat16 and chosen.angular:
        assert (np.abs(scores - right) > 1e-7).any()  # else nothing was tried


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_adversaries_get_the_lists_of_the_definition(metric: str, screen: str, adversary: Adversary) -> None:
    vectors = drawn(adversary, metric, 2)
    similar, dissimilar = all_pairs.neighbours(vectors, metric, 12, 7, 128, SCREENS[screen])
    assert oracle.rows_of(similar) == oracle.neighbours(vectors, metric, 12)
    assert oracle.rows_of(dissimilar) == oracle.neighbours(vectors, metric, 7, farthest=True)


def test_a_bound_that_is_too_small_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the bound, what bfloat16 cannot tell apart comes out wrong: the tests above can fail."""
    vectors = one_point_in_bfloat16(np.random.default_rng(3))
    monkeypatch.setattr(scoring, "bounds", lambda a, b, screen, dimensions: np.zeros((len(a), 2), dtype=np.float32))
    monkeypatch.setattr(rerank, "lower_bound_of", lambda best, *_: np.full(len(best), candidates.NONE))
    similar, _ = all_pairs.neighbours(vectors, "cosine", 12, 0, 128, SCREENS["bfloat16"])
    assert oracle.rows_of(similar) != oracle.neighbours(vectors, "cosine", 12)


def unproven(vectors: NDArray[np.float32], metric: str) -> int:
    """How many of ``vectors`` need brute force for 12 similar and 12 dissimilar neighbours."""
    (n, d), chosen, screen = vectors.shape, METRICS[metric], SCREENS["float32"]
    common_scale = scoring.scale_of(float(np.abs(vectors).max()), d, chosen)
    part = rerank.Part(distances.measured(vectors, chosen), np.arange(n, dtype=np.int32), np.arange(n))
    comparison = scoring.Comparison(chosen, screen, d, common_scale)
    strip = Cpu().strip(part, comparison, 26, 26)
    strip.offer(strip)
    scored = rerank.Scored(*strip.keys(), strip.error, comparison)
    reranker = rerank.Reranker(part, scored)
    reranker.add(part)
    similar, dissimilar = reranker.lists()
    return int((~(similar.certain(12, n - 1) & dissimilar.certain(12, n - 1))).sum())


@pytest.mark.parametrize("metric", METRICS)
def test_a_small_share_is_compared_in_full_where_vectors_are_apart(metric: str) -> None:
    """The bound is of use: random vectors need no second look."""
    vectors = np.random.default_rng(4).standard_normal((2000, 64)).astype(np.float32)
    assert unproven(vectors, metric) < 20


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "lengths", [[1e5], [1e5, 3e5, 1e7, 1e12], [1e25], [1e-30] * 5, [1e5, 1e-30]], ids=lambda lengths: f"{lengths}"
)
def test_outliers_cost_what_they_cost_alone(metric: str, lengths: list[float]) -> None:
    vectors = np.random.default_rng(4).standard_normal((2000, 64)).astype(np.float32)
    vectors[: len(lengths)] *= np.array(lengths, dtype=np.float32)[:, None]
    assert unproven(vectors, metric) < 20 + len(lengths)
