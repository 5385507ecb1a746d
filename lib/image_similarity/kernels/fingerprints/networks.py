"""A layer of a pretrained network as a fingerprint.

The driver calls `prepare` once; workers build a `NetworkFingerprint` from the small `Network` and the file
of parameters, which is memory-mapped, so that all workers of one machine share its pages.
"""

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names
from torchvision.transforms import functional as transforms

from image_similarity.errors import WrongInput

OUTPUT = "embedding"
LAYER_ALIASES = {"vgg": {"fc1": "classifier.1", "fc2": "classifier.4"}}
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Part of every fingerprint's key: raise it when decoding, resizing or cropping change what a vector is.
PIXELS_VERSION = 1

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Network:
    """Everything that determines a vector but the parameters themselves, which `weights_sha256` stands for."""

    network: str
    layer: str
    pooling: str
    preprocessing: str
    precision: str
    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights_sha256: str
    pixels_version: int = PIXELS_VERSION

    @property
    def key(self) -> str:
        """16 hexadecimal digits; two fingerprints with the same key give the same vectors."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Prepared:
    """What the driver knows of a fingerprint before any image is read."""

    network: Network
    state: State
    """The parameters up to the layer."""

    def save(self, file: Path) -> None:
        """Write the parameters for `NetworkFingerprint`."""
        torch.save(dict(self.state), file)


def check_network(network: str) -> None:
    """Raise ``WrongInput``, with near names, unless torchvision has such a classification network."""
    known = list_models(module=torchvision.models)  # detection, segmentation and video are in packages of their own
    if network not in known:
        near = difflib.get_close_matches(network, known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else "."
        raise WrongInput(f"torchvision has no classification network {network!r}{hint} All are: {', '.join(known)}")


def untrained_state(network: str, seed: int) -> State:
    """Seeded random parameters, the same on every machine with this torch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(network).state_dict()


def _build(network: str) -> nn.Module:
    # These two scale their input themselves, but only if told so; their published weights expect it.
    told = {"transform_input": True, "init_weights": True} if network in ("googlenet", "inception_v3") else {}
    model: nn.Module = get_model(network, weights=None, **told)
    return model


def prepare(
    network: str,
    layer: str,
    state: State,
    pooling: str = "none",
    preprocessing: str = "torchvision",
    precision: str = "float32",
    source: str = "given",
) -> Prepared:
    """Check that layer and weights fit the network, and make what workers need.

    A state dict may lack parameters after the layer; one that lacks others, or has them in other shapes, raises ``WrongInput`` with
    their names, as does an unknown layer. ``source`` names the weights in messages.
    """
    node = resolve_layer(network, layer)
    fitting = _fitting_state(network, node, state, source)
    preset = _preset(network)
    values = _normalisation(preset, preprocessing)
    described = Network(
        network=network,
        layer=node,
        pooling=pooling,
        preprocessing=preprocessing,
        precision=precision,
        resize=preset["resize"],
        crop=preset["crop"],
        interpolation=preset["interpolation"],
        mean=values[0],
        std=values[1],
        weights_sha256=state_sha256(fitting),
    )
    return Prepared(described, fitting)


def resolve_layer(network: str, layer: str) -> str:
    """The node that ``layer`` names: itself, an alias, or the last node of a module. ``WrongInput`` names near ones."""
    aliases = next((names for family, names in LAYER_ALIASES.items() if network.startswith(family)), {})
    layer = aliases.get(layer, layer)
    with torch.device("meta"):
        nodes = get_graph_node_names(_build(network), suppress_diff_warning=True)[1]
    inside = [node for node in nodes if node == layer or node.startswith(f"{layer}.")]
    if not inside:
        known = [*aliases, *nodes]
        near = difflib.get_close_matches(layer, known, n=3, cutoff=0.4) or known[-3:]
        listing = f"python -m image_similarity.kernels.fingerprints.networks {network}"
        raise WrongInput(f"{network} has no layer {layer!r}; near are {', '.join(near)}. To see all: {listing}")
    return layer if layer in inside else inside[-1]


def _fitting_state(network: str, node: str, state: State, source: str) -> State:
    """The parameters up to ``node``, contiguous and in the network's order."""
    needed = _extractor(network, node).state_dict()
    missing = [name for name in needed if name not in state]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise WrongInput(f"weights {source} are not for {network} up to {node}: they lack {shown}")
    for name, parameter in needed.items():
        if state[name].shape != parameter.shape:
            has, wants = tuple(state[name].shape), tuple(parameter.shape)
            raise WrongInput(f"weights {source} are not for {network}: {name} has the shape {has}, not {wants}")
    return {name: state[name].detach().to(parameter.dtype).contiguous() for name, parameter in needed.items()}


