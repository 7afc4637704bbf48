"""Tests of consistency losses: reference (plain float64 loops), by hand, property, gradient."""

import math
import re

import pytest
import torch

from medcontrast.errors import InputError
from medcontrast.losses.consistency import (
    entropy,
    maximum_entropy,
    mse_consistency,
    mutual_consistency,
    sharpen,
)


def probabilities(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)).softmax(1)


def channels(*values):
    return torch.tensor(values, dtype=torch.float64).reshape(1, -1, 1, 1, 1)


def two(p):
    return channels(p, 1 - p)


def test_sharpen_by_hand():
    # 0.8^2 / (0.8^2 + 0.2^2) = 0.64 / 0.68
    torch.testing.assert_close(sharpen(two(0.8), 0.5), two(0.64 / 0.68))
    # three classes: squares of 0.5, 0.3, 0.2 over their sum 0.38
    torch.testing.assert_close(sharpen(channels(0.5, 0.3, 0.2), 0.5), channels(0.25 / 0.38, 0.09 / 0.38, 0.04 / 0.38))


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5, 1.0, 3.0])
def test_sharpen_against_the_binary_equation(temperature):
    for p in (0.01, 0.2, 0.5, 0.7, 0.99):
        power = 1 / temperature
        expected = p**power / (p**power + (1 - p) ** power)
        assert sharpen(two(p), temperature)[0, 0].item() == pytest.approx(expected)
        assert sharpen(channels(p), temperature).item() == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_sharpen_keeps_one_half_uniform_order_and_sum(temperature):
    torch.testing.assert_close(sharpen(two(0.5), temperature), two(0.5))
    torch.testing.assert_close(sharpen(channels(0.25, 0.25, 0.25, 0.25), temperature), channels(*[0.25] * 4))
    p = probabilities(3, 4, 5, 5, 5)
    sharp = sharpen(p, temperature)
    torch.testing.assert_close(sharp.sum(1), torch.ones(3, 5, 5, 5, dtype=torch.float64))
    assert torch.equal(sharp.argsort(1), p.argsort(1))


def test_sharpen_is_monotone_and_the_identity_at_1():
    values = [sharpen(two(p), 0.1)[0, 0].item() for p in torch.linspace(0.3, 0.7, 21).tolist()]
    assert values == sorted(values) and len(set(values)) == 21
    p = probabilities(2, 3, 4, 4, 4)
    assert torch.equal(sharpen(p, 1.0), p)


def test_sharpen_is_stable_at_0_and_1_in_float32():
    p = torch.tensor([0.0, 1.0, 1e-30]).reshape(3, 1, 1, 1, 1)
    p = torch.cat((p, 1 - p), 1).requires_grad_()
    sharp = sharpen(p, 0.05)
    assert sharp.flatten(1).tolist() == [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    sharp[:, 0].sum().backward()
    assert p.grad.isfinite().all()


def test_sharpen_refuses_a_temperature_that_is_not_positive():
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(InputError, match="temperature must be above 0, but got"):
            sharpen(two(0.5), temperature)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_against_plain_loops(k, weighted):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, k, 2, 3, 2, dtype=torch.float64, generator=generator)
    target = probabilities(3, k, 2, 3, 2, seed=2) if k > 1 else logits.flip(0).sigmoid()
    weight = torch.rand(3, 1, 2, 3, 2, dtype=torch.float64, generator=generator) if weighted else None
    student = logits.softmax(1) if k > 1 else logits.sigmoid()
    expected = 0.0
    for b in range(3):
        squares, total = 0.0, 0.0
        for v in range(12):
            p, t = student[b].reshape(k, -1)[:, v].tolist(), target[b].reshape(k, -1)[:, v].tolist()
            w = weight[b].flatten()[v].item() if weighted else 1.0
            squares += w * sum((x - y) ** 2 for x, y in zip(p, t, strict=True)) / k
            total += w
        expected += squares / total / 3
    assert mse_consistency(logits, target, weight).item() == pytest.approx(expected, rel=1e-9)


def test_mse_by_hand():
    # Student (1/2, 1/2) against (1, 0): both squares are 1/4.
    assert mse_consistency(channels(0.0, 0.0), channels(1.0, 0.0)).item() == pytest.approx(0.25)


