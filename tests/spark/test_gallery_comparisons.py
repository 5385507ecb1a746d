"""Pairs that are compared, and the lists of their difference pictures, by Spark as by the job's own process."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from image_similarity.pages.site import Site, open_site
from image_similarity.stages.gallery import compare
from image_similarity.warehouse.warehouse import Warehouse

NOW, BEFORE = "r20260102T000000-00000000", "r20260101T000000-00000000"


def group(number: int, names: str) -> dict[str, Any]:
    facts = {"width": 3, "height": 2, "pixel_width": 3, "pixel_height": 2, "size_bytes": 1, "format": "PNG"}
    members = [
        {"image_id": f"{number}{name}", "page": f"{number}{name}" * 16, "picture": f"{number}{name}", "uri": None}
        | {"title": name, "subtitle": "", "alt": "", "distance": 0.5 if place else None, **facts}
        for place, name in enumerate(names)
    ]
    path = f"near-duplicates/{number}-1.html"
    return {"group_id": str(number), "kind": "near-duplicates", "path": path, "members": members}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site("gallery", str(tmp_path), open_site(None, "gallery", str(tmp_path / "new")).files)


def test_pairs_and_their_lists_are_the_same_by_spark(spark: SparkSession, site: Site, tmp_path: Path) -> None:
    groups = [group(1, "abc"), group(2, "de"), group(3, "f")]
    here = [pair for each in groups for pair in compare.pairs(each)]
    rows = compare.rows(spark.createDataFrame(pa.Table.from_pylist(groups, compare.GROUP)))
    assert sorted(rows.toArrow().to_pylist(), key=lambda row: row["path"]) == sorted(here, key=lambda row: row["path"])
    assert len(here) == 3
    names = sorted(compare.difference_name(row["kept"], row["other"]) for row in here)
    compare.write_list(rows, site, NOW)
    compare.write_list_here(here, site, BEFORE)
    for rendering in (NOW, BEFORE):
        assert sorted(name for file in compare._files(site, rendering) for name in compare._names(file)) == names


@pytest.mark.parametrize("damaged", [False, True])
def test_what_no_rendering_shows_is_removed_by_spark(
    spark: SparkSession, site: Site, tmp_path: Path, damaged: bool
) -> None:
    warehouse = Warehouse(spark, str(tmp_path / "warehouse"))
    assert compare.remove_unused(spark, site, [NOW, BEFORE], warehouse) == 0, "there are none"
    first, second, third = pairs = list(compare.pairs(group(1, "abcd")))
    names = [compare.difference_name(row["kept"], row["other"]) for row in pairs]
    for name in names:
        for ending in (".webp", ".json", ".webp.0123abcd.tmp"):
            path = tmp_path / compare.difference_path(name).replace(".webp", ending)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    compare.write_list_here([first], site, NOW)
    compare.write_list_here([second], site, BEFORE)
    if damaged:
        earlier = tmp_path / BEFORE / compare.LIST / "part-00000.parquet"
        earlier.write_bytes(earlier.read_bytes()[:-9])
    left = names[:1] if damaged else names[:2]
    assert compare.remove_unused(spark, site, [NOW, BEFORE], warehouse) == 3 - len(left)
    files = [path.name for path in (tmp_path / compare.DIFFERENCES).rglob("*") if path.is_file()]
    assert sorted(files) == sorted(f"{name}-difference.{ending}" for name in left for ending in ("webp", "json"))
