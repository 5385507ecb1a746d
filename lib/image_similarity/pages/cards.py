"""Cards: pictures of any shape in rows of one height. What the style sheet ``base.css`` and the pages agree on."""

import math
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup, escape

from image_similarity.errors import counted
from image_similarity.pages import captions

RATIO_STEP, RATIO_STEPS = 1.06, 24
"""The style sheet has 49 classes for aspect ratios of pictures, because the pages' policy allows no inline styles."""
LEAST_RATIO = 0.6
"""Narrower pictures stand in the middle of a card of this ratio, which has room for words."""
MOST_RATIOS = 60
"""The style sheet has a class for each sum of ratios up to this one, for lists of neighbours."""

STYLE: dict[str, Any] = {
    "least_ratio": LEAST_RATIO,
    "ratio_step": RATIO_STEP,
    "ratio_steps": RATIO_STEPS,
    "most_ratios": MOST_RATIOS,
}
"""The variables of the style sheets."""


_SHARED = ("base.css", "icon.svg")
"""The templates that all sites share."""


def template(name: str) -> str:
    """The source of one of the templates that all sites share."""
    return files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


def environment(package: str) -> jinja2.Environment:
    """The templates of ``package`` and the shared ones, with the filters for texts.

    They are read through importlib, which can also read them from a zip. Make it once per process.
    """
    folder = files(package).joinpath("templates")
    prepared = jinja2.Environment(
        loader=jinja2.FunctionLoader(
            lambda name: template(name) if name in _SHARED else folder.joinpath(name).read_text("utf-8")
        ),
        autoescape=lambda name: name is None or not name.endswith((".js", ".css")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    prepared.filters.update(
        count="{:,}".format,
        counted=counted,
        images=images,
        distance=distance,
        clean=captions.clean,
        short=captions.short,
        breakable=breakable,
    )
    return prepared


@lru_cache(maxsize=4096)
def ratio_class(width: int, height: int) -> int:
    """The class of the nearest aspect ratio: steps of `RATIO_STEP` from a square, negative for upright pictures."""
    steps = math.floor(math.log(width / height) / math.log(RATIO_STEP) + 0.5)
    return max(-RATIO_STEPS, min(RATIO_STEPS, steps))


def ratio_sum(sizes: Iterable[tuple[int | None, int | None]]) -> int:
    """The length of a row of pictures of these widths and heights, in heights of the row: 1 to `MOST_RATIOS`.

    Where there is no picture, both are None.
    """
    ratios = [RATIO_STEP ** ratio_class(width, height) if width and height else 1 for width, height in sizes]
    return max(1, min(MOST_RATIOS, round(sum(max(LEAST_RATIO, ratio) for ratio in ratios))))


def images(count: int) -> str:
    """How many images."""
    return counted(count, "image")


def distance(value: float) -> str:
    """Four decimal places, which is finer than the eye can tell."""
    return f"{value:,.4f}"


def breakable(text: str) -> Markup:
    """``text`` with places where a long word may go on in the next line (`captions.parts`)."""
    parts = captions.parts(text)
    return Markup("<wbr>").join(map(escape, parts)) if len(parts) > 1 else escape(text)
