"""Labeled subsets of a manifest: other cases labeled, the same validation and test cases."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from medcontrast.data.manifest import Manifest
from medcontrast.errors import ManifestError


def labeled_subset(manifest: Manifest, count: int | Literal["all"], subset: int) -> dict[str, Any]:
    """The manifest's JSON with `count` labeled cases; the rest of the pool is unlabeled.

    The pool is the labeled cases and then the unlabeled ones, in the manifest's order, each entry with its case's name,
    which a manifest may leave to the file. Subset 0 takes the first `count`
    of it; any other is drawn without replacement by a generator seeded with (count, subset).

    Args:
        manifest: Every unlabeled case that may become labeled names its label file.
        count: How many are labeled; `all` labels the whole pool.
        subset: From 0.

    Raises:
        ManifestError: The pool is too small, or a case drawn has no label file.
    """
    raw = manifest.raw
    entries, cases = [*raw.get("labeled", []), *raw.get("unlabeled", [])], [*manifest.labeled, *manifest.unlabeled]
    pool = [{**entry, "case": case.name} for entry, case in zip(entries, cases, strict=True)]
    wanted = len(pool) if count == "all" else count
    if wanted > len(pool):
        raise ManifestError(f"{manifest.path}: {wanted} labeled cases are asked for, but its pool has {len(pool)}.")
    order = np.arange(len(pool)) if subset == 0 else np.random.default_rng([wanted, subset]).permutation(len(pool))
    chosen = {int(index) for index in order[:wanted]}
    labeled = [entry for index, entry in enumerate(pool) if index in chosen]
    bare = [entry["case"] for entry in labeled if not entry.get("label")]
    if bare:
        raise ManifestError(f"{manifest.path}: case {bare[0]} has no label file, but labeled subset {subset} needs it.")
    unlabeled = [entry for index, entry in enumerate(pool) if index not in chosen]
    name = f"{manifest.name}, {wanted} labeled, subset {subset}"
    return {**raw, "name": name, "labeled": labeled, "unlabeled": unlabeled}
