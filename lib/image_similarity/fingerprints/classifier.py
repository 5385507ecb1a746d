"""The classifier of a network: what follows the tapped layer, up to one number for each class.

Where it is a function of the stored vectors, as a last linear layer is, logits are computed from them and no image is
read. Else they come from the pass that embeds (`spec.WithLogits`).
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from image_similarity.fingerprints import networks
from image_similarity.fingerprints.inference import Pooling
from image_similarity.fingerprints.networks import Network, State
from image_similarity.fingerprints.spec import FingerprintError

_ROWS = 4096  # vectors that are taken at once
_TOLERANCE = 1e-4  # of the largest logit: float32 sums that are as long as a layer is wide
_TRIAL = 4  # random inputs


@dataclass(frozen=True, eq=False)
class Classifier:
    """The classes of a fingerprint's network, and its last layers where they take the stored vectors."""

    classes: tuple[str, ...]
    """The names of the c classes, in the order of the logits. Names may repeat (ImageNet has two cranes)."""
    key: str
    """A hash of what makes the logits of features, without the names: 16 hexadecimal digits."""
    head: "Head | None" = None

    @property
    def names_key(self) -> str:
        """A hash of the names, of 16 hexadecimal digits."""
        return key_of(self.classes)

    @property
    def from_vectors(self) -> bool:
        """Whether logits follow from stored vectors. If not, embed_images keeps classes in its pass."""
        return self.head is not None

    def logits(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, d) float32 -> (n, c) float32; n may be 0. ``ValueError`` unless `from_vectors`."""
        if self.head is None:
            raise ValueError("logits do not follow from vectors: they come from the pass of embed_images")
        if not len(vectors):
            return np.empty((0, len(self.classes)), np.float32)
        return np.concatenate([self.head(vectors[at : at + _ROWS]) for at in range(0, len(vectors), _ROWS)])


@dataclass(frozen=True, eq=False)
class Head:
    """The last layers of a network, for pooled vectors. It can be pickled."""

    module: nn.Module
    shape: tuple[int, ...]
    """Of the features of one image, 1 on each axis that is pooled."""

    def __call__(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, d) -> (n, c). Computed in float64: a picture's logits do not depend on those beside it."""
        with torch.inference_mode():
            features = torch.from_numpy(np.array(vectors, np.float64)).reshape(-1, *self.shape)
            logits: NDArray[np.float32] = self._in_float64(features).float().numpy()
        return logits

    @cached_property
    def _in_float64(self) -> nn.Module:
        return self.module.double()


@dataclass(frozen=True, eq=False)
class NetworkHead:
    """What follows the tapped layer of a network with given weights."""

    classes: int
    parameters: State
    head: Head | None
    """None if the logits are no function of the vectors."""

    @property
    def sha256(self) -> str:
        return networks.state_sha256(self.parameters)


def key_of(*parts: object) -> str:
    """`Classifier.key`, of the hash of the parameters that turn features into logits, or of a program and the place of
    its output.
    """
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def of_network(network: Network, state: State, source: str) -> NetworkHead:
    """What follows the layer of ``network``, with the parameters in ``state``.

    ``FingerprintError``, in one line, if ``state`` lacks some of them, has them in other shapes, or with values that
    are no numbers. ``source`` names the weights.
    """
    last = f"{networks.classifier_of(network.network)}.weight"
    if last not in state:
        raise FingerprintError(f"weights {source} lack {last}: they are without a classifier")
    classes = networks.classes_of(network.network, state)
    division = networks.division_of(network, classes)
    parameters = _fitting(division.head, state, source)
    head = networks.with_state(division.head, parameters)
    shape = networks.features_shape(network)
    if division.carried or not _takes_vectors(head, shape, network.pooling):
        return NetworkHead(classes, parameters, None)
    return NetworkHead(classes, parameters, Head(head, _pooled(shape, network.pooling)))


def _fitting(head: nn.Module, state: State, source: str) -> State:
    """Copies of the parameters of ``head`` in ``state``, which can be freed. Raises as `of_network` does."""
    needed = head.state_dict()
    for name, parameter in needed.items():
        if name not in state:
            raise FingerprintError(f"weights {source} lack {name}: they are without a classifier")
        if state[name].shape != parameter.shape:
            shape, expected = tuple(state[name].shape), tuple(parameter.shape)
            raise FingerprintError(f"weights {source}: {name} has the shape {shape}, not {expected}")
        if not torch.isfinite(state[name]).all():
            raise FingerprintError(f"weights {source}: {name} is not finite, so they are without a classifier")
    return {name: state[name].detach().to(parameter.dtype).clone() for name, parameter in needed.items()}


def _pooled(shape: tuple[int, ...], pooling: Pooling) -> tuple[int, ...]:
    """``shape`` (n, ...) of features, without n, and with 1 on each axis that is pooled."""
    axes = pooling.axes if pooling.how != "none" else ()
    return tuple(1 if axis in axes else size for axis, size in enumerate(shape) if axis)


def _takes_vectors(head: nn.Module, shape: tuple[int, ...], pooling: Pooling) -> bool:
    """Whether ``head`` makes the same logits of pooled features as of the features themselves.

    So it is after average pooling, if the network averages next and the rest is linear until then: ResNet's, and not
    SqueezeNet's, which has a ReLU first. It is tried on random features with the network's own parameters.
    """
    features = torch.randn(_TRIAL, *shape[1:], generator=torch.Generator().manual_seed(0))
    vectors = pooling(features).reshape(-1, *_pooled(shape, pooling))
    try:
        with torch.inference_mode():
            expected, logits = head(features.clone()), head(vectors.clone())
    except (RuntimeError, AssertionError):  # the next layer wants features with places
        return False
    scale = float(expected.abs().max())
    return logits.shape == expected.shape and bool((logits - expected).abs().max() <= _TOLERANCE * scale)
