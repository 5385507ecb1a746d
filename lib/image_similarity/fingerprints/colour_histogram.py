"""The share of each colour in a picture, regardless of place."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2hsv, rgb2lab

from image_similarity.fingerprints.spec import FingerprintSpec, Parameters, refuse_logits
from image_similarity.imaging.framing import Framing

SIDE = 128
BATCH = 64
RANGES = {"hsv": ((0.0, 1.0),) * 3, "lab": ((0.0, 100.0), (-100.0, 100.0), (-100.0, 100.0))}
"""Ranges of the three channels. Values outside fall into the outermost bins."""

_CONVERSIONS = {"hsv": rgb2hsv, "lab": rgb2lab}


@dataclass(frozen=True)
class ColourHistogram(FingerprintSpec):
    """The square roots of the shares in a joint histogram of three channels.

    The cosine similarity of the roots is the Bhattacharyya coefficient of the two distributions (Bhattacharyya 1943).
    It tells pictures apart better than the cosine similarity of the shares, which the largest patch decides.
    """

    space: str
    """``hsv`` or ``lab``."""
    bins: tuple[int, int, int]
    """Bins of each channel. The vector has as many values as their product."""

    def load(
        self, file: str | Parameters | None, device: str, batch: int | None = None, logits: bool = False
    ) -> "Histogram":
        if logits:
            refuse_logits(self)
        return Histogram(self)


class Histogram:
    """(n, side, side, 3) uint8 -> (n, product of bins) float32, each of length 1; see `ColourHistogram`."""

    batch = BATCH

    def __init__(self, spec: ColourHistogram):
        self.framing = spec.framing
        self._space, self._bins = spec.space, spec.bins

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        cells = self._cells(images).reshape(len(images), -1)
        size = int(np.prod(self._bins))
        # Cells of different pictures get different numbers, so that one count serves all pictures.
        distinct_cells = cells + size * np.arange(len(images))[:, None]
        counts = np.bincount(distinct_cells.ravel(), minlength=size * len(images)).reshape(len(images), size)
        roots: NDArray[np.float32] = np.sqrt(counts / cells.shape[1]).astype(np.float32)
        return roots

    def _cells(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """(n, side, side) int64: the number of each pixel's bin."""
        converted = _CONVERSIONS[self._space](images)
        cells = np.zeros(images.shape[:3], dtype=np.int64)
        for channel, (bins, (low, high)) in enumerate(zip(self._bins, RANGES[self._space])):
            bin_number = ((converted[..., channel] - low) * (bins / (high - low))).astype(np.int64)
            cells = cells * bins + np.clip(bin_number, 0, bins - 1)
        return cells


def described(space: str, bins: tuple[int, int, int], scaled: bool) -> ColourHistogram:
    """The spec of a colour histogram of the whole picture. It is shrunk first, which hardly changes the histogram."""
    return ColourHistogram(Framing(SIDE, SIDE, squash=True, scaled=scaled), space, bins)
