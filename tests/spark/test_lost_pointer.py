"""A pointer that is lost, damaged or older than the runs costs nothing: jobs say so, and one command makes it anew."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from image_similarity.jobs import (
    audit_neighbours,
    build_manifest,
    clean_warehouse,
    compare_fingerprints,
    embed_images,
    find_neighbours,
    render_gallery,
    restore_runs,
)
from image_similarity.jobs.command_line import main
from image_similarity.jobs.job import Application
from image_similarity.stages.neighbours import in_process
from image_similarity.warehouse import compaction, leases
from image_similarity.warehouse.snapshot import POINTER
from processes import ask


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name not in (POINTER, "views.sql")
    }


def tables(warehouse: Path) -> Any:
    """What the pointer says, with the runs that are recorded in the place of the folders that hold their records."""
    recorded = [run for (run,) in ask(warehouse, "SELECT run_id FROM runs ORDER BY 1")]
    return {**json.loads((warehouse / POINTER).read_text())["tables"], "runs": recorded}


@pytest.fixture(scope="module")
def made(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of each of two jobs, the second of another content; the pointer after the first two is kept."""
    folder = tmp_path_factory.mktemp("made")
    for turn in range(2):
        rows = {"image_id": ["a", "b", "c"], "embedding": [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0 + turn]]}
        pq.write_table(pa.table(rows), folder / "own.parquet")
        (folder / "list.csv").write_text("uri\n" + "".join(f"{number}.png\n" for number in range(2 + turn)))
        common = ["--warehouse", str(folder / "w")]
        assert main(build_manifest, [*common, "--images", str(folder / "list.csv")], session=spark) == 0
        own = ["--embeddings", str(folder / "own.parquet"), "-k", "2", "--dissimilar", "0"]
        assert main(find_neighbours, [*common, *own], session=spark) == 0
        (folder / f"pointer{turn}").write_bytes((folder / "w" / POINTER).read_bytes())
    return folder


@pytest.fixture
def warehouse(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "w", tmp_path / "w")
    return tmp_path / "w"


JOBS: dict[Any, list[str]] = {
    build_manifest: ["--images", "."],
    embed_images: [],
    find_neighbours: [],
    audit_neighbours: [],
    compare_fingerprints: ["--report", "r"],
    render_gallery: ["--gallery", "g"],
    clean_warehouse: ["--keep-runs", "2", "--discard-checkpoints"],
    restore_runs: [],
}


