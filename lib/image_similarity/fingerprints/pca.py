"""Projection of vectors onto fewer dimensions: principal components."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Projection:
    """A fitted projection from d to m dimensions."""

    mean: NDArray[np.float32]
    """(d,), subtracted before the projection."""
    components: NDArray[np.float32]
    """(m, d), in the order of decreasing variance."""
    explained_variance: NDArray[np.float64]
    """(m,), the share of each component in the total variance."""

    def __call__(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, d) float32 -> (n, m) float32. Computed in float64: a vector does not depend on those beside it."""
        centred = vectors.astype(np.float64) - self.mean
        projected: NDArray[np.float32] = (centred @ self.components.T.astype(np.float64)).astype(np.float32)
        return projected

    @property
    def sha256(self) -> str:
        """A hash of everything that determines projected vectors."""
        return hashlib.sha256(self.mean.tobytes() + self.components.tobytes()).hexdigest()


def fit(vectors: NDArray[np.float32], dimensions: int, seed: int) -> Projection:
    """The principal components of ``vectors``, (n, d). scikit-learn computes them, and fixes their signs.

    ``ValueError`` if n or d is less than ``dimensions``.
    """
    from sklearn.decomposition import PCA  # here, since importing it takes a second, and few jobs fit anything

    if dimensions > min(vectors.shape):
        raise ValueError(f"{dimensions} components need as many vectors of as many values: there are {vectors.shape}")
    fitted = PCA(dimensions, random_state=seed).fit(vectors.astype(np.float64))
    return Projection(
        fitted.mean_.astype(np.float32),
        fitted.components_.astype(np.float32),
        np.asarray(fitted.explained_variance_ratio_),
    )
