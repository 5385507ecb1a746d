"""In workers of Spark, of whatever job: collections between two tasks do not look at modules again."""

import gc
from collections.abc import Iterator

import pyarrow as pa
from pyspark.sql import SparkSession

from image_similarity import knn


def test_workers_freeze_what_they_imported(spark: SparkSession) -> None:
    def counted(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        assert knn.__doc__  # what imports the library where this runs
        for _ in batches:
            yield pa.RecordBatch.from_pydict({"frozen": [gc.get_freeze_count()]})

    frozen = [
        spark.range(0, 1, 1, 1).mapInArrow(counted, "frozen long").collect()[0]["frozen"] for _ in range(5)
    ]  # of two workers, which may take turns
    assert frozen[-1] > 10_000
