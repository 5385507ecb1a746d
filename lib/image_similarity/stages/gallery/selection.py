"""What a visitor marks for removal: the rows that a browser keeps and saves as remove.csv (selection.js)."""

from collections.abc import Mapping
from typing import Any

from image_similarity.pages import captions
from image_similarity.warehouse.schemas import IDENTICAL

COLUMNS = (
    *("image_id", "uri", "kept_id", "kept_uri", "distance", "kind", "group_id", "width", "height", "size_bytes"),
    *("kept_width", "kept_height", "kept_size_bytes"),
)
"""The columns of the saved file: those of the file of this name that an export writes, without attributes."""


def row(member: Mapping[str, Any], group: Mapping[str, Any], show_locations: bool) -> dict[str, Any]:
    """The row of ``member`` in the saved file: `COLUMNS`. ``group``: see `compare.GROUP`; its first member is kept.

    If this one is itself removed, its row names no kept one. Without ``show_locations`` it has no uris.
    """
    kept = group["members"][0]
    is_kept = member["image_id"] == kept["image_id"]
    is_same = member["picture"] is not None and member["picture"] == kept["picture"]

    def of_file(image: Mapping[str, Any]) -> dict[str, Any]:
        size = {"width": image["pixel_width"], "height": image["pixel_height"], "size_bytes": image["size_bytes"]}
        return {"uri": _uri(image) if show_locations else None, **size}

    of_kept = dict.fromkeys(of_file(kept)) if is_kept else of_file(kept)
    whole = {
        "image_id": member["image_id"],
        "kept_id": None if is_kept else kept["image_id"],
        "distance": None if is_kept else member["distance"],
        "kind": IDENTICAL if is_same and not is_kept else group["kind"],
        "group_id": group["group_id"],
        **of_file(member),
        **{f"kept_{name}": value for name, value in of_kept.items()},
    }
    return {name: whole[name] for name in COLUMNS}


def _uri(image: Mapping[str, Any]) -> str | None:
    """Where the image is; None if a page may not show it in full: another address would be that of another file."""
    uri = image["uri"]
    return uri if uri is not None and captions.location(uri) == uri else None
