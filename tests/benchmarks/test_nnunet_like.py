"""Tests of the nnU-Net-like baseline: by hand (plan, loss), property (rows), geometry (patches), whole (a record)."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medcontrast.engine.benchmark.records import METRICS, Record
from medcontrast.volume import Grid

ROOT = Path(__file__).parents[2]


@pytest.fixture
def peers(monkeypatch):
    """The scripts of benchmarks/peers as modules."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "peers"))
    import nnunet_like
    import nnunet_plan
    import nnunet_rows
    import run_peer

    return SimpleNamespace(like=nnunet_like, plan=nnunet_plan, rows=nnunet_rows, run=run_peer)


def test_the_plan_of_all_hippocampi_is_nnunets_own(peers):
    # MIC-DKFZ/nnUNet#148 shows it: median 36x50x35, 260 public training cases
    plan = peers.plan.make_plan([(36, 50, 35)] * 260, [(1.0, 1.0, 1.0)] * 260)
    assert plan.patch == (40, 56, 40)
    assert plan.batch == 9
    assert plan.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert set(plan.kernels) == {(3, 3, 3)}
    assert plan.widths == (32, 64, 128, 256)


def test_eight_cases_leave_the_smallest_batch(peers):
    assert peers.plan.make_plan([(36, 50, 35)] * 8, [(1.0, 1.0, 1.0)] * 8).batch == 2


def test_long_voxels_are_halved_later_and_convolved_flat_first(peers):
    strides, kernels, patch = peers.plan.poolings((3.6, 0.62, 0.62), (20, 320, 256))
    assert patch == (20, 320, 256)
    assert strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))
    assert kernels == ((1, 3, 3), (1, 3, 3), *[(3, 3, 3)] * 5)


def test_large_scans_are_capped(peers):
    plan = peers.plan.make_plan([(512, 512, 600)] * 50, [(0.8, 0.8, 0.8)] * 50)
    assert np.prod(plan.patch) <= 128**3
    assert max(plan.widths) == 320
    assert plan.batch == 2


def test_one_axis_of_few_long_voxels_gets_a_finer_spacing(peers):
    spacings = np.array([(0.5, 0.5, 2.0)] * 2 + [(0.5, 0.5, 5.0)] * 8)
    flat, deep = np.array([(256.0, 256.0, 20.0)] * 10), np.array([(256.0, 256.0, 200.0)] * 10)
    assert peers.plan.target_spacing(flat, spacings).tolist() == [0.5, 0.5, 2.0]
    assert peers.plan.target_spacing(deep, spacings).tolist() == [0.5, 0.5, 5.0]


def ramp(shape):
    return torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)


def test_without_turn_and_scale_a_patch_is_a_slice(peers):
    scan = ramp((9, 8, 7))
    image, label = peers.rows.sample(scan[None], scan.long(), np.array([4, 3, 5]), np.array([3.5, 3, 3]), np.eye(3))
    torch.testing.assert_close(image[0], scan[2:6, 2:5, 1:6], rtol=0, atol=1e-3)
    assert torch.equal(label[0], scan[2:6, 2:5, 1:6].long())


def test_outside_the_scan_is_background(peers):
    scan = ramp((6, 6, 6)) + 1
    image, label = peers.rows.sample(scan[None], scan.long(), np.array([4, 4, 4]), np.array([0.5, 2.5, 2.5]), np.eye(3))
    assert image[0, 0].abs().max() < 1e-4 and not label[0, 0].any()
    assert torch.equal(label[0, 1:], scan[0:3, 1:5, 1:5].long())


def test_a_quarter_turn_turns_image_and_label(peers):
    scan = ramp((6, 6, 6))
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    image, label = peers.rows.sample(scan[None], scan.long(), np.array([4, 4, 4]), np.array([2.5, 2.5, 2.5]), turn)
    # patch (i, j) about the centre comes from the scan's (-j, i)
    expected = torch.stack([torch.stack([scan[4 - j, 1 + i, 1:5] for j in range(4)]) for i in range(4)])
    torch.testing.assert_close(image[0], expected, rtol=0, atol=1e-3)
    assert torch.equal(label[0], expected.long())


