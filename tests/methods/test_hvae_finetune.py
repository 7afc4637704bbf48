"""Tests of fine-tuning a generator: by hand, property (who moves when), gradient, golden run (3 + resume + 3 = 6)."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from medcontrast.batch import StepInfo
from medcontrast.engine.build import make_optimizer
from medcontrast.errors import InputError
from medcontrast.losses.parents import parent_losses
from medcontrast.methods import build_method
from medcontrast.methods.hvae import energy_of, reconstructed
from medcontrast.methods.hvae_finetune import drawn_parents
from medcontrast.networks.hvae import HVAE
from medcontrast.networks.parents import Parent, Parents
from medcontrast.networks.predictor import PREDICTOR_SHIFT
from medcontrast.settings.generator import HVAEFinetuneSettings
from medcontrast.settings.train import OptimizerSettings
from medcontrast.transforms.draws import row_generator
from medcontrast.transforms.shift import shifted

PARENTS = (Parent("domain", ("a", "b", "c")), Parent("age", mean=2.0, std=0.5))
KINDS = {"domain": "category", "age": "number"}
FIRST = 3
TOTAL = 9


def network():
    plain = {"filters": (8, 8, 16), "latent_channels": (0, 2, 4), "encoder_blocks": (1, 1, 1)}
    return HVAE(Parents(PARENTS, 8), in_channels=1, sides=(8, 8), decoder_blocks=(1, 1, 1), **plain)


def make(*, seed=0, **settings):
    """The method with a generator whose counterfactuals differ from their images."""
    torch.manual_seed(seed)
    values = {"predictor_steps": FIRST, **settings}
    method = build_method(HVAEFinetuneSettings(name="hvae_finetune", parents=KINDS, **values), network)
    with torch.no_grad():
        for parameter in method.student.parameters():
            if (parameter == 0).all():
                parameter.copy_(0.2 * torch.randn_like(parameter))
    method.teacher.load_state_dict(method.student.state_dict())
    return method.train()


def make_batch(seed=0, rows=4):
    generator = torch.Generator().manual_seed(seed)
    numbers = Parents(PARENTS).encode([{"domain": "abc"[row % 3], "age": 1.5 + row / 2} for row in range(rows)])
    image = torch.rand(rows, 1, 8, 8, generator=generator)
    return {"image": image, "case": [""] * rows, "index": torch.arange(rows), "attributes": numbers}


def info(step):
    return StepInfo(step, TOTAL, 0, 5)


def losses(method, step, batch=None):
    batch = make_batch(step) if batch is None else batch
    torch.manual_seed(step)
    return method.losses(batch, info(step))


def optimizer_of(method, **settings):
    return make_optimizer(OptimizerSettings(**{"lr": 0.01, "weight_decay": 0.1, **settings}), method)


def run(method, optimizer, steps, after=lambda step: None, batch=None):
    """Steps as the loop takes them: a part at rate 0 rests."""
    found = []
    for step in steps:
        for part, group in zip(method.parts(), optimizer.param_groups, strict=True):
            group["lr"] = method.rate(part, 0.01, info(step))
        terms = losses(method, step, batch)
        terms["loss"].backward()
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["lr"] == 0.0 else ():
                parameter.grad = None
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(info(step))
        found.append({name: float(value.detach()) for name, value in terms.items()})
        after(step)
    return found


def energy(method, step):
    batch = make_batch(step)
    torch.manual_seed(step)
    with torch.no_grad():
        found = reconstructed(method.student, batch, method.settings)
        return energy_of(found, method.settings, beta=method.settings.beta).loss


# --- what a step minimises


def test_first_steps_learn_the_predictor_from_real_images_that_are_moved():
    method, batch = make(), make_batch()
    terms = losses(method, 0, batch)
    draws = [row_generator(5, 0, row, "predictor's shift") for row in range(4)]
    moved = shifted(batch["image"], PREDICTOR_SHIFT, draws)
    assert not torch.equal(moved, batch["image"])
    expected = parent_losses(method.predictor(moved), batch["attributes"], [3, 1])
    torch.testing.assert_close(terms["loss"], torch.stack(expected).sum())
    torch.testing.assert_close([terms["real_domain"], terms["real_age"]], expected)
    torch.testing.assert_close(terms["free_energy"], energy(method, 0))


def test_later_steps_minimise_the_lagrangian_by_hand():
    method, batch = make(damping=0.5), make_batch()
    method.multiplier.fill_(2.0)
    method.bound.fill_(1.5)
    terms = losses(method, FIRST, batch)
    torch.manual_seed(FIRST)
    value = energy_of(reconstructed(method.student, batch, method.settings), method.settings, beta=1.0).loss
    wanted = drawn_parents(method.student.parents, batch["attributes"], [0, 1, 2, 3], info(FIRST))
    image = method.student.counterfactual(batch["image"], batch["attributes"], wanted)
    assert (image - batch["image"]).abs().max() > 0.01
    domain, age = parent_losses(method.predictor(image), wanted, [3, 1])
    slack = 1.5 - value
    torch.testing.assert_close(terms["free_energy"], value)
    torch.testing.assert_close([terms["counterfactual_domain"], terms["counterfactual_age"]], [domain, age])
    torch.testing.assert_close(terms["loss"], domain + age - (2.0 - 0.5 * slack) * slack)


def test_new_parents_are_drawn_uniformly_and_apart_from_each_other():
    made = Parents(PARENTS)
    rows = 6
    own = made.encode([{"domain": "a", "age": float(row)} for row in range(rows)])
    drawn = torch.cat([drawn_parents(made, own, list(range(rows)), info(step)) for step in range(500)])
    assert torch.equal(drawn[:, :3].sum(1), torch.ones(len(drawn)))
    assert set(drawn[:, 3].tolist()) == set(own[:, 3].tolist())
    count = len(drawn)
    for value in range(3):  # the own class as often as the others
        assert abs(drawn[:, value].mean().item() - 1 / 3) < 5 * (2 / 9 / count) ** 0.5
    for age in own[:, 3]:
        share = (drawn[:, 3] == age).double().mean().item()
        assert abs(share - 1 / rows) < 5 * (5 / 36 / count) ** 0.5
    assert abs(torch.corrcoef(drawn[:, [0, 3]].T)[0, 1].item()) < 5 / count**0.5


def test_new_parents_are_a_function_of_seed_step_and_row():
    made, own = Parents(PARENTS), make_batch(rows=6)["attributes"]
    whole = drawn_parents(made, own, [0, 1, 2, 3, 4, 5], info(4))
    assert torch.equal(whole, drawn_parents(made, own, [0, 1, 2, 3, 4, 5], info(4)))
    assert torch.equal(drawn_parents(made, own, [5, 4, 3, 2, 1, 0], info(4)), whole.flip(0))
    assert not torch.equal(whole, drawn_parents(made, own, [0, 1, 2, 3, 4, 5], info(5)))
    assert torch.equal(own, make_batch(rows=6)["attributes"])


# --- who moves when


def moved(before, after):
    """Prefixes of the tensors that changed."""
    prefixes = ("student.encoder", "student", "teacher.encoder", "teacher", "predictor", "multiplier", "bound")
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    return {next(each for each in prefixes if name.startswith(each)) for name in changed if name != "measured"}


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_encoder_and_predictor_and_generator_move_in_their_own_steps_alone(name):
    method = make(bound=-100.0)
    optimizer, states = optimizer_of(method, name=name), [copy.deepcopy(method.state_dict())]
    run(method, optimizer, range(6), lambda step: states.append(copy.deepcopy(method.state_dict())))
    for step in range(6):
        expected = {"predictor"} if step < FIRST else {"student", "teacher", "multiplier"}
        assert moved(states[step], states[step + 1]) == expected, step


def test_generators_run_in_evaluation_mode_and_the_predictor_once_it_has_learned():
    method = make()
    for step, learns in ((0, True), (FIRST, False)):
        losses(method, step)
        assert not any(module.training for each in (method.student, method.teacher) for module in each.modules())
        assert method.predictor.training is learns


# --- the bound and its multiplier


def test_the_bound_is_the_mean_free_energy_that_the_generator_starts_with():
    method = make()
    run(method, optimizer_of(method), range(FIRST))
    expected = torch.stack([energy(make(), step) for step in range(FIRST)]).mean()
    torch.testing.assert_close(method.bound, expected)
    run(method, optimizer_of(method), range(FIRST, 6))
    torch.testing.assert_close(method.bound, expected)
    given = make(bound=1.25)
    run(given, optimizer_of(given), range(FIRST + 1))
    assert given.bound.item() == 1.25


def test_the_multiplier_rises_just_where_the_free_energy_exceeds_its_bound_and_never_below_0():
    seen, total = set(), 40
    method = make(multiplier_rate=0.7)
    optimizer, states = optimizer_of(method), []
    found = run(method, optimizer, range(total), lambda step: states.append(float(method.multiplier)))
    before = 0.0
    for step, (terms, after) in enumerate(zip(found, states, strict=True)):
        if step < FIRST:
            assert after == 0.0
            continue
        bound = float(method.bound)
        assert (after > before) is (terms["free_energy"] > bound)
        assert after == pytest.approx(max(0.0, before + 0.7 * (terms["free_energy"] - bound)), rel=1e-5, abs=1e-5)
        assert after >= 0.0
        seen.add(terms["free_energy"] > bound)
        before = after
    assert seen == {True, False}


def test_the_micro_batches_of_a_step_move_the_multiplier_once_by_their_mean():
    method = make(bound=0.25, multiplier_rate=2.0)
    values = [float(losses(method, FIRST, make_batch(seed))["free_energy"].detach()) for seed in (1, 2)]
    assert values[0] != values[1]
    method.after_step(info(FIRST))
    assert float(method.multiplier) == pytest.approx(2.0 * (sum(values) / 2 - 0.25))
    method.after_step(info(FIRST))  # nothing fresh, nothing moves
    assert float(method.multiplier) == pytest.approx(2.0 * (sum(values) / 2 - 0.25))


# --- gradients


@pytest.mark.parametrize("name", ["loss", "free_energy", "counterfactual_domain", "counterfactual_age"])
def test_every_term_reaches_the_decoder_and_none_the_encoder_or_the_teacher(name):
    method = make()
    method.multiplier.fill_(1.0)
    losses(method, FIRST)[name].backward()
    for part in (method.student.decoder, method.student.parents, method.student.mean):
        assert sum(float(p.grad.norm()) for p in part.parameters() if p.grad is not None) > 0
    assert all(p.grad is None for p in method.student.encoder.parameters())
    assert all(p.grad is None for p in method.teacher.parameters())


def test_the_predictor_pulls_even_without_the_free_energy():
    method = make()
    losses(method, FIRST)["loss"].backward()  # the multiplier is 0
    assert sum(float(p.grad.norm()) for p in method.student.decoder.parameters()) > 0


def test_every_trained_parameter_has_a_gradient_in_every_step():
    """Several processes wait for all of them."""
    for step in (0, FIRST):
        method = make()
        losses(method, step)["loss"].backward()
        assert all(parameter.grad is not None for part in method.parts().values() for parameter in part)
        generator = [parameter.grad for parameter in method.parts()["generator"]]
        assert any(bool((gradient != 0).any()) for gradient in generator) is (step >= FIRST)


def test_a_bfloat16_step_stays_finite():
    for step in (0, FIRST):
        method = make()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = losses(method, step)["loss"]
        loss.backward()
        assert loss.dtype == torch.float32 and math.isfinite(float(loss.detach()))
        assert all(bool(torch.isfinite(p.grad).all()) for p in method.parameters() if p.grad is not None)


class Greys(torch.nn.Module):
    """Reads the domain off an image's mean grey; knows no age."""

    places = torch.tensor([0.2, 0.5, 0.8])

    def forward(self, image):
        distance = image.mean((1, 2, 3))[:, None] - self.places
        return torch.cat([-50.0 * distance.square(), torch.zeros(len(image), 1)], dim=1)


