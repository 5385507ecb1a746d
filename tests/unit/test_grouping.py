"""Groups of near-duplicates, against what loops over sets would do."""

from itertools import combinations

import numpy as np
import pytest

from image_similarity.grouping import components, group_id, large, near_duplicates, stars
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


def array32(values: list[list[float]] | list[float]) -> Values:
    return np.array(values, dtype=np.float32)


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


@pytest.fixture(params=["matrices", "tiles"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Components are small, or all are taken for large ones."""
    if request.param == "tiles":
        monkeypatch.setattr(near_duplicates, "SINGLE_PAIRS", 1)
        monkeypatch.setattr(near_duplicates, "MATRIX_ROWS", 0)
        monkeypatch.setattr(large, "_TILE_ROWS", 4)
        monkeypatch.setattr(large, "_CENTRES_AT_ONCE", 2)


@pytest.mark.usefixtures("_way")
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


@pytest.mark.parametrize("seed", range(5))
def test_equal_vectors_count_as_often_as_they_are_there(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few distinct vectors, so that a matrix of these is enough: the groups are those of all the nodes."""
    monkeypatch.setattr(near_duplicates, "SINGLE_PAIRS", 1)
    monkeypatch.setattr(near_duplicates, "MATRIX_ROWS", 12)
    monkeypatch.setattr(large, "of", None)
    rng = np.random.default_rng(seed)
    values = np.ones(6) + 0.1 * rng.standard_normal((12, 6))
    vectors = measured(values[rng.integers(0, 12, 60)].astype(np.float32), METRICS["cosine"])
    between, _, distance = lists(METRICS["cosine"], vectors, 8)
    limits = Limits(0.65, float(np.quantile(between, 0.3)), 1.1)
    groups = grouped(part_of(METRICS["cosine"], vectors, 8, limits), METRICS["cosine"], limits)
    assert as_lists(groups) == expected(between, scales(distance), limits)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("seed", range(5))
def test_groups_do_not_depend_on_the_order_of_nodes_or_on_how_components_are_cut(seed: int) -> None:
    metric, rng = METRICS["cosine"], np.random.default_rng(seed)
    vectors = measured(random_vectors(seed, 90), metric)
    limits = Limits(0.65, 0.02, 1.3)
    whole = part_of(metric, vectors, 8, limits)
    expected_groups = grouped(whole, metric, limits)

    def cut(nodes: np.ndarray) -> Part:
        inside = np.isin(whole.edges.a, nodes)
        mixed = rng.permutation(np.nonzero(inside)[0])
        of_nodes = whole.vectors[nodes], whole.scale[nodes], whole.saturated[nodes]
        return Part(
            nodes.astype(np.int32), *of_nodes, whole.edges[mixed], whole.neighbour[nodes], whole.distance[nodes]
        )

    shuffled = grouped(cut(rng.permutation(90)), metric, limits)
    for of in ("node", "start", "weakest_link", "widest_pair", "nearest_outside", "nearest_outside_node"):
        np.testing.assert_array_equal(getattr(shuffled, of), getattr(expected_groups, of))
    label = components.of(90, whole.edges.a, whole.edges.b)
    pieces = rng.integers(0, 3, int(label.max()) + 1)
    chosen = (np.nonzero((label >= 0) & (pieces[label] == piece))[0] for piece in range(3))
    parts = [grouped(cut(rng.permutation(nodes)), metric, limits) for nodes in chosen]
    assert sorted((group for part in parts for group in as_lists(part)), key=min) == as_lists(expected_groups)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_chain_of_slowly_changing_vectors_is_many_small_groups(metric: str) -> None:
    angle = np.arange(1000) * 0.1
    values = np.stack([np.cos(angle), np.sin(angle), angle], axis=1).astype(np.float32)
    vectors = measured(values, METRICS[metric])
    between, _, distance = lists(METRICS[metric], vectors, 12)
    limits = Limits(0.65, 0.0, 1.5)
    groups = grouped(part_of(METRICS[metric], vectors, 12, limits), METRICS[metric], limits)
    assert len(groups) > 50 and np.diff(groups.start).max() < 20
    limit = limits.of_pairs(scales(distance)[:, None], scales(distance)[None, :])
    for group in as_lists(groups):
        assert (between[np.ix_(group, group)] <= 1.5 * limit[np.ix_(group, group)]).all()


@pytest.mark.usefixtures("_way")
def test_planted_groups_of_any_size_are_whole() -> None:
    """Far larger than the lists: strict finds what these do not hold."""
    rng = np.random.default_rng(0)
    sizes = [2, 3, 12, 13, 14, 60, 150]
    centres = rng.standard_normal((len(sizes) + 100, 24))
    copies = [centre + 0.02 * rng.standard_normal((size, 24)) for centre, size in zip(centres, sizes)]
    vectors = measured(np.concatenate([*copies, centres[len(sizes) :]]).astype(np.float32), METRICS["cosine"])
    limits = Limits(0.3, 0.02, 1.5)
    groups = grouped(part_of(METRICS["cosine"], vectors, 12, limits), METRICS["cosine"], limits)
    ends = np.cumsum(sizes)
    assert [sorted(group) for group in as_lists(groups)] == [
        [*range(end - size, end)] for size, end in zip(sizes, ends)
    ]
    assert (groups.nearest_outside_node[np.array(sizes) > 12] == -1).all() and np.isnan(groups.nearest_outside[-1])
    assert (groups.nearest_outside_node[np.array(sizes) < 12] >= 0).all()


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 2, 3, 12])
def test_equal_vectors_are_one_group_whatever_the_limits(k: int, metric: str) -> None:
    values = np.array([[1, 2, 3, 5]] * 50 + [[-5, 3, 1, 0], [1e-3, 5, -9, 2]], dtype=np.float32)
    vectors = measured(values, METRICS[metric])
    part = part_of(METRICS[metric], vectors, k, Limits(0.65, 0.0, 1.0))
    groups = grouped(part, METRICS[metric], Limits(0.65, 0.0, 1.0))
    assert as_lists(groups) == [[*range(50)]]
    assert groups.weakest_link[0] == groups.widest_pair[0] == 0 and not np.isnan(part.scale).any()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 4])
