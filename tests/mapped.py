"""A map in a rendered gallery, written plainly: what the page of the map is looked at with."""

import hashlib
import io
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
from numpy.typing import NDArray
from PIL import Image

from image_similarity.pages import maps, paths
from image_similarity.stages.map import blocks, page
from image_similarity.stages.map.page import MapFacts

CELL, SIDE = 64, 4
Label = tuple[int, float, float, str, float]
"""level, column, row, text, images"""


def cards(gallery: Path) -> list[dict[str, Any]]:
    """The images of the newest rendering that have a picture."""
    [newest, *_] = json.loads((gallery / "gallery.json").read_text())["renderings"]
    rows = ds.dataset(gallery / newest / maps.CARDS).to_table().to_pylist()
    return [row for row in rows if row["width"]]


def write(
    gallery: Path, cells: Mapping[str, tuple[int, int]], labels: Sequence[Label] = (), digits: int = 0, run: str = "m1"
) -> MapFacts:
    """Writes a map of the images with these pages (page -> column, row), and ``map.html``."""
    images = [card for card in cards(gallery) if card["page"] in cells]
    columns, rows = (1 + max(cell[axis] for cell in cells.values()) for axis in (0, 1))
    levels = max(0, math.ceil(math.log2(max(columns, rows) / SIDE)))
    pyramid = _pyramid([cells[image["page"]] for image in images], levels)
    for first, last in zip(blocks.first_levels(levels), blocks.last_levels(levels)):
        for row, column in np.ndindex(1 << first, 1 << first):
            _write_block(gallery, run, images, pyramid[first : last + 1], first, column, row, labels)
    for prefix in map("".join, itertools.product("0123456789abcdef", repeat=digits)):
        own = {name: cell for name, cell in cells.items() if name.startswith(prefix)}
        script = f"map.places({json.dumps(prefix)},{json.dumps(own)})"
        _write(gallery / f"map/{run}/places/{prefix or 'all'}.js", script.encode())
    wall = _drawn(gallery, images, pyramid[min(levels, 3)][: -(-rows >> max(0, levels - 3)) or 1])
    _write(gallery / f"map/{run}/wall.webp", _webp(wall))
    facts = MapFacts(
        run, "Title", columns, rows, levels, len(images), digits, "tiny", "cosine", 10, 0.47, 0.013,
        f"map/{run}/wall.webp", *wall.size,
    )  # fmt: skip
    for path, content in page.static_files().items():
        _write(gallery / path, content.encode())
    [newest, *_] = json.loads((gallery / "gallery.json").read_text())["renderings"]
    shell = (gallery / newest / maps.SHELL).read_text()
    _write(gallery / maps.PAGE, page.fill(shell, facts).encode())
    return facts


def _pyramid(cells: Sequence[tuple[int, int]], levels: int) -> list[NDArray[np.int64]]:
    """Of each level the nodes [row, column]: the first image of the children; -1 where there is none."""
    nodes = np.full((SIDE << levels,) * 2, -1)
    for index, (column, row) in enumerate(cells):
        nodes[row, column] = index
    pyramid = [nodes]
    for _ in range(levels):
        children = np.stack([pyramid[0][row::2, column::2] for row in (0, 1) for column in (0, 1)])
        pyramid.insert(0, children.max(axis=0))
    return pyramid


def _write_block(
    gallery: Path,
    run: str,
    images: Sequence[dict[str, Any]],
    nodes: Sequence[NDArray[np.int64]],
    first: int,
    column: int,
    row: int,
    labels: Sequence[Label],
) -> None:
    levels: list[dict[str, Any]] = []
    for depth, of_level in enumerate(nodes):
        side = SIDE << depth
        own = of_level[row * side : (row + 1) * side, column * side : (column + 1) * side]
        tiles = {}
        for y, x in np.ndindex(1 << depth, 1 << depth):
            tile = own[y * SIDE : (y + 1) * SIDE, x * SIDE : (x + 1) * SIDE]
            if (tile >= 0).any():
                content = _webp(_drawn(gallery, images, tile))
                name = hashlib.sha256(content).hexdigest()[:32]
                _write(gallery / f"map/tiles/{name[:2]}/{name}.webp", content)
                tiles[f"{(column << depth) + x}-{(row << depth) + y}"] = name
        here = [label[1:] for label in labels if label[0] == first + depth]
        here = [label for label in here if (label[0] // side, label[1] // side) == (column, row)]
        levels.append({"tiles": tiles, "nodes": own.ravel().tolist(), "labels": here})
    shown = sorted({index for level in levels for index in level["nodes"] if index >= 0})
    if shown:
        for level in levels:
            level["nodes"] = [shown.index(index) if index >= 0 else -1 for index in level["nodes"]]
        names = ("page", "picture", "width", "height", "title", "subtitle")
        data = {"images": [[images[index][name] for name in names] for index in shown], "levels": levels}
        name = f"{first}-{column}-{row}"
        _write(gallery / f"map/{run}/blocks/{name}.js", f'map.block("{name}",{json.dumps(data)})'.encode())


def _drawn(gallery: Path, images: Sequence[dict[str, Any]], nodes: NDArray[np.int64]) -> Image.Image:
    rows, columns = nodes.shape
    sheet = Image.new("RGBA", (columns * CELL, rows * CELL))
    for row, column in zip(*np.nonzero(nodes >= 0)):
        with Image.open(gallery / paths.picture_path(images[nodes[row, column]]["picture"], "small")) as picture:
            side = min(picture.size)
            left, top = ((length - side) // 2 for length in picture.size)
            small = picture.resize((CELL - 2, CELL - 2), box=(left, top, left + side, top + side), reducing_gap=2)
        sheet.paste(small, (int(column) * CELL + 1, int(row) * CELL + 1))
    return sheet


def _webp(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=75, method=0)
    return out.getvalue()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
