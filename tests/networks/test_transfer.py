"""Taking over an encoder: by hand, property (every tensor, or none)."""

from __future__ import annotations

import pytest
import torch

from medcontrast.errors import CheckpointError
from medcontrast.networks.encoders2d import build_encoder
from medcontrast.networks.transfer import load_encoder


def tensors_of(prefix, **plain):
    encoder = build_encoder("resnet20", in_channels=1, **{"width": 4, **plain})
    return {prefix + name: torch.full_like(value, 3) for name, value in encoder.state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "encoder.", "student.encoder."])
def test_every_tensor_is_loaded_whatever_stands_before_its_name(prefix):
    encoder = build_encoder("resnet20", in_channels=1, width=4)
    held = {**tensors_of(prefix), "head.0.weight": torch.zeros(2, 2)}
    assert load_encoder(encoder, held, where="x") == len(encoder.state_dict()) > 0
    assert all(bool((value == 3).all()) for value in encoder.state_dict().values())


def refused(held, sentence, name="resnet20", **plain):
    encoder = build_encoder(name, in_channels=1, **{"width": 4, **plain})
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(CheckpointError, match=sentence):
        load_encoder(encoder, held, where="x.safetensors")
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())


def test_another_width_is_named_by_layer():
    held = tensors_of("encoder.", width=8)
    refused(
        held, r"(?s)of another architecture.* do not fit, and nothing was loaded:.*the checkpoint has \(8, 1, 3, 3\)"
    )


def test_a_missing_layer_is_named():
    held = tensors_of("encoder.")
    del held["encoder.stem.0.weight"]
    refused(held, r"(?s)1 of its \d+ tensors.*stem\.0\.weight: missing; the encoder has \(4, 1, 3, 3\)")


def test_nothing_in_common_and_two_of_them():
    refused({"a.b": torch.zeros(1)}, r"none of the encoder's \d+ tensors stands in it .*it holds a\.b")
    refused({}, "it holds nothing")
    refused({**tensors_of("student."), **tensors_of("teacher.")}, r"holds this encoder 2 times \('student\.', 'teacher")
    refused(tensors_of("encoder."), "x.safetensors: (none|of another)", name="resnet18")
