"""What is told of two pictures: of edits, drawn and real, and nothing untrue of those that are merely similar."""

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from comparing import captioned, cropped, drawn, jpeg, resized
from image_similarity.imaging import alignment, differences
from image_similarity.imaging.differences import GREY, Differences, Sides, compared

FIRST = drawn(480, 360)


def told(second: Image.Image, first: Image.Image = FIRST) -> Differences:
    return compared(first, second)[0]


def names(found: Differences) -> set[str]:
    """What is told at all."""
    plain = Differences()
    numbers = ("mean", "largest", "factor", "matrix", "is_even", "is_edit")
    return {
        field.name
        for field in dataclasses.fields(Differences)
        if field.name not in numbers and getattr(found, field.name) != getattr(plain, field.name)
    }


def test_equal_pictures_do_not_differ() -> None:
    found, picture = compared(FIRST, FIRST.copy())
    assert found.is_whole and found.is_recompressed and names(found) == set()
    assert (found.mean, found.largest) == (0.0, 0)
    assert picture.size == FIRST.size and (np.asarray(picture) == GREY).all()
    assert found.matrix == pytest.approx((1, 0, 0, 1, 0, 0))


@pytest.mark.parametrize("scale", [0.5, 0.25])
def test_a_size_is_no_difference(scale: float) -> None:
    found = told(resized(FIRST, scale))
    assert found.is_whole and names(found) == set() and found.largest > 0
    assert found.matrix == pytest.approx((1 / scale, 0, 0, 1 / scale, 0, 0), rel=0.01)


@pytest.mark.parametrize("quality", [30, 45, 60, 75, 90])
def test_what_was_only_saved_anew_is_told(quality: int) -> None:
    second = jpeg(FIRST, quality)
    found = told(second)
    assert found.is_recompressed and names(found) == set()
    largest = np.abs(np.asarray(FIRST, int) - np.asarray(second, int)).max()
    assert found.largest == largest, "of the pictures themselves, not of smaller ones"


@pytest.mark.parametrize("sides", [(0.03, 0, 0.03, 0.0), (0.1, 0, 0, 0), (0, 0.12, 0.08, 0), (0.05, 0.06, 0.07, 0.04)])
def test_a_crop_is_a_part(sides: tuple[float, float, float, float]) -> None:
    found = told(cropped(FIRST, *sides))
    assert found.is_edit and names(found) == {"cut"}
    assert dataclasses.astuple(found.cut) == pytest.approx(sides, abs=0.01)
    assert found.cut.area == pytest.approx(1 - (1 - sides[0] - sides[2]) * (1 - sides[1] - sides[3]), abs=0.01)
    reverse = told(FIRST, cropped(FIRST, *sides))
    assert names(reverse) == {"added"} and dataclasses.astuple(reverse.added) == pytest.approx(sides, abs=0.01)
    x, y = (found.matrix[0] * 0 + found.matrix[4], found.matrix[3] * 0 + found.matrix[5])
    assert (x, y) == pytest.approx((sides[0] * 480, sides[1] * 360), abs=2), "it lies where it was cut out"


@pytest.mark.parametrize("factor", [0.7, 0.85, 1.15, 1.3])
def test_brightness(factor: float) -> None:
    found = told(ImageEnhance.Brightness(FIRST).enhance(factor))
    assert names(found) == {"brightness"} and (found.brightness > 0) == (factor > 1)
    mean = np.asarray(FIRST.convert("L")).mean()
    assert found.brightness == pytest.approx((factor - 1) * mean, abs=6)


@pytest.mark.parametrize("factor", [0.7, 0.8, 1.25])
def test_contrast(factor: float) -> None:
    found = told(ImageEnhance.Contrast(FIRST).enhance(factor))
    assert names(found) == {"contrast"} and found.contrast == pytest.approx(factor, abs=0.08)


def test_grey_and_colours() -> None:
    grey = ImageOps.grayscale(FIRST).convert("RGB")
    assert told(grey).grey == (False, True) and told(FIRST, grey).grey == (True, False)
    assert names(told(grey)) == {"grey"} and told(grey, grey).grey == (False, False)
    assert told(drawn(seed=3), grey).grey == (True, False), "without an alignment, too"
    assert told(ImageEnhance.Color(FIRST).enhance(0.5)).colour == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_mirrored_and_turned(mirrored: bool, turns: int) -> None:
    second = FIRST
    if turns:
        second = second.rotate(-90 * turns, expand=True)  # to the right
    if mirrored:
        second = ImageOps.mirror(second)
    found = told(second)
    assert found.is_edit and found.mirrored == mirrored and names(found) <= {"mirrored", "turned"}
    a, b, c, d, e, f = found.matrix
    placed = second.transform(FIRST.size, Image.Transform.AFFINE, _inverse(a, c, e, b, d, f), Image.Resampling.BILINEAR)
    assert np.abs(np.asarray(placed, int) - np.asarray(FIRST, int))[3:-3, 3:-3].mean() < 2, "the matrix puts it back"
    if not mirrored:
        assert found.turned == turns


def _inverse(a: float, c: float, e: float, b: float, d: float, f: float) -> tuple[float, ...]:
    return tuple(np.linalg.inv(np.array([[a, c, e], [b, d, f], [0.0, 0.0, 1.0]]))[:2].ravel())


