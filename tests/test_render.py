"""Pictures: geometry (a marked voxel lands where its side says), whole (files read back), exact errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from medcontrast.errors import InputError, OutputError, VolumeError
from medcontrast.render import (
    BoxedImage,
    OverlayRow,
    Point,
    boxes_png,
    overlay_grid_png,
    overlays,
    points_png,
)

RED = {1: (255, 0, 0), 2: (0, 0, 255)}
SHAPE = (20, 30, 40)


def noise(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).random(shape).astype(np.float32)


def block(low: tuple[int, int, int], high: tuple[int, int, int], value: int = 1) -> np.ndarray:
    label = np.zeros(SHAPE, np.uint8)
    label[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = value
    return label


def draw(
    path: Path,
    image: np.ndarray,
    reference: np.ndarray | None = None,
    prediction: np.ndarray | None = None,
    *,
    colors: dict[int, tuple[int, int, int]] | None = None,
    spacing_mm: tuple[float, ...] = (1.0, 1.0, 1.0),
    title: str = "",
) -> None:
    overlay_grid_png(path, [OverlayRow(image, reference, prediction, spacing_mm, title)], colors=colors)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def panels(picture: np.ndarray) -> list[slice]:
    """Column ranges of the panels: runs of columns that are not black in the middle of the picture."""
    lit = np.concatenate([[False], (picture.sum(axis=2) > 30).any(axis=0), [False]])
    edges = np.flatnonzero(np.diff(lit.astype(int)))
    runs = [slice(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return [run for run in runs if run.stop - run.start > 50]


def centre_of_red(panel: np.ndarray) -> tuple[float, float]:
    """(across, up) of the reddish pixels, each 0 to 1 of the lit area."""
    lit = panel.sum(axis=2) > 30
    rows = np.flatnonzero(lit.mean(axis=1) > 0.5)
    panel = panel[rows[0] : rows[-1] + 1]
    red = (panel[..., 0] - panel[..., 1] > 60) & (panel[..., 0] - panel[..., 2] > 60)
    y, x = np.nonzero(red)
    return float(x.mean() / panel.shape[1]), float(1 - y.mean() / panel.shape[0])


def test_sides_are_radiological(tmp_path: Path) -> None:
    # A block at the patient's right (high x), front (high y) and bottom (low z).
    label = block((15, 23, 4), (18, 27, 10))
    image = np.full(SHAPE, 0.5, np.float32)
    image[0, 0, 0], image[-1, -1, -1] = 0.0, 1.0
    draw(tmp_path / "a.png", image + 0.01 * noise(), None, label, colors=RED)
    picture = pixels(tmp_path / "a.png")[:-70]  # without the legend
    sagittal, coronal, axial = (centre_of_red(picture[:, run]) for run in panels(picture))
    x, y, z = 16.5 / 20, 25 / 30, 7 / 40
    assert sagittal == (pytest.approx(1 - y, abs=0.03), pytest.approx(z, abs=0.03))
    assert coronal == (pytest.approx(1 - x, abs=0.03), pytest.approx(z, abs=0.03))
    assert axial == (pytest.approx(1 - x, abs=0.03), pytest.approx(y, abs=0.03))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.0, 0.5)])
def test_aspect_follows_the_spacing(tmp_path: Path, spacing: tuple[float, float, float]) -> None:
    draw(tmp_path / "a.png", noise() + 1, spacing_mm=spacing)
    picture = pixels(tmp_path / "a.png")
    x, y, z = (count * step for count, step in zip(SHAPE, spacing, strict=True))
    widths, heights = [], []
    for run in panels(picture):
        lit = (picture[:, run].sum(axis=2) > 0).mean(axis=1) > 0.5
        widths.append(run.stop - run.start)
        heights.append(lit.sum())
    assert np.allclose(np.array(widths) / widths[0], np.array([y, x, x]) / y, rtol=0.03)
    assert np.allclose(np.array(heights) / widths[0], np.array([z, z, y]) / y, rtol=0.03)


def test_slices_go_through_the_largest_area_of_the_reference(tmp_path: Path) -> None:
    # In y the reference is widest at 20, the prediction at 5; its part at 20 lies high.
    reference = block((8, 10, 18), (10, 12, 20)) + block((4, 20, 10), (16, 21, 30))
    prediction = block((2, 5, 2), (18, 6, 30)) + block((5, 20, 32), (15, 21, 38))
    draw(tmp_path / "a.png", 0.01 * noise() + 1, reference, prediction, colors=RED)
    draw(tmp_path / "b.png", 0.01 * noise() + 1, np.zeros(SHAPE, int), prediction, colors=RED)
    heights = []
    for name in ("a.png", "b.png"):
        picture = pixels(tmp_path / name)[:-70]
        heights.append(centre_of_red(picture[:, panels(picture)[1]])[1])
    assert heights == [pytest.approx(35 / 40, abs=0.03), pytest.approx(16 / 40, abs=0.03)]


def test_reference_is_dashed_white_and_prediction_coloured(tmp_path: Path) -> None:
    label = block((5, 8, 10), (15, 22, 30))
    dark = np.zeros(SHAPE, np.float32)
    draw(tmp_path / "r.png", dark, label, None, colors=RED)
    draw(tmp_path / "p.png", dark, None, label, colors=RED)
    reference, prediction = pixels(tmp_path / "r.png"), pixels(tmp_path / "p.png")
    colored = (reference.max(axis=2) - reference.min(axis=2)).max()
    assert colored == 0
    assert (reference.min(axis=2) > 200).sum() > 500
    assert ((prediction[..., 0] > 200) & (prediction[..., 1] < 60)).sum() > 500


def test_contours_close_at_the_border_of_the_image(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", np.zeros(SHAPE, np.float32), np.ones(SHAPE, np.uint8))
    assert (pixels(tmp_path / "a.png")[:-70].min(axis=2) > 200).sum() > 500


def test_a_failed_write_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_text("old")

    def full(_: object, file: IO[bytes], **__: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.backends.backend_agg.FigureCanvasAgg.print_png", full)
    with pytest.raises(OutputError, match=r"a\.png: cannot be written \(No space left on device\)"):
        draw(path, noise())
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["a.png"]


def test_every_combination_of_masks_is_drawn(tmp_path: Path) -> None:
    full, nothing = np.ones(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    odd = noise()
    odd[0, 0, 0] = np.nan
    flat = np.full(SHAPE, 3.0)
    blind = np.full(SHAPE, np.nan)
    every = [
        (odd, reference, prediction) for reference in (None, nothing, full) for prediction in (None, nothing, full)
    ]
    every += [(image, None, full) for image in (flat, blind, noise() > 0.5)]
    for image, reference, prediction in every:
        draw(tmp_path / "a.png", image, reference, prediction, title="a title")
        assert pixels(tmp_path / "a.png").shape[2] == 3


def test_grid_and_legend(tmp_path: Path) -> None:
    two = block((5, 8, 10), (15, 15, 30)) + block((5, 15, 10), (15, 22, 30), 2)
    rows = [OverlayRow(noise(), two, two, (1, 1, 1), f"case {number}") for number in range(3)]
    overlay_grid_png(tmp_path / "one.png", rows[:1], colors=RED, names={1: "front", 2: "back"})
    overlay_grid_png(tmp_path / "three.png", rows, colors=RED, title="Worst cases")
    one, three = pixels(tmp_path / "one.png"), pixels(tmp_path / "three.png")
    assert one.shape[1] == three.shape[1]
    assert three.shape[0] > 2.5 * one.shape[0]
    legend = one[-50:]
    red, blue, white = ((np.abs(legend - color).max(axis=2) < 30) for color in ((255, 0, 0), (0, 0, 255), (255,) * 3))
    # a line of each structure, then the reference's dashed one, from left to right
    assert np.argwhere(red)[:, 1].max() < np.argwhere(blue)[:, 1].min()
    assert np.argwhere(blue)[:, 1].max() < np.argwhere(white)[:, 1].min()


def test_the_legend_names_what_was_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(overlays, "save_png", lambda figure, path: figures.append(figure))
    first, second = block((5, 8, 10), (15, 15, 30)), block((5, 15, 10), (15, 22, 30), 2)
    rows = [OverlayRow(noise(), both, both, (1, 1, 1)) for both in (second, first)]
    for names in ({1: "front", 2: "back"}, None):
        overlay_grid_png(tmp_path / "a.png", rows, colors=RED, names=names)
    overlay_grid_png(tmp_path / "a.png", [OverlayRow(noise(), None, 0 * first, (1, 1, 1))])
    named, nameless, empty = figures
    legend = named.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["front", "back", "reference"]
    assert [line.get_color() for line in legend.get_lines()] == [(1, 0, 0), (0, 0, 1), "white"]
    assert [text.get_text() for text in nameless.legends[0].get_texts()] == ["prediction", "prediction", "reference"]
    assert empty.legends == []


def test_same_input_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw(tmp_path / name, noise(), None, block((5, 8, 10), (15, 22, 30)))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"3D volumes, but got shape \(4, 4\)"):
        draw(tmp_path / "a.png", np.zeros((4, 4)))
    with pytest.raises(
        VolumeError, match=r"the prediction has shape \(2, 2, 2\) but the image has shape \(20, 30, 40\)"
    ):
        draw(tmp_path / "a.png", noise(), None, np.zeros((2, 2, 2), int))
    with pytest.raises(VolumeError, match="3 positive numbers"):
        draw(tmp_path / "a.png", noise(), spacing_mm=(1, 1, 0))
    with pytest.raises(VolumeError, match="at least one case"):
        overlay_grid_png(tmp_path / "a.png", [])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"a\.png: cannot be written"):
        draw(tmp_path / "file" / "a.png", noise())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_matplotlib_is_imported_only_to_draw() -> None:
    code = "import sys, medcontrast.render; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_points_of_groups_are_drawn_in_their_colours(tmp_path):
    points = [Point("first", "8 labeled", 0.8, 0.7, 0.9, (0.75, 0.85)), Point("second", "4 labeled", 0.5, 0.4, 0.6)]
    points_png(tmp_path / "points.png", points, title="Methods", axis="Dice")
    found = pixels(tmp_path / "points.png")[..., :3].astype(int)
    blue, orange = ((np.abs(found - color).sum(axis=-1) < 30) for color in ((0, 114, 178), (213, 94, 0)))
    height, width = found.shape[:2]
    # the first name stands above the second, and the better one further right (the legend is left out)
    inside = np.s_[:, width // 3 :]
    assert blue[inside].any()
    assert orange.any()
    assert np.argwhere(blue).mean(axis=0)[1] > np.argwhere(orange).mean(axis=0)[1]
    assert height > 100


def test_boxes_are_drawn_where_they_are_on_grey_and_on_colour(tmp_path):
    heat = np.zeros((40, 40))
    heat[10:20, 5:35] = 1.0
    for channels in (1, 3):
        image = np.zeros((40, 40, channels), np.uint8)
        boxes_png(tmp_path / "x.png", [BoxedImage(image, heat, [(10.0, 5.0, 20.0, 35.0)])])
        orange = np.abs(pixels(tmp_path / "x.png") - (230, 159, 0)).max(axis=2) < 40
        picture = pixels(tmp_path / "x.png").shape
        above = orange[: picture[0] // 2]
        rows, columns = np.flatnonzero(above.any(axis=1)), np.flatnonzero(above.any(axis=0))
        # 10 x 30 pixels of the image: three times as wide as high
        assert (columns[-1] - columns[0]) / (rows[-1] - rows[0]) == pytest.approx(3.0, abs=0.2)
        dark = pixels(tmp_path / "x.png")[: picture[0] // 2].sum(axis=2) == 0
        side = np.flatnonzero(dark.any(axis=1))
        assert (rows[0] - side[0]) / (side[-1] - side[0]) == pytest.approx(0.25, abs=0.03)
    many = [BoxedImage(np.zeros((8, 8, 1), np.uint8), np.ones((8, 8)), [], str(number)) for number in range(8)]
    boxes_png(tmp_path / "y.png", many, title="all")
    assert pixels(tmp_path / "y.png").shape[0] > 1000
    with pytest.raises(InputError, match="A picture of boxes needs an image at least"):
        boxes_png(tmp_path / "z.png", [])
