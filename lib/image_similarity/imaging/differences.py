"""What differs between two pictures that may be edits of one: measured from pixels, and told only where it is sure.

The two are aligned first (`alignment`). Where it is not sure that one is an edit of the other, as with two photographs
of one thing, only grey and colour are told: neither needs an alignment.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops

from image_similarity.imaging import alignment
from image_similarity.imaging.alignment import Alignment

LARGEST = 640
"""Longest side of a difference picture, in pixels."""
FACTORS = (1, 2, 4, 8, 16, 32)
GREY = 128
"""The value of a difference picture where both pictures are equal."""

SURE, SURE_IF_WHOLE = 0.85, 0.55
"""Shares of the detailed tiles whose detail is the same, from which on two pictures are edits of one. Two photographs
of one flat thing reach 0.81; where all of one is all of the other, to the pixel, they reach 0.1."""
LEAST_SHIFT, LEAST_STRETCH = 0.01, 0.02
"""Shares of a side that are cut off or added, and stretching, below which nothing is told."""
LEAST_ANGLE = 0.5
"""Degrees."""
LEAST_BRIGHTNESS = 4.0
"""Of 255."""
LEAST_CONTRAST, LEAST_COLOUR = 1.12, 1.3
"""Ratios, of spreads of luminance and of mean distances from grey."""
LEAST_SPREAD, LEAST_CHROMA = 12.0, 10.0
"""Pictures with less of either, of 255, are too plain or too pale for these ratios."""
LEAST_SHARPNESS, SAME_SHARPNESS = 1.7, 1.35
"""Ratios of the finest detail from which on it is told, and up to which it is that of a recompressed file."""
MOST_OF_GREY, LEAST_OF_COLOUR = 6, 16
"""Distances of a pixel's colour from grey: a grey picture has none above the first, in 99 % of its pixels; one in
colour has some above the second, in 5 % of them."""
ONE_COLOUR = 9.0
"""Standard deviation of each channel up to which a strip is of one colour. Compression leaves traces of what is beside.
"""
PLACE_DIFFERS, REST_DIFFERS, LARGEST_PLACE = 20.0, 7.0, 0.4
"""Mean differences of tiles (of 255) in the one place where two pictures differ, and elsewhere; its share of them."""
MOST_OF_RECOMPRESSION = 10.0
"""Mean difference, of 255."""


@dataclass(frozen=True)
class Sides:
    """Shares of a picture's width and height."""

    left: float = 0.0
    top: float = 0.0
    right: float = 0.0
    bottom: float = 0.0

    @property
    def named(self) -> list[str]:
        """The sides whose share is worth telling."""
        return [name for name in ("left", "top", "right", "bottom") if getattr(self, name) >= LEAST_SHIFT]

    @property
    def area(self) -> float:
        """The share of the picture's area that lies beyond."""
        return 1 - (1 - self.left - self.right) * (1 - self.top - self.bottom)


@dataclass(frozen=True)
class Differences:
    """How a second picture differs from a first. What is not sure has the value of no difference."""

    is_edit: bool = False
    """Both are surely one picture, edited. If not, nothing is told but ``grey``."""
    mirrored: bool = False
    turned: int = 0
    """Quarter turns of the second to the right, 0 to 3, after it was mirrored."""
    angle: float = 0.0
    """What it was turned by beside that: degrees to the right; 0 below `LEAST_ANGLE`."""
    stretched: float = 1.0
    """How much wider the second is, for its height, than the same part of the first."""
    cut: Sides = Sides()
    """What the first shows beyond the second, in shares of the first."""
    added: Sides = Sides()
    """What the second shows beyond the first, in shares of the second, turned as the first."""
    cut_is_plain: bool = False
    """What was cut off is of one colour: a border, or plain ground."""
    added_is_plain: bool = False
    brightness: float = 0.0
    """Mean luminance of the second less that of the first, of 255."""
    contrast: float = 1.0
    """Spread of the second's luminance, divided by that of the first."""
    colour: float = 1.0
    """How strong the second's colours are, divided by those of the first."""
    sharpness: float = 1.0
    """How strong the second's finest detail is, divided by that of the first."""
    grey: tuple[bool, bool] = (False, False)
    """One is grey while the other has colours."""
    place: str = ""
    """The only place where they differ, as in ``at the bottom``; empty if there is no such place."""
    is_even: bool = False
    """They differ by little in every place, and as files of one picture do: with detail as fine."""
    mean: float = 0.0
    """Mean difference of the aligned pictures' values, of 255."""
    largest: int = 0
    """Their largest difference, of 255, in the copies that were compared."""
    factor: int = 1
    """By how much the difference picture amplifies."""
    matrix: tuple[float, float, float, float, float, float] = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)
    """a, b, c, d, e, f as SVG has them: puts the second picture, in pixels, over the first, in pixels."""

    @property
    def is_whole(self) -> bool:
        """All of one is all of the other: nothing is cut off, added, turned or stretched."""
        moved = self.mirrored or self.turned or self.angle or self.stretched != 1 or self.cut.named or self.added.named
        return self.is_edit and not moved

    @property
    def is_recompressed(self) -> bool:
        """They differ as files of one picture do, by small differences everywhere."""
        is_toned = self.brightness or self.contrast != 1 or self.colour != 1 or any(self.grey) or self.place
        return self.is_whole and self.is_even and not is_toned and self.mean <= MOST_OF_RECOMPRESSION


