"""For tests of `medcontrast probe`: words that keep it short, edited manifests, the one sentence of a refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

Cli = Callable[..., SimpleNamespace]
QUICK = ("--fractions", "0.5,1", "--seeds", 2, "--finetune-steps", 2)


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    tree = json.loads(path.read_text())
    edit(tree)
    path.write_text(json.dumps(tree))
    return path


def refused(answer: SimpleNamespace, sentence: str) -> None:
    assert (answer.code, answer.err) == (2, sentence + "\n"), (answer.out, answer.err)
