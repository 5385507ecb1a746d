"""A `Layout` of a collection of any size: Spark joins, sorts and groups the tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, reduce
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from image_similarity.errors import JobFailed
from image_similarity.pages.site import Site
from image_similarity.runtime.progress import progress
from image_similarity.runtime.tasks import task_count
from image_similarity.settings import Settings
from image_similarity.stages.gallery import (
    addresses,
    cards,
    compare,
    distances,
    groups_by_spark,
    images,
    listings,
    maps,
    pages,
    pictures,
    search,
    tags_by_spark,
)
from image_similarity.stages.gallery.frames import Inputs
from image_similarity.stages.gallery.groups import FOLDERS, GROUP_TEMPLATES, TEMPLATES
from image_similarity.stages.gallery.layout import Card, Failed, Layout, Totals
from image_similarity.stages.gallery.listings import Facet
from image_similarity.stages.gallery.pages import Book, Grouped, Tab
from image_similarity.stages.gallery.ranked import Lists
from image_similarity.stages.gallery.ranked_by_spark import RankedBySpark
from image_similarity.stages.gallery.staleness import gone_neighbours
from image_similarity.stages.gallery.tag_pages import Listed
from image_similarity.warehouse.schemas import SIMILAR
from image_similarity.warehouse.warehouse import Warehouse
from image_similarity.warehouse.workspace import Workspace

LEAST_PAGES_PER_TASK, MOST_PAGES_PER_TASK = 50, 2000
LEAST_PAIRS_PER_TASK = 8
"""Pages that compare two images, for each of which a task makes a picture."""


def lay_out(
    spark: SparkSession,
    inputs: Inputs,
    tabs: tuple[Tab, ...],
    settings: Settings,
    site: Site,
    rendering: str,
    warehouse: Warehouse,
    scratch: Workspace,
) -> "BySpark":
    """Makes missing pictures below the gallery. Raises ``JobFailed`` if no image of the manifest was compared."""
    collection = inputs.contents.join(inputs.manifest, "image_id")
    listings.check_group_by(collection, settings.gallery)
    described = cards.describe(tags_by_spark.joined(collection, inputs.tags), settings.gallery, scratch)
    count = described.count()
    if count == 0:
        raise JobFailed(NOTHING_TO_SHOW)
    inventory = pictures.make(
        spark, described.select("picture", "uri", "content_sha256"), site, rendering, settings, warehouse
    )
    shown = cards.with_pictures(described, inventory, scratch)
    measured = distances.with_random_pairs(distances.measured(tabs, inputs.neighbours), inputs.compared)
    return BySpark(spark, inputs, settings, site, shown, inventory, warehouse, scratch, count, measured)


NOTHING_TO_SHOW = "no image of the manifest has neighbours: run find_neighbours again"


@dataclass
class BySpark(Layout):
    spark: SparkSession
    inputs: Inputs
    settings: Settings
    site: Site
    cards: DataFrame
    inventory: DataFrame
    warehouse: Warehouse
    scratch: Workspace
    images: int
    tabs: tuple[Tab, ...]
    _filled: list[DataFrame] = field(default_factory=list)

    def pictures(self) -> Mapping[str, int]:
        counts = [
            F.count("*").alias("all"),
            F.count_if("made").alias("made"),
            F.count_if(F.col("reason").isNotNull()).alias("absent"),
        ]
        return self.inventory.agg(*counts).collect()[0].asDict()

    @cached_property
    def _facets(self) -> tuple[list[Facet], DataFrame]:
        return listings.facets(self.cards, self.images, self.settings.gallery)

    def facets(self) -> list[Facet]:
        return self._facets[0]

    @cached_property
    def _sets(self) -> DataFrame:
        return self.scratch.write("sets", listings.duplicates(self.cards, self.scratch))

    def duplicates(self) -> int:
        return self._sets.count()

    def failed(self) -> Failed:
        images_failed = F.count_distinct("image_id").alias("images")
        reasons = self.inputs.failures.groupBy("reason").agg(images_failed).orderBy("reason").collect()
        failed = self.inputs.failures.select("image_id").distinct()
        lost = failed.join(self.cards, "image_id", "left_anti").count()
        return Failed([(row.reason, row.images) for row in reasons], failed.count(), lost)

    @cached_property
    def _ranked(self) -> RankedBySpark:
        return RankedBySpark(self.cards, self.inputs.neighbours, self.inputs.quality, self.scratch)

    def ranked(self) -> Lists:
        return self._ranked.lists(*self._facets)

    @cached_property
    def _groups(self) -> groups_by_spark.Groups | None:
        tables = self.inputs.groups
        return None if tables is None else groups_by_spark.built(tables, self.cards, self.scratch)

    def grouped(self) -> Grouped:
        return Grouped() if self._groups is None else self._groups.shown

    def groups_gone(self) -> int:
        return 0 if self._groups is None else self._groups.gone

    def faces(self) -> Mapping[str, list[Card]]:
        return {} if self._groups is None else self._groups.faces()

    @cached_property
    def _tags(self) -> tags_by_spark.Tags:
        return tags_by_spark.Tags(self.cards, self.scratch)

    def tags(self) -> Sequence[Listed]:
        return self._tags.all

    def untagged(self) -> int:
        return self._tags.untagged

    def tags_gone(self) -> int:
        if self.inputs.tags is None:
            return 0
        accepted = self.inputs.tags.where("accepted")
        return self.inputs.outdated_tags + accepted.join(self.cards, "image_id", "left_anti").count()

    def unjudged(self) -> int:
        if self.inputs.tags is None:
            return self.images
        return self.cards.join(self.inputs.tags, "image_id", "left_anti").count()

    # -- pages ---------------------------------------------------------------------------------------------------------

    def fill_images(self, book: Book) -> Totals:
        tasks = task_count(self.spark, self.images, LEAST_PAGES_PER_TASK, MOST_PAGES_PER_TASK)
        of_images = None if self._groups is None else self._groups.of_images()
        rows = images.rows(self.cards, self.inputs.neighbours, tasks, of_images)
        rows = rows.join(self._ranked.of_images().repartition(tasks, "image_id"), "image_id", "left")
        with progress(self.spark, "pages of images", self.images, "pages", tasks):
            return self._fill("images", pages.fill(rows, "image.html", book, images.context(book)))

    def fill_lists(self, book: Book, facets: list[Facet], failures: Mapping[str, Mapping[str, Any]]) -> Totals:
        per_page = self.settings.gallery.images_per_page
        rows = listings.browse(self.cards, self.images, per_page)
        totals = self._fill("browse", pages.fill(rows, "browse.html", book))
        if facets:
            rows = listings.facet_pages(self._facets[1], facets, per_page, self.scratch)
            totals += self._fill("groups", pages.fill(rows, "group.html", book))
        if book.duplicates:
            rows = listings.duplicate_pages(self._sets, book.duplicates)
            totals += self._fill("duplicates", pages.fill(rows, "duplicates.html", book))
        if failures:
            sizes = {reason: facts["images"] for reason, facts in failures.items()}
            rows = listings.failure_pages(self.inputs.failures, self.cards, sizes, self.scratch)
            filled = pages.fill(rows, "failures.html", book, lambda row: {**row, **failures[row["reason"]]})
            totals += self._fill("failures", filled)
        return totals

    def fill_groups(self, book: Book) -> Totals:
        totals = Totals()
        if self._groups is not None:
            for order in self._groups.lists:
                rows, name = self._groups.list_pages(order), f"list-{order.kind}-{order.name}"
                totals += self._fill(name, pages.fill(rows, TEMPLATES[order.kind], book))
            for kind in FOLDERS:
                rows = self._groups.pages(kind, self.settings.gallery.images_per_page)
                totals += self._fill(f"groups-{kind}", pages.fill(rows, GROUP_TEMPLATES[kind], book))
        return totals

    def fill_tags(self, book: Book) -> Totals:
        if book.tags is None:
            return Totals()
        per_page, totals = self.settings.gallery.images_per_page, Totals()
        if by_page := {tag.page: tag for tag in self.tags()}:
            of_tag = pages.fill(
                self._tags.pages(per_page), "tag.html", book, lambda row: {**row, "tag": by_page[row["tag"]]}
            )
            totals += self._fill("tags", of_tag)
        if self.untagged():
            totals += self._fill("untagged", pages.fill(self._tags.untagged_pages(per_page), "untagged.html", book))
        return totals

    def fill_comparisons(self, book: Book) -> Totals:
        if self._groups is None:
            return Totals()
        pairs = self.scratch.write("pairs", compare.rows(self._groups.whole()))
        if not (count := pairs.count()):
            return Totals()
        compare.write_list(pairs, self.site, book.rendering)
        tasks = task_count(self.spark, count, LEAST_PAIRS_PER_TASK, MOST_PAGES_PER_TASK)
        rows = pages.fill(pairs.repartition(tasks), "compare.html", book, compare.context(book))
        with progress(self.spark, "comparisons", count, "pages", tasks):
            return self._fill("comparisons", rows)

    def add(self, filled: list[dict[str, Any]]) -> Totals:
        return self._fill("single", self.spark.createDataFrame(pa.Table.from_pylist(filled, pages.FILLED_SCHEMA)))

    def _fill(self, name: str, rows: DataFrame) -> Totals:
        """Fills pages. They stay in the workspace until all pages are filled."""
        self._filled.append(self.scratch.write(f"filled-{name}", rows))
        return _totals(self._filled[-1])

    def filled(self) -> DataFrame:
        return reduce(DataFrame.unionByName, self._filled)

    def write_search(self, book: Book) -> tuple[Totals, Totals, list[str]]:
        terms, prefixes = search.write_terms(self.cards, book, self.scratch)
        return _totals(search.write_cards(self.cards, book)), _totals(terms), prefixes

    def write_cards(self, book: Book) -> None:
        maps.write_cards(self.cards, book)

    # -- single images -------------------------------------------------------------------------------------------------

    def examples(self, facets: list[Facet], each: int) -> Mapping[tuple[str, str], list[Card]]:
        rows = listings.examples(self._facets[1], each).collect()
        return {(row.attribute, row.value): row["items"] for row in rows}

    def failed_images(self) -> list[Mapping[str, Any]]:
        failed = self.inputs.failures.select("reason", "image_id").distinct()
        rows = failed.join(self.cards.select("image_id", "page"), "image_id", "left").orderBy("image_id").collect()
        return [row.asDict() for row in rows]

    def absent(self, most: int) -> list[Mapping[str, Any]]:
        absent = self.cards.where("width is null").orderBy("ordinal").limit(most)
        rows = absent.select("image_id", "title", "page", "reason", "detail").collect()
        return [row.asDict() for row in rows]

    def pairs(self) -> list[dict[str, tuple[Card, Card, float]]]:
        by_tab = distances.examples(self.tabs, self.inputs.neighbours, self.cards)
        ids = {image_id for pairs in by_tab for *both, _ in pairs.values() for image_id in both}
        rows = self.cards.where(F.col("image_id").isin(list(ids))).select("image_id", *cards.CARD).collect()
        card = {row["image_id"]: row.asDict() for row in rows}
        return [
            {kind: (card[one], card[other], distance) for kind, (one, other, distance) in pairs.items()}
            for pairs in by_tab
        ]

    def selection(self, seed: int, most: int) -> list[Card]:
        drawn = F.sha2(F.concat_ws("\n", F.lit(str(seed)), "image_id"), 256)  # as `in_process` does
        rows = self.cards.where("width is not null").orderBy(drawn).limit(most).select("image_id", *cards.CARD)
        return [row.asDict() for row in rows.collect()]

    def most_alike(self, image_ids: list[str], most: int) -> dict[str, list[Card]]:
        first = (F.col("tab") == 0) & (F.col("relation") == SIMILAR) & (F.col("rank") <= most)
        edges = self.inputs.neighbours.where(first & F.col("image_id").isin(image_ids))
        card = self.cards.select(F.col("image_id").alias("neighbour_id"), *cards.CARD)
        rows = edges.join(card, "neighbour_id").orderBy("image_id", "rank").collect()
        alike: dict[str, list[Card]] = {}
        for row in rows:
            alike.setdefault(row.image_id, []).append(row.asDict())
        return alike

    def gone(self, shown: int) -> dict[int, int]:
        if self.inputs.neighbours.count() == shown:
            return {}
        return gone_neighbours(self.inputs.neighbours, self.cards)

    # -- what has left -------------------------------------------------------------------------------------------------

    def retire(self, book: Book, earlier: Sequence[str]) -> int:
        return addresses.retire(self.spark, self.filled().select("path"), book, earlier)

    def remove_unused(self, kept: list[str]) -> int:
        compare.remove_unused(self.spark, self.site, kept, self.warehouse)
        return pictures.remove_unused(self.spark, self.site, kept, self.warehouse)


def _totals(written: DataFrame) -> Totals:
    """Of rows of `pages.WRITTEN` or `pages.FILLED`. Files that Spark's tasks write are written now."""
    sums = [F.coalesce(F.sum(name), F.lit(0)).alias(name) for name in ("bytes", "items")]
    counts = [
        F.count_if(F.col("state") == state).alias(state) if "state" in written.columns else F.lit(0).alias(state)
        for state in (pages.NEW, pages.CHANGED)
    ]
    return Totals(**written.agg(F.count("*").alias("files"), *sums, *counts).collect()[0].asDict())
