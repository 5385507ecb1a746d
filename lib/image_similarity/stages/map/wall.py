"""The picture of the whole wall, put together from the tiles of one level."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from image_similarity.errors import JobFailed, Unreadable
from image_similarity.imaging import tiles as imaging
from image_similarity.imaging.tiles import CELL
from image_similarity.pages.site import Site
from image_similarity.stages.map import files, tiles
from image_similarity.stages.map.blocks import Nodes
from image_similarity.storage import blobs

LONGEST = 2048
"""Pixels of the longer side, at most."""


@dataclass(frozen=True)
class Wall:
    path: str
    """Below the gallery."""
    width: int
    height: int


def write(spark: SparkSession, site: Site, run: str, pyramid: Sequence[Nodes]) -> Wall:
    """Writes the picture of the map that ``run`` drew (`tiles.draw`). It ends where the last images are.

    Raises ``JobFailed`` if a tile is damaged. ``ValueError`` for a map without images.
    """
    level, columns, rows = _used(pyramid)
    drawn = tiles.inventory(spark, site, run).where(F.col("level") == level).select("x", "y", "tile").collect()
    shown = {(row.x, row.y): _read(f"{site.uri}/{files.tile_path(row.tile)}") for row in drawn}  # 64 at most
    wall = Wall(files.wall_path(run), columns * CELL, rows * CELL)
    blobs.write(f"{site.uri}/{wall.path}", imaging.wall(shown, wall.width, wall.height), "image/webp")
    return wall


def level_of(pyramid: Sequence[Nodes]) -> int:
    """The level that the picture shows. ``ValueError`` for a map without images."""
    return _used(pyramid)[0]


def _used(pyramid: Sequence[Nodes]) -> tuple[int, int, int]:
    """The deepest level that fits into the picture, and the columns and rows of it that are in use."""
    for level in reversed(range(len(pyramid))):
        rows, columns = np.nonzero(pyramid[level] >= 0)
        if not len(rows):
            raise ValueError("a map without images has no wall")
        used = int(columns.max()) + 1, int(rows.max()) + 1
        if max(used) * CELL <= LONGEST:
            return level, *used
    raise ValueError("the first level of a pyramid has at most 4 x 4 nodes")


def _read(uri: str) -> NDArray[np.uint8]:
    """The pixels of a tile. `tiles.draw` looks at those of an earlier map, and draws damaged ones again."""
    try:
        return imaging.pixels(blobs.read(uri))
    except (OSError, Unreadable) as error:
        raise JobFailed(f"{uri} is damaged: run render_map again ({error})") from error
