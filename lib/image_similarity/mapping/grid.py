"""A cell of the wall for each image: near stays near, and no picture covers another.

The wall is halved again and again (`bisection`), each half with its share of images. This spreads the images evenly and
keeps the whole of the layout. Then images change places until neighbours are close (`swaps`).
"""

import math

import numpy as np

from image_similarity.knn.distances import Reals
from image_similarity.mapping.bisection import bisected
from image_similarity.mapping.cells import Cells, Lists
from image_similarity.mapping.swaps import OnProgress, Schedule, improve

_ASPECT = 4 / 3


def shape(images: int, free: float) -> tuple[int, int]:
    """Columns and rows, about 4 : 3, of which a share of ``free`` stays empty. (0, 0) for no image, (1, 1) for one."""
    cells = max(math.floor(images / (1 - free)), images)
    if not cells:
        return 0, 0
    rows = max(round(math.sqrt(cells / _ASPECT)), 1)
    return math.ceil(cells / rows), rows


def snap(
    positions: Reals, neighbour: Lists, columns: int, rows: int, seed: int, on_progress: OnProgress | None = None
) -> Cells:
    """A cell (n, 2) int32, column and row, for each image; no two have the same.

    ``positions``: (n, 2), a layout of any scale. ``neighbour``: (n, k) int32, the nearest first, padded with -1. Images
    without any stay about where the layout has them. The same input gives the same cells. ``ValueError`` if there are
    more images than cells.
    """
    cell, order = bisected(positions, np.ones((rows, columns), dtype=np.bool_), evenly=True)
    # Numbered by boxes, an image and its neighbours are near in memory: a million images take a fifth of the time.
    number = np.empty(len(order) + 1, dtype=np.int32)
    number[order], number[-1] = np.arange(len(order)), -1
    by_box = cell[order]
    every = np.arange(len(order), dtype=np.int32)
    improve(by_box, number[neighbour[order]], columns, rows, every, Schedule.of(len(order)), seed, on_progress)
    cell[order] = by_box
    return cell
