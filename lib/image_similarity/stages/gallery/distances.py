"""How near is near in this collection: where a distance lies among those of all nearest neighbours."""

from dataclasses import replace

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from image_similarity.stages.gallery.pages import Tab
from image_similarity.warehouse.schemas import SIMILAR

LEAST_IMAGES = 20
"""With fewer images, tenths of them say little."""
_TENTHS = [tenth / 10 for tenth in range(1, 10)]
_ACCURACY = 10_000
"""Of the ranks: up to so many images exact, beyond that within a ten-thousandth of them."""


def with_deciles(tabs: tuple[Tab, ...], neighbours: DataFrame) -> tuple[Tab, ...]:
    """``tabs`` with the deciles of the distances of rank 1. ``neighbours``: tab, relation, rank, distance."""
    nearest = neighbours.where((F.col("relation") == SIMILAR) & (F.col("rank") == 1))
    deciles = F.percentile_approx("distance", _TENTHS, _ACCURACY).alias("deciles")
    rows = nearest.groupBy("tab").agg(F.count("*").alias("images"), deciles).collect()
    by_tab = {row.tab: tuple(row.deciles) for row in rows if row.images >= LEAST_IMAGES}
    return tuple(replace(tab, deciles=by_tab.get(number, ())) for number, tab in enumerate(tabs))
