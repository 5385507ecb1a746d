"""What is told before Spark is started: in a second, not after half a minute of Java."""

import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from image_similarity.jobs import (
    audit_neighbours,
    build_manifest,
    command_line,
    compare_fingerprints,
    download_images,
    embed_images,
    find_neighbours,
    render_gallery,
    run_pipeline,
)
from image_similarity.jobs.command_line import main
from image_similarity.warehouse.records import Record
from image_similarity.warehouse.snapshot import POINTER, Pointer
from image_similarity.warehouse.warehouse import Warehouse

COLOURS = ["--set", 'fingerprints.colours={kind="colour-histogram"}', "--fingerprint", "colours"]

MISTAKES: dict[str, tuple[Any, list[str], str]] = {
    "a folder that is not there": (
        build_manifest,
        ["--images", "picture"],
        "no such folder or file; did you mean pictures?",
    ),
    "a folder without images": (build_manifest, ["--images", "empty"], "no image found; skipped: 1 .txt"),
    "a glob without images": (build_manifest, ["--images", "empty/*.jpg"], "no image found"),
    "a list without a column": (
        build_manifest,
        ["--images", "list.csv"],
        "no column 'uri' or 'file'; its columns are: a, b",
    ),
    "a list that is no UTF-8": (build_manifest, ["--images", "latin.csv"], "not UTF-8"),
    "a file that is no list": (run_pipeline, ["--images", "empty/notes.txt", *COLOURS], "a file of unknown type"),
    "a gallery among the images": (
        run_pipeline,
        ["--images", "pictures", "--gallery", "pictures/g", *COLOURS],
        "is in the folder of the images",
    ),
    "a gallery in a folder of others": (
        run_pipeline,
        ["--images", "pictures", "--gallery", "empty", *COLOURS],
        "the folder has other content",
    ),
    "a gallery that is a file": (render_gallery, ["--gallery", "list.csv"], "is a file; name a folder"),
    "no manifest": (embed_images, COLOURS, "no manifest is published"),
    "no embeddings": (find_neighbours, [], "no embeddings 'vgg16-fc2'"),
    "vectors that are not there": (
        find_neighbours,
        ["--embeddings", "vector.parquet"],
        "no such file or folder; did you mean vectors.parquet?",
    ),
    "nothing to audit": (audit_neighbours, [], "no neighbours 'vgg16-fc2/cosine'"),
    "nothing to show": (render_gallery, ["--gallery", "g"], "no neighbours are published"),
    "nothing to compare": (compare_fingerprints, ["--report", "r"], "no neighbours are published"),
    "a report that is a file": (compare_fingerprints, ["--report", "list.csv"], "is a file; name a folder"),
    "a catalogue that is not there": (
        download_images,
        ["--catalogue", "lists.csv", "--images", "d"],
        "no such file; did you mean list.csv?",
    ),
    "a catalogue without addresses": (
        download_images,
        ["--catalogue", "list.csv", "--images", "d"],
        "no column 'image_url'",
    ),
    "downloads into a file": (
        download_images,
        ["--catalogue", "urls.csv", "--images", "list.csv"],
        "is a file; name a folder",
    ),
}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in ("pictures", "empty"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pictures" / "a.jpg").touch()
    (tmp_path / "empty" / "notes.txt").touch()
    (tmp_path / "list.csv").write_text("a,b\n1,2\n")
    (tmp_path / "urls.csv").write_text("url\nhttp://h/a.jpg\n")
    (tmp_path / "latin.csv").write_bytes("uri\nGemälde.jpg\n".encode("latin-1"))
    (tmp_path / "vectors.parquet").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_line, "open_session", lambda name: pytest.fail("Spark was started"))
    return tmp_path


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_before_spark_is_started_and_leave_nothing(mistake: str, place: Path, capsys: Any) -> None:
    job, arguments, message = MISTAKES[mistake]
    before = sorted(place.rglob("*"))
    assert main(job, ["--warehouse", "w", *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told and len(told.strip().splitlines()) == 1
    assert sorted(place.rglob("*")) == before


def test_a_warehouse_that_is_a_file(place: Path, capsys: Any) -> None:
    assert main(build_manifest, ["--warehouse", "list.csv/w", "--images", "pictures"]) == 2
    assert f"--warehouse list.csv/w: {place / 'list.csv'} is a file; name a folder" in capsys.readouterr().err


def test_a_warehouse_that_cannot_be_written(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    assert main(build_manifest, ["--warehouse", "w", "--images", "pictures"]) == 2
    assert f"--warehouse w: {place} cannot be written" in capsys.readouterr().err


def test_what_a_label_has_published_is_not_checked_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler's second try, when the images of that night are gone already."""
    now, run = datetime.now(timezone.utc), "r20260101T000000-00000001"
    facts: dict[str, Any] = dict.fromkeys(("inputs", "outputs", "settings", "counts", "versions", "stages"), {})
    facts |= {"status": "published", "seconds": 1.0, "recall": None, "started_at": now, "finished_at": now}
    record = Record(run_id=run, label="night 1", job="build_manifest", slot="", **facts)
    warehouse = Warehouse(None, str(place / "w"))  # type: ignore[arg-type]
    warehouse.write_record(record)
    warehouse.files.write(f"{warehouse.uri}/{POINTER}", Pointer(1, {"runs": {"": [run]}}).as_json())
    wanted = ["--warehouse", "w", "--images", "gone", "--run-id"]
    assert main(build_manifest, [*wanted, "night 1"]) == 0 and main(build_manifest, [*wanted, "night 2"]) == 2


def test_a_dry_run_may_look_at_what_it_cannot_write(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert main(build_manifest, ["--warehouse", "w", "--images", "pictures", "--dry-run"]) == 0
