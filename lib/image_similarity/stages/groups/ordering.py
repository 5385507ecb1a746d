"""Rows in the order of a column, of more rows than fit into memory: they wait in files on this machine."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


class Ordered:
    """Rows, added in any order, and read in that of the column ``key``. A range of the column is in memory at a time.

    ``bounds``: ascending; a range begins at each, and one before them all. ``folder``: new, for the ranges' files.
    """

    def __init__(self, folder: Path, key: str, bounds: Sequence[Any]):
        folder.mkdir()
        self._key, self._bounds = key, bounds
        self._files = [folder / f"{number}.arrow" for number in range(len(bounds) + 1)]
        self._writers: dict[Path, Any] = {}

    def add(self, rows: pa.RecordBatch) -> None:
        rows = rows.take(pc.sort_indices(rows[self._key]))
        keys = rows[self._key]
        ends = [bisect_left(range(len(rows)), bound, key=lambda place: keys[place].as_py()) for bound in self._bounds]
        for file, first, last in zip(self._files, [0, *ends], [*ends, len(rows)]):
            if first < last:
                if file not in self._writers:
                    self._writers[file] = pa.ipc.new_stream(str(file), rows.schema)
                self._writers[file].write_batch(rows.slice(first, last - first))

    def tables(self) -> Iterator[pa.Table]:
        """The rows of each range, in order. Each range is read once, and its file is removed."""
        for writer in self._writers.values():
            writer.close()
        for file in filter(self._writers.__contains__, self._files):
            with pa.ipc.open_stream(str(file)) as reader:
                rows = reader.read_all()
            file.unlink()
            yield rows.take(pc.sort_indices(rows[self._key]))
