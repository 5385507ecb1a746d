"""The driver killed in the middle of each job: what was published stays, and the next run goes on from there."""

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from image_similarity.jobs import build_manifest, embed_images, find_neighbours, run_pipeline
from processes import COMMON, ask, draw, kill, name_of, start
from wholeness import long_ago, published

WAIT_SECONDS = 120
CHECKPOINTS = f"_state/embed_images/{'?' * 16}/*/saved/part-*.parquet"
"""Of vectors, in folders that are named by their fingerprint key."""
OF_ANYTHING = "_state/embed_images/*/*/saved/part-*.parquet"
"""Of measurements of quality, too."""
Run = Any


def kill_when(process: "subprocess.Popen[str]", warehouse: Path, marker: str, files: int = 1) -> None:
    """SIGKILL the driver, its JVM and its workers once ``files`` new paths that match ``marker`` are in the
    warehouse.
    """
    before = set(warehouse.glob(marker))
    deadline = time.monotonic() + WAIT_SECONDS
    while len(set(warehouse.glob(marker)) - before) < files:
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

    draw(images, range(40, 240))  # the nights that die have something to do
    steps: list[tuple[Any, list[object], str, int]] = [
        (build_manifest, ["--images", images], "manifest/run_id=*", 1),
        (embed_images, ["--set", "embeddings.save_seconds=0.1"], CHECKPOINTS, 3),
        (find_neighbours, ["--set", "neighbours.runner=spark"], "_scratch/*/blocks/*", 1),
    ]
    for job, arguments, marker, files in steps:
        kill_when(start(name_of(job), warehouse, *arguments), warehouse, marker, files)
        assert published(warehouse) == before, f"{name_of(job)} died and changed what is published"
        assert neighbours(warehouse) == right, "and the views still show it"
        checkpoints = [str(file) for file in warehouse.glob(CHECKPOINTS)]
        assert run(job, "--warehouse", warehouse, *arguments, *COMMON) == 0
        if job is embed_images:
            check_resumed(run, warehouse, checkpoints, new=200, all_images=240)
        before = published(warehouse)
        right = neighbours(warehouse)
    assert len(right) == 240 * 24


def check_resumed(run: Run, warehouse: Path, checkpoints: list[str], new: int, all_images: int) -> None:
    """What the killed run had saved was neither read nor embedded again, and is in the store, once."""
    saved = len(set(pq.read_table(checkpoints, columns=["image_id"])["image_id"].to_pylist()))
    assert 0 < saved < new
    counted = "SELECT counts FROM runs WHERE job = 'embed_images' ORDER BY started_at DESC LIMIT 1"
    counts = json.loads(ask(warehouse, counted)[0][0])
    assert (counts["resumed"], counts["read"], counts["embedded"]) == (saved, new - saved, new - saved)
    stored = "SELECT count(*), count(DISTINCT content_sha256), count(DISTINCT len(embedding)) FROM vectors"
    assert ask(warehouse, stored) == [(all_images, all_images, 1)]
    assert ask(warehouse, "SELECT count(*), count(embedding) FROM embeddings") == [(all_images, all_images)]
    assert ask(warehouse, "SELECT count(*), count(sharpness) FROM quality") == [(all_images, all_images)]

    assert sorted(str(file) for file in warehouse.glob(CHECKPOINTS)) == sorted(checkpoints), (
        "left for the run that was killed, which may be at work for all that is known"
    )
    long_ago(warehouse)
    assert run(embed_images, "--warehouse", warehouse, *COMMON) == 0
    assert ask(warehouse, stored) == [(all_images, all_images, 1)] and not list(warehouse.glob(OF_ANYTHING))
