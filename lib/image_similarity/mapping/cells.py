"""The cells of the wall: an image has one, and a cell has one image or none."""

import numpy as np
from numpy.typing import NDArray

Cells = NDArray[np.int32]
"""(n, 2): column and row of each image."""
Lists = NDArray[np.int32]
"""(n, k): the neighbours of each image, the nearest first, padded with -1."""

EMPTY = -1


def occupancy(cell: Cells, columns: int, rows: int) -> NDArray[np.int32]:
    """The image in each cell: (rows, columns) int32, `EMPTY` where there is none."""
    grid = np.full((rows, columns), EMPTY, dtype=np.int32)
    grid[cell[:, 1], cell[:, 0]] = np.arange(len(cell))
    return grid
