"""The images of the map: those of a rendered gallery that have a picture, and their neighbours among one another."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from image_similarity.grouping.components import Nodes
from image_similarity.knn.distances import Indices, Values
from image_similarity.neighbour_graph import Contents, Graph, Names
from image_similarity.pages import maps
from image_similarity.storage.files import Files

COLUMNS = ["image_id", "page", "picture", "width", "height", "title", "subtitle"]
"""Of a rendering's cards, those that the map needs."""

_SCHEMA = pa.schema([maps.CARDS_SCHEMA.field(name) for name in COLUMNS])

_LEAST_COPIES = 10
"""Of copies of one file, how many each has for neighbours, though lists may be shorter."""


@dataclass(frozen=True)
class Shown:
    """n images in the byte order of their ids, and the graph of their m distinct contents, the nodes."""

    cards: pa.Table
    """(n): `COLUMNS`."""
    node: Nodes
    """(n,): the node of each image."""
    in_graph: Indices
    """(m,): the number of each node in the graph of the whole collection."""
    neighbour: Nodes
    """(m, k): other nodes on the map, the nearest first, padded with -1."""
    distance: Values
    """(m, k), padded with inf."""
    content: Contents | None
    """(m,): the content of each node; None for vectors of one's own."""

    def __len__(self) -> int:
        return len(self.node)

    @property
    def ids(self) -> pa.LargeStringArray:
        return self.cards["image_id"].combine_chunks().cast(pa.large_string())

    @cached_property
    def first(self) -> Indices:
        """(m,): the first image of each node."""
        return np.unique(self.node, return_index=True)[1]

    @cached_property
    def of_images(self) -> tuple[Nodes, Values]:
        """The lists of all images: (n, k) other images, padded with -1, and their distances, padded with inf.

        Copies of an image come first, at distance 0. Of a node in a list its first image stands for all.
        """
        copies = _copies(self.node, max(self.neighbour.shape[1], _LEAST_COPIES))
        others = np.where(self.neighbour >= 0, self.first[self.neighbour], -1).astype(np.int32)[self.node]
        neighbour = np.concatenate([copies, others], axis=1)
        distance = np.concatenate([np.where(copies >= 0, 0, np.inf), self.distance[self.node]], axis=1)
        width = max(self.neighbour.shape[1], copies.shape[1])
        return _without_gaps(neighbour, distance.astype(np.float32), width)


def read_cards(files: Files, folder: str) -> pa.Table:
    """`COLUMNS` of the cards in ``folder``.

    Raises ``FileNotFoundError`` if there are none, and ``OSError`` or ``ValueError`` if they are damaged.
    """
    names = sorted(name for name in files.entries(folder) if name.endswith(".parquet"))
    if not names:
        raise FileNotFoundError(f"there are no files in {folder}")
    contents = (files.read(f"{folder}/{name}") for name in names)
    tables = (pq.read_table(pa.BufferReader(content or b""), columns=COLUMNS) for content in contents)
    return pa.concat_tables(table.cast(_SCHEMA) for table in tables)


def of(graph: Graph, names: Names, cards: pa.Table) -> Shown:
    """The images of ``cards`` that have a picture and are in ``graph``, whose images are ``names``."""
    place = names.find(cards["image_id"].combine_chunks())
    is_shown = pc.is_valid(cards["picture"]).to_numpy() & (place >= 0)
    rows = np.flatnonzero(is_shown)[np.argsort(place[is_shown], kind="stable")]
    in_graph, node = np.unique(graph.images.node[place[rows]], return_inverse=True)
    number = np.full(graph.images.nodes + 1, -1, dtype=np.int32)  # the last is that of no neighbour
    number[in_graph] = np.arange(len(in_graph))
    neighbour, distance = number[graph.neighbour[in_graph]], graph.distance[in_graph]
    neighbour, distance = _without_gaps(neighbour, distance, neighbour.shape[1])
    return Shown(
        cards.take(pa.array(rows)),
        node.astype(np.int32),
        in_graph.astype(np.int64),
        neighbour,
        distance,
        None if graph.images.content is None else graph.images.content[in_graph],
    )


def _without_gaps(neighbour: Nodes, distance: Values, width: int) -> tuple[Nodes, Values]:
    """Lists in their order, without the -1 in between, cut to ``width``."""
    order = np.argsort(neighbour < 0, axis=1, kind="stable")[:, :width]
    kept = np.take_along_axis(neighbour, order, axis=1)
    return kept, np.where(kept < 0, np.float32(np.inf), np.take_along_axis(distance, order, axis=1))


def _copies(node: Nodes, most: int) -> Nodes:
    """(n, c): the other images of each image's node, those that follow it first; c is ``most``, or less."""
    order = np.argsort(node, kind="stable")
    count = np.bincount(node)
    start = np.cumsum(count) - count
    place = np.empty(len(node), dtype=np.int64)
    place[order] = np.arange(len(node)) - start[node[order]]
    width = min(most, int(count.max(initial=1)) - 1)
    copies = np.full((len(node), width), -1, dtype=np.int32)
    for step in range(1, width + 1):
        has = count[node] > step
        other = start[node[has]] + (place[has] + step) % count[node[has]]
        copies[has, step - 1] = order[other]
    return copies


def missing(names: Names, cards: pa.Table, shown: Shown, failed: pa.ChunkedArray) -> dict[str, int]:
    """How many images are not on the map, and why.

    Of the gallery: without a picture, and without a vector. Of those that were compared, ``names``: not in the gallery.
    Of those that ``failed`` (image_id, repeated or not): neither.
    """
    without_picture = cards["picture"].null_count
    ids = cards["image_id"].combine_chunks()
    in_gallery = int((names.find(ids) >= 0).sum())
    others = pc.invert(pc.is_in(failed, value_set=ids))
    return {
        "without_picture": without_picture,
        "without_vector": len(cards) - without_picture - len(shown),
        "not_in_gallery": len(names) - in_gallery,
        "failed": pc.count_distinct(failed.filter(others)).as_py(),
    }
