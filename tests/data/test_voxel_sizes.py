"""By hand: which voxel sizes a network was trained on, and which are unlike them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medcontrast.data.manifest import Case
from medcontrast.data.voxel_sizes import HEADER_KEY, VoxelSizes
from medcontrast.errors import VolumeError


def case(tiny: SimpleNamespace, path: Path, affine: Any) -> Case:
    tiny.write_nifti(path, np.zeros((4, 5, 6), np.uint8), np.array(affine, float))
    return Case(path.stem, (path, path.with_name("another channel, never opened.nii")), None)


def test_they_are_measured_along_canonical_axes(tiny: SimpleNamespace, tmp_path: Path) -> None:
    """Stored axes of the second scan run to S, then L, then P: x is the second, y the third, z the first."""
    one = case(tiny, tmp_path / "a.nii", np.diag([2.1, 3.0, 0.7, 1.0]))
    other = case(tiny, tmp_path / "b.nii", [[0, -2.0, 0, 0], [0, 0, -3.0, 0], [1.0, 0, 0, 0], [0, 0, 0, 1]])
    sizes = VoxelSizes.of([one, other])
    assert sizes == VoxelSizes((2.0, 3.0, 0.7), (2.1, 3.0, 1.0), (5 * 2.0, 6 * 3.0, 4.2))  # 6 x 0.7
    assert str(sizes) == "2 x 3 x 0.7 mm to 2.1 x 3 x 1 mm" and str(VoxelSizes.of([other])) == "2 x 3 x 1 mm"
    assert VoxelSizes.from_header({HEADER_KEY: sizes.to_json()}) == sizes
    with pytest.raises(VolumeError, match=r"gone\.nii: there is no such file or folder"):
        VoxelSizes.of([Case("gone", (tmp_path / "gone.nii",), None)])


@pytest.mark.parametrize(
    "kept",
    [{HEADER_KEY: {"smallest": [1, 1, 1], "largest": [1, 1, 1], "extent": [9, 9]}},
     {}, {HEADER_KEY: None}, {HEADER_KEY: [1, 1, 1]}, {HEADER_KEY: {"smallest": [1, 1], "largest": [1, 1]}},
     {HEADER_KEY: {"smallest": [1, 1, "x"], "largest": [1, 1, 1]}}, {HEADER_KEY: {"smallest": [1, 1, 1]}}],
)  # fmt: skip
def test_a_header_may_say_nothing(kept: dict[str, Any]) -> None:
    """Checkpoints of before do not hold them."""
    assert VoxelSizes.from_header(kept) is None


@pytest.mark.parametrize(
    ("spacing_mm", "known"),
    [
        ((1.0, 1.5, 3.0), True),
        ((1.25, 2.5, 3.75), True),
        ((0.8, 0.8, 2.4), True),
        ((1.26, 1.5, 3.0), False),
        ((1.0, 2.51, 3.0), False),
        ((1.0, 1.5, 2.39), False),
        ((4.0, 4.0, 4.0), False),
    ],
)
def test_a_quarter_along_any_axis_is_far(spacing_mm: tuple[float, ...], known: bool) -> None:
    assert VoxelSizes((1.0, 1.0, 3.0), (1.0, 2.0, 3.0)).known(spacing_mm) is known


def test_a_scan_is_wide_that_is_longer_by_half_along_any_axis() -> None:
    sizes = VoxelSizes((1.0,) * 3, (1.0,) * 3, (30.0, 50.0, 40.0))
    assert not sizes.wide((45.0, 75.0, 60.0)) and not sizes.wide((1.0, 1.0, 1.0))
    assert sizes.wide((45.1, 1.0, 1.0)) and sizes.wide((1.0, 75.1, 1.0)) and sizes.wide((1.0, 1.0, 60.1))
    assert VoxelSizes.from_header({HEADER_KEY: sizes.to_json()}) == sizes
    before = VoxelSizes((1.0,) * 3, (1.0,) * 3)
    assert "extent" not in before.to_json() and not before.wide((900.0,) * 3)
