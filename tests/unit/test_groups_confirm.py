"""What confirms a pair, and what an untouched component is known by."""

import numpy as np
import pyarrow as pa
import pytest

from image_similarity.grouping.local_scale import common_scale, least_limit, strict_limit
from image_similarity.grouping.near_duplicates import Edges, Limits
from image_similarity.neighbour_graph import Graph, Images, Names
from image_similarity.stages.groups import digests
from image_similarity.stages.groups.blocks import Components
from image_similarity.stages.groups.confirm import Candidates, Pictures, confirmed
from image_similarity.stages.groups.thumbprints import BYTES, Thumbprints

LIMITS = Limits(0.5, 0.05, 2.0)


def edges(*pairs: tuple[int, int]) -> Edges:
    a, b = np.array(pairs, dtype=np.int32).T
    return Edges(a, b, np.full(len(a), 0.2, dtype=np.float32))


def test_without_pictures_the_local_scale_decides_and_nothing_is_refuted() -> None:
    nothing = Pictures(None, Thumbprints(np.zeros((0, BYTES), np.uint8), np.zeros(4, np.bool_)), 1)
    local, scaled = np.array([0.4, 0.8, 0.9], np.float32), np.array([0.3, 0.4, 0.9], np.float32)
    found = confirmed(Candidates(edges((0, 1), (0, 2), (0, 3)), local, scaled), LIMITS, nothing)
    assert found.edges.b.tolist() == [1]
    assert len(found.refuted) == 0 and found.unconfirmed == 1


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_scales_of_copies_teach_nothing(share: float) -> None:
    random = np.random.default_rng(0)
    strangers = random.uniform(0.2, 0.4, 1000).astype(np.float32)
    copies = random.uniform(0, 0.03, int(1000 * share)).astype(np.float32)
    both = np.concatenate([strangers, copies, np.zeros(5, np.float32)])
    for of in (lambda scale: strict_limit(0.7, scale), lambda scale: least_limit(0.7, scale), common_scale):
        assert of(both) == of(strangers) > 0
    assert strict_limit(0.7, np.zeros(3, np.float32)) == 0


def test_a_component_whose_pictures_decided_otherwise_is_not_the_same() -> None:
    ids = pa.array(["a", "b", "c"], pa.large_string())
    lists = np.array([[1, 2], [0, 2], [0, 1]], dtype=np.int32)
    graph = Graph(Images(ids, np.arange(3, dtype=np.int32), None), lists, np.full((3, 2), 0.2, np.float32))
    scale, saturated = np.ones(3, np.float32), np.zeros(3, np.bool_)

    def digest(*pairs: tuple[int, int]) -> bytes:
        nodes = np.arange(3, dtype=np.int32)
        start, last = np.array([0, 3]), np.array([0, len(pairs)])
        components = Components(nodes, np.zeros(3, np.int32), start, scale, saturated, nodes, edges(*pairs), last)
        (found,) = digests.of(components, graph, scale, saturated, Names(ids), "cosine", LIMITS)
        return bytes(found)

    assert digest((0, 1), (1, 2)) == digest((1, 2), (0, 1))
    assert digest((0, 1), (1, 2)) != digest((0, 1), (1, 2), (0, 2))
