"""The similar neighbours of a collection as arrays of nodes, read by this process without Spark.

A node is a distinct content: identical files are one node. Vectors of one's own have no contents, and each image is a
node. Nodes are numbered in the byte order of their first images, so that comparing numbers compares names.

Ids are kept once, and contents as 32 bytes; of the table of neighbours there is never more than a batch in memory. With
12 neighbours the arrays take some 250 bytes for each image while they are read.
"""

import binascii
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from image_similarity.errors import JobFailed
from image_similarity.grouping.components import Nodes
from image_similarity.knn import hashing
from image_similarity.knn.distances import Indices, Values
from image_similarity.warehouse.schemas import SIMILAR

if TYPE_CHECKING:
    import pyarrow.dataset as ds

Contents = NDArray[np.bytes_]
"""sha256 of files, 32 bytes each."""
Find = Callable[[pa.Array], Indices]
"""Names (n,) -> their positions (n,), -1 for those that are not known."""

_BATCH_ROWS = 2**17
_BATCHES_AHEAD = 2
_ROWS_AT_ONCE = 2**16


@dataclass(frozen=True)
class Images:
    """The images of a collection, in the byte order of their ids."""

    ids: pa.LargeStringArray
    node: Nodes
    """(m,): the node of each image."""
    content: Contents | None
    """(n,): the content of each node; None where each image is a node."""

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def first(self) -> Indices:
        """(n,): the first image of each node."""
        return np.unique(self.node, return_index=True)[1]

    @property
    def nodes(self) -> int:
        return len(self.first)

    @cached_property
    def by_node(self) -> tuple[Indices, Indices]:
        """The images ordered by their node, and where in them each node begins (n + 1,)."""
        order = np.argsort(self.node, kind="stable")
        return order, np.searchsorted(self.node[order], np.arange(self.nodes + 1))


@dataclass(frozen=True)
class Graph:
    """The lists of all nodes: other nodes, the nearest first, ties by node."""

    images: Images
    neighbour: Nodes
    """(n, k), padded with -1."""
    distance: Values
    """(n, k), padded with inf."""

    def __len__(self) -> int:
        return len(self.neighbour)


# -- images ------------------------------------------------------------------------------------------------------------


def images_of(embeddings: "ds.Dataset") -> Images:
    """The images of rows of ``embeddings``. Raises ``JobFailed`` for an image that has several rows."""
    ids, contents = [], []
    for batch in _batches(embeddings, ["image_id", "content_sha256"]):
        ids.append(batch.column(0).cast(pa.large_string()))
        contents.append(unhexed(batch.column(1)))
    names, order = _in_order(ids)
    content = np.concatenate([np.empty(0, "S32"), *contents])[order]
    first = _first_of_equals(content)
    is_first = first == np.arange(len(first))
    node = (np.cumsum(is_first, dtype=np.int32) - np.int32(1))[first]
    return Images(names, node, content[is_first])


def images_in(neighbours: "ds.Dataset") -> Images:
    """The images that have a list in ``neighbours``: for vectors that have no row in ``embeddings``."""
    is_first = (pc.field("relation") == SIMILAR) & (pc.field("rank") == 1)
    batches = _batches(neighbours, ["image_id"], is_first)
    names, _ = _in_order([batch.column(0).cast(pa.large_string()) for batch in batches])
    return Images(names, np.arange(len(names), dtype=np.int32), None)


def unhexed(contents: pa.Array) -> Contents:
    """(n,): hashes of 64 hexadecimal digits as 32 bytes. Raises ``JobFailed`` for others."""
    text = contents.cast(pa.large_string())
    if not len(text):
        return np.empty(0, "S32")
    ends, digits = _buffers(text)
    try:
        if text.null_count or (np.diff(ends) != 64).any():
            raise ValueError("another length")
        return np.frombuffer(binascii.unhexlify(digits[int(ends[0]) : int(ends[-1])].tobytes()), "S32")
    except ValueError as error:
        raise JobFailed(f"a content_sha256 of embeddings is no sha256 ({error}): run embed_images again") from None


def hexed(contents: Contents) -> pa.Array:
    """The reverse of `unhexed`."""
    digits = np.ascontiguousarray(contents).tobytes().hex().encode()
    ends = np.arange(0, 64 * len(contents) + 1, 64, dtype=np.int64)
    return pa.LargeStringArray.from_buffers(len(contents), pa.py_buffer(ends), pa.py_buffer(digits))


