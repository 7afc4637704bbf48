"""One training step of fba_net, beside the same step as the literature writes it (literature_step.py).

    python benchmarks/training_step.py       # --quick: 3 steps, nothing recorded

Ours is the loop's own step on the hippocampus recipe: loader, views, Method, Fabric's precision, optimiser, teacher.
The other side gets the same weights and the same views of the same batch, so that data are timed on our side alone and
do not count in the ratio. Sides take turns; medians over steps. The terms of the first step must agree.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from literature_step import LiteratureStep
from rich.console import Console
from speed_record import write_record

from medcontrast.batch import Batch, StepInfo
from medcontrast.data.volumes import make_loader
from medcontrast.engine.build import make_fabric, resolve_precision
from medcontrast.engine.feed import Feed
from medcontrast.engine.loop import Trainer
from medcontrast.engine.run import Run
from medcontrast.networks.monai_networks import DynUNet
from medcontrast.settings import load_recipe
from medcontrast.settings.methods import FBANetSettings
from medcontrast.transforms.copy_paste import exchange_boxes

RECIPE = Path(__file__).parent.parent / "recipes" / "hippocampus_fbanet_8.yaml"
PARTS = ("data", "forward", "backward", "optimiser", "EMA", "logging")
TOLERANCE = {"32-true": 1e-3, "bf16-mixed": 2e-2}
"""Precision of our side -> largest relative difference of a term in the first step; the other side is in float32."""


class Clock:
    """Seconds by part, of one step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - began

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self(name):
                return function(*args, **kwargs)

        return timed


class OurStep:
    """The loop of a run, step by step, each part timed where the loop calls it."""

    def __init__(self, folder: Path, steps: int) -> None:
        recipe = load_recipe(RECIPE, [f"train.steps={steps}"])
        precision = resolve_precision(recipe, "cpu")
        self.fabric = make_fabric(accelerator="cpu", devices=1, num_nodes=1, precision=precision)
        self.trainer = Trainer(Run.create(folder, recipe, RECIPE), self.fabric, Console(quiet=True))
        self.precision, self.recipe = precision, recipe
        trainer = self.trainer
        self.clock = Clock()
        self.batch: Batch | None = None
        ready = self.clock.around("data", trainer._ready)

        def kept(batch: Batch, info: StepInfo) -> Batch:
            self.batch = ready(batch, info)
            return self.batch

        trainer.method.after_step = self.clock.around("EMA", trainer.method.after_step)  # type: ignore[method-assign]
        self.wrapped, self.optimizer = self.fabric.setup(trainer.method, trainer.optimizer)
        self.wrapped.mark_forward_method("losses")
        trainer.method.losses = self.clock.around("forward", trainer.method.losses)  # type: ignore[method-assign]
        self.fabric.backward = self.clock.around("backward", self.fabric.backward)  # type: ignore[method-assign]
        self.fabric.clip_gradients = self.clock.around("optimiser", self.fabric.clip_gradients)  # type: ignore[method-assign]
        self.optimizer.step = self.clock.around("optimiser", self.optimizer.step)  # type: ignore[method-assign]
        loader, sampler = make_loader(recipe, trainer.run.manifest)
        self.infos = trainer._infos(sampler)
        self.feed = Feed(self._timed(iter(loader)), iter(self.infos), kept, self.fabric.device)

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            with self.clock("data"):
                batch = next(batches)
            yield batch

    def step(self, number: int) -> dict[str, float]:
        """One step of the loop; its terms."""
        self.clock.seconds.clear()
        self.wrapped.train()
        began = time.perf_counter()
        terms = self.trainer._step(self.wrapped, self.optimizer, self.feed, self.infos[number])
        with self.clock("logging"):
            self.trainer._record(number + 1, terms, None)
        whole = time.perf_counter() - began
        # fetching the terms' values is inside the loop's step; what no part has claimed is that
        self.clock.seconds["logging"] += max(0.0, whole - sum(self.clock.seconds.values()))
        return terms


