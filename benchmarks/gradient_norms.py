"""How hard each term of a trained run pulls at the decoder: gradient norms at the student's last decoder features.

    python benchmarks/gradient_norms.py runs/h8 --batches 8

Rows are those of the run's last steps; the network is that of its last checkpoint and is not trained. Norms are of
d term / d features before any weight or ramp-up, medians over batches; the cosine says whether a term pulls the way of
the whole loss. Methods whose student has one decoder.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from torch import Tensor

from medcontrast import checkpoint
from medcontrast.batch import StepInfo
from medcontrast.data.volumes import make_loader
from medcontrast.engine.build import make_method
from medcontrast.engine.run import Run
from medcontrast.networks.output import Output
from medcontrast.transforms.views import Views


def norms(run: Run, batches: int) -> dict[str, list[tuple[float, float]]]:
    """Term -> for each batch its gradient's norm, and its cosine with the gradient of `loss`."""
    saved = checkpoint.load_resume(run.resume_file)
    method = make_method(run.recipe, run.manifest)
    method.load_state_dict(saved["method"])
    method.train()
    step = min(saved["progress"]["step"], run.recipe.train.steps - 1)
    loader, _ = make_loader(run.recipe, run.manifest, rank=0, world_size=1, start_step=max(0, step - batches))
    views = Views(run.recipe.augment, run.recipe.data.patch)
    kept: list[Tensor] = []

    def keep(_: torch.nn.Module, __: object, output: Output) -> None:
        kept.append(output.features)

    method.student.register_forward_hook(keep)
    found: dict[str, list[tuple[float, float]]] = {}
    for _, batch in zip(range(batches), loader, strict=False):
        kept.clear()
        made, label = views(
            batch["image"],
            batch["label"],
            seed=run.recipe.seed,
            step=step,
            rows=batch["index"],
            spacing_mm=batch.get("spacing_mm"),
        )
        info = StepInfo(step, run.recipe.train.steps, seed=run.recipe.seed)
        terms = method.losses({**batch, "views": made, "label": label}, info)
        gradients = {name: _gradient(term, kept) for name, term in terms.items()}
        for name, gradient in gradients.items():
            cosine = torch.nn.functional.cosine_similarity(gradient, gradients["loss"], dim=0)
            found.setdefault(name, []).append((float(gradient.norm()), float(cosine)))
    return found


def _gradient(term: Tensor, features: list[Tensor]) -> Tensor:
    found = torch.autograd.grad(term, features, retain_graph=True, allow_unused=True)
    pairs = zip(found, features, strict=True)
    return torch.cat([(torch.zeros_like(value) if grad is None else grad).flatten() for grad, value in pairs])


def main() -> None:
    """Prints a line for each term."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--batches", type=int, default=8)
    arguments = parser.parse_args()
    found = norms(Run.open(arguments.run), arguments.batches)
    print(f"{'term':<18} norm        cosine with the gradient of loss")
    for name, values in found.items():
        norm, cosine = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"{name:<18} {norm:.3e}   {cosine:+.3f}")


if __name__ == "__main__":
    main()
