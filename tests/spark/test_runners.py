"""Exact search by Spark and by the job's own process: the same rows, failures and states, bit for bit."""

import decimal
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

import oracle
from image_similarity.jobs import find_neighbours
from image_similarity.jobs.command_line import main
from image_similarity.stages.neighbours import exact
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.snapshot import POINTER, Pointer, open_snapshot
from image_similarity.warehouse.warehouse import Warehouse

RUNNERS = ("spark", "process")
Rows = list[tuple[Any, ...]]


def table(vectors: Any, ids: Any = None, kind: pa.DataType | None = None) -> pa.Table:
    ids = [f"{'aZé日'[i % 4]}{i}" for i in range(len(vectors))] if ids is None else ids
    return pa.table({"image_id": ids, "embedding": pa.array(vectors, kind or pa.list_(pa.float32()))})


def hostile() -> pa.Table:
    """Copies, zero vectors, two lengths and none, undefined and infinite values, nulls, minus zero."""
    vectors: list[Any] = [list(map(float, vector)) for vector in oracle.planted(160, 12, seed=3)]
    vectors[3], vectors[9], vectors[11] = [0.0] * 12, [1.0] * 12, [2e38] * 12
    vectors[20], vectors[21], vectors[22] = None, [], [1.0, 2.0]
    vectors[30][4], vectors[31][5], vectors[32][6] = float("nan"), float("inf"), None
    vectors[40], vectors[41] = [0.0] * 3, [0.0, 1.0] + [0.0] * 10
    vectors[42] = [-0.0, 1.0] + [-0.0] * 10
    return table(vectors)


def integers(of_ids: bool) -> pa.Table:
    vectors = np.random.default_rng(5).integers(-3, 4, (40, 6)) + [10, 0, 0, 0, 0, 0]
    ids = pa.array(range(90, 130)) if of_ids else None
    return table(vectors.tolist(), ids, pa.list_(pa.int16()))


def decimals() -> pa.Table:
    """Numbers that Spark's reader is not given."""
    values = np.random.default_rng(6).integers(-999, 999, (30, 5))
    return table([[decimal.Decimal(int(v)) / 8 for v in row] for row in values], None, pa.list_(pa.decimal128(20, 8)))


def near() -> pa.Table:
    """So many that are nearly alike that scores prove little."""
    random = np.random.default_rng(41)
    groups = np.repeat(random.normal(size=(4, 32)), 60, axis=0)
    return table(list((groups + 1e-5 * random.normal(size=groups.shape)).astype(np.float32)))


KINDS: dict[str, tuple[Callable[[], pa.Table], list[str]]] = {
    "hostile, cosine": (hostile, ["--metric", "cosine"]),
    "hostile, correlation": (hostile, ["--metric", "correlation", "-k", "7"]),
    "hostile, euclidean": (hostile, ["--metric", "euclidean", "--dissimilar", "3"]),
    "one of equals": (hostile, ["--set", "neighbours.drop_duplicates=true", "-k", "200"]),
    "similar alone": (lambda: table(list(oracle.planted(300, 8, seed=1))), ["--dissimilar", "0"]),
    "ids that are numbers": (lambda: integers(True), ["-k", "100", "--dissimilar", "100"]),
    "integers": (lambda: integers(False), ["--metric", "euclidean"]),
    "double": (lambda: table(np.random.default_rng(2).normal(size=(70, 9)).tolist(), None, pa.list_(pa.float64())), []),
    "decimal": (decimals, []),
    "fixed size": (
        lambda: table(np.random.default_rng(2).normal(size=(50, 4)).tolist(), None, pa.list_(pa.float32(), 4)),
        [],
    ),
    "brute force": (near, ["-k", "5"]),
    "bfloat16": (near, ["-k", "5", "--set", "neighbours.screen=bfloat16"]),
    "all unusable": (lambda: table([[0.0, 0.0]] * 3), []),
    "one": (lambda: table([[1.0, 0.0]]), []),
}


def found(spark: SparkSession, warehouse: Path, runner: str, *options: str) -> tuple[Rows, Rows, dict[str, Any]]:
    """Rows of ``neighbours`` and ``failures``, sorted, and the record of the run."""
    arguments = ["--warehouse", str(warehouse), "--set", f"neighbours.runner={runner}"]
    assert main(find_neighbours, [*arguments, "--set", "neighbours.block_rows=100", *options], spark) == 0
    now = open_snapshot(str(warehouse))
    run = now.run_ids("neighbours")[0]
    record = now.runs[run]
    assert record.settings["runner"]["chosen"] == runner and record.settings["runner"]["because"]
    tables = []
    for name in ("neighbours", "failures"):
        rows = now.table(name).to_pylist()
        tables.append(sorted((tuple(row.values()) for row in rows), key=repr))
    return tables[0], tables[1], {"counts": record.counts, "settings": record.settings, "inputs": record.inputs}


