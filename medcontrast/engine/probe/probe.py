"""A probe of an encoder: neighbours, linear probe and fine-tuning at several shares of the labels, over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from medcontrast.engine.probe.embed import ImageSet, embed
from medcontrast.engine.probe.finetune import FineTuning, classify, fine_tune
from medcontrast.engine.probe.labels import stratified_subset
from medcontrast.engine.probe.linear import choose_linear
from medcontrast.errors import InputError
from medcontrast.metrics.bootstrap import Interval
from medcontrast.metrics.neighbours import knn_probabilities
from medcontrast.metrics.probe import accuracy_over_units, over_seeds, score_probe
from medcontrast.networks.encoders2d import Encoder

FRACTIONS = (0.01, 0.05, 0.1, 0.25, 1.0)
_NEIGHBOURS = 20

Scores = NDArray[np.float64]
"""(n, k) probabilities of test images."""


@dataclass(frozen=True)
class ProbeRow:
    """One classifier on one encoder at one share of the labels.

    Attributes:
        encoder: Name of the weights, such as "pre-trained".
        kind: "knn", "linear" or "finetune".
        fraction: Share of the training labels.
        labels: How many that are.
        seeds: Runs; 1 where nothing is drawn, and no interval is given.
        values: Every value of `ProbeScore.flat` over the seeds, on test images.
        over_units: The accuracy, averaged within units of test images, with its interval over units instead of seeds.
    """

    encoder: str
    kind: str
    fraction: float
    labels: int
    seeds: int
    values: dict[str, Interval]
    over_units: Interval


@dataclass(frozen=True, eq=False)
class ProbeSets:
    """The images of a probe.

    Attributes:
        train: Subsets of labels are drawn from it.
        validation: Chooses the strength of the linear probe, and nothing else.
        test: Scored alone.
        classes: How many.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    classes: int


def probe_encoder(
    encoders: Sequence[Encoder],
    images: ProbeSets,
    *,
    name: str = "pre-trained",
    seeds: Sequence[int] = (0, 1, 2),
    fractions: Sequence[float] = FRACTIONS,
    fine_tuning: FineTuning | None = None,
    device: torch.device | None = None,
    tell: Callable[[Sequence[ProbeRow]], None] = lambda rows: None,
) -> list[ProbeRow]:
    """Scores encoders on test images; they come out as they went in.

    Args:
        encoders: One for all seeds, or one for each; frozen, and copied for fine-tuning.
        images: What to fit, to choose and to score on.
        name: Of the weights, in the rows.
        seeds: Of the subsets and of fine-tuning.
        fractions: Shares of the labels.
        fine_tuning: How; None leaves it out.
        device: Default: the CPU.
        tell: Called with the rows of every share, once it is scored.

    Raises:
        InputError: No seed or share, or a class that does not occur among the test images.
    """
    if not seeds or not fractions:
        raise InputError("A probe needs a seed and a share of the labels at least.")
    if len(encoders) not in (1, len(seeds)):
        raise InputError(f"A probe takes one encoder, or one for each of {len(seeds)} seeds, but got {len(encoders)}.")
    place = device or torch.device("cpu")
    frozen = [Frozen.of(encoder, images, place) for encoder in encoders]
    rows: list[ProbeRow] = []
    for fraction in fractions:
        subsets = [stratified_subset(images.train.targets, fraction, seed) for seed in seeds]
        found: dict[str, list[Scores]] = {"knn": [], "linear": [], "finetune": []}
        for number, (seed, chosen) in enumerate(zip(seeds, subsets, strict=True)):
            own = number % len(encoders)
            if fraction < 1.0 or number < len(encoders):  # all labels are one subset, and neither of the two draws
                for kind, scores in frozen[own].scores(images, chosen).items():
                    found[kind].append(scores)
            if fine_tuning is not None:
                found["finetune"].append(_fine_tuned(encoders[own], images, chosen, fine_tuning, seed, place))
        new = [_row(name, kind, fraction, len(subsets[0]), found[kind], images.test) for kind in found if found[kind]]
        tell(new)
        rows += new
    return rows


@dataclass(frozen=True, eq=False)
class Frozen:
    """Features of every split by one encoder, which stays as it is; made by `of`."""

    train: NDArray[np.float64]
    validation: NDArray[np.float64]
    test: NDArray[np.float64]

    @classmethod
    def of(cls, encoder: Encoder, images: ProbeSets, device: torch.device) -> Frozen:
        """Embeds the images."""
        train, validation, test = (
            embed(encoder, split, device=device) for split in (images.train, images.validation, images.test)
        )
        return cls(train, validation, test)

    def scores(self, images: ProbeSets, chosen: NDArray[np.int64]) -> dict[str, Scores]:
        """Probabilities (n, k) of the test images by "knn" and "linear", from the chosen training images' labels."""
        known, targets, classes = self.train[chosen], images.train.targets[chosen], images.classes
        near = min(_NEIGHBOURS, len(chosen))
        linear = choose_linear(known, targets, self.validation, images.validation.targets, classes=classes)
        return {
            "knn": knn_probabilities(known, targets, self.test, classes=classes, neighbours=near),
            "linear": linear.probabilities(self.test),
        }


def _fine_tuned(
    encoder: Encoder,
    images: ProbeSets,
    chosen: NDArray[np.int64],
    settings: FineTuning,
    seed: int,
    device: torch.device,
) -> Scores:
    tuned = fine_tune(
        encoder,
        images.train,
        chosen,
        feature_channels=encoder.feature_channels,
        classes=images.classes,
        settings=settings,
        seed=seed,
        device=device,
    )
    return classify(tuned, images.test, device)


def _row(name: str, kind: str, fraction: float, labels: int, scores: list[Scores], test: ImageSet) -> ProbeRow:
    values = over_seeds([score_probe(score, test.targets, test.groups) for score in scores])
    over_units = accuracy_over_units(scores, test.targets, test.units)
    return ProbeRow(name, kind, fraction, labels, len(scores), values, over_units)
