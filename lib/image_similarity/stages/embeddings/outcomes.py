"""What may become of an image, and what earlier runs tell of it, whoever embeds."""

from collections.abc import Collection
from dataclasses import dataclass

from image_similarity.imaging import decoding
from image_similarity.stages.embeddings.embedder import NON_FINITE
from image_similarity.storage import fetch

FAILURE_REASONS = {
    **fetch.FETCH_REASONS,
    **decoding.UNREADABLE_REASONS,
    NON_FINITE: "the network's answer has infinite or undefined values",
}
"""Every ``reason`` that this stage writes into ``failures``."""

PERMANENT_REASONS = (*decoding.UNREADABLE_REASONS, NON_FINITE, "too_many_bytes")
"""Permanent failures: retried only on request while the file is unchanged. All other failures are transient and always
retried."""

LEAST_IMAGES_PER_TASK = 32

PUBLISHED, CHECKPOINT, FAILED = 0, 1, 2
"""Why an image is known. The lowest value wins."""


DECODABLE = (None, NON_FINITE)
"""The ``reason`` of images that were decoded: embedded, or refused because of what the network answers."""


@dataclass(frozen=True)
class Counts:
    """What became of the images, for one fingerprint."""

    images: int
    reused: int
    """Images that were not read, because they are unchanged."""
    resumed: int
    """The images among them that resumed from the checkpoints of an unpublished run."""
    failed_before: int
    """The images among the reused ones whose failure stands."""
    read: int
    embedded_on: dict[str, int]
    """device -> images that were embedded on it."""


@dataclass(frozen=True)
class Retry:
    """Which permanent failures of earlier runs are retried although their files are unchanged."""

    all: bool = False
    reasons: Collection[str] = ()
