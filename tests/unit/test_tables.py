"""Tables that users bring: one set of rules, whatever the format, and one line for what cannot be read."""

import csv
import datetime
import decimal
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_similarity.storage import tables
from image_similarity.storage.tables import json_files, parquet_files
from image_similarity.storage.tables import table as table_module
from image_similarity.storage.tables.table import batch_rows

Rows = list[dict[str, str]]


def rows_of(location: Path | str, *names: str) -> Rows:
    """The rows, without their nulls."""
    table = tables.open_table(str(location), 60)
    rows = (row for batch in table.batches(names or None) for row in batch.to_pylist())
    return [{name: text for name, text in row.items() if text is not None} for row in rows]


A, B = {"uri": "a", "title": "t"}, {"uri": "b", "title": "u"}

CSV: dict[str, tuple[bytes, Rows]] = {
    "text stays text": (b"uri,n\n007,1.50\n 8 ,1e3\n", [{"uri": "007", "n": "1.50"}, {"uri": " 8 ", "n": "1e3"}]),
    "byte order mark": (b"\xef\xbb\xbfuri,title\na,t\n", [A]),
    "CR LF": (b"uri,title\r\na,t\r\nb,u\r\n", [A, B]),
    "mixed ends, LF first": (b"title,uri\nt,a\r\nu,b\n", [A, B]),
    "mixed ends, CR LF first": (b"title,uri\r\nt,a\nu,b", [A, B]),
    "CR alone": (b"uri,title\ra,t\rb,u\r", [A, B]),
    "empty cells": (b'uri,title\r\na,\r\n"b",""\r\n', [{"uri": "a"}, {"uri": "b"}]),
    "quotes": (
        b'uri,title\na,"x, ""y""\r\nz"\nb,5" disk\n',
        [{"uri": "a", "title": 'x, "y"\r\nz'}, {"uri": "b", "title": '5" disk'}],
    ),
    "empty rows": (b"\n  \nuri,title\n\na,t\n,\n , \n\nb,u\n\n", [A, B]),
    "a comma after every row": (b"uri,title\na,t,\nb,u,,  \n", [A, B]),
    "a comma after the header too": (b"uri,title,,\na,t,,\nb,u\n", [A, B]),
    "pandas' index": (b",uri,title\n0,a,t\n1,b,u\n", [A, B]),
    "an empty column twice": (b"uri,title,title\na,t,\nb,u,\n", [A, B]),
    "the first of two is empty": (b"title,uri,title\n,a,t\n,b,u\n", [A, B]),
    "names with capitals": (b"uri,Title,title\na,T,t\n", [{"uri": "a", "Title": "T", "title": "t"}]),
    "only a header": (b"uri,title\n", []),
    "nothing": (b"", []),
}


@pytest.mark.parametrize("case", CSV)
def test_csv(case: str, tmp_path: Path) -> None:
    content, rows = CSV[case]
    (tmp_path / "a.csv").write_bytes(content)
    assert rows_of(tmp_path / "a.csv") == rows


JSON: dict[str, tuple[str, Rows]] = {
    "a list": ('[{"uri": "a", "title": "t"}, {"uri": "b", "title": "u"}]', [A, B]),
    "lines": ('{"uri": "a", "title": "t"}\n\n{"uri": "b", "title": "u"}\n', [A, B]),
    "byte order mark": ('\ufeff {"uri": "a", "title": "t"}', [A]),
    "data": ('{"info": {}, "data": [{"uri": "a", "title": "t"}, {"uri": "b", "title": "u"}]}', [A, B]),
    "lines with data": ('{"data": [1], "uri": "a"}\n{"uri": "b"}', [{"data": "[1]", "uri": "a"}, {"uri": "b"}]),
    "numbers as written": (
        '{"a": 1.50, "b": 1e3, "c": 12345678901234567890123}',
        [{"a": "1.50", "b": "1e3", "c": "12345678901234567890123"}],
    ),
    "what holds nothing": ('[{"uri": "a", "b": "", "c": null, "d": [], "e": {}}, {}, {"x": null}]', [{"uri": "a"}]),
    "true and false": ('{"a": true, "b": false}', [{"a": "true", "b": "false"}]),
    "lists and records": (
        '{"a": ["x", "é", 1.50, null], "b": {"c": null, "d": {"e": "\\"", "f": true}}}',
        [{"a": '["x","é",1.50,null]', "b": '{"d":{"e":"\\"","f":true}}'}],
    ),
    "columns of some records": ('{"uri": "a"}\n{"title": "u", "uri": "b"}', [{"uri": "a"}, B]),
    "an empty name twice": ('{"uri": "a", "title": "t", "title": null}', [A]),
    "half a character": ('{"uri": "a\\ud800"}', [{"uri": "a?"}]),
    "an empty list": ("[]", []),
    "nothing": ("", []),
}


