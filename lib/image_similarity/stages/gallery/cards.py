"""Cards: every image of the collection with all that a page about another image shows of it."""

import posixpath
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from image_similarity.pages import captions, paths
from image_similarity.pages.captions import LONGEST_TEXT, clean, is_address
from image_similarity.runtime.tasks import numbered
from image_similarity.settings import GallerySettings
from image_similarity.stages.gallery import pictures, tags
from image_similarity.warehouse.workspace import Workspace

CARD = ["page", "title", "subtitle", "alt", "picture", "width", "height"]
"""The columns that are shown of an image wherever it appears. ``width`` is null where there is no picture."""

_DESCRIBED = pa.schema(
    [
        ("ordinal", pa.int64()),
        *(
            (name, pa.string())
            for name in ("image_id", "uri", "content_sha256", "picture", "page", "title", "subtitle", "alt")
        ),
        ("size_bytes", pa.int64()),
        ("attributes", pa.map_(pa.string(), pa.string())),
        ("tags", pa.list_(tags.TAG)),
        ("terms", pa.list_(pa.string())),
    ]
)
_COLUMNS = (
    "ordinal long, image_id string, uri string, content_sha256 string, picture string, page string, title string, "
    f"subtitle string, alt string, size_bytes long, attributes map<string,string>, tags array<{tags.TAG_COLUMNS}>, "
    "terms array<string>"
)
LONGEST_TERM = 40
_WORD = re.compile(r"[^\W_]+")
_BORDER = re.compile(r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")
_MOST_BORDERS = 4
"""A word that changes more often between letters and digits is a checksum: nobody looks for its middle."""


def describe(images: DataFrame, settings: GallerySettings, scratch: Workspace) -> DataFrame:
    """image_id, uri, content_sha256, source_version, size_bytes, attributes, tags -> `_COLUMNS`, the texts of each
    image; materialised. ``tags``: as `tags_by_spark.joined` adds them.

    ``ordinal`` is the image's position in the byte order of all ids, from 0.
    """
    picture = pictures.name_of(F.col("content_sha256"), F.col("uri"), F.col("source_version"))
    own = ("image_id", "uri", "content_sha256", "size_bytes", "attributes", "tags")
    named = images.select(*own, picture.alias("picture"))

    def described(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = [
                {**row, **texts(row["image_id"], dict(row["attributes"] or ()), settings, row["tags"] or ())}
                for row in batch.to_pylist()
            ]
            yield pa.RecordBatch.from_pylist(rows, schema=_DESCRIBED)

    in_order = numbered(named, ["image_id"], "ordinal", scratch)
    return scratch.write("described", in_order.mapInArrow(described, _COLUMNS))


def with_pictures(described: DataFrame, inventory: DataFrame, scratch: Workspace) -> DataFrame:
    """``described`` with width, height, what is known of the original and, for images without a picture, the reason;
    materialised.

    ``inventory``: as `pictures.make` returns it.
    """
    return scratch.write("cards", described.join(inventory.drop("made", "small", "large"), "picture", "left"))


# -- texts -------------------------------------------------------------------------------------------------------------


def texts(
    image_id: str, attributes: dict[str, str], settings: GallerySettings, tagged: Iterable[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """The texts of one image: title, subtitle, alternative text, tags, and search terms.

    ``tagged``: its rows of the table of tags, see `tags.of_image`.
    """
    own_tags = tags.of_image(tagged)
    caption = captions.of_image(image_id, attributes, settings.title_attributes, settings.subtitle_attributes)
    values = [clean(value) for value in attributes.values()]
    words = [caption.title, posixpath.splitext(image_id)[0], *(value for value in values if not is_address(value))]
    words += [tag["title"] for tag in own_tags]
    return {
        "page": paths.page_name(image_id),
        "title": caption.title,
        "subtitle": caption.subtitle,
        "alt": tags.with_tag(caption.alt, own_tags),
        "tags": own_tags,
        "terms": sorted({term for text in words for term in terms(text[:LONGEST_TEXT])}),
    }


def terms(text: str) -> list[str]:
    """The words of ``text`` in lower case and without accents; gallery.js treats a query in the same way.

    What begins inside a word, where letters and digits meet, is a word, too: ukbench00041 is also found by 00041.
    """
    plain = "".join(
        character for character in unicodedata.normalize("NFKD", text) if unicodedata.category(character)[0] != "M"
    )
    return [part[:LONGEST_TERM] for word in _WORD.findall(plain.lower()) for part in _beginnings(word)]


def _beginnings(word: str) -> list[str]:
    """``word``, and what is left of it from each place where letters and digits meet."""
    borders = [border.start() for border in _BORDER.finditer(word)]
    return [word, *(word[border:] for border in borders if len(borders) <= _MOST_BORDERS)]
