"""Queries against a collection, by Spark and by the job's own process: the same answers, which are those of the
definition.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

import oracle
from image_similarity import conf, settings
from image_similarity.errors import JobFailed, WrongInput
from image_similarity.jobs import find_neighbours, search_runners
from image_similarity.jobs.command_line import main
from image_similarity.jobs.job import Application, Job
from image_similarity.knn.engine import Ranked
from image_similarity.knn.screening import Choice
from image_similarity.settings import NeighboursSettings
from image_similarity.stages.neighbours import local_source
from image_similarity.stages.search import by_spark, in_process
from image_similarity.stages.search.answers import Answers
from image_similarity.stages.search.by_spark import Cut
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.snapshot import POINTER, Pointer
from image_similarity.warehouse.warehouse import Warehouse

Vectors = dict[str, Any]
RUNNERS = ("process", "spark")
KEY = "k"


def names(count: int, prefix: str = "") -> list[str]:
    """So that their order is neither that of rows nor of any alphabet."""
    return [f"{prefix}{'aZé日'[i % 4]}{(i * 7919) % 1000}-{i}.jpg" for i in range(count)]


def store(file: Path, vectors: Vectors) -> str:
    kind = pa.list_(pa.float32())
    pq.write_table(
        pa.table({"image_id": list(vectors), "embedding": pa.array(list(vectors.values()), kind)}),
        file,
        row_group_size=70,
    )
    return str(file)


def publish(warehouse: Path, images: dict[str, str], contents: Vectors) -> None:
    """A warehouse with the embeddings ``mine`` of ``images`` (id -> content), as embed_images leaves them."""
    into, run = Warehouse(None, str(warehouse)), "r20260101T000000-00000001"  # type: ignore[arg-type]
    n = len(contents)
    columns: dict[str, list[Any]] = {"content_sha256": list(contents), "fingerprint_key": [KEY] * n}
    columns |= {"width": [1] * n, "height": [1] * n, "embedding": list(contents.values()), "thumbprint": [None] * n}
    rows = pa.table(columns, SCHEMAS["vectors"])
    into.write_here("vectors", run, [rows.slice(0, n // 3), rows.slice(n // 3)])
    embedded = zip(*((image, "mine", KEY, content, "v") for image, content in images.items()))
    into.write_here("embeddings", run, [pa.table(list(map(list, embedded)), schema=SCHEMAS["embeddings"])])
    pointer = Pointer(1, {"embeddings": {"mine": [run]}, "vectors": {KEY: [run]}})
    into.files.write(f"{into.uri}/{POINTER}", pointer.as_json())


def job_of(spark: SparkSession, warehouse: Path, *overrides: str) -> Job:
    loaded = settings.load(settings.read([conf.local_toml()]), overrides)
    arguments = argparse.Namespace(run_id=None, dry_run=False, keep_runs=None)
    return Application(arguments, loaded, spark, Warehouse(spark, str(warehouse))).job("search_images", "test")


def answered(
    spark: SparkSession,
    warehouse: Path,
    runner: str,
    asked: str | Callable[[Job], search_runners.Side],
    *overrides: str,
    fingerprint: str = "mine",
    metric: str = "cosine",
) -> Answers:
    job = job_of(spark, warehouse, f"search.runner={runner}", "neighbours.block_rows=50", *overrides)
    queries = search_runners.own(job, asked) if isinstance(asked, str) else asked(job)
    how = search_runners.compared_as(job.settings, fingerprint, metric)
    chosen = search_runners.chosen(job, how, queries, search_runners.published(job, fingerprint, metric))
    assert chosen.name == runner and chosen.because and len(chosen.lines) == 2
    answers = chosen.run(job)
    assert not (warehouse / "_scratch" / job.run_id).exists()
    return answers


def rows(answers: Answers, ranked: Ranked) -> list[tuple[str, int, str, float]]:
    of_query, of_image = (ids.to_pylist() for ids in (answers.queries, answers.images))
    columns = (ranked.row, ranked.rank, ranked.neighbour, ranked.distance)
    return [(of_query[q], rank, of_image[i], distance) for q, rank, i, distance in zip(*(c.tolist() for c in columns))]


def defined(asked: Vectors, images: Vectors, metric: str, k: int, farthest: bool) -> list[tuple[str, int, str, float]]:
    """By all distances in float64: queries in the order of their names, images by distance, then by name."""
    asked, images = (dict(sorted(of.items(), key=lambda item: item[0].encode())) for of in (asked, images))
    values = np.array([*asked.values(), *images.values()], np.float32)
    of_all = oracle.distances(values, metric)[: len(asked), len(asked) :]
    table = []
    for query, row in zip(asked, of_all):
        order = np.lexsort((np.arange(len(row)), -row if farthest else row))[:k]
        table += [(query, rank, list(images)[i], float(row[i])) for rank, i in enumerate(order, start=1)]
    return table


def assert_same(a: Answers, b: Answers) -> None:
    for name in ("queries", "images", "failures"):
        assert getattr(a, name).equals(getattr(b, name)), name
    for relation in ("similar", "dissimilar"):
        for column, of_a in vars(getattr(a, relation)).items():
            of_b = getattr(getattr(b, relation), column)
            assert of_a.dtype == of_b.dtype and of_a.tobytes() == of_b.tobytes(), (relation, column)
    for name in ("compared", "left_out", "dimensions"):
        assert getattr(a, name) == getattr(b, name), name


def of_both(spark: SparkSession, *given: Any, **named: Any) -> Answers:
    """The answers of this process, once they are seen to be Spark's."""
    here, by_spark = (answered(spark, given[0], runner, *given[1:], **named) for runner in RUNNERS)
    assert_same(here, by_spark)
    return here


