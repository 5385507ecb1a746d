"""Fast approximate scores, with a proven bound on their error.

A *score* is larger for nearer vectors. For angular metrics it is their product. For the euclidean metric it is the
product less half of both squared lengths, which is minus half of the squared distance. Scores are computed from copies
of the vectors in a precision that the processor multiplies fast. With u a vector and v its copy, the error of a product
of copies is at most

    |u - v| |v'| + |u| |u' - v'| + g |v| |v'|

(Cauchy and Schwarz, twice). The last term is the error of adding d float32 products in any order, g = d 2**-24. All
lengths are measured for each vector, so the bound holds for these very vectors.

For angular metrics all lengths are 1. For the euclidean metric one vector may be far longer than the others. It does
not loosen their bounds: a vector at the distance x of u is at most |u| + x long, so the error of a score is bounded by
the length of u and by the distance itself, too (`best_possible`).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from image_similarity.knn.compiled import compiled
from image_similarity.knn.distances import GRID, Bits, Metric, Reals, Values, Vectors

_FLOAT32_U = 2.0**-24
# Lengths are computed with roundings; this factor makes up for them.
_GENEROUS = 1.0 + 1e-5
# A copy is at most this much longer than its vector. The coarsest precision keeps 8 bits.
_LONGER = 1.0 + 2.0**-7
# Processors may take numbers below this for 0.
_TINY = 2.0**-126
# The error of half of both squared lengths, relative to a squared length, with the roundings of two subtractions.
_OF_SQUARES = 2 * _FLOAT32_U * _LONGER**2
# The longest vector, by the euclidean metric, is scaled to this length or less. Squares of lengths, and sums of them,
# are then far from the greatest float32, and vectors that are shorter by a factor of 1e25 far from the least.
_LONGEST = 2.0**40


@dataclass(frozen=True)
class Copies:
    """Copies of vectors in the precision of a screen.

    ``low``: (n, d) the copies; ``error``: (n,) distance of each copy from its vector; ``length``: (n,) length of vector
    or copy, the larger; ``half``: (n,) half of the squared length for the euclidean metric, else 0.
    ``angular``: whether these are unit vectors.
    """

    low: Any
    error: Reals
    length: Reals
    half: Values
    angular: bool

    def __len__(self) -> int:
        return len(self.half)


@dataclass(frozen=True)
class Screen:
    """One precision: how (n, d) float32 is copied, how copies are multiplied, and the largest errors of this."""

    name: str
    copied: Callable[[Any], tuple[Any, Any]]
    """(n, d) float32 -> copies, and the distance of each from its original (n,)."""
    product: Callable[[Any, Any, Any], Any]
    """Copies (a, d) and (b, d), and a buffer (a, b) float32 -> their product, in the buffer or in a new array."""
    lost_by_adding: float
    """Error of adding, for each dimension, relative to the lengths."""
    lost_at_the_end: float
    """Error of rounding the product to low precision, relative to the score."""
    spare: float
    """Candidates kept beyond k, as a share of k. The larger the errors, the more are needed."""
    bytes_per_value: int
    one_thread: Callable[[], AbstractContextManager[object]] = nullcontext
    """A context in which a product takes one core, as far as that is not for BLAS to say."""


def _float32_copied(rows: Values) -> tuple[Values, Reals]:
    return rows, np.zeros(len(rows))


def _float32_product(a: Values, b: Values, buffer: Values) -> Values:
    return np.matmul(a, b.T, out=buffer)


def _bfloat16_copied(rows: Values) -> tuple[Any, Reals]:
    import torch  # the import takes seconds, and only this precision needs it

    whole = torch.from_numpy(rows)
    low = whole.to(torch.bfloat16)
    return low, torch.linalg.vector_norm(whole - low, dim=1, dtype=torch.float64).numpy()


def _bfloat16_product(a: Any, b: Any, buffer: Values) -> Values:
    import torch

    torch.from_numpy(buffer).copy_(a @ b.T)
    return buffer


@contextmanager
def _one_thread_of_torch() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


FLOAT32 = Screen("float32", _float32_copied, _float32_product, _FLOAT32_U, 0.0, 0.5, 4)
# Instructions that multiply bfloat16 add in float32, but may round twice. The result is rounded to bfloat16.
BFLOAT16 = Screen(
    "bfloat16", _bfloat16_copied, _bfloat16_product, 2 * _FLOAT32_U, 2.0**-8, 1.0, 2, _one_thread_of_torch
)
SCREENS = {screen.name: screen for screen in (BFLOAT16, FLOAT32)}


@dataclass(frozen=True)
class Comparison:
    """How vectors are compared. ``common_scale``: see `scale_of`."""

    metric: Metric
    screen: Screen
    dimensions: int
    common_scale: float


def candidate_count(k: int, screen: Screen) -> int:
    """Candidates that a list of k neighbours keeps. The additional ones are for neighbours that scores cannot tell
    apart, and for deletions.
    """
    return k + int(k * screen.spare) + 8 if k else 0


def copies(vectors: Vectors, metric: Metric, screen: Screen, common_scale: float) -> Copies:
    """Copies of ``vectors`` in the precision of ``screen``. ``common_scale``: see `scale_of`."""
    rows = np.empty(vectors.values.shape, dtype=np.float32)
    error, length = np.empty(len(rows)), np.empty(len(rows))
    _scaled(vectors.values, vectors.shift, vectors.scale * common_scale, rows, error, length)
    low, rounding = screen.copied(rows)
    return measured_copies(low, error + rounding, length, metric)


def measured_copies(low: Any, error: Reals, length: Reals, metric: Metric) -> Copies:
    """``low`` with its measured errors. ``length``: (n,) the lengths of the scaled vectors."""
    error = error * _GENEROUS
    half = np.zeros(len(error)) if metric.angular else length * length / 2
    return Copies(low, error, (length + error) * _GENEROUS, half.astype(np.float32), metric.angular)


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
    """The power of two that scales every vector to a length of 2**40 or less. No value exceeds ``largest``.

    1 for angular metrics, and if ``largest`` is 0.
    """
    if metric.angular or largest == 0:
        return 1.0
    return float(_LONGEST * 2.0 ** -np.ceil(np.log2(largest) + np.log2(dimensions) / 2 + 1e-9))


def lengths(vectors: Vectors, metric: Metric, common_scale: float) -> Reals:
    """(n,): the lengths of the scaled ``vectors``, for `best_possible`; 1 for angular metrics."""
    if metric.angular:
        return np.ones(len(vectors))
    squares: Reals = np.einsum("ij,ij->i", vectors.values, vectors.values, dtype=np.float64)
    return np.sqrt(squares) * (common_scale * _GENEROUS)


@dataclass(frozen=True)
class Extremes:
    """The largest values among copies, on which the errors of scores against them depend.

    ``relative``: the largest error of a copy, as a share of its length.
    """

    length: float = 0.0
    error: float = 0.0
    half: float = 0.0
    relative: float = 0.0

    @classmethod
    def of(cls, copies: Copies, dimensions: int) -> "Extremes":
        tiny = _tiny(dimensions)
        relative = np.divide(copies.error - tiny, copies.length, out=np.zeros(len(copies)), where=copies.error > tiny)
        of_each = copies.length, copies.error, copies.half, relative
        return cls(*(float(values.max(initial=0.0)) for values in of_each))

    def joined(self, other: "Extremes") -> "Extremes":
        return Extremes(
            max(self.length, other.length),
            max(self.error, other.error),
            max(self.half, other.half),
            max(self.relative, other.relative),
        )


def bounds(a: Copies, b: Copies, screen: Screen, dimensions: int) -> Values:
    """(n, 2) float32: for each of ``a`` two bounds on the error of its scores against all of ``b``.

    The largest error; and, for the euclidean metric, the largest error of a product for each unit of the other's length
    (see `best_possible`).
    """
    return bounds_against(a, Extremes.of(b, dimensions), screen, dimensions)


def bounds_against(a: Copies, b: Extremes, screen: Screen, dimensions: int) -> Values:
    """The same as `bounds`, against all copies with the extremes ``b``."""
    lost = dimensions * screen.lost_by_adding
    if not a.angular:
        # The product is rounded at the end. The score is the product less the halves, and may be much smaller.
        lost += screen.lost_at_the_end
    error = a.error * b.length + a.length * b.error + a.length * b.length * lost
    error = error + 4 * _FLOAT32_U * (a.half + b.half + a.length * b.length)
    tiny = _tiny(dimensions)
    error = error + (1e-30 if a.angular else tiny * (a.length + b.length) + 4 * dimensions * _TINY)
    for_each_unit = (a.error + tiny + a.length * (lost + b.relative + 4 * _FLOAT32_U)) * _LONGER
    # The sums are rounded up to the next float32.
    both = np.stack([error, for_each_unit], axis=1) * _GENEROUS
    return np.nextafter(both.astype(np.float32), np.float32(np.inf))


def _tiny(dimensions: int) -> float:
    """The most that a copy loses of its length where its values are tiny."""
    return float(2 * np.sqrt(dimensions) * _TINY)


def best_possible(
    scores: Reals, error: Reals, length: Reals, metric: Metric, screen: Screen, dimensions: int, farthest: bool
) -> Reals:
    """The greatest values that the exact scores can have, where the computed ones are ``scores``.

    ``error`` (..., 2), ``length``: the row's, see `bounds` and `lengths`. ``farthest``: scores of dissimilar
    neighbours, which are negated. Infinite scores stay.
    """
    finite = np.where(np.isinf(scores), 0.0, scores)
    best = finite + np.abs(finite) * screen.lost_at_the_end
    largest, error = np.moveaxis(error, -1, 0)
    by_the_longest = best + largest
    if metric.angular:
        best = by_the_longest
    else:
        # The error of a score at the distance x is at most constant + linear x + _OF_SQUARES x**2.
        constant = error * length + 3 * _OF_SQUARES * length**2 + _tiny(dimensions) * length + 4 * dimensions * _TINY
        linear = error + 2 * _OF_SQUARES * length
        if farthest:  # x**2 / 2 is at most best, and that error
            share, rest = 0.5 - _OF_SQUARES, np.maximum(best + constant, 0.0)
            distance = (linear + np.sqrt(linear**2 + 4 * share * rest)) / (2 * share)
            best = distance**2 / 2 * (1.0 + 1e-12)
        else:  # x**2 / 2 is at least -best, less that error
            share, rest = 0.5 + _OF_SQUARES, np.maximum(-best - constant, 0.0)
            distance = 2 * rest / (linear + np.sqrt(linear**2 + 4 * share * rest))
            best = -(distance**2) / 2 * (1.0 - 1e-12)
        best = np.minimum(best, by_the_longest)
    return np.where(np.isinf(scores), scores, best)


def score_at(metric: Metric, distance: Reals, common_scale: float) -> Values:
    """The score of pairs at ``distance`` (n,), to the precision of scores; -inf where ``distance`` is nan."""
    score = 1.0 - distance if metric.angular else -np.square(distance * common_scale) / 2
    return np.where(np.isnan(distance), -np.inf, score).astype(np.float32)


def nearest_possible(metric: Metric, scores: Reals, common_scale: float) -> Bits:
    """The least possible distance of a pair whose score is at most ``scores``. A score of +inf gives distance 0, -inf
    the largest distance.
    """
    if metric.angular:
        distance = np.clip(np.rint((1.0 - scores) * GRID - 1e-6), 0.0, 2.0 * GRID) / GRID
    else:
        distance = np.sqrt(np.maximum(-2.0 * scores, 0.0)) * ((1.0 - 1e-12) / common_scale)
    distance = np.where(np.isneginf(scores), np.inf, distance) + 0.0
    return distance.astype(np.float32).view(np.uint32)


def farthest_possible(metric: Metric, scores: Reals, common_scale: float) -> Bits:
    """The greatest possible distance of a pair whose score is at least ``scores``."""
    if metric.angular:
        distance = np.clip(np.rint((1.0 - scores) * GRID + 1e-6), 0.0, 2.0 * GRID) / GRID
    else:
        distance = np.sqrt(np.maximum(-2.0 * scores, 0.0)) * ((1.0 + 1e-12) / common_scale)
    return (np.where(np.isposinf(scores), 0.0, distance) + 0.0).astype(np.float32).view(np.uint32)
