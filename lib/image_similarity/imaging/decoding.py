"""bytes -> RGB uint8, or `Unreadable` with a reason.

Files are untrusted. The size is checked before anything is decoded, only formats on a list are tried, and damaged
pixels are refused instead of repaired. What pixels do not need (comments, profiles, EXIF but for the orientation) makes
no picture unreadable. A JPEG has no checksums: damage inside its data that libjpeg reads over is not noticed.
"""

import io
import math
import os
import struct
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from image_similarity.errors import Unreadable
from image_similarity.imaging import jpeg, jpeg2000, png, tiff

Pixels = NDArray[np.uint8]
"""Shape (height, width, 3), RGB."""

Taken = Callable[[int, int], AbstractContextManager[object]]
"""``taken(pixels, limit)`` is entered when a picture's turn to be decoded comes, see `Turns.taken`."""

Waiting = Callable[[], AbstractContextManager[object]]
"""Makes a context that is entered while a picture waits for others to be decoded. Who limits the time of a picture
leaves this out."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF", "PPM", "TGA", "ICO")
"""Pillow's names of the formats that are opened. Pillow opens MPO as JPEG. EPS and PDF are missing, since they start
another program or draw a page."""

UNREADABLE_REASONS = {
    "empty": "the file has no bytes",
    "too_many_pixels": "the picture claims more pixels than embeddings.max_pixels, or far too many tiles or blocks",
    "not_an_image": "the content is none of the formats known here",
    "unsupported_format": "the format is known, this kind of it cannot be decoded",
    "truncated": "the file ends too early",
    "corrupt": "the content contradicts itself",
    "decoder_crashed": "the decoder died of it, or took more memory or time than it may",
}

WHOLE_SIZE, FORMAT = "image_similarity_whole_size", "image_similarity_format"
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_ORIENTATION_IN = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")
"""Keys of ``Image.info`` that may hold an orientation, which is wrong once a picture is upright."""
_LARGEST_EXIF = 2**22
"""Bytes. Cameras write some thousand. Pillow makes a Python object of each number in a tag."""
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
_BLOCK = 2**16
"""Pixels that are converted to RGB at a time."""
_SCAN = struct.Struct(">HHB")
"""The beginning of a JPEG's scan: marker, length, number of components."""
_SAYING = (OSError, ValueError, SyntaxError, EOFError, NotImplementedError)
"""What Pillow raises on purpose, with a text for people."""
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
    image: Image.Image
    """RGB, four bytes a pixel."""
    width: int
    """Width of the whole picture, upright, in pixels. ``image`` may be smaller."""
    height: int
    """Height of the whole picture, upright, in pixels."""
    format: str
    """One of `FORMATS`, told by the file's beginning."""

    @property
    def pixels(self) -> Pixels:
        return np.asarray(self.image)


def decode(content: bytes, max_pixels: int, at_least: int | None = None, waiting: Waiting = nullcontext) -> Picture:
    """The first frame of ``content`` as RGB, upright by its EXIF orientation.

    Transparent pixels are put on white. Grey values of more than 8 bits and floating-point values are rescaled, not
    clipped. ``at_least``, ``waiting`` and what is raised: see `open_upright`.
    """
    with open_upright(content, max_pixels, at_least, waiting) as image:
        (width, height), of_format = image.info[WHOLE_SIZE], image.info[FORMAT]
        converted = None if _is_rgb(image) else _pixels(image)
        if converted is None:
            return Picture(image, width, height, of_format)
    del image  # converted pixels are copied once more: not beside what they were converted from
    return Picture(Image.fromarray(converted), width, height, of_format)


def format_of(content: bytes) -> str:
    """Pillow's name of the format of ``content``, one of `FORMATS` or MPO, by its beginning.

    Raises `Unreadable`, or whatever else Pillow raises, if it is none.
    """
    Image.init()  # registers all formats, so that `formats` may name them; a second call does nothing
    with Image.open(io.BytesIO(jpeg.without_large_exif(content)), formats=FORMATS) as image:
        return str(image.format)


