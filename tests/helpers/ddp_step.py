"""A method's losses as a module's forward pass."""

from __future__ import annotations

from torch import nn


class Step(nn.Module):
    """DDP watches forward alone, so the method's losses are made it; Fabric does the same."""

    def __init__(self, method):
        super().__init__()
        self.method = method

    def forward(self, batch, info):
        return self.method.losses(batch, info)
