"""What a gallery says of tables that were made of other ones than are published now, without Spark."""

from types import SimpleNamespace
from typing import Any

import pytest

from image_similarity.stages.gallery import sources, staleness
from image_similarity.warehouse.schemas import ALIKE, IDENTICAL, NEAR_DUPLICATES
from image_similarity.warehouse.workspace import COMPLETE

SLOT = "tiny/cosine"
PUBLISHED = {
    "manifest": {"": ["m2"]},
    "embeddings": {"tiny": ["e2"]},
    "neighbours": {SLOT: ["n"]},
    "groups": {f"{SLOT}/{IDENTICAL}": ["g"], f"{SLOT}/{NEAR_DUPLICATES}": ["g"]},
    "tags": {"tiny": ["t"]},
}
LABELS = {SLOT: "tiny"}


def shown(read: dict[str, dict[str, list[str]]], kept: tuple[str, ...] = ("e1", "e2")) -> sources.Sources:
    """What is `PUBLISHED`. ``read``: run -> what it has read. ``kept``: the runs of embeddings that are there."""
    snapshot: Any = SimpleNamespace(
        run_ids=lambda table, slot: PUBLISHED.get(table, {}).get(slot, []),
        runs={run: SimpleNamespace(inputs=inputs) for run, inputs in read.items()},
    )
    files = SimpleNamespace(entries=lambda folder: [COMPLETE] if folder.endswith(kept) else [])
    warehouse: Any = SimpleNamespace(uri="w", files=files, read=lambda table, runs: runs)
    return sources.Sources(warehouse, snapshot, LABELS)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The states that were compared: 1,234 images differ in each two."""
    states: list[Any] = []

    def changed(before: Any, now: Any, columns: Any) -> int:
        states.append((before, now))
        return 1234

    monkeypatch.setattr(staleness, "changed_images", changed)
    return states


def test_tables_of_what_is_published_are_not_stale(compared: list[Any]) -> None:
    of = shown({"n": {"embeddings": ["e2"]}, "t": {"embeddings": ["e2"]}, "g": {"neighbours": ["n"]}})
    assert staleness.of_neighbours(of, SLOT) == staleness.of_tags(of, "tiny") == []
    assert staleness.of_groups(of, SLOT, "g", [NEAR_DUPLICATES]) == [] == compared
    assert staleness.of_neighbours(shown({}), SLOT) == [], "nothing is recorded of that run"


def test_images_with_other_vectors_are_counted(compared: list[Any]) -> None:
    of = shown({"n": {"embeddings": ["e1"]}, "t": {"embeddings": ["e1"]}})
    assert staleness.of_neighbours(of, SLOT) == [
        "1,234 images have other vectors, or are new or gone, since the neighbours by tiny/cosine were found: "
        "run find_neighbours --fingerprint tiny --metric cosine"
    ]
    assert staleness.of_tags(of, "tiny") == [
        "1,234 images are others, new or gone since they were tagged by tiny: run tag_images --fingerprint tiny"
    ]
    assert compared == [(["e1"], ["e2"])] * 2


def test_one_image_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staleness, "changed_images", lambda *states: 1)
    of = shown({"n": {"embeddings": ["e1"]}, "t": {"embeddings": ["e1"]}})
    (line,) = staleness.of_neighbours(of, SLOT)
    assert line.startswith(
        "1 image has another vector, or is new or gone, since the neighbours by tiny/cosine were found"
    )
    (line,) = staleness.of_tags(of, "tiny")
    assert line.startswith("1 image is another, new or gone since it was tagged by tiny: run tag_images")


def test_vectors_that_are_gone_cannot_be_counted(compared: list[Any]) -> None:
    of = shown({"n": {"embeddings": ["e1"]}, "t": {"embeddings": ["e1"]}}, kept=("e2",))
    assert staleness.of_neighbours(of, SLOT) == [
        "tiny was embedded again since these neighbours were found: run find_neighbours --fingerprint tiny"
    ]
    assert staleness.of_tags(of, "tiny") == [
        "images were embedded as tiny since these tags were given: run tag_images --fingerprint tiny"
    ]
    assert compared == []


def test_groups_of_other_neighbours_are_made_again_by_kind() -> None:
    (line,) = staleness.of_groups(shown({"g": {"neighbours": ["n0"]}}), SLOT, "g", [IDENTICAL, NEAR_DUPLICATES, ALIKE])
    assert line.endswith(
        f"run group_images --fingerprint tiny --metric cosine --kind {NEAR_DUPLICATES} and --kind {ALIKE}"
    )


def test_what_goes_with_the_neighbours_that_are_shown() -> None:
    of = shown({})
    assert of.runs() == {
        "manifest": ["m2"],
        "neighbours": ["n"],
        "embeddings": ["e2"],
        "failures": [],
        "quality": [],
        "groups": ["g"],
        "tags": ["t"],
    }
    assert of.groups == (0, {"g": [IDENTICAL, NEAR_DUPLICATES]}) and of.tagger == "tiny"
