"""The tags of an image: what a classifier says is in its picture, as pages, cards and the search show it.

A tag is a class, or a parent of classes. Only accepted ones are shown: of the others the classifier is not sure enough.
`tag_pages` and `tags_by_spark` make the pages that list images by tag.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from image_similarity.pages.captions import LONGEST_TEXT, clean, short

GIVEN = ["rank", "class", "wnid", "probability", "accepted"]
"""What `of_image` takes of a row."""

TAG = pa.struct([("page", pa.string()), ("title", pa.string()), ("wnid", pa.string()), ("probability", pa.float32())])
TAG_COLUMNS = "struct<page: string, title: string, wnid: string, probability: float>"
"""A tag of an image. ``page``: the name of the tag's pages, 32 hexadecimal digits; ``title``: the class, for people."""

FOLDER, UNTAGGED = "tags", "none"
"""The folder of the pages, and the name of those of images without a tag."""
EMPTY = "(empty)"
"""The title of a class without a name."""

_NO_BREAK = "\u00a0"

Tag = dict[str, Any]


def wanted(column: Callable[[str], Any]) -> Any:
    """Which rows of ``tags`` are read: accepted ones, and the first of each image, which says that it was judged.

    ``column``: makes a column of a name, pyarrow's or Spark's.
    """
    return column("accepted") | (column("rank") == 1)


def of_image(rows: Iterable[Mapping[str, Any]]) -> list[Tag]:
    """`TAG` of those ``rows`` (`GIVEN`) of an image that are accepted: the most specific first, each once."""
    tags: dict[str, Tag] = {}
    accepted = (row for row in rows if row["accepted"])
    for row in sorted(accepted, key=lambda row: (row["rank"], row["class"] or "", row["wnid"] or "")):
        page, title = page_name(row["class"] or "", row["wnid"]), clean(row["class"] or "")[:LONGEST_TEXT] or EMPTY
        tags.setdefault(page, {"page": page, "title": title, "wnid": row["wnid"], "probability": row["probability"]})
    return list(tags.values())


def page_name(name: str, wnid: str | None) -> str:
    """The name of a tag's pages. Two classes may have one name: a crane is a bird, and a machine."""
    return hashlib.sha256(f"{wnid or ''}\n{name}".encode()).hexdigest()[:32]


def tag_path(page: str, number: int = 1) -> str:
    """A page of the images with a tag, or of those `UNTAGGED`."""
    return f"{FOLDER}/{page}-{number}.html"


def list_path(number: int = 1) -> str:
    """A page of the list of all tags."""
    return f"{FOLDER}/{number}.html"


def trails(tags: Sequence[Tag]) -> list[list[Tag]]:
    """The tags of an image, those that surely lie in one another as one trail: tabby, cat, animal.

    The table does not say which is whose parent. Two that together are more probable than 1 have a class in common, so
    the more general one is taken for a parent of the other. With a threshold above 0.5 an image has one trail.
    """
    result: list[list[Tag]] = []
    for tag in tags:
        before = result[-1][-1]["probability"] if result else 0.0
        if before <= tag["probability"] and before + tag["probability"] > 1:
            result[-1].append(tag)
        else:
            result.append([tag])
    return result


def percent(probability: float) -> str:
    """A probability, for people. None is certain, and none is nothing."""
    whole = round(100 * probability)
    if whole >= 100:
        return f"over{_NO_BREAK}99{_NO_BREAK}%"
    return f"{whole}{_NO_BREAK}%" if whole else f"under{_NO_BREAK}1{_NO_BREAK}%"


def with_tag(alt: str, tags: Sequence[Tag]) -> str:
    """The alternative text ``alt`` with the most specific tag, said as the guess that it is."""
    if not tags or tags[0]["title"] == EMPTY or tags[0]["title"].casefold() in alt.casefold():
        return alt
    return f"{alt}, {'probably' if tags[0]['probability'] >= 0.5 else 'perhaps'} {short(tags[0]['title'])}"
