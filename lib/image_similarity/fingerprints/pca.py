"""Projection of vectors onto fewer dimensions: principal components."""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_similarity.fingerprints.spec import Fingerprint, FingerprintSpec, Parameters, refuse_logits


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


def key_of(base_key: str, projection: Projection) -> str:
    """The key of the vectors with ``base_key``, projected: 16 hexadecimal digits."""
    values = {"kind": "projection", "base": base_key, "projection": projection.sha256}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Projected(FingerprintSpec):
    """A fingerprint whose vectors are projected: one that is computed from images in a single pass.

    It holds the projection, some megabytes for a network's vectors.
    """

    base: FingerprintSpec
    projection: Projection

    @property
    def key(self) -> str:
        return key_of(self.base.key, self.projection)

    @property
    def uses_torch(self) -> bool:
        return self.base.uses_torch

    def load(
        self, file: str | Parameters | None, device: str, batch: int | None = None, logits: bool = False
    ) -> "ProjectedVectors":
        """``file``: that of the base."""
        if logits:
            refuse_logits(self)
        return ProjectedVectors(self.base.load(file, device, batch), self.projection)


class ProjectedVectors:
    """(n, side, side, 3) uint8 -> (n, m) float32, the vectors of ``base`` projected."""

    def __init__(self, base: Fingerprint, projection: Projection):
        self.framing, self._base, self._projection = base.framing, base, projection

    @property
    def batch(self) -> int:
        return self._base.batch

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._projection(self._base(images))


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
