"""Images made worse on purpose, a draw per row: one or more of the effects of a fundus camera or an X-ray detector.

Letters: b rows, r those that drew an effect, c channels, h, w pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from medcontrast.errors import InputError
from medcontrast.settings.degrade import FundusDegradeSettings, XrayDegradeSettings
from medcontrast.transforms import fundus_artefacts, xray_artefacts
from medcontrast.transforms.draws import row_generator

_Effect = Callable[[Tensor, "list[np.random.Generator]", "FundusDegradeSettings | XrayDegradeSettings"], Tensor]
_EFFECTS: dict[str, dict[str, _Effect]] = {
    "fundus": fundus_artefacts.EFFECTS,  # type: ignore[dict-item]
    "xray": xray_artefacts.EFFECTS,  # type: ignore[dict-item]
}
"""In the order in which they happen, whatever order the settings name them in."""


@torch.no_grad()
def degrade(
    image: Tensor,
    settings: FundusDegradeSettings | XrayDegradeSettings,
    *,
    seed: int,
    step: int,
    rows: Sequence[int],
    stream: str = "degrade",
) -> Tensor:
    """A worse version of every row; each row draws one of the combinations of the effects, never none.

    Everything is a function of (seed, step, row, stream), whatever the other rows are, and whatever is drawn for one
    effect does not depend on which others are switched on or on the severity.

    Args:
        image: (b, c, h, w) float in 0..1, before any normalisation; not changed.
        settings: Which kind of image, which effects, how strong. Severity 0 gives the same tensor.
        seed: Seed of the run.
        step: Optimiser step.
        rows: (b,) global row numbers.
        stream: What the version is for; two streams draw separately.

    Returns:
        (b, c, h, w) in 0..1.

    Raises:
        InputError: Values outside 0..1, or another number of axes.

    Paper: the combinations and their order for fundus photographs are those of the public degradation code of CoMCL
        (Hou 2024).
    Deviation: the effects of X-ray images are this project's own; the papers' are not known.
    """
    if image.ndim != 4 or not bool(((image >= 0) & (image <= 1)).all()):
        raise InputError(
            f"degrade takes images (rows, channels, height, width) with values in 0..1, but got shape "
            f"{tuple(image.shape)} with values {float(image.min()):.4g} to {float(image.max()):.4g}. "
            "Degrade before intensities are normalised."
        )
    if settings.severity == 0:
        return image
    chosen = _combinations(settings.effects, [row_generator(seed, step, row, stream) for row in rows])
    out = image.clone()
    for name, effect in _EFFECTS[settings.kind].items():
        picked = np.flatnonzero(chosen[name]).tolist() if name in chosen else []
        if picked:
            places = torch.as_tensor(picked, device=image.device)
            draws = [row_generator(seed, step, rows[row], f"{stream} {name}") for row in picked]
            with torch.autocast(image.device.type, enabled=False):
                part = effect(out.index_select(0, places), draws, settings).clamp(0.0, 1.0)
            out.index_copy_(0, places, part)
    if isinstance(settings, FundusDegradeSettings):
        out = out * fundus_artefacts.field_of_view(image, settings.field_of_view)
    return out


def _combinations(effects: Sequence[str], draws: Sequence[np.random.Generator]) -> dict[str, np.ndarray]:
    """Which rows get which effect: every combination but the empty one is equally likely."""
    count = 2 ** len(effects) - 1
    codes = np.array([1 + min(int(draw.random() * count), count - 1) for draw in draws], dtype=np.int64)
    return {name: codes >> bit & 1 == 1 for bit, name in enumerate(effects)}
