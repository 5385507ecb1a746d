"""Exact search in one process: threads, tiles, where vectors are compared, and what is not started or imported."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import oracle
from image_similarity.errors import JobFailed
from image_similarity.jobs import command_line, find_neighbours
from image_similarity.jobs.command_line import main
from image_similarity.knn import all_pairs, calibration, distances, engine, scoring, screening
from image_similarity.knn.all_pairs import AllPairs
from image_similarity.knn.backends.cpu import Cpu, CpuStrip
from image_similarity.knn.candidates import Lists
from image_similarity.knn.engine import Search
from image_similarity.knn.rerank import Part
from image_similarity.settings import ApproximateSettings, NeighboursSettings
from image_similarity.stages.neighbours import in_memory
from image_similarity.stages.neighbours import plan as planning
from image_similarity.stages.neighbours.local_source import LocalSource
from image_similarity.warehouse.snapshot import open_snapshot

ROOT = Path(__file__).resolve().parents[2]


def part(vectors: Any, metric: str = "cosine") -> Part:
    index = np.arange(len(vectors), dtype=np.int64)
    return Part(distances.measured(vectors, distances.METRICS[metric]), index.astype(np.int32), index)


def search(vectors: Any, similar: int, dissimilar: int, metric: str = "cosine", screen: str = "float32") -> Search:
    scale = scoring.scale_of(float(np.abs(vectors).max()), vectors.shape[1], distances.METRICS[metric])
    return Search(metric, screen, vectors.shape[1], scale, similar, dissimilar, len(vectors) - 1)


# -- the engine --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("threads", "block_rows"), [(1, 1000), (2, 33), (5, 64)])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_threads_and_blocks_do_not_matter(threads: int, block_rows: int, metric: str) -> None:
    vectors = oracle.planted(500, 16, seed=2)
    found = all_pairs.neighbours(vectors, metric, 7, 4, block_rows, threads=threads)
    for of_relation, k, farthest in ((found[0], 7, False), (found[1], 4, True)):
        assert oracle.rows_of(of_relation) == oracle.neighbours(vectors, metric, k, farthest)


def test_bounds_hold_for_all_strips_that_were_met() -> None:
    """Whoever of two offers. One strip has far longer vectors, and so larger errors."""
    rng = np.random.default_rng(7)
    short, long = (size * rng.standard_normal((40, 8)).astype(np.float32) for size in (1, 1000))
    both = search(np.concatenate([short, long]), 3, 3, "euclidean")
    for first in (0, 1):
        strips = [both.strip(Cpu(), part(values, "euclidean")) for values in (short, long)]
        strips[first].offer(strips[1 - first])
        for one, other in (strips, strips[::-1]):
            least = scoring.bounds(one.copies, other.copies, both.precision, 8)
            assert np.all(one.error >= least) and least.max() > 0


@pytest.mark.parametrize(("rows", "threads"), [(20_000, 2), (20_000, 16), (20_000, 256), (700, 16), (3, 16)])
def test_strips_are_enough_for_all_threads_and_not_so_many_that_python_takes_the_time(rows: int, threads: int) -> None:
    vectors = np.random.default_rng(0).standard_normal((rows, 2)).astype(np.float32)
    strips = list(map(len, AllPairs(search(vectors, 1, 1), part(vectors), threads)._rows))
    assert sum(strips) == rows and (len(strips) >= 2 * threads or min(strips) <= 512)
    assert len(strips) == 1 or (min(strips) >= 200 and len(strips) <= max(16, 3 * threads))


@pytest.mark.parametrize(("new", "old"), [(1, 0), (2, 0), (5, 0), (8, 0), (1, 7), (3, 2), (4, 4), (2, 9)])
def test_tiles_are_all_pairs_with_a_new_strip_once(new: int, old: int) -> None:
    tiles = all_pairs._in_rounds(new, new + old)
    pairs = [(i, j) for i in range(new + old) for j in range(i, new + old) if i < new]
    assert sorted(tiles) == pairs


def test_no_two_tiles_that_are_out_share_a_strip() -> None:
    tiles = all_pairs._Tiles(5, 8, 2)
    out: list[tuple[int, int]] = []
    given: list[tuple[int, int]] = []
    random = np.random.default_rng(1)
    while True:
        free = {strip for tile in out for strip in tile}
        can_go_on = any(not set(tile) & free for tile in tiles._waiting)
        if can_go_on and (not out or random.random() < 0.5):
            tile = tiles.take()
            assert tile is not None and not set(tile) & free
            out.append(tile)
            given.append(tile)
        elif out:
            i, j = out.pop(int(random.integers(len(out))))
            tiles.give_back(i, j, 1)
        else:
            break
    assert tiles.take() is None and len(given) == tiles.pairs_done == 15 + 5 * 3


def test_new_vectors_are_compared_with_all_and_the_others_keep_their_lists() -> None:
    vectors = oracle.planted(300, 12, seed=5)
    is_new = np.random.default_rng(0).random(300) < 0.2
    old = np.nonzero(~is_new)[0]
    before = AllPairs(search(vectors[old], 4, 3), part(vectors[old]), 2, 50)
    before.compare()
    before.rerank()
    before.complete()
    known = []
    for lists in before.lists:
        of_all = Lists.empty(300, lists.keys.shape[1])
        moved = lists.renumbered(old)
        of_all.keys[old], of_all.lower_bound[old] = moved.keys, moved.lower_bound
        known.append(of_all)
    both = AllPairs(search(vectors, 4, 3), part(vectors), 2, 50, is_new, (known[0], known[1]))
    both.compare()
    both.rerank()
    both.complete()
    assert both.pairs < 300 * 299 / 2 * 0.4
    index = np.arange(300)
    for lists, k, farthest in zip(both.lists, (4, 3), (False, True)):
        found = oracle.rows_of(engine.ranked(lists.keys[:, :k], index, farthest))
        assert found == oracle.neighbours(vectors, "cosine", k, farthest)


def test_an_error_in_a_thread_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, offered = oracle.planted(400, 8, seed=1), CpuStrip.offer
    calls: list[int] = []

    def failing(*of: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError("no more")
        offered(*of)

    monkeypatch.setattr(CpuStrip, "offer", failing)
    comparison = AllPairs(search(vectors, 3, 3), part(vectors), 2, 16)
    with pytest.raises(MemoryError):
        comparison.compare()
    assert len(calls) < 50


def test_a_signal_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is raised in the thread that waits; the others end what they have begun."""
    vectors, offered = oracle.planted(1500, 8, seed=1), CpuStrip.offer
    calls: list[int] = []

    def counted(*of: Any) -> None:
        calls.append(1)
        offered(*of)

    def interrupted(*of: Any, **options: Any) -> None:
        while not calls:
            time.sleep(0.001)
        raise KeyboardInterrupt

    comparison = AllPairs(search(vectors, 3, 3), part(vectors), 2, 10)
    comparison.strips()
    monkeypatch.setattr(CpuStrip, "offer", counted)
    monkeypatch.setattr(all_pairs, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        comparison.compare()
    assert 0 < len(calls) < 150 * 151 / 4


# -- the precision of scores -------------------------------------------------------------------------------------------


def tight(rows: int) -> Any:
    """Groups of 60 whose vectors are within a distance of 0.002: bfloat16 is wrong by twice that."""
    random = np.random.default_rng(41)
    groups = np.repeat(random.normal(size=(rows // 60, 64)), 60, axis=0)
    return (groups + 0.045 * random.normal(size=groups.shape)).astype(np.float32)


def spread(rows: int) -> Any:
    random = np.random.default_rng(4)
    return (random.normal(size=(rows, 6)) @ random.normal(size=(6, 64))).astype(np.float32)


def shares_of(vectors: Any, tried: int, everyone: int) -> dict[str, float]:
    wanted, of_sample = search(vectors, 5, 0), part(vectors[:tried])
    comparison = AllPairs(wanted, of_sample, 1, tried // 8)
    rows = np.linspace(0, tried - 1, 100).astype(np.int64)
    return screening.unproven(
        wanted, of_sample[rows], comparison.strips(), lambda reranker: reranker.add(of_sample), everyone, tried
    )


@pytest.mark.parametrize("make", [tight, spread])
def test_a_sample_tells_what_a_precision_proves(make: Any) -> None:
    vectors = make(600)
    shares = shares_of(vectors, 600, 600)
    for screen in scoring.SCREENS:
        comparison = AllPairs(search(vectors, 5, 0, screen=screen), part(vectors), 1, 100)
        comparison.compare()
        assert comparison.rerank() / 600 == pytest.approx(shares[screen], abs=0.1)
    assert shares["float32"] < 0.02 and (shares["bfloat16"] > 0.5) == (make is tight)


def test_trying_leaves_the_lists_as_they_are() -> None:
    vectors = spread(300)
    comparison = AllPairs(search(vectors, 5, 2), part(vectors), 2, 64)
    rows = np.arange(50)
    screening.unproven(
        comparison.search, part(vectors)[rows], comparison.strips(), lambda r: r.add(part(vectors)), 300, 300
    )
    comparison.compare()
    assert comparison.rerank() == 0
    found = engine.ranked(comparison.lists[0].keys[:, :5], np.arange(300), False)
    assert oracle.rows_of(found) == oracle.neighbours(vectors, "cosine", 5)


def test_among_more_vectors_less_is_proven() -> None:
    """Uniform vectors on a circle: gaps go with the inverse of their number."""
    random = np.random.default_rng(7)
    angles = random.uniform(0, 2 * np.pi, 4000)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    few, many, all_of_them = (shares_of(vectors, *of)["bfloat16"] for of in ((120, 120), (120, 4000), (4000, 4000)))
    assert few < 0.2 < many and all_of_them > 0.9


def test_the_precision_with_which_all_takes_least_time_is_chosen() -> None:
    seconds = {"float32": 10.0, "bfloat16": 5.0}
    chosen = screening.chosen({"float32": 0.0, "bfloat16": 0.01}, seconds, 100.0)
    assert chosen.screen == "bfloat16" and "bfloat16 leaves 1% of a sample unproven" in chosen.because
    assert screening.chosen({"float32": 0.0, "bfloat16": 0.08}, seconds, 100.0).screen == "float32"
    assert screening.chosen({"float32": 0.0, "bfloat16": 0.9}, seconds, 1.0).screen == "float32"
    assert screening.chosen({"float32": 0.5, "bfloat16": 0.9}, {"float32": 10.0}, 100.0).screen == "float32"


# -- which runner ------------------------------------------------------------------------------------------------------


def planned(rows: int, dimensions: int, is_local: bool = True, **settings: Any) -> planning.Plan:
    given = NeighboursSettings(**settings)
    if because := planning.too_large(rows, dimensions, 2, given):
        return replace(planning.make_here(0, 0, 2, given, ApproximateSettings()), runner="spark", because=because)
    plan = planning.make_here(rows, dimensions, 2, given, ApproximateSettings())
    return planning.with_runner(plan, given, is_local)


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of 16 GiB whose speed is known."""
    monkeypatch.setattr(calibration, "probing_rate", lambda *of: calibration.ProbingRate(5e6, 1e6, 2e-3))
    monkeypatch.setattr(calibration, "rate", lambda *of: calibration.Rate("float32", 4e10, 1e7))
    monkeypatch.setattr(planning, "available_memory", lambda: 16 * 2**30)
    yield


@pytest.mark.usefixtures("unmeasured")
def test_what_fits_into_memory_is_compared_in_this_process() -> None:
    assert planned(20_000, 4096).runner == "process"
    assert planned(0, 0).runner == "process"
    large = planned(400_000, 4096)
    assert large.runner == "spark" and "more than neighbours.process_bytes = 8.00 GiB" in large.because
    more = planned(400_000, 4096, process_bytes=2**40)
    assert more.runner == "spark" and "more than half of the 16.00 GiB that are available" in more.because
    assert planned(20_000, 4096, process_bytes=0).runner == "spark"


@pytest.mark.usefixtures("unmeasured")
def test_on_a_cluster_only_seconds_of_work_are_done_here() -> None:
    assert planned(2_000, 512, is_local=False).runner == "process"
    long = planned(60_000, 4096, is_local=False)
    assert long.runner == "spark" and "a cluster is there" in long.because
    assert planned(60_000, 4096, is_local=False, runner="process").runner == "process"


@pytest.mark.usefixtures("unmeasured")
def test_what_is_asked_for_and_cannot_be_is_told() -> None:
    with pytest.raises(JobFailed, match="16.00 GiB are available: set neighbours.runner = spark"):
        planned(2_000_000, 4096, runner="process")
    assert planned(400_000, 4096, method="approximate", dissimilar=0).runner == "spark"


@pytest.mark.usefixtures("unmeasured")
def test_auto_takes_what_the_measured_rates_say_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (planned(rows, 256, method="auto", dissimilar=0) for rows in (20_000, 400_000))
    assert few.method == "exact" and many.method == "approximate" and {few.runner, many.runner} == {"process"}
    assert many.seconds < many.exact_seconds and "approximate about" in many.notes[-1]
    monkeypatch.setattr(calibration, "probing_rate", lambda *of: calibration.ProbingRate(5e4, 1e6, 2e-3))
    slow = planned(400_000, 256, method="auto", dissimilar=0)
    assert slow.method == "exact" and slow.seconds == many.exact_seconds
    assert planned(2_000, 256, method="auto", dissimilar=0).notes == ("method auto: exact takes seconds: exact",)


@pytest.mark.usefixtures("unmeasured")
def test_the_plan_says_where_and_why() -> None:
    assert planned(2_000, 512).lines[-1].startswith("in this process, without Spark: vectors and lists take 0.8")
    assert planned(60_000, 4096).lines[0].endswith("about 2 min")
    assert (
        planned(60_000, 4096, is_local=False).lines[-1] == "by Spark: a cluster is there, and one machine takes 2 min"
    )


# -- the job -----------------------------------------------------------------------------------------------------------


def written(folder: Path, rows: int, dimensions: int) -> Path:
    vectors = np.random.default_rng(0).normal(size=(rows, dimensions)).astype(np.float32)
    names = [f"{number:05d}" for number in range(rows)]
    pq.write_table(pa.table({"image_id": names, "embedding": list(vectors)}), folder / "own.parquet")
    return folder / "own.parquet"


def test_no_spark_is_started_nor_imported(tmp_path: Path) -> None:
    own = written(tmp_path, 50, 8)
    program = (
        "import sys; from image_similarity.jobs import find_neighbours as job; from image_similarity.jobs import "
        f"command_line as c; code = c.main(job, ['--warehouse', {str(tmp_path / 'w')!r}, '--embeddings', {str(own)!r}])"
        "; heavy = {'pyspark', 'py4j', 'torch', 'torchvision', 'sklearn', 'pynndescent', 'skimage'} & set(sys.modules)"
        "; sys.exit(str(heavy) if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = list(open_snapshot(str(tmp_path / "w")).runs.values())[-1]
    assert {"java", "spark", "hadoop"} & record.versions.keys() == set() and "numpy" in record.versions
    assert record.settings["runner"]["chosen"] == "process" and record.settings["screen"]["chosen"] == "float32"


def test_a_run_in_this_process_is_not_kept_waiting_by_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "open_session", lambda name: pytest.fail("Spark was started"))
    arguments = ["--warehouse", str(tmp_path / "w"), "--embeddings", str(written(tmp_path, 30, 4)), "--run-id", "one"]
    for options in (["--dry-run"], [], [], ["--run-id", "two", "--keep-runs", "2"]):
        given = arguments[:-2] if "--run-id" in options else arguments
        assert main(find_neighbours, [*given, *options]) == 0
    now = open_snapshot(str(tmp_path / "w"))
    assert [run.label for run in now.runs.values()] == ["one", "two"]
    assert list(now.runs.values())[-1].counts["kept"] == 30


def test_spark_is_started_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def started(name: str) -> Any:
        raise JobFailed("started")

    monkeypatch.setattr(command_line, "open_session", started)
    arguments = ["--warehouse", str(tmp_path / "w"), "--embeddings", str(written(tmp_path, 30, 4))]
    for method in ("exact", "approximate"):
        assert main(find_neighbours, [*arguments, "--set", "neighbours.runner=spark", "--method", method]) == 1
        assert "find_neighbours: error: started" in capsys.readouterr().err


def test_this_process_is_not_asked_for_what_needs_spark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(command_line, "open_session", lambda name: pytest.fail("Spark was started"))
    own, wanted = str(written(tmp_path, 30, 4)), ["--set", "neighbours.runner=process", "--warehouse"]
    cases = {
        "hdfs://nowhere/w is not on this machine": ["hdfs://nowhere/w", "--embeddings", own],
        "s3a://bucket/own is not on this machine": [str(tmp_path / "w"), "--embeddings", "s3a://bucket/own"],
    }
    for message, options in cases.items():
        assert main(find_neighbours, [*wanted, *options]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_it_and_leaves_nothing(tmp_path: Path, sent: int, code: int) -> None:
    own = written(tmp_path, 30_000, 256)
    command = [sys.executable, str(ROOT / "jobs" / "find_neighbours.py"), "--log-format", "json", "--log-every", "0.1"]
    command += ["--warehouse", str(tmp_path / "w"), "--embeddings", str(own)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    for line in process.stdout:
        if (event := json.loads(line))["event"] == "progress" and event["step"] == "compare in float32":
            break
    began = time.monotonic()
    process.send_signal(sent)
    process.communicate()
    assert process.returncode == code and time.monotonic() - began < 60
    assert not [file for file in (tmp_path / "w").rglob("*") if file.is_file()]


@pytest.mark.parametrize("contents", [["a", "b", "b"], ["a", "a", "b", "c"], ["a", "b"]])
def test_a_store_that_has_a_vector_twice_or_not_is_refused(contents: list[str]) -> None:
    """Also where one that is missing makes up for one that is there twice."""
    images = pa.table({"image_id": ["1", "2", "3"], "content": ["a", "b", "c"]})
    vectors = [[float(ord(content)), 1.0] for content in contents]
    batch = pa.record_batch({"content": contents, "embedding": pa.array(vectors, pa.list_(pa.float32()))})
    source = LocalSource(images, [lambda: iter([batch])], 3)
    with pytest.raises(JobFailed, match="embeddings.recheck=always"):
        in_memory.load(source, NeighboursSettings(), 1)
