"""Scores of a probe: figures overall, by domain and by quality, the worst group and the gap, and intervals over seeds.

Letters: n images, k classes, l labels, m units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medcontrast.errors import InputError
from medcontrast.metrics.bootstrap import Interval, bootstrap_intervals
from medcontrast.metrics.classification import (
    accuracy,
    balanced_accuracy,
    checked,
    macro_roc_auc,
    quadratic_weighted_kappa,
)
from medcontrast.metrics.multilabel import (
    Wanted,
    checked_labels,
    exact_matches,
    label_roc_auc,
    mean_average_precision,
    require_both,
    tells_apart,
)

FIGURES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "average_precision": "mean average precision",
    "roc_auc": "macro ROC-AUC",
    "kappa": "quadratic-weighted kappa",
}
"""Name of a figure -> its title in tables."""

PROBE_RULES = (
    "accuracy: share of images whose largest score is their class's.",
    "balanced accuracy: mean over classes of the share that is recognised.",
    "macro ROC-AUC: mean over classes of one against the rest; equal scores count half.",
    "multilabel: a linear probe for every label that a class contains. Its accuracy: share of images whose labels are "
    "those with the highest scores, as many as they hold. mean average precision: over labels; chance is a label's "
    "share of the images.",
    "quadratic-weighted kappa: means something where classes are grades in order; with two classes Cohen's kappa.",
    "Groups in which a class or label does not occur have the accuracy alone. worst: lowest group; gap: highest minus "
    "lowest. Both are extremes, so that noise alone makes a gap, and a wider one the more groups there are and the "
    "fewer images they have.",
)
"""What goes beneath every table."""

Chosen = NDArray[np.bool_]
"""(n,) images of a group."""

_OF_CLASSES = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "roc_auc": macro_roc_auc,
    "kappa": quadratic_weighted_kappa,
}


@dataclass(frozen=True)
class GroupScores:
    """One way of grouping the images, such as by domain.

    Attributes:
        groups: Group -> figure -> value; a group in which a class or label does not occur has the accuracy alone.
        images: Group -> how many images it has.
        worst: Figure -> name of the group with the lowest value, of those that have one.
        gap: Figure -> highest minus lowest value, where two groups have one.
    """

    groups: dict[str, dict[str, float]]
    images: dict[str, int]
    worst: dict[str, str]
    gap: dict[str, float]


@dataclass(frozen=True)
class ProbeScore:
    """How well one classifier does on one set of images.

    Attributes:
        figures: Figure -> value over all images.
        images: n.
        by: Kind of group ("domain", "quality") -> its scores.
    """

    figures: dict[str, float]
    images: int
    by: dict[str, GroupScores] = field(default_factory=dict)

    def flat(self) -> dict[str, float]:
        """Every value under one name: `accuracy`, `domain=A accuracy`, `domain worst accuracy`, `domain gap ...`."""
        values = dict(self.figures)
        for kind, scores in self.by.items():
            for group, figures in scores.groups.items():
                values |= {f"{kind}={group} {name}": value for name, value in figures.items()}
            values |= {f"{kind} worst {name}": scores.groups[group][name] for name, group in scores.worst.items()}
            values |= {f"{kind} gap {name}": value for name, value in scores.gap.items()}
        return values


def score_probe(
    scores: NDArray[np.float64],
    targets: NDArray[np.int64],
    groups: Mapping[str, Sequence[str]] | None = None,
) -> ProbeScore:
    """Every figure, over all images and in every group.

    Args:
        scores: (n, k), a column a class; the largest is the prediction.
        targets: (n,) class indices; every class must occur.
        groups: Kind of group -> the group of every image, for example {"domain": [...], "quality": [...]}.

    Raises:
        InputError: Shapes that do not fit, a score that is not finite, or a class that does not occur.
    """
    scores, targets = checked(scores, targets)

    def figures(chosen: Chosen) -> dict[str, float]:
        # over other classes than its neighbours' a group's mean over classes would say nothing beside theirs
        whole = len(np.unique(targets[chosen])) == scores.shape[1]
        some = _OF_CLASSES if whole else {"accuracy": accuracy}
        return {name: figure(scores[chosen], targets[chosen]) for name, figure in some.items()}

    everything = {name: figure(scores, targets) for name, figure in _OF_CLASSES.items()}
    return ProbeScore(everything, len(targets), _by_groups(figures, len(targets), groups))


def score_multilabel(
    scores: NDArray[np.float64], wanted: Wanted, groups: Mapping[str, Sequence[str]] | None = None
) -> ProbeScore:
    """The same of images that hold several labels; accuracy is the share of exact matches.

    Args:
        scores: (n, l), a column a label.
        wanted: (n, l) which labels each image holds; every label must be held by some and not by all.
        groups: As for `score_probe`.

    Raises:
        InputError: Shapes that do not fit, a score that is not finite, or a label that tells no images apart.
    """
    scores, wanted = checked_labels(scores, wanted)
    require_both(wanted)

    def figures(chosen: Chosen) -> dict[str, float]:
        some, held = scores[chosen], wanted[chosen]
        found = {"accuracy": float(exact_matches(some, held).mean())}
        if tells_apart(held):
            found |= {
                "average_precision": mean_average_precision(some, held),
                "roc_auc": label_roc_auc(some, held),
            }
        return found

    count = len(wanted)
    return ProbeScore(figures(np.ones(count, dtype=np.bool_)), count, _by_groups(figures, count, groups))


def t_interval(values: Sequence[float], *, level: float = 0.95) -> Interval:
    """Mean, SD (n - 1) and Student's t interval of a figure over seeds; one seed has no interval.

    Seeds are few: a percentile bootstrap over three of them covers far less often than it says, Student's t does not.
    """
    from scipy.stats import t

    array = np.asarray(values, np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return Interval(mean, None, None, None)
    sd = float(array.std(ddof=1))
    half = float(t.ppf(0.5 + level / 2, len(array) - 1)) * sd / float(np.sqrt(len(array)))
    return Interval(mean, sd, mean - half, mean + half)


def over_seeds(scores: Sequence[ProbeScore], *, level: float = 0.95) -> dict[str, Interval]:
    """Every value of `ProbeScore.flat` with its t interval over seeds.

    Raises:
        InputError: There is no score, or seeds were scored on different groups.
    """
    if not scores:
        raise InputError("A summary over seeds needs at least one seed, but got none.")
    rows = [score.flat() for score in scores]
    for row in rows[1:]:
        if row.keys() != rows[0].keys():
            alone = sorted(row.keys() ^ rows[0].keys())
            raise InputError(f"Every seed must be scored on the same images; {alone[0]!r} stands in only some of them.")
    return {name: t_interval([row[name] for row in rows], level=level) for name in rows[0]}


def accuracy_over_units(
    hits: Sequence[NDArray[np.bool_]],
    units: NDArray[np.int64] | None = None,
    *,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Accuracy averaged over seeds and within units, with its percentile bootstrap interval over units.

    How far the figure would move with other test images, where `t_interval` says how far with other seeds.

    Args:
        hits: Of every seed, (n,) which images are right.
        units: (n,) Number of each image's unit, as of its patient; None takes each image for one.
        seed: Of the resamples.
        level: Of the interval.

    Raises:
        InputError: Shapes that do not fit.
    """
    means = unit_means(np.mean(hits, axis=0), np.arange(len(hits[0])) if units is None else units)
    return bootstrap_intervals(means[:, None], seed=seed, level=level)[0]


