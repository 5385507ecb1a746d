"""How many images differ between what neighbours were found among and what is published now, without Spark."""

import numpy as np
import pyarrow as pa

from image_similarity.neighbour_graph import hashes
from image_similarity.warehouse.snapshot import Snapshot

_COLUMNS = ["image_id", "content_sha256", "fingerprint_key"]


def changed_images(published: Snapshot, before: list[str], now: list[str]) -> int:
    """The images that are in one state of ``embeddings`` only, or differ in content or key.

    ``before``, ``now``: the runs of both states. Raises ``FileNotFoundError`` if one is gone.
    """
    then, current = (_hashed(published.of_runs("embeddings", runs, _COLUMNS)) for runs in (before, now))
    # Each image that differs has a row in one of both, or in each of them.
    gone, new = np.setdiff1d(then["row"], current["row"]), np.setdiff1d(current["row"], then["row"])
    changed = np.isin(then["row"], gone), np.isin(current["row"], new)
    return len(np.union1d(then["image"][changed[0]], current["image"][changed[1]]))


def _hashed(rows: pa.Table) -> dict[str, np.ndarray]:
    """Hashes of each image's id, and of its whole row."""
    columns = [column.cast(pa.large_string()).combine_chunks() for column in rows.columns]
    parts = [hashes(column.fill_null("")) for column in columns]
    with np.errstate(over="ignore"):
        whole = parts[0]
        for part in parts[1:]:
            whole = whole * np.uint64(0x9E3779B97F4A7C15) + part
    return {"image": parts[0], "row": whole}
