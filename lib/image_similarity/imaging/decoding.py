"""bytes -> RGB uint8, or `Unreadable` with a reason.

What comes in is untrusted: its size is checked before anything is decoded, only formats on a list are tried, damaged
files are refused rather than repaired."""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from image_similarity.errors import Unreadable

Pixels = NDArray[np.uint8]
"""Shape (height, width, 3), RGB."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF", "PPM", "TGA", "ICO")
"""Pillow's names of those it opens (MPO comes in as JPEG). None starts another program or draws a page, as EPS and PDF
would."""

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
    """Of the whole picture, upright; ``pixels`` may be smaller."""
    height: int


def decode(content: bytes, max_pixels: int, at_least: int | None = None) -> Picture:
    """The picture in ``content``: upright (EXIF orientation), first frame, as RGB uint8.

    Transparency is put on white; grey of more than 8 bits and floating point are rescaled, not clipped. ``at_least``:
    see `open_upright`. Raises `Unreadable`."""
    with as_unreadable():
        image = open_upright(content, max_pixels, at_least)
        return Picture(np.asarray(to_rgb(image)), *image.info[WHOLE_SIZE])


def open_upright(content: bytes, max_pixels: int, at_least: int | None = None) -> Image.Image:
    """The first frame of ``content``, decoded and upright, in its own mode. Raises `Unreadable`.

    With ``at_least`` a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as both sides keep
    that many pixels: much faster, for pictures that are made smaller anyway. ``info[WHOLE_SIZE]`` is width and height
    of the whole, upright."""
    if not content:
        raise Unreadable("empty", "0 bytes")
    Image.init()  # all formats must be registered before some can be named; does nothing the second time
    with as_unreadable():
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check_size(image, max_pixels)
            if image.format == "PNG":
                image.verify()  # reads all checksums, after which the image must be opened anew
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            reduced = at_least is not None and image.draft(None, (at_least, at_least)) is not None
            image.load()
            _check_size(image, max_pixels)  # some formats tell their true size only when they are decoded
            if not reduced:
                width, height = image.size
            is_turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
            upright = ImageOps.exif_transpose(image)
            upright.info[WHOLE_SIZE] = (height, width) if is_turned else (width, height)
            return upright


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise Unreadable("too_many_pixels", f"{width} x {height}")
    if width * height == 0:
        raise Unreadable("corrupt", f"{width} x {height} pixels")


def to_rgb(image: Image.Image) -> Image.Image:
    """``image`` of any of Pillow's modes as RGB. ``ValueError`` for a mode that has no meaning as a picture."""
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
    """Grey of 16 or 32 bits, or floating point, as 8 bits; a transparent value becomes white.

    16-bit values are divided by 257. The range of 32-bit and floating-point images is not declared anywhere, so the
    smallest usual one that holds the values is assumed: 0 to 1 (floating point only), 0 to 255, 0 to 65,535, else that
    of the picture."""
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
    """Whatever Pillow raises about a file becomes `Unreadable`: one bad file must not stop the others."""
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
    except (
        Exception
    ) as error:  # decoders raise nearly anything on damaged files: struct.error, SyntaxError, KeyError, ...
        raise Unreadable(_reason_of(error), f"{type(error).__name__}: {error}") from None


def _reason_of(error: Exception) -> str:
    text = str(error).lower()
    if isinstance(error, EOFError) or any(word in text for word in _TRUNCATION_WORDS):
        return "truncated"
    if isinstance(error, NotImplementedError) or any(word in text for word in _UNSUPPORTED_WORDS):
        return "unsupported_format"
    return "corrupt"


def prepare_process(max_pixels: int) -> None:
    """Once per process: Pillow's own limit follows ours, and its warnings about odd metadata are not printed."""
    Image.MAX_IMAGE_PIXELS = max_pixels
    warnings.filterwarnings("ignore", module="PIL")


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Keep what C libraries print about damaged files (libtiff: hundreds of lines a file) off this process's stderr.

    What matters of it is in `Unreadable`. For worker processes only: the whole process is silent meanwhile.
    """
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
