"""All pairs within a radius, against the exact distances of all pairs."""

import numpy as np
import pytest

from image_similarity.grouping import components
from image_similarity.knn import distances, range_search
from image_similarity.knn.distances import METRICS, Values, Vectors, measured


def vectors_of(seed: int, metric: str, n: int = 90, d: int = 5) -> Vectors:
    """Vectors with copies, equal ones, and strangers; of one length and of very different ones."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((n // 4, d)) * rng.choice([1, 1, 1000, 1e-3], (n // 4, 1))
    noise = rng.choice([0, 1e-6, 0.01, 0.1], (n, 1)) * rng.standard_normal((n, d))
    chosen = centres[rng.integers(0, len(centres), n)]
    return measured((chosen * (1 + noise)).astype(np.float32), METRICS[metric])


def pairs_of(vectors: Vectors, metric: str, radius: float) -> dict[tuple[int, int], float]:
    between = distances.block(METRICS[metric], vectors, vectors).view(np.float32)
    near = (between <= np.float64(radius)) & np.tri(len(vectors), k=-1, dtype=np.bool_).T
    return {(int(a), int(b)): float(between[a, b]) for a, b in np.argwhere(near)}


def radii(vectors: Vectors, metric: str) -> list[float]:
    """0, some of the distances themselves, just below these, and one that has all."""
    between = np.sort(list(pairs_of(vectors, metric, np.inf).values()))
    chosen = between[[len(between) // 100, len(between) // 10]]
    return [0.0, *chosen.tolist(), *(float(np.nextafter(of, 0.0)) for of in chosen), float(between[-1])]


@pytest.fixture(params=[7, 1024], ids=["small tiles", "one tile"])
def _tile_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(range_search, "_TILE_ROWS", request.param)


@pytest.mark.usefixtures("_tile_rows")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", range(4))
def test_pairs_are_those_within_the_radius(seed: int, metric: str) -> None:
    vectors = vectors_of(seed, metric)
    positions = np.random.default_rng(seed).permutation(1000)[: len(vectors)]
    for radius in radii(vectors, metric):
        found = range_search.within(METRICS[metric], vectors, positions, radius, threads=2)
        expected = pairs_of(vectors, metric, radius)
        named = {tuple(sorted((int(positions[a]), int(positions[b])))): d for (a, b), d in expected.items()}
        assert dict(zip(zip(found.a.tolist(), found.b.tolist()), found.distance.tolist())) == named
        assert len(found.a) == len(expected)


def labels_of(n: int, pairs: range_search.Pairs) -> list[int]:
    labels: list[int] = components.of(n, pairs.a.astype(np.int32), pairs.b.astype(np.int32)).tolist()
    return labels


@pytest.mark.usefixtures("_tile_rows")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", range(4))
def test_connections_connect_what_is_within_the_radius(seed: int, metric: str) -> None:
    vectors = vectors_of(seed, metric)
    positions = np.arange(len(vectors))
    for radius in radii(vectors, metric):
        every = range_search.within(METRICS[metric], vectors, positions, radius)
        found = range_search.connections(METRICS[metric], vectors, positions, radius, threads=2)
        expected = pairs_of(vectors, metric, radius)
        assert labels_of(len(vectors), found) == labels_of(len(vectors), every)
        assert len(found.a) < len(vectors)
        assert {pair: expected.get(pair) for pair in zip(found.a.tolist(), found.b.tolist())} == dict(
            zip(zip(found.a.tolist(), found.b.tolist()), found.distance.tolist())
        )


@pytest.mark.usefixtures("_tile_rows")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("seed", range(4))
def test_vectors_of_one_label_are_connected_already(seed: int, metric: str) -> None:
    vectors = vectors_of(seed, metric)
    n, rng = len(vectors), np.random.default_rng(seed)
    for radius in radii(vectors, metric):
        every = range_search.within(METRICS[metric], vectors, np.arange(n), radius)
        some = rng.random(len(every.a)) < 0.7
        known = range_search.Pairs(every.a[some], every.b[some], every.distance[some])
        parts = np.array(labels_of(n, known))
        label = np.where(parts < 0, 1000 + np.arange(n), parts)
        more = range_search.connections(METRICS[metric], vectors, np.arange(n), radius, label, threads=2)
        both = range_search._joined([known, more])
        assert labels_of(n, both) == labels_of(n, every)
        assert (label[more.a] != label[more.b]).all()


@pytest.mark.parametrize("metric", METRICS)
def test_balls_that_are_far_are_not_compared_and_near_ones_are(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tight groups, cut in two: the halves are found, and nearly nothing else is compared."""
    monkeypatch.setattr(range_search, "_TILE_ROWS", 64)
    rng = np.random.default_rng(5)
    centres = rng.standard_normal((40, 16))
    values = np.repeat(centres, 40, axis=0) + 1e-3 * rng.standard_normal((1600, 16))
    vectors, label = measured(values.astype(np.float32), METRICS[metric]), np.arange(1600) // 20
    compared, scores = [], range_search._Search.scores

    def counted(self: range_search._Search, rows: np.ndarray, columns: np.ndarray) -> tuple[Values, Values]:
        compared.append(len(rows) * len(columns))
        return scores(self, rows, columns)

    monkeypatch.setattr(range_search._Search, "scores", counted)
    radius = 0.01 if metric == "euclidean" else 1e-4
    found = range_search.connections(METRICS[metric], vectors, np.arange(1600), radius, label)
    assert sorted((label[found.a] // 2).tolist()) == list(range(40)) == sorted((label[found.b] // 2).tolist())
    assert sum(compared) < 1600 * 1600 / 20


def test_equal_vectors_are_counted_once_however_many() -> None:
    values = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    many = measured(values[np.random.default_rng(1).integers(0, 3, 30_000)], METRICS["cosine"])
    found = range_search.connections(METRICS["cosine"], many, np.arange(30_000), 0.0)
    assert len(found.a) == 30_000 - 3 and not found.distance.any()
    first, equal = range_search.equal_vectors(many.values)
    assert len(first) == 3 and (many.values[first][equal] == many.values).all() and (np.diff(first) > 0).all()


def test_vectors_of_one_hash_that_differ_are_not_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(range_search, "_hashed", lambda words: np.zeros(len(words), dtype=np.uint64))
    values = np.array([[1, 2], [3, 4], [1, 2], [5, 6]], dtype=np.float32)
    first, equal = range_search.equal_vectors(values)
    assert (values[first][equal] == values).all() and equal[0] == equal[2] != equal[1]


@pytest.mark.parametrize("n", [0, 1])
def test_no_pair_among_none_or_one(n: int) -> None:
    vectors = measured(np.ones((n, 4), dtype=np.float32), METRICS["cosine"])
    for found in (
        range_search.within(METRICS["cosine"], vectors, np.arange(n), 1.0),
        range_search.connections(METRICS["cosine"], vectors, np.arange(n), 1.0),
    ):
        assert len(found.a) == len(found.b) == len(found.distance) == 0


@pytest.mark.parametrize("scale", [1e-42, 1e-20, 1e18, 1e37])
def test_the_shortest_and_the_longest_vectors(scale: float) -> None:
    rng = np.random.default_rng(3)
    values = (np.repeat(rng.standard_normal((10, 4)), 3, axis=0) * scale).astype(np.float32)
    values[::3] = np.nextafter(values[::3], np.float32(0))
    vectors = measured(values, METRICS["euclidean"])
    for radius in radii(vectors, "euclidean"):
        found = range_search.within(METRICS["euclidean"], vectors, np.arange(30), radius)
        assert dict(zip(zip(found.a.tolist(), found.b.tolist()), found.distance.tolist())) == pairs_of(
            vectors, "euclidean", radius
        )
