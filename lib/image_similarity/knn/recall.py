"""How good lists of neighbours are: measured against exact ones of a sample."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn.distances import Reals

_RESAMPLES = 1000
_CONFIDENCE = 0.95
RULE_OF_THREE = 3.0


@dataclass(frozen=True)
class Recall:
    """recall@k, and the interval that holds it with 95 % confidence."""

    estimate: float
    lower: float
    upper: float
    queries: int

    def reaches(self, target: float, slack: float) -> bool:
        """Whether the estimate is ``target`` or more, and the interval begins at most ``slack`` below it."""
        return self.estimate >= target and self.lower >= target - slack

    def __str__(self) -> str:
        return f"{self.estimate:.4f} ({self.lower:.4f} to {self.upper:.4f}, {self.queries:,} queries)"


def of_each(found: Reals, true: Reals) -> Reals:
    """(n,): the share of the true neighbours of each query that was found, ties counted as hits.

    ``true``: (n, k) their distances, nan where there are fewer than k; ``found``: (n, any) the distances of what was
    found, nan for nothing. What is no farther than the farthest true neighbour counts, whichever of several it is. 1
    where there is no neighbour."""
    wanted = (~np.isnan(true)).sum(axis=1)
    if true.shape[1] == 0:
        return np.ones(len(true))
    farthest = np.where(wanted > 0, np.nanmax(np.where(np.isnan(true), -np.inf, true), axis=1), -np.inf)
    hits = np.minimum((found <= farthest[:, None]).sum(axis=1), wanted)
    shares: Reals = np.where(wanted > 0, hits / np.maximum(wanted, 1), 1.0)
    return shares


def estimated(shares: Reals, seed: int, everyone: int) -> Recall:
    """The mean of ``shares`` (n,) and its bootstrap interval over queries (Efron: Bootstrap methods, 1979,
    percentiles).

    Where not ``everyone`` was asked, hits alone do not prove that there are no misses: with 95 % confidence they are at
    most 3 in n (the rule of three). Without queries nothing is wrong: 1."""
    if len(shares) == 0:
        return Recall(1.0, 1.0, 1.0, 0)
    rng = np.random.default_rng(seed)
    means: NDArray[np.float64] = np.array(
        [shares[rng.integers(0, len(shares), len(shares))].mean() for _ in range(_RESAMPLES)]
    )
    lower, upper = np.quantile(means, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    if len(shares) < everyone:
        lower = min(lower, max(0.0, 1 - RULE_OF_THREE / len(shares)))
    return Recall(float(shares.mean()), float(lower), float(upper), len(shares))
