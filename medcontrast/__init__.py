"""medcontrast: semi-supervised 3D medical segmentation, from a recipe to a mask that opens in 3D Slicer."""

__version__ = "0.1.0"