@pytest.mark.parametrize("kind", KINDS)
def test_both_runners_write_the_same_rows(spark: SparkSession, tmp_path: Path, kind: str) -> None:
    make, options = KINDS[kind]
    pq.write_table(make(), tmp_path / "own.parquet", row_group_size=70)
    given = ["--embeddings", str(tmp_path / "own.parquet"), *options]
    by_spark = found(spark, tmp_path / "spark", "spark", *given)
    here = found(spark, tmp_path / "process", "process", *given)
    assert here[0] == by_spark[0] and here[1] == by_spark[1]
    assert kind in ("all unusable", "one") or len(here[0]) > 100
    counted = {name: here[2]["counts"][name] for name in by_spark[2]["counts"]}
    assert counted == {**by_spark[2]["counts"], "brute_force": counted["brute_force"]}
    assert here[2]["settings"]["compared_sha256"] == by_spark[2]["settings"]["compared_sha256"]


def test_a_table_is_stored_as_spark_stores_it(spark: SparkSession, tmp_path: Path) -> None:
    """Spark reads it, and cleaning sees that it is whole."""
    pq.write_table(hostile(), tmp_path / "own.parquet")
    found(spark, tmp_path / "w", "process", "--embeddings", str(tmp_path / "own.parquet"))
    warehouse = Warehouse(spark, str(tmp_path / "w"))
    run = warehouse.current().runs("neighbours")[0]
    for name in ("neighbours", "failures"):
        folder = tmp_path / "w" / name / f"run_id={run}"
        assert (folder / "_SUCCESS").exists()
        (part,) = folder.glob("part-*.parquet")
        stored = pq.ParquetFile(part)
        assert (
            stored.schema_arrow.equals(SCHEMAS[name]) and stored.metadata.row_group(0).column(0).compression == "ZSTD"
        )
        assert warehouse.read(name, [run]).count() == stored.metadata.num_rows
    with pytest.raises(ValueError, match="written already"):
        warehouse.write_here("failures", run, [])


