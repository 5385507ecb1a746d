"""Blocks of work: whole components of near-duplicates, and what is found in them. Arrays to arrays, for both runners.

The nodes of all components are the *rows*: ordered by component, then by node. A block is a range of rows. What is
found is told in places within the component, so that a later run, in which nodes have other numbers, can take it over.
"""

import io
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from image_similarity.errors import JobFailed
from image_similarity.grouping import near_duplicates
from image_similarity.grouping.components import Nodes
from image_similarity.grouping.near_duplicates import Edges, Limits, Part
from image_similarity.knn import distances
from image_similarity.knn.distances import METRICS, Indices, Values
from image_similarity.neighbour_graph import Graph
from image_similarity.stages.groups.tables import ranges
from image_similarity.stages.groups.vectors import MISMATCH
from image_similarity.storage import blobs

FOUND = pa.schema(
    [
        ("component", pa.int32()),
        ("member", pa.list_(pa.int32())),
        ("distance", pa.list_(pa.float32())),
        ("weakest_link", pa.float32()),
        ("widest_pair", pa.float32()),
        ("nearest_outside", pa.float32()),
        ("outside", pa.int64()),
    ]
)
"""One row for each group. ``member``: places of its nodes in the component, the representative first, then by
``distance`` to it, ties by node. ``outside``: the place of the nearest outsider in the lists of the component's nodes,
which are laid one behind the other; -1 if there is none."""


@dataclass(frozen=True)
class Components:
    """The components of a graph, by rows (m,)."""

    node: Nodes
    component: Nodes
    """From 0, ascending."""
    start: Indices
    """(components + 1,): the first row of each, and the end."""
    scale: Values
    saturated: NDArray[np.bool_]
    priority: Nodes
    """The lower it is, the sooner the node stands for a group."""
    edges: Edges
    """By nodes, in the order of their components."""
    first_edge: Indices
    """(components + 1,): the first edge of each, and the end."""

    def __len__(self) -> int:
        return len(self.start) - 1

    def rows(self, components: Indices) -> Indices:
        """The rows of some components, one component after the other."""
        return ranges(self.start[components], self.start[components + 1])

    def edge_rows(self, components: Indices) -> Indices:
        return ranges(self.first_edge[components], self.first_edge[components + 1])


@dataclass(frozen=True)
class Block:
    """Some whole components, in ascending order; m nodes with their lists (m, k)."""

    node: Nodes
    component: Nodes
    place: Nodes
    """The place of each node in its component."""
    scale: Values
    saturated: NDArray[np.bool_]
    priority: Nodes
    a: Nodes
    b: Nodes
    length: Values
    """Edges."""
    neighbour: Nodes
    distance: Values

    def save(self, uri: str) -> None:
        content = io.BytesIO()
        np.savez(content, **{field.name: getattr(self, field.name) for field in fields(self)})
        blobs.write(uri, content.getvalue(), "application/octet-stream")

    @classmethod
    def load(cls, uri: str) -> "Block":
        with np.load(io.BytesIO(blobs.read(uri))) as arrays:
            return cls(**{field.name: arrays[field.name] for field in fields(cls)})


def cut(sizes: Indices, most: int) -> list[slice]:
    """Ranges of things of ``sizes`` (n,), each of at most ``most`` in sum, or of one thing that is larger."""
    cuts, start, ends = [], 0, np.cumsum(sizes)
    while start < len(sizes):
        done = int(ends[start - 1]) if start else 0
        end = max(start + 1, int(np.searchsorted(ends, done + most, side="right")))
        cuts.append(slice(start, end))
        start = end
    return cuts


def block_of(components: Components, graph: Graph, chosen: Indices) -> Block:
    """The components ``chosen``, ascending."""
    rows, edges = components.rows(chosen), components.edges[components.edge_rows(chosen)]
    node, component = components.node[rows], components.component[rows]
    return Block(
        node=node,
        component=component,
        place=(rows - components.start[component]).astype(np.int32),
        scale=components.scale[rows],
        saturated=components.saturated[rows],
        priority=components.priority[rows],
        a=edges.a,
        b=edges.b,
        length=edges.distance,
        neighbour=graph.neighbour[node],
        distance=graph.distance[node],
    )


def work(block: Block, values: Values, metric_name: str, limits: Limits, threads: int = 1) -> pa.Table:
    """`FOUND` of a block. ``values``: (m, d), the vectors of its nodes.

    Raises ``JobFailed`` where they are not those that the lists of neighbours were made of.
    """
    metric = METRICS[metric_name]
    if metric.unusable(values).any() or not np.isfinite(values).all():
        raise JobFailed(MISMATCH)
    vectors = distances.measured(values, metric)
    order = np.argsort(block.node)
    in_order = block.node[order]

    def row(node: Nodes) -> Indices:
        rows: Indices = order[np.searchsorted(in_order, node)]
        return rows

    between = distances.pairs(metric, vectors, vectors, row(block.a), row(block.b)).view(np.float32)
    if not np.array_equal(between, block.length):
        raise JobFailed(MISMATCH)
    edges = Edges(block.a, block.b, block.length)
    part = Part(block.node, vectors, block.scale, block.saturated, edges, block.neighbour, block.distance)
    groups = near_duplicates.grouped(part, metric, limits, threads)
    member = row(groups.node)
    group = np.repeat(np.arange(len(groups)), np.diff(groups.start))
    representative = _least(block.priority[member], groups.start, member)
    to_it = distances.pairs(metric, vectors, vectors, representative[group], member).view(np.float32)
    by_distance = np.lexsort((block.node[member], to_it, member != representative[group], group))
    member, to_it = member[by_distance], to_it[by_distance]
    outside = _places(block, member, group, groups.start, groups.nearest_outside_node)
    return _table(block, member, to_it, groups, outside)


def _least(key: Nodes, start: Indices, values: Indices) -> Indices:
    """For each range of ``start`` (g + 1,) the one of ``values`` with the least ``key``."""
    group = np.repeat(np.arange(len(start) - 1), np.diff(start))
    return values[np.lexsort((key, group))[start[:-1]]]


def _places(block: Block, member: Indices, group: Indices, start: Indices, outside: Nodes) -> Indices:
    """(g,): where in the lists of a group's component its nearest outsider stands first; -1 if there is none."""
    k = block.neighbour.shape[1]
    wanted = outside[group]
    is_it = (block.neighbour[member] == wanted[:, None]) & (wanted >= 0)[:, None]
    column = np.where(is_it.any(axis=1), is_it.argmax(axis=1), -1)
    place = np.where(column >= 0, block.place[member].astype(np.int64) * k + column, np.iinfo(np.int64).max)
    first = np.minimum.reduceat(place, start[:-1]) if len(start) > 1 else np.empty(0, np.int64)
    return np.where(first == np.iinfo(np.int64).max, -1, first)


def _table(block: Block, member: Indices, distance: Values, groups: Any, outside: Indices) -> pa.Table:
    offsets = pa.array(groups.start, pa.int32())
    columns = [
        pa.array(block.component[member[groups.start[:-1]]], pa.int32()),
        pa.ListArray.from_arrays(offsets, pa.array(block.place[member], pa.int32())),
        pa.ListArray.from_arrays(offsets, pa.array(distance, pa.float32())),
        *(pa.array(getattr(groups, name), pa.float32()) for name in ("weakest_link", "widest_pair", "nearest_outside")),
        pa.array(outside, pa.int64()),
    ]
    return pa.Table.from_arrays(columns, schema=FOUND)
