"""Tags by Spark's tasks are those of the job's own process, row for row, and so is what is measured on labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyspark.sql import SparkSession

from image_similarity.fingerprints.classifier import Classifier, Head
from image_similarity.jobs import published_classifiers, tag_images
from image_similarity.jobs.command_line import main
from image_similarity.jobs.published_classifiers import Prepared
from image_similarity.stages.tags.scores import as_batch
from image_similarity.tagging.scores import kept
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.snapshot import open_snapshot
from warehouses import Made, random_vectors, sha256

IMAGES, CLASSES = 300, 100


@pytest.fixture
def warehouse(tmp_path: Path) -> Made:
    """Contents with two images each, of vectors and of kept classes, some of which are not there."""
    made = Made(str(tmp_path / "w"))
    contents = [f"c{number}" for number in range(IMAGES // 2)]
    images = {f"{number:03d}.jpg": contents[number * 7 % len(contents)] for number in range(IMAGES)}
    rows = [
        {"image_id": image, "uri": f"/{image}", "attributes": [("what", f"class {number % CLASSES}")]}
        for number, image in enumerate(images)
    ]
    made.publish("build_manifest", "", {"manifest": {"": pa.Table.from_pylist(rows, SCHEMAS["manifest"])}})
    vectors = random_vectors([*contents, "gone"], dimensions=16)
    vectors["c5"] = [float("nan")] * 16
    made.embeddings(images, vectors, fingerprint="net")
    known = [content for content in vectors if content not in ("c5", "c6")]
    logits = network(True).logits(np.array([vectors[content] for content in known], np.float32))
    scores = pa.Table.from_batches([as_batch(pa.array(list(map(sha256, known)), pa.string()), kept(logits))])
    made.publish("embed_images", "net", {"class_scores": {"k1/c1": scores}}, append={"class_scores": "k1/c1"})
    reversed_logits = -network(True).logits(np.array([vectors[content] for content in known], np.float32))
    others = as_batch(pa.array(list(map(sha256, known)), pa.string()), kept(reversed_logits))
    other = {"k1/another": pa.Table.from_batches([others])}
    made.publish("embed_images", "net", {"class_scores": other}, append={"class_scores": "k1/another"})
    return made


def network(from_vectors: bool) -> Classifier:
    """A last layer of random numbers, large enough to be sure of some images."""
    layer = torch.nn.Linear(16, CLASSES)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(CLASSES, 16, generator=generator))
        layer.bias.zero_()
    names = tuple(f"class {number}" for number in range(CLASSES))
    return Classifier(names, "c1", Head(layer, (16,)) if from_vectors else None)


@pytest.mark.parametrize("from_vectors", [True, False])
def test_both_runners_give_the_same_rows(
    from_vectors: bool, warehouse: Made, spark: SparkSession, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(published_classifiers, "why_none", lambda *_: "")
    monkeypatch.setattr(published_classifiers, "prepared", lambda *_: Prepared(network(from_vectors), "k1"))
    rows, counts = [], []
    for runner in ("process", "spark"):
        arguments = ["--warehouse", warehouse.uri, "--set", f"tags.runner={runner}", "--label", "what"]
        assert main(tag_images, arguments, spark) == 0
        published = open_snapshot(warehouse.uri)
        rows.append(published.table("tags").to_pylist())
        counts.append(list(published.runs.values())[-1].counts)
        assert list(published.runs.values())[-1].settings["runner"]["chosen"] == runner
    assert rows[0] == rows[1] and counts[0] == counts[1]
    assert [(row["image_id"], row["rank"]) for row in rows[1]] == sorted(
        (row["image_id"], row["rank"]) for row in rows[1]
    )
    assert 0 < counts[1]["calibration"]["accuracy"] < 1
    missing = 2 if from_vectors else 4
    assert counts[1]["without_scores"] == missing and 0 < counts[1]["tagged"] < IMAGES - missing
    assert not Path(warehouse.uri, "_scratch").exists() or not list(Path(warehouse.uri, "_scratch").iterdir())
