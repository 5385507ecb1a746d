"""Pages: the templates, and the Spark tasks that fill them."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import jinja2
import pyarrow as pa
from markupsafe import Markup, escape
from pyspark.sql import DataFrame

from image_similarity.imaging import thumbnails
from image_similarity.pages import captions, cards, paths
from image_similarity.stages.gallery import compare, measures, members, selection, tags, words
from image_similarity.storage import blobs

WRITTEN = "path string, bytes long, items long"
WRITTEN_SCHEMA = pa.schema([("path", pa.string()), ("bytes", pa.int64()), ("items", pa.int64())])

NEW, CHANGED, SAME = "new", "changed", "same"
"""The states of a page that was filled: what is at its address now."""
FILLED = f"{WRITTEN}, state string, content binary"
FILLED_SCHEMA = WRITTEN_SCHEMA.append(pa.field("state", pa.string())).append(pa.field("content", pa.binary()))
"""A page that is not at its address yet. A page that is there already, bit for bit, has no ``content``."""
_BATCH_BYTES = 8 << 20

STATIC = "static"
"""The folder of files that all pages share. They have the hash of their content in their names, and stay for good."""
STATIC_FILES = ("gallery.css", "gallery.js", "icon.svg", "compare.css", "compare.js", "selection.js")


@dataclass(frozen=True)
class Tab:
    """One table of neighbours, as a tab of the image pages. ``label``: its name for people."""

    label: str
    fingerprint: str
    metric: str
    deciles: tuple[float, ...] = ()
    """Nine distances, ascending: a tenth of the images have their nearest neighbour within the first, and so on. Empty
    if there are too few images for it."""
    others: int = 0
    """The number of images that each of them is compared with."""
    random: tuple[float, ...] = ()
    """Four distances, ascending: 5, 10, 25 and 50 % of pairs drawn at random are within them. Empty if not known."""

    @cached_property
    def marks(self) -> tuple[float, ...]:
        """Nine distances, ascending, that divide near from far here: from the nearest tenth of nearest neighbours to
        the middle of random pairs. Empty without both.
        """
        return tuple(sorted(self.deciles[::2] + self.random)) if self.deciles and self.random else ()

    def nearness(self, distance: float) -> int | None:
        """0 to 9: how many of `marks` are not below ``distance``. None without marks."""
        return sum(distance <= mark for mark in self.marks) if self.marks else None


@dataclass(frozen=True)
class Ranked:
    """The lists of images by a number that there are, see `ranked`."""

    measured: bool = False
    """Whether images have numbers of quality."""
    flags: tuple[str, ...] = ()
    """Those that an image has."""
    odd: tuple[tuple[int, str], ...] = ()
    """Number of a tab, and the path of its list of odd ones."""
    suspects: tuple[tuple[str, str], ...] = ()
    """Attribute, and the path of the list of images that are likely mislabelled."""


@dataclass(frozen=True)
class Grouped:
    """The groups that the pages show."""

    tab: int = 0
    """The number of the tab that they are groups by."""
    near: int = 0
    """Groups of images that are nearly the same, and the images in them."""
    near_images: int = 0
    levels: tuple[tuple[int, int], ...] = ()
    """Groups of images that belong together, and the images in them, by level: the finest first."""


@dataclass(frozen=True)
class Tagged:
    """The tags that the pages show, and what gave them."""

    fingerprint: str
    network: str = ""
    """What of this fingerprint's looked at the images: its network and weights, for people."""
    threshold: float | None = None
    """The probability from which on a class is a tag. None: not known."""
    tags: int = 0
    """Different ones."""
    images: int = 0
    """Those that have a tag."""
    unjudged: int = 0
    """Those that the network has not looked at, as they are now."""


@dataclass(frozen=True)
class Book:
    """The facts that all pages of a rendering share. It is small, because every worker gets it."""

    gallery: str
    """The folder of the gallery: a local path or a URI."""
    rendering: str
    title: str
    images: int
    tabs: tuple[Tab, ...]
    untrained: tuple[str, ...]
    """Fingerprints with untrained weights: every page warns of them."""
    per_shard: int
    facets: tuple[tuple[str, str], ...] = ()
    """The facets of the collection: attribute, and the path of its page."""
    by_folder: bool = False
    """Whether the only facet is the folders of the images, and no attribute."""
    show_locations: bool = False
    duplicates: int = 0
    """The number of sets of images with the same bytes."""
    failures: int = 0
    """The number of images that could not be used, by a fingerprint or by all."""
    lost: int = 0
    """How many of these have no page."""
    ranked: Ranked = Ranked()
    from_list: bool = False
    """Whether a list names the images, and not their folder."""
    groups: Grouped = Grouped()
    tags: Tagged | None = None
    """None: no tags are published."""


Context = Callable[[dict[str, Any]], dict[str, Any]]


