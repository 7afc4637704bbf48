"""Images of a manifest as bytes on one square grid, and the batches that pre-training takes of them.

Letters: b rows, c channels, x, y pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from medcontrast.batch import Batch
from medcontrast.data.images.counterfactuals import Counterfactuals
from medcontrast.data.images.lesion_boxes import moved_box
from medcontrast.data.images.lesion_draws import LesionBoxes
from medcontrast.data.images.manifest import ImageManifest
from medcontrast.data.images.pixels import read_pixels
from medcontrast.data.images.sources import ImageCase, too_few_images
from medcontrast.data.loading import batch_loader
from medcontrast.data.sampler import BalancedSampler, ImageSampler, RowKey, TwoStreamSampler
from medcontrast.errors import InputError
from medcontrast.settings import PretrainRecipe
from medcontrast.transforms.photometric import LUMA


def read_image(case: ImageCase, *, channels: int, size: int) -> NDArray[np.uint8]:
    """One image as bytes.

    Args:
        case: Which.
        channels: 1 makes colour grey, 3 repeats grey.
        size: Side in pixels; the whole image is resized to it, bilinear with smoothing where it shrinks.

    Returns:
        (c, size, size); of pictures x runs down and y to the right.

    Raises:
        ImageError: As for `read_pixels`.
        VolumeError: The volume of a slice cannot be used.
    """
    return _on_grid(read_pixels(case), channels=channels, size=size)


def _on_grid(pixels: NDArray[Any], *, channels: int, size: int) -> NDArray[np.uint8]:
    values = pixels[..., :3].astype(np.float32)  # an alpha channel says nothing of tissue
    if channels == 1 and values.shape[-1] == 3:
        values = (values @ np.array(LUMA, dtype=np.float32))[..., None]
    if channels == 3 and values.shape[-1] == 1:
        values = np.repeat(values, 3, axis=-1)
    if values.shape[:2] != (size, size):
        tensor = torch.from_numpy(values).permute(2, 0, 1)[None]
        tensor = functional.interpolate(tensor, (size, size), mode="bilinear", antialias=True, align_corners=False)
        values = tensor[0].permute(1, 2, 0).numpy()
    return np.ascontiguousarray(np.clip(np.rint(values), 0, 255).astype(np.uint8).transpose(2, 0, 1))


class Images:
    """The images of some cases, read once where they are kept.

    Attributes:
        cases: In order.
    """

    def __init__(self, cases: Sequence[ImageCase], *, channels: int, size: int, keep: bool = True) -> None:
        """Remembers what to read; see `read_image` for channels and size.

        Args:
            cases: Which images.
            channels: Of every image.
            size: Side in pixels.
            keep: Whether an image that was read stays in memory.
        """
        self.cases, self.channels, self.size, self.keep = tuple(cases), channels, size, keep
        self._kept: dict[int, NDArray[np.uint8]] = {}
        self._sides: dict[int, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        found = self._kept.get(index)
        if found is None:
            pixels = read_pixels(self.cases[index])
            self._sides[index] = pixels.shape[0], pixels.shape[1]
            found = _on_grid(pixels, channels=self.channels, size=self.size)
            if self.keep:
                self._kept[index] = found
        return found

    def sides(self, index: int) -> tuple[int, int]:
        """Height and width of an image as it lies in its file, in pixels."""
        if index not in self._sides:
            self[index]
        return self._sides[index]

    def case_on_grid(self, index: int) -> ImageCase:
        """What is known of an image, its lesion boxes in pixels of the grid."""
        case = self.cases[index]
        if not case.lesion_boxes:
            return case
        grid = (self.size, self.size)
        return replace(case, lesion_boxes=tuple(moved_box(box, self.sides(index), grid) for box in case.lesion_boxes))

    def preload(self) -> None:
        """Reads every image that is kept, so that one that cannot be used is named before training starts."""
        for index in range(len(self) if self.keep else 0):
            self[index]

    def load(self, places: Sequence[int]) -> Tensor:
        """Images (b, c, x, y) float32 in 0..1 at these places."""
        return to_unit(torch.from_numpy(np.stack([self[int(place)] for place in places])))


def to_unit(images: Tensor) -> Tensor:
    """Bytes (b, c, x, y) as float32 in 0..1."""
    return images.to(torch.float32) / 255.0


class ImageRow(TypedDict):
    """One row of a batch before collation: `image` and `partner` (c, x, y) bytes, and what is known of it."""

    image: NDArray[np.uint8]
    case: str
    index: int
    target: int
    quality: int
    partner: NotRequired[NDArray[np.uint8]]
    lesion_box: NotRequired[NDArray[np.float32]]
    attributes: NotRequired[Tensor]


class ImageDataset(Dataset[ImageRow]):
    """Turns a RowKey into an image; nothing random happens here but for choices of partner and lesion box, by the key.

    Args:
        images: Those of the training split; counterfactuals stand behind the images they are of.
        partner: Place of the image that a row is paired with.
        lesion_box: The box (top, left, bottom, right in shares of the sides) that a row's patches are taken around.
        attributes: (n, p), a generator's numbers of each image.
    """

    def __init__(
        self,
        images: Images,
        *,
        partner: Callable[[RowKey], int] | None = None,
        lesion_box: Callable[[RowKey], NDArray[np.float32]] | None = None,
        attributes: Tensor | None = None,
    ) -> None:
        self.images, self.partner, self.lesion_box, self.attributes = images, partner, lesion_box, attributes

    def __getitem__(self, key: RowKey) -> ImageRow:
        case = self.images.cases[key.case_index]
        row = ImageRow(
            image=self.images[key.case_index],
            case=case.name,
            index=key.row,
            target=-1 if case.target is None else case.target,
            quality=int(case.quality == "low"),
        )
        if self.partner is not None:
            row["partner"] = self.images[self.partner(key)]
        if self.lesion_box is not None:
            row["lesion_box"] = self.lesion_box(key)
        if self.attributes is not None:
            row["attributes"] = self.attributes[key.case_index]
        return row


def collate_images(rows: Sequence[ImageRow]) -> Batch:
    """Stacks rows in their order; images become float32 in 0..1."""
    batch = Batch(
        image=to_unit(torch.from_numpy(np.stack([row["image"] for row in rows]))),
        case=[row["case"] for row in rows],
        index=torch.tensor([row["index"] for row in rows], dtype=torch.int64),
        target=torch.tensor([row["target"] for row in rows], dtype=torch.int64),
        quality=torch.tensor([row["quality"] for row in rows], dtype=torch.int64),
    )
    if "partner" in rows[0]:
        batch["partner"] = to_unit(torch.from_numpy(np.stack([row["partner"] for row in rows])))
    if "lesion_box" in rows[0]:
        batch["lesion_box"] = torch.from_numpy(np.stack([row["lesion_box"] for row in rows]))
    if "attributes" in rows[0]:
        batch["attributes"] = torch.stack([row["attributes"] for row in rows])
    return batch


def make_image_loader(
    recipe: PretrainRecipe,
    manifest: ImageManifest,
    *,
    attributes: Tensor | None = None,
    balance: float = 0.0,
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
) -> tuple[DataLoader[ImageRow], TwoStreamSampler]:
    """The training batches of one process, from one step on; see `volumes.make_loader`.

    Counterfactuals of the training split are no rows of their own; they are partners where the recipe asks for them.

    Args:
        recipe: What is trained.
        manifest: Of its images.
        attributes: (n, p), a generator's numbers of each training image.
        balance: Share of rows whose domain is drawn uniformly; above 0 rows are drawn with replacement.
        rank: This process.
        world_size: Processes.
        start_step: Where a resumed run goes on.

    Raises:
        InputError: Fewer images than a step has rows, rows that cannot be shared out evenly, no counterfactuals, or no
            lesion boxes.
        ImageError: An image cannot be used.
    """
    data, train = recipe.data, recipe.train
    cases = manifest.originals("train")
    if len(cases) < train.rows:
        raise InputError(f"{manifest.path}: {too_few_images(len(cases), train.rows)}.")
    plain = {
        "steps": train.steps,
        "start_step": start_step,
        "rank": rank,
        "world_size": world_size,
        "micro_batches": train.accumulate,
    }
    if balance:
        domains = [case.domain or "" for case in cases]
        sampler: TwoStreamSampler = BalancedSampler(domains, balance, train.rows, recipe.seed, **plain)
    else:
        sampler = ImageSampler(len(cases), 0, train.rows, 0, recipe.seed, **plain)
    partner = None
    if recipe.needs_counterfactuals:
        paired = Counterfactuals(manifest.cases("train"), seed=recipe.seed, where=f"{manifest.path}: train")
        cases, partner = paired.cases, paired.partner
    images = Images(cases, channels=data.channels, size=data.size, keep=data.cache == "memory")
    images.preload()
    boxes = None
    if recipe.needs_lesion_boxes:
        boxes = LesionBoxes(images, manifest.classes, seed=recipe.seed, where=f"{manifest.path}: train").drawn
    rows = ImageDataset(images, partner=partner, lesion_box=boxes, attributes=attributes)
    return batch_loader(rows, sampler, collate_images, workers=data.workers), sampler
