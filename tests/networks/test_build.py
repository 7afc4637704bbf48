"""Tests of the list of networks: by hand (sentences, attributes), property, gradient."""

import subprocess
import sys

import pytest
import torch

from medcontrast.errors import InputError
from medcontrast.losses.segmentation import dice_cross_entropy
from medcontrast.networks.build import BUILDERS, build_network
from medcontrast.networks.output import Network
from medcontrast.settings.network import NetworkSettings

PLAIN = {
    "vnet": {"filters": 4},
    "segresnet": {"filters": 8},
    "unet": {"filters": (4, 8, 8)},
    "dynunet": {"filters": (4, 8, 8)},
    "unet2d": {"filters": 8, "norm": "group", "encoder": {"name": "resnet20", "width": 4}},
}


@pytest.mark.parametrize("name", BUILDERS)
def test_every_name_gives_logits_and_features_on_the_grid_of_the_image(name):
    network = build_network(name, in_channels=2, classes=3, **PLAIN[name])
    assert isinstance(network, Network)
    output = network.eval()(torch.randn(1, 2, 16, 16, 32))
    assert output.logits.shape == (1, 3, 16, 16, 32)
    assert output.features.shape == (1, network.feature_channels, 16, 16, 32)


@pytest.mark.parametrize("name", BUILDERS)
def test_settings_and_network_agree_on_names_and_divisor(name):
    settings = NetworkSettings.model_validate({"name": name, **PLAIN[name]})
    network = build_network(name, in_channels=1, classes=2, **settings.plain())
    assert network.stride == settings.patch_divisor


def test_an_unknown_name_answers_with_the_list():
    sentence = (
        "There is no network 'v-net'; the networks are vnet, unet, segresnet, dynunet, unet2d. Did you mean 'vnet'?"
    )
    with pytest.raises(InputError) as caught:
        build_network("v-net", in_channels=1, classes=2, filters=4)
    assert str(caught.value) == sentence


def test_settings_of_another_network_are_refused():
    with pytest.raises(InputError, match="decoders is a setting of vnet and dynunet, but unet got 3"):
        build_network("unet", in_channels=1, classes=2, filters=(4, 8), decoders=3)
    with pytest.raises(InputError, match="strides is a setting of unet and dynunet, not of vnet"):
        build_network("vnet", in_channels=1, classes=2, filters=4, strides=((2, 2, 2),))
    with pytest.raises(InputError, match="vnet takes one number, such as 16 for filters, but got"):
        build_network("vnet", in_channels=1, classes=2, filters=(4, 8))
    with pytest.raises(InputError, match=r"encoder is a setting of unet2d, which needs it, .* unet2d got None"):
        build_network("unet2d", in_channels=1, classes=2, filters=8, norm="group")
    with pytest.raises(InputError, match="unet2d has norm group and no dropout, but got norm instance"):
        build_network("unet2d", in_channels=1, classes=2, filters=8, encoder={"name": "resnet20"})
    with pytest.raises(InputError, match="unet takes a list of widths"):
        build_network("unet", in_channels=1, classes=2, filters=16)


def test_vnet_does_not_wait_for_monai():
    code = (
        "import sys; from medcontrast.networks.build import build_network;"
        "build_network('vnet', in_channels=1, classes=2, filters=2); sys.exit('monai' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", BUILDERS)
def test_a_bfloat16_step_stays_finite(name):
    torch.manual_seed(0)
    network = build_network(name, in_channels=1, classes=2, **PLAIN[name])
    # The deepest level keeps at least 4 along x: with 2, PyTorch 2.13's bfloat16 convolution on a CPU gives a weight
    # gradient read from uninitialised memory.
    image, label = torch.randn(2, 1, 64, 16, 16), torch.randint(0, 2, (2, 1, 64, 16, 16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(image)
        loss = dice_cross_entropy(output.logits, label)
    loss.backward()
    assert output.logits.dtype == torch.bfloat16 and loss.dtype == torch.float32
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in network.parameters())


def test_a_network_without_a_forward_pass_is_not_built():
    class Nothing(Network):
        """Says nothing of what it does."""

    with pytest.raises(TypeError, match=r"abstract method '?forward"):
        Nothing(in_channels=1, classes=2, feature_channels=4, stride=(1, 1, 1), norm="none")
