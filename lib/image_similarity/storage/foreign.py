"""Parquet that users bring, in types that Spark knows. pyarrow reads all of Parquet's types, and Spark some."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from image_similarity.storage import blobs

_FORMAT = ds.ParquetFileFormat()


def read(location: str) -> pa.Table:
    """The Parquet file or folder at ``location``, whole, in memory.

    Times in nanoseconds become microseconds; numbers of 16 bits 32 bits; UUIDs, times of a day and durations text.
    Raises ``OSError`` or ``ValueError`` if it cannot be read.
    """
    filesystem, path = blobs.filesystem_of(location)
    table = ds.dataset(path, format=_FORMAT, filesystem=filesystem, partitioning="hive").to_table()
    columns = [_known_to_spark(column) for column in table.columns]
    return pa.table(columns, names=table.column_names)


def _known_to_spark(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        if kind.extension_name == "arrow.uuid":
            return _as_text(column)
        return _known_to_spark(pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type))
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("us", tz=kind.tz), safe=False)
    if pa.types.is_float16(kind):
        return column.cast(pa.float32())
    if pa.types.is_time(kind):
        return column.cast(pa.string())
    if pa.types.is_duration(kind):
        return _as_text(column)
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_float16(kind.value_type):
        return column.cast(pa.list_(pa.float32()))
    return pc.cast(column, kind.value_type) if pa.types.is_dictionary(kind) else column


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """As Python writes the values; pyarrow has no cast for these types."""
    texts = [None if value is None else str(value) for value in column.to_pylist()]
    return pa.chunked_array([pa.array(texts, pa.string())])
