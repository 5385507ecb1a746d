"""Groups of what belongs together: levels that nest, on made-up collections of every shape."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from image_similarity.grouping import hierarchy, linkage

Labels = NDArray[np.int32]
Lists = tuple[NDArray[np.int32], NDArray[np.float32]]


def lists(points: NDArray[np.float64], k: int = 12, width: int | None = None) -> Lists:
    """The k nearest others of each point, ties by number; ``width`` ranks, padded."""
    n = len(points)
    neighbour = np.full((n, width or k), -1, dtype=np.int32)
    distance = np.full((n, width or k), np.inf, dtype=np.float32)
    if n > 1:
        finder = NearestNeighbors(n_neighbors=min(n, k + 30), algorithm="brute").fit(points)
        apart, which = finder.kneighbors(points)
        for i in range(n):
            order = np.lexsort((which[i], apart[i].astype(np.float32)))
            order = order[which[i][order] != i][:k]
            neighbour[i, : len(order)], distance[i, : len(order)] = which[i][order], apart[i][order]
    return neighbour, distance


def blobs(seed: int, sizes: list[int], dimensions: int, singles: int) -> tuple[NDArray[np.float64], Labels]:
    """Points and the blob of each, -1 for singles. Blobs differ in density."""
    random = np.random.default_rng(seed)
    apart = 4.0 * dimensions**0.25
    points = [
        apart * random.standard_normal(dimensions) + random.uniform(0.5, 1.5) * random.standard_normal((s, dimensions))
        for s in sizes
    ]
    points.append(apart * random.standard_normal((singles, dimensions)))
    truth = np.repeat([*range(len(sizes)), -1], [*sizes, singles]).astype(np.int32)
    order = random.permutation(len(truth))
    return np.concatenate(points)[order], truth[order]


def pairs_in(labels: Labels) -> int:
    size = np.bincount(labels[labels >= 0], minlength=1).astype(np.int64)
    return int((size * (size - 1) // 2).sum())


def scores(labels: Labels, truth: Labels) -> tuple[float, float]:
    """Precision and recall of pairs."""
    both = (labels >= 0) & (truth >= 0)
    _, joint = np.unique(labels[both].astype(np.int64) * len(truth) + truth[both], return_inverse=True)
    right = pairs_in(joint.astype(np.int32))
    return right / max(1, pairs_in(labels)), right / max(1, pairs_in(truth))


def hold(found: list[Labels], n: int) -> None:
    """What is true of the levels of every collection."""
    assert len(found) == 3
    for labels in found:
        assert labels.dtype == np.int32 and labels.shape == (n,)
        size = np.bincount(labels[labels >= 0], minlength=0)
        assert (size >= 2).all() and (2 * size <= n).all()
        groups, first = np.unique(labels[labels >= 0], return_index=True)
        assert list(groups) == list(range(len(groups))) and list(first) == sorted(first)
    for finer, coarser in itertools.pairwise(found):
        for group in range(finer.max(initial=-1) + 1):
            within = np.unique(coarser[finer == group])
            assert len(within) == 1 and within[0] >= 0


SHAPES = {
    "nothing": np.zeros((0, 2)),
    "one": np.zeros((1, 2)),
    "two": np.array([[0.0], [1.0]]),
    "three": np.array([[0.0], [1.0], [5.0]]),
    "all equal": np.zeros((40, 3)),
    "two, equal within": np.repeat([[0.0], [9.0]], 20, axis=0),
    "a chain": np.arange(1000.0)[:, None],
    "a chain that widens": np.cumsum(np.arange(1000.0))[:, None],
    "uniform, 2": np.random.default_rng(0).random((500, 2)),
    "uniform, 50": np.random.default_rng(0).random((500, 50)),
    "two huge blobs": blobs(1, [300, 300], 20, 0)[0],
    "blobs": blobs(2, [3, 4, 5, 8, 13, 14, 30, 90], 30, 200)[0],
    "copies": np.concatenate([np.zeros((40, 5)), np.random.default_rng(0).random((300, 5))]),
}


@pytest.mark.parametrize("k", [1, 3, 5, 12])
@pytest.mark.parametrize("shape", SHAPES)
def test_levels_nest_and_never_chain(shape: str, k: int) -> None:
    hold(hierarchy.levels(*lists(SHAPES[shape], k, width=12 if k == 5 else None)), len(SHAPES[shape]))


def test_no_ranks() -> None:
    empty = np.zeros((4, 0), dtype=np.int32), np.zeros((4, 0), dtype=np.float32)
    assert [list(labels) for labels in hierarchy.levels(*empty)] == [[-1] * 4] * 3


@pytest.mark.parametrize("singles", [0, 50, 450])
@pytest.mark.parametrize("dimensions", [30, 100])
def test_small_groups_are_found_at_the_first_level(dimensions: int, singles: int) -> None:
    points, truth = blobs(3, [4] * 50, dimensions, singles)
    precision, recall = scores(hierarchy.levels(*lists(points))[0], truth)
    assert precision >= 0.98 and recall >= 0.9


@pytest.mark.parametrize("singles", [0, 0.5, 0.9])
@pytest.mark.parametrize("dimensions", [10, 30, 100])
def test_blobs_of_any_size_and_density_stand_apart(dimensions: int, singles: float) -> None:
    sizes = [20, 25, 40, 60, 100]
    points, truth = blobs(4, sizes, dimensions, int(sum(sizes) * singles / (1 - singles)))
    precision, recall = scores(hierarchy.levels(*lists(points))[1], truth)
    assert precision >= 0.95 and recall >= 0.95


def test_objects_within_categories() -> None:
    random = np.random.default_rng(5)
    centres = np.repeat(30 * random.standard_normal((6, 50)), 40, axis=0)
    things = np.repeat(centres[::4] + 3 * random.standard_normal((60, 50)), 4, axis=0)
    found = hierarchy.levels(*lists(things + 0.3 * random.standard_normal((240, 50))))
    assert list(found[0]) == list(np.arange(240) // 4)
    assert scores(found[2], (np.arange(240) // 40).astype(np.int32))[0] == 1


def test_two_huge_blobs_are_two() -> None:
    points, truth = blobs(1, [300, 300], 20, 0)
    assert scores(hierarchy.levels(*lists(points))[1], truth) == (1, 1)


@pytest.mark.parametrize("shape", ["all equal", "uniform, 50"])
def test_nothing_stands_apart_where_all_is_alike(shape: str) -> None:
    assert (hierarchy.levels(*lists(SHAPES[shape]))[0] == -1).all()


@pytest.mark.parametrize("shape", ["a chain", "a chain that widens", "uniform, 2"])
def test_a_continuum_gives_small_groups(shape: str) -> None:
    for found in hierarchy.levels(*lists(SHAPES[shape])):
        assert np.bincount(found[found >= 0], minlength=1).max() <= 50


def test_copies_are_a_group_among_others() -> None:
    found = hierarchy.levels(*lists(SHAPES["copies"]))[1]
    assert len(set(found[:40])) == 1 and found[0] >= 0 and (found[40:] != found[0]).all()


def test_the_scale_of_distances_does_not_matter() -> None:
    neighbour, distance = lists(SHAPES["blobs"])
    for one, other in zip(hierarchy.levels(neighbour, distance), hierarchy.levels(neighbour, distance * 2**-100)):
        assert np.array_equal(one, other)


def test_the_order_of_the_nodes_only_breaks_ties() -> None:
    points = SHAPES["blobs"]  # no two distances are equal; shares of common neighbours, of level 2, often are
    order = np.random.default_rng(6).permutation(len(points))
    one, other = hierarchy.levels(*lists(points)), hierarchy.levels(*lists(points[order]))
    for level in (0, 1):
        assert groups(one[level], np.arange(len(points))) == groups(other[level], order)


def groups(labels: Labels, names: NDArray[np.int64]) -> set[frozenset[int]]:
    return {frozenset(names[labels == group].tolist()) for group in range(labels.max() + 1)}


@pytest.mark.parametrize("seed", range(8))
def test_the_tree_is_that_of_a_plain_search(seed: int) -> None:
    random = np.random.default_rng(seed)
    points = random.integers(0, 4, (40, 2)) if seed % 2 else random.standard_normal((40, 3))  # with and without ties
    pairs = linkage.listed_pairs(*lists(points.astype(np.float64), int(random.integers(1, 7))))
    tree, plain = linkage.nearest_first(40, pairs), plain_heights(40, pairs)
    assert np.allclose(tree.height, plain, rtol=1e-12) and (np.diff(tree.height) >= -1e-12).all()


def plain_heights(n: int, pairs: linkage.Pairs) -> list[float]:
    """Heights by looking at all pairs of groups each time."""
    between = {(int(a), int(b)): [t, int(e), i] for i, (a, b, t, e) in enumerate(zip(*pairs))}
    heights = []
    while between:
        (x, y), (total, entries, _) = min(between.items(), key=lambda item: (item[1][0] / item[1][1], item[1][2]))
        heights.append(total / entries)
        del between[x, y]
        for a, b in [key for key in between if y in key]:
            total, entries, first = between.pop((a, b))
            z = a if b == y else b
            old = between.get((min(x, z), max(x, z)), [0.0, 0, first])
            between[min(x, z), max(x, z)] = [old[0] + total, old[1] + entries, min(first, old[2])]
    return heights


def test_what_is_said_of_a_group() -> None:
    neighbour, distance = lists(np.array([[0.0], [1.0], [3.0], [20.0], [21.0], [40.0]]), k=2)
    found = hierarchy.described(neighbour, distance, np.array([0, 0, 0, 1, 1, -1], dtype=np.int32))
    assert list(found.representative) == [1, 3]
    assert list(found.weakest_link) == [2, 1] and list(found.widest_listed) == [3, 1]


def test_no_group_has_nothing_to_be_said() -> None:
    found = hierarchy.described(*lists(SHAPES["three"], k=2), np.full(3, -1, dtype=np.int32))
    assert [len(column) for column in found] == [0, 0, 0]


@pytest.mark.parametrize(
    ("neighbour", "distance", "message"),
    [
        ([[1], [0]], [[1.0, 2.0], [1.0, 2.0]], "alike tables"),
        ([[1], [2]], [[1.0], [1.0]], "numbers of the nodes"),
        ([[1], [0]], [[1.0], [np.nan]], "finite"),
        ([[1], [0]], [[1.0], [-1.0]], "finite"),
        ([[1], [1]], [[1.0], [1.0]], "node 1"),
        ([[1, 1], [0, -1]], [[1.0, 1.0], [1.0, np.inf]], "node 0"),
    ],
)
def test_what_is_no_table_of_neighbours(neighbour: list[list[int]], distance: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hierarchy.levels(np.array(neighbour, dtype=np.int32), np.array(distance, dtype=np.float32))
