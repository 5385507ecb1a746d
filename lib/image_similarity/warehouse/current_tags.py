"""The tags that are true of what images are now: an image whose file was replaced has none until it is tagged again."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from image_similarity.warehouse.snapshot import Snapshot

if TYPE_CHECKING:
    import pyarrow.dataset as ds

OF_WHAT = ["image_id", "content_sha256"]
"""The columns that ``tags`` and ``embeddings`` share: a tag is current where both tables say the same in them."""


def split(
    snapshot: Snapshot, fingerprint: str, columns: Sequence[str], wanted: "ds.Expression | None" = None
) -> tuple[pa.Table, pa.Table]:
    """``columns`` of the ``wanted`` rows of ``tags`` by ``fingerprint``, in their order: the current ones, and others.

    A row is current where the content that was tagged is the one that is published for the image by ``fingerprint``.
    Raises as `Snapshot.dataset` does.
    """
    own = pc.field("fingerprint") == fingerprint  # a run may have tagged by others, too
    read = list(dict.fromkeys([*columns, *OF_WHAT]))
    rows = snapshot.dataset("tags", fingerprint).to_table(read, filter=own if wanted is None else own & wanted)
    ids, contents = map(_large, snapshot.table("embeddings", fingerprint, OF_WHAT).columns)
    now = contents.take(pc.index_in(_large(rows["image_id"]), value_set=ids))
    is_current = pc.fill_null(pc.equal(_large(rows["content_sha256"]), now), False)
    rows = rows.select(list(columns))
    return rows.filter(is_current), rows.filter(pc.invert(is_current))


def _large(column: pa.ChunkedArray) -> pa.Array:
    """A column of strings as one array, which may have more than 2 GB of text."""
    chunks = column.cast(pa.large_string()).chunks
    return pa.concat_arrays([pa.array([], pa.large_string()), *chunks])
