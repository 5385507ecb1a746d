"""Images change places on the grid until neighbours are close: simulated annealing over the neighbour graph.

The cost of a wall is the sum of log(1 + d² / 2) over all edges, d the distance of the two cells, less `COMPANY` for
each pair of images in adjoining cells. The logarithm grows slowly: an edge that cannot be short hardly pulls (t-SNE has
its heavy tail for the same reason; van der Maaten and Hinton, 2008). Company gathers the empty cells into streets and
bays: without it, they pepper the wall.

A step takes an image, and draws one of its neighbours and a cell near that neighbour. The image moves there, or changes
places with the image that is there, if the cost falls, else with probability exp(-rise / temperature) (Metropolis et
al., 1953). All runs in one thread from one seed: the same input gives the same wall.

On a wall that people know, an image that is not at home costs `ATTACHMENT`: it moves where more is gained.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn.compiled import compiled
from image_similarity.mapping.cells import EMPTY, Cells, Lists, occupancy

COMPANY = 0.8
ATTACHMENT = 3.0
"""What an image costs that has left its home. With 2 new images find a little more of their neighbours, but twice as
many known ones move as with 5."""
_SOFTENING = 2.0
"""Squared distance from which on the cost of an edge grows slowly. 1 to 4 keep as many neighbours."""
_MOST_LINKS_BACK = 8
"""Times k: how many of those that list an image it is linked to. Bounds the time of a step where one image is listed by
thousands."""
_STEPS = 40_000_000
"""Steps for which there is time: some ten seconds."""
_FEWEST_SWEEPS, _MOST_SWEEPS = 200, 2000

OnProgress = Callable[[int, int], None]
"""Is called with the sweeps done, and with all."""


@dataclass(frozen=True)
class Schedule:
    """How radius (cells) and temperature fall from the first sweep to the last. A sweep has one step for each image."""

    sweeps: int
    radius: tuple[float, float] = (3.0, 1.0)
    temperature: tuple[float, float] = (4.0, 0.1)

    @classmethod
    def of(cls, images: int) -> "Schedule":
        """The more sweeps the better, with ever less to gain: 2000 for few images, 200 for a million."""
        return cls(min(max(_STEPS // max(images, 1), _FEWEST_SWEEPS), _MOST_SWEEPS))

    def at(self, sweep: int) -> tuple[int, float]:
        """Radius and temperature of a sweep: geometric between both ends."""
        share = sweep / max(self.sweeps - 1, 1)
        radius, temperature = (first * (last / first) ** share for first, last in (self.radius, self.temperature))
        return max(round(radius), 1), temperature


@dataclass(frozen=True)
class Links:
    """The edges at each image: those of image i are ``other[first[i]:first[i + 1]]``.

    An image is linked to those that it lists and to those that list it: twice to one that does both.
    """

    first: NDArray[np.int64]
    other: NDArray[np.int32]

    @classmethod
    def of(cls, neighbour: Lists) -> "Links":
        """Images that list themselves are not linked to themselves."""
        degree = np.zeros(len(neighbour) + 1, dtype=np.int64)
        most_back = _MOST_LINKS_BACK * neighbour.shape[1]
        _link(neighbour, most_back, degree[1:], np.zeros(0, dtype=np.int32))
        first = np.cumsum(degree)
        other = np.empty(first[-1], dtype=np.int32)
        _link(neighbour, most_back, first[:-1].copy(), other)
        return cls(first, other)


def improve(
    cell: Cells,
    neighbour: Lists,
    columns: int,
    rows: int,
    movable: NDArray[np.int32],
    schedule: Schedule,
    seed: int,
    on_progress: OnProgress | None = None,
    home: Cells | None = None,
) -> None:
    """Let the ``movable`` images (m,) change places with one another and with empty cells, in place in ``cell``.

    ``neighbour``: (n, k) int32, padded with -1. Images without any neighbour move only when another one takes their
    cell. ``home``: (n, 2), the cells that images leave at a cost, -1 for an image that has none. No images or no
    movable ones: nothing is done.
    """
    if not len(movable):
        return
    links, grid = Links.of(neighbour), occupancy(cell, columns, rows)
    home = np.full_like(cell, EMPTY) if home is None else home
    price = np.log1p(np.arange((columns - 1) ** 2 + (rows - 1) ** 2 + 1) / _SOFTENING).astype(np.float32)
    may_move = np.zeros(len(cell), dtype=np.bool_)
    may_move[movable] = True
    seeds = np.random.default_rng(seed).integers(2**32, size=schedule.sweeps)
    for sweep, seed_of_sweep in enumerate(seeds.tolist()):
        radius, temperature = schedule.at(sweep)
        _sweep(cell, grid, links.first, links.other, price, movable, may_move, home, radius, temperature, seed_of_sweep)
        if on_progress:
            on_progress(sweep + 1, schedule.sweeps)


@compiled()
def _link(neighbour, most_back, end, other):  # type: ignore[no-untyped-def]
    """Write each image's links from ``end`` on, and move it. With an empty ``other`` they are only counted."""
    n, k = neighbour.shape
    back = np.zeros(n, dtype=np.int64)
    for rank in range(k):  # the outer loop: of many that list an image, those that list it first are linked
        for i in range(n):
            j = neighbour[i, rank]
            if j < 0 or j == i:
                continue
            if len(other):
                other[end[i]] = j
            end[i] += 1
            if back[j] < most_back:
                if len(other):
                    other[end[j]] = i
                end[j] += 1
                back[j] += 1


