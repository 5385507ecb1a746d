"""The scores by which the benchmark judges groups."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.group_collections import EDITS, Collection, planned
from benchmarks.group_scores import Truth, best_limit, components, pairs_of, scored


def collection(contents: dict[str, str], truth: dict[str, str], edits: dict[str, tuple[str, str]]) -> Collection:
    return Collection(Path("nowhere"), truth, edits, contents)


def truth_of(shown: str) -> Truth:
    """Images a, b, ... of different bytes. Those with the same letter in ``shown`` belong together."""
    images = [chr(ord("a") + place) for place in range(len(shown))]
    return Truth.of(collection({image: image for image in images}, dict(zip(images, shown, strict=True)), {}))


def test_pairs_of_the_same_bytes_count_neither_as_found_nor_as_wanted() -> None:
    contents = {"a": "1", "b": "1", "c": "2", "d": "3"}
    truth = Truth.of(collection(contents, {"a": "x", "b": "x", "c": "x", "d": "y"}, {"c": ("grey", "a")}))
    groups = np.array([0, 0, -1, -1])
    scores = scored(truth, pairs_of(groups), groups, None)
    assert truth.positives == 2  # a and c, b and c
    assert (scores.pairs, scores.recall, scores.copies, scores.largest) == (0, 0, {"grey": 0}, 2)


def test_false_pairs_cost_precision_and_missed_ones_recall() -> None:
    truth = truth_of("xxxyz")
    groups = np.array([0, 0, -1, 1, 1])
    scores = scored(truth, pairs_of(groups), groups, np.eye(5, dtype=np.float32))
    assert (scores.precision, scores.recall, scores.f1) == (1 / 2, 1 / 3, pytest.approx(0.4))
    assert scores.false_pairs.tolist() == [[3, 4]]
    assert scores.widest == 1


def test_a_chain_of_pairs_is_one_component() -> None:
    assert components(5, np.array([[0, 1], [1, 3]])).tolist()[:4] == [0, 0, -1, 0]


@pytest.mark.parametrize("seed", range(5))
def test_the_best_limit_is_that_of_trying_all(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth = truth_of("".join(random.choice(list("uvwxyz"), 12)))
    pairs = np.array([(a, b) for a in range(12) for b in range(a + 1, 12) if random.random() < 0.5])
    alike = truth.shown[pairs[:, 0]] == truth.shown[pairs[:, 1]]
    distance = np.where(alike, random.integers(1, 5, len(pairs)), random.integers(2, 9, len(pairs))).astype(np.float32)

    def f1(limit: float) -> float:
        groups = components(12, pairs[distance <= limit])
        return scored(truth, pairs_of(groups), groups, None).f1

    assert f1(best_limit(truth, pairs, distance)) == max(f1(limit) for limit in np.unique(distance))


def test_files_of_the_same_bytes_are_together_at_any_limit() -> None:
    contents = {"a": "1", "b": "1", "c": "2", "d": "3"}
    truth = Truth.of(collection(contents, {"a": "x", "b": "x", "c": "x", "d": "y"}, {}))
    assert best_limit(truth, np.array([[1, 2], [2, 3]]), np.array([0.25, 0.5], dtype=np.float32)) == 0.25


def test_copies_are_the_same_each_time_and_of_known_kinds() -> None:
    originals = [f"paintings/{number}" for number in range(400)] + [f"photographs/{number}" for number in range(50)]
    plan = planned(originals, 400)
    assert plan == planned(originals, 400)
    assert len({(original, kind) for original, kind, _ in plan}) == len(plan)
    assert {kind for _, kind, _ in plan} == set(EDITS)
