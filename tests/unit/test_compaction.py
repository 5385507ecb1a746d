"""Records of many runs move into one folder: none is lost or doubled, whoever publishes, cleans or dies meanwhile."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_similarity.errors import JobFailed
from image_similarity.warehouse import compaction, leases, recovery, retention
from image_similarity.warehouse.records import Record
from image_similarity.warehouse.schemas import RUNS, SCHEMAS
from image_similarity.warehouse.snapshot import POINTER, Pointer
from image_similarity.warehouse.warehouse import Warehouse

FOLDERS = 4


def run_id(number: int) -> str:
    """Ids of a year long ago: what is merged in a test is merged after them."""
    return f"r20200101T000000-{number:08x}"


def later(number: int) -> str:
    """Ids of runs that are published after everything that a test merges."""
    return f"r29990101T000000-{number:08x}"


def record(run: str, slot: str = "", label: str | None = None) -> Record:
    now = datetime(2026, 1, 2, tzinfo=timezone.utc)
    values: dict[str, Any] = {"inputs": {}, "settings": {}, "counts": {}, "versions": {}, "stages": {}, "recall": None}
    outputs = {"replaced": {"manifest": [slot]}, "appended": {}}
    values |= {"outputs": outputs, "status": "published", "seconds": 1.0, "started_at": now, "finished_at": now}
    return Record(run_id=run, job="build_manifest", slot=slot, label=label, **values)


def publish(warehouse: Warehouse, run: str) -> Pointer:
    """What a job does at its end, with a table that has no rows."""
    base, folder = warehouse.current(), Path(warehouse.uri, "manifest", f"run_id={run}")
    folder.mkdir(parents=True)
    pq.write_table(SCHEMAS["manifest"].empty_table(), folder / "part-00000.parquet")
    (folder / "_SUCCESS").touch()
    warehouse.write_record(record(run, label=f"label {run}"))
    return warehouse.publish(base, {"manifest": {"": run}}, {RUNS: {"": run}})


def recorded(warehouse: Warehouse) -> list[str]:
    """The runs in the view, as DuckDB lists them: a record that is listed twice is seen."""
    db = duckdb.connect()
    db.execute(Path(warehouse.uri, "views.sql").read_text())
    return [run for (run,) in db.sql("SELECT run_id FROM runs ORDER BY 1").fetchall()]


def on_disk(warehouse: Warehouse) -> set[str]:
    return {folder.name.removeprefix("run_id=") for folder in Path(warehouse.uri, RUNS).iterdir()}


@pytest.fixture
def warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    """Six runs, whose records are in folders of their own."""
    monkeypatch.setattr(compaction, "MOST_FOLDERS", FOLDERS)
    warehouse = Warehouse(None, str(tmp_path / "w"))  # type: ignore[arg-type]
    for number in range(6):
        publish(warehouse, run_id(number))
    return warehouse


SIX = [run_id(number) for number in range(6)]


def test_twenty_thousand_runs_need_few_folders_and_few_copies() -> None:
    listed: dict[str, int] = {}
    copied, most = 0, 0
    for number in range(20_000):
        listed[str(number)] = 1
        most = max(most, len(listed))
        if len(listed) > compaction.MOST_FOLDERS:
            merged = compaction.smallest(listed)
            copied += sum(listed[folder] for folder in merged)
            listed = {f"m{number}": sum(listed.pop(folder) for folder in merged), **listed}
    assert sum(listed.values()) == 20_000 and most == compaction.MOST_FOLDERS + 1
    assert copied <= 10 * 20_000, "each record is copied some times, not once for every 64 runs after it"
    assert compaction.smallest({}) == [] and compaction.smallest({"a": 7}) == ["a"]


def test_all_records_stay_and_few_folders_are_listed(warehouse: Warehouse) -> None:
    before = warehouse.snapshot().runs
    compaction.compact(warehouse, warehouse.current())
    after = warehouse.snapshot()
    assert len(after.run_ids(RUNS)) == 1 and after.runs == before and list(before) == SIX
    assert recorded(warehouse) == SIX and after.pointer.runs("manifest") == [SIX[-1]]
    publish(warehouse, run_id(6))
    assert recorded(warehouse) == [*SIX, run_id(6)] and len(warehouse.current().runs(RUNS)) == 2
    pointer = warehouse.current()
    compaction.compact(warehouse, pointer)
    assert warehouse.current() == pointer, "few folders are left alone"
    assert all(warehouse.is_published(run) for run in SIX) and not warehouse.is_published(run_id(7))


def test_a_run_that_is_published_meanwhile_keeps_its_record(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Warehouse.write_records

    def slow(self: Warehouse, folder: str, records: pa.Table) -> None:
        write(self, folder, records)
        if len(records) > 1:
            publish(warehouse, run_id(6))

    monkeypatch.setattr(Warehouse, "write_records", slow)
    compaction.compact(warehouse, warehouse.current())
    assert warehouse.current().runs(RUNS)[1:] == [run_id(6)]
    assert recorded(warehouse) == [*SIX, run_id(6)] and warehouse.current().runs("manifest") == [run_id(6)]


def test_of_two_that_merge_at_once_one_gives_way(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_records, seen = Warehouse.replace_records, warehouse.current()

    def late(self: Warehouse, merged: str, folders: Any) -> None:
        monkeypatch.setattr(Warehouse, "replace_records", replace_records)
        compaction.compact(warehouse, seen)
        self.replace_records(merged, folders)

    monkeypatch.setattr(Warehouse, "replace_records", late)
    compaction.compact(warehouse, seen)
    assert recorded(warehouse) == SIX and len(warehouse.current().runs(RUNS)) == 1
    assert on_disk(warehouse) == {*SIX, *warehouse.current().runs(RUNS)}, "the other folder is removed"


@pytest.mark.parametrize("step", ["update", "write"])
def test_a_death_in_the_middle_loses_nothing(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Before the pointer, and between the pointer and the views."""
    done = getattr(type(warehouse.files), step)

    def dies(self: Any, path: str, content: Any) -> None:
        if path.endswith((POINTER, "views.sql")):
            raise KeyboardInterrupt
        done(self, path, content)

    with monkeypatch.context() as patched:
        patched.setattr(type(warehouse.files), step, dies)
        with pytest.raises(KeyboardInterrupt):
            compaction.compact(warehouse, warehouse.current())
    assert recorded(warehouse) == list(warehouse.snapshot().runs) == SIX
    assert retention.removable(warehouse, None) == [], "folders stay for those who may be reading them"
    for number in range(2):
        publish(warehouse, later(number))
    retention.remove(warehouse, retention.removable(warehouse, None))
    assert on_disk(warehouse) == set(warehouse.current().runs(RUNS)), "what the dead one left is removed"
    assert recorded(warehouse) == [*SIX, later(0), later(1)]


