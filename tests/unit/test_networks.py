"""Networks as fingerprints: layers, pooling, preprocessing, keys, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torchvision.models import get_model, get_model_builder, get_model_weights, list_models

from image_similarity.fingerprints import networks
from image_similarity.fingerprints.inference import Inference
from image_similarity.fingerprints.networks import Prepared
from image_similarity.fingerprints.spec import FingerprintError

NETWORK = "squeezenet1_1"


@pytest.fixture(scope="module")
def state() -> networks.State:
    return networks.untrained_state(NETWORK, seed=3)


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)


def built(prepared: Prepared, folder: Path) -> Inference:
    prepared.save(folder / "state.pt")
    return prepared.network.load(str(folder / "state.pt"), "cpu")


def test_same_as_the_network_itself(state: networks.State, images: NDArray[np.uint8], tmp_path: Path) -> None:
    model = get_model(NETWORK).eval()
    model.load_state_dict(dict(state))
    transform = get_model_weights(NETWORK).DEFAULT.transforms()
    with torch.inference_mode():
        expected = model.features(torch.stack([transform(Image.fromarray(image)) for image in images]))
    made = built(networks.prepare(NETWORK, "features", state, pooling="average"), tmp_path)
    fitted = np.stack([made.framing.fit(Image.fromarray(image)) for image in images])
    np.testing.assert_allclose(made(fitted), expected.mean((2, 3)).numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("pooling", "length"), [("average", 512), ("max", 512), ("none", 512 * 13 * 13)])
def test_pooling(state: networks.State, images: NDArray[np.uint8], tmp_path: Path, pooling: str, length: int) -> None:
    vectors = built(networks.prepare(NETWORK, "features", state, pooling=pooling), tmp_path)(images[:1])
    assert vectors.shape == (1, length) and vectors.dtype == np.float32


def test_caffe_is_bgr_without_scaling(state: networks.State, tmp_path: Path) -> None:
    made = built(networks.prepare(NETWORK, "features.0", state, preprocessing="caffe"), tmp_path)
    image = np.zeros((1, 224, 224, 3), dtype=np.uint8)
    image[..., 0] = 200  # red
    normalised = made.normalised(image)[0, :, 0, 0].tolist()
    assert normalised == pytest.approx([-103.939, -116.779, 200 - 123.68], rel=1e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_is_near(
    state: networks.State, images: NDArray[np.uint8], tmp_path: Path, precision: str
) -> None:
    full = built(networks.prepare(NETWORK, "features", state, pooling="average"), tmp_path)(images)
    less = built(networks.prepare(NETWORK, "features", state, pooling="average", precision=precision), tmp_path)(images)
    cosine = (full * less).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(less, axis=1)
    assert (cosine > 0.999).all() and not np.array_equal(full, less)


def test_an_earlier_layer_is_not_overwritten_by_in_place_operations(
    state: networks.State, images: NDArray[np.uint8], tmp_path: Path
) -> None:
    """features.1 is an in-place ReLU: the convolution before it must come out with its negative values."""
    assert built(networks.prepare(NETWORK, "features.0", state), tmp_path)(images[:1]).min() < 0


def test_keys_change_with_everything_that_changes_vectors(state: networks.State) -> None:
    base = networks.prepare(NETWORK, "features", state, pooling="average")
    others = [
        networks.prepare(NETWORK, "features", state, pooling="max"),
        networks.prepare(NETWORK, "features.10", state, pooling="average"),
        networks.prepare(NETWORK, "features", state, pooling="average", preprocessing="caffe"),
        networks.prepare(NETWORK, "features", state, pooling="average", precision="bfloat16"),
        networks.prepare(NETWORK, "features", networks.untrained_state(NETWORK, 4), pooling="average"),
    ]
    assert len({base.network.key, *(other.network.key for other in others)}) == 6
    again = networks.prepare(NETWORK, "features", networks.untrained_state(NETWORK, 3), pooling="average")
    assert again.network.key == base.network.key


def test_parameters_after_the_layer_are_not_needed(state: networks.State) -> None:
    without_classifier = {name: value for name, value in state.items() if not name.startswith("classifier")}
    assert (
        networks.prepare(NETWORK, "features", without_classifier).network
        == networks.prepare(NETWORK, "features", state).network
    )


def test_parameters_before_it_are(state: networks.State) -> None:
    lacking = {name: value for name, value in state.items() if not name.startswith("features.3.squeeze")}
    with pytest.raises(FingerprintError, match=r"they lack features\.3\.squeeze\.weight, features\.3\.squeeze\.bias"):
        networks.prepare(NETWORK, "features", lacking)
    with pytest.raises(FingerprintError, match="are not for resnet18 up to avgpool: they lack conv1.weight"):
        networks.prepare("resnet18", "avgpool", state)
    other_shape = {**state, "features.0.bias": torch.zeros(3)}
    with pytest.raises(FingerprintError, match=r"features\.0\.bias has the shape \(3,\), not \(64,\)"):
        networks.prepare(NETWORK, "features", other_shape)


def test_half_precision_files_serve(state: networks.State, images: NDArray[np.uint8], tmp_path: Path) -> None:
    half = {name: value.half() for name, value in state.items()}
    assert built(networks.prepare(NETWORK, "features.0", half), tmp_path)(images[:1]).dtype == np.float32


def test_layers() -> None:
    assert networks.resolve_layer("vgg16", "fc2") == networks.resolve_layer("vgg16", "classifier.4") == "classifier.4"
    assert networks.resolve_layer("vgg19_bn", "fc1") == "classifier.1"
    with pytest.raises(
        FingerprintError, match="no layer 'clasifier.4'; did you mean classifier.4.*all: .venv/bin/python -m"
    ):
        networks.resolve_layer("vgg16", "clasifier.4")
    with pytest.raises(FingerprintError, match="no classification network 'vgg_16'; did you mean vgg16"):
        networks.check_network("vgg_16")


@pytest.mark.parametrize(
    ("network", "layer", "pooling"),
    [
        ("vgg16", "classifier.4", "none"),
        ("squeezenet1_1", "features.12.cat", "average"),
        ("resnet50", "flatten", "none"),
    ],
)
def test_the_default_layer_is_the_last_before_the_classifier(network: str, layer: str, pooling: str) -> None:
    assert networks.default_layer(network) == (layer, pooling)
    assert layer == networks.resolve_layer(network, {"vgg16": "fc2", "squeezenet1_1": "features"}.get(network, layer))


def test_an_unknown_name_gets_the_near_ones_and_no_list_of_a_hundred() -> None:
    for wrong, near in (("resnet5", "resnet50"), ("squeezenet1-1", "squeezenet1_1"), ("ResNet18", "resnet18")):
        with pytest.raises(
            FingerprintError, match=f"did you mean .*{near}.* To see all: .venv/bin/python -m"
        ) as raised:
            networks.check_network(wrong)
        assert len(str(raised.value)) < 200
    with pytest.raises(FingerprintError, match="'xyzzy'. To see all"):
        networks.check_network("xyzzy")
    with pytest.raises(FingerprintError, match="no layer 'xyzzy'; its last are .*. To see all"):
        networks.resolve_layer("squeezenet1_1", "xyzzy")


def test_the_listing_of_layers_says_what_is_wrong_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert networks.main(["resnet_18"]) == 2
    assert "did you mean resnet18" in capsys.readouterr().err
    assert networks.main(["alexnet"]) == 0 and "classifier.5" in capsys.readouterr().out.split()


def test_long_pictures_do_not_explode(state: networks.State, tmp_path: Path) -> None:
    made = built(networks.prepare(NETWORK, "features", state), tmp_path)
    assert made.framing.fit(Image.new("RGB", (1_000_000, 1))).shape == (224, 224, 3)
    stripe = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 400, 3), dtype=np.uint8))
    middle = stripe.crop((120, 0, 280, 20))
    np.testing.assert_array_equal(made.framing.fit(stripe), made.framing.fit(middle))


@pytest.mark.parametrize(
    ("network", "source", "framing"),
    [
        ("resnet50", "IMAGENET1K_V1", (256, 224)),
        ("resnet50", "IMAGENET1K_V2", (232, 224)),
        ("resnet50", "/data/mine.pth", (232, 224)),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", (384, 384)),
    ],
)
def test_weights_bring_their_own_preparation(network: str, source: str, framing: tuple[int, int]) -> None:
    side = framing[1] if network == "vit_b_16" else 224
    state = {name: torch.zeros(value.shape) for name, value in networks._empty(network, side).state_dict().items()}
    prepared = networks.prepare(
        network, "flatten" if network == "resnet50" else "encoder.ln", state, source=source
    ).network
    assert (prepared.framing.resize, prepared.framing.crop) == framing


ONE_OF_EACH_FAMILY = [
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3"),
    *("maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnext50_32x4d"),
    *("shufflenet_v2_x0_5", "squeezenet1_0", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_32", "wide_resnet50_2"),
]


def test_no_family_is_left_out() -> None:
    """What `tests/long` tries of every network is tried here of one of each module of torchvision."""
    modules = {get_model_builder(name).__module__ for name in list_models(module=torchvision.models)}
    assert {get_model_builder(name).__module__ for name in ONE_OF_EACH_FAMILY} == modules


@pytest.mark.parametrize("network", ONE_OF_EACH_FAMILY)
def test_a_network_can_be_taken_apart(network: str) -> None:
    """Its layers are told, and its preparation; nothing is computed."""
    preset = networks._preset(network, "")
    last = networks.layers(network)[-1]
    assert networks._output_shape(network, last, preset.crop_size[0]) == (2, 1000)
    layer, pooling = networks.default_layer(network)
    shape = networks._output_shape(network, layer, preset.crop_size[0])
    assert len(shape) == (4 if pooling == "average" else 2) and 400 < shape[1] <= 4096


@pytest.mark.parametrize(
    ("layer", "pooling", "length"),
    [("features", "none", 86_528), ("features", "average", 512), ("features.3", "max", 128)],
)
def test_the_length_of_vectors_is_known_without_weights(layer: str, pooling: str, length: int) -> None:
    assert networks.vector_length("squeezenet1_1", layer, pooling) == length
    state = networks.untrained_state("squeezenet1_1", 0)
    prepared = networks.prepare("squeezenet1_1", layer, state, pooling=pooling)
    shape = networks._output_shape("squeezenet1_1", prepared.network.layer, prepared.network.framing.crop)
    assert prepared.network.pooling(torch.zeros(shape)).shape == (2, length)
