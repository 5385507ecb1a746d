"""What determines a fingerprint's vectors, and what turns pictures into them."""

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from image_similarity.imaging.framing import Framing

PIXELS_VERSION = 2
"""Part of every key: raise it when decoding, resizing or cropping change what a vector is."""


class FingerprintError(ValueError):
    """A fingerprint that cannot be made as it is described: one line that says what is wrong, and what there is
    instead."""


class Fingerprint(Protocol):
    """Pictures -> vectors, in one process and on one device. Not thread-safe."""

    framing: Framing

    @property
    def batch(self) -> int:
        """How many pictures it is best given at once."""

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, crop, crop, 3) uint8, as ``framing.fit`` makes them, n >= 1 -> (n, d) float32."""


@dataclass(frozen=True)
class FingerprintSpec(ABC):
    """Everything that a vector depends on but the image, small enough to be sent to workers and recorded with a run."""

    uses_torch: ClassVar[bool] = False
    """Whether it needs a device."""

    framing: Framing

    @property
    def key(self) -> str:
        """16 hexadecimal digits; two fingerprints with the same key give the same vectors."""
        values = {"kind": type(self).__name__, "pixels_version": PIXELS_VERSION, **asdict(self)}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    @abstractmethod
    def load(self, file: str | None, device: str) -> Fingerprint:
        """Build the fingerprint. ``file``: what the driver saved for it, None where nothing is needed; ``device``: as
        torch names it."""
