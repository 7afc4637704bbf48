"""By hand: which voxel values a network was trained on, and which are unlike them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medcontrast.data.manifest import Case
from medcontrast.data.seen_values import HEADER_KEY, SeenValues
from medcontrast.settings.data import IntensitySettings
from medcontrast.volume import Volume, read_volume

STORED = IntensitySettings(kind="as_stored")
SEEN = SeenValues(((0.0, 2.0),), ((0.5, 1.0),))


def scan(
    tiny: SimpleNamespace, path: Path, mean: float, std: float, *, sides: tuple[int, int, int] = (4, 5, 6)
) -> Path:
    """Half of the voxels lie one deviation above the mean, half below; neighbours along the last axis differ."""
    signs = np.where(np.indices(sides).sum(axis=0) % 2, 1.0, -1.0)
    tiny.write_nifti(path, (mean + std * signs).astype(np.float32), np.eye(4))
    return path


def volume(tiny: SimpleNamespace, folder: Path, mean: float, std: float, **more: Any) -> Volume:
    return read_volume(scan(tiny, folder / "new.nii", mean, std, **more), "image")


def test_they_are_the_range_over_scans_of_each_channel(tiny: SimpleNamespace, tmp_path: Path) -> None:
    figures = {"a": [(1.0, 0.5), (300.0, 20.0)], "b": [(-0.5, 2.0), (250.0, 40.0)]}
    cases = [
        Case(
            name,
            tuple(scan(tiny, tmp_path / f"{name}{number}.nii", *each) for number, each in enumerate(channels)),
            None,
        )
        for name, channels in figures.items()
    ]
    found = SeenValues.of(cases, STORED)
    assert found == SeenValues(((-0.5, 1.0), (250.0, 300.0)), ((0.5, 2.0), (20.0, 40.0)))
    assert SeenValues.from_header({HEADER_KEY: found.to_json()}) == found
    assert SeenValues.of(cases, IntensitySettings(kind="zscore")) is None


def test_they_are_in_network_units(tiny: SimpleNamespace, tmp_path: Path) -> None:
    """Of -1000 and 1000 the window makes -200 and 200, which are -1 and 1."""
    path = scan(tiny, tmp_path / "ct.nii", 0.0, 1000.0)
    window = IntensitySettings(kind="clip", low=-200.0, high=200.0)
    assert SeenValues.of([Case("ct", (path,), None)], window) == SeenValues(((0.0, 0.0),), ((1.0, 1.0),))


def test_sixteen_scans_are_enough(tiny: SimpleNamespace, tmp_path: Path) -> None:
    paths = [scan(tiny, tmp_path / f"{number}.nii", number, 1.0) for number in range(17)]
    missing = [
        Case(path.stem, (path if number % 2 == 0 else tmp_path / "gone.nii",), None)
        for number, path in enumerate(paths)
    ]
    assert SeenValues.of(missing, STORED) == SeenValues(((0.0, 16.0),), ((1.0, 1.0),))
    assert SeenValues.of(missing[:1], STORED) == SeenValues(((0.0, 0.0),), ((1.0, 1.0),))


@pytest.mark.parametrize(
    "kept",
    [{}, {HEADER_KEY: None}, {HEADER_KEY: {"means": [[0, 1]]}}, {HEADER_KEY: {"means": [[0, 1]], "deviations": []}},
     {HEADER_KEY: {"means": [0, 1], "deviations": [0, 1]}},
     {HEADER_KEY: {"means": [["x", 1]], "deviations": [[0, 1]]}}],
)  # fmt: skip
def test_a_header_may_say_nothing(kept: dict[str, Any]) -> None:
    """Checkpoints of before do not hold them."""
    assert SeenValues.from_header(kept) is None


@pytest.mark.parametrize(
    ("mean", "std", "known"),
    [(0.0, 1.0, True), (-0.9, 1.0, True), (2.9, 0.5, True), (1.0, 0.2, True), (1.0, 2.9, True),
     (-1.1, 1.0, False), (3.1, 1.0, False), (1.0, 0.1, False), (1.0, 3.1, False), (400.0, 150.0, False)],
)  # fmt: skip
def test_a_mean_a_deviation_outside_or_three_times_the_deviation_is_far(
    tiny: SimpleNamespace, tmp_path: Path, mean: float, std: float, known: bool
) -> None:
    found = SEEN.unlike([volume(tiny, tmp_path, mean, std)], STORED)
    assert (found == []) is known
    if not known:
        said = f"{tmp_path / 'new.nii'}: its values have mean {mean:g} and SD {std:g} as the network takes them, "
        (sentence,) = found
        assert sentence == said + (
            "those of the training scans means of 0 to 2 and SDs of 0.5 to 1, so that its mask may be wrong; "
            "give it in the units of the training scans."
        )


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        (0.0, 1.0, False),
        (1.5, 1.7, False),  # a crop of a z-scored scan
        (0.3, 0.2, False),  # grey values from 0 to 1
        (9.0, 9.0, False),
        (60.0, 50.0, True),  # grey values from 0 to 255
        (0.0, 11.0, True),
        (-11.0, 1.0, True),
        (0.0, 0.05, True),
    ],
)
def test_values_that_no_one_can_have_meant(mean: float, std: float, said: bool) -> None:
    seen = SeenValues(((0.0, 0.0), (mean, mean)), ((1.0, 1.0), (std, std)))
    sentence = seen.far_from_unit(STORED)
    assert (sentence is not None) is said
    if sentence:
        assert sentence.startswith(
            f"data.intensity.kind as_stored leaves the labeled scans with means of 0 and {mean:g}"
        )
        assert sentence.endswith("where they are left out.")


@pytest.mark.parametrize("air", [0.0, 0.5])
def test_hounsfield_units_stored_1024_too_high_are_far(tiny: SimpleNamespace, tmp_path: Path, air: float) -> None:
    window = IntensitySettings(kind="clip", low=-160.0, high=240.0)
    generator = np.random.default_rng(0)
    tissue = np.where(generator.random((20, 20, 20)) < air, -1000.0, generator.normal(40.0, 60.0, (20, 20, 20)))
    for name, added in (("right", 0.0), ("high", 1024.0)):
        tiny.write_nifti(tmp_path / f"{name}.nii", (tissue + added).astype(np.float32), np.eye(4))
    seen = SeenValues.of([Case("right", (tmp_path / "right.nii",), None)], window)
    assert seen is not None
    said = [seen.unlike([read_volume(tmp_path / f"{name}.nii", "image")], window) for name in ("right", "high")]
    assert [len(sentences) for sentences in said] == [0, 1]


def test_a_large_scan_is_thinned_without_taking_the_same_columns(tiny: SimpleNamespace, tmp_path: Path) -> None:
    """Taking every second or fourth voxel of these would see one sign alone, SD 0."""
    assert SEEN.unlike([volume(tiny, tmp_path, 1.0, 0.75, sides=(100, 100, 84))], STORED) == []
