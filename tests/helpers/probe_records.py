"""Records of a toy grid of encoders, its settings, and its table read back."""

from __future__ import annotations

import json

from medcontrast.engine.benchmark.encoder_records import ProbeRecord
from medcontrast.settings.grid import ProbeGridSettings


def record(row, run, hits, **extra):
    """8 images: 4 of high quality, then the same 4 of low quality; 4 units."""
    quality = {"high": "11110000", "low": "00001111"}
    facts = {
        "split": "test",
        "manifest": "toy",
        "classes": 2,
        "step": 5,
        "student_parameters": 1e6,
        "train_seconds": 36,
        "precision": "32-true",
    }
    recipe = {
        "data": {},
        "network": {},
        "method": {},
        "train": {"rows": 4},
        "augment": {"views": {"query": {}, "key": {}}},
    }
    plain = {"recipe": recipe, "recipe_hash": "", "images": 8, "images_hash": "x", "groups": {"quality": quality}}
    plain["units"] = "0 1 2 3 0 1 2 3"
    return ProbeRecord(row=row, run=run, **{**plain, "hits": {"linear 1": hits}, "facts": facts, **extra})


def settings(**extra):
    plain = {"kind": "probe", "name": "toy", "title": "Toy", "classifiers": ["linear"], "runs": 2, "baseline": "a"}
    rows = {"a": {"recipe": "a.yaml"}, "b": {"recipe": "b.yaml"}, "c": {"recipe": "c.yaml"}}
    return ProbeGridSettings.model_validate_json(json.dumps({**plain, "rows": rows, **extra}))


def table(text):
    """Row -> head of a column -> what stands there, of the one table of a text."""
    lines = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0]: dict(zip(lines[0], cells, strict=True)) for cells in lines[1:]}