def test_the_record_of_an_active_run_keeps_its_folder(warehouse: Warehouse) -> None:
    with leases.held(warehouse, SIX[2], Pointer()):
        compaction.compact(warehouse, warehouse.current())
        assert warehouse.current().runs(RUNS)[1:] == [SIX[2]] and recorded(warehouse) == SIX
        # The store's answer was lost, and the run publishes again what it has published.
        warehouse.publish(Pointer(), {"manifest": {"": SIX[5]}}, {RUNS: {"": SIX[2]}})
    assert recorded(warehouse) == SIX


def test_folders_are_removed_when_nobody_can_be_reading_them(warehouse: Warehouse) -> None:
    before = warehouse.current()
    compaction.compact(warehouse, before)
    assert retention.removable(warehouse, 2) == [f"{warehouse.uri}/manifest/run_id={run}" for run in SIX[:-2]]
    publish(warehouse, later(0))
    assert not [path for path in retention.removable(warehouse, 2) if f"/{RUNS}/" in path]
    publish(warehouse, later(1))
    assert not [path for path in retention.removable(warehouse, 3) if f"/{RUNS}/" in path]
    folders = [f"{warehouse.uri}/{RUNS}/run_id={run}" for run in SIX]
    with leases.held(warehouse, later(2), before):
        assert retention.removable(warehouse, None) == []
    assert retention.removable(warehouse, None) == folders
    assert set(retention.remove(warehouse, retention.removable(warehouse, 2))) >= set(folders)
    assert recorded(warehouse) == [*SIX, later(0), later(1)]
    assert {f.name for f in Path(warehouse.uri, "manifest").iterdir()} == {f"run_id={later(i)}" for i in range(2)}


def test_tables_of_runs_whose_records_were_merged_are_no_leftovers(warehouse: Warehouse) -> None:
    compaction.compact(warehouse, warehouse.current())
    for number in range(2):
        publish(warehouse, later(number))
    retention.remove(warehouse, retention.removable(warehouse, None))
    assert on_disk(warehouse).isdisjoint(SIX)
    assert len(list(Path(warehouse.uri, "manifest").iterdir())) == 8