@pytest.mark.parametrize("screen", ["auto", "bfloat16"])
@pytest.mark.parametrize("metric", ["cosine", "correlation", "euclidean"])
def test_both_runners_answer_by_the_definition(spark: SparkSession, tmp_path: Path, metric: str, screen: str) -> None:
    """Images of one content, contents of one vector, queries that share a vector or are in the collection."""
    vectors = oracle.planted(200, 6, seed=3)
    contents = {f"{i:064}": vector for i, vector in enumerate(vectors[:120])}
    images = {name: f"{i % 110:064}" for i, name in enumerate(names(170))}
    publish(tmp_path / "w", images, contents)
    asked = dict(zip(names(130, "q/"), [*vectors[60:190]]))
    given = tmp_path / "w", store(tmp_path / "q.parquet", asked)
    overrides = "search.similar=9", "search.dissimilar=4", f"neighbours.screen={screen}"
    answers = of_both(spark, *given, *overrides, metric=metric)
    of_images = {name: contents[content] for name, content in images.items()}
    assert rows(answers, answers.similar) == defined(asked, of_images, metric, 9, False)
    assert rows(answers, answers.dissimilar) == defined(asked, of_images, metric, 4, True)
    assert (answers.compared, answers.left_out, answers.dimensions, len(answers.failures)) == (170, 0, 6, 0)


def test_what_cannot_be_compared_is_told(spark: SparkSession, tmp_path: Path) -> None:
    """Queries are judged by the collection's length, even if most of them have another one; images are left out."""
    vectors = oracle.planted(60, 6, seed=5)
    contents: Vectors = {f"{i:064}": vector for i, vector in enumerate(vectors[:30])}
    contents[f"{3:064}"], contents[f"{4:064}"] = np.zeros(6, np.float32), np.full(6, np.nan, np.float32)
    images = dict(zip(names(30), contents))
    publish(tmp_path / "w", images, contents)
    asked: Vectors = {f"good-{i}": vector for i, vector in enumerate(vectors[30:32])}
    asked |= {"zero": [0.0] * 6, "none": None, "endless": [float("inf")] * 6}
    asked |= {f"long-{i}": [1.0, 2.0, 3.0] for i in range(5)}

    def of_files(job: Job) -> search_runners.Side:
        """So that their length is not seen before they are read."""
        side = search_runners.own(job, store(tmp_path / "q.parquet", asked))
        assert isinstance(side.vectors, local_source.LocalFiles) and side.dimensions() == 3
        files = local_source.LocalFiles(side.count, 6, side.inputs, side.vectors.open)
        return search_runners.Side(files, side.inputs)

    answers = of_both(spark, tmp_path / "w", of_files, "search.similar=40", "search.dissimilar=40")
    assert answers.queries.to_pylist() == ["good-0", "good-1"] and (answers.compared, answers.left_out) == (28, 2)
    unusable = f"{3:064}", f"{4:064}"
    of_images = {image: contents[content] for image, content in images.items() if content not in unusable}
    good = {name: asked[name] for name in ("good-0", "good-1")}
    assert rows(answers, answers.similar) == defined(good, of_images, "cosine", 40, False)
    assert len(answers.dissimilar.row) == 2 * 28
    assert {tuple(row.values()) for row in answers.failures.to_pylist()} == {
        ("zero", "zero_vector", None),
        ("none", "no_vector", None),
        ("endless", "non_finite", None),
        *((f"long-{i}", "wrong_length", "3 values, not 6") for i in range(5)),
    }
    with pytest.raises(WrongInput, match=r"vectors of 3 values .* the collection's, which have 6"):
        answered(spark, tmp_path / "w", "process", store(tmp_path / "q.parquet", asked))