def test_few_nodes(n: int, metric: str) -> None:
    """Lists of fewer than 4 neighbours have no scale. Only strict holds."""
    values = np.array([[1, 2, 4], [1, 2, 4.1], [4, -2, 1], [-9, 2, 2]], dtype=np.float32)[:n]
    vectors = measured(values, METRICS[metric])
    for strict, expected_groups in ((0.0, []), (0.2, [[0, 1]] if n > 1 else [])):
        limits = Limits(1.0, strict, 1.5)
        part = part_of(METRICS[metric], vectors, 12, limits)
        assert not part.scale.any()
        assert as_lists(grouped(part, METRICS[metric], limits)) == expected_groups


def test_denormal_distances_have_limits() -> None:
    values = (np.arange(30)[:, None] * np.array([1e-44, 0])).astype(np.float32)
    vectors = measured(values, METRICS["euclidean"])
    between, _, distance = lists(METRICS["euclidean"], vectors, 12)
    limits = Limits(0.65, 0.0, 1.5)
    groups = grouped(part_of(METRICS["euclidean"], vectors, 12, limits), METRICS["euclidean"], limits)
    assert as_lists(groups) == expected(between, scales(distance), limits) != []


def test_a_scale_of_0_beside_another_leaves_distance_0_and_strict() -> None:
    scale, other = np.zeros(2, dtype=np.float32), array32([0.5, 0])
    assert Limits(0.65, 0.0, 1.5).of_pairs(scale, other).tolist() == [0, 0]
    assert Limits(0.65, 0.125, 1.5).of_pairs(scale, other).tolist() == [0.125, 0.125]


def test_lists_are_saturated_that_may_end_before_strict() -> None:
    inf, limits = np.inf, Limits(0.65, 0.1, 1.5)
    distance = array32([[0.01, 0.1], [0.01, 0.2], [inf, inf], [0.05, inf]])
    assert saturated(distance, limits).tolist() == [False, False, True, True]  # float32(0.1) is more than 0.1
    assert saturated(array32([[0.01, 0.05], [0.05, 0.05], [0.01, 0.05]]), limits).tolist() == [False] * 3
    assert saturated(np.empty((3, 0), np.float32), limits).all() and saturated(distance[:0], limits).shape == (0,)


@pytest.mark.parametrize("seed", range(10))
def test_components_are_those_of_scipy(seed: int) -> None:
    from scipy.sparse import coo_array, csgraph

    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 200))
    a, b = rng.integers(0, n, (2, int(rng.integers(0, n)))).astype(np.int32)
    label = components.of(n, a, b)
    _, theirs = csgraph.connected_components(coo_array((np.ones(len(a)), (a, b)), (n, n)), directed=False)
    connected = np.isin(np.arange(n), [a, b])
    assert ((label >= 0) == connected).all()
    first = dict(zip(theirs[connected][::-1], np.nonzero(connected)[0][::-1]))
    assert label[connected].tolist() == [sorted(first.values()).index(first[of]) for of in theirs[connected]]


@pytest.mark.parametrize("seed", range(5))
def test_weakest_link_is_the_longest_edge_of_scipys_tree(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.sparse import csgraph

    monkeypatch.setattr(large, "_TILE_ROWS", 16)
    vectors = measured(random_vectors(seed, 70), METRICS["cosine"])
    between = lists(METRICS["cosine"], vectors, 1)[0]
    tree = csgraph.minimum_spanning_tree(between + np.float32(1))  # 0 would be no edge
    link = np.float32(tree.data.max() - 1)
    for of_group in (large.widths(METRICS["cosine"], vectors), stars.widths(between)):
        assert of_group == (pytest.approx(link, abs=1e-6), between.max())
