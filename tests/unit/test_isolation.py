"""What is like no other, and which labels the neighbours do not share."""

import numpy as np
import pytest

from image_similarity.grouping.isolation import isolation, mislabelled

NONE = np.zeros(0, dtype=np.int64)


def test_isolation_is_the_mean_distance_and_the_share_of_others_that_are_less_isolated() -> None:
    owner = np.array([2, 0, 0, 1, 1, 3])
    distance = np.array([0.5, 0.1, 0.3, 0.2, 0.2, 0.9], dtype=np.float32)
    found = isolation(owner, distance, 5)
    assert found.mean_distance == pytest.approx([0.2, 0.2, 0.5, 0.9, np.nan], nan_ok=True)
    assert found.percentile == pytest.approx([0, 0, 2 / 3, 1, np.nan], nan_ok=True)
    assert found.mean_distance.dtype == found.percentile.dtype == np.float32


@pytest.mark.parametrize("images", [0, 1, 3])
def test_isolation_of_nothing_and_of_one(images: int) -> None:
    assert np.isnan(isolation(NONE, np.zeros(0, np.float32), images)).all()
    if images:
        one = isolation(np.array([0]), np.array([0.5], np.float32), images)
        assert (one.mean_distance[0], one.percentile[0]) == (0.5, 0)


def by_hand(
    owner: np.ndarray, neighbour: np.ndarray, distance: np.ndarray, label: np.ndarray
) -> list[tuple[float, int, float]]:
    """Image by image, in Python's numbers."""
    answers = []
    for image, own in enumerate(label.tolist()):
        rows = np.nonzero(owner == image)[0].tolist()
        mean = np.mean([float(distance[row]) for row in rows]) if rows else 0
        shares: dict[int, float] = {}
        total = 0.0
        for row in rows:
            weight = np.exp(-2 * (float(distance[row]) / mean) ** 2) if mean else 1.0
            said = int(label[neighbour[row]])
            total += weight
            if said >= 0:
                shares[said] = shares.get(said, 0) + weight
        if own < 0 or (label == own).sum() < 2 or not sum(shares.values()):
            answers.append((np.nan, -1, np.nan))
            continue
        others = {said: round(share / total, 9) for said, share in shares.items() if said != own}
        best = min(others, key=lambda said: (-others[said], said), default=-1)
        mine = shares.get(own, 0) / total
        answers.append((others.get(best, 0) - mine, best, mine))
    return answers


@pytest.mark.parametrize("seed", range(8))
def test_mislabelled_is_what_counting_by_hand_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, rows = 60, 300
    owner, neighbour = rng.integers(0, n - 5, rows), rng.integers(0, n, rows)  # the last have no list
    distance = rng.choice([0, 0.1, 0.2, 0.25, 0.7], rows).astype(np.float32)
    label = rng.integers(-1, 9, n)
    label[7] = 9  # nobody else's
    found = mislabelled(owner, neighbour, distance, label)
    score, suggested, own = zip(*by_hand(owner, neighbour, distance, label))
    assert found.score == pytest.approx(score, nan_ok=True, abs=1e-6)
    assert found.own_share == pytest.approx(own, nan_ok=True, abs=1e-6)
    assert found.suggested.tolist() == list(suggested)
    assert np.isnan(found.score[7]) and np.isfinite(found.score).any()


def test_ties_have_the_lesser_label_whatever_the_order_of_rows() -> None:
    owner, neighbour = np.array([0, 0, 0, 0]), np.array([1, 2, 3, 4])
    distance, label = np.full(4, 0.3, np.float32), np.array([0, 2, 1, 2, 1])
    label = np.append(label, 0)
    for order in (slice(None), slice(None, None, -1)):
        found = mislabelled(owner[order], neighbour[order], distance[order], label)
        assert (found.suggested[0], found.score[0], found.own_share[0]) == (1, 0.5, 0)


def test_one_vote_among_neighbours_without_labels_is_weak() -> None:
    """They speak for nobody: one of twelve is no certainty."""
    owner, neighbour = np.zeros(12, np.int64), np.arange(1, 13)
    label = np.array([0, 1, *[-1] * 11, 0, 1])
    found = mislabelled(owner, neighbour, np.full(12, 0.5, np.float32), label)
    assert (found.score[0], found.suggested[0], found.own_share[0]) == (pytest.approx(1 / 12), 1, 0)
    label[1] = -1
    assert np.isnan(mislabelled(owner, neighbour, np.full(12, 0.5, np.float32), label).score[0]), "nobody says anything"


def test_one_label_for_all_is_nobodys_mistake() -> None:
    found = mislabelled(np.array([0, 1]), np.array([1, 0]), np.zeros(2, np.float32), np.zeros(2, np.int64))
    assert found.score.tolist() == [-1, -1] and found.suggested.tolist() == [-1, -1]


@pytest.mark.parametrize("label", [[], [-1, -1], [0, 1, 2], [-1, 0]])
def test_labels_that_never_repeat_are_refused(label: list[int]) -> None:
    with pytest.raises(ValueError, match="no label has two images"):
        mislabelled(NONE, NONE, np.zeros(0, np.float32), np.array(label, np.int64))


@pytest.mark.parametrize("seed", range(3))
def test_swapped_labels_come_first(seed: int) -> None:
    """Ten groups of ten that stand apart: every label that is wrong is before every one that is right."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(10), 10)
    points = 10 * label + rng.normal(size=100)
    apart = np.abs(points[:, None] - points[None]).astype(np.float32)
    np.fill_diagonal(apart, np.inf)
    neighbour = np.argsort(apart, axis=1)[:, :6]
    owner = np.repeat(np.arange(100), 6)
    wrong = 10 * rng.permutation(10)[:8] + rng.integers(0, 10, 8)  # one of a group at most
    swapped = label.copy()
    swapped[wrong] = (label[wrong] + 1 + rng.integers(0, 8, 8)) % 10
    found = mislabelled(owner, neighbour.ravel(), np.take_along_axis(apart, neighbour, 1).ravel(), swapped)
    assert set(np.argsort(-found.score)[:8]) == set(wrong)
    assert found.suggested[wrong].tolist() == label[wrong].tolist()
