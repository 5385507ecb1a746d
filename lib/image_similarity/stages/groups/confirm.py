"""Which of the listed pairs are near-duplicates: those within the limit that the pictures confirm."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_similarity.grouping import confirmation, near_duplicates
from image_similarity.grouping.near_duplicates import Edges, Limits
from image_similarity.knn.distances import Reals, Values
from image_similarity.neighbour_graph import Graph
from image_similarity.runtime.progress import progress
from image_similarity.stages.groups.thumbprints import Thumbprints

UNCONFIRMED = 0.65
"""The limit on the local scale for pairs whose pictures are not known. It was good for planted copies among strangers
and for views of objects (precision 0.98 and more); the limit of the run holds if it is lower."""

_ALL = Limits(1.0, float(np.finfo(np.float32).max), 1.0)


@dataclass(frozen=True)
class Candidates:
    """All pairs of lists."""

    edges: Edges
    local: Values
    """(m,): their distances on the local scale. 0 for equal vectors, and inf where there is no scale."""
    scaled: Values
    """(m,): the same, on the common scale where that is larger: pictures tell copies from what is dense there."""


def candidates(graph: Graph, scale: Values) -> Candidates:
    """``scale``: of all nodes."""
    edges = near_duplicates.edges(graph.neighbour, graph.distance, scale, _ALL)
    between = np.sqrt(scale[edges.a].astype(np.float64) * scale[edges.b])
    common = np.maximum(between, near_duplicates.common_scale(scale))
    return Candidates(edges, _shares(edges.distance, between), _shares(edges.distance, common))


def _shares(distance: Values, of: Reals) -> Values:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(distance == 0, np.float32(0), (distance / of).astype(np.float32))


@dataclass(frozen=True)
class Pictures:
    """What the pictures say of pairs, asked for part by part, since aligning takes time."""

    session: Any
    """A session of Spark's, for the name of the step; it is not started."""
    thumbprints: Thumbprints
    threads: int

    def disagreement(self, pairs: Edges, align: bool, what: str) -> Values:
        """(m,), NaN where a picture is not known."""
        if not self.thumbprints.is_there.any():
            return np.full(len(pairs), np.nan, dtype=np.float32)
        parts: list[Values] = [np.empty(0, dtype=np.float32)]
        done = 0
        with progress(self.session, what, len(pairs), "pairs", 1, lambda: done / max(1, len(pairs))):
            for part in self.thumbprints.disagreement(pairs.a, pairs.b, self.threads, align):
                parts.append(part)
                done += len(part)
        return np.concatenate(parts)


@dataclass(frozen=True)
class Confirmed:
    """The pairs that are near-duplicates, and those that are not though they are within the limits."""

    edges: Edges
    refuted: Edges
    unconfirmed: int
    """Pairs within the limits whose pictures are not known, and that were judged by their vectors alone."""


def confirms(pairs: Edges, limits: Limits, pictures: Pictures) -> NDArray[np.bool_]:
    """(m,): which pairs within ``strict`` are not refuted by their pictures, as far as these are known."""
    disagreement = pictures.disagreement(pairs, True, "confirm what lists are too short for")
    share = pairs.distance / np.float32(limits.strict) if limits.strict else np.zeros_like(pairs.distance)
    return np.isnan(disagreement) | (disagreement <= confirmation.allowed(share))


def confirmed(listed: Candidates, limits: Limits, pictures: Pictures) -> Confirmed:
    """The candidates that are within ``limits`` and whose pictures agree; and beyond them copies beyond doubt."""
    pairs = listed.edges
    share = listed.scaled / np.float32(limits.scaled)
    share = np.where(pairs.distance <= limits.strict, np.minimum(share, 1), share)
    within = share <= 1
    disagreement = np.empty(len(pairs), dtype=np.float32)
    disagreement[within] = pictures.disagreement(pairs[within], True, "confirm near-duplicates by their pictures")
    disagreement[~within] = pictures.disagreement(pairs[~within], False, "look for copies beyond the limit")
    is_known = ~np.isnan(disagreement)
    by_vector = (listed.local <= min(limits.scaled, UNCONFIRMED)) | (pairs.distance <= limits.strict)
    passes: NDArray[np.bool_] = np.where(is_known, disagreement <= confirmation.allowed(share), by_vector)
    return Confirmed(pairs[passes], pairs[within & is_known & ~passes], int((by_vector & ~is_known).sum()))
