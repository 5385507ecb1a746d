"""New images on a wall that is there: known ones keep their cells, new ones take free cells beside their neighbours."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from image_similarity.knn.distances import Reals
from image_similarity.mapping.bisection import bisected
from image_similarity.mapping.cells import Cells, Lists, occupancy
from image_similarity.mapping.swaps import OnProgress, Schedule, improve


def extend(
    cell: Cells,
    known: NDArray[np.bool_],
    positions: Reals,
    neighbour: Lists,
    columns: int,
    rows: int,
    seed: int = 0,
    on_progress: OnProgress | None = None,
) -> Cells | None:
    """Cells (n, 2) int32 of all images; None if none is known, or if fewer cells are free than images are new.

    ``cell``: (n, 2) int32, read where ``known`` (n,). The cells of images that left are free. ``positions``: (n, 2),
    known and new images in one layout. ``neighbour``: (n, k) int32, padded with -1.

    A new image starts in a free cell near the known image that is nearest in the layout. Then new images change places
    with one another and with free cells, as in `grid.snap`.
    """
    new = np.flatnonzero(~known)
    if len(new) > columns * rows - (len(known) - len(new)) or (len(new) and len(new) == len(known)):
        return None
    extended = np.array(cell, dtype=np.int32)
    if len(new):
        is_free = occupancy(extended[known], columns, rows) < 0
        _, nearest = cKDTree(positions[known]).query(positions[new])
        extended[new], order = bisected(extended[known][nearest].astype(np.float64), is_free, evenly=False)
        movable = new[order].astype(np.int32)
        improve(extended, neighbour, columns, rows, movable, Schedule.of(len(new)), seed, on_progress)
    return extended
