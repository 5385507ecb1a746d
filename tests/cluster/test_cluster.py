"""Each job by spark-submit on a real cluster, from what is shipped alone: the same tables as one machine's, row for row."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

import audit_neighbours
import run_pipeline
from crawler import crawl
from processes import tables

pytestmark = pytest.mark.cluster


def test_machines_do_not_have_the_library(bare_python: Path) -> None:
    done = subprocess.run([bare_python, "-c", "import image_similarity"], capture_output=True, text=True, cwd="/")
    assert "No module named 'image_similarity'" in done.stderr


def test_the_same_tables_as_one_machine(
    submit: Any, spark: SparkSession, pictures: Path, tiny: list[str], tmp_path: Path
) -> None:
    common = ["--set", "embeddings.max_failed_fraction=0.1", "--set", "neighbours.block_rows=8", *tiny]
    common += ["--set", "approximate.audit_queries=41"]
    assert run_pipeline.main(["--images", str(pictures), "--warehouse", str(tmp_path / "local"), *common], session=spark) == 0
    assert audit_neighbours.main(["--warehouse", str(tmp_path / "local"), *common], session=spark) == 0
    here = tables(spark, tmp_path / "local")
    assert {name: len(rows) for name, rows in here.items() if rows} == {
        "manifest": 42,
        "vectors": 40,
        "embeddings": 41,
        "failures": 1,
        "neighbours": 41 * 24,
    }
    steps = [("build_manifest", ["--images", pictures]), ("embed_images", []), ("find_neighbours", []), ("audit_neighbours", [])]
    for job, arguments in steps:
        submit(job, "--warehouse", tmp_path / "steps", *arguments, *common)
    assert tables(spark, tmp_path / "steps") == here
    submit("run_pipeline", "--images", pictures, "--warehouse", tmp_path / "steps", "--gallery", tmp_path / "gallery", *common)
    assert tables(spark, tmp_path / "steps") == here
    found = crawl(tmp_path / "gallery")
    assert found.dead == [] and sum(path.parent.parent.name == "images" for path in found.pages) == 41
