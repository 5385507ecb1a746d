"""The warehouse: writes runs, publishes them, and reads the current ones.

``<warehouse>/<table>/run_id=<run>/part-*.parquet`` holds what runs wrote. ``<warehouse>/_current.json``, the pointer,
says which runs are current, slot by slot. It is the only file of published state that ever changes. A job writes its
tables to folders of its own, and then replaces the pointer once, by compare-and-swap. So readers see one whole state or
the other, and a job that dies leaves the old one. Beside the tables are ``_scratch``, which lasts as long as a run, and
``_state``, which a run leaves to the next run of its slot.

Tables go through the JVM's file systems, so with Spark's own credentials. So does the pointer, except on object stores:
there the driver accesses it directly, with the credentials of its environment (see
`image_similarity.storage.object_store`). Images, and files of ``_scratch`` and ``_state`` that are read by path, are
read by Python through pyarrow, also with the credentials of the environment.
"""

from collections.abc import Collection, Iterable, Iterator, Set
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from image_similarity.errors import JobFailed, WrongInput
from image_similarity.reporting import note
from image_similarity.storage import uris
from image_similarity.storage.filesystems import files_of
from image_similarity.warehouse import parquet
from image_similarity.warehouse.records import Record, parquet_of
from image_similarity.warehouse.schemas import RUNS, SCHEMAS
from image_similarity.warehouse.snapshot import (
    HOW_TO_REBUILD,
    POINTER,
    Pointer,
    Removed,
    Slots,
    Snapshot,
    open_snapshot,
)
from image_similarity.warehouse.views import views_sql
from image_similarity.warehouse.workspace import COMPLETE, SCRATCH, STATE, Workspace

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

VIEWS = "views.sql"


class Conflict(JobFailed):
    """Another job has published a slot of ``table`` since this one began."""

    def __init__(self, table: str, message: str):
        super().__init__(message)
        self.table = table


