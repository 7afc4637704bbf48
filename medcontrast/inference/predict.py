"""From a scan to its label map: prepare, slide, average, go back to the scan's own grid.

Letters: c channels, k classes (background first), x, y, z voxels of the prepared grid, X, Y, Z of the scan's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medcontrast.allocator import freed_memory_kept
from medcontrast.errors import InputError, NonFiniteOutputError, VolumeError
from medcontrast.inference.device import Autocast, resolve_device
from medcontrast.inference.members import Member, load_members
from medcontrast.inference.postprocess import finish
from medcontrast.inference.record import geometry, measured_volumes, prediction_record
from medcontrast.inference.unlike import warned
from medcontrast.inference.windows import SLAB_PLANES, even_slabs, joined, mirrored, window_slabs
from medcontrast.labels import LabelTable
from medcontrast.networks.modes import evaluating
from medcontrast.settings.train import InferenceSettings
from medcontrast.transforms.volume3d import (
    most_probable,
    prepare_image,
    reordered,
    same_voxels,
    to_scan_grid,
    to_scan_labels,
)
from medcontrast.volume import (
    Grid,
    Volume,
    from_canonical,
    read_volume,
    require_usable_image,
    to_canonical,
)

_ALL_AXES = (0, 1, 2)
_NOT_FINITE = "the network's output is NaN or infinite in some voxels, so that no mask can be made of it"
_ELSEWHERE = "try --device cpu, and train with train.precision 32-true if that says the same"
FLOAT32_BYTES = 2**30
"""Above this size the probabilities of a whole image are kept in float16, where they must be kept at all.

