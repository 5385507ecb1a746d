"""The rows of `groups.Groups`, for pages of groups in tables of any size, by Spark."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from image_similarity.runtime.tasks import numbered
from image_similarity.stages.gallery import groups
from image_similarity.stages.gallery.groups import FOLDERS, GROUP, PER_PAGE, SHOWN, Order, group_path
from image_similarity.stages.gallery.members import MEMBER
from image_similarity.stages.gallery.pages import Grouped
from image_similarity.warehouse.schemas import ALIKE, NEAR_DUPLICATES
from image_similarity.warehouse.workspace import Workspace


@dataclass(frozen=True)
class GroupTables:
    """The groups by one tab."""

    tab: int
    rows: DataFrame
    """`groups.COLUMNS`."""
    summary: DataFrame
    """`groups.SUMMARY`."""


@dataclass(frozen=True)
class Groups:
    """The groups that are shown."""

    all: DataFrame
    """`GROUP`, and ``ordinal`` (of the kept one)."""
    rows: DataFrame
    """group_id, image_id, member, place (from 0, in its group, without the kept one, of which it is null)."""
    shown: Grouped
    gone: int
    """Rows of the table that no page shows."""
    lists: Mapping[Order, DataFrame]
    """The groups of each list: `GROUP`, and ``place`` in the list, from 0."""

    def list_pages(self, order: Order) -> DataFrame:
        """One row for each page of a list: path, level, by, number, last, items."""
        per_page = PER_PAGE[order.kind]
        last = -(-groups.counted(self.shown, order) // per_page)
        pages = self.lists[order].groupBy(F.expr(f"cast(place div {per_page} + 1 as int)").alias("number"))
        before, after = order.path("\n").split("\n")
        return pages.agg(_in_order(F.struct(*GROUP)).alias("items")).select(
            F.concat(F.lit(before), "number", F.lit(after)).alias("path"),
            F.lit(order.level).alias("level"),
            F.lit(order.by).alias("by"),
            "number",
            F.lit(last).alias("last"),
            "items",
        )

    def faces(self) -> dict[str, list[dict[str, Any]]]:
        """kind -> cards for the front page."""
        return {kind: groups.faces(self._first(order), kind) for kind, order in groups.first_lists(self.shown).items()}

    def _first(self, order: Order) -> list[dict[str, Any]]:
        rows = self.lists[order].where(F.col("place") < groups.FACES).orderBy("place").collect()
        return [row.asDict(recursive=True) for row in rows]

    def pages(self, kind: str, per_page: int) -> DataFrame:
        """One row for each page of each group of a kind: path, group, number, last, items."""
        own = self.all.where(F.col("kind") == kind).withColumn("members", F.slice("members", 1, 1))
        own = own.select("group_id", "size", F.struct(*GROUP).alias("group"))
        number = F.expr(f"cast(place div {per_page} + 1 as int)").alias("number")
        items = self.rows.where("place is not null").groupBy("group_id", number)
        paged = own.join(items.agg(_in_order(F.col("member")).alias("items")), "group_id")
        path = F.concat(F.lit(f"{FOLDERS[kind]}/"), F.concat_ws("-", "group_id", "number"), F.lit(".html"))
        last = F.ceil((F.col("size") - 1) / per_page).cast("int").alias("last")
        return paged.select(path.alias("path"), "group", "number", last, "items")

    def of_images(self) -> DataFrame:
        """image_id, groups: those of the finest level, by kind."""
        finest = self.all.where("level = 0").select("group_id", F.struct("kind", *_others("kind")).alias("group"))
        joined = self.rows.select("image_id", "group_id").join(finest, "group_id")
        return joined.groupBy("image_id").agg(F.sort_array(F.collect_list("group")).alias("groups"))

    def whole(self) -> DataFrame:
        """The groups of near-duplicates with all their members: `compare.GROUP`."""
        near = self.all.where(F.col("kind") == NEAR_DUPLICATES)
        near = near.select("group_id", "kind", "path", F.slice("members", 1, 1).alias("kept"))
        others = (
            self.rows.where("place is not null").groupBy("group_id").agg(_in_order(F.col("member")).alias("others"))
        )
        members = F.concat("kept", "others").alias("members")
        return near.join(others, "group_id").select("group_id", "kind", "path", members)


def built(tables: GroupTables, cards: DataFrame, scratch: Workspace) -> Groups:
    """The groups of the images that ``cards`` has; materialised."""
    distance = F.when(~F.col("representative"), F.col("distance_to_representative")).alias("distance")
    listed = tables.rows.select("group_id", "kind", "level", "image_id", "representative", distance, "position")
    member = F.struct(*MEMBER, "distance").alias("member")
    joined = listed.join(cards.select("ordinal", *MEMBER), "image_id")
    joined = joined.select("group_id", "kind", "level", "image_id", "representative", "position", "ordinal", member)
    whole = joined.groupBy("group_id", "kind", "level").agg(
        F.count("*").cast("int").alias("size"),
        F.max(F.when(F.col("representative"), F.struct("ordinal", "member"))).alias("face"),
        _most("pixels", F.col("member.pixel_width").cast("long") * F.col("member.pixel_height")),
        _most("bytes", F.col("member.size_bytes")),
    )
    found = scratch.write("groups-found", whole.where("face is not null and size > 1"))
    sizes = _sizes(found)
    gone = tables.rows.count() - sum(images for _, images in sizes.values())
    shown = found.withColumn("level", _level(groups.shown_levels(sizes))).where("level is not null")
    levels = shown.select("group_id", "level")
    rows = scratch.write("groups-rows", _placed(joined.drop("level").join(levels, "group_id")))
    first = rows.where(F.col("place") < SHOWN).groupBy("group_id").agg(_in_order(F.col("member")).alias("first"))
    summary = tables.summary.select("group_id", "label", "weakest_link")
    all_groups = (
        shown.join(first, "group_id").join(summary, "group_id", "left").join(_parents(shown, rows), "group_id", "left")
    )
    all_groups = all_groups.withColumn("path", _path(F.col("kind"), F.col("group_id")))
    all_groups = all_groups.withColumn("members", F.concat(F.array("face.member"), "first"))
    written = scratch.write("groups-all", all_groups.select(*GROUP, F.col("face.ordinal").alias("ordinal")))
    grouped = groups.grouped(tables.tab, _sizes(written))
    lists = {order: _in_list(written, order, scratch) for order in groups.orders(grouped)}
    return Groups(written, rows, grouped, gone, lists)


def _sizes(all_groups: DataFrame) -> dict[tuple[str, int], tuple[int, int]]:
    """Kind and level -> groups, and images in them."""
    sized = all_groups.groupBy("kind", "level").agg(F.count("*").alias("groups"), F.sum("size").alias("images"))
    return {(row.kind, row.level): (row.groups, row.images) for row in sized.collect()}


def _level(shown: Mapping[tuple[str, int], int]) -> Column:
    """The level on the pages, see `groups.shown_levels`; null if it is not shown."""
    number = F.lit(None).cast("int")
    for (kind, level), own in shown.items():
        number = F.when((F.col("kind") == kind) & (F.col("level") == level), own).otherwise(number)
    return number


def _in_list(all_groups: DataFrame, order: Order, scratch: Workspace) -> DataFrame:
    """The groups of a list, with their ``place`` in it."""
    own = all_groups.where((F.col("kind") == order.kind) & (F.col("level") == order.level))
    by = -F.col("size") if order.by == "size" else F.coalesce("weakest_link", F.lit(float("inf")))
    place = f"place_{FOLDERS[order.kind]}_{order.name}"
    ordered = numbered(own.withColumn("_by", by), ["_by", "ordinal"], place, scratch)
    return ordered.select(*GROUP, F.col(place).alias("place"))


def _placed(rows: DataFrame) -> DataFrame:
    """``rows`` with the place of each member but the kept one in its group."""
    order = Window.partitionBy("group_id", "representative").orderBy("position", "ordinal")
    place = F.when(~F.col("representative"), F.row_number().over(order) - 1)
    return rows.select("group_id", "kind", "level", "image_id", "member", place.alias("place"))


def _parents(shown: DataFrame, rows: DataFrame) -> DataFrame:
    """group_id, parent: the page of the coarser group that contains the kept one."""
    alike = F.col("kind") == ALIKE
    own = shown.where(alike).select("group_id", "level", F.col("face.member.image_id").alias("image_id"))
    coarser = rows.where(alike & (F.col("level") > 0)).select(
        "image_id", (F.col("level") - 1).alias("level"), _path(F.col("kind"), F.col("group_id")).alias("parent")
    )
    return own.join(coarser, ["image_id", "level"]).select("group_id", "parent")


def _path(kind: Column, group_id: Column) -> Column:
    """As `groups.group_path`."""
    pages = F.lit(group_path("", ""))
    for of_kind in FOLDERS:
        before, after = group_path(of_kind, "\n").split("\n")
        pages = F.when(kind == of_kind, F.concat(F.lit(before), group_id, F.lit(after))).otherwise(pages)
    return pages


def _most(name: str, value: Column) -> Column:
    """The largest ``value`` of the others; null if one of them is not known."""
    are_known = F.min(value.isNotNull() | F.col("representative"))
    return F.when(are_known, F.max(F.when(~F.col("representative"), value))).alias(f"others_{name}")


def _others(first: str) -> list[str]:
    return [name for name in GROUP if name != first]


def _in_order(value: Column) -> Column:
    """The values of a group of rows as an array, in the order of their ``place``."""
    pairs = F.sort_array(F.collect_list(F.struct("place", value.alias("value"))))
    return F.transform(pairs, lambda pair: pair["value"])
