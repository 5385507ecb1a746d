"""A catalogue of addresses -> files in storage, each fetched once, and the outcome of each address.

All addresses of a host belong to one Spark task, which has ``http.connections_per_host`` threads. So no host gets more
requests at a time, however many tasks there are. As many hosts are asked in parallel as there are cores. A file appears
in the folder only when it is complete. A run begins with the files in the folder, so it does not fetch again what an
earlier run fetched, even if that run was killed.
"""

import hashlib
import io
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import TaskContext
from pyspark.sql import Column, DataFrame, Row, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from image_similarity.errors import JobFailed, Unreadable, counted
from image_similarity.imaging import decoding
from image_similarity.runtime.progress import progress
from image_similarity.runtime.tasks import by_host
from image_similarity.settings import HttpSettings
from image_similarity.storage import blobs, fetch, http_client, timeouts, uris
from image_similarity.storage.blobs import FileStatus
from image_similarity.storage.budget import ByteBudget
from image_similarity.storage.http_client import Answer
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.workspace import Workspace

FAILURE_REASONS = {
    **fetch.FETCH_REASONS,
    "empty": decoding.UNREADABLE_REASONS["empty"],
    "not_an_image": decoding.UNREADABLE_REASONS["not_an_image"],
}
"""Every ``reason`` that this stage writes into ``failures``."""

TRANSIENT_REASONS = ("timeout", "rate_limited", "server_error", "incomplete", "io_error")
"""Transient failures: the next run retries them without being asked to. All others are permanent."""

FETCHED, UNCHANGED, PRESENT = "fetched", "unchanged", "present"

FETCH, RECHECK, KEEP, SKIP = "fetch", "recheck", "keep", "skip"
"""The action for an address: fetch it, ask whether its file has changed, leave its file, or leave it failed."""

LIST_NAME = "images.parquet"

FILE_TYPES = {
    "JPEG": ("jpg", "image/jpeg"),
    "PNG": ("png", "image/png"),
    "WEBP": ("webp", "image/webp"),
    "GIF": ("gif", "image/gif"),
    "BMP": ("bmp", "image/bmp"),
    "TIFF": ("tif", "image/tiff"),
    "JPEG2000": ("jp2", "image/jp2"),
    "AVIF": ("avif", "image/avif"),
    "PPM": ("ppm", "image/x-portable-anymap"),
    "TGA": ("tga", "image/x-tga"),
    "ICO": ("ico", "image/x-icon"),
    "MPO": ("jpg", "image/jpeg"),
}
"""Pillow's name of a format -> the extension of its files, and the content type that stores are given."""

_VERSION = ("content_sha256", "etag", "last_modified")
_SECONDS_BETWEEN_TALLIES = 2.0
_PIECE = 1 << 20
_RESULT = (
    "outcome string, uri string, size_bytes long, content_sha256 string, etag string, last_modified string, "
    "reason string, detail string"
)
_RESULT_NAMES = [column.split()[0] for column in _RESULT.split(", ")]


@dataclass(frozen=True)
class Inputs:
    catalogue: DataFrame
    """image_id, address, name, attributes, with the types of `catalogue.SCHEMA`."""
    previous: DataFrame
    """The published rows of ``downloads`` of this catalogue; may be empty."""
    failures: DataFrame
    """The published rows of ``failures`` of this catalogue; may be empty."""


@dataclass(frozen=True)
class Options:
    folder: str
    """The folder of the files: an absolute path, or a URI."""
    recheck: bool
    retried: tuple[str, ...]
    """The reasons of permanent failures that are retried."""
    http: HttpSettings
    max_bytes: int
    fetch_bytes: int
    """Bytes of files that the threads of a task hold at once."""
    read_seconds: float


@dataclass(frozen=True)
class Outputs:
    """Frames in the schemas of the tables, and counts."""

    downloads: DataFrame
    failures: DataFrame
    outcomes: dict[str, int]
    fetched_bytes: int
    not_rechecked: dict[str, int]
    """reason -> files that were kept because their server could not be asked."""


