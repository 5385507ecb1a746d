"""bytes -> RGB uint8, or `Unreadable` with a reason.

Files are untrusted. The size is checked before anything is decoded, only formats on a list are tried, and damaged
pixels are refused instead of repaired. What pixels do not need (comments, profiles, EXIF but for the orientation) makes
no picture unreadable. A JPEG has no checksums: damage inside its data that libjpeg reads over is not noticed.
"""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from image_similarity.errors import Unreadable
from image_similarity.imaging import png

Pixels = NDArray[np.uint8]
"""Shape (height, width, 3), RGB."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF", "PPM", "TGA", "ICO")
"""Pillow's names of the formats that are opened. Pillow opens MPO as JPEG. EPS and PDF are missing, since they start
another program or draw a page."""

UNREADABLE_REASONS = {
    "empty": "the file has no bytes",
    "too_many_pixels": "the picture claims more pixels than embeddings.max_pixels",
    "not_an_image": "the content is none of the formats known here",
    "unsupported_format": "the format is known, this kind of it cannot be decoded",
    "truncated": "the file ends too early",
    "corrupt": "the content contradicts itself",
    "decoder_crashed": "the decoder died of it, or took more memory or time than it may",
}

WHOLE_SIZE = "image_similarity_whole_size"
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_ORIENTATION_IN = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
"""Keys of ``Image.info`` that may hold an orientation, which is wrong once a picture is upright."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture of an EXIF orientation upright."""
_WHITE = (255, 255, 255, 255)
_PLAIN_MODES = ("RGB", "L", "1", "CMYK", "YCbCr", "HSV")
_ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
_TRUNCATION_WORDS = ("truncated", "not enough image data", "unexpected end", "eof", "premature")
_UNSUPPORTED_WORDS = (
    "unsupported",
    "unknown raw mode",
    "unknown pixel mode",
    "not supported",
    "unrecognized",
    "unknown data",
)


@dataclass(frozen=True)
class Picture:
    pixels: Pixels
    width: int
    """Width of the whole picture, upright, in pixels. ``pixels`` may be smaller."""
    height: int
    """Height of the whole picture, upright, in pixels."""


def decode(content: bytes, max_pixels: int, at_least: int | None = None) -> Picture:
    """The first frame of ``content`` as RGB uint8, upright by its EXIF orientation.

    Transparent pixels are put on white. Grey values of more than 8 bits and floating-point values are rescaled, not
    clipped. ``at_least``: see `open_upright`. Raises `Unreadable`.
    """
    with as_unreadable():
        image = open_upright(content, max_pixels, at_least)
        return Picture(np.asarray(to_rgb(image)), *image.info[WHOLE_SIZE])


def open_upright(content: bytes, max_pixels: int, at_least: int | None = None) -> Image.Image:
    """The first frame of ``content``, decoded and upright, in its own mode. Raises `Unreadable`.

    With ``at_least`` a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as both sides keep
    that many pixels. This is much faster, and serves pictures that are shrunk afterwards. ``info[WHOLE_SIZE]`` is the
    width and height of the whole picture, upright.
    """
    if not content:
        raise Unreadable("empty", "0 bytes")
    Image.init()  # registers all formats, so that `formats` may name them; a second call does nothing
    with as_unreadable():
        try:
            return _opened(content, max_pixels, at_least)
        except (Unreadable, MemoryError, Image.DecompressionBombError):
            raise
        except Exception:  # of a comment or a profile, perhaps, without which the picture is whole
            bare = png.without_metadata(content)
            if bare is None:
                raise
            return _opened(bare, max_pixels, at_least)