def _extractor(network: str, node: str) -> nn.Module:
    """The network up to ``node``, without memory for parameters."""
    with torch.device("meta"):
        model = _build(network).eval()
        extractor: nn.Module = create_feature_extractor(model, {node: OUTPUT}, suppress_diff_warning=True).eval()
        return extractor


def state_sha256(state: State) -> str:
    """Of names, types, shapes and values, whatever file they came in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data if tensor.dim() else tensor.numpy().tobytes())
    return digest.hexdigest()


def _preset(network: str) -> dict[str, Any]:
    """Size, crop and normalisation that torchvision declares with the network's default weights."""
    transform = get_model_weights(network).DEFAULT.transforms
    preset = transform() if isinstance(transform, partial) else transform
    return {
        "resize": preset.resize_size[0],
        "crop": preset.crop_size[0],
        "interpolation": preset.interpolation.value,
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
    }


def _normalisation(preset: Mapping[str, Any], preprocessing: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the channels, in the network's order and scale."""
    if preprocessing == "caffe":
        return CAFFE_MEAN_BGR, (1.0, 1.0, 1.0)
    return preset["mean"], preset["std"]


def _without_far_ends(pixels: NDArray[np.uint8], longest: int = 8) -> NDArray[np.uint8]:
    """The middle of a very long or very high picture, at most ``longest`` times its short side.

    The centre crop comes from there anyway, and a picture of 1 x 1,000,000 pixels would be gigantic once its short side is 256.
    """
    height, width = pixels.shape[:2]
    limit = longest * min(height, width)
    top, left = max(0, (height - limit) // 2), max(0, (width - limit) // 2)
    return pixels[top : height - top, left : width - left]


class NetworkFingerprint:
    """A network up to one layer, on one device.

    ``file``: parameters as `Prepared.save` wrote them. Not thread-safe: one per process.
    """

    def __init__(self, network: Network, file: str | Path, device: str = "cpu"):
        self.network = network
        self.device = torch.device(device)
        self._dtype = DTYPES[network.precision]
        extractor = _extractor(network.network, network.layer)
        state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        extractor.load_state_dict(state, assign=True)
        # Channels last is the faster layout for convolutions, on CPUs (measured: 1.2 to 1.5 times) as on GPUs.
        self._extractor = extractor.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._mean = torch.tensor(network.mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(network.std, device=self.device).view(1, 3, 1, 1)

    @property
    def image_bytes(self) -> int:
        """Bytes of one image's pixels as the network takes them, float32."""
        return 3 * self.network.crop * self.network.crop * 4

    def fit(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """One RGB picture (height, width, 3) uint8, resized and cropped for the network: (crop, crop, 3) uint8."""
        mode = transforms.InterpolationMode(self.network.interpolation)
        image = Image.fromarray(_without_far_ends(pixels))
        resized = transforms.resize(image, [self.network.resize], interpolation=mode)
        return np.asarray(transforms.center_crop(resized, [self.network.crop]))

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Vectors of ``images``: (n, crop, crop, 3) uint8 -> (n, d) float32; n may not be 0."""
        with torch.inference_mode(), torch.autocast(self.device.type, self._dtype, enabled=self._dtype != torch.float32):
            output = self._extractor(self._normalised(images))[OUTPUT]
            vectors: NDArray[np.float32] = self._pooled(output).float().cpu().numpy()
        return vectors

    def _normalised(self, images: NDArray[np.uint8]) -> torch.Tensor:
        batch = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float()  # channels last in memory already
        batch = batch.flip(1) if self.network.preprocessing == "caffe" else batch / 255
        return ((batch - self._mean) / self._std).contiguous(memory_format=torch.channels_last)

    def _pooled(self, output: torch.Tensor) -> torch.Tensor:
        if self.network.pooling == "none" or output.dim() != 4:
            return output.flatten(1)
        return output.mean((2, 3)) if self.network.pooling == "average" else output.amax((2, 3))


def main(arguments: Sequence[str]) -> int:
    """List the layers of the network named first, or all networks."""
    if not arguments:
        print("\n".join(list_models(module=torchvision.models)))
        return 0
    check_network(arguments[0])
    with torch.device("meta"):
        print("\n".join(get_graph_node_names(_build(arguments[0]), suppress_diff_warning=True)[1]))
    return 0


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
