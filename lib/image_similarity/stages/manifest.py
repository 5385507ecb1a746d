"""images -> manifest: lists the images, with a version that changes when they change. No image is opened.

The images are a folder, a glob, or a CSV, JSON or Parquet file with a ``uri`` column.
"""

import codecs
import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any

import pandas as pd
import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf
from pyspark.sql.types import ArrayType, BinaryType, DataType, MapType, StructType

from image_similarity.errors import WrongInput, near_files
from image_similarity.reporting import note, printable
from image_similarity.runtime.session import SPARK_ERRORS, cause_of
from image_similarity.runtime.tasks import by_host
from image_similarity.settings import HttpSettings, ManifestSettings
from image_similarity.storage import blobs, foreign, http_client, uris
from image_similarity.storage.blobs import FileStatus
from image_similarity.warehouse.schemas import SCHEMAS

LIST_FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json", ".parquet": "parquet"}
ROWS_PER_STATUS_TASK = 10_000
STATUS_THREADS = 16
_PIECE_BYTES = 1 << 20

_GLOB = re.compile(r"[*?\[]")
_FILES = pa.schema(
    [("image_id", pa.string()), ("uri", pa.string()), ("size_bytes", pa.int64()), ("modified_ns", pa.int64())]
)
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
    sample: int | None = None,
    seed: int = 0,
    http: HttpSettings = HttpSettings(),
) -> Manifest:
    """The manifest of ``images``; with ``sample`` only that many of them, chosen by a hash of image_id and ``seed``.

    For http(s) addresses in a list, their servers are asked for size and version, as ``http`` says. Raises
    ``WrongInput`` if ``images`` does not exist, has no image in it, or is a list that cannot be used.
    """
    location = uris.absolute(images)
    kind = kind_of(location)
    if kind == "list":
        rows, skipped = _read_list(spark, location, settings.uri_column), Counter[str]()
    else:
        files, skipped = _find(location, settings, is_glob=kind == "glob")
        rows = spark.createDataFrame(files).withColumn("etag", F.lit(None).cast("string"))
        rows = rows.withColumn("attributes", F.create_map().cast("map<string,string>"))
    if sample is not None:
        rows = rows.orderBy(F.xxhash64(F.lit(seed), "image_id"), "image_id").limit(sample)
    if kind == "list":
        status = _status_of(uris.parent(location), http)
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


def kind_of(location: str) -> str:
    """``folder``, ``list`` or ``glob``. A path that exists is never taken for a glob.

    Raises ``WrongInput`` if there is nothing at ``location``, or a file of an unknown type.
    """
    suffix = os.path.splitext(location.rstrip("/"))[1].lower()
    try:
        if blobs.exists(location):
            if suffix in LIST_FORMATS:
                return "list"
            if blobs.is_folder(location):
                return "folder"
            formats = ", ".join(LIST_FORMATS)
            raise WrongInput(
                f"--images {location}: a file of unknown type; give a folder, a glob, or a list ({formats})"
            )
    except (OSError, ValueError) as error:
        raise WrongInput(f"--images {location}: {error}") from None
    if _GLOB.search(location):
        return "glob"
    near = near_files(uris.local_path(location)) if uris.is_local(location) else ""
    raise WrongInput(f"--images {location}: no such folder or file{near}")


def _find(location: str, settings: ManifestSettings, is_glob: bool) -> tuple[pa.Table, Counter[str]]:
    """The image files of a folder or glob as a table of `_FILES`, and the counts of skipped files by reason."""
    skipped: Counter[str] = Counter()
    try:
        files = list(_taken(_glob(location) if is_glob else blobs.list_files(location), settings.extensions, skipped))
    except OSError as error:
        raise WrongInput(f"--images {location}: cannot be listed: {error}") from None
    if not files:
        skipped_text = f"; skipped: {describe_skipped(skipped)}" if skipped else ""
        raise WrongInput(
            f"--images {location}: no image found{skipped_text}. Extensions taken: {', '.join(settings.extensions)}"
        )
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