@compiled()
def _rise(cell, first, other, price, image, partner, column, row):  # type: ignore[no-untyped-def]
    """By how much the links of ``image`` cost more in another cell. Its link to ``partner``, with which it changes
    places, keeps its length.
    """
    own_column, own_row = cell[image, 0], cell[image, 1]
    rise = 0.0
    for link in range(first[image], first[image + 1]):
        j = other[link]
        if j != partner:
            x, y = cell[j, 0], cell[j, 1]
            rise += price[(x - column) ** 2 + (y - row) ** 2] - price[(x - own_column) ** 2 + (y - own_row) ** 2]
    return rise


@compiled()
def _company(grid, column, row):  # type: ignore[no-untyped-def]
    """How many of the eight cells around are full. What is outside counts as full, so that images may line the edge."""
    rows, columns = grid.shape
    empty = 0
    for y in range(max(row - 1, 0), min(row + 2, rows)):
        for x in range(max(column - 1, 0), min(column + 2, columns)):
            if grid[y, x] < 0 and (x != column or y != row):
                empty += 1
    return 8 - empty


@compiled()
def _away(home, image, column, row):  # type: ignore[no-untyped-def]
    """1 for an image that has a home and is elsewhere in that cell, else 0."""
    return 1 if home[image, 0] >= 0 and (home[image, 0] != column or home[image, 1] != row) else 0


@compiled()
def _sweep(cell, grid, first, other, price, movable, may_move, home, radius, temperature, seed):  # type: ignore[no-untyped-def]
    rows, columns = grid.shape
    np.random.seed(seed)
    for image in movable:
        degree = first[image + 1] - first[image]
        if degree == 0:
            continue
        near = other[first[image] + np.random.randint(degree)]
        column = cell[near, 0] + np.random.randint(-radius, radius + 1)
        row = cell[near, 1] + np.random.randint(-radius, radius + 1)
        if column < 0 or row < 0 or column >= columns or row >= rows:
            continue
        partner = grid[row, column]
        if partner == image or (partner >= 0 and not may_move[partner]):
            continue
        own_column, own_row = cell[image, 0], cell[image, 1]
        rise = _rise(cell, first, other, price, image, partner, column, row)
        rise += ATTACHMENT * (_away(home, image, column, row) - _away(home, image, own_column, own_row))
        if partner >= 0:
            rise += _rise(cell, first, other, price, partner, image, own_column, own_row)
            rise += ATTACHMENT * (_away(home, partner, own_column, own_row) - _away(home, partner, column, row))
        else:
            adjoining = abs(own_column - column) <= 1 and abs(own_row - row) <= 1  # it would be its own company
            rise += COMPANY * (_company(grid, own_column, own_row) - _company(grid, column, row) + adjoining)
        if rise <= 0 or np.random.random() < np.exp(-rise / temperature):
            grid[own_row, own_column], grid[row, column] = partner, image
            cell[image, 0], cell[image, 1] = column, row
            if partner >= 0:
                cell[partner, 0], cell[partner, 1] = own_column, own_row