def test_drawn_matrices_turn_and_scale_as_often_and_as_far_as_said(peers):
    draws = [peers.rows.draw_matrix(np.random.default_rng(seed)) for seed in range(2000)]
    scales = np.array([np.linalg.det(matrix) ** (1 / 3) for matrix in draws])
    assert np.mean(np.abs(scales - 1) > 1e-9) == pytest.approx(0.2, abs=0.03)
    assert scales.min() > 0.7 - 1e-9 and scales.max() < 1.4 + 1e-9
    turns = [matrix / scale for matrix, scale in zip(draws, scales, strict=True)]
    assert np.mean([np.abs(turn - np.eye(3)).max() > 1e-9 for turn in turns]) == pytest.approx(0.2, abs=0.03)
    for turn in turns[:50]:
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)


@pytest.fixture
def scans():
    """Two scans that equal their labels; one is smaller than the patch along an axis."""
    labels = []
    for number, shape in enumerate([(30, 12, 26), (28, 24, 22)]):
        label = torch.zeros(shape, dtype=torch.int64)
        label[-4:, 2:5, 3:6] = 1 + number
        labels.append(label)
    return [label[None].float() for label in labels], labels


def test_rows_are_a_function_of_seed_step_and_row(peers, scans):
    made = [
        peers.rows.Rows(*scans, (16, 16, 16), seed).batch(step, 3) for seed, step in ((1, 4), (1, 4), (2, 4), (1, 5))
    ]
    for first, second in zip(made[0], made[1], strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(made[0][0], made[2][0])
    assert not torch.equal(made[0][0], made[3][0])
    alone = peers.rows.Rows(*scans, (16, 16, 16), 1).row(4, 2, foreground=True)
    assert torch.equal(made[0][0][2], alone[0])


def test_the_last_third_of_the_rows_holds_foreground(peers, scans):
    rows = peers.rows.Rows(*scans, (16, 16, 16), 0)
    labels = torch.stack([rows.batch(step, 3)[1].flatten(1).amax(1) for step in range(40)])
    assert (labels[:, 2] > 0).all()
    assert (labels[:, :2] == 0).any()
    assert set(labels.flatten().tolist()) == {0, 1, 2}


def test_image_and_label_stay_on_each_other(peers, scans):
    rows = peers.rows.Rows(*scans, (16, 16, 16), 0)
    rows.intensity.transforms = ()
    image, label = (torch.cat(part) for part in zip(*[rows.batch(step, 3) for step in range(20)], strict=True))
    assert image.shape == (60, 1, 16, 16, 16) and label.shape == (60, 1, 16, 16, 16)
    inside = label > 0
    assert (image[inside] / label[inside]).mean() > 0.8
    assert image[~inside].mean() < 0.01


def test_rows_are_mirrored_along_the_axes_given_alone(peers):
    label = torch.zeros((16, 16, 16), dtype=torch.int64)
    label[:4, :4, :4] = 1
    rows = peers.rows.Rows([label[None].float()], [label], (16, 16, 16), 0, mirror_axes=[1])
    rows.intensity.transforms = ()
    corners = {tuple((row[0] > 0).nonzero().float().mean(0).gt(8).tolist()) for row in rows.batch(0, 40)[1]}
    assert corners == {(False, False, False), (False, True, False)}


def test_each_output_has_half_the_weight_of_the_one_above(peers):
    outputs = torch.stack([torch.full((2, 3, 4, 4, 4), value) for value in (1.0, 4.0, 10.0)], 1)

    def criterion(output, _):
        return output.mean()

    found = peers.like.supervised_loss(outputs, torch.zeros(2, 1, 4, 4, 4), criterion)
    assert found.item() == pytest.approx((1 + 0.5 * 4 + 0.25 * 10) / 1.75)


def test_every_parameter_that_nnunet_trains_is_reached(peers, scans):
    plan = peers.plan.make_plan([(36, 50, 35)] * 2, [(1.0, 1.0, 1.0)] * 2, width=2)
    network = peers.like.make_network(plan, 1, 3)
    outputs = network(torch.randn(2, 1, *plan.patch))
    assert outputs.shape == (2, 2, 3, *plan.patch)
    peers.like.supervised_loss(outputs, torch.zeros(2, 1, 1), lambda output, _: output.square().mean()).backward()
    assert [name for name, each in network.named_parameters() if each.grad is None] == []
    assert network.eval()(torch.randn(1, 1, *plan.patch)).shape == (1, 3, *plan.patch)


def test_training_ends_with_the_steps_or_the_seconds(peers, scans):
    plan = peers.plan.make_plan([(16, 16, 16)], [(1.0, 1.0, 1.0)], width=2)
    rows = peers.rows.Rows(*scans, plan.patch, 0)
    network = peers.like.make_network(plan, 1, 3)
    before = [each.clone() for each in network.parameters()]
    assert peers.like.train(network, rows, 2, {"steps": 3, "seconds": None}) == 3
    assert any(not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))
    assert peers.like.train(network, rows, 2, {"steps": 3, "seconds": 0.0001}) <= 1


