"""A second run compares only what is new, and its table is that of a run from scratch, row for row."""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from pyspark.sql import SparkSession

import oracle
from image_similarity.errors import JobFailed
from image_similarity.jobs import find_neighbours
from image_similarity.jobs.command_line import main
from image_similarity.knn.distances import METRICS, measured
from image_similarity.knn.rerank import Part
from image_similarity.stages.neighbours import exact, plan
from image_similarity.warehouse.snapshot import open_snapshot

Vectors = dict[str, NDArray[np.float32]]


def written(folder: Path, vectors: Vectors) -> str:
    table = pa.table({"image_id": list(vectors), "embedding": pa.array(list(vectors.values()), pa.list_(pa.float32()))})
    file = folder / "vectors.parquet"
    pq.write_table(table, file)
    return str(file)


@pytest.fixture(autouse=True, params=["spark", "auto"])
def runner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """All of this by Spark, and by the job's own process as far as that can do it."""
    monkeypatch.setattr(sys.modules[__name__], "RUNNER", request.param)
    return str(request.param)


RUNNER = "auto"


def published(spark: SparkSession, warehouse: Path, file: str, *options: str) -> tuple[list[Any], dict[str, Any]]:
    """The table after a run, sorted, and what the run counted."""
    asked = [
        "--dissimilar",
        "2",
        "--set",
        "neighbours.block_rows=100",
        "--set",
        f"neighbours.runner={RUNNER}",
        *([] if "-k" in options else ["-k", "3"]),
    ]
    assert main(find_neighbours, ["--warehouse", str(warehouse), "--embeddings", file, *asked, *options], spark) == 0
    now = open_snapshot(str(warehouse))  # read without Spark
    rows = now.table("neighbours").drop_columns("method").to_pylist()
    (run,) = now.run_ids("neighbours")
    record = now.runs[run]
    return sorted(tuple(row.values()) for row in rows), {**record.counts, "inputs": record.inputs}


def changed(vectors: Vectors, rng: np.random.Generator) -> Vectors:
    """Some are gone, some have another vector, some are new, before, between and after the others; one is renamed, one
    copied.
    """
    names = sorted(vectors)
    after = {name: vectors[name] for name in names if int(name[1:]) % 50 != 7}
    for name in list(after)[::40]:
        after[name] = rng.standard_normal(len(after[name])).astype(np.float32)
    for i in range(6):
        after[f"{'aim'[i % 3]}{5000 + i}"] = rng.standard_normal(16).astype(np.float32)
    moved, copied = list(after)[5], list(after)[8]
    after["z9999"] = after.pop(moved)
    after["a0000"] = after[copied]
    return after


@pytest.mark.parametrize(("metric", "drop_duplicates"), [("cosine", "false"), ("euclidean", "true")])
def test_only_what_is_new_is_compared(spark: SparkSession, tmp_path: Path, metric: str, drop_duplicates: str) -> None:
    asked = ["--metric", metric, "--set", f"neighbours.drop_duplicates={drop_duplicates}"]
    rng = np.random.default_rng(3)
    vectors = {f"m{i:04d}": vector for i, vector in enumerate(oracle.planted(500, 16, seed=4))}
    first, counts = published(spark, tmp_path / "w", written(tmp_path, vectors), *asked)
    assert counts["kept"] == 0 and "neighbours" not in counts["inputs"]
    for turn in range(2):  # the second time from what an incremental run left
        vectors = changed(vectors, rng)
        file = written(tmp_path, vectors)
        before = open_snapshot(str(tmp_path / "w")).run_ids("neighbours")
        found, counts = published(spark, tmp_path / "w", file, *asked)
        assert 0 < counts["kept"] < counts["vectors"] and counts["inputs"]["neighbours"] == before
        right, counts = published(spark, tmp_path / f"full{turn}", file, *asked)
        assert counts["kept"] == 0 and found == right != first


def test_what_runs_leave_is_removed(spark: SparkSession, tmp_path: Path) -> None:
    """But for the last two: another job may be reading the last but one."""
    file = written(tmp_path, {f"{i}": vector for i, vector in enumerate(oracle.planted(9, 8, seed=6))})
    for _ in range(3):
        published(spark, tmp_path / "w", file)
    left = sorted(folder.name for folder in (tmp_path / "w" / "_state" / "external" / "cosine").iterdir())
    runs = sorted(folder.name.partition("=")[2] for folder in (tmp_path / "w" / "neighbours").iterdir())
    assert len(runs) == 3 and left == runs[1:]


