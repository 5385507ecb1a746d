"""PNG files without what their pixels do not need.

A PNG is a signature and chunks: length, type, data, checksum. A capital first letter of the type marks a chunk without
which the picture cannot be decoded (PNG specification, third edition, 5.4). All others may be left out.
"""

import struct
import zlib

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KEPT = (b"tRNS", b"eXIf")
"""Chunks that are not critical, and say which pixels are transparent and which side is up."""
_LARGEST_KEPT = 2**16


def without_metadata(content: bytes) -> bytes | None:
    """``content`` without comments, profiles, times and the like, and without all that is damaged among them.

    None if ``content`` is no PNG, or if there is nothing to leave out. What cannot be followed as chunks, from the
    first cut on, stays as it is: it is for the decoder to refuse.
    """
    if not content.startswith(_SIGNATURE):
        return None
    kept, place, is_less = [_SIGNATURE], len(_SIGNATURE), False
    while place + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        end = place + 12 + length
        if end > len(content):
            break
        if kind[:1].isupper() or (kind in _KEPT and length <= _LARGEST_KEPT and _is_whole(content[place + 4 : end])):
            kept.append(content[place:end])
        else:
            is_less = True
        place = end
    return b"".join([*kept, content[place:]]) if is_less else None


def _is_whole(chunk: bytes) -> bool:
    """Whether the checksum at the end of ``chunk`` (type, data, checksum) is that of the rest."""
    return zlib.crc32(chunk[:-4]).to_bytes(4, "big") == chunk[-4:]
