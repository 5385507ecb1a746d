"""The table class_scores: classes that embed_images keeps by content, where logits do not follow from vectors."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import programs
from image_similarity.errors import JobFailed
from image_similarity.jobs import build_manifest, embed_images
from image_similarity.stages.embeddings import classifiers
from processes import ask

Run = Any
COLOURS = {"red.png": (200, 100, 50), "green.png": (20, 240, 60), "blue.png": (10, 20, 250)}
"""Name -> colour. The classes 0, 1 and 2 are red, green and blue."""


class Collection:
    """Pictures of one colour, embedded by a program that also returns logits."""

    def __init__(self, run: Run, place: Path, runner: str):
        self._run, self.pictures, self.warehouse = run, place / "pictures", place / "w"
        program = programs.save_classifier(place / "program.pt2", 8)
        declared = f'kind="exported",weights="{program}",input_size=8,mean=[0,0,0],std=[1,1,1]'
        self._plain, self._classes = declared, f'{declared},classes="{place}/classes.txt"'
        self.names = place / "classes.txt"
        self._common = ["--warehouse", self.warehouse, "--set", "neighbours.fingerprint=colours"]
        self._common += ["--set", f"embeddings.runner={runner}", "--set", f"manifest.runner={runner}"]
        self.names.write_text("red\ngreen\nblue\n")
        self.pictures.mkdir()
        for name, colour in COLOURS.items():
            self.draw(name, colour)

    def draw(self, name: str, colour: tuple[int, int, int]) -> None:
        Image.new("RGB", (12, 10), colour).save(self.pictures / name)

    def embed(self, *arguments: object, outputs: str = "vector, logits", code: int = 0) -> None:
        """``outputs``: what the program's are said to be."""
        assert self._run(build_manifest, "--images", self.pictures, *self._common) == 0
        values = f'{self._classes if "logits" in outputs else self._plain},outputs="{outputs}"'
        declared = ["--set", f"fingerprints.colours={{{values}}}"]
        assert self._run(embed_images, *self._common, *declared, *arguments) == code

    def ask(self, query: str) -> list[Any]:
        return ask(self.warehouse, query)

    @property
    def classes(self) -> dict[str, list[int]]:
        """image_id -> its classes, the most probable first; of the only classifier."""
        by_classifier = self.by_classifier
        assert len(by_classifier) < 2
        return next(iter(by_classifier.values()), {})

    @property
    def by_classifier(self) -> dict[str, dict[str, list[int]]]:
        """key of a classifier -> image_id -> its classes."""
        columns = "s.classifier_key, e.image_id, s.classes"
        tables = "class_scores s JOIN embeddings e USING (content_sha256, fingerprint_key)"
        rows = self.ask(f"SELECT {columns} FROM {tables} ORDER BY 1, 2")
        keys = sorted({key for key, _, _ in rows})
        by_key = {key: {image: classes for of, image, classes in rows if of == key} for key in keys}
        assert sum(map(len, by_key.values())) == len(rows), "no content twice"
        return by_key

    @property
    def settings(self) -> dict[str, Any]:
        sql = "SELECT settings FROM runs WHERE job = 'embed_images' ORDER BY started_at DESC LIMIT 1"
        settings: dict[str, Any] = json.loads(self.ask(sql)[0][0])
        return settings

    @property
    def counts(self) -> dict[str, Any]:
        sql = "SELECT counts FROM runs WHERE job = 'embed_images' ORDER BY started_at DESC LIMIT 1"
        counts: dict[str, Any] = json.loads(self.ask(sql)[0][0])
        return counts

    def told(self) -> tuple[int, int, int]:
        counts = self.counts
        return counts["classes_added"], counts["without_classes"], counts["logits_not_finite"]


def killed(*_: Any, **__: Any) -> None:
    raise JobFailed("killed here")


@pytest.fixture(params=["process", "spark"])
def collection(run: Run, tmp_path: Path, request: pytest.FixtureRequest) -> Collection:
    return Collection(run, tmp_path, request.param)


RED, GREEN, BLUE = [0, 1, 2], [1, 2, 0], [2, 1, 0]
BY_ANOTHER = {"red.png": [2, 1, 0], "green.png": [1, 0, 2], "blue.png": [0, 1, 2]}
ANOTHER, ALWAYS = "vector, other, logits", ("--set", "embeddings.recheck=always")


def test_classes_are_kept_by_content(collection: Collection, capsys: Any) -> None:
    """Copies and images of another name have those of their content. Logits that are not finite leave no row."""
    collection.draw("copy.png", COLOURS["red.png"])
    collection.draw("black.png", (0, 0, 0))
    collection.embed()
    assert collection.classes == {"blue.png": BLUE, "copy.png": RED, "green.png": GREEN, "red.png": RED}
    assert collection.told() == (3, 1, 1)
    assert "classes: of 1 images the network's logits are not finite: they have no tags" in capsys.readouterr().out
    [(logits, rest)] = collection.ask(
        "SELECT logits, rest FROM class_scores WHERE content_sha256 IN "
        "(SELECT content_sha256 FROM embeddings WHERE image_id = 'red.png')"
    )
    np.testing.assert_allclose(logits, np.log(np.array([200, 100, 50]) / 255), atol=1e-3)
    assert rest == -math.inf, "all three classes were kept"
    (collection.pictures / "red.png").unlink()
    (collection.pictures / "blue.png").rename(collection.pictures / "renamed.png")
    collection.draw("new.png", (1, 2, 3))
    collection.embed()
    assert collection.classes == {"copy.png": RED, "green.png": GREEN, "new.png": BLUE, "renamed.png": BLUE}
    assert collection.counts["embedded"] == collection.counts["classes_added"] == 1
    assert collection.ask("SELECT count(*), count(DISTINCT content_sha256) FROM class_scores") == [(4, 4)]


