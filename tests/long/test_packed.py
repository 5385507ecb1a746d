"""The same with the packed environment: Python of driver and executors, with all dependencies, comes from the
archive.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from image_similarity.jobs import run_pipeline
from image_similarity.jobs.command_line import main
from processes import tables
from standalone import Cluster
from tools import packaging
from tools.packaging import ENVIRONMENT

PYTHON = "./environment/bin/python"


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder to submit from: as docs/cluster.md says, with the environment unpacked for the driver."""
    folder = tmp_path_factory.mktemp("packed")
    packaging.main(["--into", str(folder), "--environment"])
    (folder / "environment").mkdir()
    subprocess.run(["tar", "-xzf", folder / ENVIRONMENT, "-C", folder / "environment"], check=True)
    yield folder
    shutil.rmtree(folder)


def test_the_same_tables_with_the_packed_environment(
    cluster: Cluster, unpacked: Path, spark: SparkSession, pictures: Path, tiny: list[str], tmp_path: Path
) -> None:
    common = ["--images", str(pictures), "--set", "embeddings.max_failed_fraction=0.1", *tiny]
    assert main(run_pipeline, [*common, "--warehouse", str(tmp_path / "local")], session=spark) == 0
    done = cluster.submit(
        unpacked,
        "run_pipeline",
        *common,
        "--warehouse",
        str(tmp_path / "w"),
        python=PYTHON,
        conf={"spark.executorEnv.PYSPARK_PYTHON": PYTHON},
        flags=["--archives", f"{ENVIRONMENT}#environment"],
        folder=unpacked,
    )
    assert done.returncode == 0, done.stdout
    assert tables(tmp_path / "w") == tables(tmp_path / "local")
