"""pynndescent: in this process, and in Spark, where it compiles itself in each worker. Takes minutes."""

from pathlib import Path
from typing import Any

import numpy as np
from pyspark.sql import SparkSession

import oracle
from approximating import check, published, run, written
from image_similarity.knn.nndescent import Descent


def test_large_parts_go_through_pynndescent(spark: SparkSession, tmp_path: Path, capsys: Any) -> None:
    vectors = oracle.planted(2400, 16, seed=27)
    options = ["--set=approximate.nndescent_rows=1", "--set=approximate.nlist=3", "--set=approximate.nprobe=2"]
    assert run(spark, tmp_path / "w", written(tmp_path, vectors), *options) == 0
    assert "compile, with pynndescent: " in capsys.readouterr().err
    rows, record = published(tmp_path / "w")
    assert check(rows, vectors, "cosine", 5) >= 0.99 and {row[5] for row in rows} == {"approximate"}


def test_residents_and_visitors_get_most_of_their_neighbours() -> None:
    rng, k = np.random.default_rng(3), 5
    rows, others = (rng.normal(size=(n, 8)).astype(np.float32) for n in (600, 40))
    made = Descent(rows, k, False, 0, 1)
    for queries, (places, scores), least in ((rows, made.residents(), 0.95), (others, made.visitors(others), 0.7)):
        assert places.dtype == np.int32 and scores.dtype == np.float32 and len(places) == len(scores) == len(queries)
        away = ((queries[:, None].astype(np.float64) - rows) ** 2).sum(axis=2)
        there = places >= 0
        if queries is rows:
            assert not (places == np.arange(len(rows))[:, None]).any(), "no row is its own neighbour"
            np.fill_diagonal(away, np.inf)
        assert np.allclose(
            scores[there], -np.take_along_axis(away, np.maximum(places, 0), axis=1)[there] / 2, atol=1e-4
        )
        right = np.argsort(away, axis=1)[:, :k]
        hits = sum(len(set(mine[mine >= 0]) & set(true)) for mine, true in zip(places, right))
        assert hits >= least * len(queries) * k
