"""The user's own vectors: Parquet with the columns image_id and embedding. No other column is read.

Spark reads them where it can. Files that it takes for hidden or whose names it refuses, and types that it does not
know (half floats, UUIDs), are read by pyarrow in Spark's workers. Where no Spark is needed, pyarrow reads all of them.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from image_similarity.errors import WrongInput, counted, near_files, what_is
from image_similarity.reporting import note
from image_similarity.storage import blobs, tables, timeouts, uris
from image_similarity.storage.tables import Part, parquet_files
from image_similarity.warehouse.parquet import escape_glob

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ID, VECTOR = "image_id", "embedding"

_FOOTER_THREADS = 16
_BATCH_ROWS = 1024
_MOST_TASKS = 4096
_TYPES = {ID: pa.string(), VECTOR: pa.list_(pa.float32())}
_INTEGERS = {pa.int8(): "tinyint", pa.int16(): "smallint", pa.int32(): "int", pa.int64(): "bigint"}
_IDS = {**_INTEGERS, pa.string(): "string", pa.large_string(): "string"}
_NUMBERS = {**_INTEGERS, pa.float32(): "float", pa.float64(): "double"}
"""Types that pyarrow and Spark both know, with Spark's names."""


@dataclass(frozen=True)
class OwnVectors:
    ids: "DataFrame"
    """image_id (string) of every row."""
    vectors: "DataFrame"
    """image_id (string), embedding (array<float>)."""


def check(uri: str, read_seconds: float) -> None:
    """Raises ``WrongInput`` for what cannot be used at ``uri`` on this machine: nothing, no Parquet, or other columns.

    Other places are not looked at. No rows are read.
    """
    location = uris.absolute(uri)
    if not uris.is_local(location):
        return
    try:
        kind = timeouts.within(read_seconds, what_is, location)
        if kind not in ("a file", "a folder"):  # to open a pipe would wait for a writer
            raise ValueError(f"this is {kind}; name a file or folder")
        check_local(location, read_seconds)
    except (FileNotFoundError, NotADirectoryError):
        raise WrongInput(f"--embeddings {uri}: no such file or folder{near_files(location)}") from None
    except (ValueError, OSError) as error:
        raise WrongInput(f"--embeddings {uri}: {error}") from None


def check_ids(uri: str, rows: int, nulls: int, repeated: Sequence[str]) -> None:
    """Raises ``WrongInput`` if there are no ``rows``, if ``nulls`` of them have no id, or if ids are ``repeated``."""
    if not rows:
        raise WrongInput(f"--embeddings {uri}: no rows")
    if nulls:
        raise WrongInput(f"--embeddings {uri}: {counted(nulls, 'row has', 'rows have')} no image_id")
    if repeated:
        names = ", ".join(map(repr, repeated))
        raise WrongInput(f"--embeddings {uri}: image_id must be unique, but these stand more than once: {names}")


def files_on_this_machine(location: str, read_seconds: float) -> "list[File]":
    """The files of a table, which pyarrow reads. Raises ``ValueError`` as `read` does."""
    parts, notes = tables.parts_of(location, read_seconds)
    return _checked(location, _opened(parts, blobs.open_input_file, read_seconds), notes)


def read(spark: "SparkSession", location: str, read_seconds: float) -> OwnVectors:
    """The vectors of a Parquet file or folder, as Spark's frames.

    Raises ``ValueError``, in one line, if it cannot be read, lacks a column, or has a column of another type.
    """
    files, notes, by_pyarrow = _files(spark, location, read_seconds)
    _checked(location, files, notes)
    schemas = {file.spark_schema for file in files}
    names = [location.rstrip("/").partition("://")[2] or location, *(file.part.path for file in files)]
    schema = schemas.pop() if len(schemas) == 1 and all(map(_is_name_for_spark, names)) else None
    if schema is None and not by_pyarrow:
        raise ValueError(
            "pyarrow cannot open it here, and Spark cannot read it: image_id must be text or integers, embedding a "
            "list of float or double, and file names without colons"
        )
    if schema is None:
        return OwnVectors(_by_workers(spark, files, (ID,)), _by_workers(spark, files, (ID, VECTOR)))
    # All files below the folder as they are: names of folders are no columns here.
    reader = spark.read.schema(schema).option("recursiveFileLookup", True)
    return _converted(reader.parquet(escape_glob(uris.for_spark(location))))


def check_local(location: str, read_seconds: float) -> None:
    """Raises ``ValueError`` as `read` does, for files on this machine, whose ends are read. Needs no Spark."""
    parts, _ = tables.parts_of(location, read_seconds)
    _checked(location, _opened(parts, blobs.open_input_file, read_seconds), [])


def _checked(location: str, files: "list[File]", notes: list[str]) -> "list[File]":
    for file in files:
        with file.part.named_in_errors():
            file.check()
    for line in notes:
        note(f"{location}: {line}")
    return files


def _is_name_for_spark(path: str) -> bool:
    """Whether Spark's readers open a file of this name: some they take for hidden, and Hadoop refuses colons."""
    return ":" not in path and not path.rpartition("/")[2].startswith(("_", "."))


def _converted(table: "DataFrame") -> OwnVectors:
    from pyspark.sql import functions as F

    vectors = table.select(F.col(ID).cast("string"), F.col(VECTOR).cast("array<float>"))
    return OwnVectors(vectors.select(ID), vectors)