def _read_list(spark: SparkSession, location: str, uri_columns: tuple[str, ...]) -> DataFrame:
    """image_id, uri (as written) and attributes of the rows of a CSV, JSON or Parquet file."""
    try:
        listed = _reader(spark, location)
        listed = listed.toDF(*[name.lstrip("\ufeff") for name in listed.columns])  # some spreadsheets write a BOM
    except SPARK_ERRORS as error:
        raise WrongInput(f"--images {location}: cannot be read: {cause_of(error)}") from None
    uri_column = next((name for name in uri_columns if name in listed.columns), "")
    if not uri_column:
        names, columns = " or ".join(map(repr, uri_columns)), ", ".join(listed.columns)
        raise WrongInput(
            f"--images {location}: no column {names}; its columns are: {columns} (manifest.uri_column names it)"
        )
    if uri_column != "uri":
        listed = listed.drop("uri").withColumnRenamed(uri_column, "uri")
    _check_names(listed.columns, location)
    if "image_id" not in listed.columns:
        listed = listed.withColumn("image_id", F.col("uri"))
    for name in ("image_id", "uri"):
        if isinstance(listed.schema[name].dataType, (ArrayType, MapType, StructType)):
            raise WrongInput(
                f"--images {location}: {name} must be text, and holds lists or records; JSON needs one object for each "
                "image (pandas: orient='records')"
            )
    binary = [name for name in listed.columns if _holds_bytes(listed.schema[name].dataType)]
    if unreadable := [name for name in ("image_id", "uri") if name in binary]:
        raise WrongInput(f"--images {location}: {' and '.join(unreadable)} must be text, and the list has bytes there")
    if binary:
        note(f"{location}: left out are columns of bytes: {', '.join(map(printable, binary))}")
    attributes = [name for name in listed.columns if name not in ("image_id", "uri", *binary)]
    ids = listed.select(F.col("image_id").cast("string"), F.col("uri").cast("string"), _attributes(listed, attributes))
    _check_list(ids, location)
    return ids


def _reader(spark: SparkSession, location: str) -> DataFrame:
    kind = LIST_FORMATS[os.path.splitext(location.rstrip("/"))[1].lower()]
    path = re.sub(r"([*?\[\]{}\\])", r"\\\1", uris.for_spark(location))  # readers take patterns, and this is a literal
    if kind == "csv":
        _check_utf8(location)
        # Left to itself, Spark takes the end of the first line for that of all. So lines that end with CR LF keep a CR.
        read = spark.read.csv(path, header=True, multiLine=True, lineSep="\n", escape='"', mode="FAILFAST")
        cells = [F.col(f"`{name.replace('`', '``')}`") for name in read.columns]
        plain = [F.when(cell != "\r", F.regexp_replace(cell, r"\r$", "")) for cell in cells]  # an empty cell is null
        return read.select(*(cell.alias(name.rstrip("\r")) for cell, name in zip(plain, read.columns)))
    if kind == "json":
        is_array = blobs.read(location, max_bytes=1024).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"["
        return spark.read.json(path, multiLine=is_array, primitivesAsString=True, mode="FAILFAST")
    try:
        return spark.read.parquet(path)
    except SPARK_ERRORS as error:  # of one column, perhaps, whose type Spark does not know
        try:
            return spark.createDataFrame(foreign.read(location))
        except (OSError, ValueError, *SPARK_ERRORS):
            raise error from None