@pytest.mark.parametrize("case", JSON)
def test_json(case: str, tmp_path: Path) -> None:
    content, rows = JSON[case]
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    assert rows_of(tmp_path / "a.json") == rows


def test_json_is_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_files, "_PIECE", 7)
    records = [{"uri": f"{number}é", "tags": [number, {"a": "x" * number}]} for number in range(30)]
    for name, text in {
        "a.json": json.dumps(records, indent=2, ensure_ascii=False),
        "a.jsonl": "\n".join(map(json.dumps, records)),
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        rows = rows_of(tmp_path / name)
        assert [(row["uri"], json.loads(row["tags"])) for row in rows] == [
            (record["uri"], record["tags"]) for record in records
        ]


MOMENT = datetime.datetime(2024, 1, 2, 3, 4, 5, 678000)
PARQUET: dict[str, tuple[Callable[[], pa.Array], str | None]] = {
    "text": (lambda: pa.array(["007"]), "007"),
    "large text": (lambda: pa.array(["007"], pa.large_string()), "007"),
    "empty text": (lambda: pa.array([""]), None),
    "null": (lambda: pa.nulls(1), None),
    "integer": (lambda: pa.array([7], pa.uint64()), "7"),
    "whole float": (lambda: pa.array([17.0]), "17.0"),
    "float": (lambda: pa.array([0.1], pa.float32()), "0.1"),
    "half float": (lambda: pa.array([1.5], pa.float16()), "1.5"),
    "boolean": (lambda: pa.array([True]), "true"),
    "decimal": (lambda: pa.array([decimal.Decimal("1.50")]), "1.50"),
    "small decimal": (lambda: pa.array([decimal.Decimal("0.00000001")]), "0.00000001"),
    "date": (lambda: pa.array([datetime.date(2024, 1, 2)]), "2024-01-02"),
    "nanoseconds": (lambda: pa.array([MOMENT], pa.timestamp("ns")), "2024-01-02 03:04:05.678"),
    "whole seconds": (lambda: pa.array([MOMENT.replace(microsecond=0)]), "2024-01-02 03:04:05"),
    "tens": (lambda: pa.array([datetime.datetime(2020, 10, 20)], pa.timestamp("ms")), "2020-10-20 00:00:00"),
    "another zone": (lambda: pa.array([MOMENT], pa.timestamp("us", "Europe/Berlin")), "2024-01-02 03:04:05.678"),
    "time": (lambda: pa.array([datetime.time(1, 20)], pa.time64("us")), "01:20:00"),
    "duration": (lambda: pa.array([datetime.timedelta(hours=1)], pa.duration("ns")), "1:00:00"),
    "uuid": (lambda: pa.array([bytes(range(16))], pa.uuid()), "00010203-0405-0607-0809-0a0b0c0d0e0f"),
    "dictionary": (lambda: pa.array(["x"]).dictionary_encode(), "x"),
    "list": (lambda: pa.array([[0.1, None]], pa.list_(pa.float32())), "[0.1,null]"),
    "empty list": (lambda: pa.array([[]], pa.list_(pa.string())), None),
    "fixed list": (lambda: pa.array([[1, 2]], pa.list_(pa.int8(), 2)), "[1,2]"),
    "record": (lambda: pa.array([{"a": "ü", "b": None, "c": datetime.date(2024, 1, 2)}]), '{"a":"ü","c":"2024-01-02"}'),
    "map": (lambda: pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int8())), '{"k":1}'),
}


@pytest.mark.parametrize("case", PARQUET)
def test_parquet(case: str, tmp_path: Path) -> None:
    make, text = PARQUET[case]
    pq.write_table(pa.table({"uri": ["a"], "x": make()}), tmp_path / "a.parquet")
    assert rows_of(tmp_path / "a.parquet") == [{"uri": "a", "x": text} if text is not None else {"uri": "a"}]


def test_bytes_are_left_out_and_told(tmp_path: Path) -> None:
    inside = pa.array([[{"bytes": b"\xff", "path": "p"}]])
    columns = {"uri": ["a"], "thumb": [b"\xff"], "images": inside, "fixed": pa.array([b"\xff"], pa.binary(1))}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    table = tables.open_table(str(tmp_path / "a.parquet"), 60)
    assert table.names == ["uri"] and table.binary == ("thumb", "images", "fixed")
    assert table.notes == ["left out are columns of bytes: thumb, images, fixed"]


def test_names_that_stand_several_times_in_parquet(tmp_path: Path) -> None:
    names = ["uri", "x", "x"]
    pq.write_table(
        pa.Table.from_arrays([["a"], pa.array([None], pa.string()), [7]], names=names), tmp_path / "a.parquet"
    )
    assert rows_of(tmp_path / "a.parquet") == [{"uri": "a", "x": "7"}]
    pq.write_table(pa.Table.from_arrays([["a"], ["b"], [7]], names=names), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="the column 'x' stands 2 times"):
        rows_of(tmp_path / "a.parquet")


