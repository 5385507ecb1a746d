"""A layer of a pretrained network as a fingerprint.

The driver calls `prepare` once. Workers build the fingerprint from the small `Network` and the file of parameters. The
file is memory-mapped, so the workers of one machine share its pages. If the parameters are cast to a precision other
than float32, each worker has its own copy.
"""

import hashlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from image_similarity.errors import did_you_mean
from image_similarity.fingerprints.division import Division, divided
from image_similarity.fingerprints.inference import CAFFE, USUAL_AXES, Inference, Normalisation, Pooling
from image_similarity.fingerprints.spec import FingerprintError, FingerprintSpec, Parameters
from image_similarity.imaging.framing import Framing

OUTPUT, LOGITS = "embedding", "logits"
LAYER_ALIASES = {"vgg": {"fc1": "classifier.1", "fc2": "classifier.4"}}

USUAL_SIDE = 224
USUAL_CLASSES = 1000  # ImageNet's
_PICTURES = 2  # pictures in a trial batch

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Network(FingerprintSpec):
    """A network up to one layer. ``weights_sha256`` identifies the parameters."""

    network: str
    layer: str
    normalisation: Normalisation
    pooling: Pooling
    precision: str
    weights_sha256: str

    @property
    def uses_torch(self) -> bool:
        return True

    def with_parameters(self, state: "State", source: str) -> "Prepared":
        """The same layer of the same network with the parameters ``state``, whose hash may be another.

        Raises as `prepare` does for parameters that do not fit. ``source`` names them in messages.
        """
        parameters = _fitting_state(self.network, self.layer, self.framing.crop, state, source)
        return Prepared(replace(self, weights_sha256=state_sha256(parameters)), parameters)

    def load(
        self, file: str | Parameters | None, device: str, batch: int | None = None, logits: bool = False
    ) -> Inference:
        """``file``: path of the parameters that `save` wrote, or the parameters, which are taken over. For ``logits``
        those of the whole network.
        """
        if file is None:
            raise ValueError("a network needs its file of parameters")
        state = torch.load(file, map_location="cpu", mmap=True, weights_only=True) if isinstance(file, str) else file
        head = None
        if logits:
            division = division_of(self, classes_of(self.network, state))
            extractor, head = division.trunk, with_state(division.head, state)
        else:
            extractor = _extractor(self.network, self.layer, self.framing.crop)
        return Inference(
            with_state(extractor, state),
            self.framing,
            self.normalisation,
            self.pooling,
            self.precision,
            device,
            batch=batch,
            head=head,
        )


@dataclass(frozen=True)
class Prepared:
    """A network and its parameters, ready to be sent to workers."""

    network: Network
    state: State
    """The parameters up to the layer."""

    def save(self, file: Path, head: State | None = None) -> None:
        """Write the file of parameters for `Network.load`. ``head``: those after the layer, if logits are wanted."""
        save({**self.state, **(head or {})}, file)


def save(state: State, file: Path) -> None:
    """Write the file of parameters for `Network.load`."""
    torch.save(dict(state), file)


def check_network(network: str) -> None:
    """Raise ``FingerprintError``, with similar names, unless torchvision has the classification network."""
    known = list_models(module=torchvision.models)  # networks for detection, segmentation and video are in subpackages
    if network not in known:
        listing = ".venv/bin/python -m image_similarity.fingerprints.networks"
        raise FingerprintError(
            f"torchvision has no classification network {network!r}{did_you_mean(network, known) or '.'} "
            f"To see all: {listing}"
        )


def untrained_state(network: str, seed: int) -> State:
    """Seeded random parameters. They are the same on every machine with the same version of torch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(network, _preset(network, "").crop_size[0]).state_dict()


def _build(network: str, side: int = USUAL_SIDE, classes: int = USUAL_CLASSES) -> nn.Module:
    """The network for pictures of ``side`` x ``side`` pixels. Most networks take any side."""
    options: dict[str, Any] = {}
    if network in ("googlenet", "inception_v3"):
        # The published weights of these two expect that the network scales its input, which it does only on request.
        options = {"transform_input": True, "init_weights": True}
    elif network.startswith("vit_"):
        options = {"image_size": side}
    model: nn.Module = get_model(network, weights=None, num_classes=classes, **options)
    return model


def _empty(network: str, side: int = USUAL_SIDE, classes: int = USUAL_CLASSES) -> nn.Module:
    """The network on torch's meta device: its parameters take no memory."""
    try:
        with torch.device("meta"):
            return _build(network, side, classes)
    except NotImplementedError:  # RegNets compute their widths with tensors, which need values
        return _build(network, side, classes).to("meta")


