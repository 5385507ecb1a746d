"""What was asked, and what was answered: the same for a terminal, for programs, and for a page."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Asked:
    """One FILE or --id of the command line. Either ``query`` or ``image_id`` is given."""

    name: str
    """As it was typed, on one line and without secrets."""
    query: Path | str | bytes | None = None
    image_id: str | None = None


@dataclass(frozen=True)
class Image:
    """One image of the collection in an answer."""

    relation: str
    """``similar`` or ``dissimilar``."""
    rank: int
    image_id: str
    distance: float
    verdict: str | None
    """``yes``, ``near`` or ``no``: whether it is the same picture again; None where near-duplicates are not known."""
    uri: str | None
    """Where the original is."""
    width: int | None
    height: int | None
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    asked: Asked
    images: tuple[Image, ...]
    facts: Mapping[str, Any]
    """fingerprint, metric, vectors (their number), exact, and more that the collection says of the answer."""
    seconds: float
