"""images -> manifest: lists the images, with a version that changes when they change. No image is opened.

The images are a folder, a glob, or a CSV, JSON or Parquet file with a ``uri`` column.
"""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from image_similarity.errors import WrongInput, near_files
from image_similarity.reporting import note
from image_similarity.runtime.tasks import by_host
from image_similarity.settings import EmbeddingsSettings, HttpSettings, ManifestSettings
from image_similarity.storage import blobs, http_client, tables, timeouts, uris
from image_similarity.storage.blobs import FileStatus
from image_similarity.storage.tables import Table
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.workspace import Workspace

ROWS_PER_STATUS_TASK = 10_000
STATUS_THREADS = 16
_SECONDS_TO_LIST = 3600.0

_GLOB = re.compile(r"[*?\[]")
_FILES = pa.schema(
    [("image_id", pa.string()), ("uri", pa.string()), ("size_bytes", pa.int64()), ("modified_ns", pa.int64())]
)
_ATTRIBUTES = pa.map_(pa.string(), pa.string())
_LISTED = pa.schema([("image_id", pa.string()), ("uri", pa.string()), ("attributes", _ATTRIBUTES)])
_STATUS = "uri string, size_bytes long, modified_ns long, etag string"


@dataclass(frozen=True)
class Manifest:
    rows: DataFrame
    """Rows in the schema of ``manifest``."""
    skipped: dict[str, int] = field(default_factory=dict)
    """reason -> files that were skipped."""


