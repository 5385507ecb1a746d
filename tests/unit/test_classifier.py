"""Classifiers: which fingerprints have one, whether logits follow from stored vectors, and what is refused."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import programs
from image_similarity.errors import WrongInput
from image_similarity.fingerprints import colour_histogram, hog, networks
from image_similarity.fingerprints.classifier import Classifier
from image_similarity.fingerprints.exported import Program
from image_similarity.fingerprints.inference import CAFFE, Inference, Normalisation, Pooling
from image_similarity.fingerprints.networks import Network
from image_similarity.fingerprints.spec import FingerprintSpec
from image_similarity.imaging.framing import Framing
from image_similarity.settings import (
    ColourHistogramSettings,
    ExportedSettings,
    HogSettings,
    HttpSettings,
    NetworkSettings,
    PcaSettings,
)
from image_similarity.stages.embeddings import class_names, classifiers, embedder, prepare
from image_similarity.stages.embeddings.embedder import Work
from image_similarity.stages.embeddings.prepare import PreparedFingerprint

HTTP = HttpSettings()
SIDE = 32


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``NETWORK.pth`` of some networks, with random parameters."""
    made = tmp_path_factory.mktemp("weights")
    for network in ("resnet18", "squeezenet1_1"):
        torch.save(networks.untrained_state(network, 1), made / f"{network}.pth")
    return made


def prepared_of(folder: Path, network: str, **values: object) -> PreparedFingerprint:
    settings = {"weights": (str(folder / f"{network}.pth"),), **values}
    return prepare.prepare("f", NetworkSettings(network=network, **settings), folder, HTTP)  # type: ignore[arg-type]


def passed(network: str, state: networks.State, pictures: torch.Tensor) -> NDArray[np.float32]:
    """What torchvision's own network says."""
    classes = networks.classes_of(network, state)
    model = networks._build(network, classes=classes).eval()
    model.load_state_dict(dict(state))
    with torch.inference_mode():
        logits: NDArray[np.float32] = model(pictures).numpy()
    return logits


