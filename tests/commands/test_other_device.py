"""Commands with --device cuda, on a stand-in for one: whole (what they leave is what the CPU leaves)."""

from __future__ import annotations

import json
from contextlib import nullcontext

import nibabel as nib
import numpy as np
import pytest
import torch
from far_device import FAR, far_device, is_far


def test_the_stand_in_refuses_what_a_gpu_refuses():
    near = torch.ones(3)
    with far_device():
        far = torch.ones(3, device=FAR)
        assert is_far(far) and far.device == FAR and near.device.type == "cpu"
        assert is_far(near.to(FAR)) and not is_far(near) and not is_far(far.cpu()) and is_far(far)
        assert is_far(far[near > 0]) and is_far(far + torch.tensor(1.0))
        with pytest.raises(RuntimeError, match="indices should be either on cpu or on the same device"):
            near[far > 0]
        for mixed in (lambda: near + far, lambda: torch.cat([near, far]), lambda: near.index_select(0, far.long())):
            with pytest.raises(RuntimeError, match="expected all tensors to be on the same device"):
                mixed()
        for array in (far.numpy, lambda: np.asarray(far)):
            with pytest.raises(TypeError, match="copy it to the CPU first"):
                array()


@pytest.fixture
def both(cli, tmp_path):
    """Runs a command on the CPU and on the stand-in; gives the folders that they write."""

    def run(*words):
        for device in ("cpu", "cuda"):
            with far_device() if device == "cuda" else nullcontext():
                done = cli(*words, "-o", tmp_path / device, "--device", device)
            assert done.code == 0, done.err
        return tmp_path / "cpu", tmp_path / "cuda"

    return run


def require_close(one, other, where="it"):
    """Two trees of JSON are equal but for rounding and what names the device."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one.keys() - {"device", "written", "seconds"}:
            require_close(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            require_close(*pair, f"{where}[{number}]")
    else:
        assert one == (pytest.approx(other, abs=1e-3) if isinstance(one, float) else other), where


def content(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def segmenter(tiny, tmp_path_factory):
    tree = tiny.set_key(tiny.recipe_tree(), "inference.flips", True)
    run = tiny.make_run(tmp_path_factory.mktemp("far"), tree, validation=2)
    tiny.train(run)
    return run.folder


def test_infer(both, segmenter):
    of = ("--manifest", segmenter / "manifest.json", "--split", "validation")
    near, far = both("infer", "--ckpt", segmenter, *of, "--probabilities", "--uncertainty")
    files = sorted(path.relative_to(near) for path in near.rglob("*.nii.gz"))
    assert {name for path in files for name in ("prob", "entropy") if f"_{name}." in path.name} == {"prob", "entropy"}
    for file in files:
        one, other = (np.asarray(nib.load(folder / file).dataobj) for folder in (near, far))
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_evaluate(both, segmenter):
    near, far = both("evaluate", "--ckpt", segmenter, "--split", "validation")
    require_close(content(near / "report.json"), content(far / "report.json"))


def test_probe(both, tiny, tmp_path):
    tiny.write_images(tmp_path / "data")
    run = tiny.make_run(tmp_path, tiny.pretrain_tree())
    tiny.train(run)
    words = ("--fractions", "0.5,1", "--seeds", 1, "--finetune-steps", 2, "--from-scratch")
    near, far = both("probe", "--ckpt", run.folder, *words)
    require_close(content(near / "probe.json"), content(far / "probe.json"))


def test_counterfactuals(both, tiny, tmp_path):
    data = tiny.write_images(tmp_path / "data")
    network = {"name": "hvae", "filters": [4, 4, 8], "latent_channels": [0, 2, 4]}
    tree = {
        **tiny.pretrain_tree(clip_norm=350.0, rows=4),
        "network": network | {f"{part}_blocks": [1, 1, 1] for part in ("encoder", "decoder")},
        "method": {"name": "hvae", "parents": {"domain": "category", "target": "category"}},
    }
    del tree["augment"]
    run = tiny.make_run(tmp_path, tree)
    tiny.train(run)
    words = ("--manifest", data, "--metrics", "test", "--predictor-steps", 2)
    near, far = both("counterfactuals", "--ckpt", run.folder, *words)
    one, other = (np.load(folder / "counterfactuals.npz") for folder in (near, far))
    for name in one.files:
        if one[name].dtype.kind in "ui":
            np.testing.assert_allclose(one[name].astype(int), other[name].astype(int), atol=1)
    require_close(content(near / "metrics.json"), content(far / "metrics.json"))


def test_lesion_boxes(both, tiny, tmp_path):
    data = tiny.write_images(tmp_path / "data")
    near, far = both("data", "boxes", data, "--size", 16, "--epochs", 2)
    one, other = (content(next(folder.glob("*.json"))) for folder in (near, far))
    require_close(one["lesion_boxes"], other["lesion_boxes"])
