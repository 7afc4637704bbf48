"""Models that come along. Kinds: property (weights fit their card), whole (a mask by the command)."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medcontrast.checkpoint import checkpoint_hash
from medcontrast.engine.pack import CARD, REPORT, WEIGHTS
from medcontrast.volume import read_volume

MODELS = sorted(path.parent for path in (Path(__file__).parent.parent / "models").glob(f"*/{WEIGHTS}"))


def test_there_are_models() -> None:
    assert MODELS


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_card_speaks_of_its_weights(model: Path) -> None:
    card, report = (model / CARD).read_text(), json.loads((model / REPORT).read_text())
    assert checkpoint_hash(model / WEIGHTS) in card
    assert (model / WEIGHTS).stat().st_size <= 20e6
    for target, row in report["summary"].items():
        assert f"| {target} | {row['metrics']['dice']['mean']:.3f} (" in card
    assert f"{next(iter(report['summary'].values()))['cases']} validation cases" in card
    for said in ("## Intended use", "## Limits", "licence of the data", "docs/protocol.md", "| predicts | windows ["):
        assert said in card


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_model_makes_masks(model: Path, cli, tmp_path: Path) -> None:
    scan = tmp_path / "scan.nii.gz"
    noise = np.random.default_rng(0).normal(size=(36, 50, 34)).astype(np.float32)
    image = nibabel.Nifti1Image(noise, np.diag([1.0, 1.0, 1.0, 1.0]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, scan)
    result = cli("infer", "--ckpt", model, scan, "-o", tmp_path / "out", "--device", "cpu")
    assert result.code == 0, result.err
    mask = read_volume(tmp_path / "out" / "scan_seg.nii.gz", "label")
    assert mask.array.shape == noise.shape
    assert json.loads((tmp_path / "out" / "scan_seg.json").read_text())["geometry"]["warnings"] == []


@pytest.mark.parametrize("side", [0.5, 4.0])
def test_the_hippocampus_model_says_what_it_never_saw(side: float, cli, tmp_path: Path) -> None:
    scan = tmp_path / "scan.nii.gz"
    noise = np.random.default_rng(0).normal(size=(36, 50, 34)).astype(np.float32)
    image = nibabel.Nifti1Image(noise, np.diag([side, side, side, 1.0]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, scan)
    model = Path(__file__).parent.parent / "models" / "hippocampus_fbanet_8"
    assert cli("infer", "--ckpt", model, scan, "-o", tmp_path, "--device", "cpu").code == 0
    warning, *wide = json.loads((tmp_path / "scan_seg.json").read_text())["geometry"]["warnings"]
    assert [text.startswith("shows 144 x 200 x 136 mm") for text in wide] == [True] * (side == 4.0)
    assert warning.startswith(f"has voxels of {side:g} x {side:g} x {side:g} mm along x, y, z, but the network was")
    assert "trained on those of 1 x 1 x 1 mm" in warning


def test_the_hippocampus_model_on_a_real_scan(cli, data_root: Path, tmp_path: Path) -> None:
    model = Path(__file__).parent.parent / "models" / "hippocampus_fbanet_8"
    case = "hippocampus_205"  # a validation case
    scan = data_root / "hippocampus" / "imagesTr" / f"{case}.nii.gz"
    assert cli("infer", "--ckpt", model, scan, "-o", tmp_path, "--device", "cpu").code == 0
    found = read_volume(tmp_path / f"{case}_seg.nii.gz", "label").array > 0
    true = read_volume(data_root / "hippocampus" / "labelsTr" / f"{case}.nii.gz", "label").array > 0
    assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.85
