"""Parquet through Spark: how this project's tables and workspaces are read and written."""

from collections.abc import Sequence

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from image_similarity.warehouse.schemas import SCHEMAS


def spark_schema(table: str) -> StructType:
    """The schema of ``table`` as a Spark schema."""
    return from_arrow_schema(SCHEMAS[table])


def read_folders(spark: SparkSession, folders: Sequence[str], schema: StructType | pa.Schema) -> DataFrame:
    """Parquet folders as one frame; no rows for no folders. Names are escaped, as Spark's reader takes patterns."""
    if isinstance(schema, pa.Schema):
        schema = from_arrow_schema(schema)
    if not folders:
        return spark.createDataFrame([], schema)
    return spark.read.schema(schema).parquet(*map(escape_glob, folders))


def write_folder(folder: str, rows: DataFrame) -> None:
    """Writes ``rows`` to ``folder``, which must not exist."""
    writer = rows.write.mode("errorifexists")
    # Dense floats: a dictionary makes them larger and slower to read.
    writer = writer.option("compression", "zstd").option("parquet.enable.dictionary#embedding.list.element", "false")
    writer.parquet(folder)


def escape_glob(path: str) -> str:
    """``path`` with its special characters escaped, because Spark's readers take every path for a pattern."""
    return "".join(f"\\{character}" if character in "*?[]{}\\" else character for character in path)
