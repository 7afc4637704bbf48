"""Tests of what every method with a teacher promises: by hand, property, gradient."""

from __future__ import annotations

import pytest
import torch
from leaks import require_blind_to_unlabeled

from medcontrast.batch import StepInfo
from medcontrast.methods import METHODS, build_method
from medcontrast.methods.base import TeacherMethod
from medcontrast.networks.build import build_network

TEACHERS = ("mean_teacher", "ua_mt", "bcp", "fba_net")
RAMPED = ("mean_teacher", "ua_mt", "fba_net")
"""bcp mixes its labeled rows from the first step on, and its weight does not ramp up."""
FORMS = {
    **{name: (name, {}) for name in TEACHERS},
    "bcp, pre-training": ("bcp", {"pretrain_steps": 6}),
    "soft targets": ("fba_net", {"consistency.target": "soft"}),
    "soft, not sharpened": ("fba_net", {"consistency.target": "soft", "consistency.temperature": 1.0}),
    "soft, by confidence": (
        "fba_net",
        {"consistency.target": "soft", "consistency.weigh_by_confidence": True, "contrast.weigh_by_confidence": True},
    ),
    "hard, by confidence": (
        "fba_net",
        {"consistency.weigh_by_confidence": True, "contrast.weigh_by_confidence": True},
    ),
    "noise": ("fba_net", {"consistency.perturbation": "noise"}),
    "boxes of unlabeled rows": ("fba_net", {"consistency.paste_from": "unlabeled", "consistency.paste_probability": 1}),
    "whole patches": ("fba_net", {"contrast.region": 0}),
    "logits": ("fba_net", {"contrast.pooled": "logits"}),
    "ranks": ("fba_net", {"contrast.pull_rank_decay": 0.25, "contrast.push_rank_decay": 2.5}),
    "no memory": ("fba_net", {"contrast.memory": 0}),
    "no contrast": ("fba_net", {"contrast.weight": 0.0}),
    "three decoders": ("fba_net", {"decoders": 3}),
}
"""Every method with a teacher, the part of bcp that has none, and fba_net's settings: what to `make`."""
INFO = StepInfo(step=5, total=10, seed=1)


@pytest.fixture
def make(tiny):
    def build(name, *, norm="instance", dropout=0.0, network="dynunet", decoders=1, **settings):
        tree = tiny.recipe_tree(name, steps=INFO.total)
        tree["network"]["decoders"] = decoders
        for key, value in settings.items():
            tree = tiny.set_key(tree, f"method.{key}", value)
        recipe = tiny.recipe_from(tree)
        filters = {"dynunet": [4, 8, 8], "vnet": 2}[network]
        torch.manual_seed(0)
        plain = {"filters": filters, "norm": norm, "dropout": dropout, "decoders": decoders}
        return build_method(recipe.method, lambda: build_network(network, in_channels=1, classes=3, **plain)).train()

    return build


def off(name):
    """Settings that leave the supervised part alone."""
    return {"consistency.weight": 0.0, "contrast.weight": 0.0} if name == "fba_net" else {"consistency_weight": 0.0}


def step(method, batch, info=INFO, lr=0.1):
    terms = method.losses(batch, info)
    terms["loss"].backward()
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter -= lr * parameter.grad
                parameter.grad = None
    method.after_step(info)
    return terms


@torch.no_grad()
def move(network, seed=2):
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def parameters(network):
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def equal(left, right):
    return all(torch.equal(left[name], right[name]) for name in left)


def test_every_teacher_method_is_tested_here():
    found = [
        each.model_fields["name"].annotation.__args__[0]
        for each in METHODS
        if issubclass(METHODS[each], TeacherMethod) and "segmentation" in each.model_fields
    ]
    assert sorted(found) == sorted(TEACHERS)


@pytest.mark.parametrize("name", TEACHERS)
def test_the_teacher_is_an_average_of_the_student(tiny, make, name):
    method, batch = make(name, ema_decay=0.6), tiny.make_batch()
    assert equal(parameters(method.teacher), parameters(method.student))
    before = parameters(method.teacher)
    step(method, batch)
    student, teacher = parameters(method.student), parameters(method.teacher)
    assert not equal(before, student)
    for key in teacher:
        torch.testing.assert_close(teacher[key], 0.6 * before[key] + 0.4 * student[key])


@pytest.mark.parametrize("name", TEACHERS)
def test_decay_0_copies_the_student_and_decay_1_leaves_the_teacher(tiny, make, name):
    copied, left = make(name, ema_decay=0.0), make(name, ema_decay=1.0)
    before = parameters(left.teacher)
    for method in (copied, left):
        step(method, tiny.make_batch(), INFO._replace(step=0))
        step(method, tiny.make_batch())
    assert equal(parameters(copied.teacher), parameters(copied.student))
    assert equal(parameters(left.teacher), before)
    assert not equal(parameters(left.student), before)


