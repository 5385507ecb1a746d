"""What pages say of the members of a group, beside their pictures: size, format, what is better than the kept one."""

from collections.abc import Mapping
from typing import Any

from image_similarity.errors import counted
from image_similarity.stages.gallery import cards, pictures

MEMBER = ["image_id", "uri", *cards.CARD, "size_bytes", *pictures.ORIGINAL]
"""What is shown of a member, beside its ``distance`` to the kept one (None of this one): `compare.MEMBER`."""

SAME_FILE = "the same file, byte for byte"

NO_BREAK = "\u00a0"
"""A space at which no line ends."""

_UNITS = ("bytes", "kB", "MB", "GB", "TB")
_NAMES = {"WEBP": "WebP", "JPEG2000": "JPEG 2000"}
"""Pillow's name of a format -> the usual one, where they differ."""

Member = Mapping[str, Any]


def facts(member: Member) -> list[str]:
    """Size in pixels, size of the file, format: those that are known."""
    size = f"{member['pixel_width']:,} × {member['pixel_height']:,}" if member["pixel_width"] else ""
    of_format = member["format"] and format_name(member["format"])
    stored = "" if member["size_bytes"] is None else file_size(member["size_bytes"])
    return [fact for fact in (size, stored, of_format) if fact]


def format_name(name: str) -> str:
    return _NAMES.get(name, name)


def file_size(count: int) -> str:
    """A number of bytes in the largest unit that leaves a whole one, with two digits or more: 840 bytes, 3.4 MB.

    No line ends between the number and its unit.
    """
    size, unit = float(count), 0
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    if unit == 0:
        return counted(count, "byte").replace(" ", NO_BREAK)
    return f"{size:.1f}{NO_BREAK}{_UNITS[unit]}" if size < 9.95 else f"{size:.0f}{NO_BREAK}{_UNITS[unit]}"


def pixels(member: Member) -> int | None:
    return member["pixel_width"] * member["pixel_height"] if member["pixel_width"] else None


def better(member: Member, kept: Member) -> list[str]:
    """In what ``member`` is better than the kept one of its group, in words; that it is the same file, if it is."""
    if is_same_file(member, kept):
        return [SAME_FILE]
    compared = {"more pixels": (pixels(member), pixels(kept))}
    compared["larger file"] = (member["size_bytes"], kept["size_bytes"])
    return [words for words, (own, other) in compared.items() if own is not None and other is not None and own > other]


def best(group: Mapping[str, Any]) -> list[str]:
    """In what the kept one is better than every other of its ``group``."""
    kept = group["members"][0]
    compared = {"most pixels": (pixels(kept), group["others_pixels"])}
    compared["largest file"] = (kept["size_bytes"], group["others_bytes"])
    return [words for words, (own, most) in compared.items() if own is not None and most is not None and own > most]


def is_same_file(member: Member, kept: Member) -> bool:
    return bool(member["picture"] == kept["picture"])