@pytest.mark.parametrize("damage", ["gone", "cut short", "empty"])
def test_every_job_says_so_and_one_makes_it_anew(
    run: Any, warehouse: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.chdir(warehouse.parent)
    right, pointer = tables(warehouse), warehouse / POINTER
    pointer.unlink() if damage == "gone" else pointer.write_bytes(pointer.read_bytes()[: 40 * (damage != "empty")])
    before = content(warehouse)
    for job, arguments in JOBS.items():
        assert run(job, "--warehouse", warehouse, *arguments) == 1, job
        told = capsys.readouterr().err
        assert (
            f"{POINTER} is {'gone' if damage == 'gone' else 'damaged'}" in told and "restore_runs.py --rebuild" in told
        )
        assert content(warehouse) == before, job
    assert run(restore_runs, "--warehouse", warehouse, "--rebuild", "--dry-run") == 0
    assert "would make _current.json anew from 4 runs" in capsys.readouterr().out and content(warehouse) == before
    assert run(restore_runs, "--warehouse", warehouse, "--rebuild") == 0
    assert "made _current.json anew from 4 runs" in capsys.readouterr().out
    assert tables(warehouse) == right
    assert ask(warehouse, "SELECT count(*) FROM neighbours") == [(6,)]
    assert run(clean_warehouse, "--warehouse", warehouse) == 0


def test_an_older_one_costs_no_newer_run(run: Any, made: Path, warehouse: Path, capsys: Any) -> None:
    assert run(clean_warehouse, "--warehouse", warehouse) == 0, "the views of a copy"
    right, before = tables(warehouse), content(warehouse)
    (warehouse / POINTER).write_bytes((made / "pointer0").read_bytes())
    assert run(clean_warehouse, "--warehouse", warehouse, "--keep-runs", 2, "--discard-checkpoints") == 0
    assert "2 runs are recorded that _current.json does not know" in capsys.readouterr().out
    assert content(warehouse) == before
    assert run(restore_runs, "--warehouse", warehouse, "--rebuild") == 0
    assert tables(warehouse) == right


def test_after_records_were_merged_all_is_as_before(
    run: Any, made: Path, warehouse: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels, going back, cleaning, and a lost pointer."""
    monkeypatch.setattr(compaction, "MOST_FOLDERS", 1)
    manifest = [build_manifest, "--warehouse", warehouse, "--images", made / "list.csv"]
    first = min(folder.name.removeprefix("run_id=") for folder in (warehouse / "manifest").iterdir())
    for label in "ab":
        assert run(*manifest, "--run-id", label) == 0
    assert run(*manifest, "--run-id", "a") == 0
    assert capsys.readouterr().out.count("already published under the label 'a'") == 1
    listed = json.loads((warehouse / POINTER).read_text())["tables"]["runs"][""]
    assert len(listed) == 3 and len(tables(warehouse)["runs"]) == 6, "four records are in one folder"
    assert run(restore_runs, "--warehouse", warehouse, "--to", first) == 0
    assert run(clean_warehouse, "--warehouse", warehouse, "--keep-runs", 2) == 0
    right = tables(warehouse)
    assert right["manifest"] == {"": [first]} and len(right["runs"]) == 7
    (warehouse / POINTER).unlink()
    assert run(restore_runs, "--warehouse", warehouse, "--rebuild") == 0
    assert tables(warehouse) == right


def test_an_error_after_records_were_merged_removes_nothing_published(
    run: Any, made: Path, warehouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run slept, was taken for dead, and its record was merged with others. Then it wakes, and fails."""
    slept = build_manifest.run

    def fails_late(application: Application) -> None:
        slept(application)
        monkeypatch.setattr(compaction, "MOST_FOLDERS", 1)
        monkeypatch.setattr(leases, "active", lambda warehouse: {})
        compaction.compact(application.warehouse, application.warehouse.current())
        raise OSError("the disk is gone")

    monkeypatch.setattr(build_manifest, "run", fails_late)
    assert run(build_manifest, "--warehouse", warehouse, "--images", made / "list.csv") == 1
    [published] = tables(warehouse)["manifest"][""]
    assert (warehouse / "manifest" / f"run_id={published}" / "_SUCCESS").exists()
    assert published not in json.loads((warehouse / POINTER).read_text())["tables"]["runs"][""]


def test_what_was_restored_stays_restored(run: Any, warehouse: Path) -> None:
    first = min(folder.name.removeprefix("run_id=") for folder in (warehouse / "manifest").iterdir())
    assert run(restore_runs, "--warehouse", warehouse, "--to", first) == 0
    right = tables(warehouse)
    assert right["manifest"] == {"": [first]}
    (warehouse / POINTER).unlink()
    assert run(restore_runs, "--warehouse", warehouse, "--rebuild") == 0
    assert tables(warehouse) == right


def test_a_run_whose_table_is_not_whole_gives_way_to_the_one_before(run: Any, warehouse: Path) -> None:
    first, second = sorted(folder.name.removeprefix("run_id=") for folder in (warehouse / "manifest").iterdir())
    (warehouse / "manifest" / f"run_id={second}" / "_SUCCESS").unlink()
    (warehouse / POINTER).unlink()
    assert run(restore_runs, "--warehouse", warehouse, "--rebuild") == 0
    assert tables(warehouse)["manifest"] == {"": [first]}


@pytest.mark.parametrize("state", ["gone", "older"])
def test_lost_while_a_job_runs(
    run: Any, made: Path, warehouse: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    original = in_process.run

    def losing(*inputs: Any) -> Any:
        older = (made / "pointer0").read_bytes()
        (warehouse / POINTER).unlink() if state == "gone" else (warehouse / POINTER).write_bytes(older)
        return original(*inputs)

    monkeypatch.setattr(in_process, "run", losing)
    before = content(warehouse)
    assert (
        run(find_neighbours, "--warehouse", warehouse, "--embeddings", made / "own.parquet", "--metric", "euclidean")
        == 1
    )
    assert f"{POINTER} is {state}" in capsys.readouterr().err
    assert not (warehouse / POINTER).exists() or state == "older"
    assert before.items() <= content(warehouse).items()


def test_only_what_runs_left_is_removed_and_only_from_warehouses(
    run: Any, warehouse: Path, tmp_path: Path, capsys: Any
) -> None:
    mine = tmp_path / "mine" / "_scratch" / "my work"
    for folder in (mine, warehouse / "_scratch" / "my work", warehouse / "neighbours" / "run_id=by hand"):
        folder.mkdir(parents=True)
        (folder / "letter.txt").write_text("dear")
    assert run(clean_warehouse, "--warehouse", tmp_path / "mine", "--discard-checkpoints") == 2
    assert "there is no warehouse at" in capsys.readouterr().err and (mine / "letter.txt").exists()
    assert run(clean_warehouse, "--warehouse", warehouse, "--discard-checkpoints") == 0
    assert (warehouse / "_scratch" / "my work" / "letter.txt").exists()
    assert (warehouse / "neighbours" / "run_id=by hand" / "letter.txt").exists()


def test_cleaning_a_copy_makes_its_views_show_the_copy(run: Any, made: Path, warehouse: Path) -> None:
    assert str(made) in (warehouse / "views.sql").read_text()
    assert run(clean_warehouse, "--warehouse", warehouse) == 0
    views = (warehouse / "views.sql").read_text()
    assert str(made) not in views and str(warehouse) in views
    assert ask(warehouse, "SELECT count(*) FROM neighbours") == [(6,)]
