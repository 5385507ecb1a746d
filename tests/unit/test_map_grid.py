"""Cells for images: the wall's shape, halving, walls of graphs whose best wall is known, and new images."""

import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from image_similarity.mapping.bisection import bisected
from image_similarity.mapping.cells import Cells, Lists
from image_similarity.mapping.extend import extend
from image_similarity.mapping.grid import shape, snap


def near_lists(points: NDArray[np.float64], k: int) -> Lists:
    """The k nearest of each point, by brute force; -1 where there are fewer."""
    n = len(points)
    neighbour = np.full((n, k), -1, dtype=np.int32)
    if n:
        distance = ((points[:, None] - points) ** 2).sum(axis=-1)
        np.fill_diagonal(distance, np.inf)
        neighbour[:, : n - 1] = np.argsort(distance, axis=1, kind="stable")[:, : min(k, n - 1)]
    return neighbour


def kept(cell: Cells, neighbour: Lists, images: NDArray[np.int64]) -> float:
    """The share of the neighbours of ``images`` in the 24 cells around."""
    around = np.abs(cell[images][:, None] - cell[neighbour[images]]).max(axis=2) <= 2
    return float(around.mean())


@pytest.mark.parametrize("free", [0.0, 0.12, 0.5])
def test_shapes_hold_all_images_and_are_no_wider_than_needed(free: float) -> None:
    for n in range(1, 3000):
        columns, rows = shape(n, free)
        assert columns * rows >= max(n, int(n / (1 - free))) > (columns - 1) * rows
        assert n < 20 or 1 < columns / rows < 1.8


def test_small_shapes() -> None:
    assert [shape(n, 0.12) for n in (0, 1, 2, 3, 20)] == [(0, 0), (1, 1), (2, 1), (2, 2), (6, 4)]
    assert shape(1_000_000, 0.12) == (1232, 923)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 20])
def test_few_images(n: int) -> None:
    points = np.random.default_rng(n).normal(size=(n, 2))
    cell = snap(points, near_lists(points, 5), *shape(n, 0.12), seed=0)
    assert cell.shape == (n, 2) and cell.dtype == np.int32
    columns, rows = shape(n, 0.12)
    assert len({tuple(place) for place in cell.tolist() if place[0] in range(columns) and place[1] in range(rows)}) == n


def test_a_full_wall_of_equal_images() -> None:
    cell = snap(np.zeros((30, 2)), near_lists(np.zeros((30, 2)), 4), 6, 5, seed=0)
    assert len(np.unique(cell, axis=0)) == 30


def test_images_without_neighbours_keep_the_order_of_the_layout() -> None:
    points = np.random.default_rng(0).normal(size=(12, 2))
    cell = snap(points, np.full((12, 5), -1, dtype=np.int32), 4, 3, seed=0)
    left = points[:, 0] <= np.sort(points[:, 0])[5]
    assert (cell[left, 0] < 2).all() and (cell[~left, 0] >= 2).all()
    assert (snap(points, np.empty((12, 0), dtype=np.int32), 4, 3, seed=0) == cell).all()


def test_more_images_than_cells() -> None:
    with pytest.raises(ValueError, match="7 images, but 6 free cells"):
        snap(np.zeros((7, 2)), np.full((7, 1), -1, dtype=np.int32), 3, 2, seed=0)


@pytest.mark.parametrize("seed", range(3))
def test_what_was_a_grid_is_a_grid_again(seed: int) -> None:
    """The layout has the points of a lattice turned, and two steps off. Their neighbours are the eight around them."""
    random, every = np.random.default_rng(seed), np.arange(300)
    y, x = np.mgrid[:15, :20]
    points = random.permutation(np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64))
    neighbour, layout = near_lists(points, 8), points @ [[0.8, 0.6], [-0.6, 0.8]] + 2 * random.normal(size=(300, 2))
    cell = snap(layout, neighbour, 22, 16, seed)
    halved, _ = bisected(layout, np.ones((16, 22), dtype=np.bool_), evenly=True)
    assert len(np.unique(cell, axis=0)) == 300
    assert kept(cell, neighbour, every) > 0.9
    assert kept(halved, neighbour, every) < 0.6


def test_empty_cells_are_together_and_clusters_apart() -> None:
    """Images of two clusters that know nothing of each other: each is in one piece, and few empty cells are alone."""
    random = np.random.default_rng(0)
    points = np.concatenate([random.normal(size=(150, 2)), random.normal(size=(150, 2)) + [20, 0]])
    columns, rows = shape(300, 0.12)
    cell = snap(points, near_lists(points, 8), columns, rows, seed=0)
    empty = np.ones((rows, columns), dtype=np.bool_)
    empty[cell[:, 1], cell[:, 0]] = False
    places = np.argwhere(empty)
    adjoining = np.abs(places[:, None] - places).max(axis=2) == 1
    assert (adjoining.sum(axis=1) == 0).mean() < 0.1
    assert adjoining.sum(axis=1).mean() > 3.1  # of eight; without company it is 2.5 to 2.8
    touching = np.abs(cell[:150, None] - cell[150:]).max(axis=2) == 1
    assert touching.sum() < 2.5 * rows  # without a street, three for each row


def test_bisection_fills_free_cells_only_and_each_half_takes_its_share() -> None:
    random = np.random.default_rng(0)
    is_free = random.random((13, 17)) < 0.6
    points = random.normal(size=(np.count_nonzero(is_free) - 5, 2))
    cell, order = bisected(points, is_free, evenly=True)
    assert is_free[cell[:, 1], cell[:, 0]].all()
    assert len(np.unique(cell, axis=0)) == len(points)
    assert sorted(order) == list(range(len(points)))
    left = cell[:, 0] < 8
    assert left.sum() == round(len(points) * np.count_nonzero(is_free[:, :8]) / np.count_nonzero(is_free))
    assert points[left, 0].max() < points[~left, 0].min()


