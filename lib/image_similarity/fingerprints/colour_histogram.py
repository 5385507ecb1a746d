"""How much there is of each colour, wherever it is in the picture."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2hsv, rgb2lab

from image_similarity.fingerprints.spec import FingerprintSpec
from image_similarity.imaging.framing import Framing

SIDE = 128
BATCH = 64
RANGES = {"hsv": ((0.0, 1.0),) * 3, "lab": ((0.0, 100.0), (-100.0, 100.0), (-100.0, 100.0))}
"""Of the three channels; values outside fall into the outermost bins."""

_CONVERSIONS = {"hsv": rgb2hsv, "lab": rgb2lab}


@dataclass(frozen=True)
class ColourHistogram(FingerprintSpec):
    """A joint histogram of three channels, the square roots of its shares.

    Of the roots, cosine similarity is the Bhattacharyya coefficient of the two distributions (Bhattacharyya 1943),
    which tells pictures apart better than that of the shares themselves, where the largest patch decides."""

    space: str
    """``hsv`` or ``lab``."""
    bins: tuple[int, int, int]
    """Of each channel; the vector has as many values as their product."""

    def load(self, file: str | None, device: str) -> "Histogram":
        return Histogram(self)


class Histogram:
    """(n, side, side, 3) uint8 -> (n, product of bins) float32, each of length 1; see `ColourHistogram`."""

    batch = BATCH

    def __init__(self, described: ColourHistogram):
        self.framing = described.framing
        self._space, self._bins = described.space, described.bins

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        cells = self._cells(images).reshape(len(images), -1)
        size = int(np.prod(self._bins))
        apart = cells + size * np.arange(len(images))[:, None]  # one count for all pictures
        counts = np.bincount(apart.ravel(), minlength=size * len(images)).reshape(len(images), size)
        roots: NDArray[np.float32] = np.sqrt(counts / cells.shape[1]).astype(np.float32)
        return roots

    def _cells(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The number of the bin of each pixel."""
        converted = _CONVERSIONS[self._space](images)
        cells = np.zeros(images.shape[:3], dtype=np.int64)
        for channel, (bins, (low, high)) in enumerate(zip(self._bins, RANGES[self._space])):
            place = ((converted[..., channel] - low) * (bins / (high - low))).astype(np.int64)
            cells = cells * bins + np.clip(place, 0, bins - 1)
        return cells


def described(space: str, bins: tuple[int, int, int], scaled: bool) -> ColourHistogram:
    """The whole picture counts, made small: a histogram hardly changes by it."""
    return ColourHistogram(Framing(SIDE, SIDE, squash=True, scaled=scaled), space, bins)