def run(
    spark: SparkSession,
    images: str,
    settings: ManifestSettings,
    scratch: Workspace,
    sample: int | None = None,
    seed: int = 0,
    http: HttpSettings = HttpSettings(),
    read_seconds: float = EmbeddingsSettings().read_seconds,
) -> Manifest:
    """The manifest of ``images``; with ``sample`` only that many of them, chosen by a hash of image_id and ``seed``.

    The rows of a list are in ``scratch`` until they are written. For http(s) addresses in a list, their servers are
    asked for size and version, as ``http`` says. A drive or store that does not answer within ``read_seconds`` says
    nothing of a listed file. Raises ``WrongInput`` if ``images`` does not exist, cannot be listed, has no image in it,
    or is a list that cannot be used.
    """
    location = uris.absolute(images)
    kind = kind_of(location, read_seconds)
    if kind == "list":
        rows, skipped = _read_list(location, settings, scratch, read_seconds)
    else:
        files, skipped = _find(location, settings, read_seconds, is_glob=kind == "glob")
        rows = spark.createDataFrame(files).withColumn("etag", F.lit(None).cast("string"))
        rows = rows.withColumn("attributes", F.create_map().cast("map<string,string>"))
    if sample is not None:
        rows = rows.orderBy(F.xxhash64(F.lit(seed), "image_id"), "image_id").limit(sample)
    if kind == "list":
        status = _status_of(uris.parent(location), http, read_seconds)
        # A list is often a single partition, and asking a store about each file is slow. So the rows are spread.
        rows = by_host(rows, "uri", max(spark.sparkContext.defaultParallelism, rows.count() // ROWS_PER_STATUS_TASK))
        rows = rows.withColumn("status", status("uri")).select("image_id", "status.*", "attributes")
    return Manifest(rows.select(*_columns()), dict(skipped))


def _columns() -> list[Column]:
    """The columns of ``manifest``, from image_id, uri, size_bytes, modified_ns, etag and attributes."""
    # A concat with a null is null. The version includes the uri, because two files of equal name, size and time in two
    # places are different files.
    size_and_time = F.concat("size_bytes", F.lit("-"), "modified_ns")
    version = F.concat(F.coalesce("etag", size_and_time), F.lit("-"), F.substring(F.sha2("uri", 256), 1, 8))
    computed = {"modified_at": F.timestamp_micros(F.expr("modified_ns div 1000")), "source_version": version}
    return [computed.get(name, F.col(name)).alias(name) for name in SCHEMAS["manifest"].names]


def kind_of(location: str, read_seconds: float) -> str:
    """``folder``, ``list`` or ``glob``. A path that exists is never taken for a glob.

    Raises ``WrongInput`` if there is nothing at ``location``, or a file of an unknown type, or no answer within
    ``read_seconds``.
    """
    try:
        if timeouts.within(read_seconds, blobs.exists, location):
            if tables.kind_of(location):
                return "list"
            if timeouts.within(read_seconds, blobs.is_folder, location):
                return "folder"
            formats = ", ".join(tables.FORMATS)
            raise WrongInput(
                f"--images {location}: a file of unknown type; give a folder, a glob, or a list ({formats})"
            )
    except (OSError, ValueError) as error:
        raise WrongInput(f"--images {location}: {error}") from None
    if _GLOB.search(location):
        return "glob"
    near = near_files(uris.local_path(location)) if uris.is_local(location) else ""
    raise WrongInput(f"--images {location}: no such folder or file{near}")


def check(location: str, settings: ManifestSettings, read_seconds: float) -> None:
    """Raises ``WrongInput`` for images that `run` would refuse, as far as that is seen at once: no rows are read."""
    kind = kind_of(location, read_seconds)
    if kind == "list":
        if tables.kind_of(location) != "json":  # which is read to its end to know its columns
            _opened(location, settings, read_seconds)
        return
    skipped: Counter[str] = Counter()
    try:
        files = _glob(location) if kind == "glob" else blobs.list_files(location)
        if timeouts.within(_SECONDS_TO_LIST, next, _taken(files, settings.extensions, skipped), None) is None:
            raise WrongInput(_no_image(location, skipped, settings))
    except (OSError, re.error) as error:
        raise WrongInput(f"--images {location}: cannot be listed: {error}") from None


def _no_image(location: str, skipped: Counter[str], settings: ManifestSettings) -> str:
    skipped_text = f"; skipped: {describe_skipped(skipped)}" if skipped else ""
    return f"--images {location}: no image found{skipped_text}. Extensions taken: {', '.join(settings.extensions)}"


def _find(
    location: str, settings: ManifestSettings, read_seconds: float, is_glob: bool
) -> tuple[pa.Table, Counter[str]]:
    """The image files of a folder or glob as a table of `_FILES`, and the counts of skipped files by reason."""
    skipped: Counter[str] = Counter()
    try:
        # A store lists everything in one call.
        seconds = read_seconds if uris.is_local(location) else max(read_seconds, _SECONDS_TO_LIST)
        listed = timeouts.collected(seconds, _glob(location) if is_glob else blobs.list_files(location))
    except (OSError, re.error) as error:
        raise WrongInput(f"--images {location}: cannot be listed: {error}") from None
    files = list(_taken(listed, settings.extensions, skipped))
    if not files:
        raise WrongInput(_no_image(location, skipped, settings))
    unique = {file.path: file for file in files}.values()  # a glob with several ** matches a file more than once
    columns = zip(*((file.path, file.uri, file.size_bytes, file.modified_ns) for file in unique))
    return pa.table([pa.array(column, kind) for column, kind in zip(columns, _FILES.types)], schema=_FILES), skipped


def describe_skipped(skipped: dict[str, int] | Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(skipped.items()))


def _taken(files: Iterable[FileStatus], extensions: tuple[str, ...], skipped: Counter[str]) -> Iterator[FileStatus]:
    for file in files:
        name = file.path.rpartition("/")[2]
        extension = os.path.splitext(name)[1][1:].lower()
        if name.startswith("."):
            skipped["hidden"] += 1
        elif "*" not in extensions and extension not in extensions:
            skipped[f".{extension}" if extension else "without extension"] += 1
        elif not _is_text(file.uri):
            skipped["with a name that is not UTF-8"] += 1
        else:
            yield file


def _is_text(name: str) -> bool:
    """Whether a file name can be stored. Python shows undecodable bytes in names as surrogates, which cannot."""
    try:
        name.encode()
        return True
    except UnicodeEncodeError:
        return False


def _glob(pattern: str) -> Iterator[FileStatus]:
    """The files that match ``pattern``, with paths relative to its last literal folder. ``**`` crosses folders."""
    root = _GLOB.split(pattern, maxsplit=1)[0].rpartition("/")[0]
    if uris.is_local(pattern) and "**" not in pattern:  # without a look at what lies deeper
        for path in glob.iglob(pattern):
            file = blobs.status(path)
            if file is not None and not os.path.isdir(path):
                yield replace(file, path=path.removeprefix(root).lstrip("/"))
        return
    matches = re.compile(_glob_expression(pattern.removeprefix(root).lstrip("/")))
    yield from (file for file in blobs.list_files(root or "/") if matches.fullmatch(file.path))


def _glob_expression(pattern: str) -> str:
    """The regular expression of a glob: ``*`` and ``?`` stop at ``/``, ``**/`` does not."""
    tokens = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^\]]+\])", pattern)
    return "".join(
        tokens.get(piece) or (piece.replace("[!", "[^") if piece[:1] == "[" else re.escape(piece)) for piece in pieces
    )


