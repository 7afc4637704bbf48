"""Kinds: reference (the other sides of the speed benchmarks compute the same), by hand (windows, the written table)."""

from __future__ import annotations

import json
from contextlib import nullcontext
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from medcontrast.batch import StepInfo
from medcontrast.methods.fba_net import FBANet
from medcontrast.networks.monai_networks import DynUNet
from medcontrast.settings.methods import FBANetSettings
from medcontrast.transforms.copy_paste import exchange_boxes

ROOT = Path(__file__).parents[2]
SIDE, ROWS = 16, 2


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The scripts of benchmarks/ as modules."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import growth
    import literature_step
    import literature_window
    import memory
    import speed_record

    return SimpleNamespace(
        step=literature_step, window=literature_window, record=speed_record, growth=growth, memory=memory
    )


def balls(classes: int) -> torch.Tensor:
    """Nested boxes as labels (rows, 1, x, y, z), other ones in every row."""
    label = torch.zeros(2 * ROWS, 1, SIDE, SIDE, SIDE, dtype=torch.int64)
    for row in range(2 * ROWS):
        for k in range(1, classes):
            label[row, 0, 1 + row + 2 * k : 15 - 2 * k, 3 : 12 - row, k : 14 - k] = k
    return label


def test_the_literatures_step_computes_ours(speed: SimpleNamespace) -> None:
    torch.manual_seed(0)
    settings = FBANetSettings.model_validate({"name": "fba_net", "consistency": {"ramp_up_steps": 0}})
    ours = FBANet(settings, lambda: DynUNet(in_channels=1, classes=3, filters=[4, 8, 8], norm="instance")).train()
    plain = DynUNet(in_channels=1, classes=3, filters=[4, 8, 8], norm="instance").train()
    plain.load_state_dict(ours.student.state_dict())
    head = [nn.Linear(4, 32), nn.Linear(32, settings.contrast.embedding_channels)]
    for layer, own in zip(head, (ours.contrast.head.hidden, ours.contrast.head.last), strict=True):
        layer.load_state_dict(own.state_dict())
    log = StringIO()
    other = speed.step.LiteratureStep(plain, *head, settings, lr=0.01, weight_decay=0.01, clip_norm=1.0, log=log)
    optimizer = torch.optim.AdamW([p for p in ours.parameters() if p.requires_grad], lr=0.01, weight_decay=0.01)
    label, labeled = balls(3), torch.tensor([True] * ROWS + [False] * ROWS)
    label[~labeled] = -1
    for number in range(3):
        image = torch.randn(2 * ROWS, 1, SIDE, SIDE, SIDE)
        views = {"strong": image, "weak": image}
        batch = {"image": image, "views": views, "label": label, "labeled": labeled, "index": torch.arange(2 * ROWS)}
        info = StepInfo(number, 10, 0, 0)
        terms = ours.losses(batch, info)
        optimizer.zero_grad()
        terms["loss"].backward()
        torch.nn.utils.clip_grad_norm_(ours.parameters(), 1.0)
        optimizer.step()
        ours.after_step(info)
        consistency = settings.consistency
        boxes = exchange_boxes(
            (SIDE,) * 3,
            consistency.paste_fraction,
            consistency.paste_probability,
            seed=0,
            step=number,
            rows=batch["index"][~labeled],
        )
        found = other.step(image, image, label, labeled, boxes, number, lambda name: nullcontext())
        assert terms.keys() == found.keys()
        for name, value in terms.items():
            assert found[name] == pytest.approx(float(value.detach()), rel=2e-3, abs=1e-4), (number, name)
    assert log.getvalue().count("\n") == 3
    assert len(other.memory[0][0][0]) == min(settings.contrast.memory, int(ours.contrast.foreground_memory.count[0]))


def test_the_literatures_windows_are_averaged_plainly(speed: SimpleNamespace) -> None:
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 7, 5, 4)).astype(np.float32))
    seen = []

    def logits_of(window: torch.Tensor) -> torch.Tensor:
        seen.append(window[0, 0, 0, 0, 0].item())
        place = torch.linspace(-1, 1, 4)[:, None, None].expand(4, 4, 4)
        return torch.stack([window[0, 0], place])[None]

    found = speed.window.literature_classes(logits_of, image, (4, 4, 4), (2, 1, 3))
    total, count = np.zeros((2, 7, 5, 4)), np.zeros((7, 5, 4))
    starts = [(x, y, 0) for x in (0, 2, 3) for y in (0, 1)]
    for x, y, z in starts:
        window = image[:, x : x + 4, y : y + 4, z : z + 4]
        place = torch.linspace(-1, 1, 4)[:, None, None].expand(4, 4, 4)
        total[:, x : x + 4, y : y + 4, z : z + 4] += torch.stack([window[0], place]).softmax(dim=0).numpy()
        count[x : x + 4, y : y + 4, z : z + 4] += 1
    assert seen == [image[0, x, y, z].item() for x, y, z in starts]
    assert np.array_equal(found, np.argmax(total / count, axis=0))


def test_a_record_is_written_and_stands_in_the_table(
    speed: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- speed -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
    monkeypatch.setattr(speed.record, "README", readme)
    monkeypatch.setattr(speed.record, "RESULTS", tmp_path / "results")
    other = {"seconds": 3.0, "ratio": 6.0}
    speed.record.write_record("a", ["torch"], {"what": "this", "seconds": 0.5, "others": {"that": other}, "threads": 1})
    speed.record.write_record("b", ["torch"], {"scans": {"CT": {"windows": 1.234, "limit": 8.0}}})
    written = json.loads((tmp_path / "results" / "a.json").read_text())
    assert written["versions"]["torch"] == torch.__version__ and written["written"]
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("<!-- end -->\nafter\n") and "old" not in text
    assert "| this | 0.5000 | that | 3.0000 | 6.0 | " in text and "1 thread(s), load " in text
    assert "| CT |  | 1.23 |  |  |  | 8.00 |" in text


@pytest.mark.parametrize("name", ["training_step", "evaluation", "inference"])
def test_what_growth_times_runs(speed: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Each on its smallest point; nothing else calls them but `make bench`."""
    monkeypatch.setattr(speed.growth, "_rates", lambda: (1e9, 1e9))
    monkeypatch.setattr(speed.growth, "_floor", lambda work: 0.0)
    found = getattr(speed.growth, name)({"side": 64 if name == "inference" else 16, "classes": 3})
    assert found["seconds"] > 0


def test_the_prediction_whose_memory_is_measured_runs(speed: SimpleNamespace) -> None:
    scan = speed.memory.Scan((20, 20, 20), None, 3, "vnet", "batch", 2, 1, (16, 16, 16), 1.0)
    found = speed.memory.predict(scan, 2)  # of a process in which other tests ran memory may have become less
    assert {"preparing", "windows"} <= found.keys() and found["seconds"] > 0
