"""How answers are told: tables for a terminal, tab-separated lines or JSON for programs."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from typing import Any, Protocol

from image_similarity.collection.search import PUBLISHED
from image_similarity.command import table
from image_similarity.command.answers import Answer, Image, Refused
from image_similarity.command.table import Column, Style
from image_similarity.errors import counted
from image_similarity.pages import captions
from image_similarity.redaction import redacted, redacted_values
from image_similarity.settings import GallerySettings
from image_similarity.storage import uris

TITLES = GallerySettings().title_attributes
"""Attributes that title an image, as in the gallery unless its settings say otherwise."""
COLUMNS = ("query", "relation", "rank", "distance", "verdict", "image_id", "width", "height", "uri")
"""Of the lines for programs."""
TAG = "tag"
"""One more column, where tags are published."""
HEADINGS = {"similar": "most alike", "dissimilar": "least alike"}
_WIDTH_OF_NO_TERMINAL = 120
_WIDTH_WITH_SIZES = 70
"""Narrower terminals have room for titles and places alone."""


class Output(Protocol):
    def tell(self, outcome: Answer | Refused) -> None:
        """Tells an answer at once. Why there is none was told on stderr; some programs want to read it here, too."""


class Terminal:
    """A table for each question, as wide as the terminal."""

    def __init__(self) -> None:
        self._style = Style.of(sys.stdout)
        self._is_first = True

    def tell(self, outcome: Answer | Refused) -> None:
        if isinstance(outcome, Refused):
            return
        width = shutil.get_terminal_size((_WIDTH_OF_NO_TERMINAL, 24)).columns
        _write("\n".join([*([] if self._is_first else [""]), *self._lines(outcome, width)]))
        self._is_first = False

    def _lines(self, answer: Answer, width: int) -> Iterator[str]:
        yield self._style(answer.asked.name, "bold")
        for relation, heading in HEADINGS.items():
            if images := answer.images_of(relation):
                if relation != "similar":
                    yield f"{heading}:"
                yield from table.lines(list(_columns(images, width)), width, self._style)
        yield self._style(about(answer), "quiet")


class Tabs:
    """A line for each image, its columns separated by tabs, below a line of their names. Without an answer, nothing."""

    def __init__(self) -> None:
        self._is_first = True

    def tell(self, outcome: Answer | Refused) -> None:
        if isinstance(outcome, Refused):
            return
        columns = (*COLUMNS, TAG) if outcome.has_tags else COLUMNS
        if self._is_first:
            _write("\t".join(columns))
        self._is_first = False
        for image in outcome.images:
            row = {"query": outcome.asked.name, **record(image, outcome.has_tags)}
            _write("\t".join("" if row[name] is None else table.cell(str(row[name])) for name in columns))
        print(f"{outcome.asked.name}: {about(outcome)}", file=sys.stderr)


class Json:
    """One JSON object on a line for each question."""

    def tell(self, outcome: Answer | Refused) -> None:
        if isinstance(outcome, Refused):
            _write(_as_json({"query": outcome.asked.name, "error": str(outcome.error)}))
            return
        facts = {"query": outcome.asked.name, **outcome.facts, "seconds": round(outcome.seconds, 3)}
        images = [{**record(image, outcome.has_tags), "title": title(image)} for image in outcome.images]
        _write(_as_json({**facts, "images": images}))


def chosen(is_json: bool) -> Output:
    """What suits stdout, which must be able to write any text."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    if is_json:
        return Json()
    return Terminal() if sys.stdout.isatty() else Tabs()


def about(answer: Answer) -> str:
    """What the answer is: how many images, out of how many, by which fingerprint, how sure, how long it took."""
    facts, is_inside = answer.facts, answer.asked.image_id is not None
    counts = [
        f"the {f'{count:,} ' if count > 1 else ''}{heading}"
        for relation, heading in HEADINGS.items()
        if (count := len(answer.images_of(relation)))
    ]
    is_known = facts.get("query_vector") == PUBLISHED
    parts = [
        f"{' and '.join(counts) or 'none'} of {counted(facts['vectors'], 'other' if is_inside else 'image')}",
        f"by {facts['fingerprint']}{' (untrained weights)' if facts.get('trained') is False else ''}",
        f"{facts['metric']} distance",
        *(["exact"] if facts.get("exact") else []),
        *(["the collection has this very file"] if is_known and not is_inside else []),
        f"{answer.seconds:.1f} s",
    ]
    return ", ".join(parts)


def record(image: Image, has_tag: bool = False) -> dict[str, Any]:
    """``image`` for programs: the columns of `COLUMNS` without the query, and `TAG` where there are any. Addresses have
    no secrets.
    """
    return {
        "relation": image.relation,
        "rank": image.rank,
        "distance": float(f"{image.distance:.9g}"),  # so that a float32 is read back as it was
        "verdict": image.verdict,
        "image_id": image.image_id,
        "width": image.width,
        "height": image.height,
        "uri": None if image.uri is None else redacted(uris.for_readers(image.uri)),
        **({TAG: image.tag} if has_tag else {}),
    }


def title(image: Image) -> str | None:
    """The title that the collection has for ``image``; None without one."""
    return captions.clean(captions.first_of(image.attributes, TITLES)) or None


def _columns(images: list[Image], width: int) -> Iterator[Column]:
    yield Column("", [f"{image.rank}" for image in images], is_number=True)
    yield Column("distance", [f"{image.distance:,.4f}" for image in images], is_number=True)
    if any(image.verdict is not None for image in images):
        colours = {"yes": "good", "near": "perhaps"}
        same = [captions.VERDICTS[image.verdict].answer if image.verdict else "" for image in images]
        yield Column("same?", same, colours=[colours.get(image.verdict or "", "quiet") for image in images])
    yield Column("image", [table.cell(title(image) or image.image_id) for image in images], keeps="start")
    if width >= _WIDTH_WITH_SIZES and any(image.tag for image in images):
        yield Column("tag", [table.cell(image.tag or "") for image in images], keeps="start")
    if width >= _WIDTH_WITH_SIZES:
        yield Column("size", [_size(image) for image in images], is_number=True)
    yield Column("where", [_place(image) for image in images], keeps="end", colours=["quiet"] * len(images))


def _size(image: Image) -> str:
    return f"{image.width:,} × {image.height:,}" if image.width and image.height else ""


def _place(image: Image) -> str:
    """Where the original is: a path below the working folder as one types it, another one whole."""
    if image.uri is None:
        return ""
    uri = uris.for_readers(image.uri)
    if not uris.is_local(uri):
        return table.cell(redacted(uri))
    path = uris.local_path(uri)
    below = os.path.relpath(path)
    return table.cell(path if below.startswith("..") else below)


def _as_json(value: dict[str, Any]) -> str:
    return json.dumps(redacted_values(value), ensure_ascii=False, default=str)


def _write(text: str) -> None:
    """At once: whoever reads need not wait for the other answers, and a reader that has gone is noticed."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
