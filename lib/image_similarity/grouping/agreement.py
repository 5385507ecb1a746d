"""How much two pictures disagree, told from their thumbprints: grey pictures of 32 x 32 pixels.

A fingerprint says that two pictures look alike. Whether one is a copy of the other is told from the pictures: a copy
that was resized, compressed, cropped, framed, turned a little, mirrored, or made grey or brighter agrees with its
original once the two are aligned.

Two thumbprints are compared as they are and mirrored. Then one is aligned with the other by an affine map, found by
Gauss-Newton steps on the squared differences, with gain and offset of the grey values free (Lucas and Kanade: An
iterative image registration technique, IJCAI 1981; Evangelidis and Psarakis: Parametric image alignment using enhanced
correlation coefficient maximization, PAMI 2008), on blurred pictures first, from several sizes, in both directions.
A band at the upper or the lower end may be left out: captions are there.
"""

import numpy as np
from numpy.typing import NDArray

from image_similarity.knn.compiled import compiled

SIDE = 32
"""Of a thumbprint, in pixels."""
DETAIL_WEIGHT = 0.2
"""Of the disagreement of details. Details of copies that were cropped or turned agree less: they are interpolated."""
CERTAIN = 0.006
"""Disagreement at which two pictures are copies however far their vectors are."""
ENOUGH = 0.002
"""Of two that disagree less, the least disagreement is not looked for."""

_BAND = 5
"""Rows that a caption may take."""
_SCALES = (1.0, 0.94, 0.88, 0.82)
"""Sizes from which the alignment begins: what a crop or a frame leaves of a picture."""
_STARTS = 4 * len(_SCALES)
_TRIED = 3
"""Alignments that are tried, of those that begin best."""
_LEAST_START = 0.4
"""The least correlation of blurred pictures, once aligned, with which the alignment goes on."""
_LEAST_SHARE = 0.6
"""The least share of a picture that the other must cover."""
_MAY_AGREE = 0.9
"""The least correlation of some pixels in pictures that agree almost entirely. Of such it is 0.97 and more."""
_FLAT, _FLAT_DETAIL = 1.0, 0.05
"""Variances of grey values, below which a picture shows nothing."""


def disagreement(
    thumbprints: NDArray[np.uint8], a: NDArray[np.integer], b: NDArray[np.integer], align: bool = True
) -> NDArray[np.float32]:
    """(m,) float32, from 0: how much pictures ``a[i]`` and ``b[i]`` disagree at best, in either order.

    The greater of 1 - r of the grey values and a fifth of 1 - r of the details (what blurring takes away), r being
    Pearson's correlation over the common part. 1 where one of the two shows nothing but one grey, which agrees with
    nothing. ``thumbprints``: (n, 1024), row by row. ``align``: whether to align them, which takes some 1 ms for a pair
    of strangers; otherwise they are compared as they are, and mirrored, and 1 stands for more than `CERTAIN`.
    """
    values = np.empty(len(a), dtype=np.float32)
    pictures = thumbprints.reshape(-1, SIDE, SIDE)
    _disagreements(pictures, a.astype(np.int64), b.astype(np.int64), _TRIED if align else 0, values)
    return values


@compiled()
def _disagreements(pictures, a, b, tried, values):  # type: ignore[no-untyped-def]
    for i in range(len(a)):
        first, second = a[i], b[i]
        if _is_before(pictures[second], pictures[first]):  # so that the order, which is one of names, does not matter
            first, second = second, first
        if tried == 0 and not (
            _may_agree(pictures[first], pictures[second], 1) or _may_agree(pictures[first], pictures[second], -1)
        ):
            values[i] = 1.0
            continue
        values[i] = _disagreement(pictures[first].astype(np.float64), pictures[second].astype(np.float64), tried)