@pytest.mark.parametrize("asked", [{}, {"a": [0.0, 0.0, 0.0]}])
def test_no_query_can_be_compared(spark: SparkSession, tmp_path: Path, asked: Vectors) -> None:
    publish(tmp_path / "w", {"x": "c"}, {"c": [1.0, 2.0, 3.0]})
    ids, vectors = pa.array(list(asked), pa.string()), pa.array(list(asked.values()), pa.list_(pa.float32()))
    pq.write_table(pa.table({"content_sha256": ids, "embedding": vectors}), tmp_path / "v.parquet")

    def side(job: Job) -> search_runners.Side:
        images = pa.table({"image_id": ids, "content": ids})
        files = local_source.from_files([str(tmp_path / "v.parquet")], len(asked), lambda: images, {})
        return search_runners.Side(files, {})

    answers = of_both(spark, tmp_path / "w", side, "search.dissimilar=2")
    assert len(answers.queries) == len(answers.similar.row) == len(answers.images) == 0
    assert answers.failures["reason"].to_pylist() == ["zero_vector"] * len(asked)


def test_scores_that_prove_nothing(spark: SparkSession, tmp_path: Path) -> None:
    random = np.random.default_rng(41)
    groups = np.repeat(random.normal(size=(4, 32)), 60, axis=0)
    vectors = (groups + 1e-7 * random.normal(size=groups.shape)).astype(np.float32)
    images, asked = dict(zip(names(180), vectors[:180])), dict(zip(names(60, "q"), vectors[180:]))
    asked["copy"] = vectors[17]
    publish(tmp_path / "w", {name: name for name in images}, images)
    given = tmp_path / "w", store(tmp_path / "q.parquet", asked), "search.similar=5", "search.dissimilar=3"
    answers = of_both(spark, *given)
    assert answers.brute_force > 0
    assert rows(answers, answers.similar) == defined(asked, images, "cosine", 5, False)
    assert rows(answers, answers.dissimilar) == defined(asked, images, "cosine", 3, True)