def unit_means(values: NDArray[np.float64], units: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean of the values of each unit that occurs, in order of the units' numbers.

    Images of one patient, or renderings of one source image, are not independent: as cases of their own they would
    make intervals too narrow and p-values too small.

    Args:
        values: (n,).
        units: (n,) Number of the unit of each.

    Returns:
        (m,).

    Raises:
        InputError: Another number of units than of values.
    """
    if len(units) != len(values):
        raise InputError(f"{len(values)} images need a unit each, but got {len(units)} units.")
    _, places = np.unique(units, return_inverse=True)
    means: NDArray[np.float64] = np.bincount(places, weights=values) / np.bincount(places)
    return means


def _by_groups(
    figures: Callable[[Chosen], dict[str, float]], images: int, groups: Mapping[str, Sequence[str]] | None
) -> dict[str, GroupScores]:
    return {kind: _by_group(figures, images, kind, names) for kind, names in (groups or {}).items()}


def _by_group(
    figures_of: Callable[[Chosen], dict[str, float]], count: int, kind: str, names: Sequence[str]
) -> GroupScores:
    if len(names) != count:
        raise InputError(f"{kind}: {count} images need a group each, but got {len(names)} groups.")
    array = np.asarray([str(name) for name in names])
    members = {group: array == group for group in sorted(set(array.tolist()))}
    figures = {group: figures_of(chosen) for group, chosen in members.items()}
    images = {group: int(chosen.sum()) for group, chosen in members.items()}
    worst, gap = {}, {}
    for name in FIGURES:
        values = {group: row[name] for group, row in figures.items() if name in row}
        if len(values) > 1:
            worst[name] = min(values, key=lambda group: values[group])
            gap[name] = max(values.values()) - min(values.values())
    return GroupScores(figures, images, worst, gap)
