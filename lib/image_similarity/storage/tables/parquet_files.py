"""Parquet: columns of all of Arrow's types, as text."""

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from image_similarity.storage import blobs
from image_similarity.storage.tables import text
from image_similarity.storage.tables.json_files import compact
from image_similarity.storage.tables.table import Header, Table, batch_rows

_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)


def open_file(uri: str) -> Table:
    schema = schema_of(uri)
    binary = tuple(item.name for item in schema if holds_bytes(item.type))
    nested = frozenset(item.name for item in schema if pa.types.is_nested(plain_type(item.type)))
    header = Header([name for name in schema.names if name not in binary])
    return Table(header.names, binary, nested, header.notes, partial(_batches, uri, header.names))


def schema_of(uri: str) -> pa.Schema:
    """The schema of the Parquet file at ``uri``. Raises ``OSError`` or ``ValueError``."""
    with blobs.open_input_file(uri) as file:
        return pq.ParquetFile(file).schema_arrow


def _batches(uri: str, own: list[str], names: Collection[str]) -> Iterator[pa.RecordBatch]:
    wanted = [name for name in own if name in names]
    with blobs.open_input_file(uri) as file:
        header: Header | None = None
        for batch in pq.ParquetFile(file).iter_batches(batch_rows(len(wanted)), columns=wanted):
            header = header or Header(batch.schema.names)
            yield header.batch(partial(_column, batch), names, batch.num_rows)


def _column(batch: pa.RecordBatch, place: int) -> pa.Array:
    return as_text(batch.column(place))


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values: of a dictionary, or of what an extension stores."""
    while isinstance(kind, pa.BaseExtensionType) or pa.types.is_dictionary(kind):
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind.storage_type
    return kind


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether values of this type are bytes, or have bytes in them: they are no text. A UUID is."""
    if isinstance(kind, pa.UuidType):
        return False
    kind = plain_type(kind)
    if pa.types.is_nested(kind):
        return any(holds_bytes(kind.field(number).type) for number in range(kind.num_fields))
    return any(is_kind(kind) for is_kind in _BYTES)


def as_text(column: pa.Array) -> pa.Array:
    """A column of any type but bytes as strings; empty text, lists and records become null."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _by_python(column, str) if isinstance(kind, pa.UuidType) else as_text(column.storage)
    if pa.types.is_dictionary(kind):
        return as_text(column.dictionary_decode())
    if pa.types.is_nested(kind):
        return _by_python(column, partial(compact, kind=kind))
    if pa.types.is_floating(kind):
        return _floats(column)
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind):
        return _times(column)
    if pa.types.is_decimal(kind):
        return _by_python(column, "{:f}".format)
    if pa.types.is_duration(kind):
        return _by_python(column.cast(pa.duration("us"), safe=False), str)
    try:
        return text.without_empty(column.cast(pa.string()))
    except pa.ArrowNotImplementedError:
        return _by_python(column, str)


def _floats(column: pa.Array) -> pa.Array:
    """With a point in all that have no exponent: Arrow writes 17.0 like an integer."""
    wide = column.cast(pa.float32()) if pa.types.is_float16(column.type) else column
    return pc.replace_substring_regex(wide.cast(pa.string()), r"^(-?\d+)$", r"\1.0")


def _times(column: pa.Array) -> pa.Array:
    """Points in time by UTC."""
    naive = column.cast(pa.timestamp(column.type.unit)) if pa.types.is_timestamp(column.type) else column
    shorter = pc.replace_substring_regex(naive.cast(pa.string()), r"(\.\d*?)0+$", r"\1")
    return pc.replace_substring_regex(shorter, r"\.$", "")


def _by_python(column: pa.Array, text_of: Callable[[Any], str | None]) -> pa.Array:
    return text.cells([None if value is None else text_of(value) for value in column.to_pylist()])
