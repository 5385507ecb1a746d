"""Which images of a collection look most like a picture: answered here, without Spark, in seconds."""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

import image_similarity as ims
from image_similarity.collection import Collection, defaults
from image_similarity.command import output, page, questions, running
from image_similarity.command.answers import Answer, Asked, Image, Refused
from image_similarity.command.catalogue import NAME, SEARCH
from image_similarity.errors import JobFailed, WrongInput
from image_similarity.jobs.command_line import at_least, one_of
from image_similarity.pages import captions
from image_similarity.reporting import current
from image_similarity.settings import EmbeddingsSettings, HttpSettings

_PROG = f"{NAME} {SEARCH}"


def main(words: Sequence[str]) -> int:
    """Answers, and returns the exit code: 2 if a picture could not be read, even if others were answered."""
    return running.run(_PROG, sys.modules[__name__], words)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="a picture: a path, an http(s):// or s3:// address, or - for stdin; several may be given",
    )
    parser.add_argument("--warehouse", required=True, metavar="URI", help="the folder of all tables of the collection")
    parser.add_argument(
        "--id",
        dest="ids",
        action="append",
        default=[],
        metavar="IMAGE_ID",
        help="an image of the collection, in the place of FILE or besides; repeatable",
    )
    parser.add_argument("-k", type=at_least(0), default=12, metavar="N", help="images most alike (default: 12)")
    parser.add_argument(
        "--dissimilar", type=at_least(0), default=0, metavar="N", help="images least alike (default: none)"
    )
    parser.add_argument(
        "--fingerprint", metavar="NAME", help="by which the images were embedded (default: the only one, or vgg16-fc2)"
    )
    parser.add_argument(
        "--metric",
        type=one_of(defaults.METRICS),
        metavar="|".join(defaults.METRICS),
        help="the distance (default: that of the published neighbours, or cosine)",
    )
    parser.add_argument(
        "--weights", metavar="FILE", help="of the fingerprint's network, where those that were used are gone"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on a line for each picture")
    parser.add_argument("--open", action="store_true", help="show the answers as a page in the browser")
    parser.add_argument(
        "--page", metavar="FILE.html", help="write that page here (default, with --open: a temporary file)"
    )
    parser.add_argument("--gallery", metavar="URI", help="a rendered gallery, which the page leads to")


def run(arguments: argparse.Namespace) -> int:
    if not arguments.k and not arguments.dissimilar:
        raise WrongInput("-k 0 without --dissimilar asks for nothing")
    limits = EmbeddingsSettings()
    asked = questions.of(arguments.files, arguments.ids, arguments.warehouse, limits)
    wanted = page.wanted(arguments, len(asked))
    collection = _opened(arguments)
    told = output.chosen(arguments.json)
    codes = []
    with page.opened(wanted, collection.uri, limits) as sheet:
        for one in asked:
            outcome = _outcome(collection, one, arguments, limits)
            if isinstance(outcome, Refused):
                codes.append(running.tell(_PROG, outcome.error, arguments.verbose))
            told.tell(outcome)
            if sheet is not None:
                sheet.add(outcome)
        if sheet is not None and (path := sheet.write()):
            _show(path, arguments.open)
    return max(codes, default=0)


def _opened(arguments: argparse.Namespace) -> Collection:
    """The collection. Raises ``WrongInput`` for a place that is no warehouse, and for names that are not published."""
    collection = ims.open(arguments.warehouse)
    fingerprint = defaults.fingerprint_of(collection.snapshot, arguments.fingerprint)
    if arguments.weights is None:
        return collection
    return ims.open(arguments.warehouse, weights={fingerprint: arguments.weights})


def _outcome(
    collection: Collection, asked: Asked, arguments: argparse.Namespace, limits: EmbeddingsSettings
) -> Answer | Refused:
    try:
        with _shown_as_work(f"looking for images like {asked.name}"):
            return _ask(collection, asked, arguments, limits)
    except JobFailed as error:
        return Refused(asked, error)


def _ask(collection: Collection, asked: Asked, arguments: argparse.Namespace, limits: EmbeddingsSettings) -> Answer:
    began = time.monotonic()
    content = questions.content_of(asked, limits, HttpSettings())
    found = collection.search(
        content,
        arguments.k,
        image_id=asked.image_id,
        fingerprint=arguments.fingerprint,
        metric=arguments.metric,
        dissimilar=arguments.dissimilar,
    )
    seconds = time.monotonic() - began
    rows = found.select([column.name for column in fields(Image) if column.name != "attributes"]).to_pylist()
    known = _known(collection, [*(row["image_id"] for row in rows), *([asked.image_id] if asked.image_id else [])])
    images = tuple(Image(**row, attributes=known[row["image_id"]].attributes) for row in rows)
    own = known[asked.image_id] if asked.image_id else _Known()
    return Answer(
        asked,
        title=captions.first_of(own.attributes, output.TITLES) or asked.title,
        content=content,
        uri=own.uri,
        images=images,
        facts=_facts(found),
        seconds=seconds,
    )


@dataclass(frozen=True)
class _Known:
    """What the manifest says of an image."""

    uri: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)


def _known(collection: Collection, ids: Sequence[str]) -> Mapping[str, _Known]:
    """image_id -> what is known of it; nothing of those that have left the manifest."""
    manifest = collection.snapshot.dataset("manifest")
    are_wanted = ds.field("image_id").isin(pa.array(ids, pa.string()))
    rows = manifest.to_table(columns=["image_id", "uri", "attributes"], filter=are_wanted)
    known: defaultdict[str, _Known] = defaultdict(_Known)
    known.update((row["image_id"], _Known(row["uri"], dict(row["attributes"] or ()))) for row in rows.to_pylist())
    return known


def _facts(found: pa.Table) -> dict[str, Any]:
    raise NotImplementedError


def _show(path: str, is_opened: bool) -> None:
    """Says where the page is. On stderr: stdout has answers alone."""
    is_shown = is_opened and page.show(path)
    advice = f"open it: {Path(path).as_uri()}" if is_opened and not is_shown else ""
    for line in filter(None, (f"page: {path}", advice)):
        print(line, file=sys.stderr)


@contextmanager
def _shown_as_work(what: str) -> Iterator[None]:
    """Shows ``what`` on the terminal for as long as it lasts: the first answer takes seconds."""
    reporter = current()
    if not reporter.on_terminal:
        yield
        return
    reporter.show(f"{what} ...")
    try:
        yield
    finally:
        reporter.show("")