@contextmanager
def open_upright(
    content: bytes, max_pixels: int, at_least: int | None = None, waiting: Waiting = nullcontext
) -> Iterator[Image.Image]:
    """The first frame of ``content``, decoded and upright, in its own mode.

    With ``at_least`` a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as both sides keep
    that many pixels. This is much faster, and serves pictures that are shrunk afterwards. ``info[WHOLE_SIZE]`` is the
    width and height of the whole picture, upright; ``info[FORMAT]`` is one of `FORMATS`, told by the file's beginning.

    The threads of a process together decode at most ``max_pixels`` at a time. So entering waits for others, in
    ``waiting()``, and the context should be left soon. Raises `Unreadable`, also for what Pillow raises inside of it.
    """
    if not content:
        raise Unreadable("empty", "0 bytes")
    Image.init()  # registers all formats, so that `formats` may name them; a second call does nothing
    with as_unreadable(), ExitStack() as turn:
        try:
            image = _opened(content, max_pixels, at_least, waiting, turn)
        except (Unreadable, MemoryError, Image.DecompressionBombError):
            raise
        except Exception as error:  # of a comment or a profile, perhaps, without which the picture is whole
            bare = png.without_metadata(content)
            if bare is None:
                raise
            turn.close()
            traceback.clear_frames(error.__traceback__)  # they hold what was decoded before the error
            image = _opened(bare, max_pixels, at_least, waiting, turn)
        yield image


def _opened(content: bytes, max_pixels: int, at_least: int | None, waiting: Waiting, turn: ExitStack) -> Image.Image:
    """See `open_upright`. ``turn`` holds the picture's turn to be decoded. Raises whatever Pillow raises."""
    tiff.check_claims(content)
    jpeg2000.check_blocks(content)
    content = jpeg.without_large_exif(content)
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        _check_size(image, max_pixels)
        if image.format == "PNG":
            _check_sums(content)
        width, height = image.size
        one_scan = _is_one_scan(image, content)
        reduced = at_least is not None and image.draft(None, (at_least, at_least)) is not None
        held_width, held_height = image.size if one_scan else (width, height)
        # The true size of an icon is known only after decoding.
        held = max_pixels if image.format == "ICO" else held_width * held_height
        with waiting():
            turn.enter_context(_taken(held, max_pixels))
        image.load()
        _check_size(image, max_pixels)
        if not reduced:
            width, height = image.size
        orientation = _orientation(image)
        method = _UPRIGHT.get(orientation)
        # Pixels are handed over, not copied. What the decoder holds beside them (WebP: twelve bytes a pixel) goes.
        upright = image._new(image.im) if method is None else image.transpose(method)
        upright.info = {name: value for name, value in image.info.items() if name not in _ORIENTATION_IN}
        upright.info |= {WHOLE_SIZE: (height, width) if orientation in _TURNED else (width, height)}
        upright.info[FORMAT] = "JPEG" if image.format == "MPO" else image.format
        return upright


def _check_sums(png_content: bytes) -> None:
    """Raises if a checksum is wrong. Pillow cannot decode a picture that it has verified, so this is one of its own."""
    with Image.open(io.BytesIO(png_content), formats=("PNG",)) as image:
        image.verify()


