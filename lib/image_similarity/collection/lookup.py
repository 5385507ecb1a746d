"""What is published of a few images, for those who show them one by one. Nothing else of the tables is kept."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from image_similarity.collection import defaults
from image_similarity.warehouse.snapshot import Snapshot


def images(snapshot: Snapshot, image_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """image_id -> its ``uri``, ``attributes`` and ``content_sha256`` (of what is embedded, else None).

    Ids that are not in the manifest are left out: all of them where no manifest is published.
    """
    ids = list(image_ids)
    listed = _rows(snapshot, "manifest", "", ["image_id", "uri", "attributes"], ids)
    slots = snapshot.slots("embeddings")
    name = next((name for name in defaults.fingerprints_of(snapshot) if name in slots), None)
    embedded = [] if name is None else _rows(snapshot, "embeddings", name, ["image_id", "content_sha256"], ids)
    contents = {row["image_id"]: row["content_sha256"] for row in embedded}
    return {row["image_id"]: {**row, "content_sha256": contents.get(row["image_id"])} for row in listed}


def _rows(snapshot: Snapshot, table: str, slot: str, columns: list[str], ids: list[str]) -> list[dict[str, Any]]:
    import pyarrow.dataset as ds

    wanted = ds.field("image_id").isin(pa.array(ids, pa.string()))
    rows: list[dict[str, Any]] = snapshot.dataset(table, slot).to_table(columns=columns, filter=wanted).to_pylist()
    return rows
