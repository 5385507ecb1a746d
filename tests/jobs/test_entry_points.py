"""The script, ``python -m`` and the library installed from a wheel, outside the checkout, behave alike."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from image_similarity.warehouse.snapshot import open_snapshot
from processes import draw

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH that holds what the wheel holds."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    # setuptools builds beside what it reads, and puts what an earlier build has left there into the wheel.
    shutil.copytree(ROOT / "lib", source / "lib", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, source], check=True)
    [wheel] = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder / "site"


@pytest.mark.parametrize("way", ["script", "module", "wheel"])
def test_all_ways_behave_alike(way: str, installed: Path, tmp_path: Path) -> None:
    draw(tmp_path / "images", range(3))
    module = ["-m", "image_similarity.jobs.build_manifest"]
    start = [str(ROOT / "jobs" / "build_manifest.py")] if way == "script" else module
    environment = {**os.environ, **({"PYTHONPATH": str(installed)} if way == "wheel" else {})}
    environment.pop("SPARK_CONF_DIR", None)
    command = [sys.executable, *start, "--images", "images", "--warehouse", "w"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    snapshot = open_snapshot(str(tmp_path / "w"))
    assert snapshot.table("manifest")["image_id"].to_pylist() == ["0.jpg", "1.jpg", "2.jpg"]
    [record] = snapshot.runs.values()
    assert record.settings["images"] == str(tmp_path / "images") and record.counts["images"] == 3
    # Settings for one machine came along: those of Spark, and those of what it logs.
    assert done.stdout.splitlines() == [
        "build_manifest:",
        "  list images",
        f"  write manifest to {tmp_path / 'w'}",
        done.stdout.splitlines()[-1],
    ]
    assert done.stdout.splitlines()[-1].startswith("build_manifest: 3 images in ")
    assert " INFO " not in done.stderr and " WARN " not in done.stderr, "log4j2.properties is that of the library"


def test_the_wheel_holds_what_a_machine_needs(installed: Path) -> None:
    library = installed / "image_similarity"
    for name in ("local.toml", "log4j2.properties", "spark/local.conf"):
        assert (library / "conf" / name).read_bytes() == (ROOT / "conf" / name).read_bytes(), name
    assert list(library.glob("stages/gallery/templates/*")) and (library / "py.typed").exists()
    here = {file.relative_to(ROOT / "lib") for file in (ROOT / "lib" / "image_similarity").rglob("*.py")}
    assert here == {file.relative_to(installed) for file in library.rglob("*.py")}
