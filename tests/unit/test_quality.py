"""Numbers of a picture: what they are where they can be known, that they hold however it is decoded, and the flags."""

import io
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from image_similarity.imaging import decoding, quality
from image_similarity.imaging.framing import Framing
from image_similarity.imaging.quality import FLAGS, MEASURES, Limits
from image_similarity.settings import QualitySettings
from image_similarity.warehouse.schemas import SCHEMAS
from tools import samples

LIMIT = 100_000_000
PHOTOGRAPHS = Path(
    os.environ.get("IMAGE_SIMILARITY_TEST_DATA", Path(__file__).parents[3] / "shared/data"), "images/ukbench"
)


def numbers(image: Image.Image) -> dict[str, float]:
    return dict(zip(MEASURES, quality.measure(image), strict=True))


def flagged(image: Image.Image, limits: Limits = Limits()) -> list[str]:
    (names,) = quality.flags([image.width], [image.height], np.array([quality.measure(image)]), limits)
    return names


def drawing(family: str, size: tuple[int, int] = (480, 360), seed: int = 1) -> Image.Image:
    return samples.FAMILIES[family](np.random.default_rng(seed), size)


def as_jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


def test_the_numbers_are_the_tables_columns() -> None:
    assert [name for name in SCHEMAS["quality"].names if name in MEASURES] == list(MEASURES)


def test_half_black_half_white() -> None:
    image = Image.new("RGB", (128, 128))
    image.paste((255, 255, 255), (64, 0, 128, 128))
    measured = numbers(image)
    # One column on either side of the edge differs by 255 from a neighbour: 2 of the 126 inside.
    sharpness = 255**2 * 2 / 126
    expected = [0, 1, 0.5, sharpness, 1, 0.5]
    assert list(measured.values()) == pytest.approx(expected, rel=1e-5)


def test_brightness_is_that_of_the_eye_and_percentiles_leave_a_twentieth_out() -> None:
    grey = np.full((100, 100), 100, np.uint8)
    grey[:4], grey[4:8] = 0, 255
    measured = numbers(Image.fromarray(grey))
    assert (measured["brightness_p5"], measured["brightness_p95"]) == (100 / 255, 100 / 255)
    green, blue = (numbers(Image.new("RGB", (9, 9), colour))["brightness_p95"] for colour in ("#00ff00", "#0000ff"))
    assert green == pytest.approx(0.587, abs=0.003) and blue == pytest.approx(0.114, abs=0.003)


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    grey = np.zeros((5, 5), np.uint8)
    grey[2, 2] = 255
    assert numbers(Image.fromarray(grey))["sharpness"] == pytest.approx((4**2 + 4 * 1) * 255**2 / 9)


def test_entropy_counts_bits() -> None:
    levels = np.repeat(np.arange(256, dtype=np.uint8), 64).reshape(128, 128)
    assert numbers(Image.fromarray(levels))["entropy"] == pytest.approx(8)


def test_one_colour_is_one_in_spite_of_compression_and_other_colours_of_its_brightness_are_not() -> None:
    on_a_border = Image.new("RGB", (300, 300), (128, 64, 32))  # of the boxes in which colours are counted
    pixels = np.asarray(on_a_border).astype(int) + np.random.default_rng(0).integers(-3, 4, (300, 300, 3))
    assert numbers(Image.fromarray(pixels.astype(np.uint8)))["one_colour_share"] == 1
    stripes = Image.new("RGB", (300, 300), (200, 0, 0))
    stripes.paste((0, 102, 0), (0, 0, 300, 120))  # as bright
    assert numbers(stripes)["one_colour_share"] == pytest.approx(0.6, abs=0.01)


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 2), (2, 2), (3, 1), (1, 500_000), (500_000, 1), (30_000, 20), (2_000, 1_500)], ids=str
)
def test_a_picture_of_one_colour_has_nothing_in_it_at_any_size(size: tuple[int, int]) -> None:
    for image in (Image.new("RGB", size, (51, 51, 51)), Image.new("L", size, 51)):
        assert list(numbers(image).values()) == [0.2, 0.2, 0, 0, 0, 1]