def compared(first: Image.Image, second: Image.Image) -> tuple[Differences, Image.Image]:
    """How ``second`` differs from ``first``, and the difference picture; all RGB, of any size.

    The difference picture has the frame of what both show in the first, `GREY` where both are equal, lighter where the
    second is lighter. Its longest side is at most `LARGEST`.
    """
    whole = first, second
    first, second = _at_most(first), _at_most(second)
    aligned = alignment.aligned(first.convert("L"), second.convert("L"))
    is_sure = aligned.tiles.same >= (SURE_IF_WHOLE if aligned.is_whole and _stretched(aligned) == 1 else SURE)
    if not is_sure or abs(aligned.warp.angle) > alignment.MOST_ANGLE:
        aligned = _only_scaled(first, second)
        is_sure = False
    turned = alignment.oriented(second, aligned.mirrored, aligned.quarter_turns)
    base, placed, mask = _placed(first, turned, aligned)
    difference = (np.asarray(placed, np.int16) - np.asarray(base, np.int16)) * mask[:, :, None]
    mean, largest, factor = _sizes(*whole, aligned, difference, mask)
    picture = Image.fromarray(np.clip(GREY + factor * difference, 0, 255).astype(np.uint8))
    grey = _grey(first, second)
    matrix = _placing(aligned, *(picture.size for picture in whole))
    if not is_sure:
        return Differences(grey=grey, mean=mean, largest=largest, factor=factor, matrix=matrix), picture
    angle, stretched, cut, added = _geometry(aligned)
    brightness, contrast = _tones(aligned)
    errors = _errors(aligned)
    is_one_size = aligned.is_whole and first.size == turned.size
    sharpness = _sharpness(base, placed, contrast) if is_one_size else 1.0
    return Differences(
        is_edit=True,
        mirrored=aligned.mirrored,
        turned=aligned.quarter_turns,
        angle=angle,
        stretched=stretched,
        cut=cut,
        added=added,
        cut_is_plain=_is_plain(first, cut),
        added_is_plain=_is_plain(turned, added),
        brightness=brightness,
        contrast=contrast,
        colour=1.0 if any(grey) else _colour(first, turned, aligned, contrast),
        sharpness=sharpness if _beyond_ratio(sharpness, LEAST_SHARPNESS) else 1.0,
        grey=grey,
        place=_place(aligned, errors) if aligned.is_whole and not brightness and contrast == 1 else "",
        is_even=bool((errors <= PLACE_DIFFERS).all()) and not _beyond_ratio(sharpness, SAME_SHARPNESS),
        mean=mean,
        largest=largest,
        factor=factor,
        matrix=matrix,
    ), picture


def _at_most(picture: Image.Image) -> Image.Image:
    """``picture``, no larger than `LARGEST`: all but the largest difference is measured on that."""
    scale = LARGEST / max(picture.size)
    if scale >= 1:
        return picture
    width, height = (max(1, round(side * scale)) for side in picture.size)
    return alignment.resized(picture, (width, height))


def _only_scaled(first: Image.Image, second: Image.Image) -> Alignment:
    """No alignment: all of the second is put over all of the first."""
    own, other = alignment.View(first.convert("L")), alignment.View(second.convert("L"))
    warp = alignment.whole(own, other)
    both = alignment.overlap(own, other, warp, alignment.MIDDLE)
    return Alignment(False, 0, warp, own, other, both, alignment.tiles(both), False)


# -- the difference picture --------------------------------------------------------------------------------------------