def plan(spark: SparkSession, inputs: Inputs, options: Options) -> DataFrame:
    """The catalogue with everything known of each address (``file``, ``size_bytes``, ``known_*``) and its ``action``.

    An address without a file is fetched, unless its failure is permanent. An address with a file is left alone; with
    ``recheck`` its server is asked whether the file has changed. If the address of an image has changed since the last
    run, its file is fetched again. A file that a run published for one image is that image's, whatever its name: names
    had shorter hashes once.
    """
    of_file = F.count("*").over(Window.partitionBy("uri"))
    previous = inputs.previous.select(
        "image_id",
        F.col("address").alias("known_address"),
        F.when(of_file == 1, F.col("uri")).alias("known_file"),
        *(F.col(name).alias(f"known_{name}") for name in _VERSION),
    )
    failed = inputs.failures.select("image_id", F.col("uri").alias("address"), "reason", "detail")
    joined = inputs.catalogue.join(previous, "image_id", "left").join(failed, ["image_id", "address"], "left")
    joined = _with_files(joined, _present(spark, options.folder))
    retried = F.col("reason").isin(list(options.retried))
    permanent = F.col("reason").isNotNull() & ~F.col("reason").isin(list(TRANSIENT_REASONS))
    same_address = F.coalesce(F.col("known_address") == F.col("address"), F.lit(True))
    action = (
        F.when(permanent & ~retried, SKIP)
        .when(F.col("file").isNull() | ~same_address, FETCH)
        .when(permanent | F.lit(options.recheck), RECHECK)
        .otherwise(KEEP)
    )
    # If the file is lost, the request must name no version: the server would answer that nothing has changed.
    is_current = same_address & F.col("file").isNotNull()
    known = [F.when(is_current, F.col(f"known_{name}")).alias(f"known_{name}") for name in _VERSION]
    return joined.select(
        *inputs.catalogue.columns, "file", "size_bytes", *known, "reason", "detail", action.alias("action")
    )


def _with_files(planned: DataFrame, present: DataFrame) -> DataFrame:
    """``planned`` with file and size_bytes: the known file if it is there, else the one with the image's name."""
    known = present.select(F.col("file").alias("known_file"), F.col("size_bytes").alias("known_size"))
    joined = planned.join(present, "name", "left").join(known, "known_file", "left")
    is_known = F.col("known_size").isNotNull()
    return joined.withColumns(
        {
            "file": F.when(is_known, F.col("known_file")).otherwise(F.col("file")),
            "size_bytes": F.coalesce("known_size", "size_bytes"),
        }
    )


def foreign_file(planned: DataFrame, others: DataFrame) -> Row | None:
    """A file that ``planned`` takes for an image's, and that is another catalogue's: file and other_address.

    ``others``: the published rows of ``downloads`` of other catalogues. A catalogue that was renamed has the same
    addresses.
    """
    claimed = others.select(F.col("uri").alias("file"), F.col("address").alias("other_address"))
    found = planned.where(F.col("file").isNotNull()).join(claimed, "file")
    return found.where(F.col("address") != F.col("other_address")).select("file", "other_address").first()


def _present(spark: SparkSession, folder: str) -> DataFrame:
    """The pictures in ``folder``: name, file (its uri), size_bytes."""
    schema = pa.schema([("name", pa.string()), ("file", pa.string()), ("size_bytes", pa.int64())])
    rows = [{"name": name, "file": file.uri, "size_bytes": file.size_bytes} for name, file in _pictures(folder).items()]
    return spark.createDataFrame(pa.Table.from_pylist(rows, schema=schema))


def _pictures(folder: str) -> dict[str, FileStatus]:
    """The pictures in ``folder`` by their names without extension. Empty if there is no such folder.

    An empty file is no picture: a disk was full when it was written, say.
    """
    if not blobs.exists(folder):
        return {}
    extensions = {extension for extension, _ in FILE_TYPES.values()}
    split = ((os.path.splitext(file.path), file) for file in blobs.list_files(folder))
    return {name: file for (name, extension), file in split if extension[1:] in extensions and file.size_bytes}


def run(spark: SparkSession, planned: DataFrame, options: Options, scratch: Workspace) -> Outputs:
    """Carries out the plan ``planned``. Fetching runs once, into ``scratch``; the tables are split from the results.

    Raises ``JobFailed`` unless every address has exactly one outcome: a file or a failure.
    """
    planned = scratch.write("planned", planned)
    pending = planned.where(F.col("action").isin(FETCH, RECHECK))
    hosts = pending.select(F.regexp_extract("address", "//([^/]*)", 1)).distinct().count()
    tasks = max(1, min(hosts, 8 * spark.sparkContext.defaultParallelism))
    count = pending.count()
    tally = scratch.location("tally")
    fetched = (
        by_host(pending, "address", tasks).withColumn("result", _fetch(options, tally)).select("image_id", "result.*")
    )
    with progress(spark, "download", count, "files", tasks, share=partial(_tallied_share, tally, count)):
        fetched = scratch.write("results", fetched)
    return _split(_outcomes(planned, fetched), planned.count())


