"""Where each image is on the wall, for the page that is asked for one: shards of cells by the name of images' pages."""

import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import SparkSession

from image_similarity.pages.site import Site
from image_similarity.runtime.tasks import over_chunks
from image_similarity.stages.map import files
from image_similarity.storage import blobs
from image_similarity.warehouse.workspace import Workspace

PER_SHARD = 4000
"""Images of a shard, the most on average: 200 kB."""
_PER_TASK = 100_000
_COLUMNS = "files long, bytes long"


def digits(images: int) -> int:
    """The hexadecimal digits that tell the shard of an image: as many as keep shards to `PER_SHARD` images."""
    count = 0
    while images > PER_SHARD * 16**count:
        count += 1
    return count


def write(
    spark: SparkSession, site: Site, run: str, pages: pa.Array, cell: NDArray[np.int32], scratch: Workspace
) -> tuple[int, int]:
    """Writes the shards of ``pages`` (n,), names of images' pages, and their ``cell`` (n, 2), column and row.

    Returns the number of files, and their bytes.
    """
    names = np.asarray(pages.to_numpy(zero_copy_only=False), "S32")
    order = np.argsort(names, kind="stable")
    length, place = digits(len(names)), f"{site.uri}/"

    def written(chunk: tuple[NDArray[np.bytes_], NDArray[np.int32]]) -> Iterator[pa.RecordBatch]:
        sizes = [
            _write(place + files.places_path(run, prefix), prefix, names, cells)
            for prefix, names, cells in _shards(*chunk, length)
        ]
        yield pa.RecordBatch.from_pydict({"files": [len(sizes)], "bytes": [sum(sizes)]})

    chunks = ((names[part], cell[part]) for part in _parts(names[order], order, length))
    sizes = over_chunks(spark, scratch, "places", chunks, written, _COLUMNS)
    return sum(sizes["files"].to_pylist()), sum(sizes["bytes"].to_pylist())


def _parts(names: NDArray[np.bytes_], order: NDArray[np.int64], length: int) -> Iterator[NDArray[np.int64]]:
    """``order`` in parts of about `_PER_TASK` images, none of which ends within a shard. ``names``: in order."""
    begin = 0
    while begin < len(names):
        end = len(names)
        if begin + _PER_TASK < end and length:
            # Hexadecimal digits come before g.
            last = names[begin + _PER_TASK][:length] + b"g"
            end = int(np.searchsorted(names, last))
        yield order[begin:end]
        begin = end


def _shards(
    names: NDArray[np.bytes_], cells: NDArray[np.int32], length: int
) -> Iterator[tuple[str, NDArray[np.bytes_], NDArray[np.int32]]]:
    """Prefix, names and cells of each shard."""
    prefixes = names.astype(f"S{length}") if length else np.zeros(len(names), "S1")
    begins = np.flatnonzero(np.concatenate([[True], prefixes[1:] != prefixes[:-1]]))
    for begin, end in zip(begins, [*begins[1:], len(names)]):
        yield prefixes[begin].decode(), names[begin:end], cells[begin:end]


def _write(uri: str, prefix: str, names: NDArray[np.bytes_], cells: NDArray[np.int32]) -> int:
    """Writes a shard. Returns its bytes."""
    places = {name.decode(): cell for name, cell in zip(names.tolist(), cells.tolist())}
    content = f'map.places("{prefix}",{json.dumps(places, separators=(",", ":"))})'.encode()
    blobs.write(uri, content, "text/javascript; charset=utf-8")
    return len(content)
