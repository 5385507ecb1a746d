"""VGG16 by spark-submit and in the shared session, against a plain torchvision loop."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from image_similarity.jobs import build_manifest, embed_images
from vgg import VGG, expected, largest_distance, pictures

__all__ = ["expected", "pictures"]

ROOT = Path(__file__).resolve().parents[2]


def test_shared_session(run: Any, pictures: Path, expected: dict[str, Any], tmp_path: Path) -> None:
    """In several tasks; `tests/long` has it in one."""
    arguments = ["--warehouse", tmp_path, *VGG, "--set", "embeddings.images_per_task=4"]
    assert run(build_manifest, "--images", pictures, *arguments) == 0
    assert run(embed_images, *arguments) == 0
    assert largest_distance(tmp_path, expected) < 1e-5


def test_spark_submit_fails_with_a_code_and_one_line(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "jobs" / "build_manifest.py"), "--warehouse", str(tmp_path / "w")]
    done = subprocess.run([*script, "--images", "/no/such/folder"], capture_output=True, text=True)
    assert (
        done.returncode == 2
        and "build_manifest: error: --images /no/such/folder: no such folder or file" in done.stderr
    )
    assert "Traceback" not in done.stderr and not (tmp_path / "w" / "_current.json").exists()
    done = subprocess.run([*script, "--images", str(tmp_path), "--config", "none.toml"], capture_output=True, text=True)
    assert done.returncode == 2 and "--config: no such file: " in done.stderr
