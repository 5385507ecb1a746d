"""The views show the published rows, wherever the warehouse lies, and mix nothing."""

import json
import math
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import image_similarity as ims
from image_similarity.errors import WrongInput
from image_similarity.warehouse.records import PUBLISHED, Record
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.snapshot import POINTER, Pointer
from image_similarity.warehouse.views import views_sql
from image_similarity.warehouse.warehouse import Warehouse
from warehouses import Made

PLACES = ["plain", "label=cat/run_id=no", "a*b", "it's [1]?", "ümläut {x}", "two  spaces", "image_id=x"]
NOW = datetime(2026, 1, 2, 3, tzinfo=timezone.utc)


def write(warehouse: Path, table: str, run: str, rows: Sequence[Mapping[str, Any]], columns: Any = None) -> None:
    """Rows of a run. ``columns``: those that an older version wrote (None: all)."""
    folder = warehouse / table / f"run_id={run}"
    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([field for field in SCHEMAS[table] if columns is None or field.name in columns])
    pq.write_table(pa.Table.from_pylist(list(rows), schema), folder / "part-0.parquet")


def record(run: str, slot: str, settings: Mapping[str, Any], label: str | None = None) -> dict[str, Any]:
    made = Record(run, label, "job", slot, PUBLISHED, {}, {}, settings, {}, {}, 1.0, {}, None, NOW, NOW)
    row: dict[str, Any] = made.as_table().to_pylist()[0]
    return row


def opened(warehouse: Path, pointer: Pointer) -> duckdb.DuckDBPyConnection:
    db = duckdb.connect()
    db.execute(views_sql(str(warehouse), pointer))
    return db


def a_value(field: pa.Field) -> Any:
    values = {pa.string(): "{}", pa.bool_(): True, pa.binary(): b"1", pa.timestamp("us", tz="UTC"): NOW}
    values |= {pa.list_(pa.int32()): [1, 2], pa.list_(pa.string()): ["dark"]}
    values |= {pa.list_(pa.float32()): [1.0, 2.0], pa.map_(pa.string(), pa.string()): {"title": "A title"}}
    return values.get(field.type, 1)


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    folder = tmp_path / "it's a [warehouse]"
    write_all(folder)
    return folder


EVERYTHING = Pointer(
    1,
    {
        "manifest": {"": ["r1"]},
        "downloads": {"": ["r1"]},
        "vectors": {"k1": ["r1"], "k2": ["r1"]},
        "embeddings": {"colours": ["r2"], "vgg16-fc2": ["r1"]},
        "failures": {"colours": ["r2"], "vgg16-fc2": ["r1"], "search/from it's shop/vgg16-fc2/cosine": ["r3"]},
        "class_scores": {"k1/c1": ["r1"]},
        "quality": {"": ["r1"]},
        "tags": {"colours": ["r2"], "vgg16-fc2": ["r1"]},
        "projections": {"p": ["r1"]},
        "neighbours": {"colours/euclidean": ["r2"], "vgg16-fc2/cosine": ["r1"], "vgg16-fc2/euclidean": ["r3"]},
        "groups": {"colours/euclidean/near-duplicates": ["r2"], "vgg16-fc2/cosine/near-duplicates": ["r1"]},
        "group_summary": {"vgg16-fc2/cosine/near-duplicates": ["r1"]},
        "matches": {"q/vgg16-fc2/cosine": ["r1"]},
        "layout": {"vgg16-fc2/cosine": ["r1"]},
        "comparisons": {"cosine": ["r1"]},
        "runs": {"": ["r1"]},
    },
)
SLOTS = {"r1": ("vgg16-fc2", "cosine"), "r2": ("colours", "euclidean"), "r3": ("vgg16-fc2", "euclidean")}
IMAGES = ("a/1.png", "b/2.jpg", "broken.png")


