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
from image_similarity.jobs.published_classifiers import Prepared
from image_similarity.jobs.command_line import main
from image_similarity.stages.tags import in_process
from image_similarity.stages.tags.scores import as_batch
from image_similarity.tagging.scores import kept
from image_similarity.warehouse.records import Record
from image_similarity.warehouse.snapshot import open_snapshot
from warehouses import Made, sha256

CLASSES = ("apple", "pear", "plum", "cherry")


@dataclass(frozen=True)
class Identity:
    """A classifier whose logits are the vectors."""

    classes: tuple[str, ...] = CLASSES
    from_vectors: bool = True
    key: str = "c1"

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

    def keep_classes(self, contents: Iterable[str], key: str = "k1") -> None:
        """As embed_images keeps them."""
        logits = np.array([VECTORS[content] for content in contents], np.float32)
        scores = as_batch(pa.array(list(map(sha256, contents)), pa.string()), kept(logits))
        table = pa.Table.from_batches([scores])
        self.warehouse.publish("embed_images", "net", {"class_scores": {key: table}}, append={"class_scores": key})

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
    assert [(row["image_id"], row["rank"]) for row in rows] == sorted((row["image_id"], row["rank"]) for row in rows)
    assert {row["fingerprint"] for row in rows} == {"net"} and {row["wnid"] for row in rows} == {None}
    first = {row["image_id"]: row["probability"] for row in rows if row["rank"] == 1}
    assert first["d.jpg"] == pytest.approx(np.exp(2) / (np.exp(2) + 3)) and first["c.jpg"] == pytest.approx(0.25)
    told = capsys.readouterr().out
    assert "4 of 5 images have a tag, 1 have none" in told and "apple 3, pear 1" in told
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
    assert told.startswith("tag_images: error: the classes of net were not kept") and "embed_images --fingerprint net --set embeddings.recheck=always" in told
    assert open_snapshot(place.warehouse.uri).slots("tags") == {}
    assert not list(Path(place.warehouse.uri, "tags").glob("run_id=*")), "what was written is removed"


def test_logits_that_are_not_finite_are_counted_and_told(place: Place, capsys: Any) -> None:
    place.embed(vectors={**VECTORS, "b": [np.nan, 0, 0, 0], "d": [np.inf, 0, 0, 0]})
    assert place.run() == 0
    assert place.tags() == {"a.jpg": "apple", "c.jpg": None, "z.jpg": "apple"}
    assert place.record().counts["without_scores"] == 2
    told = capsys.readouterr()
    assert "2 images of net have no tags: of their vectors the classifier makes values that are not finite" in (
        told.out + told.err
    )


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
