"""The driver killed in the middle of each job: what was published stays as it was, and running it again succeeds."""

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import duckdb

from image_similarity.jobs import build_manifest, embed_images, find_neighbours, run_pipeline
from processes import COMMON, ask, draw, kill, name_of, start
from wholeness import long_ago, published

WAIT_SECONDS = 120
Run = Any


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
        (find_neighbours, ["--set", "neighbours.runner=spark"], "_scratch/*/blocks/*"),
    ]
    for job, arguments, marker in steps:
        kill_when(start(name_of(job), warehouse, *arguments), warehouse, marker)
        assert published(warehouse) == before, f"{name_of(job)} died and changed what is published"
        assert neighbours(warehouse) == right, "and the views still show it"
        assert run(job, "--warehouse", warehouse, *arguments, *COMMON) == 0
        before = published(warehouse)
        right = neighbours(warehouse)
    assert len(right) == 200 * 24


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
