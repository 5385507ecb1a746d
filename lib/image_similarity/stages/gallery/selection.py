"""What a visitor marks for removal: the rows that a browser keeps and saves as remove.csv (selection.js)."""

from collections.abc import Mapping
from typing import Any

COLUMNS = ("image_id", "kept_id", "distance", "kind", "group_id")
"""The columns of the saved file, those of the file of the same name that `group_images --export` writes."""


def row(member: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
    """The row of ``member`` in the saved file: `COLUMNS`. ``group``: see `compare.GROUP`; its first member is kept."""
    kept = group["members"][0]
    is_kept = member["image_id"] == kept["image_id"]
    return {
        "image_id": member["image_id"],
        "kept_id": None if is_kept else kept["image_id"],
        "distance": None if is_kept else member["distance"],
        "kind": group["kind"],
        "group_id": group["group_id"],
    }
