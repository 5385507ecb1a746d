"""Tables that users bring: build_manifest, download_images and find_neighbours read them by the same rules."""

import csv
import datetime
import decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from image_similarity.errors import WrongInput
from image_similarity.jobs import build_manifest, download_images, find_neighbours
from image_similarity.settings import ManifestSettings
from image_similarity.stages.downloads import catalogue
from image_similarity.stages.manifest import by_spark
from image_similarity.stages.neighbours import own_vectors, sources
from image_similarity.storage import blobs, uris
from image_similarity.warehouse.warehouse import Warehouse
from processes import ask

NAMES = ["a.jpg", "b.jpg"]
UUID = bytes(range(16))
COLUMNS: dict[str, tuple[pa.Array, str]] = {
    "nanoseconds": (pa.array([datetime.datetime(2024, 1, 2, 3)] * 2, pa.timestamp("ns")), "2024-01-02 03:00:00"),
    "float16": (pa.array([1.5] * 2, pa.float16()), "1.5"),
    "uuid": (pa.array([UUID] * 2, pa.uuid()), "00010203-0405-0607-0809-0a0b0c0d0e0f"),
    "time": (pa.array([datetime.time(1, 2)] * 2, pa.time64("us")), "01:02:00"),
    "decimal": (pa.array([decimal.Decimal("1.50")] * 2), "1.50"),
    "date": (pa.array([datetime.date(2024, 1, 2)] * 2), "2024-01-02"),
    "dictionary": (pa.array(["x", "x"]).dictionary_encode(), "x"),
}


def written(folder: Path, **columns: Any) -> str:
    pq.write_table(pa.table(columns), folder / "own.parquet")
    return str(folder / "own.parquet")


def test_columns_of_types_that_spark_does_not_know(run: Any, tmp_path: Path) -> None:
    odd = {name: column for name, (column, _) in COLUMNS.items()}
    own = written(tmp_path, uri=NAMES, image_id=NAMES, embedding=[[1.0, 0.0], [1.0, 1.0]], **odd)
    assert run(build_manifest, "--images", own, "--warehouse", tmp_path / "w") == 0
    [(entries,)] = ask(tmp_path / "w", "SELECT DISTINCT map_entries(attributes) FROM manifest WHERE image_id = 'a.jpg'")
    shown = dict(tuple(entry.values()) for entry in entries)
    assert {name: shown[name] for name in COLUMNS} == {name: text for name, (_, text) in COLUMNS.items()}
    assert run(find_neighbours, "--embeddings", own, "--warehouse", tmp_path / "w", "-k", 1, "--dissimilar", 0) == 0
    assert ask(tmp_path / "w", "SELECT image_id, neighbour_id FROM neighbours ORDER BY 1") == [
        ("a.jpg", "b.jpg"),
        ("b.jpg", "a.jpg"),
    ]


def test_bytes_are_no_attribute_and_no_id(run: Any, tmp_path: Path, capsys: Any) -> None:
    picture = b"\xff\xd8\xff"
    inside = pa.array([{"bytes": picture, "path": "p"}] * 2)
    own = written(tmp_path, uri=NAMES, thumb=[picture] * 2, image=inside, title=["t"] * 2)
    assert run(build_manifest, "--images", own, "--warehouse", tmp_path / "w") == 0
    assert "left out are columns of bytes: thumb, image" in capsys.readouterr().out
    assert ask(tmp_path / "w", "SELECT DISTINCT map_keys(attributes) FROM manifest") == [(["title"],)]
    for columns in ({"uri": NAMES, "image_id": [picture, b"\xfe"]}, {"uri": [picture, b"\xfe"]}):
        own = written(tmp_path, **columns)
        assert run(build_manifest, "--images", own, "--warehouse", tmp_path / "none") == 2
        assert "must be text, and the list has bytes there" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


