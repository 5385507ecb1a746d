"""One rendering of the gallery. Spark tasks make pictures and fill most pages; the driver fills the single pages."""

from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from image_similarity.errors import JobFailed
from image_similarity.pages.site import Site
from image_similarity.runtime.progress import progress, step
from image_similarity.runtime.tasks import task_count
from image_similarity.settings import Settings
from image_similarity.stages.gallery import cards, distances, images, listings, pages, pictures, search, words
from image_similarity.stages.gallery.pages import Book, Tab
from image_similarity.stages.gallery.staleness import gone_neighbours
from image_similarity.storage import blobs
from image_similarity.warehouse.schemas import SIMILAR
from image_similarity.warehouse.warehouse import Warehouse
from image_similarity.warehouse.workspace import Workspace

LEAST_PAGES_PER_TASK, MOST_PAGES_PER_TASK = 50, 2000
ROWS_OF_EXAMPLES, NEIGHBOURS_IN_EXAMPLES = 4, 6
EXAMPLES_OF_A_VALUE = 3
VALUES_ON_THE_FRONT_PAGE = 12
FEW_FAILURES = 20
"""So many failed images are named where their reasons are; more have pages of their own only."""


@dataclass(frozen=True)
class Inputs:
    manifest: DataFrame
    contents: DataFrame
    """image_id, content_sha256 (null where it is unknown): the compared images of the collection, each once."""
    neighbours: DataFrame
    """Rows of ``neighbours`` with the number of their tab."""
    failures: DataFrame
    compared: dict[str, distances.Compared]
    """fingerprint -> its vectors, where the warehouse has them."""


@dataclass(frozen=True)
class About:
    """What the pages say besides the images."""

    title: str
    tabs: tuple[Tab, ...]
    untrained: tuple[str, ...]
    from_list: bool
    reasons: dict[str, str]
    """reason of a failure -> its meaning."""
    runs: list[dict[str, Any]]
    """For the page of the run: title, facts (pairs), notes, and settings of each job."""


@dataclass(frozen=True)
class Outputs:
    """A rendering that no visitor sees yet."""

    index: str
    """The front page, as HTML."""
    filled: DataFrame
    """All other pages (`pages.FILLED`), in the workspace of the run."""
    pages: int
    """The number of rows of ``filled``."""
    book: Book
    counts: dict[str, Any]


def run(
    spark: SparkSession,
    inputs: Inputs,
    about: About,
    settings: Settings,
    site: Site,
    rendering: str,
    warehouse: Warehouse,
    scratch: Workspace,
) -> Outputs:
    """Fills the pages. Writes the folder ``rendering``, and missing pictures below the gallery; no page is touched."""
    collection = inputs.contents.join(inputs.manifest, "image_id")
    listings.check_group_by(collection, settings.gallery)
    described = cards.describe(collection, settings.gallery, scratch)
    count = described.count()
    if count == 0:
        raise JobFailed("no image of the manifest has neighbours: run find_neighbours again")
    inventory = pictures.make(
        spark, described.select("picture", "uri", "content_sha256"), site, rendering, settings, warehouse
    )
    shown = cards.with_pictures(described, inventory, scratch)
    tabs = distances.with_random_pairs(distances.measured(about.tabs, inputs.neighbours), inputs.compared)
    locations = settings.gallery.show_locations
    book = Book(
        site.uri,
        rendering,
        about.title,
        count,
        tabs,
        about.untrained,
        search.CARDS_PER_SHARD,
        show_locations=locations,
        from_list=about.from_list,
    )
    return _Rendering(spark, inputs, about, settings, book, shown, scratch).write(inventory)


