"""Pages that list images: all of them, by facet, exact duplicates, and failures."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from image_similarity.errors import WrongInput, did_you_mean, listed
from image_similarity.pages.facets import MOST_VALUES, MOST_VALUES_ASKED_FOR, AttributeUse, chosen
from image_similarity.runtime.tasks import numbered
from image_similarity.settings import GallerySettings
from image_similarity.stages.gallery.cards import CARD
from image_similarity.warehouse.workspace import Workspace

FOLDER = "folder"
"""The facet of images without usable attributes: the first folder of their ids."""

SETS_PER_PAGE, COPIES_SHOWN = 40, 100
FAILURES_PER_PAGE = 500


def _card() -> Column:
    return F.struct(*CARD)


def browse(cards: DataFrame, images: int, per_page: int) -> DataFrame:
    """One row for each page of the list of all images: path, number, last, items."""
    pages = cards.groupBy(F.expr(f"cast(ordinal div {per_page} + 1 as int)").alias("number"))
    rows = pages.agg(_in_order("ordinal", _card()).alias("items"))
    last = max(1, -(-images // per_page))
    return rows.select(
        F.concat(F.lit("browse/"), "number", F.lit(".html")).alias("path"), "number", F.lit(last).alias("last"), "items"
    )


def _in_order(order: str, value: Column) -> Column:
    """The values of a group as an array, in the order of a column."""
    return F.transform(
        F.sort_array(F.collect_list(F.struct(F.col(order).alias("order"), value.alias("value")))),
        lambda pair: pair["value"],
    )


# -- by facet ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FacetValue:
    value: str
    images: int
    name: str
    """The name of its pages: 32 hexadecimal digits."""


@dataclass(frozen=True)
class Facet:
    attribute: str
    name: str
    """The name of its page: 32 hexadecimal digits, the same whatever other facets there are."""
    values: tuple[FacetValue, ...]
    by_folder: bool = False
    """Whether its values are the folders of the images, and not those of an attribute."""


def check_group_by(images: DataFrame, settings: GallerySettings) -> None:
    """Raises ``WrongInput`` if the settings name a facet that no image has as an attribute, or one of too many values.

    ``images``: with a column ``attributes``.
    """
    if settings.group_by:
        named = images.select(F.explode("attributes").alias("name", "value")).where(
            F.col("name").isin(list(settings.group_by))
        )
        values = named.groupBy("name").agg(F.count_distinct("value").alias("values")).collect()
        known = set(settings.group_by)
        if len(values) < len(known):
            names = images.select(F.explode(F.map_keys("attributes")).alias("name")).distinct().collect()
            known = {row["name"] for row in names}
        check_values(settings.group_by, known, {row["name"]: row["values"] for row in values})


def check_values(group_by: Sequence[str], known: Collection[str], values: Mapping[str, int]) -> None:
    """`check_group_by`, of the names of ``known`` attributes, and the number of their different ``values``."""
    unknown = [name for name in group_by if name not in known]
    if unknown:
        names = sorted(known)
        raise WrongInput(
            f"gallery.group_by: no image has the attribute {', '.join(unknown)} (there are: {listed(names)})"
            + did_you_mean(unknown[0], names)
        )
    for name in group_by:
        if values.get(name, 0) > MOST_VALUES_ASKED_FOR:
            raise WrongInput(
                f"gallery.group_by: {name} has {values[name]:,} values; {MOST_VALUES_ASKED_FOR:,} are the most"
            )


def facets(cards: DataFrame, images: int, settings: GallerySettings) -> tuple[list[Facet], DataFrame]:
    """The facets of the collection, and their members: attribute, value, ordinal, and the card.

    Facets are the attributes that the settings name; without any, those that divide the images well, or the folders.
    """
    rows = cards.select(F.explode("attributes").alias("attribute", "value"), "ordinal", *CARD)
    values = F.count_distinct("value").alias("values")
    statistics = (
        rows.groupBy("attribute")
        .agg(F.count("*").alias("images"), values, F.avg(F.length("value")).alias("length"))
        .collect()
    )
    attributes = chosen([AttributeUse(**row.asDict()) for row in statistics], images, settings.group_by)
    by_folder = not attributes
    if by_folder:
        rows, attributes = _by_folder(cards), [FOLDER]
    members = rows.where(F.col("attribute").isin(attributes))
    sizes = members.groupBy("attribute", "value").count().orderBy("attribute", F.desc("count"), "value").collect()
    counted = [(row.attribute, row.value, row["count"]) for row in sizes]
    return as_facets(attributes, counted, by_folder, settings), members


def as_facets(
    attributes: list[str], sizes: Sequence[tuple[str, str, int]], by_folder: bool, settings: GallerySettings
) -> list[Facet]:
    """``sizes``: attribute, value and images, in the order in which values are shown."""
    result: list[Facet] = []
    for attribute in attributes:
        facet_values = [
            FacetValue(value, images, value_name(attribute, value))
            for of_attribute, value, images in sizes
            if of_attribute == attribute
        ]
        if len(facet_values) > 1 or settings.group_by:
            result.append(Facet(attribute, hashed(attribute), tuple(facet_values), by_folder))
    return result


def _by_folder(cards: DataFrame) -> DataFrame:
    """Members by the first folder of image_id. No rows if there are too many folders; images outside are left out."""
    inside = cards.where(F.contains("image_id", F.lit("/")))
    folder = F.substring_index("image_id", "/", 1)
    members = inside.select(F.lit(FOLDER).alias("attribute"), folder.alias("value"), "ordinal", *CARD)
    folders = members.select("value").distinct().limit(MOST_VALUES + 1).count()
    return members if folders <= MOST_VALUES else members.limit(0)


def value_name(attribute: str, value: str) -> str:
    """The name of the pages of one value of a facet."""
    return hashed(f"{attribute}\n{value}")


def hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def facet_pages(members: DataFrame, facets: list[Facet], per_page: int, scratch: Workspace) -> DataFrame:
    """One row for each page of each value of a facet: path, attribute, value, images, number, last, items."""
    sizes = [(facet.attribute, value.value, value.images) for facet in facets for value in facet.values]
    placed = _paged(members, ["attribute", "value"], "ordinal", sizes, per_page, scratch)
    pages = placed.groupBy("attribute", "value", "images", "number").agg(_in_order("ordinal", _card()).alias("items"))
    folders = F.create_map(*[F.lit(text) for facet in facets for text in (facet.attribute, facet.name)])
    # The same name as `value_name` gives: links to the pages use that one.
    name = F.substring(F.sha2(F.concat_ws("\n", "attribute", "value"), 256), 1, 32)
    path = F.concat(
        F.lit("groups/"), folders[F.col("attribute")], F.lit("/"), F.concat_ws("-", name, "number"), F.lit(".html")
    )
    return pages.select(path.alias("path"), "attribute", "value", "images", "number", _last(per_page), "items")


def _paged(
    rows: DataFrame, group: list[str], order: str, sizes: list[tuple[Any, ...]], per_page: int, scratch: Workspace
) -> DataFrame:
    """``rows`` with the size of their group (``images``) and the number of their page in it, from 1.

    ``sizes``: the values of the columns ``group``, and the number of rows that have them. Pages are numbered by the
    position in the order of all rows, because a single group may contain most of them.
    """
    spark, position = rows.sparkSession, f"place_{'_'.join(group)}"
    starts, start = [], 0
    for *values, images in sorted(sizes, key=lambda size: [value.encode() for value in size[:-1]]):
        starts.append((*values, images, start))
        start += images
    starts_by_group = spark.createDataFrame(
        starts, ", ".join(f"{name} string" for name in group) + ", images long, start long"
    )
    placed = numbered(rows, [*group, order], position, scratch).join(F.broadcast(starts_by_group), group)
    return placed.withColumn("number", F.expr(f"cast(({position} - start) div {per_page} + 1 as int)"))


def _last(per_page: int) -> Column:
    return F.ceil(F.col("images") / per_page).cast("int").alias("last")


def examples(members: DataFrame, each: int) -> DataFrame:
    """attribute, value, and ``each`` of its cards, chosen by a hash: the examples that are shown for a value."""
    position = F.row_number().over(Window.partitionBy("attribute", "value").orderBy("page"))
    chosen = members.where(F.col("width").isNotNull()).withColumn("place", position).where(F.col("place") <= each)
    return chosen.groupBy("attribute", "value").agg(_in_order("place", _card()).alias("items"))


# -- duplicates --------------------------------------------------------------------------------------------------------


def duplicates(cards: DataFrame, scratch: Workspace) -> DataFrame:
    """Sets of images with the same bytes, largest first: set, images, items (at most `COPIES_SHOWN` of them)."""
    embedded = cards.where("content_sha256 is not null")
    copied = (
        embedded.groupBy("content_sha256")
        .agg(F.count("*").alias("images"), F.min("ordinal").alias("first"))
        .where("images > 1")
    )
    position = F.row_number().over(Window.partitionBy("content_sha256").orderBy("ordinal"))
    members = (
        embedded.join(copied, "content_sha256").withColumn("place", position).where(F.col("place") <= COPIES_SHOWN)
    )
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
    """One row for each page of each reason: path, reason, number, last, items. ``sizes``: reason -> images.

    An image of which several fingerprints say the same is one item.
    """
    # A detail may contain a path on this machine, which must not be published.
    detail = F.when(~F.contains("detail", F.coalesce("uri", F.lit(""))) | F.col("uri").isNull(), F.col("detail"))
    public = failures.groupBy("reason", "image_id").agg(
        F.sort_array(F.collect_set("fingerprint")).alias("fingerprints"),
        F.sort_array(F.collect_set(detail)).alias("details"),
        F.max("uri").alias("uri"),
    )
    placed = _paged(public, ["reason"], "image_id", list(sizes.items()), FAILURES_PER_PAGE, scratch)
    shown = placed.join(cards.select("image_id", "page"), "image_id", "left")
    item = F.struct("image_id", "fingerprints", "page", "details", "uri")
    pages = shown.groupBy("reason", "images", "number").agg(_in_order("place_reason", item).alias("items"))
    path = F.concat(F.lit("failures/"), "reason", F.lit("-"), "number", F.lit(".html"))
    return pages.select(path.alias("path"), "reason", "number", _last(FAILURES_PER_PAGE), "items")
