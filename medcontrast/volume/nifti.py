"""NIfTI-1 and NIfTI-2 files: header to Grid, voxels as stored, and back to a header with the same fields."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from numpy.typing import NDArray

from medcontrast.errors import VolumeError
from medcontrast.volume.grid import Grid, NiftiFields, doubtful_unit
from medcontrast.volume.stored import Stored

_SIZES = {348: (Nifti1Header, slice(344, 348), b"n+1\0"), 540: (Nifti2Header, slice(4, 8), b"n+2\0")}
_LONGEST_AXIS = 32767  # of NIfTI-1
_UNKNOWN = 0
_UNIT_IN_MM = {_UNKNOWN: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # unknown, metre, millimetre, micron; unknown is read as mm


def read_nifti_grid(path: Path) -> Grid:
    """Reads the header alone; the voxels stay unread.

    Raises:
        VolumeError: Not a NIfTI file, damaged, or not a 3D scalar volume with a place in the world.
    """
    return _grid(_header(_content(path, 540), path), path)


def read_nifti(path: Path) -> tuple[Stored, Grid]:
    """Reads voxels (x, y, z), with their slope and intercept, and their grid. A checksum in the file is verified.

    Raises:
        VolumeError: As read_nifti_grid, and voxels missing.
    """
    content = _content(path)
    header = _header(content, path)
    grid = _grid(header, path)
    try:
        dtype, start, count = header.get_data_dtype(), int(header.get_data_offset()), math.prod(grid.shape)
        held = max(0, len(content) - start)
        if held < count * dtype.itemsize:
            raise EOFError(f"holds {held} of {count * dtype.itemsize} bytes")
    except Exception as error:  # nibabel's readers raise errors of any kind on a damaged header
        raise VolumeError(f"{path}: damaged or cut off: its voxels cannot be read ({error}); copy it again.") from None
    try:
        slope, intercept = header.get_slope_inter()  # None where the file has none
    except Exception as error:
        raise VolumeError(
            f"{path}: its header scales voxels by no number ({error}); correct scl_slope and scl_inter."
        ) from None
    voxels = np.frombuffer(content, dtype, count, start).reshape(grid.shape, order="F")
    return Stored(voxels, 1.0 if slope is None else float(slope), float(intercept or 0.0)), grid


def nifti_header(grid: Grid, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Nifti1Header:
    """A header that places voxels exactly where the grid's own file placed them.

    Args:
        grid: The scan's grid. Without NIfTI fields its affine becomes sform and, unless too sheared, qform, in mm.
        shape: (x, y, z) or (x, y, z, c).
        dtype: Stored type.
    """
    fields = grid.nifti or _fields_of(grid)
    header = (Nifti2Header if fields.version == 2 or max(shape) > _LONGEST_AXIS else Nifti1Header)()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header.set_slope_inter(1, 0)
    header.set_data_offset(header.single_vox_offset)
    header["pixdim"][:4] = fields.pixdim
    for key, value in zip(("quatern_b", "quatern_c", "quatern_d"), fields.quatern, strict=True):
        header[key] = value
    for axis, offset, row in zip("xyz", fields.qoffset, fields.srow, strict=True):
        header[f"qoffset_{axis}"] = offset
        header[f"srow_{axis}"] = row
    header["qform_code"], header["sform_code"] = fields.qform_code, fields.sform_code
    header["xyzt_units"] = fields.xyzt_units
    return header


def sheared_axes(grid: Grid, path: Path) -> list[str]:
    """What to say of a grid whose NIfTI mask ITK cannot open, because it has a sheared sform alone; else nothing."""
    if not grid.sheared or (grid.nifti or _fields_of(grid)).qform_code > 0:
        return []
    return [
        f"{path}: its axes are not at right angles (a tilted gantry, or a sheared header), and a NIfTI file of it "
        "cannot be opened by 3D Slicer or any other program built on ITK (it 'only supports orthonormal direction "
        "cosines'); for those write its mask with --export seg.nrrd."
    ]


def nifti2_masks(grid: Grid, path: Path) -> list[str]:
    """What to say of a grid whose masks are NIfTI-2, which ITK cannot open; else nothing."""
    if grid.nifti is not None and grid.nifti.version == 2:
        what, convert = "is a NIfTI-2 file, and so are its masks", "convert the scan to NIfTI-1, or "
    elif max(grid.shape) > _LONGEST_AXIS:
        what, convert = f"has an axis of {max(grid.shape)} voxels, so that its masks are NIfTI-2 files", ""
    else:
        return []
    return [
        f"{path}: {what}, which 3D Slicer and other programs built on ITK cannot open; for those {convert}write its "
        "mask with --export seg.nrrd."
    ]


def _content(path: Path, size: int = -1) -> bytes:
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
            return file.read(size)
    except EOFError:
        raise VolumeError(f"{path}: cut off: its compressed data ends too early; copy it again.") from None
    except zlib.error as error:
        raise VolumeError(f"{path}: damaged: its data cannot be unpacked ({error}); copy it again.") from None
    except gzip.BadGzipFile as error:
        raise VolumeError(
            f"{path}: named .gz, but is not an intact gzip file ({error}); copy it again, or correct its name."
        ) from None
    except MemoryError:
        raise VolumeError(f"{path}: does not fit into memory.") from None
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read ({error.strerror or error}).") from None


def _header(content: bytes, path: Path) -> Nifti1Header:
    sizes = {int.from_bytes(content[:4], order) for order in ("little", "big")}
    for size, (kind, place, magic) in _SIZES.items():
        if size in sizes and len(content) >= size:
            if content[place] != magic:
                break
            # nibabel's own check would repair faults in silence; ours are checked below
            return kind(content[:size], check=False)
    raise VolumeError(f"{path}: not a NIfTI file, or its header is damaged; copy it again, or correct its name.")


def _grid(header: Nifti1Header, path: Path) -> Grid:
    shape = _shape(header, path)
    if not float(header["vox_offset"]) >= header.single_vox_offset:  # NaN too
        raise VolumeError(
            f"{path}: damaged: its header says that its voxels begin at byte {float(header['vox_offset']):.0f}, inside "
            "the header; copy it again."
        )
    try:
        dtype = header.get_data_dtype()
    except Exception:
        raise VolumeError(f"{path}: stores voxels of unknown type {int(header['datatype'])}.") from None
    if dtype.kind not in "iuf":
        kind = "colours" if dtype.names else "complex numbers" if dtype.kind == "c" else "single bits"
        raise VolumeError(f"{path}: stores {kind}, but one real number a voxel is needed; convert it first.")
    sform = header.get_sform() if header["sform_code"] > 0 else None
    qform = _qform(header) if header["qform_code"] > 0 else None
    affine = qform if sform is None else sform
    if affine is None and header["qform_code"] > 0:
        raise VolumeError(f"{path}: its qform is damaged, and it has no sform; set a valid one in its header.")
    code = int(header["xyzt_units"]) & 7
    unit = _UNIT_IN_MM.get(code)
    warnings = [] if unit else [f"{path}: has an unknown unit of length; taken as millimetres."]
    if affine is None:
        # the standard's method 1, as nibabel reads it; the header goes into the mask as it is, so that both lie alike
        affine = np.asarray(_positive(header).get_base_affine(), dtype=np.float64)
        warnings.append(
            f"{path}: does not say where it lies or which side is left (the codes of its sform and qform are both 0); "
            "spacing is taken from pixdim, and the first axis as running to the left."
        )
    grid = Grid(shape, _in_mm(affine, unit or 1.0), _fields(header))
    if code == _UNKNOWN:
        warnings += doubtful_unit(grid, path)
    if sform is not None:
        warnings += _disagreement(
            header, grid, None if qform is None else _in_mm(qform, unit or 1.0), unit or 1.0, path
        )
    return Grid(shape, grid.affine, grid.nifti, tuple(warnings))


def _shape(header: Nifti1Header, path: Path) -> tuple[int, int, int]:
    dim = [int(size) for size in header["dim"]]
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 0:
        raise VolumeError(f"{path}: not a NIfTI file, or its header is damaged; copy it again, or correct its name.")
    sizes = dim[1 : dim[0] + 1]
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    return three_axes(tuple(sizes), path)


def three_axes(sizes: tuple[int, ...], path: Path) -> tuple[int, int, int]:
    """Passes three sizes on, refuses two and four; trailing axes of size 1 are gone already.

    Raises:
        VolumeError: Not three axes, or one without voxels.
    """
    words = " x ".join(str(size) for size in sizes)
    if len(sizes) < 3:
        raise VolumeError(
            f"{path}: is an image of {len(sizes)} axes ({words}), but a volume of three axes is needed; stack the "
            "slices of a scan into one file, or give a single slice a third axis of size 1."
        )
    if len(sizes) > 3:
        raise VolumeError(
            f"{path}: has {len(sizes)} axes ({words}), but a volume of three is needed; "
            "save each time point or channel as a file of its own."
        )
    if min(sizes) < 1:
        raise VolumeError(f"{path}: has no voxels (shape {words}).")
    return sizes[0], sizes[1], sizes[2]


def _qform(header: Nifti1Header) -> NDArray[np.float64] | None:
    fixed = header.copy()
    fixed["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1  # the standard reads 0 as 1
    try:
        affine = np.asarray(fixed.get_qform(), dtype=np.float64)
    except Exception:  # no rotation has this quaternion, or a spacing is negative
        return None
    return affine if np.isfinite(affine).all() else None


def _in_mm(affine: NDArray[np.float64], unit_mm: float) -> NDArray[np.float64]:
    scaled = np.array(affine, dtype=np.float64)
    scaled[:3] *= unit_mm
    return scaled


def _positive(header: Nifti1Header) -> Nifti1Header:
    fixed = header.copy()
    fixed["pixdim"][1:4] = np.abs(header["pixdim"][1:4])  # as nibabel repairs it when it loads a file
    return fixed


def _disagreement(
    header: Nifti1Header, grid: Grid, qform: NDArray[np.float64] | None, unit_mm: float, path: Path
) -> list[str]:
    """What to say of a file whose sform, which is used, another part of its header contradicts."""
    if not (np.isfinite(grid.affine).all() and np.linalg.norm(grid.affine[:3, :3], axis=0).all()):
        return []  # it is refused for that
    if grid.sheared and header["qform_code"] == 0:
        return []  # ITK does not open it, see sheared_axes
    # ITK passes over a sheared sform, and over one of another code than 1, where there is a qform; of an sform it takes
    # directions and origin alone, and the voxels' size, with its sign, from pixdim
    by_qform = header["qform_code"] > 0 and (grid.sheared or int(header["sform_code"]) != 1)
    pixdim = np.array([float(size) for size in header["pixdim"][1:4]])
    pixdim = np.where(np.isfinite(pixdim) & (pixdim != 0), pixdim, 1.0) * unit_mm
    seen = qform if by_qform else _with_sizes(grid.affine, pixdim)
    off = seen is None or Grid(grid.shape, seen).difference(grid) is not None
    sizes = " x ".join(f"{size:g}" for size in pixdim)
    cause = "use the qform" if by_qform else f"use the size of voxels from pixdim ({sizes} mm)"
    cause = f"may {cause}" if seen is None else cause  # of a quaternion that no rotation has, they make some
    consequence = f"; 3D Slicer and other programs built on ITK {cause}, and show a .seg.nrrd of it off the scan"
    apart = None if qform is None else Grid(grid.shape, qform).difference(grid)
    if header["qform_code"] > 0 and qform is None:
        what = "its qform is damaged"
    elif apart is not None:
        what = f"its qform and sform place it differently ({apart})"
    elif off:
        what = "its pixdim is not the size of its sform's voxels"
    else:
        return []
    return [f"{path}: {what}; the sform is used, for millilitres too, and both are kept{consequence if off else ''}."]


def _with_sizes(affine: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same directions and origin with voxels of other sizes, a negative one turning its axis round."""
    out = affine.copy()
    out[:3, :3] *= sizes / np.linalg.norm(affine[:3, :3], axis=0)
    return out


def _fields(header: Nifti1Header) -> NiftiFields:
    return NiftiFields(
        version=2 if isinstance(header, Nifti2Header) else 1,
        pixdim=_floats(header["pixdim"][:4]),
        quatern=tuple(float(header[key]) for key in ("quatern_b", "quatern_c", "quatern_d")),
        qoffset=tuple(float(header[f"qoffset_{axis}"]) for axis in "xyz"),
        srow=tuple(_floats(header[f"srow_{axis}"]) for axis in "xyz"),
        qform_code=int(header["qform_code"]),
        sform_code=int(header["sform_code"]),
        xyzt_units=int(header["xyzt_units"]),
    )


def _floats(values: NDArray[Any]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _fields_of(grid: Grid) -> NiftiFields:
    header = Nifti1Header()
    header.set_sform(grid.affine, code=1)
    header.set_qform(grid.affine, code=1, strip_shears=True)
    # Where positions of slices are rounded, ITK needs the qform, and it is true enough; of a tilted gantry it is wrong.
    upright = Grid(grid.shape, header.get_qform())
    if grid.sheared and not upright.same_as(grid):
        header["qform_code"] = 0
    header.set_xyzt_units("mm")
    return _fields(header)
