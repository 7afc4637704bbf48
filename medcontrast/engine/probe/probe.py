"""A probe of an encoder: neighbours, linear probes and fine-tuning at several shares of the labels, over seeds.

Letters: n images, k classes, l labels.
"""

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
from medcontrast.metrics.multilabel import exact_matches
from medcontrast.metrics.neighbours import knn_probabilities
from medcontrast.metrics.probe import ProbeScore, accuracy_over_units, over_seeds, score_multilabel, score_probe
from medcontrast.networks.encoders2d import Encoder

FRACTIONS = (0.01, 0.05, 0.1, 0.25, 1.0)
_NEIGHBOURS = 20

Scores = NDArray[np.float64]
"""(n, k) probabilities of test images; (n, l) those of a multi-label probe."""
MULTILABEL = "multilabel"
"""Kind of the linear probe that tells labels, of which a class may contain several."""


@dataclass(frozen=True)
class ProbeRow:
    """One classifier on one encoder at one share of the labels.

    Attributes:
        encoder: Name of the weights, such as "pre-trained".
        kind: "knn", "linear", "multilabel" or "finetune".
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
        classes: How many, k.
        contains: (k, l) which labels each class contains; None where a class is all there is to tell.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    classes: int
    contains: NDArray[np.bool_] | None = None

    def held(self, part: ImageSet) -> NDArray[np.bool_]:
        """(n, l) Which labels each image of a part holds.

        Raises:
            InputError: Classes contain no labels.
        """
        if self.contains is None:
            raise InputError("A multi-label probe needs the labels that each class contains.")
        return self.contains[part.targets]

    def hits(self, kind: str, scores: Scores) -> NDArray[np.bool_]:
        """(n,) In which test images a classifier of that kind is right: the class, or all of its labels."""
        if kind == MULTILABEL:
            return exact_matches(scores, self.held(self.test))
        found: NDArray[np.bool_] = scores.argmax(axis=1) == self.test.targets
        return found

    def score(self, kind: str, scores: Scores) -> ProbeScore:
        """Every figure of a classifier of that kind."""
        if kind == MULTILABEL:
            return score_multilabel(scores, self.held(self.test), self.test.groups)
        return score_probe(scores, self.test.targets, self.test.groups)


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
        found: dict[str, list[Scores]] = {"knn": [], "linear": [], MULTILABEL: [], "finetune": []}
        for number, (seed, chosen) in enumerate(zip(seeds, subsets, strict=True)):
            own = number % len(encoders)
            if fraction < 1.0 or number < len(encoders):  # all labels are one subset, and neither of the two draws
                for kind, scores in frozen[own].scores(images, chosen).items():
                    found[kind].append(scores)
            if fine_tuning is not None:
                found["finetune"].append(_fine_tuned(encoders[own], images, chosen, fine_tuning, seed, place))
        new = [_row(name, kind, fraction, len(subsets[0]), found[kind], images) for kind in found if found[kind]]
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
        """Probabilities of the test images from the chosen training images' labels, by kind of classifier.

        "knn" and "linear", (n, k); "multilabel", (n, l), where classes contain labels.
        """
        known, targets, classes = self.train[chosen], images.train.targets[chosen], images.classes
        near = min(_NEIGHBOURS, len(chosen))
        linear = choose_linear(known, targets, self.validation, images.validation.targets, classes=classes)
        found = {
            "knn": knn_probabilities(known, targets, self.test, classes=classes, neighbours=near),
            "linear": linear.probabilities(self.test),
        }
        if images.contains is not None:
            held, choosing = images.held(images.train)[chosen], images.held(images.validation)
            several = choose_linear(known, held, self.validation, choosing, classes=held.shape[1])
            found[MULTILABEL] = several.probabilities(self.test)
        return found


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


def _row(name: str, kind: str, fraction: float, labels: int, scores: list[Scores], images: ProbeSets) -> ProbeRow:
    values = over_seeds([images.score(kind, score) for score in scores])
    over_units = accuracy_over_units([images.hits(kind, score) for score in scores], images.test.units)
    return ProbeRow(name, kind, fraction, labels, len(scores), values, over_units)
