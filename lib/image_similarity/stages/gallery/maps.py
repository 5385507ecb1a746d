"""What a rendering leaves for the map, which `render_map` makes of it later."""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame

from image_similarity.pages import maps
from image_similarity.stages.gallery import pages
from image_similarity.stages.gallery.pages import Book
from image_similarity.storage import uris
from image_similarity.warehouse import parquet


def write_cards(cards: DataFrame, book: Book) -> None:
    """Writes `maps.CARDS`. Parts in the order of their names have the images in the order of their ordinals."""
    in_order = cards.orderBy("ordinal").select(*maps.CARDS_SCHEMA.names)
    parquet.write_folder(f"{uris.for_spark(book.gallery)}/{book.rendering}/{maps.CARDS}", in_order)


def write_cards_here(images: Iterable[Mapping[str, Any]], book: Book) -> None:
    """As `write_cards`, by this process. ``images``: in the order of their ordinals."""
    rows = [{name: image[name] for name in maps.CARDS_SCHEMA.names} for image in images]
    batch = pa.RecordBatch.from_pylist(rows, schema=maps.CARDS_SCHEMA)
    file = f"{book.gallery}/{book.rendering}/{maps.CARDS}/part-00000.parquet"
    parquet.write_file(file, maps.CARDS_SCHEMA, [batch])


def put_shell(book: Book) -> dict[str, Any]:
    """Writes `maps.SHELL`, and returns a row of `pages.WRITTEN`."""
    return pages.put(book, maps.SHELL, pages.render("map_shell.html", book, maps.PAGE, {}), 0)
