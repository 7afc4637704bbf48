"""Whether a recipe and its manifest fit together; free of torch, for `medcontrast check`."""

from __future__ import annotations

from pathlib import Path
from typing import overload

from medcontrast.data.image_manifest import ImageManifest, is_image_manifest, load_image_manifest
from medcontrast.data.manifest import Manifest, load_manifest
from medcontrast.errors import ManifestError, RecipeError
from medcontrast.settings import AnyRecipe, PretrainRecipe, Recipe


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
            f"{manifest.path}: {len(missing)} of {len(files)} files are not there, the first is {missing[0]}. The data "
            f"folder is {manifest.root}; set MEDCONTRAST_DATA or data.root to where the data is."
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
    faults = _image_faults(manifest) if isinstance(manifest, ImageManifest) else _volume_faults(recipe, manifest)
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise RecipeError("\n".join([f"{count} in {where}:", *(f"  - {fault}" for fault in faults)]))


def _image_faults(manifest: ImageManifest) -> list[str]:
    return [] if manifest.sources["train"] else [f"data.manifest: {manifest.path} has no train images to learn from"]


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