def _outcomes(planned: DataFrame, fetched: DataFrame) -> DataFrame:
    """image_id, address, attributes and the columns of `_RESULT` for every address. Failures have a null outcome."""
    results = fetched.select("image_id", F.struct(*_RESULT_NAMES).alias("result"))
    unfetched = F.struct(
        F.when(F.col("action") == KEEP, PRESENT).alias("outcome"),
        F.col("file").alias("uri"),
        "size_bytes",
        *(F.col(f"known_{name}").alias(name) for name in _VERSION),
        F.when(F.col("action") == SKIP, F.col("reason")).alias("reason"),
        F.when(F.col("action") == SKIP, F.col("detail")).alias("detail"),
    )
    joined = planned.join(results, "image_id", "left").withColumn("outcome_row", F.coalesce("result", unfetched))
    # An answer without content (unchanged) has neither size nor sha256: the known ones hold.
    size = F.coalesce("outcome_row.size_bytes", "size_bytes").alias("size_bytes")
    sha256 = F.coalesce("outcome_row.content_sha256", "known_content_sha256").alias("content_sha256")
    details = [f"outcome_row.{name}" for name in _RESULT_NAMES if name not in ("size_bytes", "content_sha256")]
    return joined.select("image_id", "address", "attributes", size, sha256, *details)


def _split(outcomes: DataFrame, addresses: int) -> Outputs:
    downloads = outcomes.where(F.col("outcome").isNotNull())
    failures = outcomes.where(F.col("outcome").isNull()).withColumn("fingerprint", F.lit(None).cast("string"))
    failures = failures.withColumn("uri", F.col("address")).withColumn("source_version", F.lit(None).cast("string"))
    tallies = (
        downloads.groupBy("outcome", "reason")
        .agg(F.count("*").alias("files"), F.sum("size_bytes").alias("bytes"))
        .collect()
    )
    files, failed = sum(row.files for row in tallies), failures.where(F.col("reason").isNotNull()).count()
    if files + failed != addresses:
        raise JobFailed(
            f"{counted(addresses, 'address')}, {counted(files, 'file')}, {counted(failed, 'failure')}: nothing was "
            "published; run it again"
        )
    return Outputs(
        downloads=downloads.select(*SCHEMAS["downloads"].names),
        failures=failures.select(*SCHEMAS["failures"].names),
        outcomes={
            name: sum(row.files for row in tallies if row.outcome == name) for name in (FETCHED, UNCHANGED, PRESENT)
        },
        fetched_bytes=sum(row.bytes for row in tallies if row.outcome == FETCHED),
        not_rechecked={row.reason: row.files for row in tallies if row.reason is not None},
    )


def list_of(downloads: pa.Table) -> bytes:
    """The list for `build_manifest` of rows of ``downloads``: a Parquet file to be stored beside the images.

    Its columns are image_id, uri (the file's name), address, and every attribute. Spark does not distinguish upper and
    lower case, so an attribute whose name equals another column's but for case gets a ``_`` at its end.
    """
    rows = downloads.sort_by("image_id").to_pylist()
    columns: dict[str, list[Any]] = {
        "image_id": [row["image_id"] for row in rows],
        "uri": [row["uri"].rpartition("/")[2] for row in rows],
        "address": [row["address"] for row in rows],
    }
    attributes = [dict(row["attributes"] or ()) for row in rows]
    lowered = set(columns)
    for name in dict.fromkeys(name for own in attributes for name in own):
        column = name
        while column.lower() in lowered:
            column += "_"
        lowered.add(column.lower())
        columns[column] = [own.get(name) for own in attributes]
    content = io.BytesIO()
    pq.write_table(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), content)
    return content.getvalue()


def _tallied_share(tally: str, units: int) -> float:
    """The finished share of ``units``, from the files that tasks have written below ``tally`` so far."""
    try:
        counts = [int(blobs.read(file.uri)) for file in blobs.list_files(tally) if not file.path.endswith(".tmp")]
    except (OSError, ValueError):  # no task has begun
        return 0.0
    return min(1.0, sum(counts) / max(1, units))


# -- in the workers ----------------------------------------------------------------------------------------------------


def _fetch(options: Options, tally: str) -> Column:
    """A column of `_RESULT`: an Iterator pandas UDF whose threads fetch and store files."""

    @pandas_udf(_RESULT)  # type: ignore[call-overload]
    def results(batches: Iterator[tuple[pd.Series, ...]]) -> Iterator[pd.DataFrame]:
        context = TaskContext.get()
        assert context is not None
        # A retried task starts with the files that its first attempt fetched.
        fetcher = _Fetcher(options, _pictures(options.folder) if context.attemptNumber() else {})
        done = _Tally(f"{tally}/{context.partitionId()}")
        with decoding.quiet_decoders(), ThreadPoolExecutor(options.http.connections_per_host, "download") as pool:
            for batch in batches:
                rows = list(pool.map(lambda row: done.counted(fetcher.result(*row)), zip(*batch)))
                yield pd.DataFrame(rows, columns=_RESULT_NAMES).astype({"size_bytes": "Int64"})

    # Without this the optimiser may fetch everything again for every column that is computed from the result.
    column: Column = results.asNondeterministic()(
        "address", "name", "action", "file", "known_etag", "known_last_modified"
    )
    return column


