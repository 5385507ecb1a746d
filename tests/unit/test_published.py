"""A published fingerprint is prepared again from the record of its run: the same key, the same vectors, or one line."""

import subprocess
import sys
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

import programs
from image_similarity.errors import JobFailed, WrongInput
from image_similarity.fingerprints import networks, pca, spec
from image_similarity.imaging.framing import Framing
from image_similarity.settings import (
    ColourHistogramSettings,
    ExportedSettings,
    FingerprintSettings,
    HogSettings,
    HttpSettings,
    NetworkSettings,
    PcaSettings,
)
from image_similarity.stages.embeddings import prepare, published
from image_similarity.stages.embeddings.prepare import PreparedFingerprint
from image_similarity.stages.embeddings.projections import MEAN
from image_similarity.warehouse.records import Record
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.snapshot import POINTER, Pointer, Snapshot, open_snapshot

NOW = datetime(2026, 1, 2, tzinfo=timezone.utc)
HTTP = HttpSettings()
NETWORK = NetworkSettings(network="squeezenet1_1", layer="features.3", pooling="average", weights=("untrained",))
KEY = "fingerprint_key"


def of_file(path: Path | str) -> NetworkSettings:
    return NETWORK.model_copy(update={"weights": (str(path),)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights: ``good.pth``, ``other.pth``, and the program ``encoder.pt2``."""
    made = tmp_path_factory.mktemp("weights")
    for seed, name in enumerate(("good.pth", "other.pth"), 1):
        torch.save(networks.untrained_state(NETWORK.network, seed), made / name)
    programs.save(made / "encoder.pt2", side=32)
    return made


def publish(warehouse: Path, name: str, settings: Any, **different: Any) -> Snapshot:
    """A warehouse in which a run with ``settings`` has published the embeddings ``name``."""
    before = open_snapshot(str(warehouse)).pointer
    run = f"r{len(before.runs('runs'))}"
    folder = warehouse / "runs" / f"run_id={run}"
    folder.mkdir(parents=True)
    values = {
        **{"run_id": run, "label": None, "job": "embed_images", "slot": name, "status": "published", "inputs": {}},
        **{"outputs": {}, "settings": settings, "counts": {}, "versions": {}, "seconds": 1.0, "stages": {}},
        **{"recall": None, "started_at": NOW, "finished_at": NOW},
    }
    made = Record(**{**values, **different})
    (folder / "part-00000.parquet").write_bytes(made.as_parquet())
    pointer = before.changed({"embeddings": {name: run}}, {"runs": {"": run}})
    (warehouse / POINTER).write_bytes(pointer.as_json())
    return open_snapshot(str(warehouse))


def published_as(
    warehouse: Path, declared: FingerprintSettings, name: str = "tiny"
) -> tuple[Snapshot, PreparedFingerprint]:
    """A warehouse with ``declared``, and what it was embedded by."""
    folder = warehouse / "of workers"
    folder.mkdir(parents=True)
    prepared = prepare.prepare(name, declared, folder, HTTP)
    return publish(warehouse, name, prepare.record(name, declared, prepared)), prepared


def pictures(side: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)


def same_vectors(one: PreparedFingerprint, other: PreparedFingerprint) -> None:
    images = pictures(one.spec.framing.crop)
    expected = one.load("cpu")(images)
    assert expected.any() and np.array_equal(expected, other.load("cpu")(images))


KINDS = {
    "untrained": lambda folder: NETWORK,
    "network": lambda folder: of_file(folder / "good.pth"),
    "default layer": lambda folder: NetworkSettings(network="squeezenet1_1", weights=(str(folder / "good.pth"),)),
    "lab": lambda folder: ColourHistogramSettings(kind="colour-histogram", space="lab", bins=(4, 3, 2)),
    "hog": lambda folder: HogSettings(kind="hog", size=32, cell=8, decoding="full"),
    "exported": lambda folder: ExportedSettings(
        kind="exported", weights=(str(folder / "encoder.pt2"),), mean=(0.5, 0.5, 0.5), pooling="average"
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("in_memory", [True, False], ids=["for this process", "for workers"])
def test_it_is_prepared_as_it_was(folder: Path, tmp_path: Path, kind: str, in_memory: bool) -> None:
    declared = KINDS[kind](folder)
    snapshot, before = published_as(tmp_path, declared)
    again = published.prepare_published(snapshot, "tiny", None if in_memory else tmp_path, HTTP)
    assert again.spec == before.spec and again.spec.key == before.spec.key
    assert again.used == before.used
    same_vectors(before, again)
    recorded = published.declared_of(snapshot, "tiny")
    assert recorded == type(declared).model_validate({**declared.model_dump(), **before.completed})


def test_nothing_is_taken_from_settings_or_weights_of_today(folder: Path, tmp_path: Path) -> None:
    """The preset of torchvision's weights decides how pictures are framed: a file in their place changes nothing."""
    declared = NETWORK.model_copy(update={"weights": ("IMAGENET1K_V1",)})
    state = torch.load(folder / "good.pth")
    made = networks.prepare(NETWORK.network, "features.3", state, pooling="average", source="good.pth")
    enlarged = replace(made.network, framing=Framing(100, 90, "bicubic"))
    used = PreparedFingerprint(enlarged, used={"weights": "IMAGENET1K_V1", "trained": True})
    snapshot = publish(tmp_path, "tiny", prepare.record("tiny", declared, used))
    again = published.prepare_published(snapshot, "tiny", None, HTTP, {"tiny": str(folder / "good.pth")})
    assert again.spec == enlarged
    assert again.load("cpu")(pictures(90)).shape == (2, 128)


def test_only_the_weights_that_were_used_are_looked_for(folder: Path, tmp_path: Path) -> None:
    declared = NETWORK.model_copy(update={"weights": (str(folder / "gone.pth"), "untrained")})
    snapshot, _ = published_as(tmp_path, declared)
    torch.save(networks.untrained_state(NETWORK.network, 5), folder / "gone.pth")  # it is back, and other
    try:
        assert published.prepare_published(snapshot, "tiny", None, HTTP).used["trained"] is False
    finally:
        (folder / "gone.pth").unlink()


def projected(warehouse: Path, base: Snapshot, base_key: str, dimensions: int) -> tuple[Snapshot, pca.Projection]:
    """A warehouse in which ``few`` is a projection of the vectors that are published as ``tiny``."""
    vectors = np.random.default_rng(1).normal(size=(20, 128)).astype(np.float32)
    fitted = pca.fit(vectors, dimensions, 0)
    key = pca.key_of(base_key, fitted)
    declared = PcaSettings(kind="pca", base="tiny", dimensions=dimensions)
    settings = {"fingerprint": {"few": declared.model_dump()}, KEY: key, "base_key": base_key}
    snapshot = publish(warehouse, "few", settings)
    run = snapshot.run_ids("embeddings", "few")[0]
    made = replace(snapshot.runs[run], inputs={"embeddings": base.run_ids("embeddings", "tiny")})
    (warehouse / "runs" / f"run_id={run}" / "part-00000.parquet").write_bytes(made.as_parquet())
    common = {"fingerprint": "few", KEY: key, "base_key": base_key, "sample": 20, "seed": 0}
    rows = [{**common, "component": MEAN, "weights": fitted.mean}]
    rows += [{**common, "component": number, "weights": each} for number, each in enumerate(fitted.components)]
    (warehouse / "projections" / "run_id=p").mkdir(parents=True)
    table = pa.Table.from_pylist(rows[::-1], SCHEMAS["projections"])
    pq.write_table(table, warehouse / "projections" / "run_id=p" / "p.parquet")
    pointer = snapshot.pointer.changed({"projections": {"few": "p"}}, {})
    (warehouse / POINTER).write_bytes(pointer.as_json())
    return open_snapshot(str(warehouse)), fitted


def test_a_projection_embeds_by_its_base_and_projects(folder: Path, tmp_path: Path) -> None:
    weights = tmp_path / "moved.pth"
    weights.write_bytes((folder / "good.pth").read_bytes())
    base, before = published_as(tmp_path, of_file(weights))
    projected(tmp_path, base, before.spec.key, 3)
    images = pictures(before.spec.framing.crop)
    expected = before.load("cpu")(images)
    # The base was embedded anew meanwhile, in another way: the projection's vectors are those of the base before.
    other = prepare.prepare("tiny", of_file(folder / "other.pth"), tmp_path, HTTP)
    publish(tmp_path, "tiny", prepare.record("tiny", of_file(folder / "other.pth"), other))
    snapshot = open_snapshot(str(tmp_path))
    again = published.prepare_published(snapshot, "few", tmp_path, HTTP)
    assert again.spec.key == snapshot.runs[snapshot.run_ids("embeddings", "few")[0]].settings[KEY]
    assert again.spec.uses_torch and again.file is not None
    projection = again.spec.projection  # type: ignore[attr-defined]
    np.testing.assert_array_equal(again.load("cpu")(images), projection(expected))
    weights.unlink()
    with pytest.raises(WrongInput, match=r"fingerprint tiny: .*moved\.pth.*weights=\{'tiny': FILE\}"):
        published.prepare_published(snapshot, "few", None, HTTP)
    for name in ("few", "tiny"):  # either names the base's weights
        there = published.prepare_published(snapshot, "few", None, HTTP, {name: str(folder / "good.pth")})
        assert there.spec.key == again.spec.key


def test_a_projection_that_is_gone_is_told(folder: Path, tmp_path: Path) -> None:
    base, before = published_as(tmp_path, ColourHistogramSettings(kind="colour-histogram", bins=(8, 4, 4)))
    snapshot, _ = projected(tmp_path, base, before.spec.key, 3)
    pq.write_table(SCHEMAS["projections"].empty_table(), tmp_path / "projections" / "run_id=p" / "p.parquet")
    with pytest.raises(JobFailed, match=r"fingerprint few: its projection \(key \w{16}\) is gone"):
        published.prepare_published(snapshot, "few", None, HTTP)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_weights_that_are_gone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.pth").write_bytes((folder / "good.pth").read_bytes())
    snapshot, before = published_as(tmp_path, of_file(tmp_path / "mine.pth"))
    (tmp_path / "mine.pth").rename(tmp_path / "mine-moved.pth")
    (tmp_path / "mine.py").touch()
    with pytest.raises(WrongInput, match=r"fingerprint tiny: .*no such file: .*mine\.pth") as raised:
        published.prepare_published(snapshot, "tiny", None, HTTP)
    assert "--weights tiny=FILE (in Python weights={'tiny': FILE})" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "; did you mean mine-moved.pth? Name a file" in str(raised.value)
    again = published.prepare_published(snapshot, "tiny", None, HTTP, {"tiny": str(folder / "good.pth")})
    same_vectors(before, again)


def test_weights_that_cannot_be_reached(folder: Path, tmp_path: Path) -> None:
    snapshot, _ = published_as(tmp_path, of_file(folder / "good.pth"))
    with pytest.raises(
        JobFailed, match=r"tiny: weights http://127.0.0.1:9/a.pth .* cannot be reached: .*--weights"
    ) as raised:
        published.prepare_published(snapshot, "tiny", None, HTTP, {"tiny": "http://127.0.0.1:9/a.pth"})
    assert "--network" not in str(raised.value), "that advice is for those who embed"


@pytest.mark.parametrize("file", ["other.pth", "other.pt2"])
def test_other_weights_are_refused_with_both_keys(folder: Path, tmp_path: Path, file: str) -> None:
    programs.save(folder / "other.pt2", side=32, seed=1)
    kind = "network" if file.endswith(".pth") else "exported"
    snapshot, before = published_as(tmp_path, KINDS[kind](folder))
    with pytest.raises(WrongInput, match="are not those of the collection") as raised:
        published.prepare_published(snapshot, "tiny", None, HTTP, {"tiny": str(folder / file)})
    text = str(raised.value)
    assert file in text and f"published: key {before.spec.key}" in text and "; published" in text
    assert text.count("key ") == 2 and "\n" not in text


def test_weights_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "few.pth")
    snapshot, _ = published_as(tmp_path, NETWORK)
    with pytest.raises(WrongInput, match=r"fingerprint tiny: weights .*few\.pth are not for squeezenet1_1 up to"):
        published.prepare_published(snapshot, "tiny", None, HTTP, {"tiny": str(tmp_path / "few.pth")})


@pytest.mark.parametrize(
    "address",
    [
        "https://models.example/a.pth?signature=x",
        "https://me:secret@models.example/a.pth",
        "s3://me:secret@bucket/a.pth",
    ],
)
def test_an_address_that_is_recorded_in_part_is_not_asked(folder: Path, tmp_path: Path, address: str) -> None:
    prepared = prepare.prepare("tiny", of_file(folder / "good.pth"), tmp_path, HTTP)
    used = replace(prepared, used={"weights": address, "trained": True})
    snapshot = publish(tmp_path, "tiny", prepare.record("tiny", of_file(folder / "good.pth"), used))
    with pytest.raises(WrongInput, match=r"an address that records keep only in part.*weights=\{'tiny'"):
        published.prepare_published(snapshot, "tiny", None, HTTP)
    assert published.prepare_published(snapshot, "tiny", None, HTTP, {"tiny": str(folder / "good.pth")})


def test_random_weights_of_another_version_of_torch(tmp_path: Path) -> None:
    prepared = prepare.prepare("tiny", NETWORK, tmp_path, HTTP)
    then = replace(prepared, spec=replace(prepared.spec, weights_sha256="0" * 64))  # type: ignore[call-arg]
    snapshot = publish(tmp_path, "tiny", prepare.record("tiny", NETWORK, then), versions={"torch": "1.2.3"})
    with pytest.raises(WrongInput, match=r"random weights of torch .* are not those of torch 1\.2\.3") as raised:
        published.prepare_published(snapshot, "tiny", None, HTTP)
    assert then.spec.key in str(raised.value) and prepared.spec.key in str(raised.value)


@pytest.mark.parametrize("kind", ["network", "hog"])
def test_a_version_that_computes_other_vectors(
    folder: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, _ = published_as(tmp_path, KINDS[kind](folder))
    monkeypatch.setattr(spec, "PIXELS_VERSION", spec.PIXELS_VERSION + 1)
    with pytest.raises(
        WrongInput, match=rf"computes other vectors \(key \w+\) .* \(key {snapshot.runs['r0'].settings[KEY]}\)"
    ):
        published.prepare_published(snapshot, "tiny", None, HTTP)


@pytest.mark.parametrize("description", [{}, {"framing": {"side": 3}}, {"framing": asdict(Framing(3, 3)), "odd": 1}])
def test_a_record_of_another_version(tmp_path: Path, description: Any) -> None:
    settings = {"fingerprint": {"tiny": NETWORK.model_dump()}, KEY: "0", "description": description}
    with pytest.raises(WrongInput, match=r"published by another version of this program \(run r0\)"):
        published.prepare_published(publish(tmp_path, "tiny", settings), "tiny", None, HTTP)


def test_settings_that_cannot_be_read(tmp_path: Path) -> None:
    settings = {"fingerprint": {"tiny": {"kind": "hog", "size": "large"}}, KEY: "0", "description": {}}
    with pytest.raises(JobFailed, match="the settings in the record of run r0 cannot be read"):
        published.declared_of(publish(tmp_path, "tiny", settings), "tiny")


def test_what_is_not_published(tmp_path: Path) -> None:
    snapshot = publish(tmp_path, "squeezenet", {})
    with pytest.raises(WrongInput, match=r"no fingerprint 'squeezenut' is published in .*; did you mean squeezenet\?"):
        published.record_of(snapshot, "squeezenut")
    with pytest.raises(WrongInput, match=r"no fingerprint 'x' is published in .*; published are: squeezenet"):
        published.record_of(snapshot, "x")
    own = Snapshot(snapshot.uri, Pointer(1, {"neighbours": {"external/cosine": ["r0"]}}), snapshot.files)
    with pytest.raises(WrongInput, match="external are vectors of your own: .*search by a vector"):
        published.prepare_published(own, "external", None, HTTP)
    lost = Snapshot(snapshot.uri, Pointer(1, {"embeddings": {"tiny": ["r9"]}}), snapshot.files)
    with pytest.raises(JobFailed, match="fingerprint tiny: the record of its run r9 is gone"):
        published.record_of(lost, "tiny")


def test_spark_is_not_imported() -> None:
    program = "import sys; from image_similarity.stages.embeddings import published; sys.exit('pyspark' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


# -- classifiers -------------------------------------------------------------------------------------------------------


def test_the_classifier_of_a_published_network_is_that_of_its_weights(folder: Path, tmp_path: Path) -> None:
    declared = NetworkSettings(network="resnet18", weights=(str(tmp_path / "own.pth"),))
    torch.save(networks.untrained_state("resnet18", 0), tmp_path / "own.pth")
    snapshot, before = published_as(tmp_path / "warehouse", declared)
    after = published.classifier_of(snapshot, "tiny", published.declared_of(snapshot, "tiny"), HTTP)
    assert after.classifier is not None and before.classifier is not None and after.reason == ""
    assert after.classifier.key == before.classifier.key and after.classifier.classes == before.classifier.classes
    vectors = before.load("cpu", batch=2)(pictures(224))
    np.testing.assert_array_equal(after.classifier.logits(vectors), before.classifier.logits(vectors))
    (tmp_path / "few.txt").write_text("cat\ndog\n")
    with pytest.raises(WrongInput, match="few.txt has 2 classes, but the weights tell 1,000 apart"):
        few = declared.model_copy(update={"classes": str(tmp_path / "few.txt")})
        published.classifier_of(snapshot, "tiny", few, HTTP)
    torch.save(networks.untrained_state("resnet18", 1), tmp_path / "own.pth")
    with pytest.raises(WrongInput, match="are not those of the collection .key .*; published: key "):
        published.classifier_of(snapshot, "tiny", declared, HTTP)


def test_another_classifier_after_the_same_layers_is_refused(folder: Path, tmp_path: Path) -> None:
    """Its logits of the same vectors are others. Records of earlier versions tell no classifier."""
    declared = NetworkSettings(network="resnet18", weights=(str(tmp_path / "own.pth"),))
    state = dict(networks.untrained_state("resnet18", 0))
    torch.save(state, tmp_path / "own.pth")
    snapshot, before = published_as(tmp_path / "warehouse", declared)
    torch.save({**state, "fc.bias": state["fc.bias"] + 1}, tmp_path / "own.pth")
    assert before.classifier is not None
    key = rf"another classifier \(key [0-9a-f]{{16}}; when images were embedded: {before.classifier.key}\). Name a file"
    with pytest.raises(WrongInput, match=key):
        published.classifier_of(snapshot, "tiny", declared, HTTP)
    settings = published.record_of(snapshot, "tiny").settings
    assert isinstance(settings, dict)
    del settings["classifier_key"]
    assert published.classifier_of(snapshot, "tiny", declared, HTTP).classifier is not None


def test_a_published_programs_classes_need_no_program(tmp_path: Path) -> None:
    file = programs.save(tmp_path / "own.pt2", side=32, module=programs.Classifying())
    (tmp_path / "four.txt").write_text("\n".join(programs.CLASSES))
    declared = ExportedSettings(
        kind="exported", weights=(str(file),), outputs=("vector", "logits"), classes=str(tmp_path / "four.txt")
    )
    snapshot, before = published_as(tmp_path / "warehouse", declared)
    file.unlink()
    after = published.classifier_of(snapshot, "tiny", published.declared_of(snapshot, "tiny"), HTTP)
    assert after.classifier and before.classifier and after.classifier.key == before.classifier.key
    assert after.classifier.classes == programs.CLASSES and not after.classifier.from_vectors


def test_why_a_published_fingerprint_has_no_classifier(tmp_path: Path) -> None:
    snapshot, _ = published_as(tmp_path / "untrained", NETWORK)
    trained_or_not = NETWORK.model_copy(update={"weights": ("gone.pth", "untrained")})
    assert "untrained" in published.classifier_of(snapshot, "tiny", trained_or_not, HTTP).reason
    file = programs.save(tmp_path / "own.pt2", side=32, module=programs.Classifying())
    declared = ExportedSettings(kind="exported", weights=(str(file),))
    snapshot, _ = published_as(tmp_path / "program", declared)
    now = declared.model_copy(update={"outputs": ("vector", "logits"), "classes": "imagenet"})
    assert "embeddings.recheck=always" in published.classifier_of(snapshot, "tiny", now, HTTP).reason
