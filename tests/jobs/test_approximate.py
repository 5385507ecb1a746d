"""Approximate neighbours: nearly all of the true ones, exact distances, and the same table however the data came."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.sql import SparkSession

import oracle
from approximating import check, degenerate, published, run, written
from image_similarity.jobs import audit_neighbours
from image_similarity.jobs.command_line import main
from image_similarity.stages.gallery.words import FACTS
from image_similarity.stages.neighbours import approximate, audit, layout, offers


@pytest.mark.parametrize("metric", ["cosine", "correlation", "euclidean"])
def test_nearly_all_true_neighbours_are_found(spark: SparkSession, tmp_path: Path, metric: str, capsys: Any) -> None:
    vectors = oracle.planted(800, 16, seed=21)
    assert run(spark, tmp_path / "w", written(tmp_path, vectors), "--metric", metric) == 0
    rows, record = published(tmp_path / "w")
    recall = check(rows, vectors, metric, 5)
    assert recall >= 0.99 and abs(recall - record["recall"]) < 0.01 and {row[5] for row in rows} == {"approximate"}
    assert f"recall {record['recall']:.4f} (" in capsys.readouterr().out


def test_the_table_does_not_depend_on_the_order_of_the_data_or_the_number_of_cores(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = oracle.planted(800, 16, seed=22)
    found = []
    for seed, row_group in ((0, 800), (1, 100)):
        file = written(tmp_path, vectors, np.random.default_rng(seed).permutation(800), row_group)
        for module in (approximate, audit, layout, offers):
            monkeypatch.setattr(module, "cores_of", lambda _, cores=1 + 6 * seed: cores)
        assert run(spark, tmp_path / f"w{seed}", file, "--set", f"neighbours.block_rows={64 + 300 * seed}") == 0
        found.append(published(tmp_path / f"w{seed}")[0])
    assert found[0] == found[1]


@pytest.mark.parametrize("case", degenerate())
def test_degenerate_collections(spark: SparkSession, tmp_path: Path, case: str) -> None:
    vectors = degenerate()[case]
    options = ["--set", "approximate.nlist=7"] if len(vectors) < 60 else ["--set", "approximate.partition_rows=40"]
    assert run(spark, tmp_path / "w", written(tmp_path, vectors), *options) == 0
    assert check(published(tmp_path / "w")[0], vectors, "cosine", 5) >= 0.99


POISON = [f"--set=approximate.{setting}" for setting in ("nprobe=1", "probe_doublings=0", "rounds=0")]


def test_lists_that_are_not_good_enough_are_refused(spark: SparkSession, tmp_path: Path, capsys: Any) -> None:
    file = written(tmp_path, oracle.planted(600, 16, seed=24))
    assert run(spark, tmp_path / "w", file, *POISON, "--set=approximate.fallback=fail") == 1
    error = capsys.readouterr().err
    assert "find_neighbours: error: recall is 0." in error and "recall_target is 0.99" in error
    assert not (tmp_path / "w" / "_current.json").exists()


def test_lists_that_are_not_good_enough_give_way_to_exact_ones(
    spark: SparkSession, tmp_path: Path, capsys: Any
) -> None:
    vectors = oracle.planted(600, 16, seed=25)
    assert run(spark, tmp_path / "w", written(tmp_path, vectors), *POISON, "--set=approximate.fallback=exact") == 0
    rows, record = published(tmp_path / "w")
    assert check(rows, vectors, "cosine", 5) == 1 and {row[5] for row in rows} == {"exact"} and record["recall"] is None
    assert "exact ones took their place" in capsys.readouterr().out


def test_dissimilar_ones_are_exact_beside_approximate_similar_ones(spark: SparkSession, tmp_path: Path) -> None:
    vectors = oracle.planted(500, 16, seed=26)
    file = written(tmp_path, vectors)
    assert run(spark, tmp_path / "w", file, "--dissimilar", "3") == 0
    rows, _ = published(tmp_path / "w")
    far = [row for row in rows if row[1] == "dissimilar"]
    right = [(f"{i:05d}", r, f"{j:05d}", d) for i, r, j, d in oracle.neighbours(vectors, "cosine", 3, farthest=True)]
    assert [(row[0], row[2], row[3], row[4]) for row in far] == sorted(right) and {row[5] for row in far} == {"exact"}
    near = [row for row in rows if row[1] == "similar"]
    assert check(near, vectors, "cosine", 5) >= 0.99 and {row[5] for row in near} == {"approximate"}


def test_lists_that_met_too_few_others_are_filled(spark: SparkSession, tmp_path: Path, capsys: Any) -> None:
    """Blocks of about twenty, and no visits: fewer than the neighbours that are wanted."""
    vectors = oracle.planted(300, 16, seed=30)
    options = ["--set=approximate.nlist=60", *POISON, "--set=approximate.recall_target=0.01", "-k", "25"]
    assert run(spark, tmp_path / "w", written(tmp_path, vectors), *options) == 0
    assert check(published(tmp_path / "w")[0], vectors, "cosine", 25) > 0.3
    assert "compare at full precision: " in capsys.readouterr().err


def test_copies_have_one_place_if_so_wanted(spark: SparkSession, tmp_path: Path) -> None:
    vectors = np.random.default_rng(31).standard_normal((300, 16)).astype(np.float32)
    vectors[200:] = vectors[100:200]
    assert run(spark, tmp_path / "w", written(tmp_path, vectors), "--set=neighbours.drop_duplicates=true") == 0
    rows, _ = published(tmp_path / "w")
    firsts = [row for row in rows if row[0] < "00200"]
    assert check(firsts, vectors[:200], "cosine", 5) >= 0.99
    assert [row[3:5] for row in rows if row[0] == "00250"] == [row[3:5] for row in rows if row[0] == "00150"]


def test_many_neighbours(spark: SparkSession, tmp_path: Path) -> None:
    """More than a part holds, and more than rounds of exchange look at."""
    vectors = oracle.planted(700, 16, seed=32)
    options = [
        "--set=approximate.nlist=30",
        "--set=approximate.probe_doublings=0",
        "--set=approximate.recall_target=0.9",
        "-k",
        "90",
    ]
    assert run(spark, tmp_path / "w", written(tmp_path, vectors), *options) == 0
    rows, record = published(tmp_path / "w")
    assert check(rows, vectors, "cosine", 90) >= 0.89 and json.loads(record["counts"])["rounds"] > 0


def test_what_was_found_across_borders_is_told(spark: SparkSession, tmp_path: Path) -> None:
    file = written(tmp_path, oracle.planted(600, 16, seed=33))
    for folder, options in (
        ("all", []),
        ("none", ["--set=approximate.nlist=2", "--set=approximate.recall_target=0.01", *POISON]),
    ):
        assert run(spark, tmp_path / folder, file, *options) == 0
        counts = json.loads(published(tmp_path / folder)[1]["counts"])
        across = counts["recall_across_borders"]
        assert across > 0.9 if folder == "all" else across < 0.9
        assert {name.replace("_", " ") for name in counts} <= set(FACTS), "the gallery explains them"


def test_too_few_queries_are_told_before_the_work(spark: SparkSession, tmp_path: Path, capsys: Any) -> None:
    file = written(tmp_path, oracle.planted(300, 16, seed=34))
    assert run(spark, tmp_path / "w", file, "--set=approximate.audit_queries=100") == 2
    error = capsys.readouterr().err
    assert "approximate.audit_queries = 100 are too few" in error and "ask 150" in error
    assert not (tmp_path / "w" / "neighbours").exists()


def audited(spark: SparkSession, warehouse: Path) -> int:
    arguments = ["--warehouse", str(warehouse), "--fingerprint", "external", "--sample", "300", "--run-id", "tonight"]
    return main(audit_neighbours, arguments, spark)


def test_an_audit_finds_what_the_definition_finds(spark: SparkSession, tmp_path: Path, capsys: Any) -> None:
    """A table that was published because little was asked of it; images share vectors."""
    vectors = oracle.planted(600, 16, seed=28)
    vectors[100:130] = vectors[200:230]
    file = written(tmp_path, vectors)
    assert run(spark, tmp_path / "w", file, *POISON, "--set=approximate.recall_target=0.1") == 0
    rows, before = published(tmp_path / "w")
    recall = check(rows, vectors, "cosine", 5)
    for _ in range(2):  # a scheduler's second try does not take it for done
        assert audited(spark, tmp_path / "w") == 1
        assert "is 0." in capsys.readouterr().err
    after, record = published(tmp_path / "w")
    assert after == rows and record["job"] == "audit_neighbours"
    assert abs(record["recall"] - recall) < 0.04 and abs(before["recall"] - recall) < 1e-9


def test_an_audit_by_spark_says_what_a_run_in_process_said(spark: SparkSession, tmp_path: Path) -> None:
    """Both look at the same images, some of which share vectors, and find the same true neighbours."""
    vectors = oracle.planted(600, 16, seed=36)
    vectors[100:130] = vectors[200:230]
    options = ["--set=neighbours.runner=process", "--set=approximate.recall_target=0.8"]
    options += ["--set=approximate.recall_slack=0.1", "--set=approximate.audit_queries=300"]
    assert run(spark, tmp_path / "w", written(tmp_path, vectors), *options) == 0
    before = published(tmp_path / "w")[1]["recall"]
    assert main(audit_neighbours, [*AUDIT, "--warehouse", str(tmp_path / "w"), options[1]], spark) == 0
    assert before == published(tmp_path / "w")[1]["recall"] < 1


AUDIT = ["--fingerprint", "external", "--sample", "300", "--set=approximate.recall_slack=0.1"]


def test_an_audit_of_exact_neighbours_finds_nothing_wrong(spark: SparkSession, tmp_path: Path) -> None:
    vectors = oracle.planted(400, 16, seed=29)
    vectors[100:180] = vectors[0]
    for drop_duplicates in ("false", "true"):
        options = ["--method", "exact", "--set", f"neighbours.drop_duplicates={drop_duplicates}"]
        assert run(spark, tmp_path / drop_duplicates, written(tmp_path, vectors), *options) == 0
        assert audited(spark, tmp_path / drop_duplicates) == 0
        assert published(tmp_path / drop_duplicates)[1]["recall"] == 1


def test_an_audit_of_vectors_that_were_replaced_is_refused(
    spark: SparkSession, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the table was made of is no longer there, so nothing can be said about the table."""
    vectors = oracle.planted(400, 16, seed=35)
    monkeypatch.chdir(tmp_path)
    written(tmp_path, vectors)
    assert run(spark, tmp_path / "w", "1000.parquet", "--method", "exact") == 0
    monkeypatch.chdir("/")  # the file is known by its whole path
    assert audited(spark, tmp_path / "w") == 0
    vectors[7] *= -1
    written(tmp_path, vectors)
    assert run_audit_again(spark, tmp_path / "w") == 2
    assert "no longer those that the audited run compared" in capsys.readouterr().err
    vectors[7] *= -1
    written(tmp_path, vectors, order=np.arange(400)[::-1])  # the same vectors in other rows are the same
    assert run_audit_again(spark, tmp_path / "w") == 0


def run_audit_again(spark: SparkSession, warehouse: Path) -> int:
    """An audit without a label, so that it takes place."""
    arguments = ["--warehouse", str(warehouse), "--fingerprint", "external", "--sample", "300"]
    return main(audit_neighbours, arguments, spark)


def test_nothing_to_audit(spark: SparkSession, tmp_path: Path, capsys: Any) -> None:
    assert audited(spark, tmp_path / "w") == 2
    assert "no such folder" in capsys.readouterr().err
