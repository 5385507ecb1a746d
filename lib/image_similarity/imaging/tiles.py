"""small files of pictures -> the tiles of the map: WebP files of `SIDE` cells by `SIDE`, each cell one picture.

Gutters and empty cells are transparent, so the same tiles lie on a dark page and on a light one.
"""

import io
from collections.abc import Mapping, Sequence

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from image_similarity.errors import Unreadable
from image_similarity.imaging.decoding import as_unreadable
from image_similarity.imaging.thumbnails import SMALL

CELL, SIDE = 64, 4
"""Pixels of a cell's side, and cells of a tile's side."""
TILE = CELL * SIDE
"""Pixels of a tile's side."""

_GUTTER = 1
"""Transparent pixels on each side of a cell."""
_PICTURE = CELL - 2 * _GUTTER
_BLACK = 24
"""Up to this grey level (of 255) a row at the edge is a black bar: that of a frame that the picture does not fill."""
_LEAST_LIGHT = 1 / 5
"""Share of a side that is left between two bars, at least: of an upright film in a wide frame it is a third."""
_MOST_DARK = 1 / 20
"""Share of the other side that may be dark. More of it is no frame, but a dark picture with a light in it."""
_FROM_TOP = 1 / 3
"""Share that is cut from the top of what an upright picture loses: heads are in its upper half."""
_REDUCING_GAP = 2.0  # a third of the time of Lanczos alone, and no difference to the eye
_QUALITY, _METHOD = 75, 2  # 15 kB a tile; quality 80 is 18 % more, and looks the same

_MAKING = (CELL, SIDE, _GUTTER, _BLACK, _LEAST_LIGHT, _MOST_DARK, round(_FROM_TOP, 3), _REDUCING_GAP, _QUALITY, _METHOD)
RECIPE = f"tile-{'-'.join(map(str, _MAKING))}-pillow{PIL.__version__}"
"""Everything besides the pictures that determines a tile. Its value changes if tiles would change."""

_LIGHT = [0 if grey <= _BLACK else 255 for grey in range(256)]

Cell = NDArray[np.uint8]
"""A cell as pixels: (`CELL`, `CELL`, 4), red, green, blue and opacity."""


def cell(content: bytes) -> Cell:
    """The cell of a picture, given its small file (`thumbnails.Thumbnails.small`).

    The picture fills the cell: black bars are left out, and what is longer is cut. Smaller pictures are enlarged.
    Raises `Unreadable` for a file that is damaged, or was not made by `thumbnails`.
    """
    with as_unreadable():
        with Image.open(io.BytesIO(content), formats=("WEBP",)) as opened:
            if max(opened.size) > SMALL:
                raise Unreadable("too_many_pixels", f"{opened.size[0]} x {opened.size[1]}, where {SMALL} is the most")
            picture = opened.convert("RGB")
        square = picture.resize(
            (_PICTURE, _PICTURE), Image.Resampling.LANCZOS, box=_square(picture), reducing_gap=_REDUCING_GAP
        )
    pixels = np.zeros((CELL, CELL, 4), np.uint8)
    inside = slice(_GUTTER, CELL - _GUTTER)
    pixels[inside, inside, :3] = np.asarray(square)
    pixels[inside, inside, 3] = 255
    return pixels


def _square(picture: Image.Image) -> tuple[float, float, float, float]:
    """The part of ``picture`` that a cell shows: left, top, right and bottom, in pixels."""
    left, top, right, bottom = _without_bars(picture)
    side = min(right - left, bottom - top)
    x = left + (right - left - side) / 2
    y = top + (bottom - top - side) * _FROM_TOP
    return x, y, x + side, y + side


def _without_bars(picture: Image.Image) -> tuple[int, int, int, int]:
    """``picture`` without black bars: left, top, right and bottom. A frame has them on two opposite sides."""
    width, height = picture.size
    # None: all of it is black.
    left, top, right, bottom = picture.convert("L").point(_LIGHT).getbbox() or (0, 0, width, height)
    across, down = (right - left) / width, (bottom - top) / height
    if _LEAST_LIGHT <= down and 1 - across <= _MOST_DARK:
        return 0, top, width, bottom
    if _LEAST_LIGHT <= across and 1 - down <= _MOST_DARK:
        return left, 0, right, height
    return 0, 0, width, height


def tile(cells: Sequence[Cell | None]) -> bytes:
    """A tile as a WebP file. ``cells``: `SIDE` squared, row by row, None for an empty one."""
    empty = np.zeros((CELL, CELL, 4), np.uint8)
    stacked = np.stack([empty if of is None else of for of in cells]).reshape(SIDE, SIDE, CELL, CELL, 4)
    return _webp(Image.fromarray(stacked.swapaxes(1, 2).reshape(TILE, TILE, 4)))


def pixels(content: bytes) -> NDArray[np.uint8]:
    """(`TILE`, `TILE`, 4): what a tile shows, given its file. Raises `Unreadable` for a damaged one."""
    with as_unreadable(), Image.open(io.BytesIO(content), formats=("WEBP",)) as opened:
        shown = np.asarray(opened.convert("RGBA"))
    if shown.shape != (TILE, TILE, 4):
        raise Unreadable("corrupt", f"{shown.shape[1]} x {shown.shape[0]} pixels are no tile")
    return shown


def wall(tiles: Mapping[tuple[int, int], NDArray[np.uint8]], width: int, height: int) -> bytes:
    """One picture of many tiles, as a WebP file of ``width`` by ``height`` pixels from the upper left corner.

    ``tiles``: (column, row) -> `pixels`. What has no tile is transparent.
    """
    picture = Image.new("RGBA", (width, height))
    for (column, row), shown in tiles.items():
        picture.paste(Image.fromarray(shown), (column * TILE, row * TILE))
    return _webp(picture)


def _webp(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=_QUALITY, method=_METHOD)
    return out.getvalue()
