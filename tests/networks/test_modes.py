"""By hand: every module gets back the mode it had."""

from __future__ import annotations

import pytest
import torch

from medcontrast.networks.modes import evaluating


def test_modes_come_back_and_after_an_error_too() -> None:
    network = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout())
    network[1].eval()
    with evaluating(network):
        assert [module.training for module in network.modules()] == [False] * 3
    with pytest.raises(RuntimeError, match="stop"), evaluating(network):
        raise RuntimeError("stop")
    assert (network.training, network[0].training, network[1].training) == (True, True, False)
