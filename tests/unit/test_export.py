"""Lists to clean by: what is in them, for whom they are readable, and that nothing is lost by them."""

import csv
import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import s3_server
from image_similarity.errors import WrongInput
from image_similarity.settings import ManifestSettings
from image_similarity.stages.groups import attributes, export, facts, keep
from image_similarity.stages.groups.export import Written
from image_similarity.stages.manifest import lists
from image_similarity.storage import blobs
from image_similarity.storage.filesystems import files_of
from image_similarity.warehouse.schemas import IDENTICAL, NEAR_DUPLICATES, SCHEMAS
from image_similarity.warehouse.snapshot import POINTER, Pointer, open_snapshot

Row = dict[str, Any]
FILES = {"export.json", "groups.parquet", "keep.csv", "remove.csv"}


class Collection:
    """A warehouse of made-up images, each with a content, a size, and attributes."""

    def __init__(self, folder: Path):
        self.folder, self.manifest, self.embeddings = folder, list[Row](), list[Row]()
        self.vectors, self.groups = list[Row](), list[Row]()

    def image(self, name: str, width: int = 10, **different: Any) -> None:
        row = {"image_id": name, "uri": f"/pictures/{name}", "size_bytes": 100 * width, "source_version": "1"}
        self.manifest.append({**row, "attributes": {}, **different})
        content = f"sha-{name}"
        self.embeddings.append(
            {"image_id": name, "fingerprint_key": "key", "content_sha256": content, "source_version": "1"}
        )
        self.vectors.append({"content_sha256": content, "fingerprint_key": "key", "width": width, "height": 2})

    def group(self, kind: str, group: str, *members: str, distance: float = 0.25) -> None:
        """The first one is kept."""
        for position, name in enumerate(members):
            far = distance if position else 0.0
            row = {"group_id": group, "image_id": name, "kind": kind, "position": position, "level": 0}
            self.groups.append({**row, "representative": position == 0, "distance_to_representative": far})

    def write(self, folder: Path | str, seed: int | None = None, parts: int = 1) -> Written:
        """The export; with a ``seed``, of rows in another order."""
        slots = {
            "manifest": ("", self.manifest),
            "embeddings": ("f", self.embeddings),
            "vectors": ("key", self.vectors),
        }
        tables: dict[str, dict[str, list[str]]] = {}
        for table, (slot, rows) in slots.items():
            target = self.folder / table / "run_id=r1"
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            rows = shuffled(rows, seed)
            for part in range(parts):
                pq.write_table(pa.Table.from_pylist(rows[part::parts], SCHEMAS[table]), target / f"part-{part}.parquet")
            if rows:
                tables[table] = {slot: ["r1"]}
        (self.folder / POINTER).write_bytes(Pointer(1, tables).as_json())
        groups = pa.Table.from_pylist(shuffled(self.groups, seed), SCHEMAS["groups"])
        return export.write(str(folder), open_snapshot(str(self.folder)), "f", groups)


def shuffled(rows: list[Row], seed: int | None) -> list[Row]:
    return rows if seed is None else random.Random(seed).sample(rows, len(rows))


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    """a, b and d are nearly the same, c is a copy of b; x and y are copies; s is alone."""
    made = Collection(tmp_path / "warehouse")
    for number, name in enumerate("abcdxys"):
        made.image(f"{name}.jpg", width=20 - number, attributes={"title": f"The {name}"})
    made.group(NEAR_DUPLICATES, "near", "a.jpg", "b.jpg", "d.jpg")
    made.group(IDENTICAL, "same", "b.jpg", "c.jpg", distance=0.0)
    made.group(IDENTICAL, "copies", "x.jpg", "y.jpg", distance=0.0)
    return made


def read(file: Path) -> list[dict[str, str]]:
    csv.field_size_limit(1 << 30)
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream, strict=True))


def ids(file: Path) -> list[str]:
    return [row["image_id"] for row in read(file)]


# -- what is in the lists ----------------------------------------------------------------------------------------------


