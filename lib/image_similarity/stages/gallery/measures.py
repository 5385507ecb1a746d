"""The numbers of table ``quality`` on pages: the orders that lists of images have by them, histograms, and words."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup, escape
from numpy.typing import NDArray

from image_similarity import errors
from image_similarity.imaging.quality import FLAGS, MEASURES
from image_similarity.stages.gallery.members import NO_BREAK, file_size, format_name

FOLDER = "quality"
MOST = 500
"""Images in each list: the first ones. Nobody looks through more of them at a time."""
BINS = 48

STORED = ("width", "height", "size_bytes", "format", *MEASURES, "flags")
"""The columns of table ``quality`` that pages show."""
DERIVED = ("short_side", "elongation")
"""The shorter side in pixels, and how many times as long the other one is."""

Row = Mapping[str, Any]
"""The numbers of an image: `STORED` and `DERIVED`."""


def percent(share: float) -> str:
    """``share`` in percent, with a decimal place where it is below ten or above ninety: 3.4 %, 57 %, 99.8 %."""
    value = 100 * share
    places = 1 if 0 < value < 10 or 90 < value < 100 else 0
    return f"{value:.{places}f}{NO_BREAK}%"


def share_below(percentile: float) -> str:
    """The share of the images that are nearer to their neighbours: in whole percent, and never all of them."""
    return f"{min(99, int(100 * percentile + 1e-4))}{NO_BREAK}%"


def _sharpness(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _bits(value: float) -> str:
    return f"{value:.2f}{NO_BREAK}bits"


def _pixels(value: float) -> str:
    return errors.counted(round(value), "pixel").replace(" ", NO_BREAK)


def _ratio(value: float) -> str:
    return f"{value:.3g}{NO_BREAK}:{NO_BREAK}1"


@dataclass(frozen=True)
class Order:
    """A list of images by one number, from the end that matters."""

    name: str
    """Of its pages."""
    title: str
    column: str
    says: str
    """What the number is, beside its value."""
    meaning: str
    """What the number measures: a sentence."""
    caution: str
    """What it does not tell: a sentence."""
    form: Callable[[float], str]
    """A value in words."""
    falling: bool = False
    flag: str = ""
    """The flag that is given by this number, if there is one."""
    ends: tuple[float, float | None] = (0.0, 1.0)
    """Of the histogram. None: the largest value of the collection."""
    logarithmic: bool = False
    """Whether bins are of equal ratios (of 1 + value), for numbers that have no largest value."""


ORDERS = (
    Order(
        "darkest",
        "Darkest",
        "brightness_p95",
        "brightest parts",
        "How bright the brightest twentieth of the picture is at least: 0 % is black, 100 % white.",
        "A night sky is dark on purpose.",
        percent,
        flag="dark",
    ),
    Order(
        "brightest",
        "Brightest",
        "brightness_p5",
        "darkest parts",
        "How bright the darkest twentieth of the picture is at most: 0 % is black, 100 % white.",
        "A drawing in thin lines on white paper is bright, too.",
        percent,
        falling=True,
        flag="bright",
    ),
    Order(
        "contrast",
        "Least contrast",
        "contrast",
        "contrast",
        "How far brightness spreads around its mean (standard deviation): 0 where all is equally bright, 0.5 where "
        "half is black and half white.",
        "Fog and snow have little of it, too.",
        "{:.3f}".format,
        ends=(0.0, 0.5),
    ),
    Order(
        "sharpness",
        "Least sharp",
        "sharpness",
        "sharpness",
        "How abruptly brightness changes from pixel to pixel (variance of the Laplacian, at one size for all).",
        "Noise raises it; a smooth object before a plain wall has little of it, however sharp the photograph.",
        _sharpness,
        flag="blurred",
        ends=(0.0, None),
        logarithmic=True,
    ),
    Order(
        "information",
        "Least information",
        "entropy",
        "entropy",
        "How many levels of grey there are, and how evenly (entropy): 0 bits for one level, 8 for all 256 alike.",
        "A clean drawing has few levels, and may say much.",
        _bits,
        ends=(0.0, 8.0),
    ),
    Order(
        "one-colour",
        "Most of one colour",
        "one_colour_share",
        "of one colour",
        "The share of the picture that has its most frequent colour, or nearly.",
        "An object on white paper is mostly paper.",
        percent,
        falling=True,
        flag="flat",
    ),
    Order(
        "smallest",
        "Smallest",
        "short_side",
        "shorter side",
        "The shorter side of the picture, in pixels of its file.",
        "An icon is small on purpose.",
        _pixels,
        flag="tiny",
        ends=(1.0, None),
        logarithmic=True,
    ),
    Order(
        "elongated",
        "Most elongated",
        "elongation",
        "long by",
        "How many times as long the longer side is as the shorter one.",
        "A panorama is long on purpose.",
        _ratio,
        falling=True,
        flag="odd-aspect",
        ends=(1.0, None),
        logarithmic=True,
    ),
)
"""All lists by a number, in the order of their links."""

BY_FLAG = {order.flag: order for order in ORDERS if order.flag}
"""Flag -> the order of the list of those that have it."""
FLAG_WORDS = {flag: flag.replace("-", " ") for flag in FLAGS}


def path(name: str, number: int = 1) -> str:
    return f"{FOLDER}/{name}-{number}.html"


def flag_path(flag: str, number: int = 1) -> str:
    return path(f"flag-{flag}", number)


def number(order: Order, row: Row) -> str:
    """The number of an image that a list is in order of, in words."""
    value = row[order.column]
    text = "" if value is None else order.form(value)
    if order.column == "short_side":
        return _sides(row)
    if order.column == "elongation":
        return f"{text}, {_sides(row)}"
    return f"{text} {order.says}" if order.column == "one_colour_share" else f"{order.says} {text}"


def note(order: Order, row: Row) -> Markup:
    """The line below an image in a list: its number in words, and its flags."""
    flags = [Markup(' <span class="flag">{}</span>').format(FLAG_WORDS.get(flag, flag)) for flag in row["flags"] or ()]
    return escape(number(order, row)) + Markup().join(flags)


def facts(row: Row) -> list[tuple[str, str, list[str]]]:
    """Name, value and flags of each number of an image, for its page. Numbers that are not known are left out."""
    shown = []
    for name, flags, text in (
        ("brightness", ("dark", "bright"), _brightness(row)),
        ("contrast", (), _form(row, "contrast")),
        ("sharpness", ("blurred",), _form(row, "sharpness")),
        ("entropy", (), _form(row, "information")),
        ("one colour", ("flat",), _form(row, "one-colour")),
        ("size", ("tiny", "odd-aspect"), _size(row)),
    ):
        if text:
            shown.append((name, text, [flag for flag in row["flags"] or () if flag in flags]))
    return shown


def _brightness(row: Row) -> str:
    low, high = row["brightness_p5"], row["brightness_p95"]
    return f"{percent(low)} to {percent(high)}" if low is not None and high is not None else ""


_BY_NAME = {order.name: order for order in ORDERS}


def _form(row: Row, name: str) -> str:
    order = _BY_NAME[name]
    return "" if row[order.column] is None else order.form(row[order.column])


def _sides(row: Row) -> str:
    return f"{row['width']:,}{NO_BREAK}×{NO_BREAK}{row['height']:,}"


def _size(row: Row) -> str:
    size = _sides(row) if row["width"] else ""
    of_format = row["format"] and format_name(row["format"])
    stored = "" if row["size_bytes"] is None else file_size(row["size_bytes"])
    return ", ".join(filter(None, (size, of_format, stored)))


# -- arrays: the same for a whole collection, and for the part of it that a task has -----------------------------------


def values_of(rows: pa.Table, column: str) -> NDArray[np.float64]:
    """(n,) float64: a number of each image, NaN where it is not known."""
    if column in DERIVED:
        width, height = values_of(rows, "width"), values_of(rows, "height")
        short = np.minimum(width, height)
        with np.errstate(divide="ignore", invalid="ignore"):
            return short if column == "short_side" else np.maximum(width, height) / short
    values: NDArray[np.float64] = pc.cast(rows[column], pa.float64()).fill_null(np.nan).to_numpy()
    return values


def flagged(rows: pa.Table, flag: str) -> NDArray[np.bool_]:
    """(n,) bool: whether an image has a flag."""
    lists = rows["flags"].combine_chunks()
    owners = pc.list_parent_indices(lists).filter(pc.equal(pc.list_flatten(lists), flag)).to_numpy()
    has = np.zeros(len(rows), np.bool_)
    has[owners] = True
    return has


def firsts(rows: pa.Table) -> Iterator[tuple[str, NDArray[np.float64], NDArray[np.int64]]]:
    """Name of each list, and value and ``ordinal`` of the `MOST` of ``rows`` that come first in it, in order.

    The lists are those of `ORDERS`, then one of each flag, called ``flag-<flag>``. Values are negative where they fall.
    """
    ordinal = rows["ordinal"].to_numpy()
    for name, order in [*((order.name, order) for order in ORDERS), *((f"flag-{f}", o) for f, o in BY_FLAG.items())]:
        values = values_of(rows, order.column) * (-1 if order.falling else 1)
        is_in = flagged(rows, order.flag) if name.startswith("flag-") else np.isfinite(values)
        yield (name, *first_of(values[is_in], ordinal[is_in]))


def first_of(values: NDArray[np.float64], ordinals: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The `MOST` smallest of ``values`` with their ordinals, in order; among equal ones, the first by ordinal."""
    order = np.lexsort([ordinals, values])[:MOST]
    return values[order], ordinals[order]


