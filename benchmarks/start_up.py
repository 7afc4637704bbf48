"""Start-up: `--help` and `check` in seconds, and `infer` on a small scan beside `import monai` in the same run.

    python benchmarks/start_up.py            # --quick: two repeats, nothing recorded

Every figure is a fresh process; the sides take turns, medians over repeats.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
from speed_record import write_record

ROOT = Path(__file__).parent.parent
RUN = [sys.executable, "-c", "from medcontrast.cli import main; main()"]


def fresh_checkpoint(folder: Path, filters: int = 2, patch: tuple[int, int, int] = (32, 32, 32)) -> Path:
    """A V-Net with fresh weights, as training writes it."""
    from medcontrast.checkpoint import save_weights
    from medcontrast.labels import LabelTable
    from medcontrast.networks.build import build_network
    from medcontrast.settings import load_recipe

    recipe = load_recipe(
        ROOT / "benchmarks/inference_network.yaml", [f"network.filters={filters}", f"data.patch={list(patch)}"]
    )
    network = build_network("vnet", in_channels=1, classes=2, filters=filters, norm="batch")
    labels = LabelTable.from_json({"labels": {"0": "background", "1": "left atrium"}})
    header = {
        "recipe": recipe.model_dump(mode="json"),
        "labels": labels.to_json(),
        "channels": ["MRI"],
        "network": "student",
        "step": 0,
    }
    path = folder / "last.safetensors"
    save_weights(path, network.state_dict(), header)
    return path


def seconds(command: list[str]) -> float:
    """Wall time of a process that must end well."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - began


def main() -> None:
    """Times all commands in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    repeats = 2 if parser.parse_args().quick else 7
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint, scan, out = fresh_checkpoint(folder), folder / "scan.nii.gz", folder / "out"
        array = np.random.default_rng(0).normal(size=(48, 48, 40)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), scan)
        commands = {
            "import monai": [sys.executable, "-c", "import monai"],
            "infer": [*RUN, "infer", "--ckpt", str(checkpoint), str(scan), "-o", str(out)],
            "--help": [*RUN, "--help"],
            "check": [*RUN, "check", "recipes/quickstart.yaml"],
            "python alone": [sys.executable, "-c", "pass"],
        }
        taken: dict[str, list[float]] = {command: [] for command in commands}
        for _ in range(repeats + 1):
            for command, words in commands.items():
                shutil.rmtree(out, ignore_errors=True)
                taken[command].append(seconds(words))
    median = {command: statistics.median(values[1:]) for command, values in taken.items()}  # the first fills caches
    for command, value in median.items():
        print(f"{command}: {value:.3f} s")
    print(f"infer above import monai: {median['infer'] - median['import monai']:.2f} s")
    if repeats > 2:
        other = {"seconds": median["import monai"], "ratio": median["import monai"] / median["infer"]}
        content = {
            "infer_above_import_monai": median["infer"] - median["import monai"],
            "what": f"start-up and inference of a small scan, median of {repeats}",
            "seconds": median["infer"],
            "others": {"import monai": other},
            "commands": median,
        }
        write_record("start_up", ["torch", "monai", "typer"], content)


if __name__ == "__main__":
    main()
