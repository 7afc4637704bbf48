"""A probe of one encoder: neighbours, linear probe and fine-tuning at several shares of the labels, over seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medcontrast.engine.probe_embed import ImageSet, embed
from medcontrast.engine.probe_finetune import FineTuning, classify, fine_tune
from medcontrast.engine.probe_labels import stratified_subset
from medcontrast.engine.probe_linear import choose_linear
from medcontrast.errors import InputError
from medcontrast.files import write_text
from medcontrast.metrics.bootstrap import Interval
from medcontrast.metrics.neighbours import knn_probabilities
from medcontrast.metrics.probe import FIGURES, PROBE_RULES, over_seeds, score_probe
from medcontrast.networks.encoders2d import Encoder

FRACTIONS = (0.01, 0.05, 0.1, 0.25, 1.0)
_NEIGHBOURS = 20


@dataclass(frozen=True)
class ProbeRow:
    """One classifier at one share of the labels.

    Attributes:
        kind: "knn", "linear" or "finetune".
        fraction: Share of the training labels.
        labels: How many that are.
        seeds: Runs; 1 where nothing is drawn, and no interval is given.
        values: Every value of `ProbeScore.flat` over the seeds, on test images.
    """

    kind: str
    fraction: float
    labels: int
    seeds: int
    values: dict[str, Interval]


def probe_encoder(
    encoder: Encoder,
    train: ImageSet,
    validation: ImageSet,
    test: ImageSet,
    *,
    classes: int,
    seeds: Sequence[int] = (0, 1, 2),
    fractions: Sequence[float] = FRACTIONS,
    fine_tuning: FineTuning | None = None,
    device: torch.device | None = None,
) -> list[ProbeRow]:
    """Scores an encoder on test images; it comes out as it went in.

    Args:
        encoder: Frozen for neighbours and the linear probe, copied for fine-tuning.
        train: Images that subsets of labels are drawn from.
        validation: Chooses the strength of the linear probe, and nothing else.
        test: Scored alone.
        classes: How many.
        seeds: Of the subsets and of fine-tuning.
        fractions: Shares of the labels.
        fine_tuning: How; None leaves it out.
        device: Default: the CPU.

    Raises:
        InputError: No seed or share, or a class that does not occur among the test images.
    """
    if not seeds or not fractions:
        raise InputError("A probe needs a seed and a share of the labels at least.")
    place = device or torch.device("cpu")
    features = {name: embed(encoder, split, device=place) for name, split in (("t", train), ("v", validation))}
    asked = embed(encoder, test, device=place)
    rows = []
    for fraction in fractions:
        subsets = {seed: stratified_subset(train.targets, fraction, seed) for seed in seeds}
        found: dict[str, list[NDArray[np.float64]]] = {"knn": [], "linear": [], "finetune": []}
        for number, (seed, chosen) in enumerate(subsets.items()):
            if fraction < 1.0 or number == 0:  # all labels are one subset, and neither classifier draws anything
                known, targets = features["t"][chosen], train.targets[chosen]
                near = min(_NEIGHBOURS, len(chosen))
                found["knn"].append(knn_probabilities(known, targets, asked, classes=classes, neighbours=near))
                linear = choose_linear(known, targets, features["v"], validation.targets, classes=classes)
                found["linear"].append(linear.probabilities(asked))
            if fine_tuning is not None:
                tuned = fine_tune(
                    encoder,
                    train,
                    chosen,
                    feature_channels=encoder.feature_channels,
                    classes=classes,
                    settings=fine_tuning,
                    seed=seed,
                    device=place,
                )
                found["finetune"].append(classify(tuned, test, place))
        for kind, scores in found.items():
            if scores:
                values = over_seeds([score_probe(score, test.targets, test.groups) for score in scores])
                rows.append(ProbeRow(kind, fraction, len(subsets[seeds[0]]), len(scores), values))
    return rows


def write_probe(folder: Path, rows: Sequence[ProbeRow], facts: dict[str, Any]) -> str:
    """Writes probe.json and probe.md; returns the Markdown table.

    Raises:
        OutputError: A file cannot be written.
    """
    content = {"facts": facts, "rules": PROBE_RULES, "rows": [asdict(row) for row in rows]}
    write_text(folder / "probe.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    table = markdown_table(rows)
    write_text(folder / "probe.md", table)
    return table


def markdown_table(rows: Sequence[ProbeRow]) -> str:
    """A row a classifier and share; mean [t interval over seeds]. Worst groups and gaps where there are groups."""
    extra = sorted({name for row in rows for name in row.values if " worst " in name or " gap " in name})
    columns = [*FIGURES, *extra]
    titles = [FIGURES.get(name, name.replace("_", " ")) for name in columns]
    lines = [
        "| probe | labels | seeds | " + " | ".join(titles) + " |",
        "|---|---|---|" + "---|" * len(columns),
    ]
    for row in rows:
        cells = [_cell(row.values.get(name)) for name in columns]
        lines.append(
            f"| {row.kind} | {row.labels} ({100 * row.fraction:g} %) | {row.seeds} | " + " | ".join(cells) + " |"
        )
    rules = [*PROBE_RULES, "Intervals: 95 % Student's t over seeds; none where a single run was made."]
    return "\n".join([*lines, "", *(f"- {rule}" for rule in rules)]) + "\n"


def _cell(interval: Interval | None) -> str:
    if interval is None:
        return ""
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.3f}"
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
