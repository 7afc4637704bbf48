"""Tests of foreground/background contrast in cells: by hand, property, gradient."""

from __future__ import annotations

import pytest
import torch

from medcontrast.losses.foreground_background import pull, push
from medcontrast.methods.contrast import ForegroundBackgroundContrast
from medcontrast.networks.regions import split_cells
from medcontrast.settings.methods import ContrastSettings


def make(region=4, memory=8, classes=2, **other):
    torch.manual_seed(0)
    settings = ContrastSettings(region=region, memory=memory, embedding_channels=8, **other)
    return ForegroundBackgroundContrast(settings, feature_channels=5, classes=classes).train()


def inputs(rows=3, side=8):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(rows, 5, side, side, side, generator=generator, requires_grad=True)
    maps = torch.zeros(rows, 2, side, side, side)
    maps[:, 0, :, :, : side // 4] = 1  # a border through the first half of the cells along z
    maps[:, 1, :, : side // 4] = 1
    return features, maps, torch.ones(rows, 1, side, side, side, dtype=torch.bool)


def test_cells_come_in_order_and_hold_their_own_voxels():
    volume = torch.arange(2 * 1 * 4 * 4 * 4).reshape(2, 1, 4, 4, 4)
    cells = split_cells(volume, 2)
    assert cells.shape == (16, 1, 2, 2, 2)
    assert torch.equal(cells[1, 0], volume[0, 0, :2, :2, 2:])
    assert torch.equal(cells[8 + 4, 0], volume[1, 0, 2:, :2, :2])
    with pytest.raises(ValueError, match="cells of 3 voxels do not fill"):
        split_cells(volume, 3)


def test_every_term_reaches_the_features():
    features, maps, known = inputs()
    terms = make()(features, maps, known, labeled_rows=2)
    assert set(terms) == {"pull_foreground", "pull_background", "push"}
    for name, term in terms.items():
        (gradient,) = torch.autograd.grad(term, features, retain_graph=True)
        assert gradient.norm() > 1e-4, name


def test_terms_are_means_over_classes_and_push_goes_both_ways():
    features, maps, known = inputs()
    contrast = make(region=0, memory=0, push_rank_decay=1.5, pull_rank_decay=0.5)
    terms = contrast(features, maps, known, labeled_rows=2)
    found = contrast.head(features, maps, None)
    kinds = [(found.foreground[:, k], found.background[:, k]) for k in range(2)]
    pushes = [push(one, other, rank_decay=1.5) + push(other, one, rank_decay=1.5) for one, other in kinds]
    expected = {
        "pull_foreground": sum(pull(foreground, rank_decay=0.5) for foreground, _ in kinds) / 2,
        "pull_background": sum(pull(background, rank_decay=0.5) for _, background in kinds) / 2,
        "push": sum(pushes) / 4,
    }
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)


@pytest.mark.parametrize("classes", [1, 2, 4, 8])
def test_a_class_that_is_nowhere_changes_nothing(classes):
    """The terms of one class with a border are the same however many there could be."""
    features, maps, known = inputs()
    others = torch.zeros(len(maps), classes - 1, *maps.shape[2:])
    alone = make(classes=1)(features, maps[:, :1], known, labeled_rows=2)
    terms = make(classes=classes)(features, torch.cat([others, maps[:, :1]], dim=1), known, labeled_rows=2)
    for name, value in alone.items():
        assert float(value.detach()) > 0.01
        torch.testing.assert_close(terms[name], value)


def test_cells_are_chosen_evenly_from_those_that_count():
    contrast = make(regions=3)
    assert contrast._choose(torch.tensor([0, 1, 1, 1, 1, 1, 0], dtype=torch.bool)).tolist() == [1, 3, 5]
    assert contrast._choose(torch.tensor([0, 1, 0, 1], dtype=torch.bool)).tolist() == [1, 3, 0]


def test_gradient_is_still_there_after_the_head_was_fitted():
    # Whole patches are told apart by the head alone; cells are not, unless the features differ.
    left = {}
    for region in (0, 4):
        features, maps, known = inputs(rows=8)
        contrast = make(region, memory=0)
        optimizer = torch.optim.Adam(contrast.parameters(), lr=0.01)
        for _ in range(150):
            optimizer.zero_grad()
            torch.stack(list(contrast(features.detach(), maps, known, labeled_rows=4).values())).sum().backward()
            optimizer.step()
        total = torch.stack(list(contrast(features, maps, known, labeled_rows=4).values())).sum()
        (gradient,) = torch.autograd.grad(total, features)
        left[region] = float(gradient.norm())
    assert left[4] > 5 * left[0]


def test_cells_without_a_border_or_with_unknown_voxels_give_nothing():
    features, maps, known = inputs()
    contrast = make()
    terms = contrast(features, torch.zeros_like(maps), known, labeled_rows=2)
    assert [float(term.detach()) for term in terms.values()] == [0.0, 0.0, 0.0]
    contrast(features, maps, torch.zeros_like(known), labeled_rows=2)
    contrast.remember()
    assert contrast.foreground_memory.count.tolist() == [0, 0]


def test_memory_takes_labeled_rows_alone_and_once_a_step():
    features, maps, known = inputs()
    contrast = make(memory=100)
    contrast(features, maps, known, labeled_rows=2)
    assert contrast.foreground_memory.count.tolist() == [0, 0]
    contrast.remember()
    # a row of 8 voxels a side has 8 cells of 4, and the border of each class runs through 4 of them
    assert contrast.foreground_memory.count.tolist() == [8, 8]
    contrast.remember()
    assert contrast.foreground_memory.count.tolist() == [8, 8]


def test_memory_changes_the_terms_and_is_in_the_state():
    features, maps, known = inputs()
    contrast = make()
    before = contrast(features, maps, known, labeled_rows=2)
    contrast.remember()
    after = contrast(features * 0.5 + 1, maps, known, labeled_rows=2)
    twin = make()
    twin.load_state_dict(contrast.state_dict())
    again = twin(features * 0.5 + 1, maps, known, labeled_rows=2)
    assert all(torch.equal(after[name], again[name]) for name in after)
    assert any(not torch.equal(before[name], after[name]) for name in after)


def test_the_memory_is_half_of_pull_and_more_to_push_from():
    """By hand, values and gradients, once the memory holds the two labeled rows of an earlier step."""
    features, maps, known = inputs()
    contrast = make(region=0, memory=4)
    contrast(features * 0.5 + 1, maps, known, labeled_rows=2)
    contrast.remember()
    terms = contrast(features, maps, known, labeled_rows=2)
    now, old = contrast.head(features, maps), contrast.head(features.detach()[:2] * 0.5 + 1, maps[:2])
    expected = dict.fromkeys(terms, 0.0)
    for k in range(2):
        inside, outside = now.foreground[:, k], now.background[:, k]
        old_inside, old_outside = old.foreground[:, k].detach(), old.background[:, k].detach()
        for kind, new, past in (("foreground", inside, old_inside), ("background", outside, old_outside)):
            halves = pull(new, rank_decay=0.0) + pull(new, past, rank_decay=0.0)
            expected[f"pull_{kind}"] = expected[f"pull_{kind}"] + halves / 4
        pushes = (
            push(inside, torch.cat([outside, old_outside]), rank_decay=0.0),
            push(outside, torch.cat([inside, old_inside]), rank_decay=0.0),
        )
        expected["push"] = expected["push"] + sum(pushes) / 4
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)
        found, by_hand = (torch.autograd.grad(each, features, retain_graph=True)[0] for each in (terms[name], value))
        assert by_hand.norm() > 1e-4
        torch.testing.assert_close(found, by_hand)


