"""Tests of the EMA teacher: reference (plain loop), by hand, property, gradient."""

import pytest
import torch
from torch import nn

from medcontrast.errors import InputError
from medcontrast.networks.ema import make_teacher, teacher_decay, update_teacher


def make_student(seed=0):
    torch.manual_seed(seed)
    student = nn.Sequential(nn.Conv3d(1, 3, 1), nn.BatchNorm3d(3), nn.Conv3d(3, 2, 1))
    student(torch.randn(2, 1, 4, 4, 4))
    return student


def change(student):
    with torch.no_grad():
        for p in student.parameters():
            p.add_(torch.randn_like(p))
    student(torch.randn(2, 1, 4, 4, 4) * 3 + 1)


def equal(first, second):
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_the_teacher_begins_as_the_student_shares_nothing_and_takes_no_gradient():
    student = make_student()
    teacher = make_teacher(student)
    assert equal(teacher, student)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in student.parameters())
    change(student)
    assert not equal(teacher, student)


def test_decay_0_gives_the_student_and_decay_1_leaves_the_teacher():
    student = make_student()
    teacher = make_teacher(student)
    change(student)
    before = make_teacher(teacher)
    update_teacher(teacher, student, 1.0, step=0)
    update_teacher(teacher, student, 1.0, step=1000)
    assert equal(teacher, before)
    update_teacher(teacher, student, 0.0, step=1000)
    assert equal(teacher, student)


def test_warm_up_by_hand():
    assert teacher_decay(0.99, 0) == 0.0
    assert teacher_decay(0.99, 1) == 0.5
    assert teacher_decay(0.99, 3) == 0.75
    assert teacher_decay(0.99, 98) == pytest.approx(1 - 1 / 99)
    assert teacher_decay(0.99, 99) == teacher_decay(0.99, 100_000) == 0.99
    assert teacher_decay(0.0, 50) == 0.0
    assert teacher_decay(1.0, 0) == 1.0


def test_against_a_plain_loop_over_many_steps():
    student = make_student()
    teacher = make_teacher(student)
    expected = {name: p.detach().double().clone() for name, p in student.named_parameters()}
    for step in range(20):
        change(student)
        update_teacher(teacher, student, 0.9, step)
        decay = min(1 - 1 / (step + 1), 0.9)
        for name, p in student.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * p.detach().double()
    for name, p in teacher.named_parameters():
        torch.testing.assert_close(p.double(), expected[name], rtol=1e-5, atol=1e-5)


def test_the_update_is_in_place():
    student = make_student()
    teacher = make_teacher(student)
    first = next(teacher.parameters())
    place, before = first.data_ptr(), first.clone()
    change(student)
    update_teacher(teacher, student, 0.5, step=100)
    assert next(teacher.parameters()).data_ptr() == place
    assert not torch.equal(first, before)


def test_buffers_are_copied_or_left():
    student = make_student()
    copied, own = make_teacher(student), make_teacher(student)
    before = student[1].running_mean.clone()
    change(student)
    update_teacher(copied, student, 0.75, step=100)
    update_teacher(own, student, 0.75, step=100, buffers="own")
    torch.testing.assert_close(copied[1].running_mean, student[1].running_mean, rtol=0, atol=0)
    torch.testing.assert_close(own[1].running_mean, before, rtol=0, atol=0)
    assert (copied[1].num_batches_tracked, own[1].num_batches_tracked) == (2, 1)


def test_no_gradient_reaches_the_teacher_and_the_update_is_in_no_graph():
    student = make_student()
    teacher = make_teacher(student)
    update_teacher(teacher, student, 0.5, step=10)
    image = torch.randn(2, 1, 4, 4, 4)
    (student(image) - teacher(image)).square().mean().backward()
    assert all(p.grad is None and p.grad_fn is None for p in teacher.parameters())
    assert student[0].weight.grad is not None


def test_a_teacher_saved_and_restored_goes_on_the_same():
    student = make_student()
    teacher = make_teacher(student)
    change(student)
    update_teacher(teacher, student, 0.9, step=5)
    restored = make_teacher(make_student(seed=1))
    restored.load_state_dict(teacher.state_dict())
    change(student)
    update_teacher(teacher, student, 0.9, step=6)
    update_teacher(restored, student, 0.9, step=6)
    assert equal(teacher, restored)


def test_wrong_use_is_refused():
    student = make_student()
    with pytest.raises(InputError, match=r"ema_decay lies in 0..1, but got 1.5"):
        update_teacher(make_teacher(student), student, 1.5, step=0)
    with pytest.raises(ValueError, match="teacher and student differ in"):
        update_teacher(nn.Linear(1, 1), student, 0.5, step=0)


def test_own_buffers_stay_where_the_decay_makes_the_teacher_the_student():
    student = make_student()
    teacher = make_teacher(student)
    change(student)
    before = teacher[1].running_mean.clone()
    update_teacher(teacher, student, 0.0, step=None, buffers="own")
    assert torch.equal(teacher[0].weight, student[0].weight)
    assert torch.equal(teacher[1].running_mean, before)