@pytest.mark.parametrize("name", TEACHERS)
def test_losses_alone_leave_the_teacher_where_it_is(tiny, make, name):
    method = make(name)
    before = {key: value.clone() for key, value in method.teacher.state_dict().items()}
    for _ in range(2):
        method.losses(tiny.make_batch(), INFO)
    assert equal(before, method.teacher.state_dict())


@pytest.mark.parametrize("name", TEACHERS)
def test_the_teacher_stays_in_evaluation_mode_and_is_what_predicts(make, name):
    method = make(name)
    assert method.inference_network() is method.teacher
    for mode in (True, False, True):
        method.train(mode)
        assert method.student.training is mode
        assert not any(module.training for module in method.teacher.modules())


@pytest.mark.parametrize("name", TEACHERS)
def test_a_new_method_has_its_teacher_in_evaluation_mode(tiny, name):
    network = lambda: build_network("dynunet", in_channels=1, classes=3, filters=[4, 8, 8])  # noqa: E731
    assert not build_method(tiny.make_recipe(name).method, network).teacher.training


@pytest.mark.parametrize("name", TEACHERS)
def test_dropout_and_batch_statistics_never_act_in_the_teacher(tiny, make, name):
    method = make(name, network="vnet", norm="batch", dropout=0.5)
    image = tiny.make_batch(side=32)["image"][2:]
    with torch.no_grad():
        alone, beside = method.teacher(image[:1]).logits, method.teacher(image).logits[:1]
    torch.testing.assert_close(alone, beside, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TEACHERS)
def test_running_statistics_are_copied_from_the_student(tiny, make, name):
    method = make(name, network="vnet", norm="batch", ema_decay=0.9)
    step(method, tiny.make_batch(side=32))
    student, teacher = dict(method.student.named_buffers()), dict(method.teacher.named_buffers())
    assert any("running_mean" in key for key in student)
    assert equal(student, teacher)


@pytest.mark.parametrize("form", FORMS)
def test_every_term_reaches_the_student_and_stops_at_the_teacher(tiny, make, form):
    """Also once there is a memory; the teacher's weights and images would take a gradient here."""
    name, settings = FORMS[form]
    method, batch = make(name, **settings), tiny.make_batch()
    trained = [parameter for parameter in method.parameters() if parameter.requires_grad]
    student, teacher = list(method.student.parameters()), list(method.teacher.parameters())
    assert not any(parameter.requires_grad for parameter in teacher)
    method.teacher.requires_grad_()
    batch["views"]["weak"].requires_grad_()
    for number in range(2):
        move(method.student, seed=number)  # a student that equals its teacher has little to learn from it
        terms = method.losses(batch, INFO)
        assert {"loss", "supervised"} <= terms.keys()
        for term, value in terms.items():
            assert value.shape == () and bool(torch.isfinite(value)), term
            found = torch.autograd.grad(value, student, retain_graph=True, allow_unused=True)
            assert sum(float(each.abs().sum()) for each in found if each is not None) > 0, term
        terms["loss"].backward()
        assert batch["views"]["weak"].grad is None
        assert all(parameter.grad is None for parameter in teacher)
        assert all(parameter.grad is not None for parameter in trained)
        method.after_step(INFO)


@pytest.mark.parametrize("form", FORMS)
def test_every_term_changes_with_the_student_and_consistency_with_the_teacher(tiny, make, form):
    name, settings = FORMS[form]
    method, batch = make(name, **settings), tiny.make_batch()
    with torch.no_grad():
        before = method.losses(batch, INFO)
        move(method.student)
        after = method.losses(batch, INFO)
        move(method.teacher)
        third = method.losses(batch, INFO)
    assert ("consistency" in before) == (form != "bcp, pre-training")
    for term, value in before.items():
        assert value > 0
        assert abs(float(after[term] - value)) > 1e-6, term
    for term in {"consistency"} & before.keys():
        assert abs(float(third[term] - after[term])) > 1e-6


def test_the_contrast_reaches_the_decoder_beside_dice(tiny, make):
    """Of the default form, cells along class borders: at least a thousandth of Dice's gradient at the last features."""
    method, batch = make("fba_net", **{"segmentation.cross_entropy_weight": 0.0}), tiny.make_batch()
    kept = []
    method.student.body.register_forward_hook(lambda module, given, features: kept.append(features))
    terms = method.losses(batch, INFO)
    names = ("supervised", "pull_foreground", "pull_background", "push")
    norms = [float(torch.autograd.grad(terms[name], kept[-1], retain_graph=True)[0].norm()) for name in names]
    assert norms[0] > 0 and min(norms[1:]) >= 1e-3 * norms[0], norms


