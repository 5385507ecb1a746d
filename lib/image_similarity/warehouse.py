"""The warehouse: write a run, publish it, read what is current.

``<warehouse>/<table>/run_id=<run>/part-*.parquet`` holds what runs wrote; ``<warehouse>/_current.json`` says which of them are
current, slot by slot, and is the only thing that ever changes. A job writes its tables to folders of its own, then replaces the
pointer once, by compare-and-swap: readers see one whole state or the other, and a job that dies leaves the old one. Beside the
tables are ``_scratch``, what a run needs while it lasts, and ``_state``, what it leaves to the next one of its slot.

Tables go through the JVM's file systems, so with Spark's own credentials. The pointer does, too, but on object stores, which the
driver asks itself, with the credentials of its environment (see `image_similarity.object_files`). Images, and the files of
``_scratch`` and ``_state`` that are read by path, are read by Python through pyarrow, with those of the environment as well.
"""

import json
import re
import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession

from image_similarity import storage
from image_similarity.errors import JobFailed
from image_similarity.reporting import current
from image_similarity.tables import SCHEMAS, views_sql
from image_similarity.warehouse_files import files_of

POINTER = "_current.json"
VIEWS = "views.sql"
STATE = "_state"
SCRATCH = "_scratch"

Slots = Mapping[str, Mapping[str, str]]
"""table -> slot -> run"""


def new_run_id() -> str:
    """``r<UTC time>-<microseconds, chance>``: sorts by time, never repeats, and nothing takes it for a number."""
    now = datetime.now(timezone.utc)
    return f"r{now:%Y%m%dT%H%M%S}-{now.microsecond:05x}{secrets.randbelow(16**3):03x}"


@dataclass(frozen=True)
class Pointer:
    """What is current: ``tables[table][slot]`` is the list of runs that make up that slot."""

    version: int = 0
    tables: dict[str, dict[str, list[str]]] = field(default_factory=dict)

    def runs(self, table: str, slot: str | None = None) -> list[str]:
        """The current runs of one slot, or of all slots; an empty list where nothing is published."""
        slots = self.tables.get(table, {})
        if slot is not None:
            return list(slots.get(slot, []))
        return [run for runs in slots.values() for run in runs]

    def changed(self, replace: Slots, append: Slots) -> "Pointer":
        """The next pointer: ``replace`` puts a run in a slot's place, ``append`` adds one to a slot."""
        tables = {table: {slot: list(runs) for slot, runs in slots.items()} for table, slots in self.tables.items()}
        for table, slots in replace.items():
            for slot, run in slots.items():
                tables.setdefault(table, {})[slot] = [run]
        for table, slots in append.items():
            for slot, run in slots.items():
                tables.setdefault(table, {}).setdefault(slot, []).append(run)
        return Pointer(self.version + 1, tables)

    def holds(self, slots: Slots) -> bool:
        """Whether each of the runs is in its slot."""
        return all(run in self.runs(table, slot) for table, named in slots.items() for slot, run in named.items())

    def as_json(self) -> bytes:
        return json.dumps({"version": self.version, "tables": self.tables}, indent=1, sort_keys=True).encode()


def _check_same(seen: Pointer, now: Pointer, table: str, slot: str) -> None:
    if now.runs(table, slot) != seen.runs(table, slot):
        other = ", ".join(now.runs(table, slot)) or "nothing"
        raise JobFailed(
            f"another job published {table} {slot or '(whole table)'} while this one ran (now: {other}); "
            "nothing of this run was published: run it again"
        )


