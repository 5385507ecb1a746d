"""Pages that compare two images: the one that a group of near-duplicates keeps, and another of its members.

    rows = compare.rows(groups)                     # by Spark; in this process: compare.pairs(group), for each group
    filled = pages.fill(rows, "compare.html", book, compare.context(book))
    compare.write_list(rows, site, rendering)       # which difference pictures this rendering shows
    compare.remove_unused(spark, site, kept, warehouse)

`context` makes the difference picture of a pair, unless it is there: ``differences/<ab>/<name>-difference.webp``, named
by the two pictures, and beside it what was measured, as JSON.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from image_similarity.pages.site import Site
from image_similarity.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from image_similarity.stages.gallery.pages import Book

FOLDER = "compare"
"""The folder of these pages. Its shelves are those of ``images``: two digits."""

MEMBER = pa.struct(
    [
        ("image_id", pa.string()),
        ("page", pa.string()),
        ("title", pa.string()),
        ("subtitle", pa.string()),
        ("alt", pa.string()),
        ("picture", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("pixel_width", pa.int32()),
        ("pixel_height", pa.int32()),
        ("size_bytes", pa.int64()),
        ("format", pa.string()),
        ("distance", pa.float32()),
    ]
)
"""An image of a group: `cards.CARD`; the size of its file's picture, its bytes and its format (null: unknown); its
distance to the kept one (null for this one).
"""
GROUP = pa.schema(
    [
        ("group_id", pa.string()),
        ("kind", pa.string()),
        ("path", pa.string()),
        ("members", pa.list_(MEMBER)),
    ]
)
"""A group as it is shown: its name, its kind, the address of its page, and its members, the kept one first."""
PAIR = pa.schema(
    [
        ("path", pa.string()),
        ("group_id", pa.string()),
        ("kind", pa.string()),
        ("group_path", pa.string()),
        ("kept", MEMBER),
        ("other", MEMBER),
        ("number", pa.int32()),
        ("last", pa.int32()),
        ("previous", pa.string()),
        ("next", pa.string()),
    ]
)
"""The row of a page: its address, its group, the two images, its place among the pages of the group (from 1), and the
addresses of the pages before and after it."""


def compare_path(kept_page: str, other_page: str) -> str:
    """The address of the page that compares two images, from the names of their pages. Their order does not matter."""
    name = hashlib.sha256("\n".join(sorted((kept_page, other_page))).encode()).hexdigest()[:32]
    return f"{FOLDER}/{name[:2]}/{name}.html"


def has_page(kept: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether there is a page for these members: both have a picture, and not the same one (copies of a file do)."""
    return kept["width"] is not None and other["width"] is not None and kept["picture"] != other["picture"]


def pairs(group: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows (`PAIR`) of the pages of ``group`` (`GROUP`): the kept one with each other that `has_page`."""
    kept = group["members"][0]
    others = [member for member in group["members"][1:] if has_page(kept, member)]
    paths = [compare_path(kept["page"], other["page"]) for other in others]
    for place, (path, other) in enumerate(zip(paths, others)):
        yield {
            "path": path,
            "group_id": group["group_id"],
            "kind": group["kind"],
            "group_path": group["path"],
            "kept": kept,
            "other": other,
            "number": place + 1,
            "last": len(others),
            "previous": paths[place - 1] if place else None,
            "next": paths[place + 1] if place + 1 < len(others) else None,
        }


def rows(groups: DataFrame) -> DataFrame:
    """As `pairs`, of all ``groups`` (`GROUP`), by Spark."""
    raise NotImplementedError


def context(book: "Book") -> Callable[[dict[str, Any]], dict[str, Any]]:
    """In a worker: a function from a row of `PAIR` to the variables of compare.html. It makes missing pictures."""
    raise NotImplementedError


def write_list(rows: DataFrame, site: Site, rendering: str) -> None:
    """Writes which difference pictures ``rendering`` shows, into its folder. ``rows``: `PAIR`."""
    raise NotImplementedError


def write_list_here(pairs: list[Mapping[str, Any]], site: Site, rendering: str) -> None:
    """As `write_list`, by this process."""
    raise NotImplementedError


def remove_unused(spark: SparkSession, site: Site, kept: list[str], warehouse: Warehouse) -> int:
    """Removes the difference pictures that no rendering in ``kept`` shows; the first of these is this one.

    Returns their number.
    """
    raise NotImplementedError


def remove_unused_here(site: Site, kept: list[str]) -> int:
    """As `remove_unused`, by this process."""
    raise NotImplementedError
