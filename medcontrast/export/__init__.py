"""Masks for other programs: 3D Slicer segmentations with names, colours and codes, and colour tables."""

from medcontrast.export.color_table import write_color_table
from medcontrast.export.mask import FORMATS, export_mask, read_label_table, require_exportable
from medcontrast.export.slicer import write_seg_nrrd

__all__ = ["FORMATS", "export_mask", "read_label_table", "require_exportable", "write_color_table", "write_seg_nrrd"]