def test_an_older_pointer_works_while_its_folders_are_there_and_is_told_after(warehouse: Warehouse) -> None:
    older, path = warehouse.current(), Path(warehouse.uri, POINTER)
    compaction.compact(warehouse, older)
    for number in range(2):
        publish(warehouse, later(number))
    newest = path.read_bytes()
    path.write_bytes(older.as_json())
    warehouse.write_views()
    assert list(warehouse.snapshot().runs) == recorded(warehouse) == SIX
    assert recovery.unknown_runs(warehouse, []) == [later(0), later(1)]
    assert retention.removable(warehouse, 6) == [], "also the merged folder: others may be reading it"
    path.write_bytes(newest)
    retention.remove(warehouse, retention.removable(warehouse, None))
    path.write_bytes(older.as_json())
    for look in (lambda: warehouse.snapshot().runs, lambda: retention.removable(warehouse, 2)):
        with pytest.raises(JobFailed, match="records of runs are gone .* older _current.json .*--rebuild"):
            look()
    assert warehouse.is_published(run_id(99)), "in doubt nothing is removed"
    recovery.write(warehouse, recovery.rebuilt(warehouse))
    assert recorded(warehouse) == [*SIX, later(0), later(1)]


@pytest.mark.parametrize("cleaned", [False, True])
def test_a_lost_pointer_is_rebuilt_after_a_merging(warehouse: Warehouse, cleaned: bool) -> None:
    compaction.compact(warehouse, warehouse.current())
    for number in range(2):
        publish(warehouse, later(number))
    if cleaned:
        retention.remove(warehouse, retention.removable(warehouse, None))
    before = warehouse.snapshot().runs
    Path(warehouse.uri, POINTER).unlink()
    with pytest.raises(JobFailed, match="_current.json is gone"):
        warehouse.current()
    with leases.held(warehouse, later(1), Pointer()):
        recovery.write(warehouse, recovery.rebuilt(warehouse))
        assert warehouse.current().runs(RUNS)[1:] == [later(1)], "it may just be publishing"
    assert warehouse.snapshot().runs == before and recorded(warehouse) == list(before)
    assert warehouse.current().runs("manifest") == [later(1)] and recovery.unknown_runs(warehouse, []) == []


def test_columns_of_a_newer_version_are_kept(warehouse: Warehouse) -> None:
    table = record(SIX[0]).as_table().append_column("host", pa.array(["h1"]))
    warehouse.write_records(SIX[0], table)
    compaction.compact(warehouse, warehouse.current())
    [merged] = warehouse.current().runs(RUNS)
    rows = pq.read_table(Path(warehouse.uri, RUNS, f"run_id={merged}", "part-00000.parquet")).to_pylist()
    assert [row["host"] for row in rows] == ["h1"] + [None] * 5
    assert list(warehouse.snapshot().runs) == SIX


def test_a_damaged_record_is_told(warehouse: Warehouse) -> None:
    damaged = Path(warehouse.uri, RUNS, f"run_id={SIX[3]}", "part-00000.parquet")
    damaged.write_bytes(b"PAR1")
    before = warehouse.current()
    with pytest.raises(JobFailed, match=f"{SIX[3]} is damaged"):
        compaction.compact(warehouse, before)
    assert warehouse.current() == before
    with pytest.raises(JobFailed, match="a record of runs is damaged"):
        recovery.unknown_runs(warehouse, [])


def test_a_pointer_that_is_lost_while_records_are_merged_stays_lost(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    pointer = warehouse.current()
    Path(warehouse.uri, POINTER).unlink()
    with pytest.raises(JobFailed, match="is gone"):
        compaction.compact(warehouse, pointer)
    assert not Path(warehouse.uri, POINTER).exists()


def test_nothing_recorded_is_told(tmp_path: Path) -> None:
    warehouse = Warehouse(None, str(tmp_path))  # type: ignore[arg-type]
    with pytest.raises(JobFailed, match="no run is recorded"):
        recovery.rebuilt(warehouse)


def test_an_empty_folder_stops_no_merging() -> None:
    assert compaction.each_run_once([SCHEMAS[RUNS].empty_table()]).num_rows == 0
    assert compaction.smallest({"empty": 0, "a": 1, "b": 1}) == ["empty", "a", "b"]
