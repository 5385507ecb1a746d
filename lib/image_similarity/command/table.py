"""Tables of text for a terminal: columns that share its width, and colours where it shows them."""

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from image_similarity.reporting import printable

LEAST_WIDTH = 12
"""Of a column that is made narrower: what is left of a name should still tell it from others."""
_GAP = "  "
_ELLIPSIS = "…"
_COLOURS = {"bold": "1", "quiet": "2", "good": "32", "perhaps": "33"}


@dataclass(frozen=True)
class Style:
    """Colours, or none."""

    is_coloured: bool

    @classmethod
    def of(cls, stream: Any) -> "Style":
        """Coloured if ``stream`` is a terminal that shows colours, and nobody asks for none (https://no-color.org)."""
        is_refused = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM", "dumb") == "dumb"
        return cls(stream.isatty() and not is_refused)

    def __call__(self, text: str, colour: str) -> str:
        """``text`` in one of `_COLOURS`; as it is for an empty ``colour``."""
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self.is_coloured and colour and text else text


@dataclass(frozen=True)
class Column:
    heading: str
    cells: Sequence[str]
    is_number: bool = False
    """Numbers stand at the right."""
    keeps: str = ""
    """What is kept where the column is too narrow: ``start`` or ``end`` of its texts; it is never narrowed if empty."""
    colours: Sequence[str] = ()
    """Of each cell; those of a column without any are plain."""

    @property
    def width(self) -> int:
        return max(map(width_of, (self.heading, *self.cells)))


def lines(columns: Sequence[Column], width: int, style: Style) -> list[str]:
    """A line of headings, and one for each row, of ``width`` cells if the columns that may be narrowed allow it."""
    widths = _shared(columns, width)
    rows = [_line(columns, widths, [column.heading for column in columns], ["quiet"] * len(columns), style)]
    for number in range(len(columns[0].cells)):
        colours = [column.colours[number] if column.colours else "" for column in columns]
        rows.append(_line(columns, widths, [column.cells[number] for column in columns], colours, style))
    return rows


def _line(
    columns: Sequence[Column], widths: Sequence[int], cells: Sequence[str], colours: Sequence[str], style: Style
) -> str:
    texts = []
    for column, width, cell, colour in zip(columns, widths, cells, colours):
        text = fitted(cell, width, column.keeps)
        room = " " * (width - width_of(text))
        texts.append(f"{room}{style(text, colour)}" if column.is_number else f"{style(text, colour)}{room}")
    return _GAP.join(texts).rstrip()


def _shared(columns: Sequence[Column], width: int) -> list[int]:
    """The widths of ``columns``. What others leave of ``width`` is shared evenly by those that may be narrowed."""
    widths = [column.width for column in columns]
    flexible = sorted((number for number, column in enumerate(columns) if column.keeps), key=lambda each: widths[each])
    left = width - len(_GAP) * (len(columns) - 1) - sum(widths) + sum(widths[number] for number in flexible)
    for place, number in enumerate(flexible):  # the narrowest first: what it needs not is for the others
        share = left // (len(flexible) - place)
        widths[number] = min(widths[number], max(LEAST_WIDTH, share))
        left -= widths[number]
    return widths


def fitted(text: str, width: int, keeps: str) -> str:
    """``text``, without its middle or beginning if it is wider than ``width`` cells. ``keeps``: see `Column`."""
    if not keeps or width_of(text) <= width:
        return text
    if keeps == "end":
        return _ELLIPSIS + _ending(text, width - 1)
    end = _ending(text, width // 3)
    return f"{_beginning(text, width - 1 - width_of(end)).rstrip()}{_ELLIPSIS}{end}"


def _beginning(text: str, width: int) -> str:
    kept = ""
    for character in text:
        if width_of(kept + character) > width:
            break
        kept += character
    return kept


def _ending(text: str, width: int) -> str:
    """The end of ``text``. It does not begin with an accent whose letter was cut off."""
    kept = ""
    for character in reversed(text):
        if width_of(character + kept) > width:
            break
        kept = character + kept
    while kept and unicodedata.combining(kept[0]):
        kept = kept[1:]
    return kept


def width_of(text: str) -> int:
    """The cells of a terminal that ``text`` takes: two for a wide character, none for an accent."""
    if text.isascii():
        return len(text)
    return sum(_cells(character) for character in text)


def _cells(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cell(text: str) -> str:
    """``text`` as a cell: on one line, with everything escaped that a terminal would obey or could not print."""
    return printable(text)
