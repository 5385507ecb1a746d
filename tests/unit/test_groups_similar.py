"""What is said of groups of similar images, against what their lists say pair by pair."""

import numpy as np
import pyarrow as pa
import pytest

import oracle
from image_similarity.neighbour_graph import Graph, Images
from image_similarity.stages.groups import similar
from image_similarity.stages.groups.vectors import Here


def graph_of(vectors: np.ndarray, k: int) -> Graph:
    n = len(vectors)
    neighbour, distance = np.full((n, k), -1, np.int32), np.full((n, k), np.inf, np.float32)
    for row, rank, other, apart in oracle.neighbours(vectors, "cosine", k):
        neighbour[row, rank - 1], distance[row, rank - 1] = other, apart
    ids = pa.array([f"{i:03d}" for i in range(n)], pa.large_string())
    return Graph(Images(ids, np.arange(n, dtype=np.int32), None), neighbour, distance)


@pytest.mark.parametrize("seed", range(4))
def test_pairs_of_lists_and_the_nearest_outsiders(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar, "_ROWS_AT_ONCE", 7)
    rng = np.random.default_rng(seed)
    vectors = oracle.planted(60, 6, seed)
    graph, label = graph_of(vectors, 5), rng.integers(-1, 4, 60).astype(np.int32)
    lists = [dict(zip(row.tolist(), of.tolist())) for row, of in zip(graph.neighbour, graph.distance)]
    pairs = {(a, b) for a in range(60) for b in range(a) if label[a] == label[b] >= 0}
    listed = {(a, b) for a, b in pairs if b in lists[a] or a in lists[b]}
    assert similar._share_listed(graph, label) == pytest.approx(len(listed) / len(pairs))
    nearest, outsider = similar._outside(graph, label, 5)  # the last has no members
    for group in range(5):
        beyond = [
            (apart, other)
            for node in np.nonzero(label == group)[0]
            for other, apart in lists[node].items()
            if label[other] != group
        ]
        wanted = min(beyond, default=(np.nan, -1))
        assert (nearest[group], outsider[group]) == pytest.approx(wanted, nan_ok=True)
    assert similar._share_listed(graph, np.full(60, -1, np.int32)) == 1


@pytest.mark.parametrize("most", [1, 7, 1000])
def test_distances_that_no_list_has_are_those_of_the_vectors(most: int) -> None:
    vectors = oracle.planted(40, 6, 2)
    graph = graph_of(vectors, 3)
    batch = pa.record_batch({"content": graph.images.ids, "embedding": pa.array(list(vectors), pa.list_(pa.float32()))})
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 40, (2, 90))
    found = similar._distances(graph, a, b, Here(lambda: iter([batch])), "cosine", most)
    exact = oracle.distances(vectors, "cosine")[a, b]
    assert np.array_equal(found, np.where(a == b, 0, exact).astype(np.float32))
