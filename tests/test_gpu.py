"""What CUDA is told and asked, on a machine without it: property."""

import pytest
import torch

from medcontrast import gpu
from medcontrast.gpu import compute_in_float32, gpu_facts, sound_in_16_bits


@pytest.mark.parametrize(
    ("version", "sound"),
    [(None, True), (90701, True), (90800, False), (91002, False), (91400, False), (91500, True), (92100, True)],
)
def test_which_cudnn_is_sound_in_16_bits(monkeypatch, version, sound):
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: version)
    assert sound_in_16_bits() is sound


def test_float32_is_no_tf32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    compute_in_float32()
    assert torch.backends.cudnn.allow_tf32 is False


def test_facts_name_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a GPU {device.index}")
    monkeypatch.setattr(gpu.torch.backends.cudnn, "version", lambda: 91900)
    assert gpu_facts(torch.device("cuda", 1)) == {"gpu": "a GPU 1", "cudnn": 91900}
    assert gpu_facts(torch.device("cpu")) == {}