def _placed(
    first: Image.Image, turned: Image.Image, aligned: Alignment
) -> tuple[Image.Image, Image.Image, npt.NDArray[np.bool_]]:
    """Both in one size, in the frame of what both show, and where both are. Neither is enlarged."""
    warp = aligned.warp
    per_unit = min(LARGEST, aligned.first.pixels, aligned.second.pixels * warp.scale)
    size = _size(aligned.first, per_unit, per_unit)
    of_second = _size(aligned.second, per_unit / warp.scale_x, per_unit / warp.scale_y)
    base, seen = alignment.resized(first, size), alignment.resized(turned, of_second)
    if seen.size == base.size and warp == alignment.whole(aligned.first, aligned.second):
        return base, seen, np.ones(size[::-1], np.bool_)
    to = alignment.grid_matrix(aligned.first, aligned.second, warp, size[::-1], of_second[::-1])
    mask = alignment.inside(to, size[::-1], of_second[::-1])
    placed = seen.transform(size, Image.Transform.AFFINE, tuple(to.ravel()), Image.Resampling.BILINEAR)
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    box = (int(left), int(top), int(right), int(bottom))
    return base.crop(box), placed.crop(box), mask[top:bottom, left:right]


def _size(view: alignment.View, per_x: float, per_y: float) -> tuple[int, int]:
    width, height = view.luminance.size
    return max(1, min(width, round(view.width * per_x))), max(1, min(height, round(view.height * per_y)))


def _sizes(
    first: Image.Image,
    second: Image.Image,
    aligned: Alignment,
    difference: npt.NDArray[np.int16],
    mask: npt.NDArray[np.bool_],
) -> tuple[float, int, int]:
    """Mean and largest difference, and the factor by which all but the largest stay within what a picture can show.

    Pictures of one size are compared at this size, pixel by pixel.
    """
    absolute = Image.fromarray(np.abs(difference).astype(np.uint8))
    counts = shown = _counted(absolute, 3 * int((~mask).sum()))
    turned = alignment.oriented(second, aligned.mirrored, aligned.quarter_turns) if aligned.is_whole else second
    if aligned.is_whole and first.size == turned.size:
        counts = _counted(ImageChops.difference(first, turned), 0)
    mean = float(counts @ np.arange(256)) / max(1, int(counts.sum()))
    largest = int(np.flatnonzero(counts)[-1]) if counts.any() else 0
    shown = shown.cumsum()
    most = int(np.searchsorted(shown, 0.995 * shown[-1])) if shown[-1] else 0
    return mean, largest, max(factor for factor in FACTORS if factor == 1 or factor * most < GREY)


def _counted(picture: Image.Image, outside: int) -> npt.NDArray[np.int64]:
    """How often each value is in ``picture``, but for ``outside`` zeros that are none of its own."""
    counts: npt.NDArray[np.int64] = np.asarray(picture.histogram(), np.int64).reshape(-1, 256).sum(0)
    counts[0] -= outside
    return counts


def _placing(
    aligned: Alignment, first: tuple[int, int], second: tuple[int, int]
) -> tuple[float, float, float, float, float, float]:
    """`Differences.matrix`."""
    width, height = second
    matrix = np.eye(3)
    if aligned.mirrored:
        matrix = np.array([[-1, 0, width], [0, 1, 0], [0, 0, 1]]) @ matrix
    for _ in range(aligned.quarter_turns):  # to the left: the right side becomes the upper one
        matrix = np.array([[0, 1, 0], [-1, 0, width], [0, 0, 1]]) @ matrix
        width, height = height, width
    per_first, per_second = max(first), max(second)
    warp = np.eye(3)
    warp[:2, :2], warp[:2, 2] = aligned.warp.linear, (aligned.warp.x, aligned.warp.y)
    placed = np.diag([per_first, per_first, 1]) @ np.linalg.inv(warp) @ np.diag([1 / per_second, 1 / per_second, 1])
    a, c, e, b, d, f = (float(value) for value in (placed @ matrix)[:2].ravel())
    return a, b, c, d, e, f


# -- what is told ------------------------------------------------------------------------------------------------------


def _geometry(aligned: Alignment) -> tuple[float, float, Sides, Sides]:
    """angle, stretched, cut and added of `Differences`."""
    stretched = _stretched(aligned)
    if aligned.is_whole:
        return 0.0, stretched, Sides(), Sides()
    warp, first_view, second_view = aligned.warp, aligned.first, aligned.second
    angle = math.degrees(warp.angle)
    if abs(angle) >= LEAST_ANGLE:
        return angle, 1.0, Sides(), Sides()  # the corners that a turn cuts off, or adds, are no sides
    left, top = warp.inverse_point(0, 0)
    right, bottom = warp.inverse_point(second_view.width, second_view.height)
    cut = _beyond(left, top, first_view.width - right, first_view.height - bottom, first_view)
    left, top = warp.point(0, 0)
    right, bottom = warp.point(first_view.width, first_view.height)
    added = _beyond(left, top, second_view.width - right, second_view.height - bottom, second_view)
    return 0.0, stretched, cut, added


