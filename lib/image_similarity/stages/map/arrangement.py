"""A place and a cell for each image: those of the map before as far as they hold, or new ones.

What UMAP places are nodes, the distinct contents; their images have one place, and cells beside each other.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from image_similarity.knn.distances import Reals
from image_similarity.mapping import extend, grid, layout, placement, sample
from image_similarity.neighbour_graph import Names, hashes
from image_similarity.settings import MapSettings
from image_similarity.stages.map.shown import Shown

Cells = NDArray[np.int32]
Step = Callable[[str], AbstractContextManager[None]]
"""Reports a step of the work."""

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
    """image_id, x, y, grid_column, grid_row."""


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
    since_layout: int
    """Images that came since all places were new."""
    key: str | None
    seed: int
    free: float

    @property
    def record(self) -> dict[str, Any]:
        """For the settings of the run, from which the next one learns whether places hold."""
        return {
            "recipe": RECIPE,
            "columns": self.columns,
            "rows": self.rows,
            "since_layout": self.since_layout,
            "fingerprint_key": self.key,
            "seed": self.seed,
            "free": self.free,
        }


def arranged(shown: Shown, earlier: Earlier | None, settings: MapSettings, key: str | None, step: Step) -> Arrangement:
    """The arrangement of ``shown``, which has an image. ``key``: that of the fingerprint; None for own vectors."""
    if earlier is None:
        return _anew(shown, settings, key, "no map was published before", step)
    known = _Known.of(shown, earlier)
    if why := _why_new(known, earlier, settings, key):
        return _anew(shown, settings, key, why, step)
    with step("place new images"):
        kept = _kept(shown, known, earlier, settings, key)
    return kept or _anew(shown, settings, key, "no cells are free for new images", step)


@dataclass(frozen=True)
class _Known:
    """Which images the map before has, and where."""

    is_known: NDArray[np.bool_]
    positions: Reals
    """(n, 2), nan where not known."""
    cell: Cells
    """(n, 2), -1 where not known."""

    @classmethod
    def of(cls, shown: Shown, earlier: Earlier) -> "_Known":
        place = Names(shown.ids).find(earlier.rows["image_id"].combine_chunks())
        stays = place >= 0
        known = cls(
            np.zeros(len(shown), dtype=np.bool_),
            np.full((len(shown), 2), np.nan),
            np.full((len(shown), 2), -1, dtype=np.int32),
        )
        known.is_known[place[stays]] = True
        for array, columns in ((known.positions, ("x", "y")), (known.cell, ("grid_column", "grid_row"))):
            for number, column in enumerate(columns):
                array[place[stays], number] = earlier.rows[column].to_numpy()[stays]
        return known

    @property
    def new(self) -> int:
        return int((~self.is_known).sum())


def _why_new(known: _Known, earlier: Earlier, settings: MapSettings, key: str | None) -> str | None:
    """Why the places of the map before do not hold; None if they do."""
    before, images = earlier.record, len(known.is_known)
    if before.get("recipe") != RECIPE:
        return "the map before was made by another version"
    if before.get("fingerprint_key") != key:
        return "the vectors are others than those of the map before"
    if any(before.get(name) != getattr(settings, name) for name in ("seed", "free")):
        return "map.seed or map.free is another"
    if not settings.relayout:
        return "map.relayout = 0"
    since = int(before.get("since_layout", 0)) + known.new
    if since >= settings.relayout * images and since:
        return f"{since:,} of {images:,} images are new since the last layout (map.relayout = {settings.relayout:g})"
    if images < _FULL_ENOUGH * (1 - settings.free) * before["columns"] * before["rows"]:
        return "most images of the map before are gone"
    return None


def _kept(shown: Shown, known: _Known, earlier: Earlier, settings: MapSettings, key: str | None) -> Arrangement | None:
    """The arrangement before, with new images beside their neighbours; None if not enough cells are free."""
    columns, rows = int(earlier.record["columns"]), int(earlier.record["rows"])
    positions = _placed_beside(shown, known)
    cell = extend.extend(known.cell, known.is_known, positions, shown.of_images[0], columns, rows, settings.seed)
    if cell is None:
        return None
    since = int(earlier.record.get("since_layout", 0)) + known.new
    return Arrangement(positions, cell, columns, rows, None, known.new, since, key, settings.seed, settings.free)


def _placed_beside(shown: Shown, known: _Known) -> Reals:
    """(n, 2): known places, those of copies of known images, and for others a place beside their neighbours."""
    of_node = np.zeros((len(shown.in_graph), 2))
    node_is_known = np.zeros(len(of_node), dtype=np.bool_)
    node_is_known[shown.node[known.is_known]] = True
    of_node[shown.node[known.is_known]] = known.positions[known.is_known]
    of_node = placement.beside(of_node, node_is_known, shown.neighbour, shown.distance)
    positions: Reals = np.where(known.is_known[:, None], known.positions, of_node[shown.node])
    return positions


def _anew(shown: Shown, settings: MapSettings, key: str | None, why: str, step: Step) -> Arrangement:
    """New places for all images."""
    of_node, placed = _laid_out(shown, settings, step)
    positions = of_node[shown.node]
    columns, rows = grid.shape(len(shown), settings.free)
    with step("find cells"):
        cell = grid.snap(positions, shown.of_images[0], columns, rows, settings.seed)
    return Arrangement(positions, cell, columns, rows, why, placed, 0, key, settings.seed, settings.free)


def _laid_out(shown: Shown, settings: MapSettings, step: Step) -> tuple[Reals, int]:
    """(m, 2): a place for each node, and the number of images beside whose neighbours others were placed."""
    nodes = len(shown.in_graph)
    if nodes <= settings.layout_rows:
        with step("lay out"):
            return layout.lay_out(shown.neighbour, shown.distance, settings.seed), 0
    chosen = sample.choose(hashes(shown.ids)[shown.first], settings.layout_rows)
    with step(f"lay out {len(chosen):,} of {nodes:,}"):
        of_chosen = layout.lay_out(*sample.sampled(shown.neighbour, shown.distance, chosen), settings.seed)
    positions, is_known = np.zeros((nodes, 2)), np.zeros(nodes, dtype=np.bool_)
    positions[chosen], is_known[chosen] = of_chosen, True
    with step("place the others"):
        positions = placement.beside(positions, is_known, shown.neighbour, shown.distance)
    return positions, int((~is_known[shown.node]).sum())
