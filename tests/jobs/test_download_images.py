"""A catalogue fetched from a server that misbehaves: what becomes of each address, and what further runs ask for."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

import misbehaving
from image_similarity.errors import JobFailed, WrongInput
from image_similarity.jobs import build_manifest, download_images, run_pipeline
from image_similarity.settings import HttpSettings
from image_similarity.stages.downloads import catalogue, stage
from processes import ask

Run = Any
Server = misbehaving.Misbehaving

QUICK = ["private_addresses=true", "backoff_seconds=0.01", "retries=2", "read_seconds=0.5"]
SETTINGS = [argument for setting in QUICK for argument in ("--set", f"http.{setting}")]
SETTINGS += ["--set", "embeddings.max_bytes=100000"]
LENIENT = ["--set", "downloads.max_failed_fraction=1"]


@pytest.fixture
def server() -> Iterator[Server]:
    with misbehaving.serving() as running:
        yield running


def write_csv(file: Path, server: Server, paths: list[str]) -> None:
    rows = [(path.strip("/"), server.address + path, f"Picture {number}") for number, path in enumerate(paths)]
    with open(file, "w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([("image_id", "image_url", "title"), *rows])


class Place:
    """A folder with a catalogue of some of the server's paths, and the job on it."""

    def __init__(self, run: Run, server: Server, folder: Path, paths: list[str]):
        self._run, self.server = run, server
        self.catalogue, self.images, self.warehouse = folder / "My list.csv", folder / "images", folder / "w"
        write_csv(self.catalogue, server, paths)

    def job(self, *more: str) -> int:
        self.server.asked.clear()
        places = ["--catalogue", self.catalogue, "--images", self.images, "--warehouse", self.warehouse]
        code: int = self._run(download_images, *places, *SETTINGS, *more)
        return code

    def outcomes(self) -> dict[str, str]:
        """Of each image: its outcome, or the reason of its failure."""
        return dict(
            ask(
                self.warehouse,
                "SELECT image_id, outcome FROM downloads UNION ALL SELECT image_id, reason FROM failures",
            )
        )

    def counts(self) -> dict[str, Any]:
        counts: dict[str, Any] = json.loads(
            ask(self.warehouse, "SELECT counts FROM runs ORDER BY started_at DESC")[0][0]
        )
        return counts

    def files(self) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in self.images.iterdir() if file.suffix != ".parquet"}


def asked(server: Server) -> dict[str, int]:
    return {path: count for (method, path), count in server.asked.items() if method == "GET"}


OUTCOMES = {
    "/good.png": ("fetched", 1),
    "/good.jpg": ("fetched", 1),
    "/versioned.png": ("fetched", 1),
    "/429-once": ("fetched", 2),
    "/500-twice": ("fetched", 3),
    "/short-once": ("fetched", 2),
    "/compressed.png": ("fetched", 1),
    "/moved": ("fetched", 1),
    "/404": ("not_found", 1),
    "/410": ("not_found", 1),
    "/403": ("forbidden", 1),
    "/400": ("http_error", 1),
    "/429": ("rate_limited", 3),
    "/503": ("server_error", 3),
    "/slow": ("timeout", 3),
    "/reset": ("incomplete", 3),
    "/short": ("incomplete", 3),
    "/endless": ("too_many_bytes", 1),
    "/page.jpg": ("not_an_image", 1),
    "/empty": ("empty", 1),
    "/loop": ("too_many_redirects", 1),
    "/to-file": ("unsupported_scheme", 1),
}
"""What becomes of each path, and how often the server was asked for it in one run."""

PASSING = {path for path, (outcome, _) in OUTCOMES.items() if outcome in stage.TRANSIENT_REASONS}


