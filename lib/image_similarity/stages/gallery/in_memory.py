"""Images and their neighbours in memory, joined, grouped and cut into pages of lists."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from image_similarity.pages.facets import AttributeUse
from image_similarity.stages.gallery import distances
from image_similarity.stages.gallery.listings import FOLDER
from image_similarity.stages.gallery.pages import Tab
from image_similarity.warehouse.schemas import DISSIMILAR, SIMILAR

Image = dict[str, Any]
"""A card with image_id, uri, ordinal, content_sha256, attributes, terms, reason and detail."""


@dataclass(frozen=True)
class Edges:
    """Rows of neighbours whose two images are shown, as arrays of one length, in the order of their pages."""

    image: NDArray[np.int64]
    """The ordinal of the image."""
    tab: NDArray[np.int64]
    is_similar: NDArray[np.bool_]
    rank: NDArray[np.int64]
    neighbour: NDArray[np.int64]
    """The ordinal of the neighbour."""
    distance: NDArray[np.float32]

    @classmethod
    def of_tab(cls, tab: int, table: pa.Table, ids: pa.Array) -> "Edges":
        """``ids``: of all images, by ordinal."""
        both = [pc.index_in(table[name], value_set=ids) for name in ("image_id", "neighbour_id")]
        are_shown = pc.and_(*map(pc.is_valid, both))
        image, neighbour, relation, rank, distance = (
            column.filter(are_shown) for column in (*both, table["relation"], table["rank"], table["distance"])
        )
        return cls(
            image.to_numpy().astype(np.int64),
            np.full(len(image), tab),
            pc.equal(relation, SIMILAR).to_numpy(),
            rank.to_numpy().astype(np.int64),
            neighbour.to_numpy().astype(np.int64),
            distance.to_numpy(),
        )

    @classmethod
    def joined(cls, parts: "Sequence[Edges]") -> "Edges":
        names = [of.name for of in fields(cls)]
        whole = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        order = np.lexsort([whole[name] for name in ("rank", "is_similar", "tab", "image")])
        return cls(**{name: values[order] for name, values in whole.items()})

    def of(self, ordinal: int) -> Iterator[tuple[int, bool, int, int, float]]:
        """tab, whether it is similar, rank, neighbour and distance of each neighbour of an image."""
        own = slice(*np.searchsorted(self.image, [ordinal, ordinal + 1]))
        columns = (self.tab, self.is_similar, self.rank, self.neighbour, self.distance)
        return zip(*(column[own].tolist() for column in columns))


@dataclass(frozen=True)
class Page:
    """A page of a list."""

    number: int
    last: int
    items: list[Any]

    def row(self, items: list[Any]) -> dict[str, Any]:
        """The variables of its template, with ``items`` for its own."""
        return {"number": self.number, "last": self.last, "items": items}


def paged(items: list[Any], per_page: int) -> Iterator[Page]:
    """``items`` in pages; one page, without items, of none."""
    last = max(1, -(-len(items) // per_page))
    for number in range(1, last + 1):
        yield Page(number, last, items[(number - 1) * per_page : number * per_page])


def grouped(
    members: list[Image], groups_of: Callable[[Image], Iterable[tuple[str, str]]]
) -> dict[tuple[str, str], list[Image]]:
    """Attribute and value -> images, in their order."""
    groups: dict[tuple[str, str], list[Image]] = {}
    for image in members:
        for group in groups_of(image):
            groups.setdefault(group, []).append(image)
    return groups


def folder_of(image: Image) -> list[tuple[str, str]]:
    folder, slash, _ = image["image_id"].partition("/")
    return [(FOLDER, folder)] if slash else []


def uses_of(groups: Mapping[tuple[str, str], list[Image]]) -> list[AttributeUse]:
    by_attribute: dict[str, list[tuple[str, int]]] = {}
    for (attribute, value), members in groups.items():
        by_attribute.setdefault(attribute, []).append((value, len(members)))
    uses = []
    for attribute, values in by_attribute.items():
        count = sum(images for _, images in values)
        length = sum(len(value) * images for value, images in values) / count
        uses.append(AttributeUse(attribute, count, len(values), length))
    return uses


def orders_of(tab: Tab, rows: list[dict[str, Any]]) -> dict[str, list[tuple[float, str, str, float]]]:
    """Kind of an example -> its pairs: the order, least for the best example, and the pair. As `distances.examples`."""
    orders: dict[str, list[tuple[float, str, str, float]]] = {
        kind: [] for kind in ("closest", *distances.places_of(tab), "farthest")
    }
    for row in rows:
        distance, pair = row["distance"], (row["image_id"], row["neighbour_id"], row["distance"])
        if row["relation"] == DISSIMILAR:
            orders["farthest"].append((-distance, *pair))
            continue
        if distance >= distances.LEAST_SHOWN:
            orders["closest"].append((distance, *pair))
        for kind, decile in distances.places_of(tab).items():
            orders[kind].append((abs(distance - decile), *pair))
    return orders
