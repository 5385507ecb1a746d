"""Approximate neighbours by the job's own process: recall, determinism, what is refused, what is not started."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import oracle
from approximating import check, degenerate, written
from image_similarity.jobs import command_line, find_neighbours, neighbour_runners
from image_similarity.jobs.command_line import main
from image_similarity.knn import calibration
from image_similarity.knn.probing import Probing
from image_similarity.stages.neighbours import approximate_in_process as stage
from image_similarity.stages.neighbours import plan as planning
from image_similarity.stages.neighbours.quality import Audit
from image_similarity.warehouse.snapshot import open_snapshot


@pytest.fixture(autouse=True)
def no_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "open_session", lambda name: pytest.fail("Spark was started"))


OPTIONS = {"-k": "5", "--dissimilar": "0", "--method": "approximate", "--set=approximate.partition_rows": "40"}
FEW = ["--set", "approximate.nprobe=1", "--set", "approximate.probe_doublings=0"]


def run(warehouse: Path, file: str, *options: str) -> int:
    defaults = [f"{name}={value}" for name, value in OPTIONS.items() if name not in options and name != "-k"]
    count = [] if "-k" in options else ["-k", OPTIONS["-k"]]
    return main(find_neighbours, ["--warehouse", str(warehouse), "--embeddings", file, *defaults, *count, *options])


def published(warehouse: Path) -> tuple[list[tuple[Any, ...]], Any]:
    now = open_snapshot(str(warehouse))
    names = ["image_id", "relation", "rank", "neighbour_id", "distance", "method"]
    rows = now.table("neighbours").select(names).to_pylist()
    return sorted(tuple(row.values()) for row in rows), now.runs[now.run_ids("neighbours")[0]]


@pytest.mark.parametrize("metric", ["cosine", "correlation", "euclidean"])
def test_nearly_all_true_neighbours_are_found(tmp_path: Path, metric: str, capsys: Any) -> None:
    vectors = oracle.planted(1500, 16, seed=21)
    assert run(tmp_path / "w", written(tmp_path, vectors), "--metric", metric, "--set", "approximate.nprobe=8") == 0
    rows, record = published(tmp_path / "w")
    recall = check(rows, vectors, metric, 5)
    assert recall >= 0.99 and abs(recall - record.recall) < 0.01 and {row[5] for row in rows} == {"approximate"}
    assert f"recall {record.recall:.4f} (" in capsys.readouterr().out
    assert record.settings["runner"]["chosen"] == "process" and 1 < record.counts["nprobe"] < record.counts["nlist"]
    assert record.counts["recall_across_borders"] > 0.9


def test_the_table_does_not_depend_on_the_order_of_the_data_or_on_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = oracle.planted(900, 16, seed=22)
    found = []
    for threads, row_group in ((1, 800), (3, 100)):
        file = written(tmp_path, vectors, np.random.default_rng(threads).permutation(900), row_group)
        monkeypatch.setattr(neighbour_runners, "local_cores", lambda _, threads=threads: threads)
        assert run(tmp_path / f"w{threads}", file) == 0
        found.append(published(tmp_path / f"w{threads}")[0])
    assert found[0] == found[1]


@pytest.mark.parametrize("case", degenerate())
def test_degenerate_collections(tmp_path: Path, case: str) -> None:
    vectors = degenerate()[case]
    assert run(tmp_path / "w", written(tmp_path, vectors)) == 0
    assert check(published(tmp_path / "w")[0], vectors, "cosine", 5) >= 0.99


def test_what_cannot_be_good_enough_is_known_before_anything_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(Probing, "compare", lambda *of: pytest.fail("compared"))
    vectors = oracle.planted(900, 16, seed=24)
    file = written(tmp_path, vectors)
    assert run(tmp_path / "w", file, *FEW, "--set", "approximate.fallback=fail") == 1
    error = capsys.readouterr().err
    assert "find_neighbours: error: recall is 0." in error and "recall_target is 0.99" in error
    assert not (tmp_path / "w" / "_current.json").exists()
    assert run(tmp_path / "w", file, *FEW) == 0
    rows, record = published(tmp_path / "w")
    assert check(rows, vectors, "cosine", 5) == 1 and {row[5] for row in rows} == {"exact"} and record.recall is None
    output = capsys.readouterr().out
    assert "exact ones took their place" in output and "1 partition each would give a recall of 0." in output


def test_dissimilar_ones_are_exact_and_continued(tmp_path: Path) -> None:
    vectors, before = oracle.planted(600, 16, seed=26), 0
    for rows in (500, 600):
        assert run(tmp_path / "w", written(tmp_path, vectors[:rows], row_group=rows), "--dissimilar", "3") == 0
        found, record = published(tmp_path / "w")
        far = [row for row in found if row[1] == "dissimilar"]
        right = oracle.neighbours(vectors[:rows], "cosine", 3, farthest=True)
        assert [(row[0], row[2], row[3], row[4]) for row in far] == sorted(
            (f"{i:05d}", rank, f"{j:05d}", distance) for i, rank, j, distance in right
        )
        near = [row for row in found if row[1] == "similar"]
        assert check(near, vectors[:rows], "cosine", 5) >= 0.99
        assert ({row[5] for row in near}, {row[5] for row in far}) == ({"approximate"}, {"exact"})
        assert record.counts["kept"] == before
        before = record.counts["vectors"]


def test_lists_that_met_too_few_others_are_filled(tmp_path: Path) -> None:
    vectors = oracle.planted(300, 16, seed=30)
    options = ["--set=approximate.nlist=60", *FEW, "--set=approximate.recall_target=0.01", "-k", "25"]
    assert run(tmp_path / "w", written(tmp_path, vectors), *options) == 0
    rows, record = published(tmp_path / "w")
    assert check(rows, vectors, "cosine", 25) == 1 and record.counts["nprobe"] == 1


def test_copies_have_one_place_if_so_wanted(tmp_path: Path) -> None:
    vectors = np.random.default_rng(31).standard_normal((300, 16)).astype(np.float32)
    vectors[200:] = vectors[100:200]
    assert run(tmp_path / "w", written(tmp_path, vectors), "--set=neighbours.drop_duplicates=true") == 0
    rows, _ = published(tmp_path / "w")
    assert check([row for row in rows if row[0] < "00200"], vectors[:200], "cosine", 5) >= 0.99
    assert [row[3:5] for row in rows if row[0] == "00250"] == [row[3:5] for row in rows if row[0] == "00150"]


def test_recall_is_that_of_a_sample_on_which_nothing_was_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first sample promises too much. Each audit that fails is followed by one of other images."""
    vectors = oracle.planted(1200, 16, seed=34)
    tried: list[set[int]] = []
    taken = Audit.of.__func__  # type: ignore[attr-defined]

    def noted(cls: Any, *of: Any) -> Any:
        audit = taken(cls, *of)
        tried.append(set(audit.image.tolist()))
        return audit

    monkeypatch.setattr(Audit, "of", classmethod(noted))
    monkeypatch.setattr(stage, "needed_nprobe", lambda *of: 1)
    options = ["--set=approximate.audit_queries=150", "--set=approximate.recall_slack=0.05"]
    assert run(tmp_path / "w", written(tmp_path, vectors), *options) == 0
    rows, record = published(tmp_path / "w")
    assert len(tried) >= 3 and all(len(sample) == 150 for sample in tried)
    assert all(len(a & b) < 75 for i, a in enumerate(tried) for b in tried[:i])
    images = [row for row in rows if int(row[0]) in tried[-1]]
    right: dict[int, float] = {
        i: distance for i, rank, _, distance in oracle.neighbours(vectors, "cosine", 5) if rank == 5
    }
    hits = sum(row[4] <= right[int(row[0])] for row in images)
    assert record.recall == pytest.approx(hits / len(images)) and {row[5] for row in rows} == {"approximate"}


