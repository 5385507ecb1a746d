"""Where images lie in the plane: any graph has a layout, which keeps what is near, and is the same bytes each time."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from sklearn.neighbors import NearestNeighbors

from image_similarity.mapping import graph_start, placement, preservation, sample
from image_similarity.mapping.layout import lay_out

Lists = tuple[NDArray[np.int32], NDArray[np.float32]]
K = 12
SCRIPT = """
import hashlib, sys
import numpy as np
from image_similarity.mapping.layout import lay_out
arrays = np.load(sys.argv[1])
print(hashlib.sha256(lay_out(arrays["neighbour"], arrays["distance"], 3, epochs=20).tobytes()).hexdigest())
"""


def lists(points: NDArray[np.float64], k: int = K) -> Lists:
    """The k nearest others of each point, padded."""
    n = len(points)
    neighbour, distance = np.full((n, k), -1, dtype=np.int32), np.full((n, k), np.inf, dtype=np.float32)
    if n > 1:
        most = min(n, k + 1)
        apart, which = NearestNeighbors(n_neighbors=most, algorithm="brute").fit(points).kneighbors(points)
        for i in range(n):
            others = which[i] != i
            others[-1] &= others.sum() < most
            neighbour[i, : most - 1], distance[i, : most - 1] = which[i][others], apart[i][others]
    return neighbour, distance


def curve(n: int, seed: int = 0) -> NDArray[np.float64]:
    """Points along a spiral in five dimensions: what is near is near along it."""
    random = np.random.default_rng(seed)
    along = np.sort(random.uniform(0, 12, n))
    points = np.stack([along, np.cos(along), np.sin(along), np.zeros(n), np.zeros(n)], axis=1)
    return np.asarray(points + 0.05 * random.standard_normal(points.shape))


def clusters(n: int, count: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    cluster = random.integers(0, count, n)
    return 8 * random.standard_normal((count, 6))[cluster] + random.standard_normal((n, 6)), cluster


def hold(places: NDArray[np.float64], n: int) -> None:
    assert places.shape == (n, 2) and places.dtype == np.float64 and np.isfinite(places).all()


# -- layout ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 19, 20, 21, 60, 300])
def test_any_number_of_images_has_a_layout(n: int) -> None:
    places = lay_out(*lists(curve(n)), seed=0, epochs=20)
    hold(places, n)
    assert len(np.unique(places, axis=0)) == n


def test_a_layout_keeps_far_more_than_a_random_one() -> None:
    neighbour, distance = lists(clusters(600, 12)[0])
    places = lay_out(neighbour, distance, seed=0)
    random = np.random.default_rng(0).uniform(size=places.shape)
    assert preservation.kept_on_layout(places, neighbour) > 0.5
    assert preservation.kept_on_layout(random, neighbour) < 0.1


def test_the_start_follows_a_curve_and_a_layout_goes_on_from_it() -> None:
    """In the plane, two random points of a curve must be as far apart as along it: UMAP alone does not see to that."""
    neighbour, distance = lists(curve(600))
    one, other = np.random.default_rng(0).integers(0, 600, (2, 5000))
    for places in (graph_start.graph_start(neighbour, distance, 0), lay_out(neighbour, distance, 0)):
        apart = np.linalg.norm(places[one] - places[other], axis=1)
        assert np.corrcoef(np.abs(one - other), apart)[0, 1] > 0.7


@pytest.mark.parametrize("n", [2, 20, 100, 300])
def test_equal_images_have_places(n: int) -> None:
    neighbour, distance = lists(np.zeros((n, 3)))
    assert (distance[neighbour >= 0] == 0).all()
    hold(lay_out(neighbour, distance, seed=0, epochs=20), n)


def test_lists_of_any_length_have_places() -> None:
    neighbour, distance = lists(clusters(200, 4)[0])
    for i in range(200):
        neighbour[i, i % (K + 1) :], distance[i, i % (K + 1) :] = -1, np.inf
    hold(lay_out(neighbour, distance, seed=0, epochs=50), 200)


def test_umap_is_given_finite_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the scale of a node from all its distances: by an infinite one, all neighbours would weigh 1."""
    import umap

    given: list[Lists] = []

    class Seen(umap.UMAP):
        def __init__(self, *, precomputed_knn: Lists, **options: object) -> None:
            given.append((precomputed_knn[0].copy(), precomputed_knn[1].copy()))
            super().__init__(precomputed_knn=precomputed_knn, **options)

    neighbour, distance = lists(clusters(60, 2)[0])
    neighbour[::2, 10:], distance[::2, 10:] = -1, np.inf
    monkeypatch.setattr(umap, "UMAP", Seen)
    lay_out(neighbour, distance, seed=0, epochs=5)
    ((which, apart),) = given
    assert which[:, 0].tolist() == list(range(60)) and (apart[:, 0] == 0).all()
    np.testing.assert_array_equal(which[:, 1:], neighbour)
    assert (apart[::2, 11:] == distance[::2, 9:10]).all() and (apart[1::2, 1:] == distance[1::2]).all()


