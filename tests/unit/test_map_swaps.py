"""Images that change places on the grid: the cost by brute force, who may move, and the edges of the graph."""

from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from image_similarity.mapping.cells import Cells, Lists
from image_similarity.mapping.swaps import COMPANY, Links, Schedule, improve


def lists(n: int, k: int, seed: int) -> Lists:
    """Random lists without the image itself; a third of them end early."""
    random = np.random.default_rng(seed)
    neighbour = np.array([random.permutation(np.delete(np.arange(n), i))[:k] for i in range(n)], dtype=np.int32)
    neighbour[::3, k // 2 :] = -1
    return neighbour


def costs(cells: NDArray[np.int32], neighbour: Lists, columns: int, rows: int) -> NDArray[np.float64]:
    """The cost of each wall of ``cells`` (walls, n, 2), as the module defines it, by plain loops over pairs."""
    cost = np.zeros(len(cells))
    for i, row in enumerate(neighbour):
        for j in row[row >= 0]:
            cost += np.log(1 + ((cells[:, i] - cells[:, j]) ** 2).sum(axis=1) / 2)
    for i in range(len(neighbour)):
        for j in range(i):
            cost -= COMPANY * (np.abs(cells[:, i] - cells[:, j]).max(axis=1) == 1)
        x, y = cells[:, i, 0], cells[:, i, 1]
        for dx, dy in ((a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b):
            cost -= COMPANY * ((x + dx < 0) | (x + dx >= columns) | (y + dy < 0) | (y + dy >= rows))
    return cost


@pytest.mark.parametrize("graph", range(3))
@pytest.mark.parametrize(("n", "columns", "rows"), [(5, 4, 2), (6, 3, 3), (7, 3, 3), (6, 3, 2)])
def test_the_best_wall_of_all_is_reached(n: int, columns: int, rows: int, graph: int) -> None:
    """Of all walls of a small grid. Wrong differences of cost end elsewhere."""
    neighbour = lists(n, 3, graph)
    spots = np.array([(x, y) for y in range(rows) for x in range(columns)], dtype=np.int32)
    cost = costs(spots[np.array(list(permutations(range(len(spots)), n)))], neighbour, columns, rows)
    ends = np.repeat(spots[None, :n], 8, axis=0)
    for seed, cell in enumerate(ends):  # cooled slowly; one run may still end in a wall that is nearly as good
        improve(cell, neighbour, columns, rows, np.arange(n, dtype=np.int32), Schedule(2000, (4, 4), (4, 0.05)), seed)
    reached = costs(ends, neighbour, columns, rows)
    assert reached.min() == pytest.approx(cost.min(), abs=1e-6)
    assert reached.max() < np.quantile(cost, 0.05)


def test_without_temperature_no_step_costs_more() -> None:
    neighbour, random = lists(50, 6, 2), np.random.default_rng(2)
    spots = random.permutation(80)[:50]
    cell = np.stack([spots % 10, spots // 10], axis=1).astype(np.int32)
    course = [costs(cell[None], neighbour, 10, 8)[0]]
    for sweep in range(60):
        improve(cell, neighbour, 10, 8, np.arange(50, dtype=np.int32), Schedule(1, (3, 3), (1e-9, 1e-9)), sweep)
        course.append(costs(cell[None], neighbour, 10, 8)[0])
    assert (np.diff(course) <= 1e-5).all()
    assert course[-1] < 0.8 * course[0]


def test_only_the_movable_move() -> None:
    neighbour, random = lists(60, 5, 0), np.random.default_rng(0)
    spots = random.permutation(100)[:60]
    cell = np.stack([spots % 10, spots // 10], axis=1).astype(np.int32)
    before, movable = cell.copy(), np.arange(40, 60, dtype=np.int32)
    improve(cell, neighbour, 10, 10, movable, Schedule(50), 0)
    assert (cell[:40] == before[:40]).all()
    assert (cell[40:] != before[40:]).any(axis=1).sum() > 10
    assert len(np.unique(cell, axis=0)) == 60


def test_images_without_neighbours_only_make_way() -> None:
    neighbour = lists(20, 4, 0)
    neighbour[:], kept = -1, np.stack([np.arange(20) % 5, np.arange(20) // 5], axis=1).astype(np.int32)
    cell = kept.copy()
    improve(cell, neighbour, 5, 5, np.arange(20, dtype=np.int32), Schedule(20), 0)
    assert (cell == kept).all()


def test_nobody_to_move() -> None:
    cell: Cells = np.zeros((0, 2), dtype=np.int32)
    improve(cell, np.zeros((0, 3), dtype=np.int32), 0, 0, np.zeros(0, dtype=np.int32), Schedule(5), 0)
    assert cell.shape == (0, 2)


def test_links_are_the_lists_from_both_sides() -> None:
    neighbour = lists(30, 6, 1)
    neighbour[3, 0] = 3  # itself
    links, expected = Links.of(neighbour), {i: list[int]() for i in range(30)}
    for i, row in enumerate(neighbour.tolist()):
        for j in row:
            if j not in (-1, i):
                expected[i].append(j)
                expected[j].append(i)
    linked = {i: sorted(links.other[links.first[i] : links.first[i + 1]].tolist()) for i in range(30)}
    assert linked == {i: sorted(others) for i, others in expected.items()}


def test_an_image_that_all_list_is_linked_to_those_that_list_it_first() -> None:
    n, k = 100, 2
    neighbour = np.stack([np.arange(1, n + 1) % n, np.zeros(n)], axis=1).astype(np.int32)
    neighbour[60:, ::-1] = neighbour[60:].copy()  # 40 list image 0 first
    links = Links.of(neighbour)
    back = np.sort(links.other[links.first[0] : links.first[1]])[1:]  # 1 is what image 0 itself lists
    assert len(back) == 8 * k and (back >= 60).all()
    assert all(0 in links.other[links.first[i] : links.first[i + 1]] for i in range(1, n))


def test_radius_and_temperature_fall_and_a_million_has_fewer_sweeps() -> None:
    steps = [Schedule(10).at(sweep) for sweep in range(10)]
    assert steps[0] == (3, 4.0) and steps[-1] == (1, pytest.approx(0.1))
    assert steps == sorted(steps, reverse=True)
    assert [Schedule.of(n).sweeps for n in (0, 1, 1460, 30_000, 1_000_000)] == [2000, 2000, 2000, 1333, 200]
    assert Schedule(1).at(0) == (3, 4.0)


def test_progress_is_reported() -> None:
    calls: list[tuple[int, int]] = []
    cell = np.array([[0, 0], [3, 3]], dtype=np.int32)
    neighbour = np.array([[1], [0]], dtype=np.int32)
    improve(cell, neighbour, 4, 4, np.arange(2, dtype=np.int32), Schedule(3), 0, lambda *at: calls.append(at))
    assert calls == [(1, 3), (2, 3), (3, 3)]
