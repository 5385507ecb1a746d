"""Folders of many files in 256 shelves, named by the first two digits of the files' names: ``ab/abcd-small.webp``.

A file's name ends at the first ``-`` or ``.``. What nobody shows any more is removed shelf by shelf.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from image_similarity.storage import blobs

_SHELVES = [f"{number:02x}" for number in range(256)]
_SWEEPERS = 8
_NAME_ENDS = re.compile("[-.]")


def remove_others_here(folder: str, shown: Iterable[str]) -> int:
    """Removes the files below ``folder`` whose name is not ``shown``, and returns the number of these names."""
    by_shelf: dict[str, set[str]] = {}
    for name in shown:
        by_shelf.setdefault(name[:2], set()).add(name)
    with ThreadPoolExecutor(_SWEEPERS, "shelves") as pool:
        return sum(pool.map(lambda shelf: _sweep(f"{folder}/{shelf}", by_shelf.get(shelf, set())), _SHELVES))


def remove_others(spark: SparkSession, folder: str, shown: DataFrame) -> int:
    """As `remove_others_here`, by Spark. ``shown``: one column, of names."""
    by_shelf = shown.toDF("name").distinct().groupBy(F.substring("name", 1, 2).alias("shelf"))
    shelves = spark.createDataFrame([(shelf,) for shelf in _SHELVES], "shelf string")
    rows = shelves.join(by_shelf.agg(F.collect_list("name").alias("names")), "shelf", "left").select("shelf", "names")
    rows = rows.repartition(spark.sparkContext.defaultParallelism)  # else Spark may give all of them to one task
    removed = rows.mapInArrow(_sweeper(folder), "removed long").agg(F.sum("removed")).collect()[0][0]
    return int(removed)


def _sweeper(folder: str) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def swept(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        removed = 0
        for batch in batches:
            for row in batch.to_pylist():
                removed += _sweep(f"{folder}/{row['shelf']}", set(row["names"] or ()))
        yield pa.RecordBatch.from_pydict({"removed": [removed]})

    return swept


def _sweep(shelf: str, used: set[str]) -> int:
    """Deletes the files in the folder ``shelf`` whose name is not in ``used``, and half-written ones.

    Returns the number of unused names.
    """
    if not blobs.exists(shelf):
        return 0
    files = [(_NAME_ENDS.split(file.path, maxsplit=1)[0], file) for file in blobs.list_files(shelf)]
    for name, file in files:
        if name not in used or file.path.endswith(".tmp"):
            blobs.delete(file.uri)
    return len({name for name, _ in files} - used)