def test_the_lists(collection: Collection, tmp_path: Path) -> None:
    written = collection.write(tmp_path / "lists")
    assert {path.name for path in (tmp_path / "lists").iterdir() if path.name[0] != "."} == FILES
    assert (tmp_path / "lists" / "keep.csv").read_text() == (
        '"image_id","uri","group_id","group_size","title"\n'
        '"a.jpg","/pictures/a.jpg","near",4,"The a"\n'
        '"s.jpg","/pictures/s.jpg",,1,"The s"\n'
        '"x.jpg","/pictures/x.jpg","copies",2,"The x"\n'
    )
    first, *_, last = read(tmp_path / "lists" / "remove.csv")
    assert ids(tmp_path / "lists" / "remove.csv") == ["b.jpg", "c.jpg", "d.jpg", "y.jpg"]
    assert first == {
        **{"image_id": "b.jpg", "uri": "/pictures/b.jpg", "kept_id": "a.jpg", "kept_uri": "/pictures/a.jpg"},
        **{"distance": "0.25", "kind": NEAR_DUPLICATES, "group_id": "near", "title": "The b"},
        **{"width": "19", "height": "2", "size_bytes": "1900"},
        **{"kept_width": "20", "kept_height": "2", "kept_size_bytes": "2000"},
    }
    assert (last["kept_id"], last["kind"], last["distance"]) == ("x.jpg", IDENTICAL, "0")
    rows = pq.read_table(tmp_path / "lists" / "groups.parquet").to_pylist()
    assert [(row["action"], row["image_id"], row["position"], row["group_size"]) for row in rows] == [
        *(("keep", "a.jpg", 0, 4), ("remove", "b.jpg", 1, 4), ("remove", "c.jpg", 2, 4), ("remove", "d.jpg", 3, 4)),
        *(("keep", "x.jpg", 0, 2), ("remove", "y.jpg", 1, 2)),
    ]
    assert rows[1]["attributes"] == [("title", "The b")] and rows[1]["kept_width"] == 20
    assert written == Written(str(tmp_path / "lists"), 3, 4, 1900 + 1800 + 1700 + 1500, 2, 0, 0)
    [line] = written.lines()
    assert line.startswith("export: 4 images can be removed (0.0 MiB), 3 stay: ")


@pytest.mark.parametrize("rows_at_once", [64, 1 << 18], ids=["ranges", "at once"])
def test_each_image_is_in_one_list_whatever_the_order_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
) -> None:
    monkeypatch.setattr(export, "ROWS_AT_ONCE", rows_at_once)
    random_, made = random.Random(1), Collection(tmp_path / "warehouse")
    names = [f"{number:04}-{random_.choice('aé😀')}" for number in range(700)]
    for name in names:
        made.image(name, random_.randrange(1, 99), attributes={random_.choice("tu"): name})
    grouped = random_.sample(names, 400)
    while len(grouped) > 9:
        members = [grouped.pop() for _ in range(random_.randrange(2, 9))]
        kind = random_.choice([NEAR_DUPLICATES, IDENTICAL])
        made.group(kind, f"g-{members[0]}", *members)
        if kind == NEAR_DUPLICATES:
            made.group(IDENTICAL, f"i-{members[0]}", members[-1], *(grouped.pop() for _ in range(2) if grouped))
    plain = made.write(tmp_path / "plain")
    kept, removed = read(tmp_path / "plain" / "keep.csv"), read(tmp_path / "plain" / "remove.csv")
    assert sorted([row["image_id"] for row in kept + removed]) == sorted(names) and len(removed) == plain.removed > 100
    assert {row["kept_id"] for row in removed} == {row["image_id"] for row in kept if row["group_id"]}
    assert [row["image_id"] for row in kept] == sorted(row["image_id"] for row in kept)
    assert all(row["t" if row["t"] else "u"] == row["image_id"] for row in kept + removed)
    sizes = {row["group_id"]: int(row["group_size"]) for row in kept if row["group_id"]}
    order = [(-sizes[row["group_id"]], row["kept_id"]) for row in removed]
    assert order == sorted(order) and sum(sizes.values()) == len(removed) + len(sizes)
    made.write(tmp_path / "other", seed=5, parts=3)
    for name in FILES:
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "other" / name).read_bytes(), name


