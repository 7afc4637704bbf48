"""A model to hand on: weights in 16 bits, and a card that says what they are, measured on the very file.

model.safetensors   float16 weights with recipe and labels; `medcontrast infer --ckpt FOLDER` takes the folder
README.md           the card
report.json         the scores behind its figures
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

import medcontrast
from medcontrast.checkpoint import (
    checkpoint_hash,
    header_recipe,
    load_weights,
    resolve_checkpoint,
    save_weights,
    unfinished,
)
from medcontrast.data.manifest import Manifest
from medcontrast.data.scan_facts import with_scan_facts
from medcontrast.engine.run import Run, at_root
from medcontrast.engine.scoring import score_checkpoints
from medcontrast.errors import CheckpointError, InputError
from medcontrast.files import require_free, staged, write_text
from medcontrast.labels import LabelTable
from medcontrast.metrics.bootstrap import drawn_words, patient_units
from medcontrast.say import quoted, say
from medcontrast.settings import Recipe, require_segmentation

FILES = WEIGHTS, CARD, REPORT = "model.safetensors", "README.md", "report.json"
FIGURES = {
    "dice": "Dice",
    "hd95_pooled_mm": "HD95 pooled, mm",
    "assd_mm": "ASSD, mm",
    "volume_error_ml": "volume error, ml",
}


def pack(
    run: Path,
    output: Path,
    *,
    notes: Path | None = None,
    split: str = "validation",
    root: Path | None = None,
    device: str | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> Path:
    """Writes the folder of a model.

    Args:
        run: The run folder; its last checkpoint is taken.
        output: The folder to write.
        notes: Markdown with what only people know: intended use, limits.
        split: The cases of the run's manifest that the figures of the card come from.
        root: Where the files of these cases lie now.
        device: Where they are predicted.
        overwrite: Replace a packed model.
        console: Where progress is shown.

    Returns:
        The card.

    Raises:
        CheckpointError: No run, or weights that float16 cannot hold.
        InputError: It pre-trains; the split is empty; the folder holds a model.
        OutputError: The folder cannot be written.
    """
    console = console or Console()
    require_free(*(output / name for name in FILES), overwrite=overwrite)
    words = _words(notes)
    opened, source = Run.open(run, at_root(root)), resolve_checkpoint(run)
    tensors, header = load_weights(source)
    recipe = require_segmentation(header_recipe(header, source), where=str(run))
    assert isinstance(opened.manifest, Manifest)
    # before anything is written
    cases = len(opened.manifest.split(split, "name one whose cases have label files by --split"))
    half = in_half(tensors, source)
    with staged(output, *FILES) as stage:
        weights = stage / WEIGHTS
        save_weights(weights, half, with_scan_facts(_with_own_scores(header), opened.manifest, recipe))
        say(console, f"Scoring {cases} {split} case(s).")
        score_checkpoints(
            [weights],
            split=split,
            manifest=opened.manifest,
            output=stage,
            device=device,
            console=Console(quiet=True),
        )
        report = json.loads((stage / REPORT).read_text(encoding="utf-8"))
        page = card(output, weights, opened.manifest, header, report, split=split, notes=words)
        write_text(stage / CARD, page)
    for sentence in (_learned_from(header, opened.manifest, split), unfinished(source, header)):
        if sentence:
            say(console, f"Warning: {sentence}")
    say(console, f"Written to {output}: {', '.join(FILES)}")
    return output / CARD


def _with_own_scores(header: dict[str, Any]) -> dict[str, Any]:
    # what a recipe says of its result is not what this run gave
    about = {**header["recipe"]["about"], "gives": f"the scores in {REPORT} beside the weights"}
    return {**header, "recipe": {**header["recipe"], "about": about}}


def _words(notes: Path | None) -> str:
    try:
        return notes.read_text(encoding="utf-8") if notes is not None else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{notes}: cannot be read as text ({error}).") from None


def in_half(tensors: dict[str, Tensor], where: Path) -> dict[str, Tensor]:
    """Weights in float16; whole numbers stay.

    Raises:
        CheckpointError: A value is too large for it, or none.
    """
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    broken = [name for name, tensor in half.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise CheckpointError(f"{where}: {broken[0]} holds values that float16 does not have (beyond 65,504, or NaN).")
    return half


def card(
    folder: Path,
    weights: Path,
    manifest: Manifest,
    header: dict[str, Any],
    report: dict[str, Any],
    *,
    split: str,
    notes: str,
) -> str:
    """The model card in Markdown.

    Args:
        folder: Where the model will lie.
        weights: Its weights, wherever they lie now.
        manifest: The run's.
        header: The checkpoint's.
        report: `report.json` of the evaluation on `split`.
        split: Its name.
        notes: Markdown that is put in as it is.
    """
    recipe = require_segmentation(header_recipe(header, folder), where=str(folder))
    labels, seen = LabelTable.from_json(header["labels"]), header["trained_on"]
    spacing = "as stored" if recipe.data.spacing_mm is None else f"resampled to {list(recipe.data.spacing_mm)} mm"
    facts = {
        "finds": ", ".join(f"{name} ({_values(values)})" for name, values in labels.targets.items()),
        "takes": f"{', '.join(header['channels'])}; intensity {recipe.data.intensity.kind}; voxels {spacing}",
        "trained on": f"{len(seen['labeled'])} labeled, {len(seen['unlabeled'])} unlabeled cases ({manifest.name})",
        "data": _sentences(manifest.source, manifest.description) or "not stated in the manifest",
        "licence of the data": manifest.licence or "not stated in the manifest",
        "method": f"{recipe.method.name}, {_steps(header, recipe)}, seed {recipe.seed}; the {header['network']}",
        "network": f"{recipe.network.name}, patch {list(recipe.data.patch)}, norm {recipe.network.norm}",
        "predicts": _prediction(recipe),
        "weights": f"float16, SHA-256 {checkpoint_hash(weights)}",
        "written by": f"medcontrast {medcontrast.__version__}",
    }
    files = [f"scan_{channel:04}.nii.gz" for channel in range(len(header["channels"]))]
    scan = " ".join(files) if len(files) > 1 else "scan.nii.gz"
    lines = [f"# {folder.name}", "", "```sh", f"medcontrast infer --ckpt {quoted(folder)} {scan}", "```", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {words} |" for name, words in facts.items()), ""]
    lines += _figures(report, split, _learned_from(header, manifest, split))
    if notes:
        lines += [notes.strip(), ""]
    return "\n".join(lines)


def _steps(header: dict[str, Any], recipe: Recipe) -> str:
    step, total = header["step"], recipe.train.steps
    return f"{step} steps" if step >= total else f"{step} of {total} steps"


def _prediction(recipe: Recipe) -> str:
    """What masks depend on beside the weights, as evaluation and `infer` do it."""
    settings, axes = recipe.inference, recipe.augment.spatial.flip_axes
    window = list(settings.window or recipe.data.patch)
    mirrored = f"mirrored versions along {', '.join('xyz'[axis] for axis in axes)} averaged"
    kept = {
        "none": "all pieces kept",
        "each": "the largest piece of each structure kept",
        "joint": "the largest piece of all structures together kept",
    }
    return "; ".join(
        [
            f"windows {window}, overlap {settings.overlap:g}, {settings.weighting} weights",
            mirrored if settings.flips and axes else "nothing mirrored",
            kept[settings.largest_component],
        ]
    )


def _sentences(*parts: str) -> str:
    return " ".join(f"{part.strip('. ')}." for part in parts if part.strip(". "))


def _learned_from(header: dict[str, Any], manifest: Manifest, split: str) -> str:
    """What to say where training had cases of the split; empty where it had none."""
    cases = {case.name for case in manifest.split(split)}
    seen = cases & {name for names in header["trained_on"].values() for name in names}
    return f"{len(seen)} of these {len(cases)} {split} cases were trained on; no score on new cases." if seen else ""


def _values(values: tuple[int, ...]) -> str:
    return "value " + "+".join(map(str, values)) if len(values) == 1 else "values " + "+".join(map(str, values))


def _figures(report: dict[str, Any], split: str, warning: str) -> list[str]:
    rows = list(report["summary"].values())
    cases = rows[0]["cases"]
    drawn = drawn_words(cases, patient_units(report["cases"], report.get("patients", {})))
    counted = f"{cases} {split} cases, one run, these weights; means with 95 % bootstrap intervals over {drawn}"
    if cases == 1:
        counted = f"1 {split} case, one run, these weights"
    how = "The last checkpoint, each case on its own grid, in mm (docs/protocol.md)"
    lines = [
        "## Figures",
        "",
        f"{counted}. {how}. report.json says how each is defined.{' **' + warning + '**' if warning else ''}",
        "",
        f"| structure | {' | '.join(FIGURES.values())} | missed |",
        f"|---|{'---|' * (len(FIGURES) + 1)}",
    ]
    for row in rows:
        found = (row["metrics"][metric] for metric in FIGURES)
        cells = [_cell(**value) for value in found]
        lines.append(f"| {row['target']} | {' | '.join(cells)} | {row['missed']} |")
    return [*lines, ""]


def _cell(mean: float, sd: float | None, low: float | None, high: float | None) -> str:
    # a single case has no interval
    return f"{mean:.3f}" if low is None or high is None else f"{mean:.3f} ({low:.3f} to {high:.3f})"
