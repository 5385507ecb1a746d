"""Pages: the templates, and the Spark tasks that fill and write them."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import jinja2
import pyarrow as pa
from pyspark.sql import DataFrame

from image_similarity.imaging import thumbnails
from image_similarity.pages import captions
from image_similarity.redaction import redacted_values
from image_similarity.stages.gallery import pictures, words
from image_similarity.storage import blobs

WRITTEN = "path string, bytes long, items long"
WRITTEN_SCHEMA = pa.schema([("path", pa.string()), ("bytes", pa.int64()), ("items", pa.int64())])

RATIO_STEP, RATIO_STEPS = 1.06, 24
"""The style sheet has 49 classes for aspect ratios of pictures, because the pages' policy allows no inline styles."""


@dataclass(frozen=True)
class Tab:
    """One table of neighbours, as a tab of the image pages. ``label``: its name for people."""

    label: str
    fingerprint: str
    metric: str
    deciles: tuple[float, ...] = ()
    """Nine distances, ascending: a tenth of the images have their nearest neighbour within the first, and so on. Empty
    if there are too few images for it."""

    def nearness(self, distance: float) -> int | None:
        """0 to 9: how many of the deciles are not below ``distance``. None without deciles."""
        return sum(distance <= decile for decile in self.deciles) if self.deciles else None


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


Context = Callable[[dict[str, Any]], dict[str, Any]]


def write(rows: DataFrame, template: str, book: Book, context: Context = dict) -> DataFrame:
    """Fills ``template`` with each of ``rows``: columns ``path`` (below the rendering), ``items`` (a list), and others.

    ``context`` returns the template's variables for a row. Returns `WRITTEN`: the pages are written when an action runs
    on it.
    """

    def written(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            files = []
            for row in batch.to_pylist():
                page = render(template, book, row["path"], context(row))
                files.append(put(book, row["path"], page, len(row["items"] or ())))
            yield pa.RecordBatch.from_pylist(files, schema=WRITTEN_SCHEMA)

    return rows.mapInArrow(written, WRITTEN)


def render(template: str, book: Book, path: str, context: dict[str, Any]) -> str:
    """The page at ``path`` below the rendering. The ``path`` of the front page begins with ``../``."""
    if path.startswith("../"):
        up, root = f"{book.rendering}/", ""
    else:
        up = "../" * path.count("/")
        root = f"{up}../"
    return _environment().get_template(template).render({**context, "book": book, "path": path, "up": up, "root": root})


def put(book: Book, path: str, text: str, items: int) -> dict[str, Any]:
    """Writes a file of the rendering, and returns a row of `WRITTEN`."""
    content = text.encode()
    blobs.write(f"{book.gallery}/{book.rendering}/{path}", content, _content_type(path))
    return {"path": path, "bytes": len(content), "items": items}


def _content_type(path: str) -> str:
    types = {
        "html": "text/html; charset=utf-8",
        "js": "text/javascript; charset=utf-8",
        "css": "text/css; charset=utf-8",
        "svg": "image/svg+xml",
    }
    return types[path.rpartition(".")[2]]


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    """Made once per process. Templates are read through importlib, which can also read them from a zip."""
    folder = files(__package__).joinpath("templates")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text(encoding="utf-8")),
        autoescape=lambda name: name is None or not name.endswith((".js", ".css")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(
        count="{:,}".format,
        distance=_distance,
        link=captions.link,
        location=captions.location,
        clean=captions.clean,
        json=_json,
        compact=json.dumps,
    )
    environment.globals.update(
        ratio_class=ratio_class, image_path=image_path, picture_path=pictures.path, small=thumbnails.SMALL
    )
    environment.globals.update(has_large=thumbnails.has_large, ratio_step=RATIO_STEP, ratio_steps=RATIO_STEPS)
    environment.globals.update(failure=words.reason, scales=words.SCALES, fact_meanings=words.FACTS)
    return environment


def ratio_class(width: int, height: int) -> int:
    """The class of the nearest aspect ratio: steps of `RATIO_STEP` from a square, negative for upright pictures."""
    steps = math.floor(math.log(width / height) / math.log(RATIO_STEP) + 0.5)
    return max(-RATIO_STEPS, min(RATIO_STEPS, steps))


def image_path(page: str) -> str:
    return f"images/{page[:2]}/{page}.html"


def _distance(value: float) -> str:
    """Four decimal places, which is finer than the eye can tell."""
    return f"{value:,.4f}"


def _json(value: Any) -> str:
    return json.dumps(redacted_values(value), indent=2, ensure_ascii=False, sort_keys=True)