def test_an_image_that_has_changed_is_not_removed(collection: Collection, tmp_path: Path) -> None:
    """Nor is one whose kept one has changed or is gone: the last picture of its kind would be lost."""
    collection.manifest[3]["source_version"] = "2"  # d
    collection.manifest = [row for row in collection.manifest if row["image_id"] != "x.jpg"]
    written = collection.write(tmp_path / "lists")
    assert ids(tmp_path / "lists" / "remove.csv") == ["b.jpg", "c.jpg"]
    assert ids(tmp_path / "lists" / "keep.csv") == ["a.jpg", "d.jpg", "s.jpg", "y.jpg"]
    assert [row["group_size"] for row in read(tmp_path / "lists" / "keep.csv")] == ["3", "1", "1", "1"]
    assert written.left_out == 2 and written.groups == 1 and "2 images in groups are not in" in written.lines()[1]


def test_two_names_of_one_file_are_not_both_gone(collection: Collection, tmp_path: Path) -> None:
    collection.manifest[5]["uri"] = collection.manifest[4]["uri"]  # y and x
    written = collection.write(tmp_path / "lists")
    assert ids(tmp_path / "lists" / "remove.csv") == ["b.jpg", "c.jpg", "d.jpg"] and written.left_out == 0
    assert ids(tmp_path / "lists" / "keep.csv") == ["a.jpg", "s.jpg", "x.jpg", "y.jpg"]


def test_vectors_of_ones_own_need_no_manifest(collection: Collection, tmp_path: Path) -> None:
    collection.manifest, collection.embeddings, collection.vectors = [], [], []
    written = collection.write(tmp_path / "lists")
    assert ids(tmp_path / "lists" / "keep.csv") == ["a.jpg", "x.jpg"] and written.removed == 4
    [first, *_] = read(tmp_path / "lists" / "remove.csv")
    assert (first["uri"], first["width"], first["kept_id"]) == ("", "", "a.jpg")


def test_no_groups_are_a_list_of_all(collection: Collection, tmp_path: Path) -> None:
    collection.groups = []
    assert collection.write(tmp_path / "lists").removed == 0
    assert len(ids(tmp_path / "lists" / "keep.csv")) == 7 and ids(tmp_path / "lists" / "remove.csv") == []
    header = (tmp_path / "lists" / "remove.csv").read_text()
    assert header.startswith('"image_id","uri","kept_id"') and header.count("\n") == 1


# -- attributes, and names of all kinds --------------------------------------------------------------------------------


HARD = [
    "a, b",
    'say "no"',
    "two\nlines",
    "cr\rlf\r\n",
    "=1+1",
    "+49",
    "-x",
    "@x",
    " blank ",
    "\u202eright",
    "😀",
    "é",
    "'",
]


def test_names_and_values_come_back_as_they_were(collection: Collection, tmp_path: Path) -> None:
    for number, name in enumerate(HARD):
        collection.image(name, attributes={name: name, "empty": ""})
        collection.image(f"{name}/{number}", attributes={f"{name}!": name})
        collection.group(IDENTICAL, f"hard-{number:02}", name, f"{name}/{number}")
    written = collection.write(tmp_path / "lists")
    removed = {row["image_id"]: row for row in read(tmp_path / "lists" / "remove.csv")}
    kept = {row["image_id"]: row for row in read(tmp_path / "lists" / "keep.csv")}
    for number, name in enumerate(HARD):
        row = removed[f"{name}/{number}"]
        assert (row["kept_id"], row["kept_uri"], row[f"{name}!"]) == (name, f"/pictures/{name}", name)
        assert kept[name][name] == name
    assert written.formulas == 3 * 3 + 3 * 2 + 1, (
        "of =1+1, -x and @x id, kept_id and attribute, id and attribute; +49/5; no +49"
    )
    assert "16 cells begin with = + - or @" in written.lines()[-1]
    raw = (tmp_path / "lists" / "keep.csv").read_bytes()
    assert b"\r\n" in raw and b'"cr\rlf\r\n"' in raw and not raw.startswith(b"\xef\xbb\xbf") and raw.endswith(b"\n")


def test_an_attribute_called_like_a_column_gets_another_name(collection: Collection, tmp_path: Path) -> None:
    taken = {"Width": "w", "width": "v", "uri": "u", "": "e", "attributes": "s", "attribute_width": "p", "Title": "T"}
    collection.manifest[1]["attributes"] = {**taken, "title": "t"}
    collection.write(tmp_path / "lists")
    [row] = [row for row in read(tmp_path / "lists" / "remove.csv") if row["image_id"] == "b.jpg"]
    assert row["width"] == "19" and row["uri"] == "/pictures/b.jpg"
    assert {name: value for name, value in list(row.items())[13:]} == {
        **{"attribute_": "e", "Title": "T", "attribute_Width": "w", "attribute_attribute_width": "p"},
        **{"attribute_attributes": "s", "attribute_title": "t", "attribute_uri": "u"},
        "attribute_attribute_attribute_width": "v",
    }
    assert len({name.casefold() for name in row}) == len(row), "DuckDB makes no difference between capitals"


