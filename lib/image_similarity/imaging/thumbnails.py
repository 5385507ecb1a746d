"""bytes -> the two small WebP files of a picture that pages show."""

import io
from dataclasses import dataclass

from PIL import Image, ImageCms

from image_similarity.imaging.decoding import as_unreadable, open_upright, to_rgb

SMALL, LARGE = 480, 1280
"""Longest side in pixels: of a picture among others, and of one that is looked at by itself. Both hold on dense
screens, too."""

_QUALITY = 80
_METHOD = 2  # of WebP's seven efforts: half the time of the default (4) for 3 % larger files

_SHRINKABLE_MODES = ("RGB", "L", "CMYK", "RGBA", "LA", "YCbCr")

RECIPE = f"webp-{SMALL}-{LARGE}-{_QUALITY}-{_METHOD}"
"""What determines the files besides the picture itself: other recipes make other files."""


@dataclass(frozen=True)
class Thumbnails:
    """WebP files of one picture: upright, sRGB, without metadata."""

    width: int
    """Of the larger file, in pixels; the smaller one has the same proportions."""
    height: int
    small: bytes
    large: bytes | None
    """None where the picture is no larger than the small file may be: pictures are never made larger."""


def thumbnails(content: bytes, max_pixels: int) -> Thumbnails:
    """The small files of the picture in ``content``. Raises `Unreadable`, as `decoding.decode` does."""
    picture = open_upright(content, max_pixels, at_least=LARGE)
    with as_unreadable():
        if (
            picture.mode in _SHRINKABLE_MODES and "transparency" not in picture.info
        ):  # before its colours are converted: there may be much of it
            picture.thumbnail((LARGE, LARGE), Image.Resampling.LANCZOS, reducing_gap=3.0)
        large = _shrunk(_to_srgb(picture), LARGE)
        is_small = max(large.size) <= SMALL
        return Thumbnails(*large.size, _webp(_shrunk(large, SMALL)), None if is_small else _webp(large))


def size_of(content: bytes) -> tuple[int, int]:
    """Width and height of a file that `thumbnails` made. ``OSError`` if it is none, or only a part."""
    with Image.open(io.BytesIO(content), formats=("WEBP",)) as picture:
        return picture.size


def has_large(width: int, height: int) -> bool:
    """Whether a picture of that size (`Thumbnails.width`, ``height``) has a large file."""
    return max(width, height) > SMALL


def _to_srgb(picture: Image.Image) -> Image.Image:
    """``picture`` as RGB in the colours of screens; a damaged profile, or one for another mode, is passed over."""
    profile = picture.info.get("icc_profile")
    if profile and picture.mode in ("RGB", "CMYK") and b"sRGB" not in profile:
        try:
            converted = ImageCms.profileToProfile(
                picture, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
            )
            return converted or picture
        except (ImageCms.PyCMSError, OSError):
            pass
    return to_rgb(picture)


def _shrunk(picture: Image.Image, side: int) -> Image.Image:
    shrunk = picture.copy()
    shrunk.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return shrunk


def _webp(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(
        out, "WEBP", quality=_QUALITY, method=_METHOD
    )  # no exif=, no icc_profile=: nothing of the original leaks
    return out.getvalue()