def _is_one_scan(image: Image.Image, content: bytes) -> bool:
    """Whether ``image``, just opened, is a JPEG that is decoded line by line.

    The coefficients of others are held as a whole, even where the picture is decoded at a part of its size: two bytes
    for each value of a pixel.
    """
    if image.format not in ("JPEG", "MPO") or "progressive" in image.info:
        return False
    return not any(_SCAN.pack(0xFFDA, 6 + 2 * some, some) in content for some in range(1, len(image.getbands())))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) where EXIF is missing or cannot be read.

    Pillow's own `exif_transpose` also writes the EXIF anew, which fails for values that EXIF does not allow.
    """
    if len(image.info.get("exif", b"")) > _LARGEST_EXIF:
        return 1
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
    return image if _is_rgb(image) else Image.fromarray(_pixels(image))


def _pixels(image: Image.Image) -> Pixels:
    """``image`` as RGB. It is converted block by block: a mode may take four copies to convert."""
    low, high = _range(image) if _is_deep(image) else (0, 255)
    pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
    for left, top, right, bottom in _blocks(image.size):
        block = image.crop((left, top, right, bottom))
        rgb = _rescaled_grey(block, low, high) if _is_deep(block) else _block_to_rgb(block)
        pixels[top:bottom, left:right] = np.asarray(rgb)
    return pixels


def _blocks(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Left, top, right and bottom of parts of `_BLOCK` pixels or less, which together are all of a picture."""
    width, height = size
    columns = min(width, _BLOCK)
    rows = max(1, _BLOCK // columns)
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield left, top, min(left + columns, width), min(top + rows, height)


def _is_rgb(image: Image.Image) -> bool:
    return image.mode == "RGB" and "transparency" not in image.info


def _is_deep(image: Image.Image) -> bool:
    """Whether it is grey of more than 8 bits, or of floating point."""
    return image.mode == "F" or image.mode.startswith("I")


def _block_to_rgb(image: Image.Image) -> Image.Image:
    if _is_rgb(image):
        return image
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in _ALPHA_MODES:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")
    if image.mode in _PLAIN_MODES:
        return image.convert("RGB")
    if image.mode == "LAB":
        converted = ImageCms.applyTransform(image, _lab_to_srgb())
        assert converted is not None  # it is None only when converting in place
        return converted
    raise ValueError(f"unsupported mode {image.mode}")


@cache
def _lab_to_srgb() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")


def _range(image: Image.Image) -> tuple[float, float]:
    """The values of grey that become 0 and 255.

    Those of 16 bits are 0 and 65,535. Images of 32 bits or floating point do not declare their range. The smallest
    usual range that holds all values is assumed: 0 to 1 (floating point only), 0 to 255, or 0 to 65,535. If none does,
    the range is that of the values.
    """
    if image.mode.startswith("I;16"):
        return 0.0, 65_535.0
    least, most = math.inf, -math.inf
    for box in _blocks(image.size):
        values = np.asarray(image.crop(box))
        if not np.isfinite(values).all():
            raise Unreadable("corrupt", "pixel values that are not finite")
        least, most = min(least, float(values.min())), max(most, float(values.max()))
    usual = [1.0] * (image.mode == "F") + [255.0, 65_535.0]
    fitting = [limit for limit in usual if most <= limit]
    return (0.0, fitting[0]) if fitting and least >= 0 else (least, most)


def _rescaled_grey(image: Image.Image, low: float, high: float) -> Image.Image:
    """Grey of 16 or 32 bits, or of floating point, as 8 bits. The transparent value becomes white."""
    values = np.asarray(image, dtype=np.float64)
    scaled = (values - low) * (255.0 / max(high - low, 1e-300))
    if isinstance(see_through := image.info.get("transparency"), int):
        scaled[values == see_through] = 255
    return Image.fromarray(np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)).convert("RGB")


class Turns:
    """Lets pictures be decoded at the same time while they have no more pixels together than a limit.

    A larger picture than all of that is decoded alone. Who waits longest is next, so that small pictures do not keep a
    large one waiting.
    """

    def __init__(self) -> None:
        self._next, self._changed, self._pixels = threading.Lock(), threading.Condition(), 0

    @contextmanager
    def taken(self, pixels: int, limit: int) -> Iterator[None]:
        with self._next, self._changed:
            self._changed.wait_for(lambda: not self._pixels or self._pixels + pixels <= limit)
            self._pixels += pixels
        try:
            yield
        finally:
            with self._changed:
                self._pixels -= pixels
                self._changed.notify()


turns = Turns()
"""Of this process."""
_taken: Taken = turns.taken


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
        raise Unreadable(_reason_of(error), _in_words(error)) from None


def _in_words(error: Exception) -> str:
    """What a decoder says; with the class of the error where that is no sentence: a key, or nothing."""
    text = str(error)
    return text if isinstance(error, _SAYING) and " " in text else f"{type(error).__name__}: {text}".removesuffix(": ")


def _reason_of(error: Exception) -> str:
    text = str(error).lower()
    if isinstance(error, EOFError) or any(word in text for word in _TRUNCATION_WORDS):
        return "truncated"
    if isinstance(error, NotImplementedError) or any(word in text for word in _UNSUPPORTED_WORDS):
        return "unsupported_format"
    return "corrupt"


def prepare_process(max_pixels: int, taken: Taken = turns.taken) -> None:
    """Set Pillow's own limit of pixels, and hide its warnings about odd metadata. Call it once in each process.

    ``taken``: whom pictures ask for their turn. A process that decodes for another asks that.

    Pillow looks at the size of what it finds on its way (a picture inside an icon, a tile, a frame), warns above the
    limit, and refuses what has twice as many pixels. So its limit is half of ours.
    """
    global _taken
    _taken = taken
    Image.MAX_IMAGE_PIXELS = (max_pixels + 1) // 2
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
