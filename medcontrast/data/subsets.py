"""Labeled subsets of a manifest: other cases labeled, the same validation and test cases."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from medcontrast.data.manifest import Manifest
from medcontrast.errors import ManifestError


def labeled_subset(manifest: Manifest, count: int | Literal["all"], subset: int) -> dict[str, Any]:
    """The manifest's JSON with `count` labeled cases; all others that train are unlabeled.

    The pool is the labeled cases and then the unlabeled ones that name a label file, in the manifest's order, each
    entry with its case's name, which a manifest may leave to the file. Subset 0 takes the first `count` of it; any
    other is drawn without replacement by a generator seeded with (count, subset). Cases without a label file stay
    unlabeled.

    Args:
        manifest: Whose cases.
        count: How many are labeled; `all` labels the whole pool.
        subset: From 0.

    Raises:
        ManifestError: The pool is too small.
    """
    raw = manifest.raw
    entries, cases = [*raw.get("labeled", []), *raw.get("unlabeled", [])], [*manifest.labeled, *manifest.unlabeled]
    named = [{**entry, "case": case.name} for entry, case in zip(entries, cases, strict=True)]
    pool = [index for index, entry in enumerate(named) if entry.get("label")]
    wanted = len(pool) if count == "all" else count
    if wanted > len(pool):
        raise ManifestError(
            f"{manifest.path}: {wanted} labeled cases are asked for, but of its {len(named)} labeled and unlabeled "
            f"cases {len(pool)} name a label file."
        )
    order = np.arange(len(pool)) if subset == 0 else np.random.default_rng([wanted, subset]).permutation(len(pool))
    chosen = {pool[index] for index in order[:wanted]}
    labeled = [entry for index, entry in enumerate(named) if index in chosen]
    unlabeled = [entry for index, entry in enumerate(named) if index not in chosen]
    name = f"{manifest.name}, {wanted} labeled, subset {subset}"
    return {**raw, "name": name, "labeled": labeled, "unlabeled": unlabeled}
