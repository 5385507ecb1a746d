"""The table of neighbours as arrays of nodes, against what it says row by row."""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

import oracle
from image_similarity import neighbour_graph
from image_similarity.errors import JobFailed
from image_similarity.knn import hashing
from image_similarity.neighbour_graph import Graph, Names
from image_similarity.stages.groups import limits
from image_similarity.stages.groups.blocks import cut
from image_similarity.warehouse.schemas import SCHEMAS


def tables(names: list[str], contents: list[int], k: int, seed: int = 0) -> tuple[pa.Table, pa.Table]:
    """Embeddings and neighbours of images ``names`` with ``contents``, by definition."""
    order = sorted(range(len(names)), key=lambda i: names[i].encode())
    names, contents = [names[i] for i in order], [contents[i] for i in order]
    distinct = np.random.default_rng(seed).integers(-2, 3, (max(contents) + 1, 4)).astype(np.float32)
    distinct[:, 0] = 3
    found = oracle.neighbours(distinct[contents], "cosine", k)
    columns = [names, [hashlib.sha256(bytes([content])).hexdigest() for content in contents]]
    embeddings = pa.table({"image_id": columns[0], "content_sha256": columns[1]})
    neighbours = {
        "image_id": [names[row] for row, *_ in found],
        "relation": ["similar"] * len(found),
        "rank": pa.array([rank for _, rank, *_ in found], pa.int32()),
        "neighbour_id": [names[other] for _, _, other, _ in found],
        "distance": pa.array([distance for *_, distance in found], pa.float32()),
    }
    return embeddings, pa.table(neighbours)


def read(embeddings: pa.Table, neighbours: pa.Table) -> Graph:
    images = neighbour_graph.images_of(ds.dataset(embeddings))
    return neighbour_graph.read(ds.dataset(neighbours), images, Names(images.ids))


def by_definition(embeddings: pa.Table, neighbours: pa.Table) -> dict[str, list[tuple[float, str]]]:
    """First image of a content -> the distinct other contents in the lists of all its images, by their first images."""
    content = dict(zip(*(column.to_pylist() for column in embeddings.columns)))
    first = {
        name: min((other for other in content if content[other] == content[name]), key=str.encode) for name in content
    }
    lists: dict[str, set[tuple[float, str]]] = {name: set() for name in first.values()}
    for row in neighbours.to_pylist():
        if first[row["image_id"]] != first[row["neighbour_id"]]:
            lists[first[row["image_id"]]].add((row["distance"], first[row["neighbour_id"]]))
    return {name: sorted(found, key=lambda one: (one[0], one[1].encode())) for name, found in lists.items()}


@pytest.mark.parametrize(
    ("images", "contents", "k"),
    [(40, 40, 5), (40, 25, 5), (40, 6, 12), (9, 9, 12), (30, 3, 3), (2, 1, 1), (2, 2, 4), (1, 1, 3)],
)
@pytest.mark.parametrize("seed", range(3))
def test_lists_of_nodes_are_those_of_their_images(images: int, contents: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"{'äZ é日'[i % 5]}{i}" for i in range(images)]
    of = [*range(contents), *rng.integers(0, contents, images - contents).tolist()]
    embeddings, neighbours = tables(names, of, k, seed)
    found = (
        read(embeddings, neighbours.take(rng.permutation(len(neighbours)))) if seed else read(embeddings, neighbours)
    )
    ids = found.images.ids.to_pylist()
    assert ids == sorted(names, key=str.encode)
    first = [ids[image] for image in found.images.first]
    assert first == sorted(first, key=str.encode), "nodes are in the order of their names"
    lists = {
        name: [(float(d), first[other]) for other, d in zip(*row) if other >= 0]
        for name, row in zip(first, zip(found.neighbour, found.distance))
    }
    assert lists == by_definition(embeddings, neighbours)
    assert np.isinf(found.distance[found.neighbour < 0]).all()


def test_no_images_and_no_lists() -> None:
    embeddings, neighbours = (SCHEMAS[name].empty_table() for name in ("embeddings", "neighbours"))
    assert len(read(embeddings, neighbours)) == 0
    assert len(neighbour_graph.images_in(ds.dataset(neighbours))) == 0


def damaged(what: str) -> tuple[pa.Table, pa.Table]:
    embeddings, neighbours = tables([f"i{n}" for n in range(6)], list(range(6)), 3)
    if what == "an unknown image":
        embeddings = embeddings.slice(1)
    if what == "an image twice":
        embeddings = pa.concat_tables([embeddings, embeddings.slice(0, 1)])
    if what == "a rank is gone":
        neighbours = neighbours.take([0, *range(2, len(neighbours))])
    if what == "no order":
        neighbours = neighbours.set_column(4, "distance", pa.array(range(len(neighbours), 0, -1), pa.float32()))
    if what == "no sha256":
        embeddings = embeddings.set_column(1, "content_sha256", pa.array(["x" * 64] * 6))
    return embeddings, neighbours


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("an unknown image", "neighbours name 'i0', which is not among"),
        ("an image twice", "several rows of the image 'i0'"),
        ("a rank is gone", "neighbours lack ranks"),
        ("no order", "are not in order"),
        ("no sha256", "is no sha256"),
    ],
)
def test_tables_that_contradict_are_said(what: str, message: str) -> None:
    with pytest.raises(JobFailed, match=message):
        read(*damaged(what))


def test_names_are_found_though_their_hashes_collide(monkeypatch: pytest.MonkeyPatch) -> None:
    def colliding(content: Any, ends: Any, basis: int = 0) -> Any:
        """By the first basis, all names have one of three hashes."""
        return fnv(content, ends, basis) % np.uint64(3 if basis == hashing.BASIS else 2**63)

    fnv = hashing.fnv
    monkeypatch.setattr(hashing, "fnv", colliding)
    names = Names(pa.array([f"n{i}" for i in range(50)], pa.large_string()))
    assert names.find(pa.array(["n7", "x", "n49", "", "n0"])).tolist() == [7, -1, 49, -1, 0]
    assert Names(pa.array([], pa.large_string())).find(pa.array(["a"])).tolist() == [-1]


def test_blocks_hold_what_fits() -> None:
    sizes = np.array([3, 3, 9, 1, 1, 1, 4])
    assert [sizes[part].tolist() for part in cut(sizes, 6)] == [[3, 3], [9], [1, 1, 1], [4]]
    assert cut(np.array([], dtype=np.int64), 6) == []


@pytest.mark.parametrize("size", [300, 30_000])
def test_the_share_of_changed_images(size: int) -> None:
    """Exact for small collections, estimated for large ones."""
    hashes = hashing.mixed(np.arange(size, dtype=np.uint64), 1)
    fresh = hashing.mixed(np.arange(size, 2 * size, dtype=np.uint64), 1)
    before = limits.sketch_of(hashes)
    assert limits.changed_share(before, before) == 0
    now = limits.sketch_of(np.concatenate([hashes[: size // 2], fresh[: size // 2]]))
    assert limits.changed_share(before, now) == pytest.approx(2 / 3, abs=1e-9 if size == 300 else 0.03)
    assert limits.changed_share(before, limits.sketch_of(fresh)) == 1
