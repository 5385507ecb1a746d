"""bytes -> the two small WebP files of a picture that pages show."""

import io
from contextlib import nullcontext
from dataclasses import dataclass

import PIL
from PIL import Image, ImageCms

from image_similarity.imaging.decoding import FORMAT, WHOLE_SIZE, Waiting, as_unreadable, open_upright, to_rgb

SMALL, LARGE = 480, 1280
"""Longest side in pixels, of a picture in a grid and of one that is shown alone. Both suffice for dense screens."""

_QUALITY = 80
_METHOD = 2  # WebP's effort, 0 to 6: takes half the time of the default (4), and files are 3 % larger

_SHRINKABLE_MODES = ("RGB", "L", "CMYK", "RGBA", "LA", "YCbCr")

RECIPE = f"webp-{SMALL}-{LARGE}-{_QUALITY}-{_METHOD}-pillow{PIL.__version__}"
"""Everything besides the picture that determines the files. Its value changes if they would change."""


@dataclass(frozen=True)
class Thumbnails:
    """WebP files of one picture: upright, sRGB, without metadata."""

    width: int
    """Width of the larger file, in pixels. The smaller one has the same proportions."""
    height: int
    """Height of the larger file, in pixels."""
    small: bytes
    large: bytes | None
    """None if the picture fits into the small file. Pictures are never enlarged."""
    pixel_width: int
    """Width of the original, upright, in pixels."""
    pixel_height: int
    """Height of the original, upright, in pixels."""
    format: str
    """Format of the original, one of `decoding.FORMATS`, told by the beginning of its file."""

    @property
    def small_size(self) -> tuple[int, int]:
        """Width and height of the smaller file, to the pixel before or after."""
        shrunk = min(1.0, SMALL / max(self.width, self.height))
        return max(1, round(self.width * shrunk)), max(1, round(self.height * shrunk))


def thumbnails(content: bytes, max_pixels: int, waiting: Waiting = nullcontext) -> Thumbnails:
    """The WebP files of the picture in ``content``. Raises `Unreadable`, as `decoding.decode` does.

    ``waiting``: see `decoding.open_upright`.
    """
    with as_unreadable():
        with open_upright(content, max_pixels, LARGE, waiting) as picture:
            (width, height), of_format = picture.info[WHOLE_SIZE], picture.info[FORMAT]
            # A large picture is shrunk before its colours are converted, which saves time.
            if picture.mode in _SHRINKABLE_MODES and "transparency" not in picture.info:
                _shrink(picture, LARGE)
            large = _to_srgb(picture)
            _shrink(large, LARGE)
        small = large.copy()
        _shrink(small, SMALL)
        is_small = max(large.size) <= SMALL
        files = _webp(small), None if is_small else _webp(large)
        return Thumbnails(*large.size, *files, width, height, of_format)


def size_of(content: bytes) -> tuple[int, int]:
    """Width and height of a file that `thumbnails` made. ``OSError`` for another or a truncated file."""
    with Image.open(io.BytesIO(content), formats=("WEBP",)) as picture:
        picture.load()
        return picture.size


def has_large(width: int, height: int) -> bool:
    """Whether a picture of this size (`Thumbnails.width`, ``height``) has a large file."""
    return max(width, height) > SMALL


def _to_srgb(picture: Image.Image) -> Image.Image:
    """``picture`` as RGB in sRGB colours. A damaged profile, or one for another mode, is ignored."""
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


def _shrink(picture: Image.Image, side: int) -> None:
    """In place."""
    picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)


def _webp(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    # Without exif= and icc_profile= no metadata of the original is published.
    picture.save(out, "WEBP", quality=_QUALITY, method=_METHOD)
    return out.getvalue()