def write_all(folder: Path) -> None:
    """Every table, with two fingerprints; neighbours of the first by two metrics; two images, and one that failed."""
    manifest = [
        {
            "image_id": name,
            "uri": f"/pictures/{name}",
            "size_bytes": 100 + number,
            "attributes": {"Title": f"No. {number}"},
        }
        for number, name in enumerate(IMAGES)
    ]
    manifest[1]["attributes"] = {}
    write(folder, "manifest", "r1", manifest)
    vectors = [
        {
            "content_sha256": f"sha of {name}",
            "fingerprint_key": key,
            "width": 3,
            "height": 2,
            "embedding": [1.0] * length,
        }
        for name in IMAGES[:2]
        for key, length in (("k1", 4), ("k2", 7))
    ]
    write(folder, "vectors", "r1", vectors)
    runs = []
    for run, (fingerprint, metric) in SLOTS.items():
        key = "k2" if fingerprint == "colours" else "k1"
        common = {"fingerprint": fingerprint, "metric": metric}
        write(
            folder,
            "embeddings",
            run,
            [
                {
                    "image_id": name,
                    "fingerprint": fingerprint,
                    "fingerprint_key": key,
                    "content_sha256": f"sha of {name}",
                }
                for name in IMAGES[:2]
            ],
        )
        ends = {"image_id": IMAGES[0], "neighbour_id": IMAGES[1], "rank": 1, "distance": 0.5}
        turned = {**ends, "image_id": IMAGES[1], "neighbour_id": IMAGES[0]}
        pairs = [{**pair, **common, "relation": "similar"} for pair in (ends, turned)]
        write(folder, "neighbours", run, [*pairs, {**pairs[0], "relation": "dissimilar"}])
        failed = "query.jpg" if run == "r3" else IMAGES[2]
        write(folder, "failures", run, [{"image_id": failed, "fingerprint": fingerprint, "reason": "truncated"}])
        members = [
            {
                "group_id": "g",
                "image_id": name,
                "representative": name == IMAGES[0],
                "kind": "near-duplicates",
                **common,
            }
            for name in IMAGES[:2]
        ]
        write(folder, "groups", run, members)
        settings = {"fingerprint": {fingerprint: {"kind": "network", "network": "tiny", "layer": "l"}}}
        runs.append(record(run, fingerprint, {**settings, "weights": "w.pth", "trained": True}, f"night {run}"))
    write(folder, "runs", "r1", runs)
    for run in ("r1", "r2"):
        tag = {"fingerprint": SLOTS[run][0], "image_id": IMAGES[0], "rank": 1, "class": "cat", "wnid": "n02121808"}
        tag["content_sha256"] = f"sha of {IMAGES[0]}"
        unsure = {**tag, "rank": 2, "class": "tabby", "probability": 0.4, "accepted": False}
        sure = {**tag, "probability": 0.75, "accepted": True}
        others = [{**sure, "image_id": image, "content_sha256": "sha of what it was"} for image in IMAGES]
        write(folder, "tags", run, [sure, unsure, *others])
    plain = ("class_scores", "quality", "projections", "group_summary", "matches", "layout", "comparisons")
    for table in ("downloads", *plain):
        write(folder, table, "r1", [{field.name: a_value(field) for field in SCHEMAS[table]}])


def views_of(db: duckdb.DuckDBPyConnection) -> list[str]:
    return [name for (name,) in db.sql("SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY 1").fetchall()]


# -- what the views show -----------------------------------------------------------------------------------------------


def test_numbers_that_are_not_finite_are_null_in_records(warehouse: Path) -> None:
    """JSON has none: one record of such would make the views of all runs unreadable."""
    settings = {"a": {"limit": math.inf, "mean": [math.nan, 0.5, -math.inf]}, "b": 1}
    row = record("r9", "", settings)
    assert json.loads(row["settings"]) == {"a": {"limit": None, "mean": [None, 0.5, None]}, "b": 1}
    write(warehouse, "runs", "r9", [row])
    db = opened(warehouse, Pointer(1, {**EVERYTHING.tables, "runs": {"": ["r1", "r9"]}}))
    assert db.sql("SELECT settings->'a'->'mean'->>1 FROM runs WHERE run_id = 'r9'").fetchall() == [("0.5",)]


def test_every_table_and_view_has_rows(warehouse: Path) -> None:
    db = opened(warehouse, EVERYTHING)
    views = views_of(db)
    assert set(SCHEMAS) < set(views)
    # No two files have the same bytes, and no groups by what belongs together are published.
    empty = [view for view in views if not db.sql(f"FROM {view}").fetchall()]
    assert empty == ["exact_duplicates", "similar_groups"]
    nothing = opened(warehouse, Pointer())
    assert views_of(nothing) == views and [nothing.sql(f"FROM {view}").fetchall() for view in views] == [[]] * len(
        views
    )
    for view in views:
        assert nothing.sql(f"FROM {view}").description == db.sql(f"FROM {view}").description


