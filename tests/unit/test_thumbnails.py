"""The small files of a picture: upright, small, in the colours of screens, and without anything else of the
original.
"""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from image_similarity.errors import Unreadable
from image_similarity.imaging import thumbnails

LIMIT = 50_000_000


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    assert image.format == "WEBP"
    return image.convert("RGB")


@pytest.mark.parametrize(
    ("size", "large", "small"),
    [
        ((3000, 2000), (1280, 853), (480, 320)),
        ((500, 1000), (500, 1000), (240, 480)),
        ((480, 480), None, (480, 480)),
        ((481, 3), (481, 3), (480, 3)),
        ((1, 1), None, (1, 1)),
        ((4000, 1), (1280, 1), (480, 1)),
    ],
)
def test_two_sizes_never_larger_than_the_picture(
    size: tuple[int, int], large: tuple[int, int] | None, small: tuple[int, int]
) -> None:
    made = thumbnails.thumbnails(encoded(Image.new("RGB", size, (200, 30, 30))), LIMIT)
    assert opened(made.small).size == small
    assert (opened(made.large).size if made.large else None) == large
    assert (made.width, made.height) == (large or small)
    assert thumbnails.has_large(made.width, made.height) == (large is not None)
    assert np.abs(np.asarray(opened(made.small), dtype=int) - (200, 30, 30)).max() < 8


def test_it_stands_upright_without_the_original_s_metadata() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    exif[0x010E] = "a secret place"
    left_is_dark = Image.fromarray(np.tile(np.linspace(0, 255, 1000, dtype=np.uint8), (600, 1)))
    made = thumbnails.thumbnails(encoded(left_is_dark, exif=exif), LIMIT)
    assert (made.width, made.height) == (600, 1000)
    for content in (made.small, made.large):
        assert content is not None and b"secret" not in content and b"EXIF" not in content and b"ICCP" not in content
        values = np.asarray(opened(content).convert("L"), dtype=int)
        assert values[:20].mean() < 30 and values[-20:].mean() > 225


def test_colours_of_a_profile_become_those_of_screens() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    made = thumbnails.thumbnails(
        encoded(Image.new("RGB", (50, 50), (10, 200, 10)), icc_profile=profile.tobytes()), LIMIT
    )
    assert np.abs(np.asarray(opened(made.small), dtype=int) - (10, 200, 10)).max() < 8, (
        "a profile that does not fit is passed over"
    )
    damaged = thumbnails.thumbnails(
        encoded(Image.new("RGB", (50, 50), (10, 200, 10)), icc_profile=b"nonsense" * 30), LIMIT
    )
    assert damaged.small


def test_transparency_is_white_and_grey_is_not_clipped() -> None:
    clear = thumbnails.thumbnails(encoded(Image.new("RGBA", (20, 20), (255, 0, 0, 0)), "PNG"), LIMIT)
    assert np.asarray(opened(clear.small)).min() > 250
    deep = Image.fromarray(np.full((20, 20), 32_768, dtype=np.uint16))
    assert abs(int(np.asarray(opened(thumbnails.thumbnails(encoded(deep, "PNG"), LIMIT).small)).mean()) - 127) < 4


@pytest.mark.parametrize(("content", "reason"), [(b"", "empty"), (b"no picture at all", "not_an_image")])
def test_what_cannot_be_read_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(Unreadable) as told:
        thumbnails.thumbnails(content, LIMIT)
    assert told.value.reason == reason


def test_the_limit_is_that_of_the_original() -> None:
    with pytest.raises(Unreadable, match="too_many_pixels"):
        thumbnails.thumbnails(encoded(Image.new("RGB", (300, 300))), 80_000)


def test_the_original_s_size_and_format_are_told_by_its_content() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    large = Image.new("RGB", (3000, 2000))
    made = [
        thumbnails.thumbnails(encoded(large, exif=exif), LIMIT),  # decoded at a half
        thumbnails.thumbnails(encoded(large.resize((30, 20)), "PNG"), LIMIT),
        thumbnails.thumbnails(encoded(large.resize((30, 20)), "MPO", save_all=True, append_images=[large]), LIMIT),
    ]
    assert [(of.pixel_width, of.pixel_height, of.format) for of in made] == [
        (2000, 3000, "JPEG"),
        (30, 20, "PNG"),
        (30, 20, "JPEG"),
    ]
