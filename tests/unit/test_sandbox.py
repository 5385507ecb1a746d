"""Decoding in a process of its own: the same pictures, and an end to those that would bring a worker down."""

import io
import json
import math
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from image_similarity import settings
from image_similarity.errors import Unreadable
from image_similarity.imaging import decoding, framing, sandbox
from image_similarity.imaging.framing import Framing
from image_similarity.imaging.sandbox import IsolatedDecoders
from image_similarity.runtime import tasks
from image_similarity.stages.comparison import cards
from image_similarity.stages.gallery import pictures

LIMIT = 50_000_000
ABORTING = Path(__file__).resolve().parents[1] / "aborting"


def encoded(image: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


FRAMINGS = [Framing(256, 224), Framing(64, 64, "bicubic", scaled=False), Framing(8, 8, squash=True), Framing(256, 224)]
TINY = [Framing(4, 4)]


@pytest.fixture
def isolated() -> Iterator[IsolatedDecoders]:
    with IsolatedDecoders(1, LIMIT, 2 * 2**30, seconds=20) as decoders:
        yield decoders


def test_the_same_squares_and_the_same_refusals(isolated: IsolatedDecoders) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (1100, 1300, 3), dtype=np.uint8))
    for content in (encoded(noise, "PNG"), encoded(noise, "JPEG"), encoded(noise.convert("LA"), "PNG")):
        expected, got = framing.framed(content, FRAMINGS, LIMIT), isolated.framed(content, FRAMINGS)
        assert [square.shape[0] for square in got.squares] == [224, 64, 8, 224]
        for ours, theirs in zip(expected.squares, got.squares):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(expected.thumbprints, got.thumbprints)
        assert len(got.thumbprints) == 4
        assert (got.width, got.height) == (expected.width, expected.height) == (1300, 1100)
        assert got.format == expected.format == ("JPEG" if content[:2] == b"\xff\xd8" else "PNG")
        assert got.measures is None
        alone = isolated.framed(content, [], measured=True)
        assert alone.squares == alone.thumbprints == [] and (alone.width, alone.height) == (1300, 1100)
        assert alone.measures is not None
        assert alone.measures == framing.framed(content, [], LIMIT, measured=True).measures
        measured = isolated.framed(content, FRAMINGS, measured=True)
        assert measured.measures == framing.framed(content, FRAMINGS, LIMIT, measured=True).measures
        np.testing.assert_array_equal(measured.squares[0], expected.squares[0])
    for content, reason in [(b"", "empty"), (b"text", "not_an_image"), (encoded(noise, "PNG")[:999], "truncated")]:
        with pytest.raises(Unreadable) as caught:
            isolated.framed(content, TINY)
        assert caught.value.reason == reason


@pytest.mark.timeout(60)
def test_several_files_at_a_time_but_no_more_pixels_than_one_process_decodes() -> None:
    """A file that waits for its turn has all of its time afterwards."""
    content = encoded(Image.new("RGB", (20, 30)), "PNG")
    with IsolatedDecoders(3, 600, 2 * 2**30, seconds=1) as decoders, ThreadPoolExecutor(3) as pool:
        held = decoding.turns.taken(1, 600)
        with held:
            answers = [pool.submit(decoders.framed, content, TINY) for _ in range(3)]
            assert not futures.wait(answers, 3, futures.FIRST_COMPLETED).done, "decoded without a turn"
            assert sum(child._process is not None for child in decoders._children) == 3
        assert [answer.result().width for answer in answers] == [20] * 3
    assert decoding.turns._pixels == 0


