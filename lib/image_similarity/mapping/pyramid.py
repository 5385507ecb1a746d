"""What the map shows from afar: each level has one image for four nodes of the level below.

The deepest level has the cells. On the level before, a node covers 2 x 2 of them, then 4 x 4, and so on.
"""

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn.compiled import compiled
from image_similarity.mapping.cells import EMPTY, Cells, Lists, occupancy

TILE_NODES = 4
"""Nodes in a row of a tile. Level 0 is one tile."""


def levels(columns: int, rows: int) -> int:
    """The deepest level: the least Z with 4 * 2**Z >= max(columns, rows)."""
    deepest = 0
    while TILE_NODES << deepest < max(columns, rows):
        deepest += 1
    return deepest


def representatives(cell: Cells, columns: int, rows: int, neighbour: Lists) -> list[NDArray[np.int32]]:
    """The image of each node, by level [z][row, column], -1 where all cells of a node are empty.

    ``cell``: (n, 2) int32. ``neighbour``: (n, k) int32, padded with -1. Level z has as many rows and columns as cover
    the wall: ceil(rows / 2**(Z - z)), ceil(columns / 2**(Z - z)).

    Representatives are nested: that of a node is one of those of its (at most four) children, so that a picture stays
    where it is when the user zooms in. It is the one that most images under the node list among their neighbours; ties
    go to the lower index.
    """
    pyramid = [occupancy(cell, columns, rows)]
    for height in range(1, levels(columns, rows) + 1):
        votes = np.zeros(len(cell), dtype=np.int64)
        _vote(cell, neighbour, height, votes)
        pyramid.append(_elected(pyramid[-1], votes))
    return pyramid[::-1]


@compiled()
def _vote(cell, neighbour, height, votes):  # type: ignore[no-untyped-def]
    """Each image votes for those in its list that are under its own node. A node is 2**height cells wide."""
    for i in range(len(cell)):
        for j in neighbour[i]:
            if j < 0 or j == i:
                continue
            if cell[j, 0] >> height == cell[i, 0] >> height and cell[j, 1] >> height == cell[i, 1] >> height:
                votes[j] += 1


def _elected(below: NDArray[np.int32], votes: NDArray[np.int64]) -> NDArray[np.int32]:
    rows, columns = (-(-length // 2) for length in below.shape)
    padded = np.full((2 * rows, 2 * columns), EMPTY, dtype=np.int32)
    padded[: below.shape[0], : below.shape[1]] = below
    children = padded.reshape(rows, 2, columns, 2).swapaxes(1, 2).reshape(rows, columns, 4)
    # All candidates of a node are different images: sorted, the first of the greatest is that of the lowest index.
    children = np.sort(children, axis=2)
    won = np.where(children >= 0, votes[children], -1).argmax(axis=2)
    elected: NDArray[np.int32] = np.take_along_axis(children, won[:, :, None], axis=2)[:, :, 0]
    return elected