def test_rows_left_short_are_compared_in_full(spark: SparkSession, tmp_path: Path) -> None:
    """All that a picture had in its list goes at once."""
    rng = np.random.default_rng(5)
    centre = rng.standard_normal(16)
    near = {f"near{i:02d}": (centre + 0.01 * rng.standard_normal(16)).astype(np.float32) for i in range(30)}
    others = {f"other{i:03d}": rng.standard_normal(16).astype(np.float32) for i in range(200)}
    published(spark, tmp_path / "w", written(tmp_path, {**near, **others}))
    file = written(tmp_path, {"near00": near["near00"], **others})
    found, counts = published(spark, tmp_path / "w", file)
    assert counts["kept"] == 201 and counts["brute_force"] > 0
    assert found == published(spark, tmp_path / "w", file, "--set", "neighbours.incremental=false")[0]


def test_lists_of_vectors_compared_in_full_are_lost(spark: SparkSession, tmp_path: Path, runner: str) -> None:
    """Vectors so near to one another that no score tells them apart. Spark's lists of them lie in a folder of their
    own.
    """
    rng = np.random.default_rng(5)
    near = {f"near{i:02d}": (1 + 1e-7 * rng.standard_normal(16)).astype(np.float32) for i in range(60)}
    others = {f"other{i:03d}": rng.standard_normal(16).astype(np.float32) for i in range(100)}
    _, counts = published(spark, tmp_path / "w", written(tmp_path, {**near, **others}))
    assert counts["brute_force"] > 0
    (gone,) = (tmp_path / "w" / "_state").glob("external/cosine/*/lists" + "-in-full" * (runner == "spark"))
    shutil.rmtree(gone)
    file = written(tmp_path, {**near, **others, "z": rng.standard_normal(16).astype(np.float32)})
    found, counts = published(spark, tmp_path / "w", file)
    assert counts["kept"] == 0 and found == published(spark, tmp_path / "full", file)[0]


def test_lists_of_some_vectors_in_place_of_those_of_others_are_noticed(
    spark: SparkSession, tmp_path: Path, capsys: Any
) -> None:
    """As many as should be there, so that no count tells it."""
    vectors = {f"{i:03d}": vector for i, vector in enumerate(oracle.planted(400, 8, seed=6))}
    asked = ["--warehouse", str(tmp_path / "w"), "--set", "neighbours.runner=spark", "-k", "3", "--dissimilar", "2"]
    asked += ["--set", "neighbours.block_rows=100"]
    assert main(find_neighbours, [*asked, "--embeddings", written(tmp_path, vectors)], spark) == 0
    before = (tmp_path / "w" / "_current.json").read_text()
    lists = sorted((tmp_path / "w" / "_state").glob("external/cosine/*/lists/*.parquet"))
    sizes = [sum(map(len, pq.read_table(file)["index"].to_pylist())) for file in lists]
    one, other = next((a, b) for a in range(len(lists)) for b in range(a) if sizes[a] == sizes[b])
    shutil.copy(lists[one], lists[other])
    more = written(tmp_path, {**vectors, "z": np.ones(8, np.float32)})
    capsys.readouterr()
    assert main(find_neighbours, [*asked, "--embeddings", more], spark) == 1
    assert "incremental" in capsys.readouterr().err and (tmp_path / "w" / "_current.json").read_text() == before


def test_vectors_that_are_not_new_must_have_lists_of_the_run_before() -> None:
    """However they were lost. Compared with new vectors alone, they would have wrong neighbours, seemingly proven."""
    index = np.arange(3)
    part = Part(measured(np.eye(3, dtype=np.float32), METRICS["cosine"]), index.astype(np.int32), index)
    with pytest.raises(JobFailed, match="are not those of the vectors that were kept"):
        exact._lists_of_piece(None, part, False, [])  # type: ignore[arg-type]


