"""Parquet, through Spark or by this process: how this project's tables and workspaces are read and written."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from image_similarity.storage import blobs
from image_similarity.warehouse.schemas import SCHEMAS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

COMPRESSION = "zstd"
_BUFFER_BYTES = 2**24
"""Bytes of a column that are read at once: a store answers to each request after many milliseconds."""
_DENSE = {"embedding": "embedding.list.element", "thumbprint": "thumbprint"}
"""Columns whose values hardly ever repeat, and their paths in a file: a dictionary makes them larger and slower to
read."""


def spark_schema(table: str) -> "StructType":
    """The schema of ``table`` as a Spark schema."""
    from pyspark.sql.pandas.types import from_arrow_schema

    return from_arrow_schema(SCHEMAS[table])


def read_folders(spark: "SparkSession", folders: Sequence[str], schema: Any) -> "DataFrame":
    """Parquet folders as one frame, in ``schema`` (Spark's or Arrow's); no rows for no folders.

    Names are escaped, as Spark's reader takes patterns.
    """
    from pyspark.sql.pandas.types import from_arrow_schema

    if isinstance(schema, pa.Schema):
        schema = from_arrow_schema(schema)
    if not folders:
        return spark.createDataFrame([], schema)
    return spark.read.schema(schema).parquet(*map(escape_glob, folders))


def in_schema(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of ``schema``, in its types, of rows that another version of this project wrote. Columns that it did
    not know are null.
    """
    columns: list[Any] = [
        rows[column.name].cast(column.type) if column.name in rows.column_names else pa.nulls(len(rows), column.type)
        for column in schema
    ]
    return pa.table(columns, schema=schema)


def list_length(footer: pq.FileMetaData, column: str) -> int:
    """The length of the lists in ``column`` of a file with rows, which are of equal length."""
    group = footer.row_group(0)
    columns = (group.column(number) for number in range(group.num_columns))
    values: int = sum(part.num_values for part in columns if part.path_in_schema.partition(".")[0] == column)
    return int(values) // int(group.num_rows)


def streaming() -> dict[str, Any]:
    """Arguments of ``Dataset.to_batches``: of files on this machine or in a store little is in memory at a time.

    Without them pyarrow reads the wanted columns of a whole file ahead.
    """
    import pyarrow.dataset as ds  # it imports pandas, which takes part of a second

    options = ds.ParquetFragmentScanOptions(pre_buffer=False, use_buffered_stream=True, buffer_size=_BUFFER_BYTES)
    return {"batch_readahead": 1, "fragment_readahead": 1, "fragment_scan_options": options}


def write_folder(folder: str, rows: "DataFrame", more: bool = False) -> None:
    """Writes ``rows`` to ``folder``, which must not exist; with ``more``, beside what is there."""
    writer = rows.write.mode("append" if more else "errorifexists")
    writer = writer.option("compression", COMPRESSION)
    for path in _DENSE.values():
        writer = writer.option(f"parquet.enable.dictionary#{path}", "false")
    writer.parquet(folder)


def write_file(uri: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch | pa.Table]) -> int:
    """Writes ``batches`` to the file ``uri``, by this process and one at a time. Returns the number of their rows."""
    with blobs.create(uri) as stream:
        return _write(stream, schema, batches)


def write_whole_file(uri: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch | pa.Table]) -> int:
    """As `write_file`, of what fits into memory: readers see the whole file or none. So several attempts of a task may
    write it, and one that is killed damages nothing.
    """
    stream = pa.BufferOutputStream()
    rows = _write(stream, schema, batches)
    blobs.write(uri, stream.getvalue().to_pybytes(), "application/vnd.apache.parquet")
    return rows


def _write(stream: Any, schema: pa.Schema, batches: Iterable[pa.RecordBatch | pa.Table]) -> int:
    # True where possible: a list would have to name the leaves of nested columns.
    rows, dictionaries = 0, _DENSE.keys().isdisjoint(schema.names) or [n for n in schema.names if n not in _DENSE]
    with pq.ParquetWriter(stream, schema, compression=COMPRESSION, use_dictionary=dictionaries) as writer:
        for batch in batches:
            writer.write(batch)
            rows += len(batch)
    return rows


def escape_glob(path: str) -> str:
    """``path`` with its special characters escaped, because Spark's readers take every path for a pattern."""
    return "".join(f"\\{character}" if character in "*?[]{}\\" else character for character in path)
