"""Retention: removes runs that newer ones have replaced, and the leftovers of dead runs.

Never removed: current runs, their inputs (``runs.inputs``; not those of searches, which nobody reads again), the vector
store with the classes that are kept beside it, and anything that an active run writes or may read (see
`image_similarity.warehouse.leases`). The vectors stay because a later run, or an earlier one that is restored, may need
them. The record of every run stays. A folder of records is removed some time after its records have been merged into
another (see `image_similarity.warehouse.compaction`).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from image_similarity.errors import WrongInput
from image_similarity.warehouse import compaction, leases
from image_similarity.warehouse.records import RUN_ID, Record
from image_similarity.warehouse.schemas import CLASS_SCORES, PROJECTIONS, QUALITY, RUNS, SCHEMAS, VECTORS
from image_similarity.warehouse.snapshot import POINTER, Pointer
from image_similarity.warehouse.warehouse import Warehouse
from image_similarity.warehouse.workspace import COMPLETE, SCRATCH, STATE

CHECKPOINTS = "embed_images"
"""The folder below ``_state`` that holds the checkpoints of unpublished runs, from which the next run resumes."""

SEARCHES = "search_images"
"""The folder below ``_state`` that holds the vectors of queries, which are in no table. Those of unpublished runs stay
as checkpoints do.
"""

UNDONE = "undone"
"""A key in the settings of a run that restored others: the newer runs that it replaced."""

_STORES = (VECTORS, CLASS_SCORES)
"""Tables that runs add to by content."""

FEWEST_KEPT = 2
"""The least number of runs of a slot that can be asked for."""

_TEMPORARY = re.compile(r".+\.[0-9a-f]{8}\.tmp")


def superseded(history: Sequence[Record], keep: int) -> list[str]:
    """The runs of each job and slot that are older than its ``keep`` newest runs that wrote tables.

    Current runs may be among them. Undone runs do not count as kept ones. Of a slot that was unpublished, all runs
    until then are older.
    """
    undone_runs = undone(history)
    by_slot: dict[tuple[str, str], list[str]] = defaultdict(list)
    for record in history:
        if record.replaced:
            by_slot[record.job, record.slot].append(record.run_id)
    old = sorted(unpublished(history))
    for runs in by_slot.values():
        kept = [run for run in runs if run not in undone_runs][-keep:]
        old += [run for run in runs if kept and run < kept[0]]
    return list(dict.fromkeys(old))


def unpublished(history: Sequence[Record]) -> set[str]:
    """Runs whose slots all were unpublished later, and that have not been restored since."""
    found: set[str] = set()
    for number, record in enumerate(history):
        if UNDONE in record.settings:
            found -= set(record.inputs.get(RUNS, []))
        if record.removed:
            found |= {before.run_id for before in history[:number] if _is_of(before, record.removed)}
    return found


def _is_of(record: Record, removed: Mapping[str, Sequence[str]]) -> bool:
    return bool(record.replaced) and all(
        set(slots) <= set(removed.get(table, ())) for table, slots in record.replaced.items()
    )


def newer(history: Sequence[Record], than: Sequence[Record]) -> list[str]:
    """Later runs of the same jobs and slots, and every run that used one of them: audits and galleries, too."""
    latest = {(record.job, record.slot): record.run_id for record in than}
    later: dict[str, None] = {}
    for record in history:
        slot = record.job, record.slot
        inputs = {run for runs in record.inputs.values() for run in runs}
        if (slot in latest and record.run_id > latest[slot]) or inputs & later.keys():
            later[record.run_id] = None
    return list(later)


def undone(history: Sequence[Record]) -> set[str]:
    """Runs that a restored run replaced, and that have not been restored since."""
    undone_runs: set[str] = set()
    for record in history:
        if UNDONE in record.settings:
            undone_runs |= set(record.settings[UNDONE])
            undone_runs -= set(record.inputs.get(RUNS, []))
    return undone_runs


def is_complete(warehouse: Warehouse, record: Record) -> bool:
    """Whether all tables of the run of ``record`` exist, and no removal of them has begun."""
    tables = [(table, run) for table, slots in published_slots(record).items() for run in slots.values()]
    return all(is_whole(warehouse, table, run) for table, run in tables)


def is_whole(warehouse: Warehouse, table: str, run: str) -> bool:
    """Whether ``run`` of ``table`` exists, and no removal of it has begun."""
    return COMPLETE in warehouse.files.entries(f"{warehouse.uri}/{table}/run_id={run}")


def published_slots(record: Record) -> dict[str, dict[str, str]]:
    """table -> slot -> run, as of this run's publication: its own tables, and the components that it used."""
    slots = {table: dict.fromkeys(slots, record.run_id) for table, slots in record.replaced.items()}
    for run in record.inputs.get(PROJECTIONS, [])[:1]:
        slots.setdefault(PROJECTIONS, {record.slot: run})
    return slots