def prepare(
    network: str,
    layer: str,
    state: State,
    pooling: str = "none",
    preprocessing: str = "torchvision",
    precision: str = "float32",
    source: str = "given",
    scaled: bool = True,
) -> Prepared:
    """Check that layer and weights fit the network, and return both for workers.

    ``state`` may lack parameters after the layer. ``FingerprintError`` if it lacks others or has them in other shapes
    (the message names them), if the layer is unknown, or if the layer has no values for each picture. ``source`` names
    the weights in messages, and selects the preset of torchvision's weights.
    """
    node = resolve_layer(network, layer)
    preset = _preset(network, source)
    parameters = _fitting_state(network, node, preset.crop_size[0], state, source)
    framing = Framing(preset.resize_size[0], preset.crop_size[0], preset.interpolation.value, scaled=scaled)
    shape = _output_shape(network, node, framing.crop)
    if len(shape) < 2 or shape[0] != _PICTURES:
        raise FingerprintError(f"{network} gives no values for each picture at {node}: choose another layer")
    spec = Network(
        framing=framing,
        network=network,
        layer=node,
        normalisation=CAFFE if preprocessing == "caffe" else Normalisation(tuple(preset.mean), tuple(preset.std)),
        pooling=Pooling(pooling, spatial_axes(network, node, framing.crop) if pooling != "none" else ()),
        precision=precision,
        weights_sha256=state_sha256(parameters),
    )
    return Prepared(spec, parameters)


def spatial_axes(network: str, node: str, side: int) -> tuple[int, ...]:
    """The axes of the output that grow with the picture: the last two of most networks, the middle two of Swin.

    `USUAL_AXES` decides if no axis grows (after adaptive pooling), or if the network takes only one size (ViT).
    """
    shape = _output_shape(network, node, side)
    usual = USUAL_AXES.get(len(shape), ())
    try:
        larger = _output_shape(network, node, 2 * side)
    except (AssertionError, RuntimeError):
        return usual
    growing = tuple(axis for axis, (small, large) in enumerate(zip(shape, larger)) if small != large)
    return growing if growing and usual else usual


def features_shape(network: Network) -> tuple[int, ...]:
    """Shape of the layer's output before pooling: (n, ...)."""
    return _output_shape(network.network, network.layer, network.framing.crop)


def vector_length(network: str, layer: str, pooling: str) -> int:
    """Values of a vector, for pictures as torchvision's default weights want them. Raises as `prepare` does."""
    node, side = resolve_layer(network, layer), _preset(network, "").crop_size[0]
    shape = _output_shape(network, node, side)
    pooled = spatial_axes(network, node, side) if pooling != "none" else ()
    return math.prod(size for axis, size in enumerate(shape) if axis and axis not in pooled)


def _output_shape(network: str, node: str, side: int) -> tuple[int, ...]:
    """Shape of the output for `_PICTURES` pictures, found on torch's meta device without memory or work.

    () for a node whose output is no tensor.
    """
    with torch.inference_mode():
        output = _known_extractor(network, node, side)(torch.empty(_PICTURES, 3, side, side, device="meta"))[OUTPUT]
    return tuple(output.shape) if isinstance(output, torch.Tensor) else ()


def resolve_layer(network: str, layer: str) -> str:
    """The node of ``layer``, which is a node, an alias, or a module and stands for its last node.

    ``FingerprintError``, with similar names, if there is none.
    """
    aliases = next((names for family, names in LAYER_ALIASES.items() if network.startswith(family)), {})
    layer = aliases.get(layer, layer)
    nodes = layers(network)
    inside = [node for node in nodes if node == layer or node.startswith(f"{layer}.")]
    if not inside:
        known = [*aliases, *nodes]
        suggestion = did_you_mean(layer, known) or f"; its last are {', '.join(known[-3:])}."
        listing = f".venv/bin/python -m image_similarity.fingerprints.networks {network}"
        raise FingerprintError(f"{network} has no layer {layer!r}{suggestion} To see all: {listing}")
    return layer if layer in inside else inside[-1]


def layers(network: str) -> list[str]:
    """The nodes of the network's graph, in the order of execution."""
    model = _empty(network)
    with torch.device("meta"):
        nodes: list[str] = get_graph_node_names(model, suppress_diff_warning=True)[1]
    return nodes


