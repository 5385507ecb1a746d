"""What the tables tell of images in groups: where they are, and how large."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from image_similarity.stages.groups import keep
from image_similarity.warehouse.snapshot import Snapshot

FACTS = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("size_bytes", pa.int64()),
        ("unchanged", pa.bool_()),
    ]
)


def facts(published: Snapshot, fingerprint: str, ids: pa.Array) -> pa.Table:
    """What ``published`` tells of the images ``ids`` (string, each once): one row of `FACTS` for each, in their order.

    ``unchanged``: whether the image is in the manifest in the version that ``fingerprint`` embedded. Of vectors that
    the project did not embed it is enough that the image is in the manifest; where there is no manifest, too, all are
    unchanged, and nothing else is known. Tables are read in batches. Raises as `Snapshot.batches` does.
    """
    listed = _Found(ids, {"uri": pa.string(), "size_bytes": pa.int64(), "source_version": pa.string()})
    listed.look_up(published.batches("manifest", "", ["image_id", *listed.columns]), "image_id")
    embedded = _Found(
        ids, {"source_version": pa.string(), "content_sha256": pa.string(), "fingerprint_key": pa.string()}
    )
    embedded.look_up(published.batches("embeddings", fingerprint, ["image_id", *embedded.columns]), "image_id")
    vectors = embedded["content_sha256"]
    pictures = _Found(pc.unique(vectors).drop_null(), {"width": pa.int32(), "height": pa.int32()})
    for key in sorted(pc.unique(embedded["fingerprint_key"]).drop_null().to_pylist()):
        pictures.look_up(published.batches("vectors", key, ["content_sha256", *pictures.columns]), "content_sha256")
    of_image = pc.index_in(vectors, value_set=pictures.ids)
    unchanged = pa.array(np.ones(len(ids), bool))
    if published.run_ids("manifest", ""):
        unchanged = listed.is_found()
    if published.run_ids("embeddings", fingerprint):
        same = pc.equal(*(pc.fill_null(found["source_version"], "") for found in (listed, embedded)))
        unchanged = pc.and_(pc.and_(unchanged, embedded.is_found()), same)
    columns = [ids, listed["uri"], *(pictures[name].take(of_image) for name in ("width", "height"))]
    return pa.table([*columns, listed["size_bytes"], unchanged], schema=FACTS)


def order(rule: str, published: Snapshot, fingerprint: str, ids: pa.Array) -> np.ndarray:
    """The positions of ``ids``, (n,) int64, in the order in which ``rule`` would keep these images: `keep.order`.

    Tables are read only if the rule needs them. Raises as `keep.order` and `facts` do.
    """
    keep.check(rule)
    known = pa.table({"image_id": ids}) if rule == keep.FIRST else facts(published, fingerprint, ids)
    return keep.order(rule, known)


MOST_IN_BLOCK = 1 << 20


def in_blocks(batches: Iterable[pa.RecordBatch], wanted: int) -> Iterator[pa.RecordBatch]:
    """The rows of ``batches`` in fewer of them, to look up ``wanted`` ids in each.

    Every look-up makes a hash table of all ids that are wanted. So a batch has half as many rows, if that is at most
    `MOST_IN_BLOCK`.
    """
    waiting, rows = list[pa.RecordBatch](), 0
    for batch in batches:
        waiting.append(batch)
        rows += len(batch)
        if rows >= min(wanted // 2, MOST_IN_BLOCK):
            yield from pa.Table.from_batches(waiting).combine_chunks().to_batches()
            waiting, rows = [], 0
    if waiting:
        yield from pa.Table.from_batches(waiting).combine_chunks().to_batches()


class _Found:
    """Columns of a table for the rows that have one of ``ids``, as they are found batch by batch."""

    def __init__(self, ids: pa.Array, columns: dict[str, pa.DataType]):
        self.ids, self.columns = ids, columns
        self._chunks: dict[str, list[pa.Array]] = {name: [] for name in columns}
        self._place = np.full(len(ids), -1, np.int64)
        self._rows = 0

    def look_up(self, batches: Iterable[pa.RecordBatch], key: str) -> None:
        """Keeps the rows whose column ``key`` has one of the ids. Of several the last one counts."""
        for batch in in_blocks(batches, len(self.ids)):
            index = pc.index_in(batch[key], value_set=self.ids)
            batch, index = batch.filter(index.is_valid()), index.drop_null().to_numpy()
            self._place[index] = self._rows + np.arange(len(index))
            self._rows += len(index)
            for name, chunks in self._chunks.items():
                chunks.append(batch[name])

    def is_found(self) -> pa.Array:
        return pa.array(self._place >= 0)

    def __getitem__(self, name: str) -> pa.Array:
        """The column for each of the ids; null where none was found."""
        column = pa.chunked_array(self._chunks[name], self.columns[name]).combine_chunks()
        return column.take(pa.array(self._place, mask=self._place < 0))