def _check_utf8(location: str) -> None:
    """Raise ``WrongInput`` for a text file in another encoding: Spark would put replacement characters into names."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    filesystem, file = blobs.filesystem_of(location)
    with filesystem.open_input_stream(file, compression=None) as stream:
        try:
            while piece := stream.read(_PIECE_BYTES):
                decoder.decode(piece)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            bad = error.object[error.start : error.start + 1].hex()
            raise WrongInput(
                f"--images {location}: not UTF-8 (the byte 0x{bad}): save it as UTF-8 (iconv -f latin1 -t utf-8)"
            ) from None


def _check_names(names: list[str], location: str) -> None:
    """Raise ``WrongInput`` for a column that would be taken for another one but for its capitals."""
    for expected in ("image_id", "uri"):
        alike = [name for name in names if name != expected and name.strip().lower() == expected]
        if alike:
            raise WrongInput(
                f"--images {location}: is the column {alike[0]!r} meant for {expected}? Write it {expected}"
            )


def _holds_bytes(kind: DataType) -> bool:
    """Whether values of this type are bytes, or have bytes in them: they are no text, and no attribute."""
    if isinstance(kind, ArrayType):
        return _holds_bytes(kind.elementType)
    if isinstance(kind, MapType):
        return _holds_bytes(kind.keyType) or _holds_bytes(kind.valueType)
    if isinstance(kind, StructType):
        return any(_holds_bytes(part.dataType) for part in kind.fields)
    return isinstance(kind, BinaryType)


def _attributes(listed: DataFrame, names: list[str]) -> Column:
    """The columns ``names`` as a map of strings. Lists and records become JSON; nulls are left out."""
    if not names:
        return F.create_map().cast("map<string,string>").alias("attributes")
    quoted = {name: F.col("`" + name.replace("`", "``") + "`") for name in names}
    nested = {name for name in names if isinstance(listed.schema[name].dataType, (ArrayType, MapType, StructType))}
    values = [F.to_json(quoted[name]) if name in nested else quoted[name].cast("string") for name in names]
    pairs = F.map_from_arrays(F.array(*[F.lit(name) for name in names]), F.array(*values))
    return F.map_filter(pairs, lambda _, value: value.isNotNull()).alias("attributes")


def _check_list(ids: DataFrame, location: str) -> None:
    """Raises ``WrongInput`` for a list without rows, with empty cells, or with repeated ids."""
    try:
        empty = F.count_if(
            F.col("uri").isNull() | (F.col("uri") == "") | F.col("image_id").isNull() | (F.col("image_id") == "")
        )
        counted = ids.agg(F.count("*").alias("rows"), empty.alias("empty")).collect()[0]
        twice = ids.groupBy("image_id").count().where("count > 1").orderBy("image_id").limit(5).collect()
    except SPARK_ERRORS as error:
        raise WrongInput(f"--images {location}: cannot be read: {cause_of(error)}") from None
    if counted["rows"] == 0:
        raise WrongInput(f"--images {location}: the list has no rows")
    if counted["empty"]:
        raise WrongInput(
            f"--images {location}: {counted['empty']:,} rows have no uri or no image_id; every row needs both"
        )
    if twice:
        names = ", ".join(repr(row.image_id) for row in twice)
        raise WrongInput(f"--images {location}: image_id must be unique, but these stand more than once: {names}")


def _status_of(base: str, http: HttpSettings) -> Any:
    """A function column: uri as written -> absolute uri, size_bytes, modified_ns, etag. The workers ask the stores."""

    @pandas_udf(_STATUS)  # type: ignore[call-overload]
    def status(written: pd.Series) -> pd.DataFrame:
        uris = [_resolved(uri, base) for uri in written]
        with ThreadPoolExecutor(STATUS_THREADS) as pool:
            statuses = list(pool.map(lambda uri: _known_of(uri, http), uris))
        sizes, times, etags = zip(*statuses)
        columns = {
            "size_bytes": pd.array(sizes, dtype="Int64"),
            "modified_ns": pd.array(times, dtype="Int64"),
            "etag": etags,
        }
        return pd.DataFrame({"uri": uris, **columns})

    return status.asNondeterministic()  # otherwise the optimiser may ask again for every column of the result


def _known_of(uri: str, http: HttpSettings) -> tuple[int | None, int | None, str | None]:
    """Size in bytes, time of the last change in nanoseconds, and ETag of the file at ``uri``; each None if unknown."""
    if uris.scheme_of(uri) not in http_client.SCHEMES:
        file = blobs.status(uri)
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
