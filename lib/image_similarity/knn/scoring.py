"""Fast scores that are almost right, with a proven bound on how wrong they are.

A *score* is larger for nearer vectors: their product for angular metrics; for the euclidean one the product less half
of both squared lengths, which is minus half of the squared distance. It comes from copies of the vectors in a precision
that the processor multiplies fast. With u the vector and v its copy, a product of copies is wrong by at most

    |u - v| |v'| + |u| |u' - v'| + g |v| |v'|

(Cauchy and Schwarz, twice; the last term is what adding d float32 products may lose, g = d 2**-24, whatever the order).
All lengths are measured, for each vector, so the bound holds for these vectors and not for typical ones."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from image_similarity.knn.compiled import compiled
from image_similarity.knn.distances import GRID, Bits, Metric, Reals, Values, Vectors

_FLOAT32_U = 2.0**-24
# Of lengths that were themselves computed with roundings.
_GENEROUS = 1.0 + 1e-5


@dataclass(frozen=True)
class Copies:
    """Vectors in the precision of a screen.

    ``low``: (n, d); ``error``: (n,) how far each is from its vector; ``length``: (n,) of vector or copy, the larger;
    ``half``: (n,) half of its squared length, for the euclidean distance, else 0.
    """

    low: Any
    error: Reals
    length: Reals
    half: Values

    def __len__(self) -> int:
        return len(self.half)


@dataclass(frozen=True)
class Screen:
    """One precision: how (n, d) float32 is copied, how copies are multiplied, and what that loses at most."""

    name: str
    copied: Callable[[Values], tuple[Any, Reals]]
    """(n, d) float32 -> copies, and how far each is from what was copied (n,)."""
    product: Callable[[Any, Any, Values], Values]
    """Copies (a, d), (b, d) and room for (a, b) float32 -> their product, there or elsewhere."""
    lost_by_adding: float
    """Per dimension, relative to the lengths."""
    lost_at_the_end: float
    """Relative to the score: the product may be given in low precision, too."""
    spare: float
    """Candidates kept beyond the k that are wanted, as a share of k; the less is certain, the more are needed."""
    bytes_per_value: int


def _float32_copied(rows: Values) -> tuple[Values, Reals]:
    return rows, np.zeros(len(rows))


def _float32_product(a: Values, b: Values, room: Values) -> Values:
    return np.matmul(a, b.T, out=room[: len(a), : len(b)]) if room.shape[1] == len(b) else a @ b.T


def _bfloat16_copied(rows: Values) -> tuple[Any, Reals]:
    import torch  # seconds to import, and only this precision needs it

    whole = torch.from_numpy(rows)
    low = whole.to(torch.bfloat16)
    return low, torch.linalg.vector_norm(whole - low, dim=1, dtype=torch.float64).numpy()


def _bfloat16_product(a: Any, b: Any, room: Values) -> Values:
    product: Values = (a @ b.T).float().numpy()
    return product


FLOAT32 = Screen("float32", _float32_copied, _float32_product, _FLOAT32_U, 0.0, 0.5, 4)
# Instructions that multiply bfloat16 add in float32, but may round twice; the result is rounded to bfloat16.
BFLOAT16 = Screen("bfloat16", _bfloat16_copied, _bfloat16_product, 2 * _FLOAT32_U, 2.0**-8, 1.0, 2)
SCREENS = {screen.name: screen for screen in (BFLOAT16, FLOAT32)}


def candidate_count(k: int, screen: Screen) -> int:
    """How many of each list are kept while k are wanted: those that scores cannot tell apart, and spares for
    deletions."""
    return k + int(k * screen.spare) + 8 if k else 0


def copies(vectors: Vectors, metric: Metric, screen: Screen, common_scale: float) -> Copies:
    """``vectors`` for ``screen``. ``common_scale``: see `scale_of`."""
    rows = np.empty(vectors.values.shape, dtype=np.float32)
    error, length = np.empty(len(rows)), np.empty(len(rows))
    _scaled(vectors.values, vectors.shift, vectors.scale * common_scale, rows, error, length)
    low, rounding = screen.copied(rows)
    error = (error + rounding) * _GENEROUS
    half = np.zeros(len(rows)) if metric.angular else length * length / 2
    return Copies(low, error, (length + error) * _GENEROUS, half.astype(np.float32))


@compiled()
def _scaled(values, shift, scale, rows, error, length):  # type: ignore[no-untyped-def]
    n, d = values.shape
    for i in range(n):
        lost, squared = 0.0, 0.0
        for c in range(d):
            exact = (np.float64(values[i, c]) - shift[i]) * scale[i]
            rounded = np.float32(exact)
            rows[i, c] = rounded
            lost += (exact - rounded) ** 2
            squared += exact * exact
        error[i] = np.sqrt(lost)
        length[i] = np.sqrt(squared)


def scale_of(largest: float, dimensions: int, metric: Metric) -> float:
    """The power of two that brings every vector, none of whose values exceeds ``largest``, to a length of 1 or less."""
    if metric.angular or largest == 0:
        return 1.0
    return float(2.0 ** -np.ceil(np.log2(largest) + np.log2(dimensions) / 2 + 1e-9))


def bounds(a: Copies, b: Copies, screen: Screen, dimensions: int) -> Values:
    """For each of ``a`` (n,) how wrong its scores against any of ``b`` can be."""
    longest, worst = float(b.length.max()), float(b.error.max())
    lost = dimensions * screen.lost_by_adding
    of_product = a.error * longest + a.length * worst + a.length * longest * lost
    if a.half.any() or b.half.any():
        # What is rounded at the end is the product; the score is what halves leave of it, and may be much smaller.
        of_product = of_product + a.length * longest * screen.lost_at_the_end
    of_halves = 4 * _FLOAT32_U * (a.half + float(b.half.max()) + a.length * longest)
    # 1e-30: numbers so small that processors take them for 0. Rounded up to the next float32.
    return np.nextafter(((of_product + of_halves) * _GENEROUS + 1e-30).astype(np.float32), np.float32(np.inf))


def score_at(metric: Metric, distance: Reals, common_scale: float) -> Values:
    """The score of pairs at ``distance`` (n,), as nearly as scores are given; -inf where that is nan."""
    score = 1.0 - distance if metric.angular else -np.square(distance * common_scale) / 2
    return np.where(np.isnan(distance), -np.inf, score).astype(np.float32)


def nearest_possible(metric: Metric, scores: Reals, common_scale: float) -> Bits:
    """The least distance that a pair can have whose score is at most ``scores``; +inf scores have distance 0, -inf the
    largest."""
    if metric.angular:
        distance = np.clip(np.rint((1.0 - scores) * GRID - 1e-6), 0.0, 2.0 * GRID) / GRID
    else:
        distance = np.sqrt(np.maximum(-2.0 * scores, 0.0)) * ((1.0 - 1e-12) / common_scale)
    distance = np.where(np.isneginf(scores), np.inf, distance) + 0.0
    return distance.astype(np.float32).view(np.uint32)


def farthest_possible(metric: Metric, scores: Reals, common_scale: float) -> Bits:
    """The greatest distance that a pair can have whose score is at least ``scores``."""
    if metric.angular:
        distance = np.clip(np.rint((1.0 - scores) * GRID + 1e-6), 0.0, 2.0 * GRID) / GRID
    else:
        distance = np.sqrt(np.maximum(-2.0 * scores, 0.0)) * ((1.0 + 1e-12) / common_scale)
    return (np.where(np.isposinf(scores), 0.0, distance) + 0.0).astype(np.float32).view(np.uint32)