def test_what_was_embedded_without_classes_is_embedded_again_on_request(collection: Collection, capsys: Any) -> None:
    """No content is twice in the store, and its key is the same."""
    collection.embed(outputs="vector")
    assert collection.classes == {} and "classes_added" not in collection.counts
    collection.draw("new.png", (1, 2, 3))
    capsys.readouterr()
    collection.embed()
    assert collection.classes == {"new.png": BLUE} and collection.told() == (1, 3, 0)
    told = "classes: 3 images were embedded without this classifier; --set embeddings.recheck=always reads them again"
    assert told in capsys.readouterr().out
    collection.embed("--set", "embeddings.recheck=always")
    assert set(collection.classes) == {*COLOURS, "new.png"} and collection.told() == (3, 0, 0)
    assert (collection.counts["embedded"], collection.counts["vectors_added"]) == (3, 0)
    assert collection.ask("SELECT count(*), count(DISTINCT content_sha256) FROM vectors") == [(4, 4)]
    collection.embed("--set", "embeddings.recheck=always")
    assert collection.told() == (0, 0, 0) and collection.counts["embedded"] == 0


def test_another_classifier_of_the_same_vectors_has_classes_of_its_own(collection: Collection, capsys: Any) -> None:
    """It reads none of those that an earlier one left; and both stay."""
    collection.embed()
    [first] = collection.by_classifier
    collection.draw("new.png", (1, 2, 3))
    capsys.readouterr()
    collection.embed(outputs=ANOTHER)
    assert "classes: 3 images were embedded without this classifier; --set" in capsys.readouterr().out
    assert collection.told() == (1, 3, 0) and collection.counts["embedded"] == 1
    second = collection.settings["classifier_key"]
    of_first = {"blue.png": BLUE, "green.png": GREEN, "red.png": RED}
    assert collection.by_classifier == {first: of_first, second: {"new.png": [0, 1, 2]}}
    collection.embed(*ALWAYS, outputs=ANOTHER)
    assert collection.told() == (3, 0, 0)
    assert (collection.counts["embedded"], collection.counts["vectors_added"]) == (3, 0)
    assert collection.by_classifier == {first: of_first, second: {**BY_ANOTHER, "new.png": [0, 1, 2]}}
    collection.embed()
    assert collection.settings["classifier_key"] == first and collection.told() == (0, 1, 0)


def test_renamed_classes_need_no_image_again(collection: Collection) -> None:
    collection.embed()
    collection.names.write_text("rot\ngruen\nblau\n")
    collection.embed(*ALWAYS)
    assert collection.told() == (0, 0, 0) and collection.counts["embedded"] == 0
    assert len(collection.classes) == 3


def test_no_classifier_is_looked_for_when_tags_are_turned_off(
    collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifiers, "of_program", lambda *_: pytest.fail("it was looked for"))
    collection.embed("--set", "tags.enabled=false")
    assert collection.classes == {} and "classes_added" not in collection.counts


@pytest.mark.parametrize("recheck", [(), ALWAYS], ids=["", "recheck"])
def test_classes_of_another_classifier_in_checkpoints_are_passed_over(
    collection: Collection, recheck: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(embed_images, "_publish", killed)
        collection.embed(code=1)
    collection.embed(*recheck, outputs=ANOTHER)
    assert collection.told() == ((3, 0, 0) if recheck else (0, 3, 0))
    assert collection.classes == (BY_ANOTHER if recheck else {})
    assert collection.ask("SELECT count(*), count(DISTINCT content_sha256) FROM vectors") == [(3, 3)]


def test_a_run_that_was_not_published_left_its_classes(collection: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where an image has another name now."""
    with monkeypatch.context() as patched:
        patched.setattr(embed_images, "_publish", killed)
        collection.embed(code=1)
        (collection.pictures / "red.png").rename(collection.pictures / "later.png")
    collection.embed()
    assert collection.counts["resumed"] == 2 and collection.told() == (3, 0, 0)
    assert collection.classes == {"blue.png": BLUE, "green.png": GREEN, "later.png": RED}


@pytest.mark.parametrize("lacking", [["classifier_key", "classes", "logits", "rest"], ["classifier_key"]])
def test_checkpoints_of_an_earlier_version_have_no_classes(
    collection: Collection, lacking: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(embed_images, "_publish", killed)
        collection.embed(code=1)
    state = collection.warehouse / "_state" / "embed_images"
    for file in state.rglob("part-*.parquet"):
        if "embedding" in pq.read_schema(file).names:
            pq.write_table(pq.read_table(file).drop_columns(lacking), file)
    collection.draw("new.png", (1, 2, 3))
    collection.embed()
    assert collection.counts["resumed"] == 3 and collection.told() == (1, 3, 0)
    assert collection.classes == {"new.png": BLUE}
