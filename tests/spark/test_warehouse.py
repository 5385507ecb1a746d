"""Publishing: all or nothing, one winner for a slot, names that are awkward, and views that DuckDB runs."""

import json
import os
import random
import re
import threading
import time
from pathlib import Path
from typing import Any

import duckdb
import pytest
from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

import locking
from image_similarity.errors import JobFailed, WrongInput
from image_similarity.storage import locks
from image_similarity.storage.hadoop import HadoopFiles
from image_similarity.warehouse import leases
from image_similarity.warehouse.parquet import spark_schema
from image_similarity.warehouse.records import new_run_id
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.snapshot import Pointer
from image_similarity.warehouse.warehouse import Warehouse

AWKWARD = "odd [names] {a,b} 100%25 #1 it's*?"


def neighbours(spark: SparkSession, fingerprint: str, count: int = 1):  # type: ignore[no-untyped-def]
    rows = [(f"é{i}", fingerprint, "similar", 1, "b", 0.5, "cosine", "exact") for i in range(count)]
    return spark.createDataFrame(rows, spark_schema("neighbours"))


def test_run_ids_are_new_sort_by_time_and_are_no_numbers() -> None:
    ids = []
    for _ in range(100):
        ids.append(new_run_id())
        time.sleep(1e-5)
    assert len(set(ids)) == 100 and ids == sorted(ids), "also within one second"
    assert all(re.fullmatch(r"r\d{8}T\d{6}-[0-9a-f]{8}", one) for one in ids)


def test_nothing_is_published_before_publish(spark: SparkSession, tmp_path: Path) -> None:
    warehouse = Warehouse(spark, str(tmp_path / "w"))
    assert warehouse.current() == Pointer()
    warehouse.write("neighbours", "r1", neighbours(spark, "a"))
    assert warehouse.current() == Pointer() and warehouse.read("neighbours", []).count() == 0
    warehouse.publish(Pointer(), {"neighbours": {"a/cosine": "r1"}}, {})
    assert warehouse.current() == Pointer(1, {"neighbours": {"a/cosine": ["r1"]}})
    assert warehouse.read("neighbours", ["r1"]).count() == 1


def test_slots_are_apart_and_appends_add_up(spark: SparkSession, tmp_path: Path) -> None:
    warehouse = Warehouse(spark, str(tmp_path))
    for run, slot in (("r1", "a/cosine"), ("r2", "b/cosine"), ("r3", "a/cosine")):
        warehouse.write("neighbours", run, neighbours(spark, slot[0]))
        warehouse.publish(warehouse.current(), {"neighbours": {slot: run}}, {"runs": {"": run}})
    assert warehouse.current().tables == {
        "neighbours": {"a/cosine": ["r3"], "b/cosine": ["r2"]},
        "runs": {"": ["r1", "r2", "r3"]},
    }


def test_of_two_jobs_on_one_slot_one_wins_and_on_two_slots_both(spark: SparkSession, tmp_path: Path) -> None:
    warehouse = Warehouse(spark, str(tmp_path))
    seen = warehouse.current()
    warehouse.publish(seen, {"neighbours": {"a/cosine": "r1"}}, {})
    warehouse.publish(seen, {"neighbours": {"b/cosine": "r2"}}, {})
    with pytest.raises(
        JobFailed, match="another job published neighbours a/cosine while this one ran .now: r1.*run it again"
    ):
        warehouse.publish(seen, {"neighbours": {"a/cosine": "r3"}, "failures": {"x": "r3"}}, {"runs": {"": "r3"}})
    assert warehouse.current() == Pointer(2, {"neighbours": {"a/cosine": ["r1"], "b/cosine": ["r2"]}})


def test_vectors_that_another_job_added_meanwhile_are_not_added_twice(spark: SparkSession, tmp_path: Path) -> None:
    warehouse = Warehouse(spark, str(tmp_path))
    seen = warehouse.current()
    warehouse.publish(seen, {"embeddings": {"a": "r1"}}, {"vectors": {"key": "r1"}, "runs": {"": "r1"}})
    with pytest.raises(JobFailed, match="another job published vectors key"):
        warehouse.publish(seen, {"embeddings": {"b": "r2"}}, {"vectors": {"key": "r2"}, "runs": {"": "r2"}})
    warehouse.publish(seen, {"embeddings": {"b": "r3"}}, {"vectors": {"other": "r3"}, "runs": {"": "r3"}})
    assert warehouse.current().runs("runs") == ["r1", "r3"]


