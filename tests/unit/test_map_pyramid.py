"""What stands for many from afar, against plain loops."""

import numpy as np
import pytest
from numpy.typing import NDArray

from image_similarity.mapping.cells import Cells, Lists
from image_similarity.mapping.pyramid import levels, representatives


def by_loops(cell: Cells, columns: int, rows: int, neighbour: Lists) -> list[NDArray[np.int32]]:
    """Level by level from the deepest: of the children's images, the one that most images under the node list."""
    place = {tuple(at): i for i, at in enumerate(cell.tolist())}
    deepest = levels(columns, rows)
    pyramid = [np.array([[place.get((x, y), -1) for x in range(columns)] for y in range(rows)], dtype=np.int32)]
    for z in range(deepest - 1, -1, -1):
        width, below = 2 ** (deepest - z), pyramid[0]
        level = np.full((-(-rows // width), -(-columns // width)), -1, dtype=np.int32)
        for y in range(level.shape[0]):
            for x in range(level.shape[1]):
                children = below[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel()
                under = np.flatnonzero((cell // width == (x, y)).all(axis=1))
                votes = {int(j): int((neighbour[under] == j).sum()) for j in children if j >= 0}
                level[y, x] = min(votes, key=lambda j: (-votes[j], j), default=-1)
        pyramid.insert(0, level)
    return pyramid


def wall(n: int, columns: int, rows: int, seed: int) -> tuple[Cells, Lists]:
    random = np.random.default_rng(seed)
    spots = random.permutation(columns * rows)[:n]
    neighbour = np.array([random.permutation(np.delete(np.arange(n), i))[:6] for i in range(n)], dtype=np.int32)
    neighbour[::4, 2:] = -1
    return np.stack([spots % columns, spots // columns], axis=1).astype(np.int32), neighbour


@pytest.mark.parametrize(
    ("n", "columns", "rows", "seed"), [(60, 9, 8, 0), (40, 9, 8, 1), (150, 17, 12, 2), (20, 33, 3, 3), (10, 4, 4, 4)]
)
def test_representatives_by_loops(n: int, columns: int, rows: int, seed: int) -> None:
    cell, neighbour = wall(n, columns, rows, seed)
    pyramid = representatives(cell, columns, rows, neighbour)
    expected = by_loops(cell, columns, rows, neighbour)
    assert len(pyramid) == levels(columns, rows) + 1 == len(expected)
    for level, of_loops in zip(pyramid, expected, strict=True):
        assert level.dtype == np.int32
        np.testing.assert_array_equal(level, of_loops)


def test_every_image_is_on_the_deepest_level_and_what_is_above_is_below() -> None:
    cell, neighbour = wall(1000, 40, 30, 0)
    pyramid = representatives(cell, 40, 30, neighbour)
    assert [level.shape for level in pyramid] == [(2, 3), (4, 5), (8, 10), (15, 20), (30, 40)]
    assert (pyramid[-1][cell[:, 1], cell[:, 0]] == np.arange(1000)).all()
    for above, below in zip(pyramid, pyramid[1:], strict=False):
        for y, x in np.argwhere(above >= 0):
            assert above[y, x] in below[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]


def test_levels() -> None:
    sizes = [(0, 0), (1, 1), (4, 3), (5, 3), (3, 5), (8, 8), (9, 8), (1231, 923)]
    assert [levels(*size) for size in sizes] == [0, 0, 0, 1, 1, 1, 2, 9]


def test_no_image_and_one() -> None:
    none = representatives(np.zeros((0, 2), dtype=np.int32), 0, 0, np.zeros((0, 5), dtype=np.int32))
    assert [level.shape for level in none] == [(0, 0)]
    one = representatives(np.zeros((1, 2), dtype=np.int32), 1, 1, np.full((1, 5), -1, dtype=np.int32))
    assert [level.tolist() for level in one] == [[[0]]]
    alone = representatives(np.array([[8, 0]], dtype=np.int32), 9, 1, np.zeros((1, 0), dtype=np.int32))
    assert [level.max() for level in alone] == [0, 0, 0]
