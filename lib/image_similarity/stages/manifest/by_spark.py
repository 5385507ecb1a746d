"""The manifest by Spark: for large collections, and for lists of files that are not on this machine."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from image_similarity.reporting import note
from image_similarity.runtime.tasks import by_host
from image_similarity.settings import EmbeddingsSettings, HttpSettings, ManifestSettings
from image_similarity.stages.manifest import images as listing
from image_similarity.stages.manifest import lists
from image_similarity.storage import uris
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.workspace import Workspace

ROWS_PER_STATUS_TASK = 10_000
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
    kind = listing.kind_of(location, read_seconds)
    if kind == "list":
        rows, skipped = _read_list(location, settings, scratch, read_seconds)
    else:
        files, skipped = listing.find(location, settings, read_seconds, is_glob=kind == "glob")
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


def _read_list(
    location: str, settings: ManifestSettings, scratch: Workspace, read_seconds: float
) -> tuple[DataFrame, Counter[str]]:
    """image_id, uri (as written) and attributes of the rows of a list, from a copy in ``scratch``; and skipped rows.

    The driver reads the rows once. Raises ``WrongInput`` for a list that cannot be read, has no rows, has rows without
    uri or image_id, or repeats an image_id.
    """
    table, id_column, uri_column = lists.open_list(location, settings, read_seconds)
    for line in table.notes:
        note(f"{location}: {line}")
    listed = lists.Listed(table, id_column, uri_column, settings.schemes)
    with lists.reading(location):
        rows = scratch.store("list", lists.LISTED, listed.batches())

    def repeated() -> list[str]:
        several = rows.groupBy("image_id").count().where("count > 1").orderBy("image_id").limit(lists.MOST_NAMED)
        return [row.image_id for row in several.collect()]

    lists.check(listed, location, repeated)
    return rows, listed.skipped


def _status_of(base: str, http: HttpSettings, read_seconds: float) -> Any:
    """A function column: uri as written -> absolute uri, size_bytes, modified_ns, etag. The workers ask the stores."""

    @pandas_udf(_STATUS)  # type: ignore[call-overload]
    def status(written: pd.Series) -> pd.DataFrame:
        uris = [lists.resolved(uri, base) for uri in written]
        with ThreadPoolExecutor(lists.STATUS_THREADS) as pool:
            statuses = list(pool.map(lambda uri: lists.status_of(uri, http, read_seconds), uris))
        sizes, times, etags = zip(*statuses)
        columns = {
            "size_bytes": pd.array(sizes, dtype="Int64"),
            "modified_ns": pd.array(times, dtype="Int64"),
            "etag": etags,
        }
        return pd.DataFrame({"uri": uris, **columns})

    return status.asNondeterministic()  # otherwise the optimiser may ask again for every column of the result
