"""The exact stage in Spark against the definition: every row equal, whatever the blocks and partitions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession

import oracle
from image_similarity.knn.screening import Choice
from image_similarity.settings import ApproximateSettings, NeighboursSettings
from image_similarity.stages.neighbours import exact, stage
from image_similarity.stages.neighbours import plan as planning
from image_similarity.stages.neighbours.sources import Source
from image_similarity.warehouse.records import new_run_id
from image_similarity.warehouse.warehouse import Warehouse


def ids_of(n: int) -> list[str]:
    """Names whose order in UTF-8 is not the order of their numbers, nor that of UTF-16."""
    letters = ["a", "Z", "é", "日", "\U0001f600", "\uff5e", "1"]
    return [f"{letters[i % len(letters)]}{i}" for i in range(n)]


def frame(spark: SparkSession, vectors: NDArray[np.float32], partitions: int, seed: int) -> DataFrame:
    order = np.random.default_rng(seed).permutation(len(vectors))
    ids = ids_of(len(vectors))
    table = pa.table(
        {"content": [ids[i] for i in order], "embedding": pa.array(list(vectors[order]), pa.list_(pa.float32()))}
    )
    return spark.createDataFrame(table).repartition(partitions)


class Written:
    """What the stage writes."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, rows: DataFrame) -> None:
        self.rows += rows.toArrow().to_pylist()

    def clear(self) -> None:
        self.rows = []


def computed(
    spark: SparkSession, folder: Path, vectors: DataFrame, images: DataFrame | None = None, **settings: Any
) -> tuple[dict[str, list[Any]], stage.Outputs]:
    """The rows of each relation as (image_id, rank, neighbour_id, distance), sorted."""
    warehouse, run = Warehouse(spark, str(folder)), new_run_id()
    with warehouse.scratch(run) as scratch, warehouse.state("x", run) as state:
        given = NeighboursSettings(**settings)
        source = Source(images, vectors, (vectors if images is None else images).count())
        plan = planning.make(spark, source.count, source.dimensions(), given, ApproximateSettings())
        written = Written()
        outputs = stage.run(spark, source, given, ApproximateSettings(), plan, scratch, state, written)
    table = written.rows
    rows: dict[str, list[Any]] = {"similar": [], "dissimilar": []}
    for row in table:
        rows[row["relation"]].append((row["image_id"], row["rank"], row["neighbour_id"], row["distance"]))
    assert len(table) == outputs.rows
    return {relation: sorted(found) for relation, found in rows.items()}, outputs


def expected(vectors: NDArray[np.float32], metric: str, similar: int, dissimilar: int) -> dict[str, list[Any]]:
    """The same by definition; the oracle works on rows in the byte order of their ids."""
    ids = ids_of(len(vectors))
    order = sorted(range(len(ids)), key=lambda i: ids[i].encode())
    names = [ids[i] for i in order]
    return {
        relation: sorted(
            (names[i], rank, names[j], distance)
            for i, rank, j, distance in oracle.neighbours(vectors[order], metric, k, farthest)
        )
        for relation, k, farthest in (("similar", similar, False), ("dissimilar", dissimilar, True))
    }


@pytest.fixture(scope="module")
def planted() -> tuple[NDArray[np.float32], dict[str, list[Any]]]:
    vectors = oracle.planted(2000, 64, seed=7)
    return vectors, expected(vectors, "cosine", 12, 5)


@pytest.mark.parametrize(("block_rows", "partitions"), [(103, 1), (400, 3), (819, 8), (3277, 5)])
def test_thousands_of_vectors_with_planted_ties(
    spark: SparkSession, tmp_path: Path, planted: Any, block_rows: int, partitions: int
) -> None:
    vectors, right = planted
    found, _ = computed(
        spark, tmp_path, frame(spark, vectors, partitions, partitions), similar=12, dissimilar=5, block_rows=block_rows
    )
    assert found == right


@pytest.mark.parametrize("metric", ["correlation", "euclidean"])
def test_other_metrics(spark: SparkSession, tmp_path: Path, metric: str) -> None:
    vectors = oracle.planted(700, 16, seed=8)
    found, _ = computed(
        spark, tmp_path, frame(spark, vectors, 3, 0), metric=metric, similar=4, dissimilar=6, block_rows=128
    )
    assert found == expected(vectors, metric, 4, 6)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 20])
