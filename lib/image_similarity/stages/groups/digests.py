"""What a run leaves to the next one: components by digests of all that their groups depend on, and their groups."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from image_similarity.grouping.digests import component_digest
from image_similarity.grouping.near_duplicates import Limits
from image_similarity.knn.distances import Values
from image_similarity.knn.hashing import mixed
from image_similarity.neighbour_graph import Graph, Names
from image_similarity.stages.groups.blocks import FOUND, Components
from image_similarity.storage import blobs
from image_similarity.warehouse.workspace import Workspace

DIGEST_BYTES = 16
_TYPE = f"S{DIGEST_BYTES}"
Digests = NDArray[np.bytes_]
"""(components,), `DIGEST_BYTES` each."""

_COMPONENTS, _FOUND = "components", "found"
_DIGEST = pa.schema([("digest", pa.binary(DIGEST_BYTES))])


@dataclass(frozen=True)
class State:
    """The components of a run, in their order, and `FOUND` in them."""

    digest: Digests
    found: pa.Table

    def save(self, state: Workspace) -> None:
        array = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(DIGEST_BYTES), len(self.digest), [None, pa.py_buffer(np.ascontiguousarray(self.digest).tobytes())]
        )
        state.store_file(_COMPONENTS, _DIGEST, [pa.record_batch([array], schema=_DIGEST)])
        state.store_file(_FOUND, FOUND, [self.found])

    @classmethod
    def read(cls, state: Workspace) -> "State | None":
        """What a run left; None if it is not there, or damaged."""
        if not all(blobs.exists(state.location(f"{name}/part-00000.parquet")) for name in (_COMPONENTS, _FOUND)):
            return None
        try:
            tables = [
                pa.concat_tables([schema.empty_table(), *state.parts(name, schema.names)])
                for name, schema in ((_COMPONENTS, _DIGEST), (_FOUND, FOUND))
            ]
        except (OSError, ValueError):
            return None
        digests = tables[0]["digest"].combine_chunks()
        content = b"".join(digests.to_pylist())
        digest = np.frombuffer(content, _TYPE) if content else np.empty(0, _TYPE)
        component = tables[1]["component"]
        is_whole = not len(component) or 0 <= pc.min(component).as_py() and pc.max(component).as_py() < len(digest)
        return cls(digest, tables[1]) if is_whole else None


def of(
    components: Components,
    graph: Graph,
    scale: Values,
    saturated: NDArray[np.bool_],
    names: Names,
    metric: str,
    limits: Limits,
) -> Digests:
    """(components,): what tells a component from one whose groups may be others. ``scale``, ``saturated``: all nodes'.

    The order in which nodes would stand for a group is part of it, since distances to representatives are kept, too.
    """
    key, digests = _keys(graph, names), []
    for number in range(len(components)):
        rows = slice(int(components.start[number]), int(components.start[number + 1]))
        hashed = component_digest(
            components.node[rows], key, scale, saturated, graph.neighbour, graph.distance, metric, limits
        )
        order = np.argsort(components.priority[rows], kind="stable").astype(np.int32)
        own = _own_edges(components, number)
        digests.append(hashlib.blake2b(hashed + order.tobytes() + own, digest_size=DIGEST_BYTES).digest())
    return np.frombuffer(b"".join(digests), _TYPE) if digests else np.empty(0, _TYPE)


def _own_edges(components: Components, number: int) -> bytes:
    """The edges of a component by places in it: pictures decide which of the listed pairs are edges."""
    rows = slice(int(components.start[number]), int(components.start[number + 1]))
    edges = components.edges[components.edge_rows(np.array([number]))]
    places = np.searchsorted(components.node[rows], np.stack([edges.a, edges.b]))
    return np.unique(places.astype(np.int32), axis=1).tobytes()


def known(digest: Digests, previous: State | None) -> tuple[NDArray[np.bool_], pa.Table]:
    """(components,): which of them ``previous`` has; and what it found in these, in present numbers."""
    if previous is None or not len(previous.digest):
        return np.zeros(len(digest), dtype=np.bool_), FOUND.empty_table()
    order = np.argsort(digest)
    nearest = np.minimum(np.searchsorted(digest[order], previous.digest), max(0, len(digest) - 1))
    is_same = digest[order][nearest] == previous.digest if len(digest) else np.zeros(len(nearest), np.bool_)
    now = np.where(is_same, order[nearest] if len(digest) else -1, -1)
    is_known = np.zeros(len(digest), dtype=np.bool_)
    is_known[now[now >= 0]] = True
    component = now[previous.found["component"].to_numpy()]
    chosen = pa.array(component >= 0)
    kept = previous.found.filter(chosen)
    numbers = pa.array(component[component >= 0], pa.int32())
    return is_known, kept.set_column(0, FOUND.field(0), numbers)


def _keys(graph: Graph, names: Names) -> NDArray[np.uint8]:
    """(n, 16): of each node, half from its content, and half from the ids of its images."""
    images = graph.images
    words = np.zeros((images.nodes, 2), dtype=np.uint64)
    if images.content is not None and images.nodes:
        words[:, 0] = np.ascontiguousarray(images.content).view(np.uint64).reshape(images.nodes, 4)[:, 0]
    with np.errstate(over="ignore"):  # of one image it is the hash itself
        np.add.at(words[:, 1], images.node, names.keys())
    return words.view(np.uint8).reshape(images.nodes, DIGEST_BYTES)


def image_hashes(graph: Graph, names: Names) -> NDArray[np.uint64]:
    """(m,): a hash of each image and its content."""
    hashed = names.keys()
    if graph.images.content is not None and len(hashed):
        words = np.ascontiguousarray(graph.images.content).view(np.uint64).reshape(graph.images.nodes, 4)[:, 0]
        hashed ^= words[graph.images.node]
    return mixed(hashed, 0)
