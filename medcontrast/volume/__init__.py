"""Scans and label files: reading, checking, writing. Axes as stored; affines lead to world RAS+ in millimetres.

SimpleITK's reversed axis order and LPS exist only inside this room.
"""

from medcontrast.volume.grid import Grid, NiftiFields
from medcontrast.volume.itk import is_dicom
from medcontrast.volume.orientation import canonical_axes, from_canonical, to_canonical, turns_onto
from medcontrast.volume.read import Volume, far_values, read_grid, read_volume, require_usable_image, to_metatensor
from medcontrast.volume.values import voxels_by_value
from medcontrast.volume.write import write_image, write_label
from medcontrast.volume_names import KNOWN_SUFFIXES, output_stem

__all__ = [
    "KNOWN_SUFFIXES",
    "Grid",
    "NiftiFields",
    "Volume",
    "canonical_axes",
    "far_values",
    "from_canonical",
    "is_dicom",
    "output_stem",
    "read_grid",
    "read_volume",
    "require_usable_image",
    "to_canonical",
    "to_metatensor",
    "turns_onto",
    "voxels_by_value",
    "write_image",
    "write_label",
]
