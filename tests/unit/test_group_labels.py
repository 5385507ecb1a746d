"""A label names what a group has in common, more than the collection has."""

from collections.abc import Mapping
from math import comb, log
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from image_similarity.grouping import labels
from image_similarity.neighbour_graph import Names
from image_similarity.stages.groups.labels import Words
from image_similarity.stages.groups.tables import Grouping
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.snapshot import open_snapshot
from warehouses import Made, sha256

# -- the rule ----------------------------------------------------------------------------------------------------------


def telling(groups: list[list[int]], has: dict[int, set[int]], images: int) -> dict[int, set[int]]:
    """group -> the words that tell most about it. ``has``: word -> images."""
    start = np.cumsum([0, *map(len, groups)])
    member = np.array([image for group in groups for image in group], np.int64)
    pairs = [(image, word) for word, having in has.items() for image in having]
    image, word = (np.array(column, np.int64) for column in zip(*pairs)) if pairs else (np.zeros(0, np.int64),) * 2
    told: dict[int, set[int]] = {}
    for group, code in zip(*labels.telling(start, member, image, word, images)):
        told.setdefault(int(group), set()).add(int(code))
    return told


def by_hand(group: list[int], has: dict[int, set[int]], images: int) -> set[int]:
    size, scores = len(group), {}
    counts = {word: len(having & set(group)) for word, having in has.items()}
    common = {word: count for word, count in counts.items() if count >= 2}
    for word, count in common.items():
        share, rate = count / size, len(has[word]) / images
        if share < 0.5 or share < 2 * rate:
            continue
        score = size * share * log(share / rate) + (
            size * (1 - share) * log((1 - share) / (1 - rate)) if share < 1 else 0
        )
        if len(common) * np.exp(-score) <= 0.01:
            scores[word] = score
    best = max(scores.values(), default=0)
    return {word for word, score in scores.items() if score > best - 1e-6}


