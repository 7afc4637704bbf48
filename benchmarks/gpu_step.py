"""Steps of the native left-atrium recipes on a GPU, as they are and with one thing changed at a time.

    python benchmarks/gpu_step.py           # all 80 scans in $MEDCONTRAST_DATA
    python benchmarks/gpu_step.py --accelerator cpu --quick --set data.patch=[32,32,32]     # that it runs at all

Each line is a run of its own from step 0, in this process; medians over steps, the first ones left out. A line's ratio
is the time of the recipe as it is over its own.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from speed_record import write_record
from torch import nn

from medcontrast.engine import loop
from medcontrast.engine.build import make_fabric, resolve_precision
from medcontrast.engine.feed import Feed
from medcontrast.engine.run import Run
from medcontrast.engine.stopping import StopRequest
from medcontrast.gpu import gpu_facts
from medcontrast.settings import load_recipe

RECIPES = Path(__file__).parent.parent / "recipes"
LEFT_OUT = 10
"""First steps: memory is taken, and cuDNN may try its ways."""


def _own_layout(device: torch.device, module: nn.Module) -> nn.Module:
    for weight in module.parameters():
        weight.data = weight.data.contiguous()
    return module


@contextmanager
def _tries() -> Iterator[None]:
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    yield
    torch.backends.cudnn.benchmark = before


@dataclass(frozen=True)
class Line:
    """One run: a method's recipe, settings over it, and what is changed in the program."""

    name: str
    method: str = "fbanet"
    settings: tuple[str, ...] = ()
    changes: tuple[Callable[[], Any], ...] = ()


AS_IT_IS = Line("fba_net as it is")
LINES = (
    AS_IT_IS,
    Line("no batch made ahead", changes=(lambda: mock.patch.object(Feed, "prepare", lambda feed: None),)),
    Line("four loader processes", settings=("data.workers=4",)),
    Line("cuDNN tries its ways", changes=(_tries,)),
    Line("PyTorch's own layout", changes=(lambda: mock.patch.object(loop, "lay_out_for", _own_layout),)),
    Line("32-true", settings=("train.precision=32-true",)),
    Line("supervised", method="supervised"),
    Line("mean_teacher", method="meanteacher"),
    Line("bcp", method="bcp", settings=("method.pretrain_steps=1",)),
)


def seconds(line: Line, steps: int, accelerator: str, settings: list[str], folder: Path) -> list[float]:
    """Of every step after the first ones."""
    path = RECIPES / f"la_{line.method}_20pct.yaml"
    recipe = load_recipe(path, [*settings, *line.settings, f"train.steps={steps + LEFT_OUT}", "train.log_every=1"])
    precision = resolve_precision(recipe, accelerator)
    fabric = make_fabric(accelerator=accelerator, devices=1, num_nodes=1, precision=precision)
    trainer = loop.Trainer(Run.create(folder, recipe, path), fabric, Console(quiet=True))
    times: list[float] = []
    record = trainer._record

    def timed(step: int, terms: dict[str, float], curves: Any) -> None:
        times.append(time.perf_counter())  # the terms are numbers by now: the device is done
        record(step, terms, curves)

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(trainer, "_record", timed))
        for change in line.changes:
            stack.enter_context(change())
        trainer.fit(stack.enter_context(StopRequest()))
    return [later - earlier for earlier, later in zip(times[LEFT_OUT - 1 :], times[LEFT_OUT:], strict=False)]


def main() -> None:
    """Prints and records the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--accelerator", default="cuda")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="4 steps; nothing is recorded")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="over every recipe")
    arguments = parser.parse_args()
    steps = 4 if arguments.quick else arguments.steps
    median: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        for number, line in enumerate(LINES):
            taken = seconds(line, steps, arguments.accelerator, arguments.set, Path(name) / str(number))
            median[line.name] = statistics.median(taken)
            ratio = median[AS_IT_IS.name] / median[line.name]
            print(f"{line.name:<24} {1000 * median[line.name]:8.1f} ms  {ratio:5.2f}", flush=True)
    if arguments.quick:
        return
    whole = median.pop(AS_IT_IS.name)
    content = {
        "what": f"native left-atrium step on a GPU, {AS_IT_IS.name}, median of {steps}",
        "seconds": whole,
        "others": {name: {"seconds": value, "ratio": value / whole} for name, value in median.items()},
        "settings": arguments.set,
        **gpu_facts(torch.device(arguments.accelerator)),
    }
    write_record("gpu_step", ["torch", "monai", "lightning-fabric"], content)


if __name__ == "__main__":
    main()
