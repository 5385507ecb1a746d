"""A new pointer from the records of the runs, where the pointer is lost, damaged, or older than the newest runs.

Nothing of the pointer is needed: every run that was published has its record in ``runs``, which says what the run made
current.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from image_similarity.errors import JobFailed
from image_similarity.warehouse import compaction, leases, retention
from image_similarity.warehouse.records import Record
from image_similarity.warehouse.schemas import RUNS
from image_similarity.warehouse.snapshot import POINTER, Pointer, make_current, record_folders, records_of
from image_similarity.warehouse.warehouse import Warehouse

RESTORING = "restore_runs"
"""The job whose records say that other runs became current again."""


@dataclass(frozen=True)
class Rebuilt:
    """What the records say."""

    pointer: Pointer
    """Without ``runs``, which `write` adds."""
    rows: pa.Table
    """The rows of ``runs``, of each run one, oldest first."""
    folders: frozenset[str]
    """The folders that hold them. Those of before and after a merging hold the same rows."""


def rebuilt(warehouse: Warehouse) -> Rebuilt:
    """The pointer as it was after the newest run whose tables are all there.

    In each slot the newest run wins whose tables are whole. Raises ``JobFailed`` if no run is recorded.
    """
    folders = record_folders(warehouse.files, warehouse.uri)
    rows = compaction.each_run_once(list(compaction.read_folders(warehouse, folders).values()))
    if not rows.num_rows:
        raise JobFailed(f"no run is recorded in {warehouse.uri}: there is nothing to make a pointer from")
    records = records_of(rows)
    tables: dict[str, dict[str, list[str]]] = {}
    for record in records.values():
        make_current(tables, _replaced(warehouse, record, records), _appended(warehouse, record), record.removed)
    return Rebuilt(Pointer(len(records), tables), rows, frozenset(folders))


def write(warehouse: Warehouse, rebuilt: Rebuilt) -> None:
    """Puts the pointer of ``rebuilt`` in the place of whatever is there now, and merges the records into one folder.

    Only an active run's record keeps its folder, because the run may just be publishing.
    """
    recorded = rebuilt.rows["run_id"]
    active = sorted(leases.active(warehouse).keys() & rebuilt.folders & set(recorded.to_pylist()))
    others = rebuilt.rows.filter(pc.invert(pc.is_in(recorded, pa.array(active, pa.string()))))
    with compaction.folder_of(warehouse, others) as merged:
        _replace(warehouse, Pointer(rebuilt.pointer.version, {**rebuilt.pointer.tables, RUNS: {"": [merged, *active]}}))


def _replace(warehouse: Warehouse, pointer: Pointer) -> None:
    path = f"{warehouse.uri}/{POINTER}"

    def change(content: bytes | None) -> bytes:
        # Runs that are at work see that this is no pointer they began with.
        return Pointer(max(pointer.version, _version(content, path)) + 1, pointer.tables).as_json()

    warehouse.files.update(path, change)
    warehouse.write_views()


def unknown_runs(warehouse: Warehouse, active: Collection[str]) -> list[str]:
    """Runs that are recorded, not ``active``, and that the pointer does not know: it may be an older one."""
    known = warehouse.snapshot().runs.keys()
    folders = compaction.runs_by_folder(warehouse, record_folders(warehouse.files, warehouse.uri), known)
    return sorted(set().union(*folders.values()).difference(known, active))


def _replaced(warehouse: Warehouse, record: Record, records: Mapping[str, Record]) -> dict[str, dict[str, str]]:
    sources = [record]
    if record.job == RESTORING:
        sources = [records[run] for run in record.inputs.get(RUNS, []) if run in records]
    slots: dict[str, dict[str, str]] = {}
    for source in sources:
        if source.replaced and retention.is_complete(warehouse, source):
            for table, runs in retention.published_slots(source).items():
                slots.setdefault(table, {}).update(runs)
    return slots


def _appended(warehouse: Warehouse, record: Record) -> dict[str, dict[str, str]]:
    appended: dict[str, dict[str, str]] = {}
    for table, slots in record.outputs.get("appended", {}).items():
        if table != RUNS and retention.is_whole(warehouse, table, record.run_id):
            appended[table] = dict.fromkeys(slots, record.run_id)
    return appended


def _version(content: bytes | None, path: str) -> int:
    try:
        return Pointer.from_json(content, path).version
    except JobFailed:
        return 0