LISTS = {
    "latin1.csv": ("uri,title\na.jpg,Gemälde\n".encode("latin1"), "not UTF-8 (the byte 0xe4)"),
    "utf16.csv": ("uri,title\na.jpg,Gemälde\n".encode("utf-16"), "not UTF-8"),
    "pandas.json": (b'{"uri":{"0":"a.jpg","1":"b.jpg"},"title":{"0":"x","1":"y"}}', "one object for each image"),
    "capitals.csv": (b"uri,Image_ID\na.jpg,1\n", "is the column 'Image_ID' meant for image_id? Write it image_id"),
    "short.csv": (b"uri,title\na.jpg,t\nb.jpg\n", "line 3 has 1 cell, and the header has 2"),
    "long.csv": (b"uri,title\na.jpg,t,u\n", "line 2 has 3 cells, and the header has 2"),
    "twice.csv": (b"uri,title,title\na.jpg,t,u\n", "the column 'title' stands 2 times in the header"),
    "quote.csv": (b'uri,title\na.jpg,"t\n', "line 2: unexpected end of data"),
    "key.jsonl": (b'{"uri": "a.jpg", "uri": "b.jpg"}', "record 1: 'uri' stands several times"),
}


@pytest.mark.parametrize("name", LISTS)
def test_what_is_not_what_it_seems_is_refused(name: str, run: Any, tmp_path: Path, capsys: Any) -> None:
    content, message = LISTS[name]
    (tmp_path / name).write_bytes(content)
    assert run(build_manifest, "--images", tmp_path / name, "--warehouse", tmp_path / "w") == 2
    assert message in capsys.readouterr().err
    places = ["--images", tmp_path / "files", "--warehouse", tmp_path / "w"]
    assert run(download_images, "--catalogue", tmp_path / name, *places) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "w").exists() and not (tmp_path / "files").exists()


ENDS = {
    "mixed, LF first": b"uri,title\na.jpg,A\r\nb.jpg,B\nc.jpg,\r\n",
    "mixed, CR LF first": b"title,uri\r\nA,a.jpg\nB,b.jpg\r\n,c.jpg\r\n",
    "CR LF": b'uri,title\r\na.jpg,"A"\r\nb.jpg,B\r\nc.jpg,\r\n',
    "LF": b'uri,title\na.jpg,"A"\nb.jpg,B\nc.jpg,\n',
}


@pytest.mark.parametrize("ends", ENDS)
def test_lines_may_end_in_either_way(ends: str, run: Any, tmp_path: Path) -> None:
    """An empty cell at the end of a line is no attribute, however the line ends."""
    (tmp_path / "list.csv").write_bytes(ENDS[ends])
    assert run(build_manifest, "--images", tmp_path / "list.csv", "--warehouse", tmp_path / "w") == 0
    rows = ask(tmp_path / "w", "SELECT image_id, map_entries(attributes) FROM manifest ORDER BY 1")
    assert [(name, [tuple(entry.values()) for entry in entries]) for name, entries in rows] == [
        ("a.jpg", [("title", "A")]),
        ("b.jpg", [("title", "B")]),
        ("c.jpg", []),
    ]


