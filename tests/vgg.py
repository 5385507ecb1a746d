"""VGG16 as a notebook would run it, on nine sample pictures: what jobs are held against."""

import csv
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.models import VGG16_Weights, vgg16

from tools import samples

SEED = 0

FAMILIES = ("sunset", "mondrian", "tree")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of nine sample pictures, PNG and JPEG."""
    folder = tmp_path_factory.mktemp("pictures")
    with open(folder / "list.csv", "w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["uri"])
        for number, family in enumerate(FAMILIES):
            for index in range(3):
                name = f"{family}-{index}.{'jpg' if index % 2 else 'png'}"
                samples.FAMILIES[family](np.random.default_rng((1, number, index)), (320 + 40 * index, 300)).save(
                    folder / name
                )
                writer.writerow([name])
    return folder / "list.csv"


@pytest.fixture(scope="module")
def expected(pictures: Path) -> dict[str, NDArray[np.float32]]:
    """The output of the ReLU after fc2, as a notebook would compute it."""
    torch.manual_seed(SEED)
    model = vgg16(weights=None).eval()
    model.classifier = model.classifier[:5]
    transform = VGG16_Weights.IMAGENET1K_V1.transforms()
    names = [row["uri"] for row in csv.DictReader(open(pictures))]
    with torch.inference_mode():
        return {
            name: model(transform(Image.open(pictures.parent / name).convert("RGB"))[None])[0].numpy() for name in names
        }


def largest_distance(warehouse: Path, expected: dict[str, NDArray[np.float32]]) -> float:
    """The largest cosine distance between a published vector and the expected one."""
    embeddings = ds.dataset(str(warehouse / "embeddings")).to_table(columns=["image_id", "content_sha256"]).to_pylist()
    vectors = {
        row["content_sha256"]: np.array(row["embedding"], dtype=np.float64)
        for row in ds.dataset(str(warehouse / "vectors")).to_table().to_pylist()
    }
    found = {row["image_id"]: vectors[row["content_sha256"]] for row in embeddings}
    assert set(found) == set(expected)
    return max(
        1
        - float(found[name] @ right.astype(np.float64))
        / float(np.linalg.norm(found[name]) * np.linalg.norm(right.astype(np.float64)))
        for name, right in expected.items()
    )


VGG = ["--set", "fingerprints.vgg16-fc2.weights=untrained", "--set", f"fingerprints.vgg16-fc2.seed={SEED}"]
