"""Peak resident memory of inference on large scans, beyond the network: a whole heart MR and whole CTs.

    python benchmarks/memory.py         # --quick: two scans of an eighth of the voxels, unrecorded; --wide: see below

Scans are synthetic. Each is predicted from file to label map in a process of its own; what counts is its highest
resident size over what it held once libraries and network were loaded. Whole scans go through a thin network of the
same kind, and a batch of windows through the wide one. What the wide one takes on the whole scan, which `--wide`
measures, is bound by the largest of three: the peak of preparing the image, that of the thin one's windows plus that
batch's, and that of the way back to the scan's grid. Linux alone tells peaks by phase.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
from speed_record import write_record


class Scan(NamedTuple):
    """A scan, and the networks that segment it.

    Attributes:
        sides: In voxels of 1 mm.
        spacing_mm: What it is resampled to; None leaves it as it is.
        classes: Background included.
        network: "vnet" or "dynunet".
        norm: Its normalisation.
        wide: Filters of the network whose windows count.
        thin: Filters of the network that segments the whole scan.
        patch: The window.
        limit_gb: What the issue allows beyond the network.
    """

    sides: tuple[int, int, int]
    spacing_mm: float | None
    classes: int
    network: str
    norm: str
    wide: int | list[int]
    thin: int | list[int]
    patch: tuple[int, int, int]
    limit_gb: float


_MR = Scan((640, 640, 88), None, 2, "vnet", "batch", 16, 1, (112, 112, 80), 4.0)
_CT = Scan((512, 512, 600), None, 5, "dynunet", "instance", [16, 32, 64, 128], [2, 2, 2], (96, 96, 96), 8.0)
SCANS = {
    "640x640x88, 2 classes, V-Net": _MR,
    "640x640x88, 2 classes, V-Net, resampled": _MR._replace(spacing_mm=1.1),
    "512x512x600, 5 classes, DynUNet": _CT,
    "512x512x600, 5 classes, DynUNet, resampled": _CT._replace(spacing_mm=1.05),
}


def predict(scan: Scan, filters: int | list[int]) -> dict[str, float]:
    """Predicts a synthetic scan, from file to label map; in this process."""
    import torch

    from medcontrast.inference.fused import fused
    from medcontrast.inference.members import Member
    from medcontrast.inference.predict import Predictor
    from medcontrast.labels import LabelTable
    from medcontrast.networks.build import build_network
    from medcontrast.settings import load_recipe

    spacing = "null" if scan.spacing_mm is None else str([scan.spacing_mm] * 3)
    changes = {
        "data.patch": list(scan.patch),
        "data.spacing_mm": spacing,
        "network.name": scan.network,
        "network.filters": filters,
        "network.norm": scan.norm,
        "inference.overlap": 0.0,
    }
    recipe = load_recipe(
        Path(__file__).parent / "inference_network.yaml", [f"{key}={value}" for key, value in changes.items()]
    )
    labels = LabelTable.from_json({"labels": {str(value): f"class {value}" for value in range(1, scan.classes)}})
    network = fused(
        build_network(scan.network, in_channels=1, classes=scan.classes, filters=filters, norm=scan.norm).eval()
    )
    header = {"network": "student", "step": 0}
    member = Member(network, recipe, labels, ("image",), Path("run/last.safetensors"), "0" * 64, header)

    class Watched(Predictor):
        """Notes how high the process stood in each phase."""

        def predict_slabs(self, image: torch.Tensor) -> Iterator[torch.Tensor]:
            note("preparing")
            yield from super().predict_slabs(image)
            note("windows")

        def predict_classes(self, image: torch.Tensor) -> torch.Tensor:
            note("preparing")
            classes = super().predict_classes(image)
            note("windows")
            return classes

    def note(phase: str) -> None:
        peaks[phase] = (peak_bytes() - before) / 1e9
        forget_peak()

    peaks: dict[str, float] = {}
    predictor = Watched((member,), recipe.inference, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.nii"
        subprocess.run([sys.executable, __file__, "--write", str(path), *map(str, scan.sides)], check=True)
        forget_peak()
        before, began = resident_bytes(), time.perf_counter()
        predictor.predict_scan([path])
        note("way back")
        return {**peaks, "seconds": time.perf_counter() - began}


def write_scan(path: Path, sides: tuple[int, ...]) -> None:
    """Smooth noise in 16 bits, as scanners store it."""
    coarse = np.random.default_rng(0).normal(size=tuple(side // 8 + 1 for side in sides))
    array = coarse.repeat(8, 0).repeat(8, 1).repeat(8, 2)[tuple(slice(side) for side in sides)]
    nibabel.save(nibabel.Nifti1Image((100 * array).astype(np.int16), np.eye(4)), path)


def peak_bytes() -> int:
    """Highest resident size of this process since `forget_peak`."""
    return _status("VmHWM")


def forget_peak() -> None:
    """The highest resident size counts from now on."""
    Path("/proc/self/clear_refs").write_text("5")


def resident_bytes() -> int:
    """Resident size of this process now."""
    return _status("VmRSS")


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def measure(scan: Scan, filters: int | list[int]) -> dict[str, float]:
    """`predict` in a fresh process."""
    words = [sys.executable, __file__, "--child", json.dumps([scan, filters])]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measures every scan in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--wide", action="store_true", help="The wide network on whole scans.")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--write", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        return write_scan(Path(arguments.write[0]), tuple(map(int, arguments.write[1:])))
    if arguments.child:
        fields, filters = json.loads(arguments.child)
        print(json.dumps(predict(Scan(*fields), filters)))
        return None
    rows = {}
    for name, scan in SCANS.items():
        if arguments.quick and scan.spacing_mm is not None:
            continue
        x, y, z = scan.sides
        whole = scan._replace(sides=(x // 2, y // 2, z // 2)) if arguments.quick else scan
        found = measure(whole, scan.wide if arguments.wide else scan.thin)
        row = found | {"limit": scan.limit_gb}
        if not arguments.wide and not arguments.quick:
            x, y, z = scan.patch
            batch = measure(scan._replace(sides=(2 * x, 2 * y, z), spacing_mm=None), scan.wide)["windows"]
            row["batch of windows"] = batch
            row["bound of the wide network"] = max(found["preparing"], found["windows"] + batch, found["way back"])
        rows[name] = row
        print(name, {key: round(value, 2) for key, value in row.items()}, flush=True)
    if not arguments.quick:
        content = {"what": "peak gigabytes of inference beyond the network", "wide": arguments.wide, "scans": rows}
        write_record("memory", ["torch", "monai", "numpy", "nibabel"], content)
    return None


if __name__ == "__main__":
    main()
