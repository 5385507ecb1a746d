"""The quality of lists of neighbours, measured against the exact lists of a sample."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_similarity.errors import counted
from image_similarity.knn.distances import Reals

_RESAMPLES = 1000
_CONFIDENCE = 0.95
RULE_OF_THREE = 3.0


@dataclass(frozen=True)
class Recall:
    """recall@k, and its 95 % confidence interval."""

    estimate: float
    lower: float
    upper: float
    queries: int

    def reaches(self, target: float, slack: float) -> bool:
        """Whether the estimate is ``target`` or more, and the interval begins at most ``slack`` below it."""
        return self.estimate >= target and self.lower >= target - slack

    def __str__(self) -> str:
        return f"{self.estimate:.4f} ({self.lower:.4f} to {self.upper:.4f}, {counted(self.queries, 'query')})"


def of_each(listed: Reals, true: Reals) -> Reals:
    """(n,): for each query the share of its true neighbours that its list has. Ties count as hits.

    ``true``: (n, k) distances of the true neighbours, nan where there are fewer than k. ``listed``: (n, any) distances
    of the listed neighbours, nan for missing ones. A listed neighbour is a hit if it is no farther than the farthest
    true neighbour. The share is 1 for a query without true neighbours.
    """
    true_count = (~np.isnan(true)).sum(axis=1)
    if true.shape[1] == 0:
        return np.ones(len(true))
    farthest = np.where(true_count > 0, np.nanmax(np.where(np.isnan(true), -np.inf, true), axis=1), -np.inf)
    hits = np.minimum((listed <= farthest[:, None]).sum(axis=1), true_count)
    shares: Reals = np.where(true_count > 0, hits / np.maximum(true_count, 1), 1.0)
    return shares


def estimated(shares: Reals, seed: int, everyone: int) -> Recall:
    """The mean of ``shares`` (n,) and its bootstrap interval over queries (Efron: Bootstrap methods, 1979,
    percentiles).

    ``everyone``: the number of all vectors. If fewer were queries, n hits do not prove that there are no misses: with
    95 % confidence at most 3 in n are misses (the rule of three). Without queries the recall is 1.
    """
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
