"""Private files of runs: ``_scratch``, what a run needs while it lasts, and ``_state``, what it leaves to the next
one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from image_similarity.storage import blobs, uris
from image_similarity.storage.files import Files
from image_similarity.warehouse import parquet

SCRATCH = "_scratch"
STATE = "_state"


@dataclass(frozen=True)
class Workspace:
    """A folder where a stage may put files that are no tables, and that no other run sees."""

    _spark: SparkSession
    _files: Files
    _root: str
    """The folder, for Spark's readers and writers."""

    def write(self, name: str, rows: DataFrame) -> DataFrame:
        """Materialise ``rows`` as Parquet and read them back: computed once, however often they are used."""
        parquet.write_folder(self.folder(name), rows)
        return self.read(name, rows.schema)

    def read(self, name: str, schema: Any) -> DataFrame:
        """What was written as ``name``."""
        return parquet.read_folders(self._spark, [self.folder(name)], schema)

    def remove(self, name: str) -> None:
        """Remove what was written as ``name``."""
        self._files.delete(self.location(name))

    def folder(self, name: str) -> str:
        """The folder ``name``, for Spark's readers."""
        return f"{self._root}/{name}"

    def location(self, name: str) -> str:
        """The folder or file ``name`` for workers that read and write files themselves, as programs outside Hadoop name
        it."""
        return uris.for_readers(self.folder(name))

    def parts(self, name: str, columns: list[str]) -> Iterator[pa.Table]:
        """What was written as ``name``, one partition after the other, read by this process without a Spark job."""
        files = sorted(file.uri for file in blobs.list_files(self.location(name)) if file.path.endswith(".parquet"))
        for file in files:
            yield pq.read_table(blobs.open_input_file(file), columns=columns)