def test_very_many_attributes_are_one_column(collection: Collection, tmp_path: Path) -> None:
    for number in range(attributes.MOST_COLUMNS):
        collection.manifest[1]["attributes"][f"é{number}"] = f'"{number}"\n'
    collection.write(tmp_path / "lists")
    first, second, *_ = read(tmp_path / "lists" / "remove.csv")
    assert list(first)[-1] == "attributes" and len(first) == 14
    assert json.loads(first["attributes"]) == collection.manifest[1]["attributes"] and "é7" in first["attributes"]
    assert json.loads(second["attributes"]) == {"title": "The c"}


def test_the_list_of_what_is_kept_is_a_list_of_images(collection: Collection, tmp_path: Path) -> None:
    """build_manifest takes it: so a collection is cleaned without a file being moved."""
    collection.write(tmp_path / "lists")
    table, id_column, uri_column = lists.open_list(str(tmp_path / "lists" / "keep.csv"), ManifestSettings(), 10)
    rows = [row for batch in lists.Listed(table, id_column, uri_column, ()).batches() for row in batch.to_pylist()]
    assert [(row["image_id"], row["uri"]) for row in rows] == [
        (name, f"/pictures/{name}") for name in ("a.jpg", "s.jpg", "x.jpg")
    ]
    assert dict(rows[0]["attributes"]) == {"title": "The a", "group_id": "near", "group_size": "4"}


def test_duckdb_and_pandas_read_it(collection: Collection, tmp_path: Path) -> None:
    duckdb, pandas = pytest.importorskip("duckdb"), pytest.importorskip("pandas")
    collection.image('quote",\nline', attributes={"title": "=1"})
    collection.group(IDENTICAL, "hard", "s.jpg", 'quote",\nline')
    collection.write(tmp_path / "lists")
    rows = duckdb.sql(f"from '{tmp_path}/lists/remove.csv'")
    assert dict(zip(rows.columns, map(str, rows.types))) == {
        **dict.fromkeys(["image_id", "uri", "kept_id", "kept_uri", "kind", "group_id", "title"], "VARCHAR"),
        **dict.fromkeys(["width", "height", "size_bytes"], "BIGINT"),
        **dict.fromkeys(["kept_width", "kept_height", "kept_size_bytes"], "BIGINT"),
        "distance": "DOUBLE",
    }
    names = [row["image_id"] for row in read(tmp_path / "lists" / "remove.csv")]
    assert [row[0] for row in rows.fetchall()] == names and 'quote",\nline' in names
    frame = pandas.read_csv(tmp_path / "lists" / "remove.csv")
    assert frame["image_id"].tolist() == names and frame["width"].dtype == "int64"


# -- the folder --------------------------------------------------------------------------------------------------------


def test_an_export_is_written_again(collection: Collection, tmp_path: Path) -> None:
    collection.write(tmp_path / "lists")
    (tmp_path / "lists" / ".DS_Store").write_text("a file manager's")
    (tmp_path / "lists" / "keep.csv.0123abcd.tmp").write_text("of a job that was killed")
    collection.groups = collection.groups[:3]
    export.check_folder(str(tmp_path / "lists"), str(tmp_path / "warehouse"))
    collection.write(tmp_path / "lists")
    assert ids(tmp_path / "lists" / "remove.csv") == ["b.jpg", "d.jpg"]
    assert {path.name for path in (tmp_path / "lists").iterdir()} == {*FILES, ".DS_Store", ".lock"}


def test_other_content_is_not_touched(collection: Collection, tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "keep.csv").write_text("somebody's own")
    for attempt in (lambda: export.check_folder(str(folder), str(tmp_path / "w")), lambda: collection.write(folder)):
        with pytest.raises(WrongInput, match=r"other content \('keep.csv'\); name a new or an empty folder"):
            attempt()
    assert [path.name for path in folder.iterdir()] == ["keep.csv"]
    (folder / "export.json").write_text('{"kind": "another"}')
    with pytest.raises(WrongInput, match="other content"):
        export.check_folder(str(folder), str(tmp_path / "w"))
    (tmp_path / "file").write_text("")
    with pytest.raises(WrongInput, match="is a file; name a folder"):
        export.check_folder(str(tmp_path / "file"), str(tmp_path / "w"))


