"""A `Layout` of a collection that fits into memory: this process joins, sorts and groups the tables.

Spark's tasks make the pictures and fill the pages, as for a larger collection. Joins, sorts and groups take Spark some
hundred small jobs, which for a few thousand images take longer than all pages.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession

from image_similarity.errors import JobFailed
from image_similarity.pages import paths
from image_similarity.pages.facets import MOST_VALUES, chosen
from image_similarity.pages.site import Site
from image_similarity.runtime.progress import progress
from image_similarity.runtime.tasks import over_chunks, task_count
from image_similarity.settings import Settings
from image_similarity.stages.gallery import (
    addresses,
    cards,
    compare,
    distances,
    groups,
    images,
    listings,
    maps,
    pages,
    pictures,
    search,
)
from image_similarity.stages.gallery.by_spark import (
    LEAST_PAGES_PER_TASK,
    LEAST_PAIRS_PER_TASK,
    MOST_PAGES_PER_TASK,
    NOTHING_TO_SHOW,
)
from image_similarity.stages.gallery.groups import Groups
from image_similarity.stages.gallery.in_memory import Edges, Image, folder_of, grouped, orders_of, paged, uses_of
from image_similarity.stages.gallery.layout import Card, Failed, Layout, Totals
from image_similarity.stages.gallery.listings import FOLDER, Facet
from image_similarity.stages.gallery.pages import Book, Grouped, Tab
from image_similarity.stages.gallery.ranked import Lists
from image_similarity.stages.gallery.ranked_in_memory import RankedInMemory
from image_similarity.stages.gallery.tables import Tables
from image_similarity.stages.gallery.tag_pages import Listed, Tags
from image_similarity.warehouse import parquet
from image_similarity.warehouse.schemas import DISSIMILAR, SIMILAR
from image_similarity.warehouse.workspace import Workspace

MOST_IMAGES, MOST_NEIGHBOURS = 50_000, 3_000_000
"""Rows of the manifest, and of neighbours by all tabs: Spark lays out larger collections. So many take 0.95 GB."""

_WRITERS = 8

Row = Mapping[str, Any]


def lay_out(
    spark: SparkSession,
    tables: Tables,
    tabs: tuple[Tab, ...],
    settings: Settings,
    site: Site,
    rendering: str,
    scratch: Workspace,
) -> "InProcess":
    """As `by_spark.lay_out`."""
    described = _described(tables, settings)
    if not described:
        raise JobFailed(NOTHING_TO_SHOW)
    wanted: dict[str, tuple[set[str], str | None]] = {}
    for image in described:
        uris, _ = wanted.setdefault(image["picture"], (set(), image["content_sha256"]))
        if image["uri"] is not None:
            uris.add(image["uri"])
    inventory = pictures.make_here(spark, wanted, site, rendering, settings, scratch)
    for image in described:
        of_picture = inventory[image["picture"]]
        image.update({name: of_picture[name] for name in ("width", "height", "reason", "detail", *pictures.ORIGINAL)})
    measured = _measured(tabs, tables)
    return InProcess(spark, tables, settings, site, described, list(inventory.values()), scratch, measured)


def _described(tables: Tables, settings: Settings) -> list[Image]:
    """The images of the manifest that were compared, in the order of their ids, without pictures."""
    listed = [row for row in tables.manifest.to_pylist() if row["image_id"] in tables.contents]
    _check_group_by(listed, settings)
    listed.sort(key=lambda row: row["image_id"])
    tagged = _tagged(tables.tags)
    described = []
    for ordinal, row in enumerate(listed):
        content = tables.contents[row["image_id"]]
        described.append(
            {
                "ordinal": ordinal,
                "image_id": row["image_id"],
                "uri": row["uri"],
                "content_sha256": content,
                "size_bytes": row["size_bytes"],
                "attributes": row["attributes"] or [],
                "picture": paths.picture_name(content, row["uri"], row["source_version"]),
                **cards.texts(
                    row["image_id"], dict(row["attributes"] or ()), settings.gallery, tagged.get(row["image_id"], ())
                ),
            }
        )
    return described


def _tagged(table: pa.Table | None) -> dict[str, list[Row]]:
    """image_id -> its rows of the table of tags."""
    tagged: dict[str, list[Row]] = {}
    for row in () if table is None else table.to_pylist():
        tagged.setdefault(row["image_id"], []).append(row)
    return tagged


def _check_group_by(listed: list[dict[str, Any]], settings: Settings) -> None:
    values: dict[str, set[str]] = {}
    for row in listed:
        for name, value in row["attributes"] or ():
            values.setdefault(name, set()).add(value)
    listings.check_values(settings.gallery.group_by, values.keys(), {name: len(of) for name, of in values.items()})


def _measured(tabs: tuple[Tab, ...], tables: Tables) -> tuple[Tab, ...]:
    first = {}
    for number, table in enumerate(tables.neighbours):
        nearest = table.filter(pc.equal(table["rank"], 1))
        for relation in (SIMILAR, DISSIMILAR):
            ordered = np.sort(nearest.filter(pc.equal(nearest["relation"], relation))["distance"].to_numpy())
            if len(ordered):
                places = [math.ceil(tenth * len(ordered)) - 1 for tenth in distances.TENTHS]
                first[number, relation] = len(ordered), [float(ordered[place]) for place in places]
    drawn = {
        fingerprint: tables.vectors[fingerprint](sorted(set(contents))[: distances.VECTORS_DRAWN])
        for fingerprint, contents in tables.drawn_from.items()
    }
    return distances.with_random_pairs_of(distances.with_ranks(tabs, first), drawn)


@dataclass
class InProcess(Layout):
    spark: SparkSession
    tables: Tables
    settings: Settings
    site: Site
    all: list[Image]
    inventory: list[Row]
    scratch: Workspace
    tabs: tuple[Tab, ...]
    _paths: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.images = len(self.all)
        self.card: dict[str, Card] = {
            image["image_id"]: {name: image[name] for name in cards.CARD} for image in self.all
        }
        self.by_id: dict[str, Image] = {image["image_id"]: image for image in self.all}

    def pictures(self) -> Mapping[str, int]:
        made = sum(bool(row["made"]) for row in self.inventory)
        absent = sum(row["reason"] is not None for row in self.inventory)
        return {"all": len(self.inventory), "made": made, "absent": absent}

    # -- facets, copies, failures --------------------------------------------------------------------------------------

    def facets(self) -> list[Facet]:
        return self._facets[0]

    @cached_property
    def _facets(self) -> tuple[list[Facet], dict[tuple[str, str], list[Image]]]:
        """The facets, and attribute and value -> images."""
        settings, groups = self.settings.gallery, grouped(self.all, lambda image: image["attributes"])
        attributes = chosen(uses_of(groups), self.images, settings.group_by)
        by_folder = not attributes
        if by_folder:
            groups, attributes = grouped(self.all, folder_of), [FOLDER]
            groups = groups if len(groups) <= MOST_VALUES else {}
        groups = {group: members for group, members in groups.items() if group[0] in attributes}
        sizes = [(attribute, value, len(members)) for (attribute, value), members in groups.items()]
        sizes.sort(key=lambda size: (size[0], -size[2], size[1]))
        return listings.as_facets(attributes, sizes, by_folder, settings), groups

    @cached_property
    def _sets(self) -> list[list[Image]]:
        """Images with the same bytes, the largest sets first."""
        by_content: dict[str, list[Image]] = {}
        for image in self.all:
            if image["content_sha256"] is not None:
                by_content.setdefault(image["content_sha256"], []).append(image)
        sets = [members for members in by_content.values() if len(members) > 1]
        return sorted(sets, key=lambda members: (-len(members), members[0]["ordinal"]))

    def duplicates(self) -> int:
        return len(self._sets)

    @cached_property
    def _failures(self) -> dict[tuple[str, str], dict[str, Any]]:
        """reason and image_id -> a failure as its page shows it. In order."""
        failures: dict[tuple[str, str], dict[str, Any]] = {}
        for row in self.tables.failures.to_pylist():
            failure = failures.setdefault(
                (row["reason"], row["image_id"]), {"fingerprints": set(), "details": set(), "uri": None}
            )
            if row["fingerprint"] is not None:
                failure["fingerprints"].add(row["fingerprint"])
            # A detail may contain a path on this machine, which must not be published.
            if row["detail"] is not None and (row["uri"] is None or row["uri"] not in row["detail"]):
                failure["details"].add(row["detail"])
            if row["uri"] is not None:
                failure["uri"] = max(failure["uri"] or "", row["uri"])
        return dict(sorted(failures.items()))

    def failed(self) -> Failed:
        by_reason = Counter(reason for reason, _ in self._failures)
        ids = {image_id for _, image_id in self._failures}
        return Failed(sorted(by_reason.items()), len(ids), len(ids - self.by_id.keys()))

    @cached_property
    def _ranked(self) -> RankedInMemory:
        return RankedInMemory(self.all, self.card, self._edges, self.tables.quality)

    def ranked(self) -> Lists:
        return self._ranked.lists(self.facets())

    @cached_property
    def _grouped(self) -> Groups:
        return groups.built(self.tables.groups, self.by_id)

    def grouped(self) -> Grouped:
        return self._grouped.shown

    def groups_gone(self) -> int:
        return self._grouped.gone

    def faces(self) -> Mapping[str, list[Card]]:
        first = groups.first_lists(self._grouped.shown)
        return {kind: groups.faces(self._grouped.of(order), kind) for kind, order in first.items()}

    @cached_property
    def _tags(self) -> Tags:
        return Tags(self.all)

    def tags(self) -> Sequence[Listed]:
        return self._tags.all

    def untagged(self) -> int:
        return len(self._tags.untagged)

    def tags_gone(self) -> int:
        table = self.tables.tags
        if table is None:
            return 0
        accepted = table.filter(table["accepted"])["image_id"].to_pylist()
        return self.tables.outdated_tags + sum(image_id not in self.by_id for image_id in accepted)

    def unjudged(self) -> int:
        table = self.tables.tags
        return self.images - (0 if table is None else len(self.by_id.keys() & {*table["image_id"].to_pylist()}))

    # -- pages ---------------------------------------------------------------------------------------------------------

    def fill_images(self, book: Book) -> Totals:
        tasks = task_count(self.spark, self.images, LEAST_PAGES_PER_TASK, MOST_PAGES_PER_TASK)
        ends = [self.images * number // tasks for number in range(tasks + 1)]
        chunks = ([("image.html", row) for row in self._image_rows(*ends[n : n + 2])] for n in range(tasks))
        with progress(self.spark, "pages of images", self.images, "pages", tasks):
            return self._fill("images", book, chunks)

    @cached_property
    def _edges(self) -> "Edges":
        ids = pa.array(self.by_id, pa.string())
        return Edges.joined([Edges.of_tab(tab, table, ids) for tab, table in enumerate(self.tables.neighbours)])

    def _image_rows(self, start: int, end: int) -> Iterator[dict[str, Any]]:
        """The rows of `images.rows` from one ordinal to another."""
        for ordinal in range(start, end):
            image = self.all[ordinal]
            yield {
                **{name: image[name] for name in images.OWN},
                "previous": self.all[ordinal - 1]["page"] if ordinal else None,
                "next": self.all[ordinal + 1]["page"] if ordinal + 1 < self.images else None,
                "items": [
                    {
                        "tab": tab,
                        "relation": SIMILAR if is_similar else DISSIMILAR,
                        "rank": rank,
                        "distance": distance,
                        "card": self.card[self.all[neighbour]["image_id"]],
                    }
                    for tab, is_similar, rank, neighbour, distance in self._edges.of(ordinal)
                ],
                "groups": self._grouped.by_image.get(image["image_id"]),
                **self._ranked.of_image(ordinal),
                "path": paths.image_path(image["page"]),
            }

    def fill_lists(self, book: Book, facets: list[Facet], failures: Mapping[str, Mapping[str, Any]]) -> Totals:
        rows = [
            *(("browse.html", row) for row in self._browse()),
            *(("group.html", row) for facet in facets for row in self._groups(facet)),
            *(("duplicates.html", row) for row in self._duplicates()),
            *(("failures.html", {**row, **failures[row["reason"]]}) for row in self._failure_pages()),
        ]
        tasks = task_count(self.spark, len(rows), LEAST_PAGES_PER_TASK, MOST_PAGES_PER_TASK)
        return self._fill("lists", book, [rows[number::tasks] for number in range(tasks)])

    def fill_groups(self, book: Book) -> Totals:
        rows = [*self._grouped.list_pages(), *self._grouped.group_pages(self.settings.gallery.images_per_page)]
        if not rows:
            return Totals()
        tasks = task_count(self.spark, len(rows), LEAST_PAGES_PER_TASK, MOST_PAGES_PER_TASK)
        return self._fill("groups", book, [rows[number::tasks] for number in range(tasks)])

    def fill_tags(self, book: Book) -> Totals:
        if book.tags is None:
            return Totals()
        rows = [*self._tags.pages(self.settings.gallery.images_per_page)]
        tasks = task_count(self.spark, len(rows), LEAST_PAGES_PER_TASK, MOST_PAGES_PER_TASK)
        return self._fill("tags", book, [rows[number::tasks] for number in range(tasks)])

    def fill_comparisons(self, book: Book) -> Totals:
        pairs = self._grouped.pairs()
        if not pairs:
            return Totals()
        tasks = task_count(self.spark, len(pairs), LEAST_PAIRS_PER_TASK, MOST_PAGES_PER_TASK)
        compare.write_list_here([*pairs], self.site, book.rendering)
        rows = [("compare.html", pair) for pair in pairs]
        with progress(self.spark, "comparisons", len(pairs), "pages", tasks):
            return self._fill("comparisons", book, [rows[number::tasks] for number in range(tasks)])

    def _browse(self) -> Iterator[dict[str, Any]]:
        for page in paged(self.all, self.settings.gallery.images_per_page):
            yield {"path": f"browse/{page.number}.html", **page.row(self._cards(page.items))}

    def _groups(self, facet: Facet) -> Iterator[dict[str, Any]]:
        for value in facet.values:
            members = self._facets[1][facet.attribute, value.value]
            for page in paged(members, self.settings.gallery.images_per_page):
                path = f"groups/{facet.name}/{value.name}-{page.number}.html"
                about = {"attribute": facet.attribute, "value": value.value, "images": value.images}
                yield {"path": path, **about, **page.row(self._cards(page.items))}

    def _duplicates(self) -> Iterator[dict[str, Any]]:
        for page in paged(self._sets, listings.SETS_PER_PAGE) if self._sets else ():
            sets = [
                {
                    "images": len(members),
                    "items": [
                        {"image_id": image["image_id"], **self.card[image["image_id"]]}
                        for image in members[: listings.COPIES_SHOWN]
                    ],
                }
                for members in page.items
            ]
            yield {"path": f"duplicates/{page.number}.html", **page.row(sets)}

    def _failure_pages(self) -> Iterator[dict[str, Any]]:
        by_reason: dict[str, list[dict[str, Any]]] = {}
        for (reason, image_id), failure in self._failures.items():
            shown = self.card.get(image_id)
            item = {"image_id": image_id, "page": shown and shown["page"], "uri": failure["uri"]}
            item |= {name: sorted(failure[name]) for name in ("fingerprints", "details")}
            by_reason.setdefault(reason, []).append(item)
        for reason, items in by_reason.items():
            for page in paged(items, listings.FAILURES_PER_PAGE):
                yield {"path": f"failures/{reason}-{page.number}.html", "reason": reason, **page.row(page.items)}

    def _cards(self, members: Iterable[Image]) -> list[Card]:
        return [self.card[image["image_id"]] for image in members]

    def _fill(self, name: str, book: Book, chunks: Iterable[list[tuple[str, dict[str, Any]]]]) -> Totals:
        """Fills pages: the template, and the row, of each. They stay in the workspace until all pages are filled."""
        folder = self.scratch.location(_FILLED)
        contexts = {"image.html": images.context(book), "compare.html": compare.context(book)}

        def fill(chunk: tuple[int, list[tuple[str, dict[str, Any]]]]) -> Iterator[pa.RecordBatch]:
            number, rows = chunk
            totals = dict.fromkeys(_COUNTED, 0)

            def filled() -> Iterator[dict[str, Any]]:
                for template, row in rows:
                    page = pages.fill_one(template, book, row["path"], contexts.get(template, dict)(row))
                    _count(totals, page)
                    yield page

            # A task that is tried again writes the same file.
            file = f"{folder}/{name}-{number:05d}.parquet"
            parquet.write_whole_file(file, pages.FILLED_SCHEMA, pages.in_batches(filled()))
            yield pa.RecordBatch.from_pylist([totals], schema=_TOTALS)

        def numbered() -> Iterator[tuple[int, list[tuple[str, dict[str, Any]]]]]:
            for number, chunk in enumerate(chunks):
                self._paths += [row["path"] for _, row in chunk]
                yield number, chunk

        columns = ", ".join(f"{column} long" for column in _COUNTED)
        done = over_chunks(self.spark, self.scratch, name, numbered(), fill, columns)
        return Totals(**{column: pc.sum(done[column]).as_py() or 0 for column in _COUNTED})

    def add(self, filled: list[dict[str, Any]]) -> Totals:
        file = f"{self.scratch.location(_FILLED)}/single.parquet"
        parquet.write_file(file, pages.FILLED_SCHEMA, [pa.RecordBatch.from_pylist(filled, schema=pages.FILLED_SCHEMA)])
        self._paths += [page["path"] for page in filled]
        totals = dict.fromkeys(_COUNTED, 0)
        for page in filled:
            _count(totals, page)
        return Totals(**totals)

    def filled(self) -> DataFrame:
        return self.scratch.read(_FILLED, pages.FILLED)

    def write_search(self, book: Book) -> tuple[Totals, Totals, list[str]]:
        postings: dict[str, list[int]] = {}
        for image in self.all:
            for term in image["terms"]:
                postings.setdefault(term, []).append(image["ordinal"])
        kept = {term: (len(of), of[: search.POSTINGS_KEPT]) for term, of in postings.items()}
        prefixes = search.prefixes_of({term: search.posting_bytes(term, len(of)) for term, (_, of) in kept.items()})
        all_prefixes, by_prefix = frozenset(prefixes), dict[str, dict[str, tuple[int, list[int]]]]()
        for term in sorted(kept):
            by_prefix.setdefault(search.prefix_of(term, all_prefixes), {})[term] = kept[term]
        shards = [self.all[start : start + book.per_shard] for start in range(0, self.images, book.per_shard)]
        with ThreadPoolExecutor(_WRITERS, "search") as pool:
            of_cards = _sum(pool.map(lambda shard: search.put_cards(book, *shard), enumerate(shards)))
            of_terms = _sum(pool.map(lambda shard: search.put_terms(book, *shard), by_prefix.items()))
        return of_cards, of_terms, prefixes

    def write_cards(self, book: Book) -> None:
        maps.write_cards_here(self.all, book)

    # -- single images -------------------------------------------------------------------------------------------------

    def examples(self, facets: list[Facet], each: int) -> Mapping[tuple[str, str], list[Card]]:
        examples = {}
        for group, members in self._facets[1].items():
            pictured = sorted((image for image in members if image["width"] is not None), key=itemgetter("page"))
            if pictured:
                examples[group] = self._cards(pictured[:each])
        return examples

    def failed_images(self) -> Sequence[Mapping[str, Any]]:
        rows: list[Mapping[str, Any]] = [
            {"reason": reason, "image_id": image_id, "page": self.card.get(image_id, {}).get("page")}
            for reason, image_id in self._failures
        ]
        return sorted(rows, key=lambda row: row["image_id"])

    def absent(self, most: int) -> Sequence[Mapping[str, Any]]:
        return [image for image in self.all if image["width"] is None][:most]

    def pairs(self) -> list[dict[str, tuple[Card, Card, float]]]:
        pictured = pa.array([image["image_id"] for image in self.all if image["width"] is not None], pa.string())
        result = []
        for tab, table in zip(self.tabs, self.tables.neighbours):
            is_shown = pc.and_(pc.is_in(table["image_id"], pictured), pc.is_in(table["neighbour_id"], pictured))
            rows = table.filter(pc.and_(is_shown, pc.equal(table["rank"], 1))).to_pylist()
            extremes = {kind: min(of, default=None) for kind, of in orders_of(tab, rows).items()}
            pairs = distances.once({kind: row and _pair(*row[1:]) for kind, row in extremes.items()})
            result.append(
                {kind: (self.card[one], self.card[other], distance) for kind, (one, other, distance) in pairs.items()}
            )
        return result

    def selection(self, seed: int, most: int) -> list[Card]:
        def drawn(image: Image) -> str:
            return hashlib.sha256(f"{seed}\n{image['image_id']}".encode()).hexdigest()

        chosen = sorted((image for image in self.all if image["width"] is not None), key=drawn)[:most]
        return [{"image_id": image["image_id"], **self.card[image["image_id"]]} for image in chosen]

    def most_alike(self, image_ids: list[str], most: int) -> dict[str, list[Card]]:
        table = self.tables.neighbours[0]
        is_first = pc.and_(pc.equal(table["relation"], SIMILAR), pc.less_equal(table["rank"], most))
        rows = table.filter(pc.and_(is_first, pc.is_in(table["image_id"], pa.array(image_ids, pa.string()))))
        alike: dict[str, list[Card]] = {}
        for row in sorted(rows.to_pylist(), key=lambda row: row["rank"]):
            if card := self.card.get(row["neighbour_id"]):
                alike.setdefault(row["image_id"], []).append({**card, "distance": row["distance"]})
        return alike

    def gone(self, shown: int) -> dict[int, int]:
        known = Counter(self._edges.tab.tolist())
        rows = [len(table) for table in self.tables.neighbours]
        return {tab: count - known[tab] for tab, count in enumerate(rows) if count > known[tab]}

    # -- what has left -------------------------------------------------------------------------------------------------

    def retire(self, book: Book, earlier: Sequence[str]) -> int:
        return addresses.retire_here(self._paths, book, earlier)

    def remove_unused(self, kept: list[str]) -> int:
        compare.remove_unused_here(self.site, kept)
        return pictures.remove_unused_here(self.site, (row["picture"] for row in self.inventory), kept[1:])


_FILLED = "filled"
_COUNTED = ("files", "bytes", "items", pages.NEW, pages.CHANGED)


_TOTALS = pa.schema([(name, pa.int64()) for name in _COUNTED])


def _count(totals: dict[str, int], page: Row) -> None:
    totals["files"] += 1
    totals["bytes"] += page["bytes"]
    totals["items"] += page["items"]
    if page["state"] in totals:
        totals[page["state"]] += 1


def _sum(files: Iterable[Row]) -> Totals:
    return sum((Totals(1, file["bytes"], file["items"]) for file in files), Totals())


def _pair(image_id: str, neighbour_id: str, distance: float) -> dict[str, Any]:
    return {"image_id": image_id, "neighbour_id": neighbour_id, "distance": distance}
