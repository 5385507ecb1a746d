"""The map, which `render_map` makes of a rendering: what the rendering leaves for it, and what pages show of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from image_similarity.pages import maps
from image_similarity.stages.gallery import pages
from image_similarity.stages.gallery.pages import Book
from image_similarity.storage import blobs, uris
from image_similarity.warehouse import parquet

_WALL = "wall.webp"


def write_cards(cards: DataFrame, book: Book) -> None:
    """Writes `maps.CARDS`. Parts in the order of their names have the images in the order of their ordinals."""
    picture = F.when(F.col("width").isNotNull(), F.col("picture"))
    in_order = cards.withColumn("picture", picture).orderBy("ordinal").select(*maps.CARDS_SCHEMA.names)
    parquet.write_folder(f"{uris.for_spark(book.gallery)}/{book.rendering}/{maps.CARDS}", in_order)


def write_cards_here(images: Sequence[Mapping[str, Any]], book: Book) -> None:
    """As `write_cards`, by this process. ``images``: in the order of their ordinals."""
    columns = {name: [image[name] for image in images] for name in maps.CARDS_SCHEMA.names}
    columns["picture"] = [image["picture"] if image["width"] is not None else None for image in images]
    batch = pa.RecordBatch.from_pydict(columns, schema=maps.CARDS_SCHEMA)
    file = f"{book.gallery}/{book.rendering}/{maps.CARDS}/part-00000.parquet"
    parquet.write_file(file, maps.CARDS_SCHEMA, [batch])


def put_shell(book: Book) -> dict[str, Any]:
    """Writes `maps.SHELL`, and returns a row of `pages.WRITTEN`."""
    return pages.put(book, maps.SHELL, pages.render("map_shell.html", book, maps.PAGE, {}), 0)


def leave_link(gallery: str) -> None:
    """Puts an empty script at `maps.LINK`, which all pages load, unless there is one. Call it while the site is locked,
    or it may replace the one of a map.
    """
    link = f"{gallery}/{maps.LINK}"
    if not blobs.exists(link):
        blobs.write(link, b"", pages.content_type(link))


def front(book: Book) -> dict[str, Any] | None:
    """The map that is there now, for the front page: ``link``, and ``source``, the path of its picture below the
    gallery. None if there is no map.

    The picture is copied into the folder of the rendering: a map that is replaced is removed, the front page stays.
    """
    try:
        link = maps.link(blobs.read(f"{book.gallery}/{maps.LINK}"))
        content = blobs.read(f"{book.gallery}/{link.picture}") if link else b""
    except FileNotFoundError:
        return None
    if link is None:
        return None
    copy = f"{book.rendering}/{_WALL}"
    blobs.write(f"{book.gallery}/{copy}", content, "image/webp")
    return {"link": link, "source": copy}
