"""What a worker does with a stream of images, without Spark."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from image_similarity.settings import EmbeddingsSettings
from image_similarity.stages.embeddings import _Embedder


class Brightness:
    """A stand-in for a network: the mean of each channel, undefined for pictures that are wholly black."""

    image_bytes = 4

    def __init__(self) -> None:
        self.batches: list[int] = []

    def fit(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return pixels[:1, :1]

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batches.append(len(images))
        means: NDArray[np.float32] = images.reshape(len(images), -1, 3).mean(axis=1).astype(np.float32)
        means[means.sum(axis=1) == 0] = np.nan
        return means


def embedded(files: list[Path], network: Any, known: Any = None, batch: int = 2) -> pd.DataFrame:
    settings = EmbeddingsSettings(batch_bytes=4 * batch)
    return pd.concat(list(_Embedder(network, settings, known).results(iter(map(str, files)))), ignore_index=True)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Seven pictures, each of its own brightness."""
    made = [tmp_path / f"{level}.png" for level in range(10, 80, 10)]
    for file in made:
        Image.new("RGB", (3, 2), (int(file.stem),) * 3).save(file)
    return made


def test_results_are_in_order_and_batches_full(files: list[Path]) -> None:
    network = Brightness()
    results = embedded(files, network)
    assert [vector[0] for vector in results["embedding"]] == [10, 20, 30, 40, 50, 60, 70]
    assert network.batches == [2, 2, 2, 1]
    assert results["width"].tolist() == [3] * 7 and results["height"].tolist() == [2] * 7


def test_copies_go_through_the_network_once(files: list[Path]) -> None:
    network = Brightness()
    results = embedded([files[0], files[0], files[1], files[0]], network)
    assert sum(network.batches) == 2 and results["is_embedded"].tolist() == [True, False, True, False]
    assert results["content_sha256"].nunique() == 2 and results["reason"].isna().all()


def test_known_contents_are_not_decoded(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    network = Brightness()
    digests = embedded(files, network)["content_sha256"]
    known = np.unique([int(digest[:15], 16) for digest in digests])
    network.batches.clear()
    monkeypatch.setattr("image_similarity.kernels.decoding.decode", lambda *_: pytest.fail("decoded"))
    assert embedded(files, network, known)["is_embedded"].tolist() == [False] * 7 and network.batches == []


def test_answers_that_are_not_finite_are_failures_of_all_copies(files: list[Path], tmp_path: Path) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "black.png")
    results = embedded([tmp_path / "black.png", files[0], files[1], tmp_path / "black.png"], Brightness())
    assert results["reason"].tolist() == ["non_finite", None, None, "non_finite"]
    assert results["is_embedded"].tolist() == [False, True, True, False]


def test_bad_files_do_not_disturb_the_others(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    results = embedded([files[0], tmp_path / "bad.png", tmp_path / "gone.png", files[1]], Brightness())
    assert results["reason"].tolist() == [None, "not_an_image", "not_found", None]
