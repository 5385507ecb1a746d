"""How many images differ between what a table was made of and what is published now."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def changed_images(before: DataFrame, now: DataFrame, columns: tuple[str, ...]) -> int:
    """The images that are in one frame only, or differ in ``columns``. Both frames have ``image_id``, once each."""

    def of(rows: DataFrame, name: str) -> DataFrame:
        return rows.select("image_id", F.struct(*columns).alias(name))

    both = of(before, "before").join(of(now, "now"), "image_id", "full_outer")
    return both.where(~F.col("before").eqNullSafe(F.col("now"))).count()


def gone_neighbours(neighbours: DataFrame, images: DataFrame) -> dict[int, int]:
    """tab -> how many rows of ``neighbours`` name an image that is not among ``images``; only tabs that have some."""

    def by_tab(rows: DataFrame) -> dict[int, int]:
        return {row["tab"]: row["count"] for row in rows.groupBy("tab").count().collect()}

    ids = images.select("image_id")
    shown = neighbours.join(ids, "image_id", "left_semi")
    shown = shown.join(ids.withColumnRenamed("image_id", "neighbour_id"), "neighbour_id", "left_semi")
    known = by_tab(shown)
    return {tab: rows - known.get(tab, 0) for tab, rows in by_tab(neighbours).items() if rows > known.get(tab, 0)}