@pytest.mark.parametrize(
    "answer",
    [
        b"\xff\xff\xff\xff",
        struct.pack(">I", 4) + b"none",
        struct.pack(">I", 4) + b"null",
        struct.pack(">I", 11) + b'{"bytes":1}',
        struct.pack(">I", 22) + b'{"bytes":[99999999999]}',
        struct.pack(">I", 11) + b'{"turn":[]}',
        struct.pack(">I", 14) + b'{"turn":1e999}',
        struct.pack(">I", 2**15) + b"[" * 2**15,
        struct.pack(">I", 24) + b'{"bytes":[9],"height":2}',
        struct.pack(">I", 34) + b'{"bytes":[],"height":2,"width":-1}',
        struct.pack(">I", 34) + b'{"bytes":[9],"height":2,"width":2}',
        struct.pack(">I", 55) + b'{"bytes":[9],"height":2,"width":2,"original":[2,2,"x"]}',
        struct.pack(">I", 59) + b'{"bytes":[9],"height":2,"width":2,"original":[-2,2,"JPEG"]}',
        (struct.pack(">I", 10) + b'{"turn":0}') * 99,
    ],
)
def test_a_child_that_talks_nonsense_is_one_failure(isolated: IsolatedDecoders, answer: bytes) -> None:
    """As a decoder may that was taken over. The next file has another child."""
    good = encoded(Image.new("RGB", (4, 4)), "PNG")
    isolated.thumbnails(good)
    child, (ours, theirs) = isolated._children[0], socket.socketpair()
    child._connection = sandbox._Connection(ours)
    with theirs:
        theirs.sendall(answer + bytes(64))
        with pytest.raises(Unreadable) as caught:
            isolated.thumbnails(good)
    assert caught.value.reason == "decoder_crashed"
    assert isolated.thumbnails(good).width == 4


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"format": "x", "measures": None},
        {"format": "PNG"},
        {"format": "PNG", "measures": [1.0] * 5},
        {"format": "PNG", "measures": [1.0] * 5 + [math.inf]},
        {"format": "PNG", "measures": ["a"] * 6},
        {"format": "PNG", "measures": 7},
    ],
)
def test_measures_that_are_none_are_one_failure(isolated: IsolatedDecoders, about: dict[str, Any]) -> None:
    good = encoded(Image.new("RGB", (4, 4)), "PNG")
    isolated.framed(good, [])
    child, (ours, theirs) = isolated._children[0], socket.socketpair()
    child._connection = sandbox._Connection(ours)
    header = json.dumps({"width": 4, "height": 4, **about}).encode()
    with theirs:
        theirs.sendall(struct.pack(">I", len(header)) + header)
        with pytest.raises(Unreadable) as caught:
            isolated.framed(good, [], measured=True)
    assert caught.value.reason == "decoder_crashed"


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
    isolated: IsolatedDecoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "made-up-secret")
    isolated.framed(encoded(Image.new("RGB", (4, 4)), "PNG"), TINY)
    [child] = isolated._children
    assert child._process is not None
    environment = Path(f"/proc/{child._process.pid}/environ")
    if not environment.exists():
        pytest.skip("this system does not show the environment of a process")
    names = {entry.partition(b"=")[0] for entry in environment.read_bytes().split(b"\0") if entry}
    assert names <= {b"PYTHONPATH", b"PYTHONSAFEPATH", b"LD_LIBRARY_PATH", b"OPENBLAS_NUM_THREADS"}


@pytest.mark.timeout(90)
def test_a_file_that_kills_its_process_is_one_failure(
    isolated: IsolatedDecoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder that aborts, and one that never ends, put in place of Pillow's as an interpreter starts."""
    monkeypatch.setattr(sys, "path", [str(ABORTING), *sys.path])
    good = encoded(Image.new("RGB", (4, 4)), "PNG")
    for content, told in [(b"ABORT now", "signal 6"), (b"EAT memory", "")]:
        with pytest.raises(Unreadable) as caught:
            isolated.framed(content, TINY)
        assert caught.value.reason in ("decoder_crashed", "corrupt") and told in caught.value.detail
        with pytest.raises(Unreadable) as caught:
            isolated.thumbnails(content)
        assert caught.value.reason in ("decoder_crashed", "corrupt")
        assert isolated.framed(good, TINY).squares[0].shape == (4, 4, 3), "the next one is decoded by a new child"
    with IsolatedDecoders(1, LIMIT, 2 * 2**30, seconds=3) as hasty, pytest.raises(Unreadable) as caught:
        hasty.framed(b"HANG for ever", TINY)
    assert caught.value.reason == "decoder_crashed" and "signal 9" in caught.value.detail


@pytest.mark.timeout(60)
def test_a_child_whose_file_hangs_ends_though_nobody_is_left_to_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ABORTING), *sys.path])
    child, hangs = sandbox._Child(LIMIT, 2 * 2**30, seconds=0.1), b"HANG for ever"
    connection = child._started()
    connection.restart_clock(20)
    connection.send(sandbox._REQUEST.pack(4, len(hangs)) + b"null" + hangs)
    connection.close()
    assert child._process is not None and child._process.wait(30) == -signal.SIGALRM


def _starting(monkeypatch: pytest.MonkeyPatch, folder: Path, program: str) -> None:
    """The child's interpreter runs ``program`` first."""
    (folder / "sitecustomize.py").write_text(program)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])


def test_the_start_of_the_child_is_no_time_of_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _starting(monkeypatch, tmp_path, "import time; time.sleep(1.5)")
    with IsolatedDecoders(1, LIMIT, 2 * 2**30, seconds=1) as hasty:
        assert hasty.framed(encoded(Image.new("RGB", (4, 4)), "PNG"), TINY).width == 4


@pytest.mark.parametrize("program, told", [("import os; os._exit(7)", "code 7"), ("import time; time.sleep(60)", "9")])
def test_a_child_that_does_not_start_is_no_files_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, told: str
) -> None:
    _starting(monkeypatch, tmp_path, program)
    monkeypatch.setattr(sandbox, "_SECONDS_TO_START", 0.5)
    with IsolatedDecoders(1, LIMIT, 2 * 2**30, seconds=20) as decoder:
        for _ in range(2):
            with pytest.raises(RuntimeError, match=f"no process to decode images in: .*{told}"):
                decoder.framed(encoded(Image.new("RGB", (4, 4)), "PNG"), TINY)


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