REFUSED: dict[str, tuple[str, bytes, str]] = {
    "latin1": ("a.csv", "uri,title\na,Gemälde\n".encode("latin1"), "not UTF-8 (the byte 0xe4)"),
    "latin1 in JSON": ("a.json", '[{"uri": "Gemälde"}]'.encode("latin1"), "not UTF-8 (the byte 0xe4)"),
    "utf-16": ("a.csv", "uri,title\na,b\n".encode("utf-16"), "not UTF-8"),
    "utf-16 without mark": ("a.csv", "uri,title\na,b\n".encode("utf-16-le"), "UTF-16 perhaps"),
    "too few cells": ("a.csv", b'uri,title\n\n"a\nb",t\nc\n', "line 5 has 1 cell, and the header has 2"),
    "too many cells": ("a.csv", b"uri,title\na,t\nb,u,v\n", "line 3 has 3 cells, and the header has 2"),
    "a quote without end": ("a.csv", b'uri,title\na,t\nb,"u\nc,v\n', "line 3: unexpected end of data"),
    "text after a quote": ("a.csv", b'uri,title\na,"t" u\n', "line 2: "),
    "a column twice": ("a.csv", b"uri,x,x\na,1,\nb,,2\n", "the column 'x' stands 2 times in the header"),
    "a name twice": ("a.jsonl", b'{"x": 1}\n{"x": 1, "x": 2}', "record 2: 'x' stands several times"),
    "broken": ("a.json", b'[{"uri": "a"}, {"uri" 1}]', "record 2: Expecting ':' delimiter"),
    "cut": ("a.json", b'[{"uri": "a"},', "the list has no end"),
    "more after the end": ("a.json", b'[{"uri": "a"}] {"uri": "b"}', "more after the end"),
    "no records": ("a.json", b"[1, 2]", "'1' is no record"),
    "very deep": ("a.json", b'{"a": ' + b"[" * 200_000, "record 1: "),
    "deep": ("a.json", b'{"a": ' + b"[" * 600 + b"]" * 600 + b"}", "nested too deeply"),
    "no Parquet": ("a.parquet", b"PAR0", "Parquet"),
    "another type": ("a.xlsx", b"x", "a file of unknown type; give one of .csv, .json"),
    "absent": ("none/a.csv", b"", "No such file"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_told_in_one_line(case: str, tmp_path: Path) -> None:
    name, content, message = REFUSED[case]
    if "/" not in name:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as caught:
        rows_of(tmp_path / name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_column_twice_is_seen_over_all_rows(tmp_path: Path) -> None:
    rows = [f"{number},1," for number in range(batch_rows(3))] + ["last,,2"]
    (tmp_path / "a.csv").write_text("\n".join(["uri,x,x", *rows]))
    with pytest.raises(ValueError, match="the column 'x' stands 2 times"):
        rows_of(tmp_path / "a.csv")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_folders(kind: str, tmp_path: Path) -> None:
    """As Spark writes them: partitions are text, markers are passed over, columns may differ."""
    root = tmp_path / f"_a:b.{kind}"
    write(root / "part=007" / "day=2024%2F01" / f"x.{kind}", [{"uri": "a"}])
    write(root / "part=__HIVE_DEFAULT_PARTITION__" / "_day=1" / f"y.{kind}", [{"uri": "b", "title": "u"}])
    write(root / "_temporary" / f"z.{kind}", [{"uri": "c"}])
    write(root / f"_old.{kind}", [{"uri": "d"}])
    (root / "_SUCCESS").touch()
    assert rows_of(root) == [{"uri": "a", "part": "007", "day": "2024/01"}, {"uri": "b", "title": "u", "_day": "1"}]
    table = tables.open_table(str(root), 60)
    assert table.names == ["uri", "part", "day", "title", "_day"]
    assert table.notes == [f"passed over are files whose names begin with _: _old.{kind}"]
    assert rows_of(root, "part", "uri") == [{"part": "007", "uri": "a"}, {"uri": "b"}]
    for number in range(10):
        write(root / f"_x{number}.{kind}", [{"uri": "e"}])
    assert tables.open_table(str(root), 60).notes[0].endswith(f"_x8.{kind} and 1 more")
    (root / "broken").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="^broken: "):
        rows_of(root)


@pytest.mark.parametrize("name", ["_x", ".x", "a:b", "a b%20", "x[1]*"])
def test_names_of_files_are_literal(name: str, tmp_path: Path) -> None:
    for kind in ("csv", "json", "parquet"):
        write(tmp_path / f"{name}.{kind}", [{"uri": "a"}])
        assert rows_of(tmp_path / f"{name}.{kind}") == [{"uri": "a"}]
    address = (tmp_path / f"{name}.csv").as_uri()
    assert rows_of(address) == rows_of(address.replace("file:///", "file:/")) == [{"uri": "a"}]


@pytest.mark.parametrize("kind", ["csv", "json", "parquet"])
def test_no_row_of_a_part_without_the_columns_asked_for_is_lost(kind: str, tmp_path: Path) -> None:
    """A part with other columns, and with bytes alone: whoever needs a column must see that these rows lack it."""
    folder = tmp_path / f"list.{kind}"
    folder.mkdir()
    write = {
        "csv": lambda rows, file: file.write_text(
            "\n".join([",".join(rows[0]), *(",".join(r.values()) for r in rows)])
        ),
        "json": lambda rows, file: file.write_text(json.dumps(rows)),
        "parquet": lambda rows, file: pq.write_table(pa.Table.from_pylist(rows), file),
    }[kind]
    write([{"uri": "a", "title": "t"}], folder / f"1.{kind}")
    write([{"other": "x"}, {"other": "y"}], folder / f"2.{kind}")
    lost: Rows = [{}] * 2
    if kind == "parquet":
        write([{"image": b"x"}], folder / f"3.{kind}")
        lost = [{}] * 3
    assert rows_of(folder, "uri", "title") == [A, *lost]
    table = tables.open_table(str(folder), 60)
    assert sum(batch.num_rows for batch in table.batches([])) == 1 + len(lost)
    all_columns = [row for batch in table.batches() for row in batch.to_pylist()]
    assert len(all_columns) == 1 + len(lost) and [row["uri"] for row in all_columns] == ["a", *[None] * len(lost)]


def test_an_empty_folder_and_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    (tmp_path / "a.csv" / "_SUCCESS").touch()
    with pytest.raises(ValueError, match="the folder has no files"):
        rows_of(tmp_path / "a.csv")
    os.mkfifo(tmp_path / "b.csv")
    with pytest.raises(ValueError, match="no regular file"):
        rows_of(tmp_path / "b.csv")


def write(file: Path, rows: Rows) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    if file.suffix == ".csv":
        with open(file, "w", newline="", encoding="utf-8") as out:
            writer = csv.DictWriter(out, names)
            writer.writeheader()
            writer.writerows(rows)
    elif file.suffix == ".parquet":
        with open(file, "wb") as binary:
            pq.write_table(pa.Table.from_pylist(rows), binary)
    else:
        file.write_text("\n".join(map(json.dumps, rows)))


NAMES: list[tuple[list[str], str | None]] = [
    (["uri", "file"], "uri"),
    (["x", "file"], "file"),
    (["File", "uri"], "uri"),
    (["x"], None),
]


@pytest.mark.parametrize(("names", "chosen"), NAMES)
def test_the_first_candidate_is_the_column(names: list[str], chosen: str | None) -> None:
    assert tables.Table(names).column("uri", "file") == chosen


@pytest.mark.parametrize("name", ["URI", " uri", "Uri "])
def test_a_name_that_is_nearly_right_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"is the column {name!r} meant for uri"):
        tables.Table(["x", name, "file"]).column("uri", "file")


def test_a_column_that_holds_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="uri must be text, and the list has bytes there"):
        tables.Table(["x"], binary=("uri",)).column("uri", "x")
    with pytest.raises(ValueError, match="one object for each image"):
        tables.Table(["uri"], nested=frozenset(["uri"])).column("uri")


