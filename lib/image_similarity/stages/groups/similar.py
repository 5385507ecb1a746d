"""Images that belong together: the levels of the hierarchy that the graph gives, as groups of images."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_similarity.errors import JobFailed
from image_similarity.grouping import hierarchy
from image_similarity.grouping.components import Nodes
from image_similarity.knn import distances
from image_similarity.knn.distances import METRICS, Indices, Values
from image_similarity.neighbour_graph import Graph
from image_similarity.stages.groups.tables import Grouping, ranges
from image_similarity.stages.groups.vectors import MISMATCH, Source
from image_similarity.warehouse.schemas import ALIKE

_ROWS_AT_ONCE = 2**16


@dataclass(frozen=True)
class Result:
    levels: list[Grouping]
    """The finest first."""
    share_proven: float
    """Of the pairs in groups of the finest level, those whose distance is in a list."""


def run(graph: Graph, source: Source, metric: str, block_rows: int) -> Result:
    """All levels. ``block_rows``: vectors that are read at once, about.

    Representatives, weakest links and widest pairs are those of the lists: pairs that no list holds are not compared.
    Distances to representatives are exact.
    """
    labels = _distinct(hierarchy.levels(graph.neighbour, graph.distance))
    levels = [_level(graph, number, of, source, metric, block_rows) for number, of in enumerate(labels)]
    return Result(levels, _share_listed(graph, labels[0]) if labels else 1.0)


def _distinct(labels: list[Nodes]) -> list[Nodes]:
    """``labels`` without those that are the same as the finer ones."""
    return [of for number, of in enumerate(labels) if not number or not np.array_equal(of, labels[number - 1])]


def _level(graph: Graph, number: int, label: Nodes, source: Source, metric: str, block_rows: int) -> Grouping:
    described = hierarchy.described(graph.neighbour, graph.distance, label)
    node = np.nonzero(label >= 0)[0]
    node = node[np.argsort(label[node], kind="stable")]
    representative = np.asarray(described.representative, dtype=np.int64)[label[node]]
    to_it = _distances(graph, node, representative, source, metric, block_rows)
    nearest, outsider = _outside(graph, label, len(described.representative))
    by_node, start = graph.images.by_node
    image, row = by_node[ranges(start[node], start[node + 1])], np.repeat(np.arange(len(node)), np.diff(start)[node])
    is_first = (representative[row] == node[row]) & (graph.images.first[node[row]] == image)
    order = np.lexsort((image, to_it[row], ~is_first, label[node[row]]))
    ends = np.searchsorted(label[node[row]][order], np.arange(len(described.representative) + 1))
    return Grouping(
        ALIKE,
        number,
        ends,
        image[order],
        to_it[row][order],
        np.asarray(described.weakest_link, dtype=np.float32),
        np.asarray(described.widest_listed, dtype=np.float32),
        nearest,
        np.where(outsider >= 0, graph.images.first[np.maximum(outsider, 0)], -1),
    ).in_order()


def _distances(graph: Graph, node: Indices, other: Indices, source: Source, metric: str, block_rows: int) -> Values:
    """(m,) float32: the distances of the pairs ``node``, ``other`` (m,): of lists, or of vectors."""
    found = np.where(node == other, np.float32(0), np.float32(np.nan))
    for a, b in ((node, other), (other, node)):
        for start in range(0, len(node), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            is_it = graph.neighbour[a[rows]] == b[rows, None]
            column = is_it.argmax(axis=1) if is_it.shape[1] else np.zeros(len(is_it), np.int64)
            listed = is_it.any(axis=1)
            found[rows][listed] = graph.distance[a[rows][listed], column[listed]]
    missing = np.nonzero(np.isnan(found))[0]
    for part in _passes(missing, other, block_rows):
        found[part] = _compared(graph, node[part], other[part], source, metric)
    return found


def _passes(rows: Indices, other: Indices, most: int) -> Iterator[Indices]:
    """``rows`` in parts of up to ``most``, for each of which the vectors are read once."""
    rows = rows[np.argsort(other[rows], kind="stable")]  # a representative is read once, or nearly so
    for start in range(0, len(rows), most):
        yield rows[start : start + most]


def _compared(graph: Graph, a: Indices, b: Indices, source: Source, metric: str) -> Values:
    nodes = np.unique(np.concatenate([a, b]))
    values = source.of(graph.images, nodes)
    if METRICS[metric].unusable(values).any():
        raise JobFailed(MISMATCH)
    vectors = distances.measured(values, METRICS[metric])
    rows, columns = np.searchsorted(nodes, a), np.searchsorted(nodes, b)
    return distances.pairs(METRICS[metric], vectors, vectors, rows, columns).view(np.float32)


def _outside(graph: Graph, label: Nodes, groups: int) -> tuple[Values, Indices]:
    """(groups,): the distance of the nearest node in the members' lists that is in no group or another, and that node;
    NaN and -1 if there is none. Ties: the lesser node.
    """
    nearest, outsider = np.full(len(label), np.inf, dtype=np.float32), np.full(len(label), -1, dtype=np.int64)
    for start in range(0, len(label) if graph.neighbour.shape[1] else 0, _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        neighbour = graph.neighbour[rows]
        is_outside = (neighbour >= 0) & (label[np.maximum(neighbour, 0)] != label[rows, None])
        column = is_outside.argmax(axis=1)
        row = np.nonzero(is_outside.any(axis=1) & (label[rows] >= 0))[0]
        nearest[start + row] = graph.distance[rows][row, column[row]]
        outsider[start + row] = neighbour[row, column[row]]
    node = np.nonzero(outsider >= 0)[0]
    order = node[np.lexsort((outsider[node], nearest[node], label[node]))]
    with_any, first = np.unique(label[order], return_index=True)
    of_group, node_of_group = np.full(groups, np.nan, dtype=np.float32), np.full(groups, -1, dtype=np.int64)
    of_group[with_any], node_of_group[with_any] = nearest[order[first]], outsider[order[first]]
    return of_group, node_of_group


def _share_listed(graph: Graph, label: Nodes) -> float:
    sizes = np.bincount(label[label >= 0]).astype(np.float64)
    pairs = float((sizes * (sizes - 1) / 2).sum())
    return _listed_inside(graph, label) / pairs if pairs else 1.0


def _listed_inside(graph: Graph, label: Nodes) -> int:
    """Pairs of nodes of one group, of which one is in the list of the other."""
    listed = 0
    for start in range(0, len(label), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        neighbour, own = graph.neighbour[rows], np.arange(start, start + len(graph.neighbour[rows]))
        other = np.maximum(neighbour, 0)
        inside = (neighbour >= 0) & (label[other] == label[rows, None]) & (label[rows, None] >= 0)
        row, column = np.nonzero(inside)
        is_mutual: NDArray[np.bool_] = (graph.neighbour[other[row, column]] == own[row, None]).any(axis=1)
        # Of a pair that is in both lists, that of the lesser node counts.
        listed += int((~is_mutual | (own[row] < other[row, column])).sum())
    return listed