def is_current(pointer: Pointer, record: Record) -> bool:
    """Whether the run's own slots are its. That of ``quality`` is nobody's own: runs of any fingerprint replace it."""
    slots = [(table, slot) for table, slots in record.replaced.items() if table != QUALITY for slot in slots]
    return bool(slots) and all(pointer.runs(table, slot) == [record.run_id] for table, slot in slots)


def is_search(record: Record) -> bool:
    """Whether the run answered a search. Each name of queries is a slot, which may stay current for ever."""
    return "matches" in record.replaced


def is_stale(pointer: Pointer, record: Record, history: Sequence[Record]) -> bool:
    """Whether one of the run's inputs is not current any more. The previous run of its own slot does not count."""
    others = {other.run_id for other in history if (other.job, other.slot) != (record.job, record.slot)}
    inputs = [(table, run) for table, runs in record.inputs.items() for run in runs]
    return any(run in others and run not in pointer.runs(table) for table, run in inputs)


def removable(warehouse: Warehouse, keep: int | None, discard_checkpoints: bool = False) -> list[str]:
    """The folders and files that can be removed, each once. All of them are named after a run.

    ``keep``: how many runs of each slot stay, including the current one (None: all). ``discard_checkpoints``: also
    remove the checkpoints of unpublished runs. Raises ``WrongInput`` where no warehouse is, and ``JobFailed`` where its
    pointer is gone or damaged.
    """
    # Order matters: list files, then active runs, then the pointer. A folder owned by neither stays unowned.
    contents = _Contents.from_warehouse(warehouse)
    active = leases.active(warehouse)
    snapshot = warehouse.snapshot()
    _check_is_warehouse(warehouse, snapshot.pointer)
    pointer = snapshot.pointer
    history = list(snapshot.runs.values())
    needed = _needed(pointer, history)
    needed_runs = {run for _, run in needed}
    old = set(superseded(history, keep)).difference(*active.values()) if keep else set()
    unlisted = compaction.runs_by_folder(
        warehouse, set(contents.records).difference(pointer.runs(RUNS)), snapshot.runs.keys()
    )
    # A run with a record was published, whatever the pointer says: an older pointer may have been put back.
    owned = active.keys() | snapshot.runs.keys() | set(contents.records).union(*unlisted.values())
    paths = [f"{table}/run_id={run}" for table, run in contents.tables if run not in owned]
    for table, run in contents.tables:
        if run in old and table not in _STORES and (table, run) not in needed:
            paths.append(f"{table}/run_id={run}")
    listed = compaction.runs_by_folder(warehouse, pointer.runs(RUNS), snapshot.runs.keys())
    in_use = active.keys() | {name.removeprefix(f"{RUNS}/") for read in active.values() for name in read}
    merged = merged_away(listed, unlisted, long_ago(history, keep or FEWEST_KEPT))
    paths += [f"{RUNS}/run_id={folder}" for folder in merged if folder not in in_use]
    for slot, run in contents.states:
        # An active run may be resuming from checkpoints.
        is_kept = slot.startswith((f"{CHECKPOINTS}/", f"{SEARCHES}/")) and (active or not discard_checkpoints)
        is_old = run in old and run not in needed_runs
        if run not in active and (is_old or (run not in owned and not is_kept)):
            paths.append(f"{STATE}/{slot}/{run}")
    paths += [path for path, run in contents.scratch_and_leases if run not in active]
    if not active:
        paths += contents.temporary
    return [f"{warehouse.uri}/{path}" for path in paths]


def merged_away(listed: Mapping[str, Set[str]], unlisted: Mapping[str, Set[str]], before: str) -> list[str]:
    """The folders of records whose records all are in folders that the pointer lists, made before the run ``before``.

    ``listed``, ``unlisted``: folders that the pointer lists, and others, each with the runs whose records it holds.
    """
    folder_by_run = {run: folder for folder, runs in listed.items() for run in runs}
    return sorted(
        folder
        for folder, runs in unlisted.items()
        if runs <= folder_by_run.keys() and all(folder_by_run[run] < before for run in runs)
    )


