"""Words for the map are tags, labels of groups and attributes, as they are published."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from image_similarity.knn.distances import Indices
from image_similarity.mapping.regions import Terms
from image_similarity.pages.facets import AttributeUse, chosen
from image_similarity.stages.map import terms
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.snapshot import open_snapshot
from warehouses import Made, sha256

IDS = [f"{number:02}" for number in range(40)]


def find(ids: list[str]) -> terms.Find:
    def places(names: pa.Array) -> Indices:
        place: Indices = pc.fill_null(pc.index_in(names.cast(pa.string()), value_set=pa.array(ids)), -1).to_numpy()
        return place.astype(np.int64)

    return places


def read(made: Made, *group_by: str, ids: list[str] = IDS) -> Terms:
    return terms.read(open_snapshot(made.uri), find(ids), len(ids), "squeeze", "cosine", group_by)


def said(words: Terms) -> dict[str, list[int]]:
    """Text -> images, in the order of the texts."""
    return {text: words.image[words.term == number].tolist() for number, text in enumerate(words.texts)}


def manifest(made: Made, attributes: Mapping[str, list[tuple[str, Any]]], ids: Iterable[str] = IDS) -> Made:
    rows = [{"image_id": name, "attributes": attributes.get(name)} for name in reversed(list(ids))]
    made.publish("build_manifest", "", {"manifest": {"": pa.Table.from_pylist(rows, SCHEMAS["manifest"])}})
    return made


def tag(made: Made, tags: list[tuple[str, str, bool]], fingerprint: str = "squeeze", content: str = "") -> None:
    made.embeddings({name: name for name in IDS}, {}, fingerprint=fingerprint)
    rows = [
        {
            **{"image_id": name, "fingerprint": fingerprint, "class": word, "accepted": accepted},
            "content_sha256": sha256(content or name),
        }
        for name, word, accepted in tags
    ]
    made.publish("tag_images", fingerprint, {"tags": {fingerprint: pa.Table.from_pylist(rows, SCHEMAS["tags"])}})


def group(made: Made, groups: Mapping[str, tuple[str | None, list[str]]], metric: str = "cosine") -> None:
    """``groups``: group_id -> its label and its members."""
    slot = f"squeeze/{metric}/similar"
    about = {"fingerprint": "squeeze", "metric": metric, "kind": "similar"}
    members = [{**about, "group_id": name, "image_id": image} for name, (_, of) in groups.items() for image in of]
    summary = [{**about, "group_id": name, "label": label} for name, (label, _) in groups.items()]
    tables = {
        "groups": {slot: pa.Table.from_pylist(members, SCHEMAS["groups"])},
        "group_summary": {slot: pa.Table.from_pylist(summary, SCHEMAS["group_summary"])},
    }
    made.publish("group_images", slot, tables)


def half(name: str, first: str, second: str) -> dict[str, list[tuple[str, Any]]]:
    return {image: [(name, first if number < 20 else second)] for number, image in enumerate(IDS)}


def test_tags_come_first_then_groups_then_attributes(tmp_path: Path) -> None:
    made = manifest(Made(str(tmp_path)), half("school", "Dutch", "French"))
    tag(made, [("03", "zebra", True), ("04", "zebra", True), ("05", "cat", False), ("gone", "cat", True)])
    group(
        made, {"1": ("owls", ["07", "06"]), "2": (None, ["08"]), "3": ("zebra", ["04", "09"]), "4": ("gone", ["gone"])}
    )
    words = said(read(made))
    assert list(words) == ["zebra", "owls", "Dutch", "French"]
    assert list(words.values()) == [[3, 4, 9], [6, 7], list(range(20)), list(range(20, 40))]


def test_only_current_tags_and_groups_of_the_map_are_read(tmp_path: Path) -> None:
    made = manifest(Made(str(tmp_path)), {})
    tag(made, [("03", "zebra", True)], content="another file")
    group(made, {"1": ("owls", ["06", "07"])}, metric="correlation")
    assert said(read(made)) == {}


def test_tags_by_another_fingerprint_serve_where_there_are_no_own(tmp_path: Path) -> None:
    made = manifest(Made(str(tmp_path)), {})
    tag(made, [("03", "boat", True)], "alex")
    assert said(read(made)) == {"boat": [3]}


def test_attributes_are_those_of_the_gallery(tmp_path: Path) -> None:
    attributes = half("school", "Dutch", "French")
    for number, image in enumerate(IDS):
        attributes[image] += [("title", f"No. {number}"), ("century", str(17 + number % 2)), ("note", "x" * 61)]
    attributes["01"].append(("rare", "a"))
    made = manifest(Made(str(tmp_path)), attributes)
    assert list(said(read(made))) == ["Dutch", "French", "century: 17", "century: 18"]
    assert said(read(made))["century: 18"] == list(range(1, 40, 2))
    assert said(read(made, "rare")) == {"a": [1]}
    assert len(said(read(made, "title"))) == 40 and said(read(made, "note")) == {}, "too long for a label"


def test_images_that_are_not_on_the_map_do_not_count(tmp_path: Path) -> None:
    made = manifest(Made(str(tmp_path)), {**half("school", "Dutch", "French"), "30": [("side", "left")]})
    assert said(read(made, ids=IDS[:20])) == {}, "of those on the map all are Dutch"
    assert said(read(made, ids=IDS[15:25])) == {"Dutch": [0, 1, 2, 3, 4], "French": [5, 6, 7, 8, 9]}


def test_folders_serve_where_no_attribute_divides(tmp_path: Path) -> None:
    ids = [f"{'cats' if number < 10 else 1890}/{number:02}" for number in range(19)] + ["outside"]
    made = manifest(Made(str(tmp_path / "few")), {}, ids)
    assert said(read(made, ids=ids)) == {"cats": list(range(10)), "folder: 1890": list(range(10, 19))}
    ids = [f"{number}/a" for number in range(201)]
    assert said(read(manifest(Made(str(tmp_path / "many")), {}, ids), ids=ids)) == {}


def test_texts_are_fit_for_a_page(tmp_path: Path) -> None:
    made = manifest(Made(str(tmp_path)), half("at", " two\nlines\x00", "https://host/a"))
    assert list(said(read(made))) == ["two lines\ufffd"]


def test_an_image_has_a_word_once(tmp_path: Path) -> None:
    made = manifest(Made(str(tmp_path)), {"01": [("a", "x"), ("b", "x")], "02": [("a", None), ("b", "")]})
    assert said(read(made, "a", "b")) == {"x": [1]}


def test_without_tables_there_are_no_words(tmp_path: Path) -> None:
    made = Made(str(tmp_path))
    made.publish("other", "", {})
    words = read(made)
    assert said(words) == {} and words.image.dtype == words.term.dtype == np.int64


def test_attributes_that_divide_well_are_chosen() -> None:
    good, better = AttributeUse("b", 60, 20, 9), AttributeUse("a", 100, 10, 60)
    bad = [
        AttributeUse("of half", 50, 2, 9),
        AttributeUse("of one value", 100, 1, 9),
        AttributeUse("of values of one", 100, 51, 9),
        AttributeUse("of long texts", 100, 10, 60.1),
    ]
    assert chosen([good, *bad, better], 100, ()) == ["a", "b"]
    assert chosen([good, *bad, better], 100, ("title", "title")) == ["title"]
    assert chosen([AttributeUse("many", 1000, 201, 9)], 1000, ()) == []
    assert len(chosen([AttributeUse(str(number), 100, 5, 9) for number in range(9)], 100, ())) == 5
