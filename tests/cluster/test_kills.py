"""The driver killed in the middle of each job: what was published stays as it was, and running it again succeeds."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 120
SMALL = '{network="squeezenet1_1",weights="untrained",layer="features",pooling="average"}'
COMMON = ["--set", f"fingerprints.small={SMALL}", "--set", "neighbours.fingerprint=small", "--set", "neighbours.block_rows=16"]


def start(job: str, warehouse: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(ROOT / "jobs" / f"{job}.py"), "--warehouse", str(warehouse), *arguments, *COMMON]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def finish(job: str, warehouse: Path, *arguments: str) -> None:
    process = start(job, warehouse, *arguments)
    told, _ = process.communicate()
    assert process.returncode == 0, told


def kill_when(process: "subprocess.Popen[str]", warehouse: Path, marker: str) -> None:
    """SIGKILL the driver, its JVM and its workers once a path that matches ``marker`` is in the warehouse."""
    before = set(warehouse.glob(marker))
    deadline = time.monotonic() + WAIT_SECONDS
    while not set(warehouse.glob(marker)) - before:
        assert process.poll() is None and time.monotonic() < deadline, f"{marker} never seen: {process.communicate()[0]}"
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def published(warehouse: Path) -> Any:
    """The pointer, and every file of every run that it names, with its size and time."""
    pointer = json.loads((warehouse / "_current.json").read_text())
    runs = [(table, run) for table, slots in pointer["tables"].items() for runs in slots.values() for run in runs]
    files = [file for table, run in runs for file in (warehouse / table / f"run_id={run}").rglob("*") if file.is_file()]
    assert all(list((warehouse / table / f"run_id={run}").glob("*.parquet")) for table, run in runs)
    return pointer, sorted((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def neighbours(warehouse: Path) -> list[Any]:
    db = duckdb.connect()
    db.execute((warehouse / "views.sql").read_text())
    return db.sql("SELECT * FROM neighbours ORDER BY ALL").fetchall()


def draw(folder: Path, seeds: range) -> None:
    folder.mkdir(exist_ok=True)
    for seed in seeds:
        pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((400, 300), Image.Resampling.BICUBIC).save(folder / f"{seed}.jpg")


def test_killed_in_the_middle_of_each_job(tmp_path: Path) -> None:
    images, warehouse = tmp_path / "images", tmp_path / "w"
    draw(images, range(40))
    finish("run_pipeline", warehouse, "--images", str(images))
    before, right = published(warehouse), neighbours(warehouse)

    draw(images, range(40, 200))  # the nights that die have something to do
    saved = "_state/embed_images/*/*/saved/part-*.parquet"
    steps = [
        ("build_manifest", ["--images", str(images)], "manifest/run_id=*"),
        ("embed_images", ["--set", "embeddings.save_seconds=0"], saved),
        ("find_neighbours", [], "_scratch/*/blocks/*"),
    ]
    for job, arguments, marker in steps:
        kill_when(start(job, warehouse, *arguments), warehouse, marker)
        assert published(warehouse) == before, f"{job} died and changed what is published"
        assert neighbours(warehouse) == right, "and the views still show it"
        finish(job, warehouse, *arguments)
        before = published(warehouse)
        right = neighbours(warehouse)
    assert len(right) == 200 * 24


def test_a_run_goes_on_where_a_killed_one_was(tmp_path: Path) -> None:
    """What was saved is neither read nor embedded again, and is in the store afterwards, once."""
    images, warehouse = tmp_path / "images", tmp_path / "w"
    draw(images, range(400))
    finish("build_manifest", warehouse, "--images", str(images))
    process = start("embed_images", warehouse, "--set", "embeddings.save_seconds=0.2")
    parts = "_state/embed_images/*/*/saved/part-*.parquet"
    deadline = time.monotonic() + WAIT_SECONDS
    while len(list(warehouse.glob(parts))) < 6:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    counted = duckdb.connect().execute(f"SELECT count(DISTINCT image_id) FROM read_parquet('{warehouse}/{parts}')").fetchone()
    saved = counted[0] if counted else 0
    assert 0 < saved < 400 and not (warehouse / "vectors").exists()
    finish("embed_images", warehouse)
    db = duckdb.connect()
    db.execute((warehouse / "views.sql").read_text())
    counts = json.loads(db.sql("SELECT counts FROM runs WHERE job = 'embed_images'").fetchall()[0][0])
    assert (counts["taken_over"], counts["read"], counts["embedded"]) == (saved, 400 - saved, 400 - saved)
    stored = "SELECT count(*), count(DISTINCT content_sha256), count(DISTINCT len(embedding)) FROM vectors"
    assert db.sql(stored).fetchall() == [(400, 400, 1)]
    assert db.sql("SELECT count(*), count(embedding) FROM embeddings").fetchall() == [(400, 400)]
    assert not list(warehouse.glob(parts))
