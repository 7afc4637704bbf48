"""Taking over an encoder: by hand, property (every tensor, or none)."""

from __future__ import annotations

import pytest
import torch

from medcontrast.errors import CheckpointError
from medcontrast.networks.encoders2d import build_encoder
from medcontrast.networks.transfer import load_encoder

VIT = {"name": "vit", "width": 12, "heads": 2, "patch": 4, "image_size": 8}


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


@pytest.mark.parametrize(
    ("held", "wanted", "line"),
    [
        (
            {"name": "resnet34"},
            {"name": "resnet18"},
            r" 0 of its 120 tensors do not fit and 96 others have.*levels\.0\.2\.\S+: the encoder has none",
        ),
        ({"name": "resnet18"}, {"name": "resnet34"}, r"levels\.0\.2\.\S+: missing; the encoder has"),
        ({"name": "resnet18"}, {"name": "resnet50"}, r"the checkpoint has \S.*, the encoder"),
        ({"name": "resnet20", "width": 4}, {"name": "resnet18"}, r"the checkpoint has \S.*, the encoder"),
        ({**VIT, "depth": 4}, {**VIT, "depth": 2}, r"blocks\.2\.\S+: the encoder has none"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "encoder."])
def test_another_depth_is_named_by_layer_and_never_taken_in_part(held, wanted, line, prefix):
    source, encoder = (build_encoder(in_channels=1, **plain) for plain in (held, wanted))
    tensors = {prefix + name: torch.full_like(value, 3) for name, value in source.state_dict().items()}
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"(?s)^x: of another architecture than this encoder;.*" + line):
        load_encoder(encoder, tensors, where="x")
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