def long_ago(history: Sequence[Record], keep: int) -> str:
    """The newest run after whose beginning a job and slot have ``keep`` runs, itself included. Empty if there is none.

    A reader may still read what was current until then.
    """
    counted: Counter[tuple[str, str]] = Counter()
    for record in reversed(history):
        counted[record.job, record.slot] += 1
        if counted[record.job, record.slot] == keep:
            return record.run_id
    return ""


def _check_is_warehouse(warehouse: Warehouse, pointer: Pointer) -> None:
    """A warehouse has a pointer or, before its first publication, the folder of leases."""
    if not pointer.version and leases.FOLDER not in warehouse.files.entries(warehouse.uri):
        raise WrongInput(
            f"there is no warehouse at {warehouse.uri} (neither {POINTER} nor {leases.FOLDER}): check --warehouse"
        )


def remove(warehouse: Warehouse, paths: Sequence[str]) -> dict[str, int]:
    """Removes ``paths``, except runs that became current or are read meanwhile. Returns path -> removed bytes."""
    removed: dict[str, int] = {}
    for path in paths:
        try:
            size = warehouse.files.size(path)
            # No job makes a folder of records current again.
            is_table = "/run_id=" in path and not path.startswith(f"{warehouse.uri}/{RUNS}/")
            if is_table and not _begin_removal(warehouse, path):
                continue
            warehouse.files.delete(path)
            removed[path] = size
        except FileNotFoundError:
            pass  # another job is cleaning, too
    return removed


def _begin_removal(warehouse: Warehouse, folder: str) -> bool:
    """Marks the folder of a run as incomplete, so that an interrupted removal leaves nothing that looks like a table.

    Returns whether the removal may go on. Restore takes its lease, then checks the marker; cleaning removes the marker,
    then checks leases; at least one of them backs off.
    """
    marker, (of_table, _, run) = f"{folder}/{COMPLETE}", folder.rpartition("/run_id=")
    was_complete = COMPLETE in warehouse.files.entries(folder)
    warehouse.files.delete(marker)
    is_current = run in warehouse.current().runs(of_table.rpartition("/")[2])
    if not is_current and not any(run in read for read in leases.active(warehouse).values()):
        return True
    if was_complete:
        warehouse.files.write(marker, b"")
    return False


@dataclass(frozen=True)
class _Contents:
    """Everything in a warehouse, whoever owns it."""

    tables: list[tuple[str, str]]
    """Tables and their runs, without ``runs``."""
    records: list[str]
    """The folders of records."""
    states: list[tuple[str, str]]
    """Slots and runs, see `Warehouse.state`."""
    scratch_and_leases: list[tuple[str, str]]
    """Paths of scratch folders and leases, and their runs."""
    temporary: list[str]
    """Files that were written to replace another one, and did not."""

    @classmethod
    def from_warehouse(cls, warehouse: Warehouse) -> "_Contents":
        def names(*folder: str) -> list[str]:
            try:
                return sorted(warehouse.files.entries("/".join([warehouse.uri, *folder])))
            except NotADirectoryError:  # a file that is not the warehouse's
                return []

        def runs_in(*folder: str) -> list[str]:
            """Whatever else lies there is somebody else's."""
            found = [name.removeprefix("run_id=") for name in names(*folder)]
            return [run for run in found if RUN_ID.fullmatch(run)]

        slots = [f"{owner}/{slot}" for owner in names(STATE) for slot in names(STATE, owner)]
        return cls(
            tables=[(table, run) for table in SCHEMAS if table != RUNS for run in runs_in(table)],
            records=runs_in(RUNS),
            states=[(slot, run) for slot in slots for run in runs_in(STATE, slot)],
            scratch_and_leases=[
                (f"{folder}/{run}", run) for folder in (SCRATCH, leases.FOLDER) for run in runs_in(folder)
            ],
            temporary=[name for name in names() if _TEMPORARY.fullmatch(name)],
        )


def _needed(pointer: Pointer, history: Sequence[Record]) -> set[tuple[str, str]]:
    """Table and run of everything published, and of the inputs of current runs other than searches."""
    published = {(table, run) for table in pointer.tables for run in pointer.runs(table)}
    # What is in ``quality`` was made of pictures and of the rows before, which nobody reads again.
    current = {run for table, run in published if table not in (*_STORES, QUALITY, RUNS)}
    used = [record.inputs.items() for record in history if record.run_id in current and not is_search(record)]
    components = {(PROJECTIONS, run) for record in history for run in record.inputs.get(PROJECTIONS, [])}
    return published | components | {(table, run) for inputs in used for table, runs in inputs for run in runs}
