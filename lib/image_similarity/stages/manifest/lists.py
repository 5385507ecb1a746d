"""Lists of images: their rows, checked, and what is known of the files that they name."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from image_similarity.errors import WrongInput, counted
from image_similarity.settings import HttpSettings, ManifestSettings
from image_similarity.storage import blobs, http_client, tables, timeouts, uris
from image_similarity.storage.tables import Table

ATTRIBUTES = pa.map_(pa.string(), pa.string())
LISTED = pa.schema([("image_id", pa.string()), ("uri", pa.string()), ("attributes", ATTRIBUTES)])
MOST_NAMED = 5
STATUS_THREADS = 16
"""Files that a process asks for at the same time."""


@contextmanager
def reading(location: str) -> Iterator[None]:
    """Turns what goes wrong while the rows of the list are read into ``WrongInput``."""
    try:
        yield
    except ValueError as error:
        raise WrongInput(f"--images {location}: cannot be read: {error}") from None


def open_list(location: str, settings: ManifestSettings, read_seconds: float) -> tuple[Table, str, str]:
    """The list, and its columns of ids and of places. Raises ``WrongInput`` if it cannot be used."""
    try:
        table = tables.open_table(location, read_seconds)
    except ValueError as error:
        raise WrongInput(f"--images {location}: cannot be read: {error}") from None
    try:
        uri_column, id_column = table.column(*settings.uri_column), table.column("image_id")
    except ValueError as error:
        raise WrongInput(f"--images {location}: {error}") from None
    if uri_column is None:
        names, columns = " or ".join(map(repr, settings.uri_column)), ", ".join([*table.names, *table.binary])
        raise WrongInput(
            f"--images {location}: no column {names}; its columns are: {columns} (manifest.uri_column names it)"
        )
    return table, id_column or uri_column, uri_column


class Listed:
    """The rows of a list in the schema `LISTED`, counted on their way."""

    def __init__(self, table: Table, id_column: str, uri_column: str, schemes: tuple[str, ...]):
        self._table, self._id_column, self._uri_column, self._schemes = table, id_column, uri_column, schemes
        self._attributes = [name for name in table.names if name not in ("image_id", "uri", uri_column)]
        self.rows = 0
        self.incomplete = 0
        """Rows without uri or without image_id."""
        self.forbidden = 0
        """Rows that name what they may not."""

    @property
    def skipped(self) -> Counter[str]:
        """The rows that were skipped, by reason."""
        reason = "of schemes that manifest.schemes does not name"
        return Counter({reason: self.forbidden} if self.forbidden else {})

    def batches(self) -> Iterator[pa.RecordBatch]:
        for batch in self._table.batches():
            ids, written = batch[self._id_column], batch[self._uri_column]
            attributes = _attributes({name: batch[name] for name in self._attributes}, len(batch))
            self.rows += len(batch)
            self.incomplete += pc.or_(ids.is_null(), written.is_null()).true_count
            rows = pa.RecordBatch.from_arrays([ids, written, attributes], schema=LISTED)
            if self._schemes:
                rows = rows.filter(pa.array([may_name(uri, self._schemes) for uri in written.to_pylist()], pa.bool_()))
                self.forbidden += len(batch) - len(rows)
            yield rows


def may_name(uri: str | None, schemes: tuple[str, ...]) -> bool:
    """Whether a row of a list may name ``uri``, see `ManifestSettings.schemes`. An empty cell is another fault."""
    if uri is None:
        return True
    is_relative = uris.is_local(uri) and not os.path.isabs(uris.local_path(uri))
    if is_relative and uris.absolute(uri, "/list").startswith("/list/"):
        return "relative" in schemes
    return uris.scheme_of(uri) in schemes


def _attributes(columns: dict[str, pa.Array], rows: int) -> pa.Array:
    """``columns`` of strings as one map for each row, in their order; nulls are left out."""
    if not columns:
        return pa.MapArray.from_arrays(np.zeros(rows + 1, np.int32), pa.nulls(0, pa.string()), pa.nulls(0, pa.string()))
    by_row = np.arange(rows * len(columns)).reshape(len(columns), rows).T.ravel()
    cells = pa.concat_arrays(list(columns.values())).take(pa.array(by_row))
    names = pa.array(list(columns), pa.string()).take(pa.array(np.tile(np.arange(len(columns)), rows)))
    is_set = cells.is_valid()
    counts = is_set.to_numpy(zero_copy_only=False).reshape(rows, len(columns)).sum(axis=1)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.MapArray.from_arrays(offsets, names.filter(is_set), cells.filter(is_set))


def check(listed: Listed, location: str, repeated: Callable[[], list[str]]) -> None:
    """Raises ``WrongInput`` for a list whose rows, which were all read, cannot be used.

    ``repeated``: the first ids, in their order and at most `MOST_NAMED`, that stand several times. It is called last.
    """
    if not listed.rows:
        raise WrongInput(f"--images {location}: the list has no rows")
    if listed.forbidden == listed.rows:
        rows = "does not allow its only row" if listed.rows == 1 else f"allows none of its {listed.rows:,} rows"
        raise WrongInput(f"--images {location}: manifest.schemes {rows}")
    if listed.incomplete:
        raise WrongInput(
            f"--images {location}: {counted(listed.incomplete, 'row has', 'rows have')} no uri or no image_id; "
            "every row needs both"
        )
    if twice := repeated():
        names = ", ".join(map(repr, twice))
        raise WrongInput(f"--images {location}: image_id must be unique, but these stand more than once: {names}")


def status_of(uri: str, http: HttpSettings, read_seconds: float) -> tuple[int | None, int | None, str | None]:
    """Size in bytes, time of the last change in nanoseconds, and ETag of the file at ``uri``; each None if unknown."""
    if uris.scheme_of(uri) not in http_client.SCHEMES:
        try:
            file = timeouts.one_of_many(read_seconds, blobs.status, uri)
        except TimeoutError:
            file = None
        return (file.size_bytes, file.modified_ns, None) if file is not None else (None, None, None)
    answer = http_client.status(uri, http)
    return (
        (answer.size_bytes, _nanoseconds(answer.last_modified), answer.etag)
        if answer is not None
        else (None, None, None)
    )


def _nanoseconds(date: str | None) -> int | None:
    """An HTTP date as nanoseconds since 1970; None for None and for text that is no date."""
    try:
        return int(parsedate_to_datetime(date).timestamp()) * 10**9 if date else None
    except (ValueError, OverflowError):
        return None


def resolved(uri: str, base: str) -> str:
    try:
        return uris.absolute(uri, base)
    except ValueError:  # it is no uri: it stays as written, and becomes a failure when it is read
        return uri