def _buffers(texts: pa.LargeStringArray) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Where each text begins and the last one ends (n + 1,), and the bytes of all. ``texts``: at least one."""
    _, ends, content = texts.buffers()
    bytes_of_all = np.frombuffer(content, np.uint8) if content is not None and content.size else np.empty(0, np.uint8)
    return np.frombuffer(ends, np.int64)[texts.offset : texts.offset + len(texts) + 1], bytes_of_all


def _in_order(parts: list[pa.Array]) -> tuple[pa.LargeStringArray, Indices]:
    """All ids in byte order, and the place of each in ``parts``. Raises ``JobFailed`` if one is there twice."""
    ids = pa.concat_arrays([pa.array([], pa.large_string()), *parts])
    order = pc.sort_indices(ids).to_numpy()
    names = ids.take(pa.array(order))
    before, after = names.slice(0, max(0, len(names) - 1)), names.slice(1)
    if repeated := after.filter(pc.equal(before, after)).slice(0, 1).to_pylist():
        raise JobFailed(f"several rows of the image {repeated[0]!r}: run embed_images and find_neighbours again")
    return names, order.astype(np.int64)


def _first_of_equals(contents: Contents) -> Indices:
    """(m,): the first image with the same content."""
    words = np.ascontiguousarray(contents).view(np.uint64).reshape(len(contents), 4)[:, 0]
    _, first, inverse = np.unique(words, return_index=True, return_inverse=True)
    firsts: Indices = first[inverse]
    if (contents[firsts] != contents).any():  # the words are but the beginning
        _, first, inverse = np.unique(contents, return_index=True, return_inverse=True)
        firsts = first[inverse]
    return firsts


# -- names -------------------------------------------------------------------------------------------------------------


class Names:
    """Finds ids among sorted ones, by hashes: 12 bytes for each."""

    def __init__(self, ids: pa.LargeStringArray):
        self._ids = ids
        self._basis = hashing.BASIS
        hashed = self._hashes(ids)
        while len(np.unique(hashed)) < len(ids):  # two ids collide: not by another basis
            self._basis += 1
            hashed = self._hashes(ids)
        order = np.argsort(hashed)
        self._hashed, self._place = hashed[order], order.astype(np.int32)

    def __len__(self) -> int:
        return len(self._ids)

    def find(self, names: pa.Array) -> Indices:
        """The positions of ``names`` (n,) among the ids, -1 for those that are not there."""
        if not len(self._ids):
            return np.full(len(names), -1, dtype=np.int64)
        wanted = names.cast(pa.large_string())
        nearest = np.searchsorted(self._hashed, self._hashes(wanted))
        place = self._place[np.minimum(nearest, len(self._place) - 1)].astype(np.int64)
        is_same = pc.fill_null(pc.equal(self._ids.take(pa.array(place)), wanted), False)
        return np.where(is_same.to_numpy(zero_copy_only=False), place, -1)

    def _hashes(self, ids: pa.LargeStringArray) -> NDArray[np.uint64]:
        return hashes(ids, self._basis)

    def keys(self) -> NDArray[np.uint64]:
        """(m,): a hash of each id."""
        keys = np.empty(len(self._place), dtype=np.uint64)
        keys[self._place] = self._hashed
        return keys


def hashes(texts: pa.LargeStringArray, basis: int = hashing.BASIS) -> NDArray[np.uint64]:
    """(n,): a hash of each of ``texts``, none of which is null."""
    if not len(texts):
        return np.empty(0, dtype=np.uint64)
    ends, content = _buffers(texts)
    return hashing.fnv(content, ends, basis)


def find_contents(contents: Contents) -> Find:
    """Finds contents, as their column has them, among ``contents`` (n,), which are distinct."""
    order = np.argsort(contents)
    known = contents[order]

    def find(names: pa.Array) -> Indices:
        wanted = unhexed(names)
        if not len(known):
            return np.full(len(wanted), -1, dtype=np.int64)
        nearest = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        return np.where(known[nearest] == wanted, order[nearest], -1)

    return find


# -- lists -------------------------------------------------------------------------------------------------------------


def read(neighbours: "ds.Dataset", images: Images, names: Names) -> Graph:
    """The lists of ``neighbours``. Raises ``JobFailed`` where it names images that are not among ``images``, or lacks
    ranks.

    The list of a node is that of its first image. Its copies have the same, but for one another: they are at distance
    0, and the first is before the others wherever a list ends among them.
    """
    is_similar = pc.field("relation") == SIMILAR
    ranks = (pc.max(batch.column(0)).as_py() or 0 for batch in _batches(neighbours, ["rank"], is_similar))
    k = max(ranks, default=0)
    graph = Graph(
        images,
        np.full((images.nodes, k), -1, dtype=np.int32),
        np.full((images.nodes, k), np.inf, dtype=np.float32),
    )
    columns = ["image_id", "rank", "neighbour_id", "distance"]
    for batch in _batches(neighbours, columns, is_similar):
        _place(graph, names, *batch.columns)
    for start in range(0, len(graph), max(1, _ROWS_AT_ONCE // max(k, 1))):
        _make_distinct(graph, slice(start, start + max(1, _ROWS_AT_ONCE // max(k, 1))))
    return graph


def _place(
    graph: Graph, names: Names, image_ids: pa.Array, rank: pa.Array, others: pa.Array, distance: pa.Array
) -> None:
    images = graph.images
    image = _known(names, image_ids)
    node = images.node[image]
    is_first = images.first[node] == image
    other = _known(names, others.filter(pa.array(is_first)))
    row, column = node[is_first], rank.to_numpy()[is_first] - 1
    graph.neighbour[row, column] = images.node[other]
    graph.distance[row, column] = distance.to_numpy()[is_first]


def _known(names: Names, ids: pa.Array) -> Indices:
    # Rows of one image follow one another: each id is looked for once.
    starts = np.ones(len(ids), dtype=np.bool_)
    if len(ids) > 1:
        starts[1:] = pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1)).to_numpy(zero_copy_only=False)
    distinct = ids.filter(pa.array(starts))
    found = names.find(distinct)
    if (found < 0).any():
        unknown = distinct.filter(pa.array(found < 0))
        raise JobFailed(
            f"neighbours name {unknown[0].as_py()!r}, which is not among the images that were embedded: run "
            "find_neighbours again"
        )
    rows: Indices = found[np.cumsum(starts) - 1]
    return rows


def _make_distinct(graph: Graph, rows: slice) -> None:
    """Each other node once in a list, where it is nearest, and never the node itself."""
    neighbour, distance = graph.neighbour[rows], graph.distance[rows]
    is_there = neighbour >= 0
    if (is_there[:, 1:] & ~is_there[:, :-1]).any() or (distance[:, 1:] < distance[:, :-1]).any():
        raise JobFailed("neighbours lack ranks, or are not in order: run find_neighbours again")
    own = np.arange(rows.start, rows.start + len(neighbour), dtype=np.int32)
    dropped = neighbour == own[:, None]
    order = np.argsort(neighbour, axis=1, kind="stable")
    in_order = np.take_along_axis(neighbour, order, axis=1)
    repeated = np.zeros_like(dropped)
    repeated[:, 1:] = in_order[:, 1:] == in_order[:, :-1]
    np.put_along_axis(repeated, order, repeated.copy(), axis=1)
    dropped |= repeated
    neighbour[dropped], distance[dropped] = -1, np.inf
    # Ties by node: they were by the names of neighbours, of which a node has several.
    place = np.lexsort((np.where(neighbour < 0, np.iinfo(np.int32).max, neighbour), distance), axis=1)
    graph.neighbour[rows] = np.take_along_axis(neighbour, place, axis=1)
    graph.distance[rows] = np.take_along_axis(distance, place, axis=1)


def _batches(
    table: "ds.Dataset", columns: list[str], chosen: "pc.Expression | None" = None
) -> Iterator[pa.RecordBatch]:
    import pyarrow.dataset as ds  # it imports pandas, which takes part of a second

    yield from table.to_batches(
        columns=columns,
        filter=chosen,
        batch_size=_BATCH_ROWS,
        batch_readahead=_BATCHES_AHEAD,
        fragment_readahead=1,
        fragment_scan_options=ds.ParquetFragmentScanOptions(pre_buffer=False),
        use_threads=False,
    )