The mask is taken from what is kept: where two classes are as likely, to three digits, a voxel may get the other one."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What was found in one scan, on the scan's own grid.

    Attributes:
        label_map: (X, Y, Z) label-file values.
        grid: The scan's grid.
        probabilities: (X, Y, Z, k) float32, background first, or None where not asked for.
        entropy: (X, Y, Z) float32 in 0..1, or None: the entropy of the probabilities in nats over ln k.
        record: What the JSON beside the mask says.
    """

    label_map: NDArray[np.uint16]
    grid: Grid
    probabilities: NDArray[np.float32] | None
    entropy: NDArray[np.float32] | None
    record: dict[str, Any]


@dataclass(frozen=True)
class Predictor:
    """One network or the average of several, ready to predict.

    Attributes:
        members: The networks.
        settings: How windows are laid and averaged; the first checkpoint's, with overrides.
        device: Where the networks compute.
    """

    members: tuple[Member, ...]
    settings: InferenceSettings
    device: torch.device

    @property
    def labels(self) -> LabelTable:
        """The label table of every member."""
        return self.members[0].labels

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the image channels, in order."""
        return self.members[0].channels

    @classmethod
    def load(
        cls, checkpoints: Sequence[Path], device: str | None = None, overrides: Mapping[str, Any] | None = None
    ) -> Predictor:
        """Loads checkpoints.

        Args:
            checkpoints: Run folders or checkpoint files; the probabilities of several are averaged.
            device: cpu, cuda, cuda:N or mps; by default cuda where there is one.
            overrides: Inference settings that replace the recipe's, for example {"flips": True}.

        Raises:
            CheckpointError: One is unusable, or two cannot be averaged.
            InputError: No such device, or mirrored versions of what was trained without any.
        """
        chosen = resolve_device(device)
        members = load_members(checkpoints, chosen)
        first = members[0].recipe
        if (overrides or {}).get("flips") and not any(each.recipe.augment.spatial.flip_axes for each in members):
            raise InputError(
                f"--flips: {checkpoints[0]} was trained without mirrored scans (augment.spatial.flip_axes is []), so "
                "that there are no mirrored versions to average; leave it out."
            )
        settings = InferenceSettings.model_validate({**first.inference.model_dump(), **(overrides or {})})
        return cls(members, settings, chosen)

    def predict_slabs(self, image: Tensor) -> Iterator[Tensor]:
        """Mean probabilities of all members, (k, some x, y, z) float32 one after another, for an image (c, x, y, z)."""
        streams = [(slab.softmax(dim=0) for slab in self._logit_slabs(member, image)) for member in self.members]
        if len(streams) == 1:
            yield from streams[0]
            return
        # networks may have windows of several sizes
        for slabs in zip(*(even_slabs(stream, SLAB_PLANES) for stream in streams), strict=True):
            yield torch.stack([slab.to(slabs[0].device) for slab in slabs]).mean(dim=0)  # some may be in main memory

    @freed_memory_kept()
    def predict_probabilities(self, image: Tensor) -> Tensor:
        """Mean probabilities of all members, (k, x, y, z), for a prepared image (c, x, y, z).

        float32; float16 where that would take more than FLOAT32_BYTES.
        """
        small = 4 * self.labels.classes * image[0].numel() <= FLOAT32_BYTES
        return joined(self.predict_slabs(image), image.shape[1:], torch.float32 if small else torch.float16)

    @freed_memory_kept()
    def predict_classes(self, image: Tensor) -> Tensor:
        """The most probable class of every voxel, (x, y, z) int16 on the CPU, for a prepared image (c, x, y, z)."""
        alone = len(self.members) == 1  # the order of logits is that of probabilities
        slabs = self._logit_slabs(self.members[0], image) if alone else self.predict_slabs(image)
        return joined((most_probable(slab)[None].cpu() for slab in slabs), image.shape[1:], torch.int16)[0]

    def _logit_slabs(self, member: Member, image: Tensor) -> Iterator[Tensor]:
        return _logit_slabs(
            member.network,
            image,
            patch=member.recipe.data.patch,
            settings=self.settings,
            device=self.device,
            autocast=member.autocast,
            flip_axes=member.recipe.augment.spatial.flip_axes,
        )

    def predict_scan(
        self,
        images: Sequence[Path],
        *,
        names: Sequence[str] | None = None,
        probabilities: bool = False,
        entropy: bool = False,
    ) -> Prediction:
        """Predicts one scan.

        Args:
            images: One file or DICOM folder a channel.
            names: What the record calls them; by default the paths as given.
            probabilities: Whether to return them.
            entropy: Whether to return the entropy map.

        Raises:
            VolumeError: The scan cannot be used, or has another number of channels.
            NonFiniteOutputError: A network says NaN or infinity of it.
        """
        began = time.monotonic()
        volumes = self._read(images)
        data = self.members[0].recipe.data
        image = prepare_image(volumes, spacing_mm=data.spacing_mm, intensity=data.intensity)
        affine = np.asarray(image.affine, dtype=np.float64)
        grid = warned(self.members, self.settings, volumes, image.shape[1:])
        del volumes
        if probabilities or entropy or not same_voxels(image.shape[1:], affine, grid):
            with naming(str(images[0])):
                maps = self.predict_probabilities(image.as_tensor())
            del image  # the way back takes the most memory
            # the way back needs float64, which mps has not
            maps = maps.cpu() if maps.device.type == "mps" else maps
            indices = to_scan_labels(maps, affine, grid).cpu()
        else:  # no voxel needs its neighbours' probabilities, so that none are kept
            with naming(str(images[0])):
                classes = self.predict_classes(image.as_tensor())
            indices = reordered(classes, affine, grid)
        label_map = self._finished(indices.numpy(), grid)
        return Prediction(
            label_map,
            grid,
            _stacked(maps, affine, grid) if probabilities else None,
            entropy_map(maps, affine, grid) if entropy else None,
            self._record(names or [str(path) for path in images], images[0], grid, label_map, began),
        )

    def _finished(self, indices: NDArray[np.integer], grid: Grid) -> NDArray[np.uint16]:
        """`finish` in canonical order of axes, so that of two equal pieces the same stays however a scan is stored."""
        if self.settings.largest_component == "none":
            return finish(indices, self.labels, "none")
        label_map = finish(to_canonical(indices, grid), self.labels, self.settings.largest_component)
        return from_canonical(label_map, grid)

    def _read(self, images: Sequence[Path]) -> list[Volume]:
        if len(images) != len(self.channels):
            raise VolumeError(
                f"{images[0]}: the checkpoint takes {len(self.channels)} channel(s) ({', '.join(self.channels)}), "
                f"one file each, but this scan has {len(images)} file(s)."
            )
        volumes = [read_volume(path, "image") for path in images]
        for volume in volumes:
            require_usable_image(volume)
        return volumes

    def _record(
        self, names: Sequence[str], path: Path, grid: Grid, label_map: NDArray[np.uint16], began: float
    ) -> dict[str, Any]:
        precision = " and ".join(dict.fromkeys(member.precision for member in self.members))
        settings = {**self.settings.model_dump(mode="json"), "device": self.device.type, "precision": precision}
        del settings["network"]  # each checkpoint says which network it holds
        return prediction_record(
            inputs=list(names),
            geometry=geometry(path, grid),
            labels=self.labels,
            volumes=measured_volumes(label_map, grid, self.labels),
            settings=settings,
            checkpoints=[member.to_json() for member in self.members],
            seconds=time.monotonic() - began,
        )


