"""Makes an earlier run current again, or all runs of one label; without --to, lists the runs in the warehouse."""

import argparse
from collections.abc import Sequence

from image_similarity.errors import WrongInput, counted, did_you_mean
from image_similarity.jobs import command_line, early
from image_similarity.jobs.job import Application, Job
from image_similarity.reporting import aligned, note, say
from image_similarity.warehouse import recovery, retention
from image_similarity.warehouse.records import Record
from image_similarity.warehouse.snapshot import POINTER, Pointer, Snapshot

NAME = "restore_runs"
RUNS_LISTED = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--to", metavar="RUN", help="a run, or the label (--run-id) of several; without it runs are listed"
    )
    parser.add_argument(
        "--rebuild",
        action="store_true",
        help=f"write {POINTER} anew from the runs that are recorded: where it is lost, damaged or an older one",
    )


def check_arguments(arguments: argparse.Namespace) -> None:
    """Raises ``WrongInput`` for flags that contradict, and for a run that is not there, before Spark is started."""
    if arguments.rebuild and arguments.to:
        raise WrongInput("--rebuild makes the newest runs current, so it takes no --to: rebuild first, then restore")
    if arguments.to and (published := early.snapshot(arguments.warehouse)):
        _newest(published, arguments.to)


def run(application: Application) -> None:
    if application.arguments.rebuild:
        return _rebuild(application)
    job = application.job(NAME, application.arguments.to or "")
    records = _records(job.base_snapshot)
    history = [record for record in records if record.replaced]
    if not job.arguments.to:
        _list(job, history)
        return
    chosen = _chosen(job)
    if all(retention.is_current(job.base_snapshot.pointer, record) for record in chosen):
        say(f"restore_runs: current already: {', '.join(map(_described, chosen))}")
        return
    undone = retention.newer(records, chosen)
    replace = _merged(chosen)
    job.older = frozenset(run for slots in replace.values() for run in slots.values())
    job.plan(
        *(f"make {_described(record)} current" for record in chosen),
        f"in place of {counted(len(undone), 'newer run, which stays', 'newer runs, which stay')}",
    )
    _check_complete(job, chosen)  # again: the lease protects them from now on, but a removal may have begun before
    job.publish(
        replace=replace,
        inputs={"runs": [record.run_id for record in chosen]},
        counts={"undone": len(undone)},
        used={retention.UNDONE: undone},
    )
    say(f"restore_runs: current again: {', '.join(map(_described, chosen))}")
    pointer = job.warehouse.current()
    for record in records:
        if record.job == "render_gallery" and record.run_id in undone:
            note(f"the gallery {record.slot} may show what was undone: run render_gallery again")
        if record.job == "render_map" and record.run_id in undone:
            note(f"the map of {record.settings['gallery']['uri']} shows what was undone: run render_map again")
    for line in stale(pointer, history):
        note(line)


def stale(pointer: Pointer, history: Sequence[Record]) -> list[str]:
    """What is current and was made of other runs than are, a line each.

    Searches, of which there may be thousands, are told together: each is an answer of its day.
    """
    current = [record for record in history if retention.is_current(pointer, record)]
    stale_records = [record for record in current if retention.is_stale(pointer, record, history)]
    lines = [
        f"{_described(record)} was made of other runs than are current: restore an older one, or run the job again"
        for record in stale_records
        if not retention.is_search(record)
    ]
    if searches := sum(map(retention.is_search, stale_records)):
        lines.append(f"searches that were answered by other runs than are current: {searches:,}; they stay as they are")
    return lines


def _rebuild(application: Application) -> None:
    warehouse = application.warehouse
    rebuilt = recovery.rebuilt(warehouse)
    pointer = rebuilt.pointer
    slots = [(table, slot) for table in sorted(pointer.tables) for slot in sorted(pointer.tables[table])]
    rows = [(table, slot, ", ".join(pointer.runs(table, slot))) for table, slot in slots]
    made = "would make" if application.arguments.dry_run else "made"
    if not application.arguments.dry_run:
        recovery.write(warehouse, rebuilt)
    say(f"restore_runs: {made} {POINTER} anew from {counted(rebuilt.rows.num_rows, 'run')}; current are", aligned(rows))


def _records(published: Snapshot) -> list[Record]:
    """All runs but those of this job."""
    return [record for record in published.runs.values() if record.job != NAME]


def _newest(published: Snapshot, named: str) -> list[Record]:
    """The runs that ``--to`` names, the newest of each slot. Raises ``WrongInput`` if there are none."""
    history = [record for record in _records(published) if record.replaced]
    newest = {(record.job, record.slot): record for record in history if named in (record.run_id, record.label)}
    if not newest:
        names = {name for record in history for name in (record.run_id, record.label) if name}
        raise WrongInput(
            f"no run in {published.uri} is called {named!r}, and none has that label"
            + (did_you_mean(named, sorted(names)) or "; see without --to")
        )
    return list(newest.values())


def _chosen(job: Job) -> list[Record]:
    """As `_newest`, and ``WrongInput`` if a table of one is gone."""
    chosen = _newest(job.base_snapshot, job.arguments.to)
    _check_complete(job, chosen)
    return chosen


def _check_complete(job: Job, chosen: Sequence[Record]) -> None:
    for record in chosen:
        if not retention.is_complete(job.warehouse, record):
            raise WrongInput(f"{_described(record)} is no longer there: it was removed (--keep-runs)")


def _merged(chosen: Sequence[Record]) -> dict[str, dict[str, str]]:
    """table -> slot -> run, as `Job.publish` takes it: the tables that were current with each run."""
    merged: dict[str, dict[str, str]] = {}
    for record in chosen:
        for table, slots in retention.published_slots(record).items():
            merged.setdefault(table, {}).update(slots)
    return merged


def _list(job: Job, history: Sequence[Record]) -> None:
    by_slot: dict[tuple[str, str], list[Record]] = {}
    for record in history:
        by_slot.setdefault((record.job, record.slot), []).append(record)
    rows: list[tuple[str, ...]] = [("job", "slot", "run", "label", "finished", "")]
    for runs in by_slot.values():
        rows += [_row(job, record) for record in runs[-RUNS_LISTED:]]
    say(f"restore_runs: the last {RUNS_LISTED} runs of each job and slot in {job.warehouse.uri}")
    say(aligned(rows))


def _row(job: Job, record: Record) -> tuple[str, ...]:
    state = "" if retention.is_complete(job.warehouse, record) else "removed"
    state = "current" if retention.is_current(job.base_snapshot.pointer, record) else state
    return record.job, record.slot, record.run_id, record.label or "", f"{record.finished_at:%Y-%m-%d %H:%M} UTC", state


def _described(record: Record) -> str:
    return f"{record.run_id} ({record.job} {record.slot}".rstrip() + ")"


if __name__ == "__main__":
    command_line.start("restore_runs")
