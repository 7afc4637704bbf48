"""Tests of what checkpoints keep of their training scans: by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medcontrast.checkpoint import read_header
from medcontrast.volume import read_volume


def test_checkpoints_say_which_voxels_were_trained_on(tiny, tmp_path):
    """Of labeled scans and of the unlabeled ones that are used; their files are not needed again for saving."""
    tiny.write_data(tmp_path / "data", labeled=2, unlabeled=1)
    for number, affine in enumerate(([1, 1, 2, 1], [1.1, 1, -2.5, 1], [1, 3, 2, 1])):
        image, label = tiny.make_scan(number, (20, 18, 22), [1, 2])
        tiny.write_nifti(tmp_path / "data" / f"images/case_{number:02d}_0.nii", image, np.diag(affine).astype(float))
        tiny.write_nifti(tmp_path / "data" / f"labels/case_{number:02d}.nii", label, np.diag(affine).astype(float))
    wanted = {
        "supervised": ([1.1, 1.0, 2.5], [22.0, 18.0, 55.0]),
        "mean_teacher": ([1.1, 3.0, 2.5], [22.0, 54.0, 55.0]),
    }
    for method, (largest, extent) in wanted.items():
        run = tiny.make_run(tmp_path, tiny.recipe_tree(method, steps=1), name=method)
        trainer = tiny.train(run)
        kept = {"smallest": [1.0, 1.0, 2.0], "largest": largest, "extent": extent}
        for name in ("last.safetensors", "last.pt"):
            assert read_header(run.folder / name)["spacing_mm"] == kept
    (tmp_path / "data" / "images").rename(tmp_path / "elsewhere")
    trainer.save()
    assert read_header(run.folder / "last.safetensors")["spacing_mm"] == kept


def test_checkpoints_say_which_values_were_trained_on(tiny, tmp_path):
    """Of labeled scans, in the units of the scans where those are the network's; z-scored scans have none."""
    stored = tiny.set_key(tiny.recipe_tree(steps=1), "data.intensity", {"kind": "as_stored"})
    runs = {
        name: tiny.make_run(tmp_path, tree, name=name)
        for name, tree in (("stored", stored), ("z", tiny.recipe_tree(steps=1)))
    }
    headers = {}
    for name, run in runs.items():
        tiny.train(run)
        headers[name] = read_header(run.folder / "last.safetensors")
    means = [float(read_volume(case.images[0], "image").array.mean()) for case in runs["stored"].manifest.labeled]
    assert headers["stored"]["values"]["means"] == [pytest.approx([min(means), max(means)], rel=1e-3)]
    assert "values" not in headers["z"]
