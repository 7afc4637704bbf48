"""NRRD, MetaImage and DICOM through SimpleITK; its LPS and its reversed axis order end here."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medcontrast.errors import VolumeError
from medcontrast.volume.compressed import damage
from medcontrast.volume.frames import Slice, read_frames, stack_of, without_pixels
from medcontrast.volume.grid import Grid, doubtful_unit
from medcontrast.volume.nifti import three_axes
from medcontrast.volume.stored import Stored
from medcontrast.volume.text_headers import require_named_space, require_sound_metaimage, stated_place

if TYPE_CHECKING:
    from collections.abc import Iterator

    import SimpleITK

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_METAIMAGE_SUFFIXES = (".mha", ".mhd")


def read_itk_grid(path: Path) -> Grid:
    """Reads the header of one file.

    Raises:
        VolumeError: Not readable, or not a 3D scalar volume with a place in the world.
    """
    return _placed_grid(_header(path), path)


def read_itk(path: Path) -> tuple[Stored, Grid]:
    """Reads voxels (x, y, z) and their grid out of one file.

    Raises:
        VolumeError: As read_itk_grid, and voxels missing or damaged.
    """
    reader = _header(path)
    grid = _placed_grid(reader, path)
    voxels = _voxels(reader, path).reshape(grid.shape)
    if reason := damage(path, voxels.nbytes):
        raise _damaged(path, reason)
    return Stored(voxels), grid


def read_dicom_grid(folder: Path) -> Grid:
    """Reads the headers of the one DICOM series in a folder.

    Raises:
        VolumeError: No series or several, or slices or frames that do not form a regular stack.
    """
    return _series(folder).grid


def read_dicom(folder: Path) -> tuple[Stored, Grid]:
    """Reads the one DICOM series in a folder, slices or the frames of its one file sorted by position.

    Rescale slope and intercept are applied; large values stay large where they are dark (MONOCHROME1).

    Raises:
        VolumeError: As read_dicom_grid, and pixels missing.
    """
    import SimpleITK as sitk

    series = _series(folder)
    files, order, grid = series.files, series.order, series.grid
    turned = any(value is not None for value in series.turned_sums)
    if len(files) == 1:
        voxels = _voxels(_header(Path(files[0])), folder).reshape(grid.shape)
        voxels = voxels if order == sorted(order) else voxels[:, :, order]
    else:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames([files[index] for index in order])
        # a slope may differ from slice to slice; of float32 a difference would show what it rounds off
        reader.SetOutputPixelType(sitk.sitkFloat64 if turned else sitk.sitkFloat32)
        voxels = _voxels(reader, folder).reshape(grid.shape)
    return Stored(_turned_back(voxels, series.turned_sums) if turned else voxels), grid


def _turned_back(voxels: NDArray[Any], turned_sums: Sequence[float | None]) -> NDArray[np.float64]:
    values = voxels.astype(np.float64)
    for index, value in enumerate(turned_sums):
        if value is not None:
            values[:, :, index] = value - values[:, :, index]
    return values


def is_dicom(path: Path) -> bool:
    """Whether it is a file that begins as DICOM files do, whatever it is called; what may not be read is none."""
    try:
        return path.is_file() and _begins_as_dicom(path)
    except OSError:
        return False


def _begins_as_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


@contextmanager
def _faults_of(path: Path) -> Iterator[None]:
    import SimpleITK as sitk

    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise _damaged(path, reason) from None
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def _damaged(path: Path, reason: str) -> VolumeError:
    return VolumeError(f"{path}: cannot be read: damaged, cut off or of another format ({reason}).")


def _header(path: Path) -> SimpleITK.ImageFileReader:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    require_named_space(path)  # SimpleITK calls such a file damaged
    is_metaimage = path.suffix.lower() in _METAIMAGE_SUFFIXES
    if is_metaimage:
        require_sound_metaimage(path)
    with _faults_of(path):
        if is_metaimage:
            reader.SetImageIO("MetaImageIO")  # else SimpleITK knows it by a name in lower case only
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if reader.GetNumberOfComponents() != 1 or "complex" in kind:
        raise VolumeError(
            f"{path}: stores {reader.GetNumberOfComponents()} values a voxel ({kind}): colours, vectors, complex "
            "numbers or overlapping segments; one real number a voxel is needed, so convert it first."
        )
    return reader


def _placed_grid(reader: SimpleITK.ImageFileReader, path: Path) -> Grid:
    grid, stated = _file_grid(reader, path), stated_place(path)
    unit = [] if stated.names_unit else doubtful_unit(grid, path)
    return replace(grid, warnings=(*stated.warnings, *unit))


def _file_grid(reader: SimpleITK.ImageFileReader, path: Path) -> Grid:
    sizes = list(reader.GetSize())
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    shape = three_axes(tuple(sizes), path)
    axes = reader.GetDimension()
    direction = np.array(reader.GetDirection()).reshape(axes, axes)[:3, :3]
    return Grid(shape, _ras(direction * np.array(reader.GetSpacing()[:3]), reader.GetOrigin()[:3]))


def _ras(columns_lps: NDArray[np.float64], origin_lps: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = columns_lps, origin_lps
    return LPS_TO_RAS @ affine + 0.0  # no -0.0


def _voxels(reader: SimpleITK.ImageReaderBase, path: Path) -> NDArray[Any]:
    import SimpleITK as sitk

    with _faults_of(path):
        image = reader.Execute()
    return np.array(np.transpose(sitk.GetArrayViewFromImage(image)))  # copied before `image` is gone


@dataclass(frozen=True, eq=False)
class _Series:
    """The one series of a folder.

    Attributes:
        files: Its files, in any order.
        order: Of its slices, or of the frames of its one file: places in `files`, or in the file.
        grid: Where they lie, in this order.
        turned_sums: `Slice.turned_sum` of each, in this order.
    """

    files: list[str]
    order: list[int]
    grid: Grid
    turned_sums: list[float | None]


def _series(folder: Path) -> _Series:
    import SimpleITK as sitk

    with _faults_of(folder):
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
        if not series:
            raise VolumeError(f"{folder}: holds no DICOM slices; give a volume file, or a folder with one series.")
        if len(series) > 1:
            raise VolumeError(
                f"{folder}: holds {len(series)} DICOM series ({', '.join(series)}); "
                "move each into a folder of its own and give one of them."
            )
        files = list(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0]))
    _require_all_read(files, folder)
    slices = _slices(files, folder)
    frames = len(slices) > len(files)
    names = [] if frames else [Path(file).name for file in files]
    stack = stack_of(slices, folder, "frame" if frames else "slice", names)
    columns, rows = slices[0].size
    grid = Grid((columns, rows, len(slices)), _ras(stack.steps, stack.origin), None, stack.warnings)
    return _Series(files, stack.order, grid, [slices[index].turned_sum for index in stack.order])


def _slices(files: list[str], folder: Path) -> list[Slice]:
    headers = [_header(Path(file)) for file in files]
    if len(files) == 1:
        return read_frames(Path(files[0]))
    if any(header.GetSize()[2:] not in ((), (1,)) for header in headers):
        raise VolumeError(
            f"{folder}: holds {len(files)} files of one series, of which one or more have several frames; give one "
            "such file in a folder of its own."
        )
    return [read_frames(Path(file))[0] for file in files]


def _require_all_read(files: list[str], folder: Path) -> None:
    # GDCM passes over a damaged file in silence; at either end of the stack its slice would not be missed. It does so
    # too with reports, contours and presentation states, which may well lie beside their scan.
    known = {Path(file).name for file in files} | {"DICOMDIR"}
    others = sorted(file for file in folder.iterdir() if file.name not in known and file.is_file())
    try:
        unread = [file for file in others if _begins_as_dicom(file)]
        no_images = without_pixels(unread, [Path(file) for file in files])
    except OSError as error:
        raise VolumeError(
            f"{error.filename or folder}: cannot be read ({error.strerror or error}), and may be a slice of its "
            "folder; allow reading it, or move it away."
        ) from None
    damaged = [file.name for file in unread if file not in no_images]
    if damaged:
        raise VolumeError(
            f"{folder}: {len(damaged)} of its DICOM files cannot be read, the first {damaged[0]}; "
            "copy the series again."
        )
