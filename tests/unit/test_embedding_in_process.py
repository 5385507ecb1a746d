"""Embedding without Spark: what is known, how images are shared out, and which vectors are new."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_similarity.errors import JobFailed
from image_similarity.fingerprints.colour_histogram import described
from image_similarity.jobs import embedding_runners
from image_similarity.settings import EmbeddingsSettings, load
from image_similarity.stages.embeddings import in_process
from image_similarity.stages.embeddings.checkpoints import CheckpointWriter, VectorSource
from image_similarity.stages.embeddings.embedder import Row
from image_similarity.stages.embeddings.outcomes import CHECKPOINT, FAILED, PUBLISHED, Retry
from image_similarity.warehouse.schemas import SCHEMAS

SPEC = described("hsv", (2, 2, 2), scaled=True)


def checkpoint(folder: Path, attempt: int, *images: str) -> str:
    """A file with a vector for each of ``images``, which are named after their content."""
    writer = CheckpointWriter(str(folder), SPEC.key, 0, attempt, 0.0, 0.0)
    sources = [VectorSource(image[0], 2, 3, bytes([attempt]) * 1024, image, "v1") for image in images]
    writer.add(sources, np.full((len(images), 8), attempt, np.float32))
    writer.write()
    return str(folder / f"part-00000-{attempt}-00000.parquet")


def fingerprint(key: str = SPEC.key, files: Sequence[str] = (), failures_hold: bool = True) -> in_process.Fingerprint:
    names = ["image_id", "source_version"]
    published = pa.table([["a"], ["v1"], ["A"], [key]], names=[*names, "content_sha256", "fingerprint_key"])
    rows = [["a", "f", "g", "h"], ["v1", "v1", "v1", None]]
    reasons: list[Any] = [["not_an_image", "not_an_image", "timeout", "not_an_image"], ["no picture"] * 4]
    failures = pa.table([*rows, *reasons], names=[*names, "reason", "detail"])
    return in_process.Fingerprint("f", SPEC, None, published, failures, failures_hold, frozenset("A"), files, "")


def known(of: in_process.Fingerprint, retry: Retry = Retry(), **settings: Any) -> dict[str, tuple[int | None, Any]]:
    found = in_process._known(of, EmbeddingsSettings(**settings), retry)
    return {image: (outcome.kind, outcome.content_sha256 or outcome.reason) for (image, _), outcome in found.items()}


def test_what_is_known_and_which_of_it_wins(tmp_path: Path) -> None:
    """A published vector, then a checkpoint, then a failure that is permanent; and no version, no knowledge."""
    files = [checkpoint(tmp_path, 1, "a", "b")]
    assert known(fingerprint(files=files)) == {
        "a": (PUBLISHED, "A"),
        "b": (CHECKPOINT, "b"),
        "f": (FAILED, "not_an_image"),
    }
    assert set(known(fingerprint("another key", files))) == {"a", "b", "f"}
    assert known(fingerprint("another key", files))["a"] == (CHECKPOINT, "a")
    assert set(known(fingerprint(failures_hold=False))) == {"a"}
    assert set(known(fingerprint(), Retry(all=True))) == set(known(fingerprint(), Retry(reasons=["not_an_image"])))
    assert "f" not in known(fingerprint(), Retry(all=True))
    assert known(fingerprint(files=files), recheck="always") == {}


def test_each_content_is_stored_once(tmp_path: Path) -> None:
    files = [
        checkpoint(tmp_path, 1, "a1", "b1", "a2"),
        checkpoint(tmp_path, 2, "b2", "c1"),
        checkpoint(tmp_path, 3, "p"),
    ]
    tables = list(in_process.new_vectors(files, frozenset("p")))
    rows = pa.concat_tables(tables).to_pylist()
    assert [(row["content_sha256"], row["embedding"][0]) for row in rows] == [("a", 1), ("b", 1), ("c", 2)]
    assert [row["thumbprint"][0] for row in rows] == [1, 1, 2]
    assert in_process.contents_of(files) == set("abcp")
    assert list(in_process.new_vectors(files, frozenset("abcp"))) == []


def test_a_checkpoint_of_an_earlier_version_has_no_thumbprints(tmp_path: Path) -> None:
    files = [checkpoint(tmp_path, 1, "a"), checkpoint(tmp_path, 2, "b")]
    pq.write_table(pq.read_table(files[0]).drop_columns("thumbprint"), files[0])
    tables = list(in_process.new_vectors(files, frozenset()))
    assert all(table.schema == SCHEMAS["vectors"] for table in tables)
    rows = pa.concat_tables(tables).to_pylist()
    assert [(row["embedding"][0], row["thumbprint"]) for row in rows] == [(1, None), (2, b"\2" * 1024)]


@pytest.mark.parametrize(
    ("images", "count", "most", "sizes"),
    [(240, 8, 256, [32] * 7 + [16]), (13, 4, 4, [4, 4, 4, 1]), (13, 1, 256, [13]), (100, 2, 256, [64, 36])],
)
def test_tasks_have_whole_batches_unless_that_is_too_many(images: int, count: int, most: int, sizes: list[int]) -> None:
    rows = [Row(str(number), "", None, 1) for number in range(images)]
    parts = in_process._parts(rows, count, most)
    assert [len(part) for part in parts] == sizes and [row for part in parts for row in part] == rows


def test_a_worker_that_leaves_results_out_ends_the_job() -> None:
    rows = [Row("a", "", None, 1), Row("b", "", None, 1)]
    answer: dict[str, list[Any]] = {"content_sha256": ["A"], "reason": [None]}
    with pytest.raises(JobFailed, match="1 result of a worker for 2 images"):
        in_process._by_image(rows, [answer])
    whole = in_process._by_image(rows, [answer, {"content_sha256": [None], "reason": ["timeout"]}])
    assert whole == {"a": {"content_sha256": "A", "reason": None}, "b": {"content_sha256": None, "reason": "timeout"}}


def test_an_embedding_without_a_vector_is_not_published() -> None:
    table = pa.table({"content_sha256": ["a", "b"]})
    nothing = table.slice(0, 0)
    outputs = in_process.Outputs(2, 0, 0, 0, 2, {}, table, nothing, {})
    in_process.check(outputs, {"a", "b"})
    with pytest.raises(JobFailed, match="1 embedding has no vector in the store"):
        in_process.check(outputs, {"a"})
    with pytest.raises(JobFailed):
        in_process.check(in_process.Outputs(3, 0, 0, 0, 3, {}, table, nothing, {}), {"a", "b"})


@pytest.mark.parametrize("large", ["manifest", "embeddings", "failures", "vectors"])
def test_what_is_known_must_fit_into_memory(large: str) -> None:
    def published(rows: int) -> Any:
        of = {large: rows}
        return SimpleNamespace(dataset=lambda table: SimpleNamespace(count_rows=lambda: of.get(table, 10)))

    assert embedding_runners._is_small(published(100_000), load(None))
    assert not embedding_runners._is_small(published(2_000_000), load(None))


def test_a_manifest_that_is_gone_is_no_matter_of_this_choice() -> None:
    """A pipeline is about to replace it; whoever reads it says that it is gone."""

    def gone(table: str) -> Any:
        raise FileNotFoundError(table)

    assert not embedding_runners._is_small(SimpleNamespace(dataset=gone), load(None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "answer",
    [
        "begun",
        7,
        None,
        [],
        {"reason": []},
        dict.fromkeys(in_process._RESULTS, 3),
        dict.fromkeys(in_process._RESULTS, [1] * 9),
    ],
)
def test_an_answer_that_is_no_result_is_refused(answer: Any) -> None:
    """A worker that a file has taken over may say anything."""
    assert in_process._checked(dict.fromkeys(in_process._RESULTS, [1] * 8), 8) == 8
    with pytest.raises(JobFailed, match="no result"):
        in_process._checked(answer, 8)
