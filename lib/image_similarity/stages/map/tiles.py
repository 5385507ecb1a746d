"""Tiles and the data of blocks, which Spark tasks draw from the gallery's small pictures.

A tile is named by its content, so maps share tiles: those that an earlier map has are not drawn again. Each map keeps
an inventory of its tiles in Parquet. No process but Spark's reads it as a whole when tiles are removed.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from image_similarity.errors import Unreadable
from image_similarity.imaging import tiles as imaging
from image_similarity.imaging.tiles import Cell
from image_similarity.pages import maps, paths
from image_similarity.pages.site import Site
from image_similarity.runtime import shelves
from image_similarity.runtime.progress import progress
from image_similarity.runtime.tasks import chunk_rows, task_count
from image_similarity.stages.map import blocks, files
from image_similarity.stages.map.blocks import Block, Chunk, Label, Nodes
from image_similarity.storage import blobs, uris
from image_similarity.warehouse import parquet
from image_similarity.warehouse.workspace import Workspace

COLUMNS = "level int, x int, y int, tile string, bytes long, drawn boolean, absent int, block_bytes long"
"""The inventory, a row for each tile. ``absent``: images of the deepest level whose picture could not be read.
``block_bytes``: of the data of the block that begins with this tile, else null."""
_SCHEMA = pa.schema(
    [
        *((name, pa.int32()) for name in ("level", "x", "y")),
        ("tile", pa.string()),
        ("bytes", pa.int64()),
        ("drawn", pa.bool_()),
        ("absent", pa.int32()),
        ("block_bytes", pa.int64()),
    ]
)
_LEAST_PER_TASK, _MOST_PER_TASK = 64, 2048  # pictures: the most take some ten seconds
_READERS = 8
"""Threads of a task that read pictures: a store answers after many milliseconds."""
_RUN = re.compile(r"r\d{8}T\d{6}-[0-9a-f]{8}")


@dataclass(frozen=True)
class Counts:
    tiles: int
    """Tiles of this map."""
    drawn: int
    """Those of them that no earlier map had."""
    bytes: int
    """Of all tiles of this map."""
    blocks: int
    block_bytes: int
    absent: int
    """Images whose picture could not be read: their cells are empty."""


def draw(
    spark: SparkSession,
    site: Site,
    run: str,
    pyramid: Sequence[Nodes],
    images: pa.Table,
    labels: Sequence[Sequence[Label]],
    previous: Sequence[str],
    scratch: Workspace,
    checked: int | None = None,
) -> Counts:
    """Draws the tiles of a map that are not there yet, and writes the data of all its blocks and its inventory.

    ``pyramid``: for each level a 2-D array [row, column] of int32, indices into ``images``, -1 for empty nodes.
    ``images``: the columns `blocks.IMAGE`, and perhaps others. ``labels``: for each level. ``previous``: the runs whose
    inventories say which bytes their tiles have; a file of other length is drawn again. ``checked``: a level whose
    tiles are also decoded, and drawn again if they are damaged. This process sends each task its part of the arrays,
    and holds a constant amount for each image.

    A picture that cannot be read is an empty cell. Its tile has another name than with the picture, so that the next
    run draws the picture if it is there again.
    """
    shown = sum(int((pyramid[level] >= 0).sum()) for level in blocks.last_levels(len(pyramid) - 1))
    tasks = task_count(spark, shown, _LEAST_PER_TASK, _MOST_PER_TASK)
    chunks = blocks.chunks(pyramid, images, labels, -(-shown // tasks))
    recorded = tuple(f"{site.uri}/{files.inventory(of)}" for of in previous)
    work = _drawer(site.uri, run, len(pyramid) - 1, recorded, checked)
    rows, tasks = chunk_rows(spark, scratch, "tiles", chunks, work, COLUMNS)
    with progress(spark, "check and draw tiles", blocks.count(pyramid), "tiles", tasks):
        parquet.write_folder(_inventory_folder(site, run), rows)
    return _counts(inventory(spark, site, run))


def inventory(spark: SparkSession, site: Site, run: str) -> DataFrame:
    """The tiles of ``run``: `COLUMNS`."""
    return parquet.read_folders(spark, [_inventory_folder(site, run)], _SCHEMA)


def _inventory_folder(site: Site, run: str) -> str:
    return f"{uris.for_spark(site.uri)}/{files.inventory(run)}"


def _counts(tiles: DataFrame) -> Counts:
    sums = [F.coalesce(F.sum(name), F.lit(0)).alias(name) for name in ("bytes", "block_bytes", "absent")]
    counts = [
        F.count("*").alias("tiles"),
        F.count_if("drawn").alias("drawn"),
        F.count("block_bytes").alias("blocks"),
    ]
    return Counts(**tiles.agg(*counts, *sums).collect()[0].asDict())


def remove_unused(spark: SparkSession, site: Site, kept: Sequence[str]) -> int:
    """Removes the folders of all maps but those of the runs ``kept``, and tiles that none of these shows.

    The first of ``kept`` is this run's. Its inventory is not damaged, or the job fails: no tile goes that it shows.
    Call it while the site is locked. Returns the number of tiles removed.
    """
    for name in site.files.entries(f"{site.uri}/{maps.FOLDER}"):
        if (_RUN.fullmatch(name) and name not in kept) or name.endswith(".tmp"):
            site.files.delete(f"{site.uri}/{maps.FOLDER}/{name}")
    own, *earlier = kept
    there = [of for of in earlier if site.files.entries(f"{site.uri}/{files.inventory(of)}")]
    shown = inventory(spark, site, own).select("tile")
    if there:
        folders = [parquet.escape_glob(_inventory_folder(site, of)) for of in there]
        reader = spark.read.schema(COLUMNS).option("ignoreCorruptFiles", "true")
        shown = shown.unionByName(reader.parquet(*folders).select("tile"))
    return shelves.remove_others(spark, f"{site.uri}/{files.TILES}", shown)


# -- in the workers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Recorded:
    """Tiles of earlier maps, and the bytes of their files: 40 bytes of memory for each."""

    tiles: NDArray[np.bytes_]
    """In order."""
    bytes: NDArray[np.int64]

    def bytes_of(self, tile: str) -> int | None:
        """None for a tile that is not recorded."""
        at = int(np.searchsorted(self.tiles, tile.encode()))
        return int(self.bytes[at]) if at < len(self.tiles) and self.tiles[at] == tile.encode() else None


@lru_cache(maxsize=1)
def _recorded(folders: tuple[str, ...]) -> _Recorded:
    """What the inventories in ``folders`` say. Each worker reads them once; a damaged one says nothing."""
    names, sizes = [np.zeros(0, "S32")], [np.zeros(0, np.int64)]
    for folder in folders:
        try:
            parts = [file.uri for file in blobs.list_files(folder) if file.path.endswith(".parquet")]
            for part in parts:
                with blobs.open_input_file(part) as opened:
                    table = pq.read_table(opened, columns=["tile", "bytes"])
                names.append(np.asarray(table["tile"].to_pylist(), "S32"))
                sizes.append(table["bytes"].to_numpy())
        except (OSError, pa.ArrowException):
            continue
    tiles, first = np.unique(np.concatenate(names), return_index=True)
    return _Recorded(tiles, np.concatenate(sizes)[first])


def _drawer(
    gallery: str, run: str, deepest: int, recorded: tuple[str, ...], checked: int | None
) -> Callable[[Chunk], Iterator[pa.RecordBatch]]:
    """What draws a chunk, and yields its rows of the inventory."""

    def drawn(chunk: Chunk) -> Iterator[pa.RecordBatch]:
        with ThreadPoolExecutor(_READERS, "pictures") as pool:
            for block in chunk.blocks():
                rows = _Drawing(gallery, block, _recorded(recorded), checked, pool).rows(run, deepest)
                yield pa.RecordBatch.from_pylist(rows, schema=_SCHEMA)

    return drawn


class _Drawing:
    """One block that is drawn. Each picture is decoded once, and only if a tile that is not there shows it."""

    def __init__(self, gallery: str, block: Block, recorded: _Recorded, checked: int | None, pool: ThreadPoolExecutor):
        self._gallery, self._block, self._recorded, self._checked, self._pool = gallery, block, recorded, checked, pool
        self._pictures = [picture or "" for picture in block.images["picture"].to_pylist()]
        self._cells: dict[int, Cell | None] = {}

    def rows(self, run: str, deepest: int) -> list[dict[str, Any]]:
        """Writes the tiles that are not there, and the block's data. Returns the block's rows of the inventory."""
        tiles = list(self._block.tiles())
        names = [blocks.tile_name(self._names(nodes)) for *_, nodes in tiles]
        there = list(self._pool.map(self._bytes_of, names, (level for level, *_ in tiles)))
        missing = [nodes for (*_, nodes), size in zip(tiles, there) if size is None]
        self._read(np.unique(np.concatenate([np.zeros(0, np.int32), *missing])))
        rows = []
        for (level, x, y, nodes), name, size in zip(tiles, names, there):
            absent = [number for number in nodes.tolist() if number in self._absent]
            place = {"level": level, "x": x, "y": y, "absent": len(absent) if level == deepest else 0}
            if size is not None:
                rows.append({**place, "tile": name, "bytes": size, "drawn": False})
            else:
                rows.append({**place, **self._draw(nodes, level)})
        rows[0]["block_bytes"] = self._write_data(run, rows)
        return rows

    def _names(self, nodes: Nodes) -> list[str]:
        """The pictures of ``nodes``, except those that turned out to be absent."""
        return ["" if number < 0 or number in self._absent else self._pictures[number] for number in nodes.tolist()]

    @property
    def _absent(self) -> set[int]:
        return {number for number, cell in self._cells.items() if cell is None}

    def _bytes_of(self, tile: str, level: int) -> int | None:
        """Bytes of a tile that is there, None if it is not, or if its file is seen to be damaged."""
        uri = f"{self._gallery}/{files.tile_path(tile)}"
        status = blobs.status(uri)
        if status is None or not status.size_bytes:
            return None
        if self._recorded.bytes_of(tile) not in (None, status.size_bytes):
            return None
        return status.size_bytes if level != self._checked or _is_whole(uri) else None

    def _read(self, numbers: NDArray[np.int32]) -> None:
        wanted = numbers[numbers >= 0].tolist()
        self._cells.update(zip(wanted, self._pool.map(self._cell, wanted)))

    def _cell(self, number: int) -> Cell | None:
        """None where the picture cannot be read."""
        if not (picture := self._pictures[number]):
            return None
        try:
            return imaging.cell(blobs.read(f"{self._gallery}/{paths.picture_path(picture, paths.SMALL)}"))
        except (OSError, ValueError, Unreadable):
            return None

    def _draw(self, nodes: Nodes, level: int) -> dict[str, Any]:
        """Writes a tile. With an empty cell for an absent picture it has a name of its own, and may be there."""
        tile = blocks.tile_name(self._names(nodes))
        if (size := self._bytes_of(tile, level)) is not None:
            return {"tile": tile, "bytes": size, "drawn": False}
        content = imaging.tile([None if number < 0 else self._cells[number] for number in nodes.tolist()])
        blobs.write(f"{self._gallery}/{files.tile_path(tile)}", content, "image/webp")
        return {"tile": tile, "bytes": len(content), "drawn": True}

    def _write_data(self, run: str, rows: list[dict[str, Any]]) -> int:
        names = {(row["level"], row["x"], row["y"]): row["tile"] for row in rows}
        content = blocks.script(self._block, names, sorted(self._absent)).encode()
        path = f"{self._gallery}/{files.block_path(run, self._block.name)}"
        blobs.write(path, content, "text/javascript; charset=utf-8")
        return len(content)


def _is_whole(tile: str) -> bool:
    """Whether the file of a tile can be decoded."""
    try:
        imaging.pixels(blobs.read(tile))
    except (OSError, Unreadable):
        return False
    return True
