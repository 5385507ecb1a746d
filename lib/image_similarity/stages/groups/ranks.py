"""Which image comes first where one stands for several."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from image_similarity.grouping.components import Nodes
from image_similarity.knn.distances import Indices
from image_similarity.neighbour_graph import Images
from image_similarity.stages.groups.tables import ranges

Order = Callable[[pa.Array], Indices]
"""Ids of images (n,), ascending -> their positions in the order in which they would be kept."""


@dataclass(frozen=True)
class Ranks:
    """The nodes that are in groups, perhaps, and the image that stands for each."""

    priority: Nodes
    """(n,): the lower, the sooner a node stands for a group. Of other nodes it means nothing."""
    best: Indices
    """(n,): the image of the node that comes first."""


def ranked(images: Images, node: Indices, order: Order) -> Ranks:
    """``node``: (m,) those that count, each once."""
    by_node, start = images.by_node
    chosen = np.sort(by_node[ranges(start[node], start[node + 1])])
    rank = np.full(len(images), np.iinfo(np.int32).max, dtype=np.int32)
    rank[chosen[order(images.ids.take(pa.array(chosen)))]] = np.arange(len(chosen), dtype=np.int32)
    priority, best = np.full(images.nodes, np.iinfo(np.int32).max, dtype=np.int32), images.first.copy()
    in_order = chosen[np.argsort(rank[chosen])[::-1]]  # the first one is written last
    priority[images.node[in_order]], best[images.node[in_order]] = rank[in_order], in_order
    return Ranks(priority, best)
