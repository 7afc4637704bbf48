"""The views of a batch of images: a crop and photometric changes a row and view, made on the device.

Letters: b rows, c channels, x, y pixels (x counts rows of pixels), s, t sides of a view.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from medcontrast.errors import InputError
from medcontrast.settings.images import CropSettings, ImageAugmentSettings, ViewSettings
from medcontrast.transforms.degrade import degrade
from medcontrast.transforms.draws import row_generator
from medcontrast.transforms.photometric import change_photometry

_ATTEMPTS = 10


class ImageViews:
    """Makes every view that a recipe names; each is a function of (seed, step, row, name of the view).

    In order: degradation of the whole image, crop with mirroring and turn, photometric changes, (view - mean) / std.
    """

    def __init__(self, settings: ImageAugmentSettings, *, mean: float, std: float) -> None:
        self.settings, self.mean, self.std = settings, mean, std

    @torch.no_grad()
    def __call__(
        self,
        image: Tensor,
        *,
        seed: int,
        step: int,
        rows: Tensor | Sequence[int],
        quality: Tensor | None = None,
        partner: Tensor | None = None,
        lesion_box: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Draws and applies.

        Args:
            image: (b, c, x, y) float32 in 0..1.
            seed: Seed of the run.
            step: Optimiser step.
            rows: (b,) global row numbers.
            quality: (b,) int64; rows of 1 are of low quality as they are and are not degraded.
            partner: As `image`, for views whose source is counterfactual.
            lesion_box: (b, 4) top, left, bottom, right in shares of the sides, NaN for none; for crops around lesions.

        Returns:
            (b, c, s, s) by the name of the view.

        Raises:
            InputError: A view needs partners or lesion boxes and there are none.
        """
        numbers = [int(row) for row in rows]
        draws = {"seed": seed, "step": step}
        views = {}
        with torch.autocast(image.device.type, enabled=False):
            for name, view in self.settings.views.items():
                shown = image if view.source == "image" else partner
                if shown is None:
                    raise InputError(f"view {name} shows counterfactuals, but the batch has no partner images.")
                source = self._degraded(shown, view, quality, numbers, name, draws)
                drawn_by = view.same_crop_as or name
                lesions = self._lesions(drawn_by, lesion_box)
                boxes = _boxes(self.settings.views[drawn_by], image.shape[2:], numbers, drawn_by, lesions, **draws)
                size = view.size or image.shape[-1]
                out = crop_views(source, boxes, size)
                out = change_photometry(out, view.photometric, rows=numbers, stream=name, **draws)
                views[name] = (out - self.mean) / self.std
        return views

    def _lesions(self, name: str, lesion_box: Tensor | None) -> list[list[float] | None] | None:
        """What the crop of each row is to hold."""
        if self.settings.views[name].crop.kind != "lesion":
            return None
        if lesion_box is None:
            raise InputError(f"view {name} is cropped around lesion boxes, but the batch has none.")
        return [None if np.isnan(box[0]) else box for box in lesion_box.tolist()]

    def _degraded(
        self,
        image: Tensor,
        view: ViewSettings,
        quality: Tensor | None,
        rows: list[int],
        name: str,
        draws: dict[str, int],
    ) -> Tensor:
        if view.degrade is None:
            return image
        worse = degrade(image, view.degrade, rows=rows, stream=f"degrade {name}", **draws)
        return worse if quality is None else torch.where(quality.view(-1, 1, 1, 1) == 1, image, worse)