# -- files -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class File:
    """A file of a table, and what its end says."""

    part: Part
    schema: pa.Schema
    rows: tuple[int, ...]
    """The number of rows of each row group."""
    marks: tuple[str, ...]
    """What tells each row group from that of another file, see `_mark`."""

    def check(self) -> None:
        """Raise ``ValueError`` if a column is missing, or has a type that cannot serve."""
        columns = [*self.schema.names, *(name for name in self.part.partition if name == ID)]
        missing = [name for name in (ID, VECTOR) if name not in columns]
        for name in missing:
            tables.check_spelling(name, columns)
        if missing:
            raise ValueError(f"no column {' and no '.join(missing)}; its columns are: {', '.join(columns)}")
        vector, image_id = self._type(VECTOR), self._type(ID)
        if not (_is_list(vector) and _is_number(vector.value_type)):
            raise ValueError(f"{VECTOR} is {vector}, not an array of numbers")
        if parquet_files.holds_bytes(image_id) or pa.types.is_nested(image_id):
            raise ValueError(f"{ID} is {image_id}, not text or a number")

    def batches(self, group: int, columns: Sequence[str] = (ID, VECTOR)) -> Iterator[pa.RecordBatch]:
        """The rows of a row group: image_id (string), embedding (list<float>). Raises ``OSError`` or ``ValueError``."""
        schema = pa.schema([(name, _TYPES[name]) for name in columns])
        return _read_group(self.part, group, self.marks[group], schema)

    @property
    def spark_schema(self) -> str | None:
        """The two columns for Spark's reader; None if it cannot read them as they are."""
        image_id, number = _IDS.get(self._type(ID)), _NUMBERS.get(self._type(VECTOR).value_type)
        # Spark would take the folder image_id=007 for 7, and does not know capitals from small letters.
        small = [name.lower() for name in self.schema.names]
        if not image_id or not number or ID in self.part.partition or small.count(ID) + small.count(VECTOR) > 2:
            return None
        return f"{ID} {image_id}, {VECTOR} array<{number}>"

    def _type(self, name: str) -> pa.DataType:
        if name in self.part.partition:
            return pa.string()
        kind = self.schema.field(name).type
        return kind if isinstance(kind, pa.UuidType) else parquet_files.plain_type(kind)


def _files(spark: "SparkSession", location: str, read_seconds: float) -> tuple[list[File], list[str], bool]:
    """The files of a table, a note on those passed over, and whether pyarrow can open them.

    If it cannot, only their ends are read, where the types are, through Spark: it alone may have the credentials of a
    store, or the libraries of HDFS.
    """
    try:
        parts, notes = tables.parts_of(location, read_seconds)
        return _opened(parts, blobs.open_input_file, read_seconds), notes, True
    except ValueError:
        if uris.is_local(location):
            raise
    from image_similarity.storage.hadoop import HadoopFiles

    hadoop = HadoopFiles(spark)
    try:
        parts, notes = tables.parts_among(hadoop.files_below(uris.for_spark(location)))
    except OSError as error:
        raise ValueError(" ".join(str(error).split())) from None
    return _opened(parts, hadoop.open_input_file, read_seconds), notes, False


def _opened(parts: list[Part], open_file: Callable[[str], Any], read_seconds: float) -> list[File]:
    def opened(part: Part) -> File:
        with open_file(part.uri) as file:
            parquet = pq.ParquetFile(file)
            numbers = range(parquet.num_row_groups)
            rows = tuple(parquet.metadata.row_group(number).num_rows for number in numbers)
            return File(part, parquet.schema_arrow, rows, tuple(_mark(parquet, number) for number in numbers))

    def in_time(part: Part) -> File:
        with part.named_in_errors():
            return timeouts.one_of_many(read_seconds, opened, part)

    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        return list(pool.map(in_time, parts))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


# -- in the workers ----------------------------------------------------------------------------------------------------


def _by_workers(spark: "SparkSession", files: list[File], columns: tuple[str, ...]) -> "DataFrame":
    """The columns ``columns`` of ``files``: tasks read some row groups each."""
    from pyspark.sql.pandas.types import from_arrow_schema

    groups = [(file.part, number, mark) for file in files for number, mark in enumerate(file.marks)]
    schema = pa.schema([(name, _TYPES[name]) for name in columns])

    def rows(numbers: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in numbers:
            for number in batch.column(0).to_pylist():
                part, group, mark = groups[number]
                yield from _read_group(part, group, mark, schema)

    tasks = max(1, min(len(groups), _MOST_TASKS))
    return spark.range(0, len(groups), 1, tasks).mapInArrow(rows, from_arrow_schema(schema))


def _mark(parquet: pq.ParquetFile, group: int) -> str:
    """A digest of what the end of a file says of a row group: its place, its sizes, its least and greatest values."""
    if group >= parquet.num_row_groups:
        return ""
    return hashlib.sha256(repr(parquet.metadata.row_group(group).to_dict()).encode()).hexdigest()


def _read_group(part: Part, group: int, mark: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of a row group. Raises ``ValueError`` if the file was replaced since ``mark`` was taken."""
    inside = [name for name in schema.names if name not in part.partition]
    with blobs.open_input_file(part.uri) as file:
        opened = pq.ParquetFile(file)
        if _mark(opened, group) != mark:
            raise ValueError("was replaced while it was read: run the job again")
        for batch in opened.iter_batches(_BATCH_ROWS, row_groups=[group], columns=inside or [VECTOR]):
            columns = [
                _as_floats(batch[VECTOR]) if name == VECTOR else _ids(batch, part.partition) for name in schema.names
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _ids(batch: pa.RecordBatch, partition: dict[str, str | None]) -> pa.Array:
    if ID in partition:
        return pa.repeat(pa.scalar(partition[ID], pa.string()), len(batch))
    return parquet_files.as_text(batch[ID])


def _as_floats(column: pa.Array) -> pa.Array:
    while isinstance(column, pa.ExtensionArray):
        column = column.storage
    return column.cast(_TYPES[VECTOR], safe=False)
