"""VGG16 by spark-submit and in the shared session, against a plain torchvision loop."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pyspark
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.models import VGG16_Weights, vgg16

from image_similarity.jobs import build_manifest, embed_images
from tools import samples

ROOT = Path(__file__).resolve().parents[2]
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


@pytest.mark.parametrize("images_per_task", [256, 2])
def test_shared_session(
    run: Any, pictures: Path, expected: dict[str, Any], tmp_path: Path, images_per_task: int
) -> None:
    arguments = ["--warehouse", tmp_path, *VGG, "--set", f"embeddings.images_per_task={images_per_task}"]
    assert run(build_manifest, "--images", pictures, *arguments) == 0
    assert run(embed_images, *arguments) == 0
    assert largest_distance(tmp_path, expected) < 1e-5


@pytest.mark.long
def test_spark_submit_with_one_core(pictures: Path, expected: dict[str, Any], tmp_path: Path) -> None:
    """The smoke test of the shipped thing, too: the script by spark-submit, with a properties file."""
    submit = [str(Path(pyspark.__file__).parent / "bin" / "spark-submit"), "--master", "local[1]"]
    submit += ["--properties-file", str(ROOT / "conf" / "spark" / "local.conf"), str(ROOT / "jobs" / "run_pipeline.py")]
    arguments = ["--images", str(pictures), "--warehouse", str(tmp_path / "w"), "-k", "2", "--dissimilar", "0", *VGG]
    arguments += ["--set", "embeddings.images_per_task=2"]
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable}
    done = subprocess.run(submit + arguments, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"warehouse: {tmp_path / 'w'}" in done.stdout
    assert largest_distance(tmp_path / "w", expected) < 1e-5


def test_spark_submit_fails_with_a_code_and_one_line(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "jobs" / "build_manifest.py"), "--warehouse", str(tmp_path / "w")]
    done = subprocess.run([*script, "--images", "/no/such/folder"], capture_output=True, text=True)
    assert (
        done.returncode == 2
        and "build_manifest: error: --images /no/such/folder: no such folder or file" in done.stderr
    )
    assert "Traceback" not in done.stderr and not (tmp_path / "w" / "_current.json").exists()
    done = subprocess.run([*script, "--images", str(tmp_path), "--config", "none.toml"], capture_output=True, text=True)
    assert done.returncode == 2 and "settings file not found" in done.stderr
