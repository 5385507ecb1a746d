"""Thumbprints: the whole picture in 32 x 32 grey pixels, nearly the same for every copy of it."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from image_similarity.imaging import decoding, framing, thumbprint
from image_similarity.imaging.framing import Framing
from tools import samples

LIMIT = 100_000_000
FAMILIES = sorted(samples.FAMILIES)


def scene(seed: int, size: tuple[int, int]) -> Image.Image:
    """Rectangles of one colour each: their edges show the least shift."""
    random, (width, height) = np.random.default_rng(seed), size
    pixels = np.full((height, width, 3), 128, np.uint8)
    for x, y, *colour in random.uniform(0, 1, (40, 5)):
        left, top = int(x * width), int(y * height)
        pixels[top : top + height // 4, left : left + width // 5] = 255 * np.array(colour)
    return Image.fromarray(pixels)


def as_jpeg(image: Image.Image, orientation: int = 1, quality: int = 90) -> bytes:
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    image.save(out, "JPEG", quality=quality, exif=exif)
    return out.getvalue()


def correlation(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 100_000), (100_000, 1), (3, 5), (32, 32), (33, 31), (1000, 700), (20_000, 300)], ids=str
)
def test_one_colour_stays_one_grey_at_every_size(size: tuple[int, int]) -> None:
    made = thumbprint.of(Image.new("RGB", size, (255, 0, 0)))
    assert made.shape == (32, 32) and made.dtype == np.uint8 and set(made.ravel()) == {76}, "red is dark"


@pytest.mark.parametrize("length", [128, 5_024, 60_000_000])
def test_a_column_of_pixels_of_any_length_keeps_its_greys(length: int) -> None:
    """Pillow's sums in one step would be three percent too dark for the longest."""
    steps = np.repeat(np.arange(32, dtype=np.uint8) * 8, length // 32)
    made = thumbprint.of(Image.fromarray(steps[:, np.newaxis]))
    assert (made == made[:, :1]).all() and np.abs(made[:, 0].astype(int) - np.arange(32) * 8).max() <= 1


def test_the_whole_picture_from_edge_to_edge_row_by_row() -> None:
    pixels = np.zeros((100, 900, 3), np.uint8)
    pixels[:25, 450:] = 255
    made = thumbprint.of(Image.fromarray(pixels))
    assert made[:7, 17:].min() > 250 and made[9:].max() == 0 and made[:, :15].max() == 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [(2400, 1800), (1027, 4099), (4099, 4099)], ids=str)
def test_a_jpeg_decoded_at_a_part_of_its_size_has_nearly_the_same(seed: int, size: tuple[int, int]) -> None:
    content = as_jpeg(scene(seed, size), orientation=6)
    whole, scaled = framing.framed(content, [Framing(64, 64, scaled=False), Framing(64, 64)], LIMIT).thumbprints
    assert np.abs(whole.astype(int) - scaled).mean() < 1 and correlation(whole, scaled) > 0.999
    assert scaled.tobytes() == thumbprint.of(decoding.decode(content, LIMIT, 512).image).tobytes()


def test_copies_are_near_and_other_pictures_are_not() -> None:
    originals = [samples.FAMILIES[name](np.random.default_rng(3), (320, 240)).convert("RGB") for name in FAMILIES]
    made = [thumbprint.of(original) for original in originals]
    for number, original in enumerate(originals):
        small = original.resize((187, 140), Image.Resampling.LANCZOS)
        copy = thumbprint.of(decoding.decode(as_jpeg(small, quality=40), LIMIT).image)
        assert correlation(made[number], copy) > 0.99, FAMILIES[number]
        assert max(correlation(one, copy) for one in made[:number] + made[number + 1 :]) < 0.98, FAMILIES[number]


def test_it_does_not_depend_on_what_else_is_framed() -> None:
    content = as_jpeg(scene(3, (2400, 1800)))
    whole, scaled = Framing(8, 8, scaled=False), Framing(16, 16)
    together = framing.framed(content, [scaled, whole, scaled], LIMIT)
    alone = [framing.framed(content, [each], LIMIT).thumbprints[0] for each in (scaled, whole, scaled)]
    assert [made.tobytes() for made in together.thumbprints] == [made.tobytes() for made in alone]
    assert (alone[0] != alone[1]).any(), "another decoding"
