"""New images on a wall that is there: they hang beside their neighbours, and known ones make room for them.

Few cells near a new image are free. As on a bookshelf, those that are there move up a little: about one known image for
each new one, by some cells. All others keep their cells.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation
from scipy.spatial import cKDTree

from image_similarity.knn.distances import Reals
from image_similarity.mapping.bisection import bisected
from image_similarity.mapping.cells import Cells, Lists, occupancy
from image_similarity.mapping.swaps import OnProgress, Schedule, improve

_STEPS = 4_000_000
"""Steps for which there is time: a second."""
_FEWEST_SWEEPS, _MOST_SWEEPS = 50, 2000
_TEMPERATURE = (1.0, 0.1)
"""Lower than where all is new: what hangs well is not to be mixed up."""


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

    A new image starts in a free cell near the known image that is nearest in the layout. Then new images, and known
    ones around those that list them or are listed by them, change places with one another and with free cells, as in
    `grid.snap`; but to leave its cell costs a known image `swaps.ATTACHMENT`, so few do. If no image is new, all keep
    their cells.
    """
    new = np.flatnonzero(~known)
    if len(new) > columns * rows - (len(known) - len(new)) or (len(new) and len(new) == len(known)):
        return None
    home = np.where(known[:, None], cell, -1).astype(np.int32)
    if not len(new):
        return home
    extended = home.copy()
    is_free = occupancy(home[known], columns, rows) < 0
    _, nearest = cKDTree(positions[known]).query(positions[new])
    extended[new], _ = bisected(home[known][nearest].astype(np.float64), is_free, evenly=False)
    movable = _around(extended, known, neighbour, columns, rows)
    sweeps = min(max(_STEPS // len(movable), _FEWEST_SWEEPS), _MOST_SWEEPS)
    schedule = Schedule(sweeps, temperature=_TEMPERATURE)
    improve(extended, neighbour, columns, rows, movable, schedule, seed, on_progress, home)
    return extended


def _around(cell: Cells, known: NDArray[np.bool_], neighbour: Lists, columns: int, rows: int) -> NDArray[np.int32]:
    """The new images, and all in the cells at and around those of their neighbours, in the order of the wall."""
    is_new = np.append(~known, False)  # -1, which pads lists, takes the last
    linked: NDArray[np.bool_] = np.asarray(is_new[neighbour].any(axis=1))
    listed = neighbour[~known]
    linked[listed[listed >= 0]] = True
    theirs = np.zeros((rows, columns), dtype=np.bool_)
    theirs[cell[linked, 1], cell[linked, 0]] = True
    near: NDArray[np.bool_] = np.asarray(binary_dilation(theirs, np.ones((3, 3))))
    near[cell[~known, 1], cell[~known, 0]] = True
    images: NDArray[np.int32] = occupancy(cell, columns, rows)[near]
    return images[images >= 0]
