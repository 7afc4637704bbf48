"""Self-distillation: reference (plain loops in float64), by hand, gradient, property."""

from __future__ import annotations

import math

import pytest
import torch

from medcontrast.errors import InputError
from medcontrast.losses.self_distillation import centred_softmax, cross_entropy_to, moved_center, self_distillation


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(values):
    weights = [math.exp(value) for value in values]
    return [weight / sum(weights) for weight in weights]


def reference(student, teacher, center, *, hot, cold):
    """Equation 3 over lists of numbers."""
    terms = []
    for t, seen in enumerate(teacher):
        for s, guessed in enumerate(student):
            if s == t:
                continue
            for row, (target, logits) in enumerate(zip(seen, guessed, strict=True)):
                p = softmax([(value - c) / cold for value, c in zip(target.tolist(), center.tolist(), strict=True)])
                q = softmax([value / hot for value in logits.tolist()])
                terms.append(-sum(a * math.log(b) for a, b in zip(p, q, strict=True)))
                assert row < len(guessed)
    return sum(terms) / len(terms)


@pytest.mark.parametrize("views", [2, 5])
def test_it_equals_plain_loops(views):
    student = [draw(3, 6, seed=view) for view in range(views)]
    teacher, center = [draw(3, 6, seed=10 + view) for view in range(2)], draw(6, seed=20)
    loss = self_distillation(student, teacher, center, student_temperature=0.2, teacher_temperature=0.07)
    assert float(loss) == pytest.approx(reference(student, teacher, center, hot=0.2, cold=0.07), rel=1e-10)


def test_by_hand_equal_logits_give_the_entropy_of_the_target():
    logits = torch.tensor([[0.0, math.log(3.0)]], dtype=torch.float64)
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    loss = self_distillation(
        [logits, logits], [logits, logits], torch.zeros(2), student_temperature=1.0, teacher_temperature=1.0
    )
    assert float(loss) == pytest.approx(expected)


def test_the_centre_takes_a_prototype_that_all_rows_share_out_of_the_target():
    logits = torch.tensor([[5.0, 1.0, 0.0], [5.0, 0.0, 1.0]], dtype=torch.float64)
    shared = centred_softmax(logits, torch.zeros(3), temperature=0.1)
    assert shared.argmax(1).tolist() == [0, 0]
    apart = centred_softmax(logits, torch.tensor([5.0, 0.5, 0.5]), temperature=0.1)
    assert apart.argmax(1).tolist() == [1, 2]
    torch.testing.assert_close(apart.sum(1), torch.ones(2, dtype=torch.float64))
    sharper = centred_softmax(logits, torch.tensor([5.0, 0.5, 0.5]), temperature=0.05)
    assert bool((sharper.amax(1) > apart.amax(1)).all())


def test_the_centre_moves_by_its_momentum():
    center = moved_center(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 0.0]), 0.9)
    torch.testing.assert_close(center, torch.tensor([1.2, -1.8]))


def test_gradient_reaches_the_student_alone_and_is_right():
    student = [draw(2, 4, seed=view).requires_grad_() for view in range(3)]
    teacher = [draw(2, 4, seed=10 + view).requires_grad_() for view in range(2)]
    self_distillation(student, teacher, draw(4), student_temperature=0.1, teacher_temperature=0.04).backward()
    assert all(each.grad.abs().max() > 0 for each in student) and all(each.grad is None for each in teacher)
    assert torch.autograd.gradcheck(
        lambda first, second: self_distillation(
            [first, second], teacher, draw(4), student_temperature=0.5, teacher_temperature=0.2
        ),
        (student[0], student[1]),
    )


def test_low_precision_is_promoted():
    logits = (50.0 * draw(4, 8)).to(torch.bfloat16)
    loss = cross_entropy_to(logits, centred_softmax(logits, torch.zeros(8), temperature=0.04), temperature=0.1)
    assert loss.dtype == torch.float32 and loss.isfinite()


def test_views_without_a_pair_are_refused():
    with pytest.raises(InputError, match="compares different views, but got 1 of the student and 1 of the teacher"):
        self_distillation([draw(2, 4)], [draw(2, 4)], draw(4), student_temperature=0.1, teacher_temperature=0.04)
