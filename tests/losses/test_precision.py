"""Tests of the decorator that keeps losses in float32, and of every loss that it stands on: by hand, property."""

import importlib
import pkgutil

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medcontrast import losses
from medcontrast.losses.consistency import entropy, mse_consistency, mutual_consistency, sharpen
from medcontrast.losses.elbo import discretised_log_likelihood, free_energy, gaussian_kl
from medcontrast.losses.foreground_background import pull, push
from medcontrast.losses.info_nce import info_nce
from medcontrast.losses.lagrangian import lagrangian
from medcontrast.losses.multi_level import level_nce
from medcontrast.losses.parents import parent_losses
from medcontrast.losses.precision import in_full_precision
from medcontrast.losses.segmentation import dice_cross_entropy, soft_dice_cross_entropy
from medcontrast.losses.self_distillation import centred_softmax, cross_entropy_to


@in_full_precision
def product(first, second, *, third=None):
    """The docstring stays."""
    return first @ second if third is None else first @ second + third


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_lower_precisions_are_promoted_and_float64_stays(given, expected):
    one = torch.ones(2, 2, dtype=given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert product(one, one).dtype == expected
        assert product(one, one, third=one).dtype == expected
        assert (one.float() @ one.float()).dtype == torch.bfloat16


def test_whole_numbers_bools_and_the_name_stay():
    whole = torch.ones(2, 2, dtype=torch.int64)
    assert product(whole, whole).dtype == torch.int64
    assert product.__name__ == "product" and product.__doc__ == "The docstring stays."


def test_gradient_comes_back_in_the_given_precision():
    one = torch.ones(2, 2, dtype=torch.bfloat16, requires_grad=True)
    product(one, one).sum().backward()
    assert one.grad.dtype == torch.bfloat16


def test_tensors_in_a_list_are_promoted():
    @in_full_precision
    def joined(tensors, numbers):
        return torch.stack(tensors), numbers

    low = torch.full((2,), 0.3, dtype=torch.bfloat16)
    found, numbers = joined((low, low), (1, 2))
    assert torch.equal(found, torch.stack([low.float()] * 2)) and numbers == (1, 2)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shares(*shape, seed=0):
    return draw(*shape, seed=seed).softmax(1)


VOLUME = (2, 3, 4, 4, 4)
LABEL = torch.randint(-1, 3, (2, 1, 4, 4, 4), generator=torch.Generator().manual_seed(1))
CALLS = {
    "dice_cross_entropy": lambda cast: dice_cross_entropy(cast(3 * draw(*VOLUME)), LABEL),
    "soft_dice_cross_entropy": lambda cast: soft_dice_cross_entropy(
        cast(3 * draw(*VOLUME)), cast(shares(*VOLUME, seed=1)), weight=cast(draw(2, 1, 4, 4, 4, seed=2).abs())
    ),
    "sharpen": lambda cast: sharpen(cast(shares(*VOLUME)), 0.3),
    "mse_consistency": lambda cast: mse_consistency(cast(draw(*VOLUME)), cast(shares(*VOLUME, seed=1))),
    "mutual_consistency": lambda cast: mutual_consistency([cast(draw(*VOLUME, seed=n)) for n in range(3)], 0.3),
    "entropy": lambda cast: entropy(cast(shares(*VOLUME))),
    "push": lambda cast: push(cast(draw(5, 8)), cast(draw(6, 8, seed=1))),
    "pull": lambda cast: pull(cast(draw(5, 8)), cast(draw(6, 8, seed=1))),
    "info_nce": lambda cast: info_nce(cast(draw(4, 8)), cast(draw(6, 8, seed=1)), cast(shares(4, 6)), temperature=0.2),
    "level_nce": lambda cast: level_nce(
        cast(draw(16, 8)),
        cast(draw(16, 8, seed=1)),
        cast(draw(20, 8, seed=2)),
        temperature=0.2,
        loss_pace=2.5,
        soft=True,
    ),
    "centred_softmax": lambda cast: centred_softmax(cast(draw(4, 8)), cast(draw(8, seed=1)), temperature=0.04),
    "cross_entropy_to": lambda cast: cross_entropy_to(cast(draw(4, 8)), cast(shares(4, 8, seed=1)), temperature=0.1),
    "parent_losses": lambda cast: parent_losses(cast(draw(4, 3)), cast(draw(4, 3, seed=1)), [2, 1]),
    "discretised_log_likelihood": lambda cast: discretised_log_likelihood(
        cast(draw(2, 1, 4, 4).clamp(-1, 1)), cast(draw(2, 1, 4, 4, seed=1)), cast(torch.tensor(0.1))
    ),
    "gaussian_kl": lambda cast: gaussian_kl(
        cast(draw(2, 3, 2, 2)),
        cast(draw(2, 3, 2, 2, seed=1).exp()),
        cast(draw(2, 3, 2, 2, seed=2)),
        cast(draw(2, 3, 2, 2, seed=3).exp()),
    ),
    "free_energy": lambda cast: free_energy(cast(draw(2, 1, 4, 4)), [cast(draw(2, 3, 2, 2, seed=1).abs())]),
    "lagrangian": lambda cast: lagrangian(
        cast(draw(())),
        cast(draw((), seed=1)),
        bound=cast(draw((), seed=2)),
        multiplier=cast(draw((), seed=3).abs()),
        damping=0.3,
    ),
}


def test_every_loss_with_the_decorator_is_among_them():
    found = set()
    for module in pkgutil.iter_modules(losses.__path__, "medcontrast.losses."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if getattr(getattr(value, "__code__", None), "co_name", None) == "promoted":
                found.add(name)
    assert found == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_what_a_loss_makes_of_bfloat16_is_what_it_makes_of_the_same_numbers_in_float32(name):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = tree_leaves(CALLS[name](lambda tensor: tensor.bfloat16()))
    expected = tree_leaves(CALLS[name](lambda tensor: tensor.bfloat16().float()))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)


class NothingRead(TorchDispatchMode):
    """Fails where a value is taken from its device, for which the CPU would wait."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function is not torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", CALLS)
def test_no_loss_waits_for_a_value(name):
    with NothingRead():
        CALLS[name](lambda tensor: tensor)