def crop_views(image: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Parts of images on a square grid, bilinear; 0 beyond the image's edges. A box that is the image gives it bit for
    bit, and no row depends on the others.

    A part with more pixels than the grid is averaged over blocks first, so that nothing is skipped.

    Args:
        image: (b, c, x, y).
        boxes: (b, 2, 3) float64, from view to image, each in -1..1 from edge to edge: x first, then the offset last.
        size: Side of the view.
    """
    same = (boxes == _whole(len(image)).to(boxes)).all(2).all(1) & (image.shape[2:] == (size, size))
    if bool(same.all()):
        return image
    shrink = boxes[:, :, :2].norm(dim=1).amax(1) * max(image.shape[2:]) / size
    out = image.new_empty(len(image), image.shape[1], size, size)
    blocks = torch.where(same, -1, shrink.log2().floor().clamp(min=0).long())
    for level in blocks.unique().tolist():
        picked = (blocks == level).nonzero()[:, 0]
        places = picked.to(image.device)
        part = image.index_select(0, places)
        if level >= 0:
            for _ in range(level):
                part = F.interpolate(part, [-(-side // 2) for side in part.shape[2:]], mode="area")  # edge to edge
            part = _sampled(part, _grid(_near(boxes[picked], image.device), size))
        out.index_copy_(0, places, part)
    return out


def _sampled(image: Tensor, grid: Tensor) -> Tensor:
    """Images at the places of the grid; 0 outside their edges, and no mixture with that 0 inside them."""
    inside = (grid.abs() <= 1.0).all(-1).unsqueeze(1)
    values = F.grid_sample(image, grid.to(image), "bilinear", "border", align_corners=False)
    return torch.where(inside.to(image.device), values, torch.zeros_like(values))


def _near(boxes: Tensor, device: torch.device) -> Tensor:
    """Boxes where the images are, so that grids are made there, unless it has no float64."""
    return boxes if device.type == "mps" else boxes.to(device)


def _grid(boxes: Tensor, size: int) -> Tensor:
    """Where grid_sample looks (b, s, t, 2) float64, second axis first."""
    line = (torch.arange(size, dtype=torch.float64, device=boxes.device) * 2 + 1) / size - 1
    x, y = torch.meshgrid(line, line, indexing="ij")
    across, along, offset = boxes.flip(1)[:, None, None].unbind(-1)  # written out: a product's sum may hang on its size
    return across * x[..., None] + along * y[..., None] + offset


def _whole(count: int) -> Tensor:
    return torch.eye(2, 3, dtype=torch.float64).expand(count, 2, 3)


def _boxes(
    view: ViewSettings,
    sides: Sequence[int],
    rows: Sequence[int],
    stream: str,
    lesions: Sequence[Sequence[float] | None] | None = None,
    *,
    seed: int,
    step: int,
) -> Tensor:
    """(b, 2, 3) from view to image; every number is drawn whatever the settings."""
    boxes = np.empty((len(rows), 2, 3))
    for place, (row, lesion) in enumerate(zip(rows, lesions or [None] * len(rows), strict=True)):
        generator = row_generator(seed, step, row, f"box {stream}")
        mirrored = generator.random() < view.flip
        angle = np.deg2rad(view.rotation_degrees) * (2.0 * generator.random() - 1.0)
        height, width, middle_x, middle_y = _part(view.crop, sides, generator, lesion)
        cos, sin = np.cos(angle), np.sin(angle)
        # a turn is rigid in pixels of the image: in half-sides its off-diagonals carry the part's shape
        tall = sides[0] * height / (sides[1] * width)
        turn = np.array([[cos, -sin / tall], [sin * tall, cos]])
        signs = [-1.0 if mirrored and view.flip_axis == axis else 1.0 for axis in (0, 1)]
        matrix = np.diag([height, width]) @ turn @ np.diag(signs)
        middle = np.array([middle_x, middle_y])
        if lesion is not None:
            middle += _shift(matrix, middle, lesion)
        boxes[place] = np.concatenate([matrix, middle[:, None]], axis=1)
    return torch.from_numpy(boxes)


def _shift(matrix: NDArray[np.float64], middle: NDArray[np.float64], lesion: Sequence[float]) -> NDArray[np.float64]:
    """(2,) by how much a part is moved so that, turned, it holds the lesion as it does upright: nothing if it does."""
    start, end = np.array(lesion[:2]), np.array(lesion[2:])
    to_view = np.linalg.inv(matrix)
    reach = np.abs(to_view) @ (end - start)  # of the lesion's half-sides along the view's axes
    seen = to_view @ (start + end - 1.0 - middle)
    limit = np.abs(1.0 - reach)
    found: NDArray[np.float64] = matrix @ (seen - np.clip(seen, -limit, limit))
    return found


def _part(
    crop: CropSettings, sides: Sequence[int], generator: np.random.Generator, lesion: Sequence[float] | None
) -> tuple[float, float, float, float]:
    """Height, width (shares of the image's) and middle (-1..1) of the part that a view shows.

    Its size is drawn alike with and without a lesion (top, left, bottom, right in shares), or scale would tell them
    apart; its place is drawn uniformly among those where, upright, it lies in the image and holds the lesion or lies
    within it.

    Paper: the drawing of area and ratio is that of Inception's crops (Szegedy 2015), as SimCLR and MoCo use it; sides
    are not rounded to pixels here.
    """
    area, ratio, down, right = generator.random((4, _ATTEMPTS))
    if crop.kind == "whole":
        return 1.0, 1.0, 0.0, 0.0
    if crop.kind == "centre":
        side = crop.area[0] ** 0.5
        return side, side, 0.0, 0.0
    low, high = np.log(crop.ratio)
    shape = sides[1] / sides[0]  # width over height of the whole image
    for attempt in range(_ATTEMPTS):
        share = crop.area[0] + (crop.area[1] - crop.area[0]) * area[attempt]
        wanted = np.exp(low + (high - low) * ratio[attempt]) / shape
        width, height = (share * wanted) ** 0.5, (share / wanted) ** 0.5
        if width <= 1.0 and height <= 1.0:
            top, left, bottom, far = lesion or (None,) * 4
            return (
                height,
                width,
                _middle(height, down[attempt], top, bottom),
                _middle(width, right[attempt], left, far),
            )
    return 1.0, 1.0, 0.0, 0.0


def _middle(side: float, drawn: float, start: float | None, end: float | None) -> float:
    """Middle (-1..1) along one axis of a part with this side (0..1) that holds start..end, or lies in it."""
    if start is None or end is None:
        return (1.0 - side) * (2.0 * drawn - 1.0)
    first, last = sorted((start, end - side))
    first, last = max(first, 0.0), min(last, 1.0 - side)
    return 2.0 * (first + (last - first) * drawn) + side - 1.0