def test_no_name_is_a_keyword(warehouse: Path) -> None:
    """Each is written without quotes wherever SQL has names of tables and columns."""
    db = opened(warehouse, EVERYTHING)
    keywords = dict(db.sql("SELECT keyword_name, keyword_category FROM duckdb_keywords()").fetchall())
    for view in views_of(db):
        columns = [column[0] for column in db.sql(f"FROM {view}").description]
        for name in (view, *columns):
            assert re.fullmatch("[a-z_0-9]+", name) and keywords.get(name) not in ("reserved", "type_function"), name
            db.sql(f"SELECT {name}, x.{name} FROM (SELECT 2 AS {name}) AS x").fetchall()
        db.sql(f"SELECT {', '.join(columns)} FROM {view} {view} ORDER BY {', '.join(columns)}").fetchall()
    macros = db.sql("SELECT function_name, parameters FROM duckdb_functions() WHERE NOT internal").fetchall()
    assert len(macros) > 10
    for macro, parameters in macros:
        # ISOLATION is a keyword that names nothing else: a function may be called so.
        assert keywords.get(macro) in (None, "unreserved") and not keywords.keys() & set(parameters)


def test_one_fingerprint_and_metric_unless_others_are_named(warehouse: Path) -> None:
    db = opened(warehouse, EVERYTHING)
    mixed = "SELECT DISTINCT fingerprint, metric FROM {} ORDER BY ALL"
    assert len(db.sql(mixed.format("neighbours")).fetchall()) == 3
    for view in ("similar_images", "dissimilar_images", "near_duplicates", "isolation"):
        assert db.sql(mixed.format(view)).fetchall() == [("vgg16-fc2", "cosine")]
        assert db.sql(mixed.format(f"{view}('colours')")).fetchall() == [("colours", "euclidean")]
    assert db.sql(mixed.format("similar_images('vgg16-fc2', 'euclidean')")).fetchall() == [("vgg16-fc2", "euclidean")]
    assert db.sql("SELECT image_id, neighbour_id FROM dissimilar_images").fetchall() == [IMAGES[:2]]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            "similar_images('colour')",
            "no neighbours by colour are published, .*; published: colours/euclidean",
        ),
        ("near_duplicates('vgg16-fc2', 'euclidean')", "none are published by vgg16-fc2/euclidean"),
        ("similar_groups('colours')", "none are published by colours/euclidean"),
        ("isolation('colour')", "no neighbours by colour are published, .*; published: colours/euclidean"),
        ("mislabelled('style', 'colour')", "no neighbours by colour are published, .*; published: colours/euclidean"),
        ("mislabelled('style')", "no image has the attribute style"),
        ("mislabelled('Title')", "the attribute Title is another one for every image: name one whose values repeat"),
        ("mislabelled(NULL)", "the attribute is NULL: name one"),
        *((f"{view}(NULL)", "a name is NULL: say which is meant") for view in ("isolation", "tagged_images")),
        ("tagged_images('hog')", "no tags by hog are published; published: colours, vgg16-fc2"),
        (
            "near_duplicates('colours', 'cosine')",
            "no neighbours by colours/cosine.*; published: colours/euclidean, vgg16",
        ),
    ],
)
def test_what_is_not_published_is_an_error(warehouse: Path, asked: str, message: str) -> None:
    db = opened(warehouse, EVERYTHING)
    with pytest.raises(duckdb.Error, match=message):
        db.sql(f"FROM {asked}").fetchall()


@pytest.mark.parametrize(
    "question",
    [
        "FROM {} WHERE score > 0.5",
        "FROM {} WHERE image_id = 'another'",
        "SELECT count(*) FROM {}",
        "SELECT count(*) FROM {} WHERE own_share = 0",
        "FROM {} LIMIT 1",
        "SELECT label, count(*) FROM {} GROUP BY label",
        "FROM images JOIN {} USING (image_id) WHERE score > 0.5",
        "FROM {} LEFT JOIN quality USING (image_id) WHERE score > 0 AND flags IS NULL",
        "FROM images WHERE image_id IN (SELECT image_id FROM {} WHERE score > 0)",
        "FROM images WHERE EXISTS (FROM {} WHERE score > 0)",
    ],
)
def test_what_cannot_be_judged_is_an_error_whatever_is_asked_of_it(warehouse: Path, question: str) -> None:
    """A filter once dropped the row that raised the error: no rows, as if no label were wrong."""
    db = opened(warehouse, EVERYTHING)
    for attribute, message in (("style", "no image has the attribute style"), ("Title", "the attribute Title is anot")):
        with pytest.raises(duckdb.Error, match=message):
            db.sql(question.format(f"mislabelled('{attribute}')")).fetchall()


