"""Inference on whole left-atrium scans, beside the literature's sliding window and MONAI's.

    medcontrast train benchmarks/inference_network.yaml -o RUN
    python benchmarks/inference_speed.py --ckpt RUN     # --cases N: a part; --quick: the middle of one, fresh weights

All sides get the same prepared image and network and give a class a voxel; medians over validation cases, which the
network was not trained on. The steps from MONAI's window to ours, and what larger windows or less overlap would bring,
are timed one by one. bfloat16 only where the CPU has it.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from literature_window import literature_classes
from monai.inferers import sliding_window_inference
from speed_record import write_record
from start_up import fresh_checkpoint
from torch import Tensor

from medcontrast.checkpoint import load_weights, resolve_checkpoint
from medcontrast.components import largest_component
from medcontrast.data.manifest import load_manifest
from medcontrast.inference.predict import Predictor, predict_case
from medcontrast.metrics.overlap import dice
from medcontrast.metrics.surface import hd95_pooled_mm, surface_distances
from medcontrast.networks.build import build_network
from medcontrast.transforms.volume3d import prepare_image, prepare_label
from medcontrast.volume import read_volume

PATCH = (112, 112, 80)
MIDDLE = (128, 128, 88)
"""What --quick takes of a scan: few windows, and yet several along each axis."""
OURS, LITERATURE, MONAI = "ours", "literature's window (stride 18/18/4)", "MONAI's window (overlap 0.5, Gaussian)"
Side = Callable[[Tensor], np.ndarray]


def sides(checkpoint: Path) -> dict[str, Side]:
    """Every way to the classes (x, y, z) of an image (c, x, y, z), by name."""
    predictor = Predictor.load([checkpoint], "cpu")
    member = predictor.members[0]
    settings = member.recipe.network
    plain = build_network(
        settings.name,
        in_channels=len(member.channels),
        classes=member.labels.classes,
        filters=settings.filters,
        norm=settings.norm,
    )
    plain.load_state_dict(load_weights(resolve_checkpoint(checkpoint))[0])
    plain.eval()
    # the literature's side runs in PyTorch's own layout
    first = copy.deepcopy(plain)
    for weight in first.parameters():
        weight.data = weight.data.contiguous()
    # MONAI's side gets what its users can ask for: channels-last (as the network is), and bfloat16 where there is any
    autocast = predictor.autocast if predictor.precision == "bfloat16" else nullcontext

    def monai(image: Tensor) -> np.ndarray:
        with torch.inference_mode(), autocast():
            logits = sliding_window_inference(
                image[None], PATCH, 4, lambda windows: plain(windows).logits.float(), overlap=0.5, mode="gaussian"
            )
        return logits[0].argmax(0).numpy()

    def ours(network: torch.nn.Module, image: Tensor, **changes: Any) -> np.ndarray:
        settings = predictor.settings.model_copy(update=changes)
        return predict_case(network, image, patch=PATCH, settings=settings, device="cpu", autocast=autocast).numpy()

    def whole(image: Tensor) -> np.ndarray:
        return ours(member.network, image, window=tuple(16 * math.ceil(side / 16) for side in image.shape[1:]))

    return {
        OURS: lambda image: predictor.predict_classes(image).numpy(),
        LITERATURE: lambda image: literature_classes(lambda windows: first(windows).logits, image, PATCH),
        MONAI: monai,
        "without fused blocks": lambda image: ours(plain, image),
        "with overlap 0.25": lambda image: ours(member.network, image, overlap=0.25),
        "with one window of the whole scan": whole,
    }


def main() -> None:
    """Times all sides on all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ckpt", type=Path, help="Without one, weights are fresh, and only times mean something.")
    parser.add_argument("--manifest", type=Path, default=Path("data_manifests/la_8of64_val16.json"))
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="The middle of one case; nothing is recorded.")
    arguments = parser.parse_args()
    manifest = load_manifest(arguments.manifest)
    cases = manifest.validation[: 1 if arguments.quick else arguments.cases]
    if arguments.ckpt is None and not arguments.quick:
        parser.error("--ckpt is needed for figures that are recorded")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = arguments.ckpt or fresh_checkpoint(Path(folder), 8, PATCH)
        intensity = Predictor.load([checkpoint], "cpu").members[0].recipe.data.intensity
        ways = sides(checkpoint)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for case in cases:
        assert case.label is not None
        volume = read_volume(case.images[0], "image")
        image = prepare_image([volume], spacing_mm=None, intensity=intensity).as_tensor()
        label = prepare_label(read_volume(case.label, "label"), manifest.labels, spacing_mm=None)
        reference = label.as_tensor()[0].numpy() > 0
        if arguments.quick:
            middle = tuple(
                slice((side - kept) // 2, (side + kept) // 2)
                for side, kept in zip(reference.shape, MIDDLE, strict=True)
            )
            image, reference = image[(slice(None), *middle)], reference[middle]
        for name, way in ways.items():
            began = time.perf_counter()
            classes = way(image)
            seconds[name].append(time.perf_counter() - began)
            found = largest_component(classes.astype(np.uint8)) > 0
            hd95 = hd95_pooled_mm(surface_distances(found, reference, volume.grid.spacing_mm))
            scores[name].append((dice(found, reference), hd95))
        print(
            case.name, tuple(image.shape), {name: round(values[-1], 2) for name, values in seconds.items()}, flush=True
        )
    median = {name: statistics.median(values) for name, values in seconds.items()}
    quality = {name: np.mean(values, axis=0) for name, values in scores.items()}
    rows = {
        name: {
            "seconds": median[name],
            "ratio": median[name] / median[OURS],
            "mean_dice": float(quality[name][0]),
            "mean_hd95_pooled_mm": float(quality[name][1]),
        }
        for name in ways
    }
    for name, row in rows.items():
        print(
            f"{name}: {row['seconds']:.2f} s, {row['ratio']:.1f} times ours, Dice {row['mean_dice']:.4f}, "
            f"HD95 {row['mean_hd95_pooled_mm']:.2f} mm"
        )
    if arguments.quick:
        return
    ours = rows.pop(OURS)
    steps = {name: rows.pop(name) for name in list(rows) if name.startswith("with")}
    content = {
        "what": f"classes of a whole left-atrium scan, median of {len(cases)}",
        "seconds": ours["seconds"],
        "ours": ours,
        "others": rows,
        "variants of ours": steps,
        "threads": torch.get_num_threads(),
        "network": "V-Net, 8 filters, batch norm (benchmarks/inference_network.yaml)",
    }
    write_record("inference", ["torch", "monai", "numpy"], content)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