def test_parts_that_nothing_connects_lie_apart() -> None:
    points = np.concatenate([curve(200), curve(200) + 1000, curve(40) - 1000])
    neighbour, distance = lists(points)
    part = np.repeat([0, 1, 2], [200, 200, 40])
    start = graph_start.graph_start(neighbour, distance, 0)
    middle = np.array([start[part == each].mean(axis=0) for each in range(3)])
    own = np.linalg.norm(start - middle[part], axis=1)
    for other in range(3):
        if_other = np.linalg.norm(start - middle[other], axis=1)
        assert (own <= if_other)[part != other].mean() > 0.9
    places = lay_out(neighbour, distance, seed=0)
    nearest = NearestNeighbors(n_neighbors=2).fit(places).kneighbors(places)[1][:, 1]
    assert (part[nearest] == part).mean() > 0.98


def test_images_that_no_edge_touches_lie_around_the_others() -> None:
    neighbour, distance = lists(curve(100))
    neighbour = np.concatenate([neighbour, np.full((5, K), -1, dtype=np.int32)])
    distance = np.concatenate([distance, np.full((5, K), np.inf, dtype=np.float32)])
    places = lay_out(neighbour, distance, seed=0, epochs=50)
    hold(places, 105)
    low, high = places[:100].min(axis=0), places[:100].max(axis=0)
    away = ((places - (low + high) / 2) / ((high - low) / 2)) ** 2
    assert (away[100:].sum(axis=1) > 1).all() and len(np.unique(places[100:], axis=0)) == 5


@pytest.mark.parametrize(("n", "k"), [(1, 3), (4, 3), (30, 3), (30, 0)])
def test_a_collection_without_neighbours_has_places(n: int, k: int) -> None:
    places = lay_out(np.full((n, k), -1, dtype=np.int32), np.full((n, k), np.inf, dtype=np.float32), seed=0)
    hold(places, n)
    assert len(np.unique(places, axis=0)) == n


def test_a_layout_is_quiet_and_changes_nothing_that_it_is_given(capfd: pytest.CaptureFixture[str]) -> None:
    neighbour, distance = lists(curve(100))
    neighbour[5, 3:], distance[5, 3:] = -1, np.inf
    given = neighbour.copy(), distance.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lay_out(neighbour, distance, seed=0, epochs=20)
    assert capfd.readouterr() == ("", "")
    np.testing.assert_array_equal(neighbour, given[0])
    np.testing.assert_array_equal(distance, given[1])


