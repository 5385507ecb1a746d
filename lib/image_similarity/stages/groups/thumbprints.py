"""Small grey pictures of nodes, by which candidates are confirmed: read by this process from ``vectors``."""

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from image_similarity.grouping import agreement
from image_similarity.grouping.components import Nodes
from image_similarity.knn.distances import Values
from image_similarity.neighbour_graph import Images
from image_similarity.stages.groups.vectors import finder
from image_similarity.warehouse.parquet import streaming
from image_similarity.warehouse.snapshot import Snapshot

BYTES = agreement.SIDE**2
COLUMN = "thumbprint"
_BATCH_ROWS = 2**14
_PAIRS_AT_ONCE = 2**10


@dataclass(frozen=True)
class Thumbprints:
    """Of all nodes. ``pixels``: (n, 1024) uint8. ``is_there``: (n,) bool; images that were embedded by an earlier
    version have none.
    """

    pixels: NDArray[np.uint8]
    is_there: NDArray[np.bool_]

    def disagreement(self, a: Nodes, b: Nodes, threads: int, align: bool = True) -> Iterator[Values]:
        """The disagreement of pairs (m,), part by part, see `agreement.disagreement`. NaN where one has none."""
        starts = range(0, len(a), _PAIRS_AT_ONCE)

        def part(start: int) -> Values:
            one, other = a[start : start + _PAIRS_AT_ONCE], b[start : start + _PAIRS_AT_ONCE]
            known = self.is_there[one] & self.is_there[other]
            values = np.full(len(one), np.nan, dtype=np.float32)
            if known.any():  # it is compiled at its first call, which takes seconds
                values[known] = agreement.disagreement(self.pixels, one[known], other[known], align)
            return values

        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(part, starts)


def read(published: Snapshot, key: str | None, images: Images, most_bytes: int) -> Thumbprints:
    """Those of the vectors with the fingerprint's ``key``; None has none. More than ``most_bytes`` lie in a file."""
    count = images.nodes
    is_there = np.zeros(count, dtype=np.bool_)
    if key is None or not count:
        return Thumbprints(np.zeros((0, BYTES), dtype=np.uint8), is_there)
    pixels = _allocated(count, most_bytes)
    find = finder(images, np.arange(count))
    store = published.dataset("vectors", key)
    batches = store.to_batches(columns=["content_sha256", COLUMN], batch_size=_BATCH_ROWS, **streaming())
    for batch in batches:
        batch = batch.filter(batch.column(1).is_valid())
        if len(batch):
            node = find(batch.column(0))
            values = _pixels(batch.column(1))
            pixels[node[node >= 0]], is_there[node[node >= 0]] = values[node >= 0], True
    return Thumbprints(pixels, is_there)


def _allocated(count: int, most_bytes: int) -> NDArray[np.uint8]:
    if count * BYTES <= most_bytes:
        return np.empty((count, BYTES), dtype=np.uint8)
    file, name = tempfile.mkstemp(prefix="thumbprints-")
    os.unlink(name)  # it is gone with the last who uses it
    with os.fdopen(file, "w+b") as opened:
        os.posix_fallocate(opened.fileno(), 0, count * BYTES)  # a disk that is full is noticed now
        return np.memmap(opened, np.uint8, "r+", shape=(count, BYTES))


def _pixels(column: pa.Array) -> NDArray[np.uint8]:
    joined = b"".join(column.to_pylist())
    return np.frombuffer(joined, np.uint8).reshape(len(column), BYTES)