class Threshold(torch.nn.Module):
    """Class 1 where the image is above 0.5."""

    def forward(self, image):
        return torch.cat([0.5 - image, image - 0.5], 1) * 20


def test_a_prediction_lies_on_the_scan_mirrored_or_not(peers):
    plan = peers.plan.make_plan([(16, 16, 16)], [(1.0, 1.0, 1.0)], width=2)
    scan = torch.rand((1, 21, 18, 25), generator=torch.Generator().manual_seed(0))
    for axes in ([], [1], [0, 1, 2]):
        found = peers.like.predict(Threshold(), plan, scan, Grid((21, 18, 25), np.eye(4)), axes=axes)
        assert np.array_equal(found, (scan[0] > 0.5).numpy())


def test_a_scan_goes_to_the_plans_spacing_and_its_prediction_back(peers, tiny, tmp_path):
    affine = np.diag([2.0, 1.0, 1.0, 1.0])
    array = np.zeros((12, 20, 16), np.float32)
    array[4:8, 5:15, 4:12] = 100.0
    path = tiny.write_nifti(tmp_path / "scan.nii", array, affine)
    image, grid = peers.like.read_scan([path, path], (1.0, 1.0, 1.0))
    assert image.shape == (2, 24, 20, 16)
    raw, _ = peers.like.read_scan([path], None)
    assert raw.mean().item() == pytest.approx(0, abs=1e-5) and raw.std(correction=0).item() == pytest.approx(
        1, abs=1e-4
    )
    plan = peers.plan.make_plan([(16, 16, 16)], [(1.0, 1.0, 1.0)], width=2)
    found = peers.like.predict(Threshold(), plan, image[:1], grid, axes=[0, 2])
    assert np.array_equal(found, array > 0)


def test_a_record_of_equal_time_and_masks_on_an_anisotropic_mirrored_grid(peers, tiny, tmp_path):
    manifest = tiny.write_data(tmp_path / "data", labeled=2, unlabeled=1, validation=1)
    affine = np.array([[-1.0, 0, 0, 40], [0, 0, 2.0, -7], [0, 1.5, 0, 3], [0, 0, 0, 1]])
    for number in range(4):
        image, label = tiny.make_scan(number, (20, 18, 22), [1, 2])
        tiny.write_nifti(tmp_path / f"data/images/case_{number:02d}_0.nii", image, affine if number == 3 else None)
        tiny.write_nifti(tmp_path / f"data/labels/case_{number:02d}.nii", label, affine if number == 3 else None)
    words = ["nnunet_like", "--manifest", manifest, "--steps", "2", "--width", "2", "--mirror-axes"]
    words += ["--work", tmp_path / "work", "--results", tmp_path / "out", "--python", sys.executable]
    record = Record.load(peers.run.run(peers.run.parse([str(word) for word in words])))
    assert record.facts["step"] == 2
    assert record.facts["unlabeled"] == 0
    assert record.recipe["plan"]["widths"][0] == 2
    assert "not nnU-Net itself" in record.facts["notes"][0]
    assert len(record.scores["front"]["dice"]) == 1


def test_the_time_of_another_record_is_taken(peers, tmp_path):
    figures = {"front": {metric: [0.5] for metric in METRICS}}
    facts = {
        "peer": {},
        "split": "test",
        "labeled_cases": [],
        "step": 1,
        "trained_parameters": 1,
        "train_seconds": 2389,
    }
    Record("fba_net", 8, 0, {}, "", ["c"], figures, facts).save(tmp_path / "fba.json")
    asked = peers.run.parse(["nnunet_like", "--like", str(tmp_path / "fba.json")])
    assert peers.run.seconds_of(asked) == 2389.0
    assert peers.run.seconds_of(peers.run.parse(["nnunet_like", "--seconds", "5"])) == 5.0
    assert peers.run.seconds_of(peers.run.parse(["nnunet_like"])) is None