def test_nothing_new_and_other_settings(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shuffles = list[int]()
    monkeypatch.setattr(plan, "check", lambda made, *_: shuffles.append(made.disk.shuffles))
    file = written(tmp_path, {f"{i:03d}": vector for i, vector in enumerate(oracle.planted(100, 8, seed=6))})
    first, _ = published(spark, tmp_path / "w", file)
    again, counts = published(spark, tmp_path / "w", file)
    assert again == first and counts["kept"] == counts["vectors"] and counts["brute_force"] == 0
    fewer, counts = published(spark, tmp_path / "w", file, "-k", "2")
    assert counts["kept"] == counts["vectors"]
    assert fewer == [row for row in first if row[2] == "dissimilar" or row[3] <= 2]
    assert published(spark, tmp_path / "w", file, "-k", "5")[1]["kept"] == 0
    wanted = [bool(size) for size in shuffles]  # this process shuffles nothing
    assert wanted in ([True, False, False, True], [False] * 4), "no room is wanted for what is not compared"


def test_exact_lists_after_approximate_ones_are_screened(spark: SparkSession, tmp_path: Path) -> None:
    """The run before left lists of dissimilar neighbours alone. Those of similar ones were all found by brute force."""
    rng = np.random.default_rng(9)
    file = written(tmp_path, {f"{i:04d}": rng.standard_normal(16).astype(np.float32) for i in range(600)})
    options = ["--method", "approximate", "--set", "approximate.nlist=60", "--set", "approximate.nprobe=1"]
    options += ["--set", "approximate.rounds=0", "--set", "approximate.probe_doublings=0"]
    options += ["--set", "approximate.recall_slack=0", "--set", "approximate.audit_queries=600"]
    _, counts = published(spark, tmp_path / "w", file, *options, "--set", "approximate.recall_target=0.01")
    assert counts["recall"][0] < 0.9, "else the next run misses no target"
    found, counts = published(spark, tmp_path / "w", file, *options, "--set", "approximate.recall_target=1.0")
    assert counts["brute_force"] == 0 and counts["kept"] == 0 and "neighbours" not in counts["inputs"]
    assert found == published(spark, tmp_path / "full", file)[0]
    again, counts = published(spark, tmp_path / "w", file)
    assert again == found and counts["kept"] == counts["vectors"] and counts["brute_force"] == 0


def test_in_pieces_and_in_another_precision(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists of a block that are too long for memory are merged in pieces; scores of less precision are proven all the
    same.
    """
    monkeypatch.setattr(exact, "merged_at_once", lambda *of: 37)
    vectors = {f"m{i:04d}": vector for i, vector in enumerate(oracle.planted(300, 16, seed=7))}
    published(spark, tmp_path / "w", written(tmp_path, vectors))
    file = written(tmp_path, changed(vectors, np.random.default_rng(8)))
    found, counts = published(spark, tmp_path / "w", file, "--set", "neighbours.screen=bfloat16")
    assert 0 < counts["kept"] < counts["vectors"]
    assert found == published(spark, tmp_path / "full", file)[0]


@pytest.mark.parametrize(
    ("lost", "left"),
    [("vectors.npy", 0), ("vectors.npy", 0.5), ("lists", None), ("lists/part-*", None), ("lists/part-*", 0.5)],
)
def test_what_the_run_before_left_is_damaged(
    spark: SparkSession, tmp_path: Path, capsys: Any, lost: str, left: float | None
) -> None:
    """``left``: the share of a file that is left of it; None if the file is gone."""
    file = written(tmp_path, {f"{i:03d}": vector for i, vector in enumerate(oracle.planted(100, 8, seed=6))})
    first, _ = published(spark, tmp_path / "w", file)
    gone, *_ = (tmp_path / "w" / "_state").glob(f"external/cosine/*/{lost}")
    if left is not None:
        gone.write_bytes(gone.read_bytes()[: int(left * gone.stat().st_size)])
    else:
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    again, counts = published(spark, tmp_path / "w", file)
    assert again == first and counts["kept"] == 0
    assert "are gone from the warehouse or damaged: comparing all pairs" in capsys.readouterr().out
    _, counts = published(spark, tmp_path / "w", file)
    assert counts["kept"] == counts["vectors"], "the next run has whole ones again"
