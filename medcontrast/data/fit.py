"""Whether a recipe and its manifest fit together; free of torch, for `medcontrast check`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import overload

from medcontrast.data.images.manifest import ImageManifest, is_image_manifest, load_image_manifest, overlaps
from medcontrast.data.images.sources import (
    ImageCase,
    fields_of,
    listed_fields,
    no_counterfactuals,
    no_lesion_boxes,
    source_kind,
    too_few_images,
)
from medcontrast.data.manifest import SPLITS, Manifest, load_manifest, root_advice
from medcontrast.data.sides import LEFT_RIGHT_AXIS, sided_pair
from medcontrast.errors import ManifestError, RecipeError
from medcontrast.files import read_json
from medcontrast.settings import AnyRecipe, PretrainRecipe, Recipe
from medcontrast.settings.compare import leaves
from medcontrast.settings.multi_level import MultiLevelSettings
from medcontrast.settings.pretraining import LeOCLRSettings, MoCoSettings


@overload
def recipe_manifest(recipe: Recipe, recipe_path: Path) -> Manifest: ...
@overload
def recipe_manifest(recipe: PretrainRecipe, recipe_path: Path) -> ImageManifest: ...
def recipe_manifest(recipe: AnyRecipe, recipe_path: Path) -> Manifest | ImageManifest:
    """The manifest a recipe names, its path taken relative to the recipe file.

    Raises:
        ManifestError: It is missing or faulty.
    """
    root = Path(recipe.data.root) if recipe.data.root else None
    if root is not None and not root.is_absolute():
        root = recipe_path.parent / root
    path = recipe_path.parent / recipe.data.manifest
    if isinstance(recipe, PretrainRecipe):
        return load_image_manifest(path, root)
    if is_image_manifest(path):
        raise ManifestError(
            f"{path}: lists images, but method {recipe.method.name} segments volumes; it takes a manifest of cases "
            "with the splits labeled, unlabeled, validation and test."
        )
    return load_manifest(path, root)


def require_files(recipe: AnyRecipe, manifest: Manifest | ImageManifest) -> None:
    """Checks that every file training will open is there, before anything is written over.

    Raises:
        ManifestError: With how many are missing, and the first of them.
    """
    files = _image_files(manifest) if isinstance(manifest, ImageManifest) else _volume_files(recipe, manifest)
    missing = [path for path in files if not path.exists()]
    if missing:
        raise ManifestError(
            f"{manifest.path}: {len(missing)} of {len(files)} files are not there, the first is {missing[0]}. The "
            f"recipe needs {recipe.about.needs}. The data folder is {manifest.root}; "
            f"{root_advice(manifest.raw, recipe.data.root)}."
        )


def require_no_manifest(path: Path) -> None:
    """Refuses a manifest where a recipe belongs: JSON is YAML, so that every key of it would be a fault of a recipe.

    Raises:
        RecipeError: It is one; what cannot be read is answered by the one who loads it.
    """
    try:
        raw = read_json(path)
    except ManifestError:
        return
    if is_image_manifest(path):
        raise RecipeError(
            f"{path}: this is a manifest of images, not a recipe; name it under data.manifest of a pre-training recipe "
            "(`medcontrast recipes` lists them)."
        )
    if isinstance(raw, dict) and "labels" in raw and not raw.keys().isdisjoint(SPLITS):
        raise RecipeError(
            f"{path}: this is a manifest, not a recipe; `medcontrast recipe new --manifest {path} -o my.yaml` makes a "
            "recipe of it."
        )


def _image_files(manifest: ImageManifest) -> list[Path]:
    return manifest.files("train") if manifest.sources["train"] else []


def _volume_files(recipe: AnyRecipe, manifest: Manifest) -> list[Path]:
    assert isinstance(recipe, Recipe)
    labeled = (*manifest.labeled, *(manifest.validation if recipe.train.validate_every else ()))
    unlabeled = manifest.unlabeled if recipe.train.unlabeled_rows else ()
    files = [path for case in (*labeled, *unlabeled) for path in case.images]
    return files + [case.label for case in labeled if case.label is not None]


def require_fit(recipe: AnyRecipe, manifest: Manifest | ImageManifest, *, where: str) -> None:
    """Checks what the recipe asks of the manifest's splits.

    Raises:
        RecipeError: With every fault, one a line.
    """
    if isinstance(manifest, ImageManifest):
        faults = _image_faults(recipe, manifest)
    else:
        faults = _volume_faults(recipe, manifest)
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise RecipeError("\n".join([f"{count} in {where}:", *(f"  - {fault}" for fault in faults)]))


def _image_faults(recipe: AnyRecipe, manifest: ImageManifest) -> list[str]:
    if not manifest.sources["train"]:
        return [f"data.manifest: {manifest.path} has no train images to learn from"]
    assert isinstance(recipe, PretrainRecipe)
    # where the data lies elsewhere, nothing can be counted, and `require_files` has the last word before training
    there = all(path.exists() for path in manifest.files("train"))
    faults = [*_shared_faults(manifest), *_missing_faults(recipe, manifest)] if there else []
    cases = manifest.originals("train") if there else ()
    method = recipe.method
    if not faults and isinstance(method, MultiLevelSettings):
        faults = _target_faults(method, manifest, cases)
    if faults or not there:
        return faults
    if isinstance(method, MoCoSettings | LeOCLRSettings | MultiLevelSettings):
        faults = _queue_faults(method, manifest, cases)
    if not faults and len(cases) < recipe.train.rows:
        faults = [f"data.manifest: {manifest.path}: {too_few_images(len(cases), recipe.train.rows)}"]
    return faults


def _shared_faults(manifest: ImageManifest) -> list[str]:
    """Images and patients of two splits; a split whose files lie elsewhere is not looked at."""
    here = [split for split in manifest.splits() if all(path.exists() for path in manifest.files(split))]
    shared = overlaps({split: manifest.cases(split) for split in here})
    return [f"data.manifest: {manifest.path}: {text}, and splits must not overlap" for text in shared]


def _missing_faults(recipe: PretrainRecipe, manifest: ImageManifest) -> list[str]:
    """What views show and no training image has; lists are opened for recipes that show it alone."""
    where, faults = f"data.manifest: {manifest.path}: train", []
    if recipe.needs_counterfactuals and not any(case.of for case in manifest.cases("train")):
        faults.append(no_counterfactuals(manifest.cases("train"), where))
    if recipe.needs_lesion_boxes and not any(case.lesion_boxes for case in manifest.cases("train")):
        faults.append(no_lesion_boxes(manifest.cases("train"), where))
    return faults


def _target_faults(method: MultiLevelSettings, manifest: ImageManifest, cases: Sequence[ImageCase]) -> list[str]:
    """Whether lesions can be told from healthy images; of no cases, as far as the manifest itself says."""
    if _targets_tell_nothing(method):
        return []
    listed = not cases and any(source_kind(source) == "csv" for source in manifest.sources["train"])
    fields = fields_of([vars(case) for case in cases] or manifest.sources["train"])
    if "target" not in fields and not listed:
        return [
            f"data.manifest: no training image of {manifest.path} has a target, by which method multi_level tells "
            f"lesions from healthy images (they have {listed_fields(fields)}); add target to its sources"
        ]
    targets = {case.target for case in cases} - {None}
    if not targets or (0 in targets and len(targets) > 1):
        return []
    only, other = ("healthy", "lesions") if 0 in targets else ("lesions", "healthy images")
    return [
        f"data.manifest: the training images of {manifest.path} with a target are all {only} (target 0, the class "
        f"{manifest.classes[0]}, is healthy), but method multi_level needs {other} too; add some"
    ]


def worth_saying(recipe: AnyRecipe, manifest: Manifest | ImageManifest) -> list[str]:
    """Sentences on what is no fault, and yet nobody may have meant."""
    told = [told_by_targets(recipe, manifest), mirrored_sides(recipe, manifest), other_window(recipe)]
    return [*(said for said in told if said is not None), *unfinished_ramps(recipe)]


def unfinished_ramps(recipe: AnyRecipe) -> list[str]:
    """A sentence for each ramp that ends after training: a shorter run of a recipe keeps its ramps."""
    steps = recipe.train.steps
    return [
        f"Warning: {key} {value} is longer than train.steps {steps}, so that what it ramps up never has its full value."
        for key, value in leaves(recipe.model_dump()).items()
        if key.endswith(("ramp_up_steps", "warm_up_steps")) and value > steps
    ]


def other_window(recipe: AnyRecipe) -> str | None:
    """That a network predicts in other windows than it learned from, in a sentence; None where it does not."""
    if not isinstance(recipe, Recipe) or recipe.inference.window in (None, recipe.data.patch):
        return None
    return (
        f"Warning: inference.window {list(recipe.inference.window or ())} is not data.patch {list(recipe.data.patch)}, "
        "from which the network learns; wherever that was measured it cost Dice (docs/findings.md)."
    )


def mirrored_sides(recipe: AnyRecipe, manifest: Manifest | ImageManifest) -> str | None:
    """Which structure mirroring turns into its counterpart of the other side, in a sentence; None where it does not."""
    if not isinstance(recipe, Recipe) or not isinstance(manifest, Manifest):
        return None
    pair = sided_pair([label.name for label in manifest.labels.labels])
    if pair is None or LEFT_RIGHT_AXIS not in recipe.augment.spatial.flip_axes:
        return None
    left, right = pair
    return (
        f"Warning: augment.spatial.flip_axes mirrors along axis {LEFT_RIGHT_AXIS}, where {left} comes to look like "
        f"{right} and keeps its label, so that the network cannot learn which is which; take {LEFT_RIGHT_AXIS} out."
    )


def told_by_targets(recipe: AnyRecipe, manifest: Manifest | ImageManifest) -> str | None:
    """Which classes a method takes for what by their order alone, in a sentence; None where none does."""
    if not isinstance(recipe.method, MultiLevelSettings) or not isinstance(manifest, ImageManifest):
        return None
    if _targets_tell_nothing(recipe.method) or not manifest.classes:
        return None
    others = ", ".join(manifest.classes[1:]) or "none"
    return f"By their order in the manifest's classes, {manifest.classes[0]} is healthy, and lesions are: {others}."


def _targets_tell_nothing(method: MultiLevelSettings) -> bool:
    return method.queued == "all" and method.queries == "all"


def _queue_faults(
    method: MoCoSettings | LeOCLRSettings | MultiLevelSettings, manifest: ImageManifest, cases: Sequence[ImageCase]
) -> list[str]:
    """A queue that the images fill more than once.

    In a shorter one, too, about (queue / images)^2 / 2 of the queries meet their own old key: rounds are shuffled.
    """
    kept, what = list(cases), "training image(s)"
    if isinstance(method, MultiLevelSettings):
        if method.queued == "healthy":
            kept, what = [case for case in kept if case.target == 0], "healthy training image(s)"
        clean = [case for case in kept if case.quality != "low"]
        asked = method.high_weight or (method.cross_weight and method.cross_negatives == "both")
        if asked and 0 < len(clean) < len(kept):  # each quality has its own queue, and this is the shorter of supply
            kept, what = clean, f"{what} of high quality"
    if len(kept) >= method.queue:
        return []
    return [
        f"method.queue {method.queue}: {manifest.path} fills it from {len(kept)} {what}, so that an image's own old "
        f"keys would be among its negatives; set it to {len(kept)} or less, better to a fraction of that"
    ]


def _volume_faults(recipe: AnyRecipe, manifest: Manifest) -> list[str]:
    assert isinstance(recipe, Recipe)
    faults = []
    if not manifest.labeled:
        faults.append(f"data.manifest: {manifest.path} has no labeled cases to train on")
    if recipe.train.unlabeled_rows and not manifest.unlabeled:
        faults.append(
            f"train.unlabeled_rows {recipe.train.unlabeled_rows}: {manifest.path} has no unlabeled cases; "
            "set it to 0 with method supervised, or choose another manifest"
        )
    if recipe.train.validate_every is not None and not manifest.validation:
        faults.append(
            f"train.validate_every {recipe.train.validate_every}: {manifest.path} has no validation cases, and "
            "test cases choose nothing; set it to null, and training keeps `last` alone"
        )
    return faults
