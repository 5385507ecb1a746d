"""How well a layout and a grid keep neighbourhoods.

- ``kept_on_layout``, ``kept_on_grid``: the share of the nearest that are among those around
- ``by_chance``: the same of a grid that was filled at random
- ``trustworthiness``: how far those around are from being nearest (Venna and Kaski: Neighborhood preservation in
  nonlinear projection methods, ICANN 2001)

McInnes, Healy and Melville (UMAP, 2018) measure layouts by the same questions.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from image_similarity.knn.distances import Indices, Reals
from image_similarity.knn.hashing import mixed

Nodes = NDArray[np.int32]

NEAREST = 10
"""Of a list, those that should be near."""
REACH = 2
"""Cells in each direction that are near on a grid."""
AROUND = (2 * REACH + 1) ** 2 - 1
"""Images that are near: as many as a grid has cells around one within `REACH`."""
MOST_ASKED = 20_000
"""Images of which the share is taken; those of a larger collection are chosen by hash."""


def kept_on_layout(positions: Reals, neighbour: Nodes) -> float:
    """The share of the `NEAREST` first in each list that are among the `AROUND` nearest in the plane.

    ``positions`` (n, 2); ``neighbour`` (n, k) int32, padded with -1: other images, the nearest first. nan if no list
    has an entry. Images that are as far as the last of the nearest are near, too: copies have one place.
    """
    asked = _asked(len(positions))
    wanted = neighbour[asked, :NEAREST]
    if not (wanted >= 0).any():
        return float("nan")
    # The image itself is nearest. The last is taken by its number, so that both distances are rounded alike.
    last = cKDTree(positions).query(positions[asked], [min(AROUND + 1, len(positions))])[1]
    near = _apart(positions, asked, wanted) <= _apart(positions, asked, last)
    return float(near[wanted >= 0].mean())


def _apart(positions: Reals, asked: Indices, others: Nodes | Indices) -> Reals:
    """The squared distances (q, m) of ``others`` (q, m) to ``asked`` (q,)."""
    apart: Reals = ((positions[others] - positions[asked][:, None]) ** 2).sum(axis=2)
    return apart


def kept_on_grid(cell: Nodes, neighbour: Nodes) -> float:
    """The share of the `NEAREST` first in each list that are within `REACH` cells: among the `AROUND` cells around.

    ``cell`` (n, 2) int32, the column and row of each; ``neighbour`` as in `kept_on_layout`. nan if no list has an
    entry.
    """
    asked = _asked(len(cell))
    wanted = neighbour[asked, :NEAREST]
    row, rank = np.nonzero(wanted >= 0)
    if not len(row):
        return float("nan")
    apart = np.abs(cell[asked[row]] - cell[wanted[row, rank]]).max(axis=1)
    return float((apart <= REACH).mean())


def asked_for(neighbour: Nodes) -> int:
    """Of how many in each list the share is taken, on average: `NEAREST`, or fewer where lists are shorter. 0: none."""
    entries = np.minimum((neighbour >= 0).sum(axis=1), NEAREST)
    return round(float(entries[entries > 0].mean())) if entries.any() else 0


def by_chance(n: int, columns: int, rows: int) -> float:
    """The share that ``kept_on_grid`` has on average where n images lie at random in ``columns`` x ``rows`` cells.

    nan for fewer than two images. It depends on the cells alone: images are as near as two cells drawn at random.
    """
    if n < 2:
        return float("nan")
    steps = np.arange(-REACH, REACH + 1)
    pairs = np.maximum(columns - np.abs(steps), 0).sum() * np.maximum(rows - np.abs(steps), 0).sum()
    cells = columns * rows
    return float((pairs - cells) / (cells * (cells - 1)))


def trustworthiness(places: Reals | Nodes, queries: Indices, ranks: Nodes, nearest: int = NEAREST) -> float:
    """How far the ``nearest`` around a query in the plane are from being its nearest by distance: 1 where they are.

    ``places`` (n, 2): positions, or cells, of the images among which ranks are. ``queries`` (q,): rows of ``places``.
    ``ranks`` (q, n): the place of each image among the nearest of a query, from 1; 0 for the query itself. The best
    places have 1, the worst 0. Of images that are equally far in the plane, the lower row comes first. ``nearest`` is
    lowered to less than half of the images; nan for fewer than four images, or without queries.
    """
    n = len(places)
    nearest = min(nearest, (n - 1) // 2)
    if nearest < 1 or not len(queries) or n < 4:
        return float("nan")
    excess = 0
    for query, rank in zip(queries.tolist(), ranks, strict=True):
        apart = ((places - places[query]).astype(np.float64) ** 2).sum(axis=1)
        apart[query] = np.inf
        around = np.argsort(apart, kind="stable")[:nearest]
        excess += int(np.maximum(rank[around].astype(np.int64) - nearest, 0).sum())
    return 1 - 2 * excess / (len(queries) * nearest * (2 * n - 3 * nearest - 1))


def _asked(n: int) -> Indices:
    """The images of which the share is taken: all, or `MOST_ASKED` by the hashes of their numbers."""
    if n <= MOST_ASKED:
        return np.arange(n)
    return np.sort(np.argsort(mixed(np.arange(n, dtype=np.uint64), 0), kind="stable")[:MOST_ASKED])
