"""Which checkpoint files are whole, which are damaged, and which nobody could look at."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from image_similarity.errors import JobFailed
from image_similarity.stages.embeddings import checkpoints
from image_similarity.stages.embeddings.checkpoints import CheckpointCount, CheckpointWriter, VectorSource
from image_similarity.storage import blobs

GREY = b"\x80" * 1024
"""A thumbprint."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With two checkpoints of three vectors each, by the attempts 0 and 1."""
    for attempt in range(2):
        writer = CheckpointWriter(str(tmp_path), "k", 0, attempt, 0.0, 0.0)
        sources = [VectorSource(f"{attempt}-{number}", 1, 1, GREY, str(number), None) for number in range(3)]
        writer.add(sources, np.ones((3, 5), np.float32))
        writer.write()
    return tmp_path


def names(files: list[str]) -> list[str]:
    return [os.path.basename(file) for file in files]


FIRST, SECOND = "part-00000-0-00000.parquet", "part-00000-1-00000.parquet"


@pytest.mark.parametrize("end", [0, 3, 7, 8, 100, -1, -4, -5])
def test_a_file_that_was_cut_off_is_damaged(folder: Path, end: int) -> None:
    content = (folder / SECOND).read_bytes()
    (folder / SECOND).write_bytes(content[:end])
    assert [names(files) for files in checkpoints.files(str(folder))] == [[FIRST], [SECOND]]


@pytest.mark.parametrize("length", [0, 10, 10_000, 2**32 - 1])
def test_so_is_one_whose_end_says_something_else(folder: Path, length: int) -> None:
    content = (folder / SECOND).read_bytes()
    (folder / SECOND).write_bytes(content[:-8] + length.to_bytes(4, "little") + b"PAR1")
    assert [names(files) for files in checkpoints.files(str(folder))] == [[FIRST], [SECOND]]


def test_whole_files(folder: Path) -> None:
    assert [names(files) for files in checkpoints.files(str(folder))] == [[FIRST, SECOND], []]
    writer = CheckpointWriter(str(folder), "k", 0, 2, 0.0, 0.0)
    assert sorted(writer.earlier_contents()) == [f"{attempt}-{number}" for attempt in range(2) for number in range(3)]
    assert CheckpointCount(str(folder))() == 6
    assert checkpoints.files(str(folder / "none")) == ([], [])


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")], ids=str)
def test_a_file_that_cannot_be_read_is_not_damaged(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def refuse(uri: str) -> None:
        raise error

    monkeypatch.setattr(blobs, "open_input_file", refuse)
    with pytest.raises(JobFailed, match=f"{FIRST} cannot be read: .*{error.strerror}. It may be whole: make it"):
        checkpoints.files(str(folder))


def test_a_file_that_another_run_removes_meanwhile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = blobs.open_input_file
    monkeypatch.setattr(blobs, "open_input_file", lambda uri: opened(uri + ".gone" if FIRST in uri else uri))
    assert names(checkpoints.files(str(folder))[0]) == [SECOND]


def test_thumbprints_count_for_what_is_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of short vectors they are nearly all of it."""
    monkeypatch.setattr(checkpoints, "BYTES_PER_FILE", 10 * (1024 + 8))
    writer = CheckpointWriter(str(tmp_path), "k", 0, 0, 0.0, 3600.0)  # begun in 1970: time is no reason to write
    for number in range(19):
        writer.add([VectorSource(str(number), 1, 1, GREY, str(number), None)], np.ones((1, 2), np.float32))
    assert names(checkpoints.files(str(tmp_path))[0]) == [FIRST] and CheckpointCount(str(tmp_path))() == 10


def test_no_file_is_left_open(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, open_file = list[Any](), blobs.open_input_file
    monkeypatch.setattr(blobs, "open_input_file", lambda uri: opened.append(open_file(uri)) or opened[-1])  # type: ignore[func-returns-value]
    CheckpointWriter(str(folder), "k", 0, 2, 0.0, 0.0).earlier_contents()
    CheckpointCount(str(folder))()
    (folder / SECOND).write_bytes(b"damaged")
    checkpoints.files(str(folder))
    assert len(opened) == 6 and all(file.closed for file in opened)


@pytest.mark.parametrize(
    ("kind", "used", "is_low"),
    [("network", 0.05, False), ("network", 0.05, True), ("colour-histogram", 0.002, False), ("hog", 0, False)]
    + [("exported", 0, False), ("pca", 1, False)],
)
def test_no_disk_is_refused_that_would_do(kind: str, used: float, is_low: bool, tmp_path: Path) -> None:
    """Vectors of which few values are not 0, as bfloat16, too: a file is no smaller than what is asked for."""
    random = np.random.default_rng(0)
    vectors = random.standard_normal((500, 4096)).astype(np.float32)
    vectors[random.random(vectors.shape) >= used] = 0
    if is_low:
        vectors = (vectors.view(np.uint32) & 0xFFFF0000).view(np.float32)
    writer = CheckpointWriter(str(tmp_path), "k", 0, 0, 0.0, 0.0)
    writer.add([VectorSource(str(number), 1, 1, GREY, str(number), None) for number in range(500)], vectors)
    writer.write()
    [file] = tmp_path.iterdir()
    once = checkpoints.least_bytes(kind, 500, 4096, resumes=True)
    assert file.stat().st_size >= once
    twice = checkpoints.least_bytes(kind, 500, 4096, resumes=False)
    assert twice == once if kind == "pca" else abs(twice - 2 * once) <= 1, "projections write no checkpoints"
