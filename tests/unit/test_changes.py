"""What differs from the fingerprint of the published vectors, in the words of the settings."""

from pathlib import Path
from typing import Any

import pytest
import torch

from image_similarity.errors import WrongInput
from image_similarity.fingerprints import networks
from image_similarity.settings import FingerprintSettings, HttpSettings, load
from image_similarity.stages.embeddings import changes, prepare

NETWORK = "squeezenet1_1"
OWN = {"network": NETWORK, "weights": "own.pth"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for seed, name in enumerate(("own", "other")):
        torch.save(networks.untrained_state(NETWORK, seed), folder / f"{name}.pth")
    torch.save(networks.untrained_state(NETWORK, 0), folder / "copy.pth")
    return folder


def declared(values: dict[str, Any], place: Path) -> FingerprintSettings:
    given = {key: str(place / value) if str(value).endswith(".pth") else value for key, value in values.items()}
    return load(overrides=[f"fingerprints.f.{key}={_toml(value)}" for key, value in given.items()]).fingerprint("f")


def _toml(value: Any) -> str:
    return repr(value) if not isinstance(value, str) else f'"{value}"'


def record(values: dict[str, Any], place: Path, tmp_path: Path) -> tuple[dict[str, Any], FingerprintSettings]:
    """What goes into ``runs.settings`` for this declaration."""
    settings = declared(values, place)
    return prepare.record("f", settings, prepare.prepare("f", settings, tmp_path, HttpSettings())), settings


HISTOGRAM, HOG = {"kind": "colour-histogram"}, {"kind": "hog"}
UNTRAINED = {"network": NETWORK, "weights": "untrained"}

DIFFERENT: dict[str, tuple[dict[str, Any], dict[str, Any], list[str], bool]] = {
    "preprocessing": (OWN, {**OWN, "preprocessing": "caffe"}, ["preprocessing was torchvision, is caffe now"], True),
    "layer": (
        OWN,
        {**OWN, "layer": "features.3"},
        ["layer was features.12.cat, is features.3"],
        True,
    ),
    "pooling": (OWN, {**OWN, "pooling": "max"}, ["pooling was average, is max now"], True),
    "precision": (OWN, {**OWN, "precision": "bfloat16"}, ["precision was float32, is bfloat16 now"], True),
    "seed": (UNTRAINED, {**UNTRAINED, "seed": 4}, ["seed was 0, is 4 now"], True),
    "network": (OWN, {"network": "alexnet", "weights": "untrained"}, [f"network was {NETWORK}, is alexnet now"], True),
    "kind": (OWN, HOG, ["kind was network, is hog now"], True),
    "content of weights": (OWN, {**OWN, "weights": "other.pth"}, ["weights were ", "other.pth (sha256 "], False),
    "bins": (HISTOGRAM, {**HISTOGRAM, "bins": [4, 4, 4]}, ["bins was [16, 4, 4], is [4, 4, 4] now"], True),
    "cells": (HOG, {**HOG, "cell": 8, "block": 4}, ["cell was 16, is 8 now; block was 2, is 4 now"], True),
    "decoding": (HOG, {**HOG, "decoding": "full"}, ["decoding was scaled, is full now"], True),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_what_differs_is_named(case: str, place: Path, tmp_path: Path) -> None:
    before, now, texts, is_seen_early = DIFFERENT[case]
    (published, _), (today, settings) = record(before, place, tmp_path), record(now, place, tmp_path)
    assert published["fingerprint_key"] != today["fingerprint_key"]
    found = "; ".join(map(str, changes.all_of("f", published, today)))
    early = "; ".join(map(str, changes.certain("f", published, settings)))
    assert all(text in found for text in texts) and len(found) < 300
    assert bool(early) == is_seen_early and (not early or early == found)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (OWN, OWN),
        (OWN, {**OWN, "weights": "copy.pth", "seed": 3}),
        (OWN, {**OWN, "layer": "features.12", "pooling": "average"}),
        (HISTOGRAM, HISTOGRAM),
    ],
)
def test_what_makes_no_difference_is_not_told(before: Any, now: Any, place: Path, tmp_path: Path) -> None:
    (published, _), (today, settings) = record(before, place, tmp_path), record(now, place, tmp_path)
    assert published["fingerprint_key"] == today["fingerprint_key"]
    assert changes.certain("f", published, settings) == []


def test_another_program_differs_in_no_setting(place: Path, tmp_path: Path) -> None:
    published, settings = record(OWN, place, tmp_path)
    assert changes.all_of("f", published, {**published, "fingerprint_key": "another"}) == []
    assert changes.certain("f", {}, settings) == [], "a run of which nothing is recorded"


def test_the_base_of_a_projection(place: Path) -> None:
    few = load(overrides=['fingerprints.f={kind="pca",base="vgg16-fc2",dimensions=4}']).fingerprint("f")
    published = {"fingerprint": {"f": few.model_dump()}, "base_key": "a"}
    (change,) = changes.all_of("f", published, {**published, "base_key": "b"})
    assert str(change) == "base_key was a, is b now" and not change.is_setting
    more = few.model_copy(update={"dimensions": 5})
    assert [str(change) for change in changes.certain("f", published, more)] == ["dimensions was 4, is 5 now"]


def test_records_of_older_versions(place: Path) -> None:
    """Kinds were values of ``network``, and settings that came later are not in them."""
    hog = declared(HOG, place)
    assert changes.certain("f", {"fingerprint": {"f": {"network": "hog", "size": 128}}}, hog) == []
    (change,) = changes.certain("f", {"fingerprint": {"f": {"network": "hog", "size": 64}}}, hog)
    assert str(change) == "size was 64, is 128 now"


