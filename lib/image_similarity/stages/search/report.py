"""matches -> a report: pages that show each query beside its answers. They need no other file, and no server.

The pages are made from what is published, so that a report can be rendered again, and says what the tables say.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import jinja2
import pyarrow as pa
import pyarrow.compute as pc

from image_similarity.grouping.verdicts import NEAR, YES
from image_similarity.pages import captions, cards, paths
from image_similarity.pages.originals import Original
from image_similarity.settings import Settings
from image_similarity.stages.search import pictures
from image_similarity.stages.search.pictures import Picture, Wanted
from image_similarity.storage import blobs, http_client, uris
from image_similarity.warehouse.schemas import SIMILAR
from image_similarity.warehouse.snapshot import Snapshot

SHOWN = 6
"""Answers that are shown of each query."""
STYLE = "search.css"
_QUERIES_OF_PAGE = 4
"""A query takes as much of a page as so many images of a gallery's."""
ALL, FAILED = "all", "failed"
_NO_PICTURE = Picture(None, reason="a vector was given")
"""Of a query without a picture."""


@dataclass(frozen=True)
class Card:
    """A picture with its words."""

    title: str
    alt: str
    note: str
    picture: Picture
    link: str | None

    @property
    def ratio(self) -> int:
        return cards.ratio_class(self.picture.width, self.picture.height) if self.picture.path else 0


@dataclass(frozen=True)
class Answer:
    card: Card
    distance: float
    verdict: str | None


@dataclass(frozen=True)
class Query:
    """A query, its best verdict, and its first answers."""

    name: str
    card: Card
    """Without a title: the name stands above."""
    verdict: str | None
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Failure:
    name: str
    reason: str
    detail: str


@dataclass(frozen=True)
class About:
    """What the pages say of the search."""

    queries: str
    fingerprint: str
    metric: str
    images: int
    """Of the collection."""
    is_judged: bool
    """Whether limits of near-duplicates were there to judge by."""
    untrained: bool
    run: str


@dataclass(frozen=True)
class Listing:
    """Queries with one verdict, or all; and what its pages are called."""

    name: str
    title: str
    count: int

    def page(self, number: int, up: str, folder: str) -> str:
        """The address of page ``number`` as seen from a page that is ``up`` (empty, or ``../``) above its folder."""
        if self.name == ALL and number == 1:
            return f"{up}index.html"
        return f"{'' if up else f'{folder}/'}{self.name}-{number}.html"


@dataclass(frozen=True)
class Place:
    """Where the report is, and the gallery that it links to, if any."""

    site: str
    rendering: str
    gallery: str | None

    @property
    def folder(self) -> str:
        return f"{self.site}/{self.rendering}"

    def link(self, image_id: str) -> str | None:
        """The address of an image's page in the gallery, from a page in the rendering's folder; None without one."""
        base = _base(self.gallery, self.site) if self.gallery is not None else None
        return f"{base}/{paths.image_path(paths.page_name(image_id))}" if base is not None else None

    def picture(self, content: str | None, uri: str | None, version: str | None) -> str | None:
        """The file of a picture in the gallery."""
        if self.gallery is None or uris.scheme_of(self.gallery) in http_client.SCHEMES:
            return None
        folder = uris.absolute(self.gallery).rstrip("/")
        return f"{folder}/{paths.picture_path(paths.picture_name(content, uri, version), paths.SMALL)}"


def _base(gallery: str, site: str) -> str | None:
    """The address of ``gallery`` as seen from a folder of ``site``, relative where both are in one place; None where no
    link leads from the one to the other.
    """
    if uris.scheme_of(gallery) in http_client.SCHEMES:
        return gallery.rstrip("/")
    there, here = uris.for_spark(uris.absolute(gallery)), uris.for_spark(uris.absolute(site))
    if there.partition("://")[2].partition("/")[0] != here.partition("://")[2].partition("/")[0]:
        return None
    if uris.scheme_of(there) != uris.scheme_of(here):
        return None
    relative = os.path.relpath(there.rstrip("/").partition("://")[2] or there, here.partition("://")[2] or here)
    return f"../{quote(relative)}"


