"""One rendering of the gallery. Spark tasks make pictures and most pages; the driver makes the single pages."""

from dataclasses import dataclass, replace
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from image_similarity.errors import JobFailed
from image_similarity.pages.site import Site
from image_similarity.runtime.progress import progress, step
from image_similarity.runtime.tasks import task_count
from image_similarity.settings import Settings
from image_similarity.stages.gallery import cards, distances, images, listings, pages, pictures, search
from image_similarity.stages.gallery.pages import Book, Tab
from image_similarity.stages.gallery.staleness import gone_neighbours
from image_similarity.warehouse.schemas import SIMILAR
from image_similarity.warehouse.warehouse import Warehouse
from image_similarity.warehouse.workspace import Workspace

LEAST_PAGES_PER_TASK, MOST_PAGES_PER_TASK = 50, 2000
ROWS_OF_EXAMPLES, NEIGHBOURS_IN_EXAMPLES = 4, 6
EXAMPLES_OF_A_VALUE = 3
VALUES_ON_THE_FRONT_PAGE = 12


@dataclass(frozen=True)
class Inputs:
    manifest: DataFrame
    contents: DataFrame
    """image_id, content_sha256 (null where it is unknown): the compared images of the collection, each once."""
    neighbours: DataFrame
    """Rows of ``neighbours`` with the number of their tab."""
    failures: DataFrame


@dataclass(frozen=True)
class About:
    """What the pages say besides the images."""

    title: str
    tabs: tuple[Tab, ...]
    untrained: tuple[str, ...]
    reasons: dict[str, str]
    """reason of a failure -> its meaning."""
    runs: list[dict[str, Any]]
    """For the page of the run: title, facts (pairs), notes, and settings of each job."""


@dataclass(frozen=True)
class Outputs:
    index: str
    """The front page, as HTML."""
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
    """Writes the folder ``rendering``, and missing pictures below the gallery. The published pages stay untouched."""
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
    tabs = distances.with_deciles(about.tabs, inputs.neighbours)
    locations = settings.gallery.show_locations
    book = Book(
        site.uri, rendering, about.title, count, tabs, about.untrained, search.CARDS_PER_SHARD, show_locations=locations
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
        self.book = replace(
            self.book,
            facets=tuple((facet.attribute, f"groups/{facet.name}.html") for facet in facets),
            by_folder=any(facet.by_folder for facet in facets),
            duplicates=sets.count(),
            failures=self.inputs.failures.agg(images_failed).collect()[0]["images"],
        )
        image_pages = self._image_pages()
        with step(self.spark, "lists of images"):
            written = [image_pages] + self._listings(facets, members, sets, reasons)
        with step(self.spark, "search"):
            written += self._search()
        # The single pages are written here, last: they link to all others.
        written += self._facets(facets, members) + self._failures(reasons)
        written += self._static() + [
            self._page(
                "run.html", "run.html", runs=self.about.runs, absent=self._absent(), pictures=pictures_counted.asDict()
            )
        ]
        counts = {
            "images": self.book.images,
            "pictures": pictures_counted["all"],
            "pictures_made": pictures_counted["made"],
            "pictures_absent": pictures_counted["absent"],
            "neighbours_gone": self._gone(image_pages["items"]),
            "pages": sum(row["files"] for row in written),
            "bytes": sum(row["bytes"] for row in written),
        }
        return Outputs(pages.render("index.html", self.book, "../index.html", self._front(facets)), counts)

    def _gone(self, shown: int) -> dict[str, int]:
        """Slot -> the number of its rows that are not shown, because an image is not in the manifest any more."""
        if self.inputs.neighbours.count() == shown:
            return {}
        gone = gone_neighbours(self.inputs.neighbours, self.cards)
        tabs = enumerate(self.about.tabs)
        return {f"{tab.fingerprint}/{tab.metric}": gone[number] for number, tab in tabs if number in gone}

    # -- by Spark tasks --

    def _image_pages(self) -> dict[str, int]:
        tasks = task_count(self.spark, self.book.images, LEAST_PAGES_PER_TASK, MOST_PAGES_PER_TASK)
        rows = images.rows(self.cards, self.inputs.neighbours, tasks)
        with progress(self.spark, "pages", self.book.images, "images", tasks):
            return _count(pages.write(rows, "image.html", self.book, images.context(self.book)))

    def _listings(
        self, facets: list[listings.Facet], members: DataFrame, sets: DataFrame, reasons: list[Any]
    ) -> list[dict[str, int]]:
        per_page = self.settings.gallery.images_per_page
        written = [
            _count(pages.write(listings.browse(self.cards, self.book.images, per_page), "browse.html", self.book))
        ]
        if facets:
            rows = listings.facet_pages(members, facets, per_page, self.scratch)
            written.append(_count(pages.write(rows, "group.html", self.book)))
        if self.book.duplicates:
            rows = listings.duplicate_pages(sets, self.book.duplicates)
            written.append(_count(pages.write(rows, "duplicates.html", self.book)))
        if self.book.failures:
            rows = listings.failure_pages(
                self.inputs.failures, self.cards, {row.reason: row.images for row in reasons}, self.scratch
            )
            meanings = {
                row.reason: {"images": row.images, "meaning": self.about.reasons.get(row.reason, "")} for row in reasons
            }
            written.append(
                _count(pages.write(rows, "failures.html", self.book, lambda row: {**row, **meanings[row["reason"]]}))
            )
        return written

    def _search(self) -> list[dict[str, int]]:
        terms, prefixes = search.write_terms(self.cards, self.book, self.scratch)
        written = [_count(search.write_cards(self.cards, self.book)), _count(terms)]
        return [*written, self._page("search/prefixes.js", "prefixes.js", prefixes=prefixes)]

    # -- by the driver --

    def _page(self, path: str, template: str, **context: Any) -> dict[str, int]:
        row = pages.put(self.book, path, pages.render(template, self.book, path, context), 0)
        return {"files": 1, "bytes": row["bytes"]}

    def _static(self) -> list[dict[str, int]]:
        return [self._page(name, name) for name in ("gallery.css", "gallery.js", "icon.svg", "search.html")]

    def _facets(self, facets: list[listings.Facet], members: DataFrame) -> list[dict[str, int]]:
        if not facets:
            return []
        examples = {
            (row.attribute, row.value): row["items"]
            for row in listings.examples(members, EXAMPLES_OF_A_VALUE).collect()
        }
        return [
            self._page(f"groups/{facet.name}.html", "groups.html", facet=facet, examples=examples) for facet in facets
        ]

    def _failures(self, reasons: list[Any]) -> list[dict[str, int]]:
        if not self.book.failures:
            return []
        counted = [(row.reason, row.images) for row in reasons]
        return [self._page("failures/index.html", "failures_by_reason.html", reasons=counted)]

    def _absent(self) -> list[Any]:
        """Up to 100 images whose picture cannot be shown."""
        absent = self.cards.where("width is null").orderBy("ordinal").limit(100)
        return absent.select("image_id", "title", "page", "reason", "detail").collect()

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


def _count(written: DataFrame) -> dict[str, int]:
    """Writes the pages, and counts them, their bytes and their items."""
    totals = [F.coalesce(F.sum(name), F.lit(0)).alias(name) for name in ("bytes", "items")]
    row = written.agg(F.count("*").alias("files"), *totals).collect()[0]
    return {name: int(row[name]) for name in ("files", "bytes", "items")}
