"""`Collection.changes`: what differs between two runs of the same job and slot."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import image_similarity as ims
from image_similarity.collection import changes
from warehouses import Made, random_vectors, sha256


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(str(tmp_path / "warehouse"))


def refused(collection: ims.Collection, *names: str | None, **more: Any) -> str:
    with pytest.raises(ims.WrongInput) as raised:
        collection.changes(*names, **more)
    return str(raised.value)


def rows(collection: ims.Collection, *names: str | None, **more: Any) -> list[tuple[Any, ...]]:
    """The rows, without the columns that are null in all of them."""
    table = collection.changes(*names, **more)
    assert table.schema.equals(changes.GROUPS if "kind" in table.column_names else changes.IMAGES)
    used = [name for name in table.column_names if table[name].null_count < len(table)]
    return list(zip(*(table[name].to_pylist() for name in used)))


def test_neighbours(made: Made) -> None:
    made.neighbours({"a": ["b", "c"], "b": ["a", "c"], "c": ["a"], "gone": ["a", "b"]}, dissimilar={"a": ["gone"]})
    made.neighbours({"a": ["c", "b"], "b": ["a", "d"], "c": [], "d": ["b"]}, dissimilar={"a": ["d"]})
    collection = ims.open(made.uri)
    assert rows(collection) == [
        ("b", "changed", "neighbours", 1, 1),
        ("c", "gone", None, 0, 1),
        ("d", "appeared", None, 1, 0),
        ("gone", "gone", None, 0, 2),
    ], "the order within a list, and dissimilar ones, do not count"
    assert collection.changes().schema.metadata == {
        **{b"job": b"find_neighbours", b"slot": b"vgg16-fc2/cosine"},
        **{b"run_a": b"r00000001", b"run_b": b"r00000002"},
    }
    assert len(collection.changes("r00000001", "r00000001")) == 0


def test_neighbours_of_many_images_are_those_of_sets(made: Made) -> None:
    random = np.random.default_rng(7)
    nights = []
    for _ in range(2):
        names = [f"{number:03}" for number in sorted(random.choice(300, 250, replace=False))]
        nights.append({name: [str(other) for other in random.choice(names, 5, replace=False)] for name in names})
        made.neighbours(nights[-1])
    table = ims.open(made.uri).changes()
    then, now = nights
    expected = []
    for name in sorted({*then, *now}):
        before, after = set(then.get(name, [])), set(now.get(name, []))
        change = "appeared" if name not in then else "gone" if name not in now else "changed"
        if before != after:
            expected.append((name, change, len(after - before), len(before - after)))
    columns = ("image_id", "change", "entered", "dropped")
    assert list(zip(*(table[name].to_pylist() for name in columns))) == expected and len(expected) > 200


def test_embeddings(made: Made) -> None:
    vectors = random_vectors("ABCDE")
    made.embeddings({"a": "A", "b": "B", "broken": "C", "gone": "D"}, vectors)
    made.embeddings({"a": "A", "b": "E", "new": "D"}, {}, failures={"broken": "not_an_image"})
    collection = ims.open(made.uri)
    assert rows(collection, job="embed_images") == [
        ("b", "changed", "content", sha256("B"), sha256("E")),
        ("broken", "gone", "not_an_image", sha256("C"), None),
        ("gone", "gone", None, sha256("D"), None),
        ("new", "appeared", None, None, sha256("D")),
    ]
    made.embeddings({"a": "A", "b": "E", "new": "D"}, vectors, key="k2")
    later = collection.refresh()
    assert rows(later, job="embed_images")[0] == ("a", "changed", "fingerprint", "k1", "k2")
    assert len(rows(later, job="embed_images")) == 3


def test_manifests(made: Made) -> None:
    made.manifest({"a": "1", "b": "1", "gone": "1"})
    made.manifest({"a": "1", "b": "2", "new": "1"})
    assert rows(ims.open(made.uri), job="build_manifest") == [
        ("b", "changed", "file", "1", "2"),
        ("gone", "gone", None, "1", None),
        ("new", "appeared", None, None, "1"),
    ]


def test_groups(made: Made) -> None:
    made.groups({"g1": "abc", "g2": "de", "g3": "fg", "same": "xy"}, also={"identical": {"i": "ab"}})
    made.groups({"g4": "abd", "g5": "hi", "same": "xy"}, also={"identical": {"i": "ab"}})
    collection = ims.open(made.uri)
    assert rows(collection, job="group_images") == [
        ("near-duplicates", 0, "g2", "gone", None, 2, None, 0, 2),
        ("near-duplicates", 0, "g3", "gone", None, 2, None, 0, 2),
        ("near-duplicates", 0, "g4", "changed", "g1", 3, 3, 1, 1),
        ("near-duplicates", 0, "g5", "appeared", None, None, 2, 2, 0),
    ], "of two groups that share members with a new one, that with most has become it"


def test_runs_by_id_by_label_and_by_default(made: Made) -> None:
    """A label is that of a whole pipeline."""
    nights = {"monday": ["b"], "tuesday": ["c"], "wednesday": ["d"]}
    for label, others in nights.items():
        made.manifest({"a": label}, label=label)
        made.neighbours({"a": others}, label=label)
    collection = ims.open(made.uri)

    def pair(*names: str | None, **more: Any) -> tuple[str, str]:
        about = collection.changes(*names, **more).schema.metadata
        return about[b"run_a"].decode(), about[b"run_b"].decode()

    assert pair() == ("r00000004", "r00000006")
    assert pair("monday") == ("r00000002", "r00000006")
    assert pair(None, "tuesday") == ("r00000002", "r00000004")
    assert pair("monday", "tuesday") == ("r00000002", "r00000004")
    assert pair("tuesday", "monday") == ("r00000004", "r00000002")
    assert pair("monday", "tuesday", job="build_manifest") == ("r00000001", "r00000003")
    assert pair("r00000002", "wednesday") == ("r00000002", "r00000006")
    assert pair(job="build_manifest") == ("r00000003", "r00000005")
    assert "nothing to compare it with yet" in refused(collection, None, "monday")


def test_several_slots_with_one_label(made: Made) -> None:
    for label in ("monday", "tuesday"):
        for slot in ("resnet/cosine", "vgg16-fc2/cosine", "vgg16-fc2/euclidean"):
            made.neighbours({"a": ["b"]}, slot, label=label)
    collection = ims.open(made.uri)
    assert collection.changes("monday", "tuesday").schema.metadata[b"slot"] == b"vgg16-fc2/cosine"
    chosen = collection.changes("monday", "tuesday", slot="resnet/cosine")
    assert chosen.schema.metadata[b"slot"] == b"resnet/cosine"
    assert collection.changes(slot="vgg16-fc2/euclidean").schema.metadata[b"slot"] == b"vgg16-fc2/euclidean"


def test_a_restored_run_is_the_last_one(made: Made) -> None:
    for other in "bcd":
        made.neighbours({"a": [other]})
    made.pointer = made.pointer.changed({"neighbours": {"vgg16-fc2/cosine": "r00000002"}}, {})
    (Path(made.uri) / "_current.json").write_bytes(made.pointer.as_json())
    about = ims.open(made.uri).changes().schema.metadata
    assert (about[b"run_a"], about[b"run_b"]) == (b"r00000001", b"r00000002")


def test_runs_that_cannot_be_compared(made: Made) -> None:
    made.manifest({"a": "1"}, label="monday")
    made.neighbours({"a": ["b"]}, label="tuesday")
    made.neighbours({"a": ["b"]}, "vgg16-fc2/euclidean", label="wednesday")
    made.publish("render_gallery", "/gallery", {}, label="thursday")
    collection = ims.open(made.uri)
    assert "are of different jobs or slots" in refused(collection, "monday", "tuesday")
    assert "are of different jobs or slots" in refused(collection, "tuesday", "wednesday")
    assert "no run is called 'mondey', and none has that label; did you mean monday?" in refused(collection, "mondey")
    assert "changes() compares runs of build_manifest, embed_images" in refused(collection, "thursday")
    assert "nothing to compare it with yet" in refused(collection)
    assert "did you mean find_neighbours?" in refused(collection, job="find_neighbors")
    told = refused(collection, job="find_neighbours", slot="vgg16-fc2/cosin")
    assert (
        "no run of find_neighbours 'vgg16-fc2/cosin' is published" in told and "did you mean vgg16-fc2/cosine?" in told
    )
    assert "no run of group_images" in refused(collection, job="group_images")
    assert "none is of build_manifest" in refused(collection, "tuesday", job="build_manifest")


@pytest.mark.parametrize("job", ["build_manifest", "embed_images", "find_neighbours", "group_images"])
def test_a_run_that_retention_has_removed(made: Made, job: str) -> None:
    for _ in range(2):
        made.manifest({"a": "1"})
        made.embeddings({"a": "A"}, {"A": [1.0]})
        made.neighbours({"a": ["b"]})
        made.groups({"g": "ab"})
    collection = ims.open(made.uri)
    before = collection.changes(job=job).schema.metadata[b"run_a"].decode()
    shutil.rmtree(Path(made.uri) / changes._TABLES[job] / f"run_id={before}")
    told = refused(collection, job=job)
    assert f"the files of {before} ({job}" in told and "were removed by retention" in told