@lru_cache(maxsize=4)
def default_layer(network: str) -> tuple[str, str]:
    """The last node before the network's classifier, and how it is pooled: ``average`` if it has spatial axes.

    The classifier is the last linear or convolutional module. Dropout does nothing in evaluation and is passed over, so
    that VGG's is ``classifier.4``, that is fc2.
    """
    check_network(network)
    modules, nodes = dict(_empty(network).named_modules()), layers(network)
    at = nodes.index(classifier_of(network)) - 1
    while isinstance(modules.get(nodes[at]), nn.Dropout):
        at -= 1
    side = _preset(network, "").crop_size[0]
    has_places = len(_output_shape(network, nodes[at], side)) > 2
    return nodes[at], "average" if has_places else "none"


@lru_cache(maxsize=4)
def classifier_of(network: str) -> str:
    """The last linear or convolutional module, which has an output for each class."""
    modules = dict(_empty(network).named_modules())
    return [node for node in layers(network) if isinstance(modules.get(node), (nn.Linear, nn.Conv2d))][-1]


def classes_of(network: str, state: State) -> int:
    """The number of classes of the network whose parameters are ``state``. ``KeyError`` if they lack the classifier."""
    return int(state[f"{classifier_of(network)}.weight"].shape[0])


def _fitting_state(network: str, node: str, side: int, state: State, source: str) -> State:
    """The parameters up to ``node``, contiguous and in the network's order. ``FingerprintError`` if ``state`` does not
    fit.
    """
    needed = _known_extractor(network, node, side).state_dict()
    missing = [name for name in needed if name not in state]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise FingerprintError(f"weights {source} are not for {network} up to {node}: they lack {shown}")
    for name, parameter in needed.items():
        if state[name].shape != parameter.shape:
            shape, expected = tuple(state[name].shape), tuple(parameter.shape)
            raise FingerprintError(
                f"weights {source} are not for {network}: {name} has the shape {shape}, not {expected}"
            )
    return {name: state[name].detach().to(parameter.dtype).contiguous() for name, parameter in needed.items()}


def _extractor(network: str, node: str, side: int) -> nn.Module:
    """The network for pictures of ``side`` x ``side`` pixels, up to ``node``, on torch's meta device."""
    model = _empty(network, side).eval()
    with torch.device("meta"):
        extractor: nn.Module = create_feature_extractor(model, {node: OUTPUT}, suppress_diff_warning=True).eval()
        return extractor


def with_state(module: nn.Module, state: State) -> nn.Module:
    """``module``, on the meta device until now, with its parameters of ``state``, which may hold others too."""
    module.load_state_dict({name: state[name] for name in module.state_dict()}, assign=True)
    return module


def division_of(network: Network, classes: int) -> Division:
    """The network up to its layer, and what follows, on torch's meta device. ``classes``: how many it tells apart."""
    model = _empty(network.network, network.framing.crop, classes).eval()
    last = layers(network.network)[-1]
    outputs = {network.layer: OUTPUT} | ({last: LOGITS} if last != network.layer else {})
    with torch.device("meta"):
        traced = create_feature_extractor(model, outputs, suppress_diff_warning=True).eval()
    return divided(traced, OUTPUT, outputs[last])


@lru_cache(maxsize=4)
def _known_extractor(network: str, node: str, side: int) -> nn.Module:
    """`_extractor`, to look at: tracing a network takes seconds, and `prepare` asks for the same one repeatedly."""
    return _extractor(network, node, side)


def state_sha256(state: State) -> str:
    """A hash of names, types, shapes and values. It does not depend on the file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data if tensor.dim() else tensor.numpy().tobytes())
    return digest.hexdigest()


def _preset(network: str, source: str) -> Any:
    """Size, crop, interpolation and normalisation that torchvision declares for the weights ``source``.

    For weights that are not torchvision's, those of its default weights.
    """
    declared = get_model_weights(network)
    transform = declared.__members__.get(source, declared.DEFAULT).transforms
    return transform() if isinstance(transform, partial) else transform


def main(arguments: Sequence[str]) -> int:
    """Print the layers of the network ``arguments[0]``; without arguments, the names of all networks."""
    if not arguments:
        print("\n".join(list_models(module=torchvision.models)))
        return 0
    try:
        check_network(arguments[0])
    except FingerprintError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(layers(arguments[0])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
