"""Groups of near-duplicates, against what loops over sets would do."""

from itertools import combinations

import numpy as np
import pytest

from image_similarity.grouping import group_id
from image_similarity.grouping.near_duplicates import (
    Edges,
    Groups,
    Limits,
    Part,
    edges,
    grouped,
    saturated,
    scales,
    strict_limit,
)
from image_similarity.knn import distances, range_search
from image_similarity.knn.distances import METRICS, Metric, Values, Vectors, measured

LIMITS = Limits(scaled=0.65, strict=0.01, wide=1.5)


def lists(metric: Metric, vectors: Vectors, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All distances (n, n), and lists of the k nearest: (n, k) int32, float32."""
    n = len(vectors)
    between = distances.block(metric, vectors, vectors).view(np.float32)
    order = np.lexsort((np.broadcast_to(np.arange(n), (n, n)), np.where(np.eye(n), np.inf, between)))[:, : n - 1]
    neighbour, distance = np.full((n, k), -1, np.int32), np.full((n, k), np.inf, np.float32)
    listed = order[:, :k]
    neighbour[:, : listed.shape[1]] = listed
    distance[:, : listed.shape[1]] = np.take_along_axis(between, listed, axis=1)
    return between, neighbour, distance


def part_of(metric: Metric, vectors: Vectors, k: int, limits: Limits) -> Part:
    """All nodes as one part, as a job would make it."""
    _, neighbour, distance = lists(metric, vectors, k)
    node = np.arange(len(vectors), dtype=np.int32)
    scale, short = scales(distance), saturated(distance, limits)
    listed = edges(neighbour, distance, scale, limits)
    chosen = np.nonzero(short)[0]
    more = range_search.connections(metric, vectors[chosen], chosen, limits.strict)
    every = Edges(
        np.concatenate([listed.a, more.a.astype(np.int32)]),
        np.concatenate([listed.b, more.b.astype(np.int32)]),
        np.concatenate([listed.distance, more.distance]),
    )
    return Part(node, vectors, scale, short, every, neighbour, distance)


def expected(between: Values, scale: Values, limits: Limits) -> list[list[int]]:
    """Stars of all nodes, split, by loops."""
    n = len(between)

    def limit(i: int, j: int) -> float:
        return max(limits.strict, limits.scaled * float(np.sqrt(np.float64(scale[i]) * np.float64(scale[j]))))

    near = [{j for j in range(n) if j != i and between[i, j] <= limit(i, j)} for i in range(n)]
    free, groups = set(range(n)), []
    for centre in sorted(range(n), key=lambda i: (-len(near[i]), i)):
        if centre not in free:
            continue
        group = [centre]
        for j in sorted(near[centre] & free, key=lambda j: (between[centre, j], j)):
            if all(between[j, m] <= limits.wide * limit(j, m) for m in group):
                group.append(j)
        if len(group) > 1:
            groups.append(group)
            free -= set(group)
    return sorted(groups, key=min)


def random_vectors(seed: int, n: int = 60, d: int = 6) -> Values:
    """Blobs of copies, equal ones among them, and strangers."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((n // 3, d))
    values = centres[rng.integers(0, len(centres), n)] + rng.choice([0, 0.05, 0.3], (n, 1)) * rng.standard_normal(
        (n, d)
    )
    return values.astype(np.float32)


def as_lists(groups: Groups) -> list[list[int]]:
    return [groups.members(group).tolist() for group in range(len(groups))]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", range(15))
def test_groups_are_those_of_loops(seed: int, metric: str) -> None:
    vectors = measured(random_vectors(seed), METRICS[metric])
    between, neighbour, distance = lists(METRICS[metric], vectors, 8)
    limits = Limits(0.65, strict_limit(0.65, scales(distance)), 1.2)
    groups = grouped(part_of(METRICS[metric], vectors, 8, limits), METRICS[metric], limits)
    assert as_lists(groups) == expected(between, scales(distance), limits)
    for group, (a, outside) in enumerate(zip(as_lists(groups), groups.nearest_outside_node)):
        inside = between[np.ix_(a, a)]
        assert groups.widest_pair[group] == inside.max()
        assert groups.weakest_link[group] == weakest(inside)
        beyond = [(distance[i, c], j) for i in a for c, j in enumerate(neighbour[i]) if j >= 0 and j not in a]
        assert (min(beyond)[1] if beyond else -1) == outside


def weakest(inside: Values) -> float:
    """The least limit at which all members are connected, by trying."""
    for limit in np.unique(inside):
        reached = {0}
        while more := {int(j) for i in reached for j in np.nonzero(inside[i] <= limit)[0]} - reached:
            reached |= more
        if len(reached) == len(inside):
            return float(limit)
    raise AssertionError


@pytest.mark.parametrize("seed", range(10))
def test_edges_are_each_pair_within_its_limit_once(seed: int) -> None:
    vectors = measured(random_vectors(seed), METRICS["cosine"])
    between, neighbour, distance = lists(METRICS["cosine"], vectors, 8)
    scale = scales(distance)
    found = edges(neighbour, distance, scale, LIMITS)
    listed = {(min(i, j), max(i, j)) for i, row in enumerate(neighbour.tolist()) for j in row}
    limit = LIMITS.of_pairs(scale[:, None], scale[None, :])
    wanted = [(i, j) for i, j in combinations(range(60), 2) if (i, j) in listed and between[i, j] <= limit[i, j]]
    assert sorted(zip(found.a.tolist(), found.b.tolist())) == wanted
    assert (found.distance == between[found.a, found.b]).all()


def test_scales_are_the_eighth_or_the_last_and_0_where_lists_are_short() -> None:
    distance = np.full((4, 9), np.inf, np.float32)
    distance[0], distance[1, :5], distance[2, :3] = np.arange(1, 10), np.arange(1, 6), np.arange(1, 4)
    assert scales(distance).tolist() == [8, 5, 0, 0]
    assert not scales(distance[:, :3]).any() and scales(np.empty((0, 12), np.float32)).shape == (0,)


def test_the_name_of_a_group_is_of_its_members_in_any_order() -> None:
    name = group_id("f", "cosine", "similar", 0, ["b", "a"])
    assert name == group_id("f", "cosine", "similar", 0, ["a", "b"]) and len(name) == 32
    others = [("f", "cosine", "similar", 1, ["a", "b"]), ("f", "cosine", "similar", 0, ["ab"])]
    assert len({name, *(group_id(*other) for other in others)}) == 3


@pytest.mark.parametrize(
    "values", [(0, 0, 1), (1.1, 0, 1), (np.nan, 0, 1), (0.5, -1, 1), (0.5, np.nan, 1), (0.5, 0, 0.9)]
)
def test_limits_out_of_range_are_refused(values: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="limit"):
        Limits(*values)