class _Tally:
    """Reports progress to the driver through a file, every few seconds: the task of one host may run for hours."""

    def __init__(self, uri: str):
        self._uri, self._done, self._written = uri, 0, time.monotonic()

    def counted(self, result: dict[str, Any]) -> dict[str, Any]:
        self._done += 1
        if time.monotonic() - self._written >= _SECONDS_BETWEEN_TALLIES:
            self._written = time.monotonic()
            blobs.write(self._uri, str(self._done).encode(), "text/plain")
        return result


class _Fetcher:
    """Addresses -> files and rows of `_RESULT`. Several threads use it."""

    def __init__(self, options: Options, present: dict[str, FileStatus]):
        self._options, self._present = options, present
        self._budget = ByteBudget(options.fetch_bytes, options.http.connections_per_host)
        # Only the first bytes of pictures are read here, so their claimed size does not matter.
        decoding.prepare_process(sys.maxsize)

    def result(
        self, address: str, name: str, action: str, file: str | None, etag: str | None, last_modified: str | None
    ) -> dict[str, Any]:
        try:
            if file is None and name in self._present:
                file = self._present[name].uri
                return _row(outcome=FETCHED, uri=file, **self._facts_of(file))

            def asked(size: int) -> Answer:
                return http_client.get(address, size, self._options.http, etag, last_modified)

            with self._budget.reading(asked, self._options.max_bytes) as answer:
                if answer.content is not None:
                    return self._stored(answer, answer.content, name, action, file)
            version = answer.etag or etag, answer.last_modified or last_modified
            return _row(outcome=UNCHANGED, uri=file, etag=version[0], last_modified=version[1])
        except Unreadable as error:
            return self._refused(error, action, file, etag, last_modified)

    def _stored(self, answer: Answer, content: bytes, name: str, action: str, file: str | None) -> dict[str, Any]:
        extension, content_type = _file_type(content)
        facts = _facts(io.BytesIO(content))
        versions = {"etag": answer.etag, "last_modified": answer.last_modified}
        if action == RECHECK and file is not None and self._facts_of(file) == facts:
            return _row(outcome=UNCHANGED, uri=file, **facts, **versions)
        uri = uris.join(self._options.folder, f"{name}.{extension}")
        blobs.write(uri, content, content_type)
        if file is not None and file != uri:
            blobs.delete(file)
        return _row(outcome=FETCHED, uri=uri, **facts, **versions)

    def _facts_of(self, file: str) -> dict[str, Any]:
        def read() -> dict[str, Any]:
            with blobs.open_stream(file) as stream:
                return _facts(stream)

        try:
            return timeouts.one_of_many(self._options.read_seconds, read)
        except OSError as error:
            reason = "timeout" if isinstance(error, TimeoutError) else "io_error"
            raise Unreadable(reason, f"{file}: {error}") from None

    def _refused(
        self, error: Unreadable, action: str, file: str | None, etag: str | None, last_modified: str | None
    ) -> dict[str, Any]:
        failure = {"reason": error.reason, "detail": error.detail}
        if action == RECHECK and error.reason in TRANSIENT_REASONS:  # the file may well be unchanged
            return _row(outcome=PRESENT, uri=file, etag=etag, last_modified=last_modified, **failure)
        if action == FETCH and file is not None:
            blobs.delete(file)  # it belongs to another address: the next run must not take it for this one's
        return _row(**failure)


def _row(**values: Any) -> dict[str, Any]:
    return {**dict.fromkeys(_RESULT_NAMES), **values}


def _facts(stream: Any) -> dict[str, Any]:
    """Size and sha256 of what is left of a binary file. A piece of it is in memory at a time."""
    size, digest = 0, hashlib.sha256()
    while piece := stream.read(_PIECE):
        size += len(piece)
        digest.update(piece)
    return {"size_bytes": size, "content_sha256": digest.hexdigest()}


def _file_type(content: bytes) -> tuple[str, str]:
    """The entry of `FILE_TYPES` for ``content``, by its first bytes. Raises `Unreadable` if no known format fits.

    Nothing is decoded, and the server's content type is ignored.
    """
    if not content:
        raise Unreadable("empty", "0 bytes")
    try:
        return FILE_TYPES[decoding.format_of(content)]
    except Exception:  # Pillow raises errors of nearly any class
        raise Unreadable("not_an_image", f"it begins with {content[:40]!r}") from None