def _opened(content: bytes, max_pixels: int, at_least: int | None) -> Image.Image:
    """See `open_upright`. Raises whatever Pillow raises."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        _check_size(image, max_pixels)
        if image.format == "PNG":
            image.verify()  # reads all checksums; afterwards the image must be opened again
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        width, height = image.size
        reduced = at_least is not None and image.draft(None, (at_least, at_least)) is not None
        image.load()
        _check_size(image, max_pixels)  # the true size of some formats is known only after decoding
        if not reduced:
            width, height = image.size
        orientation = _orientation(image)
        method = _UPRIGHT.get(orientation)
        upright = image.copy() if method is None else image.transpose(method)
        upright.info = {name: value for name, value in image.info.items() if name not in _ORIENTATION_IN}
        upright.info |= {WHOLE_SIZE: (height, width) if orientation in _TURNED else (width, height)}
        return upright


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) where EXIF is missing or cannot be read.

    Pillow's own `exif_transpose` also writes the EXIF anew, which fails for values that EXIF does not allow.
    """
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF raises nearly anything, and no pixel depends on it
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise Unreadable("too_many_pixels", f"{width} x {height}")
    if width * height == 0:
        raise Unreadable("corrupt", f"{width} x {height} pixels")


def to_rgb(image: Image.Image) -> Image.Image:
    """``image``, in any of Pillow's modes, as RGB. ``ValueError`` for a mode that is no picture."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return _rescaled_grey(image).convert("RGB")
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in _ALPHA_MODES:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")
    if image.mode in _PLAIN_MODES:
        return image.convert("RGB")
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        assert converted is not None  # it is None only when converting in place
        return converted
    raise ValueError(f"unsupported mode {image.mode}")


def _rescaled_grey(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits, or of floating point, as 8 bits. The transparent value becomes white.

    16-bit values are divided by 257. Images of 32 bits or floating point do not declare their range. The smallest usual
    range that holds all values is assumed: 0 to 1 (floating point only), 0 to 255, or 0 to 65,535. If none does, the
    range is that of the values.
    """
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise Unreadable("corrupt", "pixel values that are not finite")
    low, high = 0.0, 65_535.0
    if not image.mode.startswith("I;16"):
        usual = [1.0] * (image.mode == "F") + [255.0, 65_535.0]
        fitting = [limit for limit in usual if values.max() <= limit]
        low, high = (0.0, fitting[0]) if fitting and values.min() >= 0 else (values.min(), values.max())
    scaled = (values - low) * (255.0 / max(high - low, 1e-300))
    if isinstance(see_through := image.info.get("transparency"), int):
        scaled[values == see_through] = 255
    return Image.fromarray(np.rint(np.clip(scaled, 0, 255)).astype(np.uint8))


@contextmanager
def as_unreadable() -> Iterator[None]:
    """Turns every exception of Pillow about a file into `Unreadable`, since one bad file must not stop the others."""
    try:
        yield
    except Unreadable:
        raise
    except Image.DecompressionBombError as error:
        raise Unreadable("too_many_pixels", str(error)) from None
    except UnidentifiedImageError:
        raise Unreadable("not_an_image", "no known format accepts its beginning") from None
    except MemoryError:
        raise Unreadable("corrupt", "asks for more memory than there is") from None
    # Decoders raise nearly anything on damaged files: struct.error, SyntaxError, KeyError, ...
    except Exception as error:
        raise Unreadable(_reason_of(error), f"{type(error).__name__}: {error}") from None


def _reason_of(error: Exception) -> str:
    text = str(error).lower()
    if isinstance(error, EOFError) or any(word in text for word in _TRUNCATION_WORDS):
        return "truncated"
    if isinstance(error, NotImplementedError) or any(word in text for word in _UNSUPPORTED_WORDS):
        return "unsupported_format"
    return "corrupt"


def prepare_process(max_pixels: int) -> None:
    """Set Pillow's own limit of pixels, and hide its warnings about odd metadata. Call it once in each process."""
    Image.MAX_IMAGE_PIXELS = max_pixels
    warnings.filterwarnings("ignore", module="PIL")


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Drops what C libraries print to stderr about damaged files (libtiff: hundreds of lines a file).

    `Unreadable` has the important part. The whole process prints nothing to stderr meanwhile, so this is for worker
    processes only.
    """
    stderr = os.dup(2)
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(devnull)
