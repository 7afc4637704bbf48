"""Writes .seg.nrrd: a label map that 3D Slicer opens as a segmentation, with a name, colour and code a structure."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from medcontrast.errors import VolumeError
from medcontrast.files import write_atomically
from medcontrast.labels import Code, Label, LabelTable
from medcontrast.volume import Grid, voxels_by_value
from medcontrast.volume.write import smallest_unsigned, write_voxels

GENERAL_ANATOMY = "Segmentation category and type - 3D Slicer General Anatomy list"
DICOM_MASTER = "Segmentation category and type - DICOM master list"
_ANATOMIC_CONTEXT = "Anatomic codes - DICOM master list"
_ONLY_IN_DICOM_MASTER = {"82471001", "73829009"}  # left and right atrium: the general list does not hold them
TISSUE = Code("SCT", "85756007", "Tissue")
"""Category and type of structures without a code, as in 3D Slicer's own segmentations."""
_NO_CODE = "^^"
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
_EMPTY_EXTENT = "0 -1 0 -1 0 -1"


def write_seg_nrrd(
    path: Path,
    label_map: NDArray[Any],
    grid: Grid,
    labels: LabelTable,
    *,
    source: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Writes one segment for each label of the table, empty ones too, all in one layer.

    The review status is left out on purpose: a person sets it in 3D Slicer.

    Args:
        path: The .seg.nrrd file.
        label_map: (x, y, z) whole numbers; 0 is background.
        grid: Where the voxels lie.
        labels: Names, colours and codes.
        source: The file that the label map was read from, which faults then name.
        overwrite: Whether an existing file may be replaced.

    Raises:
        VolumeError: A value outside the table, or a single voxel.
        OutputError: The file exists already or cannot be written.
    """
    if label_map.shape != grid.shape or label_map.dtype.kind not in "iub":
        raise ValueError(
            f"expected whole numbers of shape {grid.shape}, but got {label_map.dtype} of {label_map.shape}"
        )
    require_known_values(label_map, labels, source or path)
    if label_map.size == 1:
        raise VolumeError(f"{path}: a mask of a single voxel means 'no image' to 3D Slicer and cannot be exported.")
    # a type that also holds the values of empty segments, so that a person can fill them
    array = label_map.astype(smallest_unsigned(np.array(labels.values)).newbyteorder("<"), copy=False)
    fields = _space(array, grid) | _segmentation(array, labels)
    # Programs read the header as raw bytes, and 3D Slicer's texts are UTF-8.
    header = "".join(["NRRD0004\n", *(f"{key}{value}\n" for key, value in fields.items()), "\n"]).encode()

    def write(file: IO[bytes]) -> None:
        file.write(header)
        with gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed:
            write_voxels(packed, array)  # type: ignore[arg-type]

    write_atomically(path, write, overwrite=overwrite)


def segment_extents(label_map: NDArray[Any], values: tuple[int, ...]) -> dict[int, str]:
    """The bounding box of each value as six inclusive indices i, i, j, j, k, k; "0 -1 0 -1 0 -1" where it is absent.

    3D Slicer drops what lies outside these boxes.
    """
    boxes = find_objects(label_map.astype(np.int32))
    extents = {}
    for value in values:
        box = boxes[value - 1] if value <= len(boxes) else None
        extents[value] = _EMPTY_EXTENT if box is None else " ".join(f"{side.start} {side.stop - 1}" for side in box)
    return extents


def terminology_entry(label: Label) -> str:
    """The seven parts that name a structure in 3D Slicer's terminologies; plain tissue where the label has no code."""
    category, kind = (label.category, label.type) if label.type else (TISSUE, TISSUE)
    context = DICOM_MASTER if kind.value in _ONLY_IN_DICOM_MASTER else GENERAL_ANATOMY
    modifier = _code(label.type_modifier) if label.type and label.type_modifier else _NO_CODE
    parts = [context, _code(category), _code(kind), modifier, _ANATOMIC_CONTEXT, _NO_CODE, _NO_CODE]
    return "~".join(parts)


def require_known_values(label_map: NDArray[Any], labels: LabelTable, path: Path) -> None:
    """Refuses a mask with values that the table does not name.

    Raises:
        VolumeError: There are some.
    """
    unknown = sorted(set(voxels_by_value(label_map)) - set(labels.values))
    if labels.ignore_value in unknown:
        raise VolumeError(
            f"{path}: holds the ignored value {labels.ignore_value}, of which nothing is known and which no program "
            "shows as such; set its voxels to 0, or to the value of a structure, and export it then."
        )
    if unknown:
        raise VolumeError(
            f"{path}: the mask holds the value {', '.join(map(str, unknown[:5]))}, but the label table knows "
            f"{', '.join(map(str, labels.values))} only; give the table the mask was made with."
        )


def _space(array: NDArray[Any], grid: Grid) -> dict[str, str]:
    lps = _RAS_TO_LPS @ grid.affine[:3] + 0.0  # no -0.0
    fields = {
        "type: ": array.dtype.name,
        "dimension: ": "3",
        "space: ": "left-posterior-superior",
        "sizes: ": " ".join(map(str, array.shape)),
        "space directions: ": " ".join(_vector(lps[:, axis]) for axis in range(3)),
        "kinds: ": "domain domain domain",
        "encoding: ": "gzip",
        "space origin: ": _vector(lps[:, 3]),
    }
    return fields if array.dtype.itemsize == 1 else fields | {"endian: ": "little"}


def _vector(values: NDArray[np.float64]) -> str:
    return f"({','.join(repr(float(value)) for value in values)})"


def _segmentation(array: NDArray[Any], labels: LabelTable) -> dict[str, str]:
    extents = segment_extents(array, labels.values[1:])
    fields: dict[str, str] = {}
    for index, label in enumerate(labels.labels):
        segment = {
            "ID": f"Segment_{label.value}",
            "Name": label.name.replace("\\", "\\\\"),
            "NameAutoGenerated": "0",
            "Color": " ".join(repr(part / 255) for part in label.color),
            "ColorAutoGenerated": "0",
            "LabelValue": str(label.value),
            "Layer": "0",
            "Extent": extents[label.value],
            "Tags": f"TerminologyEntry:{terminology_entry(label)}|",
        }
        fields |= {f"Segment{index}_{key}:=": value for key, value in segment.items()}
    return fields | {
        "Segmentation_MasterRepresentation:=": "Binary labelmap",
        "Segmentation_ContainedRepresentationNames:=": "Binary labelmap|",
        "Segmentation_ReferenceImageExtentOffset:=": "0 0 0",
    }


def _code(code: Code) -> str:
    return f"{code.scheme}^{code.value}^{code.meaning}"