@dataclass
class _Rendering:
    spark: SparkSession
    inputs: Inputs
    about: About
    settings: Settings
    book: Book
    cards: DataFrame
    scratch: Workspace

    def write(self, inventory: DataFrame) -> Outputs:
        pictures_counted = inventory.agg(
            F.count("*").alias("all"),
            F.count_if("made").alias("made"),
            F.count_if(F.col("reason").isNotNull()).alias("absent"),
        ).collect()[0]
        facets, members = listings.facets(self.cards, self.book.images, self.settings.gallery)
        sets = self.scratch.write("sets", listings.duplicates(self.cards, self.scratch))
        images_failed = F.count_distinct("image_id").alias("images")
        reasons = self.inputs.failures.groupBy("reason").agg(images_failed).orderBy("reason").collect()
        failed = self.inputs.failures.select("image_id").distinct()
        self.book = replace(
            self.book,
            facets=tuple((facet.attribute, f"groups/{facet.name}.html") for facet in facets),
            by_folder=any(facet.by_folder for facet in facets),
            duplicates=sets.count(),
            failures=failed.count(),
            lost=failed.join(self.cards, "image_id", "left_anti").count(),
        )
        image_pages = self._image_pages()
        with step(self.spark, "lists of images"):
            lists = self._listings(facets, members, sets, reasons)
            lists.append(self._single_pages(facets, members, reasons, pictures_counted.asDict()))
        filled = reduce(DataFrame.unionByName, lists, image_pages)
        filled_counted = _count(filled)
        with step(self.spark, "search"):
            written = [filled_counted] + self._search() + self._static()
        counts = {
            "images": self.book.images,
            "pictures": pictures_counted["all"],
            "pictures_made": pictures_counted["made"],
            "pictures_absent": pictures_counted["absent"],
            "neighbours_gone": self._gone(_count(image_pages)["items"]),
            "pages": filled_counted["files"] + 1,
            "bytes": sum(row["bytes"] for row in written),
        }
        index = pages.render("index.html", self.book, "index.html", self._front(facets))
        return Outputs(index, filled, filled_counted["files"], self.book, counts)

    def _gone(self, shown: int) -> dict[str, int]:
        """Slot -> the number of its rows that are not shown, because an image is not in the manifest any more."""
        if self.inputs.neighbours.count() == shown:
            return {}
        gone = gone_neighbours(self.inputs.neighbours, self.cards)
        tabs = enumerate(self.about.tabs)
        return {f"{tab.fingerprint}/{tab.metric}": gone[number] for number, tab in tabs if number in gone}

    def _fill(self, name: str, rows: DataFrame) -> DataFrame:
        """Fills pages. They stay in the workspace until all pages are filled."""
        return self.scratch.write(f"filled-{name}", rows)

    # -- by Spark tasks --

    def _image_pages(self) -> DataFrame:
        tasks = task_count(self.spark, self.book.images, LEAST_PAGES_PER_TASK, MOST_PAGES_PER_TASK)
        rows = images.rows(self.cards, self.inputs.neighbours, tasks)
        with progress(self.spark, "pages of images", self.book.images, "pages", tasks):
            return self._fill("images", pages.fill(rows, "image.html", self.book, images.context(self.book)))

    def _listings(
        self, facets: list[listings.Facet], members: DataFrame, sets: DataFrame, reasons: list[Any]
    ) -> list[DataFrame]:
        per_page = self.settings.gallery.images_per_page
        rows = listings.browse(self.cards, self.book.images, per_page)
        filled = [self._fill("browse", pages.fill(rows, "browse.html", self.book))]
        if facets:
            rows = listings.facet_pages(members, facets, per_page, self.scratch)
            filled.append(self._fill("groups", pages.fill(rows, "group.html", self.book)))
        if self.book.duplicates:
            rows = listings.duplicate_pages(sets, self.book.duplicates)
            filled.append(self._fill("duplicates", pages.fill(rows, "duplicates.html", self.book)))
        if self.book.failures:
            rows = listings.failure_pages(
                self.inputs.failures, self.cards, {row.reason: row.images for row in reasons}, self.scratch
            )
            meanings = {
                row.reason: {"images": row.images, "meaning": self.about.reasons.get(row.reason, "")} for row in reasons
            }
            filled_failures = pages.fill(
                rows, "failures.html", self.book, lambda row: {**row, **meanings[row["reason"]]}
            )
            filled.append(self._fill("failures", filled_failures))
        return filled

    def _search(self) -> list[dict[str, int]]:
        terms, prefixes = search.write_terms(self.cards, self.book, self.scratch)
        written = [_count(search.write_cards(self.cards, self.book)), _count(terms)]
        is_small = written[1]["bytes"] <= search.WHOLE_BYTES and written[1]["files"] <= search.WHOLE_SHARDS
        context = {"prefixes": prefixes, "is_small": is_small}
        script = pages.render("prefixes.js", self.book, "search/prefixes.js", context)
        return [*written, _one(pages.put(self.book, "search/prefixes.js", script, 0))]

    # -- by the driver --

    def _single_pages(
        self, facets: list[listings.Facet], members: DataFrame, reasons: list[Any], made: dict[str, int]
    ) -> DataFrame:
        contexts: list[tuple[str, str, dict[str, Any]]] = [
            ("search.html", "search.html", {}),
            ("distances.html", "distances.html", {"pairs": self._pairs()}),
            ("run.html", "run.html", {"runs": self.about.runs, "absent": self._absent(), "pictures": made}),
        ]
        if facets:
            rows = listings.examples(members, EXAMPLES_OF_A_VALUE).collect()
            examples = {(row.attribute, row.value): row["items"] for row in rows}
            for facet in facets:
                contexts.append((f"groups/{facet.name}.html", "groups.html", {"facet": facet, "examples": examples}))
        if self.book.failures:
            counted = [(row.reason, row.images) for row in reasons]
            context = {"reasons": counted, "names": self._failed()}
            contexts.append(("failures/index.html", "failures_by_reason.html", context))
        filled = [
            pages.page(path, pages.render(template, self.book, path, context)) for path, template, context in contexts
        ]
        return self._fill("single", self.spark.createDataFrame(pa.Table.from_pylist(filled, pages.FILLED_SCHEMA)))

    def _static(self) -> list[dict[str, int]]:
        files = [pages.static_file(name, self.book) for name in pages.STATIC_FILES]
        new = [(path, text) for path, text in files if not blobs.exists(f"{self.book.gallery}/{path}")]
        return [_one(pages.write(self.book.gallery, path, text)) for path, text in new]

    def _failed(self) -> dict[str, list[Any]]:
        """reason -> image_id and page of the images, where they are few."""
        if self.book.failures > FEW_FAILURES:
            return {}
        failed = self.inputs.failures.select("reason", "image_id").distinct()
        rows = failed.join(self.cards.select("image_id", "page"), "image_id", "left").orderBy("image_id").collect()
        return {reason: [row for row in rows if row.reason == reason] for reason in {row.reason for row in rows}}

    def _absent(self) -> list[Any]:
        """Up to 100 images whose picture cannot be shown."""
        absent = self.cards.where("width is null").orderBy("ordinal").limit(100)
        return absent.select("image_id", "title", "page", "reason", "detail").collect()

    def _pairs(self) -> list[list[tuple[str, float, list[dict[str, Any]]]]]:
        """For each tab: examples of distances, nearest first: words, distance, and the two cards."""
        by_tab = distances.examples(self.book.tabs, self.inputs.neighbours, self.cards)
        ids = {image_id for pairs in by_tab for *both, _ in pairs.values() for image_id in both}
        rows = self.cards.where(F.col("image_id").isin(list(ids))).select("image_id", *cards.CARD).collect()
        card = {row["image_id"]: row.asDict() for row in rows}
        return [
            [
                (words.PAIRS[kind], distance, [card[one], card[other]])
                for kind in words.PAIRS
                if kind in pairs
                for one, other, distance in [pairs[kind]]
            ]
            for pairs in by_tab
        ]

    def _front(self, facets: list[listings.Facet]) -> dict[str, Any]:
        """The variables of the front page: a selection of images, some of them with their neighbours.

        The selection is the same for the same collection and seed.
        """
        gallery = self.settings.gallery
        drawn = self.cards.where("width is not null").orderBy(F.xxhash64(F.lit(gallery.seed), "image_id"), "image_id")
        limit = gallery.selection + ROWS_OF_EXAMPLES
        chosen = [row.asDict() for row in drawn.limit(limit).select("image_id", *cards.CARD).collect()]
        ids = [row["image_id"] for row in chosen[:ROWS_OF_EXAMPLES]]
        first = (F.col("tab") == 0) & (F.col("relation") == SIMILAR) & (F.col("rank") <= NEIGHBOURS_IN_EXAMPLES)
        edges = self.inputs.neighbours.where(first & F.col("image_id").isin(ids))
        card = self.cards.select(F.col("image_id").alias("neighbour_id"), *cards.CARD)
        rows = edges.join(card, "neighbour_id").orderBy("image_id", "rank").collect()
        examples = [
            (row, [other.asDict() for other in rows if other.image_id == row["image_id"]])
            for row in chosen[:ROWS_OF_EXAMPLES]
        ]
        return {
            "selection": chosen[ROWS_OF_EXAMPLES:] or chosen,
            "examples": [(own, others) for own, others in examples if others],
            "facets": [(facet, facet.values[:VALUES_ON_THE_FRONT_PAGE]) for facet in facets],
        }


def _one(file: dict[str, Any]) -> dict[str, int]:
    return {"files": 1, "bytes": file["bytes"]}


def _count(written: DataFrame) -> dict[str, int]:
    """The number of pages, of their bytes and of their items. Files that Spark's tasks write are written now."""
    totals = [F.coalesce(F.sum(name), F.lit(0)).alias(name) for name in ("bytes", "items")]
    row = written.agg(F.count("*").alias("files"), *totals).collect()[0]
    return {name: int(row[name]) for name in ("files", "bytes", "items")}
