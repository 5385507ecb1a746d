"""The script by spark-submit with the properties file for one machine, and VGG16: what is shipped works."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyspark

from vgg import VGG, expected, largest_distance, pictures

__all__ = ["expected", "pictures"]

ROOT = Path(__file__).resolve().parents[2]


def test_spark_submit_with_one_core(pictures: Path, expected: dict[str, Any], tmp_path: Path) -> None:
    """The smoke test of the shipped thing, too: the script by spark-submit, with a properties file."""
    submit = [str(Path(pyspark.__file__).parent / "bin" / "spark-submit"), "--master", "local[1]"]
    submit += ["--properties-file", str(ROOT / "conf" / "spark" / "local.conf"), str(ROOT / "jobs" / "run_pipeline.py")]
    arguments = ["--images", str(pictures), "--warehouse", str(tmp_path / "w"), "-k", "2", "--dissimilar", "0", *VGG]
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable}
    done = subprocess.run(submit + arguments, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"warehouse: {tmp_path / 'w'}" in done.stdout
    assert largest_distance(tmp_path / "w", expected) < 1e-5