@pytest.mark.parametrize("seed", range(10))
def test_labels_are_those_that_counting_by_hand_gives(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = 200
    groups = [rng.permutation(images)[: rng.integers(2, 30)].tolist() for _ in range(20)]
    has: dict[int, set[int]] = {
        word: set(rng.permutation(images)[: rng.integers(1, 60)].tolist()) for word in range(40)
    }
    for number, group in enumerate(groups):  # most groups have something in common
        has[number] |= set(group[: len(group) * 3 // 4 + 1])
    told = telling(groups, has, images)
    assert told == {number: best for number, group in enumerate(groups) if (best := by_hand(group, has, images))}
    assert len(told) > 5


def test_a_pair_is_labelled_by_what_is_rare_alone() -> None:
    """Both of a pair have a word by chance in the squared share of the collection."""
    for count, is_told in ((2, True), (10, True), (11, False), (90, False)):
        has = {0: set(range(count))}
        assert (telling([[0, 1]], has, 100) == {0: {0}}) is is_told
    assert telling([[0, 2]], {0: {0, 1}}, 100) == {}, "one of two has nothing in common"


@pytest.mark.parametrize(("images", "having", "size"), [(50, 10, 6), (30, 4, 3), (200, 50, 12)])
def test_the_bound_holds(images: int, having: int, size: int) -> None:
    """That of Hoeffding is above the chance itself."""
    for common in range(2, size + 1):
        exact = sum(
            comb(having, count) * comb(images - having, size - count) for count in range(common, size + 1)
        ) / comb(images, size)
        score = size * labels._divergence(np.array([common / size]), np.array([having / images]))[0]
        if common / size > having / images:
            assert exact <= np.exp(-score) * (1 + 1e-12)


def test_what_all_have_is_no_label() -> None:
    assert telling([list(range(30))], {0: set(range(100)), 1: set(range(60))}, 100) == {}, "though it is no chance"
    assert telling([list(range(30))], {0: set(range(100)), 1: set(range(50))}, 100) == {0: {1}}
    assert telling([], {0: {1, 2}}, 10) == telling([[0, 1]], {}, 10) == {}


def test_each_group_may_have_a_least_share_of_its_own() -> None:
    groups, images = [list(range(20)), list(range(20, 40))], np.r_[0:8, 20:28].astype(np.int64)
    start, member, word = np.array([0, 20, 40]), np.concatenate(groups), np.repeat([0, 1], 8)
    assert [len(part) for part in labels.telling(start, member, images, word, 400)] == [0, 0], "8 of 20 are not half"
    group, code = labels.telling(start, member, images, word, 400, np.array([0.5, 0.35]))
    assert (group.tolist(), code.tolist()) == ([1], [1])


# -- tags and attributes -----------------------------------------------------------------------------------------------

IDS = [f"{number:03}" for number in range(100)]


def words(
    folder: Path,
    attributes: dict[str, list[tuple[str, Any]]],
    tags: dict[str, list[tuple[str, str, bool]]],
    outdated: Mapping[str, str] = MappingProxyType({}),
) -> Words:
    """``attributes``: image_id -> those it has. ``tags``: fingerprint -> image_id, class, accepted. ``outdated``:
    image_id -> another content that was tagged.
    """
    made = Made(str(folder))
    rows = [{"image_id": name, "attributes": attributes.get(name)} for name in reversed(IDS)]
    made.publish("build_manifest", "", {"manifest": {"": pa.Table.from_pylist(rows, SCHEMAS["manifest"])}})
    for fingerprint, of in tags.items():
        made.embeddings({name: name for name in IDS[:90]}, {}, fingerprint=fingerprint)
        table = [
            {"image_id": name, "class": word, "accepted": accepted, "content_sha256": sha256(outdated.get(name, name))}
            for name, word, accepted in of
        ]
        made.publish("tag_images", fingerprint, {"tags": {fingerprint: pa.Table.from_pylist(table, SCHEMAS["tags"])}})
    return Words.read(open_snapshot(made.uri), "squeeze", Names(pa.array(IDS, pa.large_string())), len(IDS))


def grouping(*groups: list[int]) -> Grouping:
    size = np.zeros(len(groups), np.float32)
    image = np.array([member for group in groups for member in group], np.int64)
    start = np.cumsum([0, *map(len, groups)])
    return Grouping("similar", 0, start, image, np.zeros(len(image), np.float32), size, size, size, size.astype(int))


def test_tags_and_attributes_label_groups(tmp_path: Path) -> None:
    attributes: dict[str, list[tuple[str, Any]]] = {
        IDS[number]: [("artist", artist), ("title", f"No. {number}"), ("at", "https://host/a"), ("nothing", "")]
        for artist, numbers in {"Ann": range(3), "Ben": range(3, 40)}.items()
        for number in numbers
    }
    attributes |= {IDS[number]: [("year", "1890"), ("none", None)] for number in range(40, 44)}
    attributes |= {IDS[number]: [("note", "x" * 61)] for number in range(50, 54)}
    tags = [(IDS[number], "cat", True) for number in (0, 1, 2, 60, 61)]
    tags += [(IDS[number], "dog", False) for number in range(70, 74)]
    read = words(tmp_path, attributes, {"squeeze": tags, "alex": [(IDS[0], "boat", True), (IDS[1], "boat", True)]})
    told = read.labelled(
        grouping([0, 1, 2], [40, 41, 42, 43], [50, 51, 52, 53], [60, 61], [70, 71, 72, 73], [3, 4], [80, 81])
    )
    # Ben is more than a tenth of the collection, which two may be by chance; a guess is no tag.
    assert told == ["Ann", "year: 1890", None, "cat", None, None, None]
    assert read.slot == "squeeze" and set(read.runs) == {"manifest", "tags"}


def test_folders_label_groups(tmp_path: Path) -> None:
    made, ids = (
        Made(str(tmp_path)),
        [f"{'cats' if number < 3 else 1890 if number < 6 else 'x'}/{number:03}" for number in range(90)],
    )
    made.manifest(dict.fromkeys(ids, "1"), attributes=[])
    read = Words.read(open_snapshot(made.uri), "squeeze", Names(pa.array(ids, pa.large_string())), len(ids))
    assert read.labelled(grouping([0, 1, 2], [3, 4, 5], [7, 8, 9])) == ["cats", "folder: 1890", None]


def test_of_words_that_tell_equally_much_a_tag_is_taken(tmp_path: Path) -> None:
    both = {IDS[number]: [("b", "Zinc"), ("a", "Amber")] for number in range(3)}
    assert words(tmp_path / "1", both, {}).labelled(grouping([0, 1, 2])) == ["Amber"]
    tags = [(IDS[number], "zebra", True) for number in range(3)]
    assert words(tmp_path / "2", both, {"alex": tags}).labelled(grouping([0, 1, 2])) == ["zebra"], "another's tags"


def test_tags_of_what_an_image_was_before_label_nothing(tmp_path: Path) -> None:
    tags = {"squeeze": [(IDS[number], "cat", True) for number in (0, 1, 2, 97, 98, 99)]}
    told = words(tmp_path / "1", {}, tags).labelled(grouping([0, 1, 2], [97, 98, 99]))
    assert told == ["cat", None], "the last ones are not embedded"
    assert words(tmp_path / "2", {}, tags, dict.fromkeys(IDS[:2], "old")).labelled(grouping([0, 1, 2])) == [None]


def test_without_manifest_and_tags_there_are_no_labels(tmp_path: Path) -> None:
    Made(str(tmp_path)).publish("other", "", {})
    read = Words.read(open_snapshot(str(tmp_path)), "squeeze", Names(pa.array(IDS, pa.large_string())), len(IDS))
    assert read.labelled(grouping([0, 1])) == [None] and read.runs == {}
    assert read.labelled(grouping()) == []
