"""Whether a recipe and its manifest fit together; free of torch, for `medcontrast check`."""

from __future__ import annotations

from pathlib import Path

from medcontrast.data.manifest import Manifest, load_manifest
from medcontrast.errors import ManifestError, RecipeError
from medcontrast.settings import Recipe


def recipe_manifest(recipe: Recipe, recipe_path: Path) -> Manifest:
    """The manifest a recipe names, its path taken relative to the recipe file.

    Raises:
        ManifestError: It is missing or faulty.
    """
    root = Path(recipe.data.root) if recipe.data.root else None
    if root is not None and not root.is_absolute():
        root = recipe_path.parent / root
    return load_manifest(recipe_path.parent / recipe.data.manifest, root)


def require_files(recipe: Recipe, manifest: Manifest) -> None:
    """Checks that every file training will open is there, before anything is written over.

    Raises:
        ManifestError: With how many are missing, and the first of them.
    """
    labeled = (*manifest.labeled, *(manifest.validation if recipe.train.validate_every else ()))
    unlabeled = manifest.unlabeled if recipe.train.unlabeled_rows else ()
    files = [path for case in (*labeled, *unlabeled) for path in case.images]
    files += [case.label for case in labeled if case.label is not None]
    missing = [path for path in files if not path.exists()]
    if missing:
        raise ManifestError(
            f"{manifest.path}: {len(missing)} of {len(files)} files are not there, the first is {missing[0]}. The data "
            f"folder is {manifest.root}; set MEDCONTRAST_DATA or data.root to where the data is."
        )


def require_fit(recipe: Recipe, manifest: Manifest, *, where: str) -> None:
    """Checks what the recipe asks of the manifest's splits.

    Raises:
        RecipeError: With every fault, one a line.
    """
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
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise RecipeError("\n".join([f"{count} in {where}:", *(f"  - {fault}" for fault in faults)]))
