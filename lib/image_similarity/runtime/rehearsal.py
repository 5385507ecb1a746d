"""A Spark session that does in small what jobs do: its JVM loads the classes they need, and archives them at its end.

Called by ``class_archive``: ``python -m image_similarity.runtime.rehearsal ARCHIVE``.
"""

import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyspark.sql import DataFrame, Observation, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from image_similarity.runtime import class_archive

SETTINGS = {
    "spark.master": "local[2,3]",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "4",
    "spark.sql.session.timeZone": "UTC",
}


def rehearse(archive: Path) -> None:
    """Write ``archive``. The JVM does so when it ends by itself, not when it is killed."""
    builder = SparkSession.builder.appName("rehearsal")
    options = [*class_archive.COMPILER, "-cp", class_archive.class_path(), f"-XX:ArchiveClassesAtExit={archive}"]
    for key, value in {**SETTINGS, class_archive.DEFAULT_OPTIONS: class_archive.quoted(options)}.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    with tempfile.TemporaryDirectory() as folder:
        images = _read_and_write(session, folder)
        _python(images, folder)
        _queries(images)
    jvm = session.sparkContext._gateway.proc  # type: ignore[union-attr]
    session.stop()
    jvm.stdin.close()  # Spark ends the JVM when Python is gone
    jvm.wait()


def _read_and_write(session: SparkSession, folder: str) -> DataFrame:
    """All ways in which tables come in and go out."""
    rows = [(f"image-{number}", number % 7, float(number)) for number in range(200)]
    session.createDataFrame(rows, "image_id string, label int, size double").write.json(f"{folder}/json")
    session.read.json(f"{folder}/json", multiLine=False, primitivesAsString=True, mode="FAILFAST").count()
    vectors = pa.array([[float(number), 1.0] for number in range(200)], pa.list_(pa.float32()))
    columns = {"image_id": [row[0] for row in rows], "label": [row[1] for row in rows], "embedding": vectors}
    session.createDataFrame(pa.table(columns)).write.option("compression", "zstd").parquet(f"{folder}/images")
    images = session.read.parquet(f"{folder}/images")
    images.select("image_id", "label").write.csv(f"{folder}/csv", header=True)
    session.read.csv(f"{folder}/csv", header=True, multiLine=True, escape='"', mode="FAILFAST").count()
    images.select("image_id").toPandas()
    images.toArrow()
    return session.read.schema(images.schema).parquet(f"{folder}/images")


def _python(images: DataFrame, folder: str) -> None:
    """Rows on their way through Python workers."""

    @pandas_udf("string")  # type: ignore[call-overload]
    def upper(ids: pd.Series) -> pd.Series:
        return ids.str.upper()

    def same(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from batches

    def merged(table: pa.Table) -> pa.Table:
        return table.slice(0, 1)

    def met(left: pa.Table, right: pa.Table) -> pa.Table:
        return left.slice(0, 1)

    counted = Observation()
    named = (
        images.repartition(3).withColumn("name", upper("image_id")).observe(counted, F.count(F.lit(1)).alias("rows"))
    )
    named.write.option("compression", "zstd").parquet(f"{folder}/named")
    assert counted.get["rows"] == 200
    images.mapInArrow(same, images.schema).repartitionByRange(2, F.desc("label"), "image_id").count()
    groups = images.repartition(2, "label").groupBy("label")
    groups.applyInArrow(merged, images.schema).collect()
    groups.cogroup(images.groupBy("label")).applyInArrow(met, images.schema).collect()
    images.sparkSession.range(0, 4, 1, 4).mapInArrow(same, "id long").toArrow()


def _queries(images: DataFrame) -> None:
    """Joins, sorts, windows, aggregates."""
    session = images.sparkSession
    sizes = images.groupBy("label").agg(F.count("*").alias("images"), F.count_distinct("image_id").alias("ids"))
    joined = images.join(F.broadcast(sizes), "label").join(
        images.select("image_id", "label").hint("merge"), "image_id", "left"
    )
    place = F.row_number().over(Window.partitionBy("images").orderBy(F.xxhash64("image_id")))
    kept = (
        joined.select("image_id", "images", place.alias("place"))
        .where("place <= 3")
        .orderBy(F.desc("images"), "image_id")
    )
    kept.cache().count()
    lists = kept.groupBy("images").agg(F.sort_array(F.collect_list(F.struct("place", "image_id"))).alias("items"))
    lists.select("images", F.explode(F.transform("items", lambda item: item["image_id"])).alias("image_id")).collect()
    named = kept.select("image_id", F.regexp_extract("image_id", r"(\d+)", 1).alias("number"), F.sha2("image_id", 256))
    named.unionByName(named).dropDuplicates(["image_id"]).orderBy("number").limit(5).collect()
    ordered = images.select("image_id", F.monotonically_increasing_id().alias("place"), F.current_timestamp()).orderBy(
        "image_id"
    )
    ordered.join(session.createDataFrame([("image-1",)], "image_id string"), "image_id", "left_anti").toPandas()
    kept.unpersist()


if __name__ == "__main__":
    rehearse(Path(sys.argv[1]))
