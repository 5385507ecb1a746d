"""One rendering of the gallery. Spark tasks make pictures and fill most pages; the driver fills the single pages."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pyspark.sql import SparkSession

from image_similarity.pages.site import Site
from image_similarity.runtime.progress import step
from image_similarity.settings import Settings
from image_similarity.stages.gallery import listings, maps, pages, ranked, search, tag_pages, words
from image_similarity.stages.gallery.about import About
from image_similarity.stages.gallery.layout import Failed, Layout, Totals
from image_similarity.stages.gallery.pages import Book, Tagged
from image_similarity.storage import blobs

ROWS_OF_EXAMPLES, NEIGHBOURS_IN_EXAMPLES = 4, 6
EXAMPLES_OF_A_VALUE = 3
VALUES_ON_THE_FRONT_PAGE = 12
TAGS_ON_THE_FRONT_PAGE = 24
ABSENT_SHOWN = 100
FEW_FAILURES = 20
"""So many failed images are named where their reasons are; more have pages of their own only."""


@dataclass(frozen=True)
class Outputs:
    """A rendering that no visitor sees yet."""

    index: str
    """The front page, as HTML."""
    pages: Totals
    """All other pages. They are in the workspace of the run."""
    book: Book
    counts: dict[str, Any]


def run(spark: SparkSession, layout: Layout, about: About, settings: Settings, site: Site, rendering: str) -> Outputs:
    """Fills the pages, and writes the rest of the folder ``rendering``; no page is touched."""
    facets, failed, lists = layout.facets(), layout.failed(), layout.ranked()
    book = Book(
        site.uri,
        rendering,
        about.title,
        layout.images,
        layout.tabs,
        about.untrained,
        search.CARDS_PER_SHARD,
        facets=tuple((facet.attribute, f"groups/{facet.name}.html") for facet in facets),
        by_folder=any(facet.by_folder for facet in facets),
        show_locations=settings.gallery.show_locations,
        duplicates=layout.duplicates(),
        failures=failed.images,
        lost=failed.lost,
        ranked=lists.shown(layout.tabs),
        from_list=about.from_list,
        groups=layout.grouped(),
        tags=_tagged(about.tags, layout),
    )
    return _Rendering(spark, layout, about, settings, book, facets, failed, lists).write()


def _tagged(tags: Tagged | None, layout: Layout) -> Tagged | None:
    if tags is None:
        return None
    tagged = layout.images - layout.untagged()
    return replace(tags, tags=len(layout.tags()), images=tagged, unjudged=layout.unjudged())


@dataclass(frozen=True)
class _Rendering:
    spark: SparkSession
    layout: Layout
    about: About
    settings: Settings
    book: Book
    facets: list[listings.Facet]
    failed: Failed
    lists: ranked.Lists

    def write(self) -> Outputs:
        layout, pictures = self.layout, self.layout.pictures()
        of_images = layout.fill_images(self.book)
        comparisons = layout.fill_comparisons(self.book)
        with step(self.spark, "lists of images"):
            meanings = {
                reason: {"images": images, "meaning": self.about.reasons.get(reason, "")}
                for reason, images in self.failed.reasons
            }
            filled = of_images + comparisons + layout.fill_lists(self.book, self.facets, meanings)
            filled += layout.fill_groups(self.book) + layout.fill_tags(self.book)
            filled += layout.add(self._single_pages(pictures))
        with step(self.spark, "search"):
            written = self._search() + self._static() + _one(maps.put_shell(self.book))
            layout.write_cards(self.book)
        gone = layout.gone(of_images.items)
        counts = {
            "images": layout.images,
            "pictures": pictures["all"],
            "pictures_made": pictures["made"],
            "pictures_absent": pictures["absent"],
            "neighbours_gone": {
                f"{tab.fingerprint}/{tab.metric}": gone[number]
                for number, tab in enumerate(self.about.tabs)
                if number in gone
            },
            "groups_gone": layout.groups_gone(),
            "tags_gone": layout.tags_gone(),
            "pages": filled.files + 1,
            "pages_new": filled.new,
            "pages_changed": filled.changed,
            "bytes": (filled + written).bytes,
        }
        index = pages.render("index.html", self.book, "index.html", self._front())
        return Outputs(index, filled, self.book, counts)

    def _search(self) -> Totals:
        cards, terms, prefixes = self.layout.write_search(self.book)
        is_small = terms.bytes <= search.WHOLE_BYTES and terms.files <= search.WHOLE_SHARDS
        context = {"prefixes": prefixes, "is_small": is_small}
        script = pages.render("prefixes.js", self.book, "search/prefixes.js", context)
        return cards + terms + _one(pages.put(self.book, "search/prefixes.js", script, 0))

    def _static(self) -> Totals:
        files = [pages.static_file(name, self.book) for name in pages.STATIC_FILES]
        new = [(path, text) for path, text in files if not _is_there(f"{self.book.gallery}/{path}", text.encode())]
        return sum((_one(pages.write(self.book.gallery, path, text)) for path, text in new), Totals())

    def _single_pages(self, pictures: Mapping[str, int]) -> list[dict[str, Any]]:
        absent = self.layout.absent(ABSENT_SHOWN)
        contexts: list[tuple[str, str, dict[str, Any]]] = [
            ("search.html", "search.html", {}),
            ("distances.html", "distances.html", {"pairs": self._pairs()}),
            ("run.html", "run.html", {"runs": self.about.runs, "absent": absent, "pictures": pictures}),
        ]
        if self.facets:
            examples = self.layout.examples(self.facets, EXAMPLES_OF_A_VALUE)
            for facet in self.facets:
                contexts.append((f"groups/{facet.name}.html", "groups.html", {"facet": facet, "examples": examples}))
        if self.book.tags:
            contexts += [(row["path"], "tags.html", row) for row in tag_pages.list_pages(self.layout.tags())]
        if self.book.failures:
            context = {"reasons": self.failed.reasons, "names": self._names_of_failed()}
            contexts.append(("failures/index.html", "failures_by_reason.html", context))
        contexts += ranked.pages_of(self.lists, self.book.tabs, self.settings.gallery.images_per_page)
        return [pages.fill_one(template, self.book, path, context) for path, template, context in contexts]

    def _names_of_failed(self) -> dict[str, list[Any]]:
        """reason -> image_id and page of the images, where they are few."""
        if self.book.failures > FEW_FAILURES:
            return {}
        rows = self.layout.failed_images()
        return {reason: [row for row in rows if row["reason"] == reason] for reason in {row["reason"] for row in rows}}

    def _pairs(self) -> list[list[tuple[str, float, list[dict[str, Any]]]]]:
        """For each tab: examples of distances, nearest first: words, distance, and the two cards."""
        return [
            [
                (words.PAIRS[kind], distance, [one, other])
                for kind in words.PAIRS
                if kind in pairs
                for one, other, distance in [pairs[kind]]
            ]
            for pairs in self.layout.pairs()
        ]

    def _front(self) -> dict[str, Any]:
        """The variables of the front page: a selection of images, some of them with their neighbours.

        The selection is the same for the same collection and seed.
        """
        gallery = self.settings.gallery
        chosen = self.layout.selection(gallery.seed, gallery.selection + ROWS_OF_EXAMPLES)
        first, others = chosen[:ROWS_OF_EXAMPLES], chosen[ROWS_OF_EXAMPLES:]
        alike = self.layout.most_alike([row["image_id"] for row in first], NEIGHBOURS_IN_EXAMPLES)
        return {
            "selection": others or chosen,
            "map": maps.front(self.book),
            "examples": [(row, alike[row["image_id"]]) for row in first if alike.get(row["image_id"])],
            "faces": self.layout.faces(),
            "tags": self.layout.tags()[:TAGS_ON_THE_FRONT_PAGE] if self.book.tags else (),
            "facets": [(facet, facet.values[:VALUES_ON_THE_FRONT_PAGE]) for facet in self.facets],
        }


def _one(file: Mapping[str, Any]) -> Totals:
    return Totals(1, file["bytes"])


def _is_there(uri: str, content: bytes) -> bool:
    try:
        return blobs.read(uri, len(content)) == content
    except FileNotFoundError:
        return False