def test_no_default_is_guessed(tmp_path: Path) -> None:
    for run, fingerprint in (("r1", "one"), ("r2", "two")):
        rows = [{"image_id": "a", "fingerprint": fingerprint, "relation": "similar", "metric": "cosine"}]
        write(tmp_path, "neighbours", run, rows)
        own = {"image_id": "a", "fingerprint": fingerprint, "content_sha256": "sha"}
        write(tmp_path, "embeddings", run, [own])
        write(tmp_path, "tags", run, [{**own, "class": "cat", "accepted": True}])
    tables = {"neighbours": {"one/cosine": ["r1"], "two/cosine": ["r2"]}, "tags": {"one": ["r1"], "two": ["r2"]}}
    tables["embeddings"] = tables["tags"]
    db = opened(tmp_path, Pointer(1, tables))
    for asked, names in (
        ("isolation", "one/cosine, two/cosine"),
        ("mislabelled('style')", "one, two$"),
        ("tagged_images", "one, two"),
    ):
        with pytest.raises(duckdb.Error, match=f"several .*are published; name one, .*: {names}"):
            db.sql(f"SELECT count(*) FROM {asked}").fetchall()
    assert db.sql("SELECT tag FROM tagged_images('two')").fetchall() == [("cat",)]
    with pytest.raises(duckdb.Error, match="several are published; name one, .*: one/cosine, two/cosine"):
        db.sql("FROM similar_images").fetchall()
    assert db.sql("SELECT fingerprint FROM similar_images('two')").fetchall() == [("two",)]
    assert db.sql("SELECT column_name FROM (DESCRIBE similar_images) LIMIT 1").fetchall() == [("image_id",)]


@pytest.mark.parametrize("embedded", [[], ["hog"], ["hog", "colours"]])
def test_without_neighbours_a_line_says_what_to_run(tmp_path: Path, embedded: list[str]) -> None:
    """Whatever is embedded."""
    write(tmp_path, "manifest", "r1", [{"image_id": "a/1.png"}])
    rows = [{"image_id": "a/1.png", "fingerprint": name} for name in embedded]
    write(tmp_path, "embeddings", "r1", rows)
    db = opened(tmp_path, Pointer(1, {"manifest": {"": ["r1"]}, "embeddings": dict.fromkeys(embedded, ["r1"])}))
    for asked in ("mislabelled('folder')", "mislabelled('folder', 'hog')", "isolation('hog')"):
        with pytest.raises(duckdb.Error, match="published.*run find_neighbours first"):
            db.sql(f"FROM {asked}").fetchall()


def test_both_sides_of_a_pair_say_what_they_are(warehouse: Path) -> None:
    db = opened(warehouse, EVERYTHING)
    row = db.sql("SELECT * FROM similar_images WHERE image_id = 'a/1.png'").fetchdf().iloc[0].to_dict()
    assert (row["title"], row["neighbour_title"]) == ("No. 0", "2"), "a title, or the name of the file"
    assert (row["size_bytes"], row["neighbour_size_bytes"]) == (100, 101)
    assert (row["uri"], row["neighbour_uri"]) == ("/pictures/a/1.png", "/pictures/b/2.jpg")
    assert (row["attributes"], row["neighbour_attributes"]) == ({"Title": "No. 0"}, {})


def test_accepted_tags_of_one_fingerprint(warehouse: Path) -> None:
    db = opened(warehouse, EVERYTHING)
    row = (IMAGES[0], 1, "cat", 0.75, "n02121808", "No. 0", "/pictures/a/1.png", {"Title": "No. 0"})
    assert db.sql("FROM tagged_images").fetchall() == [(*row, "vgg16-fc2")]
    assert db.sql("FROM tagged_images('colours')").fetchall() == [(*row, "colours")]


def labelled(folder: Path, seed: int, images: int = 40, k: int = 6) -> ims.Collection:
    """Random lists of images with an attribute, which two of them lack, and which is nobody else's of a third."""
    rng = np.random.default_rng(seed)
    made, names = Made(str(folder)), [f"{'xyz'[number % 3]}/{number:02}" for number in range(images)]
    label = ["", *rng.choice(["a", "b", "ç", "it's"], images - 3), None, "alone"]
    attributes = [{} if value is None else {"style": value, "title": name} for name, value in zip(names, label)]
    rows = [{"image_id": name, "uri": name, "attributes": of} for name, of in zip(names, attributes)]
    made.publish("build_manifest", "", {"manifest": {"": pa.Table.from_pylist(rows, SCHEMAS["manifest"])}})
    common = {"fingerprint": "hog", "metric": "cosine", "relation": "similar"}
    lists = [
        {**common, "image_id": name, "rank": rank, "neighbour_id": names[other], "distance": distance}
        for name in names[:-5]
        for rank, (other, distance) in enumerate(
            zip(rng.permutation(images)[:k].tolist(), np.sort(rng.choice([0, 0.125, 0.5, 0.7], k)).tolist()), 1
        )
    ]
    lists += [{**lists[0], "relation": "dissimilar", "distance": 2.0, "neighbour_id": names[39]}]
    tables = {"neighbours": {"hog/cosine": pa.Table.from_pylist(lists, SCHEMAS["neighbours"])}}
    settings = {"neighbours": {"similar": k, "dissimilar": 1, "metric": "cosine"}}
    made.publish("find_neighbours", "hog/cosine", tables, settings=settings)
    return ims.open(folder)


