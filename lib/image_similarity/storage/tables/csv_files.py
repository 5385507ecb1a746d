"""CSV: commas between cells, double quotes around those with commas, quotes (written twice) or line breaks."""

import csv
from collections.abc import Collection, Iterator
from functools import partial
from itertools import islice

import pyarrow as pa

from image_similarity.errors import counted
from image_similarity.storage.tables import text
from image_similarity.storage.tables.table import Header, Table, batch_rows

_LONGEST_CELL = 1 << 27


def open_file(uri: str) -> Table:
    """The table of a file whose first row names the columns. Without rows it has no columns."""
    _, first = next(_rows(uri), (1, list[str]()))
    names = _names(first)
    header = Header(names)
    return Table(header.names, notes=header.notes, _batches=partial(_batches, uri, names))


def _names(row: list[str]) -> list[str]:
    """The names in the first row. Those at its end that are empty name no column."""
    names = [name if name.strip() else "" for name in row]
    while names and not names[-1]:
        names.pop()
    if any("\0" in name for name in names):
        raise ValueError("not UTF-8, but UTF-16 perhaps (it has null characters): save it as UTF-8")
    return names


def _batches(uri: str, own: list[str], names: Collection[str]) -> Iterator[pa.RecordBatch]:
    header, rows, at_once = Header(own), _rows(uri), batch_rows(len(own))
    next(rows, None)
    while batch := [_fitted(row, len(own), line) for line, row in islice(rows, at_once)]:
        columns = list(zip(*batch))
        yield header.batch(partial(_column, columns), names, len(batch))


def _column(columns: list[tuple[str, ...]], place: int) -> pa.Array:
    return text.cells(columns[place])


def _fitted(row: list[str], width: int, line: int) -> list[str]:
    """``row`` without empty cells beyond the header. Raises ``ValueError`` if it has another number of cells."""
    if len(row) == width:
        return row
    if len(row) < width or any(map(str.strip, row[width:])):
        raise ValueError(f"line {line:,} has {counted(len(row), 'cell')}, and the header has {width:,}")
    return row[:width]


def _rows(uri: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that have text, each with the number of its first line.

    Raises ``ValueError`` for quotes that do not close, and for what is not UTF-8.
    """
    csv.field_size_limit(_LONGEST_CELL)
    with text.open_text(uri) as stream:
        reader, line = csv.reader(stream, strict=True), 1
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise ValueError(f"line {line:,}: {error}") from None
            except UnicodeDecodeError as error:
                raise text.not_utf8(error) from None
            if row is None:
                return
            if any(map(str.strip, row)):
                yield line, row
            line = reader.line_num + 1
