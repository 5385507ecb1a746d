"""Pages that list images by tag, and those without one. `tags_by_spark` makes the same rows of tables of any size."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from image_similarity.stages.gallery.cards import CARD
from image_similarity.stages.gallery.in_memory import Image, paged
from image_similarity.stages.gallery.tags import UNTAGGED, list_path, tag_path

PER_LIST = 1000
"""Tags on a page of the list of all tags: a visitor looks for one on the page itself."""
CANDIDATES = 6
"""Images of a tag of which one becomes its example, so that tags of the same images have different ones."""
SHOWN = 24
"""Tags that are shown beside another one: more specific ones, and more general ones."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Beside:
    """A tag that images of another one have, too."""

    page: str
    title: str
    images: int
    """Those that have both."""


@dataclass(frozen=True)
class Listed:
    """A tag of the collection."""

    page: str
    title: str
    images: int
    card: Mapping[str, Any] | None
    """An example: one of the images that most probably show it; None if no image with it has a picture."""
    narrower: tuple[Beside, ...]
    """More specific tags of its images, the most frequent first; at most `SHOWN`."""
    wider: tuple[Beside, ...]
    """More general tags of its images, the most specific first; at most `SHOWN`."""


def listed(sizes: Iterable[Mapping[str, Any]], pairs: Mapping[tuple[str, str], int]) -> list[Listed]:
    """All tags, those of the most images first.

    ``sizes``: page, title, wnid, images and cards of each tag: those of up to `CANDIDATES` images that have a picture,
    the most probable first. ``pairs``: the pages of two tags, the more specific one first, and the number of images
    with both.
    """
    by_page = {size["page"]: size for size in sizes}
    titles, namesakes = {page: size["title"] for page, size in by_page.items()}, _namesakes(by_page.values())
    titles |= {page: f"{titles[page]} ({wnid})" for page, wnid in namesakes.items()}
    images = {page: size["images"] for page, size in by_page.items()}
    narrower: dict[str, list[Beside]] = {page: [] for page in by_page}
    wider: dict[str, list[Beside]] = {page: [] for page in by_page}
    for (specific, general), both in pairs.items():
        narrower[general].append(Beside(specific, titles[specific], both))
        wider[specific].append(Beside(general, titles[general], both))
    ordered = sorted(by_page, key=lambda page: (-images[page], titles[page], page))
    examples = _examples({page: by_page[page]["cards"] for page in ordered})
    return [
        Listed(
            page,
            titles[page],
            images[page],
            examples[page],
            tuple(sorted(narrower[page], key=lambda tag: (-tag.images, tag.title, tag.page))[:SHOWN]),
            tuple(sorted(wider[page], key=lambda tag: (images[tag.page], tag.title, tag.page))[:SHOWN]),
        )
        for page in ordered
    ]


def _examples(candidates: Mapping[str, Sequence[Row]]) -> dict[str, Row | None]:
    """page -> its first candidate whose picture no tag before it has, else its first; None if it has none."""
    examples: dict[str, Row | None] = {}
    shown: set[str] = set()
    for page, cards in candidates.items():
        new = (card for card in cards if card["picture"] not in shown)
        example = next(new, cards[0] if cards else None)
        examples[page] = example
        shown.update([example["picture"]] if example else [])
    return examples


def _namesakes(sizes: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """page -> wnid of the tags whose title another one has, too."""
    by_page = list(sizes)
    times = Counter(size["title"] for size in by_page)
    return {size["page"]: size["wnid"] for size in by_page if times[size["title"]] > 1 and size["wnid"]}


def list_pages(tags: Sequence[Listed]) -> Iterator[Row]:
    """The row of each page of the list of all tags; one page if there are none."""
    for page in paged([*tags], PER_LIST):
        yield {"path": list_path(page.number), **page.row(page.items)}


# -- in this process ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tags:
    """The images by tag. ``images``: in the order of their ordinals, with their ``tags``."""

    images: Sequence[Image]

    @cached_property
    def _members(self) -> dict[str, list[tuple[Row, Image]]]:
        """page -> the tag as each of its images has it, and the image: the most probable first."""
        members: dict[str, list[tuple[Row, Image]]] = {}
        for image in self.images:
            for tag in image["tags"]:
                members.setdefault(tag["page"], []).append((tag, image))
        for of_tag in members.values():
            of_tag.sort(key=lambda member: (-member[0]["probability"], member[1]["ordinal"]))
        return members

    @cached_property
    def all(self) -> list[Listed]:
        sizes = [
            {
                **of_tag[0][0],
                "images": len(of_tag),
                "cards": [_card(image) for _, image in of_tag if image["width"] is not None][:CANDIDATES],
            }
            for of_tag in self._members.values()
        ]
        pairs = Counter(
            (specific["page"], general["page"])
            for image in self.images
            for place, general in enumerate(image["tags"])
            for specific in image["tags"][:place]
        )
        return listed(sizes, pairs)

    @cached_property
    def untagged(self) -> list[Image]:
        return [image for image in self.images if not image["tags"]]

    def pages(self, per_page: int) -> Iterator[tuple[str, Row]]:
        """Template and row of each page of images."""
        for tag in self.all:
            for page in paged(self._members[tag.page], per_page):
                items = [{**_card(image), "probability": of["probability"]} for of, image in page.items]
                yield "tag.html", {"path": tag_path(tag.page, page.number), "tag": tag, **page.row(items)}
        for page in paged(self.untagged, per_page) if self.untagged else ():
            items = [_card(image) for image in page.items]
            yield "untagged.html", {"path": tag_path(UNTAGGED, page.number), **page.row(items)}


def _card(image: Image) -> Row:
    return {name: image[name] for name in CARD}
