"""The driver killed in the middle of each job: what was published stays as it was, and running it again succeeds."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pytest

from crawler import crawl
from image_similarity.jobs import build_manifest, embed_images, find_neighbours, run_pipeline
from image_similarity.warehouse.schemas import SCHEMAS
from processes import COMMON, ask, draw, finish, kill, start

pytestmark = pytest.mark.cluster

WAIT_SECONDS = 120
Run = Any
KILLS = 10
PUBLISHED = ("_current.json", "views.sql")
COMPARED = {
    "manifest": "image_id, uri, size_bytes, source_version",
    "embeddings": "image_id, fingerprint_key, content_sha256, source_version, width, height, embedding",
    "vectors": "content_sha256, fingerprint_key, embedding",
    "failures": "*",
    "neighbours": "*",
}
"""What must be the same after it all as without it."""


def kill_when(process: "subprocess.Popen[str]", warehouse: Path, marker: str) -> None:
    """SIGKILL the driver, its JVM and its workers once a path that matches ``marker`` is in the warehouse."""
    before = set(warehouse.glob(marker))
    deadline = time.monotonic() + WAIT_SECONDS
    while not set(warehouse.glob(marker)) - before:
        assert process.poll() is None and time.monotonic() < deadline, (
            f"{marker} never seen: {process.communicate()[0]}"
        )
        time.sleep(0.005)
    kill(process)
    assert process.returncode == -signal.SIGKILL


def published(warehouse: Path) -> Any:
    """The pointer, and every file of every run that it names, with its size and time."""
    pointer = json.loads((warehouse / "_current.json").read_text())
    runs = [(table, run) for table, slots in pointer["tables"].items() for runs in slots.values() for run in runs]
    files = [file for table, run in runs for file in (warehouse / table / f"run_id={run}").rglob("*") if file.is_file()]
    assert all(list((warehouse / table / f"run_id={run}").glob("*.parquet")) for table, run in runs)
    return pointer, sorted((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def neighbours(warehouse: Path) -> list[Any]:
    return ask(warehouse, "SELECT * FROM neighbours ORDER BY ALL")


def test_killed_in_the_middle_of_each_job(run: Run, tmp_path: Path) -> None:
    images, warehouse = tmp_path / "images", tmp_path / "w"
    draw(images, range(40))
    assert run(run_pipeline, "--warehouse", warehouse, "--images", images, *COMMON) == 0
    before, right = published(warehouse), neighbours(warehouse)

    draw(images, range(40, 200))  # the nights that die have something to do
    saved = "_state/embed_images/*/*/saved/part-*.parquet"
    steps: list[tuple[Any, list[object], str]] = [
        (build_manifest, ["--images", images], "manifest/run_id=*"),
        (embed_images, ["--set", "embeddings.save_seconds=0"], saved),
        (find_neighbours, [], "_scratch/*/blocks/*"),
    ]
    for job, arguments, marker in steps:
        kill_when(start(job.__name__, warehouse, *arguments), warehouse, marker)
        assert published(warehouse) == before, f"{job.__name__} died and changed what is published"
        assert neighbours(warehouse) == right, "and the views still show it"
        assert run(job, "--warehouse", warehouse, *arguments, *COMMON) == 0
        before = published(warehouse)
        right = neighbours(warehouse)
    assert len(right) == 200 * 24


def check_whole(warehouse: Path, gallery: Path) -> None:
    """What is published is whole runs: the rows that their jobs counted, all images accounted for, no dead link."""
    if not (warehouse / "_current.json").exists():
        return
    published(warehouse)
    pointer = json.loads((warehouse / "_current.json").read_text())["tables"]
    counts = {run: json.loads(counted) for run, counted in ask(warehouse, "SELECT run_id, counts FROM runs")}
    for table, column in (("manifest", "images"), ("neighbours", "rows")):
        for (run,) in pointer.get(table, {}).values():
            assert ask(warehouse, f"SELECT count(*) FROM {table}") == [(counts[run][column],)]
    for (run,) in pointer.get("embeddings", {}).values():
        outcomes = "SELECT count(*) FROM (SELECT image_id FROM embeddings UNION ALL SELECT image_id FROM failures)"
        assert ask(warehouse, outcomes) == [(counts[run]["images"],)]
        assert ask(warehouse, "SELECT count(*) FROM embeddings WHERE embedding IS NULL") == [(0,)]
    if (gallery / "index.html").exists():
        assert crawl(gallery).dead == []


def long_ago(warehouse: Path) -> None:
    """As if those that were killed had been so long enough ago to be known for dead."""
    for lease in (warehouse / "_running").iterdir():
        os.utime(lease, (0, 0))


def jobs_of(warehouse: Path) -> list[str]:
    if not (warehouse / "views.sql").exists():
        return []
    return [job for (job,) in ask(warehouse, "SELECT job FROM runs ORDER BY run_id")]


@pytest.mark.long
@pytest.mark.parametrize("seed", [20261125])
def test_the_whole_pipeline_killed_at_random_moments(seed: int, tmp_path: Path) -> None:
    images, warehouse, gallery = tmp_path / "images", tmp_path / "w", tmp_path / "gallery"
    arguments = ["--images", images, "--gallery", gallery]
    draw(images, range(60))
    began = time.monotonic()
    finish("run_pipeline", tmp_path / "undisturbed", "--images", images, "--gallery", tmp_path / "other")
    seconds = time.monotonic() - began
    random = Random(seed)
    for number in range(KILLS):
        draw(images, range(60 + 10 * number))  # each has something to do
        process, moment = start("run_pipeline", warehouse, *arguments), random.uniform(0.15, 1) * seconds
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            pass
        kill(process)
        check_whole(warehouse, gallery)
        print(
            f"killed after {moment:.1f} of {seconds:.1f} s (exit {process.returncode}); published so far: "
            f"{jobs_of(warehouse)}"
        )
    finish("run_pipeline", warehouse, *arguments)
    check_whole(warehouse, gallery)
    shutil.rmtree(tmp_path / "undisturbed")
    finish("run_pipeline", tmp_path / "undisturbed", "--images", images)
    for table, columns in COMPARED.items():
        query = f"SELECT {columns} FROM {table} ORDER BY ALL"
        assert ask(warehouse, query) == ask(tmp_path / "undisturbed", query), table
    long_ago(warehouse)
    finish("clean_warehouse", warehouse)
    assert {folder.name for folder in warehouse.iterdir()} <= {
        *SCHEMAS,
        "_state",
        "_scratch",
        "_running",
        "_lock",
        *PUBLISHED,
    }
    assert [file for folder in ("_scratch", "_running") for file in (warehouse / folder).iterdir()] == []


def test_a_run_goes_on_where_a_killed_one_was(run: Run, tmp_path: Path) -> None:
    """What was saved is neither read nor embedded again, and is in the store afterwards, once."""
    images, warehouse = tmp_path / "images", tmp_path / "w"
    draw(images, range(400))
    assert run(build_manifest, "--warehouse", warehouse, "--images", images, *COMMON) == 0
    process = start("embed_images", warehouse, "--set", "embeddings.save_seconds=0.2")
    parts = "_state/embed_images/*/*/saved/part-*.parquet"
    deadline = time.monotonic() + WAIT_SECONDS
    while len(list(warehouse.glob(parts))) < 6:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    kill(process)
    counted = (
        duckdb.connect().execute(f"SELECT count(DISTINCT image_id) FROM read_parquet('{warehouse}/{parts}')").fetchone()
    )
    saved = counted[0] if counted else 0
    assert 0 < saved < 400 and not (warehouse / "vectors").exists()
    [killed] = (folder.name for folder in warehouse.glob("_state/embed_images/*/*"))
    assert run(embed_images, "--warehouse", warehouse, *COMMON) == 0
    counts = json.loads(ask(warehouse, "SELECT counts FROM runs WHERE job = 'embed_images'")[0][0])
    assert (counts["resumed"], counts["read"], counts["embedded"]) == (saved, 400 - saved, 400 - saved)
    stored = "SELECT count(*), count(DISTINCT content_sha256), count(DISTINCT len(embedding)) FROM vectors"
    assert ask(warehouse, stored) == [(400, 400, 1)]
    assert ask(warehouse, "SELECT count(*), count(embedding) FROM embeddings") == [(400, 400)]

    left = {file.parent.parent.name for file in warehouse.glob(parts)}
    assert left == {killed}, "which may be at work for all that is known"
    long_ago(warehouse)
    assert run(embed_images, "--warehouse", warehouse, *COMMON) == 0
    assert ask(warehouse, stored) == [(400, 400, 1)] and not list(warehouse.glob(parts))