@dataclass(frozen=True)
class Histogram:
    """How a number is spread over the collection."""

    lowest: float
    highest: float
    images: tuple[int, ...]
    """In each of the bins."""
    flagged: tuple[int, ...]
    """Of these."""

    @property
    def is_even(self) -> bool:
        """Whether all images have the same number: no list is in order of it."""
        return self.lowest == self.highest


def borders(order: Order, highest: float) -> NDArray[np.float64]:
    """The (`BINS` + 1,) borders of the bins of a histogram. ``highest``: the largest value of the collection."""
    low, high = order.ends
    high = max(highest if high is None else high, low + 1e-6)
    if not order.logarithmic:
        return np.linspace(low, high, BINS + 1)
    inner = np.expm1(np.linspace(np.log1p(low), np.log1p(high), BINS + 1)[1:-1])
    return np.array([low, *inner, high])


def counted(rows: pa.Table, order: Order, highest: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Images, and flagged ones, of ``rows`` in each bin."""
    values = values_of(rows, order.column)
    is_known = np.isfinite(values)
    of_flag = flagged(rows, order.flag) if order.flag else np.zeros(len(values), np.bool_)
    edges = borders(order, highest)
    all_counts, flagged_counts = (np.histogram(values[of], edges)[0] for of in (is_known, is_known & of_flag))
    return all_counts, flagged_counts


def heights(histogram: Histogram, height: int) -> list[tuple[int, int, int]]:
    """Bin, height of its bar, and height of the flagged part, of the bins that are not empty: 1 to ``height``."""
    most = max(histogram.images, default=0)

    def scaled(count: int) -> int:
        return max(1, round(height * count / most)) if count else 0

    bars = enumerate(zip(histogram.images, histogram.flagged))
    return [(place, scaled(images), min(scaled(images), scaled(of))) for place, (images, of) in bars if images]


def described(order: Order, histogram: Histogram) -> str:
    """What a histogram shows, in words."""
    flagged_images = sum(histogram.flagged)
    ends = f"from {order.form(histogram.lowest)} to {order.form(histogram.highest)}"
    return f"{order.says} of all images: {ends}" + (f", {flagged_images:,} flagged" if flagged_images else "")


def axis(order: Order, histogram: Histogram) -> Sequence[str]:
    """The numbers at the two ends of a histogram."""
    low, high = order.ends
    return order.form(low), order.form(float(borders(order, histogram.highest)[-1]) if high is None else high)