def test_many_publishers_at_once_lose_nothing(spark: SparkSession, tmp_path: Path) -> None:
    def publisher(number: int) -> None:
        warehouse = Warehouse(spark, str(tmp_path))
        for turn in range(5):
            warehouse.publish(
                warehouse.current(),
                {"neighbours": {f"n{number}/cosine": f"r{turn}"}},
                {"runs": {"": f"r{number}-{turn}"}},
            )

    threads = [threading.Thread(target=publisher, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pointer = Warehouse(spark, str(tmp_path)).current()
    assert pointer.version == 30 and len(set(pointer.runs("runs"))) == 30
    assert pointer.tables["neighbours"] == {f"n{number}/cosine": ["r4"] for number in range(6)}
    assert not list(tmp_path.glob("*.tmp"))


class FilesOfHdfs(HadoopFiles):
    """The JVM's local file system, each operation of which is made one step, as those of HDFS are."""

    _one_step = threading.RLock()

    def __getattribute__(self, name: str) -> Any:
        attribute = super().__getattribute__(name)
        if name not in ("read", "entries", "create", "rename", "delete", "delete_empty", "modified", "size"):
            return attribute

        def operation(*arguments: Any, **options: Any) -> Any:
            with FilesOfHdfs._one_step:
                return attribute(*arguments, **options)

        return operation


def through_the_jvm(spark: SparkSession, folder: Path) -> Warehouse:
    warehouse = Warehouse(spark, str(folder))
    warehouse.files, warehouse.uri = FilesOfHdfs(spark), f"file://{folder}"
    return warehouse


def visible(folder: Path) -> set[str]:
    """Without Hadoop's files of checksums."""
    return {file.name for file in folder.iterdir() if not file.name.startswith(".")}


def test_publishing_through_the_jvm(spark: SparkSession, tmp_path: Path) -> None:
    warehouse = through_the_jvm(spark, tmp_path)
    for turn in range(3):
        warehouse.publish(warehouse.current(), {"neighbours": {"n/cosine": f"r{turn}"}}, {"runs": {"": f"r{turn}"}})
    assert warehouse.current() == Pointer(3, {"neighbours": {"n/cosine": ["r2"]}, "runs": {"": ["r0", "r1", "r2"]}})
    with warehouse.scratch("r9") as scratch:
        scratch.write("part", spark.range(3))
        assert scratch.location("part") == f"{tmp_path}/_scratch/r9/part"
    assert visible(tmp_path) == {"_current.json", "views.sql", "_scratch"}


def test_operations_through_the_jvm(spark: SparkSession, tmp_path: Path) -> None:
    files, folder = HadoopFiles(spark), f"file://{tmp_path}/a b"
    assert files.read(f"{folder}/x") is None and files.entries(folder) == [] and files.modified(folder) is None
    assert files.size(f"{folder}/x") == 0
    for name in ("x", "y/z"):
        files.write(f"{folder}/{name}", name.encode())
    assert files.read(f"{folder}/y/z") == b"y/z" and sorted(files.entries(folder)) == ["x", "y"]
    assert files.size(folder) == 4 and abs((files.modified(f"{folder}/x") or 0) - time.time()) < 60
    with pytest.raises(NotADirectoryError):
        files.entries(f"{folder}/x")
    assert not files.rename(f"{folder}/none", f"{folder}/x", overwrite=True) and files.read(f"{folder}/x") == b"x"
    files.create(f"{folder}/new/z", b"")
    assert not files.rename(f"{folder}/new", f"{folder}/y") and files.entries(f"{folder}/y") == ["z"]
    assert not files.rename(f"{folder}/y/z", f"{folder}/x") and files.rename(f"{folder}/y/z", f"{folder}/x", True)
    assert files.read(f"{folder}/x") == b"y/z"
    files.delete_empty(f"{folder}/new")
    files.delete_empty(f"{folder}/y")
    files.delete(f"{folder}/none")
    assert sorted(files.entries(folder)) == ["new", "x"]
    files.delete(folder)
    assert files.entries(folder) == []


def test_publishers_at_once_through_the_jvm_lose_nothing(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.1)
    rename = HadoopFiles.rename

    def slow(*arguments: Any, **options: Any) -> bool:
        renamed = rename(*arguments, **options)
        time.sleep(random.choice([0, 0, 0.15]))
        return renamed

    monkeypatch.setattr(HadoopFiles, "rename", slow)

    def publisher(number: int) -> None:
        warehouse = through_the_jvm(spark, tmp_path)
        for turn in range(5):
            slots = {"neighbours": {f"n{number}/cosine": f"r{turn}"}}
            warehouse.publish(warehouse.current(), slots, {"runs": {"": f"r{number}-{turn}"}})

    threads = [threading.Thread(target=publisher, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pointer = through_the_jvm(spark, tmp_path).current()
    assert pointer.version == 10 and len(set(pointer.runs("runs"))) == 10
    assert visible(tmp_path) == {"_current.json", "views.sql"}


@pytest.mark.parametrize("left", ["before it published", "after it published", "by an older version"])
def test_what_a_dead_publisher_left_holds_up_nobody_for_long(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.2)
    if left == "by an older version":
        (tmp_path / "_lock").touch()
    else:
        (tmp_path / "_lock").mkdir()
    if left == "before it published":
        (tmp_path / "_lock" / "dead").write_text("{}")
    warehouse = through_the_jvm(spark, tmp_path)
    warehouse.publish(Pointer(), {"neighbours": {"n/cosine": "r1"}}, {})
    assert warehouse.current().version == 1 and visible(tmp_path) == {"_current.json", "views.sql"}


@pytest.mark.parametrize("ahead", [3600, -3600])
def test_a_wrong_clock_takes_no_lock_from_a_live_holder(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    locking.hurry(monkeypatch)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + ahead)
    assert locking.order_of_two(FilesOfHdfs(spark), f"file://{tmp_path}/.lock") == ["first", "other"]
    assert not (tmp_path / ".lock").exists()


def test_who_lost_the_lock_of_a_site_says_so(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LOCK_SECONDS", 0.1)  # and no sign of life for ten seconds
    files, lock = FilesOfHdfs(spark), f"file://{tmp_path}/.lock"
    with pytest.raises(OSError, match="no sign of life for a minute"), files.locked(lock):
        with files.locked(lock):
            pass


def test_leases_through_the_jvm_go_by_the_clock_of_the_store(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = through_the_jvm(spark, tmp_path)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 24 * 3600)
    with leases.held(warehouse, "r1", Pointer(), ["r0"]):
        assert leases.active(warehouse) == {"r1": {"r0"}}
        os.utime(tmp_path / "_running" / "r1", (now() - leases.DEAD_SECONDS - 5,) * 2)
        assert leases.active(warehouse) == {}
    assert visible(tmp_path / "_running") == set()


def test_a_warehouse_of_hdfs_that_may_not_be_written_is_wrong_input(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = through_the_jvm(spark, tmp_path)

    def refused(*_: Any) -> Any:
        java: Any = spark._jvm
        raise Py4JJavaError("", java.org.apache.hadoop.security.AccessControlException("user=me, access=WRITE"))

    monkeypatch.setattr(HadoopFiles, "_open", refused)
    with pytest.raises(WrongInput, match="cannot be written: .*user=me, access=WRITE"):
        with leases.held(warehouse, "r1", Pointer()):
            pass


def test_awkward_folder_names_work_to_the_end(spark: SparkSession, tmp_path: Path) -> None:
    warehouse = Warehouse(spark, str(tmp_path / AWKWARD))
    for run, slot in (("r1", "a/cosine"), ("r2", "b/cosine")):
        warehouse.write("neighbours", run, neighbours(spark, slot[0], 3))
        warehouse.publish(warehouse.current(), {"neighbours": {slot: run}}, {})
    assert warehouse.read("neighbours", ["r1", "r2"]).count() == 6
    db = duckdb.connect()
    db.execute((tmp_path / AWKWARD / "views.sql").read_text())
    assert db.sql("SELECT fingerprint, count(*) FROM neighbours GROUP BY 1 ORDER BY 1").fetchall() == [
        ("a", 3),
        ("b", 3),
    ]


def test_views_show_what_is_published_and_nothing_else(spark: SparkSession, tmp_path: Path) -> None:
    warehouse = Warehouse(spark, str(tmp_path))
    vectors = [("sha1", "key", 4, 2, [1.0, 0.0], b"\1"), ("sha2", "key", 4, 2, [0.0, 1.0], None)]
    embeddings = [(name, "f", "key", sha, "v") for name, sha in (("a", "sha1"), ("b", "sha1"), ("c", "sha2"))]
    warehouse.write("vectors", "r1", spark.createDataFrame(vectors, spark_schema("vectors")))
    warehouse.write("embeddings", "r1", spark.createDataFrame(embeddings, spark_schema("embeddings")))
    warehouse.write(
        "embeddings", "r0", spark.createDataFrame(embeddings, spark_schema("embeddings"))
    )  # never published
    warehouse.publish(Pointer(), {"embeddings": {"f": "r1"}}, {"vectors": {"key": "r1"}})
    db = duckdb.connect()
    db.execute((tmp_path / "views.sql").read_text())
    assert db.sql("SELECT image_id, width, embedding FROM embeddings ORDER BY 1").fetchall()[2] == ("c", 4, [0.0, 1.0])
    assert db.sql("SELECT thumbprint FROM embeddings ORDER BY image_id").fetchall() == [(b"\1",), (b"\1",), (None,)]
    assert db.sql("SELECT count(*) FROM embeddings").fetchall() == [(3,)]
    assert db.sql("SELECT image_id, copies FROM exact_duplicates").fetchall() == [("a", 2), ("b", 2)]
    for table in SCHEMAS:
        columns = [row[0] for row in db.sql(f"DESCRIBE {table}").fetchall()]
        assert set(SCHEMAS[table].names) <= set(columns), "tables without runs are empty views with their columns"


def test_a_damaged_pointer_is_told(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "_current.json").write_text("{")
    with pytest.raises(JobFailed, match="_current.json is damaged"):
        Warehouse(spark, str(tmp_path)).current()


def test_wrong_columns_are_a_defect(spark: SparkSession, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neighbours has the columns"):
        Warehouse(spark, str(tmp_path)).write("neighbours", "r1", spark.range(1))


def test_scratch_is_gone_afterwards_also_after_failures(spark: SparkSession, tmp_path: Path) -> None:
    warehouse = Warehouse(spark, str(tmp_path))
    with pytest.raises(RuntimeError), warehouse.scratch("r1") as scratch:
        assert scratch.write("part", spark.range(3)).count() == 3
        raise RuntimeError
    assert not (tmp_path / "_scratch" / "r1").exists()


def test_the_pointer_is_plain_json(spark: SparkSession, tmp_path: Path) -> None:
    Warehouse(spark, str(tmp_path)).publish(Pointer(), {"manifest": {"": "r1"}}, {})
    assert json.loads((tmp_path / "_current.json").read_text()) == {"version": 1, "tables": {"manifest": {"": ["r1"]}}}


def test_state_stays_when_a_run_was_published_and_goes_when_it_failed(spark: SparkSession, tmp_path: Path) -> None:
    warehouse = Warehouse(spark, str(tmp_path))
    for run, published in (("r1", False), ("r2", True)):
        with pytest.raises(RuntimeError), warehouse.state("own/cosine", run) as state:
            state.write("part", spark.range(3))
            if published:
                warehouse.publish(warehouse.current(), {}, {"runs": {"": run}})
            raise RuntimeError("a disk that is full")
    assert [folder.name for folder in (tmp_path / "_state" / "own" / "cosine").iterdir()] == ["r2"]
    warehouse.forget_state("own/cosine", "r2")
    assert sum(len(part) for part in warehouse.state_of("own/cosine", "r2").parts("part", ["id"])) == 3
    warehouse.forget_state("own/cosine", "r3")
    assert not list((tmp_path / "_state" / "own" / "cosine").iterdir())
