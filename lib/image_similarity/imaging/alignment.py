"""Which place of one picture is which of another, where one may be an edit of the other.

Mirror images and quarter turns are tried on tiny copies. What is left of scales, a shift and a small angle is found by
Gauss-Newton steps on luminance, from coarse to fine: gain and offset of the tones are unknowns, too, and weights leave
out what was painted over (Baker and Matthews, Lucas-Kanade 20 Years On, 2004; Evangelidis and Psarakis, 2008). Whether
the two then have the same detail is asked of each tile by itself, so that a caption spoils its own tiles only.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Plane = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Matrix = npt.NDArray[np.float64]

COARSE, MIDDLE, FINE = 32, 64, 320
"""Pixels of a picture's longer side at which the search is made, at which it is made better, and decided."""
TILES = 10
"""Tiles along a picture's longer side."""
TEXTURE = 8.0
"""Standard deviation of luminance (0 to 255) above which a tile has detail that can be compared."""
SAME_DETAIL = 0.85
"""Correlation of a tile of both pictures from which on its detail is the same."""
LEAST_OVERLAP = 0.35
"""Share of a picture that the other must show."""

MOST_ANGLE = 0.21
"""Radians. Edits turn a picture by less, or by quarters; a camera that was held otherwise saw something else."""

_TOLD_APART = 0.15
"""Correlations of tiny copies that differ by less do not tell which orientation is right."""
_ALL_THERE = 0.97
_SQUASHED = 24
_HOPELESS = 0.3
_FEWEST_POINTS = 60
_STARTS_FOLLOWED = 3
_SURE_ENOUGH, _CLOSE_ENOUGH = 0.9, 0.96
"""Of `Tiles.same` and `Tiles.score`: no other orientation, and no other start, needs to be tried."""
_ANGLES = (-0.1, -0.05, 0.05, 0.1)
_SHARES = (1.0, 0.94, 0.86, 0.78)
_MOST_IN_A_STEP = 0.08


class View:
    """The luminance of a picture, at several sizes. Lengths are in units of its longer side."""

    def __init__(self, luminance: Image.Image):
        self.luminance = luminance
        self.pixels = max(luminance.size)
        self.width, self.height = luminance.width / self.pixels, luminance.height / self.pixels
        self._planes: dict[tuple[int, int], Plane] = {}

    def plane(self, per_x: float, per_y: float) -> Plane:
        """With ``per_x`` and ``per_y`` pixels for a unit, float32; it is never enlarged."""
        size = (
            max(2, min(self.luminance.width, round(self.width * per_x))),
            max(2, min(self.luminance.height, round(self.height * per_y))),
        )
        if size not in self._planes:
            self._planes[size] = np.asarray(resized(self.luminance, size), np.float32)
        return self._planes[size]


def resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """``picture`` in ``size``, without aliases."""
    if picture.size == size:
        return picture
    return picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


@dataclass(frozen=True)
class Warp:
    """Where a point of the first picture is in the second: turn(angle) (scale_x x, scale_y y) + (x, y)."""

    scale_x: float
    scale_y: float
    angle: float
    """Radians."""
    x: float
    y: float

    @cached_property
    def linear(self) -> Matrix:
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.array([[cos * self.scale_x, -sin * self.scale_y], [sin * self.scale_x, cos * self.scale_y]])

    def point(self, x: float, y: float) -> tuple[float, float]:
        u, v = self.linear @ (x, y) + (self.x, self.y)
        return float(u), float(v)

    def inverse_point(self, u: float, v: float) -> tuple[float, float]:
        x, y = np.linalg.solve(self.linear, (u - self.x, v - self.y))
        return float(x), float(y)

    @property
    def scale(self) -> float:
        return math.sqrt(self.scale_x * self.scale_y)