@pytest.mark.parametrize("degrees", [-7, -2, 1.5, 4, 8])
def test_a_small_angle(degrees: float) -> None:
    found = told(FIRST.rotate(-degrees, Image.Resampling.BICUBIC))
    assert found.is_edit and names(found) == {"angle"} and found.angle == pytest.approx(degrees, abs=0.3)


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (40, 60, 200)])
def test_a_border(colour: tuple[int, int, int]) -> None:
    second = jpeg(ImageOps.expand(FIRST, 20, colour), 80)
    found = told(second)
    assert names(found) == {"added", "added_is_plain"} and found.added.named == ["left", "top", "right", "bottom"]
    assert told(FIRST, second).cut_is_plain
    assert not told(FIRST, cropped(FIRST, 0.05, 0.05, 0.05, 0.05)).added_is_plain, "what a crop lacks is no border"


def test_stretched() -> None:
    found = told(resized(FIRST, 0.9, 0.7))
    assert found.is_edit and names(found) == {"stretched"} and found.stretched == pytest.approx(9 / 7, abs=0.01)


def test_a_caption_is_in_one_place() -> None:
    found = told(captioned(FIRST))
    assert names(found) == {"place"} and found.place == "at the bottom" and not found.is_recompressed
    assert told(captioned(FIRST.rotate(180)).rotate(180)).place == "at the top"


def test_letters_make_no_picture_sharper() -> None:
    soft = FIRST.filter(ImageFilter.GaussianBlur(1.5))
    lettered = soft.copy()
    draw = ImageDraw.Draw(lettered)
    for row in range(6):
        draw.text((10, 290 + 11 * row), "letters in black and white " * 3, fill=(255 * (row % 2),) * 3)
    assert told(lettered, soft).sharpness == 1 and not told(lettered, soft).is_recompressed


def test_a_blurred_picture_is_less_sharp_and_not_only_saved_anew() -> None:
    found = told(FIRST.filter(ImageFilter.GaussianBlur(1.2)))
    assert found.is_edit and found.sharpness < 0.6 and not found.is_recompressed


def test_the_factor_keeps_what_differs_visible_and_within_range() -> None:
    second = np.asarray(FIRST, np.int16) + np.array([3, 0, -3], np.int16)
    found, picture = compared(FIRST, Image.fromarray(second.clip(0, 255).astype(np.uint8)))
    assert found.factor == 32 and found.largest == 3
    assert tuple(np.median(np.asarray(picture).reshape(-1, 3), axis=0)) == (GREY + 96, GREY, GREY - 96)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (30, 2), (3, 400), (16, 16)])
def test_tiny_and_narrow_pictures(size: tuple[int, int]) -> None:
    for first, second in ((FIRST, FIRST.resize(size)), (FIRST.resize(size), FIRST), (FIRST.resize(size),) * 2):
        found, picture = compared(first, second)
        assert min(picture.size) >= 1 and np.isfinite(found.matrix).all()


def test_plain_pictures_have_nothing_to_align_by() -> None:
    white, black = (Image.new("RGB", (300, 200), colour) for colour in ("white", "black"))
    assert not told(white, black).is_edit and not told(white, white).is_edit
    assert told(white, black).largest == 255


@pytest.mark.parametrize("seed", range(1, 7))
def test_nothing_is_told_of_another_picture(seed: int) -> None:
    found = told(drawn(480, 360, seed))
    assert not found.is_edit and names(found) == set()


def test_sides_below_the_least_are_not_named() -> None:
    assert Sides(0.2, 0.009, 0.01, 0).named == ["left", "right"]


# -- real pictures -----------------------------------------------------------------------------------------------------


def _copy(picture: Image.Image) -> Image.Image:
    """As the gallery has it."""
    from image_similarity.imaging import thumbnails

    out = io.BytesIO()
    picture.save(out, "PNG")
    made = thumbnails.thumbnails(out.getvalue(), 10**8)
    return Image.open(io.BytesIO(made.large or made.small)).convert("RGB")


@pytest.fixture(scope="module")
def photographs(data: Path) -> list[Path]:
    return sorted((data / "images" / "ukbench").glob("*.jpg"))


def test_nothing_untrue_is_told_of_photographs_of_one_thing(photographs: list[Path]) -> None:
    """All pairs of ten groups of four, among them those that align best of all fifty."""
    for group in (6, 13, 14, 15, 19, 24, 31, 33, 39, 43):
        four = [_copy(Image.open(path).convert("RGB")) for path in photographs[4 * group : 4 * group + 4]]
        for place, first in enumerate(four):
            for second in four[place + 1 :]:
                assert names(told(second, first)) == set(), f"group {group}"
                assert not told(second, first).is_edit


def test_edits_of_real_pictures(photographs: list[Path]) -> None:
    for path in photographs[::40]:
        picture = Image.open(path).convert("RGB")
        first = _copy(picture)
        edits = {
            "half": (resized(picture, 0.5), set()),
            "saved anew": (jpeg(picture, 40), set()),
            "crop": (cropped(picture, 0.06, 0.0, 0.02, 0.08), {"cut"}),
            "mirror": (ImageOps.mirror(picture), {"mirrored"}),
            "grey": (ImageOps.grayscale(picture).convert("RGB"), {"grey"}),
            "turned": (picture.rotate(3, Image.Resampling.BICUBIC), {"angle"}),
            "border": (ImageOps.expand(picture, 25, (255, 255, 255)), {"added", "added_is_plain"}),
        }
        for name, (second, expected) in edits.items():
            found = told(_copy(second), first)
            assert found.is_edit and names(found) == expected, f"{name} of {path.name}"
        captions = told(_copy(captioned(picture, 0.08)), first)
        assert names(captions) <= {"place"} and not captions.is_recompressed, "its place is not always sure"


def test_the_tiles_of_two_photographs_hardly_agree(photographs: list[Path]) -> None:
    """The distance from what is told of edits: `differences.SURE`."""
    one, other = (Image.open(path).convert("L") for path in photographs[:2])
    assert alignment.aligned(one, other).tiles.same < differences.SURE / 2
