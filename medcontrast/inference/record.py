"""The JSON record beside every mask: what made it, from what, and what is in it."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcontrast import __version__
from medcontrast.files import write_text
from medcontrast.labels import LabelTable
from medcontrast.volume import Grid, NiftiFields, voxels_by_value

_LIBRARIES = ("torch", "monai", "numpy", "nibabel", "SimpleITK")


def prediction_record(
    *,
    inputs: Sequence[str],
    geometry: dict[str, Any],
    labels: LabelTable,
    volumes: dict[str, Any],
    settings: dict[str, Any],
    checkpoints: Sequence[dict[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """The whole record, in the order people read it."""
    versions = {name: metadata.version(name) for name in _LIBRARIES}
    return {
        "medcontrast": __version__,
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "inputs": list(inputs),
        "geometry": geometry,
        "labels": labels.to_json(),
        "volumes": volumes,
        "settings": settings,
        "checkpoints": list(checkpoints),
        "seconds": round(seconds, 2),
        "versions": {"python": platform.python_version(), **versions},
    }


def geometry(path: Path, grid: Grid) -> dict[str, Any]:
    """Where the mask lies, and which field of the scan says so."""
    if grid.nifti is not None:
        source = _nifti_source(grid.nifti)
    elif path.is_dir():
        source = "DICOM image position and orientation"
    else:
        source = "NRRD header" if path.suffix.lower() in (".nrrd", ".nhdr") else "MetaImage header"
    return {
        "source": source,
        "shape": list(grid.shape),
        "spacing_mm": [round(edge, 6) for edge in grid.spacing_mm],
        # the file's place on this machine is nobody else's business
        "warnings": [warning.replace(f"{path}: ", "") for warning in grid.warnings],
    }


def _nifti_source(fields: NiftiFields) -> str:
    if not fields.placed:
        return "NIfTI pixdim alone, sform and qform codes 0"
    if fields.sform_code > 0:
        return f"NIfTI sform, code {fields.sform_code}"
    return f"NIfTI qform, code {fields.qform_code}"


def measured_volumes(label_map: NDArray[np.integer], grid: Grid, labels: LabelTable) -> dict[str, Any]:
    """Voxels and millilitres of every label and region, by name.

    Args:
        label_map: (x, y, z) label-file values.
        grid: Its grid.
        labels: The label table.
    """
    voxel_ml = grid.voxel_mm3 / 1000.0
    voxels = voxels_by_value(label_map)
    found = {name: sum(voxels.get(value, 0) for value in members) for name, members in labels.targets.items()}
    # significant digits, for a mouse's vessel is 1e-7 ml
    return {name: {"voxels": count, "volume_ml": float(f"{count * voxel_ml:.9g}")} for name, count in found.items()}


def write_record(path: Path, record: dict[str, Any], *, overwrite: bool = False) -> None:
    """Writes the record as JSON, whole or not at all.

    Raises:
        OutputError: The file exists already or cannot be written.
    """
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text, overwrite=overwrite)
