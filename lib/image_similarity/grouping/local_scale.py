"""When two nodes are near-duplicates: limits on a local scale.

Raw distances mean different things in different places: two strangers among many alike pictures are nearer than two
views of an odd one. So a distance is compared with the *scales* of both nodes, the distances of their 8th neighbours
(Zelnik-Manor, Perona: Self-tuning spectral clustering, NIPS 2004, take the 7th). Lists full of copies have a scale near
0. A raw limit, ``strict``, holds for all.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn.distances import Reals, Values

SCALE_RANK = 8
LEAST_NEIGHBOURS = 4
"""A list of fewer neighbours says nothing about the scale."""

_STRICT_QUANTILE = 0.05
_COPIES = 3.0
"""How much smaller the scales of copies are at least."""
_COMMON_QUANTILE = 0.25
_ROWS_AT_ONCE = 2**16


@dataclass(frozen=True)
class Limits:
    """Two nodes are near-duplicates if their distance is at most ``strict``, or at most ``scaled`` on the local scale.

    A pair's limit is the greater of ``strict`` and ``scaled * sqrt(s_a * s_b)``, s the scales of both.

    ``scaled``: in (0, 1]. Above 1 lists of neighbours could miss pairs. At 1 they can miss pairs that are exactly as
    far as the last neighbours of both. ``strict``: a raw distance, 0 or more. ``wide``: 1 or more; every pair of a
    group is within ``wide`` times its limit, or ``wide`` times ``least`` if that is more. ``least``: a raw distance, 0
    or more. Lists full of copies have a small scale, by which copies of a copy would be too far from one another.

    Raises ValueError for other values.
    """

    scaled: float
    strict: float
    wide: float
    least: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.scaled <= 1:
            raise ValueError(f"the limit on the local scale must be above 0 and at most 1, not {self.scaled}")
        if not 0 <= self.strict < np.inf:
            raise ValueError(f"the strict limit must be a distance, 0 or more, not {self.strict}")
        if not 0 <= self.least < np.inf:
            raise ValueError(f"the least limit must be a distance, 0 or more, not {self.least}")
        if not 1 <= self.wide < np.inf:
            raise ValueError(f"the wider limit must be a factor of 1 or more, not {self.wide}")

    def of_pairs(self, scale_a: Values, scale_b: Values) -> Reals:
        """The raw limits of pairs, float64, from the scales of both."""
        limit: Reals = np.maximum(self.scaled * np.sqrt(scale_a.astype(np.float64) * scale_b), self.strict)
        return limit

    def wider_of_pairs(self, scale_a: Values, scale_b: Values) -> Reals:
        """The raw distances within which the pairs of a group are, float64."""
        limit: Reals = self.wide * np.maximum(self.of_pairs(scale_a, scale_b), self.least)
        return limit


def scales(distance: Values) -> Values:
    """The local scale of each node, (n,) float32, from its list of distances (n, k), sorted and padded with inf.

    That is the distance of the 8th neighbour, or of the last one where a list has fewer. It is 0 where a list has fewer
    than `LEAST_NEIGHBOURS`, and for lists full of copies: such nodes have no local scale, and only ``strict`` holds for
    them. So with fewer than 4 ranks all scales are 0: ``not scales(...).any()`` tells that only ``strict`` holds.
    """
    n, k = distance.shape
    scale = np.zeros(n, dtype=np.float32)
    if k < LEAST_NEIGHBOURS:
        return scale
    for start in range(0, n, _ROWS_AT_ONCE):
        listed = distance[start : start + _ROWS_AT_ONCE]
        count = np.isfinite(listed).sum(axis=1)
        place = np.clip(count, 1, SCALE_RANK) - 1
        last = listed[np.arange(len(listed)), place]
        scale[start : start + _ROWS_AT_ONCE] = np.where(count < LEAST_NEIGHBOURS, 0, last)
    return scale


def strict_limit(scaled: float, scale: Values) -> float:
    """``strict`` for a limit ``scaled`` on the local scale: ``scaled`` times a low scale, the 5th percentile of those
    that are no copies'. 0 if no node has a scale: then only equal vectors are near-duplicates.
    """
    return scaled * _quantile(scale, _STRICT_QUANTILE)


def least_limit(scaled: float, scale: Values) -> float:
    """``least`` for a limit ``scaled``: ``scaled`` times the median of the scales that are no copies'."""
    return scaled * _quantile(scale, 0.5)


def common_scale(scale: Values) -> float:
    """The first quartile of the scales that are no copies': with less no pair is compared whose pictures are known."""
    return _quantile(scale, _COMMON_QUANTILE)


def _quantile(scale: Values, share: float) -> float:
    """Of the scales that are no copies'; 0 if there are none.

    Lists full of copies have a far smaller scale than others. Below a third of the third quartile a scale is taken for
    theirs. So this holds unless three quarters of all images are in groups of more than `SCALE_RANK` copies.
    """
    known = scale[scale > 0]
    if not len(known):
        return 0.0
    own = known[known >= np.quantile(known, 0.75, method="lower") / _COPIES]
    return _rounded(float(np.quantile(own, share, method="lower")))


def _rounded(scale: float) -> float:
    """The next lower value of a grid with steps of 6 %: a few images more or less seldom move it, so that groups which
    do not touch them stay as they are.
    """
    return float(2.0 ** (np.floor(12 * np.log2(scale)) / 12)) if scale > 0 else 0.0


def saturated(distance: Values, limits: Limits) -> NDArray[np.bool_]:
    """The nodes whose list may end before ``strict`` does, (n,) bool, from the lists of all nodes (n, k).

    A pair that neither list holds is at least as far as the last of both lists. On the local scale that is 1 or more,
    so only ``strict`` can miss pairs, and only among two saturated nodes. An empty list may end anywhere. A list of all
    other nodes ends nowhere.
    """
    n, k = distance.shape
    beyond = np.zeros(n, dtype=np.bool_)
    for start in range(0, n, _ROWS_AT_ONCE):
        listed = distance[start : start + _ROWS_AT_ONCE]
        count = np.isfinite(listed).sum(axis=1)
        last = np.where(count > 0, listed[np.arange(len(listed)), np.maximum(count, 1) - 1], 0) if k else count * 0.0
        beyond[start : start + _ROWS_AT_ONCE] = (last <= np.float64(limits.strict)) & (count < n - 1)
    return beyond
