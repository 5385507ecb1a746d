"""Images into free cells by halving the wall again and again: each half takes the images of its side.

All boxes of a round are halved at once, with numpy: a million images take twenty rounds.
"""

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn.distances import Indices, Reals
from image_similarity.mapping.cells import Cells

_X, _Y, _WIDTH, _HEIGHT = range(4)


def bisected(positions: Reals, is_free: NDArray[np.bool_], evenly: bool) -> tuple[Cells, Indices]:
    """A free cell for each image (n, 2), and the order (n,) of the images by boxes: near ones follow each other.

    ``positions``: (n, 2). ``is_free``: (rows, columns), at least n of them. ``evenly``: the scale of ``positions`` is
    any, and a half takes as many images as it has a share of the free cells. Otherwise positions are columns and rows,
    and an image goes to its own half as long as there are free cells.
    """
    rows, columns = is_free.shape
    if len(positions) > np.count_nonzero(is_free):
        raise ValueError(f"{len(positions):,} images, but {np.count_nonzero(is_free):,} free cells")
    before = np.zeros((rows + 1, columns + 1), dtype=np.int64)
    before[1:, 1:] = is_free.cumsum(axis=0).cumsum(axis=1)
    order = np.arange(len(positions))
    boxes, size = np.array([[0, 0, columns, rows]]), np.array([len(positions)])
    while (boxes[:, _WIDTH:] > 1).any():
        box = np.repeat(np.arange(len(size)), size)
        across = boxes[:, _WIDTH] >= boxes[:, _HEIGHT]
        along = np.where(across[box], positions[order, 0], positions[order, 1])
        sort = np.lexsort((along, box))
        order, along = order[sort], along[sort]
        lower, upper, cut = _halves(boxes, across)
        capacity = _free_in(lower, before), _free_in(upper, before)
        if evenly:
            wanted = np.rint(size * capacity[0] / np.maximum(capacity[0] + capacity[1], 1)).astype(np.int64)
        else:
            wanted = np.bincount(box[along < cut[box]], minlength=len(size))
        taken = np.minimum(np.maximum(wanted, size - capacity[1]), capacity[0])
        boxes = np.stack([lower, upper], axis=1).reshape(-1, 4)
        size = np.stack([taken, size - taken], axis=1).ravel()
        boxes, size = boxes[size > 0], size[size > 0]
    cell = np.empty((len(positions), 2), dtype=np.int32)
    cell[order] = boxes[: len(order), :_WIDTH]
    return cell, order


def _halves(boxes: Indices, across: NDArray[np.bool_]) -> tuple[Indices, Indices, Indices]:
    """Both halves of all boxes, and the column or row at which the second begins. A box of one cell is all second."""
    box = np.arange(len(boxes))
    start, length = np.where(across, _X, _Y), np.where(across, _WIDTH, _HEIGHT)
    half = boxes[box, length] // 2
    lower, upper = boxes.copy(), boxes.copy()
    lower[box, length] = half
    upper[box, start] += half
    upper[box, length] -= half
    return lower, upper, upper[box, start]


def _free_in(boxes: Indices, before: Indices) -> Indices:
    """The free cells in each box. ``before``: (rows + 1, columns + 1), those above and to the left."""
    x, y = boxes[:, _X], boxes[:, _Y]
    right, below = x + boxes[:, _WIDTH], y + boxes[:, _HEIGHT]
    free: Indices = before[below, right] - before[y, right] - before[below, x] + before[y, x]
    return free
