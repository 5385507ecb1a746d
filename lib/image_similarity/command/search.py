"""Which images of a collection look most like a picture: answered here, without Spark, in seconds."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

import image_similarity as ims
from image_similarity.collection import Collection, defaults, display, queries
from image_similarity.collection.encoder import settings_of
from image_similarity.command import output, page, questions, running
from image_similarity.command.answers import Answer, Asked, Image, Refused
from image_similarity.command.catalogue import NAME, SEARCH
from image_similarity.errors import JobFailed, Unreadable, WrongInput
from image_similarity.jobs.command_line import at_least, one_of
from image_similarity.pages import captions
from image_similarity.reporting import current
from image_similarity.settings import EmbeddingsSettings, HttpSettings

_NUMBERS = ("version", "vectors", "query_width", "query_height")
_COLUMNS = tuple(column.name for column in fields(Image))
_PROG = f"{NAME} {SEARCH}"
USAGE = "FILE --warehouse URI"


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
    wanted = page.wanted(arguments, len(arguments.files) + len(arguments.ids))
    collection, fingerprint = _opened(arguments)
    limits = settings_of(collection.snapshot, fingerprint)
    asked = questions.of(arguments.files, arguments.ids, arguments.warehouse, limits)
    search = partial(
        collection.search,
        k=arguments.k,
        fingerprint=fingerprint,
        metric=arguments.metric,
        dissimilar=arguments.dissimilar,
    )
    trained = {row["fingerprint"]: row["trained"] for row in collection.fingerprints().to_pylist()}
    writer = output.chosen(arguments.json)
    refusals: list[Refused] = []
    images = display.of_snapshot(collection.snapshot, fingerprint)
    with page.opened(wanted, collection.uri, images, limits) as sheet:
        for one in asked:
            outcome = _outcome(collection, search, one, limits, trained.get(fingerprint))
            if isinstance(outcome, Refused):
                if str(outcome.error) not in {str(other.error) for other in refusals}:  # as of weights that are gone
                    running.tell(_PROG, outcome.error, arguments.verbose)
                refusals.append(outcome)
            writer.tell(outcome)
            if sheet is not None:
                sheet.add(outcome)
        if sheet is not None and (path := sheet.write()):
            _show(path, arguments.open)
    return max((refused.error.exit_code for refused in refusals), default=0)


def _opened(arguments: argparse.Namespace) -> tuple[Collection, str]:
    """The collection, and the fingerprint that is asked. Raises ``WrongInput`` for what is not published."""
    collection = ims.open(arguments.warehouse)
    fingerprint = defaults.fingerprint_of(collection.snapshot, arguments.fingerprint)
    if arguments.weights is not None:
        weights = arguments.weights.removeprefix(f"{fingerprint}=")  # as serve takes them
        collection = ims.open(arguments.warehouse, weights={fingerprint: weights})
    return collection, fingerprint


def _outcome(
    collection: Collection,
    search: Callable[..., pa.Table],
    asked: Asked,
    limits: EmbeddingsSettings,
    is_trained: bool | None,
) -> Answer | Refused:
    try:
        with _shown_as_work(f"looking for images like {asked.name}"):
            began = time.monotonic()
            content = questions.content_of(asked, limits, HttpSettings())
            answers = search(content, image_id=asked.image_id)
            seconds = time.monotonic() - began
            return _answer(collection, asked, content, answers, {"trained": is_trained}, seconds)
    except JobFailed as error:
        if content_fault := error.fields.get("reason"):  # a message about bytes does not know their name
            named = queries.refused(asked.name, Unreadable(content_fault, error.fields.get("detail", "")))
            named.__cause__ = error
            return Refused(asked, named)
        return Refused(asked, error)


def _answer(
    collection: Collection,
    asked: Asked,
    content: bytes | None,
    answers: pa.Table,
    more: dict[str, Any],
    seconds: float,
) -> Answer:
    """``more``: facts beside those of the answer itself."""
    attributes = _attributes(collection, asked.image_id)
    return Answer(
        asked,
        title=captions.first_of(attributes, output.TITLES) or asked.title,
        content=content,
        images=tuple(
            Image(**{**row, "attributes": dict(row["attributes"] or ())})
            for row in answers.select([name for name in _COLUMNS if name in answers.column_names]).to_pylist()
        ),
        facts={**_facts(answers), **more},
        seconds=seconds,
    )


def _attributes(collection: Collection, image_id: str | None) -> dict[str, str]:
    """Those of an image of the collection; none of a picture from outside, and of one that has left."""
    if image_id is None:
        return {}
    manifest = collection.snapshot.dataset("manifest")
    rows = manifest.to_table(columns=["attributes"], filter=ds.field("image_id") == image_id).to_pylist()
    return dict(rows[0]["attributes"] or ()) if rows else {}


def _facts(answers: pa.Table) -> dict[str, Any]:
    """What the metadata of an answer say, with numbers as numbers."""
    facts: dict[str, Any] = {key.decode(): value.decode() for key, value in (answers.schema.metadata or {}).items()}
    facts.update({name: int(facts[name]) for name in _NUMBERS if name in facts})
    facts["exact"] = facts["exact"] == "true"
    return facts


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