def test_every_address_has_an_outcome_and_is_asked_for_again_only_if_that_may_help(
    run: Run, server: Server, tmp_path: Path, capsys: Any
) -> None:
    place = Place(run, server, tmp_path, list(OUTCOMES))
    assert place.job(*LENIENT) == 0
    assert place.outcomes() == {path.strip("/"): outcome for path, (outcome, _) in OUTCOMES.items()}
    assert {path: asked(server)[path] for path in OUTCOMES if path not in ("/good.png", "/loop")} == {
        path: count for path, (_, count) in OUTCOMES.items() if path not in ("/good.png", "/loop")
    }
    assert asked(server)["/good.png"] == 2 and asked(server)["/loop"] == 1, "/moved leads to /good.png"
    succeeded = [path.strip("/") for path, (outcome, _) in OUTCOMES.items() if outcome == "fetched"]
    kinds = {name: "jpg" if name == "good.jpg" else "png" for name in succeeded}
    right = {
        f"{name}.{kind}": misbehaving.picture(*((3, "JPEG") if kind == "jpg" else ())) for name, kind in kinds.items()
    }
    assert place.files() == right, "whole files, and no parts of others"
    rows = ask(place.warehouse, "SELECT uri, size_bytes, length(content_sha256), attributes['title'] FROM downloads")
    assert sorted(rows) == sorted(
        (str(place.images / name), len(content), 64, f"Picture {list(OUTCOMES).index('/' + name.rpartition('.')[0])}")
        for name, content in right.items()
    )
    told = capsys.readouterr().out
    assert "8 fetched" in told and "14 failed" in told and "2 not_found" in told
    assert f"--images {place.images}/images.parquet" in told

    assert place.job(*LENIENT) == 0
    assert set(asked(server)) == PASSING, "nothing that is there or failed for good is asked for"
    assert set(place.outcomes().values()) == {"present"} | {outcome for outcome, _ in OUTCOMES.values()} - {"fetched"}
    assert ask(place.warehouse, "SELECT etag FROM downloads WHERE image_id = 'versioned.png'") == [(misbehaving.ETAG,)]

    assert place.job(*LENIENT, "--retry-failed", "not_found") == 0
    assert set(asked(server)) == PASSING | {"/404", "/410"}
    assert place.job(*LENIENT, "--retry-failed") == 0
    assert set(asked(server)) >= {path for path, (outcome, _) in OUTCOMES.items() if outcome != "fetched"}


def test_a_recheck_replaces_only_what_changed(run: Run, server: Server, tmp_path: Path) -> None:
    server.files = {
        "/same.png": misbehaving.picture(1),
        "/other.png": misbehaving.picture(2),
        "/gone.png": misbehaving.picture(4),
    }
    place = Place(run, server, tmp_path, ["/versioned.png", *server.files])
    assert place.job() == 0
    times = {file.name: file.stat().st_mtime_ns for file in place.images.iterdir()}
    server.files["/other.png"] = misbehaving.picture(2, "JPEG")  # another picture of another kind
    del server.files["/gone.png"]
    assert place.job("--recheck", *LENIENT) == 0
    assert place.outcomes() == {
        "versioned.png": "unchanged",
        "same.png": "unchanged",
        "other.png": "fetched",
        "gone.png": "not_found",
    }
    assert server.headers["/versioned.png"]["If-None-Match"] == misbehaving.ETAG
    files = place.files()
    assert files["other.png.jpg"] == misbehaving.picture(2, "JPEG") and "other.png.png" not in files
    for name in ("versioned.png.png", "same.png.png"):
        assert (place.images / name).stat().st_mtime_ns == times[name], "not even written"
    facts = ask(
        place.warehouse, "SELECT size_bytes, length(content_sha256), etag FROM downloads WHERE image_id LIKE 'vers%'"
    )
    assert facts == [(len(misbehaving.picture()), 64, misbehaving.ETAG)], "what is known of a file is kept"
    assert "gone.png" not in pq.read_table(place.images / "images.parquet")["image_id"].to_pylist()
    assert place.job(*LENIENT) == 0
    assert not server.asked and place.outcomes()["gone.png"] == "not_found", "a picture that was withdrawn stays so"