def _logit_slabs(
    network: nn.Module,
    image: Tensor,
    *,
    patch: Sequence[int],
    settings: InferenceSettings,
    device: torch.device | str,
    autocast: Autocast,
    flip_axes: Sequence[int],
) -> Iterator[Tensor]:
    def logits_of(windows: Tensor) -> Tensor:
        with autocast():
            logits: Tensor = network(windows).logits
        return logits

    window = settings.window or patch
    axes = [axis for axis in flip_axes if window[axis] > 1] if settings.flips else []
    with evaluating(network):
        slabs = window_slabs(
            image[None],
            window,
            mirrored(logits_of, axes),
            overlap=settings.overlap,
            weighting=settings.weighting,
            window_batch=settings.window_batch,
            device=device,
        )
        for slab in slabs:
            # compared with anything NaN is not the larger one, and would be background
            if not bool(torch.isfinite(slab).all()):
                raise NonFiniteOutputError(_NOT_FINITE)
            yield slab


@freed_memory_kept()
def predict_case(
    network: nn.Module,
    image: Tensor,
    *,
    patch: Sequence[int],
    settings: InferenceSettings,
    device: torch.device | str,
    autocast: Autocast = nullcontext,
    flip_axes: Sequence[int] = _ALL_AXES,
) -> Tensor:
    """The most probable class in every voxel of a prepared image, by sliding window.

    Args:
        network: Gives `Output`; set to evaluation for the time of the call.
        image: (c, x, y, z) prepared image.
        patch: Window in voxels, where the settings have none.
        settings: Window, overlap, weighting, windows a batch, flips.
        device: Where the network computes.
        autocast: Context of the forward passes.
        flip_axes: Where the settings ask for flips: those that the network was trained with.

    Returns:
        (x, y, z) int16 class indices on the prepared grid, on the CPU.

    Raises:
        NonFiniteOutputError: The network says NaN or infinity of it.
    """
    slabs = _logit_slabs(
        network, image, patch=patch, settings=settings, device=device, autocast=autocast, flip_axes=flip_axes
    )
    return joined((most_probable(slab)[None].cpu() for slab in slabs), image.shape[1:], torch.int16)[0]


@contextmanager
def naming(scan: str, advice: str = _ELSEWHERE) -> Iterator[None]:
    """Puts the scan's name before what is said of an output that is not finite, and what may be done behind it."""
    try:
        yield
    except NonFiniteOutputError as error:
        raise NonFiniteOutputError(f"{scan}: {error}; {advice}.") from None


def entropy_map(probabilities: Tensor, affine: NDArray[np.float64], grid: Grid) -> NDArray[np.float32]:
    """Entropy on the scan's grid in nats over ln k: 0 where the networks are sure, 1 where every class is as likely.

    Args:
        probabilities: (k, x, y, z).
        affine: Of the prepared grid.
        grid: The scan's.
    """
    total = torch.zeros(grid.shape)
    for one in probabilities:  # class by class, to spare memory
        share = to_scan_grid(one[None], affine, grid)[0].cpu()
        total -= torch.xlogy(share, share)
    entropy: NDArray[np.float32] = (total / math.log(len(probabilities))).clamp_(0.0, 1.0).numpy()
    return entropy


def _stacked(probabilities: Tensor, affine: NDArray[np.float64], grid: Grid) -> NDArray[np.float32]:
    out = np.empty((*grid.shape, len(probabilities)), dtype=np.float32)
    for index, one in enumerate(probabilities):  # class by class, to spare memory
        out[..., index] = to_scan_grid(one[None], affine, grid)[0].cpu().numpy()
    return out
