"""Which pixels a fingerprint takes: as torchvision would, of scaled decodings nearly the same."""

import io

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from image_similarity.imaging import decoding, quality
from image_similarity.imaging.framing import Framing, framed
from tools import samples

LIMIT = 100_000_000


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(640, 480), (481, 333), (224, 224), (100, 70), (256, 999), (31, 200)])
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (232, 224), (224, 224), (64, 64)])
def test_as_torchvision_does(size: tuple[int, int], resize: int, crop: int, interpolation: str) -> None:
    pixels = np.random.default_rng(size).integers(0, 256, (*size, 3), dtype=np.uint8)
    resized = transforms.resize(Image.fromarray(pixels), [resize], interpolation=InterpolationMode(interpolation))
    expected = np.asarray(transforms.center_crop(resized, [crop]))
    np.testing.assert_array_equal(Framing(resize, crop, interpolation).fit(Image.fromarray(pixels)), expected)


def test_a_picture_is_measured_as_it_is_decoded_for_most_framings() -> None:
    """Alone, too, and beside a framing that takes it whole: the same numbers."""
    out = io.BytesIO()
    samples.FAMILIES["sunset"](np.random.default_rng(3), (2400, 1800)).convert("RGB").save(out, "JPEG", quality=95)
    content, usual, whole = out.getvalue(), Framing(256, 224), Framing(64, 64, scaled=False)
    alone = framed(content, [], LIMIT, measured=True)
    assert alone.measures == quality.measure(decoding.decode(content, LIMIT, quality.DECODE_SIDE).image)
    assert (alone.width, alone.height, alone.format, alone.squares) == (2400, 1800, "JPEG", [])
    for framings in ([usual], [whole, usual], [usual, whole, Framing(600, 600)]):
        assert framed(content, framings, LIMIT, measured=True).measures == alone.measures
        assert framed(content, framings, LIMIT).measures is None
    of_whole = framed(content, [whole], LIMIT, measured=True).measures
    assert of_whole == quality.measure(decoding.decode(content, LIMIT).image)


def test_squashed_pictures_are_there_from_edge_to_edge() -> None:
    pixels = np.zeros((10, 400, 3), np.uint8)
    pixels[:, 390:] = 255
    square = Framing(8, 8, squash=True).fit(Image.fromarray(pixels))
    assert square.shape == (8, 8, 3) and square[:, 7].min() > 0 and square[:, :7].max() == 0


def test_a_scaled_decoding_keeps_its_size_and_nearly_its_pixels() -> None:
    picture = samples.FAMILIES["sunset"](np.random.default_rng(3), (2400, 1800)).convert("RGB")
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(out, "JPEG", quality=95, exif=exif)
    framing = Framing(256, 224)
    whole = decoding.decode(out.getvalue(), LIMIT)
    scaled = decoding.decode(out.getvalue(), LIMIT, framing.decode_side)
    assert whole.pixels.shape == (2400, 1800, 3)
    assert min(scaled.pixels.shape[:2]) >= 512 and scaled.pixels.shape[0] < 2400
    assert (whole.width, whole.height) == (scaled.width, scaled.height) == (1800, 2400)
    difference = np.abs(framing.fit(whole.image).astype(int) - framing.fit(scaled.image))
    assert difference.mean() < 1.5
    assert Framing(256, 224, scaled=False).decode_side is None and Framing(600, 600).decode_side == 1200
