"""Labels of images, an attribute of the manifest: what tags are measured against."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from image_similarity.errors import WrongInput, did_you_mean, listed
from image_similarity.reporting import brief
from image_similarity.stages.tags.scores import CONTENT
from image_similarity.warehouse.defaults import FOLDER
from image_similarity.warehouse.snapshot import Snapshot

MOST_MEASURED = 100_000
"""Labelled images. Of more, a sample by the hashes of their ids is measured."""


@dataclass(frozen=True)
class Labels:
    """The labels of images that are measured."""

    by_image: dict[str, str]
    labelled: int
    """Images that have a label: these, or more."""

    def by_content(self, published: Snapshot, fingerprint: str) -> list[tuple[str, str]]:
        """content, label: one for each of the images that is embedded, in the order of ids."""
        pairs: list[tuple[str, str, str]] = []
        for batch in published.batches("embeddings", fingerprint, ["image_id", CONTENT]):
            known = (
                (image, content, self.by_image[image])
                for image, content in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist())
                if image in self.by_image
            )
            pairs += known
        return [(content, label) for _, content, label in sorted(pairs)]


def read(published: Snapshot, attribute: str) -> Labels:
    """The values of ``attribute`` in the published manifest; of `FOLDER`, the first folder where an image has none.

    Raises ``WrongInput`` where no image has it, with the attributes that there are; and where no two images have the
    same value, as with a file name: nothing can be learned from such labels.
    """
    names: set[str] = set()
    values: dict[str, str] = {}
    for image, attributes in _attributes(published):
        names.update(attributes)
        if value := attributes.get(attribute) or (_first_folder(image) if attribute == FOLDER else ""):
            values[image] = value
    if not values:
        known = sorted(names)
        raise WrongInput(
            f"--label {attribute}: no image has that attribute (there are: {listed(known)})"
            f"{did_you_mean(attribute, known)}"
        )
    if len(values) > 1 and max(Counter(values.values()).values()) == 1:
        example = next(iter(values.values()))
        raise WrongInput(
            f"--label {attribute}: no two of {len(values):,} images have the same value, as {brief(example)!r}: "
            "name the attribute that says what is in the image"
        )
    if len(values) <= MOST_MEASURED:
        return Labels(values, len(values))
    chosen = heapq.nsmallest(MOST_MEASURED, values, key=lambda image: hashlib.sha256(image.encode()).digest())
    return Labels({image: values[image] for image in chosen}, len(values))


def _first_folder(image_id: str) -> str:
    """ "" for an id without one."""
    folder, slash, _ = image_id.partition("/")
    return folder if slash else ""


def _attributes(published: Snapshot) -> Iterator[tuple[str, dict[str, str]]]:
    for batch in published.batches("manifest", "", ["image_id", "attributes"]):
        rows = pa.Table.from_batches([batch])
        for image, attributes in zip(rows["image_id"].to_pylist(), rows["attributes"].to_pylist()):
            yield image, dict(attributes or ())
