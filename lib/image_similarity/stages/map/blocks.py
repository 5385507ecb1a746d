"""The pyramid of the map, cut into blocks.

A *node* (level, column, row) of the pyramid shows one image; a tile has 4 x 4 nodes. A *block* is a tile and its
descendants on the next two levels: the unit of Spark's work, in which each picture is decoded once, and the unit of the
page's data. The deepest blocks end on the deepest level. That of level 0 has fewer levels if they are no multiple of
three: it is one, and of the deepest there are most. Tiles and blocks without an image do not exist.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from image_similarity.imaging import tiles as imaging
from image_similarity.imaging.tiles import SIDE
from image_similarity.pages import captions

LEVELS = 3
"""Levels of a block, except where the pyramid begins."""

Nodes = NDArray[np.int32]
"""Indices of images, -1 for empty nodes."""
Label = tuple[float, float, str, int]
"""Column and row, in nodes of its level; text; images."""

IMAGE = ("page", "picture", "width", "height", "title", "subtitle")
"""The columns of the images' table, in the order of a block's data."""


@dataclass(frozen=True)
class Block:
    """A block, and all that is needed to draw it and to write its data."""

    level: int
    """Its first level. Its first tile is (``level``, ``column``, ``row``)."""
    column: int
    row: int
    nodes: Sequence[Nodes]
    """Of each of its levels, (s, s) with s = 4, 8, 16: indices into ``images``."""
    images: pa.Table
    """The columns `IMAGE` of the images that it shows."""
    labels: Sequence[Sequence[Label]]
    """Of each of its levels."""

    @property
    def name(self) -> str:
        return f"{self.level}-{self.column}-{self.row}"

    def tiles(self) -> Iterator[tuple[int, int, int, Nodes]]:
        """Level, column and row of each tile with an image, and its (16,) nodes row by row."""
        for depth, nodes in enumerate(self.nodes):
            for row in range(1 << depth):
                for column in range(1 << depth):
                    own = nodes[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE].ravel()
                    if (own >= 0).any():
                        yield self.level + depth, (self.column << depth) + column, (self.row << depth) + row, own


@dataclass(frozen=True)
class Chunk:
    """Blocks of one first level, as arrays: what one task gets."""

    level: int
    places: NDArray[np.int32]
    """(m, 2): column and row of each block's first tile."""
    nodes: Sequence[Nodes]
    """Of each level (m, s, s): indices into ``images``."""
    images: pa.Table
    labels: Mapping[tuple[int, int], Sequence[Sequence[Label]]]
    """(column, row) of a block -> its labels, level by level. Blocks without any are left out."""

    def blocks(self) -> Iterator[Block]:
        for number, (column, row) in enumerate(self.places.tolist()):
            shown, nodes = _reduced([of_level[number] for of_level in self.nodes])
            labels = self.labels.get((column, row), [()] * len(nodes))
            yield Block(self.level, column, row, nodes, self.images.take(pa.array(shown)), labels)


def first_levels(deepest: int) -> list[int]:
    """The levels on which blocks begin, of a pyramid down to the level ``deepest``."""
    return sorted({0, *range((deepest + 1) % LEVELS, deepest + 1, LEVELS)})


def last_levels(deepest: int) -> list[int]:
    """The levels on which these blocks end."""
    return [*(first - 1 for first in first_levels(deepest)[1:]), deepest]


def chunks(
    pyramid: Sequence[Nodes], images: pa.Table, labels: Sequence[Sequence[Label]], pictures: int
) -> Iterator[Chunk]:
    """All blocks of ``pyramid``, in chunks that show about ``pictures`` pictures each, or one block.

    ``pyramid``: for each level a 2-D array [row, column] of indices into ``images``. ``labels``: for each level; one
    where no block is has no place, and is left out.
    """
    deepest = len(pyramid) - 1
    for first, last in zip(first_levels(deepest), last_levels(deepest)):
        levels = pyramid[first : last + 1]
        places, nodes = _cut(levels)
        of_blocks = _by_block(first, labels[first : last + 1], len(levels))
        used = np.count_nonzero(nodes[-1].reshape(len(places), -1) >= 0, axis=1)
        # A chunk ends where the pictures before it pass a multiple of what it may have.
        number = (np.cumsum(used) - used) // max(1, pictures)
        for begin, end in _runs(number):
            shown, own = _reduced([of_level[begin:end] for of_level in nodes])
            named = {of: of_blocks[of] for of in map(tuple, places[begin:end].tolist()) if of in of_blocks}
            yield Chunk(first, places[begin:end], own, images.select(IMAGE).take(pa.array(shown)), named)


