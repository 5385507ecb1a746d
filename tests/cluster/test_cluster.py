"""By spark-submit on a real cluster, from what is shipped alone: the same tables as one machine's, row for row."""

import subprocess
from pathlib import Path
from typing import Any

import torch
from pyspark.sql import SparkSession

from crawler import crawl
from image_similarity.fingerprints.networks import untrained_state
from image_similarity.jobs import build_manifest, embed_images, run_pipeline, tag_images
from image_similarity.jobs.command_line import main
from processes import name_of, tables


def test_machines_do_not_have_the_library(bare_python: Path) -> None:
    done = subprocess.run([bare_python, "-c", "import image_similarity"], capture_output=True, text=True, cwd="/")
    assert "No module named 'image_similarity'" in done.stderr


def test_the_same_tables_as_one_machine(
    submit: Any, spark: SparkSession, pictures: Path, tiny: list[str], tmp_path: Path
) -> None:
    common = ["--set", "embeddings.max_failed_fraction=0.1", "--set", "neighbours.block_rows=8", *tiny]
    places = ["--warehouse", str(tmp_path / "local"), "--gallery", str(tmp_path / "local-gallery")]
    assert main(run_pipeline, ["--images", str(pictures), *places, *common], session=spark) == 0
    here = tables(tmp_path / "local")
    groups = ("groups", "group_summary")
    assert all(here[name] for name in groups)
    assert {name: len(rows) for name, rows in here.items() if rows and name not in groups} == {
        "manifest": 42,
        "vectors": 40,
        "embeddings": 41,
        "failures": 1,
        "quality": 41,
        "neighbours": 41 * 24,
        "layout": 41,
    }
    submit(
        "run_pipeline", "--images", pictures, "--warehouse", tmp_path / "w", "--gallery", tmp_path / "gallery", *common
    )
    assert tables(tmp_path / "w") == here
    found = crawl(tmp_path / "gallery", [tmp_path / "gallery" / "map.html"])
    assert tiles(tmp_path / "gallery") == tiles(tmp_path / "local-gallery") != {}
    assert found.dead == [] and sum(path.parent.parent.name == "images" for path in found.pages) == 41


def tiles(gallery: Path) -> dict[str, bytes]:
    """The map's tiles by their names."""
    return {file.name: file.read_bytes() for file in (gallery / "map" / "tiles").rglob("*.webp")}


def test_the_same_tags_as_one_machine(submit: Any, spark: SparkSession, pictures: Path, tmp_path: Path) -> None:
    """A last layer goes to the workers, and needs no weights there."""
    torch.save(dict(untrained_state("resnet18", 0)), tmp_path / "mine.pth")
    mine = ["--network", "resnet18", "--weights", str(tmp_path / "mine.pth"), "--fingerprint", "mine"]
    lenient = ["--set", "embeddings.max_failed_fraction=0.1"]
    steps = [(build_manifest, ["--images", str(pictures)]), (embed_images, [*mine, *lenient])]
    for job, arguments in steps:
        submit(name_of(job), "--warehouse", tmp_path / "w", *arguments)
        assert main(job, ["--warehouse", str(tmp_path / "local"), *arguments], session=spark) == 0
    submit("tag_images", "--warehouse", tmp_path / "w", "--fingerprint", "mine", "--set", "tags.runner=spark")
    assert main(tag_images, ["--warehouse", str(tmp_path / "local"), "--fingerprint", "mine"], session=spark) == 0
    tags = tables(tmp_path / "w")["tags"]
    assert len(tags) >= 3 * 41 and tags == tables(tmp_path / "local")["tags"]
