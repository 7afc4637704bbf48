"""Inference on whole left-atrium scans, beside the literature's sliding window and MONAI's.

    medcontrast train benchmarks/inference_network.yaml -o RUN
    python benchmarks/inference_speed.py --ckpt RUN          # --cases N for a part, --quick for one case

All sides get the same prepared image and network and give a class a voxel; medians over validation cases, which the
network was not trained on. The steps from MONAI's window to ours are timed one by one. bfloat16 only where the CPU has it.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from literature_window import literature_classes
from monai.inferers import sliding_window_inference
from speed_record import write_record
from torch import Tensor

from medcontrast.checkpoint import load_weights, resolve_checkpoint
from medcontrast.components import largest_component
from medcontrast.data.manifest import load_manifest
from medcontrast.inference.fused import fused
from medcontrast.inference.predict import Predictor, predict_case
from medcontrast.metrics.overlap import dice
from medcontrast.metrics.surface import hd95_pooled_mm, surface_distances
from medcontrast.networks.build import build_network
from medcontrast.transforms.volume3d import prepare_image, prepare_label
from medcontrast.volume import read_volume

PATCH = (112, 112, 80)
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
    # MONAI's side gets what its users can ask for: channels-last, and bfloat16 where there is any
    last = channels_last(plain)
    autocast = predictor.autocast if predictor.precision == "bfloat16" else nullcontext

    def monai(image: Tensor) -> np.ndarray:
        def logits_of(windows: Tensor) -> Tensor:
            return last(windows.contiguous(memory_format=torch.channels_last_3d)).logits.float()

        with torch.inference_mode(), autocast():
            logits = sliding_window_inference(image[None], PATCH, 4, logits_of, overlap=0.5, mode="gaussian")
        return logits[0].argmax(0).numpy()

    def patches(network: torch.nn.Module) -> Side:
        fixed = predictor.settings.model_copy(update={"window": PATCH})
        return lambda image: predict_case(
            network, image, patch=PATCH, settings=fixed, device="cpu", autocast=autocast
        ).numpy()

    def largest(image: Tensor) -> np.ndarray:
        return predict_case(plain, image, patch=PATCH, settings=predictor.settings, device="cpu").numpy()

    return {
        OURS: lambda image: predictor.predict_classes(image).numpy(),
        LITERATURE: lambda image: literature_classes(lambda windows: plain(windows).logits, image, PATCH),
        MONAI: monai,
        "step 1: our window of the patch, overlap 0.5": patches(plain),
        "step 2: with fused blocks": patches(fused(plain)),
        "step 3: the largest window, without fused blocks": largest,
    }


def channels_last(network: torch.nn.Module) -> torch.nn.Module:
    """A copy in channels-last layout."""
    return copy.deepcopy(network).to(memory_format=torch.channels_last_3d)


def main() -> None:
    """Times all sides on all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ckpt", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, default=Path("data_manifests/la_8of64_val16.json"))
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="One case; nothing is recorded.")
    arguments = parser.parse_args()
    manifest = load_manifest(arguments.manifest)
    cases = manifest.validation[: 1 if arguments.quick else arguments.cases]
    intensity = Predictor.load([arguments.ckpt], "cpu").members[0].recipe.data.intensity
    ways = sides(arguments.ckpt)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for case in cases:
        assert case.label is not None
        volume = read_volume(case.images[0], "image")
        image = prepare_image([volume], spacing_mm=None, intensity=intensity).as_tensor()
        label = prepare_label(read_volume(case.label, "label"), manifest.labels, spacing_mm=None)
        reference = label.as_tensor()[0].numpy() > 0
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
    steps = {name: rows.pop(name) for name in list(rows) if name.startswith("step")}
    content = {
        "what": f"classes of a whole left-atrium scan, median of {len(cases)}",
        "seconds": ours["seconds"],
        "ours": ours,
        "others": rows,
        "steps": steps,
        "threads": torch.get_num_threads(),
        "network": "V-Net, 8 filters, batch norm (benchmarks/inference_network.yaml)",
    }
    write_record("inference", ["torch", "monai", "numpy"], content)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
