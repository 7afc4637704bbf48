"""How time and memory of a training step, of inference and of evaluation grow, with the machine's floor drawn in.

    python benchmarks/growth.py              # --quick: two points a curve, nothing recorded

Against voxels, classes, cases (evaluation) and loader processes (a batch of the hippocampus recipe). Every point is a
process of its own, forked where the system can: median seconds, and the highest resident size over what it held before.
The floor of the first two is the larger of two times: FLOPs of the network's convolutions over the rate of a matrix
product measured in the same process, and bytes of their operands over the rate of a copy; the floor of evaluation is
one reading of both masks. It writes docs/images/growth.png.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from memory import peak_bytes, resident_bytes
from speed_record import write_record

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "images" / "growth.png"
Point = dict[str, Any]

CURVES: dict[str, dict[str, list[Point]]] = {
    "voxels": {
        "training step": [{"side": side} for side in (16, 24, 32)],
        "inference": [{"side": side} for side in (64, 96, 128)],
        "evaluation": [{"side": side} for side in (64, 96, 128, 192)],
    },
    "classes": {
        "training step": [{"side": 16, "classes": classes} for classes in (2, 3, 5, 9)],
        "inference": [{"side": 64, "classes": classes} for classes in (2, 3, 5, 9)],
        "evaluation": [{"side": 96, "classes": classes} for classes in (2, 3, 5, 9)],
    },
    "cases": {"evaluation": [{"side": 96, "cases": cases} for cases in (1, 2, 4, 8)]},
    "loader processes": {"batch of 8 rows": [{"workers": workers} for workers in (0, 1, 2)]},
}
FILTERS = [8, 16, 32]
WINDOW = (64, 64, 64)


def training_step(point: Point) -> dict[str, float]:
    """fba_net with 2 labeled and 2 unlabeled rows: losses, backward, optimiser, teacher."""
    import torch

    from medcontrast.batch import StepInfo
    from medcontrast.methods import build_method
    from medcontrast.networks.build import build_network
    from medcontrast.settings.methods import FBANetSettings

    side, classes = point["side"], point.get("classes", 2)
    method = build_method(
        FBANetSettings(name="fba_net"),
        lambda: build_network("dynunet", in_channels=1, classes=classes, filters=FILTERS),
    ).train()
    optimizer = torch.optim.AdamW(parameter for parameter in method.parameters() if parameter.requires_grad)
    label = _shells(side, classes)[None, None].repeat(4, 1, 1, 1, 1)
    label[2:] = -1
    image = torch.randn(4, 1, side, side, side)
    batch: Any = {
        "image": image,
        "views": {"strong": image, "weak": image},
        "label": label,
        "labeled": torch.tensor([True, True, False, False]),
        "case": list("abcd"),
        "index": torch.arange(4),
    }

    def step() -> None:
        info = StepInfo(1, 100, 0, 0)
        method.losses(batch, info)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step(info)

    return _measured(step) | {"floor": _floor(step)}


def inference(point: Point) -> dict[str, float]:
    """Classes of a prepared image by the sliding window."""
    import torch

    from medcontrast.inference.predict import predict_case
    from medcontrast.inference.windows import window_starts
    from medcontrast.networks.build import build_network
    from medcontrast.settings.train import InferenceSettings

    side, classes = point["side"], point.get("classes", 2)
    network = build_network("dynunet", in_channels=1, classes=classes, filters=FILTERS).eval()
    image = torch.randn(1, side, side, side)
    settings = InferenceSettings()

    @torch.no_grad()
    def window() -> None:
        network(torch.zeros(1, 1, *WINDOW))

    count = len(window_starts((side, side, side), WINDOW, settings.overlap))
    found = _measured(lambda: predict_case(network, image, patch=WINDOW, settings=settings, device="cpu"))
    return found | {"floor": count * _floor(window)}


def evaluation(point: Point) -> dict[str, float]:
    """Every figure of every class of some cases: shells against the same moved by two voxels."""
    import numpy as np

    from medcontrast.metrics.case import score_case

    side, classes, cases = point["side"], point.get("classes", 2), point.get("cases", 1)
    reference = _shells(side, classes).numpy().astype(np.uint16)
    prediction = np.roll(reference, 2, axis=0)
    targets = {f"class {value}": (value,) for value in range(1, classes)}

    def score() -> None:
        for _ in range(cases):
            score_case(prediction, reference, targets=targets, spacing_mm=(1.0, 1.0, 1.0), tolerance_mm=1.0)

    return _measured(score) | {"floor": cases * 2 * reference.nbytes / _rates()[1]}


def batch_of_rows(point: Point) -> dict[str, float]:
    """What the loop waits for when it does nothing else: the loader's next batch."""
    from medcontrast.data.fit import recipe_manifest
    from medcontrast.data.volumes import make_loader
    from medcontrast.settings import load_recipe

    path = ROOT / "recipes" / "hippocampus_fbanet_8.yaml"
    recipe = load_recipe(path, [f"data.workers={point['workers']}"])
    loader, _ = make_loader(recipe, recipe_manifest(recipe, path))
    batches = iter(loader)
    return _measured(lambda: next(batches), repeats=40)


