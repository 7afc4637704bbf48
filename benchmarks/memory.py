"""Peak resident memory of inference on large scans, beyond the network: a whole heart MR and a whole CT.

    python benchmarks/memory.py              # --quick: smaller scans, nothing recorded

Scans are synthetic. Each is predicted in a process of its own; what counts is the highest resident size (getrusage)
over that of the process once libraries and network are loaded.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
from speed_record import write_record

# name: sides, classes, norm, network, filters, patch, limit in GB
SCANS = {
    "640x640x88, 2 classes, V-Net": ((640, 640, 88), 2, "batch", "vnet", 16, (112, 112, 80), 4.0),
    "512x512x600, 5 classes, DynUNet": (
        (512, 512, 600),
        5,
        "instance",
        "dynunet",
        (16, 32, 64, 128),
        (96, 96, 96),
        8.0,
    ),
}
QUICK = (128, 128, 96)


def peak_bytes() -> int:
    """Highest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def predict(name: str, sides: tuple[int, ...]) -> dict[str, float]:
    """Predicts a synthetic scan of these sides, from file to label map; in this process."""
    import torch

    from medcontrast.inference.fused import fused
    from medcontrast.inference.members import Member
    from medcontrast.inference.predict import Predictor
    from medcontrast.labels import LabelTable
    from medcontrast.networks.build import build_network
    from medcontrast.settings import load_recipe

    _, classes, norm, kind, filters, patch, _ = SCANS[name]
    base = Path(__file__).parent / "inference_network.yaml"
    width = filters if isinstance(filters, int) else list(filters)
    changes = [f"data.patch={list(patch)}", f"network.name={kind}", f"network.filters={width}", f"network.norm={norm}"]
    recipe = load_recipe(base, [*changes, "inference.overlap=0.0"])
    labels = LabelTable.from_json({"labels": {str(value): f"class {value}" for value in range(classes)}})
    network = build_network(kind, in_channels=1, classes=classes, filters=filters, norm=norm)
    member = Member(
        fused(network),
        recipe,
        labels,
        ("image",),
        Path("run/last.safetensors"),
        "0" * 64,
        {
            "network": "student",
            "step": 0,
        },
    )
    predictor = Predictor((member,), recipe.inference, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.nii"
        subprocess.run([sys.executable, __file__, "--write", str(path), *map(str, sides)], check=True)
        predictor.predict_classes(torch.zeros(1, *patch))  # libraries are loaded
        before, began = peak_bytes(), time.perf_counter()
        predictor.predict_scan([path])
        return {"bytes": peak_bytes() - before, "before_bytes": before, "seconds": time.perf_counter() - began}


def write_scan(path: Path, sides: tuple[int, ...]) -> None:
    """Smooth noise in 16 bits, as scanners store it."""
    coarse = np.random.default_rng(0).normal(size=tuple(side // 8 + 1 for side in sides))
    array = coarse.repeat(8, 0).repeat(8, 1).repeat(8, 2)[tuple(slice(side) for side in sides)]
    nibabel.save(nibabel.Nifti1Image((100 * array).astype(np.int16), np.eye(4)), path)


def main() -> None:
    """Measures every scan in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--scan", choices=list(SCANS), help=argparse.SUPPRESS)
    parser.add_argument("--write", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        return write_scan(Path(arguments.write[0]), tuple(map(int, arguments.write[1:])))
    if arguments.scan:
        sides = QUICK if arguments.quick else SCANS[arguments.scan][0]
        print(json.dumps(predict(arguments.scan, sides)))
        return None
    rows = {}
    for name, (*_, limit) in SCANS.items():
        words = [sys.executable, __file__, "--scan", name, *(["--quick"] if arguments.quick else [])]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        rows[name] = {**found, "gigabytes": found["bytes"] / 1e9, "limit_gigabytes": limit}
        print(f"{name}: {found['bytes'] / 1e9:.2f} GB beyond the network (aim: {limit:.0f}), {found['seconds']:.0f} s")
    if not arguments.quick:
        write_record("memory", ["torch", "monai", "numpy"], {"what": "peak memory of inference", "scans": rows})
    return None


if __name__ == "__main__":
    main()
