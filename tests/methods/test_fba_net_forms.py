"""Tests of fba_net's forms: several decoders and confidence-weighted pooling; by hand, gradient."""

from __future__ import annotations

import math

import pytest
import torch

from medcontrast.batch import StepInfo
from medcontrast.losses.consistency import mutual_consistency
from medcontrast.losses.segmentation import dice_cross_entropy
from medcontrast.methods import build_method
from medcontrast.networks.build import build_network
from medcontrast.schedules import gaussian_ramp_up
from medcontrast.transforms.copy_paste import exchange_boxes

INFO = StepInfo(step=5, total=10, seed=1)


def make(tiny, *, decoders=1, **settings):
    tree = tiny.recipe_tree("fba_net")
    tree["network"]["decoders"] = decoders
    for key, value in settings.items():
        tree = tiny.set_key(tree, f"method.{key}", value)
    torch.manual_seed(0)
    plain = {"in_channels": 1, "classes": 3, "filters": [4, 8, 8], "decoders": decoders}
    return build_method(tiny.recipe_from(tree).method, lambda: build_network("dynunet", **plain)).train()


def test_three_decoders_add_their_mutual_consistency(tiny):
    changes = {"consistency.perturbation": "noise", "consistency.mutual_weight": 0.3, "contrast.weight": 0.0}
    method, batch = make(tiny, decoders=3, **changes), tiny.make_batch()
    with torch.no_grad():
        terms = method.losses(batch, INFO)
        logits = [output.logits for output in method.student.decode_all(batch["views"]["strong"])]
    expected = torch.stack([dice_cross_entropy(each[:2], batch["label"][:2]) for each in logits]).mean()
    torch.testing.assert_close(terms["supervised"], expected)
    torch.testing.assert_close(terms["mutual"], mutual_consistency(logits, 0.1))
    torch.testing.assert_close(terms["loss"], terms["supervised"] + terms["consistency"] + 0.3 * terms["mutual"])


def test_every_term_reaches_the_decoders_it_is_about(tiny):
    """Supervised, consistency and mutual terms all three; the contrast the features of the first one alone."""
    method = make(tiny, decoders=3)
    terms = method.losses(tiny.make_batch(), INFO)
    body, final, others = method.student.body.upsample, method.student.final, list(method.student.others)
    contrast = ("pull_foreground", "pull_background", "push")
    for name in ("supervised", "consistency", "mutual", *contrast):
        for part in (body, final, *others):
            found = torch.autograd.grad(terms[name], list(part.parameters()), retain_graph=True, allow_unused=True)
            reached = sum(float(each.abs().sum()) for each in found if each is not None) > 0
            assert reached == (part is body or name not in contrast), name
    terms["loss"].backward()
    assert all(parameter.grad is not None for parameter in method.student.parameters())


def test_one_decoder_has_no_mutual_term(tiny):
    assert "mutual" not in make(tiny).losses(tiny.make_batch(), INFO)


def test_an_uncertain_teacher_counts_less_in_the_contrast_alone(tiny):
    """A teacher whose answers are flattened changes the weighed contrast, and nothing else."""
    batch = tiny.make_batch()
    for weigh in (False, True):
        method = make(tiny, **{"contrast.weigh_by_confidence": weigh, "contrast.memory": 0})
        with torch.no_grad():
            before = method.losses(batch, INFO)
            for parameter in method.teacher.final.parameters():
                parameter *= 3.0  # the arg-max stays
            after = method.losses(batch, INFO)
        assert torch.equal(before["consistency"], after["consistency"])
        assert torch.equal(before["push"], after["push"]) is not weigh


