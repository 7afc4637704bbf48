"""Tests of what is said of the processor: property, by hand."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from medcontrast import cpu


def test_the_model_is_read_and_threads_are_those_of_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: A CPU: 9000\nmodel name\t: A CPU: 9000\n")
    monkeypatch.setattr(cpu, "_LINUX", tmp_path / "cpuinfo")
    assert cpu.cpu_facts() == {"cpu": "A CPU: 9000", "threads": torch.get_num_threads()}


def test_elsewhere_the_system_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_LINUX", tmp_path / "none")
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert cpu.cpu_facts()["cpu"] == "arm64"
