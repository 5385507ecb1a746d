"""Near-duplicates, and identical files: from the graph to groups of images."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from image_similarity.errors import counted
from image_similarity.grouping import components as connected
from image_similarity.grouping import near_duplicates
from image_similarity.grouping.near_duplicates import Edges, Limits
from image_similarity.knn import distances, range_search
from image_similarity.knn.distances import METRICS, Indices, Values
from image_similarity.neighbour_graph import Graph, Names
from image_similarity.reporting import note
from image_similarity.stages.groups import confirm, digests
from image_similarity.stages.groups.blocks import FOUND, Block, Components, block_of, cut
from image_similarity.stages.groups.confirm import Confirmed, Pictures
from image_similarity.stages.groups.digests import State
from image_similarity.stages.groups.ranks import Order, Ranks, ranked
from image_similarity.stages.groups.tables import Grouping, ranges
from image_similarity.stages.groups.vectors import Source
from image_similarity.warehouse.schemas import IDENTICAL, NEAR_DUPLICATES

Work = Callable[[list[Indices], Callable[[Indices], Block]], pa.Table]
"""A runner: blocks of components, and what makes one -> `FOUND` of all of them, in any order of components."""


@dataclass(frozen=True)
class Links:
    """What is near enough to what."""

    edges: Edges
    scale: Values
    saturated: NDArray[np.bool_]
    skipped: int
    """Saturated nodes whose vectors were too many: pairs that no list holds are missing among them."""


def links(
    graph: Graph,
    source: Source,
    metric: str,
    limits: Limits,
    scale: Values,
    pairs: Confirmed,
    pictures: Pictures,
    dimensions: int,
    most_bytes: int,
    threads: int,
) -> Links:
    """The near-duplicates: the confirmed ``pairs`` of lists, and those that lists full of copies are too short for.

    ``scale``: of all nodes. ``dimensions``: of a vector. ``most_bytes``: memory for vectors in this process.
    """
    edges = pairs.edges
    saturated = near_duplicates.saturated(graph.distance, limits)
    # What no list holds is confirmed only where it joins parts. So it is trusted where no picture speaks against lists.
    is_strict = pairs.refuted.distance <= limits.strict
    saturated[pairs.refuted.a[is_strict]] = saturated[pairs.refuted.b[is_strict]] = False
    # A node without a list has no vector that could be compared.
    saturated &= graph.neighbour[:, 0] >= 0 if graph.neighbour.shape[1] else False
    node = np.nonzero(saturated)[0]
    if not len(node):
        return Links(edges, scale, saturated, 0)
    size = len(node) * dimensions * 4
    if size > most_bytes:
        note(
            f"the lists of {counted(len(node), 'image')} hold nothing but near copies, and end among them. Their "
            f"vectors take {size / 2**30:.1f} GiB, more than groups.process_bytes: pairs that no list holds are "
            "not looked for, so a group of very many copies may be found in several pieces"
        )
        return Links(edges, scale, np.zeros_like(saturated), len(node))
    vectors = distances.measured(source.of(graph.images, node), METRICS[metric])
    label = connected.of(len(graph), edges.a, edges.b)[node].astype(np.int64)
    label = np.where(label < 0, len(graph) + np.arange(len(node)), label)  # each alone
    more = range_search.connections(METRICS[metric], vectors, node, limits.strict, label, threads)
    joined = Edges(more.a.astype(np.int32), more.b.astype(np.int32), more.distance)
    return Links(_joined(edges, joined[confirm.confirms(joined, limits, pictures)]), scale, saturated, 0)


def _joined(edges: Edges, more: Edges) -> Edges:
    return Edges(
        np.concatenate([edges.a, more.a]),
        np.concatenate([edges.b, more.b]),
        np.concatenate([edges.distance, more.distance]),
    )


@dataclass(frozen=True)
class Result:
    """The groups, and how much work they were."""

    identical: Grouping
    near_duplicates: Grouping
    components: int
    worked_on: int
    """Components whose groups are not those of the run before."""
    state: State


def run(
    graph: Graph,
    links_: Links,
    names: Names,
    metric: str,
    limits: Limits,
    order: Order,
    previous: State | None,
    block_rows: int,
    work: Work,
) -> Result:
    """All groups. ``previous``: what the run before left. ``block_rows``: nodes in a block, about."""
    label = connected.of(len(graph), links_.edges.a, links_.edges.b)
    several = np.nonzero(np.diff(graph.images.by_node[1]) > 1)[0]
    ranks = ranked(graph.images, np.union1d(np.nonzero(label >= 0)[0], several), order)
    components = _components(label, links_, ranks)
    digest = digests.of(components, graph, links_.scale, links_.saturated, names, metric, limits)
    known, found = digests.known(digest, previous)
    new = np.nonzero(~known)[0]
    blocks = [new[part] for part in cut(np.diff(components.start)[new], block_rows)]
    worked = work(blocks, lambda chosen: block_of(components, graph, chosen)) if blocks else FOUND.empty_table()
    found = _sorted(pa.concat_tables([found, worked]))
    return Result(
        _identical(graph, several, ranks).in_order(),
        _grouping(graph, components, ranks, found).in_order(),
        len(components),
        len(new),
        State(digest, found),
    )


def _components(label: connected.Nodes, links_: Links, ranks: Ranks) -> Components:
    node = np.nonzero(label >= 0)[0].astype(np.int32)
    node = node[np.argsort(label[node], kind="stable")]
    component, edges = label[node], links_.edges
    numbers = np.arange(int(label.max(initial=-1)) + 2)
    of_edge = label[edges.a]
    by_component = np.argsort(of_edge, kind="stable")
    return Components(
        node,
        component,
        np.searchsorted(component, numbers),
        links_.scale[node],
        links_.saturated[node],
        ranks.priority[node],
        edges[by_component],
        np.searchsorted(of_edge[by_component], numbers),
    )


def _sorted(found: pa.Table) -> pa.Table:
    """By component, and in each as they are: the order of groups depends on no block."""
    return found.take(pa.array(np.argsort(found["component"].to_numpy(), kind="stable"))).combine_chunks()


def _grouping(graph: Graph, components: Components, ranks: Ranks, found: pa.Table) -> Grouping:
    """Groups of nodes become groups of all their images."""
    of_group, k = found["component"].to_numpy(), graph.neighbour.shape[1]
    member, distance = (found[name].combine_chunks() for name in ("member", "distance"))
    ends = member.offsets.to_numpy().astype(np.int64)
    group = np.repeat(np.arange(len(found)), np.diff(ends))
    row = components.start[of_group][group] + member.flatten().to_numpy()
    node, to_it = components.node[row], distance.flatten().to_numpy()
    is_first = np.zeros(len(node), dtype=np.bool_)
    is_first[(ends - ends[0])[:-1]] = True
    by_node, start = graph.images.by_node
    image = by_node[ranges(start[node], start[node + 1])]
    of_row = np.repeat(np.arange(len(node)), start[node + 1] - start[node])
    is_kept = is_first[of_row] & (ranks.best[node[of_row]] == image)
    order = np.lexsort((image, to_it[of_row], ~is_kept, group[of_row]))
    place = found["outside"].to_numpy()
    owner = components.node[components.start[of_group] + np.maximum(place, 0) // max(k, 1)]
    outsider = graph.images.first[graph.neighbour[owner, np.maximum(place, 0) % max(k, 1)]] if len(place) else place
    return Grouping(
        NEAR_DUPLICATES,
        0,
        np.searchsorted(group[of_row][order], np.arange(len(found) + 1)),
        image[order],
        to_it[of_row][order],
        found["weakest_link"].to_numpy(),
        found["widest_pair"].to_numpy(),
        found["nearest_outside"].to_numpy(),
        np.where(place >= 0, outsider, -1),
    )


def _identical(graph: Graph, node: Indices, ranks: Ranks) -> Grouping:
    """The images of each of the nodes ``node``, which have several."""
    by_node, start = graph.images.by_node
    image, count = by_node[ranges(start[node], start[node + 1])], start[node + 1] - start[node]
    group = np.repeat(np.arange(len(node)), count)
    order = np.lexsort((image, image != ranks.best[node][group], group))
    nothing = np.zeros(len(node), dtype=np.float32)
    nearest, outsider = _nearest(graph, node)
    return Grouping(
        IDENTICAL,
        0,
        np.concatenate([[0], np.cumsum(count)]),
        image[order],
        np.zeros(len(image), dtype=np.float32),
        nothing,
        nothing,
        nearest,
        outsider,
    )


def _nearest(graph: Graph, node: Indices) -> tuple[Values, Indices]:
    """The distances of the nearest other nodes, and their first images; NaN and -1 where there are none."""
    if not graph.neighbour.shape[1]:
        return np.full(len(node), np.nan, dtype=np.float32), np.full(len(node), -1, dtype=np.int64)
    other = graph.neighbour[node, 0]
    is_there = other >= 0
    first = np.where(is_there, graph.images.first[np.maximum(other, 0)], -1)
    return np.where(is_there, graph.distance[node, 0], np.float32(np.nan)), first
