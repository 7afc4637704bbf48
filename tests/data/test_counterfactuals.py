"""Tests of counterfactuals as partners and of balanced draws: by hand, property (histograms over many draws)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from medcontrast.data.images.counterfactuals import Counterfactuals
from medcontrast.data.images.sources import ImageCase
from medcontrast.data.sampler import BalancedSampler, RowKey
from medcontrast.errors import InputError
from medcontrast.transforms.scanners import SCANNERS, SHARES

FILE = Path("images.npz")


def cases(count=6, domains="abcde"):
    """Images of domain a to e in turn, each with a counterfactual in every other domain, in front of it."""
    found = []
    for number in range(count):
        own = domains[number % len(domains)]
        name = f"image {number}"
        found += [ImageCase(f"{name} as {d}", FILE, domain=d, of=name) for d in domains if d != own]
        found.append(ImageCase(name, FILE, domain=own))
    return found


def partners(paired, place, draws=4000):
    keys = (RowKey(step, row, place, True) for step in range(draws // 40) for row in range(40))
    return [paired.cases[paired.partner(key)] for key in keys]


def test_images_come_first_and_each_has_its_own_counterfactuals():
    paired = Counterfactuals(cases(), seed=0, where="it")
    assert paired.images == 6
    assert [case.name for case in paired.cases[:6]] == [f"image {number}" for number in range(6)]
    for place in range(6):
        first, *others = paired.choices(place)
        assert first == place
        assert {paired.cases[other].of for other in others} == {f"image {place}"}
        assert {paired.cases[other].domain for other in paired.choices(place)} == set("abcde")


@pytest.mark.parametrize("domains", ["abcde", "ab"])
def test_the_target_domain_is_uniform_and_another_than_the_own_with_all_but_one_of_the_domains(domains):
    paired = Counterfactuals(cases(domains=domains), seed=3, where="it")
    found = partners(paired, place=1)
    counts = Counter(case.domain for case in found)
    chance = 1 / len(domains)
    # 5 standard deviations of a share of 4,000 draws
    room = 5 * (chance * (1 - chance) / 4000) ** 0.5
    assert set(counts) == set(domains)
    assert all(abs(count / 4000 - chance) < room for count in counts.values())
    crossed = np.mean([case.of is not None for case in found])
    assert abs(crossed - (len(domains) - 1) / len(domains)) < room
    assert {case.of or case.name for case in found} == {"image 1"}


def test_a_partner_is_a_function_of_seed_step_and_row():
    one, same, other = (Counterfactuals(cases(), seed=seed, where="it") for seed in (1, 1, 2))
    keys = [RowKey(step, row, 0, True) for step in range(5) for row in range(20)]
    assert [one.partner(key) for key in keys] == [same.partner(key) for key in keys]
    assert [one.partner(key) for key in keys] != [other.partner(key) for key in keys]
    assert len({tuple(one.partner(key) for key in keys if key.step == step) for step in range(5)}) == 5


def test_an_image_without_counterfactuals_is_its_own_partner():
    alone = [*cases(2), ImageCase("alone", FILE, domain="a")]
    paired = Counterfactuals(alone, seed=0, where="it")
    assert {case.name for case in partners(paired, place=2, draws=80)} == {"alone"}


def test_what_it_refuses():
    with pytest.raises(
        InputError, match=r"it has no counterfactuals \(no image has `of`; they have no fields\), but a view"
    ):
        Counterfactuals([ImageCase("one", FILE)], seed=0, where="it")
    strange = [ImageCase("one", FILE), ImageCase("two", FILE, of="three")]
    with pytest.raises(InputError, match="it: two is of three, which is no image of this split"):
        Counterfactuals(strange, seed=0, where="it")
    chained = [ImageCase("one", FILE), ImageCase("two", FILE, of="one"), ImageCase("three", FILE, of="two")]
    with pytest.raises(InputError, match="three is of two, which is no image"):
        Counterfactuals(chained, seed=0, where="it")


def test_two_counterfactuals_of_one_image_in_one_domain_are_refused():
    """With those of two generators side by side a draw would not be uniform over domains."""
    one = ImageCase("one", FILE, domain="a")
    made = [ImageCase(f"{name} in {domain}", FILE, domain=domain, of="one") for name, domain in ("xb", "yc", "zb")]
    Counterfactuals([one, *made[:2]], seed=0, where="it")
    sentence = "it: x in b and z in b are both counterfactuals of one in domain b with the same attributes"
    with pytest.raises(InputError, match=sentence):
        Counterfactuals([one, *made], seed=0, where="it")
    # of another image or attribute, or of no domain, they may be more
    Counterfactuals(
        [one, *(ImageCase(f"sex {sex}", FILE, domain="b", attributes={"sex": sex}, of="one") for sex in (0.0, 1.0))],
        seed=0,
        where="",
    )
    Counterfactuals(
        [one, *made[:1], ImageCase("two", FILE), ImageCase("w", FILE, domain="b", of="two")], seed=0, where=""
    )
    Counterfactuals([one, *(ImageCase(name, FILE, of="one") for name in "uv")], seed=0, where="it")


def test_a_counterfactual_in_the_image_s_own_domain_is_refused():
    one = ImageCase("one", FILE, domain="a", target=1)
    own = ImageCase("reconstructed", FILE, domain="a", target=1, of="one")
    other = ImageCase("other", FILE, domain="b", target=1, of="one")
    sentence = "it: reconstructed is a counterfactual of one with the image's own domain, target and attributes, which"
    with pytest.raises(InputError, match=sentence):
        Counterfactuals([other, own, one], seed=0, where="it")
    Counterfactuals([one, other, ImageCase("ill", FILE, domain="a", target=0, of="one")], seed=0, where="it")


# --- balanced draws


def balanced(shares, balance, *, rows=50, steps=200, **plain):
    domains = [name for name, count in shares.items() for _ in range(count)]
    return domains, BalancedSampler(domains, balance, rows, 0, steps=steps, **plain)


def test_half_uniform_half_empirical_gives_the_published_shares():
    counts = {name: round(1000 * share) for name, share in zip(SCANNERS, SHARES, strict=True)}
    domains, sampler = balanced(counts, 0.5)
    assert dict(zip(sorted(counts), 100 * sampler.shares, strict=True)) == pytest.approx(
        {"plain": 54.6, "gamma": 12.2, "contrast": 11.8, "blur": 11.4, "haze": 10.1}, abs=0.06
    )
    drawn = Counter(domains[key.case_index] for keys in sampler for key in keys)
    for name, share in zip(sorted(counts), sampler.shares, strict=True):
        assert abs(drawn[name] / 10_000 - share) < 5 * (share * (1 - share) / 10_000) ** 0.5


def test_without_balance_images_are_equally_likely_and_with_it_alone_domains_are():
    _, sampler = balanced({"a": 30, "b": 10}, 0.0)
    assert sampler.shares.tolist() == [0.75, 0.25]
    places = Counter(key.case_index for keys in sampler for key in keys)
    assert len(places) == 40 and max(places.values()) < 2 * min(places.values())
    assert balanced({"a": 30, "b": 10}, 1.0)[1].shares.tolist() == [0.5, 0.5]


def test_processes_micro_batches_and_a_resume_draw_the_same_rows():
    whole = list(balanced({"a": 5, "b": 2}, 0.5, rows=8, steps=4)[1])
    shared = [balanced({"a": 5, "b": 2}, 0.5, rows=8, steps=4, rank=rank, world_size=2)[1] for rank in (0, 1)]
    assert [first + second for first, second in zip(*shared, strict=True)] == whole
    parts = list(balanced({"a": 5, "b": 2}, 0.5, rows=8, steps=4, micro_batches=2)[1])
    assert [parts[2 * step] + parts[2 * step + 1] for step in range(4)] == whole
    assert list(balanced({"a": 5, "b": 2}, 0.5, rows=8, steps=4, start_step=2)[1]) == whole[2:]
