"""What no segmentation method may learn from."""

from __future__ import annotations

import torch


def require_blind_to_unlabeled(method, batch, info):
    """Labels of rows that are not labeled, were they there, change no term."""
    label = batch["label"].clone()
    label[~batch["labeled"]] = 1
    with torch.no_grad():
        before = method.losses(batch, info)
        after = method.losses({**batch, "label": label}, info)
    assert all(torch.equal(before[key], after[key]) for key in before)
