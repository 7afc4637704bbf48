"""The whole probe of a tiny encoder: property, whole."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from medcontrast.engine.probe.embed import ImageSet
from medcontrast.engine.probe.finetune import FineTuning
from medcontrast.engine.probe.probe import ProbeSets, probe_encoder
from medcontrast.engine.probe.report import write_probe
from medcontrast.errors import InputError
from medcontrast.networks.encoders2d import build_encoder


def images(count, seed):
    random = np.random.default_rng(seed)
    targets = np.arange(count) % 2
    pixels = random.normal(size=(count, 1, 16, 16)).astype(np.float32)
    pixels[targets == 1] *= 2.0  # texture, which an encoder of random weights sees
    domains = ["A" if place < count // 2 else "B" for place in range(count)]
    return ImageSet(lambda rows: torch.from_numpy(pixels[list(rows)]), targets.astype(np.int64), {"domain": domains})


def test_a_probe_from_encoder_to_table(tmp_path):
    torch.manual_seed(0)
    encoder = build_encoder("resnet20", in_channels=1, width=4).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    rows = probe_encoder(
        [encoder],
        ProbeSets(images(60, 0), images(20, 1), images(40, 2), classes=2),
        seeds=(0, 1),
        fractions=(0.1, 1.0),
        fine_tuning=FineTuning(steps=3, rows=4),
    )
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    shape = [(row.kind, row.fraction, row.labels, row.seeds) for row in rows]
    assert shape == [
        ("knn", 0.1, 6, 2),
        ("linear", 0.1, 6, 2),
        ("finetune", 0.1, 6, 2),
        ("knn", 1.0, 60, 1),
        ("linear", 1.0, 60, 1),
        ("finetune", 1.0, 60, 2),
    ]
    assert rows[4].values["accuracy"].mean > 0.9 and rows[4].values["accuracy"].low is None
    assert rows[1].values["domain gap accuracy"].low is not None
    table = write_probe(tmp_path, rows, {"encoder": "resnet20"})
    assert "| linear | 6 (10 %) | 2 |" in table and "domain worst roc auc" in table
    assert "noise alone makes a gap" in table and "have one encoder: they vary the subset of labels" in table
    assert (tmp_path / "probe.md").read_text() == table
    content = json.loads((tmp_path / "probe.json").read_text())
    assert content["rows"][4]["values"]["accuracy"]["mean"] == rows[4].values["accuracy"].mean


def test_labels_that_classes_contain_are_probed_for_themselves(tmp_path):
    torch.manual_seed(0)
    encoder = build_encoder("resnet20", in_channels=1, width=4)
    contains = np.array([[True, False], [False, True], [True, True]])

    def three(count, seed):
        random = np.random.default_rng(seed)
        targets = random.permutation(np.arange(count) % 3)
        pixels = random.normal(size=(count, 1, 16, 16)).astype(np.float32)
        pixels *= (1.0 + targets[:, None, None, None]).astype(np.float32)
        domains = ["A" if place < count // 2 else "B" for place in range(count)]
        return ImageSet(lambda rows: torch.from_numpy(pixels[list(rows)]), targets, {"domain": domains})

    sets = ProbeSets(three(90, 0), three(30, 1), three(60, 2), 3, contains)
    rows = probe_encoder([encoder], sets, seeds=(0, 1), fractions=(0.2, 1.0))
    assert [(row.kind, row.labels) for row in rows] == [
        (kind, labels) for labels in (18, 90) for kind in ("knn", "linear", "multilabel")
    ]
    whole = rows[5]
    assert set(whole.values) >= {"accuracy", "average_precision", "roc_auc", "domain=A average_precision"}
    assert (
        whole.values["average_precision"].mean > 0.8 and whole.values["accuracy"].mean > 0.6
    )  # chance: 2 of 3, 1 of 3
    assert whole.over_units.mean == pytest.approx(whole.values["accuracy"].mean)
    # which of the classes hold a label decides: one that the two outer textures share is no line's work, these are
    ordered = np.array([[True, False], [True, True], [False, True]])
    easier = probe_encoder([encoder], replace(sets, contains=ordered), seeds=(0,), fractions=(1.0,))[2]
    assert easier.values["average_precision"].mean > whole.values["average_precision"].mean + 0.1
    table = write_probe(tmp_path, rows, {})
    assert "mean average precision" in table.splitlines()[0]
    plain = write_probe(tmp_path, [row for row in rows if row.kind != "multilabel"], {})
    assert "mean average precision |" not in plain
    with pytest.raises(InputError, match="needs the labels that each class contains"):
        replace(sets, contains=None).score("multilabel", np.zeros((60, 2)))


def test_the_interval_is_over_units_of_test_images():
    torch.manual_seed(0)
    encoder = build_encoder("resnet20", in_channels=1, width=4)
    sets = ProbeSets(images(60, 0), images(20, 1), images(40, 2), classes=2)
    one_unit = replace(sets, test=replace(sets.test, units=np.zeros(40, np.int64)))
    each, whole = (probe_encoder([encoder], part, seeds=(0,), fractions=(0.1,)) for part in (sets, one_unit))
    assert each[0].over_units.low is not None and whole[0].over_units.low is None
    assert whole[0].over_units.mean == pytest.approx(each[0].over_units.mean)


def test_no_seed_is_refused():
    encoder = build_encoder("resnet20", in_channels=1, width=4)
    with pytest.raises(InputError, match="a seed and a share of the labels at least"):
        probe_encoder([encoder], ProbeSets(*[images(8, 0)] * 3, classes=2), seeds=())
    with pytest.raises(InputError, match="one encoder, or one for each of 3 seeds, but got 2"):
        probe_encoder([encoder] * 2, ProbeSets(*[images(8, 0)] * 3, classes=2))
