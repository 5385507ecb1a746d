"""The gallery's list of its pictures, where somebody damaged it or an earlier version wrote it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from image_similarity.pages.site import Site, open_site
from image_similarity.stages.gallery import pictures

WHOLE, DAMAGED, EARLIER = (f"r20260101T000000-0000000{number}" for number in range(3))


@pytest.fixture
def site(spark: SparkSession, tmp_path: Path) -> Site:
    row = {"picture": "a", "width": 3, "height": 2, "made": True, "small": "1 2 3"}
    for rendering in (WHOLE, DAMAGED):
        file = tmp_path / rendering / pictures.INVENTORY / "part-00000.parquet"
        file.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist([row], pictures._SCHEMA), file)
    file.write_bytes(file.read_bytes()[:-20])
    earlier = tmp_path / EARLIER / pictures.INVENTORY / "part-00000.parquet"
    earlier.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([row], pictures._SCHEMA).drop_columns(["small", "large"]), earlier)
    return Site("gallery", str(tmp_path), open_site(None, "gallery", str(tmp_path / "new")).files)


def test_a_damaged_list_is_no_list(spark: SparkSession, site: Site) -> None:
    assert pictures._inventory_here(site, [DAMAGED]) == []
    assert pictures._earlier_inventory(spark, site, [DAMAGED]).count() == 0
    for rendering, small in ((WHOLE, "1 2 3"), (EARLIER, None)):
        here = pictures._inventory_here(site, [rendering, DAMAGED])
        by_spark = pictures._earlier_inventory(spark, site, [rendering, DAMAGED]).collect()
        assert here == [row.asDict() for row in by_spark] and here[0]["small"] == small
