"""Pages that list images: to browse, by group, exact duplicates, failures."""

from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from image_similarity.errors import WrongInput
from image_similarity.settings import GallerySettings
from image_similarity.spark import numbered
from image_similarity.stages.gallery.cards import CARD
from image_similarity.warehouse import Scratch

FOLDER = "folder"
"""The group of images without usable attributes: the first folder of their ids."""

MOST_GROUPS, MOST_GROUPINGS = 200, 5
MOST_GROUPS_ASKED_FOR = 5000
SETS_PER_PAGE = 40
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
        F.sort_array(F.collect_list(F.struct(F.col(order).alias("order"), value.alias("value")))), lambda one: one["value"]
    )


# -- by group ------------------------------------------------------------------------------------------------------------------


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
    """Raise ``WrongInput`` if images are to be grouped by an attribute (column ``attributes``) that none of them has."""
    if settings.group_by:
        names = {row.name for row in images.select(F.explode(F.map_keys("attributes")).alias("name")).distinct().collect()}
        unknown = [name for name in settings.group_by if name not in names]
        if unknown:
            known = ", ".join(sorted(names)) or "none"
            raise WrongInput(f"gallery.group_by: no image has the attribute {', '.join(unknown)}; there are: {known}")


def groupings(cards: DataFrame, images: int, settings: GallerySettings) -> tuple[list[Grouping], DataFrame]:
    """The attributes that divide the images well, and the members of their groups: attribute, value, ordinal, and the card."""
    given = cards.select(F.explode("attributes").alias("attribute", "value"), "ordinal", *CARD)
    values = F.count_distinct("value").alias("values")
    counted = (
        given.groupBy("attribute").agg(F.count("*").alias("images"), values, F.avg(F.length("value")).alias("length")).collect()
    )
    found = {row.attribute: row for row in counted}
    if settings.group_by:
        chosen = [name for name in settings.group_by if found[name].values <= MOST_GROUPS_ASKED_FOR]
    else:
        useful = [row for row in counted if _divides_well(row.images, row.values, row.length, images)]
        chosen = [row.attribute for row in sorted(useful, key=lambda row: (row.values, row.attribute))][:MOST_GROUPINGS]
        if not chosen:
            given, chosen = _by_folder(cards), [FOLDER]
    members = given.where(F.col("attribute").isin(chosen))
    sizes = members.groupBy("attribute", "value").count().orderBy("attribute", F.desc("count"), "value").collect()
    named = _name(F.col("attribute"), F.col("value"))
    names = {
        (row.attribute, row.value): row.name
        for row in members.select("attribute", "value", named.alias("name")).distinct().collect()
    }
    made: list[Grouping] = []
    for attribute in chosen:
        groups = [Group(row.value, row["count"], names[attribute, row.value]) for row in sizes if row.attribute == attribute]
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


def _name(attribute: Column, value: Column) -> Column:
    return F.substring(F.sha2(F.concat_ws("\n", attribute, value), 256), 1, 16)


def group_pages(members: DataFrame, made: list[Grouping], per_page: int) -> DataFrame:
    """One row for each page of each group: path, attribute, value, images, number, last, items."""
    group = Window.partitionBy("attribute", "value")
    place = F.row_number().over(group.orderBy("ordinal")) - 1
    placed = members.withColumns({"images": F.count("*").over(group), "number": F.expr("1").cast("int")})
    placed = placed.withColumn("number", (F.floor(place / per_page) + 1).cast("int"))
    pages = placed.groupBy("attribute", "value", "images", "number").agg(_in_order("ordinal", _card()).alias("items"))
    folders = F.create_map(*[F.lit(text) for grouping in made for text in (grouping.attribute, grouping.name)])
    name = F.concat_ws("-", _name(F.col("attribute"), F.col("value")), "number")
    path = F.concat(F.lit("groups/"), folders[F.col("attribute")], F.lit("/"), name, F.lit(".html"))
    last = F.ceil(F.col("images") / per_page).cast("int").alias("last")
    return pages.select(path.alias("path"), "attribute", "value", "images", "number", last, "items")


def examples(members: DataFrame, each: int) -> DataFrame:
    """attribute, value, and ``each`` of its cards, spread by a hash: what stands for a group among the others."""
    place = F.row_number().over(Window.partitionBy("attribute", "value").orderBy(F.xxhash64("page")))
    chosen = members.where(F.col("width").isNotNull()).withColumn("place", place).where(F.col("place") <= each)
    return chosen.groupBy("attribute", "value").agg(_in_order("place", _card()).alias("items"))


# -- duplicates ----------------------------------------------------------------------------------------------------------------


def duplicates(cards: DataFrame, contents: DataFrame, scratch: Scratch) -> DataFrame:
    """Sets of images with the same bytes, largest first: set, images, items. ``contents``: image_id, content_sha256."""
    known = contents.where("content_sha256 is not null")
    copied = known.groupBy("content_sha256").count().where("count > 1").select("content_sha256", F.col("count").alias("images"))
    members = known.join(copied, "content_sha256").join(cards, "image_id")
    sets = members.groupBy("content_sha256", "images").agg(
        F.min("ordinal").alias("first"), _in_order("ordinal", F.struct("image_id", *CARD)).alias("items")
    )
    ordered = sets.withColumn("fewest", -F.col("images"))
    return numbered(ordered, ["fewest", "first"], "set", scratch).select("set", "images", "items")


def duplicate_pages(sets: DataFrame, count: int) -> DataFrame:
    """One row for each page of sets: path, number, last, items."""
    pages = sets.groupBy(F.expr(f"cast(`set` div {SETS_PER_PAGE} + 1 as int)").alias("number"))
    rows = pages.agg(_in_order("set", F.col("items")).alias("items"))
    last = max(1, -(-count // SETS_PER_PAGE))
    path = F.concat(F.lit("duplicates/"), "number", F.lit(".html"))
    return rows.select(path.alias("path"), "number", F.lit(last).alias("last"), "items")


# -- failures ------------------------------------------------------------------------------------------------------------------


def failure_pages(failures: DataFrame, cards: DataFrame) -> DataFrame:
    """One row for each page of each reason: path, reason, images, number, last, items."""
    shown = cards.select("image_id", "page")
    told = failures.join(shown, "image_id", "left").select("image_id", "fingerprint", "reason", "detail", "uri", "page")
    group = Window.partitionBy("reason")
    place = F.row_number().over(group.orderBy("image_id", "fingerprint")) - 1
    placed = told.withColumns({"images": F.count("*").over(group), "place": place})
    placed = placed.withColumn("number", (F.floor(F.col("place") / FAILURES_PER_PAGE) + 1).cast("int"))
    # Where the detail only repeats the address, the page does without: addresses on this machine are nobody's business.
    detail = F.when(F.col("detail") != F.col("uri"), F.col("detail"))
    item = F.struct("image_id", "fingerprint", "page", detail.alias("detail"))
    pages = placed.groupBy("reason", "images", "number").agg(_in_order("place", item).alias("items"))
    path = F.concat(F.lit("failures/"), "reason", F.lit("-"), "number", F.lit(".html"))
    last = F.ceil(F.col("images") / FAILURES_PER_PAGE).cast("int").alias("last")
    return pages.select(path.alias("path"), "reason", "images", "number", last, "items")
