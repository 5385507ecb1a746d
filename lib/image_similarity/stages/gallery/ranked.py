"""Lists of images in the order of a number: by quality, the odd ones out, and those that are likely mislabelled.

Each list has the first `measures.MOST` images only. `ranked_in_memory` and `ranked_by_spark` choose them; both ask the
same functions of arrays, and so they choose the same ones. The driver fills the pages, which are few.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from image_similarity.grouping.isolation import mislabelled
from image_similarity.stages.gallery import measures
from image_similarity.stages.gallery.in_memory import paged
from image_similarity.stages.gallery.listings import Facet
from image_similarity.stages.gallery.measures import Histogram
from image_similarity.stages.gallery.pages import Ranked, Tab

FOLDER = "odd"
LEAST_IMAGES = 3
"""Among fewer images with neighbours, none is odd."""
SUSPECTS_PER_PAGE = 20
EVIDENCE = 6
"""Neighbours shown beside an image whose label is doubted."""
EXAMPLES = 4
"""Images of a list that the page about all of them shows."""

Row = Mapping[str, Any]
Card = Row
Page = tuple[str, str, dict[str, Any]]
"""Path, template and variables."""


@dataclass(frozen=True)
class Quality:
    """What pages show of table ``quality``."""

    images: int
    """Images that have numbers."""
    lists: Mapping[str, Sequence[Card]]
    """Name of a list (`measures.firsts`) -> its cards, each with ``measured``, a `measures.Row`."""
    histograms: Mapping[str, Histogram]
    """Name of an order -> the histogram of its number; without those that no image has."""
    flags: Mapping[str, int]
    """Flag -> images that have it; without those that no image has."""


@dataclass(frozen=True)
class Odd:
    """The images that are farthest from their neighbours by one tab."""

    images: int
    """Images that have neighbours."""
    cards: Sequence[Card]
    """Each with ``mean_distance`` and ``percentile``."""


@dataclass(frozen=True)
class Edges:
    """The nearest neighbours by the first tab, those of each image together and the nearest first: arrays of one
    length.
    """

    image: NDArray[np.int64]
    """Ordinals."""
    neighbour: NDArray[np.int64]
    distance: NDArray[np.float32]
    label: NDArray[np.int64]
    """Of the image: the place of its value among those of a facet; -1 where it has none."""
    other: NDArray[np.int64]
    """Of the neighbour."""


@dataclass(frozen=True)
class Suspects:
    """The images whose label is doubted, by one facet."""

    facet: Facet
    images: int
    """Those that were judged: with a label that another image has, too, and a neighbour that has one."""
    doubted: int
    """Of these, those whose neighbours speak for another one. Not all are shown."""
    rows: Sequence[Mapping[str, Any]] = ()
    """card, label, suggested, the shares of both (own_share, suggested_share), neighbours (card and label of each)."""


@dataclass(frozen=True)
class Lists:
    """All of them."""

    quality: Quality | None = None
    odd: Mapping[int, Odd] = field(default_factory=dict)
    """By the number of the tab."""
    suspects: Sequence[Suspects] = ()
    unjudged: Sequence[str] = ()
    """Attributes by which none is judged: no two images have the same value."""

    def shown(self, tabs: Sequence[Tab]) -> Ranked:
        return Ranked(
            self.quality is not None,
            tuple(self.quality.flags) if self.quality else (),
            tuple((tab, odd_path(tabs[tab])) for tab in self.odd),
            tuple((of.facet.attribute, suspects_path(of.facet)) for of in self.suspects),
        )


def odd_path(tab: Tab, number: int = 1) -> str:
    return f"{FOLDER}/{tab.fingerprint}-{tab.metric}-{number}.html"


def suspects_path(facet: Facet, number: int = 1) -> str:
    return f"{FOLDER}/label-{facet.name}-{number}.html"


# -- judging labels ----------------------------------------------------------------------------------------------------

JUDGED = pa.schema(
    [
        ("ordinal", pa.int64()),
        ("label", pa.int64()),
        ("suggested", pa.int64()),
        ("score", pa.float32()),
        ("own_share", pa.float32()),
        ("neighbours", pa.list_(pa.int64())),
        ("labels", pa.list_(pa.int64())),
    ]
)
"""An image whose label was judged, and its nearest `EVIDENCE` neighbours with their labels."""


def can_be_judged(facet: Facet) -> bool:
    """Whether two images have one value."""
    return any(value.images > 1 for value in facet.values)


def judged(edges: Edges, facet: Facet) -> pa.Table:
    """`JUDGED` of the images of ``edges``: of a whole collection, or of a part of it. ``facet``: see `can_be_judged`.

    What is said of an image depends on its own neighbours, and on whether another image of the collection has its
    label, which the facet knows.
    """
    images, first, place = np.unique(edges.image, return_index=True, return_inverse=True)
    codes = np.arange(len(facet.values))
    # Each row's neighbour is an image of its own here. Every label is there twice more, so that all are judged.
    label = np.concatenate([edges.label[first], edges.other, codes, codes])
    judgement = mislabelled(place, len(images) + np.arange(len(place)), edges.distance, label)
    score, suggested, own_share = (of[: len(images)] for of in judgement)
    own = edges.label[first]
    is_shared = np.array([value.images > 1 for value in facet.values])
    kept = np.flatnonzero(np.isfinite(score) & (own >= 0) & is_shared[own])
    ends = np.append(first[1:], len(place))
    shown = [slice(first[at], min(first[at] + EVIDENCE, ends[at])) for at in kept]
    columns = [images[kept], own[kept], suggested[kept], score[kept], own_share[kept]]
    lists = ([values[of].tolist() for of in shown] for values in (edges.neighbour, edges.other))
    arrays = [pa.array(column, field.type) for column, field in zip([*columns, *lists], JUDGED)]
    return pa.Table.from_arrays(arrays, schema=JUDGED)


def suspects(facet: Facet, images: int, doubted: int, rows: Sequence[Row], card: Mapping[int, Card]) -> Suspects:
    """``rows``: of `JUDGED`, in the order of the pages. ``card``: of `ordinals_of` them."""

    def value(code: int) -> str | None:
        return facet.values[code].value if code >= 0 else None

    shown = [
        {
            "card": card[row["ordinal"]],
            "label": value(row["label"]),
            "suggested": value(row["suggested"]),
            "own_share": row["own_share"],
            "suggested_share": row["score"] + row["own_share"],
            "neighbours": [(card[at], value(code)) for at, code in zip(row["neighbours"], row["labels"])],
        }
        for row in rows
    ]
    return Suspects(facet, images, doubted, shown)


def ordinals_of(rows: Sequence[Row]) -> set[int]:
    """Of all images that the pages of rows of `JUDGED` show."""
    return {at for row in rows for at in (row["ordinal"], *row["neighbours"])}


# -- pages -------------------------------------------------------------------------------------------------------------


def pages_of(lists: Lists, tabs: Sequence[Tab], per_page: int) -> Iterator[Page]:
    """All pages of the lists."""
    if lists.quality is not None:
        yield from _of_quality(lists.quality, per_page)
    links = _odd_links(lists, tabs)
    for tab, odd in lists.odd.items():
        about = {"tab": tab, "links": links, "images": odd.images, "base": odd_path(tabs[tab]).removesuffix("1.html")}
        about["unjudged"] = lists.unjudged
        for page in paged([*odd.cards], per_page):
            yield odd_path(tabs[tab], page.number), "odd.html", {**about, **page.row(page.items)}
    for of in lists.suspects:
        about = {"of": of, "links": links, "base": suspects_path(of.facet).removesuffix("1.html")}
        for page in paged([*of.rows], SUSPECTS_PER_PAGE):
            yield suspects_path(of.facet, page.number), "mislabelled.html", {**about, **page.row(page.items)}


def _odd_links(lists: Lists, tabs: Sequence[Tab]) -> list[tuple[str, str, str | None]]:
    """Path of the first page, words, and attribute (None: of a tab) of each list."""
    several = len(lists.odd) > 1
    odd = [
        (odd_path(tabs[tab]), f"By {tabs[tab].label}" if several else "Unlike all others", None) for tab in lists.odd
    ]
    return [*odd, *((suspects_path(of.facet), "Unlike their", of.facet.attribute) for of in lists.suspects)]


def _of_quality(quality: Quality, per_page: int) -> Iterator[Page]:
    orders = [
        order
        for order in measures.ORDERS
        if order.name in quality.histograms and not quality.histograms[order.name].is_even
    ]
    about = {"quality": quality, "orders": orders}
    alike = next((cards for cards in quality.lists.values() if cards), []) if not orders else []
    yield f"{measures.FOLDER}/index.html", "quality.html", {**about, "examples": EXAMPLES, "alike": alike[:per_page]}
    for order in orders:
        of_order = {**about, "order": order, "flag": None, "images": quality.images, "base": f"{order.name}-"}
        for page in paged([*quality.lists[order.name]], per_page):
            yield measures.path(order.name, page.number), "quality_list.html", {**of_order, **page.row(page.items)}
    for flag, images in quality.flags.items():
        order, name = measures.BY_FLAG[flag], f"flag-{flag}"
        of_flag = {**about, "order": order, "flag": flag, "images": images, "base": f"{name}-"}
        for page in paged([*quality.lists[name]], per_page):
            yield measures.path(name, page.number), "quality_list.html", {**of_flag, **page.row(page.items)}
