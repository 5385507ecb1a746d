"""A decoded picture of any size -> 32 x 32 pixels of grey, by which two pictures can be compared once they are gone."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 32
"""Width and height of a thumbprint, in pixels."""

_LONGEST = 2**14
"""Pixels. Pillow's sums lose more than a grey level in boxes of more than 2**16 pixels. Of pictures that are not
longer, no box is larger."""


def of(image: Image.Image) -> NDArray[np.uint8]:
    """The thumbprint of ``image`` (RGB or L): (32, 32) uint8, the whole picture squashed to a square, antialiased.

    A JPEG that is decoded at a part of its size has the same thumbprint but for a grey level or two. Pictures that are
    smaller are enlarged.
    """
    # Shrunk first: a few grey values are converted in place of all.
    small = _shortened(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(small.convert("L"))


def _shortened(image: Image.Image) -> Image.Image:
    """``image``, with sides of `_LONGEST` pixels at most."""
    if max(image.size) <= _LONGEST:
        return image
    width, height = image.size
    return image.reduce((-(-width // _LONGEST), -(-height // _LONGEST)))
