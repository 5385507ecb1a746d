"""The page of a report, and the files beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import jinja2

from image_similarity.errors import counted
from image_similarity.pages import captions
from image_similarity.stages.comparison.cards import Card
from image_similarity.stages.comparison.measures import (
    AVERAGE_PRECISION,
    OVERLAP,
    PRECISION,
    Comparison,
    Labelled,
    Measured,
)
from image_similarity.stages.comparison.plot import SURE
from image_similarity.storage import blobs

NEAREST_SHOWN = 6


@dataclass(frozen=True)
class Neighbour:
    card: Card
    in_both: bool
    same_label: bool


@dataclass(frozen=True)
class Disagreement:
    """One image, and its nearest others by two fingerprints."""

    query: Card
    lists: tuple[tuple[str, tuple[Neighbour, ...]], ...]
    """For each of two fingerprints, its name and the first `NEAREST_SHOWN` neighbours of its list."""
    in_common: int
    """The number of images that are in both whole lists."""
    length: int
    """The length of the longer list."""


@dataclass(frozen=True)
class Pair:
    measured: Measured
    disagreements: tuple[Disagreement, ...]


@dataclass(frozen=True)
class Report:
    """The contents of the page."""

    comparison: Comparison
    images: int
    left_out: int
    measured: Sequence[Measured]
    labelled: Labelled
    pairs: Sequence[Pair]
    untrained: tuple[str, ...]

    @property
    def marks_common(self) -> bool:
        """Whether images that are in both lists are marked: lists of more than half of all others have most in common
        by chance.
        """
        return 2 * self.comparison.k < self.images

    def overlap(self, first: str, second: str) -> Measured | None:
        """The overlap of two fingerprints, in any order; None if both are the same fingerprint."""
        pair = {first, second}
        overlaps = (row for row in self.measured if row.measure == OVERLAP)
        return next((row for row in overlaps if {row.fingerprint, row.other} == pair), None)

    def of_label(self, fingerprint: str) -> list[Measured]:
        """Precision and mean average precision of ``fingerprint``; empty without labels."""
        return [row for row in self.labelled.measured if row.fingerprint == fingerprint]


def write(report: Report, plot: bytes, folder: str) -> str:
    """Write the files that the page refers to into the rendering's ``folder``. Returns the page, which belongs beside
    that folder.
    """
    blobs.write(f"{folder}/plot.svg", plot, "image/svg+xml")
    style = files(__package__).joinpath("templates", "report.css").read_bytes()
    blobs.write(f"{folder}/report.css", style, "text/css; charset=utf-8")
    names = {PRECISION: "precision", AVERAGE_PRECISION: "mean average precision"}
    return _template().render(report=report, folder=folder.rpartition("/")[2], names=names, shown=NEAREST_SHOWN)


def disagreement(image_id: str, lists: Mapping[str, Sequence[str]], cards: Mapping[str, Card]) -> Disagreement:
    """The disagreement on the image ``image_id``.

    ``lists``: the whole lists of neighbour ids, by two fingerprints. ``cards``: at least those of the image and of the
    neighbours that are shown.
    """
    in_common = set.intersection(*map(set, lists.values()))
    query = cards[image_id]

    def shown(neighbour: str) -> Neighbour:
        card = cards[neighbour]
        return Neighbour(card, neighbour in in_common, query.label is not None and card.label == query.label)

    shown_lists = tuple(
        (name, tuple(shown(neighbour) for neighbour in ids[:NEAREST_SHOWN])) for name, ids in lists.items()
    )
    return Disagreement(query, shown_lists, len(in_common), max(map(len, lists.values())))


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    """The template, read once per process. importlib.resources also reads it from a zip."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(count="{:,}".format, counted=counted, share="{:.3f}".format)
    environment.filters.update(clean=captions.clean, margin=_margin)
    source = files(__package__).joinpath("templates", "index.html").read_text(encoding="utf-8")
    return environment.from_string(source)


def _margin(row: Measured) -> str:
    return "" if row.standard_error is None else f"± {SURE * row.standard_error:.3f}"