def whole(first: View, second: View) -> Warp:
    """All of one picture is all of the other, in another size or stretched."""
    return Warp(second.width / first.width, second.height / first.height, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Overlap:
    """Both pictures on the grid of the first. ``inside``: where the second has a pixel."""

    first: Plane
    second: Plane
    inside: Mask
    per_unit: float


def overlap(first: View, second: View, warp: Warp, per_unit: float) -> Overlap:
    """Both at ``per_unit`` pixels for a unit of the first, or fewer: neither is enlarged."""
    per_unit = min(per_unit, first.pixels, second.pixels * warp.scale)
    base = first.plane(per_unit, per_unit)
    plane = second.plane(per_unit / warp.scale_x, per_unit / warp.scale_y)
    to = grid_matrix(first, second, warp, base.shape, plane.shape)
    seen = Image.fromarray(plane).transform(
        base.shape[::-1], Image.Transform.AFFINE, tuple(to.ravel()), Image.Resampling.BILINEAR
    )
    return Overlap(base, np.asarray(seen), inside(to, base.shape, plane.shape), per_unit)


def grid_matrix(first: View, second: View, warp: Warp, own: tuple[int, ...], other: tuple[int, ...]) -> Matrix:
    """(2, 3): from pixels of an array ``own`` (its shape) of the first to those of an array ``other`` of the second.

    Pixel i reaches from i to i + 1.
    """
    to_units = np.diag([first.width / own[1], first.height / own[0]])
    to_pixels = np.diag([other[1] / second.width, other[0] / second.height])
    return np.column_stack([to_pixels @ warp.linear @ to_units, to_pixels @ (warp.x, warp.y)])


def inside(to: Matrix, own: tuple[int, ...], other: tuple[int, ...]) -> Mask:
    """Which pixels of ``own`` (its shape) lie in ``other``."""
    x, y = np.arange(own[1]) + 0.5, (np.arange(own[0]) + 0.5)[:, None]
    u = to[0, 0] * x + to[0, 1] * y + to[0, 2]
    v = to[1, 0] * x + to[1, 1] * y + to[1, 2]
    edge = 0.499  # the centres of the outermost pixels are inside, whatever rounding does
    mask: Mask = (u >= edge) & (u <= other[1] - edge) & (v >= edge) & (v <= other[0] - edge)
    return mask


@dataclass(frozen=True)
class Tiles:
    """What the tiles of an `Overlap` say; arrays of shape (rows, columns)."""

    means: tuple[Matrix, Matrix]
    """Mean luminance of the two."""
    variances: tuple[Matrix, Matrix]
    correlation: Matrix
    used: Mask
    """Most of the tile is inside."""

    @cached_property
    def texture(self) -> Matrix:
        """The larger standard deviation of the two."""
        return np.sqrt(np.maximum(*self.variances))

    @cached_property
    def textured(self) -> Mask:
        return self.used & (self.texture > TEXTURE)

    @property
    def score(self) -> float:
        """Mean correlation, of detailed tiles more than of others; -1 where the two hardly overlap."""
        if self.used.mean() < LEAST_OVERLAP:
            return -1.0
        weight = np.minimum(self.texture, 30.0) * self.used + 1e-6
        return float((weight * np.maximum(self.correlation, 0)).sum() / weight.sum())

    @property
    def same(self) -> float:
        """Share of the detailed tiles whose detail is the same; 0 where there are none, or the two hardly overlap."""
        if self.used.mean() < LEAST_OVERLAP or not self.textured.any():
            return 0.0
        return float((self.correlation[self.textured] > SAME_DETAIL).mean())


def tiles(both: Overlap, along: int = TILES) -> Tiles:
    """``along`` tiles on the longer side of the first picture."""
    height, width = both.first.shape
    side = max(height, width) / along
    tops, lefts = (np.arange(max(1, round(of / side))) * of // max(1, round(of / side)) for of in (height, width))

    def total(plane: Matrix) -> Matrix:
        sums: Matrix = np.add.reduceat(np.add.reduceat(plane, tops, axis=0), lefts, axis=1)
        return sums

    mask = both.inside.astype(np.float64)
    one, other = (both.first - 128.0) * mask, (both.second - 128.0) * mask
    count = total(mask)
    of = np.maximum(count, 1)
    mean_one, mean_other = total(one) / of, total(other) / of
    var_one = np.maximum(total(one * one) / of - mean_one**2, 0)
    var_other = np.maximum(total(other * other) / of - mean_other**2, 0)
    together = total(one * other) / of - mean_one * mean_other
    correlation = together / np.sqrt(np.maximum(var_one * var_other, 1e-3))
    is_used = count > 0.6 * side * side * min(1.0, height / side, width / side)
    return Tiles((mean_one + 128, mean_other + 128), (var_one, var_other), correlation, is_used)


# -- the search --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Alignment:
    mirrored: bool
    """Left and right of the second picture must be exchanged, before it is turned."""
    quarter_turns: int
    """Turns by 90 degrees to the left that the second picture then needs, 0 to 3."""
    warp: Warp
    """From the first picture to the second, mirrored and turned."""
    first: View
    second: View
    """Mirrored and turned."""
    both: Overlap
    tiles: Tiles
    is_whole: bool
    """All of one is all of the other."""


def oriented(picture: Image.Image, mirrored: bool, quarter_turns: int) -> Image.Image:
    if mirrored:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turns = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    return picture.transpose(turns[quarter_turns - 1]) if quarter_turns else picture


def aligned(first: Image.Image, second: Image.Image) -> Alignment:
    """The best alignment of two pictures of mode L. ``tiles.same`` says how good it is."""
    own, best = View(first), None
    for mirrored, turns in _orientations(first, second):
        other = View(oriented(second, mirrored, turns))
        warp = _search(own, other)
        both = overlap(own, other, warp, FINE)
        candidate = Alignment(mirrored, turns, warp, own, other, both, tiles(both), warp == whole(own, other))
        if best is None or candidate.tiles.same > best.tiles.same:
            best = candidate
        if best.tiles.same > _SURE_ENOUGH:
            break
    assert best is not None
    return best


def _orientations(first: Image.Image, second: Image.Image) -> list[tuple[bool, int]]:
    """The orientations that are worth a search, the most probable first: as it is, and the best other one."""
    size = (_SQUASHED, _SQUASHED)
    one = np.asarray(resized(first, size), np.float64)
    small = resized(second, size)
    scores = {
        (mirrored, turns): _correlation(one, np.asarray(oriented(small, mirrored, turns), np.float64))
        for mirrored in (False, True)
        for turns in range(4)
    }
    as_it_is = scores.pop((False, 0))
    other = max(scores, key=lambda each: scores[each])
    if scores[other] < max(as_it_is - _TOLD_APART, 0.5):
        return [(False, 0)]
    return [other, (False, 0)] if scores[other] > as_it_is + _TOLD_APART else [(False, 0), other]


def _correlation(one: npt.NDArray[np.floating[Any]], other: npt.NDArray[np.floating[Any]]) -> float:
    one, other = one - one.mean(), other - other.mean()
    norm = math.sqrt(float((one * one).sum() * (other * other).sum()))
    return float((one * other).sum()) / norm if norm > 1e-6 else 0.0


def _search(first: View, second: View) -> Warp:
    start = whole(first, second)
    as_it_is = _same(first, second, start)
    if as_it_is > _ALL_THERE:
        return start
    is_stretched = abs(start.scale_x / start.scale_y - 1) > 0.01
    best = _refined(first, second, start, MIDDLE, 12, is_stretched)
    score = _score(first, second, best)
    if score < _CLOSE_ENOUGH and as_it_is < 0.5:
        for begin, stretched in _best_starts(first, second):
            candidate = _refined(first, second, begin, COARSE, 8, stretched)
            candidate = _refined(first, second, candidate, MIDDLE, 8, stretched)
            reached = _score(first, second, candidate)
            if reached > score:
                best, score, is_stretched = candidate, reached, stretched
            if score > _CLOSE_ENOUGH:
                break
    if score > _HOPELESS:
        best = _refined(first, second, best, (MIDDLE + FINE) // 3, 8, is_stretched)
        best = _refined(first, second, best, FINE, 8, is_stretched)
    # What differs in some places only pulls at the others. Where all of one is all of the other, it stays so.
    return best if _same(first, second, best) > as_it_is + 0.03 else start


def _same(first: View, second: View, warp: Warp) -> float:
    return tiles(overlap(first, second, warp, FINE)).same


def _score(first: View, second: View, warp: Warp) -> float:
    return tiles(overlap(first, second, warp, MIDDLE)).score


def _best_starts(first: View, second: View) -> list[tuple[Warp, bool]]:
    ranked = []
    for warp, stretched in dict.fromkeys(_starts(first, second)):
        both = overlap(first, second, warp, COARSE)
        if both.inside.mean() > LEAST_OVERLAP:
            pixels = both.inside
            ranked.append((_correlation(both.first[pixels], both.second[pixels]), warp, stretched))
    ranked.sort(key=lambda each: -each[0])
    return [(warp, stretched) for value, warp, stretched in ranked[:_STARTS_FOLLOWED] if value > _HOPELESS]


def _starts(first: View, second: View) -> Iterator[tuple[Warp, bool]]:
    """Where a search may begin: turned by a small angle, or one picture is a part of the other."""
    all_of_it = whole(first, second)
    if abs(all_of_it.scale_x / all_of_it.scale_y - 1) > 0.01:
        yield all_of_it, True
    middle = all_of_it.scale
    for angle in _ANGLES:
        turned = Warp(middle, middle, angle, 0.0, 0.0)
        x, y = np.array((second.width, second.height)) / 2 - turned.linear @ (first.width / 2, first.height / 2)
        yield replace(turned, x=float(x), y=float(y)), False
    least, most = sorted((all_of_it.scale_x, all_of_it.scale_y))
    for share in _SHARES:
        for scale in (most / share, least * share):
            room_x, room_y = second.width - scale * first.width, second.height - scale * first.height
            for x in (0.0, 0.5, 1.0):
                for y in (0.0, 0.5, 1.0):
                    yield Warp(scale, scale, 0.0, x * room_x, y * room_y), False


def _refined(first: View, second: View, warp: Warp, per_unit: float, steps: int, stretched: bool) -> Warp:
    """Gauss-Newton steps from ``warp``: of one scale and an angle or, if ``stretched``, of two scales without one."""
    if not stretched and warp.scale_x != warp.scale_y:
        middle = warp.scale
        warp = replace(warp, scale_x=middle, scale_y=middle)
    for _ in range(steps):
        step = _step(overlap(first, second, warp, per_unit), first, warp, stretched)
        if step is None:
            return warp
        largest = float(np.abs(step).max())
        step = step * min(1.0, _MOST_IN_A_STEP / max(largest, 1e-12))
        if stretched:
            moved = Warp(warp.scale_x + step[0], warp.scale_y + step[1], 0.0, warp.x + step[2], warp.y + step[3])
        else:
            scale = warp.scale_x + step[0]
            moved = Warp(scale, scale, warp.angle + step[1], warp.x + step[2], warp.y + step[3])
        if not (0.3 < moved.scale_x < 3 and 0.3 < moved.scale_y < 3 and abs(moved.angle) < 2 * MOST_ANGLE):
            return warp
        warp = moved
        if largest * per_unit < 0.02:
            break
    return warp


def _step(both: Overlap, first: View, warp: Warp, stretched: bool) -> npt.NDArray[np.float64] | None:
    """The step of least weighted squares; None where there are too few points, or no detail."""
    height, width = both.first.shape
    stride = max(1, round(max(height, width) / 80))
    rows, columns = slice(1, height - 1, stride), slice(1, width - 1, stride)
    mask = both.inside[rows, columns]
    if mask.sum() < _FEWEST_POINTS:
        return None
    seen = both.second
    right, left = seen[rows, 2::stride][:, : mask.shape[1]], seen[rows, 0 : width - 2 : stride]
    below, above = seen[2::stride, columns][: mask.shape[0]], seen[0 : height - 2 : stride, columns]
    dx = ((right - left)[mask] * (width / first.width / 2)).astype(np.float64)
    dy = ((below - above)[mask] * (height / first.height / 2)).astype(np.float64)
    x = np.broadcast_to((np.arange(1, width - 1, stride) + 0.5) / width * first.width, mask.shape)[mask]
    y = np.broadcast_to(((np.arange(1, height - 1, stride) + 0.5) / height * first.height)[:, None], mask.shape)[mask]
    back = np.linalg.inv(warp.linear)
    gx, gy = dx * back[0, 0] + dy * back[1, 0], dx * back[0, 1] + dy * back[1, 1]  # by places in the second picture
    cos, sin = math.cos(warp.angle), math.sin(warp.angle)
    along, across = (gx * cos + gy * sin) * x, (gy * cos - gx * sin) * y
    if stretched:
        slopes = (along, across, gx, gy)
    else:
        turn = warp.scale_x * (gx * (-sin * x - cos * y) + gy * (cos * x - sin * y))
        slopes = (along + across, turn, gx, gy)
    target, value = both.first[rows, columns][mask].astype(np.float64), seen[rows, columns][mask].astype(np.float64)
    gain, offset, weight = tones(value, target)
    design = np.stack([*(gain * slope for slope in slopes), value, np.ones(len(value))])
    weighted = design * weight
    normal = weighted @ design.T
    normal[np.diag_indices(len(normal))] *= 1 + 1e-4
    try:
        solved = np.linalg.solve(normal, weighted @ (target - gain * value - offset))
    except np.linalg.LinAlgError:
        return None
    step: npt.NDArray[np.float64] = solved[:4]
    return step if np.isfinite(step).all() else None


def tones(
    value: npt.NDArray[np.float64], target: npt.NDArray[np.float64]
) -> tuple[float, float, npt.NDArray[np.float64]]:
    """gain, offset and weights, by which gain * value + offset is most like ``target``."""
    weight, gain, offset = np.ones(len(value)), 1.0, 0.0
    for _ in range(3):
        total = weight.sum()
        mean_value, mean_target = (weight @ value) / total, (weight @ target) / total
        centred = weight * (value - mean_value)
        variance = centred @ value
        gain = min(max(float(centred @ target / variance), 0.25), 4.0) if variance > 1e-6 * total else 1.0
        offset = float(mean_target - gain * mean_value)
        error = np.abs(target - gain * value - offset)
        weight = 1 / (1 + (error / (2.0 + 1.5 * np.median(error))) ** 2)
    return gain, offset, weight