class Warehouse:
    """One warehouse, accessed through one Spark session, which is started when Spark itself reads or writes.

    ``uri``: a local path, or ``s3a://``, ``hdfs://``, ``gs://``. Nothing is created before the first write. Raises
    ``WrongInput`` for a name that DuckDB could not open.
    """

    def __init__(self, spark: "SparkSession", uri: str):
        self._spark = spark
        self.local_root = uris.absolute(uri) if uris.is_local(uri) else None
        self.uri = self.local_root or uris.for_spark(uri.rstrip("/"))
        if "\\" in self.uri:
            raise WrongInput(f"the warehouse {self.uri}: DuckDB takes a backslash for a slash; choose another name")
        self._root = uris.for_spark(self.uri)
        self.files = files_of(self.uri, spark)

    # -- reading -------------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """The published state as it is now. It is empty if nothing was ever published."""
        return open_snapshot(self.uri, self.files)

    def current(self) -> Pointer:
        """The pointer as it is now; version 0 without tables if nothing was ever published."""
        return self.snapshot().pointer

    def folder(self, table: str, run: str) -> str:
        """The folder of run ``run`` of ``table``, for Spark's readers and writers."""
        return f"{self._root}/{table}/run_id={run}"

    def read(self, table: str, runs: list[str]) -> "DataFrame":
        """The rows of ``runs`` of ``table``, in the table's schema; no rows for no runs."""
        return self.read_folders([self.folder(table, run) for run in runs], SCHEMAS[table])

    def read_folders(self, folders: list[str], schema: Any) -> "DataFrame":
        """Parquet folders as one frame, in ``schema`` (Spark's or Arrow's); no rows for no folders."""
        return parquet.read_folders(self._spark, folders, schema)

    # -- writing -------------------------------------------------------------------------------------------------------

    def write(self, table: str, run: str, rows: "DataFrame", more: bool = False) -> None:
        """Writes ``rows`` as run ``run`` of ``table``. The folder must not exist; the columns must be the table's.

        ``more``: add to what the run has written.
        """
        columns = SCHEMAS[table].names
        if rows.columns != columns:
            raise ValueError(f"{table} has the columns {columns}, not {rows.columns}")
        parquet.write_folder(self.folder(table, run), rows, more)

    def count(self, table: str, run: str) -> int:
        """The number of rows of run ``run`` of ``table``. Files on this machine tell it at their ends."""
        if self.local_root is None:
            return self.read(table, [run]).count()
        folder = f"{self.local_root}/{table}/run_id={run}"
        files = [name for name in self.files.entries(folder) if name.endswith(".parquet")]
        return sum(pq.read_metadata(f"{folder}/{name}").num_rows for name in files)

    def remove(self, table: str, run: str) -> None:
        """Removes what run ``run`` has written to ``table`` and not published."""
        self.files.delete(f"{self.uri}/{table}/run_id={run}")

    def write_here(self, table: str, run: str, batches: Iterable[pa.RecordBatch | pa.Table]) -> int:
        """Writes ``batches``, in the table's schema, as run ``run`` of ``table``: by this process, without Spark.

        Returns the number of rows. The warehouse is on this machine, and the folder must not exist.
        """
        folder = f"{self.uri}/{table}/run_id={run}"
        if self.local_root is None or self.files.entries(folder):
            raise ValueError(f"{folder} is not here, or written already")
        rows = parquet.write_file(f"{folder}/part-00000.parquet", SCHEMAS[table], batches)
        self.files.write(f"{folder}/{COMPLETE}", b"")
        return rows

    def write_record(self, record: Record) -> None:
        """Writes ``record`` as a row of ``runs``: one small file, without a Spark job."""
        self.write_records(record.run_id, record.as_table())

    def write_records(self, folder: str, records: pa.Table) -> None:
        """Writes rows of ``runs`` to the folder of that id: one file, without a Spark job."""
        self.files.write(f"{self.uri}/{RUNS}/run_id={folder}/part-00000.parquet", parquet_of(records))

    @contextmanager
    def scratch(self, run: str) -> Iterator[Workspace]:
        """A folder for a stage's intermediate files. It is removed afterwards, even if the stage fails."""
        try:
            yield self._workspace(f"{self._root}/{SCRATCH}/{run}")
        finally:
            self.files.delete(f"{self.uri}/{SCRATCH}/{run}")

    @contextmanager
    def state(self, slot: str, run: str) -> Iterator[Workspace]:
        """A folder that a run leaves to the next run of its slot. Removed if the run fails without being published."""
        try:
            yield self.state_of(slot, run)
        except BaseException:
            if not self.is_published(run):
                self.files.delete(f"{self.uri}/{STATE}/{slot}/{run}")
            raise

    def state_of(self, slot: str, run: str) -> Workspace:
        """The `state` of a finished run; empty if it left none."""
        return self._workspace(f"{self._root}/{STATE}/{slot}/{run}")

    def sync_state(self, slot: str, run: str) -> None:
        """Returns when the state of ``run`` would survive a loss of power. Called before the run is published."""
        if run in self.states(slot):  # approximate lists alone leave none
            self.files.sync(f"{self.uri}/{STATE}/{slot}/{run}")

    def states(self, slot: str) -> list[str]:
        """The runs that left a state for ``slot``."""
        return sorted(self.files.entries(f"{self.uri}/{STATE}/{slot}"))

    def forget_state(self, slot: str, before: str | None = None, keep: Collection[str] = ()) -> None:
        """Removes the states of runs older than ``before`` (None: all runs), except the runs ``keep``."""
        for run in self.states(slot):
            if (before is None or run < before) and run not in keep:  # run ids begin with their time
                self.files.delete(f"{self.uri}/{STATE}/{slot}/{run}")

    def discard(self, run: str, keep: Collection[str] = ()) -> None:
        """Removes the tables of a run that will not be published, except the tables ``keep``."""
        for table in SCHEMAS:
            if table not in keep:
                self.files.delete(f"{self.uri}/{table}/run_id={run}")

    def _workspace(self, folder: str) -> Workspace:
        return Workspace(self._spark, self.files, folder)

    # -- publishing ----------------------------------------------------------------------------------------------------

    def publish(self, base: Pointer, replace: Slots, append: Slots, remove: Removed | None = None) -> Pointer:
        """Makes runs current by one replacement of the pointer, and unpublishes the slots ``remove``, all or nothing.

        ``base`` is the pointer that the job began with. If another job has published one of the slots in ``replace``
        or ``remove`` since then, nothing changes, and ``Conflict`` says which slot. The same holds for ``append``,
        because two jobs may have added the same vectors; but not for ``runs``, to which all jobs append.
        """
        path = f"{self.uri}/{POINTER}"
        added = ((table, slots) for table, slots in append.items() if table != RUNS)
        exclusive = [*replace.items(), *(remove or {}).items(), *added]

        def change(content: bytes | None) -> bytes:
            now = Pointer.from_json(content, path)
            if now.version < base.version:
                state = (
                    "gone" if content is None else f"older than when this run began ({now.version}, not {base.version})"
                )
                raise JobFailed(f"{path} is {state}: nothing was published; put back a copy, or {HOW_TO_REBUILD}")
            if content is not None and now.holds(replace) and now.holds(append):
                return content  # the first attempt succeeded, though the store's answer was lost
            for table, slots in exclusive:
                for slot in slots:
                    _check_same(base, now, table, slot)
            return now.changed(replace, append, remove).as_json()

        self.files.update(path, change)
        try:
            return self.write_views()
        except OSError as error:  # the runs are published nevertheless
            note(f"{self.uri}/{VIEWS} is not up to date: {error}; the next publication writes it")
            return self.current()

    def is_published(self, run: str) -> bool:
        """Whether ``run`` was published, by its record. True if records cannot be read: in doubt nothing is removed.

        Raises ``JobFailed`` if the pointer is damaged, or gone although runs were published.
        """
        snapshot = self.snapshot()
        if run in snapshot.run_ids(RUNS):
            return True
        try:
            return run in snapshot.runs  # its record may have been merged with others
        except (OSError, JobFailed):
            return True

    def replace_records(self, merged: str, folders: Set[str]) -> None:
        """Lists the folder ``merged`` in ``runs`` in the place of ``folders``, whose records it holds.

        If one of them is not listed any more, because another job has merged it, nothing changes and ``merged`` is
        removed. Raises ``JobFailed`` if the pointer is gone or damaged.
        """
        path = f"{self.uri}/{POINTER}"

        def change(content: bytes | None) -> bytes:
            if content is None:
                raise JobFailed(f"{path} is gone: put back a copy, or {HOW_TO_REBUILD}")
            now = Pointer.from_json(content, path)
            changed = now.merged(merged, folders)
            return content if changed == now else changed.as_json()

        self.files.update(path, change)
        if merged not in self.write_views().runs(RUNS):
            self.files.delete(f"{self.uri}/{RUNS}/run_id={merged}")

    def write_views(self) -> Pointer:
        """Writes the views of the current tables, and again if these changed meanwhile. So the last writer is right."""
        pointer = self.current()
        while True:
            self.files.write(f"{self.uri}/{VIEWS}", views_sql(self.uri, pointer).encode())
            now = self.current()
            if now == pointer:
                return pointer
            pointer = now


def _check_same(base: Pointer, now: Pointer, table: str, slot: str) -> None:
    if now.runs(table, slot) != base.runs(table, slot):
        other = ", ".join(now.runs(table, slot)) or "nothing"
        raise Conflict(
            table,
            f"another job published {table} {slot or '(whole table)'} while this one ran (now: {other}); "
            "no table of this run was published: run it again",
        )
