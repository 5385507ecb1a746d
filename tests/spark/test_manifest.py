"""images -> manifest: folders, globs and lists, with the names that people really use."""

import builtins
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

import misbehaving
from image_similarity.errors import WrongInput
from image_similarity.settings import HttpSettings, ManifestSettings
from image_similarity.stages.manifest import by_spark, in_process
from image_similarity.stages.manifest import images as listing
from image_similarity.storage import blobs
from image_similarity.warehouse.warehouse import Warehouse

Built = Callable[..., by_spark.Manifest]
Made = Callable[..., list[Any]]

NAMES = [
    "plain.jpg",
    "two words.JPG",
    "100%25.png",
    "a#b?.png",
    'it\'s "quoted".jpg',
    "new\nline.jpg",
    "Übung-日本.webp",
    "a,b;c.gif",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    (root / "deep" / "er").mkdir(parents=True)
    for name in NAMES:
        (root / name).write_bytes(b"1")
        (root / "deep" / "er" / name).write_bytes(b"22")
    for name in ("notes.txt", "README", ".hidden.jpg"):
        (root / name).touch()
    return root


@pytest.fixture
def run_on(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """`by_spark.run`, whose frames can be read until the end of the test.

    `in_process.run` must give the same rows, or the same error, wherever it can be used.
    """
    with Warehouse(spark, str(tmp_path_factory.mktemp("warehouse"))).scratch("r1") as scratch:

        def run(images: Any, settings: ManifestSettings = ManifestSettings(), **options: Any) -> by_spark.Manifest:
            here: in_process.Manifest | WrongInput | None
            try:
                here = in_process.run(str(images), settings, options.get("read_seconds", 120.0))
            except WrongInput as error:
                here = error
            try:
                built = by_spark.run(spark, str(images), settings, scratch, **options)
            except WrongInput as error:
                assert here is None or str(here) == str(error)
                raise
            if here is not None and "sample" not in options:
                assert isinstance(here, in_process.Manifest) and here.skipped == built.skipped
                assert rows_of(here.rows) == rows_of(built.rows.toArrow().to_batches())
            return built

        yield run


def rows_of(batches: Iterable[pa.RecordBatch]) -> list[dict[str, Any]]:
    return sorted((row for batch in batches for row in batch.to_pylist()), key=lambda row: str(row["image_id"]))


@pytest.fixture
def made(run_on: Built) -> Made:
    return lambda images, **options: run_on(images, **options).rows.orderBy("image_id").collect()


def test_a_folder_with_everything_in_it(run_on: Built, folder: Path) -> None:
    built = run_on(folder)
    rows = {row.image_id: row for row in built.rows.collect()}
    assert set(rows) == set(NAMES) | {f"deep/er/{name}" for name in NAMES}
    for image_id, row in rows.items():
        assert row.uri == str(folder / image_id) and row.size_bytes == (2 if "/" in image_id else 1)
        assert row.source_version.startswith(f"{row.size_bytes}-{(folder / image_id).stat().st_mtime_ns}-")
        assert row.attributes == {} and row.modified_at is not None
    assert built.skipped == {".txt": 1, "without extension": 1, "hidden": 1}


def test_extensions_are_a_setting(run_on: Built, folder: Path) -> None:
    everything = run_on(folder, ManifestSettings(extensions=("*",)))
    assert everything.rows.count() == 2 * len(NAMES) + 2 and everything.skipped == {"hidden": 1}
    assert run_on(folder, ManifestSettings(extensions=("gif",))).rows.count() == 2


def test_what_rows_of_a_list_may_name_is_a_setting(run_on: Built, folder: Path) -> None:
    """A stranger's list must not show what the workers can read and the stranger cannot."""
    uris = ["plain.jpg", "deep/../plain.jpg", "deep/../../x.jpg", "/etc/a.jpg", f"file://{folder}/plain.jpg"]
    uris += ["file:/etc/a.jpg", "s3a://bucket/a.jpg", "FILE:///etc/a.jpg"]
    rows = "\n".join(f"{number},{uri}" for number, uri in enumerate(uris))
    (folder / "list.csv").write_text(f"image_id,uri\n{rows}\n")
    everything = run_on(folder / "list.csv")
    assert everything.rows.count() == len(uris) and everything.skipped == {}
    for schemes, taken in {("relative",): {"0", "1"}, ("s3",): {"6"}, ("file",): {"2", "3", "4", "5", "7"}}.items():
        built = run_on(folder / "list.csv", ManifestSettings(schemes=schemes))
        assert {row.image_id for row in built.rows.collect()} == taken
        assert sum(built.skipped.values()) == len(uris) - len(taken) and "manifest.schemes" in str(built.skipped)
    with pytest.raises(WrongInput, match="manifest.schemes allows none of its 8 rows"):
        run_on(folder / "list.csv", ManifestSettings(schemes=("https",)))


def test_globs(made: Made, folder: Path) -> None:
    assert {row.image_id for row in made(folder / "*.png")} == {"100%25.png", "a#b?.png"}
    for pattern in ("**/*.gif", "**/**/*.gif"):
        assert [row.image_id for row in made(folder / pattern)] == ["a,b;c.gif", "deep/er/a,b;c.gif"]


def test_what_exists_is_no_glob(made: Made, tmp_path: Path) -> None:
    odd = tmp_path / "holiday [2024]*"
    odd.mkdir()
    (odd / "a.jpg").touch()
    assert [row.image_id for row in made(odd)] == ["a.jpg"]


def test_remote_globs_are_matched_like_local_ones() -> None:
    import re

    expression = re.compile(listing._glob_expression("a/**/[!x]?.jpg"))
    assert expression.fullmatch("a/yz.jpg") and expression.fullmatch("a/b/c/yz.jpg")
    assert not expression.fullmatch("a/xz.jpg") and not expression.fullmatch("a/b/yzz.jpg")


def test_a_csv_of_names_relative_to_it(made: Made, folder: Path) -> None:
    lines = [
        "\ufeffuri,title,price",
        '"it\'s ""quoted"".jpg","A, b",3.50',
        '"new\nline.jpg",,',
        '"deep/er/plain.jpg","line\nbreak",1',
    ]
    (folder / "list.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = {row.image_id: row for row in made(folder / "list.csv")}
    assert set(rows) == {'it\'s "quoted".jpg', "new\nline.jpg", "deep/er/plain.jpg"}
    assert rows['it\'s "quoted".jpg'].attributes == {"title": "A, b", "price": "3.50"}
    assert rows["new\nline.jpg"].attributes == {} and rows["new\nline.jpg"].uri == str(folder / "new\nline.jpg")
    assert rows["deep/er/plain.jpg"].attributes["title"] == "line\nbreak" and rows["deep/er/plain.jpg"].size_bytes == 2


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_json_with_ids_numbers_lists_and_absent_files(made: Made, folder: Path, kind: str) -> None:
    records = [
        {"uri": "plain.jpg", "image_id": "one", "year": 1915.79, "tags": ["a", "b"], "none": None},
        {"uri": "gone.jpg", "image_id": "two"},
        {"uri": (folder / "100%25.png").as_uri(), "image_id": "three"},
        {"uri": "https://localhost/a%20b.jpg", "image_id": "four"},
    ]
    text = json.dumps(records, indent=1) if kind == "json" else "\n".join(map(json.dumps, records))
    (folder / f"list.{kind}").write_text(text)
    rows = {row.image_id: row for row in made(folder / f"list.{kind}")}
    assert rows["one"].attributes == {"year": "1915.79", "tags": '["a","b"]'}
    assert rows["two"].size_bytes is None and rows["two"].source_version is None
    assert rows["three"].uri == str(folder / "100%25.png") and rows["three"].size_bytes == 1
    assert rows["four"].uri == "https://localhost/a%20b.jpg"


def test_servers_are_asked_for_versions(run_on: Built, tmp_path: Path) -> None:
    paths = ["versioned.png", "dated.png", "good.png", "404"]
    with misbehaving.serving() as server:
        (tmp_path / "list.csv").write_text(
            "uri,image_id\n" + "".join(f"{server.address}/{path},{path}\n" for path in paths)
        )
        listed = run_on(tmp_path / "list.csv", http=HttpSettings(private_addresses=True))
        first, again = ({row.image_id: row for row in listed.rows.collect()} for _ in range(2))
        assert server.asked == {("HEAD", f"/{path}"): 2 for path in paths}, "nothing is fetched"
        assert first == again and all(row.uri == f"{server.address}/{image_id}" for image_id, row in first.items())
    size = len(misbehaving.picture())
    assert first["versioned.png"].source_version.startswith(f"{misbehaving.ETAG}-")
    assert first["dated.png"].source_version.startswith(f"{size}-1735689600000000000-")
    assert first["dated.png"].modified_at.year == 2025 and first["dated.png"].size_bytes == size
    assert first["good.png"].source_version is None and first["good.png"].size_bytes == size
    assert first["404"].source_version is None and first["404"].size_bytes is None


def test_parquet_and_another_uri_column(run_on: Built, folder: Path) -> None:
    pq.write_table(
        pa.table({"file": ["plain.jpg"], "image_id": [17], "size": pa.array([3], pa.int16())}), folder / "list.parquet"
    )
    built = run_on(folder / "list.parquet", ManifestSettings(uri_column=("file",))).rows.collect()
    assert [(row.image_id, row.uri, row.attributes) for row in built] == [
        ("17", str(folder / "plain.jpg"), {"size": "3"})
    ]


def test_what_is_no_uri_stays_as_written(made: Made, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("uri\nfile://[x/a.jpg\n")
    assert [(row.uri, row.size_bytes) for row in made(tmp_path / "list.csv")] == [("file://[x/a.jpg", None)]


def test_samples_depend_on_ids_and_seed_alone(made: Made, folder: Path) -> None:
    chosen = [row.image_id for row in made(folder, sample=5, seed=1)]
    assert len(chosen) == 5 and chosen == [row.image_id for row in made(folder, sample=5, seed=1)]
    assert chosen != [row.image_id for row in made(folder, sample=5, seed=2)]
    assert set(chosen) < {row.image_id for row in made(folder, sample=6, seed=1)}


def test_the_version_changes_with_content_and_place(made: Made, folder: Path) -> None:
    before = {row.image_id: row.source_version for row in made(folder)}
    (folder / "plain.jpg").write_bytes(b"other")
    after = {row.image_id: row.source_version for row in made(folder)}
    assert {image_id for image_id in before if before[image_id] != after[image_id]} == {"plain.jpg"}
    folder.rename(folder.with_name("moved"))
    moved = {row.image_id: row.source_version for row in made(folder.with_name("moved"))}
    assert not set(moved.values()) & set(after.values())


BAD_LISTS = {
    "no uri": ("a.csv", "image_id,place\n1,a.jpg\n", "no column 'uri' or 'file'; its columns are: image_id, place"),
    "twice": ("a.csv", "uri\na.jpg\nb.jpg\na.jpg\n", "must be unique, but these stand more than once: 'a.jpg'"),
    "empty cell": ("a.csv", "uri,image_id\na.jpg,1\n,2\n", "1 row has no uri or no image_id"),
    "no rows": ("a.csv", "uri,title\n", "the list has no rows"),
    "broken json": ("a.json", '[{"uri": "a.jpg"}, {', "cannot be read"),
    "no parquet": ("a.parquet", "PAR0", "cannot be read"),
    "unknown type": ("a.xlsx", "x", "a file of unknown type"),
}


@pytest.mark.parametrize("case", BAD_LISTS)
def test_lists_that_cannot_serve(made: Made, tmp_path: Path, case: str) -> None:
    name, content, message = BAD_LISTS[case]
    (tmp_path / name).write_text(content)
    with pytest.raises(WrongInput, match=message) as caught:
        made(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_folders_that_cannot_serve(made: Made, tmp_path: Path) -> None:
    with pytest.raises(WrongInput, match="no such folder or file"):
        made(tmp_path / "none")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(WrongInput, match=r"no image found; skipped: 1 \.txt\. Extensions taken: jpg"):
        made(tmp_path)
    with pytest.raises(WrongInput, match="no image found"):
        made(tmp_path / "*.jpg")


def test_names_that_are_not_utf8_are_counted(run_on: Built, tmp_path: Path) -> None:
    (tmp_path / "good.jpg").touch()
    with open(bytes(tmp_path) + b"/b\xe4d.jpg", "wb"):
        pass
    built = run_on(tmp_path)
    assert built.rows.count() == 1 and built.skipped == {"with a name that is not UTF-8": 1}


def test_listing_opens_no_image(run_on: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hundred thousand files that would take hours where they are far away."""
    (tmp_path / "good.jpg").touch()
    opened: list[str] = []
    inner_open = builtins.open

    def open_file(file: Any, *arguments: Any, **named: Any) -> Any:
        opened.append(str(file))
        return inner_open(file, *arguments, **named)

    monkeypatch.setattr(builtins, "open", open_file)
    monkeypatch.setattr(blobs, "open_input_file", open_file)
    assert run_on(tmp_path).rows.count() == 1
    assert [file for file in opened if file.endswith(".jpg")] == []
    blobs.read(str(tmp_path / "good.jpg"), 1)
    assert [file for file in opened if file.endswith(".jpg")], "which would be noticed"


def test_what_this_process_leaves_to_spark(tmp_path: Path) -> None:
    """More images than it holds, and lists of files elsewhere."""
    for name in "abc":
        (tmp_path / f"{name}.jpg").touch()
    (tmp_path / "list.csv").write_text("uri\na.jpg\nb.jpg\nc.jpg\n")
    (tmp_path / "mixed.csv").write_text("uri\na.jpg\nhttps://example.org/b.jpg\n")
    for images in (tmp_path, tmp_path / "*.jpg", tmp_path / "list.csv"):
        assert in_process.run(str(images), ManifestSettings(), 120.0, most=3) is not None
        assert in_process.run(str(images), ManifestSettings(), 120.0, most=2) is None
    assert in_process.run(str(tmp_path / "mixed.csv"), ManifestSettings(), 120.0) is None


def test_files_from_before_1970_have_their_time(run_on: Built, tmp_path: Path) -> None:
    (tmp_path / "old.jpg").touch()
    os.utime(tmp_path / "old.jpg", ns=(-1_999_999_999, -1_999_999_999))
    assert run_on(tmp_path).rows.count() == 1
