"""JPEG files without EXIF that is far larger than cameras write.

A JPEG begins with segments: a marker, a length, and data (ISO/IEC 10918-1, annex B). EXIF may take several. Pillow
joins them one by one, in a time that grows with the square of their number: it took two seconds for 32 MiB.
"""

import re
from collections.abc import Iterator

from PIL.JpegImagePlugin import MARKER

from image_similarity.errors import Unreadable

_START, _EXIF = b"\xff\xd8", b"Exif\0\0"
_APP1, _SCAN = 0xFFE1, 0xFFDA
_NEXT = re.compile(rb"\xff([^\xff\x00])")
"""A marker. Decoders pass over what stands before it, fill bytes (0xFF) too: those are not matched, since a search from
each of many would read all the others again."""

MOST_EXIF_SEGMENTS = 64
"""4 MiB."""
MOST_SEGMENTS = 2**16


def without_large_exif(content: bytes) -> bytes:
    """``content``, without its EXIF if that has more than `MOST_EXIF_SEGMENTS`. What is no JPEG stays as it is.

    Raises `Unreadable` for more than `MOST_SEGMENTS` segments before the first scan.
    """
    exif = [
        (start, end)
        for marker, start, end in _segments(content)
        if marker == _APP1 and content.startswith(_EXIF, start + 4)
    ]
    if len(exif) <= MOST_EXIF_SEGMENTS:
        return content
    starts, ends = zip(*exif)
    return b"".join(content[start:end] for start, end in zip((0, *ends), (*starts, len(content))))


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of the segments before the first scan, as Pillow follows them."""
    place = len(_START) if content.startswith(_START) else len(content)
    for _ in range(MOST_SEGMENTS):
        match = _NEXT.search(content, place)
        if match is None or (marker := 0xFF00 | match[1][0]) == _SCAN or marker not in MARKER:
            return
        place = match.end()
        if MARKER[marker][2] is not None:  # it has a length
            place += int.from_bytes(content[place : place + 2], "big")
            yield marker, match.end() - 2, place
    raise Unreadable("corrupt", f"more than {MOST_SEGMENTS} segments before the first scan")