@pytest.mark.parametrize("name", RAMPED)
def test_without_unsupervised_weights_a_step_is_a_supervised_step(tiny, make, name):
    batch = tiny.make_batch()
    method, supervised = make(name, **off(name)), make("supervised")
    assert equal(parameters(method.student), parameters(supervised.student))
    left, right = step(method, batch), step(supervised, batch)
    torch.testing.assert_close(left["loss"], right["loss"])
    moved, expected = parameters(method.student), parameters(supervised.student)
    for key in expected:
        torch.testing.assert_close(moved[key], expected[key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", TEACHERS)
def test_labels_of_unlabeled_rows_change_nothing(tiny, make, name):
    require_blind_to_unlabeled(make(name), tiny.make_batch(), INFO)


@pytest.mark.parametrize("name", RAMPED)
def test_weights_ramp_up(tiny, make, name):
    batch = tiny.make_batch()
    with torch.no_grad():
        shares = []
        for number in (0, 1, 2):
            terms = make(name).losses(batch, INFO._replace(step=number))
            shares.append(float(terms["loss"] - terms["supervised"]))
    assert 0 < shares[0] < shares[1] < shares[2]
    terms = make(name, **off(name)).losses(batch, INFO)
    assert torch.equal(terms["loss"], terms["supervised"])


@pytest.mark.parametrize("name", TEACHERS)
def test_the_state_holds_all_that_a_resume_needs(tiny, make, name):
    batch = tiny.make_batch()
    method = make(name)
    for number in range(3):
        step(method, batch, INFO._replace(step=number))
    other = make(name)
    other.load_state_dict(method.state_dict())
    left, right = (step(each, batch, INFO._replace(step=3)) for each in (method, other))
    assert all(torch.equal(left[key], right[key]) for key in left)
    assert equal(method.state_dict(), other.state_dict())


@pytest.mark.parametrize("name", TEACHERS)
def test_load_student_gives_the_teacher_the_same(tiny, make, name):
    method = make(name)
    tensors = {key: value + 1 for key, value in method.student.state_dict().items()}
    tensors["elsewhere"] = torch.zeros(3)
    first = next(iter(method.student.state_dict()))
    tensors[first] = torch.zeros(1, 2, 3)
    assert method.load_student(tensors) == len(tensors) - 2
    assert equal(parameters(method.student), parameters(method.teacher))


@pytest.mark.parametrize("form", FORMS)
def test_a_bfloat16_step_stays_finite(tiny, make, form):
    name, settings = FORMS[form]
    method, batch = make(name, **settings), tiny.make_batch()
    with torch.autocast("cpu", torch.bfloat16):
        terms = method.losses(batch, INFO)
    terms["loss"].backward()
    assert all(bool(torch.isfinite(value)) and value.dtype == torch.float32 for value in terms.values())
    assert all(bool(torch.isfinite(p.grad).all()) for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_takes_two_steps(tiny, make, form):
    name, settings = FORMS[form]
    method = make(name, **settings)
    for number in range(2):
        terms = step(method, tiny.make_batch(), INFO._replace(step=number))
        assert all(bool(torch.isfinite(value)) for value in terms.values())


def test_fba_net_takes_rows_without_foreground_and_ignored_voxels(tiny, make):
    method, batch = make("fba_net"), tiny.make_batch()
    batch["label"][0] = 0
    batch["label"][1, :, :8] = -1
    terms = step(method, batch)
    assert all(bool(torch.isfinite(value)) for value in terms.values())


def test_fba_net_takes_more_unlabeled_rows_than_labeled(tiny, make):
    terms = step(make("fba_net"), tiny.make_batch(labeled=1, unlabeled=3))
    assert all(bool(torch.isfinite(value)) for value in terms.values())


def test_fba_net_with_one_foreground_class(tiny, make):
    method = make("fba_net")
    batch = tiny.make_batch(classes=2)
    assert all(bool(torch.isfinite(value)) for value in step(method, batch).values())


@pytest.mark.parametrize("name", TEACHERS)
def test_voxels_that_pytorchs_number_ignores_are_ignored(tiny, make, name):
    changes = {"consistency.paste_probability": 1.0} if name == "fba_net" else {}
    batch = tiny.make_batch()
    batch["label"][:2, :, 9:] = -1
    other = {**batch, "label": batch["label"].masked_fill(batch["label"] == -1, -100)}
    with torch.no_grad():
        terms, found = (make(name, **changes).losses(each, INFO) for each in (batch, other))
    assert [term for term, value in terms.items() if not torch.equal(found[term], value)] == []
