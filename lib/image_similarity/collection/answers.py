"""The table that a search answers with: neighbours, and what is known of their pictures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from image_similarity.collection import reading
from image_similarity.collection.vectors import Store
from image_similarity.warehouse.snapshot import Snapshot

SCHEMA = pa.schema(
    [
        ("relation", pa.string()),
        ("rank", pa.int32()),
        ("image_id", pa.string()),
        ("distance", pa.float32()),
        ("verdict", pa.string()),
        ("uri", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("attributes", pa.map_(pa.string(), pa.string())),
    ]
)
"""The columns of an answer. Where tags are published, there is one more: ``tag``. The rows are in the order of relation
(similar first) and rank.
"""


@dataclass(frozen=True, eq=False)
class Neighbours:
    relation: str
    rows: NDArray[np.int64]
    """Rows of the store, the best first."""
    distance: NDArray[np.float32]

    def first(self, k: int) -> "Neighbours":
        return Neighbours(self.relation, self.rows[:k], self.distance[:k])

    def holding(self, row: int) -> "Neighbours":
        """The same list with ``row``, which is as near as its last one, in the last place if it is not there."""
        if not len(self.rows) or row in self.rows:
            return self
        return Neighbours(self.relation, np.append(self.rows[:-1], row), self.distance)


@dataclass(frozen=True)
class Stored:
    """What the store of vectors knows of a picture."""

    content_sha256: str
    width: int | None
    height: int | None
    thumbprint: bytes | None


def pictures_of(store: Store, rows: Iterable[int | None]) -> dict[int, Stored]:
    """What is known of the pictures of ``rows`` of the store (None: of no picture). Nothing of vectors of one's own."""
    if store.contents is None or store.pictures is None:
        return {}
    wanted = sorted({int(row) for row in rows if row is not None})
    contents = store.contents.take(pa.array(wanted, pa.int64())).to_pylist()
    known = store.pictures.take(pa.array(wanted, pa.int64())).to_pylist()
    return {
        row: Stored(content, of["width"], of["height"], _thumbprint(store, row) if of["has_thumbprint"] else None)
        for row, content, of in zip(wanted, contents, known)
    }


def _thumbprint(store: Store, row: int) -> bytes | None:
    return None if store.thumbprints is None else store.thumbprints[row].tobytes()


def table(
    snapshot: Snapshot,
    store: Store,
    lists: Sequence[Neighbours],
    verdicts: Sequence[str | None],
    pictures: Mapping[int, Stored],
    tags: pa.DictionaryArray | None,
    about: Mapping[str, str],
) -> pa.Table:
    """The answer: `SCHEMA`, with ``about`` as its metadata. ``tags``: of each row of the store, where there are any."""
    rows = np.concatenate([each.rows for each in lists])
    ids = store.ids.take(pa.array(rows)).to_pylist()
    with reading.named_errors(snapshot):
        listed = _rows_with(snapshot, "manifest", None, ["image_id", "uri", "attributes"], ids)
    by_id = {row["image_id"]: row for row in listed.to_pylist()}
    columns = {
        "relation": [each.relation for each in lists for _ in each.rows],
        "rank": [rank for each in lists for rank in range(1, len(each.rows) + 1)],
        "image_id": ids,
        "distance": np.concatenate([each.distance for each in lists]),
        "verdict": list(verdicts),
        "uri": [by_id.get(name, {}).get("uri") for name in ids],
        "width": [pictures[row].width if row in pictures else None for row in rows.tolist()],
        "height": [pictures[row].height if row in pictures else None for row in rows.tolist()],
        "attributes": [by_id.get(name, {}).get("attributes") for name in ids],
    }
    answer = pa.table(columns, schema=SCHEMA.with_metadata(dict(about)))
    return answer if tags is None else answer.append_column("tag", tags.take(pa.array(rows)).cast(pa.string()))


def _rows_with(snapshot: Snapshot, table: str, slot: str | None, columns: list[str], values: list[str]) -> pa.Table:
    """The rows whose first column has one of ``values``."""
    import pyarrow.dataset as ds

    wanted = pa.array(values, pa.string())  # none of them would be of no type
    return snapshot.dataset(table, slot).to_table(columns=columns, filter=ds.field(columns[0]).isin(wanted))