class Warehouse:
    """One warehouse, through one Spark session.

    ``uri``: a local path, or ``s3a://``, ``hdfs://``, ``gs://``. Nothing is created before something is written.
    """

    def __init__(self, spark: SparkSession, uri: str):
        self._spark = spark
        self.local_root = storage.absolute(uri) if storage.is_local(uri) else None
        self.uri = self.local_root or storage.for_spark(uri.rstrip("/"))
        self._root = storage.for_spark(self.uri)
        self.files = files_of(spark, self.uri)

    # -- reading ---------------------------------------------------------------------------------------------------------------

    def current(self) -> Pointer:
        """The pointer as it is now; version 0 without tables where nothing was ever published."""
        return self._pointer(self.files.read(f"{self.uri}/{POINTER}"))

    def _pointer(self, content: bytes | None) -> Pointer:
        if content is None:
            return Pointer()
        try:
            values = json.loads(content)
            return Pointer(int(values["version"]), values["tables"])
        except (ValueError, KeyError, TypeError) as error:
            raise JobFailed(f"{self.uri}/{POINTER} is damaged ({error}): restore it, or use another warehouse") from None

    def folder(self, table: str, run: str) -> str:
        """Where run ``run`` of ``table`` is, for Spark's readers and writers."""
        return f"{self._root}/{table}/run_id={run}"

    def reader_path(self, folder: str) -> str:
        """``folder`` as programs outside Hadoop name it: a local path, or ``s3://``."""
        return re.sub("^s3a://", "s3://", re.sub("^file:/+", "/", folder))

    def read(self, table: str, runs: list[str]) -> DataFrame:
        """The rows of ``runs`` of ``table``, in the table's schema; no rows for no runs."""
        return self.read_folders([self.folder(table, run) for run in runs], SCHEMAS[table])

    def read_folders(self, folders: list[str], schema: Any) -> DataFrame:
        """Parquet folders as one frame. Their names are taken literally, though Spark's reader expects patterns."""
        if not folders:
            return self._spark.createDataFrame([], schema)
        return self._spark.read.schema(schema).parquet(*[_escape_glob(folder) for folder in folders])

    def read_parquet(self, location: str) -> DataFrame:
        """Somebody else's Parquet: an absolute local path, or a URI."""
        return self._spark.read.parquet(_escape_glob(storage.for_spark(location)))

    # -- writing ---------------------------------------------------------------------------------------------------------------

    def write(self, table: str, run: str, rows: DataFrame) -> None:
        """Write ``rows`` as run ``run`` of ``table``. The folder must not exist; the columns must be the table's."""
        columns = SCHEMAS[table].fieldNames()
        if rows.columns != columns:
            raise ValueError(f"{table} has the columns {columns}, not {rows.columns}")
        self.write_parquet(self.folder(table, run), rows)

    def write_parquet(self, folder: str, rows: DataFrame) -> None:
        writer = rows.write.mode("errorifexists")
        # Dense floats: a dictionary makes them larger and slower.
        writer = writer.option("compression", "zstd").option("parquet.enable.dictionary#embedding.list.element", "false")
        writer.parquet(folder)

    def write_file(self, table: str, run: str, content: bytes) -> None:
        """Write run ``run`` of a small ``table`` that is one Parquet file, already in memory."""
        self.files.write(f"{self.uri}/{table}/run_id={run}/part-00000.parquet", content)

    @contextmanager
    def scratch(self, run: str) -> Iterator["Scratch"]:
        """A folder for a stage's intermediate files; removed afterwards, also when the stage fails."""
        try:
            yield Scratch(self, f"{self._root}/{SCRATCH}/{run}")
        finally:
            self.files.delete(f"{self.uri}/{SCRATCH}/{run}")

    @contextmanager
    def state(self, slot: str, run: str) -> Iterator["Scratch"]:
        """A folder for what a run leaves to the next one of its slot; removed if the run fails, unless it was published."""
        try:
            yield self.state_of(slot, run)
        except BaseException:
            if run not in self.current().runs("runs"):
                self.files.delete(f"{self.uri}/{STATE}/{slot}/{run}")
            raise

    def state_of(self, slot: str, run: str) -> "Scratch":
        """What `state` of a finished run holds, or nothing."""
        return Scratch(self, f"{self._root}/{STATE}/{slot}/{run}")

    def states(self, slot: str) -> list[str]:
        """The runs that left something for ``slot``."""
        return sorted(self.files.entries(f"{self.uri}/{STATE}/{slot}"))

    def forget_state(self, slot: str, before: str | None = None, but: Collection[str] = ()) -> None:
        """Remove what runs older than ``before`` left (None: all), and what runs that were killed did; not that of ``but``."""
        for run in self.states(slot):
            if (before is None or run < before) and run not in but:  # names of runs begin with their time
                self.files.delete(f"{self.uri}/{STATE}/{slot}/{run}")

    def discard(self, run: str, but: Collection[str] = ()) -> None:
        """Remove the tables of a run that will not be published, except those named in ``but``."""
        for table in SCHEMAS:
            if table not in but:
                self.files.delete(f"{self.uri}/{table}/run_id={run}")

    # -- publishing ------------------------------------------------------------------------------------------------------------

    def publish(self, seen: Pointer, replace: Slots, append: Slots) -> Pointer:
        """Make runs current: one replacement of the pointer, all or nothing.

        ``seen`` is the pointer that the job began with. If another job has meanwhile published one of the slots in ``replace``,
        nothing changes and ``JobFailed`` says which. The same holds for ``append`` (two jobs may have added the same vectors),
        but for ``runs``, to which all jobs add.
        """
        exclusive = [*replace.items(), *((table, slots) for table, slots in append.items() if table != "runs")]

        def change(content: bytes | None) -> bytes:
            now = self._pointer(content)
            if content is not None and now.holds(replace) and now.holds(append):
                return content  # it went in before, though the store's answer was lost
            for table, slots in exclusive:
                for slot in slots:
                    _check_same(seen, now, table, slot)
            return now.changed(replace, append).as_json()

        self.files.update(f"{self.uri}/{POINTER}", change)
        try:
            return self._write_views()
        except OSError as error:  # the runs are published all the same
            current().tell("note", f"  note: {self.uri}/{VIEWS} is not that of now: {error}; the next publication writes it")
            return self.current()

    def _write_views(self) -> Pointer:
        """Write the views of what is current; again, if it changed meanwhile: the last to look writes the newest."""
        pointer = self.current()
        while True:
            self.files.write(f"{self.uri}/{VIEWS}", self._views(pointer).encode())
            now = self.current()
            if now == pointer:
                return pointer
            pointer = now

    def _views(self, pointer: Pointer) -> str:
        folders = {table: [self.folder(table, run) for run in pointer.runs(table)] for table in SCHEMAS}
        return views_sql(folders, self.reader_path)


