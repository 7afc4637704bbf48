"""A probe of a checkpoint: from a run folder and a manifest to tables, a picture and printed lines."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from medcontrast.checkpoint import header_recipe, load_hashed_weights, resolve_checkpoint, unfinished
from medcontrast.data.images.manifest import ImageManifest, image_identity, load_image_manifest, training_digest
from medcontrast.data.images.sources import ImageCase
from medcontrast.engine.build import make_encoder
from medcontrast.engine.curves import Curves
from medcontrast.engine.probe.embed import embed
from medcontrast.engine.probe.finetune import FineTuning
from medcontrast.engine.probe.images import ProbeImages, probe_images
from medcontrast.engine.probe.labels import distinct_shares
from medcontrast.engine.probe.probe import FRACTIONS, ProbeRow, probe_encoder
from medcontrast.engine.probe.report import FILES, terminal_table, write_probe
from medcontrast.engine.run import run_beside
from medcontrast.engine.run_files import CURVES, RECIPE
from medcontrast.errors import InputError
from medcontrast.files import require_free
from medcontrast.inference.device import resolve_device
from medcontrast.networks.encoders2d import Encoder
from medcontrast.networks.transfer import load_encoder
from medcontrast.render import embeddings_png
from medcontrast.say import say
from medcontrast.settings import PretrainRecipe, require_pretraining


@dataclass(frozen=True, eq=False)
class Trained:
    """A pre-trained encoder with all that is known about it.

    Attributes:
        encoder: On the CPU.
        recipe: What it was trained by.
        file: The checkpoint.
        step: Steps it was trained for.
        loaded: Tensors that were taken from the file: all of the encoder's.
        sha256: Of that file.
        images_digest: `training_digest` of what it was trained on; None where its version did not say.
        unfinished: A sentence where its run is not finished.
    """

    encoder: Encoder
    recipe: PretrainRecipe
    file: Path
    step: int
    loaded: int
    sha256: str
    images_digest: str | None = None
    unfinished: str | None = None

    @property
    def run(self) -> Path | None:
        """The run folder that it lies in."""
        folder = self.file.parent
        return folder if (folder / RECIPE).is_file() else None


def load_trained(checkpoint: Path) -> Trained:
    """The encoder of a run folder or checkpoint.

    Raises:
        CheckpointError: Missing, damaged, or of another architecture than its recipe says.
        RecipeError: Of a segmentation run.
    """
    file = resolve_checkpoint(checkpoint)
    tensors, header, sha256 = load_hashed_weights(file)
    recipe = require_pretraining(header_recipe(header, file), where=str(file))
    encoder = make_encoder(recipe, recipe.seed)
    loaded = load_encoder(encoder, tensors, where=str(file))
    digest = (header.get("trained_on") or {}).get("images_hash")
    return Trained(encoder, recipe, file, int(header["step"]), loaded, sha256, digest, unfinished(file, header))


@dataclass(frozen=True)
class ProbeRequest:
    """What a probe is asked for.

    Attributes:
        split: Scored.
        seeds: How many, from 0 up.
        fractions: Shares of the labels.
        finetune_steps: Of fine-tuning; None leaves it out.
        from_scratch: Whether fresh weights are probed too, each seed's own.
        group_by: Attributes by which images are grouped, beside domain and quality.
    """

    split: str = "test"
    seeds: int = 3
    fractions: tuple[float, ...] = FRACTIONS
    finetune_steps: int | None = FineTuning.steps
    from_scratch: bool = False
    group_by: tuple[str, ...] = ()


def probe_checkpoint(
    checkpoint: Path,
    request: ProbeRequest,
    *,
    manifest_path: Path | None = None,
    root: Path | None = None,
    output: Path | None = None,
    device: str | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> list[ProbeRow]:
    """Says what a pre-trained encoder is worth: tables, a picture of its embeddings, and the same in TensorBoard.

    Args:
        checkpoint: Run folder or file of a pre-training run.
        request: What is asked for.
        manifest_path: Other images than the run's own.
        root: Where the files of the manifest lie now.
        output: Folder to write to; default: in the run folder.
        device: cpu, cuda, cuda:N or mps.
        overwrite: Whether earlier results are replaced.
        console: Where to print to.

    Raises:
        InputError: A checkpoint, manifest, image or folder that cannot be used, in one sentence.
    """
    console, began = console or Console(), time.monotonic()
    place, trained = resolve_device(device), load_trained(checkpoint)
    name, total = trained.recipe.network.name, len(trained.encoder.state_dict())
    about = [f"Loaded {trained.loaded} of {total} tensors of {name} from {trained.file}, step {trained.step}."]
    say(console, *about)
    manifest = load_image_manifest(manifest_path, root) if manifest_path is not None else _own_manifest(trained, root)
    if root is None:
        manifest = replace(manifest, advice=f"{manifest.advice}, or name that folder with --root")
    folder = output or _default_output(trained, manifest_path, request.split)
    require_free(*(folder / name for name in FILES), overwrite=overwrite)
    images = probe_images(manifest, trained.recipe.data, split=request.split, group_by=request.group_by)
    shares, same = distinct_shares(images.sets.train.targets, request.fractions)
    request, notes = replace(request, fractions=shares), [*images.notes, *same]
    own = manifest if manifest_path is None else None
    warnings = [trained.unfinished] if trained.unfinished else []
    warnings += [*images.warnings, *_seen_in_training(trained, own, images.scored)]
    counts = ", ".join(f"{count} {part}" for part, count in images.sizes.items())
    about += [f"{manifest.path}: images: {counts}.", *notes, *(f"Warning: {warning}" for warning in warnings)]
    say(console, *about[1:])
    rows = _rows(trained, images, request, place, console)
    facts = {**_facts(trained, manifest, images, request), "notes": notes}
    seconds = round(time.monotonic() - began, 1)
    write_probe(folder, rows, {**facts, "warnings": warnings, "device": place.type, "seconds": seconds}, about)
    _draw(folder / "embeddings.png", trained, images, manifest.classes, place)
    console.print(terminal_table(rows))
    say(console, f"Written to {folder}")
    return rows


def _rows(
    trained: Trained, images: ProbeImages, request: ProbeRequest, device: torch.device, console: Console
) -> list[ProbeRow]:
    def tell(new: Sequence[ProbeRow]) -> None:
        figures = ", ".join(f"{row.kind} {row.values['accuracy'].mean:.3f}" for row in new)
        say(console, f"{new[0].encoder}, {new[0].labels} labels: accuracy {figures}")

    encoders = {"pre-trained": [trained.encoder]}
    if request.from_scratch:
        encoders["from scratch"] = [make_encoder(trained.recipe, seed) for seed in range(request.seeds)]
    rows = []
    for name, some in encoders.items():
        rows += probe_encoder(
            some,
            images.sets,
            name=name,
            seeds=range(request.seeds),
            fractions=request.fractions,
            fine_tuning=fine_tuning(trained.recipe, request.finetune_steps),
            device=device,
            tell=tell,
        )
    return rows


def fine_tuning(recipe: PretrainRecipe, steps: int | None) -> FineTuning | None:
    """How an encoder of this recipe is fine-tuned; mirrored where every view of its pre-training could be."""
    if steps is None:
        return None
    views = recipe.augment.views
    drawn = [views[view.same_crop_as or name] for name, view in views.items()]  # those that say how each is mirrored
    axes = {view.flip_axis if view.flip > 0.0 else None for view in drawn}
    return FineTuning(steps=steps, mirror_axis=axes.pop() if len(axes) == 1 else None)


def _own_manifest(trained: Trained, root: Path | None = None) -> ImageManifest:
    run = run_beside(trained.file, ask="which images to probe", root=root)
    require_pretraining(run.recipe, where=str(run.folder))
    assert isinstance(run.manifest, ImageManifest)
    return run.manifest


def _default_output(trained: Trained, manifest_path: Path | None, split: str) -> Path:
    name = "probe" if manifest_path is None else f"probe_{manifest_path.stem}"
    return trained.file.parent / f"{name}_{split}"


def _seen_in_training(trained: Trained, own: ImageManifest | None, scored: Sequence[ImageCase]) -> list[str]:
    """Warnings where scored images, or others of their patients, were pre-trained on, or nobody can tell any more.

    Args:
        trained: The encoder.
        own: The run's manifest where that is probed; None where another one is.
        scored: The images.
    """
    if trained.run is None:
        return []
    try:
        known = own or _own_manifest(trained)
        learned, now = known.cases("train"), training_digest(known)
    except InputError as error:  # the data of the pre-training need not be here
        return [f"whether scored images, or others of their patients, were pre-trained on is not known: {error}"]
    if trained.images_digest not in (None, now):
        return [
            f"the training images of {known.path}, or what is known of them, are no longer those that were pre-trained "
            "on, so that scored images may be among these; put the data back as they were to know."
        ]
    if own is not None:
        return []  # its splits lie apart
    seen, patients = {image_identity(case) for case in learned}, {case.patient for case in learned} - {None}
    new = [case for case in scored if image_identity(case) not in seen]
    count, relatives = len(scored) - len(new), sum(case.patient in patients for case in new)
    warnings = []
    if count:
        what = "were pre-trained on; this is not a score on new images."
        warnings.append(f"{count} of {len(scored)} scored images {what}")
    if relatives:
        what = "are of patients of whom other images were pre-trained on; this is not a score on new patients."
        warnings.append(f"{relatives} of {len(scored)} scored images {what}")
    return warnings


def _facts(trained: Trained, manifest: ImageManifest, images: ProbeImages, request: ProbeRequest) -> dict[str, Any]:
    data, tuning = trained.recipe.data, fine_tuning(trained.recipe, request.finetune_steps)
    return {
        "checkpoint": f"{trained.file.absolute().parent.name}/{trained.file.name}",
        "sha256": trained.sha256,
        "step": trained.step,
        "method": trained.recipe.method.name,
        "encoder": trained.recipe.network.model_dump(mode="json"),
        "tensors_loaded": trained.loaded,
        "images": {"size": data.size, "channels": data.channels, "mean": data.mean, "std": data.std},
        "manifest": manifest.name,
        "classes": list(manifest.classes),
        "split": request.split,
        "counts": images.sizes,
        "groups": {kind: dict(sorted(Counter(names).items())) for kind, names in images.sets.test.groups.items()},
        "fine_tuning": None if tuning is None else vars(tuning),
    }


def _draw(path: Path, trained: Trained, images: ProbeImages, classes: Sequence[str], device: torch.device) -> None:
    """Embeddings of the scored images by class, domain and quality, into `path` and the run's TensorBoard."""
    test = images.sets.test
    colorings = {"class": [classes[target] for target in test.targets], **test.groups}
    title = f"{trained.recipe.method.name}, step {trained.step}: {len(test)} images"
    embeddings_png(path, embed(trained.encoder, test, device=device), colorings, title=title)
    if trained.run is not None:
        curves = Curves(trained.run / CURVES / "probe")  # its own: the run may still train
        curves.picture(trained.step, f"probe/{path.parent.name}", path)
        curves.close()
