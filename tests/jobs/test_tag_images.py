"""Tags by a network whose weights are a file of random numbers: from pictures to the table, and what is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pyspark.sql import SparkSession

from image_similarity.fingerprints.networks import untrained_state
from image_similarity.jobs import build_manifest, embed_images, run_pipeline, tag_images
from image_similarity.jobs.command_line import main
from image_similarity.warehouse.snapshot import Snapshot, open_snapshot
from processes import draw

PICTURES = 4
TINY = '{network="squeezenet1_1",weights="untrained",layer="features.3",pooling="average"}'


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of ResNet-18: its last layer tells classes apart by their vectors."""
    file = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save(dict(untrained_state("resnet18", 0)), file)
    return file


@pytest.fixture(scope="module")
def embedded(spark: SparkSession, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with vectors by ResNet-18 (mine), untrained weights (tiny) and gradients (hog)."""
    folder = tmp_path_factory.mktemp("tagged")
    draw(folder / "pictures", range(PICTURES))
    warehouse = ["--warehouse", str(folder / "w")]
    assert main(build_manifest, [*warehouse, "--images", str(folder / "pictures")], spark) == 0
    mine = ["--network", "resnet18", "--weights", str(weights), "--fingerprint", "mine"]
    others = ["--fingerprint", "hog", "--fingerprint", "tiny", "--set", f"fingerprints.tiny={TINY}"]
    assert main(embed_images, [*warehouse, *mine, *others], spark) == 0
    return folder / "w"


def tag(spark: SparkSession, warehouse: Path, *arguments: object) -> int:
    return main(tag_images, ["--warehouse", str(warehouse), *map(str, arguments)], spark)


def by_plain_torch(published: Snapshot, weights: Path) -> dict[str, int]:
    """image_id -> the most probable class: the last layer on the vectors that are there."""
    state = torch.load(weights, weights_only=True)
    key = published.table("embeddings", "mine")["fingerprint_key"][0].as_py()
    vectors = {row["content_sha256"]: row["embedding"] for row in published.table("vectors", key).to_pylist()}
    classes = {}
    for row in published.table("embeddings", "mine").to_pylist():
        logits = torch.tensor(vectors[row["content_sha256"]]) @ state["fc.weight"].T + state["fc.bias"]
        classes[row["image_id"]] = int(logits.argmax())
    return classes


def test_the_last_layer_names_the_classes(
    spark: SparkSession, embedded: Path, weights: Path, tmp_path: Path, capsys: Any
) -> None:
    names = [f"class {number}" for number in range(1000)]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    assert tag(spark, embedded, "--fingerprint", "mine", "--classes", tmp_path / "classes.txt") == 0
    published = open_snapshot(str(embedded))
    first = {row["image_id"]: row["class"] for row in published.table("tags").to_pylist() if row["rank"] == 1}
    assert first == {image: names[number] for image, number in by_plain_torch(published, weights).items()}
    assert f"of {PICTURES} images have a tag" in capsys.readouterr().out
    record = list(published.runs.values())[-1]
    assert record.settings["classifier"]["classes"] == 1000 and record.settings["runner"]["chosen"] == "process"
    assert tag(spark, embedded, "--fingerprint", "mine") == 0, "ImageNet's names, since there are 1,000"
    wnids = open_snapshot(str(embedded)).table("tags")["wnid"].to_pylist()
    assert None not in wnids


def test_a_list_of_another_length_is_refused(spark: SparkSession, embedded: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "few.txt").write_text("apple\npear\n")
    assert tag(spark, embedded, "--fingerprint", "mine", "--classes", tmp_path / "few.txt") == 2
    told = capsys.readouterr().err
    assert "has 2 classes, but the weights tell 1,000 apart" in told
    assert tag(spark, embedded, "--fingerprint", "mine", "--classes", tmp_path / "fev.txt") == 2
    assert "did you mean few.txt?" in capsys.readouterr().err


def test_other_weights_in_the_same_place_are_refused_with_both_keys(
    spark: SparkSession, embedded: Path, weights: Path, tmp_path: Path, capsys: Any
) -> None:
    other = untrained_state("resnet18", 1)
    torch.save(dict(other), tmp_path / "other.pth")
    assert tag(spark, embedded, "--fingerprint", "mine", "--weights", tmp_path / "other.pth") == 2
    told = capsys.readouterr().err
    published = open_snapshot(str(embedded)).table("embeddings", "mine")["fingerprint_key"][0].as_py()
    assert f"key {published}" in told and told.count("key ") >= 2
    shutil.copy(weights, tmp_path / "moved.pth")
    assert tag(spark, embedded, "--fingerprint", "mine", "--weights", tmp_path / "moved.pth") == 0


@pytest.mark.parametrize(
    ("name", "because"),
    [
        ("hog", "gradients have no classifier"),
        ("tiny", "its weights are untrained (seed 0), which have seen no picture"),
    ],
)
def test_a_fingerprint_without_classifier_is_refused_with_those_that_have_one(
    name: str, because: str, spark: SparkSession, embedded: Path, capsys: Any
) -> None:
    assert tag(spark, embedded, "--fingerprint", name) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"fingerprint {name} has no classifier: {because}" in told
    assert told.endswith("; published with one: mine (--fingerprint NAME)\n")
    assert tag(spark, embedded, "--fingerprint", name, "--where-possible") == 0
    assert f"tag_images {name}: no tags: fingerprint {name} has no classifier" in capsys.readouterr().out


def test_a_pipeline_tags_where_the_fingerprint_has_a_classifier(
    spark: SparkSession, weights: Path, tmp_path: Path, capsys: Any
) -> None:
    draw(tmp_path / "pictures", range(PICTURES))
    arguments = ["--images", str(tmp_path / "pictures"), "--warehouse", str(tmp_path / "w")]
    mine = ["--network", "resnet18", "--weights", str(weights), "--fingerprint", "mine"]
    headless = tmp_path / "headless.pth"
    torch.save(
        {name: value for name, value in untrained_state("squeezenet1_1", 0).items() if "features" in name}, headless
    )
    none = f'{{network="squeezenet1_1",weights="{headless}"}}'
    both = [*mine, "--fingerprint", "tiny", "--set", f"fingerprints.tiny={TINY}", "--set", "groups.enabled=false"]
    both += ["--fingerprint", "none", "--set", f"fingerprints.none={none}"]
    assert main(run_pipeline, [*arguments, *both], spark) == 0
    told = capsys.readouterr().out
    assert f"of {PICTURES} images have a tag" in told
    assert "tag_images tiny: no tags: fingerprint tiny has no classifier" in told
    assert "tag_images none: no tags: fingerprint none has no classifier: weights " in told
    assert told.count("images by the classifier of") == 1, "where there is none, one line says so"
    published = open_snapshot(str(tmp_path / "w"))
    assert list(published.slots("tags")) == ["mine"]
    assert {row["image_id"] for row in published.table("tags").to_pylist()} == {f"{n}.jpg" for n in range(PICTURES)}
    jobs = [run.job for run in published.runs.values()]
    assert jobs.index("embed_images") < jobs.index("tag_images") < jobs.index("find_neighbours")
    untrained = ["--network", "resnet18", "--weights", "untrained", "--fingerprint", "mine", "--replace-fingerprint"]
    untrained += ["--set", "fingerprints.mine.seed=3", "--set", "groups.enabled=false"]
    assert main(run_pipeline, [*arguments, *untrained, "--set", "tags.enabled=false"], spark) == 0
    told = capsys.readouterr().out
    assert "tag_images" not in told and "the published tags by mine stay as they are" in told
    assert tag(spark, tmp_path / "w", "--fingerprint", "mine", "--where-possible") == 0
    assert "are not published any more" in capsys.readouterr().out, "they were of vectors that are gone"
    assert open_snapshot(str(tmp_path / "w")).slots("tags") == {}