def fill(rows: DataFrame, template: str, book: Book, context: Context = dict) -> DataFrame:
    """Fills ``template`` with each of ``rows``: columns ``path`` (below the gallery), ``items`` (a list), and others.

    ``context`` returns the template's variables for a row. Returns `FILLED`: pages that are not at their addresses yet.
    """

    def filled(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows = (row for batch in batches for row in batch.to_pylist())
        yield from in_batches(fill_one(template, book, row["path"], context(row)) for row in rows)

    return rows.mapInArrow(filled, FILLED)


def in_batches(filled: Iterator[dict[str, Any]]) -> Iterator[pa.RecordBatch]:
    """Rows of `FILLED` in batches of a bounded size; one batch, without rows, of none."""
    waiting, size = [], 0
    for row in filled:
        waiting.append(row)
        size += len(row["content"] or b"")
        if size > _BATCH_BYTES:
            yield pa.RecordBatch.from_pylist(waiting, schema=FILLED_SCHEMA)
            waiting, size = [], 0
    yield pa.RecordBatch.from_pylist(waiting, schema=FILLED_SCHEMA)


def fill_one(template: str, book: Book, path: str, context: dict[str, Any]) -> dict[str, Any]:
    """A row of `FILLED`: the page at ``path``, compared with what is there now."""
    content = render(template, book, path, context).encode()
    state = _state(f"{book.gallery}/{path}", content)
    return {
        "path": path,
        "bytes": len(content),
        "items": len(context.get("items") or ()),
        "state": state,
        "content": None if state == SAME else content,
    }


def _state(uri: str, content: bytes) -> str:
    try:
        return SAME if blobs.read(uri, len(content)) == content else CHANGED
    except FileNotFoundError:
        return NEW


def render(template: str, book: Book, path: str, context: dict[str, Any]) -> str:
    """The page at ``path`` below the gallery."""
    up = "../" * path.count("/")
    return _environment().get_template(template).render({**context, "book": book, "path": path, "up": up, "root": up})


def put(book: Book, path: str, text: str, items: int) -> dict[str, Any]:
    """Writes a file into the folder of the rendering, and returns a row of `WRITTEN`."""
    return write(f"{book.gallery}/{book.rendering}", path, text, items)


def write(folder: str, path: str, text: str, items: int = 0) -> dict[str, Any]:
    """Writes a file below ``folder``, and returns a row of `WRITTEN`."""
    content = text.encode()
    blobs.write(f"{folder}/{path}", content, content_type(path))
    return {"path": path, "bytes": len(content), "items": items}


@lru_cache(maxsize=16)
def static_file(name: str, book: Book) -> tuple[str, str]:
    """The path of one of `STATIC_FILES` below the gallery, and its content."""
    text = _environment().get_template(name).render(book=book)
    stem, _, ending = name.partition(".")
    return f"{STATIC}/{stem}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.{ending}", text


def content_type(path: str) -> str:
    types = {
        "html": "text/html; charset=utf-8",
        "js": "text/javascript; charset=utf-8",
        "css": "text/css; charset=utf-8",
        "svg": "image/svg+xml",
    }
    return types[path.rpartition(".")[2]]


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    environment = cards.environment(__package__)
    environment.filters.update(roughly=roughly, link=captions.link, location=captions.location, compact=json.dumps)
    environment.filters.update(percent=tags.percent)
    environment.globals.update(image_path=paths.image_path, picture_path=paths.picture_path, small=thumbnails.SMALL)
    environment.globals.update(compare_path=compare.compare_path, has_comparison=compare.has_page)
    environment.globals.update(selection_row=selection.row, selection_columns=selection.COLUMNS)
    environment.globals.update(better=members.better, best=members.best, facts_of=members.facts)
    environment.globals.update(shown_card=shown_card, ratio_class=cards.ratio_class, ratio_sum=_ratio_sum)
    environment.globals.update(measures=measures)
    environment.globals.update(tag_path=tags.tag_path, tag_list_path=tags.list_path, untagged=tags.UNTAGGED)
    environment.globals.update(cards.STYLE)
    environment.globals.update(static=lambda name, book: static_file(name, book)[0])
    environment.globals.update(has_large=thumbnails.has_large)
    environment.globals.update(
        failure=words.reason, scales=words.SCALES, numbers=words.NUMBERS, fact_meanings=words.FACTS
    )
    return environment


def shown_card(
    card: Mapping[str, Any],
    up: str,
    root: str,
    note: str = "",
    at_once: bool = False,
    near: int | None = None,
    both: str = "",
) -> Markup:
    """An image in a list. Pages have dozens: a macro would take three quarters of the time of all pages.

    ``card``: the columns of `cards.CARD`, perhaps with a ``distance`` or ``probability``; ``note``: the line below its
    title; ``at_once``: load it eagerly; ``near``: the length of the bar in the note, 0 to 9; ``both``: the end of the
    note, for lists that are side by side.
    """
    width, height = card["width"], card["height"]
    title = cards.breakable(captions.short(card["title"]))
    if width:
        ratio, unheard, lazy = (
            f" r{cards.ratio_class(width, height)}",
            ' aria-hidden="true"',
            "" if at_once else ' loading="lazy"',
        )
        source = f"{root}{paths.picture_path(card['picture'], 'small')}"
        picture = f'<img src="{source}" width="{width}" height="{height}" alt="{escape(card["alt"])}"{lazy}>'
    else:
        ratio, unheard, picture = "", "", '<span class="absent">no picture</span>'
    if note:
        bar = "" if near is None else f" n{near}"
        number = next((name for name in ("distance", "probability") if name in card), None)
        unseen = f'<span class="unseen">{number} </span>' if number else ""
        end = f'<span class="both"> · {escape(both)}</span>' if both else ""
        line = f'<span class="note{bar}">{unseen}{escape(note)}{end}</span>'
    else:
        line = f'<span class="note" dir="auto">{cards.breakable(card["subtitle"])}</span>' if card["subtitle"] else ""
    return Markup(
        f'<li class="card{ratio}"><a href="{up}{paths.image_path(card["page"])}">{picture}'
        f'<span class="title"{unheard} dir="auto">{title}</span>{line}</a></li>'
    )


def _ratio_sum(shown: list[dict[str, Any]]) -> int:
    return cards.ratio_sum((card["width"], card["height"]) for card in shown)


def roughly(value: float) -> str:
    """One digit that counts: 0.0003, 0.2, 40."""
    rounded = float(f"{value:.0e}")
    places = -math.floor(math.log10(rounded)) if rounded > 0 else 0
    return f"{rounded:,.{max(0, places)}f}"
