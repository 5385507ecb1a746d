"""Which images of a collection look most like a picture: answered here, without Spark, in seconds."""

import argparse
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

import image_similarity as ims
from image_similarity.command import output, page, questions, running
from image_similarity.command.answers import Answer, Asked, Image, Refused
from image_similarity.command.catalogue import NAME, SEARCH
from image_similarity.errors import JobFailed, WrongInput
from image_similarity.jobs.command_line import at_least, one_of
from image_similarity.reporting import current
from image_similarity.settings import EmbeddingsSettings, HttpSettings

_PROG = f"{NAME} {SEARCH}"
_METRICS = ("cosine", "correlation", "euclidean")


def main(words: Sequence[str]) -> int:
    """Answers, and returns the exit code: 2 if a picture could not be read, even if others were answered."""
    import sys

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
        type=one_of(_METRICS),
        metavar="|".join(_METRICS),
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
    outcomes: list[Answer | Refused] = []
    for one in asked:
        try:
            with _told_as_work(f"looking for what is like {one.name}"):
                answer = _ask(collection, one, arguments, limits)
        except JobFailed as error:
            outcomes.append(Refused(one, error))
            running.tell(_PROG, error, arguments.verbose)
            told.failed(one, str(error))
        else:
            outcomes.append(answer)
            told.answered(answer)
    if wanted is not None and any(isinstance(outcome, Answer) for outcome in outcomes):
        with _told_as_work("making the page"):
            page.write(wanted, outcomes, collection, limits)
        page.show(wanted)
    return max((one.error.exit_code for one in outcomes if isinstance(one, Refused)), default=0)


def _opened(arguments: argparse.Namespace) -> Any:
    """The collection. Raises ``WrongInput`` for a place that is no warehouse, and for names that are not published."""
    collection = ims.open(arguments.warehouse)
    if arguments.weights is None:
        return collection
    fingerprint = arguments.fingerprint or collection.fingerprints()["fingerprint"][0].as_py()
    return ims.open(arguments.warehouse, weights={fingerprint: arguments.weights})


def _ask(collection: Any, asked: Asked, arguments: argparse.Namespace, limits: EmbeddingsSettings) -> Answer:
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
    attributes = _attributes(collection, found["image_id"])
    return Answer(asked, content, tuple(_images(found, attributes)), _facts(found), seconds)


def _images(found: pa.Table, attributes: Mapping[str, Mapping[str, str]]) -> Iterator[Image]:
    columns = ("relation", "rank", "image_id", "distance", "verdict", "uri", "width", "height")
    for row in found.select(columns).to_pylist():
        yield Image(**row, attributes=attributes.get(row["image_id"], {}))


def _attributes(collection: Any, ids: pa.ChunkedArray) -> dict[str, dict[str, str]]:
    """image_id -> attributes, of those that have any."""
    manifest = collection.snapshot.dataset("manifest")
    rows = manifest.to_table(columns=["image_id", "attributes"], filter=ds.field("image_id").isin(ids.combine_chunks()))
    return {row["image_id"]: dict(row["attributes"] or ()) for row in rows.to_pylist()}


def _facts(found: pa.Table) -> dict[str, Any]:
    raise NotImplementedError


@contextmanager
def _told_as_work(what: str) -> Iterator[None]:
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
