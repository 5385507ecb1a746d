"""What a warehouse has published, read by DuckDB as anybody would."""

import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray


class Published:
    """The views of one warehouse."""

    def __init__(self, warehouse: Path):
        self._warehouse = warehouse

    def has(self, table: str) -> bool:
        pointer = self._warehouse / "_current.json"
        return pointer.exists() and bool(json.loads(pointer.read_text())["tables"].get(table))

    def columns(self, query: str, *parameters: Any) -> dict[str, Any]:
        """The rows of ``query``, column by column."""
        with duckdb.connect() as db:
            db.execute((self._warehouse / "views.sql").read_text())
            return dict(db.execute(query, parameters).fetchnumpy())

    def record(self, job: str, slot: str) -> dict[str, Any]:
        """The latest record of ``job`` whose slot starts with ``slot``, with its JSON parsed."""
        rows = self.columns(
            "SELECT seconds, settings, counts, recall FROM runs WHERE job = ? AND starts_with(slot, ?)"
            " ORDER BY started_at DESC LIMIT 1",
            job,
            slot,
        )
        return {
            "seconds": float(rows["seconds"][0]),
            "settings": json.loads(rows["settings"][0]),
            "counts": json.loads(rows["counts"][0]),
            "recall": None if np.ma.is_masked(rows["recall"][0]) else float(rows["recall"][0]),
        }

    def vectors(self, fingerprint: str) -> tuple[list[str], NDArray[np.float32]]:
        """The images of a fingerprint in the order of their names, and their vectors (n, d)."""
        rows = self.columns(
            "SELECT image_id, embedding FROM embeddings WHERE fingerprint = ? ORDER BY image_id", fingerprint
        )
        return list(rows["image_id"]), np.stack(list(rows["embedding"])).astype(np.float32)

    def groups(self, fingerprint: str, kind: str) -> dict[str, str]:
        """The group of each image that is in one."""
        rows = self.columns(
            "SELECT image_id, group_id FROM groups WHERE fingerprint = ? AND kind = ? AND level = 0", fingerprint, kind
        )
        return dict(zip(rows["image_id"], rows["group_id"], strict=True))

    def neighbours(self, fingerprint: str) -> dict[str, NDArray[Any]]:
        """Images, their similar neighbours and distances, an entry of a list each."""
        return self.columns(
            "SELECT image_id, neighbour_id, distance FROM neighbours WHERE fingerprint = ? AND relation = 'similar'",
            fingerprint,
        )
