"""Turns a mask file into a file for another program, with the label table found beside it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from medcontrast.data.source import names_by_value
from medcontrast.errors import InputError, VolumeError
from medcontrast.export.color_table import write_color_table
from medcontrast.export.slicer import require_known_values, write_seg_nrrd
from medcontrast.files import read_json, require_free
from medcontrast.labels import LabelTable
from medcontrast.volume import Grid, Volume, output_stem, read_grid, write_label
from medcontrast.volume.segments import SAVED_WHOLE, read_label_map, require_no_edits, require_one_layer
from medcontrast.volume_names import NIFTI_SUFFIXES, volume_suffix

FORMATS = ("seg.nrrd", "nii.gz")
"""What a mask can become: a 3D Slicer segmentation, or NIfTI with a colour table (.ctbl) beside it."""


def _say(warning: str) -> None:
    sys.stderr.write(f"Warning: {warning}\n")


def export_mask(
    mask_path: Path,
    reference_path: Path | None = None,
    labels_path: Path | None = None,
    output_path: Path | None = None,
    format: str = "seg.nrrd",
    *,
    overwrite: bool = False,
    tell: Callable[[str], None] = _say,
) -> tuple[Path, ...]:
    """Writes a mask in another format.

    Args:
        mask_path: A label map in any known format.
        reference_path: The scan; the mask has to lie on its grid, whose header is then used.
        labels_path: A manifest or JSON record with a label table; by default the record beside the mask.
        output_path: The file to write; by default beside the mask, with the mask's name.
        format: One of FORMATS.
        overwrite: Whether existing files may be replaced.
        tell: Called with each warning of the grid, and of segments whose names say other than their values.

    Returns:
        The files written.

    Raises:
        InputError: No label table, an unusable mask, one whose names contradict the table or that lies off the scan's
            grid, an output that is the scan, or a .seg.nrrd of a grid that does not say where it lies.
        OutputError: An output exists already, or is an export that somebody has saved since.
    """
    if format not in FORMATS:
        raise InputError(f"{format!r} is not a known format; choose {' or '.join(FORMATS)}.")
    require_one_layer(mask_path)
    read_grid(mask_path)  # a missing or unusable mask is said before a missing table
    labels = read_label_table(mask_path, labels_path)
    output = output_path or _beside(mask_path, format)
    if not output.name.lower().endswith(f".{format}"):
        raise InputError(f"{output}: the format {format} needs an output that ends in .{format}.")
    table = output.with_name(f"{output_stem(output)}.ctbl")
    in_place = format == "nii.gz" and output.resolve() == mask_path.resolve()  # then only its table is missing
    written = {"seg.nrrd": (output,), "nii.gz": (table,) if in_place else (output, table)}[format]
    require_free(*written, overwrite=overwrite)
    if reference_path is not None and output.resolve() == reference_path.resolve():
        raise InputError(f"{output}: is the scan, and would be written over; name another output with -o.")
    require_no_edits(path for path in written if path.name.lower().endswith((".seg.nrrd", ".ctbl")))
    mask, told = read_label_map(mask_path, labels)
    if reference_path is not None:
        stored, mask = mask.grid, _on_reference(mask, reference_path)
        if in_place and mask.grid.difference(stored) is not None:
            raise InputError(
                f"{mask_path}: stores its axes in another order than {reference_path}; name another output with -o, "
                "where it is written as the scan is stored."
            )
    grid = mask.grid
    if format == "seg.nrrd":
        _require_placed(grid, reference_path or mask_path, "use the NIfTI mask as it is: it")
    for warning in (*told, *grid.warnings):
        tell(warning)
    if format == "seg.nrrd":
        write_seg_nrrd(output, mask.array, grid, labels, source=mask_path, overwrite=overwrite)
        return written
    require_known_values(mask.array, labels, mask_path)
    if not in_place:
        write_label(output, mask.array, grid, overwrite=overwrite)
    write_color_table(table, labels, overwrite=overwrite)
    return written


def _beside(mask_path: Path, format: str) -> Path:
    """Where a mask goes that nobody named; scan.seg.nrrd does not become scan.nii.gz, which may well be its scan."""
    stem = output_stem(mask_path)
    scan_like = format == "nii.gz" and mask_path.name.lower().endswith(".seg.nrrd") and not stem.endswith("_seg")
    return mask_path.with_name(f"{stem}_seg.{format}" if scan_like else f"{stem}.{format}")


def require_exportable(scan_path: Path, format: str) -> None:
    """Refuses a scan whose mask could not be exported, before there is a mask.

    Raises:
        VolumeError: A .seg.nrrd is wanted, and the scan does not say where it lies.
    """
    if format == "seg.nrrd" and volume_suffix(scan_path) in NIFTI_SUFFIXES:
        _require_placed(read_grid(scan_path), scan_path, "leave --export out: a NIfTI mask")


def read_label_table(mask_path: Path, labels_path: Path | None = None) -> LabelTable:
    """Finds the label table of a mask: in the file named, else in the JSON record that `infer` wrote beside the mask.

    Raises:
        InputError: There is none, or it cannot be read.
    """
    path = labels_path or mask_path.with_name(f"{output_stem(mask_path)}.json")
    if labels_path is None and not path.exists():
        raise InputError(
            f"{mask_path}: the names of its labels are not known: there is no record {path.name} beside it. "
            "Name a manifest, dataset.json or record that has them with --labels."
        )
    return LabelTable.from_record(names_by_value(read_json(path), where=path), where=str(path))


def _require_placed(grid: Grid, path: Path, instead: str) -> None:
    # Read by nibabel, as here, such a file is centred on 0, its second axis running to the front; in ITK its first
    # voxel is at 0, the second axis running to the back. A NIfTI mask has its scan's header, and lies on it in both.
    if grid.nifti is not None and not grid.nifti.placed:
        raise VolumeError(
            f"{path}: does not say where it lies or which side is left (the codes of its sform and qform are both 0), "
            "and 3D Slicer would show a .seg.nrrd of it mirrored and moved; set one of them in its header first, "
            f"or {instead} lies where the scan lies."
        )


def _on_reference(mask: Volume, reference_path: Path) -> Volume:
    """The mask on the grid of its scan, which may store the axes in another order."""
    reference = read_grid(reference_path)
    difference = mask.grid.difference(reference)
    turned = Volume(mask.array, reference, mask.path) if difference is None else mask.stored_as(reference)
    if turned is None:
        raise VolumeError(
            f"{mask.path}: does not lie on the grid of {reference_path}: {difference}. "
            "Give the scan the mask was made from, or leave --reference out; of a mask that 3D Slicer cropped, "
            f"{SAVED_WHOLE}."
        )
    return turned