def test_a_layout_is_the_same_bytes_in_each_process_whatever_its_threads(tmp_path: Path) -> None:
    neighbour, distance = lists(clusters(2000, 20)[0])
    np.savez(tmp_path / "lists.npz", neighbour=neighbour, distance=distance)
    hashes = set()
    for threads in ("1", "2"):
        environment = os.environ | {"NUMBA_NUM_THREADS": threads, "OMP_NUM_THREADS": threads}
        environment["OPENBLAS_NUM_THREADS"] = environment["MKL_NUM_THREADS"] = threads
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "lists.npz")]
        hashes.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(hashes) == 1


def test_epochs_are_told_and_change_nothing() -> None:
    neighbour, distance = lists(clusters(200, 4)[0])
    told: list[tuple[int, int]] = []
    places = lay_out(neighbour, distance, 0, 30, on_progress=lambda done, of: told.append((done, of)))
    assert told[0] == (0, 30) and told[-1] == (30, 30) and told == sorted(told)
    assert np.array_equal(places, lay_out(neighbour, distance, 0, 30))


def test_another_seed_gives_another_layout() -> None:
    neighbour, distance = lists(clusters(200, 4)[0])
    assert not np.array_equal(lay_out(neighbour, distance, 0, 10), lay_out(neighbour, distance, 1, 10))


# -- placement ---------------------------------------------------------------------------------------------------------


def test_images_are_placed_beside_their_neighbours() -> None:
    neighbour, distance = lists(clusters(1000, 12)[0])
    places = lay_out(neighbour, distance, seed=0)
    known = np.zeros(1000, dtype=np.bool_)
    known[::2] = True
    placed = placement.beside(np.where(known[:, None], places, np.nan), known, neighbour, distance)
    np.testing.assert_array_equal(placed[known], places[known])
    all_laid_out = preservation.kept_on_layout(places, neighbour)
    assert preservation.kept_on_layout(placed, neighbour) > 0.8 * all_laid_out


def test_an_image_lies_where_most_of_its_neighbours_are_not_between_them() -> None:
    positions = np.array([[0, 0], [0.1, 0], [0, 0.1], [10, 10], [np.nan, np.nan]])
    neighbour = np.full((5, 4), -1, dtype=np.int32)
    distance = np.full((5, 4), np.inf, dtype=np.float32)
    neighbour[4], distance[4] = [3, 0, 1, 2], [1.0, 1.01, 1.02, 1.03]
    placed = placement.beside(positions, np.arange(5) < 4, neighbour, distance)
    assert np.linalg.norm(placed[4]) < 0.2


def test_a_copy_lies_on_its_original() -> None:
    positions = np.array([[3.0, 4.0], [3.0, 4.5], [0, 0]])
    neighbour = np.array([[1, -1], [0, -1], [0, 1]], dtype=np.int32)
    distance = np.array([[1, np.inf], [1, np.inf], [0, 1]], dtype=np.float32)
    placed = placement.beside(positions, np.array([True, True, False]), neighbour, distance)
    assert placed[2].tolist() == [3, 4]


def test_a_chain_is_placed_in_rounds_and_then_what_is_only_listed() -> None:
    """0 is known. 1 lists 0, 2 lists 1. 3 lists nothing, and is listed by 2. Nothing leads to 4."""
    neighbour = np.array([[-1], [0], [1], [-1], [-1]], dtype=np.int32)
    neighbour = np.hstack([neighbour, np.array([[-1], [-1], [3], [-1], [-1]], dtype=np.int32)])
    distance = np.where(neighbour >= 0, 1, np.inf).astype(np.float32)
    placed = placement.beside(np.full((5, 2), 7.0), np.arange(5) == 0, neighbour, distance)
    assert (placed[:4] == 7).all() and np.linalg.norm(placed[4] - 7) >= 1


# -- sample ------------------------------------------------------------------------------------------------------------


