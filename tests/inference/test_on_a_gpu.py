"""What inference decides for a GPU, on a machine without one: property."""

import pytest
import torch
from far_device import FAR, far_device, is_far

from medcontrast.inference import windows
from medcontrast.inference.device import autocast_on, resolve_device

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


@pytest.mark.parametrize(("name", "computes"), [(None, True), ("cuda", True), ("cpu", False)])
def test_float32_is_float32_on_a_gpu_whatever_was_done_before(monkeypatch, name, computes):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device(name).type == (name or "cuda")
    assert torch.backends.cudnn.allow_tf32 is not computes


def test_maps_take_a_quarter_of_what_a_gpu_has_free_at_most(monkeypatch):
    monkeypatch.setattr(windows, "DEVICE_BYTES", 1000)
    for free, room in ((3996, 999), (8000, 1000)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**6))
        assert windows._room_on(CUDA) == room
    assert windows._room_on(torch.device("cpu")) == 1000


@pytest.mark.parametrize(
    ("room", "there"), [(10**9, True), (3 * 8 * 20 * 20 * 4, True), (3 * 8 * 20 * 20 * 4 - 1, False)]
)
def test_sums_of_windows_too_large_for_the_gpu_are_kept_in_main_memory(monkeypatch, room, there):
    monkeypatch.setattr(windows, "_room_on", lambda device: room)
    image = torch.sin(torch.arange(8000) * 0.1).reshape(1, 1, 20, 20, 20)

    def slabs(device):
        return list(windows.window_slabs(image, (8, 8, 8), lambda part: part * torch.ones(3, 1, 1, 1), device=device))

    expected = slabs(torch.device("cpu"))

    def logits_of(part):
        assert is_far(part)
        return part * torch.ones(3, 1, 1, 1, device=FAR)

    with far_device():
        found = list(windows.window_slabs(image, (8, 8, 8), logits_of, device=FAR))
    assert all(is_far(slab) is there for slab in found)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.as_subclass(torch.Tensor), other)
