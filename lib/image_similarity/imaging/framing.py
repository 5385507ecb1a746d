"""A decoded picture of any size -> the square of pixels that a fingerprint takes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

LEAST_SIDE = 512
_LONGEST = 8


@dataclass(frozen=True)
class Framing:
    """How the square is taken. Fingerprints with equal framings share it."""

    resize: int
    """The short side after resizing, in pixels."""
    crop: int
    """The side of the square in the middle that is kept."""
    interpolation: str = "bilinear"
    """A key of `INTERPOLATIONS`; made smaller, pictures are antialiased."""
    squash: bool = False
    """The whole picture becomes the square, whatever its proportions."""
    scaled: bool = True
    """Large JPEGs may be decoded at a half, a quarter or an eighth of their size."""

    @property
    def decode_side(self) -> int | None:
        """The short side that a decoded picture keeps, at least; None for all of it.

        Twice what is wanted, since the decoder's reduction is coarser than resizing (with an average-pooled SqueezeNet
        and half of that, vectors moved ten times as far); the same for all usual sizes, so that fingerprints share one
        decoding."""
        return max(LEAST_SIDE, 2 * self.resize) if self.scaled else None

    def fit(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The square of one RGB picture: (height, width, 3) uint8 -> (crop, crop, 3) uint8.

        As torchvision's ``resize`` and ``center_crop`` of a PIL image, but for pictures more than eight times as long
        as wide, of which the middle is taken first."""
        resample = INTERPOLATIONS[self.interpolation]
        if self.squash:
            return np.asarray(Image.fromarray(pixels).resize((self.crop, self.crop), resample))
        image = Image.fromarray(_without_far_ends(pixels))
        short = min(image.size)
        width, height = (self.resize if side == short else int(self.resize * side / short) for side in image.size)
        if (width, height) != image.size:
            image = image.resize((width, height), resample)
        left, top = round((width - self.crop) / 2), round((height - self.crop) / 2)
        return np.asarray(image.crop((left, top, left + self.crop, top + self.crop)))


def _without_far_ends(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle of a very long or very high picture.

    The square comes from there anyway, and a picture of 1 x 1,000,000 pixels would be gigantic once its short side is
    256."""
    height, width = pixels.shape[:2]
    limit = _LONGEST * min(height, width)
    top, left = max(0, (height - limit) // 2), max(0, (width - limit) // 2)
    return pixels[top : height - top, left : width - left]