MEASURES: dict[str, Callable[[Point], dict[str, float]]] = {
    "training step": training_step,
    "inference": inference,
    "evaluation": evaluation,
    "batch of 8 rows": batch_of_rows,
}


def _shells(side: int, classes: int) -> Any:
    """(x, y, z) int64: nested balls, the classes from outside in."""
    import torch

    line = torch.linspace(-1, 1, side)
    radius = (line[:, None, None] ** 2 + line[None, :, None] ** 2 + line[None, None, :] ** 2).sqrt()
    return ((0.8 - radius).clamp_min(0) / 0.8 * classes).ceil().long().clamp(0, classes - 1)


def _measured(work: Callable[[], object], repeats: int = 3) -> dict[str, float]:
    before, seconds = resident_bytes(), []
    for _ in range(repeats + 1):  # the first fills caches
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return {"seconds": statistics.median(seconds[1:]), "gigabytes": (peak_bytes() - before) / 1e9}


def _floor(work: Callable[[], object]) -> float:
    """Seconds that the work's convolutions need at the least."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    class Bytes(TorchDispatchMode):
        total = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if "convolution" in str(func):
                tensors = [*args, *(out if isinstance(out, tuple) else (out,))]
                self.total += sum(value.nbytes for value in tensors if isinstance(value, torch.Tensor))
            return out

    with Bytes() as moved, FlopCounterMode(display=False) as counter:
        work()
    flops, bytes_ = _rates()
    return max(counter.get_total_flops() / flops, moved.total / bytes_)


def _rates() -> tuple[float, float]:
    """(FLOPs, bytes) a second: the best of ten matrix products and of ten copies."""
    import torch

    first, block = torch.randn(1024, 1024), torch.zeros(2**25)
    other = torch.empty_like(block)
    flops = 2 * 1024**3 / _best(lambda: first @ first)
    return flops, 2 * block.nbytes / _best(lambda: other.copy_(block))


def _best(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(10):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _x(axis: str, point: Point) -> float:
    return {
        "voxels": point.get("side", 0) ** 3,
        "classes": point.get("classes", 2),
        "cases": point.get("cases", 1),
        "loader processes": point.get("workers", 0),
    }[axis]


def _in_a_process(name: str, point: Point) -> dict[str, float]:
    if sys.platform == "linux":  # libraries are loaded once; nothing has started a thread of theirs yet
        import medcontrast.inference.predict
        import medcontrast.methods
        import medcontrast.metrics.case  # noqa: F401
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:  # a multiprocessing.Pool's could have no loader processes
        return pool.submit(MEASURES[name], point).result()


def draw(found: dict[str, dict[str, list[dict[str, float]]]]) -> None:
    """Seconds above, memory below; floors dotted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 7), dpi=110, layout="constrained")
    panels = figure.subplots(2, len(found))
    for column, (axis, curves) in enumerate(found.items()):
        for colour, (name, rows) in zip(("#0072B2", "#D55E00", "#009E73"), curves.items(), strict=False):
            x = [row["x"] for row in rows]
            panels[0, column].plot(x, [row["seconds"] for row in rows], "-o", color=colour, label=name)
            if "floor" in rows[0]:
                floor = [row["floor"] for row in rows]
                panels[0, column].plot(x, floor, ":", color=colour, label=f"{name}, floor")
            panels[1, column].plot(x, [row["gigabytes"] for row in rows], "-o", color=colour, label=name)
        for row, unit in enumerate(("seconds", "GB beyond the start")):
            panels[row, column].set(xlabel=axis, ylabel=unit, yscale="log" if row == 0 else "linear")
            panels[row, column].set_xscale("log" if axis == "voxels" else "linear")
            panels[row, column].grid(alpha=0.25)
        panels[0, column].legend(frameon=False, fontsize=8)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE)


def exponent(rows: list[dict[str, float]], what: str) -> float:
    """Slope of the last two points on logarithmic axes."""
    (first, last), log = rows[-2:], math.log
    return (log(last[what]) - log(first[what])) / (log(last["x"]) - log(first["x"]))


def main() -> None:
    """Measures every point in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for axis, curves in CURVES.items():
        for name, points in curves.items():
            rows = []
            for point in points[:2] if arguments.quick else points:
                rows.append({"x": _x(axis, point), **_in_a_process(name, point)})
                print(axis, name, {key: round(value, 4) for key, value in rows[-1].items()}, flush=True)
            found.setdefault(axis, {})[name] = rows
    for name, rows in found["voxels"].items():
        print(f"{name}: seconds grow as voxels^{exponent(rows, 'seconds'):.2f}")
    if not arguments.quick:
        draw(found)
        content = {"what": "growth of time and memory", "network": f"DynUNet {FILTERS}", "curves": found}
        write_record("growth", ["torch", "monai", "numpy"], content)


if __name__ == "__main__":
    main()
