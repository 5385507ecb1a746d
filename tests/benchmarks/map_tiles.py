"""The map's tiles: seconds, bytes and memory of a first drawing, of one with nothing new, and of one with 1 % changed.

    .venv/bin/python tests/benchmarks/map_tiles.py PICTURES... [--images 30000] [--drawn 1.0] [--changed 0.01]

PICTURES are folders of images. Small files are made of them as the gallery makes them, and repeated under other names
until there are ``--images``: their files are in the page cache. The layout is made: an image in all but 12 % of the
cells of a wall of 4 by 3, by chance; the image of the least index stands for what is under a node. No tables and no
pages are made.

With ``--drawn 0.25`` a quarter of the wall is drawn: its upper left part. Of the rest the tiles are counted, and all
work of the driver is done: cutting blocks, and writing what tasks get. Seconds and bytes of the whole are computed from
the part, and marked so. Prints Markdown.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import SparkSession

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks.measuring import Peak
from image_similarity.errors import Unreadable
from image_similarity.imaging import thumbnails
from image_similarity.pages import paths
from image_similarity.pages.site import Site
from image_similarity.runtime.session import available_cores, open_session
from image_similarity.runtime.tasks import chunk_rows
from image_similarity.stages.map import blocks, places, tiles, wall
from image_similarity.stages.map.blocks import Nodes
from image_similarity.stages.map.tiles import Counts
from image_similarity.storage.local import LocalFiles
from image_similarity.warehouse.workspace import Workspace
from walls import images, pyramid, write_picture

T = TypeVar("T")
FREE = 0.12
MAX_PIXELS = 10**9
MOST_PICTURES = 500
"""Pictures of the folder that are used."""
RUNS = [f"r20260101T00000{number}-00000000" for number in range(3)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--drawn", type=float, default=1.0, help="share of the wall that is drawn")
    parser.add_argument("--changed", type=float, default=0.01, help="share of images with another picture")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="map-") as folder:
        wall_of = made(given.pictures, Path(folder), given.images, given.drawn)
        session = open_session("bench")
        report(Measuring(session, Path(folder)), wall_of, given.changed)
        session.stop()


@dataclass(frozen=True)
class MadeWall:
    whole: list[Nodes]
    part: list[Nodes]
    """What of it is drawn."""
    cell: NDArray[np.int32]
    images: pa.Table
    spare: list[str]
    """Names of pictures that no image has."""


def made(pictures: list[Path], folder: Path, n: int, drawn: float) -> MadeWall:
    """A wall of ``n`` images, and the files of their pictures where they are drawn."""
    rows = round((n / (1 - FREE) * 3 / 4) ** 0.5)
    columns = -(-round(n / (1 - FREE)) // rows)
    taken = np.sort(np.random.default_rng(0).permutation(columns * rows)[:n])
    cell = np.stack([taken % columns, taken // columns], axis=1).astype(np.int32)
    whole = pyramid(columns, rows, cell)
    part = pyramid(columns, rows, cell, int(columns * drawn**0.5), int(rows * drawn**0.5))
    names = [f"{(number * 0x9E3779B97F4A7C15) % 2**64:016x}{number:016x}" for number in range(n + n // 20)]
    shown = np.unique(part[-1])
    write_pictures(pictures, folder / "gallery", [names[number] for number in shown[shown >= 0]] + names[n:])
    return MadeWall(whole, part, cell, images(names[:n]), names[n:])


def write_pictures(pictures: list[Path], gallery: Path, names: list[str]) -> None:
    """Each of ``names`` as a link to one of the few files that are made."""
    small = []
    for file in sorted(file for folder in pictures for file in folder.rglob("*") if file.is_file()):
        try:
            small.append(thumbnails.thumbnails(file.read_bytes(), MAX_PIXELS).small)
        except Unreadable:
            continue
        if len(small) == MOST_PICTURES:
            break
    print(f"{len(small)} pictures of {np.mean([len(content) for content in small]) / 1000:.1f} kB on average\n")
    for name, content in zip(names, small):
        write_picture(gallery, name, content)
    for number, name in enumerate(names[len(small) :]):
        target = gallery / paths.picture_path(name, paths.SMALL)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(gallery / paths.picture_path(names[number % len(small)], paths.SMALL), target)


class Measuring:
    """Steps, and the seconds and memory that they take."""

    def __init__(self, spark: SparkSession, folder: Path):
        self.spark, self.site = spark, Site("gallery", str(folder / "gallery"), LocalFiles())
        self._folder, self._scratch = folder, 0

    def scratch(self) -> Workspace:
        self._scratch += 1
        return Workspace(self.spark, LocalFiles(), f"file://{self._folder}/scratch-{self._scratch}")

    def draw(self, run: str, nodes: list[Nodes], table: pa.Table, *previous: str) -> Counts:
        return tiles.draw(self.spark, self.site, run, nodes, table, [[] for _ in nodes], previous, self.scratch())

    def step(self, name: str, work: Callable[[], T]) -> tuple[T, float]:
        with Peak() as peak:
            start = time.perf_counter()
            result = work()
            seconds = time.perf_counter() - start
        print(f"| {name} | {seconds:,.1f} | {peak.bytes / 1e6:,.0f} |", flush=True)
        return result, seconds


def report(measuring: Measuring, of: MadeWall, changed: float) -> None:
    n, drawn = of.images.num_rows, int((of.part[-1] >= 0).sum())
    spark, site, pages = measuring.spark, measuring.site, of.images["page"].combine_chunks()
    table, others = with_changes(of, changed)
    print(f"{n:,} images, of which {drawn:,} are drawn, on {available_cores()} cores\n")
    print("| step | s | MB of the largest process |\n| --- | --- | --- |")
    measuring.step("start Spark", lambda: spark.range(1).count())
    _, cutting = measuring.step("cut all blocks, write what tasks get", lambda: cut(measuring, of))
    first, *seconds = measuring.step("draw", lambda: measuring.draw(RUNS[0], of.part, of.images))
    _, again = measuring.step("draw, nothing new", lambda: measuring.draw(RUNS[1], of.part, of.images, RUNS[0]))
    seconds.append(again)
    changes = f"draw, {others:,} pictures changed"
    later, again = measuring.step(changes, lambda: measuring.draw(RUNS[2], of.part, table, RUNS[1]))
    seconds.append(again)
    measuring.step("places", lambda: places.write(spark, site, RUNS[2], pages, of.cell, measuring.scratch()))
    measuring.step("the wall's picture", lambda: wall.write(spark, site, RUNS[2], of.part))
    measuring.step("remove what is not shown", lambda: tiles.remove_unused(spark, site, RUNS[2:]))
    print(f"\nFirst: {sentence(first)}. With changes: {later.drawn:,} tiles drawn, {later.drawn / later.tiles:.1%}.")
    if drawn < n:
        of_all = [cutting + (step - cutting * drawn / n) * n / drawn for step in seconds]
        print(computed(first, blocks.count(of.whole), n / drawn, of_all))


def computed(first: Counts, all_tiles: int, times: float, seconds: list[float]) -> str:
    """What the whole wall would take, of which a part was drawn."""
    gigabytes = first.bytes / first.tiles * all_tiles / 1e9
    drawn, again, changed = seconds
    return (
        f"Computed for all: {all_tiles:,} tiles (counted) in {gigabytes:.2f} GB; {first.blocks * times:,.0f} blocks in "
        f"{first.block_bytes * times / 1e6:,.0f} MB; {drawn:,.0f} s for the first drawing, {again:,.0f} s with nothing "
        f"new, {changed:,.0f} s with changes."
    )


def sentence(counts: Counts) -> str:
    return (
        f"{counts.tiles:,} tiles of {counts.bytes / counts.tiles / 1000:.1f} kB, {counts.bytes / 1e6:,.0f} MB; "
        f"{counts.blocks:,} blocks of {counts.block_bytes / counts.blocks / 1000:.1f} kB"
    )


def cut(measuring: Measuring, of: MadeWall) -> int:
    """The work of the driver for the whole wall."""
    scratch, pictures = measuring.scratch(), tiles._MOST_PER_TASK
    chunks = blocks.chunks(of.whole, of.images, [[] for _ in of.whole], pictures)
    _, tasks = chunk_rows(measuring.spark, scratch, "cut", chunks, lambda _: iter(()), "n long")
    return tasks


def with_changes(of: MadeWall, share: float) -> tuple[pa.Table, int]:
    """The images' table with another picture for a share of those that are drawn, and their number."""
    shown = np.unique(of.part[-1])
    shown = shown[shown >= 0]
    chosen = np.random.default_rng(1).choice(shown, int(len(shown) * share), replace=False)
    names = np.asarray(of.images["picture"].to_pylist(), dtype=object)
    names[chosen] = of.spare[: len(chosen)]
    return of.images.set_column(1, "picture", pa.array(names.tolist(), pa.string())), len(chosen)


if __name__ == "__main__":
    main()