@compiled()
def _may_agree(x, y, direction):  # type: ignore[no-untyped-def]
    """Whether some pixels are correlated as those of pictures that agree by `CERTAIN` are, a band at an end left out.

    ``direction``: -1 mirrors ``y``. A quick test, which most pairs of strangers fail.
    """
    sum_x = sum_y = square_x = square_y = product = 0.0
    count = 0
    for i in range(_BAND, SIDE - _BAND, 2):
        for j in range(i % 4 // 2, SIDE, 4):
            value, other = np.float64(x[i, j]), np.float64(y[i, j if direction > 0 else SIDE - 1 - j])
            sum_x += value
            sum_y += other
            square_x += value * value
            square_y += other * other
            product += value * other
            count += 1
    both = (square_x - sum_x * sum_x / count) * (square_y - sum_y * sum_y / count)
    return product - sum_x * sum_y / count >= _MAY_AGREE * np.sqrt(max(both, 0.0))


@compiled()
def _is_before(x, y):  # type: ignore[no-untyped-def]
    for i in range(SIDE):
        for j in range(SIDE):
            if x[i, j] != y[i, j]:
                return x[i, j] < y[i, j]
    return False


@compiled()
def _disagreement(x, y, tried):  # type: ignore[no-untyped-def]
    mirrored = x[:, ::-1].copy()
    if tried == 0 and not (_is_certain(x, y) or _is_certain(mirrored, y)):
        return 1.0
    blurred_x, blurred_y = _blurred(_blurred(x)), _blurred(_blurred(y))
    detail_x, detail_y = x - blurred_x, y - blurred_y
    blurred_mirrored, detail_mirrored = blurred_x[:, ::-1].copy(), detail_x[:, ::-1].copy()
    best = min(
        _compared(x, y, detail_x, detail_y, _identity(1.0)),
        _compared(mirrored, y, detail_mirrored, detail_y, _identity(1.0)),
    )
    if best <= ENOUGH or tried == 0:
        return best
    begins = np.empty(_STARTS)
    for start in range(_STARTS):
        by = _identity(_SCALES[start // 4])
        one = blurred_mirrored if start & 2 else blurred_x
        if start & 1:
            begins[start] = _correlation(blurred_y, one, by, 0, SIDE, _FLAT)
        else:
            begins[start] = _correlation(one, blurred_y, by, 0, SIDE, _FLAT)
    order = np.argsort(-begins)
    for start in order[:tried]:
        by = _identity(_SCALES[start // 4])
        one, blurred, detail = x, blurred_x, detail_x
        if start & 2:
            one, blurred, detail = mirrored, blurred_mirrored, detail_mirrored
        if start & 1:
            best = min(best, _aligned(y, one, blurred_y, blurred, detail_y, detail, by))
        else:
            best = min(best, _aligned(one, y, blurred, blurred_y, detail, detail_y, by))
        if best <= ENOUGH:
            break
    return best


@compiled()
def _is_certain(x, y):  # type: ignore[no-untyped-def]
    """Whether the grey values agree by `CERTAIN`, as they are; a band at one end may be left out."""
    by = _identity(1.0)
    for band in range(3):
        top, bottom = _BAND if band == 1 else 0, SIDE - _BAND if band == 2 else SIDE
        if 1.0 - _correlation(x, y, by, top, bottom, _FLAT) <= CERTAIN:
            return True
    return False


@compiled()
def _identity(scale):  # type: ignore[no-untyped-def]
    """An affine map around the middle: shift, x and y along the first axis; then the same of the second."""
    return np.array([0.0, scale, 0.0, 0.0, 0.0, scale])


@compiled()
def _blurred(picture):  # type: ignore[no-untyped-def]
    """Each pixel with a half of itself and a quarter of each neighbour, along both axes."""
    rows, both = np.empty_like(picture), np.empty_like(picture)
    for i in range(SIDE):
        for j in range(SIDE):
            left, right = max(j - 1, 0), min(j + 1, SIDE - 1)
            rows[i, j] = 0.25 * (picture[i, left] + 2.0 * picture[i, j] + picture[i, right])
    for i in range(SIDE):
        above, below = max(i - 1, 0), min(i + 1, SIDE - 1)
        for j in range(SIDE):
            both[i, j] = 0.25 * (rows[above, j] + 2.0 * rows[i, j] + rows[below, j])
    return both


@compiled()
def _compared(x, y, detail_x, detail_y, by):  # type: ignore[no-untyped-def]
    """The disagreement of ``x`` and of ``y`` mapped ``by``; a band at one end may be left out."""
    best = 1.0
    for band in range(3):
        top, bottom = _BAND if band == 1 else 0, SIDE - _BAND if band == 2 else SIDE
        grey = _correlation(x, y, by, top, bottom, _FLAT)
        if 1.0 - grey < best:
            detail = _correlation(detail_x, detail_y, by, top, bottom, _FLAT_DETAIL)
            best = min(best, max(1.0 - grey, DETAIL_WEIGHT * (1.0 - detail)))
    return max(best, 0.0)


@compiled()
def _correlation(x, y, by, top, bottom, flat):  # type: ignore[no-untyped-def]
    """Pearson's correlation of ``x`` and of ``y`` mapped ``by``, in the rows from ``top`` to ``bottom``.

    0 where one has no variance to speak of; -1 where they have too little in common.
    """
    middle = (SIDE - 1) / 2.0
    sum_x = sum_y = square_x = square_y = product = 0.0
    count = 0
    for i in range(top, bottom):
        for j in range(SIDE):
            u, v = j - middle, i - middle
            across, down = by[0] + by[1] * u + by[2] * v + middle, by[3] + by[4] * u + by[5] * v + middle
            if across < 0.0 or down < 0.0 or across > SIDE - 1 or down > SIDE - 1:
                continue
            left, above = min(int(across), SIDE - 2), min(int(down), SIDE - 2)
            right_share, below_share = across - left, down - above
            upper = y[above, left] * (1.0 - right_share) + y[above, left + 1] * right_share
            lower = y[above + 1, left] * (1.0 - right_share) + y[above + 1, left + 1] * right_share
            value, other = x[i, j], upper * (1.0 - below_share) + lower * below_share
            sum_x += value
            sum_y += other
            square_x += value * value
            square_y += other * other
            product += value * other
            count += 1
    if count < _LEAST_SHARE * SIDE * (bottom - top):
        return -1.0
    variance_x, variance_y = square_x / count - (sum_x / count) ** 2, square_y / count - (sum_y / count) ** 2
    if variance_x <= flat or variance_y <= flat:
        return 0.0
    return (product / count - (sum_x / count) * (sum_y / count)) / np.sqrt(variance_x * variance_y)


@compiled()
def _aligned(x, y, blurred_x, blurred_y, detail_x, detail_y, by):  # type: ignore[no-untyped-def]
    """The disagreement once ``y`` is aligned with ``x``; 1 if it cannot be."""
    coarse, by = _align(blurred_x, blurred_y, by, 10)
    if coarse < _LEAST_START:
        return 1.0
    _, by = _align(x, y, by, 8)
    return _compared(x, y, detail_x, detail_y, by) if _is_plausible(by) else 1.0


@compiled()
def _align(x, y, by, steps):  # type: ignore[no-untyped-def]
    """The correlation after some Gauss-Newton steps, and the map."""
    best, best_by = _correlation(x, y, by, 0, SIDE, _FLAT), by
    for number in range(steps):
        solution = _step(x, y, by)
        gain = solution[6]
        if gain <= 0.05:
            break
        change = solution[:6] / gain
        if abs(change[0]) > 5.0 or abs(change[3]) > 5.0:
            break
        by = by + change
        if not _is_plausible(by):
            break
        correlation = _correlation(x, y, by, 0, SIDE, _FLAT)
        if correlation > best:
            is_small = correlation - best < 1e-4
            best, best_by = correlation, by
            if is_small:
                break
        elif number > 2:
            break
    return best, best_by


@compiled()
def _step(x, y, by):  # type: ignore[no-untyped-def]
    """(8,): the change of the six values of the map times the gain, the gain, and the offset, by least squares."""
    middle = (SIDE - 1) / 2.0
    normal, right, row = np.zeros((8, 8)), np.zeros(8), np.empty(8)
    for i in range(SIDE):
        for j in range(SIDE):
            u, v = j - middle, i - middle
            across, down = by[0] + by[1] * u + by[2] * v + middle, by[3] + by[4] * u + by[5] * v + middle
            if across < 0.0 or down < 0.0 or across > SIDE - 1 or down > SIDE - 1:
                continue
            left, above = min(int(across), SIDE - 2), min(int(down), SIDE - 2)
            right_share, below_share = across - left, down - above
            corner, beside = y[above, left], y[above, left + 1]
            below, opposite = y[above + 1, left], y[above + 1, left + 1]
            slope = (beside - corner) * (1.0 - below_share) + (opposite - below) * below_share
            fall = (below - corner) * (1.0 - right_share) + (opposite - beside) * right_share
            upper = corner * (1.0 - right_share) + beside * right_share
            lower = below * (1.0 - right_share) + opposite * right_share
            row[0], row[1], row[2] = slope, slope * u, slope * v
            row[3], row[4], row[5] = fall, fall * u, fall * v
            row[6], row[7] = upper * (1.0 - below_share) + lower * below_share, 1.0
            for p in range(8):
                right[p] += row[p] * x[i, j]
                for q in range(p + 1):
                    normal[p, q] += row[p] * row[q]
    for p in range(8):
        for q in range(p):
            normal[q, p] = normal[p, q]
        normal[p, p] += 1e-3 * normal[p, p] + 1e-9
    return _solved(normal, right)


@compiled()
def _solved(matrix, right):  # type: ignore[no-untyped-def]
    """The solution for a symmetric positive definite matrix, by Cholesky's method; the same bits on every machine."""
    size = len(right)
    for p in range(size):
        for q in range(p + 1):
            total = matrix[p, q]
            for r in range(q):
                total -= matrix[p, r] * matrix[q, r]
            matrix[p, q] = np.sqrt(max(total, 1e-12)) if p == q else total / matrix[q, q]
    for p in range(size):
        for q in range(p):
            right[p] -= matrix[p, q] * right[q]
        right[p] /= matrix[p, p]
    for p in range(size - 1, -1, -1):
        for q in range(p + 1, size):
            right[p] -= matrix[q, p] * right[q]
        right[p] /= matrix[p, p]
    return right


@compiled()
def _is_plausible(by):  # type: ignore[no-untyped-def]
    """Whether copies differ so: 40 % of the area is cut off at most, and nothing is turned by more than 14 degrees."""
    area = by[1] * by[5] - by[2] * by[4]
    is_sized = 0.6 < area < 1.15 and 0.7 < by[1] < 1.1 and 0.7 < by[5] < 1.1
    is_turned = abs(by[2]) < 0.25 and abs(by[4]) < 0.25 and by[2] * by[4] < 0.004
    return is_sized and is_turned and abs(by[0]) < 5.0 and abs(by[3]) < 5.0
