"""tag_images in its own process, without Spark: what it publishes, says and refuses. The classifier is made."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from image_similarity.jobs import command_line, published_classifiers, tag_images
from image_similarity.jobs.command_line import main
from image_similarity.jobs.published_classifiers import Prepared
from image_similarity.settings import ExportedSettings, load
from image_similarity.stages.embeddings.class_names import imagenet
from image_similarity.stages.tags import in_process
from image_similarity.stages.tags.scores import SCORES, as_batch
from image_similarity.tagging.scores import kept
from image_similarity.warehouse.records import Record
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.snapshot import open_snapshot
from warehouses import Made, sha256

CLASSES = ("apple", "pear", "plum", "cherry")


@dataclass(frozen=True)
class Identity:
    """A classifier whose logits are the vectors."""

    classes: tuple[str, ...] = CLASSES
    from_vectors: bool = True
    key: str = "c1"
    names_key: str = "n1"

    def logits(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        return vectors


def certain(number: int, logit: float = 9.0) -> list[float]:
    """Logits that speak for one class."""
    return [logit if place == number else 0.0 for place in range(len(CLASSES))]


VECTORS = {"a": certain(0), "b": certain(1), "c": [0.0] * 4, "d": certain(0, 2.0), "old": certain(3)}
CONTENTS = {"z.jpg": "a", "b.jpg": "b", "a.jpg": "a", "c.jpg": "c", "d.jpg": "d"}
"""Two images have the same bytes, and nobody has the content ``old``."""


@dataclass
class Place:
    warehouse: Made
    monkeypatch: pytest.MonkeyPatch

    def embed(self, contents: dict[str, str] = CONTENTS, vectors: dict[str, Any] = VECTORS, **more: Any) -> None:
        self.warehouse.embeddings(contents, vectors, fingerprint="net", **more)

    def keep_classes(self, contents: Iterable[str], slot: str = "k1/c1") -> None:
        """As embed_images keeps them."""
        logits = np.array([VECTORS[content] for content in contents], np.float32)
        scores = as_batch(pa.array(list(map(sha256, contents)), pa.string()), kept(logits))
        table = pa.Table.from_batches([scores])
        self.warehouse.publish("embed_images", "net", {"class_scores": {slot: table}}, append={"class_scores": slot})

    def keep_as_not_finite(self, contents: Iterable[str]) -> None:
        """As embed_images keeps what has logits that are not finite."""
        rows: list[dict[str, Any]]
        rows = [{"content_sha256": sha256(content), "classes": [], "logits": [], "rest": None} for content in contents]
        table = pa.Table.from_pylist(rows, SCORES)
        slots = {"class_scores": {"k1/c1": table}}
        self.warehouse.publish("embed_images", "net", slots, append={"class_scores": "k1/c1"})

    def classify(self, classifier: Any, key: str = "k1") -> None:
        self.monkeypatch.setattr(published_classifiers, "prepared", lambda *_: Prepared(classifier, key))

    def run(self, *arguments: str) -> int:
        return main(tag_images, ["--warehouse", self.warehouse.uri, *arguments])

    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = open_snapshot(self.warehouse.uri).table("tags").to_pylist()
        return rows

    def tags(self) -> dict[str, str | None]:
        """image_id -> its tag."""
        return {row["image_id"]: row["class"] if row["accepted"] else None for row in self.rows() if row["rank"] == 1}

    def record(self) -> Record:
        return list(open_snapshot(self.warehouse.uri).runs.values())[-1]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(command_line, "open_session", lambda name: pytest.fail("Spark was started"))
    monkeypatch.setattr(published_classifiers, "why_none", lambda *_: "")
    made = Place(Made(str(tmp_path / "w")), monkeypatch)
    made.warehouse.manifest(dict.fromkeys(CONTENTS, "v1"))
    made.classify(Identity())
    return made


TAGS = {"a.jpg": "apple", "b.jpg": "pear", "c.jpg": None, "d.jpg": "apple", "z.jpg": "apple"}


def test_images_are_tagged_by_their_vectors_where_they_are_sure_enough(place: Place, capsys: Any) -> None:
    place.embed()
    assert place.run() == 0
    assert place.tags() == TAGS
    rows = place.rows()
    assert {row["image_id"]: row["content_sha256"] for row in rows} == {
        image_id: sha256(content) for image_id, content in CONTENTS.items()
    }
    assert [(row["image_id"], row["rank"]) for row in rows] == sorted((row["image_id"], row["rank"]) for row in rows)
    assert {row["fingerprint"] for row in rows} == {"net"} and {row["wnid"] for row in rows} == {None}
    first = {row["image_id"]: row["probability"] for row in rows if row["rank"] == 1}
    assert first["d.jpg"] == pytest.approx(np.exp(2) / (np.exp(2) + 3)) and first["c.jpg"] == pytest.approx(0.25)
    told = capsys.readouterr().out
    assert "4 of 5 images have a tag, 1 has none" in told and "apple 3, pear 1" in told
    counts = place.record().counts
    assert (counts["tagged"], counts["untagged"], counts["without_scores"]) == (4, 1, 0)
    assert counts["rows"] == len(rows) == 15 and counts["most_frequent"] == {"apple": 3, "pear": 1}
    assert place.record().inputs.keys() == {"embeddings", "vectors"}


def test_classes_that_were_kept_give_the_same_tags(place: Place) -> None:
    place.embed()
    assert place.run() == 0
    expected = place.rows()
    place.keep_classes("abcd")
    place.classify(Identity(from_vectors=False))
    assert place.run() == 0
    assert place.rows() == expected
    assert place.record().inputs.keys() == {"embeddings", "class_scores"}


def test_classes_that_another_classifier_gave_are_not_read(place: Place, capsys: Any) -> None:
    """Its scores would get the names of this one's classes."""
    place.embed()
    place.keep_classes("abcd")
    place.keep_classes("ab", "k1/c2")
    place.classify(Identity(from_vectors=False, key="c2"))
    assert place.run() == 0
    assert place.record().counts["without_scores"] == 2 and set(place.tags()) == {"a.jpg", "b.jpg", "z.jpg"}
    told = capsys.readouterr()
    assert "2 images of net have no tags: no classes of this classifier were kept when they were embedded" in (
        told.out + told.err
    )
    place.classify(Identity(from_vectors=False, key="c3"))
    assert place.run() == 2
    assert "no classes of this classifier were kept when the images of net were embedded" in capsys.readouterr().err


