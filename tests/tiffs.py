"""TIFF files that Pillow does not write: in tiles, in planes, as BigTIFF, and with tags that claim what is not so."""

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC, SAMPLES, ROWS = 256, 257, 258, 259, 262, 277, 278
STRIP_OFFSETS, STRIP_BYTES, PLANAR, TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_BYTES = (
    273,
    279,
    284,
    322,
    323,
    324,
    325,
)
SAMPLE_FORMAT = 339

_SHORT, _LONG, _LONG8 = 3, 4, 16
_CODES = {_SHORT: "H", _LONG: "I", _LONG8: "Q"}


def tiff(
    values: NDArray[np.generic],
    *,
    rows: int | None = None,
    tile: tuple[int, int] | None = None,
    deflated: bool = False,
    planes: bool = False,
    big: bool = False,
    order: Literal["<", ">"] = "<",
    claims: Mapping[int, int | Sequence[int]] | None = None,
) -> bytes:
    """A TIFF of ``values``, (height, width) or (height, width, samples), unsigned integers or float32.

    In strips of ``rows`` (None: one strip), or in tiles of (width, length). ``planes``: each sample in a plane of its
    own. ``order``: that of bytes, "<" or ">". ``claims``: tags with other values than those that are true.
    """
    cube = values[:, :, None] if values.ndim == 2 else values
    height, width, samples = cube.shape
    shape = (tile[1], tile[0]) if tile else (rows or height, width)
    parts = [cube[:, :, [sample]] for sample in range(samples)] if planes else [cube]
    segments = [segment.astype(cube.dtype.newbyteorder(order)).tobytes() for segment in _cut(parts, shape, bool(tile))]
    if deflated:
        segments = [zlib.compress(segment, 1) for segment in segments]
    header = 16 if big else 8
    starts = np.cumsum([header, *map(len, segments)]).tolist()
    tags: dict[int, int | Sequence[int]] = {
        WIDTH: width,
        LENGTH: height,
        BITS: [8 * cube.dtype.itemsize] * samples,
        COMPRESSION: 8 if deflated else 1,
        PHOTOMETRIC: 2 if samples >= 3 else 1,
        SAMPLES: samples,
        PLANAR: 2 if planes else 1,
        SAMPLE_FORMAT: [3 if cube.dtype.kind == "f" else 1] * samples,
        TILE_OFFSETS if tile else STRIP_OFFSETS: starts[:-1],
        TILE_BYTES if tile else STRIP_BYTES: [len(segment) for segment in segments],
    }
    tags |= {TILE_WIDTH: tile[0], TILE_LENGTH: tile[1]} if tile else {ROWS: rows or height}
    return _file(tags | dict(claims or {}), b"".join(segments), big, order)


def _cut(parts: list[NDArray[np.generic]], shape: tuple[int, int], padded: bool) -> Iterator[NDArray[np.generic]]:
    """Strips end where the picture ends; tiles are as large as all others, and zero outside of it."""
    for part in parts:
        for top in range(0, part.shape[0], shape[0]):
            for left in range(0, part.shape[1], shape[1]):
                segment = part[top : top + shape[0], left : left + shape[1]]
                missing = [(0, side - there) for side, there in zip(shape, segment.shape)]
                yield np.pad(segment, [*missing, (0, 0)]) if padded else segment


def _file(tags: Mapping[int, int | Sequence[int]], data: bytes, big: bool, order: str) -> bytes:
    """Header, ``data``, values that do not fit into their entries, and the directory."""
    room, number, entry = (8, "Q", "HHQ") if big else (4, "I", "HHI")
    header = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "H", 43 if big else 42)
    header += struct.pack(order + "HH", 8, 0) if big else b""
    place = len(header) + room + len(data)
    entries, behind = b"", b""
    for tag, value in sorted(tags.items()):
        numbers = [value] if isinstance(value, int) else list(value)
        kind = _SHORT if max(numbers) < 2**16 else _LONG if max(numbers) < 2**32 else _LONG8
        packed = struct.pack(f"{order}{len(numbers)}{_CODES[kind]}", *numbers)
        entries += struct.pack(order + entry, tag, kind, len(numbers))
        if len(packed) > room:
            entries += struct.pack(order + number, place + len(behind))
            behind += packed + bytes(len(packed) % 2)
        else:
            entries += packed.ljust(room, b"\0")
    directory = struct.pack(order + ("Q" if big else "H"), len(tags)) + entries + bytes(room)
    return header + struct.pack(order + number, place + len(behind)) + data + behind + directory
