"""The distance of two vectors: of single pairs and of whole blocks, to the last bit the same.

A distance is computed in float64 and rounded once. Cosine and correlation distances (1 - similarity, in [0, 2]) are
rounded to the nearest multiple of 2**-23, which float32 holds exactly. Euclidean distances are rounded to float32. The
rounded value *is* the distance. It is finite: vectors so long that a distance might exceed float32 are not compared.

Sums are fast if their terms may be added in any order, but then their last bits depend on the processor and on how a
matrix was cut. A pair is *doubtful* if these bits could change the rounded value; about one pair in 100,000 is. The sum
of a doubtful pair is computed again, term after term. So a distance depends on its two vectors alone.

Distances are not negative, so the bits of a float32, read as an integer, have the order of its value: `Bits` below.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn.compiled import compiled

Values = NDArray[np.float32]
Reals = NDArray[np.float64]
Indices = NDArray[np.int64]
Bits = NDArray[np.uint32]

GRID = float(2**23)
BITS_MAX = int(np.float32(np.inf).view(np.uint32))

# Half of the unit in the last place of 1.0: the largest relative error of one float64 operation.
_U = 2.0**-53


MAX_LENGTH = float(2**127 - 2**107)
"""The greatest length of a vector for the euclidean metric: no distance of two exceeds the greatest float32."""


@dataclass(frozen=True)
class Metric:
    """A kind of distance. ``angular``: 1 minus the product of unit vectors; else the length of the difference."""

    name: str
    angular: bool
    centred: bool
    """Whether the mean of its values is subtracted from each vector first."""
    unusable_reason: str

    def unusable(self, values: Values) -> NDArray[np.bool_]:
        """(n, d) -> (n,) bool: vectors without such a distance.

        For angular metrics the length (after centring) is 0; else it exceeds `MAX_LENGTH`, or a value is not finite.
        """
        if not self.angular:
            squares = np.einsum("ij,ij->i", values, values, dtype=np.float64)
            too_long: NDArray[np.bool_] = ~(squares <= MAX_LENGTH**2)
            return too_long
        centre = values[:, :1] if self.centred else np.float32(0)
        unusable: NDArray[np.bool_] = np.logical_and.reduce(values == centre, axis=1)
        return unusable


METRICS = {
    metric.name: metric
    for metric in (
        Metric("cosine", True, False, "zero_vector"),
        Metric("correlation", True, True, "constant_vector"),
        Metric("euclidean", False, False, "too_long"),
    )
}


@dataclass(frozen=True)
class Vectors:
    """Vectors, with shift and scale for a metric. The metric compares ``(values - shift) * scale``.

    ``values``: (n, d) float32, as stored; ``shift``, ``scale``: (n,) float64 (0 and 1 for the euclidean distance).
    """

    values: Values
    shift: Reals
    scale: Reals

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice | Indices | NDArray[np.bool_]) -> "Vectors":
        return Vectors(self.values[rows], self.shift[rows], self.scale[rows])

    def rows(self) -> Reals:
        """(n, d) float64: shifted and scaled vectors. For angular metrics their length is 1."""
        scaled: Reals = (self.values - self.shift[:, None]) * self.scale[:, None]
        return scaled


def measured(values: Values, metric: Metric) -> Vectors:
    """``values`` (n, d) with shift and scale for ``metric``. None of them may be `Metric.unusable`."""
    values = np.ascontiguousarray(values)
    shift, scale = np.zeros(len(values)), np.ones(len(values))
    if metric.angular:
        _measure(values, metric.centred, shift, scale)
    return Vectors(values, shift, scale)


@compiled()
def _measure(values, centred, shift, scale):  # type: ignore[no-untyped-def]
    n, d = values.shape
    for i in range(n):
        if centred:
            total = 0.0
            for c in range(d):
                total += np.float64(values[i, c])
            shift[i] = total / d
        scale[i] = 1.0 / np.sqrt(_product_in_order(values[i], shift[i], values[i], shift[i]))


# Each sum is written twice: numba's cache finds a compiled function by its name, so one body cannot be cached with two
# sets of options.


@compiled()
def _product_in_order(x, shift_x, y, shift_y):  # type: ignore[no-untyped-def]
    total = 0.0
    for c in range(len(x)):
        total += (np.float64(x[c]) - shift_x) * (np.float64(y[c]) - shift_y)
    return total


@compiled(any_order=True)
def _product(x, shift_x, y, shift_y):  # type: ignore[no-untyped-def]
    total = 0.0
    for c in range(len(x)):
        total += (np.float64(x[c]) - shift_x) * (np.float64(y[c]) - shift_y)
    return total


@compiled()
def _square_in_order(x, y):  # type: ignore[no-untyped-def]
    total = 0.0
    for c in range(len(x)):
        difference = np.float64(x[c]) - np.float64(y[c])
        total += difference * difference
    return total


@compiled(any_order=True)
def _square(x, y):  # type: ignore[no-untyped-def]
    total = 0.0
    for c in range(len(x)):
        difference = np.float64(x[c]) - np.float64(y[c])
        total += difference * difference
    return total


def slack(dimensions: int) -> float:
    """How much two orders of adding may differ: for products of unit vectors, and as a share of squared differences.

    Two orders of adding d products of unit vectors differ by at most 2 d u; the scales and 1 - x add little.
    """
    return (2 * dimensions + 16) * _U


def slack_of_squares(dimensions: int) -> float:
    """The error of a squared distance that is |a|^2 + |b|^2 - 2 a b, as a share of |a|^2 + |b|^2.

    The error of the product is at most d u |a| |b| <= d u (|a|^2 + |b|^2) / 2. The errors of the squares are as large.
    The error of the sum of squared differences, which defines the distance, is twice that. A few roundings are added.
    """
    return (5 * dimensions + 32) * _U


@compiled()
def _angular_pairs(a, shift_a, scale_a, b, shift_b, scale_b, rows, columns, unit, doubt_all, distances):  # type: ignore[no-untyped-def]
    slack = GRID * (2 * a.shape[1] + 16) * unit
    for p in range(len(rows)):
        i, j = rows[p], columns[p]
        scale = scale_a[i] * scale_b[j]
        steps = (1.0 - _product(a[i], shift_a[i], b[j], shift_b[j]) * scale) * GRID
        nearest = np.rint(steps)
        if doubt_all or abs(steps - nearest) > 0.5 - slack:
            nearest = np.rint((1.0 - _product_in_order(a[i], shift_a[i], b[j], shift_b[j]) * scale) * GRID)
        # Adding 0.0 turns -0.0, whose bits would not be in order, into 0.0.
        distances[p] = min(max(nearest, 0.0), 2.0 * GRID) / GRID + 0.0


@compiled()
def _euclidean_pairs(a, b, rows, columns, unit, doubt_all, distances):  # type: ignore[no-untyped-def]
    slack = (2 * a.shape[1] + 16) * unit
    for p in range(len(rows)):
        i, j = rows[p], columns[p]
        squared = _square(a[i], b[j])
        low, high = np.float32(np.sqrt(squared * (1.0 - slack))), np.float32(np.sqrt(squared * (1.0 + slack)))
        if doubt_all or low != high:
            low = np.float32(np.sqrt(_square_in_order(a[i], b[j])))
        distances[p] = low


def pairs(metric: Metric, a: Vectors, b: Vectors, rows: Indices, columns: Indices, doubt_all: bool = False) -> Bits:
    """Distances of the pairs (``rows[p]`` of ``a``, ``columns[p]`` of ``b``). ``doubt_all``: every pair is doubtful."""
    distances = np.empty(len(rows), dtype=np.float32)
    if metric.angular:
        _angular_pairs(a.values, a.shift, a.scale, b.values, b.shift, b.scale, rows, columns, _U, doubt_all, distances)
    else:
        _euclidean_pairs(a.values, b.values, rows, columns, _U, doubt_all, distances)
    return distances.view(np.uint32)


def best_of_block(
    metric: Metric, a: Vectors, b: Vectors, own: Indices, index: Indices, similar: int, dissimilar: int
) -> tuple[tuple[Values, Indices], tuple[Values, Indices]]:
    """The nearest ``similar`` and the farthest ``dissimilar`` of ``b`` for each of ``a``, from one float64 product.

    ``own``, ``index``: the indices of ``a`` and ``b``; a vector is not its own neighbour. Returns distances (n, k) and
    indices (n, k), best first; -1 where there are fewer than k others. The same as the best of `block`, but only
    products that can be among the best are turned into distances.
    """
    product = a.rows() @ b.rows().T
    lists = [
        (np.full((len(a), k), worst, dtype=np.float32), np.full((len(a), k), -1))
        for k, worst in ((similar, np.inf), (dissimilar, -np.inf))
    ]
    (near, near_index), (far, far_index) = lists
    of_lists = near, near_index, far, far_index
    if metric.angular:
        of_vectors = a.values, a.shift, a.scale, b.values, b.shift, b.scale
        _angular_best(product, slack(a.values.shape[1]) * GRID, *of_vectors, own, index, *of_lists)
    else:
        squares_a, squares_b = (np.square(of.rows()).sum(axis=1) for of in (a, b))
        error = slack_of_squares(a.values.shape[1])
        _euclidean_best(product, squares_a, squares_b, error, a.values, b.values, own, index, *of_lists)
    return lists[0], lists[1]


_RUN = 32  # products that are tested together


@compiled()
def _insert(distances, indices, i, distance, index, sign):  # type: ignore[no-untyped-def]
    """Put an entry into the list ``i``, which is ordered by ``sign`` times the distance, then by index."""
    place = distances.shape[1] - 1
    last = sign * distances[i, place]
    if sign * distance > last or (sign * distance == last and index > indices[i, place]):
        return
    while place > 0 and (
        sign * distance < sign * distances[i, place - 1]
        or (distance == distances[i, place - 1] and index < indices[i, place - 1])
    ):
        distances[i, place], indices[i, place] = distances[i, place - 1], indices[i, place - 1]
        place -= 1
    distances[i, place], indices[i, place] = distance, index


@compiled()
def _angular_best(  # type: ignore[no-untyped-def]
    product, slack, a, shift_a, scale_a, b, shift_b, scale_b, own, index, near, near_index, far, far_index
):
    columns, k, m = product.shape[1], near.shape[1], far.shape[1]
    for i in range(product.shape[0]):
        for start in range(0, columns, _RUN):
            end = min(start + _RUN, columns)
            # A step of the grid makes up for all rounding.
            least = 1.0 - np.float64(near[i, k - 1]) - 1.0 / GRID if k else np.inf
            most = 1.0 - np.float64(far[i, m - 1]) + 1.0 / GRID if m else -np.inf
            any_passes = False
            for j in range(start, end):
                any_passes |= (product[i, j] >= least) | (product[i, j] <= most)
            if any_passes:
                for j in range(start, end):
                    if (product[i, j] >= least or product[i, j] <= most) and own[i] != index[j]:
                        steps = (1.0 - product[i, j]) * GRID
                        nearest = np.rint(steps)
                        if abs(steps - nearest) > 0.5 - slack:
                            in_order = _product_in_order(a[i], shift_a[i], b[j], shift_b[j])
                            nearest = np.rint((1.0 - in_order * (scale_a[i] * scale_b[j])) * GRID)
                        distance = np.float32(min(max(nearest, 0.0), 2.0 * GRID) / GRID + 0.0)
                        if k:
                            _insert(near, near_index, i, distance, index[j], 1)
                        if m:
                            _insert(far, far_index, i, distance, index[j], -1)


_DENORMAL = 2.0**-149  # the least float32


@compiled()
def _euclidean_best(  # type: ignore[no-untyped-def]
    product, squares_a, squares_b, slack, a, b, own, index, near, near_index, far, far_index
):
    columns, k, m = product.shape[1], near.shape[1], far.shape[1]
    for i in range(product.shape[0]):
        for start in range(0, columns, _RUN):
            end = min(start + _RUN, columns)
            # These make up for distances that are rounded to float32: the second for the least of them.
            most = (np.float64(near[i, k - 1]) + _DENORMAL) ** 2 * (1.0 + 2.0**-20) if k else -np.inf
            least = max(np.float64(far[i, m - 1]) - _DENORMAL, 0.0) ** 2 * (1.0 - 2.0**-20) if m else np.inf
            any_passes = False
            for j in range(start, end):
                both = squares_a[i] + squares_b[j]
                squared, error = both - 2.0 * product[i, j], both * slack
                any_passes |= (squared - error <= most) | (squared + error >= least)
            if any_passes:
                for j in range(start, end):
                    both = squares_a[i] + squares_b[j]
                    squared, error = both - 2.0 * product[i, j], both * slack
                    if (squared - error <= most or squared + error >= least) and own[i] != index[j]:
                        distance = np.float32(np.sqrt(max(squared - error, 0.0)))
                        if distance != np.float32(np.sqrt(max(squared + error, 0.0))):
                            distance = np.float32(np.sqrt(_square_in_order(a[i], b[j])))
                        if k:
                            _insert(near, near_index, i, distance, index[j], 1)
                        if m:
                            _insert(far, far_index, i, distance, index[j], -1)


def block(metric: Metric, a: Vectors, b: Vectors) -> Bits:
    """All distances between ``a`` and ``b``: (len(a), len(b)), from one float64 product."""
    product = a.rows() @ b.rows().T
    distances, doubtful = _angular(product, a.values.shape[1]) if metric.angular else _euclidean(product, a, b)
    bits = distances.view(np.uint32)
    bits[doubtful] = pairs(metric, a, b, doubtful[0], doubtful[1], doubt_all=True)
    return bits


def _angular(product: Reals, dimensions: int) -> tuple[Values, tuple[Indices, ...]]:
    steps = (1.0 - product) * GRID
    nearest = np.rint(steps)
    doubtful = np.nonzero(np.abs(steps - nearest) > 0.5 - GRID * slack(dimensions))
    return (np.clip(nearest, 0.0, 2.0 * GRID) / GRID + 0.0).astype(np.float32), doubtful


def _euclidean(product: Reals, a: Vectors, b: Vectors) -> tuple[Values, tuple[Indices, ...]]:
    squares = np.square(a.rows()).sum(axis=1)[:, None] + np.square(b.rows()).sum(axis=1)[None, :]
    squared, error = squares - 2.0 * product, squares * slack_of_squares(a.values.shape[1])
    low = np.sqrt(np.maximum(squared - error, 0.0)).astype(np.float32)
    high = np.sqrt(np.maximum(squared + error, 0.0)).astype(np.float32)
    return low, np.nonzero(low != high)