def _stretched(aligned: Alignment) -> float:
    """`Differences.stretched`. Sizes are whole pixels, so proportions of small pictures are not exact."""
    sizes = (aligned.first.luminance.size, aligned.second.luminance.size)
    stretched = aligned.warp.scale_x / aligned.warp.scale_y
    doubt = sum(1 / min(size) for size in sizes)
    return 1.0 if abs(stretched - 1) < max(LEAST_STRETCH, doubt) else float(stretched)


def _beyond(left: float, top: float, right: float, bottom: float, view: alignment.View) -> Sides:
    shares = (left / view.width, top / view.height, right / view.width, bottom / view.height)
    return Sides(*(float(share) if share >= LEAST_SHIFT else 0.0 for share in shares))


def _is_plain(picture: Image.Image, beyond: Sides) -> bool:
    """Whether what lies in the strips ``beyond`` is of one colour. Two pixels beside the rest are left out."""
    if not beyond.named:
        return False
    pixels = np.asarray(picture)
    height, width = pixels.shape[:2]
    sizes = (width, height, width, height)
    left, top, right, bottom = (
        max(0, math.floor(share * size) - 2)
        for share, size in zip((beyond.left, beyond.top, beyond.right, beyond.bottom), sizes)
    )
    strips: Sequence[npt.NDArray[np.uint8]] = (
        pixels[:, :left],
        pixels[:top],
        pixels[:, width - right :],
        pixels[height - bottom :],
    )
    values = [strip.reshape(-1, 3) for strip in strips if strip.size]
    return bool(values) and bool((np.concatenate(values).std(0) <= ONE_COLOUR).all())


def _grey(first: Image.Image, second: Image.Image) -> tuple[bool, bool]:
    """Whether the first is grey and the second has colours, and the reverse."""
    chroma = [_chroma(picture) for picture in (first, second)]
    grey = [bool(np.percentile(of, 99) <= MOST_OF_GREY) for of in chroma]
    coloured = [bool(np.percentile(of, 95) >= LEAST_OF_COLOUR) for of in chroma]
    return grey[0] and coloured[1], grey[1] and coloured[0]


def _chroma(picture: Image.Image) -> npt.NDArray[np.int16]:
    small = picture.copy()
    small.thumbnail((96, 96), Image.Resampling.BOX, reducing_gap=None)
    pixels = np.asarray(small, np.int16)
    spread: npt.NDArray[np.int16] = pixels.max(2) - pixels.min(2)
    return spread


def _colour(first: Image.Image, turned: Image.Image, aligned: Alignment, contrast: float) -> float:
    """`Differences.colour`: only of pictures that show the same, and only beyond what contrast explains."""
    if not aligned.is_whole:
        return 1.0
    one, other = (float(_chroma(picture).mean()) for picture in (first, turned))
    if min(one, other) < LEAST_CHROMA:
        return 1.0
    ratio = other / one
    told = _beyond_ratio(ratio, LEAST_COLOUR) and _beyond_ratio(ratio / _spreads(aligned), LEAST_COLOUR)
    return ratio if told and (ratio > 1) == (ratio / _spreads(aligned) > 1) else 1.0


def _beyond_ratio(ratio: float, least: float) -> bool:
    return ratio >= least or ratio <= 1 / least


def _common(aligned: Alignment) -> npt.NDArray[np.bool_]:
    """Tiles that show the same in both: those with the same detail, and plain ones whose tones are as elsewhere."""
    of, (one, other) = aligned.tiles, aligned.tiles.means
    same = of.used & ((of.correlation > alignment.SAME_DETAIL) | (of.texture <= alignment.TEXTURE))
    if same.sum() < 4:
        return same
    _, _, weight = alignment.tones(other[same], one[same])
    common = same.copy()
    common[same] = weight > 0.2
    return common


def _tones(aligned: Alignment) -> tuple[float, float]:
    """brightness and contrast of `Differences`.

    More brightness is more spread, too, where values are multiplied, and less in proportion where they are added to. So
    contrast is told only if the spread differs both in itself and in proportion to the mean.
    """
    common = _common(aligned)
    if common.sum() < 4:
        return 0.0, 1.0
    one, other = (means[common] for means in aligned.tiles.means)
    moved, everywhere = other - one, (aligned.tiles.means[1] - aligned.tiles.means[0])[aligned.tiles.used]
    brightness = float(moved.mean())
    agree = (np.sign(moved) == np.sign(brightness)).mean() >= 0.8 and everywhere.mean() * brightness > brightness**2 / 2
    is_brighter = abs(brightness) >= LEAST_BRIGHTNESS and bool(agree)
    spreads = _spreads(aligned)
    relative = spreads * float(one.mean()) / max(1.0, float(other.mean()))
    more = spreads >= LEAST_CONTRAST and relative >= LEAST_CONTRAST
    less = spreads <= 1 / LEAST_CONTRAST and relative <= 1 / LEAST_CONTRAST
    return brightness if is_brighter else 0.0, spreads if more or less else 1.0


