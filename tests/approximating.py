"""Approximate neighbours of somebody's vectors, by the job, and checks of their table against the definition."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.sql import SparkSession

import oracle
from image_similarity.jobs import find_neighbours
from image_similarity.jobs.command_line import main
from image_similarity.warehouse.snapshot import open_snapshot

Values = NDArray[np.float32]

Row = tuple[str, str, int, str, float, str]


def written(folder: Path, vectors: Values, order: NDArray[np.int64] | None = None, row_group: int = 1000) -> str:
    order = np.arange(len(vectors)) if order is None else order
    ids = [f"{i:05d}" for i in order]
    table = pa.table({"image_id": ids, "embedding": pa.array(list(vectors[order]), pa.list_(pa.float32()))})
    file = folder / f"{row_group}.parquet"
    pq.write_table(table, file, row_group_size=row_group)
    return str(file)


def degenerate() -> dict[str, Values]:
    """Collections that are not cut into partitions as usual."""
    rng = np.random.default_rng(23)
    plain = rng.standard_normal((300, 8)).astype(np.float32)
    copies = plain.copy()
    copies[rng.choice(300, 120, replace=False)] = plain[rng.integers(0, 20, 120)]
    cluster = plain.copy()
    cluster[:240] = plain[0] + 0.01 * rng.standard_normal((240, 8)).astype(np.float32)
    constant = plain.copy()
    constant[:, 3:] = 1
    few = {f"{n} images": plain[:n] for n in (1, 2, 6, 50)}
    return {
        **few,
        "all identical": np.repeat(plain[:1], 40, axis=0),
        "40 % copies": copies,
        "80 % in one cluster": cluster,
        "constant dimensions": constant,
        "on one line": plain[:1] * rng.uniform(1, 2, (300, 1)).astype(np.float32) + np.float32(1e-6) * plain,
        "an outlier": np.concatenate([cluster[:100], -plain[:1] * 1000]),
        "one value": np.abs(plain[:, :1]),
    }


DEFAULTS = {
    "neighbours.similar": 5,
    "neighbours.dissimilar": 0,
    "neighbours.method": "approximate",
    "neighbours.runner": "spark",
    "approximate.partition_rows": 80,
    "approximate.nprobe": 3,
    "approximate.fallback": "fail",
}


def run(spark: SparkSession, warehouse: Path, file: str, *options: str) -> int:
    """find_neighbours of ``file`` with `DEFAULTS`, but for what ``options`` say: flags, or --set KEY=VALUE."""
    flags = {"-k": "neighbours.similar", "--dissimilar": "neighbours.dissimilar", "--method": "neighbours.method"}
    given = " ".join(flags.get(option, option) for option in options)
    defaults = [f"--set={key}={value}" for key, value in DEFAULTS.items() if key not in given]
    return main(find_neighbours, ["--warehouse", str(warehouse), "--embeddings", file, *defaults, *options], spark)


def published(warehouse: Path) -> tuple[list[Row], Any]:
    """The table, sorted, and the record of the last run; read without Spark."""
    now = open_snapshot(str(warehouse))
    columns = ["image_id", "relation", "rank", "neighbour_id", "distance", "method"]
    rows = now.table("neighbours", columns=columns).to_pylist()
    record = now.table("runs").sort_by("started_at").to_pylist()[-1]
    return sorted(tuple(row[name] for name in columns) for row in rows), record


def check(rows: list[Row], vectors: Values, metric: str, k: int) -> float:
    """Every list is whole, in order, and of exact distances; returns its recall."""
    n = len(vectors)
    k = min(k, n - 1)
    right: dict[int, dict[int, float]] = {}
    for i, _, j, distance in oracle.neighbours(vectors, metric, n - 1):
        right.setdefault(i, {})[j] = distance
    assert len(rows) == n * k
    hits = 0
    for i in range(n):
        mine = rows[i * k : (i + 1) * k]
        assert [(row[0], row[2]) for row in mine] == [(f"{i:05d}", rank) for rank in range(1, k + 1)]
        others = [int(row[3]) for row in mine]
        assert len(set(others)) == k and i not in others
        assert [row[4] for row in mine] == [right[i][j] for j in others]
        assert [(row[4], row[3]) for row in mine] == sorted((row[4], row[3]) for row in mine)
        farthest = sorted(right[i].values())[k - 1] if k else 0
        hits += sum(right[i][j] <= farthest for j in others)
    return hits / (n * k) if n * k else 1.0