def literature(ours: OurStep, log: Any) -> LiteratureStep:
    """The other side, with our networks' weights in PyTorch's own layers and layout."""
    method, recipe = ours.trainer.method, ours.recipe
    student: Any = method.student
    network = recipe.network
    assert isinstance(network.filters, list | tuple) and isinstance(recipe.method, FBANetSettings)
    plain = DynUNet(
        in_channels=student.in_channels, classes=student.classes, filters=network.filters, norm=network.norm
    )
    plain.load_state_dict({name: value.contiguous() for name, value in student.state_dict().items()})
    for parameter in plain.parameters():
        parameter.data = parameter.data.contiguous()
    head: Any = method.contrast.head  # type: ignore[union-attr]
    layers = []
    for layer in (head.hidden, head.last):
        copied = torch.nn.Linear(layer.in_features, layer.out_features)
        copied.load_state_dict(layer.state_dict())
        layers.append(copied)
    train = recipe.train
    assert train.clip_norm is not None
    rate, decay = train.optimizer.lr, train.optimizer.weight_decay
    return LiteratureStep(
        plain.train(), *layers, recipe.method, lr=rate, weight_decay=decay, clip_norm=train.clip_norm, log=log
    )


def boxes(ours: OurStep, batch: Batch, number: int) -> torch.Tensor:
    """Where this step's unlabeled rows take voxels of labeled ones."""
    consistency = ours.recipe.method.consistency  # type: ignore[union-attr]
    return exchange_boxes(
        batch["views"]["strong"].shape[2:],
        consistency.paste_fraction,
        consistency.paste_probability,
        seed=ours.recipe.seed,
        step=number,
        rows=batch["index"][~batch["labeled"]],
    )


def compare(steps: int, folder: Path) -> tuple[dict[str, dict[str, float]], OurStep]:
    """Median seconds by side and part."""
    ours = OurStep(folder / "run", steps + 1)
    taken: dict[str, dict[str, list[float]]] = {side: defaultdict(list) for side in ("ours", "literature")}
    with (folder / "log.txt").open("w") as log:
        other = literature(ours, log)
        for number in range(steps + 1):
            found = ours.step(number)
            assert ours.batch is not None
            batch, clock = ours.batch, Clock()
            views = batch["views"]
            expected = other.step(
                views["strong"],
                views["weak"],
                batch["label"],
                batch["labeled"],
                boxes(ours, batch, number),
                number,
                clock,
            )
            if number == 0:
                _require_equal(found, expected, TOLERANCE[ours.precision])
                continue  # the first step fills caches
            for side, seconds in (("ours", ours.clock.seconds), ("literature", clock.seconds)):
                for part in PARTS:
                    taken[side][part].append(seconds[part])
                taken[side]["step"].append(sum(value for part, value in seconds.items() if part != "data"))
            print(
                f"step {number}: {taken['ours']['step'][-1]:.2f} and {taken['literature']['step'][-1]:.2f} s",
                flush=True,
            )
    return {
        side: {part: statistics.median(values) for part, values in parts.items()} for side, parts in taken.items()
    }, ours


def _require_equal(found: dict[str, float], expected: dict[str, float], tolerance: float) -> None:
    for name, value in expected.items():
        if abs(found[name] - value) > tolerance * max(1.0, abs(value)):
            sys.exit(f"The two sides differ: {name} is {found[name]:.6g} in ours and {value:.6g} in the other.")
        print(f"first step, {name}: {found[name]:.6f} and {value:.6f}")


def main() -> None:
    """Prints and records the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--steps", type=int, default=12)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        median, ours = compare(3 if arguments.quick else arguments.steps, Path(name))
    print(f"{'part':<10} {'ours, s':>9} {'literature, s':>14}")
    for part in (*PARTS, "step"):
        print(f"{part:<10} {median['ours'][part]:9.4f} {median['literature'][part]:14.4f}")
    ratio = median["literature"]["step"] / median["ours"]["step"]
    print(f"step without data: {ratio:.2f} times")
    if arguments.quick:
        return
    content = {
        "what": f"fba_net training step without data, {ours.precision}, median of {arguments.steps}",
        "seconds": median["ours"]["step"],
        "others": {"the literature's form in float32": {"seconds": median["literature"]["step"], "ratio": ratio}},
        "parts": median,
        "precision": ours.precision,
        "threads": torch.get_num_threads(),
    }
    write_record("training_step", ["torch", "monai", "lightning-fabric"], content)


if __name__ == "__main__":
    main()