def _spreads(aligned: Alignment) -> float:
    """The spread of the second's luminance in common tiles, divided by that of the first."""
    common = _common(aligned)
    one, other = (
        math.sqrt(float(variances[common].mean() + means[common].var()))
        for means, variances in zip(aligned.tiles.means, aligned.tiles.variances)
    )
    return other / one if min(one, other) > LEAST_SPREAD else 1.0


def _sharpness(base: Image.Image, placed: Image.Image, contrast: float) -> float:
    """How strong the finest detail of ``placed`` is, divided by that of ``base``, beyond what contrast explains.

    The median of all tiles: letters that were written into a few of them make no picture sharper. Neither was resized,
    as programs that resize sharpen, more or less.
    """
    one, other = (_finest(picture) for picture in (base, placed))
    is_fine = np.minimum(one, other) > 1
    return float(np.median(other[is_fine] / one[is_fine])) / contrast if is_fine.sum() >= 4 else 1.0


def _finest(picture: Image.Image) -> npt.NDArray[np.float64]:
    """The spread of each pixel's luminance from the mean of its four neighbours, tile by tile."""
    of = np.asarray(picture.convert("L"), np.float32)
    if min(of.shape) < 2 * alignment.TILES:
        return np.zeros((1, 1))
    detail = of[1:-1, 1:-1] - (of[:-2, 1:-1] + of[2:, 1:-1] + of[1:-1, :-2] + of[1:-1, 2:]) / 4
    everywhere = np.ones(detail.shape, np.bool_)
    return np.sqrt(_tile_means(detail * detail, everywhere, (alignment.TILES, alignment.TILES)))


def _errors(aligned: Alignment) -> npt.NDArray[np.float64]:
    """The mean difference of each tile, once the tones of the second are those of the first; 0 where none is used."""
    both, of, common = aligned.both, aligned.tiles, _common(aligned)
    gain, offset = 1.0, 0.0
    if common.sum() >= 4:
        gain, offset, _ = alignment.tones(of.means[1][common], of.means[0][common])
    error = np.abs(both.first - gain * both.second - offset)
    return _tile_means(error, both.inside, of.used.shape) * of.used


def _place(aligned: Alignment, differs: npt.NDArray[np.float64]) -> str:
    """`Differences.place`. ``differs``: `_errors`."""
    of = aligned.tiles
    is_other = of.used & (differs > PLACE_DIFFERS) & (of.correlation < 0.6)
    if not is_other.any():
        return ""
    rows, columns = np.flatnonzero(is_other.any(1)), np.flatnonzero(is_other.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    box = (bottom - top) * (right - left)
    rest = of.used.copy()
    rest[top:bottom, left:right] = False
    is_one_place = box <= LARGEST_PLACE * of.used.size and is_other.sum() >= 0.5 * box
    if not is_one_place or not rest.any() or (differs[rest] > 2 * REST_DIFFERS).any():
        return ""
    if differs[rest].mean() > REST_DIFFERS or (of.correlation[rest & of.textured] < 0.6).any():
        return ""
    return _named_place(top, bottom, left, right, of.used.shape)


def _tile_means(
    plane: npt.NDArray[np.floating[Any]], mask: alignment.Mask, shape: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    tops, lefts = (np.arange(tiles) * of // tiles for tiles, of in zip(shape, plane.shape))

    def total(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        sums: npt.NDArray[np.float64] = np.add.reduceat(np.add.reduceat(values, tops, axis=0), lefts, axis=1)
        return sums

    return total((plane * mask).astype(np.float64)) / np.maximum(total(mask.astype(np.float64)), 1)


def _named_place(top: int, bottom: int, left: int, right: int, shape: tuple[int, ...]) -> str:
    """Words for the tiles of a box. They name a side only if the box lies in that half."""
    rows, columns = shape
    vertical = "top" if bottom <= rows / 2 else "bottom" if top >= rows / 2 else ""
    horizontal = "left" if right <= columns / 2 else "right" if left >= columns / 2 else ""
    words = " ".join(filter(None, (vertical, horizontal)))
    return f"at the {words}" if words else "in the middle"