def test_images_whose_classes_were_not_kept_are_told_with_what_to_do(place: Place, capsys: Any) -> None:
    place.embed()
    place.keep_classes("ab")
    place.classify(Identity(from_vectors=False))
    assert place.run() == 0
    assert place.tags() == {"a.jpg": "apple", "z.jpg": "apple", "b.jpg": "pear"}
    told = capsys.readouterr()
    assert "2 could not be judged" in told.out
    assert "2 images of net have no tags" in told.err + told.out
    assert "embed_images --fingerprint net --set embeddings.recheck=always" in told.err + told.out


@pytest.mark.parametrize("contents", [[], ["old"]])
def test_nothing_that_was_kept_is_refused_with_what_to_do(place: Place, contents: list[str], capsys: Any) -> None:
    place.embed()
    if contents:
        place.keep_classes(contents)
    place.classify(Identity(from_vectors=False))
    assert place.run() == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert (
        told.startswith("tag_images: error: no classes of this classifier were kept when the images of net were")
        and "embed_images --fingerprint net --set embeddings.recheck=always" in told
    )
    assert open_snapshot(place.warehouse.uri).slots("tags") == {}
    assert place.run("--where-possible") == 0
    assert not list(Path(place.warehouse.uri, "tags").glob("run_id=*")), "what was written is removed"


def test_logits_that_are_not_finite_are_counted_and_told(place: Place, capsys: Any) -> None:
    place.embed(vectors={**VECTORS, "b": [np.nan, 0, 0, 0], "d": [np.inf, 0, 0, 0]})
    assert place.run() == 0
    assert place.tags() == {"a.jpg": "apple", "c.jpg": None, "z.jpg": "apple"}
    assert place.record().counts["without_scores"] == 2
    told = capsys.readouterr()
    assert "2 images of net have no tags: of them the classifier makes values that are not finite" in (
        told.out + told.err
    )


def test_kept_logits_that_are_not_finite_are_told_apart_from_those_that_were_not_kept(
    place: Place, capsys: Any
) -> None:
    place.embed()
    place.keep_classes("b")
    place.keep_as_not_finite("a")
    place.classify(Identity(from_vectors=False))
    assert place.run() == 0
    assert place.tags() == {"b.jpg": "pear"}
    counts = place.record().counts
    assert (counts["without_scores"], counts["logits_not_finite"]) == (4, 2)
    told = capsys.readouterr().out
    assert "2 images of net have no tags: of them the classifier makes values that are not finite\n" in told
    assert "2 images of net have no tags: no classes of this classifier were kept when they were embedded" in told


