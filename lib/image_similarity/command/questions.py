"""From the words of the command line to what is asked: pictures in files, at addresses, on stdin, and by their ids."""

import os
import re
import shlex
import sys
from collections.abc import Sequence

from image_similarity.collection import queries
from image_similarity.command.answers import Asked
from image_similarity.errors import Unreadable, WrongInput, counted, no_such_file, what_is
from image_similarity.redaction import redacted
from image_similarity.reporting import printable
from image_similarity.settings import EmbeddingsSettings, HttpSettings
from image_similarity.storage import fetch, uris

STDIN = "-"
_LISTS = (".csv", ".json", ".jsonl", ".ndjson", ".parquet")
"""Endings of lists of pictures."""


def of(files: Sequence[str], ids: Sequence[str], warehouse: str, limits: EmbeddingsSettings) -> list[Asked]:
    """What ``files`` and ``ids`` ask for, in their order. A picture on stdin is read.

    Raises ``WrongInput`` if nothing is asked, and for what is not one picture: a folder, a glob, a list, an empty name.
    What cannot be read is found out by `content_of`, so that the others are answered. ``warehouse``: for messages.
    """
    if not files and not ids:
        raise WrongInput("FILE must be given, or - for a picture on stdin, or --id; --help says what for")
    if files.count(STDIN) > 1:
        raise WrongInput("- is given more than once: stdin has one picture")
    for file in files:
        _check_is_one(file, warehouse)
    by_id = [Asked(printable(image_id), image_id=image_id) for image_id in ids]
    return [*(_of_file(file, limits.max_bytes) for file in files), *by_id]


def content_of(asked: Asked, limits: EmbeddingsSettings, http: HttpSettings) -> bytes | None:
    """The file that is asked about; None for an image of the collection. Raises ``WrongInput`` if it cannot be read,
    and ``JobFailed`` if it could perhaps be another time: a server does not answer.
    """
    if asked.uri is None:
        return asked.content
    if uris.is_local(asked.uri) and not os.path.isfile(asked.uri):
        raise WrongInput(printable(_absence(asked.uri)))
    try:
        return fetch.fetch(asked.uri, limits.max_bytes, http, limits.read_seconds)
    except Unreadable as error:
        detail = printable(redacted(error.detail)) or fetch.FETCH_REASONS[error.reason]
        fault = queries.without_settings(Unreadable(error.reason, detail), f"its file, or {STDIN} and it on stdin")
        raise queries.refused(asked.name, fault) from error


def _absence(path: str) -> str:
    """Why there is no file at ``path``."""
    try:
        kind = what_is(path)
    except FileNotFoundError:
        return no_such_file(path)
    except OSError as error:
        return f"{path}: {error.strerror}"
    return f"{path} is {kind}" + (f": give what it sends on stdin, by {STDIN}" if "pipe" in kind else "")


def _check_is_one(file: str, warehouse: str) -> None:
    if not file.strip():
        raise WrongInput("FILE is empty: a variable that is not set?")
    fault = "" if file == STDIN or not uris.is_local(file) else _fault(file)
    if fault:
        command = f"image-similarity search-images --images {shlex.quote(file)} --warehouse {shlex.quote(warehouse)}"
        raise WrongInput(f"{printable(file)} is {fault}: name single pictures, or ask about all of them by {command}")


def _fault(file: str) -> str:
    """What ``file`` is, if it is not one picture; else empty."""
    path = uris.absolute(file)
    if os.path.isdir(path):
        return "a folder"
    if re.search(r"[*?\[]", file) and not os.path.exists(path):
        return "a glob that no shell has replaced by files"
    return "a list" if path.lower().endswith(_LISTS) and os.path.isfile(path) else ""


def _of_file(file: str, max_bytes: int) -> Asked:
    if file == STDIN:
        return Asked("stdin", content=_from_stdin(max_bytes))
    return Asked(printable(redacted(file)), uri=uris.absolute(file))


def _from_stdin(max_bytes: int) -> bytes:
    if sys.stdin.isatty():
        raise WrongInput(f"{STDIN} is a picture on stdin, which is a terminal here: give one by < FILE or by a pipe")
    content = sys.stdin.buffer.read(max_bytes + 1)
    if not content:
        raise WrongInput("stdin is empty: no picture came")
    if len(content) > max_bytes:
        raise WrongInput(f"stdin has more than {counted(max_bytes, 'byte')}, which is the limit for one picture")
    return content
