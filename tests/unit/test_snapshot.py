"""A published state is read without Spark: the pointer, runs as records, tables as Arrow datasets."""

import json
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_similarity.errors import JobFailed, WrongInput
from image_similarity.storage.local import LocalFiles
from image_similarity.warehouse.records import Record, new_run_id
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.snapshot import POINTER, Pointer, open_snapshot

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)


def record(run: str, **different: object) -> Record:
    values = {
        **{"run_id": run, "label": None, "job": "find_neighbours", "slot": "a/cosine", "status": "published"},
        **{"inputs": {"embeddings": ["r0"]}, "outputs": {"replaced": {"neighbours": ["a/cosine"]}, "appended": {}}},
        **{"settings": {"lists": {"version": 3}}, "counts": {"rows": 2}, "versions": {"spark": "4"}, "seconds": 1.5},
        **{"stages": {"second": 1.0, "first": 0.5}, "recall": 0.99, "started_at": NOW, "finished_at": NOW},
    }
    return Record(**{**values, **different})  # type: ignore[arg-type]


@pytest.fixture
def warehouse(tmp_path: Path) -> Path:
    """Two runs; of ``neighbours`` one slot, whose folder holds what Spark leaves there too."""
    pointer = Pointer(3, {"runs": {"": ["r2", "r1"]}, "neighbours": {"a/cosine": ["r1"], "b/cosine": ["r2"]}})
    (tmp_path / POINTER).write_bytes(pointer.as_json())
    for run in ("r2", "r1"):
        folder = tmp_path / "runs" / f"run_id={run}"
        folder.mkdir(parents=True)
        (folder / "part-00000.parquet").write_bytes(record(run).as_parquet())
        rows = [{"image_id": f"i{run}", "rank": 1, "distance": 0.5}]
        (tmp_path / "neighbours" / f"run_id={run}").mkdir(parents=True)
        pq.write_table(
            pa.Table.from_pylist(rows, SCHEMAS["neighbours"]),
            tmp_path / "neighbours" / f"run_id={run}" / "p.zstd.parquet",
        )
    (tmp_path / "neighbours" / "run_id=r1" / "_SUCCESS").touch()
    (tmp_path / "neighbours" / "run_id=r1" / ".p.zstd.parquet.crc").write_bytes(b"crc")
    return tmp_path


class Remote(LocalFiles):
    """Reached as Hadoop's file systems are: by no path that pyarrow could open."""

    def read(self, path: str) -> bytes | None:
        return super().read(path.removeprefix("hdfs://host"))

    def entries(self, path: str) -> list[str]:
        return super().entries(path.removeprefix("hdfs://host"))


@pytest.mark.parametrize("remote", [False, True], ids=["local", "hadoop"])
def test_runs_and_tables(warehouse: Path, remote: bool) -> None:
    snapshot = open_snapshot(f"hdfs://host{warehouse}", Remote()) if remote else open_snapshot(str(warehouse))
    assert list(snapshot.runs) == ["r1", "r2"] and snapshot.runs["r1"] == record("r1")
    assert list(snapshot.runs["r1"].stages) == ["second", "first"], "steps stay in the order of the work"
    assert snapshot.runs["r1"].replaced == {"neighbours": ["a/cosine"]}
    assert snapshot.run_ids("neighbours", "a/cosine") == ["r1"] and set(snapshot.slots("neighbours")) == {
        "a/cosine",
        "b/cosine",
    }
    assert snapshot.dataset("neighbours").schema == SCHEMAS["neighbours"]
    assert snapshot.table("neighbours", "b/cosine", ["image_id"]).to_pylist() == [{"image_id": "ir2"}]
    assert snapshot.table("neighbours").num_rows == 2
    assert snapshot.table("manifest").schema == SCHEMAS["manifest"] and snapshot.table("manifest").num_rows == 0


@pytest.mark.parametrize("remote", [False, True], ids=["local", "hadoop"])
def test_batches_are_the_rows_of_the_table(warehouse: Path, remote: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("image_similarity.warehouse.snapshot.BATCH_ROWS", 2)
    old = pa.table({"image_id": [f"i{number}" for number in range(5)]})
    pq.write_table(old, warehouse / "neighbours" / "run_id=r1" / "q.zstd.parquet")
    snapshot = open_snapshot(f"hdfs://host{warehouse}", Remote()) if remote else open_snapshot(str(warehouse))
    batches = list(snapshot.batches("neighbours", None, ["image_id", "distance"]))
    assert pa.Table.from_batches(batches) == snapshot.table("neighbours", columns=["image_id", "distance"])
    assert max(map(len, batches)) == 2 and sum(map(len, batches)) == 7
    assert list(snapshot.batches("manifest", "", ["image_id"])) == []


@pytest.mark.parametrize("remote", [False, True], ids=["local", "hadoop"])
def test_columns_that_old_files_lack_are_null(warehouse: Path, remote: bool) -> None:
    columns = [name for name in SCHEMAS["runs"].names if name not in ("stages", "outputs")]
    old = {**dict.fromkeys(columns), "run_id": "r1", "inputs": "{}", "settings": "{}"}
    schema = pa.schema([SCHEMAS["runs"].field(name) for name in columns])
    pq.write_table(pa.Table.from_pylist([old], schema), warehouse / "runs" / "run_id=r1" / "part-00000.parquet")
    snapshot = open_snapshot(f"hdfs://host{warehouse}", Remote()) if remote else open_snapshot(str(warehouse))
    assert (
        snapshot.runs["r1"].stages == {} and snapshot.runs["r1"].replaced == {} and snapshot.runs["r2"] == record("r2")
    )


def test_a_snapshot_does_not_change(warehouse: Path) -> None:
    snapshot = open_snapshot(str(warehouse))
    (warehouse / POINTER).write_bytes(Pointer(4, {}).as_json())
    assert (
        snapshot.run_ids("neighbours", "a/cosine") == ["r1"] and open_snapshot(str(warehouse)).slots("neighbours") == {}
    )


def test_a_place_without_a_warehouse_has_nothing_published(tmp_path: Path) -> None:
    snapshot = open_snapshot(str(tmp_path / "none"))
    assert snapshot.pointer == Pointer() and snapshot.runs == {} and snapshot.table("vectors").num_rows == 0


def test_faults_are_told(tmp_path: Path) -> None:
    (tmp_path / POINTER).write_text("{")
    with pytest.raises(JobFailed, match="_current.json is damaged"):
        open_snapshot(str(tmp_path))
    with pytest.raises(WrongInput, match="hdfs:// is reached through Spark only"):
        open_snapshot("hdfs://host/warehouse")


def test_a_record_is_a_row_of_runs() -> None:
    run = new_run_id()
    table = pq.read_table(pa.BufferReader(record(run, label="night").as_parquet()))
    assert table.schema == SCHEMAS["runs"]
    [row] = table.to_pylist()
    assert row["run_id"] == run and row["label"] == "night" and json.loads(row["counts"]) == {"rows": 2}
    assert row["finished_at"] == NOW


def test_a_record_has_no_secrets_of_addresses() -> None:
    address = "https://museum.example/list.csv?signature=made-up-secret"
    row = record("r1", settings={"images": address}, inputs={"embeddings": [address]}).as_parquet()
    [told] = pq.read_table(pa.BufferReader(row)).to_pylist()
    assert "secret" not in str(told) and "list.csv?..." in told["settings"] and "list.csv?..." in told["inputs"]