def logits_of(prepared: PreparedFingerprint, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """By the way that ``prepared`` says: from stored vectors, or in the pass."""
    assert prepared.classifier is not None and prepared.no_classifier == ""
    vectors = prepared.load("cpu", batch=len(images))(images)
    if prepared.classifier.from_vectors:
        return prepared.classifier.logits(vectors)
    again, logits = prepared.load("cpu", len(images), logits=True).with_logits(images)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(again, vectors)
    return logits  # type: ignore[no-any-return]


# -- keys --------------------------------------------------------------------------------------------------------------

_IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_LITE = Normalisation((0.498,) * 3, (0.502,) * 3)
_NONE = Pooling("none")
KEYS: dict[str, FingerprintSpec] = {
    "39e0ad1b23c3a140": Network(Framing(256, 224), "vgg16", "classifier.4", _IMAGENET, _NONE, "float32", "0" * 64),
    "f087590e96349c13": Network(
        *(Framing(256, 224), "squeezenet1_1", "features.12.cat", CAFFE, Pooling("average", (2, 3)), "bfloat16"),
        "0" * 64,
    ),
    "a92e5693913a78c4": Program(Framing(256, 224, "bicubic"), _LITE, _NONE, "float32", "0" * 64),
    "8db12fbf482b1222": colour_histogram.described("hsv", (16, 4, 4), True),
    "9ab0b676b9d4ff78": hog.described(128, 9, 16, 2, True),
}
"""As they were before there were classifiers."""
_TWO_PLACES = (("vector", "logits", "other"), ("vector", "other", "logits"))


@pytest.mark.parametrize("key", KEYS)
def test_stored_vectors_stay_valid(key: str) -> None:
    assert KEYS[key].key == key


def test_a_worker_shares_nothing_between_classifiers_or_between_outputs_of_a_program(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their fingerprint keys are the same, and so is the file."""
    loaded: list[tuple[str, ...]] = []

    def load(spec: Program, *_: str, logits: bool) -> object:
        loaded.append(spec.outputs)
        return object()

    program = KEYS["a92e5693913a78c4"]
    assert isinstance(program, Program)
    first, other = (replace(program, outputs=outputs, classes=9) for outputs in _TWO_PLACES)
    assert first.key == other.key
    monkeypatch.setattr(Program, "load", load)
    monkeypatch.setattr(embedder, "_fingerprints", {})
    works = [Work(spec, "f.pt2", "", None, key) for spec, key in ((first, "c1"), (other, "c1"), (first, "c2"))]
    kernels = embedder._fingerprints_for([(work, "cpu") for work in (*works, works[0])])
    assert len(set(map(id, kernels))) == 3 and kernels[3] is kernels[0]
    assert loaded == [first.outputs, other.outputs, first.outputs]


@pytest.mark.parametrize("key", KEYS)
def test_a_worker_shares_what_it_loads_by_spec(key: str) -> None:
    assert hash(KEYS[key]) == hash(replace(KEYS[key]))


def test_what_a_program_says_of_classes_is_no_part_of_its_key() -> None:
    program = KEYS["a92e5693913a78c4"]
    assert isinstance(program, Program)
    values = (program.framing, program.normalisation, program.pooling, program.precision, program.program_sha256)
    assert Program(*values, outputs=("vector", "logits"), classes=1000).key == program.key
    assert Program(*values, outputs=("logits", "vector"), classes=1000).key != program.key


# -- networks ----------------------------------------------------------------------------------------------------------


def test_the_product_on_stored_vectors_is_the_pass(images: NDArray[np.uint8], folder: Path, tmp_path: Path) -> None:
    """ResNet-18 with a classifier of known answers: each picture's own direction is the weight of a class."""
    state = dict(torch.load(folder / "resnet18.pth"))
    vectors = prepared_of(folder, "resnet18").load("cpu", batch=len(images))(images)
    directions = vectors - vectors.mean(axis=0)
    state["fc.weight"] = torch.zeros(1000, 512)
    state["fc.weight"][100 : 100 + len(images)] = torch.from_numpy(directions)
    state["fc.bias"] = -(state["fc.weight"] @ torch.from_numpy(vectors.mean(axis=0)))
    torch.save(state, tmp_path / "resnet18.pth")

    prepared = prepared_of(tmp_path, "resnet18")
    assert prepared.classifier is not None and prepared.classifier.from_vectors and not prepared.keeps_classes
    loaded = prepared.load("cpu", batch=len(images))
    stored = loaded(images)
    logits = prepared.classifier.logits(stored)
    assert logits.dtype == np.float32 and logits.argmax(axis=1).tolist() == list(range(100, 100 + len(images)))
    expected = passed("resnet18", state, loaded.normalised(images))  # type: ignore[attr-defined]
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
    assert prepared.classifier.classes[100] == "black swan" and len(prepared.classifier.classes) == 1000
    # Workers get the classifier by pickle, and vectors in blocks of any size.
    sent: Classifier = pickle.loads(pickle.dumps(prepared.classifier))
    np.testing.assert_array_equal(
        np.concatenate([sent.logits(stored[at : at + 1]) for at in range(len(stored))]), logits
    )
    assert sent.logits(stored[:0]).shape == (0, 1000)


@pytest.mark.parametrize(
    ("network", "options", "from_vectors"),
    [
        ("resnet18", {}, True),
        ("resnet18", {"layer": "avgpool"}, True),
        ("resnet18", {"layer": "fc"}, True),
        ("resnet18", {"layer": "layer4", "pooling": "average"}, True),
        ("resnet18", {"layer": "layer4", "pooling": "none"}, True),
        ("resnet18", {"layer": "layer4", "pooling": "max"}, False),
        # The addition after bn2 takes the block's input, too.
        ("resnet18", {"layer": "layer4.0.bn2", "pooling": "average"}, False),
        ("resnet18", {"layer": "layer4.1.bn1", "pooling": "none"}, False),
        # A convolution and a ReLU come before its pooling.
        ("squeezenet1_1", {}, False),
        ("squeezenet1_1", {"layer": "classifier.1", "pooling": "none"}, True),
    ],
    ids=str,
)
def test_logits_follow_from_vectors_where_the_rest_takes_nothing_else(
    network: str, options: dict[str, str], from_vectors: bool, images: NDArray[np.uint8], folder: Path
) -> None:
    prepared = prepared_of(folder, network, **options)
    assert prepared.classifier is not None and prepared.keeps_classes is not from_vectors
    assert prepared.classifier.from_vectors is from_vectors
    logits = logits_of(prepared, images)
    expected = passed(
        network,
        torch.load(folder / f"{network}.pth"),
        prepared.load("cpu").normalised(images),  # type: ignore[attr-defined]
    )
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


class Centred(nn.Module):
    """(n, 3, side, side) -> ((n, 3),), with negative values."""

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor]:
        return (pictures.mean((2, 3)) - 0.5,)


def test_a_head_that_overwrites_its_input_does_not_reach_into_the_vectors() -> None:
    images = np.random.default_rng(2).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    plain = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    inference = Inference(Centred(), Framing(8, 8), plain, Pooling("none"), batch=2, head=nn.ReLU(inplace=True))
    vectors, logits = inference.with_logits(images)
    assert vectors.min() < 0
    np.testing.assert_array_equal(vectors, inference(images))
    np.testing.assert_array_equal(logits, vectors.clip(min=0))


def test_a_classifier_changes_neither_key_nor_file_where_logits_follow(folder: Path, tmp_path: Path) -> None:
    with_one = prepared_of(folder, "resnet18")
    assert with_one.file is not None
    size = with_one.file.stat().st_size
    declared = NetworkSettings(network="resnet18", weights=(str(folder / "resnet18.pth"),))
    without = prepare.prepare("f", declared, tmp_path, HTTP, classifier=False)
    assert without.classifier is None and without.no_classifier and without.file is not None
    assert without.spec.key == with_one.spec.key and without.file.stat().st_size == size


@pytest.mark.parametrize("network, bias", [("resnet18", "fc.bias"), ("squeezenet1_1", "classifier.1.bias")])
def test_the_classifiers_key_tells_its_parameters_and_not_its_names(
    network: str, bias: str, folder: Path, tmp_path: Path
) -> None:
    state = dict(torch.load(folder / f"{network}.pth"))
    torch.save({**state, bias: state[bias] + 1}, tmp_path / f"{network}.pth")
    (tmp_path / "names.txt").write_text("\n".join(f"class {index}" for index in range(1000)))
    one, other = prepared_of(folder, network), prepared_of(tmp_path, network)
    named = prepared_of(folder, network, classes=str(tmp_path / "names.txt"))
    assert one.classifier and other.classifier and named.classifier
    assert one.spec.key == other.spec.key == named.spec.key
    assert one.classifier.key == named.classifier.key != other.classifier.key
    assert one.classifier.names_key == other.classifier.names_key != named.classifier.names_key


def test_fine_tuned_weights_tell_their_number_of_classes(
    images: NDArray[np.uint8], folder: Path, tmp_path: Path
) -> None:
    state = dict(torch.load(folder / "resnet18.pth"))
    state |= {"fc.weight": torch.randn(3, 512), "fc.bias": torch.randn(3)}
    torch.save(state, tmp_path / "resnet18.pth")
    unnamed = prepared_of(tmp_path, "resnet18")
    assert unnamed.classifier is None and unnamed.no_classifier.startswith("the 3 classes of ")
    (tmp_path / "three.txt").write_text("cat\ndog\nship\n")
    prepared = prepared_of(tmp_path, "resnet18", classes=str(tmp_path / "three.txt"))
    assert prepared.classifier is not None and prepared.classifier.classes == ("cat", "dog", "ship")
    pictures = prepared.load("cpu").normalised(images)  # type: ignore[attr-defined]
    np.testing.assert_allclose(logits_of(prepared, images), passed("resnet18", state, pictures), rtol=1e-4, atol=1e-4)
    with pytest.raises(WrongInput, match="ImageNet has 1,000 classes, but the weights tell 3 apart"):
        prepared_of(tmp_path, "resnet18", classes="imagenet")
    squeezenet = dict(torch.load(folder / "squeezenet1_1.pth"))
    squeezenet |= {"classifier.1.weight": torch.randn(3, 512, 1, 1), "classifier.1.bias": torch.randn(3)}
    torch.save(squeezenet, tmp_path / "squeezenet1_1.pth")
    in_the_pass = prepared_of(tmp_path, "squeezenet1_1", classes=str(tmp_path / "three.txt"))
    assert in_the_pass.keeps_classes and logits_of(in_the_pass, images).shape == (3, 3)


def test_why_a_network_has_no_classifier(folder: Path, tmp_path: Path) -> None:
    assert prepared_of(folder, "resnet18", weights=("untrained",)).no_classifier == classifiers.UNTRAINED_WEIGHTS
    state = dict(torch.load(folder / "resnet18.pth"))
    torch.save({**state, "fc.weight": torch.full((1000, 512), torch.nan)}, tmp_path / "resnet18.pth")
    assert prepared_of(tmp_path, "resnet18").no_classifier == (
        f"weights {tmp_path / 'resnet18.pth'}: fc.weight is not finite, so they are without a classifier"
    )
    torch.save({**state, "fc.weight": torch.zeros(1000, 9)}, tmp_path / "resnet18.pth")
    assert "fc.weight has the shape (1000, 9), not (1000, 512)" in prepared_of(tmp_path, "resnet18").no_classifier
    del state["fc.weight"]
    torch.save(state, tmp_path / "resnet18.pth")
    prepared = prepared_of(tmp_path, "resnet18")
    assert "lack fc.weight: they are without a classifier" in prepared.no_classifier
    assert prepared.classifier is None and not prepared.keeps_classes
    with pytest.raises(ValueError, match="without its classifier"):
        prepared.load("cpu").with_logits(np.zeros((1, 224, 224, 3), np.uint8))  # type: ignore[attr-defined]


def test_why_settings_alone_say_that_there_is_none() -> None:
    program = ExportedSettings(kind="exported", weights=("a.pt2",))
    reasons = {
        "colour histograms have no classifier": ColourHistogramSettings(kind="colour-histogram"),
        "gradients have no classifier": HogSettings(kind="hog"),
        "their base a may have one": PcaSettings(kind="pca", base="a", dimensions=3),
        "name no logits": program,
        "name no classes": program.model_copy(update={"outputs": ("vector", "logits")}),
        "untrained weights": NetworkSettings(network="vgg16", weights=("untrained",)),
    }
    for reason, declared in reasons.items():
        assert reason in classifiers.none_by_settings(declared)
    assert classifiers.none_by_settings(NetworkSettings(network="vgg16", weights=("own.pth", "untrained"))) == ""
    with pytest.raises(ValueError, match="has no classifier, so it gives no logits"):
        KEYS["9ab0b676b9d4ff78"].load(None, "cpu", logits=True)


# -- programs ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def programs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("programs")
    programs.save(made / "encoder.pt2", side=SIDE)
    for order in ("vector, logits", "logits, vector", "other, vector, logits"):
        programs.save(made / f"{order}.pt2", side=SIDE, module=programs.Classifying(tuple(order.split(", "))))
    (made / "four.txt").write_text("\n".join(programs.CLASSES))
    return made


def declared_of(folder: Path, order: str, **values: object) -> ExportedSettings:
    given = {
        "weights": (str(folder / f"{order}.pt2"),),
        "outputs": order,
        "classes": str(folder / "four.txt"),
        "mean": (0.5, 0.5, 0.5),
    }
    return ExportedSettings(kind="exported", **{**given, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ["vector, logits", "logits, vector", "other, vector, logits"])
def test_a_programs_outputs_are_named_in_its_order(order: str, programs_folder: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)
    prepared = prepare.prepare("f", declared_of(programs_folder, order), tmp_path, HTTP)
    assert prepared.keeps_classes and prepared.classifier and prepared.classifier.classes == programs.CLASSES
    logits = logits_of(prepared, images)
    pictures = prepared.load("cpu").normalised(images)  # type: ignore[attr-defined]
    module = programs.Classifying(("vector", "logits"))
    with torch.inference_mode():
        expected = module(pictures)
    np.testing.assert_allclose(logits, expected[1].numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        prepared.load("cpu", batch=len(images))(images), expected[0].numpy(), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ValueError, match="come from the pass"):
        prepared.classifier.logits(expected[0].numpy())


def test_programs_that_do_not_return_what_is_named(programs_folder: Path, tmp_path: Path) -> None:
    def refused(order: str, **values: object) -> str:
        with pytest.raises(WrongInput) as raised:
            prepare.prepare("f", declared_of(programs_folder, order, **values), tmp_path, HTTP)
        return str(raised.value)

    alone = (str(programs_folder / "encoder.pt2"),)
    assert "the program returns one output, but outputs names 2: vector, logits" in refused(
        "vector, logits", weights=alone
    )
    three = (str(programs_folder / "other, vector, logits.pt2"),)
    message = refused("logits, vector", weights=three)
    assert "logits are (n, 5, 16, 16), not (n, classes)" in message
    assert "Its outputs are (n, 5, 16, 16), (n, 5), (n, 4)" in message
    (tmp_path / "five.txt").write_text("a\nb\nc\nd\ne\n")
    assert "five.txt has 5 classes, but the weights tell 4 apart" in refused(
        "vector, logits", classes=str(tmp_path / "five.txt")
    )
    assert "ImageNet has 1,000 classes, but the weights tell 4 apart" in refused("vector, logits", classes="imagenet")


def test_outputs_that_make_no_sense_are_refused() -> None:
    for outputs in ("logits", "vector, vector", "vector, logits, logits", "vector, classes"):
        with pytest.raises(ValueError, match="outputs"):
            ExportedSettings(kind="exported", weights=("a.pt2",), outputs=outputs)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="set outputs"):
        ExportedSettings(kind="exported", weights=("a.pt2",), classes="imagenet")


# -- names of classes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lines.txt", "great grey owl\ncrane\ncrane\n"),
        ("lines", "\ufeffgreat grey owl\r\ncrane\r\ncrane\r\n\r\n"),
        ("one.csv", "anything\ngreat grey owl\ncrane\ncrane\n"),
        ("more.csv", 'index,class,folder\n0,"great grey owl",n1\n1,crane,n2\n2,crane,n3\n'),
        ("labels.csv", "folder,label\nn1,great grey owl\nn2,crane\nn3,crane\n"),
    ],
)
def test_classes_of_a_file(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert class_names.read(str(tmp_path / name)) == ("great grey owl", "crane", "crane")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"\n\n", "there is no class in it"),
        ("gap.txt", b"cat\n\ndog\n", "class 2 has no name"),
        ("binary.txt", b"\xff\xfe\x00", "no text in UTF-8"),
        ("columns.csv", b"a,b\ncat,dog\n", "which column has the names.* it has a, b"),
    ],
)
def test_files_that_are_no_list_of_classes(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WrongInput, match=message):
        class_names.check(str(tmp_path / name))


@pytest.mark.parametrize("change", [sorted, reversed, lambda names: sorted(name.replace(" ", "_") for name in names)])
def test_imagenets_names_in_another_order_are_refused(change: Any, tmp_path: Path) -> None:
    """Each class would have another's name."""
    file = tmp_path / "names.txt"
    file.write_text("\n".join(change(class_names.imagenet())))
    with pytest.raises(WrongInput, match="in another order.*: class 1 is '.*', not 'tench'; classes = imagenet"):
        class_names.of_weights(str(file), 1000, tmp_path)
    file.write_text("\n".join(name.replace(" ", "_") for name in class_names.imagenet()))
    assert class_names.of_weights(str(file), 1000, tmp_path)[2] == "great_white_shark"


def test_a_file_of_classes_that_is_not_there_is_said_early(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat")
    declared = NetworkSettings(network="resnet18", classes=str(tmp_path / "clases.txt"))
    with pytest.raises(WrongInput, match="classes: no such file: .*clases.txt; did you mean classes.txt"):
        prepare.check("f", declared)
    class_names.check("imagenet")
    class_names.check(None)
