"""A disk that fills in the middle: one clear line, nothing published, and the space comes back."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from image_similarity.jobs import build_manifest, clean_warehouse, embed_images, find_neighbours, run_pipeline
from processes import COMMON, ask, draw, finish

MEGABYTES = 24
WIDE = '{network="squeezenet1_1",weights="untrained",layer="features"}'
"""86,528 values: 340 kB an image."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "none", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a file system here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # Spark may keep a file open


def used(disk: Path) -> int:
    return shutil.disk_usage(disk).used


def test_a_disk_that_fills_while_images_are_embedded(disk: Path, tmp_path: Path, run: Any, capsys: Any) -> None:
    images, warehouse = tmp_path / "images", disk / "w"
    wide = ["--fingerprint", "wide", "--set", f"fingerprints.wide={WIDE}"]

    def ends(job: Any, *arguments: object, code: int = 0) -> str:
        """Run a job, which must end with ``code``; what it told."""
        assert run(job, "--warehouse", warehouse, *arguments, *COMMON) == code
        told: str = "".join(capsys.readouterr())
        return told

    draw(images, range(30))
    ends(run_pipeline, "--images", images)
    draw(images, range(90))
    ends(build_manifest, "--images", images)
    before, pointer = used(disk), (warehouse / "_current.json").read_bytes()
    told = finish("embed_images", warehouse, *wide, code=1)  # all that a process says, Spark and its workers included
    error = [line for line in told.splitlines() if "error" in line]
    assert len(error) == 1 and "no space is left" in error[0] and "clean_warehouse.py" in error[0], told
    assert (warehouse / "_current.json").read_bytes() == pointer
    assert ask(warehouse, "SELECT count(*) FROM neighbours") == [(30 * 24,)]
    assert used(disk) > 0.5 * MEGABYTES * 2**20, "what was embedded is kept for the next run"
    told = ends(clean_warehouse, "--discard-checkpoints")
    assert "_state/embed_images/" in told and used(disk) < before + 2**17

    # With no room at all it is told before any work.
    ends(embed_images)
    (disk / "filler").write_bytes(b"0" * (shutil.disk_usage(disk).free - 2**16))
    for job in (find_neighbours, embed_images):
        assert f"of disk for --warehouse {warehouse}" in ends(job, code=1)
    assert ask(warehouse, "SELECT count(*) FROM neighbours") == [(30 * 24,)]
    (disk / "filler").unlink()
    ends(find_neighbours)
    assert ask(warehouse, "SELECT count(*) FROM neighbours") == [(90 * 24,)]
