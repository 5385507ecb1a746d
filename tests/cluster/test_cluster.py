"""Each job by spark-submit on a real cluster: the same tables as one machine's, row for row."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pyspark.sql import SparkSession

import run_pipeline
from crawler import crawl
from image_similarity import samples
from image_similarity.tables import SCHEMAS
from image_similarity.warehouse import Warehouse

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of two families, a copy, and a broken one."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(40):
        family = ("sunset", "tartan")[index % 2]
        picture: Image.Image = samples.FAMILIES[family](np.random.default_rng(index), (160, 120 + index))
        picture.save(folder / f"{family} {index}.png")
    (folder / "copy.png").write_bytes((folder / "sunset 0.png").read_bytes())
    (folder / "broken.png").write_bytes((folder / "sunset 0.png").read_bytes()[:500])
    return folder


def tables(spark: SparkSession, folder: Path) -> dict[str, list[Any]]:
    """All published rows, sorted; without what tells one run from another."""
    warehouse = Warehouse(spark, str(folder))
    pointer = warehouse.current()
    names = [name for name in SCHEMAS if name != "runs"]
    return {name: sorted(map(repr, warehouse.read(name, pointer.runs(name)).collect())) for name in names}


def test_the_same_tables_as_one_machine(cluster: Any, spark: SparkSession, pictures: Path, tiny: list[str], tmp_path: Path) -> None:
    common = ["--set", "embeddings.max_failed_fraction=0.1", "--set", "neighbours.block_rows=8", *tiny]
    assert run_pipeline.main(["--images", str(pictures), "--warehouse", str(tmp_path / "local"), *common], session=spark) == 0
    here = tables(spark, tmp_path / "local")
    assert {name: len(rows) for name, rows in here.items() if rows} == {
        "manifest": 42,
        "vectors": 40,
        "embeddings": 41,
        "failures": 1,
        "neighbours": 41 * 24,
    }
    steps = [("build_manifest", ["--images", str(pictures)]), ("embed_images", []), ("find_neighbours", [])]
    for job, arguments in steps:
        done = cluster.submit(job, "--warehouse", str(tmp_path / "steps"), *arguments, *common)
        assert done.returncode == 0, done.stdout + done.stderr
    assert tables(spark, tmp_path / "steps") == here
    paths = ["--warehouse", str(tmp_path / "steps"), "--gallery", str(tmp_path / "gallery")]
    done = cluster.submit("run_pipeline", "--images", str(pictures), *paths, *common)
    assert done.returncode == 0, done.stdout + done.stderr
    assert tables(spark, tmp_path / "steps") == here
    found = crawl(tmp_path / "gallery")
    assert found.dead == [] and sum(path.parent.parent.name == "images" for path in found.pages) == 41