def test_only_the_columns_asked_for_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.parquet", [{"uri": "a", "big": "b", "title": "t"}])
    texts: list[Any] = []
    original = parquet_files.as_text

    def as_text(column: pa.Array) -> pa.Array:
        texts.extend(column.to_pylist())
        return original(column)

    monkeypatch.setattr(parquet_files, "as_text", as_text)
    assert rows_of(tmp_path / "a.parquet", "title", "uri") == [{"title": "t", "uri": "a"}]
    assert sorted(texts) == ["a", "t"]


@pytest.mark.parametrize("content", [b",uri\n0,a\n", b"uri, ,title\na,x,t\n"])
def test_columns_without_a_name_are_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    assert tables.open_table(str(tmp_path / "a.csv"), 60).notes == ["left out are columns without a name"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_tables_with_many_columns_are_read_in_small_batches(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert batch_rows(0) == batch_rows(6) > 1000 and batch_rows(100_000) == 10 and batch_rows(10**7) == 1
    monkeypatch.setattr(table_module, "_BATCH_CELLS", 100)
    write(tmp_path / f"a.{kind}", [dict.fromkeys("abcdefghij", "x")] * 25)
    batches = tables.open_table(str(tmp_path / f"a.{kind}"), 60).batches()
    assert [len(batch) for batch in batches] == [10, 10, 5]
