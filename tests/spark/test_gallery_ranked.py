"""Lists of images by a number, by Spark as by the job's own process."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

import quality_tables
from image_similarity.stages.gallery import in_memory, ranked
from image_similarity.stages.gallery.listings import Facet, FacetValue
from image_similarity.stages.gallery.ranked import Lists
from image_similarity.stages.gallery.ranked_by_spark import RankedBySpark
from image_similarity.stages.gallery.ranked_in_memory import RankedInMemory
from image_similarity.storage.local import LocalFiles
from image_similarity.warehouse.schemas import DISSIMILAR, SCHEMAS, SIMILAR
from image_similarity.warehouse.workspace import Workspace

IMAGES, NEIGHBOURS = 60, 6
NAMES = [f"i{number:02}" for number in range(IMAGES)]
STYLES = ("baroque", "<i>rococo</i>", "")


def images() -> list[dict[str, Any]]:
    """Each has a style, but the first; the second is alone with its own. ``key`` is another one for each."""
    style = {0: None, 1: "alone"}
    return [
        {"ordinal": number, "image_id": name, "content_sha256": name * 2, "page": name, "title": name, "subtitle": ""}
        | {"alt": name, "picture": name, "width": 4, "height": 3}
        | {"attributes": [("key", name), *_attribute("style", style.get(number, STYLES[number % 3]))]}
        for number, name in enumerate(NAMES)
    ]


def _attribute(name: str, value: str | None) -> list[tuple[str, str]]:
    return [] if value is None else [(name, value)]


def neighbours() -> list[dict[str, Any]]:
    """By two tabs; the last two images have none by the second. Some images are equally isolated."""
    random, rows = np.random.default_rng(3), []
    for tab in (0, 1):
        for number in range(IMAGES - 2 * tab):
            others = [of for of in random.permutation(IMAGES)[: NEIGHBOURS + 2].tolist() if of != number][:NEIGHBOURS]
            distances = np.sort(random.integers(1, 4, NEIGHBOURS) / np.float32(10 + number % 4)).tolist()
            for rank, (other, distance) in enumerate(zip(others, distances), 1):
                row = {"tab": tab, "image_id": NAMES[number], "rank": rank, "neighbour_id": NAMES[other]}
                rows.append({**row, "relation": SIMILAR, "distance": distance})
            rows.append({**row, "relation": DISSIMILAR, "rank": 1, "distance": 9.0})
    rows.append({**rows[0], "rank": 9, "neighbour_id": "no such image", "distance": 5.0})
    return rows


def facets() -> list[Facet]:
    sizes = {value: sum(("style", value) in image["attributes"] for image in images()) for value in (*STYLES, "alone")}
    style = Facet("style", "a" * 32, tuple(FacetValue(value, size, "b" * 32) for value, size in sizes.items()))
    key = Facet("key", "c" * 32, tuple(FacetValue(name, 1, "d" * 32) for name in NAMES))
    return [style, key]


def measured() -> pa.Table:
    """Of all images but the third; the fourth one's is of another content, and the fifth has a number that is none."""
    rows = quality_tables.rows({name: name * 2 for name in NAMES if name != NAMES[2]})
    rows[2]["content_sha256"], rows[3]["contrast"], rows[4]["sharpness"] = "another", math.nan, None
    return pa.Table.from_pylist([*rows[::-1], {**rows[0], "image_id": "gone"}], SCHEMAS["quality"])


def here(quality: pa.Table | None) -> RankedInMemory:
    ids = pa.array(NAMES, pa.string())
    table = pa.Table.from_pylist(neighbours()).cast(pa.schema(_EDGES)).combine_chunks()
    tabs = [table.filter(pa.compute.equal(table["tab"], tab)) for tab in (0, 1)]
    edges = in_memory.Edges.joined([in_memory.Edges.of_tab(tab, rows, ids) for tab, rows in enumerate(tabs)])
    return RankedInMemory(images(), {image["image_id"]: card(image) for image in images()}, edges, quality)


_EDGES = [("tab", pa.int32()), ("image_id", pa.string()), ("rank", pa.int32()), ("neighbour_id", pa.string())]
_EDGES += [("relation", pa.string()), ("distance", pa.float32())]


def card(image: dict[str, Any]) -> dict[str, Any]:
    return {name: image[name] for name in ("page", "title", "subtitle", "alt", "picture", "width", "height")}


def by_spark(spark: SparkSession, scratch: Path, quality: pa.Table | None) -> RankedBySpark:
    columns = "ordinal long, image_id string, content_sha256 string, page string, title string, subtitle string, "
    columns += "alt string, picture string, width int, height int"
    frame = spark.createDataFrame([tuple(image.values())[:-1] for image in images()], columns)
    edges = spark.createDataFrame(pa.Table.from_pylist(neighbours()).cast(pa.schema(_EDGES)))
    workspace = Workspace(spark, LocalFiles(), f"file://{scratch}/scratch")
    return RankedBySpark(frame, edges, None if quality is None else spark.createDataFrame(quality), workspace)


def members(spark: SparkSession) -> Any:
    rows = [(*pair, image["ordinal"]) for image in images() for pair in image["attributes"]]
    return spark.createDataFrame(rows, "attribute string, value string, ordinal long")


