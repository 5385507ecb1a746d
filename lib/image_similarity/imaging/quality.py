"""A decoded picture -> six numbers that say how good it is as a picture, and flags where they pass limits.

The numbers are measured on the whole picture, shrunk to one size: so they compare between pictures of any size. They
say nothing of what a picture shows, and a flag is no verdict: a night sky is dark on purpose.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

MEASURES = ("brightness_p5", "brightness_p95", "contrast", "sharpness", "entropy", "one_colour_share")
"""Names of the numbers that `measure` gives, in its order:

- ``brightness_p5``, ``brightness_p95``: a twentieth of the pixels are this dark or darker, and this bright or brighter;
  0 is black, 1 is white (luma of ITU-R BT.601, as in Pillow's mode L)
- ``contrast``: standard deviation of the same brightness, 0 to 0.5
- ``sharpness``: variance of the Laplacian, in squares of grey levels of 255
  (Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, ICPR 2000)
- ``entropy``: Shannon entropy of the histogram of 256 grey levels, 0 to 8 bits
- ``one_colour_share``: share of the pixels that have the most frequent colour, or nearly
"""

DECODE_SIDE = 512
"""Both sides in pixels that a picture must keep where it is decoded at a part of its size, so that the numbers hold."""

_PIXELS = 2**16
"""Pixels of the grey picture that is measured: 296 x 222 for a photograph of 4:3. Smaller pictures keep their size."""
_SAMPLES = 2**14
"""Pixels that are looked at for the most frequent colour."""
_COLOUR_BITS, _SAME_COLOUR = 4, 8
"""Bits of red, green and blue by which colours are counted; levels by which the same colour may differ in each."""


def measure(image: Image.Image) -> tuple[float, ...]:
    """The numbers of ``image`` (RGB or L, any size), in the order of `MEASURES`. All are finite.

    A JPEG that was decoded at a part of its size, with `DECODE_SIDE` pixels or more, has nearly the same numbers.
    A picture of one pixel, or of one colour, has contrast, sharpness and entropy 0.
    """
    image = _reduced(image)
    grey = _shrunk(image.convert("L"), _PIXELS, Image.Resampling.BILINEAR)
    histogram = np.array(grey.histogram())
    return (*_brightness(histogram), _laplacian_variance(grey), _entropy(histogram), _one_colour_share(image))


def _reduced(image: Image.Image) -> Image.Image:
    """``image`` reduced by a power of two, as a JPEG's decoder reduces it: what the decoder has not done is done here.

    The area decides, not the shorter side, so that no panorama is converted to grey as a whole.
    """
    times = int(math.sqrt(image.width * image.height) / DECODE_SIDE)
    return image.reduce(1 << times.bit_length() - 1) if times > 1 else image


def _shrunk(image: Image.Image, pixels: int, resample: Image.Resampling) -> Image.Image:
    """``image`` with about ``pixels`` pixels, and its proportions. One that has fewer stays as it is."""
    scale = math.sqrt(pixels / (image.width * image.height))
    if scale >= 1:
        return image
    width, height = (min(pixels, max(1, round(side * scale))) for side in image.size)
    return image.resize((width, height), resample)


def _brightness(histogram: NDArray[np.int64]) -> tuple[float, float, float]:
    """5th and 95th percentile, and standard deviation, of the grey levels of 255 that ``histogram`` (256,) counts."""
    total, levels = histogram.sum(), np.arange(256)
    below = np.cumsum(histogram)
    low, high = np.searchsorted(below, 0.05 * total), np.searchsorted(below, 0.95 * total)
    mean = histogram @ levels / total
    variance = histogram @ (levels - mean) ** 2 / total
    return float(low) / 255, float(high) / 255, float(variance**0.5) / 255


def _laplacian_variance(grey: Image.Image) -> float:
    levels = np.asarray(grey, dtype=np.int16)
    if min(levels.shape) < 3:
        levels = np.pad(levels, 1, mode="edge")
    laplacian = levels[:-2, 1:-1] + levels[2:, 1:-1]
    laplacian += levels[1:-1, :-2]
    laplacian += levels[1:-1, 2:]
    laplacian -= 4 * levels[1:-1, 1:-1]
    return float(laplacian.var())


def _entropy(histogram: NDArray[np.int64]) -> float:
    shares = histogram[histogram > 0] / histogram.sum()
    return abs(float(shares @ np.log2(shares)))


def _one_colour_share(image: Image.Image) -> float:
    """Share of the pixels whose colour is within `_SAME_COLOUR` levels of the most frequent one."""
    samples = np.asarray(_shrunk(image, _SAMPLES, Image.Resampling.NEAREST).convert("RGB"))
    channels = np.ascontiguousarray(samples.reshape(-1, 3).T, dtype=np.int16)
    red, green, blue = channels >> 8 - _COLOUR_BITS
    boxes = (red << 2 * _COLOUR_BITS) | (green << _COLOUR_BITS) | blue
    in_fullest = boxes == np.bincount(boxes).argmax()
    frequent = np.rint(channels[:, in_fullest].mean(axis=1, keepdims=True)).astype(np.int16)
    return float((np.abs(channels - frequent) <= _SAME_COLOUR).all(axis=0).mean())


FLAGS = {
    "dark": "nearly all of the picture is dark",
    "bright": "nearly all of the picture is bright",
    "blurred": "edges are soft, even for the picture's contrast",
    "flat": "nearly all of the picture has one colour",
    "tiny": "the picture has few pixels",
    "odd-aspect": "one side is many times as long as the other",
}
"""What a picture may be flagged as, in the order of `flags`, and what that means."""

ORDINARY_CONTRAST = 0.16
"""That of an ordinary photograph. With half the contrast, the same edges have a quarter of the sharpness: pictures of
less contrast are not flagged ``blurred`` for that."""


@dataclass(frozen=True)
class Limits:
    """The numbers from which on a picture is flagged.

    The first four defaults lie beyond the numbers of 1,693 good pictures, none of them a photograph (docs/quality.md).
    """

    dark: float = 0.2
    """Flagged ``dark``: ``brightness_p95`` is below this. cleanvision: 99th percentile below 0.32."""
    bright: float = 0.8
    """Flagged ``bright``: ``brightness_p5`` is above this. cleanvision: above 0.95."""
    blurred: float = 60.0
    """Flagged ``blurred``: ``sharpness`` is below this, also after contrast is raised to `ORDINARY_CONTRAST`, and the
    picture is not flat. cleanvision: deviation of edges at 64 pixels, with the histogram's."""
    flat: float = 0.95
    """Flagged ``flat``: ``one_colour_share`` is above this. cleanvision (low information): entropy below 3 bits."""
    tiny: int = 64
    """Flagged ``tiny``: the shorter side has fewer pixels. cleanvision (odd size): far from the collection's sizes."""
    odd_aspect: float = 3.0
    """Flagged ``odd-aspect``: the longer side is more than so many times the shorter. cleanvision: 2.86 times."""


def flags(
    width: ArrayLike, height: ArrayLike, measures: NDArray[np.floating], limits: Limits = Limits()
) -> list[list[str]]:
    """The flags of n pictures, each in the order of `FLAGS`; an empty list for a picture without any.

    ``width``, ``height``: (n,) pixels of the whole pictures; ``measures``: (n, 6), in the order of `MEASURES`. They are
    compared as float32, as tables hold them: what was stored has the flags of what was just measured.
    """
    sides = np.stack([np.asarray(width), np.asarray(height)])
    short, long = sides.min(axis=0), sides.max(axis=0)
    rows = np.asarray(measures, dtype=np.float32).reshape(-1, len(MEASURES))
    dark_end, bright_end, contrast, sharpness, _, one_colour = rows.T
    flat = one_colour > limits.flat
    raised = {
        "dark": bright_end < limits.dark,
        "bright": dark_end > limits.bright,
        "blurred": (at_ordinary_contrast(sharpness, contrast) < limits.blurred) & ~flat,
        "flat": flat,
        "tiny": short < limits.tiny,
        "odd-aspect": long > limits.odd_aspect * short,
    }
    return [[name for name, of_rows in raised.items() if of_rows[row]] for row in range(len(short))]


def at_ordinary_contrast(sharpness: NDArray[np.floating], contrast: NDArray[np.floating]) -> NDArray[np.floating]:
    """``sharpness`` as it would be if ``contrast`` were raised to `ORDINARY_CONTRAST`, where it is lower; both (n,)."""
    least = 1 / 255  # of less than a grey level nothing can be said
    times: NDArray[np.floating] = np.maximum(1, ORDINARY_CONTRAST / np.maximum(contrast, least))
    return sharpness * times**2