def test_a_file_that_was_lost_is_fetched_again(run: Run, server: Server, tmp_path: Path) -> None:
    place = Place(run, server, tmp_path, ["/versioned.png", "/good.png"])
    for more in ([], ["--recheck"]):
        assert place.job(*more) == 0
        assert place.outcomes()["versioned.png"] == "fetched" and len(place.files()) == 2
        (place.images / "versioned.png.png").unlink()


def test_files_of_before_stay_whatever_their_names(
    run: Run, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names had shorter hashes once. A file that two images shared then, by an accident or on purpose, is nobody's."""
    server.files |= {"/one.png": misbehaving.picture(5), "/two.png": misbehaving.picture(6)}
    place = Place(run, server, tmp_path, ["/one.png", "/two.png", "/good.jpg"])
    with monkeypatch.context() as patch:
        patch.setattr(catalogue, "file_name", lambda image_id: "both" if "png" in image_id else "older-0123456789ab")
        assert place.job() == 0
    assert sorted(place.files()) == ["both.png", "older-0123456789ab.jpg"]
    assert place.job() == 0
    assert asked(server) == {"/one.png": 1, "/two.png": 1}
    files = {row[0]: Path(row[1]) for row in ask(place.warehouse, "SELECT image_id, uri FROM downloads")}
    assert files["good.jpg"].name == "older-0123456789ab.jpg"
    assert [files[f"{name}.png"].read_bytes() for name in ("one", "two")] == [
        server.files["/one.png"],
        server.files["/two.png"],
    ]
    assert place.job() == 0 and asked(server) == {}


def test_a_folder_of_another_catalogue_is_refused(run: Run, server: Server, tmp_path: Path, capsys: Any) -> None:
    """The picture of the other's image with the same id would be taken for this one's."""
    place = Place(run, server, tmp_path, ["/good.png"])
    assert place.job() == 0
    renamed = place.catalogue.rename(tmp_path / "This year.csv")
    place.catalogue = renamed
    assert place.job() == 0 and asked(server) == {}  # the same addresses under another name
    place.catalogue = tmp_path / "Other.csv"
    place.catalogue.write_text(f"image_id,url\ngood.png,{server.address}/versioned.png\n")
    capsys.readouterr()
    assert place.job() == 2 and asked(server) == {}
    assert "of another catalogue: give each catalogue a folder of its own" in capsys.readouterr().err


def test_a_server_that_cannot_be_asked_takes_nothing_away(run: Run, server: Server, tmp_path: Path) -> None:
    place = Place(run, server, tmp_path, ["/good.png", "/good.jpg"])
    assert place.job() == 0
    server.is_down = True
    assert place.job("--recheck") == 0
    assert place.outcomes() == {"good.png": "present", "good.jpg": "present"}
    assert place.counts()["not_rechecked"] == {"server_error": 2}


def test_another_address_is_another_picture(run: Run, server: Server, tmp_path: Path) -> None:
    server.files = {"/a": misbehaving.picture(1), "/b": misbehaving.picture(2)}
    place = Place(run, server, tmp_path, ["/a", "/good.png"])
    assert place.job() == 0
    for path, outcome, content in [("/b", "fetched", misbehaving.picture(2)), ("/404", "not_found", None)]:
        write_csv(place.catalogue, server, ["/a", "/good.png"])
        place.catalogue.write_text(
            place.catalogue.read_text().replace(f"{server.address}/a", f"{server.address}{path}")
        )
        assert place.job(*LENIENT) == 0
        assert asked(server) == {path: 1} and place.outcomes() == {"a": outcome, "good.png": "present"}
        assert place.files().get("a.png") == content


def test_too_many_failures_publish_nothing_and_keep_what_was_fetched(
    run: Run, server: Server, tmp_path: Path, capsys: Any
) -> None:
    place = Place(run, server, tmp_path, ["/good.png", "/404"])
    assert place.job() == 3
    told = capsys.readouterr().err
    assert "1 of 2 addresses failed (1 not_found)" in told and "downloads.max_failed_fraction = 0.05" in told
    listed, example = told.split("row in ")[1].splitlines()
    assert example.startswith("  failed: 1 not_found, for example http://")
    assert pq.read_table(listed)["image_id"].to_pylist() == ["404"]
    assert not (place.warehouse / "_current.json").exists()
    assert place.files() == {"good.png.png": misbehaving.picture()} and not (place.images / "images.parquet").exists()
    assert place.job(*LENIENT) == 0
    assert asked(server) == {"/404": 1}


def test_a_host_is_asked_by_one_task(run: Run, server: Server, tmp_path: Path) -> None:
    server.files = {f"/{number}.png": misbehaving.picture(number) for number in range(24)}
    server.pause = 0.05
    place = Place(run, server, tmp_path, list(server.files))
    assert place.job("--set", "http.connections_per_host=3") == 0
    assert server.most_at_once == 3, "by three threads, though there are two tasks at a time"
    assert set(place.outcomes().values()) == {"fetched"} and asked(server) == {path: 1 for path in server.files}


def test_a_label_is_published_once_and_dry_runs_write_nothing(
    run: Run, server: Server, tmp_path: Path, capsys: Any
) -> None:
    place = Place(run, server, tmp_path, ["/good.png", "/404", "/good.jpg"])
    assert place.job("--dry-run") == 0
    assert "fetch 3, ask again for 0" in capsys.readouterr().out
    assert not place.images.exists() and not place.warehouse.exists() and not server.asked
    assert place.job(*LENIENT, "--run-id", "monday", "--sample", "2", "--seed", "1") == 0
    assert len(place.outcomes()) == 2
    (place.images / "images.parquet").unlink(missing_ok=True)
    assert place.job(*LENIENT, "--run-id", "monday") == 0
    assert "already published under the label 'monday'" in capsys.readouterr().out
    assert not server.asked and (place.images / "images.parquet").exists(), (
        "which a run that died might not have written"
    )


def test_progress_is_the_sum_of_what_tasks_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tally = str(tmp_path / "tally")
    assert stage._tallied_share(tally, 8) == 0, "before any task has begun"
    monkeypatch.setattr(stage, "_SECONDS_BETWEEN_TALLIES", 0)
    for task, files in enumerate([3, 1]):
        told = stage._Tally(f"{tally}/{task}")
        for _ in range(files):
            told.counted({})
    assert stage._tallied_share(tally, 8) == 0.5


def test_an_answer_that_got_lost_is_no_failure(spark: SparkSession) -> None:
    row = {"image_id": "a", "address": "http://h/a", "attributes": None, **dict.fromkeys(stage._RESULT_NAMES)}
    outcomes = spark.createDataFrame(
        [row], f"image_id string, address string, attributes map<string,string>, {stage._RESULT}"
    )
    with pytest.raises(JobFailed, match="1 address, 0 files, 0 failures"):
        stage._split(outcomes, 1)


def test_a_task_that_is_tried_again_finds_what_it_fetched(server: Server, tmp_path: Path) -> None:
    options = stage.Options(str(tmp_path), False, (), HttpSettings(private_addresses=True), 100_000, 100_000, 60)
    arguments = (f"{server.address}/good.png", "good", stage.FETCH, None, None, None)
    first = stage._Fetcher(options, {}).result(*arguments)
    again = stage._Fetcher(options, stage._pictures(str(tmp_path))).result(*arguments)
    assert first == again and first["outcome"] == "fetched" and server.gets("/good.png") == 1


# -- catalogues --------------------------------------------------------------------------------------------------------


def museum_csv(file: Path, server: Server) -> None:
    """The columns of the museum's data.csv that matter, and two works that must not be taken."""
    works = [
        {
            "accession_number": "1915.534",
            "title": "Nathaniel Hurd",
            "creators": "John Singleton Copley (American), artist",
        },
        {"accession_number": "1921.1239", "title": "Dora Wheeler, a portrait\nin two lines", "department": "Painting"},
        {"accession_number": "1950.1", "title": "Not free", "share_license_status": "Copyrighted"},
        {"accession_number": "1960.2", "title": "Not photographed", "image_web": "", "image_print": ""},
    ]
    rows = []
    for work in works:
        number = work["accession_number"]
        addresses = {f"image_{size}": f"{server.address}/{number}/{number}_{size}.jpg" for size in ("web", "print")}
        url = f"https://clevelandart.org/art/{number}"
        rows.append({"id": "1", "share_license_status": "CC0", **addresses, "image_full": "", "url": url, **work})
        server.files |= {f"/{number}/{number}_web.jpg": misbehaving.picture(1, "JPEG")}
        server.files |= {f"/{number}/{number}_print.jpg": misbehaving.picture(2, "JPEG")}
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(file, "w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, names, restval="")
        writer.writeheader()
        writer.writerows(rows)


def test_the_museums_csv_to_a_gallery(run: Run, server: Server, tmp_path: Path, tiny: list[str], capsys: Any) -> None:
    museum_csv(tmp_path / "data.csv", server)
    places = ["--images", tmp_path / "cma", "--warehouse", tmp_path / "w"]
    assert run(download_images, "--catalogue", tmp_path / "data.csv", *places, *SETTINGS) == 0
    assert "left out: 1 not CC0, 1 without an image (web)" in capsys.readouterr().out
    assert set(asked(server)) == {"/1915.534/1915.534_web.jpg", "/1921.1239/1921.1239_web.jpg"}
    listed = [
        "--images",
        tmp_path / "cma" / "images.parquet",
        "--gallery",
        tmp_path / "gallery",
        "--warehouse",
        tmp_path / "w",
    ]
    assert run(run_pipeline, *listed, *tiny) == 0
    facts = "attributes['title'], attributes['creator'], attributes['url']"
    assert ask(tmp_path / "w", f"SELECT image_id, uri, {facts} FROM manifest ORDER BY 1")[0] == (
        "1915.534",
        str(tmp_path / "cma" / "1915.534_web.jpg"),
        "Nathaniel Hurd",
        "John Singleton Copley (American), artist",
        "https://clevelandart.org/art/1915.534",
    )
    pages = "".join(page.read_text(encoding="utf-8") for page in (tmp_path / "gallery").rglob("images/**/*.html"))
    assert "Nathaniel Hurd" in pages and "John Singleton Copley" in pages
    assert 'href="https://clevelandart.org/art/1915.534"' in pages
    assert run(download_images, "--catalogue", tmp_path / "data.csv", "--size", "print", *places, *SETTINGS) == 0
    assert server.gets("/1915.534/1915.534_print.jpg") == 1 and server.gets("/1915.534/1915.534_web.jpg") == 1
    assert pq.read_table(tmp_path / "cma" / "images.parquet")["uri"].to_pylist() == [
        "1915.534_print.jpg",
        "1921.1239_print.jpg",
    ]


def test_the_museums_records(run: Run, server: Server, tmp_path: Path, data: Path) -> None:
    sample = (data / "images" / "cma" / "openaccess_records_sample.json").read_text(encoding="utf-8")
    sample = sample.replace("https://openaccess-cdn.clevelandart.org", server.address)
    paths = [record["images"]["web"]["url"].removeprefix(server.address) for record in json.loads(sample)["data"]]
    server.files = {path: misbehaving.picture(number, "JPEG") for number, path in enumerate(paths)}
    forms = {"data.json": json.dumps(json.loads(sample)["data"]), "sample.json": sample}
    for name, text in forms.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        places = ["--images", tmp_path / f"of {name}", "--warehouse", tmp_path / "w"]
        assert run(download_images, "--catalogue", tmp_path / name, *places, *SETTINGS) == 0
    rows = pq.read_table(tmp_path / "of data.json" / "images.parquet").to_pylist()
    assert rows == pq.read_table(tmp_path / "of sample.json" / "images.parquet").to_pylist()
    assert [(row["image_id"], row["uri"], row["culture"], row["type"]) for row in rows] == [
        ("1915.534", "1915.534_web.jpg", "America", "Painting"),
        ("1921.1239", "1921.1239_web.jpg", "America", "Painting"),
        ("1928.8", "1928.8_web.jpg", "America", "Painting"),
    ]
    assert (
        rows[0]["creator"].startswith("John Singleton Copley")
        and rows[0]["url"] == "https://clevelandart.org/art/1915.534"
    )
    pointer = json.loads((tmp_path / "w" / "_current.json").read_text())["tables"]
    assert set(pointer["downloads"]) == {"data", "sample"}
    assert set(pointer["failures"]) == {"downloads/data", "downloads/sample"}


def entries(file: Path, **options: Any) -> list[catalogue.Entry]:
    return catalogue.read(str(file), ("image_url", "url", "uri", "address"), **options).entries


def test_lists_of_all_kinds_say_the_same(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"image_id": "One", "url": "http://h/1.jpg", "year": 1915, "tags": ["a", "b"], "none": None},
        {"image_id": "two", "url": "http://h/2.jpg", "year": None, "tags": None, "none": None},
        {"image_id": "three", "url": "", "year": None, "tags": None, "none": None},
        {"image_id": None, "url": "http://h/4.jpg", "year": None, "tags": None, "none": None},
    ]
    (tmp_path / "a.json").write_text(json.dumps(records, indent=1))
    (tmp_path / "a.jsonl").write_text("\ufeff" + "\n".join(map(json.dumps, records)) + "\n")
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    lines = [
        "image_id,url,year,tags,none",
        'One,http://h/1.jpg,1915,"a, b",',
        "two,http://h/2.jpg,,,",
        "x,,,,",
        ",u,,,",
    ]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    nested = '["a","b"]'
    for name, tags in {"a.json": nested, "a.jsonl": nested, "a.parquet": nested, "a.csv": "a, b"}.items():
        made = catalogue.read(str(tmp_path / name), ("image_url", "url"))
        assert [(entry.image_id, entry.address, entry.attributes) for entry in made.entries] == [
            ("One", "http://h/1.jpg", {"year": "1915", "tags": tags}),
            ("two", "http://h/2.jpg", {}),
        ], name
        assert made.left_out == {"without an address": 1, "without an image_id": 1}


def test_without_ids_addresses_serve(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("uri,address\nhttp://h/a/1.JPG?w=3,x\nhttp://h/b/1.JPG?w=3,x\n")
    first, second = entries(tmp_path / "a.csv")
    assert first.image_id == first.address == "http://h/a/1.JPG?w=3" and first.attributes == {"address": "x"}
    assert first.name.startswith("1.JPG_w_3-") and first.name != second.name


def test_file_names_are_safe_and_no_others() -> None:
    odd = [
        "a/b",
        "b/b",
        "../../etc/passwd",
        "A",
        "a",
        ".hidden",
        "_x",
        "",
        "Übung",
        "x" * 300,
        "con:1",
        "a b",
        "a_b",
        "..",
    ]
    odd += ["1915.534"]
    odd.insert(0, catalogue.file_name("a/b"))  # an id that is the name of another id's file
    names = [catalogue.file_name(image_id) for image_id in odd]
    assert len({name.lower() for name in names}) == len(odd)
    assert all(
        name.isascii() and not name.startswith((".", "_")) and "/" not in name and len(name) <= 100 for name in names
    )
    assert names[5] == "a" and names[-1] == "1915.534"


def test_samples_depend_on_ids_and_seed_alone(tmp_path: Path) -> None:
    lines = [f"{number},http://h/{number}" for number in range(50)]
    (tmp_path / "a.csv").write_text("image_id,url\n" + "\n".join(lines) + "\n")
    (tmp_path / "b.csv").write_text("image_id,url\n" + "\n".join(reversed(lines)) + "\n")
    chosen = entries(tmp_path / "a.csv", sample=5, seed=1)
    assert len(chosen) == 5 and chosen == entries(tmp_path / "b.csv", sample=5, seed=1)
    assert chosen != entries(tmp_path / "a.csv", sample=5, seed=2)


BAD = {
    "no column": ("a.csv", "image_id,place\n1,a\n", {}, "no column 'image_url' or 'url'"),
    "twice": ("a.csv", "url\nu\nu\n", {}, "must be unique, but these stand more than once: 'u'"),
    "nothing": ("a.csv", "url\n", {}, "it has no records"),
    "no address": ("a.csv", "url,x\n,1\n", {}, "no record was taken"),
    "broken": ("a.json", '[{"url": "u"}, {', {}, "cannot be read"),
    "cut": ("a.json", '[{"url": "u"},', {}, "the list has no end"),
    "no records": ("a.json", "[1, 2]", {}, "'1' is no record"),
    "no parquet": ("a.parquet", "PAR0", {}, "cannot be read"),
    "latin": ("a.csv", "url\n\udcfc\n", {}, "cannot be read"),
    "unknown": ("a.xlsx", "", {}, "a file of unknown type"),
    "no sizes": ("a.csv", "url\nu\n", {"size": "web"}, "--size is of the museum's catalogue"),
}


@pytest.mark.parametrize("case", BAD)
def test_catalogues_that_cannot_serve(tmp_path: Path, case: str) -> None:
    name, content, options, message = BAD[case]
    (tmp_path / name).write_bytes(os.fsencode(content))
    with pytest.raises(WrongInput, match=message) as caught:
        entries(tmp_path / name, **options)
    assert "\n" not in str(caught.value)


def test_bad_arguments(run: Run, server: Server, tmp_path: Path, capsys: Any) -> None:
    place = Place(run, server, tmp_path, ["/good.png"])
    place.images = Path("/proc/nowhere")
    assert place.job() == 2
    assert "cannot be written" in capsys.readouterr().err and not server.asked
    assert place.job("--retry-failed", "unlucky") == 2 and "'unlucky' is no choice" in capsys.readouterr().err


def test_the_list_keeps_columns_apart(tmp_path: Path) -> None:
    attributes = [("uri", "u"), ("Title", "T"), ("title", "t"), ("Address", "x")]
    row = {"image_id": "a", "address": "http://h/a", "uri": "/images/a.png", "attributes": attributes}
    kind = pa.map_(pa.string(), pa.string())
    table = pa.table(
        {name: pa.array([value], kind if name == "attributes" else pa.string()) for name, value in row.items()}
    )
    content = stage.list_of(table)
    assert pq.read_table(pa.BufferReader(content)).to_pylist() == [
        {
            "image_id": "a",
            "uri": "a.png",
            "address": "http://h/a",
            "uri_": "u",
            "Title": "T",
            "title_": "t",
            "Address_": "x",
        }
    ]


def test_the_list_is_one_for_build_manifest(run: Run, server: Server, tmp_path: Path) -> None:
    place = Place(run, server, tmp_path, ["/good.png", "/good.jpg"])
    assert place.job() == 0
    assert run(build_manifest, "--images", place.images / "images.parquet", "--warehouse", place.warehouse) == 0
    rows = ask(place.warehouse, "SELECT image_id, attributes['title'], size_bytes FROM manifest ORDER BY 1")
    assert rows == [
        ("good.jpg", "Picture 1", len(misbehaving.picture(3, "JPEG"))),
        ("good.png", "Picture 0", len(misbehaving.picture())),
    ]
