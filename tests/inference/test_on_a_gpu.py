"""What inference decides for a GPU, on a machine without one: property."""

import pytest
import torch

from medcontrast.inference import windows
from medcontrast.inference.device import autocast_on

CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("trained_in", "cudnn", "bfloat16", "computed_in"),
    [
        ("auto", 91900, True, "bfloat16"),
        ("bf16-mixed", 91900, True, "bfloat16"),
        ("16-mixed", 91900, True, "float16"),
        ("auto", 91900, False, "float32"),
        ("32-true", 91900, True, "float32"),
        ("auto", 91002, True, "float32"),
        ("16-mixed", 91002, True, "float32"),
    ],
)
def test_precision_follows_training_where_the_gpu_can(monkeypatch, trained_in, cudnn, bfloat16, computed_in):
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)
    assert autocast_on(CUDA, trained_in)[0] == computed_in
    assert torch.backends.cudnn.allow_tf32 is (computed_in != "float32")
    assert autocast_on(torch.device("cpu"), trained_in)[0] == "float32"


def test_maps_take_a_quarter_of_what_a_gpu_has_free_at_most(monkeypatch):
    monkeypatch.setattr(windows, "DEVICE_BYTES", 1000)
    for free, room in ((3996, 999), (8000, 1000)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**6))
        assert windows._room_on(CUDA) == room
    assert windows._room_on(torch.device("cpu")) == 1000
