"""What the groups of a component depend on, as a digest: a component whose digest is known keeps its groups."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from image_similarity.grouping.components import Nodes
from image_similarity.grouping.local_scale import Limits
from image_similarity.knn.distances import Values

_VERSION = "near-duplicates 2"
"""Changes when the same component would be grouped in another way."""


def node_key(content: str, images: list[str]) -> bytes:
    """16 bytes for a node: its content, and the ids of its images in any order."""
    hashed = hashlib.blake2b(digest_size=16)
    for part in (content, *sorted(images)):
        encoded = part.encode("utf-8", "surrogatepass")
        hashed.update(len(encoded).to_bytes(8, "little") + encoded)
    return hashed.digest()


def component_digest(
    nodes: Nodes,
    key: NDArray[np.uint8],
    scale: Values,
    saturated: NDArray[np.bool_],
    neighbour: Nodes,
    distance: Values,
    metric: str,
    limits: Limits,
) -> bytes:
    """16 bytes that name all that the groups of a component depend on: its nodes, their lists, scales and limits.

    ``nodes``: (m,) int32, the component's nodes. The other arrays are those of all n nodes: ``key`` (n, 16) uint8, see
    `node_key`; ``scale``, ``saturated`` (n,); ``neighbour``, ``distance`` (n, k), padded with -1 and inf.

    The numbers of the nodes do not matter, only their order and their keys.
    """
    nodes = np.sort(nodes)
    hashed = hashlib.blake2b(repr((_VERSION, metric, limits)).encode(), digest_size=16)
    listed = neighbour[nodes]
    keys = np.where((listed >= 0)[:, :, None], key[listed], 0).astype(np.uint8)
    for values in (key[nodes], scale[nodes], saturated[nodes], keys, distance[nodes]):
        hashed.update(repr(values.shape).encode() + np.ascontiguousarray(values).tobytes())
    return hashed.digest()
