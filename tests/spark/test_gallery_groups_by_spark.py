"""The groups that pages show, by Spark as by the job's own process."""

from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql import SparkSession

from image_similarity.stages.gallery import compare, groups, groups_by_spark
from image_similarity.storage.local import LocalFiles
from image_similarity.warehouse.schemas import ALIKE, NEAR_DUPLICATES, SCHEMAS
from image_similarity.warehouse.workspace import Workspace


def image(number: int, name: str) -> dict[str, Any]:
    """``c`` is of an unknown size, ``d`` and ``e`` are the largest."""
    size: dict[str, int | None] = {"pixel_width": 30, "pixel_height": 20, "size_bytes": 900 if name in "de" else 500}
    if name == "c":
        size = dict.fromkeys(size)
    card = {"page": name * 32, "title": name, "subtitle": "", "alt": name, "picture": name * 32, "uri": None}
    return {"image_id": name, "ordinal": number, **card, "width": 3, "height": 2, "format": "PNG", **size}


def rows(group_id: str, names: str, kind: str, level: int) -> list[dict[str, Any]]:
    """The kept one is in upper case."""
    return [
        {"group_id": group_id, "kind": kind, "level": level, "image_id": name.lower(), "representative": name.isupper()}
        | {"distance_to_representative": 0.25, "position": position}
        for position, name in enumerate(names)
    ]


def test_spark_shows_the_same_groups(spark: SparkSession, tmp_path: Path) -> None:
    """Among them a level that repeats the one before, and an image that is gone."""
    made = [rows("1", "Abx", NEAR_DUPLICATES, 0), rows("2", "Dbc", NEAR_DUPLICATES, 0)]
    made += [rows(str(3 + 2 * level), "Abc", ALIKE, level) for level in (0, 1)]
    made += [rows(str(4 + 2 * level), "De", ALIKE, level) for level in (0, 1)]
    made += [rows("7", "aBcde", ALIKE, 2)]
    table = pa.Table.from_pylist([row for group in made for row in group], SCHEMAS["groups"]).select(groups.COLUMNS)
    about = [{"group_id": group[0]["group_id"], "kind": group[0]["kind"], "weakest_link": 0.5} for group in made]
    summary = pa.Table.from_pylist(about, SCHEMAS["group_summary"]).select(groups.SUMMARY)
    images = {name: image(number, name) for number, name in enumerate("abcde")}

    here = groups.built(groups.GroupTables(0, table, summary), images)

    card = pa.schema([("ordinal", pa.int64()), *(field for field in compare.MEMBER if field.name != "distance")])
    cards = spark.createDataFrame(pa.Table.from_pylist([*images.values()], card))
    frames = groups_by_spark.GroupTables(0, spark.createDataFrame(table), spark.createDataFrame(summary))
    there = groups_by_spark.built(frames, cards, Workspace(spark, LocalFiles(), f"file://{tmp_path}/scratch"))

    assert (
        there.shown
        == here.shown
        == groups.grouped(0, {(NEAR_DUPLICATES, 0): (2, 5), (ALIKE, 0): (2, 5), (ALIKE, 1): (1, 5)})
    )
    assert there.gone == here.gone == 1
    shown = there.all.select(*groups.GROUP).toArrow().sort_by("group_id").to_pylist()
    assert shown == sorted(
        ({name: group[name] for name in groups.GROUP} for group in here.all), key=lambda group: group["group_id"]
    )
    assert [(group["group_id"], group["others_pixels"], group["others_bytes"]) for group in shown] == [
        ("1", 600, 500),
        ("2", None, None),
        ("3", None, None),
        ("4", 600, 900),
        ("7", None, None),
    ]