def test_a_sample_is_chosen_by_hash_and_grows_with_the_collection() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**63, 1000, dtype=np.uint64)
    chosen = sample.choose(hashes, 200)
    assert len(chosen) == 200 and (np.diff(chosen) > 0).all()
    order = np.random.default_rng(1).permutation(1000)
    assert set(hashes[order][sample.choose(hashes[order], 200)]) == set(hashes[chosen])
    later = sample.choose(np.concatenate([hashes, hashes[:100] + np.uint64(1)]), 220)
    assert len(set(later) & set(chosen)) > 180
    assert sample.choose(hashes, 1000).tolist() == list(range(1000))


def test_lists_of_a_sample_are_its_nearest_by_paths() -> None:
    points = clusters(1000, 5)[0]
    neighbour, distance = lists(points)
    chosen = sample.choose(np.arange(1000, dtype=np.uint64), 250)
    nearest, length = sample.sampled(neighbour, distance, chosen)
    assert nearest.shape == (250, K) and nearest.dtype == np.int32 and length.dtype == np.float32
    exact = lists(points[chosen])[0]
    share = np.mean([len(np.intersect1d(a[a >= 0], b)) for a, b in zip(nearest, exact, strict=True)]) / K
    assert share > 0.5
    for i, (entries, lengths) in enumerate(zip(nearest, length, strict=True)):
        count = int((entries >= 0).sum())
        assert (entries[count:] == -1).all() and np.isinf(lengths[count:]).all()
        assert (
            i not in entries and len(set(entries[:count].tolist())) == count and (np.diff(lengths[:count]) >= 0).all()
        )
        listed = dict(zip(neighbour[chosen[i]].tolist(), distance[chosen[i]].tolist(), strict=True))
        for entry, each in zip(entries[:count], lengths[:count], strict=True):
            assert each == pytest.approx(listed.get(chosen[entry], each))


def test_paths_lead_through_what_is_outside_of_the_sample() -> None:
    neighbour = np.array([[1, -1], [2, -1], [3, -1], [0, -1]], dtype=np.int32)
    distance = np.array([[1, np.inf], [2, np.inf], [4, np.inf], [8, np.inf]], dtype=np.float32)
    nearest, length = sample.sampled(neighbour, distance, np.array([0, 2]))
    assert nearest.tolist() == [[1, -1], [0, -1]] and length.tolist() == [[3, np.inf], [12, np.inf]]


def test_a_sample_of_all_has_the_lists_of_all() -> None:
    neighbour, distance = lists(curve(100))
    nearest, length = sample.sampled(neighbour, distance, np.arange(100))
    np.testing.assert_array_equal(nearest, neighbour)
    np.testing.assert_allclose(length, distance, rtol=1e-6)


# -- preservation ------------------------------------------------------------------------------------------------------


def square(side: int) -> NDArray[np.int32]:
    return np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2).astype(np.int32)


def test_a_layout_that_is_the_points_keeps_all_and_a_random_one_chance() -> None:
    points = np.random.default_rng(0).uniform(size=(2000, 2))
    neighbour, _ = lists(points)
    assert preservation.kept_on_layout(points, neighbour) == 1
    other = np.random.default_rng(1).uniform(size=(2000, 2))
    assert preservation.kept_on_layout(other, neighbour) == pytest.approx(24 / 1999, abs=0.004)


def test_an_image_is_none_of_those_around_it() -> None:
    two = np.array([[1], [0]], dtype=np.int32)
    assert preservation.kept_on_layout(np.zeros((2, 2)), two) == 1
    line = np.stack([np.arange(60.0), np.zeros(60)], axis=1)  # around the first are the 24 that follow it
    first = np.full((60, 2), -1, dtype=np.int32)
    first[0] = preservation.AROUND, preservation.AROUND + 1
    assert preservation.kept_on_layout(line, first) == 0.5


def test_copies_are_near_each_other_however_many_they_are() -> None:
    random = np.random.default_rng(0)
    places = np.concatenate([np.zeros((60, 2)), random.uniform(1, 2, (60, 2))])
    others = (np.arange(60)[:, None] + random.permuted(np.tile(np.arange(1, 60), (60, 1)), axis=1)[:, :10]) % 60
    neighbour = np.full((120, 10), -1, dtype=np.int32)
    neighbour[:60] = others
    assert preservation.kept_on_layout(places, neighbour) == 1
    neighbour[:60, 5:] = 60 + others[:, 5:]
    assert preservation.kept_on_layout(places, neighbour) == 0.5