@pytest.mark.parametrize("seed", range(4))
def test_the_odd_ones_out_are_the_same_by_sql_and_by_python(tmp_path: Path, seed: int) -> None:
    collection = labelled(tmp_path / "it's [w]", seed)
    db = collection.duckdb()
    columns = "image_id, mean_distance, percentile, neighbours"
    shown = db.sql(f"SELECT {columns} FROM isolation ORDER BY mean_distance DESC, image_id").fetchall()
    answer = collection.isolation().select(columns.split(", "))
    assert len(shown) == 35 and shown == [tuple(row.values()) for row in answer.to_pylist()]
    columns = "image_id, label, suggested_label, score, own_share"
    for attribute, labels in (("style", {"a", "b", "ç", "it's"}), ("folder", set("xyz"))):
        shown = db.sql(f"SELECT {columns} FROM mislabelled('{attribute}')").fetchall()
        answer = collection.mislabelled(attribute).select(columns.split(", "))
        assert len(shown) > 25 and shown == [tuple(row.values()) for row in answer.to_pylist()]
        assert {label for _, label, *_ in shown} == labels, "an image without a label is not judged"


def test_every_expression_is_one_of_the_oldest_duckdb() -> None:
    """DuckDB 1.4.0 cannot bind a window within nullif, in a macro."""
    text = " ".join(views_sql("/w", EVERYTHING).split())
    assert not re.search(r"nullif\((?:[^()]|\([^()]*\))*\bOVER\b", text)


def test_a_neighbour_that_left_the_manifest_stays_in_its_list(warehouse: Path) -> None:
    write(warehouse, "manifest", "r1", [{"image_id": IMAGES[0], "attributes": {}}])
    db = opened(warehouse, EVERYTHING)
    columns = "title, neighbour_title, neighbour_uri"
    assert db.sql(f"SELECT {columns} FROM similar_images ORDER BY ALL").fetchall() == [
        ("1", "2", None),
        ("2", "1", None),
    ]
    assert db.sql("SELECT title FROM near_duplicates ORDER BY 1").fetchall() == [("1",), ("2",)]


def test_every_image_once_with_what_became_of_it(warehouse: Path) -> None:
    """Though it is embedded, or failed, by two fingerprints."""
    db = opened(warehouse, EVERYTHING)
    embedded = [(name, 3, f"sha of {name}", None) for name in IMAGES[:2]]
    shown = db.sql("SELECT image_id, width, content_sha256, reason FROM images ORDER BY 1").fetchall()
    assert shown == [*embedded, (IMAGES[2], None, None, "truncated")]


def test_failures_of_queries_are_not_the_collections(warehouse: Path) -> None:
    db = opened(warehouse, EVERYTHING)
    assert {name for (name,) in db.sql("SELECT image_id FROM failures").fetchall()} == {IMAGES[2]}
    assert db.sql("SELECT queries, metric, query_id, reason FROM query_failures").fetchall() == [
        ("from it's shop", "cosine", "query.jpg", "truncated")
    ]


def test_failures_of_many_searches_are_one_read(tmp_path: Path) -> None:
    """Of the files of a hundred searches the text says little more than their names and runs."""
    runs = [f"r20261124T020013-{number:08x}" for number in range(100)]
    for run in runs:
        write(tmp_path, "failures", run, [{"image_id": f"{run}.jpg", "fingerprint": "f", "reason": "truncated"}])
    slots = {f"search/day-{number}/f/cosine": [run] for number, run in enumerate(runs)}
    pointer = Pointer(1, {"failures": {**slots, "search/day-0/f/euclidean": [runs[0][:-1] + "x"]}})
    write(tmp_path, "failures", runs[0][:-1] + "x", [{"image_id": "other.jpg", "fingerprint": "f"}])
    db = opened(tmp_path, pointer)
    shown = db.sql("SELECT queries, metric, query_id FROM query_failures").fetchall()
    wanted = [(f"day-{number}", "cosine", f"{run}.jpg") for number, run in enumerate(runs)]
    assert sorted(shown) == sorted([*wanted, ("day-0", "euclidean", "other.jpg")])
    view = views_sql(str(tmp_path), pointer).partition("VIEW query_failures")[2].partition(";")[0]
    assert view.count("read_parquet") == 1 and len(view) < 100 * 120


