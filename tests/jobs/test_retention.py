"""Runs that newer ones replaced, runs that died, and runs that are made current again."""

import errno
import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pyspark.sql import SparkSession

from image_similarity.jobs import (
    audit_neighbours,
    build_manifest,
    clean_warehouse,
    embed_images,
    find_neighbours,
    neighbour_runners,
    render_gallery,
    render_map,
    restore_runs,
    run_pipeline,
)
from image_similarity.jobs.command_line import main
from image_similarity.jobs.job import Application
from image_similarity.storage.local import LocalFiles
from image_similarity.warehouse import leases, retention
from image_similarity.warehouse.records import new_run_id
from image_similarity.warehouse.snapshot import Pointer
from image_similarity.warehouse.warehouse import Warehouse
from processes import ask


def draw(folder: Path, seeds: range) -> None:
    folder.mkdir(exist_ok=True)
    for seed in seeds:
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
            folder / f"{seed}.png"
        )


def runs_on_disk(warehouse: Path, table: str) -> set[str]:
    return {folder.name.removeprefix("run_id=") for folder in (warehouse / table).glob("run_id=*")}


def pointer(warehouse: Path) -> Any:
    return json.loads((warehouse / "_current.json").read_text())["tables"]


def night(number: int, folder: Path, warehouse: Path, spark: SparkSession, arguments: list[str]) -> None:
    """The pipeline on a folder that has one more picture every night."""
    draw(folder, range(6 + number))
    given = ["--images", str(folder), "--warehouse", str(warehouse), "--run-id", f"night-{number}"]
    assert main(run_pipeline, [*given, *arguments], session=spark) == 0


@dataclass(frozen=True)
class Nights:
    images: Path
    warehouse: Path
    common: list[str]


