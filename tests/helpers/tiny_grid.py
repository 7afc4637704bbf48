"""A grid of two methods and full supervision on tiny scans: what it is called, and changes to its files."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

TREE = {
    "name": "tiny",
    "title": "Tiny grid",
    "manifest": "data/manifest.json",
    "target": "front",
    "labeled": [2],
    "runs": 2,
    "baseline": "supervised",
    "default": "mean_teacher",
    "rows": {
        "supervised": {"recipe": "supervised.yaml"},
        "mean_teacher": {"recipe": "mean_teacher.yaml", "runs": 1},
        "full": {"recipe": "supervised.yaml", "labeled": ["all"], "runs": 1},
    },
}
NAMES = ["full-all-0", "mean_teacher-2-0", "supervised-2-0", "supervised-2-1"]


def recorded():
    return sorted(path.stem for path in Path("benchmarks/results/tiny").glob("*.json"))


def edit_grid(grid, **keys):
    content = yaml.safe_load(grid.read_text(encoding="utf-8"))
    grid.write_text(yaml.safe_dump({**content, **keys}, sort_keys=False), encoding="utf-8")


def edit_manifest(change):
    path = Path("data/manifest.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