def test_steps_make_the_predictor_find_what_was_intended():
    method, batch = make(predictor_steps=1, bound=1e6), make_batch(rows=6)
    method.predictor = Greys()
    batch["image"] = Greys.places[batch["attributes"][:, :3].argmax(1)].reshape(-1, 1, 1, 1) + 0.1 * batch["image"]
    found = run(method, optimizer_of(method, weight_decay=0.0), range(45), batch=batch)
    made = [terms["counterfactual_domain"] for terms in found[1:]]
    assert sum(made[-10:]) < 0.2 * sum(made[:10])


# --- refusals and resume


def test_a_batch_without_attributes_is_refused():
    batch = make_batch()
    del batch["attributes"]
    with pytest.raises(InputError, match="method hvae_finetune needs the attributes of every image"):
        make().losses(batch, info(0))


@pytest.mark.parametrize("cut", [2, 3, 4])
def test_steps_and_a_resume_and_steps_are_six(cut):
    whole = make()
    expected = run(whole, optimizer_of(whole), range(6))
    first = make()
    optimizer = optimizer_of(first)
    found = run(first, optimizer, range(cut))
    saved = copy.deepcopy((first.state_dict(), optimizer.state_dict()))
    second = make(seed=1)
    optimizer = optimizer_of(second)
    second.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    found += run(second, optimizer, range(cut, 6))
    assert found == expected
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_rows_get_new_parents_of_their_own():
    made, own = Parents(PARENTS), make_batch(rows=6)["attributes"]
    assert len(drawn_parents(made, own, [0, 1, 2, 3, 4, 5], info(4)).unique(dim=0)) > 2


def test_real_images_are_moved_anew_in_every_step():
    method, batch = make(), make_batch()
    for step in range(FIRST):
        terms = losses(method, step, batch)
        draws = [row_generator(5, step, row, "predictor's shift") for row in range(4)]
        moved = shifted(batch["image"], PREDICTOR_SHIFT, draws)
        expected = parent_losses(method.predictor(moved), batch["attributes"], [3, 1])
        torch.testing.assert_close(terms["loss"], torch.stack(expected).sum())


def test_the_predictor_warms_up_over_a_tenth_of_its_steps_and_ends_at_0():
    method = make(predictor_steps=40, predictor_lr=0.5)
    found = [method.rate("predictor", 0.01, info(step)) for step in (0, 1, 3, 20, 40)]
    cosines = [0.5 * (1 + math.cos(math.pi * step / 40)) for step in (0, 1, 3)]
    assert found == pytest.approx([0.5 * 0.25, 0.5 * 0.5 * cosines[1], 0.5 * cosines[2], 0.25, 0.0])
    assert [method.rate("generator", 0.01, info(step)) for step in (39, 40)] == [0.0, 0.01]
