"""Tests of Dice and cross-entropy: reference (plain float64 loops, MONAI's DiceCELoss), by hand, property, gradient."""

import math
import re

import pytest
import torch
from monai.losses import DiceCELoss

from medcontrast.errors import InputError
from medcontrast.losses.segmentation import dice_cross_entropy, soft_dice_cross_entropy

DICE = {"dice_weight": 1.0, "cross_entropy_weight": 0.0}
CROSS_ENTROPY = {"dice_weight": 0.0, "cross_entropy_weight": 1.0}


def batch(b=3, k=3, ignore=0.3, seed=0):
    torch.manual_seed(seed)
    logits = torch.randn(b, k, 2, 2, 2, dtype=torch.float64)
    label = torch.randint(0, k, (b, 1, 2, 2, 2))
    label[torch.rand(label.shape) < ignore] = -1
    return logits, label


def loop(logits, label, weight, include_background):
    """Mean over rows that have a voxel, from the two equations; smoothing 1e-5 as in MONAI."""
    rows = []
    for z, y, w in zip(logits, label, weight, strict=True):
        p = z.softmax(0).flatten(1)
        voxels = [(v, int(c), u) for v, (c, u) in enumerate(zip(y.flatten(), w.flatten().tolist(), strict=True))]
        voxels = [voxel for voxel in voxels if voxel[1] >= 0]
        if not sum(u for *_, u in voxels):
            continue
        dices = []
        for k in range(0 if include_background else 1, len(p)):
            both = sum(u * p[k, v].item() for v, c, u in voxels if c == k)
            sums = sum(u * (p[k, v].item() + (c == k)) for v, c, u in voxels)
            dices.append(1 - (2 * both + 1e-5) / (sums + 1e-5))
        cross = -sum(u * math.log(p[c, v]) for v, c, u in voxels) / sum(u for *_, u in voxels)
        rows.append((sum(dices) / len(dices), cross))
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("include_background", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_against_plain_loops(include_background, weighted):
    logits, label = batch(b=4)
    label[2] = -1
    weight = torch.rand(label.shape, dtype=torch.float64) if weighted else None
    dice, cross = loop(logits, label, torch.ones_like(label) if weight is None else weight, include_background)
    loss = dice_cross_entropy(
        logits,
        label,
        dice_weight=0.7,
        cross_entropy_weight=1.3,
        include_background=include_background,
        weight=weight,
    )
    assert loss.item() == pytest.approx(0.7 * dice + 1.3 * cross, rel=1e-6)


@pytest.mark.parametrize("include_background", [False, True])
def test_without_ignored_voxels_it_is_monais_dice_ce(include_background):
    logits, label = batch(ignore=0.0)
    expected = DiceCELoss(include_background=include_background, softmax=True, to_onehot_y=True, lambda_ce=0.5)(
        logits, label
    )
    loss = dice_cross_entropy(logits, label, cross_entropy_weight=0.5, include_background=include_background)
    # MONAI leaves the background's cross-entropy in; so do we.
    torch.testing.assert_close(loss, expected)


def test_dice_by_hand():
    # Certain of voxels 1 and 2 where 2 and 3 are true: Dice 2 * 1 / (2 + 2) = 1/2.
    logits = torch.tensor([[-50.0, 50.0, 50.0, -50.0]])
    logits = torch.stack((-logits, logits), 1)
    label = torch.tensor([[[0, 0, 1, 1]]])
    assert dice_cross_entropy(logits, label, **DICE).item() == pytest.approx(0.5, abs=1e-5)
    # Leaving out voxel 1, which was wrong: 2 * 1 / (1 + 2) = 2/3.
    label[0, 0, 1] = -1
    assert dice_cross_entropy(logits, label, **DICE).item() == pytest.approx(1 / 3, abs=1e-5)


def test_cross_entropy_by_hand():
    logits = torch.zeros(2, 4, 2, 2, 2)
    label = torch.full((2, 1, 2, 2, 2), -1)
    label[0, 0, 0, 0, 0] = 3
    assert dice_cross_entropy(logits, label, **CROSS_ENTROPY).item() == pytest.approx(math.log(4))


def test_ignored_voxels_change_nothing_and_get_no_gradient():
    logits, label = batch()
    changed = logits + 100 * torch.randn_like(logits) * (label == -1)
    torch.testing.assert_close(dice_cross_entropy(changed, label), dice_cross_entropy(logits, label))
    logits.requires_grad_()
    dice_cross_entropy(logits, label, include_background=True).backward()
    assert (logits.grad[(label == -1).expand_as(logits)] == 0).all()
    assert (logits.grad[(label != -1).expand_as(logits)] != 0).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_unlabeled_rows_do_not_count_and_halves_average_to_the_whole(weighted):
    logits, label = batch(b=4)
    weight = torch.rand(label.shape) if weighted else torch.ones(label.shape)

    def loss(rows):
        return dice_cross_entropy(logits[rows], label[rows], weight=weight[rows] if weighted else None)

    torch.testing.assert_close(loss(slice(0, 4)), (loss(slice(0, 2)) + loss(slice(2, 4))) / 2)
    label[1] = -1
    torch.testing.assert_close(loss([0, 1, 2]), loss([0, 2]))


@pytest.mark.parametrize("weight", [None, 1.0])
def test_when_every_row_is_unlabeled_the_loss_is_0_and_the_graph_stays(weight):
    logits = torch.randn(2, 3, 2, 2, 2, requires_grad=True)
    weight = None if weight is None else torch.full((2, 1, 2, 2, 2), weight)
    loss = dice_cross_entropy(logits, torch.full((2, 1, 2, 2, 2), -1), weight=weight)
    loss.backward()
    assert loss.item() == 0 and (logits.grad == 0).all()


def test_weights_act_within_a_row():
    logits, label = batch(ignore=0.0)
    weight = torch.rand(label.shape, dtype=torch.float64) + 0.1
    whole = dice_cross_entropy(logits, label, weight=weight)
    torch.testing.assert_close(dice_cross_entropy(logits, label, weight=7 * weight), whole, rtol=1e-4, atol=1e-6)
    zeros_and_ones = (weight > 0.5).double()
    masked = label.masked_fill(zeros_and_ones == 0, -1)
    torch.testing.assert_close(
        dice_cross_entropy(logits, label, weight=zeros_and_ones), dice_cross_entropy(logits, masked)
    )
    rows = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64).reshape(3, 1, 1, 1, 1)
    torch.testing.assert_close(
        dice_cross_entropy(logits, label, weight=rows), dice_cross_entropy(logits[[0, 2]], label[[0, 2]])
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_soft_targets_that_are_hard_give_the_hard_loss(weighted):
    logits, label = batch(ignore=0.0)
    target = torch.nn.functional.one_hot(label[:, 0], 3).movedim(-1, 1).double()
    weight = torch.rand(label.shape, dtype=torch.float64) if weighted else None
    torch.testing.assert_close(
        soft_dice_cross_entropy(logits, target, weight=weight), dice_cross_entropy(logits, label, weight=weight)
    )


def test_soft_loss_is_least_at_the_target_which_gets_no_gradient():
    torch.manual_seed(0)
    teacher = torch.randn(2, 3, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    student = teacher.detach().clone().requires_grad_()
    assert soft_dice_cross_entropy(student, teacher.softmax(1), **DICE).item() == pytest.approx(0, abs=1e-9)
    other = soft_dice_cross_entropy(student + 0.3 * torch.randn_like(student), teacher.softmax(1))
    assert other > soft_dice_cross_entropy(student, teacher.softmax(1))
    other.backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0


def test_soft_rows_without_weight_do_not_count():
    torch.manual_seed(0)
    logits, target = torch.randn(3, 2, 2, 2, 2), torch.randn(3, 2, 2, 2, 2).softmax(1)
    weight = torch.tensor([1.0, 1.0, 0.0]).reshape(3, 1, 1, 1, 1)
    torch.testing.assert_close(
        soft_dice_cross_entropy(logits, target, weight=weight), soft_dice_cross_entropy(logits[:2], target[:2])
    )
    logits.requires_grad_()
    nothing = soft_dice_cross_entropy(logits, target, weight=0 * weight)
    nothing.backward()
    assert nothing.item() == 0 and (logits.grad == 0).all()


@pytest.mark.parametrize("include_background", [False, True])
def test_gradcheck(include_background):
    logits, label = batch(b=2)
    logits.requires_grad_()
    weight = torch.rand(label.shape, dtype=torch.float64)
    target = torch.randn_like(logits).softmax(1)
    background = {"include_background": include_background}
    assert torch.autograd.gradcheck(lambda z: dice_cross_entropy(z, label, **background), (logits,))
    assert torch.autograd.gradcheck(lambda z: dice_cross_entropy(z, label, weight=weight, **background), (logits,))
    assert torch.autograd.gradcheck(lambda z: soft_dice_cross_entropy(z, target, weight=weight), (logits,))


def test_bfloat16_under_autocast_runs_in_float32():
    logits, label = batch()
    low = (30 * logits).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hard = dice_cross_entropy(low, label)
        soft = soft_dice_cross_entropy(low, logits.softmax(1).bfloat16())
    torch.testing.assert_close(hard, dice_cross_entropy(low.detach().float(), label))
    (hard + soft).backward()
    assert hard.dtype == soft.dtype == torch.float32 and low.grad.isfinite().all()


@pytest.mark.parametrize("ignored", [-100, -2])
@pytest.mark.parametrize("weighted", [False, True])
def test_every_negative_number_is_ignored(ignored, weighted):
    """-100 is PyTorch's own."""
    logits, label = batch(b=4)
    label[2] = -1
    weight = torch.rand(label.shape, dtype=torch.float64) if weighted else None
    other = label.masked_fill(label == -1, ignored)
    for background in (False, True):
        expected = dice_cross_entropy(logits, label, include_background=background, weight=weight)
        assert torch.equal(dice_cross_entropy(logits, other, include_background=background, weight=weight), expected)


def test_a_row_that_is_ignored_by_pytorchs_number_has_no_gradient():
    logits = torch.zeros(1, 2, 4, 4, 4, requires_grad=True)
    dice_cross_entropy(logits, torch.full((1, 1, 4, 4, 4), -100)).backward()
    assert not logits.grad.any()


def test_one_class_is_refused():
    one, sentence = (
        torch.randn(2, 1, 4, 4, 4),
        re.escape("2 classes or more, background first, but got (2, 1, 4, 4, 4): "),
    )
    with pytest.raises(InputError, match=f"^logits must have shape .*{sentence}"):
        dice_cross_entropy(one, torch.zeros(2, 1, 4, 4, 4, dtype=torch.int64))
    with pytest.raises(InputError, match=sentence):
        soft_dice_cross_entropy(one, one.sigmoid())


@pytest.mark.parametrize("shape", [(2, 4, 4, 4), (2, 1, 4, 4), (2, 2, 4, 4, 4), (1, 1, 4, 4, 4), (2, 1, 2, 4, 4)])
def test_a_label_of_another_shape_is_refused(shape):
    sentence = f"label must have shape (2, 1, 4, 4, 4), that of the logits with one channel, but got {shape}."
    with pytest.raises(InputError, match=re.escape(sentence)):
        dice_cross_entropy(torch.randn(2, 2, 4, 4, 4), torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.uint8, torch.bool])
def test_a_label_of_another_type_is_refused(dtype):
    sentence = f"label must hold class indices of torch.int64, but got {dtype}: take label.long()."
    with pytest.raises(InputError, match=re.escape(sentence)):
        dice_cross_entropy(torch.randn(2, 2, 4, 4, 4), torch.zeros(2, 1, 4, 4, 4, dtype=dtype))


@pytest.mark.parametrize("shape", [(2, 1, 4, 4, 4), (1, 2, 4, 4, 4), (2, 4, 4, 4)])
def test_a_soft_target_of_another_shape_is_refused(shape):
    sentence = f"target_probabilities must have shape (2, 2, 4, 4, 4), that of the logits, but got {shape}."
    with pytest.raises(InputError, match=re.escape(sentence)):
        soft_dice_cross_entropy(torch.randn(2, 2, 4, 4, 4), torch.rand(shape))
