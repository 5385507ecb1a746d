"""Decoding in a process of its own: the same pictures, and an end to those that would bring a worker down."""

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from image_similarity import settings
from image_similarity.errors import Unreadable
from image_similarity.imaging import decoding, sandbox
from image_similarity.imaging.sandbox import IsolatedDecoder
from image_similarity.runtime import tasks
from image_similarity.stages.comparison import cards
from image_similarity.stages.gallery import pictures

LIMIT = 50_000_000
ABORTING = Path(__file__).resolve().parents[1] / "aborting"


def encoded(image: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


@pytest.fixture
def isolated() -> Iterator[IsolatedDecoder]:
    with IsolatedDecoder(LIMIT, 2 * 2**30, seconds=20) as decoder:
        yield decoder


def test_the_same_pictures_and_the_same_refusals(isolated: IsolatedDecoder) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (1100, 1300, 3), dtype=np.uint8))
    for content, at_least in [
        (encoded(noise, "PNG"), None),
        (encoded(noise, "JPEG"), 512),
        (encoded(noise, "JPEG"), None),
    ]:
        expected, got = decoding.decode(content, LIMIT, at_least), isolated.decode(content, at_least)
        np.testing.assert_array_equal(got.pixels, expected.pixels)
        assert (got.width, got.height) == (expected.width, expected.height) == (1300, 1100)
    for content, reason in [(b"", "empty"), (b"text", "not_an_image"), (encoded(noise, "PNG")[:999], "truncated")]:
        with pytest.raises(Unreadable) as caught:
            isolated.decode(content)
        assert caught.value.reason == reason


def test_the_same_thumbnails() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1100, 1300, 3), dtype=np.uint8)
    limits = LIMIT, 2 * 2**30, 20
    with sandbox.thumbnailer(False, *limits) as here, sandbox.thumbnailer(True, *limits) as there:
        for content in (encoded(Image.fromarray(noise), "JPEG"), encoded(Image.fromarray(noise[:90, :50]), "PNG")):
            assert there(content) == here(content)
        with pytest.raises(Unreadable) as caught:
            there(b"text")
        assert caught.value.reason == "not_an_image"


def test_a_decoder_that_is_taken_over_finds_no_secrets(
    isolated: IsolatedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "made-up-secret")
    isolated.decode(encoded(Image.new("RGB", (4, 4)), "PNG"))
    assert isolated._child is not None
    environment = Path(f"/proc/{isolated._child.pid}/environ")
    if not environment.exists():
        pytest.skip("this system does not show the environment of a process")
    names = {entry.partition(b"=")[0] for entry in environment.read_bytes().split(b"\0") if entry}
    assert names <= {b"PYTHONPATH", b"PYTHONSAFEPATH", b"LD_LIBRARY_PATH"}


@pytest.mark.timeout(90)
def test_a_file_that_kills_its_process_is_one_failure(
    isolated: IsolatedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that aborts, and one that never ends, put in place of Pillow's as an interpreter starts."""
    monkeypatch.setattr(sys, "path", [str(ABORTING), *sys.path])
    good = encoded(Image.new("RGB", (4, 4)), "PNG")
    for content, told in [(b"ABORT now", "signal 6"), (b"EAT memory", "")]:
        with pytest.raises(Unreadable) as caught:
            isolated.decode(content)
        assert caught.value.reason in ("decoder_crashed", "corrupt") and told in caught.value.detail
        with pytest.raises(Unreadable) as caught:
            isolated.thumbnails(content)
        assert caught.value.reason in ("decoder_crashed", "corrupt")
        assert isolated.decode(good).pixels.shape == (4, 4, 3), "the next one is decoded by a new child"
    with IsolatedDecoder(LIMIT, 2 * 2**30, seconds=3) as hasty, pytest.raises(Unreadable) as caught:
        hasty.decode(b"HANG for ever")
    assert caught.value.reason == "decoder_crashed" and "signal 9" in caught.value.detail


def _starting(monkeypatch: pytest.MonkeyPatch, folder: Path, program: str) -> None:
    """The child's interpreter runs ``program`` first."""
    (folder / "sitecustomize.py").write_text(program)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])


def test_the_start_of_the_child_is_no_time_of_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _starting(monkeypatch, tmp_path, "import time; time.sleep(1.5)")
    with IsolatedDecoder(LIMIT, 2 * 2**30, seconds=1) as hasty:
        assert hasty.decode(encoded(Image.new("RGB", (4, 4)), "PNG")).width == 4


@pytest.mark.parametrize("program, told", [("import os; os._exit(7)", "code 7"), ("import time; time.sleep(60)", "9")])
def test_a_child_that_does_not_start_is_no_files_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, told: str
) -> None:
    _starting(monkeypatch, tmp_path, program)
    monkeypatch.setattr(sandbox, "_SECONDS_TO_START", 0.5)
    with IsolatedDecoder(LIMIT, 2 * 2**30, seconds=20) as decoder:
        for _ in range(2):
            with pytest.raises(RuntimeError, match=f"no process to decode images in: .*{told}"):
                decoder.decode(encoded(Image.new("RGB", (4, 4)), "PNG"))


@pytest.mark.parametrize("maker", [pictures._maker, cards._maker])
def test_makers_of_pages_leave_no_decoder_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, maker: Any) -> None:
    """Whether they come to their end or not. The child is seen to be gone before anything is collected as garbage."""
    children, popen = list[Any](), subprocess.Popen

    def noted(*given: Any, **options: Any) -> Any:
        children.append(popen(*given, **options))
        return children[-1]

    monkeypatch.setattr(subprocess, "Popen", noted)
    monkeypatch.setattr(tasks, "is_retry", lambda: True)
    picture = tmp_path / "a.png"
    picture.write_bytes(encoded(Image.new("RGB", (4, 4)), "PNG"))
    row = {"picture": "p", "image_id": "a", "uri": str(picture), "uris": [str(picture)], "attributes": []}
    batch = pa.RecordBatch.from_pylist([{**row, "content_sha256": None, "width": None, "height": None}])
    place, loaded = str(tmp_path / "pages"), settings.load(None)
    make = maker(place, loaded) if maker is pictures._maker else maker(None, loaded, place)
    rows: Any = make(iter([batch, batch]))
    assert next(rows).to_pylist()[0]["width"] == 4 and [child.poll() for child in children] == [None]
    rows.close()
    assert [child.returncode for child in children] == [-9]
