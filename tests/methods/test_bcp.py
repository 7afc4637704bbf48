"""Tests of bcp beyond what every teacher promises: by hand, property."""

from __future__ import annotations

import pytest
import torch

from medcontrast.batch import StepInfo
from medcontrast.losses.segmentation import dice_cross_entropy
from medcontrast.methods import build_method
from medcontrast.networks.build import build_network
from medcontrast.transforms.copy_paste import paste_boxes

INFO = StepInfo(step=5, total=10, seed=1)


@pytest.fixture
def make(tiny):
    def build(**settings):
        tree = tiny.recipe_tree("bcp")
        for key, value in settings.items():
            tree = tiny.set_key(tree, f"method.{key}", value)
        torch.manual_seed(0)
        network = lambda: build_network("dynunet", in_channels=1, classes=3, filters=[4, 8, 8])  # noqa: E731
        return build_method(tiny.recipe_from(tree).method, network).train()

    return build


def boxes_of(info, rows=2):
    return paste_boxes((16, 16, 16), 0.667, seed=info.seed, step=info.step, rows=list(range(rows)))


@pytest.mark.parametrize("plain", [{}, {"include_background": True}, {"dice_weight": 0.3}, {"cross_entropy_weight": 2}])
def test_both_mixtures_are_learned_with_the_label_of_each_voxel(tiny, make, plain):
    settings = {f"segmentation.{key}": value for key, value in plain.items()}
    method, batch = make(largest_component="none", unlabeled_weight=0.25, **settings), tiny.make_batch()
    strong, label, boxes = batch["views"]["strong"], batch["label"][:2], boxes_of(INFO)
    with torch.no_grad():
        target = method.teacher(batch["views"]["weak"][2:]).logits.argmax(1, keepdim=True)
        terms = method.losses(batch, INFO)
        inside = method.student(torch.where(boxes, strong[:2], strong[2:])).logits
        outside = method.student(torch.where(boxes, strong[2:], strong[:2])).logits
    pairs = ((inside, boxes), (outside, ~boxes))
    ours = sum(dice_cross_entropy(logits, label, weight=own, **plain) for logits, own in pairs)
    theirs = sum(dice_cross_entropy(logits, target, weight=~own, **plain) for logits, own in pairs)
    torch.testing.assert_close(terms["supervised"], ours / 2)
    torch.testing.assert_close(terms["consistency"], theirs / 2)
    torch.testing.assert_close(terms["loss"], ours / 2 + 0.25 * theirs / 2)


def test_pre_training_mixes_labeled_rows_alone(tiny, make):
    method, batch, before = make(pretrain_steps=5), tiny.make_batch(), INFO._replace(step=4)
    terms = method.losses(batch, before)
    assert set(terms) == {"loss", "supervised"}
    other = {**batch, "views": {name: view.clone() for name, view in batch["views"].items()}}
    for view in other["views"].values():
        view[2:] = 0.0
    assert torch.equal(method.losses(other, before)["loss"], terms["loss"])
    ours, label, own = batch["views"]["strong"][:2], batch["label"][:2], boxes_of(before)
    boxes = torch.cat([own, ~own])
    ours, label = (torch.cat([each, each]) for each in (ours, label))
    # each of the two rows with the other one, and the labels like the images: every voxel is learned
    mixed, mixed_label = (torch.where(boxes, each, each[[1, 0, 3, 2]]) for each in (ours, label))
    expected = dice_cross_entropy(method.student(mixed).logits, mixed_label)
    torch.testing.assert_close(terms["supervised"], expected)
    assert set(method.losses(batch, INFO._replace(step=5))) == {"loss", "supervised", "consistency"}


def test_stray_pieces_of_the_teacher_are_no_target(make):
    logits = torch.zeros(1, 3, 16, 16, 16)
    logits[:, 0] = 1.0
    logits[0, 1, 2:6, 2:6, 2:6] = 5.0
    logits[0, 1, 12:14, 2:4, 12:14] = 5.0
    logits[0, 2, 6:9, 2:6, 2:6] = 5.0  # touches the larger piece of class 1
    logits[0, 2, 12:15, 12:16, 10:15] = 5.0  # touches nothing, and is the larger piece of class 2
    counts = {
        kept: [int((make(largest_component=kept)._target(logits) == value).sum()) for value in (1, 2)]
        for kept in ("none", "each", "joint")
    }
    assert counts == {"none": [72, 108], "each": [64, 60], "joint": [64, 48]}


class Says(torch.nn.Module):
    """A teacher that says the same whatever it sees."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, image):
        return self


def test_the_student_does_not_learn_a_stray_piece(tiny, make):
    """By hand: the loss is that of the larger piece alone."""
    method, batch, boxes = make(largest_component="each"), tiny.make_batch(), boxes_of(INFO)
    kept = torch.zeros(2, 1, 16, 16, 16, dtype=torch.int64)
    kept[:, :, 2:9, 2:9, 2:9] = 1
    said = kept.clone()
    said[:, :, 11:15, 2:6, 11:15] = 1
    method.teacher = Says(10.0 * (said == torch.arange(3).view(1, 3, 1, 1, 1)))
    strong = batch["views"]["strong"]
    with torch.no_grad():
        found = method.losses(batch, INFO)["consistency"]
        inside = method.student(torch.where(boxes, strong[:2], strong[2:])).logits
        outside = method.student(torch.where(boxes, strong[2:], strong[:2])).logits
    loss = {
        name: dice_cross_entropy(inside, target, weight=~boxes) + dice_cross_entropy(outside, target, weight=boxes)
        for name, target in (("kept", kept), ("said", said))
    }
    torch.testing.assert_close(found, loss["kept"] / 2)
    assert abs(float(found - loss["said"] / 2)) > 1e-3


@pytest.mark.parametrize(("labeled", "unlabeled"), [(3, 2), (2, 3)])
def test_unequal_halves_take_turns(tiny, make, labeled, unlabeled):
    """Every labeled row is mixed once each way; the third one with the first unlabeled row again."""
    method, batch = make(largest_component="none"), tiny.make_batch(labeled, unlabeled)
    partner = torch.tensor([0, 1, 0])[:labeled]
    views, boxes = batch["views"], boxes_of(INFO, labeled)
    ours, theirs = views["strong"][:labeled], views["strong"][labeled:][partner]
    with torch.no_grad():
        target = method.teacher(views["weak"][labeled:]).logits.argmax(1, keepdim=True)[partner]
        terms = method.losses(batch, INFO)
        logits = method.student(torch.cat([torch.where(boxes, ours, theirs), torch.where(boxes, theirs, ours)])).logits
    own, label = torch.cat([boxes, ~boxes]), batch["label"][:labeled].repeat(2, 1, 1, 1, 1)
    torch.testing.assert_close(terms["supervised"], dice_cross_entropy(logits, label, weight=own))
    expected = dice_cross_entropy(logits, target.repeat(2, 1, 1, 1, 1), weight=~own)
    torch.testing.assert_close(terms["consistency"], expected)


def test_the_teacher_answers_for_its_own_voxels_alone(tiny, make):
    """Another teacher changes `consistency` and leaves `supervised`."""
    method, batch = make(), tiny.make_batch()
    with torch.no_grad():
        before = method.losses(batch, INFO)
        for parameter in method.teacher.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        after = method.losses(batch, INFO)
    assert torch.equal(before["supervised"], after["supervised"])
    assert abs(float(before["consistency"] - after["consistency"])) > 1e-6