@pytest.mark.parametrize("target", ["hard", "soft"])
def test_an_uncertain_teacher_counts_less_in_the_consistency(tiny, target):
    """By hand: the teacher's voxels by 1 - entropy / ln(classes), each row normalised by itself."""
    changes = {"consistency.perturbation": "noise", "consistency.target": target}
    plain, weighed = (make(tiny, **changes, **{"consistency.weigh_by_confidence": weigh}) for weigh in (False, True))
    batch = tiny.make_batch()
    with torch.no_grad():
        weighed.teacher.final.conv.conv.weight.mul_(torch.linspace(1.0, 6.0, 4).view(1, 4, 1, 1, 1))
        plain.load_state_dict(weighed.state_dict())
        answer = weighed.teacher(batch["views"]["weak"][2:]).logits
        logits = weighed.student(batch["views"]["strong"]).logits[2:]
        probabilities = answer.softmax(1)
        weight = 1 + (probabilities * probabilities.log()).sum(1, keepdim=True) / math.log(3)
        if target == "hard":
            expected = dice_cross_entropy(logits, answer.argmax(1, keepdim=True), weight=weight)
        else:
            squared = probabilities.square()  # sharpened with temperature 0.5
            difference = (logits.softmax(1) - squared / squared.sum(1, keepdim=True)).square().mean(1, keepdim=True)
            expected = ((difference * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)).mean()
        found = weighed.losses(batch, INFO)["consistency"]
        torch.testing.assert_close(found, expected)
        assert abs(float(plain.losses(batch, INFO)["consistency"] - found)) > 1e-4


def test_pasted_labels_count_fully(tiny):
    """Beside a teacher that is certain of nothing they are all that counts: its opposite answer changes nothing."""
    found = {}
    for weigh in (False, True):
        changes = {"consistency.weigh_by_confidence": weigh, "consistency.paste_probability": 1.0}
        method, batch = make(tiny, **changes), tiny.make_batch()
        for sign in (1e-3, -1.0):
            with torch.no_grad():
                for parameter in method.teacher.final.parameters():
                    parameter *= sign
                found[weigh, sign] = float(method.losses(batch, INFO)["consistency"])
    assert abs(found[True, 1e-3] - found[True, -1.0]) < 1e-3 < found[True, -1.0]
    assert abs(found[False, 1e-3] - found[False, -1.0]) > 1e-2


def test_the_head_pools_features_or_logits(tiny):
    """Another last layer changes the contrast of logits, and not that of features."""
    for pooled, channels in (("features", 4), ("logits", 3)):
        method, batch = make(tiny, **{"contrast.pooled": pooled, "contrast.memory": 0}), tiny.make_batch()
        assert method.contrast.head.hidden.in_features == channels
        with torch.no_grad():
            before = method.losses(batch, INFO)
            method.student.final.conv.conv.weight.mul_(torch.tensor([1.0, -1.0, 2.0]).view(3, 1, 1, 1, 1))
            after = method.losses(batch, INFO)
        assert torch.equal(before["push"], after["push"]) is (pooled == "features")
        method.losses(batch, INFO)["push"].backward()
        body = [parameter.grad for parameter in method.student.body.parameters()]
        assert any(grad is not None and float(grad.abs().sum()) > 0 for grad in body)


def test_the_contrast_has_a_map_for_every_foreground_class(tiny):
    """By hand: of the labels, and of the teacher's arg-max; the background has none."""
    method, batch = make(tiny, **{"consistency.perturbation": "noise", "contrast.memory": 0}), tiny.make_batch()
    with torch.no_grad():
        answer = method.teacher(batch["views"]["weak"][2:]).logits.argmax(1, keepdim=True)
        classes = torch.cat([batch["label"][:2], answer])
        maps = torch.cat([classes == 1, classes == 2], dim=1).float()
        features = method.student(batch["views"]["strong"]).features
        expected = method.contrast(features, maps, torch.ones_like(classes, dtype=torch.bool), labeled_rows=2)
        terms = method.losses(batch, INFO)
    for name, value in expected.items():
        assert float(value) > 0
        torch.testing.assert_close(terms[name], value)


