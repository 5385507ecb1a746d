"""Partitions large enough go through pynndescent, in Spark. It compiles itself in each worker: minutes."""

from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

import oracle
from approximating import check, published, run, written


def test_large_parts_go_through_pynndescent(spark: SparkSession, tmp_path: Path, capsys: Any) -> None:
    vectors = oracle.planted(2400, 16, seed=27)
    options = ["--set=approximate.nndescent_rows=1", "--set=approximate.nlist=3", "--set=approximate.nprobe=2"]
    assert run(spark, tmp_path / "w", written(tmp_path, vectors), *options) == 0
    assert "compile, with pynndescent: " in capsys.readouterr().err
    rows, record = published(spark, tmp_path / "w")
    assert check(rows, vectors, "cosine", 5) >= 0.99 and {row[5] for row in rows} == {"approximate"}