def test_fingerprints_say_what_they_are(warehouse: Path) -> None:
    columns = (
        "fingerprint, is_default, kind, network, layer, weights, trained, dimensions, images, fingerprint_key, run_id"
    )
    said = ("network", "tiny", "l", "w.pth", True)
    db = opened(warehouse, EVERYTHING)
    assert db.sql(f"SELECT {columns} FROM fingerprints").fetchall() == [
        ("vgg16-fc2", True, *said, 4, 2, "k1", "r1"),
        ("colours", False, *said, 7, 2, "k2", "r2"),
    ]


def test_settings_of_runs_are_json(warehouse: Path) -> None:
    db = opened(warehouse, EVERYTHING)
    assert (
        db.sql("SELECT settings->>'weights' FROM runs WHERE settings->>'trained' = 'true'").fetchall()
        == [("w.pth",)] * 3
    )


def test_history_is_what_was_published_and_is_still_there(warehouse: Path) -> None:
    """Found when it is asked for: what retention removes afterwards is missing, and nothing else fails."""
    write(warehouse, "neighbours", "r4", [{"image_id": "never published"}])
    pointer = Pointer(1, {**EVERYTHING.tables, "neighbours": {"vgg16-fc2/cosine": ["r3"]}})
    db = opened(warehouse, pointer)
    columns = "run_id, label, finished_at = ?, is_current, count(*)"
    history = f"SELECT {columns} FROM neighbours_history({{}}) GROUP BY ALL ORDER BY 1"
    every = [(run, f"night {run}", True, run == "r3", 3) for run in SLOTS]
    assert db.execute(history.format(""), [NOW]).fetchall() == every
    shutil.rmtree(warehouse / "neighbours" / "run_id=r1")
    assert db.execute(history.format(""), [NOW]).fetchall() == every[1:]
    assert db.execute(history.format("'r2*'"), [NOW]).fetchall() == every[1:2]
    db = opened(warehouse, pointer)
    assert db.execute(history.format(""), [NOW]).fetchall() == every[1:]


def changed(db: duckdb.DuckDBPyConnection, *runs: str) -> list[Any]:
    return db.sql(f"FROM neighbour_changes({', '.join(map(repr, runs))})").fetchall()


def test_what_changed_between_two_runs(warehouse: Path) -> None:
    common = {"relation": "similar", "rank": 1, "fingerprint": "vgg16-fc2", "metric": "cosine"}
    pairs = {"r0": "ab ac ba ca za", "r1": "ab ad ba da ya"}
    for run, listed in pairs.items():
        rows = [{"image_id": pair[0], "neighbour_id": pair[1], **common} for pair in listed.split()]
        write(warehouse, "neighbours", run, [*rows, {**rows[0], "neighbour_id": "x", "relation": "dissimilar"}])
    slots = {"r0": "vgg16-fc2/cosine", "r1": "vgg16-fc2/cosine", "r2": "colours/euclidean", "r3": "vgg16-fc2/euclidean"}
    records = [record(run, slot, {}, "night " + run[1:]) for run, slot in slots.items()]
    records[2]["label"] = "night 1"  # of a pipeline with two fingerprints
    write(warehouse, "runs", "r1", records)
    db = opened(warehouse, EVERYTHING)
    right = [("a", "changed", 1, 1), ("c", "gone", 0, 1), ("d", "appeared", 1, 0), ("y", "appeared", 1, 0)]
    right += [("z", "gone", 0, 1)]
    assert changed(db) == changed(db, "r0", "r1") == changed(db, "night 0", "night 1") == changed(db, "r0") == right
    assert changed(db, "r1", "r1") == []
    with pytest.raises(duckdb.Error, match="no run of neighbours is called night 7"):
        changed(db, "night 7")
    shutil.rmtree(warehouse / "neighbours" / "run_id=r0")
    with pytest.raises(duckdb.Error, match="no run of neighbours is called r0, or its files were removed"):
        changed(db, "r0", "r1")
    with pytest.raises(duckdb.Error, match="there is no earlier run of neighbours"):
        changed(db)


