"""Private files of runs: ``_scratch`` lasts as long as its run, ``_state`` is left to the next run of the slot."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from image_similarity.storage import blobs, uris
from image_similarity.storage.files import Files
from image_similarity.warehouse import parquet

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

SCRATCH = "_scratch"
STATE = "_state"
COMPLETE = "_SUCCESS"
"""A file that Spark writes beside the files of a folder when all of them are written."""


@dataclass(frozen=True)
class Workspace:
    """A folder for a stage's files that are no tables. No other run uses it."""

    _spark: "SparkSession"
    _files: Files
    _root: str
    """The folder, for Spark's readers and writers."""

    @property
    def session(self) -> "SparkSession":
        """The session that reads and writes here."""
        return self._spark

    def write(self, name: str, rows: "DataFrame") -> "DataFrame":
        """Materialises ``rows`` as Parquet and reads them back, so they are computed only once."""
        parquet.write_folder(self.folder(name), rows)
        return self.read(name, rows.schema)

    def store(self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> "DataFrame":
        """Writes ``batches`` as Parquet, by this process and one at a time, and reads them back as a frame."""
        self.store_file(name, schema, batches)
        return self.read(name, schema)

    def store_file(self, name: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch | pa.Table]) -> int:
        """Writes ``batches`` as Parquet, by this process and one at a time. Returns the number of rows."""
        return parquet.write_file(f"{self.location(name)}/part-00000.parquet", schema, batches)

    def read(self, name: str, schema: Any) -> "DataFrame":
        """The rows that were written as ``name``."""
        return parquet.read_folders(self._spark, [self.folder(name)], schema)

    def remove(self, name: str) -> None:
        """Removes the folder ``name``."""
        self._files.delete(self.location(name))

    def folder(self, name: str) -> str:
        """The folder ``name``, for Spark's readers."""
        return f"{self._root}/{name}"

    def location(self, name: str) -> str:
        """The folder or file ``name``, as programs outside Hadoop name it: for workers that access files themselves."""
        return uris.for_readers(self.folder(name))

    def parts(self, name: str, columns: list[str], prefix: str = "") -> Iterator[pa.Table]:
        """The Parquet files of ``name`` as tables, one after the other, read by this process without a Spark job.

        ``prefix``: how the names of the files begin.
        """
        files = [file for file in blobs.list_files(self.location(name)) if file.path.endswith(".parquet")]
        for file in sorted(file.uri for file in files if file.path.rpartition("/")[2].startswith(prefix)):
            with blobs.open_input_file(file) as opened:
                part = pq.read_table(opened, columns=columns)
            yield part
