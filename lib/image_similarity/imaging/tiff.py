"""What a TIFF claims beside its size: the size of its tiles, and how many numbers its tags hold.

Decoders take memory for one whole tile, whatever the size of the picture, and Pillow makes Python objects of all the
numbers of a tag (350 bytes for each strip, as measured). Both are bounded here by what the picture has pixels.
"""

import struct
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from image_similarity.errors import Unreadable

_WIDTH, _LENGTH, _TILE_WIDTH, _TILE_LENGTH = 256, 257, 322, 323
_CODES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
"""Types of whole numbers."""
_BYTES = (1, 2, 7)
"""Types that Pillow keeps as bytes: unsigned bytes, text, and what is undefined."""

MOST_EXCESS = 2**24
"""Pixels that a tile may have more than its picture: 4,096 x 4,096, of at most eight bytes each."""
MOST_NUMBERS = 2**18
"""Numbers that the tags of any picture may hold. Larger ones may hold one for every 32 pixels in addition: two for each
of their tiles of 16 x 16, and more."""
_MOST_ENTRIES = 2**16


@dataclass(frozen=True)
class _Entry:
    """A tag of a directory."""

    tag: int
    kind: int
    count: int
    first: int | None
    """The first value; None if it is no whole number, or lies outside of the file."""


def check_claims(content: bytes) -> None:
    """Nothing if ``content`` is no TIFF, or one whose tiles and tags fit its size; else raises `Unreadable`.

    Where a tag is there twice, decoders differ in which they take. The picture is as large as the least says, its tiles
    as the greatest. What cannot be followed as a directory is left to the decoder to refuse.
    """
    values: defaultdict[int, list[int]] = defaultdict(list)
    numbers = 0
    for entry in _entries(content):
        numbers += 0 if entry.kind in _BYTES else entry.count
        if entry.first is not None:
            values[entry.tag].append(entry.first)
    width, length = (min(values[tag], default=0) for tag in (_WIDTH, _LENGTH))
    tile_width, tile_length = (max(values[tag], default=0) for tag in (_TILE_WIDTH, _TILE_LENGTH))
    if tile_width * tile_length > width * length + MOST_EXCESS:
        raise Unreadable("too_many_pixels", f"{width} x {length} in tiles of {tile_width} x {tile_length}")
    if numbers > width * length // 32 + MOST_NUMBERS:
        raise Unreadable("corrupt", f"{width} x {length}, and {numbers} numbers in tags")


def _entries(content: bytes) -> Iterator[_Entry]:
    """The tags of the first directory. BigTIFF is told by its version, 43."""
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    if order is None or len(content) < 16:
        return
    big = 43 in content[2:4]
    place = struct.unpack_from(order + ("Q" if big else "I"), content, 8 if big else 4)[0]
    layout = struct.Struct(order + ("HHQ8s" if big else "HHI4s"))
    header = struct.Struct(order + ("Q" if big else "H"))
    if place + header.size > len(content):
        return
    (number,) = header.unpack_from(content, place)
    if number > _MOST_ENTRIES:
        raise Unreadable("corrupt", f"{number} tags")
    place += header.size
    for start in range(place, min(place + number * layout.size, len(content) - layout.size + 1), layout.size):
        tag, kind, count, value = layout.unpack_from(content, start)
        yield _Entry(tag, kind, count, _first(content, order, kind, count, value))


def _first(content: bytes, order: str, kind: int, count: int, value: bytes) -> int | None:
    """The first number of a tag. ``value`` is all of them if there is room, else the place where they lie."""
    code = _CODES.get(kind)
    if code is None or not count:
        return None
    number = struct.Struct(order + code)
    if count * number.size <= len(value):
        return int(number.unpack_from(value)[0])
    (place,) = struct.unpack(order + ("Q" if len(value) == 8 else "I"), value)
    return int(number.unpack_from(content, place)[0]) if place + number.size <= len(content) else None