def test_a_list_that_somebody_has_edited_is_not_replaced(collection: Collection, tmp_path: Path) -> None:
    collection.write(tmp_path / "lists")
    file = tmp_path / "lists" / "remove.csv"
    edited = "\n".join(line for line in file.read_text().splitlines() if "d.jpg" not in line)
    file.write_text(edited)
    with pytest.raises(WrongInput, match="remove.csv was changed since it was exported; move it"):
        collection.write(tmp_path / "lists")
    assert file.read_text() == edited
    file.unlink()
    collection.write(tmp_path / "lists")


@pytest.mark.parametrize("at", range(6))
def test_a_failed_export_leaves_the_earlier_one(
    collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Wherever it fails; and the next one works. While files are replaced, each is whole."""
    collection.write(tmp_path / "lists")
    before = {name: (tmp_path / "lists" / name).read_bytes() for name in FILES}
    collection.image("new.jpg")
    collection.group(IDENTICAL, "new", "s.jpg", "new.jpg")
    create, rename, calls = blobs.create, export._rename, []

    def failing(call: Any) -> Any:
        def instead(*arguments: Any) -> Any:
            calls.append(arguments)
            if len(calls) == at + 1:
                raise OSError(28, "No space left on device")
            return call(*arguments)

        return instead

    monkeypatch.setattr(blobs, "create", failing(create))
    monkeypatch.setattr(export, "_rename", failing(rename))
    with pytest.raises(OSError, match="No space"):
        collection.write(tmp_path / "lists")
    monkeypatch.undo()
    now = {name: (tmp_path / "lists" / name).read_bytes() for name in FILES}
    assert now["remove.csv"] == before["remove.csv"] and (at > 3 or now["keep.csv"] == before["keep.csv"])
    assert not [path for path in (tmp_path / "lists").iterdir() if path.suffix == ".tmp"]
    assert "new.jpg" in (collection.write(tmp_path / "lists"), ids(tmp_path / "lists" / "remove.csv"))[1]


def test_places_that_other_jobs_use_are_refused(collection: Collection, tmp_path: Path) -> None:
    collection.write(tmp_path / "lists")
    warehouse, gallery = tmp_path / "warehouse", tmp_path / "gallery"
    gallery.mkdir()
    marker = {"kind": "image-similarity gallery", "renderings": [], "forwards": []}
    (gallery / "gallery.json").write_text(json.dumps(marker))
    for folder, message in [
        (warehouse / "lists", "neither may be in the other"),
        (tmp_path, "other content"),
        (gallery / "a" / "b", "is in the gallery .*gallery: name a folder outside it"),
        (gallery, "other content"),
    ]:
        with pytest.raises(WrongInput, match=message) as caught:
            export.check_folder(str(folder), str(warehouse))
        assert "--export" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(WrongInput, match="is in the warehouse .*warehouse: name a folder outside it"):
        export.check_folder(str(warehouse / "lists"), str(tmp_path / "another"))
    with pytest.raises(WrongInput, match="in the folder of the images"):
        export.check_folder(str(tmp_path / "photos" / "lists"), str(warehouse), str(tmp_path / "photos"))
    export.check_folder(str(tmp_path / "new" / "lists"), str(warehouse), str(tmp_path / "photos"))
    assert not (tmp_path / "new").exists(), "a check writes nothing"


def test_a_folder_that_cannot_be_written_is_wrong_input(collection: Collection, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WrongInput, match="--export .*file/lists"):
        collection.write(tmp_path / "file" / "lists")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server.serving("exports") as bucket:
        yield bucket


def test_a_store_has_it_too(collection: Collection, tmp_path: Path, bucket: str) -> None:
    folder = f"{bucket}/lists"
    collection.write(tmp_path / "lists")
    for _ in range(2):
        collection.write(folder)
        export.check_folder(folder, f"{bucket}/warehouse")
    assert {name for name in files_of(folder).entries(folder) if name[0] != "."} == FILES
    for name in FILES:
        assert blobs.read(f"{folder}/{name}") == (tmp_path / "lists" / name).read_bytes()
    blobs.write(f"{folder}/keep.csv", b"edited", "text/csv")
    with pytest.raises(WrongInput, match="keep.csv was changed"):
        export.check_folder(folder, f"{bucket}/warehouse")
    with pytest.raises(WrongInput, match="neither may be in the other"):
        export.check_folder(f"{bucket}/w/lists", f"{bucket}/w")


# -- the recipe of docs/cleaning.md ------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "cleaning.md"


def recipes() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_recipe_moves_files_and_back(tmp_path: Path) -> None:
    """Names with spaces, quotes and line breaks; links; files that are gone; twice."""
    move, back, *_ = recipes()
    pictures, made = tmp_path / "pictures", Collection(tmp_path / "warehouse")
    names = [
        "a b.jpg",
        "q\"u,o'te.jpg",
        "line\nbreak.jpg",
        "-x.jpg",
        "deep/é.jpg",
        "linked.jpg",
        "gone.jpg",
        "kept gone.jpg",
    ]
    for name in names:
        for path in (pictures / name, pictures / f"{name}.kept.jpg"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(path.name)
        for one in (f"{name}.kept.jpg", name):
            made.image(one, uri=str(pictures / one), attributes={"long": "x" * 200_000})
        made.group(NEAR_DUPLICATES, name, f"{name}.kept.jpg", name)
    made.write(tmp_path / "lists")
    (pictures / "gone.jpg").unlink()
    (pictures / "kept gone.jpg.kept.jpg").unlink()
    (pictures / "linked.jpg.kept.jpg").unlink()
    (pictures / "linked.jpg.kept.jpg").symlink_to(pictures / "linked.jpg")
    before = {path: path.read_text() for path in pictures.rglob("*.jpg")}

    def run(program: str) -> None:
        subprocess.run([sys.executable, "-c", program], cwd=tmp_path / "lists", check=True)

    for _ in range(2):
        run(move)
        moved = {path for path in before if not path.exists()}
        assert moved == {pictures / name for name in names[:5]}
    run(back)
    assert {path: path.read_text() for path in pictures.rglob("*.jpg")} == before


def test_what_else_the_page_shows_runs(collection: Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    duckdb = pytest.importorskip("duckdb")
    collection.write(tmp_path / "lists")
    monkeypatch.chdir(tmp_path / "lists")
    for program in recipes()[2:]:
        exec(program, {})
    near = [row["image_id"] for row in read(tmp_path / "lists" / "remove.csv") if float(row["distance"]) < 0.05]
    assert ids(tmp_path / "lists" / "closest.csv") == near and "y.jpg" in near
    [query] = re.findall(r"^```sql\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert duckdb.sql(query).fetchall() == [("near", 4, 1900 + 1800 + 1700), ("copies", 2, 1500)]


def test_every_column_is_on_the_page() -> None:
    """With the rules, the files and the names that the code has."""
    told = set(re.findall(r"`([a-z_.]+)`", PAGE.read_text(encoding="utf-8")))
    assert {*export._KEPT.names, *export._REMOVED.names, "action", "position", *keep.RULES, *FILES} <= told
    assert f"more than {attributes.MOST_COLUMNS} different names" in PAGE.read_text(encoding="utf-8")


def test_the_order_by_a_rule_reads_what_it_needs(collection: Collection, tmp_path: Path) -> None:
    collection.manifest[2]["size_bytes"] = None
    collection.write(tmp_path / "lists")
    ids = pa.array(["gone.jpg", "s.jpg", "c.jpg", "a.jpg"])
    published = open_snapshot(str(tmp_path / "warehouse"))
    assert facts.order("largest", published, "f", ids).tolist() == [3, 2, 1, 0]
    assert facts.order("first", open_snapshot(str(tmp_path / "none")), "f", ids).tolist() == [3, 2, 0, 1]
    known = facts.facts(published, "f", ids).to_pylist()
    assert known[0] == {**dict.fromkeys(facts.FACTS.names), "image_id": "gone.jpg", "unchanged": False}
    assert known[2] == {
        **{"image_id": "c.jpg", "uri": "/pictures/c.jpg", "width": 18, "height": 2, "size_bytes": None},
        "unchanged": True,
    }