# -- what is shown -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tables:
    """What was published of a search."""

    matches: pa.Table
    """The similar images of all queries."""
    failures: pa.Table
    images: Mapping[str, Mapping[str, Any]]
    """image_id -> uri, source_version, attributes, content of the images that are shown."""


def read(published: Snapshot, slot: str, failures_slot: str, fingerprint: str) -> Tables:
    """The tables of the search that is published in ``slot``."""
    import pyarrow.dataset as ds

    columns = ["query_id", "query_uri", "image_id", "rank", "distance", "verdict"]
    matches = published.dataset("matches", slot).to_table(columns=columns, filter=ds.field("relation") == SIMILAR)
    is_first, is_there = pc.less_equal(matches["rank"], SHOWN), pc.is_in(matches["verdict"], pa.array([YES, NEAR]))
    shown = matches.filter(pc.or_(is_first, is_there))["image_id"].combine_chunks().unique()
    is_shown = ds.field("image_id").isin(shown)
    manifest = published.dataset("manifest").to_table(
        columns=["image_id", "uri", "source_version", "attributes"], filter=is_shown
    )
    embedded = published.dataset("embeddings", fingerprint).to_table(
        columns=["image_id", "content_sha256"], filter=is_shown
    )
    contents = dict(zip(embedded["image_id"].to_pylist(), embedded["content_sha256"].to_pylist()))
    images = {row["image_id"]: {**row, "content": contents.get(row["image_id"])} for row in manifest.to_pylist()}
    return Tables(
        matches.sort_by([("query_id", "ascending"), ("rank", "ascending")]),
        published.table("failures", failures_slot),
        images,
    )


def _rows(tables: Tables) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Each query, with its answers."""
    own: list[dict[str, Any]] = []
    for batch in tables.matches.to_batches(4096):
        for row in batch.to_pylist():
            if own and row["query_id"] != own[0]["query_id"]:
                yield own[0], own
                own = []
            own.append(row)
    if own:
        yield own[0], own


def _shown(answers: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The first ones. Among them is the first with the best verdict: it says why the query is where it is."""
    best = captions.best(answer["verdict"] for answer in answers)
    place = next(place for place, answer in enumerate(answers) if answer["verdict"] == best)
    return answers[:SHOWN] if place < SHOWN else [*answers[: SHOWN - 1], answers[place]]


def _wanted(tables: Tables, place: Place) -> Iterator[Wanted]:
    for query, answers in _rows(tables):
        if query["query_uri"] is not None:
            yield Wanted(pictures.name_of("query", query["query_id"]), Original(query["query_uri"]))
        for answer in _shown(answers):
            image = tables.images.get(answer["image_id"], {})
            in_gallery = place.picture(*(image.get(name) for name in ("content", "uri", "source_version")))
            original = Original.of(image.get("uri"), image.get("content"))
            yield Wanted(pictures.name_of("image", answer["image_id"]), original, in_gallery if image else None)


def _queries(tables: Tables, place: Place, by_name: Mapping[str, Picture], settings: Settings) -> Iterator[Query]:
    titles = settings.gallery.title_attributes, settings.gallery.subtitle_attributes
    for row, rows in _rows(tables):
        caption = captions.of_image(row["query_id"], {}, *titles)
        own = Card(
            "",
            caption.alt,
            "",
            by_name.get(pictures.name_of("query", row["query_id"]), _NO_PICTURE),
            captions.link(row["query_uri"] or ""),
        )
        answers = []
        for answer in _shown(rows):
            image = tables.images.get(answer["image_id"], {})
            words = captions.of_image(answer["image_id"], dict(image.get("attributes") or ()), *titles)
            picture = by_name[pictures.name_of("image", answer["image_id"])]
            link = place.link(answer["image_id"]) or captions.link(image.get("uri") or "")
            card = Card(words.title, words.alt, words.subtitle, picture, link)
            answers.append(Answer(card, answer["distance"], answer["verdict"]))
        yield Query(captions.clean(row["query_id"]), own, captions.best(row["verdict"] for row in rows), tuple(answers))


