"""Into how many tiles, code-blocks and precincts a JPEG 2000 is cut.

Before it reads any of them, the decoder keeps a record of some 400 bytes for each block and precinct, and of 10,000 for
each tile. Usual blocks have 64 x 64 values. A file of a few bytes may ask for blocks of 4 x 4, which takes 100 bytes a
pixel. (ISO/IEC 15444-1, annex A, has the markers, annex I the boxes.)
"""

import struct
from collections.abc import Iterator

from image_similarity.errors import Unreadable, counted

_CODESTREAM, _BOXES = b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "
_SIZE, _STYLE, _COMPONENT_STYLE, _TILE_PART, _DATA = 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93

_BLOCKS_OF_TILE = 25
MOST_BLOCKS = 2**18
"""Blocks and precincts of any picture. Larger ones may have one for every 32 pixels in addition."""


def check_blocks(content: bytes) -> None:
    """Nothing if ``content`` is no JPEG 2000, or one that is cut as usual; else raises `Unreadable`.

    The finest cut that is found anywhere is taken for all of the picture. What cannot be followed as markers is left
    to the decoder to refuse.
    """
    start = _start(content)
    pixels, components, tiles, finest = 0, 1, 0, 64.0 * 64
    for marker, body in _segments(content, start + 2) if start is not None else ():
        if marker == _SIZE and len(body) >= 36:
            right, bottom, left, top, width, height = struct.unpack_from(">6I", body, 2)
            pixels, components = max(0, right - left) * max(0, bottom - top), struct.unpack_from(">H", body, 34)[0]
            tiles = pixels // max(1, width * height)
        elif marker == _STYLE and len(body) >= 10:
            finest = min(finest, _finest(body[5:], bool(body[0] & 1)))
        elif marker == _COMPONENT_STYLE and len(body) >= 8:
            rest = body[1 if components < 257 else 2 :]
            finest = min(finest, _finest(rest[1:], bool(rest[0] & 1)))
    blocks = int(pixels * components / finest) + _BLOCKS_OF_TILE * tiles
    if blocks > pixels // 32 + MOST_BLOCKS:
        raise Unreadable(
            "too_many_pixels", f"{pixels} pixels in {counted(tiles, 'tile')}, in blocks of {finest:g} values"
        )


def _start(content: bytes) -> int | None:
    """Where the codestream begins, in its box if the file has boxes. None if there is none."""
    if content.startswith(_CODESTREAM):
        return 0
    place = 0 if content.startswith(_BOXES) else len(content)
    while place + 16 <= len(content):
        length, kind, longer = struct.unpack_from(">I4sQ", content, place)
        if kind == b"jp2c":
            return place + (16 if length == 1 else 8)
        length = longer if length == 1 else length
        if length < 8:  # 0: the last one
            return None
        place += length
    return None


def _finest(style: bytes, has_precincts: bool) -> float:
    """Values of a component for each code-block or precinct. ``style``: levels, width, height, two bytes, precincts."""
    area = 2.0 ** ((style[1] & 15) + (style[2] & 15) + 4)
    if has_precincts:
        # One byte for each resolution, the coarsest first. Each has four times as many values as the one before.
        for coarser, size in enumerate(reversed(style[5 : 6 + style[0]])):
            area = min(area, 2.0 ** ((size & 15) + (size >> 4) + 2 * coarser))
    return area


def _segments(content: bytes, place: int) -> Iterator[tuple[int, bytes]]:
    """Markers and what follows each, of the main header and of the headers of all parts of tiles."""
    end = 0
    while place + 4 <= len(content):
        marker, length = struct.unpack_from(">HH", content, place)
        if marker == _DATA:
            if end <= place:  # a length that leads back, or to where we are
                return
            place = end
        elif marker >> 8 != 0xFF or length < 2:
            return
        else:
            body = content[place + 4 : place + 2 + length]
            yield marker, body
            if marker == _TILE_PART and len(body) >= 6:
                end = place + struct.unpack_from(">I", body, 2)[0]
            place += 2 + length
