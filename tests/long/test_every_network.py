"""Every classification network of torchvision can be taken apart. `tests/unit` tries one of each family."""

import numpy as np
import pytest
import torch
import torchvision
from torchvision.models import list_models

from image_similarity.fingerprints import classifier, networks


@pytest.mark.parametrize("network", list_models(module=torchvision.models))
def test_every_network_can_be_taken_apart(network: str) -> None:
    """Its layers are told, and its preparation; nothing is computed (RegNets of billions of parameters are left
    out).
    """
    if network.startswith(("regnet_y_128gf", "regnet_x_32gf", "regnet_y_32gf", "regnet_y_16gf", "regnet_x_16gf")):
        pytest.skip("takes seconds and gigabytes")
    preset = networks._preset(network, "")
    last = networks.layers(network)[-1]
    assert networks._output_shape(network, last, preset.crop_size[0]) == (2, 1000)
    layer, pooling = networks.default_layer(network)
    shape = networks._output_shape(network, layer, preset.crop_size[0])
    assert len(shape) == (4 if pooling == "average" else 2) and 400 <= shape[1] <= 7392


IN_THE_PASS = ("squeezenet1_0", "squeezenet1_1")
"""Networks whose logits are no function of the default layer's pooled vectors: a ReLU comes before the pooling."""


@pytest.mark.parametrize("network", list_models(module=torchvision.models))
def test_stored_vectors_give_every_networks_logits(network: str) -> None:
    """Of the default layer, except SqueezeNet's."""
    if network == "maxvit_t":
        pytest.skip("cannot be a fingerprint: tracing makes constants of its index tables, which no weights have")
    layer, pooling = networks.default_layer(network)
    state = networks.untrained_state(network, 0)
    if sum(parameter.nbytes for parameter in state.values()) > 1_500_000_000:
        pytest.skip("takes gigabytes")
    prepared = networks.prepare(network, layer, state, pooling=pooling)
    after = classifier.of_network(prepared.network, state, "untrained")
    assert (after.head is None) == (network in IN_THE_PASS) and after.classes == 1000
    side = prepared.network.framing.crop
    images = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    fingerprint = prepared.network.load(dict(state), "cpu", batch=1, logits=True)
    vectors, logits = fingerprint.with_logits(images)
    model = networks._build(network, side).eval()
    model.load_state_dict(state)
    with torch.inference_mode():
        expected = model(fingerprint.normalised(images)).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    if after.head is not None:
        np.testing.assert_allclose(after.head(vectors), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