def test_how_many_neighbours_are_asked_for() -> None:
    lists_of = np.tile(np.arange(12, dtype=np.int32), (20, 1))
    assert preservation.asked_for(lists_of) == 10
    assert preservation.asked_for(lists_of[:, :1]) == 1
    lists_of[:10, 4:] = -1
    lists_of[-1] = -1
    assert preservation.asked_for(lists_of) == 7, "images without neighbours do not count"
    assert preservation.asked_for(lists_of[:, :0]) == preservation.asked_for(lists_of[-1:]) == 0


def test_a_grid_keeps_what_is_within_two_cells() -> None:
    cell = square(7)
    neighbour = np.array([[0, 24 + 2, 24 + 3, 24 + 14, -1]] * 49, dtype=np.int32)
    rest = np.full((48, 5), -1, dtype=np.int32)
    only = np.concatenate([rest[:24], neighbour[24:25], rest[24:]])  # (3, 3) is the cell of image 24
    assert preservation.kept_on_grid(cell, only) == 0.5


def test_chance_is_what_grids_at_random_keep() -> None:
    cell = np.stack(np.meshgrid(np.arange(9), np.arange(4)), axis=-1).reshape(-1, 2).astype(np.int32)
    neighbour = lists(np.random.default_rng(0).standard_normal((30, 3)))[0]
    random = np.random.default_rng(1)
    kept = [preservation.kept_on_grid(cell[random.permutation(36)[:30]], neighbour) for _ in range(400)]
    assert preservation.by_chance(30, 9, 4) == pytest.approx(np.mean(kept), abs=0.01)


def test_nothing_to_keep_is_no_share() -> None:
    none = np.full((5, 3), -1, dtype=np.int32)
    assert np.isnan(preservation.kept_on_layout(np.zeros((5, 2)), none))
    assert np.isnan(preservation.kept_on_grid(np.zeros((5, 2), dtype=np.int32), none))
    assert np.isnan(preservation.kept_on_layout(np.zeros((0, 2)), none[:0]))
    assert np.isnan(preservation.by_chance(1, 1, 1)) and preservation.by_chance(2, 2, 1) == 1
    assert np.isnan(preservation.trustworthiness(np.zeros((3, 2)), np.array([0]), np.array([[0, 1, 2]])))


def test_trustworthiness_is_that_of_scikit_learn() -> None:
    from sklearn.manifold import trustworthiness

    random = np.random.default_rng(0)
    points, places = random.standard_normal((80, 5)), random.standard_normal((80, 2))
    places[:, 0] += points[:, 0]
    ranks = np.linalg.norm(points[:, None] - points, axis=2).argsort(axis=1).argsort(axis=1).astype(np.int32)
    ours = preservation.trustworthiness(places, np.arange(80), ranks)
    assert ours == pytest.approx(trustworthiness(points, places, n_neighbors=10))
    assert preservation.trustworthiness(points[:, :1] @ np.ones((1, 2)), np.arange(80), ranks) < 1
    assert 0 <= preservation.trustworthiness(places, np.arange(0, 80, 3), ranks[::3]) <= 1


def test_of_many_images_the_share_is_taken_of_some() -> None:
    n = preservation.MOST_ASKED + 500
    points = np.random.default_rng(0).uniform(size=(n, 2))
    nearest = cKDTree(points).query(points, 2)[1][:, 1:].astype(np.int32)
    nearest[::2] = np.arange(n)[::2, None] ^ 1  # of a half, an image somewhere
    assert preservation.kept_on_layout(points, nearest) == pytest.approx(0.5, abs=0.02)
