"""Every classification network of torchvision can be taken apart. `tests/unit` tries one of each family."""

import pytest
import torchvision
from torchvision.models import list_models

from image_similarity.fingerprints import networks


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
