"""Tests of fba_net's exchange of boxes and of what its memory takes: by hand, property."""

from __future__ import annotations

import math

import pytest
import torch

from medcontrast.batch import StepInfo
from medcontrast.losses.segmentation import dice_cross_entropy
from medcontrast.methods import build_method
from medcontrast.methods.base import one_hot
from medcontrast.networks.build import build_network
from medcontrast.transforms.copy_paste import exchange_boxes

INFO = StepInfo(step=5, total=10, seed=1)


@pytest.fixture
def make(tiny):
    def build(**settings):
        tree = tiny.recipe_tree("fba_net")
        for key, value in settings.items():
            tree = tiny.set_key(tree, f"method.{key}", value)
        torch.manual_seed(0)
        plain = {"in_channels": 1, "classes": 3, "filters": [4, 8, 8]}
        return build_method(tiny.recipe_from(tree).method, lambda: build_network("dynunet", **plain)).train()

    return build


def consistency_by_hand(method, batch, labeled, *, pasted):
    """Of the unlabeled rows, each with what `pasted` says of its own partner's voxels."""
    strong, partner = batch["views"]["strong"], torch.arange(len(batch["labeled"]) - labeled) % labeled
    target = method.teacher(batch["views"]["weak"][labeled:]).logits.argmax(1, keepdim=True)
    mixed = torch.where(pasted, strong[:labeled][partner], strong[labeled:])
    answer = method.student(torch.cat([strong[:labeled], mixed])).logits[labeled:]
    return dice_cross_entropy(answer, torch.where(pasted, batch["label"][:labeled][partner], target))


def boxes_of(labeled, unlabeled, probability=1.0):
    rows = list(range(labeled, labeled + unlabeled))
    return exchange_boxes((16, 16, 16), 2 / 3, probability, seed=INFO.seed, step=INFO.step, rows=rows)


@pytest.mark.parametrize(("labeled", "unlabeled"), [(2, 2), (2, 3), (3, 2)])
def test_image_and_label_of_a_box_are_of_one_labeled_row(tiny, make, labeled, unlabeled):
    method = make(**{"consistency.paste_probability": 1.0, "consistency.paste_fraction": 2 / 3})
    batch, boxes = tiny.make_batch(labeled, unlabeled), boxes_of(labeled, unlabeled)
    with torch.no_grad():
        found = method.losses(batch, INFO)["consistency"]
        torch.testing.assert_close(found, consistency_by_hand(method, batch, labeled, pasted=boxes))


@pytest.mark.parametrize("unlabeled", [2, 3])
@pytest.mark.parametrize("weighed", [False, True])
def test_boxes_of_unlabeled_rows_come_from_the_next_one_with_its_own_target(tiny, make, unlabeled, weighed):
    method = make(
        **{
            "consistency.paste_probability": 1.0,
            "consistency.paste_fraction": 2 / 3,
            "consistency.paste_from": "unlabeled",
            "consistency.weigh_by_confidence": weighed,
        }
    )
    batch, boxes = tiny.make_batch(2, unlabeled), boxes_of(2, unlabeled)
    strong = batch["views"]["strong"][2:]
    following = [*range(1, unlabeled), 0]
    with torch.no_grad():
        share = method.teacher(batch["views"]["weak"][2:]).logits.softmax(1)
        target, certainty = share.argmax(1, keepdim=True), 1 + (share * share.log()).sum(1, keepdim=True) / math.log(3)
        mixed = torch.where(boxes, strong[following], strong)
        wanted = torch.where(boxes, target[following], target)
        weight = torch.where(boxes, certainty[following], certainty) if weighed else None
        answer = method.student(torch.cat([batch["views"]["strong"][:2], mixed])).logits[2:]
        expected = dice_cross_entropy(answer, wanted, weight=weight)
        torch.testing.assert_close(method.losses(batch, INFO)["consistency"], expected)


def test_nothing_is_pasted_from_where_the_label_is_ignored(tiny, make):
    method = make(**{"consistency.paste_probability": 1.0, "consistency.paste_fraction": 2 / 3})
    batch, boxes = tiny.make_batch(), boxes_of(2, 2)
    batch["label"][:2, :, :8] = -1
    assert bool(boxes[:, :, :8].any()) and bool(boxes[:, :, 8:].any())
    with torch.no_grad():
        found = method.losses(batch, INFO)["consistency"]
        expected = consistency_by_hand(method, batch, 2, pasted=boxes & (batch["label"][:2] >= 0))
    torch.testing.assert_close(found, expected)


def test_the_memory_fills_after_the_step_and_never_from_cells_that_are_not_fully_labeled(tiny, make):
    counts = {}
    for ignored in (False, True):
        method, batch = make(), tiny.make_batch()
        if ignored:
            batch["label"][:2][batch["label"][:2] != 1] = -1  # every cell of a border then has some
        method.losses(batch, INFO)
        assert method.contrast.foreground_memory.count.tolist() == [0, 0]
        method.after_step(INFO)
        counts[ignored] = method.contrast.foreground_memory.count.tolist()
    assert min(counts[False]) > 0 and counts[True] == [0, 0]


def test_ignored_voxels_are_of_no_class():
    found = one_hot(torch.tensor([-1, 0, 2]).view(1, 1, 3, 1, 1), 3)
    assert found.flatten(2)[0].T.tolist() == [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
