"""The rows of a probe as JSON, as Markdown tables and as a table on a terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from medcontrast.engine.probe.probe import ProbeRow
from medcontrast.files import write_text
from medcontrast.metrics.bootstrap import Interval
from medcontrast.metrics.probe import FIGURES, PROBE_RULES

FILES = ("probe.json", "probe.md", "embeddings.png")
_RULES = (
    "labels: training images whose labels are used, and the share asked for; every class has one at least.",
    *PROBE_RULES,
    "Intervals: 95 % Student's t over seeds; none where a single run was made. All seeds of a pre-trained row have "
    "one encoder: they vary the subset of labels and fine-tuning alone, where those of 'from scratch' vary the encoder "
    "too.",
    "over units: the accuracy, averaged over seeds and within units, with its 95 % percentile bootstrap interval over "
    "units of test images: those of one patient, or, where none is known, an image by itself.",
)
_KEY = ("encoder", "probe", "labels", "seeds")


def write_probe(folder: Path, rows: Sequence[ProbeRow], facts: dict[str, Any], about: Sequence[str] = ()) -> str:
    """Writes probe.json and probe.md; returns the Markdown.

    Args:
        folder: Where to.
        rows: What was found.
        facts: What it was found on, for probe.json.
        about: The same in sentences, above the tables of probe.md.

    Raises:
        OutputError: A file cannot be written.
    """
    content = {"facts": facts, "rules": _RULES, "rows": [asdict(row) for row in rows]}
    write_text(folder / "probe.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    head = "".join(f"{sentence}\n\n" for sentence in about)
    page = f"{head}{markdown(rows)}"
    write_text(folder / "probe.md", page)
    return page


def markdown(rows: Sequence[ProbeRow]) -> str:
    """A row a classifier and share, then a table for each kind of group, the picture and the rules."""
    columns = [*(name for name in FIGURES if any(name in row.values for row in rows)), *spreads(rows)]
    heads = [*_KEY, *map(_title, columns), "accuracy over units"]
    cells = [[*_key(row), *(_cell(row.values.get(name)) for name in columns), _cell(row.over_units)] for row in rows]
    lines = _lines(heads, cells)
    for kind, groups in _groups(rows).items():
        heads = [*_KEY[:3], *(f"{group}, {title}" for group, title in groups.values())]
        cells = [[*_key(row)[:3], *(_cell(row.values.get(name)) for name in groups)] for row in rows]
        lines += ["", f"By {kind}:", "", *_lines(heads, cells)]
    picture = f"![Embeddings of the scored images]({FILES[2]})"
    return "\n".join([*lines, "", picture, "", *(f"- {rule}" for rule in _RULES)]) + "\n"


def terminal_table(rows: Sequence[ProbeRow]) -> Table:
    """The page in short, for a terminal of 80 columns: accuracy with its interval, other figures by their means."""
    means = ["balanced_accuracy", "roc_auc", *(name for name in spreads(rows) if name.endswith("gap accuracy"))]
    table = Table(*_KEY[:3], "accuracy", *map(_title, means))
    for row in rows:
        values = [row.values.get(name) for name in means]
        shown = ["" if value is None else f"{value.mean:.3f}" for value in values]
        table.add_row(*_key(row)[:3], _cell(row.values.get("accuracy")), *shown)
    return table


def spreads(rows: Sequence[ProbeRow]) -> list[str]:
    """Names of the worst groups' values and of the gaps."""
    return sorted({name for row in rows for name in row.values if " worst " in name or " gap " in name})


def _groups(rows: Sequence[ProbeRow]) -> dict[str, dict[str, tuple[str, str]]]:
    """Kind of group -> name of a value -> group and title of the figure."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for row in rows:
        for name in row.values:
            kind, equals, rest = name.partition("=")
            if equals:
                group, _, figure = rest.rpartition(" ")
                found.setdefault(kind, {})[name] = group, FIGURES[figure]
    return found


def _title(name: str) -> str:
    return FIGURES.get(name, name.replace("_", " "))


def _lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    table = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]


def _key(row: ProbeRow) -> list[str]:
    return [row.encoder, row.kind, f"{row.labels} ({100 * row.fraction:g} %)", str(row.seeds)]


def _cell(interval: Interval | None) -> str:
    if interval is None:
        return ""
    if interval.low is None or interval.high is None:
        return f"{interval.mean:.3f}"
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
