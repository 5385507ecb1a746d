"""The directions of edges, and their place in the picture."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2gray
from skimage.feature import hog

from image_similarity.errors import counted
from image_similarity.fingerprints.spec import FingerprintSpec, Parameters, refuse_logits
from image_similarity.imaging.framing import Framing

BATCH = 64


@dataclass(frozen=True)
class OrientedGradients(FingerprintSpec):
    """Histograms of oriented gradients (Dalal and Triggs 2005) of the grey picture, computed by scikit-image."""

    orientations: int
    cell: int
    """Side of a cell in pixels. Each cell has one histogram."""
    block: int
    """Side of a block in cells. The histograms of a block are normalised together. Blocks overlap."""

    def load(
        self, file: str | Parameters | None, device: str, batch: int | None = None, logits: bool = False
    ) -> "Gradients":
        if logits:
            refuse_logits(self)
        return Gradients(self)

    @property
    def dimensions(self) -> int:
        """Values of a vector."""
        blocks = self.framing.crop // self.cell - self.block + 1
        return blocks * blocks * self.block * self.block * self.orientations


class Gradients:
    """(n, side, side, 3) uint8 -> (n, `OrientedGradients.dimensions`) float32. A picture without edges gives zeros."""

    batch = BATCH

    def __init__(self, spec: OrientedGradients):
        self.framing = spec.framing
        self._options = {
            "orientations": spec.orientations,
            "pixels_per_cell": (spec.cell, spec.cell),
            "cells_per_block": (spec.block, spec.block),
        }

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.stack([hog(grey, **self._options) for grey in rgb2gray(images)]).astype(np.float32)


def described(side: int, orientations: int, cell: int, block: int, scaled: bool) -> OrientedGradients:
    """The spec of histograms of oriented gradients. ``side``: of the square that the whole picture is resized to, in
    pixels. ``ValueError`` if no block fits into it.
    """
    if side < cell * block:
        raise ValueError(
            f"a block of {block} x {block} cells of {counted(cell, 'pixel')} does not fit into a picture of "
            f"{counted(side, 'pixel')}"
        )
    return OrientedGradients(Framing(side, side, squash=True, scaled=scaled), orientations, cell, block)
