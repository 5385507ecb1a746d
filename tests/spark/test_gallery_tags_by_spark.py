"""Images by tag, by Spark as by the job's own process."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

import tagging_tables
from image_similarity.settings import GallerySettings
from image_similarity.stages.gallery import cards, tags, tags_by_spark
from image_similarity.stages.gallery.tag_pages import Tags
from image_similarity.storage.local import LocalFiles
from image_similarity.warehouse.workspace import Workspace

IDS = [f"image {number:02}" for number in range(40)]
PER_PAGE = 3


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    """Tags, and what is not accepted, in no order."""
    table = tagging_tables.table_of("one", tagging_tables.hostile(IDS))
    return table.select(["image_id", *tags.GIVEN]).sort_by("probability")


def images(rows: pa.Table) -> list[dict[str, Any]]:
    """As `in_process` has them; some without a picture."""
    tagged: dict[str, list[dict[str, Any]]] = {}
    for row in rows.to_pylist():
        tagged.setdefault(row["image_id"], []).append(row)
    return [
        {"image_id": name, "ordinal": ordinal, "picture": f"{ordinal:032}"}
        | dict.fromkeys(("width", "height"), 30 if ordinal % 5 else None)
        | cards.texts(name, {}, GallerySettings(), tagged.get(name, ()))
        for ordinal, name in enumerate(IDS)
    ]


def test_spark_makes_the_same_pages(spark: SparkSession, tmp_path: Path, rows: pa.Table) -> None:
    scratch = Workspace(spark, LocalFiles(), f"file://{tmp_path}/scratch")
    described = images(rows)
    here = Tags(described)

    columns = "image_id string, uri string, content_sha256 string, source_version string, size_bytes long, "
    listed: list[tuple[Any, ...]] = [(name, f"/{name}", None, "1", 10, {}) for name in IDS]
    collection = spark.createDataFrame(listed, f"{columns} attributes map<string,string>")
    joined = tags_by_spark.joined(collection, spark.createDataFrame(rows))
    frame = cards.describe(joined, GallerySettings(), scratch).drop("picture")
    pictures = [(image["image_id"], image["picture"], image["width"], image["height"]) for image in described]
    of_pictures = spark.createDataFrame(pictures, "image_id string, picture string, width int, height int")
    there = tags_by_spark.Tags(frame.join(of_pictures, "image_id"), scratch)

    assert there.all == here.all and len(here.all) == 14
    assert there.untagged == len(here.untagged) == 3
    made = {row["path"]: row for _, row in here.pages(PER_PAGE)}
    paged = [*there.pages(PER_PAGE).toArrow().to_pylist(), *there.untagged_pages(PER_PAGE).toArrow().to_pylist()]
    assert len(paged) == len(made) > 20
    for row in paged:
        wanted = made[row["path"]]
        assert [row[name] for name in ("number", "last", "items")] == [
            wanted[name] for name in ("number", "last", "items")
        ]
        assert "tag" not in row or row["tag"] == wanted["tag"].page


def test_without_tags_no_image_has_one(spark: SparkSession, tmp_path: Path) -> None:
    scratch = Workspace(spark, LocalFiles(), f"file://{tmp_path}/scratch")
    columns = "image_id string, uri string, content_sha256 string, size_bytes long, source_version string"
    listed = spark.createDataFrame([("one", "/one", None, 1, "1", {})], f"{columns}, attributes map<string,string>")
    frame = cards.describe(tags_by_spark.joined(listed, None), GallerySettings(), scratch)
    [row] = frame.collect()
    assert row.tags == [] and row.alt == "one" and row.terms == ["one"]
