"""The rows of `tag_pages.Tags`, for images by tag in tables of any size, by Spark."""

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from image_similarity.runtime.tasks import numbered
from image_similarity.stages.gallery import tag_pages
from image_similarity.stages.gallery.cards import CARD
from image_similarity.stages.gallery.tag_pages import Listed
from image_similarity.stages.gallery.tags import FOLDER, GIVEN, UNTAGGED
from image_similarity.warehouse.workspace import Workspace

_GIVEN = "array<struct<rank: int, class: string, wnid: string, probability: float, accepted: boolean>>"


def joined(images: DataFrame, tags: DataFrame | None) -> DataFrame:
    """``images`` with a column ``tags``: the rows of each image as `tags.of_image` takes them; null without any.

    ``tags``: image_id and `tags.GIVEN`; None: none are published.
    """
    if tags is None:
        return images.withColumn("tags", F.lit(None).cast(_GIVEN))
    by_image = tags.groupBy("image_id").agg(F.collect_list(F.struct(*GIVEN)).cast(_GIVEN).alias("tags"))
    return images.join(by_image, "image_id", "left")


@dataclass(frozen=True)
class Tags:
    """The images by tag."""

    cards: DataFrame
    """Of all images, with their ``tags`` and ``ordinal``."""
    scratch: Workspace

    @cached_property
    def _members(self) -> DataFrame:
        """tag (its page), title, wnid, order (the most probable image first), item (as pages of a tag show it)."""
        tagged = self.cards.select(F.explode("tags").alias("tag"), "ordinal", *CARD)
        return tagged.select(
            F.col("tag.page").alias("tag"),
            F.col("tag.title").alias("title"),
            F.col("tag.wnid").alias("wnid"),
            F.struct((-F.col("tag.probability")).alias("least"), "ordinal").alias("order"),
            F.struct(*CARD, F.col("tag.probability").alias("probability")).alias("item"),
        )

    @cached_property
    def all(self) -> list[Listed]:
        sizes = self._members.groupBy("tag").agg(
            F.first("title").alias("title"), F.first("wnid").alias("wnid"), F.count("*").alias("images")
        )
        candidates = self._candidates()
        rows = [
            {"page": row.tag, "title": row.title, "wnid": row.wnid, "images": row.images}
            | {"cards": candidates.get(row.tag, [])}
            for row in sizes.collect()
        ]
        return tag_pages.listed(rows, self._pairs())

    def _candidates(self) -> dict[str, list[dict[str, Any]]]:
        """tag (its page) -> cards of which one becomes its example, see `tag_pages.listed`."""
        place = F.row_number().over(Window.partitionBy("tag").orderBy("order"))
        pictured = self._members.where("item.width is not null").withColumn("place", place)
        first = pictured.where(F.col("place") <= tag_pages.CANDIDATES).orderBy("tag", "place")
        candidates: dict[str, list[dict[str, Any]]] = {}
        for row in first.select("tag", F.struct(*(f"item.{name}" for name in CARD)).alias("card")).collect():
            candidates.setdefault(row.tag, []).append(row.card.asDict())
        return candidates

    def _pairs(self) -> dict[tuple[str, str], int]:
        """The pages of two tags, the more specific one first, and the images with both."""
        pages = self.cards.select(F.col("tags.page").alias("pages"))
        general = pages.select("pages", F.posexplode("pages").alias("place", "general")).where("place > 0")
        pairs = general.select(F.explode(F.slice("pages", F.lit(1), F.col("place"))).alias("specific"), "general")
        return {
            (row.specific, row.general): row["count"] for row in pairs.groupBy("specific", "general").count().collect()
        }

    @cached_property
    def untagged(self) -> int:
        return self.cards.where("size(tags) = 0").count()

    def pages(self, per_page: int) -> DataFrame:
        """One row for each page of each tag: path, tag (its page), number, last, items.

        Pages are numbered by the place among all rows, because a single tag may have most of the images.
        """
        sizes = sorted((tag.page, tag.images) for tag in self.all)
        starts = [0, *itertools.accumulate(images for _, images in sizes)]
        rows = [(page, images, start) for (page, images), start in zip(sizes, starts)]
        of_tag = F.broadcast(self.cards.sparkSession.createDataFrame(rows, "tag string, images long, start long"))
        placed = numbered(self._members.select("tag", "order", "item"), ["tag", "order"], "place_of_tag", self.scratch)
        placed = placed.join(of_tag, "tag").withColumn("place", F.expr("place_of_tag - start"))
        number = F.expr(f"cast(place div {per_page} + 1 as int)").alias("number")
        paged = placed.groupBy("tag", "images", number).agg(_in_order(F.col("item")).alias("items"))
        path = F.concat(F.lit(f"{FOLDER}/"), F.concat_ws("-", "tag", "number"), F.lit(".html"))
        last = F.ceil(F.col("images") / per_page).cast("int").alias("last")
        return paged.select(path.alias("path"), "tag", "number", last, "items")

    def untagged_pages(self, per_page: int) -> DataFrame:
        """One row for each page of the images without a tag: path, number, last, items."""
        untagged = self.cards.where("size(tags) = 0").select("ordinal", F.struct(*CARD).alias("item"))
        placed = numbered(untagged, ["ordinal"], "place_untagged", self.scratch)
        placed = placed.withColumnRenamed("place_untagged", "place")
        number = F.expr(f"cast(place div {per_page} + 1 as int)").alias("number")
        path = F.concat(F.lit(f"{FOLDER}/{UNTAGGED}-"), "number", F.lit(".html")).alias("path")
        last = F.lit(-(-self.untagged // per_page)).alias("last")
        return placed.groupBy(number).agg(_in_order(F.col("item")).alias("items")).select(path, "number", last, "items")


def _in_order(value: Column) -> Column:
    """The values of a group of rows as an array, in the order of their ``place``."""
    pairs = F.sort_array(F.collect_list(F.struct("place", value.alias("value"))))
    return F.transform(pairs, lambda pair: pair["value"])