def test_bisection_by_columns_and_rows_leaves_images_where_there_is_a_cell() -> None:
    is_free = np.ones((6, 8), dtype=np.bool_)
    is_free[2, 3] = False
    wanted = np.array([[0, 0], [7, 5], [4, 4], [1, 5], [7, 0]])
    cell, _ = bisected(wanted.astype(np.float64), is_free, evenly=False)
    assert (cell == wanted).all()
    crowd = np.full((47, 2), 7.0)
    assert len(np.unique(bisected(crowd, is_free, evenly=False)[0], axis=0)) == 47


def clustered(n: int, seed: int) -> tuple[NDArray[np.float64], Lists]:
    random = np.random.default_rng(seed)
    points = random.normal(size=(8, 2))[random.integers(0, 8, n)] * 4 + random.normal(size=(n, 2))
    return points, near_lists(points, 8)


def wall_of_known(points: NDArray[np.float64], known: NDArray[np.bool_]) -> tuple[Cells, int, int]:
    columns, rows = shape(int(known.sum()), 0.12)
    cell = np.full((len(points), 2), -1, dtype=np.int32)
    cell[known] = snap(points[known], near_lists(points[known], 8), columns, rows, seed=0)
    return cell, columns, rows


def test_new_images_are_beside_their_neighbours_and_few_known_ones_move() -> None:
    points, neighbour = clustered(600, 0)
    known = np.arange(600) % 20 != 7
    cell, columns, rows = wall_of_known(points, known)
    extended = extend(cell, known, points, neighbour, columns, rows)
    assert extended is not None and extended.dtype == np.int32
    assert (cell[~known] == -1).all(), "what is given stays as it is"
    assert len(np.unique(extended, axis=0)) == 600
    assert (extended >= 0).all() and (extended < (columns, rows)).all()
    anew = snap(points, neighbour, *shape(600, 0.12), seed=0)
    every, new = np.arange(600), np.flatnonzero(~known)
    assert kept(extended, neighbour, new) > 0.75 * kept(anew, neighbour, new)
    assert kept(extended, neighbour, every) > 0.95 * kept(anew, neighbour, every)
    moved = (extended != cell).any(axis=1) & known
    assert 0 < moved.sum() <= 2 * len(new)
    again = extend(cell, known, points, neighbour, columns, rows)
    assert again is not None and (again == extended).all()


def test_only_images_around_neighbours_of_new_ones_move() -> None:
    """The neighbours of the one new image are in one cluster; other clusters stay."""
    points, neighbour = clustered(600, 4)
    known = np.arange(600) != 300
    cell, columns, rows = wall_of_known(points, known)
    extended = extend(cell, known, points, neighbour, columns, rows)
    assert extended is not None
    linked = [*neighbour[300], *np.flatnonzero((neighbour == 300).any(axis=1))]
    for moved in np.flatnonzero((extended != cell).any(axis=1) & known):
        assert np.abs(cell[linked] - cell[moved]).max(axis=1).min() <= 1


def test_new_images_take_the_cells_of_those_that_left() -> None:
    """In a full wall, one image is replaced by a copy of it."""
    points, _ = clustered(48, 1)
    cell = snap(points, near_lists(points, 8), 8, 6, seed=0)
    cell[17] = -1
    extended = extend(cell, np.arange(48) != 17, points, near_lists(points, 8), 8, 6)
    assert extended is not None and len(np.unique(extended, axis=0)) == 48


def test_new_images_without_neighbours_have_a_cell_near_their_place_in_the_layout() -> None:
    points, neighbour = clustered(400, 2)
    known = np.arange(400) != 5
    cell, columns, rows = wall_of_known(points, known)
    neighbour[5] = -1
    neighbour[neighbour == 5] = -1
    extended = extend(cell, known, points, neighbour, columns, rows)
    assert extended is not None
    nearest = np.argsort(((points[5] - points) ** 2).sum(axis=1))[1]
    assert np.abs(extended[5] - cell[nearest]).max() <= max(columns, rows) // 2


def test_where_nothing_can_be_extended() -> None:
    points, neighbour = clustered(30, 3)
    cell = np.stack([np.arange(30) % 6, np.arange(30) // 6], axis=1).astype(np.int32)
    known = np.arange(30) < 28
    assert extend(cell, known, points, neighbour, 6, 5) is not None  # two new images, two free cells
    assert extend(cell, np.arange(30) < 24, points, neighbour, 6, 4) is None
    assert extend(cell, np.zeros(30, dtype=np.bool_), points, neighbour, 6, 5) is None
    same = extend(cell, np.ones(30, dtype=np.bool_), points, neighbour, 6, 5)
    assert same is not None and (same == cell).all()
    none = extend(cell[:0], known[:0], points[:0], neighbour[:0], 0, 0)
    assert none is not None and none.shape == (0, 2)


PROGRAM = """
import hashlib, numpy as np
from image_similarity.mapping.grid import snap
random = np.random.default_rng(0)
cell = snap(random.normal(size=(500, 2)), random.integers(-1, 500, (500, 6)).astype(np.int32), 27, 21, {seed})
print(hashlib.sha256(cell.tobytes()).hexdigest())
"""


def test_the_same_cells_in_each_process_and_with_each_number_of_threads() -> None:
    def cells(threads: str, seed: int) -> str:
        environment = {**os.environ, "NUMBA_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        command = [sys.executable, "-c", PROGRAM.format(seed=seed)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert cells("1", 0) == cells("2", 0) != cells("1", 1)
