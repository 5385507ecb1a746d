"""A decoded picture of any size -> the square of pixels that a fingerprint takes, its thumbprint, and its quality."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from image_similarity.imaging import decoding, quality, thumbprint
from image_similarity.imaging.decoding import Waiting

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

LEAST_SIDE = 512
_LONGEST = 8


@dataclass(frozen=True)
class Framing:
    """The rule by which the square is cut from a picture. Fingerprints with equal framings share the square."""

    resize: int
    """Short side of the picture after resizing, in pixels."""
    crop: int
    """Side of the square that is cut from the middle, in pixels."""
    interpolation: str = "bilinear"
    """A key of `INTERPOLATIONS`. Pictures that are shrunk are antialiased."""
    squash: bool = False
    """Whether the whole picture becomes the square, whatever its proportions."""
    scaled: bool = True
    """Whether large JPEGs may be decoded at a half, a quarter or an eighth of their size."""

    @property
    def decode_side(self) -> int | None:
        """The least short side of a decoded picture, in pixels; None if pictures must be decoded whole.

        It is twice ``resize``, since the decoder reduces pictures more coarsely than resizing does. (With half of it,
        the vectors of an average-pooled SqueezeNet moved ten times as far.) It is the same for all usual sizes, so that
        fingerprints share one decoding.
        """
        return max(LEAST_SIDE, 2 * self.resize) if self.scaled else None

    def fit(self, image: Image.Image) -> NDArray[np.uint8]:
        """The square of one RGB picture: (crop, crop, 3) uint8.

        The result is that of torchvision's ``resize`` and ``center_crop`` on a PIL image. Only pictures that are more
        than eight times as long as wide differ: their middle is cut out first.
        """
        resample = INTERPOLATIONS[self.interpolation]
        if self.squash:
            return np.asarray(image.resize((self.crop, self.crop), resample))
        image = _without_far_ends(image)
        short = min(image.size)
        width, height = (self.resize if side == short else int(self.resize * side / short) for side in image.size)
        if (width, height) != image.size:
            image = image.resize((width, height), resample)
        left, top = round((width - self.crop) / 2), round((height - self.crop) / 2)
        return np.asarray(image.crop((left, top, left + self.crop, top + self.crop)))


def _without_far_ends(image: Image.Image) -> Image.Image:
    """The middle of a very long or very high picture.

    The square is cut from the middle. A picture of 1 x 1,000,000 pixels would be gigantic after its short side was
    resized to 256.
    """
    width, height = image.size
    limit = _LONGEST * min(width, height)
    left, top = max(0, (width - limit) // 2), max(0, (height - limit) // 2)
    return image.crop((left, top, width - left, height - top)) if left or top else image


@dataclass(frozen=True)
class Framed:
    """A picture as fingerprints take it."""

    width: int
    """Width of the whole picture, upright, in pixels."""
    height: int
    """Height of the whole picture, upright, in pixels."""
    squares: list[NDArray[np.uint8]]
    """Of each framing, (crop, crop, 3) uint8. Equal framings share one."""
    thumbprints: list[NDArray[np.uint8]]
    """Of each framing, (32, 32) uint8, see `thumbprint.of`. It is made from the picture as decoded for that framing, so
    that it does not depend on which other framings are asked for."""
    format: str
    """One of `decoding.FORMATS`."""
    measures: tuple[float, ...] | None = None
    """The numbers of `quality.MEASURES`; None if they were not asked for."""


def framed(
    content: bytes,
    framings: Sequence[Framing],
    max_pixels: int,
    waiting: Waiting = nullcontext,
    measured: bool = False,
) -> Framed:
    """The first frame of ``content``, decoded once for all framings that take it at the same size, and cut for each.

    ``framings``: one or more, or none if the picture is only ``measured``. That takes no decoding of its own where
    there are framings. ``waiting``, and what is raised: see `decoding.open_upright`.
    """
    squares: dict[Framing, NDArray[np.uint8]] = {}
    thumbprints: dict[Framing, NDArray[np.uint8]] = {}
    measures = None
    for at_least, group in _by_decode_side(framings).items():
        picture = decoding.decode(content, max_pixels, at_least or None, waiting)
        width, height, of_format = picture.width, picture.height, picture.format
        squares |= {framing: framing.fit(picture.image) for framing in group}
        thumbprints |= dict.fromkeys(group, thumbprint.of(picture.image)) if group else {}
        if measured and measures is None:
            measures = quality.measure(picture.image)
        del picture  # before the next is decoded
    return Framed(
        width,
        height,
        [squares[framing] for framing in framings],
        [thumbprints[framing] for framing in framings],
        of_format,
        measures,
    )


def _by_decode_side(framings: Sequence[Framing]) -> dict[int, list[Framing]]:
    """Least side of the decoded picture (0: all of it) -> the framings that take it so, each once.

    The first is the one that is measured: the smallest, which most framings share, and the whole picture last. So a
    picture's numbers hardly depend on who else takes it. Without framings a picture is decoded to be measured.
    """
    if not framings:
        return {quality.DECODE_SIDE: []}
    ordered = sorted(set(framings), key=_order)
    return {side: list(group) for (_, side), group in groupby(ordered, key=_order)}


def _order(framing: Framing) -> tuple[bool, int]:
    return framing.decode_side is None, framing.decode_side or 0