def test_every_small_number_of_images(spark: SparkSession, tmp_path: Path, n: int) -> None:
    """k below n and above it, over block sizes from one row to all."""
    vectors = np.random.default_rng(n).integers(-2, 3, (n, 3)).astype(np.float32)
    vectors[:, 0] = 1
    below, above = max(1, n // 2), n + 3
    block_rows, partitions = [(1, 1), (3, 2), (64, 3)][n % 3]
    found, outputs = computed(
        spark, tmp_path, frame(spark, vectors, partitions, n), similar=below, dissimilar=above, block_rows=block_rows
    )
    assert found == expected(vectors, "cosine", below, above)
    assert outputs.rows == n * (min(below, n - 1) + n - 1)


def test_one_relation_alone(spark: SparkSession, tmp_path: Path) -> None:
    vectors = oracle.planted(60, 8, seed=9)
    for similar, dissimilar in ((3, 0), (0, 3)):
        found, _ = computed(spark, tmp_path, frame(spark, vectors, 2, 0), similar=similar, dissimilar=dissimilar)
        assert found == expected(vectors, "cosine", similar, dissimilar)


def test_copies_can_be_one_entry(spark: SparkSession, tmp_path: Path) -> None:
    """The first of equal vectors stands for all; each copy has the list of the first."""
    vectors = oracle.planted(120, 8, seed=11)
    vectors[60:80] = vectors[40:60]
    found, outputs = computed(
        spark, tmp_path, frame(spark, vectors, 2, 0), similar=4, dissimilar=3, drop_duplicates=True
    )
    ids = ids_of(120)
    first = {
        i: min((j for j in range(120) if (vectors[j] == vectors[i]).all()), key=lambda j: ids[j].encode())
        for i in range(120)
    }
    alone = sorted(set(first.values()), key=lambda i: ids[i].encode())
    assert 60 < len(alone) < 105 and outputs.rows == 120 * 7
    for relation, k in (("similar", 4), ("dissimilar", 3)):
        lists: dict[str, list[Any]] = {}
        for row, rank, other, distance in oracle.neighbours(vectors[alone], "cosine", k, relation == "dissimilar"):
            lists.setdefault(ids[alone[row]], []).append((rank, ids[alone[other]], distance))
        assert found[relation] == sorted((ids[i], *entry) for i in range(120) for entry in lists[ids[first[i]]])


def test_unusable_vectors_are_failures_and_the_rest_is_compared(spark: SparkSession, tmp_path: Path) -> None:
    vectors = oracle.planted(60, 8, seed=10)
    vectors[[3, 7]] = 0
    vectors[9, 2] = np.inf
    found, outputs = computed(spark, tmp_path, frame(spark, vectors, 2, 0), similar=2, dissimilar=2)
    kept = [i for i in range(60) if i not in (3, 7, 9)]
    assert (outputs.packed.usable, outputs.packed.unusable) == (57, 3)
    assert {row[0] for row in found["similar"]} == {ids_of(60)[i] for i in kept}


def test_no_usable_vector_at_all(spark: SparkSession, tmp_path: Path) -> None:
    found, outputs = computed(spark, tmp_path, frame(spark, np.zeros((3, 4), dtype=np.float32), 1, 0))
    assert found == {"similar": [], "dissimilar": []} and outputs.packed.unusable == 3


@pytest.mark.parametrize("drop_duplicates", [False, True])
def test_images_share_files_and_files_share_vectors(spark: SparkSession, tmp_path: Path, drop_duplicates: bool) -> None:
    """30 vectors for 50 files for 80 images; the definition is asked about images. Vectors of no image are passed
    over.
    """
    rng = np.random.default_rng(12)
    vectors = oracle.planted(30, 8, seed=12)[rng.integers(0, 30, 50)]
    content = rng.permutation(np.concatenate([np.arange(50), rng.integers(0, 50, 30)]))
    ids = ids_of(80)
    order = sorted(range(80), key=lambda i: ids[i].encode())
    files = spark.createDataFrame(
        pa.table({"content": [f"f{i}" for i in range(50)] + ["gone"], "embedding": [*map(list, vectors), [1.0] * 8]})
    )
    images = spark.createDataFrame([(ids[i], f"f{content[i]}") for i in range(80)], "image_id string, content string")
    found, outputs = computed(
        spark, tmp_path, files, images, similar=6, dissimilar=40, drop_duplicates=drop_duplicates, block_rows=16
    )
    assert outputs.rows == sum(map(len, found.values()))
    of = {ids[i]: int(content[i]) for i in range(80)}
    names = [ids[i] for i in order]
    firsts = {file: next(name for name in names if of[name] == file) for file in range(50)}
    for relation, k, sign in (("similar", 6, 1), ("dissimilar", 40, -1)):
        distance = {(names[i], names[j]): d for i, _, j, d in oracle.neighbours(vectors[content[order]], "cosine", 79)}
        right = []
        for name in names:
            others = [other for other in names if other != name]
            if drop_duplicates:
                others = [other for other in others if firsts[of[other]] == other and of[other] != of[name]]
            best = sorted(others, key=lambda other: (sign * distance[name, other], other.encode()))[:k]
            right += [(name, rank, other, distance[name, other]) for rank, other in enumerate(best, 1)]
        assert found[relation] == sorted(right)


def test_where_low_precision_proves_little_float32_is_taken(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """As on a processor that multiplies bfloat16 faster, with vectors whose neighbours are hardly nearer than
    others. A sample shows it; and where a sample did not, all vectors do.
    """
    make = planning.make

    def in_bfloat16(*given: Any) -> planning.Plan:
        plan = make(*given)
        return replace(plan, rate=replace(plan.rate, screen="bfloat16"))

    monkeypatch.setattr(planning, "make", in_bfloat16)
    random = np.random.default_rng(41)
    groups = np.repeat(
        random.normal(size=(8, 64)), 60, axis=0
    )  # within a distance of 0.002: bfloat16 is wrong by twice that
    vectors = (groups + 0.045 * random.normal(size=groups.shape)).astype(np.float32)
    wanted = expected(vectors, "cosine", 5, 5)
    settings: dict[str, Any] = {"similar": 5, "dissimilar": 5, "metric": "cosine", "block_rows": 100}
    rows, low = computed(spark, tmp_path / "low", frame(spark, vectors, 3, 1), screen="bfloat16", **settings)
    assert rows == wanted and low.brute_force > 0.1 * len(vectors) and "more precisely" not in capsys.readouterr().out
    rows, tried = computed(spark, tmp_path / "tried", frame(spark, vectors, 3, 1), **settings)
    assert rows == wanted and tried.brute_force < 0.1 * low.brute_force
    assert tried.screen is not None and tried.screen.screen == "float32" and "unproven" in tried.screen.because
    assert "more precisely" not in capsys.readouterr().out
    monkeypatch.setattr(exact, "_choice", lambda *of: Choice("bfloat16", "a test wants it"))
    rows, auto = computed(spark, tmp_path / "auto", frame(spark, vectors, 3, 1), **settings)
    assert rows == wanted and auto.brute_force < 0.1 * low.brute_force and "more precisely" in capsys.readouterr().out
