"""The lists of `ranked` of a collection that fits into memory."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from image_similarity.grouping.isolation import isolation
from image_similarity.stages.gallery import in_memory, measures, ranked
from image_similarity.stages.gallery.in_memory import Image, folder_of
from image_similarity.stages.gallery.listings import Facet
from image_similarity.stages.gallery.measures import BY_FLAG, DERIVED, MOST, ORDERS, STORED, Histogram
from image_similarity.stages.gallery.ranked import Edges, Lists, Odd, Quality, Suspects

Card = dict[str, Any]


class RankedInMemory:
    """``all``: the images by ordinal, with ``card``, their cards. ``quality``: rows of that table; None: there are
    none.
    """

    def __init__(
        self, all_images: Sequence[Image], card: Mapping[str, Card], edges: in_memory.Edges, quality: pa.Table | None
    ) -> None:
        self._all, self._card, self._edges = all_images, card, edges
        self._quality = None if quality is None else _measured(all_images, quality)
        self._rows = {} if self._quality is None else _rows(self._quality)
        tabs = np.unique(edges.tab[edges.is_similar]).tolist()
        self._isolation = {tab: self._isolated(tab) for tab in tabs}

    def _isolated(self, tab: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        own = self._edges.is_similar & (self._edges.tab == tab)
        return isolation(self._edges.image[own], self._edges.distance[own], len(self._all))

    def of_image(self, ordinal: int) -> dict[str, Any]:
        """``measured`` (None: not known) and ``isolation`` (by tabs) of an image, for its page."""
        isolated = [
            {"tab": tab, "mean_distance": float(mean[ordinal]), "percentile": float(percentile[ordinal])}
            for tab, (mean, percentile) in self._isolation.items()
            if np.isfinite(mean[ordinal])
        ]
        return {"measured": self._rows.get(ordinal), "isolation": isolated}

    def lists(self, facets: Sequence[Facet]) -> Lists:
        odd = {tab: self._odd(tab) for tab in self._isolation}
        shown = {tab: of for tab, of in odd.items() if of.images >= ranked.LEAST_IMAGES}
        judged = [self._suspects(facet) for facet in facets if ranked.can_be_judged(facet)]
        unjudged = [facet.attribute for facet in facets if not ranked.can_be_judged(facet)]
        return Lists(self._of_quality(), shown, judged, unjudged)

    def _of_quality(self) -> Quality | None:
        table = self._quality
        if table is None or not len(table):
            return None
        lists = {
            name: [{**self._card_of(ordinal), "measured": self._rows[ordinal]} for ordinal in ordinals.tolist()]
            for name, _, ordinals in measures.firsts(table)
        }
        histograms = {}
        for order in ORDERS:
            values = measures.values_of(table, order.column)
            if len(known := values[np.isfinite(values)]):
                lowest, highest = float(known.min()), float(known.max())
                counts = measures.counted(table, order, highest)
                histograms[order.name] = Histogram(lowest, highest, *(tuple(of.tolist()) for of in counts))
        flags = {flag: int(measures.flagged(table, flag).sum()) for flag in BY_FLAG}
        return Quality(len(table), lists, histograms, {flag: images for flag, images in flags.items() if images})

    def _odd(self, tab: int) -> Odd:
        mean, percentile = self._isolation[tab]
        known = np.flatnonzero(np.isfinite(mean))
        chosen = known[np.lexsort((known, -mean[known]))][:MOST]
        cards = [
            {**self._card_of(at), "mean_distance": float(mean[at]), "percentile": float(percentile[at])}
            for at in chosen.tolist()
        ]
        return Odd(len(known), cards)

    def _suspects(self, facet: Facet) -> Suspects:
        label = self._labels(facet)
        own = self._edges.is_similar & (self._edges.tab == 0)
        image, neighbour = self._edges.image[own], self._edges.neighbour[own]
        edges = Edges(image, neighbour, self._edges.distance[own], label[image], label[neighbour])
        judged = ranked.judged(edges, facet)
        doubted = judged.filter(pc.greater(judged["score"], 0))
        rows = doubted.sort_by([("score", "descending"), ("ordinal", "ascending")])[:MOST].to_pylist()
        card = {at: self._card_of(at) for at in ranked.ordinals_of(rows)}
        return ranked.suspects(facet, len(judged), len(doubted), rows, card)

    def _labels(self, facet: Facet) -> NDArray[np.int64]:
        """(n,) the place of each image's value among those of ``facet``; -1 where it has none."""
        codes = {value.value: code for code, value in enumerate(facet.values)}
        pairs = [folder_of(image) if facet.by_folder else image["attributes"] for image in self._all]
        values = [dict(of).get(facet.attribute) for of in pairs]
        return np.array([-1 if value is None else codes.get(value, -1) for value in values], np.int64)

    def _card_of(self, ordinal: int) -> Card:
        return self._card[self._all[ordinal]["image_id"]]


def _measured(all_images: Sequence[Image], quality: pa.Table) -> pa.Table:
    """``ordinal`` and `STORED` of the images whose content was measured, in their order."""
    rows = pc.index_in(
        quality["image_id"], value_set=pa.array([image["image_id"] for image in all_images], pa.string())
    )
    table = quality.append_column("ordinal", rows.cast(pa.int64())).filter(pc.is_valid(rows))
    contents = pa.array([image["content_sha256"] for image in all_images], pa.string()).take(table["ordinal"])
    is_other = pc.fill_null(pc.not_equal(table["content_sha256"], contents), False)
    return table.filter(pc.invert(is_other)).select(["ordinal", *STORED]).sort_by("ordinal").combine_chunks()


def _rows(table: pa.Table) -> dict[int, dict[str, Any]]:
    """ordinal -> a `measures.Row`."""
    derived = {name: measures.values_of(table, name).tolist() for name in DERIVED}
    rows = table.to_pylist()
    return {
        row.pop("ordinal"): {**row, **{name: of[place] for name, of in derived.items()}}
        for place, row in enumerate(rows)
    }
