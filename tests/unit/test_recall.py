"""Recall counts ties as hits, and says how sure it is."""

import numpy as np
import pytest

from image_similarity.knn import recall


def test_shares_of_each_query() -> None:
    nan = np.nan
    true = np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.2], [0.5, nan, nan], [nan, nan, nan], [0.1, 0.2, 0.3]])
    found = np.array([[0.1, 0.2, 0.3], [0.2, 0.2, 0.2], [0.5, nan, nan], [nan, nan, nan], [0.1, 0.4, nan]])
    assert recall.of_each(found, true).tolist() == pytest.approx([1, 1, 1, 1, 1 / 3])
    assert recall.of_each(np.empty((2, 0)), np.empty((2, 0))).tolist() == [1, 1]


def test_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    held = 0
    for trial in range(200):
        shares = np.random.default_rng(trial).binomial(10, 0.9, 300) / 10
        found = recall.estimated(shares, seed=trial, everyone=10**6)
        held += found.lower <= 0.9 <= found.upper
        assert found.lower <= found.estimate <= found.upper
    assert 180 <= held <= 199


def test_the_same_seed_says_the_same_and_no_queries_say_nothing_is_wrong() -> None:
    shares = np.array([1.0, 0.5, 0.9, 1.0])
    assert recall.estimated(shares, 3, 4) == recall.estimated(shares, 3, 4)
    assert recall.estimated(np.empty(0), 0, 0).estimate == 1.0


def test_hits_alone_prove_little_unless_everyone_was_asked() -> None:
    assert recall.estimated(np.ones(10), 0, 10).lower == 1
    assert recall.estimated(np.ones(10), 0, 11).lower == pytest.approx(0.7)
