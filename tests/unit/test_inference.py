"""Batches, precision and memory of what runs networks; programs of one's own."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from torch import nn

from image_similarity.fingerprints import exported, networks
from image_similarity.fingerprints.inference import CAFFE, Inference, Normalisation, Pooling
from image_similarity.fingerprints.spec import FingerprintError
from image_similarity.imaging.framing import Framing

SIDE = 8
FRAMING = Framing(SIDE, SIDE)
PLAIN = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Means(nn.Module):
    """The mean of each channel; out of memory for more than ``most`` pictures at once."""

    def __init__(self, most: int = 1000):
        super().__init__()
        self.most, self.batches = most, list[int]()

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        if len(pictures) > self.most:
            raise torch.OutOfMemoryError("no")
        self.batches.append(len(pictures))
        return pictures.mean((2, 3))


@pytest.fixture
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (10, SIDE, SIDE, 3), dtype=np.uint8)


def test_out_of_memory_halves_the_batch_and_goes_on(images: NDArray[np.uint8]) -> None:
    module = Means(most=3)
    inference = Inference(module, FRAMING, PLAIN, Pooling("none"))
    inference.batch = 8
    np.testing.assert_allclose(inference(images), images.mean((1, 2)) / 255, rtol=1e-5)
    assert module.batches == [2] * 5 and inference.batch == 2, "smaller from then on"
    with pytest.raises(torch.OutOfMemoryError):
        Inference(Means(most=0), FRAMING, PLAIN, Pooling("none"))(images)


def test_a_fixed_batch_is_filled(images: NDArray[np.uint8]) -> None:
    module = Means()
    vectors = Inference(module, FRAMING, PLAIN, Pooling("none"), fixed=4)(images)
    assert module.batches == [4, 4, 4] and vectors.shape == (10, 3)
    np.testing.assert_allclose(vectors, images.mean((1, 2)) / 255, rtol=1e-5)


def test_a_picture_alone_is_not_padded(images: NDArray[np.uint8], tmp_path: Path) -> None:
    module = Means()
    assert Inference(module, FRAMING, PLAIN, Pooling("none"), batch=1)(images[:3]).shape == (3, 3)
    assert module.batches == [1, 1, 1]
    file = write(tmp_path / "encoder.pt2", Encoder(), batch=4)
    program = exported.prepare(file, FRAMING, PLAIN, "average").load(str(file), "cpu", batch=1)
    assert program.batch == 4 and program(images[:1]).shape == (1, 5), "a program that takes nothing else"


@pytest.mark.parametrize("network", ["squeezenet1_1", "resnet18"])
def test_a_vector_does_not_depend_on_what_else_is_in_the_batch(network: str) -> None:
    torch.manual_seed(0)
    module = getattr(torchvision.models, network)(weights=None)
    inference = Inference(module.eval(), Framing(256, 224), PLAIN, Pooling("none"))
    pictures = np.random.default_rng(0).integers(0, 256, (20, 224, 224, 3), dtype=np.uint8)
    together = inference(pictures)
    for some in ([0], [3, 1], list(range(5, 18)), list(range(19, -1, -1))):
        assert np.array_equal(inference(pictures[some]), together[some])


def test_batches_are_sized_by_bytes() -> None:
    sizes = [Inference(Means(), Framing(side, side), PLAIN, Pooling("none")).batch for side in (32, 224, 600, 4096)]
    assert sizes == [64, 16, 2, 1]


def test_caffe_is_bgr_without_scaling(images: NDArray[np.uint8]) -> None:
    vectors = Inference(Means(), FRAMING, CAFFE, Pooling("none"))(images)
    np.testing.assert_allclose(vectors, images.mean((1, 2))[:, ::-1] - np.array(CAFFE.mean), rtol=1e-4)


@pytest.mark.parametrize(
    ("network", "layer", "axes"),
    [
        ("resnet18", "layer3", (2, 3)),
        ("swin_t", "features.3", (1, 2)),
        ("vit_b_16", "encoder.ln", (1,)),
        ("vgg16", "avgpool", (2, 3)),
        ("vgg16", "classifier.4", ()),
        ("convnext_tiny", "features.1.0.block.1", (1, 2)),
    ],
)
def test_the_axes_that_are_pooled_are_the_spatial_ones(network: str, layer: str, axes: tuple[int, ...]) -> None:
    node = networks.resolve_layer(network, layer)
    assert networks.spatial_axes(network, node, 224) == axes


# -- programs ----------------------------------------------------------------------------------------------------------


def write(file: Path, module: nn.Module, batch: int | None = None, side: int = SIDE) -> Path:
    """``module`` as a program for pictures of ``side``; ``batch``: the only number of them that it takes."""
    dynamic: Any = None if batch else ({0: torch.export.Dim("batch", min=1, max=64)},)
    torch.export.save(
        torch.export.export(module.eval(), (torch.zeros(batch or 2, 3, side, side),), dynamic_shapes=dynamic), file
    )
    return file


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 5, 3, stride=2)

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.convolution(pictures)
        return features, features.sum()


@pytest.mark.parametrize("batch", [None, 4])
def test_a_program_gives_what_its_module_gives(images: NDArray[np.uint8], tmp_path: Path, batch: int | None) -> None:
    file = write(tmp_path / "encoder.pt2", Encoder(), batch)
    described = exported.prepare(file, FRAMING, PLAIN, "average")
    vectors = described.load(str(file), "cpu")(images)
    with torch.inference_mode():
        expected = Encoder()(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)[0].mean((2, 3)).numpy()
    np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)
    low = exported.prepare(file, FRAMING, PLAIN, "average", "bfloat16")
    np.testing.assert_allclose(low.load(str(file), "cpu")(images), expected, atol=0.02)
    flat = exported.prepare(file, FRAMING, PLAIN, "none")
    assert flat.load(str(file), "cpu")(images).shape == (10, 5 * 3 * 3)
    assert len({described.key, low.key, flat.key}) == 3


class Infinite(nn.Module):
    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.mean((2, 3)) / 0


def test_programs_that_cannot_serve_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "text.pt2").write_text("no program")
    torch.save({"a": torch.zeros(3)}, tmp_path / "state.pt2")
    for name in ("text.pt2", "state.pt2"):
        with pytest.raises(FingerprintError, match="is no program that torch.export.load "):
            exported.prepare(tmp_path / name, FRAMING, PLAIN, "none")
    assert not caplog.records, "one line is enough"
    write(tmp_path / "large.pt2", Encoder(), side=16)
    with pytest.raises(FingerprintError, match=r"takes \(n, 3, 16, 16\), not \(n, 3, 8, 8\)"):
        exported.prepare(tmp_path / "large.pt2", FRAMING, PLAIN, "none")
    write(tmp_path / "infinite.pt2", Infinite())
    with pytest.raises(FingerprintError, match="not finite"):
        exported.prepare(tmp_path / "infinite.pt2", FRAMING, PLAIN, "none")
    with pytest.raises(FingerprintError, match="pooling is for outputs with places"):
        exported.prepare(tmp_path / "infinite.pt2", FRAMING, PLAIN, "max")


def test_the_size_of_pictures_is_the_programs_own(tmp_path: Path) -> None:
    """Of a program that takes any size, it is that of its example."""
    fixed = write(tmp_path / "fixed.pt2", Encoder(), side=48)
    assert exported.input_side(fixed) == 48
    some = torch.export.Dim("side", min=8, max=512)
    program = torch.export.export(Infinite().eval(), (torch.zeros(1, 3, 40, 40),), dynamic_shapes=({2: some, 3: some},))
    torch.export.save(program, tmp_path / "any.pt2")
    assert exported.input_side(tmp_path / "any.pt2") == 40
    torch.export.save(torch.export.export(Infinite().eval(), (torch.zeros(1, 3, 8, 9),)), tmp_path / "oblong.pt2")
    with pytest.raises(FingerprintError, match=r"takes \(1, 3, 8, 9\), which says no size of pictures: set input_size"):
        exported.input_side(tmp_path / "oblong.pt2")


def precisions() -> list[Any]:
    """What torch does with float32 on a GPU: in convolutions, recurrent layers and products."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    if hasattr(cudnn, "conv"):
        return [place.fp32_precision for place in (cudnn.conv, cudnn.rnn, matmul)]
    return [cudnn.allow_tf32, matmul.allow_tf32]


@pytest.mark.parametrize("precision", ["float32", "tf32"])
@pytest.mark.parametrize("fails", [False, True])
def test_float32_is_tf32_where_that_is_asked_for(precision: str, fails: bool, images: NDArray[np.uint8]) -> None:
    """torch's default lets convolutions round to it. It is set for the call alone, be it that it fails."""
    within = list[Any]()

    class Noted(nn.Module):
        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            within.append(precisions())
            if fails:
                raise ValueError("fails")
            return pictures.mean((2, 3))

    before = precisions()
    assert "tf32" in before or True in before, "torch's default is another now"
    inference = Inference(Noted().eval(), FRAMING, PLAIN, Pooling("none"), precision)
    with pytest.raises(ValueError, match="fails") if fails else nullcontext():
        inference(images)
    wanted = {"tf32", True} if precision == "tf32" else {"ieee", False}
    assert within and all(set(used) <= wanted for used in within)
    assert precisions() == before
