"""`Collection.search` in warehouses that no job wrote: what is read, and what is told of little or nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import image_similarity as ims
from image_similarity.collection import answers, search
from image_similarity.collection.encoder import Encoder
from image_similarity.stages.embeddings import published
from image_similarity.stages.search import judging
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.snapshot import Snapshot
from warehouses import Made, random_vectors, sha256

NAMES = ["d.jpg", "a.jpg", "é.jpg", "c.jpg"]
LIMIT = {"scaled": 0.65, "strict": 0.1, "wide": 1.5, "least": 0.01, "common": 0.5, "source": "given"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def made(folder: Path, names: list[str] = NAMES) -> Made:
    warehouse = Made(str(folder / "warehouse"))
    warehouse.manifest(dict.fromkeys(names, "1"))
    warehouse.embeddings({name: name for name in names}, random_vectors(names))
    return warehouse


def test_one_image_has_no_neighbours(tmp_path: Path) -> None:
    collection = ims.open(made(tmp_path, ["a.jpg"]).uri)
    assert collection.search(image_id="a.jpg", dissimilar=2).schema.equals(answers.SCHEMA)
    assert len(collection.search(image_id="a.jpg")) == 0 and len(collection.search([1.0, 2, 3, 4])) == 1


def test_answers_have_tags_where_some_are_published(tmp_path: Path) -> None:
    warehouse = made(tmp_path)
    names = ["a.jpg", "c.jpg", "d.jpg", "é.jpg"]
    warehouse.embeddings({name: name for name in names}, {}, fingerprint="other", key="k2")
    tags = {"d.jpg": [("dog", True), ("cat", False)], "a.jpg": [("cat", False)], "é.jpg": [("animal", True)]}
    rows = [
        {"image_id": name, "fingerprint": "other", "rank": rank, "class": word, "accepted": accepted}
        | {"content_sha256": sha256(name)}
        for name, of in tags.items()
        for rank, (word, accepted) in enumerate(of, 1)
    ]
    warehouse.publish("tag_images", "other", {"tags": {"other": pa.Table.from_pylist(rows, SCHEMAS["tags"])}})
    answer = ims.open(warehouse.uri).search(image_id="c.jpg", dissimilar=1)
    assert answer.column_names == [*answers.SCHEMA.names, "tag"] and answer.schema.field("tag").type == pa.string()
    assert dict(zip(answer["image_id"].to_pylist(), answer["tag"].to_pylist())) == {
        "d.jpg": "dog",
        "a.jpg": None,
        "é.jpg": "animal",
    }
    assert answer.schema.metadata[b"tags_run_id"] == b"r00000004"
    replaced = {**{name: name for name in names}, "d.jpg": "another file"}
    warehouse.embeddings(replaced, {}, fingerprint="other", key="k2")
    answer = ims.open(warehouse.uri).search(image_id="c.jpg", dissimilar=1)
    now = dict(zip(answer["image_id"].to_pylist(), answer["tag"].to_pylist()))
    assert now == {"d.jpg": None, "a.jpg": None, "é.jpg": "animal"}


def test_lists_are_no_longer_than_the_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from image_similarity.knn import queries

    asked = []
    nearest = queries.nearest

    def seen(*arguments: Any) -> Any:
        asked.append(arguments[3:5])
        return nearest(*arguments)

    monkeypatch.setattr(queries, "nearest", seen)
    found = ims.open(made(tmp_path).uri).search(image_id="a.jpg", k=10**12, dissimilar=10**12)
    assert asked == [(4, 4)] and found["relation"].to_pylist() == ["similar"] * 3 + ["dissimilar"] * 3


@pytest.mark.parametrize("k", [1, 3])
def test_the_same_file_is_an_answer_however_many_have_its_vector(tmp_path: Path, k: int) -> None:
    names = [f"{letter}.jpg" for letter in "abcdefg"]
    warehouse = Made(str(tmp_path / "warehouse"))
    warehouse.manifest(dict.fromkeys(names, "1"))
    warehouse.embeddings({name: name for name in names}, {name: [1.0, 2, 3, 4] for name in names})
    rows = ims.open(warehouse.uri).search(b"g.jpg", k=k).to_pylist()
    assert [row["image_id"] for row in rows] == [*names[: k - 1], "g.jpg"] and {row["distance"] for row in rows} == {0}
    assert rows[-1]["verdict"] == "yes"


def test_answers_read_neither_vectors_nor_folders_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection = ims.open(made(tmp_path).uri)
    first = collection.search(image_id="a.jpg")
    read, dataset = [], Snapshot.dataset

    def seen(self: Snapshot, table: str, slot: str | None = None) -> Any:
        read.append(table)
        return dataset(self, table, slot)

    def listed(*_: Any) -> None:
        raise AssertionError("a folder was listed")

    monkeypatch.setattr(Snapshot, "dataset", seen)
    monkeypatch.setattr(type(collection.snapshot.files), "entries", listed)
    again = collection.search(image_id="a.jpg")
    assert again.equals(first) and read == ["manifest"] and again["width"].to_pylist() == [40] * 3


@pytest.mark.parametrize("limit", ["", "0"], ids=["mapped", "in memory"])
def test_what_is_known_of_pictures_is_in_the_order_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setenv("IMAGE_SIMILARITY_CACHE_BYTES", limit)
    warehouse = made(tmp_path)
    warehouse.embeddings({**{name: name for name in NAMES}, "copy.jpg": "a.jpg"}, {"c.jpg": [1.0] * 4})
    (file, again) = sorted(Path(warehouse.uri).glob("vectors/*/*.parquet"))
    rows = pq.read_table(file)
    sizes = [None, 2, 3, None]  # of d, a, é, c
    prints = [None, b"a" * 1024, b"e" * 1024, None]
    _rewrite(file, rows, sizes, prints)
    _rewrite(again, pq.read_table(again), [4], [b"c" * 1024])  # c was stored again, with what was not known
    for _ in range(2):
        store = ims.open(warehouse.uri).store()
        known = answers.pictures_of(store, [*range(5), None])
        assert store.ids.to_pylist() == ["a.jpg", "c.jpg", "copy.jpg", "d.jpg", "é.jpg"]
        assert [known[row].width for row in range(5)] == [2, 4, 2, None, 3]
        assert [(known[row].thumbprint or b"-")[:1] for row in range(5)] == [b"a", b"c", b"a", b"-", b"e"]
        assert known[2].content_sha256 == sha256("a.jpg")


def _rewrite(file: Path, rows: pa.Table, sizes: list[Any], prints: list[Any]) -> None:
    for name, values in (("width", sizes), ("height", sizes), ("thumbprint", prints)):
        column = rows.schema.get_field_index(name)
        rows = rows.set_column(column, name, pa.array(values, rows.schema.field(name).type))
    pq.write_table(rows, file)


# -- states that were cleaned ------------------------------------------------------------------------------------------


def test_a_projection_that_was_cleaned_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = made(tmp_path)
    collection = ims.open(warehouse.uri)

    def gone(*_: Any) -> None:
        raise FileNotFoundError("there are no files in projections/run_id=r1")

    monkeypatch.setattr(published, "from_images", lambda *_: None)
    monkeypatch.setattr(published, "prepare_published", gone)
    monkeypatch.setattr("image_similarity.collection.encoder.settings_of", lambda *_: None)
    encoder = collection.encoder("vgg16-fc2")
    warehouse.manifest({"a.jpg": "2"})
    with pytest.raises(ims.JobFailed, match="was cleaned meanwhile: refresh"):
        encoder._prepared()
    assert not collection.refresh()._encoders, "it would look in the old state"
    encoder._loading = _done()
    assert list(collection.refresh()._encoders.values()) == [encoder]
    monkeypatch.setattr(judging, "judge", gone)
    monkeypatch.setattr(search, "settings_of", gone)
    with pytest.raises(ims.JobFailed, match="was cleaned meanwhile: refresh"):
        collection.search(image_id="a.jpg")


def _done() -> Any:
    from concurrent.futures import Future

    loaded: Future[None] = Future()
    loaded.set_result(None)
    return loaded


def test_an_encoder_that_failed_is_not_loaded() -> None:
    encoder = Encoder.__new__(Encoder)
    encoder._loading = None
    assert not encoder.is_loaded


# -- vectors of one's own ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compared", [("x", "x"), ("x", "y"), (None, None)])
def test_limits_of_other_vectors_of_ones_own_say_nothing(
    tmp_path: Path, compared: tuple[str | None, str | None]
) -> None:
    warehouse = Made(str(tmp_path / "warehouse"))
    lists, slot = {"a": ["b"]}, "external/cosine"
    first = warehouse.neighbours(lists, slot, settings={"compared_sha256": compared[0]})
    settings = {"limit": {**LIMIT, "fingerprint_key": None}}
    members = pa.Table.from_pylist([{"group_id": "a", "image_id": "a"}])
    warehouse.publish(
        "group_images",
        f"{slot}/near-duplicates",
        {"groups": {f"{slot}/near-duplicates": members}},
        settings=settings,
        inputs={"neighbours": [first]},
    )
    assert judging.judge(ims.open(warehouse.uri).snapshot, "external", "cosine", None) is not None
    warehouse.neighbours(lists, slot, settings={"compared_sha256": compared[1]})
    judge = judging.judge(ims.open(warehouse.uri).snapshot, "external", "cosine", None)
    assert (judge is not None) == (compared == ("x", "x")), "which vectors they are is told by a hash of them"


def test_lists_of_strips_are_no_longer_than_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    from image_similarity.knn import queries
    from image_similarity.knn.candidates import least
    from image_similarity.knn.distances import METRICS, measured
    from image_similarity.knn.rerank import Part

    lengths = []

    def seen(keys: Any, k: int) -> Any:
        lengths.append(k)
        return least(keys, k)

    monkeypatch.setattr(queries, "least", seen)
    monkeypatch.setattr(queries, "STRIP_ROWS", 2)
    metric = METRICS["euclidean"]
    vectors = measured(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32), metric)
    part = Part(vectors, np.arange(5, dtype=np.int32), np.arange(5))
    near, far = queries.nearest(metric, queries.strangers(part[:1]), part, 5, 5, 1)
    assert sorted(lengths) == [1, 1, 2, 2, 2, 2, 5, 5] and near.shape == far.shape == (1, 5)
