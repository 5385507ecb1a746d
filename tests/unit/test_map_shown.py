"""The images of the map, and their lists among one another, against what they are by definition."""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import oracle
from image_similarity import neighbour_graph
from image_similarity.pages import maps
from image_similarity.stages.map import shown
from image_similarity.stages.map.shown import Shown
from image_similarity.storage.filesystems import files_of


def collection(contents: list[int], k: int, seed: int = 0) -> tuple[pa.Table, pa.Table]:
    """Rows of embeddings and neighbours of images ``i00``, ``i01``, ...; those of the same content are copies."""
    names = [f"i{number:02}" for number in range(len(contents))]
    distinct = np.random.default_rng(seed).normal(size=(max(contents) + 1, 4)).astype(np.float32)
    rows = oracle.neighbours(distinct[contents], "cosine", k)
    hashes = [hashlib.sha256(bytes([content])).hexdigest() for content in contents]
    neighbours = {
        "image_id": [names[row] for row, *_ in rows],
        "relation": ["similar"] * len(rows),
        "rank": pa.array([rank for _, rank, *_ in rows], pa.int32()),
        "neighbour_id": [names[other] for _, _, other, _ in rows],
        "distance": pa.array([distance for *_, distance in rows], pa.float32()),
    }
    return pa.table({"image_id": names, "content_sha256": hashes}), pa.table(neighbours)


def cards(names: list[str], absent: tuple[str, ...] = ()) -> pa.Table:
    """In another order than that of the ids. The files of images ``absent`` could not be read."""
    rows: list[dict[str, Any]] = [
        {"image_id": name, "page": f"page of {name}", "picture": None if name in absent else name}
        for name in reversed(names)
    ]
    return pa.Table.from_pylist(rows, pa.schema([field for field in maps.CARDS_SCHEMA if field.name in shown.COLUMNS]))


def read(contents: list[int], k: int, of: pa.Table, seed: int = 0) -> Shown:
    embeddings, neighbours = collection(contents, k, seed)
    images = neighbour_graph.images_of(ds.dataset(embeddings))
    names = neighbour_graph.Names(images.ids)
    return shown.of(neighbour_graph.read(ds.dataset(neighbours), images, names), names, of)


def listed(of: Shown, row: int) -> list[str]:
    ids = of.ids.to_pylist()
    return [ids[other] for other in of.of_images[0][row].tolist() if other >= 0]


def test_images_without_a_picture_or_a_vector_are_not_on_the_map() -> None:
    names = [f"i{number:02}" for number in range(20)]
    of = cards([*names, "never embedded"], ("i03", "i07"))
    on_map = read(list(range(20)), 6, of)
    compared = neighbour_graph.Names(pa.array([*names, "left"], pa.large_string()))
    left = [name for name in names if name not in ("i03", "i07")]
    assert on_map.ids.to_pylist() == left
    assert on_map.cards["page"].to_pylist() == [f"page of {name}" for name in left]
    failed = pa.chunked_array([["broken", "never embedded"], ["broken"]])
    assert shown.missing(compared, of, on_map, failed) == {
        "without_picture": 2,
        "without_vector": 1,
        "not_in_gallery": 1,
        "failed": 1,
    }


@pytest.mark.parametrize("seed", range(3))
def test_lists_are_those_of_the_table_without_what_is_not_shown(seed: int) -> None:
    names = [f"i{number:02}" for number in range(20)]
    on_map = read(list(range(20)), 6, cards(names, ("i03", "i07")), seed)
    table = collection(list(range(20)), 6, seed)[1].to_pylist()
    for row, name in enumerate(on_map.ids.to_pylist()):
        others = [one["neighbour_id"] for one in table if one["image_id"] == name]
        assert listed(on_map, row) == [other for other in others if other not in ("i03", "i07")]
        distances = on_map.of_images[1][row]
        assert (np.diff(distances[np.isfinite(distances)]) >= 0).all()
        assert np.isinf(distances[on_map.of_images[0][row] < 0]).all()


def test_copies_are_one_node_and_the_nearest_of_one_another() -> None:
    contents = [0, 1, 0, 2, 0, 3, 1, 4, 5, 6]
    on_map = read(contents, 9, cards([f"i{number:02}" for number in range(10)]))
    assert on_map.node.tolist() == contents and len(on_map.neighbour) == 7
    assert on_map.content is not None
    assert on_map.content.tolist() == [hashlib.sha256(bytes([content])).digest() for content in range(7)]
    assert listed(on_map, 0)[:2] == ["i02", "i04"] and listed(on_map, 2)[:2] == ["i04", "i00"]
    assert listed(on_map, 6)[0] == "i01"
    assert on_map.of_images[1][0, :2].tolist() == [0, 0] and on_map.of_images[1][0, 2] > 0
    others = [{"i00", "i02", "i04"}, {"i01", "i06"}]
    assert all(len({*listed(on_map, 3)} & copies) <= 1 for copies in others), "one stands for all copies"


@pytest.mark.parametrize("count", [1, 2, 20])
def test_images_that_are_all_the_same_file(count: int) -> None:
    on_map = read([0] * count, 3, cards([f"i{number:02}" for number in range(count)]))
    assert (len(on_map), len(on_map.neighbour)) == (count, 1)
    assert not (on_map.neighbour >= 0).any()
    assert [len(listed(on_map, row)) for row in range(count)] == [min(count - 1, 10)] * count


def test_cards_are_read_in_the_order_of_their_files(tmp_path: Any) -> None:
    table = cards(["a", "b", "c"]).select(shown.COLUMNS)
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "_SUCCESS").touch()
    for number in (1, 0, 2):
        pq.write_table(table.slice(number, 1), tmp_path / "cards" / f"part-{number}.parquet")
    assert shown.read_cards(files_of(str(tmp_path)), f"{tmp_path}/cards") == table
    with pytest.raises(FileNotFoundError):
        shown.read_cards(files_of(str(tmp_path)), f"{tmp_path}/none")


@pytest.mark.parametrize("columns", [{"image_id": ["a"]}, {**dict.fromkeys(shown.COLUMNS, ["a"]), "width": ["wide"]}])
def test_cards_of_other_columns_are_damaged(tmp_path: Any, columns: Any) -> None:
    pq.write_table(pa.table(columns), tmp_path / "part-0.parquet")
    with pytest.raises(ValueError):
        shown.read_cards(files_of(str(tmp_path)), str(tmp_path))
