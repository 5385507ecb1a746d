"""The measures as a picture: a heat map of the fingerprints' agreement, and bars of their precision by label."""

import importlib.util
import io
from collections.abc import Sequence
from typing import Any

from image_similarity.errors import WrongInput
from image_similarity.stages.comparison.measures import AVERAGE_PRECISION, OVERLAP, PRECISION, Comparison, Measured

SURE = 1.96
"""A normal distribution has 95 % of its values within this many standard deviations of the mean."""

_PAPER, _INK, _QUIET = "#fbfaf7", "#1e1b18", "#645d55"
# Blue and orange of Okabe and Ito's palette, and a map from blue to yellow: both can be read with every kind of colour
# vision.
_BARS = {PRECISION: ("precision", "#0072B2"), AVERAGE_PRECISION: ("mean average precision", "#E69F00")}
_HEAT = "cividis"
_DARK = 0.55
"""Share of the scale below which the heat map is dark."""


def check_installed() -> None:
    """Raise ``WrongInput`` where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise WrongInput("the plot needs matplotlib: pip install matplotlib")


def draw(comparison: Comparison, measured: Sequence[Measured]) -> bytes:
    """An SVG file with the heat map if there are pairs, and the bars if there are labels. Equal measures give equal
    bytes.
    """
    import matplotlib  # takes a second, and is not installed everywhere
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels = [(_heat_map, OVERLAP), (_bars, PRECISION)]
    shown = [panel for panel, measure in panels if any(row.measure == measure for row in measured)]
    count = len(comparison.fingerprints)
    with matplotlib.rc_context({"svg.hashsalt": "", "font.size": 11, "text.color": _INK, "axes.labelcolor": _INK}):
        size = (5.6 * len(shown), 2.4 + 0.55 * max(2, count))
        figure = Figure(figsize=size, facecolor=_PAPER, layout=ConstrainedLayoutEngine(wspace=0.06))
        for axes, panel in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown):
            axes.set_facecolor(_PAPER)
            panel(axes, comparison, measured)
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()


def _heat_map(axes: Any, comparison: Comparison, measured: Sequence[Measured]) -> None:
    names, overlaps = comparison.fingerprints, [row for row in measured if row.measure == OVERLAP]
    cells = [[float("nan")] * len(names) for _ in names]  # the diagonal stays empty: a fingerprint agrees with itself
    for row in overlaps:
        places = names.index(row.fingerprint), names.index(row.other or "")
        for y, x in (places, places[::-1]):
            cells[y][x] = row.value
            axes.text(x, y, f"{row.value:.2f}", ha="center", va="center", color="white" if row.value < _DARK else _INK)
    image = axes.imshow(cells, cmap=_HEAT, vmin=0, vmax=1)
    axes.figure.colorbar(image, ax=axes, shrink=0.8, label="share of neighbours in common").outline.set_visible(False)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    _bare(axes)
    axes.set_title(f"Agreement: overlap@{comparison.k}", loc="left", color=_INK)


def _bars(axes: Any, comparison: Comparison, measured: Sequence[Measured]) -> None:
    names, height = comparison.fingerprints, 0.36
    for number, (measure, (label, colour)) in enumerate(_BARS.items()):
        rows = [row for row in measured if row.measure == measure]
        positions = [names.index(row.fingerprint) + (number - 0.5) * height for row in rows]
        errors = [SURE * (row.standard_error or 0) for row in rows]
        axes.barh(
            positions, [row.value for row in rows], height * 0.92, xerr=errors, ecolor=_QUIET, color=colour, label=label
        )
        for y, row, error in zip(positions, rows, errors):
            axes.text(row.value + error + 0.015, y, f"{row.value:.2f}", va="center")
        ends = [y - height / 2 for y in positions], [y + height / 2 for y in positions]
        axes.vlines([row.chance for row in rows], *ends, color=_INK, linewidth=2, label="" if number else "by chance")
    axes.set_xlim(0, 1.12)  # room for the number beside a full bar
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    _bare(axes)
    axes.set_title(f"The same label among the nearest {comparison.k}", loc="left", color=_INK)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, frameon=False, fontsize=10, columnspacing=1.2)


def _bare(axes: Any) -> None:
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=_INK)
