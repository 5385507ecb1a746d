"""`image_similarity.open` and what a collection answers, without Spark."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import image_similarity as ims
from image_similarity.collection import defaults, tables
from image_similarity.knn import distances
from image_similarity.settings import DEFAULT_FINGERPRINT, NeighboursSettings
from image_similarity.storage.local import LocalFiles
from image_similarity.warehouse import defaults as first
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.snapshot import RecordsGone
from warehouses import Made, random_vectors, sha256

ROOT = Path(__file__).resolve().parents[2]
CONTENTS = {"b.jpg": "B", "a.jpg": "A", "é.jpg": "E", "copy of a.jpg": "A"}
"""Two files with the same bytes; not in the order of their names."""
VECTORS = random_vectors(["gone", "E", "B", "A"])
LISTS = {"b.jpg": ["a.jpg", "é.jpg"], "a.jpg": ["b.jpg", "copy of a.jpg"]}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("IMAGE_SIMILARITY_CACHE_BYTES", raising=False)
    return tmp_path / "cache" / "image-similarity" / "vectors"


@pytest.fixture
def made(tmp_path: Path) -> Made:
    warehouse = Made(str(tmp_path / "warehouse"))
    warehouse.manifest({**dict.fromkeys(CONTENTS, "1"), "broken.jpg": "1", "new.jpg": "1"})
    warehouse.embeddings(CONTENTS, VECTORS, failures={"broken.jpg": "not_an_image"})
    warehouse.neighbours(LISTS, dissimilar={"a.jpg": ["é.jpg"]})
    return warehouse


def refused(call: Callable[..., Any], *arguments: Any, error: type[Exception] = ims.WrongInput, **named: Any) -> str:
    with pytest.raises(error) as raised:
        call(*arguments, **named)
    assert type(raised.value) is error and "\n" not in str(raised.value)
    return str(raised.value)


# -- opening -----------------------------------------------------------------------------------------------------------


def test_a_collection_is_opened_without_spark_and_without_what_computes(made: Made) -> None:
    program = f"""
