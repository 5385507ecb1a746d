"""What was asked, and what was answered: the same for a terminal, for programs, and for a page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from image_similarity.errors import JobFailed


@dataclass(frozen=True)
class Asked:
    """One FILE or --id of the command line: one of the last three is given."""

    name: str
    """As it was typed, on one line and without secrets."""
    uri: str | None = None
    """A path of this machine, absolute, or an address."""
    content: bytes | None = None
    """What came by stdin."""
    image_id: str | None = None

    @property
    def title(self) -> str:
        """The last part of a path or address, else the name."""
        return self.name.rstrip("/").rpartition("/")[2] if self.uri else self.name


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
    tag: str | None = None
    """What is in the picture; None where nothing is accepted, or no tags are published."""


@dataclass(frozen=True)
class Answer:
    asked: Asked
    title: str
    """Of the picture that was asked about: the name of the file, or what the collection calls its image."""
    content: bytes | None
    """The file that was asked about; None for an image of the collection."""
    images: tuple[Image, ...]
    facts: Mapping[str, Any]
    """fingerprint, metric, vectors (their number), exact, query_vector, and more that the collection says of it."""
    seconds: float

    @property
    def has_tags(self) -> bool:
        """Whether tags are published."""
        return "tags_run_id" in self.facts

    def images_of(self, relation: str) -> list[Image]:
        """The images ``relation`` (``similar``, ``dissimilar``), by rank."""
        return [image for image in self.images if image.relation == relation]


@dataclass(frozen=True)
class Refused:
    """What was asked, and why there is no answer."""

    asked: Asked
    error: JobFailed
