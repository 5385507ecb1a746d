"""Who is shown: every image of the collection as a card, which is all that a page about another one needs to know of it."""

import hashlib
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from image_similarity.settings import GallerySettings
from image_similarity.spark import numbered
from image_similarity.stages.gallery import pictures
from image_similarity.warehouse import Scratch

CARD = ["page", "title", "subtitle", "alt", "picture", "width", "height"]
"""What is shown of an image wherever it appears; ``width`` is null where there is no picture."""

_DESCRIBED = pa.schema(
    [
        ("ordinal", pa.int64()),
        *((name, pa.string()) for name in ("image_id", "uri", "content_sha256", "picture", "page", "title", "subtitle", "alt")),
        ("attributes", pa.map_(pa.string(), pa.string())),
        ("terms", pa.list_(pa.string())),
    ]
)
_COLUMNS = (
    "ordinal long, image_id string, uri string, content_sha256 string, picture string, page string, title string, "
    "subtitle string, alt string, attributes map<string,string>, terms array<string>"
)
LONGEST_TEXT = 300
LONGEST_TERM = 40
_ALT_PARTS, _LONGEST_ALT_PART = 3, 60
# Control characters and non-characters are not allowed in HTML, however written.
_NON_CHARACTERS = "\ufdd0-\ufdef" + "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
_NOT_FOR_PAGES = re.compile(f"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f{_NON_CHARACTERS}]")
_WORD = re.compile(r"[^\W_]+")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+\Z")


def describe(images: DataFrame, settings: GallerySettings, scratch: Scratch) -> DataFrame:
    """image_id, uri, content_sha256, source_version, attributes -> `_COLUMNS`: what is said of each image; materialised.

    ``ordinal`` is its place in the byte order of all ids, from 0.
    """
    picture = pictures.name_of(F.col("content_sha256"), F.col("uri"), F.col("source_version"))
    named = images.select("image_id", "uri", "content_sha256", picture.alias("picture"), "attributes")

    def described(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            rows = [{**row, **_texts(row["image_id"], dict(row["attributes"] or ()), settings)} for row in batch.to_pylist()]
            yield pa.RecordBatch.from_pylist(rows, schema=_DESCRIBED)

    in_order = numbered(named, ["image_id"], "ordinal", scratch)
    return scratch.write("described", in_order.mapInArrow(described, _COLUMNS))


def with_pictures(described: DataFrame, made: DataFrame, scratch: Scratch) -> DataFrame:
    """``described`` with width, height and, where there is no picture, the reason; materialised."""
    return scratch.write("cards", described.join(made.drop("made"), "picture", "left"))


# -- texts ---------------------------------------------------------------------------------------------------------------------


def page_name(image_id: str) -> str:
    """The name of an image's page, whatever characters its id has: 24 hexadecimal digits of its hash."""
    return hashlib.sha256(image_id.encode()).hexdigest()[:24]


def clean(text: str) -> str:
    """``text`` on one line, without characters that HTML does not allow."""
    return _NOT_FOR_PAGES.sub("\ufffd", " ".join(text.split()))


def _texts(image_id: str, attributes: dict[str, str], settings: GallerySettings) -> dict[str, Any]:
    """What is said of one image: title, line below it, alternative text, words to find it by."""
    shown = {name: clean(value) for name, value in attributes.items()}
    title = _first(shown, settings.title_attributes) or clean(_stem(image_id)) or clean(image_id)
    subtitle = _first(shown, settings.subtitle_attributes)
    words = [title, posixpath.splitext(image_id)[0], *(value for value in shown.values() if not is_address(value))]
    return {
        "page": page_name(image_id),
        "title": title[:LONGEST_TEXT],
        "subtitle": subtitle[:LONGEST_TEXT] if subtitle != title else "",
        "alt": _alt(title[:LONGEST_TEXT], subtitle, shown),
        "terms": sorted({term for text in words for term in terms(text[:LONGEST_TEXT])}),
    }


def _first(attributes: Mapping[str, str], names: tuple[str, ...]) -> str:
    """The first of the attributes ``names``, in any case, that says something; empty if none does."""
    by_name = {name.lower(): value for name, value in attributes.items()}
    return next((by_name[name.lower()] for name in names if by_name.get(name.lower())), "")


def _stem(image_id: str) -> str:
    return posixpath.splitext(image_id.rpartition("/")[2])[0]


def _alt(title: str, subtitle: str, attributes: Mapping[str, str]) -> str:
    """The title, and what else is known in a few words: names and kinds, not numbers or addresses."""
    parts = [title]
    for value in (subtitle, *attributes.values()):
        is_said = any(value.lower() in part.lower() for part in parts)
        if not is_said and len(value) <= _LONGEST_ALT_PART and any(map(str.isalpha, value)) and not _is_technical(value):
            parts.append(value)
    return ", ".join(parts[:_ALT_PARTS])


def _is_technical(value: str) -> bool:
    return is_address(value) or "/" in value or bool(re.search(r"\.\w{2,5}$", value)) or value[:1] in "[{"


def is_address(value: str) -> bool:
    return bool(_ADDRESS.match(value))


def link(value: str) -> str | None:
    """``value`` if a page may link to it: an http(s) address without spaces; else None."""
    return value if re.match(r"https?://[^\s<>\"']+\Z", value, re.IGNORECASE) else None


def terms(text: str) -> list[str]:
    """The words of ``text``, in small letters and without accents, as gallery.js makes them of a query."""
    plain = "".join(character for character in unicodedata.normalize("NFKD", text) if unicodedata.category(character)[0] != "M")
    return [word[:LONGEST_TERM] for word in _WORD.findall(plain.lower())]
