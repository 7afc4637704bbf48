"""What a prediction warns of: voxels of unseen sizes, and voxels that decide how all others are scaled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from medcontrast.data.voxel_sizes import shown
from medcontrast.inference.predict import Predictor

SHAPE = (30, 37, 21)


def trained_on(predictor: Predictor, *sides: float) -> Predictor:
    """The predictor, as if trained on scans of such voxels."""
    (member,) = predictor.members
    kept = {"smallest": list(sides), "largest": list(sides)}
    return replace(predictor, members=(replace(member, header={**member.header, "spacing_mm": kept}),))


def test_voxels_that_the_network_never_saw_are_said(tmp_path: Path, tools: SimpleNamespace) -> None:
    """Stored axes run to y, z, x: along x, y, z the voxels measure 0.8 x 1.1 x 2.5 mm."""
    path = tools.write_nifti(tmp_path / "a.nii.gz", tools.marked(SHAPE), tools.oblique_affine())
    predictor = tools.threshold_predictor()
    warning = (
        "has voxels of 0.8 x 1.1 x 2.5 mm along x, y, z, but the network was trained on those of 1 x 1.1 x 4 mm and "
        "takes them as stored, so that its mask is likely to be wrong; resample the scan to that, or train with "
        "data.spacing_mm."
    )
    found = trained_on(predictor, 1.0, 1.1, 4.0).predict_scan([path])
    assert found.grid.warnings == (f"{path}: {warning}",)
    assert found.record["geometry"]["warnings"] == [warning]
    several = replace(
        predictor, members=sum((trained_on(predictor, *sides).members for sides in [(0.8, 1.1, 2.5), (1, 1, 1)]), ())
    )
    (said,) = several.predict_scan([path]).grid.warnings
    assert "trained on those of 1 x 1 x 1 mm" in said
    near = trained_on(predictor, 1.0, 1.0, 2.1)
    resampling = trained_on(tools.threshold_predictor(spacing_mm=[1.0, 1.1, 4.0]), 1.0, 1.1, 4.0)
    for quiet in (predictor, near, resampling):  # the first as a checkpoint of before, which does not say
        assert quiet.predict_scan([path]).grid.warnings == ()


def test_a_scan_that_shows_far_more_than_those_of_training_is_said(tmp_path: Path, tools: SimpleNamespace) -> None:
    """A whole head for a network that saw crops. Stored axes run to y, z, x."""
    path = tools.write_nifti(tmp_path / "a.nii.gz", tools.marked(SHAPE), tools.oblique_affine())
    predictor = tools.threshold_predictor()
    (member,) = predictor.members
    x, y, z = (21 * 0.8, 30 * 1.1, 37 * 2.5)
    for extent, wide in (((x, y, z / 1.45), False), ((x, y, z / 1.55), True), ((x / 1.55, y, z), True)):
        kept = {"smallest": [0.8, 1.1, 2.5], "largest": [0.8, 1.1, 2.5], "extent": list(extent)}
        seen = replace(predictor, members=(replace(member, header={**member.header, "spacing_mm": kept}),))
        said = (
            f"{path}: shows 16.8 x 33 x 92.5 mm along x, y, z, but the longest training scans show {shown(extent)}; "
            "what the network says of anything else is no mask. Crop the scan to what those show."
        )
        assert seen.predict_scan([path]).grid.warnings == ((said,) if wide else ())


def test_a_scan_much_thinner_than_the_patch_is_said(tmp_path: Path, tools: SimpleNamespace) -> None:
    predictor = tools.threshold_predictor()
    x, y, z = predictor.members[0].recipe.data.patch
    for side, thin in ((-(-z // 3) - 1, True), (-(-z // 3), False)):
        path = tools.write_nifti(tmp_path / f"{side}.nii.gz", tools.marked((x, y, side)), np.eye(4))
        found = predictor.predict_scan([path]).grid.warnings
        said = f"{path}: is {side} voxels thick along z as the network sees it, which was trained on patches of {z};"
        assert [warning.startswith(said) for warning in found] == [True] * thin
        # of an average, the network with the largest patches
        (member,) = predictor.members
        data = member.recipe.data
        small = replace(
            member,
            recipe=member.recipe.model_copy(update={"data": data.model_copy(update={"patch": (x, y, 8)})}),
        )
        both = replace(predictor, members=(small, member)).predict_scan([path]).grid.warnings
        assert [warning.startswith(said) for warning in both] == [True] * thin


def test_far_voxels_are_said(tmp_path: Path, tools: SimpleNamespace) -> None:
    array = tools.marked(SHAPE).astype(np.float32) + np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    array[1, 2, 3] = -1e20
    path = tools.write_nifti(tmp_path / "a.nii.gz", array, tools.oblique_affine())
    found = tools.threshold_predictor().predict_scan([path])
    (warning,) = found.grid.warnings
    assert "voxels are more than 1,000 times as far out as the middle 99 %" in warning
    assert "at index (1, 2, 3), is -1e+20" in warning
    assert found.record["geometry"]["warnings"] == [warning.removeprefix(f"{path}: ")]


def test_values_that_the_network_never_saw_are_said(tmp_path: Path, tools: SimpleNamespace) -> None:
    path = tools.write_nifti(tmp_path / "a.nii.gz", tools.marked(SHAPE), tools.oblique_affine())
    predictor = tools.threshold_predictor()
    mean = float(np.mean(tools.marked(SHAPE)))

    def trained(low: float, high: float) -> Predictor:
        (member,) = predictor.members
        kept = {"means": [[low, high]], "deviations": [[0.5, 1.0]]}
        return replace(predictor, members=(replace(member, header={**member.header, "values": kept}),))

    far = trained(mean + 50.0, mean + 60.0)
    (warning,) = far.predict_scan([path]).grid.warnings
    assert warning.startswith(f"{path}: its values have mean ")
    assert "so that its mask may be wrong" in warning
    several = replace(predictor, members=(*far.members, *far.members, *predictor.members))
    assert several.predict_scan([path]).grid.warnings == (warning,)
    assert predictor.predict_scan([path]).grid.warnings == ()  # a checkpoint of before does not say