def test_no_more_cells_than_asked_for():
    features, maps, known = inputs(rows=4)
    contrast = make(memory=100, regions=6)
    contrast(features, maps, known, labeled_rows=4)
    contrast.remember()
    assert contrast.background_memory.count.tolist() == [6, 6]


def test_same_step_twice_is_the_same():
    features, maps, known = inputs()
    contrast = make()
    first, second = (contrast(features, maps, known, labeled_rows=2) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_confidence_weighs_the_voxels_of_an_embedding():
    """Without confidence in half of a row its embedding is that of the other half."""
    features, maps, known = inputs(side=8)
    contrast = make(region=0, memory=0)
    maps = (maps[:, :1] + maps[:, 1:]).clamp_max(1).expand(-1, 2, -1, -1, -1)
    confidence = torch.ones(3, 1, 8, 8, 8)
    confidence[:, :, :, 4:] = 0.0
    half = contrast.head(features[..., :4, :], maps[..., :4, :])
    weighed = contrast.head(features, maps, confidence)
    torch.testing.assert_close(weighed.foreground, half.foreground)
    torch.testing.assert_close(weighed.background, half.background)
    plain, ours, ones = (
        contrast(features, maps, known, labeled_rows=2, confidence=each)
        for each in (None, confidence, torch.ones_like(confidence))
    )
    assert float((plain["push"] - ours["push"]).detach().abs()) > 1e-5
    assert torch.equal(plain["push"], ones["push"])


def test_the_memory_rests_in_evaluation():
    features, maps, known = inputs()
    contrast = make(memory=100).eval()
    contrast(features, maps, known, labeled_rows=2)
    contrast.remember()
    assert contrast.foreground_memory.count.tolist() == [0, 0]


@pytest.mark.parametrize(("voxels", "count"), [(9, 0), (10, 1), (54, 1), (55, 0)])
def test_a_cell_needs_a_share_of_both_kinds(voxels, count):
    """0.15 of the 64 voxels of a cell are 9.6."""
    features, maps, known = inputs(rows=1)
    maps = torch.zeros_like(maps[:, :1])
    maps[0, 0, :4, :4, :4] = (torch.arange(64) < voxels).view(4, 4, 4)
    contrast = make(memory=100, classes=1)
    contrast(features, maps, known, labeled_rows=1)
    contrast.remember()
    assert contrast.foreground_memory.count.tolist() == [count]


def test_one_unknown_voxel_takes_its_cell_out():
    features, maps, known = inputs()
    known[0, 0, 0, 0, 0] = False  # of a cell that both classes' borders run through
    contrast = make(memory=100)
    contrast(features, maps, known, labeled_rows=2)
    contrast.remember()
    assert contrast.foreground_memory.count.tolist() == [7, 7]


@pytest.mark.parametrize("memory", [0, 8])
def test_cells_that_do_not_count_change_no_term_where_fewer_count_than_are_asked_for(memory):
    features, maps, known = inputs()
    found = []
    for regions in (12, 24):  # 12 cells of a class hold a border, 24 there are
        contrast = make(regions=regions, memory=memory)
        for _ in range(2):  # the second time beside a memory
            terms = contrast(features, maps, known, labeled_rows=2)
            contrast.remember()
        found.append(terms)
    for name, value in found[0].items():
        assert float(value.detach()) > 0.01
        torch.testing.assert_close(found[1][name], value)