@pytest.mark.parametrize("size", [(1, 7), (2, 3), (40_000, 1), (5_000, 3)], ids=str)
def test_any_size_has_finite_numbers(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    assert np.isfinite(quality.measure(Image.fromarray(pixels))).all()


def test_grey_pictures_need_no_conversion() -> None:
    grey = drawing("tartan").convert("L")
    assert quality.measure(grey) == quality.measure(grey.convert("RGB"))


def test_transparent_pixels_are_white_paper() -> None:
    content = io.BytesIO()
    Image.new("RGBA", (100, 100), (0, 0, 0, 0)).save(content, "PNG")
    assert flagged(decoding.decode(content.getvalue(), LIMIT).image) == ["bright", "flat"]


@pytest.mark.parametrize("size", [(1_800, 1_350), (4_300, 1_100), (1_100, 2_600)], ids=str)
@pytest.mark.parametrize("family", ["tree", "tartan"])
def test_numbers_hold_however_a_jpeg_is_decoded(family: str, size: tuple[int, int]) -> None:
    """As one fingerprint or another wants it; the tolerance is that of docs/quality.md."""
    content = as_jpeg(drawing(family, (900, 675)).resize(size, Image.Resampling.LANCZOS))
    sides = [None, quality.DECODE_SIDE, *(Framing(resize, resize).decode_side for resize in (64, 256, 400))]
    pictures = [decoding.decode(content, LIMIT, side) for side in sides]
    assert len({picture.image.size for picture in pictures}) > 1, "some are decoded at a part of their size"
    whole, *others = (np.array(quality.measure(picture.image)) for picture in pictures)
    for measured in others:
        low, high, contrast, sharpness, entropy, share = np.abs(measured - whole)
        assert max(low, high) <= 1 / 255 + 1e-9 and contrast < 0.001
        assert sharpness < 0.02 * whole[3] and entropy < 0.02 and share < 0.03


def test_fingerprints_decode_no_smaller_than_the_numbers_need() -> None:
    assert all((Framing(resize, resize).decode_side or 0) >= quality.DECODE_SIDE for resize in (32, 224, 256, 512))


def test_one_picture_in_several_sizes_has_one_sharpness() -> None:
    large = drawing("tree", (1_280, 960))
    sharpness = [
        numbers(large.resize(size, Image.Resampling.LANCZOS))["sharpness"] for size in ((960, 720), (640, 480))
    ]
    assert sharpness == pytest.approx([numbers(large)["sharpness"]] * 2, rel=0.15)


def test_blur_lowers_sharpness_and_noise_raises_it() -> None:
    image = drawing("tree")
    sharp = numbers(image)["sharpness"]
    blurred = [numbers(image.filter(ImageFilter.GaussianBlur(radius)))["sharpness"] for radius in (1, 2, 4)]
    assert sharp > blurred[0] > blurred[1] > blurred[2]
    noise = np.random.default_rng(0).normal(0, 30, (image.height, image.width, 3))
    noisy = Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
    assert numbers(noisy)["sharpness"] > 1.2 * sharp


GOOD = (0.1, 0.9, 0.2, 500.0, 7.0, 0.2)
"""Measures of a picture without flags."""


@pytest.mark.parametrize(
    ("name", "size", "changed"),
    [
        ("dark", (640, 480), {"brightness_p95": 0.19}),
        ("bright", (640, 480), {"brightness_p5": 0.81}),
        ("blurred", (640, 480), {"sharpness": 59.0}),
        ("flat", (640, 480), {"one_colour_share": 0.96}),
        ("tiny", (640, 63), {}),
        ("odd-aspect", (200, 601), {}),
    ],
)
def test_a_flag_is_raised_beyond_its_limit_alone(name: str, size: tuple[int, int], changed: dict[str, float]) -> None:
    at_limit = {"brightness_p95": 0.2, "brightness_p5": 0.8, "sharpness": 60.0, "one_colour_share": 0.95}
    row = dict(zip(MEASURES, GOOD)) | changed
    border = dict(zip(MEASURES, GOOD)) | {key: at_limit[key] for key in changed}
    measures = np.array([list(row.values()), list(border.values()), GOOD])
    raised = quality.flags([size[0], 64, 300], [size[1], 64, 100], measures, Limits(odd_aspect=3.0))
    assert name in raised[0] and raised[1:] == [[], []]
    off = {"dark": 0, "bright": 1, "blurred": 0, "flat": 1, "tiny": 0, "odd_aspect": 1e9}
    assert quality.flags([size[0]], [size[1]], measures[:1], Limits(**off)) == [[]]  # type: ignore[arg-type]


def test_stored_numbers_have_the_flags_of_fresh_ones() -> None:
    """0.2 as float32, which tables hold, is more than 0.2."""
    measures = np.array([(0.8, 0.2, 0.16, 60.0, 7.0, 0.95)])
    limits = Limits(dark=0.2, bright=0.8, flat=0.95)
    stored = quality.flags([640], [480], measures.astype(np.float32).astype(np.float64), limits)
    assert stored == quality.flags([640], [480], measures, limits) == [[]]


def test_flags_come_in_their_order_and_none_of_no_pictures() -> None:
    assert flagged(Image.new("RGB", (1, 9))) == ["dark", "flat", "tiny", "odd-aspect"]
    assert quality.flags([], [], np.empty((0, len(MEASURES)))) == []
    assert flagged(drawing("tree")) == []


def test_a_dark_picture_is_not_blurred_for_that_and_a_blurred_one_is() -> None:
    sharp = drawing("mondrian", (640, 480))
    for image, names in ((sharp, ["dark"]), (sharp.filter(ImageFilter.GaussianBlur(6)), ["dark", "blurred"])):
        dark = image.point([round(level * 0.15) for level in range(256)] * 3)
        assert numbers(dark)["sharpness"] < 0.2 * numbers(image)["sharpness"] and flagged(dark) == names


@pytest.mark.parametrize(("lit", "names"), [(0.1, []), (0.02, ["dark"])])
def test_a_night_with_lit_windows(lit: float, names: list[str]) -> None:
    """Where less than a twentieth is lit, the number cannot tell a night from an exposure that failed."""
    random = np.random.default_rng(0)
    pixels = random.normal(25, 10, (48, 64))
    pixels[random.random((48, 64)) < lit] = 230
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).resize((640, 480), Image.Resampling.NEAREST)
    assert flagged(image) == names


