"""Labels of groups: the tag, attribute or folder that a group has in common, more than the collection has.

Words are kept as hashes, 16 bytes for each image and word. The texts are read again, of those that become labels.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from image_similarity.grouping import labels
from image_similarity.knn import hashing
from image_similarity.knn.distances import Indices
from image_similarity.neighbour_graph import Names, hashes
from image_similarity.pages import captions
from image_similarity.pages.facets import first_folders
from image_similarity.stages.groups.tables import Grouping
from image_similarity.warehouse import current_tags
from image_similarity.warehouse.defaults import FOLDER, tags_by
from image_similarity.warehouse.snapshot import Snapshot

TAG = ""
"""The name of the attribute that tags are."""

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Words:
    """What is said of the images of a collection by tags and attributes."""

    published: Snapshot
    slot: str | None
    """Of ``tags``; None where none are published."""
    names: Names
    images: int
    image: Indices
    """(m,): which image"""
    word: Indices
    """(m,): has which word: a place in ``hashes``; each pair once."""
    hashes: Hashes
    """(w,): the words that two images have or more."""

    @classmethod
    def read(cls, published: Snapshot, fingerprint: str, names: Names, images: int) -> "Words":
        """Of the manifest, and of the tags by ``fingerprint``; where it has none, by the first that has some."""
        slot = tags_by(published.slots("tags"), fingerprint)
        empty = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint64)
        parts = [empty, *((image, hashed) for image, hashed, _, _ in _read(published, slot, names))]
        image, hashed = (np.concatenate(column) for column in zip(*parts))
        distinct, word, count = np.unique(hashed, return_inverse=True, return_counts=True)
        kept = count[word] >= labels.LEAST_IMAGES
        pairs = np.unique(image[kept] * np.int64(max(1, len(distinct))) + word[kept])
        image, word = np.divmod(pairs, max(1, len(distinct)))
        used, word = np.unique(word, return_inverse=True)
        return cls(published, slot, names, images, image, word, distinct[used])

    @property
    def runs(self) -> dict[str, list[str]]:
        """table -> runs read."""
        tags = [] if self.slot is None else self.published.run_ids("tags", self.slot)
        read = {"manifest": self.published.run_ids("manifest", ""), "tags": tags}
        return {table: runs for table, runs in read.items() if runs}

    def labelled(self, grouping: Grouping) -> list[str | None]:
        """The label of each group; None where nothing sets it apart. Of several that tell equally much a tag is taken,
        else the first by its text.
        """
        group, word = labels.telling(grouping.start, grouping.image, self.image, self.word, self.images)
        texts = self._texts(np.unique(word))
        best: dict[int, tuple[bool, str]] = {}
        for number, code in zip(group.tolist(), word.tolist()):
            best[number] = min(best.get(number, texts[code]), texts[code])
        return [best[number][1] if number in best else None for number in range(len(grouping))]

    def _texts(self, words: Indices) -> dict[int, tuple[bool, str]]:
        """word -> whether it is an attribute's, and its text."""
        texts: dict[int, tuple[bool, str]] = {}
        wanted = self.hashes[words]  # ascending
        for _, hashed, names, values in _read(self.published, self.slot, self.names) if len(words) else ():
            place = np.minimum(np.searchsorted(wanted, hashed), len(wanted) - 1)
            rows = np.nonzero(wanted[place] == hashed)[0]
            _, first = np.unique(place[rows], return_index=True)
            for row in rows[first].tolist():
                texts.setdefault(int(words[place[row]]), _text(names[row].as_py(), values[row].as_py()))
            if len(texts) == len(words):
                break
        return texts


def _text(name: str, value: str) -> tuple[bool, str]:
    return name != TAG, captions.clean(value) if name == TAG else captions.of_value(name, value)


Part = tuple[Indices, Hashes, pa.LargeStringArray, pa.LargeStringArray]
"""(m,): image, hash of its word, name of the attribute, and value."""


def _read(published: Snapshot, slot: str | None, names: Names) -> Iterator[Part]:
    """Tags of what images are now (see `current_tags`), then folders and attributes, a batch at a time, of images that
    ``names`` finds.
    """
    if slot is not None:
        content = _contents(published, slot, names)
        for batch in published.batches("tags", slot, ["image_id", "class", "accepted", "content_sha256"]):
            batch = batch.filter(batch["accepted"])
            image = names.find(batch["image_id"])
            tagged = _content_hashes(batch["content_sha256"])
            image = np.where((tagged > 0) & (content[image] == tagged), image, -1)
            yield _part(image, pa.repeat(pa.scalar(TAG, pa.large_string()), len(image)), batch["class"])
    for batch in published.batches("manifest", "", ["image_id", "attributes"]):
        attributes = batch["attributes"]
        ends = attributes.offsets.to_numpy()
        items = slice(int(ends[0]), int(ends[-1]))
        found = names.find(batch["image_id"])
        yield _part(
            found, pa.repeat(pa.scalar(FOLDER, pa.large_string()), len(found)), first_folders(batch["image_id"])
        )
        image = np.repeat(found, np.diff(ends))
        yield _part(image, attributes.keys[items], attributes.items[items])


def _contents(published: Snapshot, fingerprint: str, names: Names) -> Hashes:
    """(n + 1,): a hash of the content of each of the images that ``names`` finds, 0 where it has none; then a 0."""
    content = np.zeros(len(names) + 1, np.uint64)
    for batch in published.batches("embeddings", fingerprint, current_tags.OF_WHAT):
        image = names.find(batch["image_id"])
        is_known = image >= 0
        content[image[is_known]] = _content_hashes(batch["content_sha256"])[is_known]
    return content


def _content_hashes(contents: pa.Array) -> Hashes:
    """(n,): 0 for null."""
    known = contents.is_valid().to_numpy(zero_copy_only=False)
    return np.where(known, hashes(pc.fill_null(contents, "").cast(pa.large_string())), np.uint64(0))


def _part(image: Indices, name: pa.Array, value: pa.Array) -> Part:
    """The rows that can be labels."""
    name, value = name.cast(pa.large_string()), value.cast(pa.large_string())
    length = pc.fill_null(pc.utf8_length(value), 0)
    is_word = pc.and_(pc.greater(length, 0), pc.less_equal(length, captions.LONGEST_LABEL))
    is_address = pc.fill_null(pc.match_substring_regex(value, r"^[A-Za-z][A-Za-z0-9+.-]*:\S+$"), False)
    kept = pc.and_(pc.and_not(is_word, is_address), pa.array(image >= 0))
    name, value = name.filter(kept), value.filter(kept)
    with np.errstate(over="ignore"):
        hashed: Hashes = hashing.mixed(hashes(name), 1) + hashes(value)
    return image[kept.to_numpy(zero_copy_only=False)], hashed, name, value
