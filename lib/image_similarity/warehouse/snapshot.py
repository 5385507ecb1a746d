"""One published state of a warehouse, read without Spark: the pointer, runs as records, and tables as Arrow datasets.

``_current.json``, the pointer, names the current runs of every table, slot by slot. A `Snapshot` is one such state. It
keeps showing the same tables while other jobs publish, until retention removes their files.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from image_similarity.errors import JobFailed
from image_similarity.storage import blobs, uris
from image_similarity.storage.files import Files
from image_similarity.storage.filesystems import OBJECT_STORES, files_of
from image_similarity.warehouse.parquet import in_schema, streaming
from image_similarity.warehouse.records import Record, from_row
from image_similarity.warehouse.schemas import RUNS, SCHEMAS

if TYPE_CHECKING:
    import pyarrow.dataset as ds

POINTER = "_current.json"
RUNNING = "_running"
"""The folder of leases, see `image_similarity.warehouse.leases`."""

BATCH_ROWS = 1 << 17
"""Rows of a batch of `Snapshot.batches`, at most."""

HOW_TO_REBUILD = "restore_runs.py --rebuild makes it anew from the runs that are recorded here"


class RecordsGone(JobFailed):
    """Records that a pointer lists are not there."""


Slots = Mapping[str, Mapping[str, str]]
"""table -> slot -> run"""
Removed = Mapping[str, Sequence[str]]
"""table -> slots that are published no more"""


@dataclass(frozen=True)
class Pointer:
    """The current runs: ``tables[table][slot]`` lists the runs that make up that slot.

    Of ``runs`` it lists the folders of records, some of which hold the records of many runs (see
    `image_similarity.warehouse.compaction`).
    """

    version: int = 0
    tables: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def runs(self, table: str, slot: str | None = None) -> list[str]:
        """The current runs of one slot, or of all slots, each once. Empty if nothing is published."""
        slots = self.tables.get(table, {})
        if slot is not None:
            return list(slots.get(slot, []))
        return list(dict.fromkeys(run for runs in slots.values() for run in runs))  # one may be in several slots

    def changed(self, replace: Slots, append: Slots, remove: Removed | None = None) -> "Pointer":
        """The next pointer. ``replace`` gives slots their only run, ``append`` adds runs to slots, ``remove`` names
        slots that are published no more.
        """
        tables = {table: {slot: list(runs) for slot, runs in slots.items()} for table, slots in self.tables.items()}
        make_current(tables, replace, append, remove)
        return Pointer(self.version + 1, tables)

    def merged(self, merged: str, folders: Set[str]) -> "Pointer":
        """The next pointer, with a folder of records in the place of ``folders``; this one if it lacks any of them."""
        listed = self.runs(RUNS)
        if not folders <= set(listed):
            return self
        others = [folder for folder in listed if folder not in folders]
        return Pointer(self.version + 1, {**self.tables, RUNS: {"": [merged, *others]}})

    def holds(self, slots: Slots) -> bool:
        """Whether each run is current in its slot."""
        return all(run in self.runs(table, slot) for table, runs in slots.items() for slot, run in runs.items())

    def as_json(self) -> bytes:
        return json.dumps({"version": self.version, "tables": self.tables}, indent=1, sort_keys=True).encode()

    @classmethod
    def from_json(cls, content: bytes | None, source: str) -> "Pointer":
        """The pointer in ``content`` (None: nothing was ever published). ``source``: its path, for the message.

        Raises ``JobFailed`` if it is damaged.
        """
        if content is None:
            return cls()
        try:
            values = json.loads(content)
            return cls(int(values["version"]), values["tables"])
        except (ValueError, KeyError, TypeError) as error:
            raise JobFailed(f"{source} is damaged ({error}): put back a copy, or {HOW_TO_REBUILD}") from None


def make_current(
    tables: dict[str, dict[str, list[str]]], replace: Slots, append: Slots, remove: Removed | None = None
) -> None:
    """Changes the ``tables`` of a pointer as `Pointer.changed` does, in place."""
    for table, names in (remove or {}).items():
        for slot in names:
            tables.get(table, {}).pop(slot, None)
        if not tables.get(table):
            tables.pop(table, None)
    for table, slots in replace.items():
        for slot, run in slots.items():
            tables.setdefault(table, {})[slot] = [run]
    for table, slots in append.items():
        for slot, run in slots.items():
            tables.setdefault(table, {}).setdefault(slot, []).append(run)


@dataclass(frozen=True)
class Snapshot:
    """One published state of the warehouse at ``uri`` (an absolute local path, or a URI)."""

    uri: str
    pointer: Pointer
    files: Files
    _listed: dict[tuple[str, str], list[str]] = field(default_factory=dict, init=False, compare=False, repr=False)
    """(table, run) -> the files of published runs: nothing is added to them. What is asked often lists them once."""

    def run_ids(self, table: str, slot: str | None = None) -> list[str]:
        """The current runs of one slot of ``table``, or of all its slots. Empty if nothing is published."""
        return self.pointer.runs(table, slot)

    def slots(self, table: str) -> dict[str, list[str]]:
        """slot -> its current runs. Empty if nothing of ``table`` is published."""
        return self.pointer.tables.get(table, {})

    @cached_property
    def runs(self) -> dict[str, Record]:
        """Every published run by its id, oldest first. Read once. Raises ``JobFailed`` if one is gone or damaged."""
        try:
            return records_of(self.table(RUNS))
        except FileNotFoundError as error:
            raise RecordsGone(
                f"records of runs are gone ({error}), as if an older {POINTER} had been put back: {HOW_TO_REBUILD}"
            ) from None
        except pa.ArrowInvalid as error:
            raise JobFailed(f"a record of runs is damaged ({error}): put back a copy") from None

    def dataset(self, table: str, slot: str | None = None) -> "ds.Dataset":
        """``table``, or one slot of it, in the table's schema. No rows if nothing is published.

        Columns that old files lack are null. From Hadoop's file systems the files are read into memory at once. Raises
        ``FileNotFoundError`` if a run's files are gone, and other ``OSError`` if they cannot be read.
        """
        return self._dataset(table, self._published_files(table, slot))

    def batches(self, table: str, slot: str | None, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """``columns`` of the rows of `dataset`, a batch at a time, with little of the table in memory.

        From Hadoop's file systems one file at a time is in memory. Raises as `dataset` does.
        """
        files = self._published_files(table, slot)
        few = {"columns": columns, "batch_size": BATCH_ROWS}
        if self._is_mapped:
            yield from _mapped(files, SCHEMAS[table]).to_batches(**few, **streaming())
            return
        for file in files:
            yield from _in_memory([self._content(file)], SCHEMAS[table]).to_batches(**few)

    def of_runs(self, table: str, runs: Sequence[str], columns: list[str]) -> pa.Table:
        """``columns`` of the rows of ``runs`` of ``table``, current or not. Raises as `dataset` does."""
        return self.dataset_of(table, runs).to_table(columns=columns)

    def dataset_of(self, table: str, runs: Sequence[str]) -> "ds.Dataset":
        """The rows of ``runs`` of ``table``, current or not. Raises as `dataset` does."""
        return self._dataset(table, [file for run in runs for file in self._files(table, run)])

    def _dataset(self, table: str, files: list[str]) -> "ds.Dataset":
        if self._is_mapped:
            return _mapped(files, SCHEMAS[table])
        return _in_memory((self._content(file) for file in files), SCHEMAS[table])

    def _files(self, table: str, run: str) -> list[str]:
        return _data_files(self.files, f"{self.uri}/{table}/run_id={run}")

    def _published_files(self, table: str, slot: str | None) -> list[str]:
        runs = self.run_ids(table, slot)
        for run in runs:
            if (table, run) not in self._listed:
                self._listed[table, run] = self._files(table, run)
        return [file for run in runs for file in self._listed[table, run]]

    def _content(self, file: str) -> bytes:
        """Raises ``FileNotFoundError`` if it is gone: it was listed."""
        content = self.files.read(file)
        if content is None:
            raise FileNotFoundError(f"{file} is gone")
        return content

    @property
    def _is_mapped(self) -> bool:
        """Whether pyarrow opens the files, and reads of them what is wanted."""
        return uris.is_local(self.uri) or uris.scheme_of(self.uri) in OBJECT_STORES

    def table(self, table: str, slot: str | None = None, columns: list[str] | None = None) -> pa.Table:
        """The same rows as a table in memory. ``columns``: only these."""
        return self.dataset(table, slot).to_table(columns=columns)


def open_snapshot(uri: str, files: Files | None = None) -> Snapshot:
    """The warehouse at ``uri`` as it is now. Nothing need be published in it yet.

    ``files``: how the warehouse is reached, if that takes a Spark session. Raises ``JobFailed`` if the pointer is
    damaged, or gone although runs were published; ``WrongInput`` for a file system that needs a session; ``OSError`` if
    the warehouse cannot be read.
    """
    absolute = uris.absolute(uri) if uris.is_local(uri) else uri.rstrip("/")
    files = files or files_of(absolute)
    path = f"{absolute}/{POINTER}"
    content = files.read(path)
    if content is None and _was_published(files, absolute):
        content = files.read(path)  # again: the first run may just have been published
        if content is None:
            raise JobFailed(f"{path} is gone, though runs were published here: put back a copy, or {HOW_TO_REBUILD}")
    return Snapshot(absolute, Pointer.from_json(content, path), files)


def records_of(table: pa.Table) -> dict[str, Record]:
    """The rows of ``runs`` as records by their run, oldest first."""
    records = map(from_row, table.select(SCHEMAS[RUNS].names).to_pylist())
    return {record.run_id: record for record in sorted(records, key=lambda record: record.run_id)}


def record_folders(files: Files, uri: str) -> list[str]:
    """The folders of records in the warehouse at ``uri``, whatever its pointer says, by their ids, oldest first.

    One is named after the run whose record it holds, or holds merged records (see
    `image_similarity.warehouse.compaction`).
    """
    names = files.entries(f"{uri}/{RUNS}")
    return sorted(name.removeprefix("run_id=") for name in names if name.startswith("run_id="))


def read_records(files: Files, uri: str, folder: str) -> pa.Table:
    """The rows of one of the `record_folders`, in the columns of ``runs`` and those that a newer version added.

    No rows if nothing was written to the folder. Raises ``JobFailed`` if it is damaged, ``OSError`` if it cannot be
    read.
    """
    path = f"{uri}/{RUNS}/run_id={folder}"
    try:
        contents = [files.read(file) or b"" for file in _data_files(files, path)]
    except FileNotFoundError:
        contents = []
    try:
        tables = [pq.read_table(pa.BufferReader(content)) for content in contents]
        return pa.concat_tables([SCHEMAS[RUNS].empty_table(), *tables], promote_options="default")
    except pa.ArrowInvalid as error:
        raise JobFailed(f"{path} is damaged ({error}): put back a copy") from None


def _was_published(files: Files, uri: str) -> bool:
    """Whether a run was published. A run's record is written just before the pointer, while its lease is held."""
    recorded = record_folders(files, uri)
    return bool(set(recorded) - set(files.entries(f"{uri}/{RUNNING}"))) if recorded else False


def _data_files(files: Files, folder: str) -> list[str]:
    """The Parquet files of a run's folder. Raises ``FileNotFoundError`` if there is none: every run writes one."""
    names = [name for name in sorted(files.entries(folder)) if _is_data_file(name)]
    if not names:
        raise FileNotFoundError(f"there are no files in {folder}")
    return [f"{folder}/{name}" for name in names]


def _is_data_file(name: str) -> bool:
    return name.endswith(".parquet") and not name.startswith(("_", "."))


def _mapped(files: list[str], schema: pa.Schema) -> "ds.Dataset":
    import pyarrow.dataset as ds  # it imports pandas, which takes part of a second

    if not files:
        return ds.dataset(schema.empty_table())
    filesystem, _ = blobs.filesystem_of(files[0])
    return ds.dataset(
        [blobs.filesystem_of(file)[1] for file in files], schema=schema, format="parquet", filesystem=filesystem
    )


def _in_memory(contents: Iterable[bytes], schema: pa.Schema) -> "ds.Dataset":
    import pyarrow.dataset as ds

    tables = [in_schema(pq.read_table(pa.BufferReader(content)), schema) for content in contents]
    return ds.dataset(pa.concat_tables([schema.empty_table(), *tables]))
