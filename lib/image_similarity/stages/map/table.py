"""Rows of the table ``layout``."""

from collections.abc import Iterator

import pyarrow as pa

from image_similarity.neighbour_graph import hexed
from image_similarity.stages.map.arrangement import Arrangement
from image_similarity.stages.map.shown import Shown
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.snapshot import Snapshot

SCHEMA = SCHEMAS["layout"]
READ = ["image_id", "x", "y", "grid_column", "grid_row", "content_sha256", "since_layout"]
"""What the next run reads of them."""
_MAY_BE_NULL = ("content_sha256",)
_ROWS_AT_ONCE = 2**16


def rows(shown: Shown, arrangement: Arrangement, fingerprint: str, metric: str) -> Iterator[pa.RecordBatch]:
    """The rows of all images in the byte order of their ids."""
    ids = shown.ids
    for start in range(0, len(shown), _ROWS_AT_ONCE):
        part = slice(start, min(start + _ROWS_AT_ONCE, len(shown)))
        columns = [
            ids[part].cast(pa.string()),
            pa.repeat(pa.scalar(fingerprint), part.stop - start),
            pa.repeat(pa.scalar(metric), part.stop - start),
            *(pa.array(arrangement.positions[part, axis]) for axis in (0, 1)),
            *(pa.array(arrangement.cell[part, axis], pa.int32()) for axis in (0, 1)),
            _contents(shown, part),
            pa.array(arrangement.since_layout[part]),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def read(published: Snapshot, slot: str) -> pa.Table | None:
    """`READ` of the published layout of ``slot``; None if its files are gone or damaged."""
    try:
        layout = published.table("layout", slot, READ)
    except (OSError, pa.ArrowException):
        return None
    # Columns that a file lacks are null.
    return None if any(layout[name].null_count for name in READ if name not in _MAY_BE_NULL) else layout


def _contents(shown: Shown, part: slice) -> pa.Array:
    """Of the images ``part``: null for vectors of one's own, whose files nobody has read."""
    if shown.content is None:
        return pa.nulls(part.stop - part.start, pa.string())
    return hexed(shown.content[shown.node[part]]).cast(pa.string())
