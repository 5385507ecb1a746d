"""What a warehouse need not keep: runs that newer ones have replaced, and what runs that died have left.

Nothing that is published goes, nothing that a published run was made of (``runs.inputs``), and nothing of a run that is
at work (see `image_similarity.warehouse.leases`). Vectors stay: a later run, or an earlier one that is restored, may
need them."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from image_similarity.warehouse import leases
from image_similarity.warehouse.records import Record
from image_similarity.warehouse.schemas import PROJECTIONS, RUNS, SCHEMAS, VECTORS
from image_similarity.warehouse.snapshot import Pointer
from image_similarity.warehouse.warehouse import Warehouse
from image_similarity.warehouse.workspace import SCRATCH, STATE

SAVED = "embed_images"
"""Below ``_state``: vectors of runs that did not come to their end, which the next run takes over."""

UNDONE = "undone"
"""In the settings of a run that restored others: the runs whose place they took."""

_COMPLETE = "_SUCCESS"  # which Spark writes when all parts are there
_TEMPORARY = re.compile(r".+\.[0-9a-f]{8}\.tmp")


def superseded(history: Sequence[Record], keep: int) -> list[str]:
    """Of each job and slot all that is older than the ``keep`` newest runs that wrote tables; current ones may be among
    them.

    Runs that were undone do not count as ones that are kept.
    """
    gone = undone(history)
    by_slot: dict[tuple[str, str], list[str]] = defaultdict(list)
    for record in history:
        if record.replaced:
            by_slot[record.job, record.slot].append(record.run_id)
    old = []
    for runs in by_slot.values():
        kept = [run for run in runs if run not in gone][-keep:]
        old += [run for run in runs if kept and run < kept[0]]
    return old


def newer(history: Sequence[Record], than: Sequence[Record]) -> list[str]:
    """Runs of the same jobs and slots that came later, and all that was made of them: audits and galleries, too."""
    ends = {(record.job, record.slot): record.run_id for record in than}
    later: dict[str, None] = {}
    for record in history:
        slot = record.job, record.slot
        made_of = {run for runs in record.inputs.values() for run in runs}
        if (slot in ends and record.run_id > ends[slot]) or made_of & later.keys():
            later[record.run_id] = None
    return list(later)


def undone(history: Sequence[Record]) -> set[str]:
    """Runs in whose place an earlier one was restored, and that were not restored since."""
    gone: set[str] = set()
    for record in history:
        if UNDONE in record.settings:
            gone |= set(record.settings[UNDONE])
            gone -= set(record.inputs.get(RUNS, []))
    return gone


def is_there(warehouse: Warehouse, record: Record) -> bool:
    """Whether the tables of a run have not been removed, nor begun to be."""
    folders = [f"{table}/run_id={run}" for table, slots in made_current(record).items() for run in slots.values()]
    return all(_COMPLETE in warehouse.files.entries(f"{warehouse.uri}/{folder}") for folder in folders)


def made_current(record: Record) -> dict[str, dict[str, str]]:
    """table -> slot -> run, as it was when this run was published, its own and the components that it used."""
    slots = {table: dict.fromkeys(slots, record.run_id) for table, slots in record.replaced.items()}
    for run in record.inputs.get(PROJECTIONS, [])[:1]:
        slots.setdefault(PROJECTIONS, {record.slot: run})
    return slots


def is_current(pointer: Pointer, record: Record) -> bool:
    slots = [(table, slot) for table, slots in record.replaced.items() for slot in slots]
    return bool(slots) and all(pointer.runs(table, slot) == [record.run_id] for table, slot in slots)


def is_stale(pointer: Pointer, record: Record, history: Sequence[Record]) -> bool:
    """Whether a run was made of runs of which one is not current any more. Its own slot's run before does not count."""
    others = {one.run_id for one in history if (one.job, one.slot) != (record.job, record.slot)}
    used = [(table, run) for table, runs in record.inputs.items() for run in runs]
    return any(run in others and run not in pointer.runs(table) for table, run in used)