def test_what_is_in_quotes_stays_as_it_is(run: Any, tmp_path: Path) -> None:
    titles = ['Vase, "blue"', "two\nlines", "two\r\nlines", '"', "plain"]
    with open(tmp_path / "list.csv", "w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([("uri", "title"), *((f"{n}.jpg", title) for n, title in enumerate(titles))])
    assert run(build_manifest, "--images", tmp_path / "list.csv", "--warehouse", tmp_path / "w") == 0
    assert [
        row[0] for row in ask(tmp_path / "w", "SELECT attributes['title'] FROM manifest ORDER BY image_id")
    ] == titles


# -- three jobs, one set of rules --------------------------------------------------------------------------------------


def ids(spark: SparkSession, location: str, folder: Path) -> dict[str, list[str]]:
    """job -> the ids that it finds in a table with the columns uri, image_id and, in Parquet, embedding."""
    found: dict[str, list[Any]] = {}
    with Warehouse(spark, str(folder / "w")).scratch("r1") as scratch:
        found["build_manifest"] = by_spark.run(spark, location, ManifestSettings(), scratch).rows.collect()
    found["download_images"] = catalogue.read(location, ("uri",)).entries
    if location.endswith(".parquet"):
        rows = sources.from_parquet(spark, location, 60).vectors.withColumnRenamed("content", "image_id").collect()
        assert all(list(row.embedding) == [1.0, 0.5] for row in rows)
        found["find_neighbours"] = rows
    return {job: sorted(row.image_id for row in rows) for job, rows in found.items()}


def vectors(kind: pa.DataType = pa.list_(pa.float32())) -> pa.Array:
    return pa.array([[1.0, 0.5]] * 2, kind)


OWN: dict[str, tuple[dict[str, dict[str, Any]], list[str]]] = {
    "text": ({"a.parquet": {"image_id": ["007", "8"]}}, ["007", "8"]),
    "numbers": ({"a.parquet": {"image_id": pa.array([7, 8], pa.int16())}}, ["7", "8"]),
    "unsigned": ({"a.parquet": {"image_id": pa.array([7, 8], pa.uint32())}}, ["7", "8"]),
    "decimals": ({"a.parquet": {"image_id": [decimal.Decimal("1.50"), decimal.Decimal("2.00")]}}, ["1.50", "2.00"]),
    "floats": ({"a.parquet": {"image_id": [1.0, 2.5]}}, ["1.0", "2.5"]),
    "dates": (
        {"a.parquet": {"image_id": [datetime.date(2024, 1, day) for day in (1, 2)]}},
        ["2024-01-01", "2024-01-02"],
    ),
    "uuids": (
        {"a.parquet": {"image_id": pa.array([UUID, bytes(16)], pa.uuid())}},
        ["00000000-0000-0000-0000-000000000000", "00010203-0405-0607-0809-0a0b0c0d0e0f"],
    ),
    "dictionary": ({"a.parquet": {"image_id": pa.array(["x", "y"]).dictionary_encode()}}, ["x", "y"]),
    "half floats": ({"a.parquet": {"image_id": ["x", "y"], "embedding": vectors(pa.list_(pa.float16()))}}, ["x", "y"]),
    "doubles": ({"a.parquet": {"image_id": ["x", "y"], "embedding": vectors(pa.list_(pa.float64(), 2))}}, ["x", "y"]),
    "capitals beside": ({"a.parquet": {"image_id": ["x", "y"], "Image_ID": ["1", "2"]}}, ["x", "y"]),
    "odd columns": (
        {"a.parquet": {"image_id": ["x", "y"], **{name: column for name, (column, _) in COLUMNS.items()}}},
        ["x", "y"],
    ),
    "_hidden": ({"_a.parquet": {"image_id": ["x", "y"]}}, ["x", "y"]),
    "colon": ({"a:b.parquet": {"image_id": ["x", "y"]}}, ["x", "y"]),
    "pattern": ({"a [1]*.parquet": {"image_id": ["x", "y"]}}, ["x", "y"]),
    "partitions": (
        {
            "a.parquet/part=007/x.parquet": {"image_id": ["x", "y"]},
            "a.parquet/part=b%3Ac/y.parquet": {"image_id": ["z", "w"]},
            "a.parquet/_old.parquet": {"image_id": ["o", "p"]},
        },
        ["w", "x", "y", "z"],
    ),
    "files of two types": (
        {
            "_a.parquet/x.parquet": {"image_id": [1, 2]},
            "_a.parquet/y.parquet": {"image_id": ["x", "y"], "embedding": vectors(pa.list_(pa.float64()))},
        },
        ["1", "2", "x", "y"],
    ),
}


@pytest.mark.parametrize("case", OWN)
def test_the_jobs_find_the_same_ids(case: str, spark: SparkSession, tmp_path: Path) -> None:
    files, expected = OWN[case]
    for name, columns in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        table = pa.table({"uri": NAMES, "embedding": vectors(), **columns})
        with open(tmp_path / name, "wb") as out:
            pq.write_table(table, out)
    location = str(tmp_path / next(iter(files)).partition("/")[0])
    assert ids(spark, location, tmp_path) == dict.fromkeys(
        ("build_manifest", "download_images", "find_neighbours"), expected
    )


def test_ids_in_names_of_folders_keep_their_zeros(spark: SparkSession, tmp_path: Path) -> None:
    for image_id in ("007", "8"):
        folder = tmp_path / "own.parquet" / f"image_id={image_id}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"uri": ["a.jpg"], "embedding": vectors()[:1]}), folder / "x.parquet")
    found = ids(spark, str(tmp_path / "own.parquet"), tmp_path)
    assert list(found.values()) == [["007", "8"]] * 3


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "capitals": ({"Image_ID": ["x", "y"]}, "is the column 'Image_ID' meant for image_id? Write it image_id"),
    "bytes": ({"image_id": [b"x", b"\xff"]}, "image_id"),
    "records": ({"image_id": [{"a": 1}] * 2}, "image_id"),
    "twice": ({"image_id": ["x", "x"]}, "image_id must be unique, but these stand more than once: 'x'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_the_jobs_refuse_the_same_ids(case: str, spark: SparkSession, tmp_path: Path) -> None:
    columns, message = WRONG[case]
    own = written(tmp_path, uri=NAMES, embedding=vectors(), **columns)
    readers: list[Any] = [
        lambda scratch: by_spark.run(spark, own, ManifestSettings(), scratch),
        lambda scratch: catalogue.read(own, ("uri",)),
        lambda scratch: sources.from_parquet(spark, own, 60),
    ]
    with Warehouse(spark, str(tmp_path / "w")).scratch("r1") as scratch:
        for read in readers:
            with pytest.raises(WrongInput) as caught:
                read(scratch)
            assert message in str(caught.value) and "\n" not in str(caught.value)


def test_addresses_as_spark_writes_them(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "a b.jpg").write_bytes(b"1")
    (tmp_path / "list.csv").write_text(f"uri\nfile:{tmp_path}/a%20b.jpg\n")
    with Warehouse(spark, str(tmp_path / "w")).scratch("r1") as scratch:
        built = by_spark.run(spark, f"file:{tmp_path}/list.csv", ManifestSettings(), scratch)
        assert [(row.uri, row.size_bytes) for row in built.rows.collect()] == [(f"{tmp_path}/a b.jpg", 1)]


@pytest.mark.parametrize("name", ["own.parquet", "own.parquet/part=007/x.parquet"])
def test_types_are_seen_where_pyarrow_cannot_open_files(
    name: str, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On HDFS without its libraries, say: Spark reads two columns, whatever the others are."""
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)

    def write(**columns: Any) -> None:
        with open(tmp_path / name, "wb") as out:
            pq.write_table(pa.table({"image_id": ["x", "y"], "embedding": vectors(), **columns}), out)

    def refuse(*_: Any) -> Any:
        raise OSError("no libraries")

    monkeypatch.setattr(blobs, "is_folder", refuse)
    monkeypatch.setattr(uris, "is_local", lambda uri: False)
    location = f"file://{tmp_path}/own.parquet"
    write(odd=COLUMNS["nanoseconds"][0], half=COLUMNS["float16"][0])
    own = own_vectors.read(spark, location, 60)
    assert sorted(map(tuple, own.vectors.collect())) == [("x", [1.0, 0.5]), ("y", [1.0, 0.5])]
    assert sorted(row.image_id for row in own.ids.collect()) == ["x", "y"]
    for columns, message in (
        ({"image_id": [b"x", b"y"]}, "image_id is binary"),
        ({"embedding": vectors(pa.list_(pa.float16()))}, "pyarrow cannot open it here"),
    ):
        write(**columns)
        with pytest.raises(ValueError, match=message):
            own_vectors.read(spark, location, 60)
    with pytest.raises(ValueError, match="none.parquet"):
        own_vectors.read(spark, f"file://{tmp_path}/none.parquet", 60)


def test_a_file_that_is_replaced_while_it_is_read_is_refused(tmp_path: Path) -> None:
    """Its ids were checked; the vectors of another file with the same ids must not come among them."""
    where = tmp_path / "own.parquet"
    for number in range(2):
        ids = pa.array([f"{n}" for n in range(40)])
        values = np.random.default_rng(number).standard_normal((40, 3)).astype(np.float32)
        table = pa.table({"image_id": ids, "embedding": pa.FixedSizeListArray.from_arrays(values.ravel(), 3)})
        pq.write_table(table, where, row_group_size=20)
        if not number:
            (file,) = own_vectors.files_on_this_machine(str(where), 60)
            assert sum(map(len, file.batches(0))) == 20
    with pytest.raises(ValueError, match="was replaced while it was read"):
        list(file.batches(1))
