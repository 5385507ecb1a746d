"""What a visitor marks for removal: the rows that a browser keeps and saves as remove.csv (selection.js)."""

from collections.abc import Mapping
from typing import Any

from image_similarity.warehouse.schemas import IDENTICAL

COLUMNS = (
    *("image_id", "uri", "kept_id", "kept_uri", "distance", "kind", "group_id", "width", "height", "size_bytes"),
    *("kept_width", "kept_height", "kept_size_bytes"),
)
"""The columns of the saved file: those of the file of this name that an export writes, without attributes."""

_OF_FILE = {"uri": "uri", "width": "pixel_width", "height": "pixel_height", "size_bytes": "size_bytes"}


def row(member: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
    """The row of ``member`` in the saved file: `COLUMNS`. ``group``: see `compare.GROUP`; its first member is kept.

    If this one is itself removed, its row names no kept one.
    """
    kept = group["members"][0]
    is_kept = member["image_id"] == kept["image_id"]
    is_same = member["picture"] is not None and member["picture"] == kept["picture"]
    return {
        "image_id": member["image_id"],
        "kept_id": None if is_kept else kept["image_id"],
        "distance": None if is_kept else member["distance"],
        "kind": IDENTICAL if is_same and not is_kept else group["kind"],
        "group_id": group["group_id"],
        **{name: member.get(field) for name, field in _OF_FILE.items()},
        **{f"kept_{name}": None if is_kept else kept.get(field) for name, field in _OF_FILE.items()},
    }
