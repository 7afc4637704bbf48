"""Images of a manifest as bytes on one square grid, and the batches that pre-training takes of them.

Letters: b rows, c channels, x, y pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from medcontrast.batch import Batch
from medcontrast.data.images.arrays import idx_array, npz_array
from medcontrast.data.images.counterfactuals import Counterfactuals
from medcontrast.data.images.lesion_boxes import moved_box
from medcontrast.data.images.lesion_draws import LesionBoxes
from medcontrast.data.images.manifest import ImageManifest
from medcontrast.data.images.slices import image_slice
from medcontrast.data.images.sources import ImageCase, too_few_images
from medcontrast.data.loading import batch_loader
from medcontrast.data.sampler import BalancedSampler, ImageSampler, RowKey, TwoStreamSampler
from medcontrast.errors import ImageError, InputError
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


def read_pixels(case: ImageCase) -> NDArray[Any]:
    """One image as it lies in its file, in values from 0 to 255.

    16 bits are a share of 65535, fractions from 0 to 1 one of 1; DICOM goes by its window.

    Returns:
        (x, y, c) with 1, 3 or 4 channels, bytes or floats.

    Raises:
        ImageError: Not readable, of another number of channels than 1, 3 or 4, or not finite.
        VolumeError: The volume of a slice cannot be used.
    """
    array = _pixels(case)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or 0 in array.shape:
        raise ImageError(
            f"{case.file}: image {case.name} has shape {array.shape}; expected height x width, or that x 1, 3 or 4 "
            "channels."
        )
    if not np.isfinite(array).all():
        raise ImageError(f"{case.file}: image {case.name} holds NaN or infinite values; repair or leave it out.")
    return array


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


def _pixels(case: ImageCase) -> NDArray[Any]:
    """Height x width (x channels), values of 8 bits."""
    if case.axis is not None:
        assert case.index is not None
        return image_slice(case.file, case.axis, case.index) * 255.0
    if case.key is not None:
        return _fractions(_npz(case.file, case.key)[case.index], f"{case.file}: image {case.name}")
    if case.index is not None:
        return _idx(case.file)[case.index]
    return _dicom(case.file) if case.file.suffix.lower() == ".dcm" else _picture(case.file)


def _fractions(array: NDArray[Any], where: str) -> NDArray[Any]:
    """Bytes as they are, fractions from 0 to 1 as shares of 255; NaN is left for others to find."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "fiu":
        raise ImageError(f"{where} holds {array.dtype}; expected bytes, or fractions from 0 to 1.")
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    if array.dtype.kind == "f" and (not finite.size or (finite.min() >= 0.0 and finite.max() <= 1.0)):
        return array * 255.0
    raise ImageError(
        f"{where} holds {array.dtype} from {finite.min()} to {finite.max()}; expected bytes, or fractions from 0 to 1."
    )


@lru_cache(maxsize=4)
def _npz(path: Path, key: str) -> NDArray[Any]:
    return npz_array(path, key, str(path))


@lru_cache(maxsize=4)
def _idx(path: Path) -> NDArray[np.uint8]:
    return idx_array(path)


def _picture(path: Path) -> NDArray[Any]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            frames = getattr(picture, "n_frames", 1)
            if frames > 1:
                raise ImageError(f"{path}: holds {frames} pictures; write one a file.")
            upright = ImageOps.exif_transpose(picture)  # cameras note how they were held instead of turning the pixels
            if picture.mode == "F":
                return _fractions(np.asarray(upright), str(path))
            if picture.mode.startswith("I"):
                return _sixteen_bits(np.asarray(upright), path)
            return np.asarray(upright.convert("L" if picture.mode in ("1", "L", "LA") else "RGB"))
    except FileNotFoundError:
        raise ImageError(f"{path}: there is no such image.") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"{path}: cannot be read as an image ({error}).") from None


def _sixteen_bits(array: NDArray[Any], path: Path) -> NDArray[np.float64]:
    if array.min() < 0 or array.max() > 65535:
        raise ImageError(f"{path}: holds values from {array.min()} to {array.max()}; expected 8 or 16 bits.")
    return array / 257.0


def _dicom(path: Path) -> NDArray[Any]:
    """Height x width (x colours) by the file's window, or from its smallest value to its largest without one."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        image = reader.Execute()
    except RuntimeError:
        raise ImageError(f"{path}: cannot be read as a DICOM image.") from None
    frames = sitk.GetArrayFromImage(image).astype(np.float64)
    if len(frames) != 1:
        raise ImageError(f"{path}: holds {len(frames)} frames; write one a file.")
    array = frames[0]

    def number(tag: str, otherwise: float | None = None) -> float | None:
        text = _said(reader, tag).split("\\")[0].strip()
        try:
            return float(text) if text else otherwise
        except ValueError:
            raise ImageError(f"{path}: DICOM tag {tag} is no number: {text!r}.") from None

    if image.GetNumberOfComponentsPerPixel() > 1:
        return array * (255.0 / (2 ** (number("0028|0101") or 8) - 1))
    centre, width = number("0028|1050"), number("0028|1051")
    low, high = (array.min(), array.max()) if centre is None or not width else (centre - width / 2, centre + width / 2)
    if width is not None and width < 0:
        raise ImageError(f"{path}: its window is {width:g} wide; expected more than 0.")
    if centre is not None and width and _inverted(reader):
        bits, signed = number("0028|0101", 16) or 16, number("0028|0103", 0)
        slope, intercept = number("0028|1053", 1) or 1, number("0028|1052", 0) or 0
        ends = slope * (-1 if signed else 2**bits - 1) + 2 * intercept  # of all that can be stored, smallest + largest
        low, high = ends - high, ends - low
    share = (array - low) / max(high - low, 1e-12)
    if centre is not None and width and _said(reader, "0028|1056") == "SIGMOID":  # its VOI LUT function
        return np.asarray(255.0 / (1.0 + np.exp(-4.0 * (share - 0.5))))
    return np.clip(share, 0.0, 1.0) * 255.0


def _said(reader: Any, tag: str) -> str:
    return str(reader.GetMetaData(tag)).strip() if reader.HasMetaDataKey(tag) else ""


def _inverted(reader: Any) -> bool:
    """Whether large values were dark in the file (MONOCHROME1): the reader turns them round, its window stays."""
    return _said(reader, "0028|0004") == "MONOCHROME1"
