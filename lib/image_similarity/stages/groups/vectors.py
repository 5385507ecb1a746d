"""Vectors of some of the nodes: read by this process, batch by batch, or by Spark."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from image_similarity.errors import JobFailed, counted
from image_similarity.knn.distances import Indices, Values
from image_similarity.neighbour_graph import Find, Images, Names, find_contents, hexed
from image_similarity.warehouse.parquet import streaming
from image_similarity.warehouse.snapshot import Snapshot
from image_similarity.warehouse.workspace import Workspace

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Batches = Callable[[], Iterator[pa.RecordBatch]]
"""Reads vectors: batches of content (an image's own id where each image is a node), embedding (list<float>)."""

_BATCH_ROWS = 1024
CONTENT, VECTOR = "content", "embedding"


class Source(Protocol):
    """Where vectors come from."""

    def of(self, images: Images, node: Indices) -> Values:
        """The vectors of the distinct nodes ``node`` (m,): (m, d). Raises ``JobFailed`` if one is not there."""


@dataclass(frozen=True)
class Here:
    """Vectors that this process reads itself."""

    batches: Batches

    def of(self, images: Images, node: Indices) -> Values:
        return gathered(self.batches(), finder(images, node), len(node))


@dataclass(frozen=True)
class BySpark:
    """Vectors that Spark reads: content (string), embedding (array<float>)."""

    frame: "DataFrame"
    scratch: Workspace

    def of(self, images: Images, node: Indices) -> Values:
        """Of a few nodes: what Spark chose passes through this process."""
        name = "chosen-vectors"
        wanted = self.scratch.store(f"{name}-wanted", _WANTED, [pa.record_batch([named(images, node)], schema=_WANTED)])
        self.scratch.write(name, self.frame.join(wanted, CONTENT, "left_semi"))
        parts = (batch for part in self.scratch.parts(name, [CONTENT, VECTOR]) for batch in part.to_batches())
        values = gathered(parts, finder(images, node), len(node))
        for folder in (name, f"{name}-wanted"):
            self.scratch.remove(folder)
        return values


_WANTED = pa.schema([(CONTENT, pa.string())])


def stored(published: Snapshot, key: str) -> Batches:
    """The published vectors of a fingerprint's definition ``key``."""

    def read() -> Iterator[pa.RecordBatch]:
        store = published.dataset("vectors", key)
        yield from store.to_batches(columns=["content_sha256", VECTOR], batch_size=_BATCH_ROWS, **streaming())

    return read


def named(images: Images, node: Indices) -> pa.Array:
    """The contents of nodes, as the sources of vectors name them: strings."""
    if images.content is None:
        return images.ids.take(pa.array(images.first[node])).cast(pa.string())
    return hexed(images.content[node]).cast(pa.string())


def finder(images: Images, node: Indices) -> Find:
    """Finds contents among those of the nodes ``node`` (m,)."""
    if images.content is None:
        return Names(images.ids.take(pa.array(images.first[node]))).find
    return find_contents(images.content[node])


def gathered(batches: Iterator[pa.RecordBatch], find: Find, count: int) -> Values:
    """The vectors that ``find`` knows, at their positions: (count, d). Raises ``JobFailed`` where some are missing."""
    values: Values | None = None
    is_there = np.zeros(count, dtype=np.bool_)
    for batch in batches:
        place = find(batch.column(0))
        wanted = place >= 0
        if wanted.any():
            rows = batch.column(1) if wanted.all() else batch.column(1).filter(pa.array(wanted))
            vectors = as_values(rows)
            if values is None:
                values = np.empty((count, vectors.shape[1]), dtype=np.float32)
            if vectors.shape[1] != values.shape[1]:
                raise JobFailed(MISMATCH)
            values[place[wanted]], is_there[place[wanted]] = vectors, True
    if not is_there.all():
        missing = int((~is_there).sum())
        lost = counted(missing, "vector of an image that has", "vectors of images that have")
        raise JobFailed(f"{lost} neighbours {'is' if missing == 1 else 'are'} not there: {_ADVICE}")
    return values if values is not None else np.empty((0, 0), dtype=np.float32)


def as_values(lists: pa.Array) -> Values:
    """list<float> (n) -> (n, d). Raises ``JobFailed`` for lists of several lengths."""
    lengths = pc.fill_null(pc.list_value_length(lists), -1).to_numpy(zero_copy_only=False)
    if (lengths != lengths[0]).any() or lengths[0] < 0:
        raise JobFailed(MISMATCH)
    values: Values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return values.reshape(len(lists), int(lengths[0]))


_ADVICE = "run embed_images and find_neighbours again"
MISMATCH = f"the vectors are not those that the neighbours were found among: {_ADVICE}"
