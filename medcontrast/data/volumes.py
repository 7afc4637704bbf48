"""Batches of volumes for training: a crop for every row, the same for any number of loader processes.

Letters: b rows, c channels, x, y, z voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from medcontrast.batch import Batch
from medcontrast.data.loading import batch_loader
from medcontrast.data.manifest import Manifest
from medcontrast.data.prepared import PreparedCase, PreparedCases
from medcontrast.data.sampler import RowKey, TwoStreamSampler
from medcontrast.data.voxel_sizes import different_sizes
from medcontrast.errors import ManifestError
from medcontrast.labels import IGNORE_INDEX
from medcontrast.settings import Recipe
from medcontrast.transforms.crop import PAD_VALUE, crop_or_pad, pad_start
from medcontrast.transforms.draws import row_generator
from medcontrast.transforms.geometry import reach

_VOXELS_PER_CLASS = 10_000
"""Labeled voxels kept as possible crop centres, evenly spaced; enough for a crop anywhere, little to remember."""


class Row(TypedDict):
    """One row of a batch, before collation; NumPy, because copies this small are slower when torch spreads them.

    Attributes:
        image: (c, x, y, z) float32; as `label` with the margin.
        label: (1, x, y, z) int64.
        labeled: Which stream it is from.
        case: Case name.
        index: The row's place in the step.
        spacing_mm: (3,) float32.
    """

    image: NDArray[np.float32]
    label: NDArray[np.int64]
    labeled: bool
    case: str
    index: int
    spacing_mm: NDArray[np.float32]


class PatchDataset(Dataset[Row]):
    """Turns a RowKey into a crop; a function of (seed, step, row) and the case alone.

    A scan smaller than the patch is padded evenly on both sides, its image with 0 (see `crop.PAD_VALUE`) and its
    label with background: what lies beyond the scan is no structure, and the views treat it in the same way.
    Rows of the unlabeled stream have -1 everywhere.

    Args:
        labeled: Cases with labels.
        unlabeled: Cases without; None where there is no such stream.
        patch: Sides (x, y, z) of a crop in voxels.
        margin: By how many voxels (x, y, z) a crop is read larger than the patch on every side; what a geometry turns
            into the patch then comes from the scan.
        foreground_crop: Share of labeled rows that are centred on a random labeled voxel, as far as the scan's
            borders allow, each class present being equally likely. Other crops lie anywhere.
        seed: Seed of the run.
    """

    def __init__(
        self,
        labeled: PreparedCases,
        unlabeled: PreparedCases | None,
        patch: Sequence[int],
        *,
        margin: Sequence[int] = (0, 0, 0),
        foreground_crop: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.labeled, self.unlabeled, self.patch, self.margin = labeled, unlabeled, tuple(patch), tuple(margin)
        self.sides = [side + 2 * more for side, more in zip(patch, margin, strict=True)]
        self.foreground_crop, self.seed = foreground_crop, seed
        self._centres: dict[int, list[NDArray[np.int64]]] = {}

    def preload(self) -> None:
        """Prepares every case that the caches keep."""
        for cases in (self.labeled, self.unlabeled):
            if cases is not None:
                cases.preload()

    def __getitem__(self, key: RowKey) -> Row:
        cases = self.labeled if key.labeled else self.unlabeled
        assert cases is not None
        case = cases[key.case_index]
        start = [first - more for first, more in zip(self._start(case, key), self.margin, strict=True)]
        if key.labeled:
            assert case.label is not None
            label = crop_or_pad(case.label, start, self.sides, 0).astype(np.int64)
        else:
            label = np.full((1, *self.sides), IGNORE_INDEX, dtype=np.int64)
        return Row(
            image=crop_or_pad(case.image, start, self.sides, PAD_VALUE),
            label=label,
            labeled=key.labeled,
            case=case.name,
            index=key.row,
            spacing_mm=np.array(case.spacing_mm, dtype=np.float32),
        )

    def _start(self, case: PreparedCase, key: RowKey) -> list[int]:
        """First voxel of the patch, whatever the margin."""
        sides = case.image.shape[1:]
        generator = row_generator(self.seed, key.step, key.row, "crop")
        on_foreground = generator.random() < self.foreground_crop and key.labeled
        room = [max(0, side - size) for side, size in zip(sides, self.patch, strict=True)]
        start = [int(generator.integers(free + 1)) for free in room]
        classes = self._class_voxels(key.case_index, case) if on_foreground else []
        if classes:
            voxels = classes[generator.integers(len(classes))]
            centre = np.unravel_index(voxels[generator.integers(len(voxels))], sides)
            wanted = [int(middle) - size // 2 for middle, size in zip(centre, self.patch, strict=True)]
            start = [min(max(0, first), free) for first, free in zip(wanted, room, strict=True)]
        padding = pad_start(sides, self.patch)
        return [first + before for first, before in zip(start, padding, strict=True)]

    def _class_voxels(self, index: int, case: PreparedCase) -> list[NDArray[np.int64]]:
        """Flat indices of labeled voxels, an array for every class in the case."""
        if index not in self._centres:
            assert case.label is not None
            flat = np.flatnonzero(case.label > 0)
            values = case.label.reshape(-1)[flat]
            found = [flat[values == value] for value in np.unique(values)]
            self._centres[index] = [voxels[:: -(-len(voxels) // _VOXELS_PER_CLASS)].copy() for voxels in found]
        return self._centres[index]


def collate(rows: Sequence[Row]) -> Batch:
    """Stacks rows in their order."""
    return Batch(
        image=torch.from_numpy(np.stack([row["image"] for row in rows])),
        label=torch.from_numpy(np.stack([row["label"] for row in rows])),
        labeled=torch.tensor([row["labeled"] for row in rows]),
        case=[row["case"] for row in rows],
        index=torch.tensor([row["index"] for row in rows], dtype=torch.int64),
        spacing_mm=torch.from_numpy(np.stack([row["spacing_mm"] for row in rows])),
    )


def lost_structures(cases: PreparedCases, use: str) -> str | None:
    """A sentence on structures that resampling took from some of these cases; None where it took none.

    Args:
        cases: All prepared once, with their labels.
        use: What the cases are for, in a word.
    """
    lost = cases.lost
    if not lost:
        return None
    shown = [f"{name} ({', '.join(structures)})" for name, structures in sorted(lost.items())[:3]]
    more = f" and {len(lost) - len(shown)} more" if len(lost) > len(shown) else ""
    return (
        f"In {len(lost)} of {len(cases)} {use} case(s) a structure falls between the voxels of data.spacing_mm "
        f"{list(cases.data.spacing_mm or ())} and is gone: {', '.join(shown)}{more}. A finer spacing keeps it."
    )


def _require_structures(labeled: PreparedCases, manifest: Manifest) -> None:
    """Labels without a voxel of any structure would train to the end, and a network that finds nothing."""
    found: set[int] = set()
    for case in labeled:
        assert case.label is not None
        found.update(np.unique(case.label).tolist())
    lost = {name for structures in labeled.lost.values() for name in structures}
    gone = [label.name for index, label in enumerate(manifest.labels.labels, 1) if index not in found]
    thin = [name for name in gone if name in lost]
    if thin:
        raise ManifestError(
            f"{manifest.path}: labels hold {', '.join(thin)}, but resampled to data.spacing_mm "
            f"{list(labeled.data.spacing_mm or ())} none of the {len(labeled)} labeled case(s) does: it is thinner "
            "than these voxels. Set a finer data.spacing_mm."
        )
    if len(gone) == len(manifest.labels.labels):
        names = ", ".join(f"{label.name} (value {label.value})" for label in manifest.labels.labels)
        raise ManifestError(
            f"{manifest.path}: none of its {len(labeled)} labeled case(s) holds a voxel of {names}; their labels are "
            "empty, hold other values, or are ignored. See `medcontrast data check`."
        )


def make_loader(
    recipe: Recipe,
    manifest: Manifest,
    *,
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
    cache_folder: Path | None = None,
) -> tuple[DataLoader[Row], TwoStreamSampler]:
    """The training batches of one process, from one step on.

    Gives one Batch a micro-batch, until the recipe's last step. Every case is prepared first where the cache keeps
    it, so that a file that cannot be used is named before training starts.

    Args:
        recipe: Data, rows, steps and seed.
        manifest: Its labeled and unlabeled cases.
        rank: This process.
        world_size: Processes.
        start_step: Where a resumed run goes on.
        cache_folder: Of the disk cache; see `PreparedCases`.

    Raises:
        InputError: Cases are missing, or rows cannot be shared out evenly.
        ManifestError: No labeled case holds any structure.
        VolumeError: A file cannot be used.
    """
    data, train = recipe.data, recipe.train
    unlabeled_cases = manifest.unlabeled if train.unlabeled_rows else ()
    sampler = TwoStreamSampler(
        len(manifest.labeled),
        len(unlabeled_cases),
        train.labeled_rows,
        train.unlabeled_rows,
        recipe.seed,
        steps=train.steps,
        start_step=start_step,
        rank=rank,
        world_size=world_size,
        micro_batches=train.accumulate,
    )
    labeled = PreparedCases(manifest.labeled, data, manifest.labels, read_labels=True, folder=cache_folder)
    unlabeled = PreparedCases(unlabeled_cases, data, manifest.labels, read_labels=False, folder=cache_folder)
    margin: tuple[int, ...] = (0, 0, 0)
    if recipe.augment.spatial.beyond_patch == "scan":
        # where each scan keeps its own spacing, the furthest reach is for all: rows of a batch have one size
        spacings = [data.spacing_mm] if data.spacing_mm else different_sizes((*manifest.labeled, *unlabeled_cases))
        margin = (*np.max([reach(recipe.augment.spatial, data.patch, each) for each in spacings], axis=0).tolist(),)
    dataset = PatchDataset(
        labeled, unlabeled, data.patch, margin=margin, foreground_crop=data.foreground_crop, seed=recipe.seed
    )
    dataset.preload()
    _require_structures(labeled, manifest)
    return batch_loader(dataset, sampler, collate, workers=data.workers), sampler
