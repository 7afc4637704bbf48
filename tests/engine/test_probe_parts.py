"""Embeddings, linear probe, subsets, fine-tuning: reference (scikit-learn where installed), by hand, property."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from medcontrast.engine.probe.embed import ImageSet, embed
from medcontrast.engine.probe.finetune import Classifier, FineTuning, classify, fine_tune, mirrored, rows_of_step
from medcontrast.engine.probe.labels import distinct_shares, stratified_subset
from medcontrast.engine.probe.linear import choose_linear, fit_linear
from medcontrast.errors import InputError
from medcontrast.networks.encoders2d import build_encoder
from medcontrast.render import embeddings_png, principal_plane


def make_encoder():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
    )


def make_images(count=70, seed=0):
    """Class 1 has a bright left half."""
    random = np.random.default_rng(seed)
    targets = np.arange(count) % 2
    images = random.normal(size=(count, 1, 8, 8)).astype(np.float32)
    images[targets == 1, :, :, :4] += 1.5
    return ImageSet(lambda rows: torch.from_numpy(images[list(rows)]), targets.astype(np.int64))


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_equal_bits(before, module):
    for name, value in module.state_dict().items():
        assert torch.equal(before[name], value), name


def test_a_frozen_encoder_stays_as_it_is():
    encoder = make_encoder().train()
    encoder[1].eval()  # a part that its owner froze
    before = state(encoder)
    features = embed(encoder, make_images())
    assert features.shape == (70, 16)
    assert_equal_bits(before, encoder)
    assert encoder.training and encoder[0].training and not encoder[1].training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in encoder.parameters())
    np.testing.assert_array_equal(features, embed(encoder, make_images()))


def test_the_test_of_frozen_statistics_can_fail():
    encoder = make_encoder().train()
    before = state(encoder)
    encoder(make_images().load(range(8)))
    with pytest.raises(AssertionError, match=r"1\.running_mean"):
        assert_equal_bits(before, encoder)


def test_features_that_are_not_finite_are_refused():
    encoder = make_encoder()
    with torch.no_grad():
        encoder[0].weight[0] = torch.nan
    with pytest.raises(InputError, match="features that are not finite"):
        embed(encoder, make_images())
    with pytest.raises(InputError, match="a split has none"):
        ImageSet(lambda rows: torch.zeros(0), np.zeros(0, np.int64))


def drawn(n=90, d=5, classes=3, seed=0):
    random = np.random.default_rng(seed)
    targets = random.integers(0, classes, n)
    features = random.normal(size=(n, d)) * [1, 10, 0.1, 1, 1] + 0.7 * np.eye(classes, d)[targets] + 3
    features[:, 4] = 2.5
    return features, targets


@pytest.mark.parametrize("strength", [1e-4, 0.1, 10.0])
def test_the_solution_has_no_gradient(strength):
    features, targets = drawn()
    probe = fit_linear(features, targets, classes=3, strength=strength)
    weight, bias = (tensor.clone().requires_grad_() for tensor in (probe.weight, probe.bias))
    inputs = (features - features.mean(0)) / np.where(features.std(0) > 1e-9, features.std(0), 1.0)
    logits = torch.from_numpy(inputs) @ weight.T + bias
    loss = functional.cross_entropy(logits, torch.from_numpy(targets)) + strength / 2 * (weight**2).sum()
    for gradient in torch.autograd.grad(loss, [weight, bias]):
        assert gradient.abs().max() < 1e-6
    np.testing.assert_allclose(probe.logits(features), logits.detach())
    assert torch.all(probe.weight[:, 4] == 0)


def test_linear_probe_against_scikit_learn():
    witness = pytest.importorskip("sklearn.linear_model")
    features, targets = drawn()
    inputs = (features - features.mean(0)) / np.where(features.std(0) > 1e-9, features.std(0), 1.0)
    # its objective is C times the sum of the losses + half of the squared weights
    other = witness.LogisticRegression(C=1 / (0.05 * len(targets)), tol=1e-10, max_iter=5000).fit(inputs, targets)
    found = fit_linear(features, targets, classes=3, strength=0.05).probabilities(features)
    np.testing.assert_allclose(found, other.predict_proba(inputs), atol=1e-5)


def test_a_probe_of_several_labels_is_one_regression_a_label():
    witness = pytest.importorskip("sklearn.linear_model")
    features, targets = drawn()
    held = np.array([[True, True, False, False], [False, True, True, False], [False, False, True, True]])[targets]
    inputs = (features - features.mean(0)) / np.where(features.std(0) > 1e-9, features.std(0), 1.0)
    found = fit_linear(features, held, classes=4, strength=0.05).probabilities(features)
    for label in range(4):
        other = witness.LogisticRegression(C=1 / (0.05 * len(targets)), tol=1e-10, max_iter=5000)
        alone = other.fit(inputs, held[:, label]).predict_proba(inputs)[:, 1]
        np.testing.assert_allclose(found[:, label], alone, atol=1e-5)


def test_a_strong_penalty_leaves_the_shares_of_the_classes():
    features, targets = drawn()
    found = fit_linear(features, targets, classes=3, strength=1e6).probabilities(features)
    np.testing.assert_allclose(found, np.tile(np.bincount(targets) / 90, (90, 1)), atol=1e-4)
    with pytest.raises(InputError, match=r"must be above 0, but got 0\.0"):
        fit_linear(features, targets, classes=3, strength=0.0)


def test_strength_is_the_one_that_validation_likes_best():
    features, targets = drawn(n=30)
    other, other_targets = drawn(n=60, seed=1)
    losses = {}
    for strength in (1e-4, 0.1, 100.0):
        logits = fit_linear(features, targets, classes=3, strength=strength).logits(other)
        losses[strength] = float(functional.cross_entropy(logits, torch.from_numpy(other_targets)))
    chosen = choose_linear(features, targets, other, other_targets, classes=3, strengths=(1e-4, 0.1, 100.0))
    assert chosen.strength == min(losses, key=losses.get)
    # validation like the training images wants no penalty; noise wants all of it
    assert choose_linear(features, targets, features, targets, classes=3).strength == 1e-6
    noise = np.random.default_rng(0).normal(size=(60, 5)) * 5 + 3
    assert choose_linear(features, targets, noise, other_targets, classes=3).strength == 100.0


@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.1, 0.25, 1.0])
def test_subsets_are_stratified_and_nested(fraction):
    targets = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [200, 60, 3]))
    chosen = stratified_subset(targets, fraction, seed=4)
    for k, count in enumerate((200, 60, 3)):
        assert (targets[chosen] == k).sum() == max(1, int(fraction * count + 0.5))
    assert len(set(chosen.tolist())) == len(chosen)
    assert set(chosen) <= set(stratified_subset(targets, 1.0, seed=4))
    assert set(stratified_subset(targets, 0.01, seed=4)) <= set(chosen)
    np.testing.assert_array_equal(chosen, stratified_subset(targets, fraction, seed=4))
    if fraction < 1:
        assert not np.array_equal(chosen, stratified_subset(targets, fraction, seed=5))


def test_shares_that_take_the_same_images_are_one():
    targets = np.repeat([0, 1], [12, 10])
    shares, notes = distinct_shares(targets, (0.01, 0.05, 0.1, 0.25, 0.25, 1.0))
    assert shares == (0.01, 0.25, 1.0)
    assert notes == [
        f"{share} % of the labels are the same 2 of 22 images as 1 %, and left out; every class has one at least."
        for share in (5, 10)
    ]
    for one, other in ((0.01, 0.1), (0.01, 0.05)):
        assert np.array_equal(stratified_subset(targets, one, 3), stratified_subset(targets, other, 3))
    assert len(stratified_subset(targets, 0.25, 3)) == 3 + 3


def test_a_share_out_of_range_is_refused():
    with pytest.raises(InputError, match=r"above 0 and at most at 1, but got 1\.5"):
        stratified_subset(np.zeros(3, np.int64), 1.5, 0)


def test_every_pass_takes_every_row_once():
    places = np.concatenate([rows_of_step(10, 4, 3, step) for step in range(5)])
    assert sorted(places[:10]) == sorted(places[10:]) == list(range(10))
    assert not np.array_equal(places[:10], places[10:])
    assert sorted(rows_of_step(2, 8, 0, 0).tolist()) == [0] * 4 + [1] * 4


def test_mirroring_is_a_draw_a_row():
    image = torch.arange(4 * 64).reshape(64, 1, 2, 2).float()
    out = mirrored(image, 3, 0)
    turned = (out != image).flatten(1).any(1)
    assert 15 < int(turned.sum()) < 49
    assert torch.equal(out[turned], image.flip(3)[turned]) and torch.equal(out, mirrored(image, 3, 0))
    along_x = mirrored(image, 3, 0, axis=0)
    assert torch.equal(along_x[turned], image.flip(2)[turned]) and torch.equal(along_x[~turned], image[~turned])


def test_more_groups_than_colours_are_told_apart_by_their_marks(tmp_path, monkeypatch):
    from medcontrast.render import embeddings as module

    figures = []
    monkeypatch.setattr(module, "save_png", lambda figure, path: figures.append(figure))
    points = np.random.default_rng(0).normal(size=(40, 3))
    embeddings_png(tmp_path / "e.png", points, {"class": [f"{place % 20:02d}" for place in range(40)]})
    drawn = figures[0].axes[0].collections
    looks = {(part.get_facecolor().tobytes(), part.get_paths()[0].vertices.tobytes()) for part in drawn}
    assert len(drawn) == len(looks) == 20


def test_fine_tuning_normalises_whole_batches():
    torch.manual_seed(0)
    encoder = build_encoder("resnet20", in_channels=1, width=4, norm="split_batch").train()
    plain = build_encoder("resnet20", in_channels=1, width=4).train()
    plain.load_state_dict(encoder.state_dict())
    image = torch.randn(8, 1, 16, 16)
    whole, parts = plain(image), encoder(image)
    assert not torch.allclose(parts, whole, atol=1e-2)
    torch.testing.assert_close(Classifier(encoder, 16, 2).encoder(image), whole)
    assert torch.equal(encoder(image), parts)  # the one that was given stays as it is


def tuned(**changes):
    given = {"steps": 25, "rows": 8, "lr": 0.02, **changes}
    encoder, images = make_encoder(), make_images()
    before = state(encoder)
    classifier = fine_tune(
        encoder,
        images,
        np.arange(40),
        feature_channels=16,
        classes=2,
        settings=FineTuning(mirror_axis=None, **given),
        seed=1,
        device=torch.device("cpu"),
    )
    return encoder, before, classifier


def test_fine_tuning_learns_and_leaves_the_encoder_it_started_from():
    encoder, before, classifier = tuned()
    assert_equal_bits(before, encoder)
    assert not torch.equal(classifier.encoder[0].weight, encoder[0].weight)
    other = make_images(seed=9)
    assert (classify(classifier, other, torch.device("cpu")).argmax(1) == other.targets).mean() > 0.9
    again = tuned()[2]
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), classifier.parameters(), strict=True))


def test_fine_tuning_uses_the_chosen_labels_alone():
    images = make_images()
    asked = []

    def load(rows):
        asked.extend(rows)
        return images.load(rows)

    fine_tune(
        make_encoder(),
        ImageSet(load, images.targets),
        np.array([3, 8, 9]),
        feature_channels=16,
        classes=2,
        settings=FineTuning(steps=4, rows=4),
        seed=0,
        device=torch.device("cpu"),
    )
    assert set(asked) == {3, 8, 9}


def test_principal_plane_by_hand(tmp_path):
    points = np.array([[3.0, 0.0, 1.0], [-3.0, 0.0, 1.0], [0.0, 1.0, 1.0], [0.0, -1.0, 1.0]])
    plane, shares = principal_plane(points)
    np.testing.assert_allclose(plane, points[:, :2], atol=1e-12)
    assert shares == pytest.approx((0.9, 0.1))
    np.testing.assert_allclose(principal_plane(points + 7)[0], plane, atol=1e-12)
    with pytest.raises(InputError, match=r"got shape \(1, 3\)"):
        principal_plane(points[:1])
    embeddings_png(tmp_path / "e.png", points, {"class": list("aabb"), "domain": list("xyxy")}, title="t")
    assert (tmp_path / "e.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(InputError, match="domain: 4 embeddings need a name each, but got 2"):
        embeddings_png(tmp_path / "f.png", points, {"domain": ["x", "y"]})