def removable(warehouse: Warehouse, keep: int | None, saved_too: bool = False) -> list[str]:
    """What can go: folders and files, each once.

    ``keep``: how many runs of each slot stay, the current one included (None: all). ``saved_too``: also the vectors of
    runs that did not come to their end."""
    # In this order: what is seen now and is nobody's afterwards, neither at work nor published, will never be
    # anybody's.
    found = _Found.of(warehouse)
    at_work = leases.alive(warehouse)
    snapshot = warehouse.snapshot()
    pointer = snapshot.pointer
    history = list(snapshot.runs.values())
    needed = _needed(pointer, history)
    old = set(superseded(history, keep)).difference(*at_work.values()) if keep else set()
    alive = at_work.keys() | set(pointer.runs(RUNS))
    paths = [f"{table}/run_id={run}" for table, run in found.tables if run not in alive]
    for table, run in found.tables:
        if run in old and table not in (VECTORS, RUNS) and (table, run) not in needed:
            paths.append(f"{table}/run_id={run}")
    for slot, run in found.states:
        is_kept = slot.startswith(f"{SAVED}/") and (at_work or not saved_too)  # one at work may be taking it over
        is_old = run in old and ("neighbours", run) not in needed
        if run not in at_work and (is_old or (run not in alive and not is_kept)):
            paths.append(f"{STATE}/{slot}/{run}")
    paths += [path for path, run in found.passing if run not in at_work]
    if not at_work:
        paths += found.temporary
    return [f"{warehouse.uri}/{path}" for path in paths]


def remove(warehouse: Warehouse, paths: Sequence[str]) -> dict[str, int]:
    """Remove them, but for runs that are wanted again meanwhile; what was removed, and the bytes that it had."""
    removed: dict[str, int] = {}
    for path in paths:
        try:
            size = warehouse.files.size(path)
            if "/run_id=" in path and not _taken_apart(warehouse, path):
                continue
            warehouse.files.delete(path)
            removed[path] = size
        except FileNotFoundError:
            pass  # another one is cleaning, too
    return removed


def _taken_apart(warehouse: Warehouse, folder: str) -> bool:
    """Whether the folder of a run is no table any more: what is left of it if removing is cut off must not look like
    one.

    Who makes an earlier run current says so (`leases.held`) and then looks whether it is whole; here it is the other
    way round. So of two that do this at the same moment at least one sees the other, and gives way."""
    marker, (of_table, _, run) = f"{folder}/{_COMPLETE}", folder.rpartition("/run_id=")
    was_complete = _COMPLETE in warehouse.files.entries(folder)
    warehouse.files.delete(marker)
    is_current = run in warehouse.current().runs(of_table.rpartition("/")[2])
    if not is_current and not any(run in read for read in leases.alive(warehouse).values()):
        return True
    if was_complete:
        warehouse.files.write(marker, b"")
    return False


@dataclass(frozen=True)
class _Found:
    """What lies in a warehouse, whosoever it is."""

    tables: list[tuple[str, str]]
    """Table and run."""
    states: list[tuple[str, str]]
    """Slot and run, see `Warehouse.state`."""
    passing: list[tuple[str, str]]
    """Path and run of scratch folders and leases."""
    temporary: list[str]
    """Files that were about to take another's place."""

    @classmethod
    def of(cls, warehouse: Warehouse) -> "_Found":
        def names(*folder: str) -> list[str]:
            try:
                return sorted(warehouse.files.entries("/".join([warehouse.uri, *folder])))
            except NotADirectoryError:  # somebody's file
                return []

        runs = [(table, name) for table in SCHEMAS for name in names(table) if name.startswith("run_id=")]
        slots = [f"{owner}/{slot}" for owner in names(STATE) for slot in names(STATE, owner)]
        return cls(
            tables=[(table, name.removeprefix("run_id=")) for table, name in runs],
            states=[(slot, run) for slot in slots for run in names(STATE, slot)],
            passing=[(f"{folder}/{run}", run) for folder in (SCRATCH, leases.FOLDER) for run in names(folder)],
            temporary=[name for name in names() if _TEMPORARY.fullmatch(name)],
        )


def _needed(pointer: Pointer, history: Sequence[Record]) -> set[tuple[str, str]]:
    """Table and run: what is published, and what that was made of."""
    published = {(table, run) for table in pointer.tables for run in pointer.runs(table)}
    current = {run for table, run in published if table not in (VECTORS, RUNS)}
    made_of = [record.inputs.items() for record in history if record.run_id in current]
    components = {(PROJECTIONS, run) for record in history for run in record.inputs.get(PROJECTIONS, [])}
    return published | components | {(table, run) for inputs in made_of for table, runs in inputs for run in runs}
