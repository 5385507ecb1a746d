"""What stands before the pixels of a JPEG costs no more than cameras write."""

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from image_similarity.errors import Unreadable
from image_similarity.imaging import decoding, jpeg, thumbnails
from image_similarity.stages.downloads import stage

LIMIT = 10**6
PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
MOST = jpeg.MOST_EXIF_SEGMENTS


def plain(orientation: int | None = None) -> bytes:
    content, exif = io.BytesIO(), Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    written = exif.tobytes() if exif else b""  # even without a tag it would be a segment
    Image.fromarray(PIXELS).save(content, "JPEG", exif=written, comment=b"a comment")
    return content.getvalue()


def with_segments(content: bytes, *segments: bytes) -> bytes:
    return content[:2] + b"".join(segments) + content[2:]


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">HH", marker, len(data) + 2) + data


def outcome(content: bytes) -> list[Any]:
    """Pixels and small files, or why there are none: libjpeg gives up where Pillow passes over junk."""
    outcomes = list[Any]()
    for read in (
        lambda: decoding.decode(content, LIMIT).pixels.tolist(),
        lambda: thumbnails.thumbnails(content, LIMIT),
    ):
        try:
            outcomes.append(read())
        except Unreadable as error:
            outcomes.append(error.reason)
    return outcomes


EXIF = segment(0xFFE1, b"Exif\0\0" + b"x" * 1000)
XMP = segment(0xFFE1, b"http://ns.adobe.com/xap/1.0/\0<x/>")
OTHERS = {
    "nothing": b"",
    "padding": b"\xff" * 9,
    "junk": b"junk\0",
    "an escaped byte": b"\xff\0",
    "a marker alone": b"\xff\xd0",
    "the end, too early": b"\xff\xd9",
    "XMP": XMP,
    "a comment that looks like EXIF": segment(0xFFFE, EXIF),
}


@pytest.mark.parametrize("other", OTHERS)
def test_large_exif_does_not_reach_the_decoder(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands between; all else stays, and the pixels are the same. Sizes are seen, not times."""
    between = OTHERS[other]
    content = with_segments(plain(), XMP, *[between, EXIF] * (MOST + 1))
    with Image.open(io.BytesIO(content)) as image:
        assert len(image.info["exif"]) > 1000 * MOST, "Pillow would see it"
    without = with_segments(plain(), XMP, *[between] * (MOST + 1))
    assert jpeg.without_large_exif(content) == without
    sizes, opened = list[int](), Image.open

    def noted(file: Any, *given: Any, **options: Any) -> Any:
        sizes.append(len(file.getvalue()))
        return opened(file, *given, **options)

    monkeypatch.setattr(Image, "open", noted)
    assert outcome(content) == outcome(without)
    assert stage._file_type(content) == ("jpg", "image/jpeg")
    assert len(sizes) == 5 and set(sizes) == {len(without)}


def test_exif_as_cameras_write_it_stays() -> None:
    upright, turned = plain(), plain(6)
    for content in (upright, turned, with_segments(turned, *[EXIF] * (MOST - 1)), b"", b"no JPEG", turned[:9]):
        assert jpeg.without_large_exif(content) is content
    assert decoding.decode(turned, LIMIT).pixels.shape == (40, 24, 3)


@pytest.mark.parametrize("data", [segment(0xFFFE, b""), XMP, segment(0xFFE2, b"ICC_PROFILE\0\1\1")])
def test_more_segments_than_any_picture_has(data: bytes) -> None:
    content = with_segments(plain(), *[data] * jpeg.MOST_SEGMENTS)
    for read in (lambda: decoding.decode(content, LIMIT), lambda: stage._file_type(content)):
        with pytest.raises(Unreadable) as caught:
            read()
        assert caught.value.reason in ("corrupt", "not_an_image")


@pytest.mark.parametrize("end", [b"", b"\0", b"\0" + segment(0xFFE1, b"Exif\0\0")])
def test_a_long_run_of_fill_bytes_is_read_once(end: bytes) -> None:
    """A search that begins anew at each of them would not come to an end."""
    content = plain()[:2] + b"\xff" * 2**20 + end
    assert jpeg.without_large_exif(content) is content


def test_every_beginning_is_followed_to_an_end() -> None:
    """Cut anywhere, and with any byte changed."""
    content = with_segments(plain(6), XMP, EXIF)
    random = np.random.default_rng(1)
    for place in range(min(len(content), 700)):
        assert jpeg.without_large_exif(content[:place]) == content[:place]
        changed = bytearray(content)
        changed[place] = random.integers(256)
        assert jpeg.without_large_exif(bytes(changed)) == bytes(changed)
