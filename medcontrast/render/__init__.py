"""Pictures of results as PNG."""

from medcontrast.render.boxes import BoxedImage, boxes_png
from medcontrast.render.charts import Point, points_png
from medcontrast.render.embeddings import embeddings_png, principal_plane
from medcontrast.render.overlays import OverlayRow, overlay_grid_png

__all__ = [
    "BoxedImage",
    "OverlayRow",
    "Point",
    "boxes_png",
    "embeddings_png",
    "overlay_grid_png",
    "points_png",
    "principal_plane",
]