def publish(warehouse: Path, contents: list[str], vectors: Any, images: list[tuple[str, str]]) -> None:
    """A warehouse with the embeddings ``mine`` of ``images`` (image_id, content), as embed_images leaves them."""
    into, run = Warehouse(None, str(warehouse)), "r20260101T000000-00000001"  # type: ignore[arg-type]
    n = len(contents)
    stored = {"content_sha256": contents, "fingerprint_key": ["k"] * n, "width": [1] * n, "height": [1] * n}
    stored |= {"embedding": list(vectors), "thumbprint": [None] * n}
    rows, later = pa.table(stored, SCHEMAS["vectors"]), "r20260102T000000-00000001"
    into.write_here("vectors", run, [rows.slice(0, n // 3), rows.slice(n // 3, 1)])  # row groups
    into.write_here("vectors", later, [rows.slice(n // 3 + 1)])
    columns = zip(*((image, "mine", "k", content, "v") for image, content in images))
    into.write_here("embeddings", run, [pa.table(list(map(list, columns)), schema=SCHEMAS["embeddings"])])
    pointer = Pointer(1, {"embeddings": {"mine": [run]}, "vectors": {"k": [run, later]}})
    into.files.write(f"{into.uri}/{POINTER}", pointer.as_json())


@pytest.mark.parametrize("drop_duplicates", ["false", "true"])
def test_published_embeddings(spark: SparkSession, tmp_path: Path, drop_duplicates: str) -> None:
    """Files that share vectors, images that share files, and vectors of images that are gone."""
    random = np.random.default_rng(12)
    vectors = oracle.planted(40, 8, seed=12)[random.integers(0, 40, 70)]
    vectors[5] = 0
    images = [(f"{'aZé日'[i % 4]}{i}", f"f{int(random.integers(0, 60))}") for i in range(90)]
    tables = []
    for runner in RUNNERS:
        publish(tmp_path / runner, [f"f{i}" for i in range(70)], vectors, images)
        options = ["--fingerprint", "mine", "--set", f"neighbours.drop_duplicates={drop_duplicates}"]
        options += ["--set", 'fingerprints.mine={kind="colour-histogram"}']
        tables.append(found(spark, tmp_path / runner, runner, *options)[:2])
    assert tables[0] == tables[1] and len(tables[0][0]) > 1000


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_store_that_lacks_a_vector_is_told(spark: SparkSession, tmp_path: Path, runner: str, capsys: Any) -> None:
    for contents in (["f0", "f1", "f1"], ["f0", "f2", "f3"]):
        place = tmp_path / contents[-1]
        publish(place, contents, [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [("a", "f0"), ("b", "f1")])
        arguments = ["--warehouse", str(place), "--fingerprint", "mine", "--set", f"neighbours.runner={runner}"]
        assert main(find_neighbours, [*arguments, "--set", 'fingerprints.mine={kind="colour-histogram"}'], spark) == 1
        assert "the store lacks some or has some twice" in capsys.readouterr().err


@pytest.mark.parametrize("order", [("spark", "process", "spark"), ("process", "spark", "process")])
def test_either_runner_continues_what_the_other_left(spark: SparkSession, tmp_path: Path, order: Any) -> None:
    """Some vectors are gone, some are changed, some are new; and one image has many copies that go."""
    random = np.random.default_rng(3)
    vectors = {f"m{i:04d}": vector for i, vector in enumerate(oracle.planted(400, 16, seed=4))}
    for turn, runner in enumerate(order):
        if turn:
            vectors = {name: vector for name, vector in vectors.items() if random.random() > 0.1}
            for name in random.choice(list(vectors), 15, replace=False):
                vectors[name] = random.standard_normal(16).astype(np.float32)
            for i in range(8):
                vectors[f"{'amz'[i % 3]}{turn}{i}"] = random.standard_normal(16).astype(np.float32)
        file = tmp_path / f"{turn}.parquet"
        pq.write_table(table(list(vectors.values()), list(vectors)), file)
        given = ["--embeddings", str(file), "-k", "4", "--dissimilar", "3"]
        rows, _, record = found(spark, tmp_path / "w", runner, *given)
        assert bool(turn) == (0 < record["counts"]["kept"] < record["counts"]["vectors"])
        assert bool(turn) == ("neighbours" in record["inputs"])
        assert rows == found(spark, tmp_path / f"full{turn}", "process", *given)[0]


def test_every_fault_of_own_vectors_is_told_alike(spark: SparkSession, tmp_path: Path, capsys: Any) -> None:
    faults = {
        "twice": table([[1.0]] * 3, ["a", "b", "a"]),
        "null": table([[1.0]] * 2, ["a", None]),
        "empty": table([]),
        "text": pa.table({"image_id": ["a"], "embedding": ["1 2 3"]}),
        "lacking": pa.table({"image_id": ["a"]}),
    }
    for name, fault in faults.items():
        pq.write_table(fault, tmp_path / f"{name}.parquet")
    (tmp_path / "text.parquet").write_bytes(b"no Parquet")
    for name in faults:
        told = []
        for runner in RUNNERS:
            arguments = ["--warehouse", str(tmp_path / "w"), "--embeddings", str(tmp_path / f"{name}.parquet")]
            assert main(find_neighbours, [*arguments, "--set", f"neighbours.runner={runner}"], spark) == 2
            told.append(capsys.readouterr().err)
        assert told[0] == told[1] and len(told[0].splitlines()) == 1
    assert not (tmp_path / "w").exists()


def test_spark_is_asked_for_few_jobs(spark: SparkSession, tmp_path: Path) -> None:
    """Packing, comparing, and the two halves of merging, which writes the table. Nothing is read to be counted."""

    def jobs() -> int:
        return int(spark.sparkContext._jsc.sc().dagScheduler().numTotalJobs())  # the status store forgets old ones

    pq.write_table(table(list(oracle.planted(900, 16, seed=1))), tmp_path / "own.parquet", row_group_size=300)
    before = jobs()
    found(spark, tmp_path / "w", "spark", "--embeddings", str(tmp_path / "own.parquet"))
    assert 0 < jobs() - before <= 4


def test_a_task_that_is_tried_again_changes_nothing(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lists for the next run are written by the task itself."""

    def twice(work: exact.Work) -> Any:
        work_twice = merging(work)

        def merged(batches: Any) -> Any:
            again = list(batches)
            list(work_twice(iter(again)))
            return work_twice(iter(again))

        return merged

    pq.write_table(hostile(), tmp_path / "own.parquet")
    given = ["--embeddings", str(tmp_path / "own.parquet"), "-k", "5"]
    wanted = found(spark, tmp_path / "once", "spark", *given)[0]
    merging = exact._merging
    monkeypatch.setattr(exact, "_merging", twice)
    assert found(spark, tmp_path / "w", "spark", *given)[0] == wanted
    again = found(spark, tmp_path / "w", "spark", *given)
    assert again[0] == wanted and again[2]["counts"]["kept"] == again[2]["counts"]["vectors"]


def test_runs_say_what_ran(spark: SparkSession, tmp_path: Path) -> None:
    pq.write_table(hostile(), tmp_path / "own.parquet")
    _, _, record = found(spark, tmp_path / "w", "process", "--embeddings", str(tmp_path / "own.parquet"))
    assert json.dumps(record["settings"]["runner"]) == (
        '{"because": "neighbours.runner asks for it", "chosen": "process"}'
    )
