"""Groups of a warehouse: what both runners publish, what a second run works on, and what bad input gets."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from image_similarity.jobs import find_neighbours, group_images
from image_similarity.jobs.command_line import main
from image_similarity.warehouse.snapshot import open_snapshot
from processes import ask

Vectors = dict[str, NDArray[np.float32]]


def written(folder: Path, vectors: Vectors, name: str = "vectors.parquet") -> str:
    table = pa.table({"image_id": list(vectors), "embedding": pa.array(list(vectors.values()), pa.list_(pa.float32()))})
    pq.write_table(table, folder / name)
    return str(folder / name)


def planted(seed: int = 0, strangers: int = 500) -> tuple[Vectors, list[set[str]]]:
    """Strangers, and groups of 2 to 12 that are near to one of them. Which are which."""
    rng = np.random.default_rng(seed)
    vectors = {f"s{i:04d}": rng.standard_normal(64).astype(np.float32) for i in range(strangers)}
    groups = []
    for number, size in enumerate((1, 2, 4, 12)):
        centre = vectors[f"s{number * 7:04d}"]
        members = {
            f"c{number}-{i:02d}": centre + 0.01 * rng.standard_normal(64).astype(np.float32) for i in range(size)
        }
        vectors |= members
        groups.append({f"s{number * 7:04d}", *members})
    return vectors, groups


def grouped(warehouse: Path, kind: str = "near-duplicates") -> list[tuple[Any, ...]]:
    """The members of each group, sorted."""
    query = f"SELECT list(image_id ORDER BY image_id) FROM groups WHERE kind = '{kind}' GROUP BY group_id"
    return sorted(tuple(row[0]) for row in ask(warehouse, query))


def rows(warehouse: Path) -> dict[str, list[Any]]:
    now = open_snapshot(str(warehouse))
    return {table: list(map(repr, now.table(table).to_pylist())) for table in ("groups", "group_summary")}


def last(warehouse: Path) -> Any:
    return list(open_snapshot(str(warehouse)).runs.values())[-1]


OWN = ["--fingerprint", "external", "--limit", "0.3"]


@pytest.fixture
def external(spark: SparkSession, tmp_path: Path) -> Path:
    vectors, _ = planted()
    asked = ["--warehouse", str(tmp_path / "w"), "--embeddings", written(tmp_path, vectors), "--dissimilar", "0"]
    assert main(find_neighbours, asked, spark) == 0
    return tmp_path / "w"


def test_planted_groups_are_found_whole(spark: SparkSession, external: Path, capsys: Any) -> None:
    assert main(group_images, ["--warehouse", str(external), *OWN], spark) == 0
    assert grouped(external) == sorted(tuple(sorted(members)) for members in planted()[1])
    assert grouped(external, "identical") == []
    out = capsys.readouterr().out
    assert "4 groups of near-duplicates, 23 images, the largest of 13" in out and "no identical files" in out
    record = last(external)
    assert record.counts["share_proven"] == 1.0 and record.settings["limit"]["source"] == "given"


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_both_runners_write_the_same_tables(spark: SparkSession, tmp_path: Path, metric: str) -> None:
    """In one block or many, whatever the number of partitions."""
    vectors, _ = planted(1)
    vectors |= {f"same{i:02d}": vectors["s0001"] for i in range(15)}  # more copies than the table has ranks
    vectors |= {f"copy{i}": vectors[f"s{i + 10:04d}"] for i in range(3)}
    asked = ["--embeddings", written(tmp_path, vectors), "--dissimilar", "0", "--metric", metric]
    by_way = {}
    for way, options in {
        "process": [],
        "process in blocks": ["--set", "groups.process_bytes=1000000"],
        "process in small blocks": ["--set", "groups.process_bytes=8000"],
        "spark": ["--set", "groups.runner=spark"],
        "spark in blocks": ["--set", "groups.runner=spark", "--set", "groups.task_bytes=2000"],
    }.items():
        warehouse = tmp_path / way.replace(" ", "-")
        assert main(find_neighbours, ["--warehouse", str(warehouse), *asked], spark) == 0
        assert main(group_images, ["--warehouse", str(warehouse), *OWN, "--metric", metric, *options], spark) == 0
        by_way[way] = rows(warehouse)
    first = by_way.pop("process")
    assert len(first["group_summary"]) >= 8
    assert [way for way, of_way in by_way.items() if of_way != first] == []


def changed(vectors: Vectors) -> Vectors:
    """One member of a group is gone, another group has one more, a stranger is new, and a stranger has a copy."""
    rng = np.random.default_rng(9)
    after = {name: vector for name, vector in vectors.items() if name != "c2-01"}
    near = 0.01 * rng.standard_normal(64).astype(np.float32)
    return after | {
        "a-new": rng.standard_normal(64).astype(np.float32),
        "b-near": vectors["s0000"] + near,
        "z-copy": vectors["s0100"],
    }


@pytest.mark.parametrize("runner", ["process", "spark"])
def test_only_components_that_changed_are_worked_on(spark: SparkSession, tmp_path: Path, runner: str) -> None:
    """And the groups are those of a run from scratch with the same limits."""
    vectors, _ = planted(3)
    asked = [*OWN, "--set", f"groups.runner={runner}"]
    by_way: dict[str, list[dict[str, Any]]] = {}
    for way in ("again", "from scratch"):
        warehouse = tmp_path / way.replace(" ", "-")
        for now in (vectors, vectors, changed(vectors)):
            found = ["--warehouse", str(warehouse), "--embeddings", written(tmp_path, now), "--dissimilar", "0"]
            assert main(find_neighbours, found, spark) == 0
            assert main(group_images, ["--warehouse", str(warehouse), *asked], spark) == 0
            by_way.setdefault(way, []).append({**rows(warehouse), **last(warehouse).counts})
            if way == "from scratch":
                for found_groups in (warehouse / "_state" / "group_images").glob("*/*/found"):
                    shutil.rmtree(found_groups)
    first, same, after = by_way["again"]
    assert first["components_worked_on"] == first["components"] == 4
    assert same["components_worked_on"] == 0 and same["components"] == 4
    assert (after["components_worked_on"], after["components"]) == (3, 5)
    for table in ("groups", "group_summary"):
        assert first[table] == same[table]
        assert [of_run[table] for of_run in by_way["again"]] == [of_run[table] for of_run in by_way["from scratch"]]
    assert by_way["from scratch"][2]["components_worked_on"] == 5
