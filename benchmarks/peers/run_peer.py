"""Another toolkit on the cases of a manifest: convert, train, predict, score by this project's evaluation, record.

    python benchmarks/peers/run_peer.py pymic_mean_teacher --python PYMIC/bin/python --steps 1000

README.md beside this file says how the environments are made and what each peer is given.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peer_cases import write_cases

from medcontrast import __version__
from medcontrast.data.manifest import Manifest, load_manifest
from medcontrast.data.subsets import labeled_subset
from medcontrast.engine.benchmark.records import PEERS, Record, make_peer_record
from medcontrast.engine.scoring import score_folders
from medcontrast.errors import InputError, MedcontrastError
from medcontrast.settings import load_segmentation_recipe
from medcontrast.settings.grid import GridSettings, load_grid

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@dataclass(frozen=True)
class Peer:
    """What runs under a peer's name.

    Attributes:
        script: File in this folder, called with the job's folder by the peer's Python.
        method: What the script is asked for.
        unlabeled: Whether it learns from unlabeled rows.
        mirror_axes: Axes mirrored in training where none are asked for: the recipes' one, or nnU-Net's three.
    """

    script: str
    method: str
    unlabeled: bool = True
    mirror_axes: tuple[int, ...] = (0,)


PEERS_KNOWN = {
    "pymic_mean_teacher": Peer("pymic_job.py", "MeanTeacher"),
    "pymic_ua_mt": Peer("pymic_job.py", "UAMT"),
    "pymic_cps": Peer("pymic_job.py", "CPS"),
    "pymic_urpc": Peer("pymic_job.py", "URPC"),
    "nnunet_like": Peer("nnunet_like.py", "supervised", unlabeled=False, mirror_axes=(0, 1, 2)),
}


def run(arguments: argparse.Namespace) -> Path:
    """From manifest to record; returns the record's path.

    Raises:
        InputError: The manifest, a case, or the job's folder is not as it must be, or the peer failed.
    """
    peer = PEERS_KNOWN[arguments.peer]
    given = load_manifest(arguments.manifest)
    count = arguments.labeled or len(given.labeled)
    name = f"{arguments.peer}-{count}-{arguments.run}"
    folder = (arguments.work / name).absolute()
    _make_free(folder, arguments.overwrite)
    manifest = _subset(given, count, arguments.run, folder)
    job = {
        "method": peer.method,
        "steps": arguments.steps,
        "seconds": seconds_of(arguments),
        "seed": arguments.run,
        "patch": arguments.patch,
        "labeled_rows": arguments.rows,
        "unlabeled_rows": arguments.rows if peer.unlabeled else 0,
        "width": arguments.width,
        "mirror_axes": list(peer.mirror_axes) if arguments.mirror_axes is None else arguments.mirror_axes,
    }
    write_cases(manifest, arguments.split, folder, job)
    _call([str(arguments.python), str(HERE / peer.script), str(folder)], folder / "log.txt")
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    report = score_folders(
        folder / "predictions", folder / "reference", manifest=manifest, output=folder / "evaluation"
    )
    settings = {"manifest": given.name, "job": job, **facts.pop("settings")}
    facts = {**_facts(manifest, arguments.split, peer), **facts}
    path = (arguments.results or results_folder(arguments.manifest)) / f"{name}.json"
    make_peer_record(arguments.peer, count, arguments.run, settings, report, facts).save(path)
    return path


def results_folder(manifest: Path) -> Path:
    """Where the grid of this manifest keeps its peers' records; the manifest's own name where no grid has it.

    Of several the first by name: of methods before settings. Grids of slices are for networks in 2D.
    """
    for path in sorted((ROOT / "recipes" / "benchmarks").glob("*.yaml")):
        grid = load_grid(path)
        # grids of encoders have no manifest of scans
        if isinstance(grid, GridSettings) and (path.parent / grid.manifest).resolve() == manifest.resolve():
            recipes = [load_segmentation_recipe(path.parent / row.recipe) for row in grid.rows.values()]
            if not any(recipe.network.name == "unet2d" for recipe in recipes):
                return ROOT / "benchmarks" / "results" / grid.name / PEERS
    return ROOT / "benchmarks" / "results" / manifest.stem / PEERS


def seconds_of(arguments: argparse.Namespace) -> float | None:
    """How long to train: as long as another record's run, else what was asked; None leaves it to the steps."""
    if arguments.like is None:
        return arguments.seconds
    return float(Record.load(arguments.like).facts["train_seconds"])


def _subset(given: Manifest, count: int, number: int, folder: Path) -> Manifest:
    """Labeled subset `number` of the manifest, written beside the job as a benchmark's cell does."""
    raw = {**labeled_subset(given, count, number), "root": str(given.root.absolute())}
    path = folder / "manifest.json"
    path.write_text(json.dumps(raw, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return load_manifest(path)


def _make_free(folder: Path, overwrite: bool) -> None:
    if folder.exists():
        if not overwrite or not (folder / "manifest.json").is_file():
            raise InputError(f"{folder}: exists already; add --overwrite to make the job anew, or choose --work.")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def _call(command: list[str], log: Path) -> None:
    """Runs the peer with its output in the log; the last lines are shown when it fails."""
    with log.open("w", encoding="utf-8") as stream:
        code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise InputError(f"{log}: the peer failed with exit code {code}. Its last lines:\n{tail}")


def _facts(manifest: Manifest, split: str, peer: Peer) -> dict[str, Any]:
    return {
        "split": split,
        "labeled_cases": [case.name for case in manifest.labeled],
        "unlabeled": len(manifest.unlabeled) if peer.unlabeled else 0,
        "medcontrast": __version__,
        "python": sys.version.split()[0],
        "cpus": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=sorted(PEERS_KNOWN))
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="The Python of the peer's own place.")
    parser.add_argument("--manifest", type=Path, default=ROOT / "data_manifests" / "hippocampus_8of160.json")
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--labeled", type=int, help="Labeled count; default: the manifest's own.")
    parser.add_argument("--run", type=int, default=0, help="Run k has seed k and labeled subset k.")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=4, help="Labeled rows a step, and as many unlabeled ones.")
    parser.add_argument("--patch", type=int, nargs=3, default=[32, 48, 32])
    parser.add_argument("--mirror-axes", type=int, nargs="*", choices=(0, 1, 2), help="Default: the peer's own.")
    parser.add_argument("--seconds", type=float, help="nnunet_like alone: train this long in place of --steps.")
    parser.add_argument("--like", type=Path, help="nnunet_like alone: as long as this benchmark record's run took.")
    parser.add_argument("--width", type=int, default=32, help="nnunet_like alone: channels of its first level.")
    parser.add_argument("--work", type=Path, default=Path("runs/peers"), help="Jobs, masks and logs.")
    parser.add_argument("--results", type=Path, help="Folder of the record; default: that of the manifest's grid.")
    parser.add_argument("--overwrite", action="store_true", help="Replace the job's folder.")
    return parser.parse_args(words)


def main() -> None:
    """Runs the peer; exit code 2 for wrong input."""
    try:
        print(f"recorded in {run(parse())}")
    except MedcontrastError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