def test_files_with_and_without_a_column_are_one_view(tmp_path: Path) -> None:
    """Whichever is listed first."""
    new = {"content_sha256": "b", "width": 3, "embedding": [1.0, 2.0], "thumbprint": bytes(range(256)) * 4}
    write(tmp_path, "vectors", "old", [{**new, "content_sha256": "a"}], {*new} - {"thumbprint"})
    write(tmp_path, "vectors", "new", [new])
    for runs in (["old", "new"], ["new", "old"]):
        db = opened(tmp_path, Pointer(1, {"vectors": {"k": runs}}))
        columns = "content_sha256, width, embedding, thumbprint"
        assert db.sql(f"SELECT {columns} FROM vectors ORDER BY 1").fetchall() == [
            ("a", 3, [1.0, 2.0], None),
            ("b", 3, [1.0, 2.0], new["thumbprint"]),
        ]


# -- where the warehouse is --------------------------------------------------------------------------------------------


def test_a_backslash_is_refused(tmp_path: Path) -> None:
    """DuckDB takes it for a separator in every form of a path that was tried."""
    with pytest.raises(WrongInput, match="DuckDB takes a backslash for a slash"):
        Warehouse(None, str(tmp_path / "back\\slash"))  # type: ignore[arg-type]


def small(folder: Path, name: str = "right") -> Pointer:
    """A warehouse as older versions wrote it."""
    for table in ("runs", "manifest", "vectors", "embeddings", "neighbours"):
        names = set(SCHEMAS[table].names) - {"stages", "thumbprint"}
        strings = [field.name for field in SCHEMAS[table] if field.type == pa.string()]
        json = {"inputs", "outputs", "settings", "counts", "versions"}
        row = {column: "{}" if column in json else name for column in strings}
        row |= {"relation": "similar", "metric": "cosine"} if table == "neighbours" else {}
        write(folder, table, "r1", [row], names)
    slots = {"runs": "", "manifest": "", "vectors": "right", "embeddings": name, "neighbours": f"{name}/cosine"}
    return Pointer(1, {table: {slot: ["r1"]} for table, slot in slots.items()})


@pytest.mark.parametrize("place", PLACES)
def test_wherever_the_warehouse_lies(tmp_path: Path, place: str) -> None:
    db = opened(tmp_path / place, small(tmp_path / place))
    assert db.sql("SELECT run_id, label, job, stages FROM runs").fetchall() == [("right", "right", "right", None)]
    assert db.sql("SELECT image_id, uri FROM manifest").fetchall() == [("right", "right")]
    assert db.sql("SELECT content_sha256, thumbprint FROM vectors").fetchall() == [("right", None)]
    assert db.sql("SELECT image_id, thumbprint FROM embeddings").fetchall() == [("right", None)]
    assert db.sql("SELECT count(*) FROM matches").fetchall() == [(0,)]
    assert db.sql("SELECT count(*) FROM neighbours_history()").fetchall() == [(0,)], "the record is that of another run"