@pytest.fixture(scope="module")
def both(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[RankedInMemory, RankedBySpark]:
    return here(measured()), by_spark(spark, tmp_path_factory.mktemp("ranked"), measured())


@pytest.fixture(scope="module")
def lists(both: tuple[RankedInMemory, RankedBySpark], spark: SparkSession) -> tuple[Lists, Lists]:
    return both[0].lists(facets()), both[1].lists(facets(), members(spark))


def test_spark_lists_the_same_images(lists: tuple[Lists, Lists]) -> None:
    in_process, spark = lists
    assert in_process.quality is not None and spark.quality is not None
    # Numbers that are none are equal to nothing, so they are compared as texts.
    assert repr(spark.quality) == repr(in_process.quality)
    assert spark.odd == in_process.odd and len(spark.odd) == 2
    assert spark.suspects == in_process.suspects and len(spark.suspects) == 1
    assert spark.unjudged == in_process.unjudged == ["key"]


def test_lists_of_quality_begin_at_the_end_that_matters(lists: tuple[Lists, Lists]) -> None:
    quality = lists[0].quality
    assert quality is not None and quality.images == IMAGES - 2, "one was not measured, one is another picture now"
    for name, column, sign in (
        ("darkest", "brightness_p95", 1),
        ("brightest", "brightness_p5", -1),
        ("one-colour", "one_colour_share", -1),
        ("smallest", "short_side", 1),
        ("elongated", "elongation", -1),
    ):
        values = [sign * of["measured"][column] for of in quality.lists[name]]
        assert values == sorted(values) and len(values) == IMAGES - 2
        equal = [(value, of["page"]) for value, of in zip(values, quality.lists[name])]
        assert equal == sorted(equal), "equal ones are in the order of their ids"
    assert len(quality.lists["contrast"]) == len(quality.lists["sharpness"]) == IMAGES - 3
    assert set(quality.flags) == {"dark", "bright", "blurred", "flat", "tiny", "odd-aspect"}
    for flag, count in quality.flags.items():
        flagged = quality.lists[f"flag-{flag}"]
        assert len(flagged) == count and all(flag in of["measured"]["flags"] for of in flagged)
    for name, histogram in quality.histograms.items():
        assert sum(histogram.images) == len(quality.lists[name])
    assert sum(quality.histograms["darkest"].flagged) == quality.flags["dark"]


def test_odd_ones_are_the_farthest_from_their_neighbours(lists: tuple[Lists, Lists]) -> None:
    odd = lists[0].odd
    assert [odd[tab].images for tab in (0, 1)] == [IMAGES, IMAGES - 2]
    rows = [row for row in neighbours() if row["tab"] == 0 and row["relation"] == SIMILAR]
    first = odd[0].cards[0]
    own = [row["distance"] for row in rows if row["image_id"] == first["page"] and row["neighbour_id"] in NAMES]
    assert first["mean_distance"] == pytest.approx(np.mean(own))
    order = [(-of["mean_distance"], of["page"]) for of in odd[0].cards]
    assert order == sorted(order) and len(set(order)) < len(order) + 1
    assert 0 <= odd[0].cards[-1]["percentile"] < first["percentile"] <= 1


def test_suspects_have_neighbours_that_speak_for_another_label(lists: tuple[Lists, Lists]) -> None:
    [suspects] = lists[0].suspects
    assert suspects.images == IMAGES - 2, "without a label, and alone with one"
    assert 0 < suspects.doubted == len(suspects.rows) < suspects.images
    by_name = {image["image_id"]: dict(image["attributes"]).get("style") for image in images()}
    for row in suspects.rows:
        assert row["label"] == by_name[row["card"]["page"]] != row["suggested"]
        assert row["suggested"] in {*STYLES, "alone"} and row["own_share"] < 0.5
        assert [by_name[of["page"]] for of, _ in row["neighbours"]] == [label for _, label in row["neighbours"]]
        assert len(row["neighbours"]) == ranked.EVIDENCE


def test_the_numbers_of_an_image_are_the_same(both: tuple[RankedInMemory, RankedBySpark]) -> None:
    in_process, spark = both
    rows = {row["image_id"]: row.asDict(recursive=True) for row in spark.of_images().collect()}
    for ordinal, name in enumerate(NAMES):
        own = in_process.of_image(ordinal)
        assert repr(rows[name]["measured"]) == repr(own["measured"]) and rows[name]["isolation"] == own["isolation"]
    assert rows[NAMES[2]]["measured"] is None and rows[NAMES[3]]["measured"] is None
    assert [len(rows[name]["isolation"]) for name in (NAMES[0], NAMES[-1])] == [2, 1]


def test_without_numbers_of_quality_there_is_no_list_of_them(spark: SparkSession, tmp_path: Path) -> None:
    in_process, by_tasks = here(None), by_spark(spark, tmp_path, None)
    assert in_process.lists([]).quality is None and by_tasks.lists([], members(spark)).quality is None
    assert in_process.of_image(0)["measured"] is None
    assert {row["measured"] for row in by_tasks.of_images().collect()} == {None}
