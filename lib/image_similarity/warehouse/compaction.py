"""Compaction of ``runs``: the records of many runs move into one folder, so that the pointer and the views stay small.

Every run publishes its record in a folder of its own, which is named after the run. Once the pointer lists many of
them, the publishing job merges: it writes the same rows to one new folder, and lists that folder in the place of
exactly those that it merged. So a run that is published meanwhile keeps its record, and of two jobs that merge at once
one gives way. A merged folder has an id that no run has. A folder that was merged stays until retention removes it.

The record of an active run is not merged: its process looks for its own run in the pointer.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pyarrow as pa

from image_similarity.warehouse import leases
from image_similarity.warehouse.records import new_run_id
from image_similarity.warehouse.schemas import RUNS, SCHEMAS
from image_similarity.warehouse.snapshot import Pointer, read_records
from image_similarity.warehouse.warehouse import Warehouse

MOST_FOLDERS = 64
"""Folders of records that a pointer lists before they are merged. Each costs its readers one small file."""

READERS = 16
"""Folders that are read at once. Each is a small file, and a store takes its time to answer."""


def compact(warehouse: Warehouse, pointer: Pointer) -> None:
    """Merges records if ``pointer``, which was current a moment ago, lists more than `MOST_FOLDERS` idle folders.

    If another job merges the same folders at the same moment, nothing changes. Raises ``OSError`` and ``JobFailed`` if
    the warehouse cannot be read or written; what was published before is current then, too.
    """
    folders = pointer.runs(RUNS)
    if len(folders) <= MOST_FOLDERS:
        return
    active = leases.active(warehouse)  # read after the pointer: a run takes its lease before it is listed
    idle = [folder for folder in folders if folder not in active]
    if len(idle) <= MOST_FOLDERS:
        return
    tables = read_folders(warehouse, idle)
    # A folder without records has lost them: it stays listed, so that it is told.
    merged = smallest({folder: table.num_rows for folder, table in tables.items() if table.num_rows})
    if len(merged) < 2:
        return
    with folder_of(warehouse, each_run_once([tables[folder] for folder in merged])) as folder:
        warehouse.replace_records(folder, set(merged))


def smallest(sizes: Mapping[str, int]) -> list[str]:
    """The folders to merge, of those whose numbers of records are ``sizes``. Empty for no folders.

    From the smallest on, each that has at most twice the records of those before it. So the folders that stay are each
    more than twice as large as the next smaller one, and a record is copied a logarithmic number of times.
    """
    chosen: list[str] = []
    total = 0
    for folder, size in sorted(sizes.items(), key=lambda item: item[1]):
        if chosen and size > 2 * max(total, 1):
            break
        chosen.append(folder)
        total += size
    return chosen


def runs_by_folder(warehouse: Warehouse, folders: Collection[str], recorded: Set[str]) -> dict[str, set[str]]:
    """Each of ``folders`` of records, and the runs whose records it holds.

    ``recorded``: runs. A folder that is named after one of them holds its record alone, and is not read.
    """
    own = {folder: {folder} for folder in folders if folder in recorded}
    others = read_folders(warehouse, [folder for folder in folders if folder not in own])
    return own | {folder: set(rows["run_id"].to_pylist()) for folder, rows in others.items()}


def read_folders(warehouse: Warehouse, folders: Sequence[str]) -> dict[str, pa.Table]:
    """Each of ``folders`` of records, and its rows, as `read_records` reads them."""
    with ThreadPoolExecutor(READERS) as threads:
        tables = threads.map(lambda folder: read_records(warehouse.files, warehouse.uri, folder), folders)
        return dict(zip(folders, tables, strict=True))


@contextmanager
def folder_of(warehouse: Warehouse, records: pa.Table) -> Iterator[str]:
    """A new folder with ``records``. A lease protects it while this context is open.

    Whoever enters makes the folder current before the context ends.
    """
    folder = new_run_id()
    with leases.held(warehouse, folder, Pointer()):
        warehouse.write_records(folder, records)
        yield folder


def each_run_once(tables: list[pa.Table]) -> pa.Table:
    """The rows of ``tables``, of each run one, oldest first."""
    # By "default", columns that a newer version added are kept, too.
    records = pa.concat_tables([SCHEMAS[RUNS].empty_table(), *tables], promote_options="default")
    row_by_run = {run: row for row, run in enumerate(records["run_id"].to_pylist())}
    rows = pa.array([row_by_run[run] for run in sorted(row_by_run)], pa.int64())
    return records.take(rows).combine_chunks()
