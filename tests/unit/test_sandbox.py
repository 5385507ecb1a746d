"""Decoding in a process of its own: the same pictures, and an end to those that would bring a worker down."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_similarity.errors import Unreadable
from image_similarity.imaging import decoding, sandbox
from image_similarity.imaging.sandbox import IsolatedDecoder

LIMIT = 50_000_000
ABORTING = Path(__file__).resolve().parents[1] / "aborting"


def encoded(image: Image.Image, kind: str) -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


@pytest.fixture
def isolated() -> Iterator[IsolatedDecoder]:
    made = IsolatedDecoder(LIMIT, 2 * 2**30, seconds=20)
    yield made
    made.close()


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
    here, there = (sandbox.thumbnailer(isolated, LIMIT, 2 * 2**30, 20) for isolated in (False, True))
    noise = np.random.default_rng(0).integers(0, 256, (1100, 1300, 3), dtype=np.uint8)
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
    hasty = IsolatedDecoder(LIMIT, 2 * 2**30, seconds=3)
    with pytest.raises(Unreadable) as caught:
        hasty.decode(b"HANG for ever")
    assert caught.value.reason == "decoder_crashed" and "signal 9" in caught.value.detail
    hasty.close()