def _read_list(
    location: str, settings: ManifestSettings, scratch: Workspace, read_seconds: float
) -> tuple[DataFrame, Counter[str]]:
    """image_id, uri (as written) and attributes of the rows of a list, from a copy in ``scratch``; and skipped rows.

    The driver reads the rows once. Raises ``WrongInput`` for a list that cannot be read, has no rows, has rows without
    uri or image_id, or repeats an image_id.
    """
    table, id_column, uri_column = _opened(location, settings, read_seconds)
    for line in table.notes:
        note(f"{location}: {line}")
    listed = _Listed(table, id_column, uri_column, settings.schemes)
    try:
        rows = scratch.store("list", _LISTED, listed.batches())
    except ValueError as error:
        raise WrongInput(f"--images {location}: cannot be read: {error}") from None
    _check_list(listed, rows, location)
    return rows, Counter(
        {"of schemes that manifest.schemes does not name": listed.forbidden} if listed.forbidden else {}
    )


def _opened(location: str, settings: ManifestSettings, read_seconds: float) -> tuple[Table, str, str]:
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


class _Listed:
    """The rows of a list in the schema `_LISTED`, counted on their way."""

    def __init__(self, table: Table, id_column: str, uri_column: str, schemes: tuple[str, ...]):
        self._table, self._id_column, self._uri_column, self._schemes = table, id_column, uri_column, schemes
        self._attributes = [name for name in table.names if name not in ("image_id", "uri", uri_column)]
        self.rows = 0
        self.incomplete = 0
        """Rows without uri or without image_id."""
        self.forbidden = 0
        """Rows that name what they may not."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        for batch in self._table.batches():
            ids, written = batch[self._id_column], batch[self._uri_column]
            attributes = _attributes({name: batch[name] for name in self._attributes}, len(batch))
            self.rows += len(batch)
            self.incomplete += pc.or_(ids.is_null(), written.is_null()).true_count
            rows = pa.RecordBatch.from_arrays([ids, written, attributes], schema=_LISTED)
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


def _check_list(listed: _Listed, rows: DataFrame, location: str) -> None:
    if not listed.rows:
        raise WrongInput(f"--images {location}: the list has no rows")
    if listed.forbidden == listed.rows:
        raise WrongInput(f"--images {location}: manifest.schemes allows none of its {listed.rows:,} rows")
    if listed.incomplete:
        raise WrongInput(
            f"--images {location}: {listed.incomplete:,} rows have no uri or no image_id; every row needs both"
        )
    twice = rows.groupBy("image_id").count().where("count > 1").orderBy("image_id").limit(5).collect()
    if twice:
        names = ", ".join(repr(row.image_id) for row in twice)
        raise WrongInput(f"--images {location}: image_id must be unique, but these stand more than once: {names}")


def _status_of(base: str, http: HttpSettings, read_seconds: float) -> Any:
    """A function column: uri as written -> absolute uri, size_bytes, modified_ns, etag. The workers ask the stores."""

    @pandas_udf(_STATUS)  # type: ignore[call-overload]
    def status(written: pd.Series) -> pd.DataFrame:
        uris = [_resolved(uri, base) for uri in written]
        with ThreadPoolExecutor(STATUS_THREADS) as pool:
            statuses = list(pool.map(lambda uri: _known_of(uri, http, read_seconds), uris))
        sizes, times, etags = zip(*statuses)
        columns = {
            "size_bytes": pd.array(sizes, dtype="Int64"),
            "modified_ns": pd.array(times, dtype="Int64"),
            "etag": etags,
        }
        return pd.DataFrame({"uri": uris, **columns})

    return status.asNondeterministic()  # otherwise the optimiser may ask again for every column of the result


def _known_of(uri: str, http: HttpSettings, read_seconds: float) -> tuple[int | None, int | None, str | None]:
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


def _resolved(uri: str, base: str) -> str:
    try:
        return uris.absolute(uri, base)
    except ValueError:  # it is no uri: it stays as written, and becomes a failure when it is read
        return uri
