"""The limit is the greatest with the precision asked for, and copies in the collection do not move it."""

import numpy as np
import pytest

from image_similarity.grouping import calibration, confirmation
from image_similarity.grouping.calibration import Choice, choose, recall_by_kind


def strangers(
    images: int, seed: int = 0, closeness: float = 10.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of images: a, b, scaled, disagreement. Strangers become fewer by powers of distance and disagreement."""
    random = np.random.default_rng(seed)
    a = np.repeat(np.arange(images), 4)
    b = (a + random.integers(1, images, len(a))) % images
    scaled = random.random(len(a)) ** (1 / closeness)
    disagreement = np.minimum(random.random(len(a)) ** (1 / 1.9), 1)
    return np.minimum(a, b), np.maximum(a, b), scaled.astype(np.float32), disagreement.astype(np.float32)


def with_copies(share: float, images: int = 4000) -> Choice:
    a, b, scaled, disagreement = strangers(images)
    random = np.random.default_rng(1)
    copies = int(images * share)
    originals = random.integers(0, images, copies)
    new = images + np.arange(copies)
    # Half of them are hard to tell: their pictures nearly agree.
    of_copies = np.where(random.random(copies) < 0.8, 0.001, 0.04).astype(np.float32)
    near = (0.4 * random.random(copies)).astype(np.float32)
    chosen = choose(
        np.concatenate([a, originals]),
        np.concatenate([b, new]),
        np.concatenate([scaled, near]),
        np.concatenate([disagreement, of_copies]),
        images + copies,
    )
    assert chosen is not None
    return chosen


@pytest.mark.parametrize("share", [0.05, 0.4])
def test_copies_do_not_move_the_limit(share: float) -> None:
    assert abs(with_copies(share).limit - with_copies(0).limit) <= 0.06


def test_the_precision_holds_for_known_strangers() -> None:
    a, b, scaled, disagreement = strangers(20_000, seed=3)
    choice = choose(a, b, scaled, disagreement, 20_000)
    assert choice is not None and calibration.LEAST < choice.limit <= calibration.MOST
    passing = (scaled <= choice.limit) & (disagreement <= confirmation.allowed(scaled / choice.limit))
    assert passing.sum() / 20_000 <= calibration.COPIES * (1 / calibration.PRECISION - 1)
    assert choice.precision >= calibration.PRECISION


def test_where_strangers_are_alike_the_limit_is_lower() -> None:
    far, near = (choose(*strangers(5000, 4, closeness), images=5000) for closeness in (12, 5))
    assert far is not None and near is not None and near.limit < far.limit


def test_nothing_is_learnt_of_few() -> None:
    a, b, scaled, disagreement = strangers(calibration.FEWEST - 1)
    assert choose(a, b, scaled, disagreement, calibration.FEWEST - 1) is None
    empty = np.empty(0, np.int32)
    assert choose(empty, empty, empty.astype(np.float32), empty.astype(np.float32), 3) is None


def test_no_strangers_in_reach_allow_the_greatest_limit() -> None:
    empty = np.empty(0, np.int32)
    choice = choose(empty, empty, empty.astype(np.float32), empty.astype(np.float32), 1000)
    assert choice == Choice(calibration.MOST, 1000, 0)


def test_recall_counts_each_kind_by_itself() -> None:
    distance, disagreement = np.array([[0.1, 0.1, 0.5, 0.5], [0.0, 0.2, 0.001, 0.02]], dtype=np.float32)
    scale = np.full(4, 0.4, dtype=np.float32)
    found = recall_by_kind(["grey", "grey", "half", "half"], distance, scale, scale, 0.0, disagreement, limit=0.7)
    assert [(of.kind, of.joined, of.copies, of.recall) for of in found] == [("grey", 1, 2, 0.5), ("half", 1, 2, 0.5)]


def test_a_scale_of_zero_is_no_fault() -> None:
    zero = np.zeros(1, np.float32)
    assert recall_by_kind(["grey"], zero, zero, zero, 0.0, zero, 0.7)[0].joined == 1


def test_a_sample_does_not_depend_on_the_order() -> None:
    hashes = np.random.default_rng(0).permutation(1000).astype(np.uint64)
    order = np.random.default_rng(1).permutation(1000)
    chosen = calibration.sample(50, 1000, hashes)
    again = calibration.sample(50, 1000, hashes[order])
    assert set(order[again]) == set(chosen) and len(chosen) == 50
    assert len(calibration.sample(50, 7, hashes[:7])) == 7


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_the_precision_holds_where_strangers_are_near_and_much_alike(share: float) -> None:
    random = np.random.default_rng(0)
    images = 20_000
    a = np.arange(images)
    b = (a + random.integers(1, images, images)) % images
    scaled = random.random(images).astype(np.float32)
    alike = random.random(images) < share
    disagreement = np.where(alike, 0.3 * random.random(images) ** (1 / 1.5), 1).astype(np.float32)
    choice = choose(np.minimum(a, b), np.maximum(a, b), scaled, disagreement, images)
    assert choice is not None
    passing = (scaled <= choice.limit) & (disagreement <= confirmation.allowed(scaled / np.float32(choice.limit)))
    true_precision = calibration.COPIES / (calibration.COPIES + passing.sum() / images)
    assert true_precision >= choice.precision - 0.02


def test_few_images_prove_nothing_and_get_no_bolder_limit() -> None:
    nothing = np.empty(0, np.int32)
    choice = choose(nothing, nothing, nothing.astype(np.float32), nothing.astype(np.float32), 100)
    assert choice is not None and choice.limit <= 0.65 and choice.precision < calibration.PRECISION