PROGRAM = {"kind": "exported", "weights": "own.pt2"}

OF_PROGRAMS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "mean and std": (
        {},
        {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic"},
        "interpolation was bilinear, is bicubic now; mean was [0.485, 0.456, 0.406], is [0.5, 0.5, 0.5] now; "
        "std was [0.229, 0.224, 0.225], is [0.25, 0.25, 0.25] now",
    ),
    "mean alone": ({}, {"mean": [0.5, 0.5, 0.5]}, "mean was [0.485, 0.456, 0.406], is [0.5, 0.5, 0.5] now"),
    "mean that caffe leaves unused": ({"preprocessing": "caffe"}, {"preprocessing": "caffe", "mean": [0, 0, 0.5]}, ""),
    "away from caffe": (
        {"preprocessing": "caffe"},
        {"mean": [0.5, 0.5, 0.5]},
        "preprocessing was caffe, is torchvision now; mean was [0.485, 0.456, 0.406], is [0.5, 0.5, 0.5] now",
    ),
    "a short side": ({}, {"resize": 256}, "resize was 224, is 256 now"),
    "no short side": ({"resize": 256}, {}, "resize was 256, is 224 now"),
    "the short side that it was": ({}, {"resize": 224}, ""),
    "a size": ({}, {"input_size": 192}, "input_size was 224, is 192 now"),
    "the size that it was": ({}, {"input_size": 224}, ""),
    "pooling and precision": (
        {},
        {"pooling": "max", "precision": "bfloat16"},
        "pooling was none, is max now; precision was float32, is bfloat16 now",
    ),
}


@pytest.mark.parametrize("case", OF_PROGRAMS)
def test_all_that_differs_of_a_program_is_seen_early(case: str, place: Path) -> None:
    """Nobody is sent back a second time. The published program told the size of its pictures."""
    before, now, told = OF_PROGRAMS[case]
    was, settings = declared({**PROGRAM, **before}, place), declared({**PROGRAM, **now}, place)
    published = {"fingerprint": {"f": {"input_size": 224, **_given(was)}}, "trained": True, "fingerprint_key": "a"}
    today = {"fingerprint": {"f": {"input_size": 224, **_given(settings)}}, "trained": True, "fingerprint_key": "b"}
    assert "; ".join(map(str, sorted_by(told, changes.certain("f", published, settings)))) == told
    assert "; ".join(map(str, sorted_by(told, changes.all_of("f", published, today)))) == told


def _given(settings: FingerprintSettings) -> dict[str, Any]:
    return {key: value for key, value in settings.model_dump(mode="json").items() if value is not None}


def sorted_by(told: str, found: list[changes.Change]) -> list[changes.Change]:
    return sorted(found, key=lambda change: told.find(str(change)))


def test_what_is_uncertain_is_told_beside_what_is_certain(place: Path) -> None:
    """Another seed of a sample may choose the same vectors. Beside another number of dimensions it is worth telling."""
    pca = 'fingerprints.f={kind="pca",base="vgg16-fc2",dimensions=4,seed=0}'
    few = load(overrides=[pca]).fingerprint("f")
    published = {"fingerprint": {"f": few.model_dump()}}
    other_seed = few.model_copy(update={"seed": 1})
    assert changes.certain("f", published, other_seed) == []
    found = changes.certain("f", published, other_seed.model_copy(update={"dimensions": 5}))
    assert [change.key for change in found] == ["dimensions", "seed"]


def test_a_seed_without_random_weights_is_no_difference(place: Path, tmp_path: Path) -> None:
    (published, _), (today, settings) = (
        record(values, place, tmp_path) for values in (OWN, {**OWN, "seed": 3, "pooling": "max"})
    )
    assert [change.key for change in changes.certain("f", published, settings)] == ["pooling"]
    assert [change.key for change in changes.all_of("f", published, today)] == ["pooling"]


def test_names_of_classes_are_no_difference_and_another_output_is(place: Path) -> None:
    """Vectors stay where tags are wanted of a program later. Another output as the vector makes other vectors."""
    was = declared(PROGRAM, place)
    recorded = {"input_size": 224, **_given(was)}
    before_there_were_classes = {key: value for key, value in recorded.items() if key not in ("outputs", "classes")}
    tagged = declared({**PROGRAM, "outputs": "vector, logits", "classes": "imagenet"}, place)
    turned = declared({**PROGRAM, "outputs": "logits, vector", "pooling": "max"}, place)
    for values in (recorded, before_there_were_classes):
        published = {"fingerprint": {"f": values}, "trained": True, "fingerprint_key": "a"}
        assert changes.certain("f", published, tagged) == []
        both = changes.certain("f", published, turned)
        assert sorted(change.key for change in both) == ["outputs", "pooling"]
        alone = changes.certain("f", published, turned.model_copy(update={"pooling": "none"}))
        assert [str(change) for change in alone] == ["outputs was ['vector'], is ['logits', 'vector'] now"]


def test_fingerprints_that_differ_in_classes_alone_are_declared_alike(place: Path) -> None:
    one, other = declared(OWN, place), declared({**OWN, "classes": "imagenet"}, place)
    assert one != other and one.of_vectors() == other.of_vectors()
    settings = load(
        overrides=[f'fingerprints.{name}={{network="{NETWORK}",classes="{name}"}}' for name in ("imagenet", "others")]
    )
    with pytest.raises(WrongInput, match="imagenet and others are declared alike"):
        prepare.check_together(settings, ["imagenet", "others"])
