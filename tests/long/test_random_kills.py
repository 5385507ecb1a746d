"""The whole pipeline killed at random moments: whole after each, and in the end as if nothing had happened."""

import shutil
import subprocess
import time
from pathlib import Path
from random import Random

import pytest

from image_similarity.warehouse.schemas import SCHEMAS
from processes import ask, draw, finish, kill, start
from wholeness import COMPARED, PUBLISHED, check_whole, jobs_of, long_ago

KILLS = 10


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
