"""A disk that fills in the middle: one clear line, nothing published, and the space comes back."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from processes import draw, finish, rows

pytestmark = pytest.mark.cluster

MEGABYTES = 24
WIDE = '{network="squeezenet1_1",weights="untrained",layer="features"}'
"""86,528 values: 340 kB an image."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a file system here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def used(disk: Path) -> int:
    return shutil.disk_usage(disk).used


def test_a_disk_that_fills_while_images_are_embedded(disk: Path, tmp_path: Path) -> None:
    images, warehouse = tmp_path / "images", disk / "w"
    wide = ["--set", f"fingerprints.wide={WIDE}"]
    draw(images, range(30))
    finish("run_pipeline", warehouse, "--images", images)
    draw(images, range(200))
    finish("build_manifest", warehouse, "--images", images)
    before, pointer = used(disk), (warehouse / "_current.json").read_bytes()
    told = finish("embed_images", warehouse, "--fingerprint", "wide", *wide, code=1)
    error = [line for line in told.splitlines() if "error" in line]
    assert len(error) == 1 and "no space is left" in error[0] and "clean_warehouse.py" in error[0], told
    assert (warehouse / "_current.json").read_bytes() == pointer
    assert rows(warehouse, "SELECT count(*) FROM neighbours") == [(30 * 24,)]
    assert used(disk) > 0.9 * MEGABYTES * 2**20, "what was embedded is kept for the next run"
    told = finish("clean_warehouse", warehouse, "--discard-saved")
    assert "_state/embed_images/" in told and used(disk) < before + 2**17

    # With no room at all it is told before any work.
    finish("embed_images", warehouse)
    (disk / "filler").write_bytes(b"0" * (shutil.disk_usage(disk).free - 2**16))
    assert "comparing needs about" in finish("find_neighbours", warehouse, code=1)
    assert rows(warehouse, "SELECT count(*) FROM neighbours") == [(30 * 24,)]
    (disk / "filler").unlink()
    finish("find_neighbours", warehouse)
    assert rows(warehouse, "SELECT count(*) FROM neighbours") == [(200 * 24,)]