@pytest.fixture(scope="module")
def three_nights(spark: SparkSession, tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Nights:
    folder = tmp_path_factory.mktemp("nights")
    for number in range(3):
        night(number, folder / "images", folder / "w", spark, tiny)
    return Nights(folder / "images", folder / "w", tiny)


@pytest.fixture
def nights(three_nights: Nights, tmp_path: Path) -> Nights:
    """A copy of a warehouse after three nights."""
    warehouse = tmp_path / "w"
    shutil.copytree(three_nights.warehouse, warehouse)
    views = warehouse / "views.sql"
    views.write_text(views.read_text().replace(str(three_nights.warehouse), str(warehouse)))
    return Nights(three_nights.images, warehouse, [*three_nights.common, "--warehouse", str(warehouse)])


TABLES = ("manifest", "embeddings", "failures", "neighbours")


def test_keep_runs_removes_older_ones_and_what_dead_runs_left(nights: Nights, run: Any) -> None:
    warehouse = nights.warehouse
    assert len(runs_on_disk(warehouse, "neighbours")) == 3
    dead = new_run_id()
    of_dead = ("neighbours/run_id=", "_scratch/", "_state/tiny/cosine/", "_state/embed_images/key/")
    for folder in (f"{place}{dead}" for place in of_dead):
        (warehouse / folder).mkdir(parents=True)
        (warehouse / folder / "part-00000.parquet").write_bytes(b"0" * 1000)
    assert run(find_neighbours, *nights.common, "--keep-runs", "2") == 0
    kept = {table: runs_on_disk(warehouse, table) for table in (*TABLES, "vectors", "runs")}
    # Of the failures there are two slots; the embeddings of before are there because those of now were made with their
    # help.
    assert {table: len(runs) for table, runs in kept.items()} == {
        "manifest": 2,
        "embeddings": 2,
        "failures": 4,
        "neighbours": 2,
        "vectors": 3,
        "runs": 16,
    }
    for table in TABLES:
        assert {run for runs in pointer(warehouse)[table].values() for run in runs} <= kept[table]
    assert (
        not (warehouse / "_scratch" / dead).exists() and not (warehouse / "_state" / "tiny" / "cosine" / dead).exists()
    )
    assert (warehouse / "_state" / "embed_images" / "key" / dead).exists(), "the next run takes it over"
    assert ask(warehouse, "SELECT count(*), count(DISTINCT image_id) FROM neighbours WHERE relation = 'similar'") == [
        (56, 8)
    ]
    assert run(clean_warehouse, *nights.common, "--discard-saved") == 0
    assert not (warehouse / "_state" / "embed_images" / "key" / dead).exists()


def test_runs_that_the_current_ones_were_made_of_stay(nights: Nights, run: Any) -> None:
    embedded = pointer(nights.warehouse)["embeddings"]["tiny"][0]
    for _ in range(2):
        assert run(embed_images, *nights.common) == 0
    assert run(clean_warehouse, *nights.common, "--keep-runs", "2") == 0
    kept = runs_on_disk(nights.warehouse, "embeddings")
    assert len(kept) == 3 and embedded in kept, "the neighbours were found from it"


def test_what_a_run_at_work_writes_is_left_alone(nights: Nights, run: Any, spark: SparkSession, capsys: Any) -> None:
    at_work, warehouse = new_run_id(), Warehouse(spark, str(nights.warehouse))
    with leases.held(warehouse, at_work, Pointer()):
        for folder in ("neighbours/run_id={}", "_scratch/{}", "_state/tiny/cosine/{}"):
            (nights.warehouse / folder.format(at_work)).mkdir(parents=True)
        assert run(clean_warehouse, *nights.common, "--dry-run") == 0
        assert "would remove 0 folders" in capsys.readouterr().out
        assert run(clean_warehouse, *nights.common) == 0
        assert len(list(nights.warehouse.rglob(f"*{at_work}"))) == 4
        long_ago = time.time() - leases.DEAD_SECONDS - 60
        os.utime(nights.warehouse / "_running" / at_work, (long_ago, long_ago))
        assert run(clean_warehouse, *nights.common) == 0
        assert not list(nights.warehouse.rglob(f"*{at_work}")), "it has not told for long that it lives"


def test_what_a_run_at_work_may_be_reading_stays(nights: Nights, run: Any, spark: SparkSession) -> None:
    warehouse = Warehouse(spark, str(nights.warehouse))
    first = min(runs_on_disk(nights.warehouse, "neighbours"))
    seen = Pointer(1, {"neighbours": {"tiny/cosine": [first]}})
    with leases.held(warehouse, new_run_id(), seen):
        assert run(clean_warehouse, *nights.common, "--keep-runs", "2") == 0
        assert (
            first in runs_on_disk(nights.warehouse, "neighbours")
            and len(runs_on_disk(nights.warehouse, "manifest")) == 2
        )
    assert run(clean_warehouse, *nights.common, "--keep-runs", "2") == 0
    assert first not in runs_on_disk(nights.warehouse, "neighbours")


def test_what_was_removed_meanwhile_is_not_published(
    nights: Nights, run: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    before, counted = pointer(nights.warehouse), neighbour_runners._counted

    def count_and_lose(job: Any, outputs: Any) -> Any:
        counts = counted(job, outputs)
        shutil.rmtree(nights.warehouse / "neighbours" / f"run_id={job.run_id}")
        return counts

    monkeypatch.setattr(neighbour_runners, "_counted", count_and_lose)
    assert run(find_neighbours, *nights.common, "--set", "neighbours.runner=spark") == 1
    assert "removed meanwhile; nothing was published" in capsys.readouterr().err and pointer(nights.warehouse) == before


def test_a_run_that_is_wanted_again_while_it_is_removed(nights: Nights, run: Any, spark: SparkSession) -> None:
    """Of cleaning and restoring at the same moment one gives way."""
    warehouse = Warehouse(spark, str(nights.warehouse))
    first = min(runs_on_disk(nights.warehouse, "manifest"))
    paths = [path for path in retention.removable(warehouse, 2) if path.endswith(f"/manifest/run_id={first}")]
    record = warehouse.snapshot().runs[first]
    with leases.held(warehouse, new_run_id(), Pointer(), [first]):
        assert retention.remove(warehouse, paths) == {} and retention.is_complete(warehouse, record)
    assert run(restore_runs, *nights.common, "--to", first) == 0
    assert retention.remove(warehouse, paths) == {} and retention.is_complete(warehouse, record), "it is current now"
    assert ask(nights.warehouse, "SELECT count(*) FROM manifest") == [(6,)]


def test_a_run_that_is_removed_while_it_is_wanted_again(
    nights: Nights, run: Any, spark: SparkSession, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    warehouse = Warehouse(spark, str(nights.warehouse))
    first, before = min(runs_on_disk(nights.warehouse, "manifest")), pointer(nights.warehouse)
    begin = Application.begin

    def begin_late(self: Application) -> None:
        assert retention.remove(warehouse, [f"{warehouse.uri}/manifest/run_id={first}"])
        begin(self)

    monkeypatch.setattr(Application, "begin", begin_late)
    assert run(restore_runs, *nights.common, "--to", first) == 2
    assert "it was removed" in capsys.readouterr().err and pointer(nights.warehouse) == before


def test_a_place_without_a_warehouse(run: Any, tmp_path: Path, capsys: Any) -> None:
    assert run(clean_warehouse, "--warehouse", tmp_path / "typo") == 2
    assert "no such folder" in capsys.readouterr().err and not (tmp_path / "typo").exists()


def test_a_lease_is_renewed(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEWED_SECONDS", 0.05)
    warehouse = Warehouse(spark, str(tmp_path))
    with leases.held(warehouse, "r1", Pointer()):
        file = tmp_path / "_running" / "r1"
        os.utime(file, (0, 0))
        deadline = time.monotonic() + 10
        while leases.active(warehouse) != {"r1": set()} and time.monotonic() < deadline:
            time.sleep(0.02)
        assert leases.active(warehouse) == {"r1": set()}
    assert leases.active(warehouse) == {} and not file.exists()


def test_a_night_is_undone_and_done_again(nights: Nights, run: Any, spark: SparkSession, capsys: Any) -> None:
    warehouse = nights.warehouse
    last = pointer(warehouse)
    everything = "SELECT * FROM neighbours ORDER BY ALL"
    of_three = ask(warehouse, everything)
    assert run(restore_runs, *nights.common) == 0
    told = capsys.readouterr().out
    assert told.count("current") == 5 and all(f"night-{number}" in told for number in range(3))
    assert run(restore_runs, *nights.common, "--to", "night-1") == 0
    assert "note" not in capsys.readouterr().out
    assert ask(warehouse, "SELECT count(*) FROM manifest") == [(7,)]
    assert ask(warehouse, "SELECT count(*) FROM neighbours WHERE relation = 'similar'") == [(7 * 6,)]
    assert all(pointer(warehouse)[table] != last[table] for table in TABLES)
    assert run(restore_runs, *nights.common, "--to", "night-1") == 0
    assert "current already" in capsys.readouterr().out
    # What was undone is not taken for done: the same night can be run again.
    again = ["--images", nights.images, *nights.common, "--run-id", "night-2"]
    assert run(run_pipeline, *again) == 0
    assert "already published" not in capsys.readouterr().out
    assert ask(warehouse, everything) == of_three and pointer(warehouse)["neighbours"] != last["neighbours"]
    assert run(run_pipeline, *again) == 0
    assert capsys.readouterr().out.count("already published") == 5


def test_what_was_made_of_an_undone_run_is_undone_too(nights: Nights, run: Any, tmp_path: Path, capsys: Any) -> None:
    audit = ["--set", "approximate.audit_queries=8", *nights.common, "--run-id", "night-2"]
    pages = ["--gallery", tmp_path / "pages", *nights.common, "--run-id", "night-2"]
    assert run(audit_neighbours, *audit) == 0 and run(render_gallery, *pages) == 0 and run(render_map, *pages) == 0
    assert run(restore_runs, *nights.common, "--to", "night-1") == 0
    out = capsys.readouterr().out
    assert "may show what was undone: run render_gallery again" in out
    assert "shows what was undone: run render_map again" in out
    assert run(audit_neighbours, *audit) == 0 and run(render_gallery, *pages) == 0
    assert "already published" not in capsys.readouterr().out
    assert run(restore_runs, *nights.common) == 0
    assert "restore_runs  " not in capsys.readouterr().out, "it lists runs that can be restored"


def test_one_run_alone_is_restored_with_a_note(nights: Nights, run: Any, capsys: Any) -> None:
    first = min(runs_on_disk(nights.warehouse, "embeddings"))
    assert run(restore_runs, *nights.common, "--to", first) == 0
    told = capsys.readouterr().out
    assert f"current again: {first} (embed_images tiny)" in told
    assert "(find_neighbours tiny/cosine) was made of other runs than are current" in told
    assert ask(nights.warehouse, "SELECT count(*) FROM embeddings") == [(6,)]


def test_what_cannot_be_restored_is_told(nights: Nights, run: Any, capsys: Any) -> None:
    assert run(clean_warehouse, *nights.common, "--keep-runs", "2") == 0
    assert run(restore_runs, *nights.common, "--to", "night-7") == 2
    assert "is called 'night-7', and none has that label" in capsys.readouterr().err
    first = min(runs_on_disk(nights.warehouse, "neighbours"))
    (nights.warehouse / "neighbours" / f"run_id={first}" / "_SUCCESS").unlink()
    assert run(restore_runs, *nights.common, "--to", first) == 2, "a cleaning was cut off here"
    assert run(restore_runs, *nights.common, "--to", "night-0") == 2
    assert "was removed (--keep-runs)" in capsys.readouterr().err


def test_a_job_that_fails_leaves_nothing(nights: Nights, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    def files() -> list[str]:
        return sorted(str(path) for path in nights.warehouse.rglob("*") if path.is_file() and path.name != "_lock")

    before = files()
    monkeypatch.setattr(Warehouse, "publish", broken)
    for job in (build_manifest, embed_images, find_neighbours):
        images = ["--images", nights.images] if job is build_manifest else []
        assert run(job, *nights.common, *images) == 1
    assert files() == before


@pytest.mark.parametrize("given", ["1", "0", "-3", "two"])
def test_one_run_is_too_few(given: str, tmp_path: Path, capsys: Any) -> None:
    assert main(clean_warehouse, ["--warehouse", str(tmp_path), "--keep-runs", given]) == 2
    assert "should be a whole number of 2 or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    "number, code, told",
    [
        (errno.EROFS, 2, "cannot be written"),
        (errno.EIO, 1, "Input/output error"),
        (errno.ENOSPC, 1, "no space is left"),
    ],
    ids=["never", "now", "full"],
)
def test_a_warehouse_that_cannot_be_written(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, number: int, code: int, told: str
) -> None:
    """With 2 nobody tries again."""
    draw(tmp_path / "images", range(1))

    def write(self: Any, path: str, content: bytes) -> None:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(LocalFiles, "write", write)
    assert run(build_manifest, "--images", tmp_path / "images", "--warehouse", tmp_path / "w") == code
    assert told in capsys.readouterr().err