import sys
sys.modules["pyspark"] = None
import image_similarity as ims
assert "pyarrow" not in sys.modules and "numpy" not in sys.modules, "workers import this package"
collection = ims.open({made.uri!r})
collection.images(), collection.neighbours(), collection.embeddings(), collection.fingerprints(), repr(collection)
assert not [name for name in ("torch", "numba", "sklearn", "PIL") if name in sys.modules]
assert isinstance(collection, ims.Collection) and isinstance(collection.embeddings(), ims.Embeddings)
assert {{"open", "Collection", "Run"}} <= set(dir(ims))
"""
    assert (
        subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": f"{ROOT}/lib"}).returncode == 0
    )


def test_names_that_the_package_lacks() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'opne'"):
        getattr(ims, "opne")  # noqa: B009


def test_places_that_are_no_warehouse(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = tmp_path / "gallery"
    gallery.mkdir()
    (gallery / "gallery.json").write_text('{"kind": "image-similarity gallery", "renderings": []}')
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    there = re.escape(made.uri)
    for place, message in {
        "warehose": r"no such folder: .*/warehose; did you mean warehouse\?",
        "pictures": rf"this is no warehouse \(there are a.jpg\); did you mean {there}\?",
        "gallery": rf"this is a gallery: name its warehouse; did you mean {there}\?",
        "warehouse/manifest": rf"this is no warehouse \(there are run_id=\w+\); did you mean {there}\?",
        "empty": "nothing is published here yet: run a job first, run_pipeline for one",
        "file": "is a file; name a folder",
        "a\0b": "null",
        "a" * 300: "too long",
        "hdfs://host/w": "hdfs:// is reached through Spark only: start a job, or copy the folder",
        "s3://": "names no bucket",
        "https://host/w": "not read from a web address",
    }.items():
        told = refused(ims.open, place)
        assert re.search(message, told) and told.startswith(place), told
    assert "secret" not in refused(ims.open, "https://me:secret@host/w?sig=secret")
    assert ims.open(Path("warehouse")).uri == made.uri


def test_a_pointer_that_is_damaged_or_gone(made: Made) -> None:
    pointer = Path(made.uri) / "_current.json"
    pointer.write_text("{")
    assert "_current.json is damaged" in refused(ims.open, made.uri, error=ims.JobFailed)
    pointer.unlink()
    assert "is gone, though runs were published" in refused(ims.open, made.uri, error=ims.JobFailed)


def test_a_warehouse_that_may_not_be_read(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: LocalFiles, path: str) -> bytes:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(LocalFiles, "read", read)
    assert "cannot be read: " in refused(ims.open, made.uri, error=ims.JobFailed)


def test_weights_are_of_a_published_fingerprint(made: Made) -> None:
    assert ims.open(made.uri, weights={"vgg16-fc2": "f.pth"}).weights == {"vgg16-fc2": "f.pth"}
    assert "did you mean vgg16-fc2?" in refused(ims.open, made.uri, weights={"vgg16-fc": "f.pth"})


def test_weights_are_files_or_addresses(made: Made) -> None:
    assert ims.open(made.uri, weights={"vgg16-fc2": Path("w.pth")}).weights == {"vgg16-fc2": "w.pth"}
    assert "give a file or an address, not 3" in refused(ims.open, made.uri, weights={"vgg16-fc2": 3})


def test_one_state_is_read_until_it_is_read_anew(made: Made) -> None:
    collection = ims.open(made.uri)
    assert collection.version == 3 and collection.refresh() is collection
    store = collection.store()
    made.neighbours({"a.jpg": ["é.jpg"]})
    assert len(collection.neighbours(relation="similar")) == 4
    later = collection.refresh()
    assert later.version == 4 and len(later.neighbours(relation="similar")) == 1
    assert later.store() is store, "vectors that are the same are not read again"
    made.embeddings({"a.jpg": "A"}, {})
    latest = later.refresh()
    assert not latest._stores and len(latest.store()) == 1, "vectors that nobody asks for again are let go"


def test_what_was_cleaned_meanwhile(made: Made) -> None:
    collection = ims.open(made.uri)
    old = collection.neighbours().schema.metadata[b"run_id"].decode()
    made.neighbours(LISTS)
    shutil.rmtree(Path(made.uri) / "neighbours" / f"run_id={old}")
    told = refused(collection.neighbours, error=ims.JobFailed)
    assert told == f"{made.uri}: version 3 was cleaned meanwhile: refresh() reads the newest"
    assert len(collection.refresh().neighbours(relation="similar")) == 4


def test_a_warehouse_that_was_moved(made: Made) -> None:
    collection = ims.open(made.uri)
    Path(made.uri).rename(f"{made.uri}-moved")
    told = refused(collection.neighbours, error=ims.JobFailed)
    assert told == f"{made.uri}: nothing is published here any more: was the warehouse moved or removed?"


def test_duckdb_says_that_a_state_was_cleaned(made: Made) -> None:
    collection = ims.open(made.uri)
    old = collection.neighbours().schema.metadata[b"run_id"].decode()
    collection.duckdb()
    shutil.rmtree(Path(made.uri) / "neighbours" / f"run_id={old}")
    assert "published files are gone" in refused(collection.duckdb, error=ims.JobFailed)
    made.neighbours(LISTS)
    assert "was cleaned meanwhile: refresh()" in refused(collection.duckdb, error=ims.JobFailed)


def test_records_that_were_merged_and_cleaned_meanwhile(made: Made) -> None:
    collection = ims.open(made.uri)
    shutil.rmtree(Path(made.uri) / "runs" / "run_id=r00000001")
    assert "records of runs are gone" in refused(collection.runs, error=RecordsGone)
    made.neighbours(LISTS)
    assert "was cleaned meanwhile: refresh()" in refused(collection.runs, error=ims.JobFailed)


def test_published_files_that_somebody_has_removed_or_damaged(made: Made) -> None:
    collection = ims.open(made.uri)
    (file,) = (Path(made.uri) / "neighbours").rglob("*.parquet")
    file.write_bytes(b"no Parquet")
    assert "cannot be read: " in refused(collection.neighbours, error=ims.JobFailed)
    file.unlink()
    assert "published files are gone" in refused(collection.neighbours, error=ims.JobFailed)


# -- which one is meant ------------------------------------------------------------------------------------------------


def test_the_default_is_that_of_the_settings() -> None:
    assert first.DEFAULT_FINGERPRINT == DEFAULT_FINGERPRINT == NeighboursSettings().fingerprint
    assert first.DEFAULT_METRIC == NeighboursSettings().metric
    assert defaults.METRICS == tuple(distances.METRICS)


def test_the_default_fingerprint(tmp_path: Path) -> None:
    warehouse = Made(str(tmp_path / "warehouse"))
    warehouse.manifest({"a.jpg": "1"})
    collection = ims.open(warehouse.uri)
    assert len(collection.fingerprints()) == 0 and collection.fingerprints().schema == tables.FINGERPRINTS
    assert "no fingerprint is published yet: run embed_images first" in refused(collection.embeddings)
    warehouse.embeddings({"a.jpg": "A"}, {"A": [1, 2]}, "squeezenet", "k2")
    collection = collection.refresh()
    assert collection.embeddings().vectors.shape == (1, 2)
    warehouse.embeddings({"a.jpg": "A"}, {"A": [1, 2, 3]}, "resnet", "k3")
    collection = collection.refresh()
    assert refused(collection.embeddings).endswith("name one of resnet, squeezenet")
    warehouse.embeddings({"a.jpg": "A"}, {"A": [1, 2, 3, 4]})
    collection = collection.refresh()
    assert collection.embeddings().vectors.shape == (1, 4)
    assert collection.fingerprints()["fingerprint"].to_pylist() == ["vgg16-fc2", "resnet", "squeezenet"]
    told = refused(collection.embeddings, "resnte")
    assert "'resnte' is not published (published: vgg16-fc2, resnet, squeezenet); did you mean resnet?" in told


def test_the_default_metric(made: Made) -> None:
    made.neighbours({"a.jpg": ["é.jpg"]}, "vgg16-fc2/euclidean")
    collection = ims.open(made.uri)
    assert set(collection.neighbours()["metric"].to_pylist()) == {"cosine"}
    assert set(collection.neighbours(metric="euclidean")["metric"].to_pylist()) == {"euclidean"}
    alone = Made(f"{made.uri}-2")
    alone.embeddings(CONTENTS, VECTORS)
    alone.neighbours(LISTS, "vgg16-fc2/correlation")
    assert set(ims.open(alone.uri).neighbours()["metric"].to_pylist()) == {"correlation"}


# -- tables ------------------------------------------------------------------------------------------------------------


def test_fingerprints(made: Made) -> None:
    (row,) = ims.open(made.uri).fingerprints().to_pylist()
    assert row == {
        **{"fingerprint": "vgg16-fc2", "kind": "network", "network": "vgg16", "layer": "fc2"},
        **{"weights": "untrained (seed 0)", "trained": False, "dimensions": 4, "images": 4},
        **{"fingerprint_key": "k1", "run_id": "r00000002"},
    }


def test_neighbours_of_one_run_in_order(made: Made) -> None:
    made.neighbours({"é.jpg": ["a.jpg"], **LISTS}, dissimilar={"b.jpg": ["é.jpg"], "a.jpg": ["é.jpg"]})
    collection = ims.open(made.uri)
    table = collection.neighbours()
    assert table.schema == tables.NEIGHBOURS and table.schema.metadata[b"run_id"] == b"r00000004"
    rows = [(row["relation"], row["image_id"], row["rank"], row["neighbour_id"]) for row in table.to_pylist()]
    assert rows == [
        ("similar", "a.jpg", 1, "b.jpg"),
        ("similar", "a.jpg", 2, "copy of a.jpg"),
        ("similar", "b.jpg", 1, "a.jpg"),
        ("similar", "b.jpg", 2, "é.jpg"),
        ("similar", "é.jpg", 1, "a.jpg"),
        ("dissimilar", "a.jpg", 1, "é.jpg"),
        ("dissimilar", "b.jpg", 1, "é.jpg"),
    ]
    assert table.column("distance").to_pylist()[1] == 0.25 and set(table["method"].to_pylist()) == {"exact"}
    assert len(collection.neighbours(relation="dissimilar")) == 2
    assert collection.neighbours(relation="similar", k=1)["neighbour_id"].to_pylist() == ["b.jpg", "a.jpg", "a.jpg"]
    assert list(collection.neighbours().to_pandas().query("relation == 'similar' and rank == 1").image_id) == [
        "a.jpg",
        "b.jpg",
        "é.jpg",
    ]


def test_neighbours_that_are_not_published(made: Made) -> None:
    collection = ims.open(made.uri)
    assert "did you mean similar?" in refused(collection.neighbours, relation="simlar")
    assert "did you mean cosine?" in refused(collection.neighbours, metric="cosin")
    assert "did you mean vgg16-fc2?" in refused(collection.neighbours, "vgg16_fc2")
    told = refused(collection.neighbours, metric="euclidean")
    assert "(published: vgg16-fc2/cosine)" in told and "find_neighbours --fingerprint vgg16-fc2 --metric" in told
    assert "hold 2: run find_neighbours with -k 3" in refused(collection.neighbours, relation="similar", k=3)
    assert "hold 1: run find_neighbours with --dissimilar 2" in refused(
        collection.neighbours, relation="dissimilar", k=2
    )
    for k in (0, -1, 1.5, True, "2"):
        assert "should be a whole number" in refused(collection.neighbours, k=k)
    made.neighbours(LISTS)
    told = refused(collection.refresh().neighbours, relation="dissimilar")
    assert "no dissimilar neighbours are published: run find_neighbours with --dissimilar 12, say" in told


def test_images_add_up_to_the_manifest(made: Made) -> None:
    table = ims.open(made.uri).images()
    assert table.schema == tables.IMAGES
    rows = {row["image_id"]: row for row in table.to_pylist()}
    assert list(rows) == ["a.jpg", "b.jpg", "broken.jpg", "copy of a.jpg", "new.jpg", "é.jpg"]
    assert rows["a.jpg"]["attributes"] == [("label", "a")] and rows["a.jpg"]["uri"] == "/pictures/a.jpg"
    about = ("width", "height", "content_sha256", "reason", "detail")
    assert [rows["copy of a.jpg"][name] for name in about] == [40, 30, sha256("A"), None, None]
    assert [rows["broken.jpg"][name] for name in about] == [None, None, None, "not_an_image", "not_an_image it is"]
    assert [rows["new.jpg"][name] for name in about] == [None] * 5


def test_texts_are_put_together_a_few_rows_at_a_time(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ims.open(made.uri).images()
    monkeypatch.setattr(tables, "_BLOCK_ROWS", 2)  # pyarrow's arrays hold 2 GiB of texts
    table = ims.open(made.uri).images()
    assert table == before and all(column.num_chunks == 3 for column in table.columns)
    chunked = pa.chunked_array([["a", "b"], [], ["c"], ["d", None]])
    place = np.array([4, 0, -1, 3, 2, 0, 1])
    assert tables._rows(chunked, place).to_pylist() == [None, "a", None, "d", "c", "a", "b"]
    assert tables._rows(chunked, place[:0]).to_pylist() == []


def test_images_before_anything_is_embedded(tmp_path: Path) -> None:
    warehouse = Made(str(tmp_path / "warehouse"))
    warehouse.manifest({"a.jpg": "1"})
    collection = ims.open(warehouse.uri)
    table = collection.images()
    assert table.schema == tables.IMAGES and table["width"].to_pylist() == [None]
    assert "no manifest is published: run build_manifest first" in refused(_only_embeddings(tmp_path).images)


def _only_embeddings(tmp_path: Path) -> ims.Collection:
    warehouse = Made(str(tmp_path / "other"))
    warehouse.embeddings({"a.jpg": "A"}, {"A": [1.0]})
    return ims.open(warehouse.uri)


def test_columns_that_older_versions_did_not_write_are_null(made: Made) -> None:
    (file,) = (Path(made.uri) / "vectors").rglob("*.parquet")
    pq.write_table(pq.read_table(file).drop_columns(["width", "height", "thumbprint"]), file)
    (record,) = (Path(made.uri) / "runs" / "run_id=r00000002").glob("*.parquet")
    pq.write_table(pq.read_table(record).drop_columns(["label", "stages", "outputs", "seconds"]), record)
    collection = ims.open(made.uri)
    assert collection.images()["width"].null_count == 6 and collection.images()["content_sha256"].null_count == 2
    run = collection.runs()[1]
    assert run.label is None and run.stages == {} and "embed_images vgg16-fc2" in repr(run)
    assert collection.embeddings().vectors.shape == (4, 4) and len(collection.fingerprints()) == 1


def test_groups_of_one_kind(made: Made) -> None:
    made.groups(
        {"g2": ["b.jpg", "é.jpg"], "g1": ["a.jpg", "copy of a.jpg", "new.jpg"]},
        also={"identical": {"i": ["a.jpg", "b.jpg"]}},
    )
    collection = ims.open(made.uri)
    members = collection.groups()
    assert members["image_id"].to_pylist() == ["a.jpg", "copy of a.jpg", "new.jpg", "b.jpg", "é.jpg"]
    assert set(members["kind"].to_pylist()) == {"near-duplicates"}
    assert collection.groups("identical")["group_id"].to_pylist() == ["i", "i"]
    assert collection.group_summary()["size"].to_pylist() == [3, 2]
    assert len(collection.groups(level=0)) == 5
    assert "did you mean near-duplicates?" in refused(collection.groups, "near_duplicates")
    assert "have level 0" in refused(collection.groups, level=1)
    assert "have level 0, level 1, level 2" in refused(collection.groups, "similar", level=3)
    assert "--metric cosine --kind similar first" in refused(collection.groups, "similar")


def test_matches_of_one_batch(made: Made) -> None:
    collection = ims.open(made.uri)
    assert "no matches are published: run search_images first" in refused(collection.matches)
    for queries, metrics in {"lent": ["cosine"], "new": ["cosine", "euclidean"]}.items():
        for metric in metrics:
            rows = [
                {"queries": queries, "query_id": query, "relation": relation, "rank": rank, "metric": metric}
                for query in ("q2", "q1")
                for relation in ("dissimilar", "similar")
                for rank in (2, 1)
            ]
            slot = f"{queries}/vgg16-fc2/{metric}"
            made.publish("search_images", slot, {"matches": {slot: pa.Table.from_pylist(rows)}})
    collection = collection.refresh()
    table = collection.matches("lent")
    assert [(row["query_id"], row["relation"], row["rank"]) for row in table.to_pylist()[:4]] == [
        ("q1", "similar", 1),
        ("q1", "similar", 2),
        ("q1", "dissimilar", 1),
        ("q1", "dissimilar", 2),
    ]
    assert set(collection.matches("new")["metric"].to_pylist()) == {"cosine"}
    assert set(collection.matches("new", metric="euclidean")["metric"].to_pylist()) == {"euclidean"}
    assert "name one of lent, new" in refused(collection.matches)
    assert "did you mean lent?" in refused(collection.matches, "lend")


def test_the_layout_of_one_map(made: Made) -> None:
    collection = ims.open(made.uri)
    assert "no layout is published: run render_map first" in refused(collection.layout)
    for number, slot in enumerate(("vgg16-fc2/cosine", "hog/euclidean")):
        rows = [
            {"image_id": name, "x": 0.5, "grid_column": number, "content_sha256": f"of {name}"}
            for name in ("b.jpg", "a.jpg")
        ]
        made.publish("render_map", slot, {"layout": {slot: pa.Table.from_pylist(rows)}})
    collection = collection.refresh()
    table = collection.layout()
    assert table["image_id"].to_pylist() == ["a.jpg", "b.jpg"] and table["grid_column"].to_pylist() == [0, 0]
    assert table["content_sha256"].to_pylist() == ["of a.jpg", "of b.jpg"]
    assert table.schema.metadata == {b"fingerprint": b"vgg16-fc2", b"metric": b"cosine", b"run_id": b"r00000004"}
    assert collection.layout("hog")["grid_column"].to_pylist() == [1, 1]
    assert "did you mean hog? Name one, or run render_map --fingerprint hogg first" in refused(
        collection.layout, "hogg"
    )
    assert "(published: hog, vgg16-fc2): name one, or run render_map --fingerprint dinov2" in refused(
        collection.layout, "dinov2"
    )
    assert "name one, or run render_map --fingerprint hog --metric cosine first" in refused(
        collection.layout, "hog", "cosine"
    )
    assert "did you mean cosine?" in refused(collection.layout, "hog", "cosin")


def test_quality_and_tags_that_are_not_published(made: Made) -> None:
    assert "no tags are published: run tag_images first" in refused(ims.open(made.uri).tags)
    assert "no quality is published: run embed_images first" in refused(ims.open(made.uri).quality)


def test_quality_and_tags_in_order(made: Made) -> None:
    quality = [{"image_id": name, "flags": flags, "sharpness": 2.5} for name, flags in (("b", ["dark"]), ("a", []))]
    made.publish("embed_images", "", {"quality": {"": pa.Table.from_pylist(quality, SCHEMAS["quality"])}})
    collection = ims.open(made.uri)
    assert collection.quality()["flags"].to_pylist() == [[], ["dark"]]
    assert collection.quality().column_names == SCHEMAS["quality"].names
    for fingerprint in ("squeeze", "alex"):
        made.embeddings({name: name for name in "ab"}, {}, fingerprint=fingerprint, key=fingerprint)
        tags = [
            {"image_id": name, "fingerprint": fingerprint, "rank": rank, "class": "cat", "accepted": rank == 1}
            | {"content_sha256": sha256(name)}
            for name in ("b", "a")
            for rank in (2, 1)
        ]
        made.publish("tag_images", fingerprint, {"tags": {fingerprint: pa.Table.from_pylist(tags, SCHEMAS["tags"])}})
        if fingerprint == "squeeze":
            only = ims.open(made.uri).tags()
            assert only.select(["image_id", "rank"]).to_pylist() == [
                {"image_id": name, "rank": rank} for name in ("a", "b") for rank in (1, 2)
            ]
            assert only.schema.metadata == {b"fingerprint": b"squeeze", b"run_id": b"r00000006"}
    collection = ims.open(made.uri)
    assert "which fingerprint with tags? Several are published: name one of" in refused(collection.tags)
    assert "did you mean squeeze?" in refused(collection.tags, "squeze")
    assert set(collection.tags("alex")["fingerprint"].to_pylist()) == {"alex"}
    made.embeddings({"a": "another file", "b": "b"}, {}, fingerprint="alex", key="alex")
    now = ims.open(made.uri).tags("alex")
    assert now["image_id"].to_pylist() == ["b", "b"] and now.column_names == SCHEMAS["tags"].names
    assert ims.open(made.uri).tags("squeeze")["image_id"].to_pylist() == ["a", "a", "b", "b"]


def test_labels_that_say_nothing_are_refused(made: Made) -> None:
    collection = ims.open(made.uri)
    assert "no image has the attribute 'lable'; did you mean label?" in refused(collection.mislabelled, "lable")
    made.manifest(dict.fromkeys(CONTENTS, "1"), attributes=[("label", "")])
    assert "no image has the attribute 'label'" in refused(ims.open(made.uri).mislabelled, "label")
    rows = [{"image_id": name, "attributes": {"title": name}} for name in CONTENTS]
    made.publish("build_manifest", "", {"manifest": {"": pa.Table.from_pylist(rows, SCHEMAS["manifest"])}})
    assert "no image has the attribute 'folder'" in refused(ims.open(made.uri).mislabelled, "folder")
    for no_name in (None, 3):
        message = f"the attribute {no_name} is no text: name one, as in mislabelled('folder')"
        assert refused(collection.mislabelled, no_name) == message
    alone = refused(ims.open(made.uri).mislabelled, "title")
    assert "the attribute 'title' is another one for every image: name one whose values repeat" in alone
    assert "no neighbours vgg16-fc2/euclidean" in refused(collection.isolation, metric="euclidean")


def test_odd_ones_are_said_of_what(made: Made) -> None:
    collection = ims.open(made.uri)
    for answer in (collection.isolation(), collection.mislabelled("label")):
        assert answer.schema.metadata[b"fingerprint"] == b"vgg16-fc2" and answer.schema.metadata[b"metric"] == b"cosine"
        assert answer["image_id"].to_pylist() == ["a.jpg", "b.jpg"]  # of 0.1875 both
        assert answer["fingerprint"].to_pylist() == ["vgg16-fc2"] * 2


def test_runs_are_objects_the_newest_last(made: Made) -> None:
    made.neighbours(LISTS, label="night-2", inputs={"embeddings": ["r00000002"]}, recall=0.98)
    runs = ims.open(made.uri).runs()
    assert [run.run_id for run in runs] == ["r00000001", "r00000002", "r00000003", "r00000004"]
    assert isinstance(runs[-1], ims.Run) and runs[-1].settings["neighbours"]["similar"] == 2
    assert runs[-1].inputs == {"embeddings": ["r00000002"]} and runs[-1].recall == 0.98
    assert repr(runs[-1]) == (
        "<Run r00000004 'night-2': find_neighbours vgg16-fc2/cosine, 2026-01-02 07:04 UTC, 1.5 s>"
    )


def test_a_collection_says_what_is_in_it(made: Made) -> None:
    text = repr(ims.open(made.uri))
    assert text.splitlines()[0] == f"<Collection {made.uri}, version 3>"
    for part in ("images        6\n", "vgg16-fc2 (4 images, untrained weights)", "neighbours    vgg16-fc2/cosine"):
        assert part in text
    odd = Made(f"{made.uri} <b>")
    odd.manifest({"a.jpg": "1"})
    page = ims.open(odd.uri)._repr_html_()
    assert "<b>" not in page and "&lt;b&gt;" in page and "<table>" in page
    shutil.rmtree(Path(odd.uri) / "runs")
    collection = ims.open(odd.uri)
    assert "version 1" in repr(collection), "a look does not fail"


# -- vectors -----------------------------------------------------------------------------------------------------------


def test_vectors_are_in_the_order_of_ids_a_row_for_each_image(made: Made) -> None:
    collection = ims.open(made.uri)
    ids, vectors = collection.embeddings()
    assert list(ids) == ["a.jpg", "b.jpg", "copy of a.jpg", "é.jpg"] and ids.dtype == object
    assert vectors.dtype == np.float32 and not vectors.flags.writeable
    assert np.array_equal(vectors, np.array([VECTORS[CONTENTS[name]] for name in ids], np.float32))
    store = collection.store()
    assert store.dimensions == 4 and store.row_of("é.jpg") == 3 and store.row_of("z.jpg") is store.row_of("") is None
    assert store.row_of_content(sha256("A")) == 0 and store.row_of_content(sha256("gone")) is None
    assert collection.embeddings().vectors.base is not None and collection.store() is store


def test_vectors_of_many_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("image_similarity.collection.vectors._BATCH_BYTES", 100)  # six vectors
    warehouse = Made(str(tmp_path / "warehouse"))
    names = [f"{number * 7919 % 100:03}" for number in range(100)]
    vectors = random_vectors(names)
    for start in range(0, 100, 25):
        new = names[start : start + 25]
        warehouse.embeddings({name: name for name in names[: start + 25]}, {name: vectors[name] for name in new})
    # A run of vectors that no image has any more, and one of vectors that are there twice.
    warehouse.embeddings({name: name for name in names}, random_vectors(["gone", "too"]))
    warehouse.embeddings({name: name for name in names}, {name: vectors[name] for name in names[:9]})
    ids, values = ims.open(warehouse.uri).embeddings()
    assert list(ids) == sorted(names) and np.array_equal(values, np.array([vectors[name] for name in ids], np.float32))


def test_measured_vectors(made: Made) -> None:
    made.embeddings({**CONTENTS, "black.jpg": "zero"}, {"zero": [0, 0, 0, 0]})
    store = ims.open(made.uri).store()
    zero = store.row_of("black.jpg")
    for metric in defaults.METRICS:
        measured = store.measured(metric)
        usable = np.setdiff1d(np.arange(len(store)), store.unusable(metric))
        expected = distances.measured(np.array(store.vectors[usable]), distances.METRICS[metric])
        assert np.array_equal(measured.scale[usable], expected.scale)
        assert np.array_equal(measured.shift[usable], expected.shift)
        assert list(store.unusable(metric)) == ([] if metric == "euclidean" else [zero])
    again = ims.open(made.uri).store()
    assert np.array_equal(again.measured("cosine").scale, store.measured("cosine").scale)
    assert "did you mean cosine?" in refused(store.measured, "cosin")


def test_vectors_that_are_missing_or_mixed(made: Made) -> None:
    made.embeddings({**CONTENTS, "lost.jpg": "lost"}, {})
    told = refused(ims.open(made.uri).embeddings, error=ims.JobFailed)
    assert "1 vector of vgg16-fc2 is missing: run embed_images with --set embeddings.recheck=always" in told
    made.embeddings({**CONTENTS, "long.jpg": "long"}, {"long": [1, 2, 3, 4, 5]})
    assert "several lengths" in refused(ims.open(made.uri).embeddings, error=ims.JobFailed)


def test_a_fingerprint_of_which_every_image_failed(tmp_path: Path) -> None:
    warehouse = Made(str(tmp_path / "warehouse"))
    warehouse.manifest({"a.jpg": "1"})
    warehouse.embeddings({}, {}, failures={"a.jpg": "not_an_image"})
    collection = ims.open(warehouse.uri)
    assert [len(part) for part in collection.embeddings()] == [0, 0]
    assert (
        collection.images()["reason"].to_pylist() == ["not_an_image"]
        and len(collection.store().unusable("cosine")) == 0
    )


# -- vectors of one's own ----------------------------------------------------------------------------------------------


def _own(path: Path, vectors: dict[str, list[float]]) -> None:
    pq.write_table(pa.table({"image_id": list(vectors), "embedding": list(vectors.values())}), path)


@pytest.fixture
def own(tmp_path: Path) -> tuple[Made, Path]:
    """What ``find_neighbours --embeddings`` leaves: by the real job's process, without Spark."""
    path = tmp_path / "own.parquet"
    _own(path, {"b": [1.0, 2.0], "a": [3.0, 5.0], "short": [1.0], "zero": [0.0, 0.0]})
    from image_similarity.jobs import find_neighbours
    from image_similarity.jobs.command_line import main

    warehouse = str(tmp_path / "own-warehouse")
    assert main(find_neighbours, ["--warehouse", warehouse, "--embeddings", str(path)]) == 0
    return Made(warehouse), path


