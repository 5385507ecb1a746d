"""The table ``projections``: a fitted projection is a row with the mean, and one for each component."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from image_similarity.fingerprints.pca import Projection

MEAN = -1
"""The ``component`` of the row that holds the mean. The mean is subtracted before projecting."""


def stored(rows: Iterable[Mapping[str, Any]]) -> Projection:
    """The projection whose ``rows`` of ``projections`` these are: all of them, in any order."""
    ordered = sorted(rows, key=lambda row: int(row["component"]))
    weights = np.array([row["weights"] for row in ordered], dtype=np.float32)
    shares = np.array([row["explained_variance"] for row in ordered[1:]], dtype=np.float64)
    return Projection(weights[0], weights[1:], shares)
