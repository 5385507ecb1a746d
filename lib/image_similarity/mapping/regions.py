"""What regions of the map have in common: a label for each, at every level of the pyramid.

At a level each tile has the word that tells most about its images, by the rule for labels of groups; of many images
fewer must have it. Adjacent tiles of the same word are a region. So coarse levels have the general words, and fine ones
the special words.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from image_similarity.grouping import labels
from image_similarity.knn.distances import Indices
from image_similarity.mapping.pyramid import TILE_NODES

MANY = TILE_NODES**2
"""Of more images than a tile of the finest level has, half seldom have a word in common;"""
SHARE_OF_MANY = 0.35
"""so many are enough, where they are twice the share of the collection, and no chance."""
LEAST_NODES = 4
"""A quarter of a tile: a region with fewer images that have its word than these have cells is no landmark."""
_SMALLEST = math.sqrt(0.5)
"""Least size of a node on the screen, in 64 pixels: the coarser level is shown below it."""
_CHARACTER, _MARGIN, _HEIGHT = 0.14 / _SMALLEST, 0.38 / _SMALLEST, 0.5 / _SMALLEST
"""Room of a label in nodes, when they are least: 9 pixels for each character and 24 beside them, 32 pixels high."""
_ADJACENT = ((1, 0), (0, 1), (1, 1), (-1, 1))
"""Columns and rows from a tile to half of those that share an edge or a corner with it."""


@dataclass(frozen=True)
class Terms:
    """Words, and which images have them."""

    texts: list[str]
    """(w,), distinct. Of words that tell equally much about a tile the first is taken."""
    image: Indices
    """(m,): which image"""
    term: Indices
    """(m,): has which word; each pair once."""


class Label(NamedTuple):
    """A text on a region."""

    column: float
    row: float
    """In nodes of the level, from the left and the upper edge of the wall."""
    text: str
    images: int
    """So many images of the region have the word."""


@dataclass(frozen=True)
class _Tiles:
    """The tiles of one level that have a word."""

    code: Indices
    """(t,): row * across + column, ascending"""
    term: Indices
    """(t,): the word"""
    across: int
    """Tiles of the level from left to right."""

    def find(self, code: Indices) -> Indices:
        """The places of tiles, -1 for those without a word."""
        place = np.minimum(np.searchsorted(self.code, code), len(self.code) - 1)
        return np.where(self.code[place] == code, place, -1)


def regions(cell: NDArray[np.int32], columns: int, rows: int, terms: Terms, levels: int) -> list[list[Label]]:
    """The labels of each level, from 0 to ``levels``; those of the most images first. They do not overlap.

    ``cell``: (n, 2), column and row of each image at the finest level, on a wall of ``columns`` and ``rows``.
    ``levels``: the number of the finest level; the one before has nodes of 2 x 2 cells, and level 0 has one tile. A
    label stands on the cell, of those whose image has its word, that is nearest to their mean; at the edges it is moved
    until all of it is on the wall. A level without a word that sets a tile apart has no labels: level 0 never has, and
    none has if there are no images or words.
    """
    return [
        _apart(_on_wall(_labels(cell, terms, level, levels - level), columns, rows, levels - level))
        for level in range(levels + 1)
    ]


def _labels(cell: NDArray[np.int32], terms: Terms, level: int, shift: int) -> list[Label]:
    """The labels of all regions of a level, whose nodes are of 2 ** ``shift`` cells on a side."""
    across = 1 << level
    tile = cell.astype(np.int64) // (TILE_NODES << shift)
    code = tile[:, 1] * across + tile[:, 0]
    tiles = _tiles(code, terms, across)
    if not len(tiles.code):
        return []
    region = _joined(tiles)
    place = tiles.find(code[terms.image])
    has = (place >= 0) & (tiles.term[place] == terms.term)  # only pairs of the word that their tile has
    first = np.unique(region, return_index=True)[1]
    images = np.bincount(region[place[has]])
    middle = (_middle(cell[terms.image[has]], region[place[has]], images) + 0.5) / (1 << shift)
    return [
        Label(column, row, terms.texts[term], count)
        for (column, row), term, count in zip(middle.tolist(), tiles.term[first].tolist(), images.tolist())
        if count >= LEAST_NODES << 2 * shift
    ]


def _tiles(code: Indices, terms: Terms, across: int) -> _Tiles:
    order = np.argsort(code, kind="stable")
    codes, start = np.unique(code[order], return_index=True)
    start = np.append(start, len(code))
    least_share = np.where(np.diff(start) > MANY, SHARE_OF_MANY, labels.LEAST_SHARE)
    tile, term = labels.telling(start, order, terms.image, terms.term, len(code), least_share)
    tile, first = np.unique(tile, return_index=True)
    return _Tiles(codes[tile], term[first], across)


def _joined(tiles: _Tiles) -> Indices:
    """(t,): the region of each tile."""
    row, column = np.divmod(tiles.code, tiles.across)
    ends = []
    for right, down in _ADJACENT:
        on_map = (column + right >= 0) & (column + right < tiles.across)
        beside = np.where(on_map, tiles.find(tiles.code + down * tiles.across + right), -1)
        near = np.nonzero((beside >= 0) & (tiles.term[beside] == tiles.term))[0]
        ends.append(np.stack([near, beside[near]]))
    start, end = np.concatenate(ends, axis=1)
    size = len(tiles.code)
    region: Indices = connected_components(
        coo_array((np.ones(len(start), np.int8), (start, end)), shape=(size, size)), directed=False
    )[1].astype(np.int64)
    return region


def _middle(cell: NDArray[np.int32], region: Indices, images: Indices) -> NDArray[np.int32]:
    """(r, 2): of the cells (m, 2) of each region the one nearest to their mean, as the mean of a ring is beside it. Of
    equally near ones the upper, then the left. ``images``: (r,), how many each region has.
    """
    mean = np.stack([np.bincount(region, cell[:, axis]) / images for axis in (0, 1)], axis=1)
    away = np.round(((cell - mean[region]) ** 2).sum(axis=1), 6)
    order = np.lexsort((cell[:, 0], cell[:, 1], away, region))
    middle: NDArray[np.int32] = cell[order[np.searchsorted(region[order], np.arange(len(images)))]]
    return middle


def _on_wall(found: list[Label], columns: int, rows: int, shift: int) -> list[Label]:
    """``found``, moved so that no label hangs over an edge of the wall; of one that is longer than it, the middle."""

    def clamped(middle: float, extent: float, cells: int) -> float:
        end = cells / (1 << shift)
        extent = min(extent, end)
        return round(min(max(middle, extent / 2), end - extent / 2), 2)

    return [
        label._replace(column=clamped(label.column, width, columns), row=clamped(label.row, height, rows))
        for label in found
        for width, height in [_size(label.text)]
    ]


# -- labels that would overlap -----------------------------------------------------------------------------------------


def _apart(found: list[Label]) -> list[Label]:
    """Those of ``found`` that overlap none of more images; of equally many the first by its text and its place."""
    kept: list[Label] = []
    near: dict[tuple[int, int], list[Label]] = {}
    for label in sorted(found, key=lambda label: (-label.images, label.text, label.row, label.column)):
        if not any(_overlap(label, other) for block in _blocks(label) for other in near.get(block, ())):
            kept.append(label)
            for block in _blocks(label):
                near.setdefault(block, []).append(label)
    return kept


def _size(text: str) -> tuple[float, float]:
    """Width and height of a label, in nodes."""
    return len(text) * _CHARACTER + _MARGIN, _HEIGHT


def _overlap(label: Label, other: Label) -> bool:
    (width, height), (other_width, other_height) = _size(label.text), _size(other.text)
    return (
        2 * abs(label.column - other.column) < width + other_width
        and 2 * abs(label.row - other.row) < height + other_height
    )


def _blocks(label: Label) -> Iterator[tuple[int, int]]:
    """The tiles that a label touches: labels that overlap have one in common."""
    width, height = _size(label.text)
    spans = (
        range(int((middle - extent / 2) // TILE_NODES), int((middle + extent / 2) // TILE_NODES) + 1)
        for middle, extent in ((label.column, width), (label.row, height))
    )
    yield from product(*spans)
