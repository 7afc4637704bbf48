"""Which lesion box of its image the patches of a row are taken around."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medcontrast.data.images.lesion_boxes import box_faults, healthy_fault, moved_box
from medcontrast.data.images.sources import no_lesion_boxes
from medcontrast.data.sampler import RowKey
from medcontrast.errors import InputError
from medcontrast.transforms.draws import row_generator

if TYPE_CHECKING:
    from medcontrast.data.images.images import Images


class LesionBoxes:
    """Which lesion box of its image a row's patches are taken around; the same in every view of the row."""

    def __init__(self, images: Images, classes: Sequence[str], *, seed: int, where: str) -> None:
        """Looks at the boxes of every image that is kept in memory; at those of others when they are drawn.

        Args:
            images: Of the training split.
            classes: Names of the targets, the healthy one first.
            seed: Of the run; with step and row it decides every draw.
            where: Manifest and split, for messages.

        Raises:
            InputError: No image has a box, or one cannot be used.
        """
        self.images, self.classes, self.seed, self.where = images, tuple(classes), seed, where
        boxed = [place for place, case in enumerate(images.cases) if case.lesion_boxes]
        if not boxed:
            raise InputError(f"{no_lesion_boxes(images.cases, where)}.")
        for place in boxed if images.keep else ():
            self._require_usable(place)

    def drawn(self, key: RowKey) -> NDArray[np.float32]:
        """(4,) top, left, bottom, right in shares of the image's sides, each box as likely; NaN where it has none.

        Raises:
            InputError: A box that cannot be used.
        """
        case = self.images.cases[key.case_index]
        if not case.lesion_boxes:
            return np.full(4, np.nan, np.float32)
        self._require_usable(key.case_index)
        number = int(row_generator(self.seed, key.step, key.row, "lesion box").integers(len(case.lesion_boxes)))
        return np.array(moved_box(case.lesion_boxes[number], self.images.sides(key.case_index), (1, 1)), np.float32)

    def _require_usable(self, place: int) -> None:
        case = self.images.cases[place]
        healthy = healthy_fault(case.lesion_boxes, case.target, self.classes)
        faults = [healthy] if healthy else box_faults(case.lesion_boxes, self.images.sides(place))
        if faults:
            raise InputError(f"{self.where}: image {case.name}: {faults[0]}.")
