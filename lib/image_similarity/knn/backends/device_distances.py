"""Exact distances on a device: float64 in any order, and which pairs are doubtful (see `distances`)."""

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from image_similarity.knn import distances
from image_similarity.knn.distances import GRID, Metric, Vectors

Tensor = torch.Tensor


class StoredVectors:
    """Vectors as they are stored, with shift and scale, on ``device``. ``home``: where the values are kept."""

    def __init__(self, vectors: Vectors, device: torch.device, home: torch.device):
        self.values = tensor_of(vectors.values).to(home)
        self.shift, self.scale = tensor_of(vectors.shift).to(device), tensor_of(vectors.scale).to(device)

    def rows(self, part: slice) -> Tensor:
        """(n, d) float64: shifted and scaled vectors, on the device."""
        values = self.values[part].to(self.scale.device).double()
        return values.sub_(self.shift[part, None]).mul_(self.scale[part, None])

    def sent(self) -> "StoredVectors":
        """The same, with the values on the device."""
        there = copy.copy(self)
        there.values = self.values.to(self.scale.device)
        return there


def tensor_of(array: NDArray[Any]) -> Tensor:
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def rounded(metric: Metric, sums: Tensor, scale: Tensor, dimensions: int) -> tuple[Tensor, Tensor]:
    """Bits of distances (p,) int64 from sums of pairs, and the places of the doubtful ones: see `distances.pairs`."""
    slack = distances.slack(dimensions)
    if metric.angular:
        return _on_the_grid(1.0 - sums * scale, slack)
    low, high = ((sums * share).sqrt().float() for share in (1.0 - slack, 1.0 + slack))
    return low.view(torch.int32).long(), (low != high).nonzero().flatten()


def _on_the_grid(distance: Tensor, slack: float) -> tuple[Tensor, Tensor]:
    steps = distance * GRID
    nearest = steps.round()
    doubtful = (steps - nearest).abs() > 0.5 - GRID * slack
    values = (nearest.clamp(0.0, 2.0 * GRID) / GRID + 0.0).float()
    return values.view(torch.int32).long(), doubtful.nonzero().flatten() if distance.dim() == 1 else doubtful


def block(metric: Metric, a: Tensor, b: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Bits of all distances of the rows ``a`` and ``b`` float64, and the doubtful pairs: see `distances.block`."""
    product = a @ b.T
    if metric.angular:
        bits, doubtful = _on_the_grid(1.0 - product, distances.slack(a.shape[1]))
        return bits, doubtful.nonzero(as_tuple=True)
    squares = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)[None, :]
    squared, error = squares - 2.0 * product, squares * distances.slack_of_squares(a.shape[1])
    low, high = (of.clamp(min=0.0).sqrt().float() for of in (squared - error, squared + error))
    return low.view(torch.int32).long(), (low != high).nonzero(as_tuple=True)