def test_vectors_of_ones_own(own: tuple[Made, Path]) -> None:
    collection = ims.open(own[0].uri)
    (row,) = collection.fingerprints().to_pylist()
    assert (row["fingerprint"], row["kind"], row["dimensions"], row["images"]) == ("external", "external", 2, 2)
    ids, vectors = collection.embeddings()
    assert list(ids) == ["a", "b", "zero"] and vectors.tolist() == [[3, 5], [1, 2], [0, 0]]
    store = collection.store()
    assert store.contents is None and store.row_of_content("a") is None and list(store.unusable("cosine")) == [2]
    assert "vectors of your own" in repr(collection) and len(collection.neighbours(relation="similar")) == 2


def test_vectors_of_ones_own_that_are_others_by_now(own: tuple[Made, Path], cache: Path) -> None:
    warehouse, path = own
    _own(path, {"b": [1.0, 2.0], "a": [3.0, 6.0], "short": [1.0], "zero": [0.0, 0.0]})
    told = refused(ims.open(warehouse.uri).embeddings, error=ims.JobFailed)
    assert "no longer those that run r" in told and not list(cache.glob("[!.]*")), "nothing of them is kept"
    path.unlink()
    told = refused(ims.open(warehouse.uri).embeddings, error=ims.JobFailed)
    assert told.startswith(f"{path}: the vectors of external cannot be read")