@pytest.mark.parametrize("place", PLACES)
def test_a_moved_warehouse_opens_in_its_folder_or_where_it_is_said_to_be(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql = views_sql(str(tmp_path / "old"), small(tmp_path / "old"))
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    os.rename(tmp_path / "old", tmp_path / place)
    with pytest.raises(duckdb.Error, match="are not in .*/old: say where the warehouse is now"):
        duckdb.connect().execute(sql)
    db = duckdb.connect()
    folder = str(tmp_path / place).replace("'", "''")
    db.execute(f"SET VARIABLE warehouse = '{folder}'; {sql}")
    assert db.sql("SELECT image_id FROM embeddings").fetchall() == [("right",)]
    monkeypatch.chdir(tmp_path / place)
    db = duckdb.connect()
    db.execute(sql)
    assert db.sql("SELECT image_id FROM embeddings").fetchall() == [("right",)]


def test_several_moved_warehouses_in_one_database(tmp_path: Path) -> None:
    """Each is said where it is before its file is read, and stays there: beside others, and one that was not moved."""
    db = duckdb.connect()
    for name in ("one", "two", "stays"):
        sql = views_sql(str(tmp_path / name), small(tmp_path / name, name))
        if name != "stays":
            os.rename(tmp_path / name, tmp_path / f"new {name}")
            db.execute(f"SET VARIABLE warehouse = '{tmp_path}/new {name}'")
        db.execute(f"CREATE SCHEMA {name}; USE {name}; {sql}")
    for name in ("one", "two", "stays"):
        assert db.sql(f"SELECT image_id FROM {name}.images").fetchall() == [(name,)]
        db.execute(f"USE {name}")
        assert db.sql(f"SELECT image_id FROM similar_images('{name}')").fetchall() == [(name,)]
        assert db.sql(f"SELECT image_id FROM isolation('{name}')").fetchall() == [(name,)]
        with pytest.raises(duckdb.Error, match="no image has the attribute style"):  # it has read the right files
            db.sql("FROM mislabelled('style')").fetchall()


def test_copies_of_one_warehouse_go_their_own_ways(tmp_path: Path) -> None:
    """All were written in one place, as by containers that mount theirs alike; an empty one takes nobody's folder."""
    db = duckdb.connect()
    for name in ("one", "two"):
        pointer = small(tmp_path / name, name)
        db.execute(f"SET VARIABLE warehouse = '{tmp_path / name}'")
        db.execute(f"CREATE SCHEMA {name}; USE {name}; {views_sql('/warehouse', pointer)}")
    db.execute(f"SET VARIABLE warehouse = '{tmp_path}/empty'; CREATE SCHEMA empty; USE empty")
    db.execute(views_sql("/warehouse", Pointer()))
    db.execute(f"CREATE SCHEMA three; USE three; {views_sql(f'{tmp_path}/three', small(tmp_path / 'three', 'three'))}")
    for name in ("one", "two", "three"):
        assert db.sql(f"SELECT image_id FROM {name}.images").fetchall() == [(name,)]


def test_a_copy_never_shows_another_warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder in which a file of views is read need not be its warehouse."""
    gone, other = tmp_path / "gone", tmp_path / "other"
    sql = views_sql(str(gone), small(gone))
    shutil.rmtree(gone)
    write(other, "runs", "r2", [])
    monkeypatch.chdir(other)
    with pytest.raises(duckdb.Error, match="are not in"):
        duckdb.connect().execute(sql)
    with pytest.raises(duckdb.Error, match="are not in .*/other"):
        duckdb.connect().execute(f"SET VARIABLE warehouse = '{other}'; {sql}")


def test_several_warehouses_in_one_database(tmp_path: Path) -> None:
    """Each in a schema of its own, or in a file that is attached. All connections see them."""
    db = duckdb.connect()
    for name in ("one", "two"):
        db.execute(f"CREATE SCHEMA {name}; USE {name}; {views_sql(str(tmp_path / name), small(tmp_path / name, name))}")
    with duckdb.connect(str(tmp_path / "three.duckdb")) as file:
        file.execute(views_sql(str(tmp_path / "three"), small(tmp_path / "three", "three")))
    db.execute(f"USE memory.main; ATTACH '{tmp_path}/three.duckdb' AS file (READ_ONLY)")
    views = ("one.images", "two.images", "file.images", "one.isolation", "file.isolation")
    cursor = db.cursor()
    asked = f"SELECT {', '.join(f'(SELECT image_id FROM {view})' for view in views)}"
    assert cursor.sql(asked).fetchall() == [("one", "two", "three", "one", "three")]
    for name in ("one", "two"):  # a macro takes what is in use
        db.execute(f"USE {name}")
        assert db.sql(f"SELECT image_id FROM similar_images('{name}', 'cosine')").fetchall() == [(name,)]
        assert db.sql("SELECT count(*) FROM neighbours_history()").fetchall() == [(0,)]
    of_others = ("isolation('one')", "mislabelled('style')", "tagged_images('one')")
    for asked in ("similar_images('one')", "dissimilar_images('one', 'cosine')", "neighbours_history()", *of_others):
        with pytest.raises(duckdb.Error, match="of the warehouse .*/one, and the schema in use of .*/two: USE"):
            db.sql(f"FROM one.{asked}").fetchall()


def test_a_collection_brings_its_views_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pointer = small(tmp_path / "old")
    (tmp_path / "old" / POINTER).write_bytes(pointer.as_json())
    os.rename(tmp_path / "old", tmp_path / "it's [new]")
    collection = ims.open(tmp_path / "it's [new]")
    mine = duckdb.connect()
    mine.execute("SET VARIABLE warehouse = '/another'")
    mine.execute("CREATE TABLE mine AS SELECT 'right' AS image_id")
    for db in (collection.duckdb(), collection.duckdb(mine)):
        assert db.sql("SELECT neighbour_id FROM similar_images").fetchall() == [("right",)]
    assert mine.sql("SELECT count(*) FROM mine JOIN images USING (image_id)").fetchall() == [(1,)]
    shutil.rmtree(tmp_path / "it's [new]" / "manifest")
    with pytest.raises(ims.JobFailed, match=r"it's \[new\]: published files are gone"):
        collection.duckdb()
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(ims.WrongInput, match="DuckDB is not installed: "):
        collection.duckdb()