# -- pages -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    index: str
    """The front page, which belongs beside the rendering."""
    pages: int
    pictures: int
    absent: int
    """Pictures that could not be read."""


def write(session: Any, tables: Tables, about: About, place: Place, settings: Settings, processes: int) -> Written:
    """Writes pictures and pages into the rendering's folder. Only the front page is left to be put in its place."""
    by_name = pictures.make(session, _wanted(tables, place), place.folder, settings, processes)
    queries = list(_queries(tables, place, by_name, settings))
    failures = [
        Failure(captions.clean(row["image_id"]), row["reason"].replace("_", " "), captions.clean(row["detail"] or ""))
        for row in tables.failures.sort_by("image_id").to_pylist()
    ]
    style = _environment().get_template(STYLE).render(**cards.STYLE)
    blobs.write(f"{place.folder}/{STYLE}", style.encode(), "text/css; charset=utf-8")
    blobs.write(f"{place.folder}/icon.svg", cards.template("icon.svg").encode(), "image/svg+xml")
    per_page = max(1, settings.gallery.images_per_page // _QUERIES_OF_PAGE)
    pages = _pages(queries, failures, per_page, about)
    front = ""
    for listing, number, last, shown in pages:
        html = _page(about, place, _listings(queries, failures, about), listing, number, last, shown)
        if listing.name == ALL and number == 1:
            front = html
        else:
            blobs.write(f"{place.folder}/{listing.name}-{number}.html", html.encode(), "text/html; charset=utf-8")
    absent = sum(picture.path is None for picture in by_name.values())
    return Written(front, len(pages), len(by_name), absent)


def _listings(queries: Sequence[Query], failures: Sequence[Failure], about: About) -> list[Listing]:
    """All, and by verdict what there is."""
    listings = [Listing(ALL, "Answered" if failures else "All", len(queries))]
    for verdict, words in captions.VERDICTS.items():
        count = sum(query.verdict == verdict for query in queries)
        if count or about.is_judged:
            listings.append(Listing(verdict, words.of_query.capitalize(), count))
    return [*listings, *([Listing(FAILED, "Failed", len(failures))] if failures else [])]


def _pages(
    queries: Sequence[Query], failures: Sequence[Failure], per_page: int, about: About
) -> list[tuple[Listing, int, int, Sequence[Any]]]:
    """Each page: its listing, its number, the number of the last one, and what it shows."""
    pages: list[tuple[Listing, int, int, Sequence[Any]]] = []
    for listing in _listings(queries, failures, about):
        shown: Sequence[Any] = [one for one in queries if listing.name in (ALL, one.verdict)]
        if listing.name == FAILED:
            shown = failures
        size = per_page * _QUERIES_OF_PAGE if listing.name == FAILED else per_page
        last = max(1, -(-len(shown) // size))
        pages += [(listing, page + 1, last, shown[page * size : (page + 1) * size]) for page in range(last)]
    return pages


def _page(
    about: About,
    place: Place,
    listings: Sequence[Listing],
    listing: Listing,
    number: int,
    last: int,
    shown: Sequence[Any],
) -> str:
    up = "" if listing.name == ALL and number == 1 else "../"
    own = "" if up else f"{place.rendering}/"
    return (
        _environment()
        .get_template("search.html")
        .render(
            about=about,
            listings=listings,
            listing=listing,
            number=number,
            last=last,
            shown=shown,
            up=up,
            own=own,
            page=lambda of, which: of.page(which, up, place.rendering),
            # Links of cards are written as from the rendering's folder.
            link=lambda address: address if up or address is None else address.removeprefix("../"),
            verdicts=captions.VERDICTS,
        )
    )


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    return cards.environment(__package__)