def test_precisions_are_tried_where_work_is_long(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bfloat16, if this processor multiplies it fast, proves neighbours that stand apart, and none of the others."""
    random = np.random.default_rng(7)
    for module in (in_process, by_spark):
        monkeypatch.setattr(module, "_WORTH_TRYING", 0)
    monkeypatch.setattr(in_process, "_IMPORT_SECONDS", -1e9)
    monkeypatch.setattr("image_similarity.knn.calibration.multiplies_bfloat16", lambda: True)
    for name, clusters, noise in (("apart", 60, 0.3), ("alike", 1, 1e-2)):
        centres = random.standard_normal((clusters, 32))
        values = (centres[np.arange(600) % clusters] + noise * random.standard_normal((600, 32))).astype(np.float32)
        images, asked = dict(zip(names(480), values[:480])), dict(zip(names(120, "q"), values[480:]))
        publish(tmp_path / name, {image: image for image in images}, images)
        given = tmp_path / name, store(tmp_path / f"{name}.parquet", asked), "search.similar=2"
        here, by_tasks = (answered(spark, given[0], runner, *given[1:]) for runner in RUNNERS)
        assert_same(here, by_tasks)
        assert rows(here, here.similar) == defined(asked, images, "cosine", 2, False)
        assert "of a sample unproven" in here.screen.because
        assert (here.screen.screen == "bfloat16") == (name == "apart")
        assert by_tasks.screen.screen == "float32" or name == "apart"


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_precision_that_proves_too_little_is_followed_by_float32(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: str
) -> None:
    for module in (in_process, by_spark):
        monkeypatch.setattr(module, "_choice", lambda *_: Choice("bfloat16", "it is tried here"))
    random = np.random.default_rng(7)
    values = (1 + 0.02 * random.standard_normal((300, 24))).astype(np.float32)
    images, asked = dict(zip(names(240), values[:240])), dict(zip(names(60, "q"), values[240:]))
    publish(tmp_path / "w", {image: image for image in images}, images)
    answers = answered(spark, tmp_path / "w", runner, store(tmp_path / "q.parquet", asked), "search.similar=4")
    assert answers.screen == Choice("float32", "it is tried here") and answers.brute_force < 6
    assert rows(answers, answers.similar) == defined(asked, images, "cosine", 4, False)


def test_a_collection_of_vectors_of_ones_own(spark: SparkSession, tmp_path: Path) -> None:
    """It is read from where it was compared; another one in its place is refused."""
    vectors, own = oracle.planted(80, 5, seed=2), tmp_path / "own.parquet"
    images, asked = dict(zip(names(60), vectors[:60])), dict(zip(names(20, "q"), vectors[60:]))
    arguments = ["--warehouse", str(tmp_path / "w"), "--embeddings", store(own, images), "--dissimilar", "0"]
    assert main(find_neighbours, [*arguments, "--set", "neighbours.runner=process"], spark) == 0
    given = tmp_path / "w", store(tmp_path / "q.parquet", asked)
    answers = of_both(spark, *given, fingerprint="external")
    assert rows(answers, answers.similar) == defined(asked, images, "cosine", 12, False)
    store(own, {**images, "another": vectors[0]})
    for runner in RUNNERS:
        with pytest.raises(WrongInput, match="no longer those that find_neighbours compared"):
            answered(spark, *given[:1], runner, *given[1:], fingerprint="external")
    own.unlink()
    with pytest.raises(WrongInput, match="no such file"):
        answered(spark, *given[:1], "process", *given[1:], fingerprint="external")
    with pytest.raises(WrongInput, match="no embeddings 'externl'"):
        answered(spark, *given[:1], "process", *given[1:], fingerprint="externl")


@pytest.mark.parametrize("runner", RUNNERS)
def test_vectors_that_were_compared_by_another_metric(spark: SparkSession, tmp_path: Path, runner: str) -> None:
    """They are known by those that had a distance then; by this metric more of them have one."""
    vectors, own = oracle.planted(30, 5, seed=2), tmp_path / "own.parquet"
    images = {**dict(zip(names(30), vectors)), "zero": np.zeros(5, np.float32)}
    arguments = ["--warehouse", str(tmp_path / "w"), "--embeddings", store(own, images), "--dissimilar", "0"]
    assert main(find_neighbours, [*arguments, "--set", "neighbours.runner=process"], spark) == 0
    asked = store(tmp_path / "q.parquet", {"q": vectors[0]})
    answers = answered(spark, tmp_path / "w", runner, asked, fingerprint="external", metric="euclidean")
    assert answers.compared == 31
    store(own, {**images, "another": vectors[0]})
    with pytest.raises(WrongInput, match="no longer those that find_neighbours compared"):
        answered(spark, tmp_path / "w", runner, asked, fingerprint="external", metric="euclidean")


def test_which_runner_compares(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "w", {"x": "c", "y": "z"}, {"c": [1.0, 2.0, 3.0], "z": [0.0, 0.0, 0.0]})
    asked = store(tmp_path / "q.parquet", {"q": [1.0, 0.0, 0.0]})

    def chosen(*overrides: str, elsewhere: str | None = None) -> tuple[str, str]:
        job = job_of(spark, tmp_path / "w", *overrides)
        side = search_runners.own(job, asked)
        queries = search_runners.Side(side.vectors, side.inputs, elsewhere)
        how = search_runners.compared_as(job.settings, "mine", "cosine")
        runner = search_runners.chosen(job, how, queries, search_runners.published(job, "mine", "cosine"))
        return runner.name, runner.because

    assert chosen()[0] == "process" and "of memory" in chosen()[1]
    assert chosen("search.runner=spark") == ("spark", "search.runner asks for it")
    assert chosen("neighbours.process_bytes=1000")[0] == "spark"
    assert chosen(elsewhere="s3://b/q") == ("spark", "s3://b/q is not on this machine")
    with pytest.raises(WrongInput, match="search.runner = process, but s3://b/q is not on this machine"):
        chosen("search.runner=process", elsewhere="s3://b/q")
    monkeypatch.setattr("image_similarity.stages.neighbours.plan.available_memory", lambda: 2**20)
    assert "more than half of the 1.0 MiB" in chosen()[1]
    with pytest.raises(JobFailed, match="1.0 MiB are available: set search.runner = spark"):
        chosen("search.runner=process")


def test_no_image_has_such_a_distance(spark: SparkSession, tmp_path: Path) -> None:
    publish(tmp_path / "w", {"x": "c"}, {"c": [0.0, 0.0, 0.0]})
    for runner in RUNNERS:
        with pytest.raises(WrongInput, match="no vector of mine has a cosine distance"):
            answered(spark, tmp_path / "w", runner, store(tmp_path / "q.parquet", {"q": [1.0, 0.0, 0.0]}))


@pytest.mark.parametrize("dimensions", [16, 4096, 30_000])
@pytest.mark.parametrize("cores", [2, 500])
def test_a_task_fits_into_its_memory(dimensions: int, cores: int) -> None:
    how = NeighboursSettings(similar=100, dissimilar=100)
    cut = Cut.of(100_000, 10_000_000, dimensions, cores, how)
    lists = 2 * (100 + 100 + 8 + 1)
    assert 0 < cut.query_rows * (8 * dimensions + 16 * lists) <= how.task_bytes / 2
    assert 0 < cut.block_rows * lists * 24 * cut.parts <= how.task_bytes / 2
    groups = -(-100_000 // cut.query_rows)
    assert groups * cut.parts >= min(4 * cores, 1000)
    assert Cut.of(10, 1000, dimensions, cores, how).parts == 1 and Cut.of(0, 0, dimensions, cores, how).parts == 1
