"""Pages that list images: to browse, by group, exact duplicates, failures."""

import hashlib
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from image_similarity.errors import WrongInput
from image_similarity.runtime.tasks import numbered
from image_similarity.settings import GallerySettings
from image_similarity.stages.gallery.cards import CARD
from image_similarity.warehouse.workspace import Workspace

FOLDER = "folder"
"""The group of images without usable attributes: the first folder of their ids."""

MOST_GROUPS, MOST_GROUPINGS = 200, 5
MOST_GROUPS_ASKED_FOR = 5000
SETS_PER_PAGE, COPIES_SHOWN = 40, 100
FAILURES_PER_PAGE = 500


def _card() -> Column:
    return F.struct(*CARD)


def browse(cards: DataFrame, images: int, per_page: int) -> DataFrame:
    """One row for each page of all images: path, number, last, items."""
    pages = cards.groupBy(F.expr(f"cast(ordinal div {per_page} + 1 as int)").alias("number"))
    rows = pages.agg(_in_order("ordinal", _card()).alias("items"))
    last = max(1, -(-images // per_page))
    return rows.select(
        F.concat(F.lit("browse/"), "number", F.lit(".html")).alias("path"), "number", F.lit(last).alias("last"), "items"
    )


def _in_order(order: str, value: Column) -> Column:
    """The values of a group as an array in the order of a column."""
    return F.transform(
        F.sort_array(F.collect_list(F.struct(F.col(order).alias("order"), value.alias("value")))),
        lambda one: one["value"],
    )


# -- by group ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    value: str
    images: int
    name: str
    """Of its pages: 16 hexadecimal digits."""


@dataclass(frozen=True)
class Grouping:
    attribute: str
    name: str
    groups: tuple[Group, ...]


def check_group_by(images: DataFrame, settings: GallerySettings) -> None:
    """Raise ``WrongInput`` if images are to be grouped by an attribute (column ``attributes``) that none of them
    has."""
    if settings.group_by:
        names = {
            row["name"] for row in images.select(F.explode(F.map_keys("attributes")).alias("name")).distinct().collect()
        }
        unknown = [name for name in settings.group_by if name not in names]
        if unknown:
            known = ", ".join(sorted(names)) or "none"
            raise WrongInput(f"gallery.group_by: no image has the attribute {', '.join(unknown)}; there are: {known}")
        named = images.select(F.explode("attributes").alias("name", "value")).where(
            F.col("name").isin(list(settings.group_by))
        )
        sizes = (
            named.groupBy("name")
            .agg(F.count_distinct("value").alias("values"))
            .where(f"values > {MOST_GROUPS_ASKED_FOR}")
        )
        for row in sizes.collect():
            raise WrongInput(
                f"gallery.group_by: {row['name']} has {row['values']:,} values; {MOST_GROUPS_ASKED_FOR:,} are the most"
            )


def groupings(cards: DataFrame, images: int, settings: GallerySettings) -> tuple[list[Grouping], DataFrame]:
    """The attributes that divide the images well, and the members of their groups: attribute, value, ordinal, and the
    card."""
    given = cards.select(F.explode("attributes").alias("attribute", "value"), "ordinal", *CARD)
    values = F.count_distinct("value").alias("values")
    counted = (
        given.groupBy("attribute")
        .agg(F.count("*").alias("images"), values, F.avg(F.length("value")).alias("length"))
        .collect()
    )
    if settings.group_by:
        chosen = list(dict.fromkeys(settings.group_by))
    else:
        useful = [row for row in counted if _divides_well(row.images, row.values, row.length, images)]
        chosen = [row.attribute for row in sorted(useful, key=lambda row: (row.values, row.attribute))][:MOST_GROUPINGS]
        if not chosen:
            given, chosen = _by_folder(cards), [FOLDER]
    members = given.where(F.col("attribute").isin(chosen))
    sizes = members.groupBy("attribute", "value").count().orderBy("attribute", F.desc("count"), "value").collect()
    made: list[Grouping] = []
    for attribute in chosen:
        groups = [
            Group(row.value, row["count"], _group_name(attribute, row.value))
            for row in sizes
            if row.attribute == attribute
        ]
        if len(groups) > 1 or settings.group_by:
            made.append(Grouping(attribute, f"{len(made) + 1}", tuple(groups)))
    return made, members


def _divides_well(images: int, values: int, length: float, all_images: int) -> bool:
    """Whether an attribute says something of most images, in few words, and the same of several."""
    return 2 * images > all_images and 2 <= values <= min(MOST_GROUPS, all_images / 2) and length <= 60


def _by_folder(cards: DataFrame) -> DataFrame:
    """Members of groups by the first folder of image_id; none where there are too many folders, or images outside."""
    inside = cards.where(F.contains("image_id", F.lit("/")))
    folder = F.substring_index("image_id", "/", 1)
    given = inside.select(F.lit(FOLDER).alias("attribute"), folder.alias("value"), "ordinal", *CARD)
    folders = given.select("value").distinct().limit(MOST_GROUPS + 1).count()
    return given if folders <= MOST_GROUPS else given.limit(0)


def _group_name(attribute: str, value: str) -> str:
    return hashlib.sha256(f"{attribute}\n{value}".encode()).hexdigest()[:16]


def group_pages(members: DataFrame, made: list[Grouping], per_page: int, scratch: Workspace) -> DataFrame:
    """One row for each page of each group: path, attribute, value, images, number, last, items."""
    sizes = [(grouping.attribute, group.value, group.images) for grouping in made for group in grouping.groups]
    placed = _paged(members, ["attribute", "value"], "ordinal", sizes, per_page, scratch)
    pages = placed.groupBy("attribute", "value", "images", "number").agg(_in_order("ordinal", _card()).alias("items"))
    folders = F.create_map(*[F.lit(text) for grouping in made for text in (grouping.attribute, grouping.name)])
    # The same name as `_group_name` gives, which links to it.
    name = F.substring(F.sha2(F.concat_ws("\n", "attribute", "value"), 256), 1, 16)
    path = F.concat(
        F.lit("groups/"), folders[F.col("attribute")], F.lit("/"), F.concat_ws("-", name, "number"), F.lit(".html")
    )
    return pages.select(path.alias("path"), "attribute", "value", "images", "number", _last(per_page), "items")


def _paged(
    rows: DataFrame, group: list[str], order: str, sizes: list[tuple[Any, ...]], per_page: int, scratch: Workspace
) -> DataFrame:
    """``rows`` with the size of their group (``images``) and the number of their page in it, from 1.

    ``sizes``: the values of the columns ``group``, and how many rows have them. By places in the order of all rows,
    since a single group may be most of them."""
    spark, place = rows.sparkSession, f"place_{'_'.join(group)}"
    starts, start = [], 0
    for *values, images in sorted(sizes, key=lambda size: [value.encode() for value in size[:-1]]):
        starts.append((*values, images, start))
        start += images
    known = spark.createDataFrame(starts, ", ".join(f"{name} string" for name in group) + ", images long, start long")
    placed = numbered(rows, [*group, order], place, scratch).join(F.broadcast(known), group)
    return placed.withColumn("number", F.expr(f"cast(({place} - start) div {per_page} + 1 as int)"))


def _last(per_page: int) -> Column:
    return F.ceil(F.col("images") / per_page).cast("int").alias("last")


def examples(members: DataFrame, each: int) -> DataFrame:
    """attribute, value, and ``each`` of its cards, spread by a hash: what stands for a group among the others."""
    place = F.row_number().over(Window.partitionBy("attribute", "value").orderBy(F.xxhash64("page")))
    chosen = members.where(F.col("width").isNotNull()).withColumn("place", place).where(F.col("place") <= each)
    return chosen.groupBy("attribute", "value").agg(_in_order("place", _card()).alias("items"))


# -- duplicates --------------------------------------------------------------------------------------------------------


def duplicates(cards: DataFrame, scratch: Workspace) -> DataFrame:
    """Sets of images with the same bytes, largest first: set, images, items (`COPIES_SHOWN` of them at most)."""
    known = cards.where("content_sha256 is not null")
    copied = (
        known.groupBy("content_sha256")
        .agg(F.count("*").alias("images"), F.min("ordinal").alias("first"))
        .where("images > 1")
    )
    place = F.row_number().over(Window.partitionBy("content_sha256").orderBy("ordinal"))
    members = known.join(copied, "content_sha256").withColumn("place", place).where(F.col("place") <= COPIES_SHOWN)
    item = F.struct("image_id", *CARD)
    sets = members.groupBy("content_sha256", "images", "first").agg(_in_order("ordinal", item).alias("items"))
    ordered = sets.withColumn("fewest", -F.col("images"))
    return numbered(ordered, ["fewest", "first"], "set", scratch).select("set", "images", "items")


def duplicate_pages(sets: DataFrame, count: int) -> DataFrame:
    """One row for each page of sets: path, number, last, items."""
    pages = sets.groupBy(F.expr(f"cast(`set` div {SETS_PER_PAGE} + 1 as int)").alias("number"))
    rows = pages.agg(_in_order("set", F.struct("images", "items")).alias("items"))
    last = max(1, -(-count // SETS_PER_PAGE))
    path = F.concat(F.lit("duplicates/"), "number", F.lit(".html"))
    return rows.select(path.alias("path"), "number", F.lit(last).alias("last"), "items")


# -- failures ----------------------------------------------------------------------------------------------------------


def failure_pages(failures: DataFrame, cards: DataFrame, sizes: dict[str, int], scratch: Workspace) -> DataFrame:
    """One row for each page of each reason: path, reason, number, last, items. ``sizes``: reason -> rows."""
    # What the detail says of addresses on this machine is nobody's business.
    detail = F.when(~F.contains("detail", F.coalesce("uri", F.lit(""))) | F.col("uri").isNull(), F.col("detail"))
    told = failures.select("image_id", "fingerprint", "reason", detail.alias("detail"))
    placed = _paged(told, ["reason"], "image_id", list(sizes.items()), FAILURES_PER_PAGE, scratch)
    shown = placed.join(cards.select("image_id", "page"), "image_id", "left")
    item = F.struct("image_id", "fingerprint", "page", "detail")
    pages = shown.groupBy("reason", "images", "number").agg(_in_order("place_reason", item).alias("items"))
    path = F.concat(F.lit("failures/"), "reason", F.lit("-"), "number", F.lit(".html"))
    return pages.select(path.alias("path"), "reason", "number", _last(FAILURES_PER_PAGE), "items")