@pytest.mark.parametrize(
    ("ranks", "target", "most", "errors", "needed"),
    [
        ([[0, 0], [1, 2]], 1.0, 8, 2.0, 3),
        ([[0, 0], [1, 2]], 0.75, 8, 0.0, 2),
        ([[0, 0], [1, 2]], 0.75, 8, 2.0, 3),  # one of two queries has half: an error of a sixth of the mean
        ([[0, 0], [1, 9]], 1.0, 8, 2.0, None),
        ([[0, 0], [1, 9]], 0.7, 8, 2.0, 8),  # the most suffices, if barely
        ([[], []], 1.0, 8, 2.0, 1),
    ],
)
def test_the_sample_tells_how_many_partitions_to_probe(
    ranks: Any, target: float, most: int, errors: float, needed: int | None
) -> None:
    assert stage.needed_nprobe(np.array(ranks), target, most, errors) == needed


@pytest.mark.parametrize(("is_hard", "doublings"), [(False, 5), (True, 5), (True, 1)])
def test_auto_changes_its_mind_where_a_sample_says_that_exact_is_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, is_hard: bool, doublings: int
) -> None:
    """Vectors without structure, of which nearly all partitions must be probed."""
    rng = np.random.default_rng(35)
    vectors = rng.standard_normal((1200, 200)).astype(np.float32) if is_hard else oracle.planted(1200, 32, seed=35)
    monkeypatch.setattr(planning, "_WORTH_PLANNING", 0.0)
    monkeypatch.setattr(planning, "_FIXED_SECONDS_HERE", 0.0)
    monkeypatch.setattr(calibration, "rate", lambda *of: calibration.Rate("float32", 1e12, 1e4))
    monkeypatch.setattr(calibration, "probing_rate", lambda *of: calibration.ProbingRate(8e3, 1e9, 0.0))
    options = ["--method", "auto", f"--set=approximate.probe_doublings={doublings}", "--set=approximate.nprobe=2"]
    options += ["--set=approximate.audit_queries=100", "--set=approximate.recall_slack=0.05"]
    assert run(tmp_path / "w", written(tmp_path, vectors), *options) == 0
    rows, record = published(tmp_path / "w")
    output = capsys.readouterr().out
    assert {row[5] for row in rows} == {"exact" if is_hard else "approximate"}
    if is_hard:
        because = record.settings["method"]["because"]
        assert because.startswith("method auto: these vectors need ") and because.endswith(": exact")
        assert ("more than" in because) == (doublings == 1)
        assert because in output and check(rows, vectors, "cosine", 5) == 1 and record.recall is None
    else:
        assert "method" not in record.settings and "these vectors need" not in output


def test_no_spark_is_imported(tmp_path: Path) -> None:
    own = written(tmp_path, oracle.planted(300, 8, seed=36))
    arguments = ["--warehouse", str(tmp_path / "w"), "--embeddings", own, "--method", "approximate"]
    program = (
        "import sys; from image_similarity.jobs import find_neighbours as job, command_line as c; "
        f"code = c.main(job, {arguments!r}); heavy = {{'pyspark', 'py4j', 'torch', 'pynndescent'}} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
