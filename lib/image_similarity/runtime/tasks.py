"""How work is cut into Spark tasks, and how files reach them."""

import itertools
import os
from pathlib import Path

from pyspark import SparkFiles
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from image_similarity.runtime.session import is_local_mode
from image_similarity.warehouse.workspace import Workspace

_BITS_FOR_ROWS = 33  # of monotonically_increasing_id: the number of the partition stands above


def task_count(spark: SparkSession, units: int, least: int, most: int) -> int:
    """Tasks of equal length for ``units`` of work, ``least`` to ``most`` in each, if it can be.

    Enough of them to show progress and to end together, few enough not to pay for starting them; a multiple of the
    cores."""
    cores = spark.sparkContext.defaultParallelism
    wanted = max(units / most, min(units / least, 4 * cores))
    return max(1, -(-round(wanted) // cores) * cores)


def by_host(rows: DataFrame, address: str, partitions: int) -> DataFrame:
    """``rows`` in ``partitions`` such that all http(s) addresses of one host are in the same; the others are spread
    evenly.

    A host is then asked by one task at a time, however many there are: what bounds the task bounds the job.
    """
    host = F.lower(F.regexp_extract(address, r"(?i)^https?://(?:[^/?#]*@)?([^/?#]*)", 1))
    spread = F.xxhash64(address).cast("string")
    return rows.repartition(partitions, F.when(host != "", host).otherwise(spread))


def numbered(rows: DataFrame, order: list[str], number: str, scratch: Workspace) -> DataFrame:
    """``rows`` with their place in the order of the columns ``order``, from 0, in a column ``number``.

    A sort, then a count of each partition: no partition holds everything. Materialises the sorted rows in ``scratch``.
    """
    ordered = rows.orderBy(*order).withColumn("_place", F.monotonically_increasing_id())
    ordered = scratch.write(f"ordered-{number}", ordered)
    partition = F.shiftright("_place", _BITS_FOR_ROWS).cast("int")
    counts = ordered.groupBy(partition.alias("_partition")).count().orderBy("_partition").collect()
    ends = itertools.accumulate(row["count"] for row in counts)
    offsets = [
        (row["_partition"], end - row["count"] - (row["_partition"] << _BITS_FOR_ROWS))
        for row, end in zip(counts, ends)
    ]
    table = F.broadcast(rows.sparkSession.createDataFrame(offsets, "_partition int, _offset long"))
    joined = ordered.withColumn("_partition", partition).join(table, "_partition")
    return joined.select(*rows.columns, (F.col("_place") + F.col("_offset")).alias(number))


def ship(spark: SparkSession, file: Path) -> str:
    """Make a driver's file available to all workers; `shipped` finds it there under the returned name."""
    if not is_local_mode(spark):  # on one machine workers open the file itself: weights may be large
        spark.sparkContext.addFile(str(file))
    return str(file)


def shipped(name: str) -> str:
    """In a worker: the path of the file that the driver shipped as ``name``."""
    return name if os.path.exists(name) else SparkFiles.get(os.path.basename(name))
