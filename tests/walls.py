"""A wall for the map: its pyramid, and the small pictures of a gallery, for tests and benchmarks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from image_similarity.pages import paths


def pyramid(
    columns: int, rows: int, cells: NDArray[np.int32], shown_columns: int | None = None, shown_rows: int | None = None
) -> list[NDArray[np.int32]]:
    """The levels of a wall of ``columns`` by ``rows``. The image of the least index stands for what is under a node.

    ``cells``: (n, 2), column and row of each image. ``shown_columns``, ``shown_rows``: the upper left part that has
    images, else all.
    """
    deepest = 0
    while 4 << deepest < max(columns, rows):
        deepest += 1
    wall = np.full((rows, columns), -1, np.int32)
    wall[cells[:, 1], cells[:, 0]] = np.arange(len(cells))
    wall[rows if shown_rows is None else shown_rows :] = -1
    wall[:, columns if shown_columns is None else shown_columns :] = -1
    levels = [wall]
    for _ in range(deepest):
        levels.append(_halved(levels[-1]))
    return levels[::-1]


def _halved(nodes: NDArray[np.int32]) -> NDArray[np.int32]:
    rows, columns = (-(-length // 2) for length in nodes.shape)
    most = np.iinfo(np.int32).max
    whole = np.full((rows * 2, columns * 2), most, np.int32)
    whole[: nodes.shape[0], : nodes.shape[1]] = np.where(nodes < 0, most, nodes)
    least = whole.reshape(rows, 2, columns, 2).min(axis=(1, 3))
    return np.where(least == most, -1, least).astype(np.int32)


def images(pictures: Sequence[str]) -> pa.Table:
    """The images' table: each has one of ``pictures``, and a page of its own."""
    number = range(len(pictures))
    return pa.table(
        {
            "page": [paths.page_name(f"{n}.jpg") for n in number],
            "picture": pa.array(pictures, pa.string()),
            "width": pa.array([480 for _ in number], pa.int32()),
            "height": pa.array([320 for _ in number], pa.int32()),
            "title": [f"Picture {n}" for n in number],
            "subtitle": ["" for _ in number],
        }
    )


def write_picture(gallery: Path, picture: str, content: bytes) -> None:
    file = gallery / paths.picture_path(picture, paths.SMALL)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
