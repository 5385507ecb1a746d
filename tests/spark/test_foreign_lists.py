"""Lists and vectors of others: a column that Spark does not know costs nothing else, and what is no text is refused."""

import csv
import datetime
import decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_similarity.jobs import build_manifest, find_neighbours
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


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_list_with_a_column_of(kind: str, run: Any, tmp_path: Path) -> None:
    column, text = COLUMNS[kind]
    own = written(tmp_path, uri=NAMES, other=["o"] * 2, column=column)
    assert run(build_manifest, "--images", own, "--warehouse", tmp_path / "w") == 0
    [(shown, other)] = ask(tmp_path / "w", "SELECT DISTINCT attributes['column'], attributes['other'] FROM manifest")
    assert other == "o" and shown.removesuffix(".000000").startswith(text)


@pytest.mark.parametrize("kind", ["nanoseconds", "float16", "uuid", "time"])
def test_vectors_beside_a_column_of(kind: str, run: Any, tmp_path: Path) -> None:
    own = written(tmp_path, image_id=NAMES, embedding=[[1.0, 0.0], [1.0, 1.0]], column=COLUMNS[kind][0])
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
    "capitals.csv": (b"uri,Image_ID\na.jpg,1\n", "is the column 'Image_ID' meant for image_id?"),
}


@pytest.mark.parametrize("name", LISTS)
def test_what_is_not_what_it_seems_is_refused(name: str, run: Any, tmp_path: Path, capsys: Any) -> None:
    content, message = LISTS[name]
    (tmp_path / name).write_bytes(content)
    assert run(build_manifest, "--images", tmp_path / name, "--warehouse", tmp_path / "w") == 2
    assert message in capsys.readouterr().err and not (tmp_path / "w").exists()


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
