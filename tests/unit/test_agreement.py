"""Copies agree with their originals as pictures, and strangers do not."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from image_similarity.grouping import agreement, confirmation
from image_similarity.grouping.agreement import CERTAIN, disagreement
from image_similarity.imaging import thumbprint
from image_similarity.imaging.edits import EDITS, edited


def drawn(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A picture of many shapes on a gradient."""
    random = np.random.default_rng(seed)
    picture = Image.linear_gradient("L").resize(size).rotate(90 * (seed % 4)).convert("RGB").resize(size)
    draw = ImageDraw.Draw(picture)
    for _ in range(25):
        left, top = random.integers(-20, size[0]), random.integers(-20, size[1])
        wide, high = random.integers(20, 140), random.integers(20, 110)
        box = (int(left), int(top), int(left + wide), int(top + high))
        [draw.ellipse, draw.rectangle][random.integers(2)](box, fill=tuple(random.integers(0, 256, 3).tolist()))
    return picture


def prints(*pictures: Image.Image) -> np.ndarray:
    return np.stack([thumbprint.of(picture).ravel() for picture in pictures])


def between(a: Image.Image, b: Image.Image, align: bool = True) -> float:
    return float(disagreement(prints(a, b), np.array([0]), np.array([1]), align)[0])


@pytest.mark.parametrize("kind", EDITS)
def test_a_copy_agrees_with_its_original(kind: str) -> None:
    values = [between(drawn(seed), edited(drawn(seed), kind, seed)) for seed in range(8)]
    assert np.median(values) <= (confirmation.NEAR if kind in ("a frame", "turned by up to 6 degrees") else 0.03)


@pytest.mark.parametrize(
    "kind", ["half the size", "a quarter of the size", "JPEG of quality 30 to 90", "grey", "mirrored", "contrast"]
)
def test_a_copy_as_large_as_its_original_is_certain(kind: str) -> None:
    for seed in range(8):
        assert between(drawn(seed), edited(drawn(seed), kind, seed), align=False) <= CERTAIN


def test_strangers_disagree() -> None:
    pictures = [drawn(seed) for seed in range(20)]
    a, b = np.triu_indices(20, 1)
    assert disagreement(prints(*pictures), a, b).min() > 2 * confirmation.NEAR


def test_neither_order_nor_place_matters() -> None:
    all_prints = prints(
        *(drawn(seed) for seed in range(6)), *(edited(drawn(seed), "a frame", seed) for seed in range(6))
    )
    a, b = np.triu_indices(12, 1)
    values = disagreement(all_prints, a, b)
    assert np.array_equal(values, disagreement(all_prints, b, a))
    order = np.random.default_rng(0).permutation(len(a))
    assert np.array_equal(values[order], disagreement(all_prints, a[order], b[order]))
    assert np.array_equal(values, disagreement(all_prints[::-1], 11 - a, 11 - b))


def test_pictures_that_show_nothing_agree_with_nothing() -> None:
    white, black = (Image.new("RGB", (64, 64), colour) for colour in ("white", "black"))
    assert between(white, white) == between(white, black) == 1
    assert between(white, drawn(1)) == 1


def test_whoever_is_not_aligned_is_certain_or_not() -> None:
    crop = edited(drawn(3), "crop of 10 to 20 %", 3)
    assert between(drawn(3), crop, align=False) == 1
    assert between(drawn(3), crop) < 0.05


def test_no_pairs() -> None:
    nothing = np.empty(0, np.int32)
    assert len(disagreement(prints(drawn(0)), nothing, nothing)) == 0


def test_the_nearer_the_more_may_pictures_disagree() -> None:
    shares = np.array([0, 0.3, 0.55, 0.7, 0.95, 1.0, 1.0001, 3.0, np.inf])
    allowed = confirmation.allowed(shares)
    assert (np.diff(allowed) <= 0).all()
    assert allowed[0] == np.float32(confirmation.NEAR) and allowed[5] == np.float32(confirmation.FAR)
    assert (allowed[6:] == np.float32(CERTAIN)).all()


def test_edits_are_the_same_for_the_same_seed_and_leave_the_picture() -> None:
    picture = drawn(2)
    before = picture.tobytes()
    for kind in EDITS:
        assert edited(picture, kind, 7).tobytes() == edited(picture, kind, 7).tobytes()
        assert edited(picture, kind, 7).mode == "RGB"
    assert picture.tobytes() == before


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (7, 3)])
@pytest.mark.parametrize("kind", EDITS)
def test_edits_of_tiny_pictures(kind: str, size: tuple[int, int]) -> None:
    copy = edited(Image.new("RGB", size, "red"), kind, 1)
    assert min(copy.size) >= 1


def test_two_views_of_an_object_are_no_copies(data: Path) -> None:
    files = sorted((data / "images" / "ukbench").glob("*.jpg"))
    pictures = [Image.open(file).convert("RGB") for file in files[:80]]
    a, b = np.triu_indices(80, 1)
    values = disagreement(prints(*pictures), a, b)
    assert (values <= confirmation.FAR).sum() <= 1


def test_bookshelves_are_refuted(data: Path) -> None:
    one, other = (Image.open(data / "images" / "ukbench" / f"ukbench00{n}.jpg").convert("RGB") for n in (140, 160))
    assert between(one, other) > 2 * confirmation.NEAR


def test_a_band_is_less_than_a_fifth() -> None:
    assert agreement._BAND < agreement.SIDE / 5