@pytest.mark.parametrize("from_vectors", [True, False])
def test_where_no_logits_are_finite_that_is_the_reason(from_vectors: bool, place: Place, capsys: Any) -> None:
    """To embed the images again would not help."""
    place.embed(vectors=dict.fromkeys(VECTORS, [np.nan] * 4))
    place.keep_as_not_finite("abcd")
    place.classify(Identity(from_vectors=from_vectors))
    assert place.run() == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == "tag_images: error: of all images of net the classifier makes values that are not finite"


def test_the_flag_beats_the_setting(place: Place) -> None:
    place.embed()
    assert place.run("--set", "tags.threshold=0.1", "--threshold", "0.9") == 0
    assert place.tags() == {**TAGS, "d.jpg": None}
    assert place.record().settings["tags"]["threshold"] == 0.9
    assert place.run("--set", "tags.keep=1") == 0
    assert [row["rank"] for row in place.rows()] == [1] * 5


def test_a_store_of_several_batches(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.embed()
    assert place.run() == 0
    expected = place.rows()
    monkeypatch.setattr(in_process, "_BATCH_ROWS", 2)
    monkeypatch.setattr("image_similarity.stages.tags.table._IMAGES_AT_ONCE", 2)
    assert place.run() == 0
    assert place.rows() == expected


def test_a_fingerprint_that_gives_no_tags_is_no_fault_where_that_is_said(place: Place, capsys: Any) -> None:
    place.embed()
    assert place.run() == 0 and place.rows()

    def refused(*_: Any) -> Prepared:
        raise published_classifiers.NoTags("fingerprint net has no classifier: untrained")

    place.monkeypatch.setattr(published_classifiers, "prepared", refused)
    assert place.run() == 2
    assert "error: fingerprint net has no classifier: untrained" in capsys.readouterr().err and place.rows()
    place.monkeypatch.setattr(published_classifiers, "why_none", lambda *_: "untrained")
    runs = len(open_snapshot(place.warehouse.uri).runs)
    assert place.run("--where-possible") == 0 and place.rows(), "they may be of classes that were named by hand"
    assert len(open_snapshot(place.warehouse.uri).runs) == runs
    assert "stay: their vectors did not change" in capsys.readouterr().out
    place.monkeypatch.setattr(published_classifiers, "key_of", lambda *_: "k2")
    assert place.run("--where-possible", "--dry-run") == 0 and place.rows(), "a plan changes nothing"
    assert place.run("--where-possible") == 0
    told = capsys.readouterr().out
    assert "no tags: fingerprint net has no classifier" in told and "not published any more" in told
    assert open_snapshot(place.warehouse.uri).slots("tags") == {}, "they were of vectors that are gone"
    assert place.record().removed == {"tags": ["net"]}
    runs = len(open_snapshot(place.warehouse.uri).runs)
    assert place.run("--where-possible") == 0
    assert len(open_snapshot(place.warehouse.uri).runs) == runs


def test_a_dry_run_says_the_plan_and_prepares_nothing(place: Place, capsys: Any) -> None:
    place.embed()
    place.monkeypatch.setattr(published_classifiers, "prepared", lambda *_: pytest.fail("weights were prepared"))
    assert place.run("--dry-run") == 0
    told = capsys.readouterr().out
    assert "tag 5 images by the classifier of net, where a probability is 0.5 or more" in told
    assert "in this process, without Spark: all is on this machine" in told
    assert place.rows() == []


def test_what_a_label_has_published_is_not_done_again(place: Place, capsys: Any) -> None:
    place.embed()
    assert place.run("--run-id", "night") == 0
    place.monkeypatch.setattr(published_classifiers, "prepared", lambda *_: pytest.fail("weights were prepared"))
    assert place.run("--run-id", "night") == 0
    assert "already published under the label 'night'" in capsys.readouterr().out


def test_no_image_with_a_vector(place: Place, capsys: Any) -> None:
    place.embed(contents={}, vectors={}, failures={"a.jpg": "corrupt"})
    assert place.run() == 2
    assert "no image has a vector by net: there is nothing to tag" in capsys.readouterr().err


LABELS = {"a.jpg": "apple", "z.jpg": "apple", "b.jpg": "plum", "c.jpg": "Pear", "d.jpg": "a still life"}


@pytest.fixture
def labelled(place: Place) -> Place:
    """The third of five is wrong; of the fourth nothing is said; the fifth is no class."""
    rows = [
        {"image_id": image, "uri": f"/{image}", "attributes": [("what", label), ("file", image), ("who", "Renoir")]}
        for image, label in LABELS.items()
    ]
    table = pa.Table.from_pylist(rows, SCHEMAS["manifest"])
    place.warehouse.publish("build_manifest", "", {"manifest": {"": table}})
    place.embed()
    return place


@pytest.mark.parametrize("from_vectors", [True, False])
def test_labels_tell_how_sure_tags_are(labelled: Place, from_vectors: bool, capsys: Any) -> None:
    labelled.keep_classes("abcd")
    labelled.classify(Identity(from_vectors=from_vectors))
    assert labelled.run("--label", "what") == 0
    measured = labelled.record().counts["calibration"]
    assert (measured["labelled"], measured["coverage"], measured["precision"]) == (4, 0.75, round(2 / 3, 4))
    assert (measured["unmatched"], measured["unmatched_images"]) == ({"a still life": 1}, 1)
    assert measured["attribute"] == labelled.record().settings["label"] == "what"
    told = capsys.readouterr().out
    assert "measured against the what of 4 images: 0.750 have a tag; the first tag is right in 0.667 of them" in told
    assert "these are few labels: any of the shares may be off by 0.50" in told
    assert "which temperature fits best cannot be told: 4 labels fit any from" in told and "--set tags" not in told
    assert measured["best_temperature"] is None and measured["labels_for_temperature"] > 4
    assert "not measured: 1 image whose label is no class: a still life 1" in told


@pytest.mark.parametrize(
    ("attribute", "because"),
    [
        ("what ", "no image has that attribute (there are: file, what, who); did you mean what"),
        ("file", "no two of 5 images have the same value, as 'a.jpg'"),
        ("who", "its only value (Renoir) is not a class that net knows, or a parent of its classes"),
    ],
)
def test_labels_of_which_nothing_can_be_learned(labelled: Place, attribute: str, because: str, capsys: Any) -> None:
    assert labelled.run("--label", attribute) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and f"--label {attribute}: {because}" in told[0]
    assert labelled.rows() == []


def test_many_labels_are_measured_by_a_sample(labelled: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("image_similarity.stages.tags.labels.MOST_MEASURED", 3)
    assert labelled.run("--label", "what") == 0
    first = labelled.record().counts["calibration"]
    assert first["labelled"] + first["unmatched_images"] == 3
    assert labelled.run("--label", "what") == 0
    assert labelled.record().counts["calibration"] == first


def test_the_temperature_that_fits_is_told_where_labels_tell(place: Place, capsys: Any) -> None:
    """Of 400 images that say apple at .71, .6 are apples."""
    contents = {f"{number}.jpg": "d" for number in range(400)}
    rows = [
        {"image_id": image, "uri": f"/{image}", "attributes": [("what", "apple" if number < 240 else "plum")]}
        for number, image in enumerate(contents)
    ]
    place.warehouse.publish("build_manifest", "", {"manifest": {"": pa.Table.from_pylist(rows, SCHEMAS["manifest"])}})
    place.embed(contents)
    assert place.run("--label", "what") == 0
    told, best = capsys.readouterr().out, place.record().counts["calibration"]["best_temperature"]
    assert best == pytest.approx(2 / np.log(0.6 / 0.4 * 3), abs=2e-3)
    assert "0.000 at the temperature that fits best, 1.33 (--set tags.temperature)" in told
    assert "few labels" not in told and "cannot be told" not in told


def test_the_first_folder_is_a_label_where_no_attribute_is_called_so(place: Place, capsys: Any) -> None:
    contents = {"apple/1.jpg": "a", "apple/2.jpg": "d", "pear/1.jpg": "b", "3.jpg": "c", "there/4.jpg": "b"}
    rows = [
        {"image_id": image, "uri": f"/{image}", "attributes": [("folder", "pear")] if image == "there/4.jpg" else []}
        for image in contents
    ]
    place.warehouse.publish("build_manifest", "", {"manifest": {"": pa.Table.from_pylist(rows, SCHEMAS["manifest"])}})
    place.embed(contents)
    assert place.run("--label", "folder") == 0
    measured = place.record().counts["calibration"]
    assert (measured["labelled"], measured["precision"], measured["unmatched_images"]) == (4, 1.0, 0)
    assert place.run("--label", "folders") == 2
    assert "no image has that attribute" in capsys.readouterr().err


def test_lines_name_long_classes_by_their_beginning(labelled: Place, capsys: Any) -> None:
    labelled.classify(Identity(("apple" * 80, "pear" * 80, *CLASSES[2:])))
    assert labelled.run("--label", "what") == 0
    told = capsys.readouterr().out
    assert "most frequent of 2 different tags: appleapple" in told and "... 3, pearpear" in told
    assert max(map(len, told.splitlines())) < 250
    assert max(len(row["class"]) for row in labelled.rows()) == 400, "the table has them whole"


@pytest.mark.parametrize(
    ("change", "says"), [("misspelt", "count as ImageNet's there"), ("swapped", "no class has parents")]
)
def test_names_that_are_nearly_imagenets_are_told(place: Place, change: str, says: str, capsys: Any) -> None:
    names = list(imagenet())
    if change == "misspelt":
        names[281] = "tabby catt"
    else:
        names[281], names[282] = names[282], names[281]
    logits = np.zeros(1000, np.float32)
    logits[281:284] = 9
    place.classify(Identity(tuple(names)))
    place.embed({"a.jpg": "cat"}, {"cat": list(map(float, logits))})
    assert place.run() == 0
    told = capsys.readouterr()
    assert says in told.out + told.err and f"{names[281]} (class 282)" in told.out + told.err
    assert place.tags() == {"a.jpg": "cat" if change == "misspelt" else None}


def test_labels_of_images_without_scores_are_not_measured(labelled: Place, capsys: Any) -> None:
    labelled.keep_classes("d")  # the only one whose label is no class
    labelled.classify(Identity(from_vectors=False))
    assert labelled.run("--label", "what") == 0
    assert "calibration" not in labelled.record().counts
    told = capsys.readouterr()
    assert "--label what: tags are not measured: no label is a class of the network" in told.out + told.err


# -- which fingerprints have a classifier ------------------------------------------------------------------------------


DECLARED: dict[str, tuple[dict[str, Any], str]] = {
    "colours": ({"kind": "colour-histogram"}, "colour histograms have no classifier"),
    "edges": ({"kind": "hog"}, "gradients have no classifier"),
    "less": ({"kind": "pca", "base": "net", "dimensions": 2}, "their base net may have one"),
    "program": ({"kind": "exported", "weights": ["p.pt2"]}, 'outputs = "vector, logits"'),
    "random": ({"network": "vgg16", "weights": ["IMAGENET1K_V1", "untrained"]}, "its weights are untrained (seed 0)"),
    "net": ({"network": "vgg16"}, ""),
}


@pytest.fixture
def several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Published fingerprints of each kind."""
    monkeypatch.setattr(command_line, "open_session", lambda name: pytest.fail("Spark was started"))
    made = Made(str(tmp_path / "w"))
    made.manifest({"a": "v1"})
    embeddings = pa.Table.from_pylist([{"image_id": "a", "fingerprint_key": "k"}], SCHEMAS["embeddings"])
    for name, (declared, _) in DECLARED.items():
        settings: dict[str, Any] = {"fingerprint": {name: declared}, "fingerprint_key": "k"}
        if name == "random":
            settings |= {"trained": False, "weights": "untrained (seed 0)"}
        made.publish("embed_images", name, {"embeddings": {name: embeddings}}, settings=settings)
    return Place(made, monkeypatch)


@pytest.mark.parametrize("name", [name for name in DECLARED if name != "net"])
def test_a_fingerprint_without_classifier_is_refused_before_anything_is_loaded(
    several: Place, name: str, capsys: Any
) -> None:
    assert several.run("--fingerprint", name) == 2
    told = capsys.readouterr().err
    assert f"fingerprint {name} has no classifier: " in told and DECLARED[name][1] in told
    assert told.endswith("published with one: net (--fingerprint NAME)\n") and told.count("\n") == 1


def test_classes_and_logits_may_be_declared_afterwards(several: Place, tmp_path: Path) -> None:
    """They change no vector."""
    published = open_snapshot(several.warehouse.uri)
    text = '{kind="exported",weights="elsewhere.pt2",outputs="vector, logits",classes="imagenet"}'
    settings = load([], [f"fingerprints.program={text}"])
    declared = published_classifiers.declared_of(published, settings, "program", None)
    assert isinstance(declared, ExportedSettings)
    assert (declared.weights, declared.outputs, declared.classes) == (("p.pt2",), ("vector", "logits"), "imagenet")
    named = published_classifiers.declared_of(published, settings, "program", "mine.txt")
    assert isinstance(named, ExportedSettings) and named.classes == "mine.txt"
    assert published_classifiers.why_none(published, settings, "program") == ""