def test_drawings_on_white_paper() -> None:
    """Lines that cover a tenth are enough to be neither bright nor flat."""
    pixels = np.full((400, 400), 245, np.uint8)
    for thickness in range(4):
        pixels[thickness::40] = 20
    assert flagged(Image.fromarray(pixels)) == []


def test_a_long_panorama_is_flagged_for_its_shape_alone() -> None:
    tile = np.asarray(drawing("tree", (480, 360)))
    assert flagged(Image.fromarray(np.tile(tile, (1, 12, 1)))) == ["odd-aspect"]


def test_settings_are_the_limits_and_each_flag_has_one() -> None:
    settings = QualitySettings().model_dump(exclude={"enabled"})
    assert settings == asdict(Limits()) and [name.replace("_", "-") for name in settings] == list(FLAGS)


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="no photographs: see IMAGE_SIMILARITY_TEST_DATA")
def test_good_photographs_are_hardly_flagged_and_blurred_ones_are() -> None:
    images = [decoding.decode(file.read_bytes(), LIMIT).image for file in sorted(PHOTOGRAPHS.glob("*.jpg"))]
    assert len(images) == 200 and sum(bool(flagged(image)) for image in images) <= 3
    blurred = [image.filter(ImageFilter.GaussianBlur(4)) for image in images[::8]]
    assert sum("blurred" in flagged(image) for image in blurred) >= 0.95 * len(blurred)