def test_the_contrast_goes_by_what_the_boxes_hold(tiny):
    """Maps and certainty of exchanged boxes are those of the labels in them, not the teacher's of what was there."""
    changes = {"consistency.paste_probability": 1.0, "contrast.weigh_by_confidence": True, "contrast.memory": 0}
    method, batch = make(tiny, **changes), tiny.make_batch()
    seen: dict[str, torch.Tensor] = {}

    def look(module, args, names):
        seen.update(maps=args[1], confidence=names["confidence"])

    method.contrast.register_forward_pre_hook(look, with_kwargs=True)
    boxes = exchange_boxes(
        (16, 16, 16), method.settings.consistency.paste_fraction, 1.0, seed=1, step=5, rows=batch["index"][2:].tolist()
    )
    with torch.no_grad():
        method.losses(batch, INFO)
        logits = method.teacher(batch["views"]["weak"][2:]).logits
    answer = torch.where(boxes, batch["label"][:2], logits.argmax(1, keepdim=True))
    assert bool((answer != logits.argmax(1, keepdim=True)).any())
    assert torch.equal(seen["maps"][2:], torch.cat([answer == 1, answer == 2], dim=1).float())
    confidence = seen["confidence"][2:]
    assert bool((confidence[boxes] == 1).all()) and float(confidence[~boxes].max()) < 1


def test_consistency_and_contrast_have_a_ramp_each(tiny):
    changes = {"consistency.ramp_up_steps": 8, "consistency.weight": 0.7, "consistency.mutual_weight": 0.3}
    method = make(tiny, decoders=3, **changes, **{"contrast.ramp_up_steps": 20, "contrast.weight": 0.2})
    with torch.no_grad():
        terms = method.losses(tiny.make_batch(), INFO)
    contrast = terms["pull_foreground"] + terms["pull_background"] + terms["push"]
    expected = terms["supervised"] + gaussian_ramp_up(5, 20) * 0.2 * contrast
    expected = expected + gaussian_ramp_up(5, 8) * (0.7 * terms["consistency"] + 0.3 * terms["mutual"])
    assert min(float(contrast), float(terms["mutual"])) > 1e-4
    torch.testing.assert_close(terms["loss"], expected)


@pytest.mark.parametrize("plain", [{}, {"include_background": True}, {"dice_weight": 0.3}, {"cross_entropy_weight": 2}])
def test_the_segmentation_loss_is_that_of_labels_and_of_the_teachers_answers(tiny, plain):
    changes = {f"segmentation.{key}": value for key, value in plain.items()}
    method, batch = make(tiny, **changes, **{"consistency.perturbation": "noise"}), tiny.make_batch()
    with torch.no_grad():
        answer = method.teacher(batch["views"]["weak"][2:]).logits.argmax(1, keepdim=True)
        logits = method.student(batch["views"]["strong"]).logits
        terms = method.losses(batch, INFO)
    torch.testing.assert_close(terms["supervised"], dice_cross_entropy(logits[:2], batch["label"][:2], **plain))
    torch.testing.assert_close(terms["consistency"], dice_cross_entropy(logits[2:], answer, **plain))


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_the_head_takes_a_gradient_only_where_the_contrast_counts(tiny, weight):
    """Several processes wait for the gradient of everything that takes one."""
    method = make(tiny, **{"contrast.weight": weight})
    assert {parameter.requires_grad for parameter in method.contrast.parameters()} == {weight > 0}
    method.losses(tiny.make_batch(), INFO)["loss"].backward()
    unreached = [name for name, value in method.named_parameters() if value.requires_grad and value.grad is None]
    assert unreached == []


def test_labeled_voxels_count_fully_in_the_weighed_contrast(tiny):
    """By hand: 1 in labeled rows, 1 - entropy / ln(classes) of the teacher in the others."""
    changes = {"contrast.weigh_by_confidence": True, "consistency.perturbation": "noise"}
    method, batch, seen = make(tiny, **changes), tiny.make_batch(), []
    method.contrast.register_forward_pre_hook(
        lambda _, words, named: seen.append(named["confidence"]), with_kwargs=True
    )
    with torch.no_grad():
        method.losses(batch, INFO)
        share = method.teacher(batch["views"]["weak"][2:]).logits.softmax(1)
    assert (seen[0][:2] == 1).all()
    torch.testing.assert_close(seen[0][2:], 1 + (share * share.log()).sum(1, keepdim=True) / math.log(3))
