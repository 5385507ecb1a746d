"""Which attributes divide a collection into groups that people can use: facets of the gallery, words of the map."""

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

MOST_VALUES, MOST_FACETS = 200, 5
"""Of attributes that nobody asked for."""
MOST_VALUES_ASKED_FOR = 5000
LONGEST_VALUE = 60
"""Characters, on average."""


@dataclass(frozen=True)
class AttributeUse:
    """How the images use an attribute."""

    attribute: str
    images: int
    values: int
    """Different ones."""
    length: float
    """Of a text, on average, in characters."""


def chosen(used: Sequence[AttributeUse], images: int, asked_for: Sequence[str]) -> list[str]:
    """The attributes that become facets: those ``asked_for``, else the few that divide ``images`` images well; none
    where the folders do.
    """
    if asked_for:
        return list(dict.fromkeys(asked_for))
    useful = [use for use in used if _divides_well(use, images)]
    return [use.attribute for use in sorted(useful, key=lambda use: (use.values, use.attribute))][:MOST_FACETS]


def _divides_well(use: AttributeUse, images: int) -> bool:
    """Whether most images have the attribute, its texts are short, and several images share a value."""
    return 2 * use.images > images and 2 <= use.values <= min(MOST_VALUES, images / 2) and use.length <= LONGEST_VALUE


def first_folders(image_ids: pa.Array) -> pa.Array:
    """The first folder of each of ``image_ids`` (an array or a chunked one); null for an id without one."""
    return pc.struct_field(pc.extract_regex(image_ids, "^(?P<folder>[^/]+)/"), "folder")