@dataclass(frozen=True)
class Scratch:
    """Where a stage may put files that are no tables, which no other run sees."""

    _warehouse: Warehouse
    _folder: str

    def write(self, name: str, rows: DataFrame) -> DataFrame:
        """Materialise ``rows`` as Parquet and read them back: computed once, however often they are used."""
        self._warehouse.write_parquet(f"{self._folder}/{name}", rows)
        return self.read(name, rows.schema)

    def read(self, name: str, schema: Any) -> DataFrame:
        """What was written as ``name``."""
        return self._warehouse.read_folders([f"{self._folder}/{name}"], schema)

    def remove(self, name: str) -> None:
        """Remove what was written as ``name``."""
        self._warehouse.files.delete(self.location(name))

    def folder(self, name: str) -> str:
        """The folder ``name``, for Spark's readers."""
        return f"{self._folder}/{name}"

    def location(self, name: str) -> str:
        """The folder or file ``name`` for workers that read and write files themselves, as programs outside Hadoop name it."""
        return self._warehouse.reader_path(f"{self._folder}/{name}")

    def parts(self, name: str, columns: list[str]) -> Iterator[pa.Table]:
        """What was written as ``name``, one partition after the other, read by this process without a Spark job."""
        files = sorted(file.uri for file in storage.list_files(self.location(name)) if file.path.endswith(".parquet"))
        for file in files:
            yield pq.read_table(storage.open_input_file(file), columns=columns)


def _escape_glob(path: str) -> str:
    """``path`` for Spark's readers, which take every path for a pattern."""
    return "".join(f"\\{character}" if character in "*?[]{}\\" else character for character in path)
