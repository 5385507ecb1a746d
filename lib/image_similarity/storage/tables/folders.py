"""A table is one file, or the files of a folder."""

import os
import urllib.parse
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from image_similarity.storage import blobs, timeouts
from image_similarity.storage.tables import csv_files, json_files, parquet_files
from image_similarity.storage.tables.table import Table, rows_of

FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}
"""Extensions, and how files with them are read."""

_OPEN: dict[str, Callable[[str], Table]] = {
    "csv": csv_files.open_file,
    "json": json_files.open_file,
    "parquet": parquet_files.open_file,
}
_ERRORS = (OSError, ValueError, pa.ArrowException)
_SECONDS_TO_THE_END = 3600.0
"""For JSON, which is read to its end when it is opened."""
_MOST_LISTED = 10
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Part:
    """A file of a table."""

    uri: str
    path: str
    """Its path below the folder; empty if the table is one file."""
    partition: dict[str, str | None]
    """The values of folders named ``key=value``, as text."""

    @contextmanager
    def named_in_errors(self) -> Iterator[None]:
        """What goes wrong with the file becomes a ``ValueError`` of one line, with its name if there are several."""
        try:
            yield
        except _ERRORS as error:
            text = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{self.path}: {text}" if self.path else text) from error


def kind_of(location: str) -> str | None:
    """``csv``, ``json`` or ``parquet``, by the extension; None for any other."""
    return FORMATS.get(os.path.splitext(location.rstrip("/"))[1].lower())


def open_table(location: str, read_seconds: float) -> Table:
    """The table at ``location``, which must have one of the extensions `FORMATS`.

    Raises ``ValueError``, in one line, if it cannot be read, or if no answer comes for ``read_seconds``.
    """
    kind = kind_of(location)
    if kind is None:
        raise ValueError(f"a file of unknown type; give one of {', '.join(FORMATS)}")
    parts, notes = parts_of(location, read_seconds)
    opened, seconds = [], max(read_seconds, _SECONDS_TO_THE_END) if kind == "json" else read_seconds
    for part in parts:
        with part.named_in_errors():
            opened.append((part, timeouts.within(seconds, _OPEN[kind], part.uri)))
    binary = tuple(dict.fromkeys(name for _, table in opened for name in table.binary))
    columns = dict.fromkeys(name for part, table in opened for name in (*table.names, *part.partition))
    notes += [f"left out are columns of bytes: {_listed(binary)}"] if binary else []
    notes += dict.fromkeys(note for _, table in opened for note in table.notes)
    nested = frozenset(name for _, table in opened for name in table.nested)
    return Table(
        [name for name in columns if name not in binary], binary, nested, notes, partial(_joined, opened, seconds)
    )


def parts_of(location: str, read_seconds: float) -> tuple[list[Part], list[str]]:
    """The files of the table at ``location``, by path, and a note if tables among them were passed over.

    Raises ``ValueError`` if it cannot be listed, also where no answer comes for ``read_seconds``, and for a folder
    without files.
    """
    whole = Part(location, "", {})
    with whole.named_in_errors():
        if not timeouts.within(read_seconds, blobs.is_folder, location):
            return [whole], []
        files = timeouts.collected(read_seconds, blobs.list_files(location))
        return parts_among([(file.path, file.uri) for file in files])


def parts_among(files: Iterable[tuple[str, str]]) -> tuple[list[Part], list[str]]:
    """As `parts_of`, for the files of a folder: path below it, and URI."""
    files = sorted(files)
    parts = [Part(uri, path, _partition(path)) for path, uri in files if not _is_hidden(path)]
    if not parts:
        raise ValueError("the folder has no files (those whose names begin with _ or . are passed over)")
    hidden = [path for path, _ in files if path.rpartition("/")[2].startswith("_") and kind_of(path)]
    return parts, [f"passed over are files whose names begin with _: {_listed(hidden)}"] if hidden else []


def _is_hidden(path: str) -> bool:
    """As Spark has it: markers and work in progress are no data. ``_key=value`` is a partition."""
    return any(name.startswith(".") or (name.startswith("_") and "=" not in name) for name in path.split("/"))


def _partition(path: str) -> dict[str, str | None]:
    pairs = (name.split("=", 1) for name in path.split("/")[:-1] if "=" in name)
    decoded = ((urllib.parse.unquote(key), urllib.parse.unquote(value)) for key, value in pairs)
    return {key: None if value == _NO_VALUE else value for key, value in decoded}


def _joined(
    opened: Sequence[tuple[Part, Table]], read_seconds: float, names: Collection[str]
) -> Iterator[pa.RecordBatch]:
    for part, table in opened:
        batches = table.batches(frozenset(names))  # of thousands, perhaps
        while True:
            with part.named_in_errors():
                batch = timeouts.within(read_seconds, next, batches, None)
            if batch is None:
                break
            columns = dict(zip(batch.schema.names, batch.columns))
            texts = {key: pa.scalar(text, pa.string()) for key, text in part.partition.items()}
            columns |= {key: pa.repeat(text, len(batch)) for key, text in texts.items()}
            missing = pa.nulls(len(batch), pa.string())
            yield rows_of({name: columns.get(name, missing) for name in names}, len(batch))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(name if name.isprintable() else ascii(name) for name in names[:_MOST_LISTED])
    more = len(names) - _MOST_LISTED
    return f"{shown} and {more:,} more" if more > 0 else shown
