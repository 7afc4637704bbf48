"""Start-up: `--help` and `check` in seconds, and `infer` on a small scan beside `import monai` in the same run.

    python benchmarks/start_up.py            # --quick: one repeat, nothing recorded

Every figure is a fresh process; the sides take turns, medians over repeats. On a busy machine the CPU seconds beside
the wall time are what an idle one would take.
"""

from __future__ import annotations

import argparse
import resource
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


def seconds(command: list[str]) -> tuple[float, float]:
    """Wall time and CPU time of a process that must end well."""
    began, spent = time.perf_counter(), _cpu_of_children()
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - began, _cpu_of_children() - spent


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Times all commands in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    repeats = 1 if parser.parse_args().quick else 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint, scan, out = fresh_checkpoint(folder), folder / "scan.nii.gz", folder / "out"
        array = np.random.default_rng(0).normal(size=(48, 48, 40)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), scan)
        commands = {
            "import monai": [sys.executable, "-c", "import monai"],
            "infer": [*RUN, "infer", "--ckpt", str(checkpoint), str(scan), "-o", str(out)],
            "--help": [*RUN, "--help"],
            "check": [*RUN, "check", "recipes/hippocampus_fbanet_8.yaml"],
            "python alone": [sys.executable, "-c", "pass"],
        }
        taken: dict[str, list[tuple[float, float]]] = {command: [] for command in commands}
        for _ in range(repeats + 1):
            for command, words in commands.items():
                shutil.rmtree(out, ignore_errors=True)
                taken[command].append(seconds(words))
    # the first fills caches
    wall, cpu = (
        {command: statistics.median(pair[which] for pair in values[1:]) for command, values in taken.items()}
        for which in (0, 1)
    )
    for command in commands:
        print(f"{command}: {wall[command]:.3f} s, of which CPU {cpu[command]:.3f} s")
    above, spent = (taken["infer"] - taken["import monai"] for taken in (wall, cpu))
    print(f"infer above import monai: {above:.2f} s, of which CPU {spent:.2f} s")
    if repeats > 1:
        other = {"seconds": wall["import monai"], "ratio": wall["import monai"] / wall["infer"]}
        content = {
            "what": f"start-up and inference of a small scan, median of {repeats}",
            "seconds": wall["infer"],
            "others": {"import monai": other},
            "wall": wall,
            "cpu_seconds": cpu,
        }
        write_record("start_up", ["torch", "monai", "typer"], content)


if __name__ == "__main__":
    main()
