"""Which pairs of alike images are near-duplicates: those that are near by their vectors and agree as pictures.

The nearer two are, the more may their pictures disagree. Beyond the limit only pictures that agree almost entirely are
copies: small copies are far from their originals for many networks.
"""

import numpy as np
from numpy.typing import NDArray

from image_similarity.grouping.agreement import CERTAIN
from image_similarity.knn.distances import Values

FAR, NEAR = 0.012, 0.05
"""The most that pictures may disagree at the limit, and where they are much nearer."""
_NEAR_FROM, _FAR_FROM = 0.55, 0.95
"""Shares of the limit: up to the first `NEAR` holds, from the second `FAR`."""


def allowed(share: NDArray[np.floating]) -> Values:
    """(m,) -> (m,) float32: how much two pictures may disagree whose distance is ``share`` of the limit."""
    place = np.clip((share - _NEAR_FROM) / (_FAR_FROM - _NEAR_FROM), 0, 1)
    return np.where(share <= 1, NEAR * (FAR / NEAR) ** place, CERTAIN).astype(np.float32)
