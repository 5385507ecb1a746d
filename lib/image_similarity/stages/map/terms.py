"""Words that may label regions of the map: accepted tags, labels of groups, and attributes that divide the collection.

Of each image and word two numbers are kept. Texts are kept once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from image_similarity.knn.distances import Indices
from image_similarity.mapping.regions import Terms
from image_similarity.pages import captions, facets
from image_similarity.warehouse import current_tags
from image_similarity.warehouse.defaults import FOLDER, tags_by
from image_similarity.warehouse.snapshot import Snapshot

SIMILAR_GROUPS = "similar"
"""The kind of groups whose labels are read."""

Find = Callable[[pa.Array], Indices]
"""image_ids (m,) -> their numbers on the map (m,), -1 for those that are not on it."""
Attributes = tuple[Indices, pa.Array, pa.Array]
"""(m,): number of an image, name of an attribute, and its value."""


def read(published: Snapshot, find: Find, images: int, fingerprint: str, metric: str, group_by: Sequence[str]) -> Terms:
    """The words of the ``images`` images that ``find`` knows.

    They are tags by ``fingerprint`` (where it has none, by the first that has some), of what images are now; labels of
    its similar groups by ``metric``, of all levels; and values of the attributes ``group_by``. Where these are not
    given, they are the attributes, or the folders, by which the gallery groups its images. Of words that tell equally
    much a tag comes first, then a group's label. There are no words if nothing of this is published.
    """
    words = _Words()
    for read_some in (
        _tags(published, find, fingerprint),
        _group_labels(published, find, f"{fingerprint}/{metric}/{SIMILAR_GROUPS}"),
        _values(published, find, images, group_by),
    ):
        for image, texts in read_some:
            words.add(image, texts)
        words.end_source()
    return words.terms()


# -- words as numbers --------------------------------------------------------------------------------------------------

Texts = tuple[Indices, pa.Array]
"""(m,): numbers of images, and a word of each."""


@dataclass
class _Words:
    """What was read of some sources, one after the other."""

    number: dict[str, int] = field(default_factory=dict)
    """Text -> its number, in the order in which texts were met."""
    ends: list[int] = field(default_factory=list)
    """How many texts were known after each source."""
    image: list[NDArray[np.int32]] = field(default_factory=list)
    term: list[NDArray[np.int32]] = field(default_factory=list)

    def add(self, image: Indices, texts: pa.Array) -> None:
        """Texts that are no labels are left out: empty and long ones, addresses."""
        on_map = image >= 0
        encoded = pc.dictionary_encode(texts.filter(pa.array(on_map)))
        numbers = [self._number(text) for text in encoded.dictionary.to_pylist()]
        code = np.array([*numbers, -1], np.int32)[pc.fill_null(encoded.indices, len(numbers)).to_numpy()]
        self.image.append(image[on_map][code >= 0].astype(np.int32))
        self.term.append(code[code >= 0])

    def _number(self, text: str) -> int:
        text = captions.clean(text)
        if not text or len(text) > captions.LONGEST_LABEL or captions.is_address(text):
            return -1
        return self.number.setdefault(text, len(self.number))

    def end_source(self) -> None:
        self.ends.append(len(self.number))

    def terms(self) -> Terms:
        """Each pair once; texts by their source, and then in their own order, whatever the order of rows was."""
        texts = list(self.number)
        source = np.searchsorted(self.ends, np.arange(len(texts)), side="right")
        order = sorted(range(len(texts)), key=lambda number: (source[number], texts[number]))
        place = np.argsort(np.array(order, np.int64))
        image, term = (
            np.concatenate([np.zeros(0, np.int32), *parts]).astype(np.int64) for parts in (self.image, self.term)
        )
        pairs = np.unique(image * max(1, len(texts)) + place[term])
        return Terms([texts[number] for number in order], *np.divmod(pairs, max(1, len(texts))))


# -- sources -----------------------------------------------------------------------------------------------------------


def _tags(published: Snapshot, find: Find, fingerprint: str) -> Iterator[Texts]:
    slot = tags_by(published.slots("tags"), fingerprint)
    if slot is not None:
        current, _ = current_tags.split(published, slot, ["image_id", "class"], pc.field("accepted"))
        for batch in current.to_batches():
            yield find(batch["image_id"]), batch["class"]


def _group_labels(published: Snapshot, find: Find, slot: str) -> Iterator[Texts]:
    if slot not in published.slots("groups") or slot not in published.slots("group_summary"):
        return
    summary = published.table("group_summary", slot, ["group_id", "kind", "label"])
    summary = summary.filter(pc.and_(pc.equal(summary["kind"], SIMILAR_GROUPS), pc.is_valid(summary["label"])))
    groups, labels = summary["group_id"].combine_chunks(), summary["label"].combine_chunks()
    for batch in published.batches("groups", slot, ["group_id", "image_id"]):
        group = pc.index_in(batch["group_id"], value_set=groups)
        yield find(batch["image_id"]), labels.take(group)


def _values(published: Snapshot, find: Find, images: int, group_by: Sequence[str]) -> Iterator[Texts]:
    """Values of the attributes that are facets of the gallery, or folders, where those are its facets."""
    chosen = facets.chosen(_uses(published, find), images, group_by)
    if not chosen:
        yield from _folders(published, find)
        return
    for image, name, value in _attributes(published, find):
        for attribute in chosen:
            of_attribute = pc.fill_null(pc.equal(name, attribute), False)
            yield image[of_attribute.to_numpy(zero_copy_only=False)], _labels(attribute, value.filter(of_attribute))


def _folders(published: Snapshot, find: Find) -> Iterator[Texts]:
    """No words if there are too many folders."""
    parts: list[Texts] = []
    known = pa.array([], pa.string())
    for batch in published.batches("manifest", "", ["image_id"]) if published.slots("manifest") else ():
        image = find(batch["image_id"])
        folder = facets.first_folders(batch["image_id"])
        known = pc.unique(pa.concat_arrays([known, folder.filter(pa.array(image >= 0)).drop_null()]))
        if len(known) > facets.MOST_VALUES:
            return
        parts.append((image, _labels(FOLDER, folder).dictionary_encode()))
    yield from ((image, folder.dictionary_decode()) for image, folder in parts)


def _labels(attribute: str, values: pa.Array) -> pa.Array:
    encoded = pc.dictionary_encode(values)
    texts = [captions.of_value(attribute, value) if value else None for value in encoded.dictionary.to_pylist()]
    return pa.array(texts, pa.string()).take(encoded.indices)


def _attributes(published: Snapshot, find: Find) -> Iterator[Attributes]:
    for batch in published.batches("manifest", "", ["image_id", "attributes"]) if published.slots("manifest") else ():
        attributes = batch["attributes"]
        ends = attributes.offsets.to_numpy()
        items = slice(int(ends[0]), int(ends[-1]))
        yield np.repeat(find(batch["image_id"]), np.diff(ends)), attributes.keys[items], attributes.items[items]


# -- how attributes are used -------------------------------------------------------------------------------------------


@dataclass
class _Use:
    images: int = 0
    length: int = 0
    """Of all texts."""
    values: set[str] | None = field(default_factory=set)
    """None: too many for a facet."""

    def of(self, name: str) -> facets.AttributeUse:
        values = facets.MOST_VALUES_ASKED_FOR + 1 if self.values is None else len(self.values)
        return facets.AttributeUse(name, self.images, values, self.length / self.images)


def _uses(published: Snapshot, find: Find) -> list[facets.AttributeUse]:
    uses: dict[str, _Use] = {}
    for image, name, value in _attributes(published, find):
        on_map = pa.array(image >= 0)
        rows = pa.table({"name": name, "value": value}).filter(on_map).drop_null()
        _count(rows.append_column("length", pc.utf8_length(rows["value"])), uses)
    return [use.of(name) for name, use in uses.items()]


def _count(rows: pa.Table, uses: dict[str, _Use]) -> None:
    """Adds ``rows`` (name, value, length) to ``uses``. Sets of values stay small."""
    counts = rows.group_by("name").aggregate([("value", "count"), ("value", "count_distinct"), ("length", "sum")])
    for row in counts.to_pylist():
        use = uses.setdefault(row["name"], _Use())
        use.images += row["value_count"]
        use.length += row["length_sum"]
        if row["value_count_distinct"] > facets.MOST_VALUES_ASKED_FOR:
            use.values = None
    few = [name for name, use in uses.items() if use.values is not None]
    pairs = rows.filter(pc.is_in(rows["name"], value_set=pa.array(few, rows["name"].type)))
    for row in pairs.group_by(["name", "value"]).aggregate([]).to_pylist():
        use = uses[row["name"]]
        if use.values is not None:
            use.values.add(row["value"])
            use.values = use.values if len(use.values) <= facets.MOST_VALUES_ASKED_FOR else None