def test_the_student_carries_gradient_and_the_target_none():
    torch.manual_seed(0)
    student = torch.randn(2, 3, 4, 4, 4, requires_grad=True)
    teacher = torch.randn(2, 3, 4, 4, 4, requires_grad=True)
    mse_consistency(student, teacher.softmax(1)).backward()
    assert teacher.grad is None
    assert (student.grad.flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize("count", [2, 3])
def test_each_decoder_learns_from_the_others_and_teaches_without_gradient(count):
    """By hand: the gradient at decoder i is that of its own differences to constant, sharpened others."""
    generator = torch.Generator().manual_seed(3)
    logits = [
        torch.randn(2, 3, 2, 3, 2, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(count)
    ]
    value = mutual_consistency(logits, 0.5)
    found = torch.autograd.grad(value, logits)
    squares = [each.detach().softmax(1).square() for each in logits]
    targets = [each / each.sum(1, keepdim=True) for each in squares]
    learned = [
        sum((logits[i].softmax(1) - targets[j]).square().mean() for j in range(count) if j != i) for i in range(count)
    ]
    torch.testing.assert_close(value, sum(learned))
    for gradient, own, each in zip(found, learned, logits, strict=True):
        torch.testing.assert_close(gradient, torch.autograd.grad(own, each)[0])
        assert float(gradient.abs().sum()) > 1e-3


def test_perturbing_the_student_changes_the_term():
    torch.manual_seed(0)
    student, target = torch.randn(2, 2, 4, 4, 4), torch.randn(2, 2, 4, 4, 4).softmax(1)
    assert (
        mse_consistency(student, target) - mse_consistency(student + 0.1 * torch.randn_like(student), target)
    ).abs() > 1e-5


def test_agreement_is_the_least():
    logits = torch.randn(2, 3, 4, 4, 4, dtype=torch.float64)
    same = logits.softmax(1)
    assert mse_consistency(logits, same).item() == pytest.approx(0, abs=1e-12)


def test_rows_without_weight_do_not_count_and_halves_average_to_the_whole():
    torch.manual_seed(0)
    student, target = torch.randn(4, 3, 4, 4, 4), probabilities(4, 3, 4, 4, 4, dtype=torch.float32, seed=1)
    weight = torch.rand(4, 1, 4, 4, 4)
    assert mse_consistency(student, target, weight) > 0.05
    halves = (
        mse_consistency(student[:2], target[:2], weight[:2]) + mse_consistency(student[2:], target[2:], weight[2:])
    ) / 2
    torch.testing.assert_close(mse_consistency(student, target, weight), halves)
    weight[3] = 0
    torch.testing.assert_close(
        mse_consistency(student, target, weight), mse_consistency(student[:3], target[:3], weight[:3])
    )
    student.requires_grad_()
    nothing = mse_consistency(student, target, torch.zeros_like(weight))
    nothing.backward()
    assert nothing.item() == 0 and (student.grad == 0).all()


@pytest.mark.parametrize("k", [1, 3])
def test_gradcheck(k):
    logits = torch.randn(2, k, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    target = probabilities(2, k, 2, 2, 2) if k > 1 else torch.rand(2, 1, 2, 2, 2, dtype=torch.float64)
    weight = torch.rand(2, 1, 2, 2, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda z: mse_consistency(z, target, weight), (logits,))


def test_bfloat16_under_autocast_stays_finite():
    student = (50 * torch.randn(2, 3, 4, 4, 4)).bfloat16().requires_grad_()
    target = torch.eye(3).repeat(2, 1, 1)[..., None, None].expand(2, 3, 3, 1, 1).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = mse_consistency(student[:, :, :3, :1, :1], target)
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite() and student.grad.isfinite().all()


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_entropy_lies_between_0_and_ln_c(classes):
    uniform = torch.full((1, classes, 1, 1, 1), 1 / classes, dtype=torch.float64)
    assert entropy(uniform).item() == pytest.approx(math.log(classes)) == pytest.approx(maximum_entropy(classes))
    certain = torch.zeros(1, classes, 1, 1, 1).index_fill(1, torch.tensor([0]), 1.0).requires_grad_()
    assert entropy(certain).item() == 0
    entropy(certain).sum().backward()
    assert certain.grad.isfinite().all()
    values = entropy(probabilities(2, classes, 4, 4, 4))
    assert values.shape == (2, 1, 4, 4, 4) and values.min() > 0 and values.max() < math.log(classes)


def test_one_channel_is_the_binary_case():
    p = torch.rand(2, 1, 3, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(entropy(p), entropy(torch.cat((p, 1 - p), 1)))
    assert maximum_entropy(1) == maximum_entropy(2) == math.log(2)


def test_sharpen_and_entropy_keep_probabilities_far_below_one():
    """Only 0 itself is replaced: 1e-9 is a probability like any other."""
    torch.testing.assert_close(sharpen(two(1e-9), 2.0), two(1e-9**0.5 / (1e-9**0.5 + (1 - 1e-9) ** 0.5)))
    expected = -1e-9 * math.log(1e-9) - (1 - 1e-9) * math.log1p(-1e-9)
    assert entropy(two(1e-9)).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(2, 1, 4, 4, 4), (1, 3, 4, 4, 4), (2, 3, 1, 1, 1), (3, 4, 4, 4)])
def test_a_target_that_pytorch_would_broadcast_is_refused(shape):
    sentence = f"target_probabilities must have shape (2, 3, 4, 4, 4), that of student_logits, but got {shape}."
    with pytest.raises(InputError, match=re.escape(sentence)):
        mse_consistency(torch.randn(2, 3, 4, 4, 4), torch.rand(shape))


def test_mutual_consistency_wants_two_decoders_of_one_shape():
    logits = torch.randn(2, 3, 4, 4, 4)
    with pytest.raises(InputError, match="compares 2 decoders or more, but got the logits of 1"):
        mutual_consistency([logits], 0.5)
    sentence = "logits[1] must have shape (2, 3, 4, 4, 4), that of logits[0], but got (1, 3, 4, 4, 4)."
    with pytest.raises(InputError, match=re.escape(sentence)):
        mutual_consistency([logits, logits[:1]], 0.5)
