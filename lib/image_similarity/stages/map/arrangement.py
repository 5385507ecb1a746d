"""A place and a cell for each image: those of the map before as far as they hold, or new ones.

What UMAP places are nodes, the distinct contents; their images have one place, and cells beside each other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from image_similarity.errors import counted
from image_similarity.knn.distances import Indices, Reals
from image_similarity.mapping import extend, grid, layout, placement, sample
from image_similarity.mapping.swaps import OnProgress
from image_similarity.neighbour_graph import Contents, Names, hashes, unhexed
from image_similarity.runtime.progress import progress, step
from image_similarity.settings import MapSettings
from image_similarity.stages.map.shown import Shown

Cells = NDArray[np.int32]

RECIPE = 1
"""Of layout and grid. Another one gives new places to all images."""
_FULL_ENOUGH = 0.5
"""Of the cells that a new grid would fill. A map with fewer images than this has lost too many, and gets a new grid."""


@dataclass(frozen=True)
class Earlier:
    """The map that was published before."""

    run: str
    record: dict[str, Any]
    """What its run recorded, see `Arrangement.record`."""
    rows: pa.Table
    """image_id, x, y, grid_column, grid_row, content_sha256 (null for vectors of one's own), since_layout."""

    @property
    def has_contents(self) -> bool:
        """Whether it says what each image was. Maps of before did not."""
        return not self.rows["content_sha256"].null_count

    @property
    def says_what_is_new(self) -> bool:
        """Whether it says which images came since the layout. Maps of before did not."""
        return not self.rows["since_layout"].null_count


@dataclass(frozen=True)
class NoEarlier:
    """There are no places to keep."""

    why: str = "no map by this fingerprint and metric was published before"


@dataclass(frozen=True)
class Arrangement:
    """Where n images are."""

    positions: Reals
    """(n, 2): x and y of the layout."""
    cell: Cells
    """(n, 2): column and row; no two images have the same."""
    columns: int
    rows: int
    why_new: str | None
    """Why all places are new; None if those of the map before were kept."""
    placed: int
    """Images that were placed beside their neighbours: new ones, or those that UMAP did not place."""
    moved: int
    """Known images that have another cell than before, since new ones came. 0 if all places are new."""
    since_layout: NDArray[np.bool_]
    """(n,): whether an image came since all places were new."""
    key: str
    seed: int
    free: float

    @property
    def record(self) -> dict[str, Any]:
        """For the settings of the run, from which the next one learns whether places hold."""
        return {
            "recipe": RECIPE,
            "columns": self.columns,
            "rows": self.rows,
            "since_layout": int(self.since_layout.sum()),
            "fingerprint_key": self.key,
            "seed": self.seed,
            "free": self.free,
        }


def arranged(spark: Any, shown: Shown, earlier: "Earlier | NoEarlier", settings: MapSettings, key: str) -> Arrangement:
    """The arrangement of ``shown``, which has an image.

    ``spark``: a session, for the names of steps; it is not started. ``key``: what the vectors are known by: that of the
    fingerprint, or for own vectors what changes with any of them.
    """
    if isinstance(earlier, NoEarlier):
        return _anew(spark, shown, settings, key, earlier.why)
    if why := _made_otherwise(shown, earlier, settings, key):
        return _anew(spark, shown, settings, key, why)
    known = _Known.of(shown, earlier)
    if why := _outgrown(known, earlier, settings):
        return _anew(spark, shown, settings, key, why)
    kept = _kept(spark, shown, known, earlier, settings, key)
    return kept or _anew(spark, shown, settings, key, "no cells are free for new images")


@contextmanager
def _reported(spark: Any, what: str, images: int) -> Iterator[OnProgress]:
    """Reports the work on images in this context, which calls what it gets with the parts that are done, and all."""
    share = 0.0

    def on_progress(done: int, of: int) -> None:
        nonlocal share
        share = done / of

    with progress(spark, what, images, "images", 1, lambda: share):
        yield on_progress


@dataclass(frozen=True)
class _Known:
    """Which images the map before has, and where.

    An image is known by its id while its file has the content that was placed. A file that was renamed is known by its
    content: its image gets the place of one that is gone, or that has another content now.
    """

    is_known: NDArray[np.bool_]
    positions: Reals
    """(n, 2), nan where not known."""
    cell: Cells
    """(n, 2), -1 where not known."""
    since_layout: NDArray[np.bool_]
    """(n,): whether it came since all places were new; those that are not known did."""

    @classmethod
    def of(cls, shown: Shown, earlier: Earlier) -> "_Known":
        place = _places(shown, earlier)
        stays = place >= 0
        known = cls(
            np.zeros(len(shown), dtype=np.bool_),
            np.full((len(shown), 2), np.nan),
            np.full((len(shown), 2), -1, dtype=np.int32),
            np.ones(len(shown), dtype=np.bool_),
        )
        known.is_known[place[stays]] = True
        for array, columns in ((known.positions, ("x", "y")), (known.cell, ("grid_column", "grid_row"))):
            for number, column in enumerate(columns):
                array[place[stays], number] = earlier.rows[column].to_numpy()[stays]
        known.since_layout[place[stays]] = earlier.rows["since_layout"].to_numpy()[stays]
        return known

    @property
    def new(self) -> int:
        return int((~self.is_known).sum())


def _places(shown: Shown, earlier: Earlier) -> Indices:
    """For each row of the map before, the image that is known by it, -1 for none."""
    place = Names(shown.ids).find(earlier.rows["image_id"].combine_chunks())
    if shown.content is None:
        return place
    then, now = unhexed(earlier.rows["content_sha256"].combine_chunks()), shown.content[shown.node]
    place[(place >= 0) & (now[place] != then)] = -1
    is_new = np.ones(len(shown), dtype=np.bool_)
    is_new[place[place >= 0]] = False
    left, new = np.flatnonzero(place < 0), np.flatnonzero(is_new)
    of_left, of_new = _equal(then[left], now[new])
    place[left[of_left]] = new[of_new]
    return place


def _equal(some: Contents, others: Contents) -> tuple[Indices, Indices]:
    """Which of both are equal, each with one other at most: those that come first."""
    number = np.unique(np.concatenate([some, others]), return_inverse=True)[1]
    a, b = (of * len(number) + _equal_before(of) for of in np.split(number, [len(some)]))
    _, of_some, of_others = np.intersect1d(a, b, assume_unique=True, return_indices=True)
    return of_some, of_others


def _equal_before(number: Indices) -> Indices:
    """(n,): how many equal numbers are before each."""
    order = np.argsort(number, kind="stable")
    before = np.empty(len(number), dtype=np.int64)
    before[order] = np.arange(len(number)) - np.searchsorted(number[order], number[order])
    return before


def _made_otherwise(shown: Shown, earlier: Earlier, settings: MapSettings, key: str) -> str | None:
    """Why the places of the map before do not hold, whatever images it has; None if they may."""
    before = earlier.record
    if before.get("fingerprint_key") != key:
        return "the vectors are others than those of the map before"
    is_known = earlier.says_what_is_new and (shown.content is None or earlier.has_contents)
    if before.get("recipe") != RECIPE or not is_known:
        return "the map before was made by another version"
    for name in ("seed", "free"):
        if before.get(name) != getattr(settings, name):
            return f"map.{name} was {before.get(name)}, and is {getattr(settings, name)}"
    if not settings.relayout:
        return "map.relayout = 0"
    return None


def _outgrown(known: _Known, earlier: Earlier, settings: MapSettings) -> str | None:
    """Why the places of the map before do not hold for its images and the new ones; None if they do."""
    before, images = earlier.record, len(known.is_known)
    since = int(known.since_layout.sum())
    if since >= settings.relayout * images and since:
        new = f"{since:,} of {counted(images, 'image')} {'is' if since == 1 else 'are'} new"
        return f"{new} since the last layout: map.relayout = {settings.relayout:g}"
    if images < _FULL_ENOUGH * (1 - settings.free) * before["columns"] * before["rows"]:
        return "most images of the map before are gone"
    return None


def _kept(
    spark: Any, shown: Shown, known: _Known, earlier: Earlier, settings: MapSettings, key: str
) -> Arrangement | None:
    """The arrangement before, with new images beside their neighbours, for which some known ones make room; None if not
    enough cells are free.
    """
    columns, rows = int(earlier.record["columns"]), int(earlier.record["rows"])
    lists = shown.of_images[0]
    with _reported(spark, "place new images", known.new) as report:
        positions = _placed_beside(shown, known)
        cell = extend.extend(known.cell, known.is_known, positions, lists, columns, rows, settings.seed, report)
    if cell is None:
        return None
    moved = int((known.is_known & (cell != known.cell).any(axis=1)).sum())
    return Arrangement(
        positions, cell, columns, rows, None, known.new, moved, known.since_layout, key, settings.seed, settings.free
    )


def _placed_beside(shown: Shown, known: _Known) -> Reals:
    """(n, 2): known places, those of copies of known images, and for others a place beside their neighbours."""
    of_node = np.zeros((len(shown.in_graph), 2))
    node_is_known = np.zeros(len(of_node), dtype=np.bool_)
    node_is_known[shown.node[known.is_known]] = True
    of_node[shown.node[known.is_known]] = known.positions[known.is_known]
    of_node = placement.beside(of_node, node_is_known, shown.neighbour, shown.distance)
    positions: Reals = np.where(known.is_known[:, None], known.positions, of_node[shown.node])
    return positions


def _anew(spark: Any, shown: Shown, settings: MapSettings, key: str, why: str) -> Arrangement:
    """New places for all images."""
    of_node, placed = _laid_out(spark, shown, settings)
    positions = of_node[shown.node]
    columns, rows = grid.shape(len(shown), settings.free)
    with _reported(spark, "find cells", len(shown)) as report:
        cell = grid.snap(positions, shown.of_images[0], columns, rows, settings.seed, report)
    since_layout = np.zeros(len(shown), dtype=np.bool_)
    return Arrangement(positions, cell, columns, rows, why, placed, 0, since_layout, key, settings.seed, settings.free)


def _laid_out(spark: Any, shown: Shown, settings: MapSettings) -> tuple[Reals, int]:
    """(m, 2): a place for each node, and the number of images beside whose neighbours others were placed."""
    nodes = len(shown.in_graph)
    if nodes <= settings.layout_rows:
        with _reported(spark, "lay out", nodes) as report:
            return layout.lay_out(shown.neighbour, shown.distance, settings.seed, on_progress=report), 0
    chosen = sample.choose(hashes(shown.ids)[shown.first], settings.layout_rows)
    with _reported(spark, "lay out a sample", len(chosen)) as report:
        lists = sample.sampled(shown.neighbour, shown.distance, chosen)
        of_chosen = layout.lay_out(*lists, settings.seed, on_progress=report)
    positions, is_known = np.zeros((nodes, 2)), np.zeros(nodes, dtype=np.bool_)
    positions[chosen], is_known[chosen] = of_chosen, True
    with step(spark, "place the others"):
        positions = placement.beside(positions, is_known, shown.neighbour, shown.distance)
    return positions, int((~is_known[shown.node]).sum())
