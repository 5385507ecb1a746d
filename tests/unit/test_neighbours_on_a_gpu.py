"""find_neighbours on a GPU, for which the processor stands in: the same rows, what is refused, and what fails."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import oracle
from adversaries import ADVERSARIES, drawn
from image_similarity.errors import JobFailed
from image_similarity.jobs import command_line, find_neighbours
from image_similarity.jobs.command_line import main
from image_similarity.knn import backends
from image_similarity.knn.backends.cuda import Cuda
from image_similarity.runtime import devices
from image_similarity.settings import ApproximateSettings, NeighboursSettings
from image_similarity.stages.neighbours import own_vectors
from image_similarity.stages.neighbours import plan as planning
from image_similarity.warehouse.snapshot import open_snapshot

pytestmark = pytest.mark.usefixtures("one_thread_of_torch")
GPU = "cuda:0"


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[Cuda]:
    """The GPU is visible and works; the backends that were made for it. It has room for tiles of 256 rows."""
    made: list[Cuda] = []

    def on(device: str) -> Any:
        if device == "cpu":
            return given("cpu")
        assert device == GPU
        made.append(Cuda("cpu", tile=256))
        return made[-1]

    given = backends.on
    monkeypatch.setattr(backends, "on", on)
    monkeypatch.setattr(devices, "_visible_count", lambda: 1)
    monkeypatch.setattr(devices, "_usable", lambda index, gpu: f"cuda:{index}")
    return made


def written(folder: Path, vectors: Any, name: str = "own") -> str:
    names = [f"{'aZé日'[i % 4]}{i}" for i in range(len(vectors))]
    table = pa.table({"image_id": names, "embedding": pa.array(list(vectors), pa.list_(pa.float32()))})
    pq.write_table(table, folder / f"{name}.parquet")
    return str(folder / f"{name}.parquet")


def published(warehouse: Path, own: str, device: str, *options: str) -> tuple[Any, Any]:
    """The sorted rows of the table, and the record of the run."""
    given = ["--warehouse", str(warehouse), "--embeddings", own, "--set", f"neighbours.device={device}"]
    assert main(find_neighbours, [*given, *options]) == 0
    now = open_snapshot(str(warehouse))
    rows = sorted(tuple(row.values()) for row in now.table("neighbours").to_pylist())
    return rows, now.runs[now.run_ids("neighbours")[0]]


METRICS = ("cosine", "correlation", "euclidean")
CASES: dict[str, tuple[str, Callable[[str], Any]]] = {
    **{f"planted, {metric}": (metric, lambda _: oracle.planted(600, 24, seed=3)) for metric in METRICS},
    **{of.__name__: (METRICS[i % 3], partial(drawn, of, seed=5)) for i, of in enumerate(ADVERSARIES)},
}


@pytest.mark.parametrize("case", CASES)
def test_the_table_is_the_processors(tmp_path: Path, gpus: list[Cuda], case: str) -> None:
    metric, vectors = CASES[case]
    own = written(tmp_path, vectors(metric))
    options = ["--metric", metric, "-k", "7", "--dissimilar", "5"]
    rows, record = published(tmp_path / "gpu", own, "cuda", *options)
    assert len(gpus) == 1 and record.settings["device"] == GPU
    assert record.settings["screen"]["chosen"] in ("bfloat16", "tf32")
    wanted, on_processor = published(tmp_path / "cpu", own, "cpu", *options)
    assert len(gpus) == 1 and on_processor.settings["device"] == "cpu"
    assert rows == wanted and len(rows) > 1000


@pytest.mark.parametrize("order", [("cuda", "cpu", "cuda"), ("cpu", "cuda", "cpu")])
def test_either_continues_what_the_other_left(tmp_path: Path, gpus: list[Cuda], order: Any) -> None:
    random, vectors = np.random.default_rng(3), oracle.planted(500, 16, seed=4)
    for turn, device in enumerate(order):
        vectors = np.concatenate([vectors, random.standard_normal((20 * turn, 16)).astype(np.float32)])
        vectors[random.integers(0, len(vectors), 10 * turn)] = random.standard_normal(16).astype(np.float32)
        own = written(tmp_path, vectors, str(turn))
        rows, record = published(tmp_path / "w", own, device, "-k", "4")
        assert bool(turn) == (0 < record.counts["kept"] < record.counts["vectors"])
        assert rows == published(tmp_path / f"full{turn}", own, "cpu", "-k", "4")[0]


@pytest.mark.parametrize(("asked", "taken"), [("bfloat16", "bfloat16"), ("float32", "tf32")])
def test_a_precision_that_is_asked_for_is_taken(tmp_path: Path, gpus: list[Cuda], asked: str, taken: str) -> None:
    own = written(tmp_path, oracle.planted(400, 16, seed=6))
    rows, record = published(tmp_path / "gpu", own, "cuda", "--set", f"neighbours.screen={asked}")
    assert record.settings["screen"] == {"chosen": taken, "because": "neighbours.screen asks for it"}
    assert rows == published(tmp_path / "cpu", own, "cpu")[0]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("CUDA error: unspecified launch failure\nhints"), "cpu failed while vectors were compared: CUDA"),
        (
            torch.OutOfMemoryError("CUDA out of memory"),
            "cpu has too little memory to compare vectors, even in tiles of",
        ),
    ],
)
def test_a_gpu_that_fails_in_the_middle_is_named(
    tmp_path: Path, gpus: list[Cuda], monkeypatch: pytest.MonkeyPatch, capsys: Any, error: Exception, message: str
) -> None:
    work, calls = Cuda._scores, []

    def failing(self: Cuda, *of: Any) -> Any:
        calls.append(1)
        if len(calls) > 5:
            raise error
        return work(self, *of)

    monkeypatch.setattr(Cuda, "_scores", failing)
    own = written(tmp_path, oracle.planted(900, 16, seed=6))
    options = ["--warehouse", str(tmp_path / "w"), "--embeddings", own, "--set", "neighbours.device=cuda"]
    assert main(find_neighbours, options) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and "--set neighbours.device=cpu" in line
    assert not list((tmp_path / "w").rglob("*.parquet"))


def test_a_gpu_that_cannot_be_used_is_named(gpus: list[Cuda], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(index: int, gpu: str) -> str:
        raise devices._Unusable(f"{gpu} cannot be used: in exclusive use")

    monkeypatch.setattr(devices, "_usable", broken)
    with pytest.raises(JobFailed, match=r": GPU 0 cannot be used: in exclusive use; .* --set neighbours\.device=cpu$"):
        planned("cuda", 2000)


def test_a_gpu_that_is_not_there_is_told_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(devices, "_visible_count", lambda: 0)
    monkeypatch.setattr(command_line, "open_session", lambda name: pytest.fail("Spark was started"))
    monkeypatch.setattr(own_vectors, "check", lambda *of: pytest.fail("vectors were read"))
    options = ["--warehouse", str(tmp_path / "w"), "--embeddings", "own", "--set", "neighbours.device=cuda"]
    assert main(find_neighbours, options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "neighbours.device = cuda, but torch" in line and line.endswith("choose auto or cpu")


def test_a_gpu_is_refused_where_none_would_compare(
    tmp_path: Path, gpus: list[Cuda], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(command_line, "open_session", lambda name: pytest.fail("Spark was started"))
    own, here = written(tmp_path, oracle.planted(60, 8, seed=1)), str(tmp_path / "w")
    cases = {
        "neighbours.runner asks for Spark": [here, "--embeddings", own, "--set", "neighbours.runner=spark"],
        "hdfs://nowhere/w is not on this machine": ["hdfs://nowhere/w", "--embeddings", own],
        "approximate search uses no GPU": [here, "--embeddings", own, "--method", "approximate"],
        "more than neighbours.process_bytes": [here, "--embeddings", own, "--set", "neighbours.process_bytes=0"],
    }
    for reason, options in cases.items():
        assert main(find_neighbours, ["--set", "neighbours.device=cuda", "--warehouse", *options]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "neighbours.device = cuda, but " in line and reason in line
    assert not gpus and not (tmp_path / "w").exists()


def planned(device: Any, rows: int, **settings: Any) -> planning.Plan:
    return planning.make_here(rows, 512, 2, NeighboursSettings(device=device, **settings), ApproximateSettings())


def test_auto_takes_a_gpu_for_long_work(monkeypatch: pytest.MonkeyPatch, gpus: list[Cuda]) -> None:
    monkeypatch.setattr(backends, "may_have_a_gpu", lambda: True)
    plan = planned("auto", 200_000)
    assert plan.device == GPU and "on the GPU cuda:0" in plan.lines[0] and plan.seconds < 60
    assert planned("auto", 2_000).device == "cpu" and planned("cuda", 2_000).device == GPU
    assert planned("auto", 200_000, method="auto", dissimilar=0).method == "exact"


def test_auto_does_not_ask_torch_where_there_is_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_DRIVERS", ("/nowhere/nvidiactl",))
    monkeypatch.setattr(devices, "_visible_count", lambda: pytest.fail("torch was asked"))
    assert planned("auto", 60_000).device == "cpu" and planned("cpu", 200_000).device == "cpu"
