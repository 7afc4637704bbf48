"""A complete first recipe from the data: spacing, patch, intensities, network and method, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcontrast.data.hounsfield import called_ct, like_ct
from medcontrast.data.manifest import Manifest
from medcontrast.data.sides import LEFT_RIGHT_AXIS, names_a_side
from medcontrast.data.survey import MeasuredScan
from medcontrast.errors import InputError
from medcontrast.settings import Recipe, recipe_from_tree, require_segmentation
from medcontrast.settings.data import LEAST_SIDE
from medcontrast.settings.methods import ContrastSettings, FBANetSettings, SupervisedSettings
from medcontrast.settings.network import NetworkSettings

PATCH_VOXELS = 112 * 112 * 80
"""Largest patch proposed: that of the left-atrium benchmark, which fits a graphics card of 12 GiB in pairs."""
_LONGEST_SIDE = 1024
"""Of a patch, as data.patch takes it."""
_HERE = "the proposed recipe"
_SAME = 0.05
_ANISOTROPIC = 3.0
_MANY_LABELS = 16
"""Labeled scans; with so many the hippocampus gained nothing from the others (docs/findings.md)."""
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Proposal:
    """A recipe, and why its values are what they are.

    Attributes:
        recipe: Passes every check that a written one passes.
        reasons: A sentence by dotted key, such as data.patch.
    """

    recipe: Recipe
    reasons: dict[str, str]


def propose_recipe(
    manifest: Manifest, scans: Sequence[MeasuredScan], *, manifest_path: str, command: str, like: Recipe | None = None
) -> Proposal:
    """Proposes a recipe.

    Args:
        manifest: What to train on.
        scans: What `survey` measured.
        manifest_path: As the recipe shall name it, relative to the recipe's own folder.
        command: Written into `about`.
        like: A recipe whose network, method, training, views, inference and evaluation are taken over; the
            grid, the patch and the intensities still come from the data, and sides that labels name are not mirrored.

    Raises:
        InputError: The method of `like` does not go with the splits of the manifest.
    """
    reasons: dict[str, str] = {}
    spacing, target = _spacing(scans, reasons)
    shape = np.median([scan.shape * scan.spacing_mm / target for scan in scans], axis=0)
    network = like.network if like else _network(shape, target, reasons)
    patch = _patch(scans, shape, target, network, _cell(manifest, like), reasons)
    data = {
        "manifest": manifest_path,
        "spacing_mm": spacing,
        "intensity": _intensity(manifest, scans, reasons),
        "patch": patch,
        "foreground_crop": _foreground_crop(patch, shape, reasons),
        "cache": _cache(manifest, shape, len(manifest.channels), reasons),
    }
    tree: dict[str, Any] = {"about": _about(manifest, command), "data": data}
    tree["network"] = network.model_dump(mode="json")
    if like:
        _take_over(like, tree, manifest, patch, reasons)
    else:
        _method_and_train(tree, manifest, patch, reasons)
        _views(tree, manifest, reasons)
    if not manifest.validation:
        tree["train"]["validate_every"] = None
        reasons["train.validate_every"] = (
            "the manifest has no validation split, so nothing is watched and `last` is kept"
        )
    return Proposal(require_segmentation(recipe_from_tree(tree, where=_HERE), where=_HERE), reasons)


def _spacing(scans: Sequence[MeasuredScan], reasons: dict[str, str]) -> tuple[list[float], Vector]:
    """Never left open: a scan of other voxels, met later, is then brought to those that the network knows."""
    spacings = np.array([scan.spacing_mm for scan in scans])
    median = np.median(spacings, axis=0)
    spread = float(np.abs(spacings / median - 1).max())
    if spread <= _SAME:
        common = _commonest(spacings, median, reasons)
        return common, np.array(common)
    rounded = [float(f"{side:.3g}") for side in median]
    reasons["data.spacing_mm"] = f"median of {len(scans)} scans, which differ from it by up to {spread:.0%}"
    if max(rounded) / min(rounded) >= _ANISOTROPIC:
        reasons["data.spacing_mm"] += "; the thick slices stay thick, finer ones would be invented"
    return rounded, np.array(rounded)


def _commonest(spacings: Vector, median: Vector, reasons: dict[str, str]) -> list[float]:
    """The voxel size that most scans have, of equally common ones the nearest to the median; these stay untouched."""
    # six digits: rounding in headers goes, and a scan of this size is still left as it is
    digits = np.array([[float(f"{side:.6g}") for side in spacing] for spacing in spacings])
    sizes, counts = np.unique(digits, axis=0, return_counts=True)
    common = sizes[counts == counts.max()]
    chosen = common[np.abs(common / median - 1).max(axis=1).argmin()]
    if len(sizes) == 1:
        reason = f"that of all {len(spacings)} scans looked at, which are left as they are"
    else:
        apart = float(np.abs(digits / chosen - 1).max())
        reason = f"that of {counts.max()} of {len(spacings)} scans looked at, which are left as they are"
        reason += f"; the others differ by up to {apart:.1%} and are resampled"
    reasons["data.spacing_mm"] = reason
    return [float(side) for side in chosen]


def _network(shape: Vector, spacing: Vector, reasons: dict[str, str]) -> NetworkSettings:
    """By the size of a scan and its anisotropy; a deeper network needs more voxels to halve."""
    thick = spacing >= _ANISOTROPIC * spacing.min()
    smallest = float(shape[~thick].min())
    if not thick.any() and smallest >= 64:
        reasons["network.name"] = f"scans of {_voxels(shape)} voxels: room for four halvings"
        return NetworkSettings(name="vnet", filters=16)
    levels = 4 if smallest >= 24 else 3
    reasons["network.name"] = f"scans of {_voxels(shape)} voxels: {levels - 1} halvings"
    if not thick.any():
        return NetworkSettings(name="dynunet", filters=tuple(16 * 2**level for level in range(levels)))
    strides, kept = [], spacing.copy()
    for _ in range(levels - 1):
        halve = kept < 2 * kept.min()
        strides.append((*(2 if axis else 1 for axis in halve),))
        kept = np.where(halve, kept * 2, kept)
    reasons["network.strides"] = "thick axes are halved later, when the fine ones have caught up"
    filters = tuple(16 * 2**level for level in range(levels))
    return NetworkSettings(name="dynunet", filters=filters, strides=tuple((a, b, c) for a, b, c in strides))


def _cell(manifest: Manifest, like: Recipe | None) -> int:
    """Side in voxels of the cells that the method cuts patches into; 1 where it cuts none."""
    if like is None:
        return ContrastSettings().region if manifest.unlabeled else 1
    return (like.method.contrast.region or 1) if isinstance(like.method, FBANetSettings) else 1


def _patch(
    scans: Sequence[MeasuredScan],
    shape: Vector,
    target: Vector,
    network: NetworkSettings,
    cell: int,
    reasons: dict[str, str],
) -> list[int]:
    # thin axes too are rounded to whole cells, halves down: smaller cells would have a voxel or two to a kind
    step = np.array([math.lcm(side, cell) for side in network.patch_divisor])
    least = step * np.ceil(LEAST_SIDE / step)
    patch = np.clip(np.ceil(shape / step - 0.5) * step, least, _LONGEST_SIDE // step * step)
    if network.encoder is not None:
        patch[network.axis] = least[network.axis] = 1  # slices: a row is one of them
    extents = [scan.extent_mm / target for scan in scans if scan.extent_mm is not None]
    extent = np.median(extents, axis=0) if extents else shape
    while patch.prod() > PATCH_VOXELS and (patch > least).any():
        # the side with the most room around the structure gives way
        axis = int(np.argmax(np.where(patch > least, patch / extent, -np.inf)))
        patch[axis] -= step[axis]
    if network.norm == "instance" and (patch == network.patch_divisor).all():
        patch[int(np.argmax(shape))] *= 2  # a single voxel at the deepest level cannot be normalised
    size = f"structures span {_voxels(extent)}" if extents else "no labels to measure"
    reasons["data.patch"] = f"scans have {_voxels(shape)} voxels (median), {size}; multiples of {_voxels(step)}"
    return [int(side) for side in patch]


def _intensity(manifest: Manifest, scans: Sequence[MeasuredScan], reasons: dict[str, str]) -> dict[str, Any]:
    named = all(called_ct(name) for name in manifest.channels)
    alike = [scan for scan in scans if _like_ct(scan)]
    if named:
        return _window(scans, "the channel is called CT", reasons)
    if 2 * len(alike) > len(scans):  # as `data check` tells CT; one scan whose intercept was lost decides nothing
        whose = "values" if len(alike) == len(scans) else f"values of {len(alike)} of {len(scans)} scans"
        return _window(alike, f"{whose} look like Hounsfield units", reasons)
    if all((np.abs(scan.mean) < 0.05).all() and (np.abs(scan.std - 1) < 0.05).all() for scan in scans):
        reasons["data.intensity.kind"] = "every scan has mean 0 and SD 1 already"
        return {"kind": "as_stored"}
    if all(_standardized(scan) for scan in scans):
        reasons["data.intensity.kind"] = "values look z-scored before a crop (broken numbers, some negative, SD near 1)"
        return {"kind": "as_stored"}
    reasons["data.intensity.kind"] = "units differ from scan to scan, so each gets mean 0 and SD 1"
    return {"kind": "zscore"}


def _like_ct(scan: MeasuredScan) -> bool:
    ranges = zip(scan.low, scan.high, strict=True)
    return all(like_ct(low, high, whole_numbers=scan.whole_numbers) for low, high in ranges)


def _standardized(scan: MeasuredScan) -> bool:
    near = (np.abs(scan.mean) < 3).all() and (scan.std > 0.3).all() and (scan.std < 3).all()
    return bool(near and not scan.whole_numbers and (scan.low < 0).all() and (scan.low > -10).all())


def _window(scans: Sequence[MeasuredScan], why: str, reasons: dict[str, str]) -> dict[str, Any]:
    inside = np.concatenate([scan.structure.ravel() for scan in scans])
    what = "labeled voxels" if inside.size else "voxels above -500"
    values = inside if inside.size else np.concatenate([scan.body.ravel() for scan in scans])
    low, high = (float(np.rint(edge)) for edge in np.percentile(values, (0.5, 99.5)))
    high = max(high, low + 1.0)
    reasons["data.intensity.kind"] = f"{why}: percentiles 0.5 and 99.5 of {what}, then their mean and SD"
    clipped = np.clip(values, low, high)
    return {
        "kind": "clip",
        "low": low,
        "high": high,
        "mean": round(float(clipped.mean()), 2),
        "std": max(round(float(clipped.std()), 2), 0.01),
    }


def _foreground_crop(patch: Sequence[int], shape: Vector, reasons: dict[str, str]) -> float:
    share = float(np.prod(np.minimum(patch, shape)) / np.prod(shape))
    reasons["data.foreground_crop"] = f"a patch holds {share:.0%} of a median scan"
    return 0.0 if share >= 0.5 else 0.5


def _cache(manifest: Manifest, shape: Vector, channels: int, reasons: dict[str, str]) -> str:
    count = sum(len(cases) for name, cases in manifest.splits() if name != "test")
    gib = count * float(shape.prod()) * (4 * channels + 2) / 2**30  # float32 channels and an int16 label
    reasons["data.cache"] = f"about {math.ceil(gib * 10) / 10:g} GiB for {count} scans"
    return "memory" if gib <= 16 else "disk"


def _about(manifest: Manifest, command: str) -> dict[str, str]:
    counts = ", ".join(f"{len(cases)} {name}" for name, cases in manifest.splits())
    source = f" ({manifest.source})" if manifest.source else ""
    return {
        "command": command,
        "needs": f"{manifest.name}: {counts}{source}",
        "gives": "not measured yet",
        "cost": "not measured yet; try --set train.steps=100 first",
    }


def _method_and_train(tree: dict[str, Any], manifest: Manifest, patch: Sequence[int], reasons: dict[str, str]) -> None:
    rows = 2 if math.prod(patch) > 64**3 else 4
    rows_why = "rows of one step; patches are large" if rows == 2 else "rows of one step; patches are small"
    reasons["train.labeled_rows"] = rows_why
    tree["train"] = {"steps": 6000, "labeled_rows": rows, "unlabeled_rows": 0, "validate_every": 300}
    reasons["train.steps"] = "a start, not tuned for your data"
    if manifest.unlabeled:
        tree["method"] = {"name": "fba_net"}
        tree["train"]["unlabeled_rows"] = rows
        reasons["method.name"] = f"{len(manifest.unlabeled)} unlabeled scans beside {len(manifest.labeled)} labeled"
        if len(manifest.labeled) >= _MANY_LABELS:
            reasons["method.name"] += "; with as many labels supervised may do as well in less than half of the time"
    else:
        tree["method"] = {"name": "supervised"}
        tree["inference"] = {"network": "student"}
        reasons["method.name"] = "the manifest has no unlabeled scans"
        reasons["inference.network"] = "supervised training has no teacher"


def _views(tree: dict[str, Any], manifest: Manifest, reasons: dict[str, str]) -> None:
    sided = _sided(manifest)
    tree["augment"] = {"spatial": {"flip_axes": [] if sided else [LEFT_RIGHT_AXIS], "beyond_patch": "scan"}}
    reasons["augment.spatial.beyond_patch"] = "what turns into a patch from beyond it is the scan, not padding"
    reasons["augment.spatial.flip_axes"] = (
        "labels name a side, so nothing is mirrored"
        if sided
        else "left and right only; take [] where the sides differ, as in the heart (docs/findings.md: it costs Dice)"
    )


def _sided(manifest: Manifest) -> bool:
    """One side alone counts too: a mirrored left atrium looks like a right one, which is background."""
    return names_a_side([label.name for label in manifest.labels.labels])


def _take_over(
    like: Recipe, tree: dict[str, Any], manifest: Manifest, patch: Sequence[int], reasons: dict[str, str]
) -> None:
    """What another recipe says of all but the data, as far as it fits the patch and the structures."""
    _check_like(like, manifest)
    rest = like.model_dump(mode="json", include={"seed", "augment", "method", "train", "inference", "evaluation"})
    tree.update(rest)
    if "patch" in tree["method"]:
        tree["method"]["patch"] = patch
    spatial = tree["augment"]["spatial"]
    spatial["rotate90_axes"] = [
        axis
        for axis in like.augment.spatial.rotate90_axes
        if len({patch[other] for other in range(3) if other != axis}) == 1
    ]
    if LEFT_RIGHT_AXIS in spatial["flip_axes"] and _sided(manifest):
        spatial["flip_axes"].remove(LEFT_RIGHT_AXIS)
        reasons["augment.spatial.flip_axes"] = (
            f"labels name a side, so axis {LEFT_RIGHT_AXIS} of the other recipe, left and right, is not mirrored"
        )
        if tree["inference"]["flips"] and not spatial["flip_axes"]:
            tree["inference"]["flips"] = False
            reasons["inference.flips"] = "no axis is left to mirror along"
    tree["train"]["init_from"] = None


def _check_like(like: Recipe, manifest: Manifest) -> None:
    if not isinstance(like.method, SupervisedSettings) and not manifest.unlabeled:
        raise InputError(
            f"--like: method {like.method.name} learns from unlabeled scans, but {manifest.path} has none. "
            "Choose a supervised recipe, or add unlabeled cases."
        )


def _voxels(shape: Vector) -> str:
    return "x".join(f"{side:.0f}" for side in shape)
