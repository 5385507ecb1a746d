"""Lists of images in the order of a number: by quality, the odd ones out, and those that are likely mislabelled.

Each list has the first `measures.MOST` images only. `ranked_in_memory` and `ranked_by_spark` choose them; both ask the
same functions of arrays, and so they choose the same ones. The driver fills the pages, which are few.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_similarity.grouping.isolation import mislabelled
from image_similarity.stages.gallery import measures
from image_similarity.stages.gallery.in_memory import paged
from image_similarity.stages.gallery.listings import Facet
from image_similarity.stages.gallery.measures import MOST, Histogram
from image_similarity.stages.gallery.pages import Ranked, Tab

FOLDER = "odd"
LEAST_IMAGES = 3
"""Among fewer images with neighbours, none is odd."""
SUSPECTS_PER_PAGE = 20
EVIDENCE = 5
"""Neighbours shown beside an image whose label is doubted."""
EXAMPLES = 4
"""Images of a list that the page about all of them shows."""

Card = Mapping[str, Any]
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
    """The nearest neighbours by the first tab, in the order of the images, the nearest first: arrays of one length."""

    image: NDArray[np.int64]
    neighbour: NDArray[np.int64]
    distance: NDArray[np.float32]


@dataclass(frozen=True)
class Doubts:
    """The images whose neighbours speak most for another label than their own, those first: arrays of one length."""

    image: NDArray[np.int64]
    """Ordinals."""
    suggested: NDArray[np.int64]
    """The label that its neighbours have, as a code."""
    own_share: NDArray[np.float64]
    """How much its neighbours speak for its own label, 0 to 1."""
    evidence: Sequence[Sequence[int]]
    """Ordinals of its nearest neighbours."""

    def ordinals(self) -> set[int]:
        """Of all images that are shown."""
        return {*self.image.tolist(), *(one for few in self.evidence for one in few)}


@dataclass(frozen=True)
class Suspects:
    """The images whose label is doubted, by one facet."""

    facet: Facet
    images: int
    """Images with a neighbour, and with a label that another image has, too."""
    doubted: int
    """Of these, those whose neighbours speak for another one. Not all are shown."""
    rows: Sequence[Mapping[str, Any]] = ()
    """card, label, suggested, own_share, neighbours (card and label of each)."""


@dataclass(frozen=True)
class Lists:
    """All of them."""

    quality: Quality | None = None
    odd: Mapping[int, Odd] = field(default_factory=dict)
    """By the number of the tab."""
    suspects: Sequence[Suspects] = ()

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


# -- choosing ----------------------------------------------------------------------------------------------------------


def doubts(edges: Edges, label: NDArray[np.int64]) -> tuple[Doubts, int, int] | None:
    """The first `MOST` images whose label is doubted, and `Suspects.images` and `Suspects.doubted`. None where no
    label has two images.

    ``label``: (n,) the code of each image's label by ordinal; -1 where it has none.
    """
    try:
        score, suggested, own_share = mislabelled(edges.image, edges.neighbour, edges.distance, label)
    except ValueError:
        return None
    is_judged = np.isfinite(score)
    is_doubted = is_judged & (suggested >= 0) & (suggested != label)
    places = np.flatnonzero(is_doubted)
    chosen = places[np.lexsort([places, -score[places]])][:MOST]
    starts, ends = (np.searchsorted(edges.image, chosen, side) for side in ("left", "right"))
    evidence = [edges.neighbour[start : min(start + EVIDENCE, end)].tolist() for start, end in zip(starts, ends)]
    return Doubts(chosen, suggested[chosen], own_share[chosen], evidence), int(is_judged.sum()), len(places)


def suspects(
    facet: Facet, chosen: tuple[Doubts, int, int], label: NDArray[np.int64], card: Mapping[int, Card]
) -> Suspects:
    """``label``: as for `doubts`; its codes are places in the values of ``facet``. ``card``: of the ordinals."""
    of, judged, doubted = chosen

    def value(code: int) -> str | None:
        return facet.values[code].value if code >= 0 else None

    rows = [
        {
            "card": card[image],
            "label": value(int(label[image])),
            "suggested": value(suggested),
            "own_share": own_share,
            "neighbours": [(card[other], value(int(label[other]))) for other in few],
        }
        for image, suggested, own_share, few in zip(
            of.image.tolist(), of.suggested.tolist(), of.own_share.tolist(), of.evidence
        )
    ]
    return Suspects(facet, judged, doubted, rows)


# -- pages -------------------------------------------------------------------------------------------------------------


def pages_of(lists: Lists, tabs: Sequence[Tab], per_page: int) -> Iterator[Page]:
    """All pages of the lists."""
    if lists.quality is not None:
        yield from _of_quality(lists.quality, per_page)
    links = _odd_links(lists, tabs)
    for tab, odd in lists.odd.items():
        about = {"tab": tab, "links": links, "images": odd.images, "base": odd_path(tabs[tab]).removesuffix("1.html")}
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
    orders = [order for order in measures.ORDERS if order.name in quality.histograms]
    about = {"quality": quality, "orders": orders}
    yield f"{measures.FOLDER}/index.html", "quality.html", {**about, "examples": EXAMPLES}
    for order in orders:
        of_order = {**about, "order": order, "flag": None, "images": quality.images, "base": f"{order.name}-"}
        for page in paged([*quality.lists[order.name]], per_page):
            yield measures.path(order.name, page.number), "quality_list.html", {**of_order, **page.row(page.items)}
    for flag, images in quality.flags.items():
        order, name = measures.BY_FLAG[flag], f"flag-{flag}"
        of_flag = {**about, "order": order, "flag": flag, "images": images, "base": f"{name}-"}
        for page in paged([*quality.lists[name]], per_page):
            yield measures.path(name, page.number), "quality_list.html", {**of_flag, **page.row(page.items)}
