"""What a rendering asks of the tables. `by_spark` answers for any collection, `in_process` for one that fits into
memory.

Both fill the same pages, bit for bit.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from pyspark.sql import DataFrame

from image_similarity.stages.gallery.listings import Facet
from image_similarity.stages.gallery.pages import Book, Grouped, Tab
from image_similarity.stages.gallery.ranked import Lists
from image_similarity.stages.gallery.tag_pages import Listed

Card = dict[str, Any]
"""The columns `cards.CARD` of an image, and those that a method names."""


@dataclass(frozen=True)
class Failed:
    """The images that could not be used."""

    reasons: Sequence[tuple[str, int]]
    """Each reason with its number of images, by name."""
    images: int
    lost: int
    """How many of them have no page."""


@dataclass(frozen=True)
class Totals:
    """What became of some pages, or other files."""

    files: int = 0
    bytes: int = 0
    items: int = 0
    new: int = 0
    """Pages whose addresses are new."""
    changed: int = 0
    """Pages at whose addresses another page is."""

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(*(getattr(self, of.name) + getattr(other, of.name) for of in fields(self)))


class Layout(ABC):
    """The images of one rendering, with their pictures, in the order of their ids."""

    images: int
    """The number of images."""
    tabs: tuple[Tab, ...]
    """The tables of neighbours, with what is usual in them."""

    @abstractmethod
    def pictures(self) -> Mapping[str, int]:
        """``all``, ``made`` (by this run) and ``absent`` (images' files that could not be read)."""

    @abstractmethod
    def facets(self) -> list[Facet]:
        """The facets of the collection, see `listings.facets`."""

    @abstractmethod
    def duplicates(self) -> int:
        """The number of sets of images with the same bytes."""

    @abstractmethod
    def failed(self) -> Failed: ...

    @abstractmethod
    def ranked(self) -> Lists:
        """The lists of images by a number."""

    @abstractmethod
    def grouped(self) -> Grouped:
        """The groups that are shown."""

    @abstractmethod
    def groups_gone(self) -> int:
        """Rows of the table of groups that no page shows."""

    @abstractmethod
    def tags(self) -> Sequence[Listed]:
        """All tags of the images, those of the most images first."""

    @abstractmethod
    def untagged(self) -> int:
        """The number of images without a tag."""

    @abstractmethod
    def tags_gone(self) -> int:
        """Accepted rows of the table of tags whose image has no page, or whose file was replaced."""

    @abstractmethod
    def unjudged(self) -> int:
        """The number of images of which the table of tags has no rows: the network has not looked at them."""

    # -- pages of images and lists: filled out of sight --

    @abstractmethod
    def fill_images(self, book: Book) -> Totals: ...

    @abstractmethod
    def fill_lists(self, book: Book, facets: list[Facet], failures: Mapping[str, Mapping[str, Any]]) -> Totals:
        """``failures``: reason -> ``images`` and ``meaning``, for the template."""

    @abstractmethod
    def fill_groups(self, book: Book) -> Totals:
        """Lists of groups, and their pages."""

    @abstractmethod
    def fill_tags(self, book: Book) -> Totals:
        """The pages of the images with each tag, and of those without one."""

    @abstractmethod
    def fill_comparisons(self, book: Book) -> Totals:
        """The pages that compare two images, see `compare`. Tasks make the pictures of their differences."""

    @abstractmethod
    def add(self, filled: list[dict[str, Any]]) -> Totals:
        """Adds pages (rows of `pages.FILLED`) that the driver has filled."""

    @abstractmethod
    def filled(self) -> DataFrame:
        """All pages that were filled (`pages.FILLED`)."""

    @abstractmethod
    def write_search(self, book: Book) -> tuple[Totals, Totals, list[str]]:
        """Writes the data for search and shuffle: totals of cards, totals of words, and the prefixes of words."""

    @abstractmethod
    def write_cards(self, book: Book) -> None:
        """Writes the images into the folder of the rendering, for the map: see `maps.write_cards`."""

    # -- single images --

    @abstractmethod
    def examples(self, facets: list[Facet], each: int) -> Mapping[tuple[str, str], list[Card]]:
        """Attribute and value -> ``each`` of its images that have a picture, chosen by a hash."""

    @abstractmethod
    def failed_images(self) -> Sequence[Mapping[str, Any]]:
        """reason, image_id and page (None: it has none) of the images that could not be used, by image_id."""

    @abstractmethod
    def absent(self, most: int) -> Sequence[Mapping[str, Any]]:
        """image_id, title, page, reason and detail of the first images without a picture."""

    @abstractmethod
    def pairs(self) -> list[dict[str, tuple[Card, Card, float]]]:
        """For each tab: kind of example -> two images and their distance, see `distances.examples`."""

    @abstractmethod
    def selection(self, seed: int, most: int) -> list[Card]:
        """Images that have a picture, with ``image_id``, chosen by a hash of it and ``seed``."""

    @abstractmethod
    def most_alike(self, image_ids: list[str], most: int) -> dict[str, list[Card]]:
        """image_id -> its nearest neighbours by the first tab, each with ``distance``."""

    @abstractmethod
    def faces(self) -> Mapping[str, list[Card]]:
        """Kind of groups -> cards for the front page, see `groups.faces`."""

    @abstractmethod
    def gone(self, shown: int) -> dict[int, int]:
        """tab -> rows of neighbours that no page shows, of which there are some unless all rows are ``shown``."""

    # -- what has left --

    @abstractmethod
    def retire(self, book: Book, earlier: Sequence[str]) -> int:
        """As `addresses.retire`."""

    @abstractmethod
    def remove_unused(self, kept: list[str]) -> int:
        """Removes the files of pictures that none of the renderings ``kept`` shows. Returns their number.

        The first of ``kept`` is this one.
        """
