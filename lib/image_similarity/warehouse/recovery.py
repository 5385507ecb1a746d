"""A new pointer from the records of the runs, where the pointer is lost, damaged, or older than the newest runs.

Nothing of the pointer is needed: every run that was published has its record in ``runs``, which says what the run made
current.
"""

from collections.abc import Collection, Mapping

from image_similarity.errors import JobFailed
from image_similarity.warehouse import retention
from image_similarity.warehouse.records import Record
from image_similarity.warehouse.schemas import RUNS
from image_similarity.warehouse.snapshot import POINTER, Pointer, Snapshot, recorded_runs
from image_similarity.warehouse.warehouse import Warehouse

RESTORING = "restore_runs"
"""The job whose records say that other runs became current again."""


def rebuilt(warehouse: Warehouse) -> Pointer:
    """The pointer as it was after the newest run whose tables are all there.

    In each slot the newest run wins whose tables are whole. Raises ``JobFailed`` if no run is recorded.
    """
    runs = recorded_runs(warehouse.files, warehouse.uri)
    if not runs:
        raise JobFailed(f"no run is recorded in {warehouse.uri}: there is nothing to make a pointer from")
    records = Snapshot(warehouse.uri, Pointer(0, {RUNS: {"": runs}}), warehouse.files).runs
    pointer = Pointer()
    for record in records.values():
        pointer = pointer.changed(_replaced(warehouse, record, records), _appended(warehouse, record))
    return pointer


def write(warehouse: Warehouse, pointer: Pointer) -> None:
    """Put ``pointer`` in the place of whatever is there now."""
    path = f"{warehouse.uri}/{POINTER}"

    def change(content: bytes | None) -> bytes:
        # Runs that are at work see that this is no pointer they began with.
        return Pointer(max(pointer.version, _version(content, path)) + 1, pointer.tables).as_json()

    warehouse.files.update(path, change)
    warehouse.write_views()


def unknown_runs(warehouse: Warehouse, active: Collection[str]) -> list[str]:
    """Runs that are recorded, not ``active``, and that the pointer does not know: it may be an older one."""
    return sorted(set(recorded_runs(warehouse.files, warehouse.uri)).difference(warehouse.current().runs(RUNS), active))


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
    appended = {RUNS: {"": record.run_id}}
    for table, slots in record.outputs.get("appended", {}).items():
        if table != RUNS and retention.is_whole(warehouse, table, record.run_id):
            appended[table] = dict.fromkeys(slots, record.run_id)
    return appended


def _version(content: bytes | None, path: str) -> int:
    try:
        return Pointer.from_json(content, path).version
    except JobFailed:
        return 0