def count(pyramid: Sequence[Nodes]) -> int:
    """The number of tiles of ``pyramid``: of squares of 4 x 4 nodes with an image."""
    return sum(int((_squares(nodes, SIDE) >= 0).any(axis=(2, 3)).sum()) for nodes in pyramid)


def _cut(levels: Sequence[Nodes]) -> tuple[NDArray[np.int32], list[Nodes]]:
    """The places (m, 2) of the blocks that begin on the first of ``levels``, and their nodes (m, s, s), by level."""
    squares = [_squares(nodes, SIDE << depth) for depth, nodes in enumerate(levels)]
    rows, columns = np.nonzero((squares[-1] >= 0).any(axis=(2, 3)))
    return np.stack([columns, rows], axis=1).astype(np.int32), [of_level[rows, columns] for of_level in squares]


def _squares(nodes: Nodes, side: int) -> Nodes:
    """``nodes`` as squares of ``side``: [row, column, row in the square, column in the square]."""
    rows, columns = (-(-length // side) for length in nodes.shape)
    whole = np.full((rows * side, columns * side), -1, np.int32)
    whole[: nodes.shape[0], : nodes.shape[1]] = nodes
    return whole.reshape(rows, side, columns, side).swapaxes(1, 2)


def _reduced(nodes: Sequence[Nodes]) -> tuple[NDArray[np.int32], list[Nodes]]:
    """The images that ``nodes`` show, in their order, and the same nodes as indices into these."""
    shown = np.unique(np.concatenate([of_level.ravel() for of_level in nodes]))
    shown = shown[shown >= 0]
    return shown, [np.where(of < 0, -1, np.searchsorted(shown, of)).astype(np.int32) for of in nodes]


def _runs(numbers: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Begin and end of each run of equal ``numbers``."""
    ends = [*(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
    yield from ((begin, end) for begin, end in zip([0, *ends], ends) if end > begin)


def _by_block(first: int, labels: Sequence[Sequence[Label]], levels: int) -> dict[tuple[int, int], list[list[Label]]]:
    """The labels of each block that begins on level ``first``, by its column and row."""
    by_block: dict[tuple[int, int], list[list[Label]]] = {}
    for depth, of_level in enumerate(labels):
        side = SIDE << depth
        for column, row, text, images in of_level:
            own = by_block.setdefault((int(column // side), int(row // side)), [[] for _ in range(levels)])
            own[depth].append((column, row, text, images))
    return by_block


# -- a block's data ----------------------------------------------------------------------------------------------------


def tile_name(pictures: Sequence[str]) -> str:
    """The hash of a tile: of the recipe, and of the names of its 16 pictures, empty where there is none."""
    return hashlib.sha256("\n".join((imaging.RECIPE, *pictures)).encode()).hexdigest()[:32]


def script(block: Block, tiles: Mapping[tuple[int, int, int], str], absent: Sequence[int]) -> str:
    """The data of ``block``, as the page loads it. All places are in the whole map's tiles and nodes of their level,
    except that the nodes are the block's own, row by row.

    ``tiles``: (level, column, row) -> hash. ``absent``: images whose picture cannot be read. They have an empty name
    for a picture.
    """
    images = [list(row.values()) for row in block.images.to_pylist()]
    for image in images:
        image[4:] = [captions.short(image[4] or ""), image[5] or ""]
    for number in absent:
        images[number][1] = ""
    levels: list[dict[str, Any]] = [
        {"tiles": {}, "nodes": nodes.ravel().tolist(), "labels": [list(label) for label in labels]}
        for nodes, labels in zip(block.nodes, block.labels)
    ]
    for (level, column, row), tile in tiles.items():
        levels[level - block.level]["tiles"][f"{column}-{row}"] = tile
    data = json.dumps({"images": images, "levels": levels}, separators=(",", ":"))
    return f'map.block("{block.name}",{data})'
