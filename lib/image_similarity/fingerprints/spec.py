"""The interface of fingerprints: specs, which determine vectors, and fingerprints, which compute them."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from image_similarity.imaging.framing import Framing

PIXELS_VERSION = 2
"""Part of every key. Raise it when a change of decoding, resizing or cropping changes vectors."""


Parameters = Mapping[str, Any]
"""Names to tensors of torch."""


class FingerprintError(ValueError):
    """A fingerprint cannot be built from its settings. The message is one line: the fault, and what is possible."""


class Fingerprint(Protocol):
    """Computes vectors of pictures, in one process and on one device. It is not thread-safe."""

    framing: Framing

    @property
    def batch(self) -> int:
        """The best number of pictures for one call."""

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, crop, crop, 3) uint8, n >= 1 -> (n, d) float32. ``framing.fit`` gives such pictures."""


class WithLogits(Fingerprint, Protocol):
    """A fingerprint whose network also says what is in a picture: one number for each class."""

    def with_logits(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(n, crop, crop, 3) uint8, n >= 1 -> vectors (n, d) and logits (n, c) float32, in one pass.

        The vectors are those of ``__call__``, to the last bit. Logits may be infinite or NaN.
        """


@dataclass(frozen=True)
class FingerprintSpec(ABC):
    """Everything besides the image that determines a vector. It is small, since it is sent to workers and recorded with
    a run.

    Names of classes and fields are part of `key`: a renamed one makes all stored vectors obsolete.
    """

    framing: Framing

    @property
    def uses_torch(self) -> bool:
        """Whether the fingerprint runs on a device of torch's."""
        return False

    @property
    def key(self) -> str:
        """The hash of the definition, 16 hexadecimal digits. Fingerprints with the same key give the same vectors."""
        values = {"kind": type(self).__name__, "pixels_version": PIXELS_VERSION, **self._determining()}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    def _determining(self) -> dict[str, Any]:
        """The fields by their names, without those that change no vector."""
        return asdict(self)

    @abstractmethod
    def load(
        self, file: "str | Parameters | None", device: str, batch: int | None = None, logits: bool = False
    ) -> Fingerprint:
        """Build the fingerprint. ``file``: path of the file that the driver saved for it, or the parameters that would
        be in it; None if it needs none. ``device``: torch's name of the device. ``batch``: the number of pictures in a
        batch, if the fingerprint takes any; None for what suits many pictures. ``logits``: the result must be
        `WithLogits`; ``ValueError`` for fingerprints without a classifier.
        """


def refuse_logits(spec: FingerprintSpec) -> None:
    """Raises the ``ValueError`` of `FingerprintSpec.load` for logits of a fingerprint without a classifier."""
    raise ValueError(f"{type(spec).__name__} has no classifier, so it gives no logits")
