"""One image out of its file, whatever kind of file that is, in values of 8 bits."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medcontrast.data.images.arrays import idx_array, npz_array
from medcontrast.data.images.dicom import dicom_pixels
from medcontrast.data.images.slices import image_slice
from medcontrast.data.images.sources import ImageCase
from medcontrast.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

_PHOTOMETRIC = 262
"""The tag of a TIFF that says what its values mean; 0 is white at 0."""


def read_pixels(case: ImageCase) -> NDArray[Any]:
    """One image as it lies in its file, in values from 0 to 255.

    16 bits are a share of 65535, fractions from 0 to 1 one of 1; DICOM goes by its window or table.

    Returns:
        (x, y, c) with 1, 3 or 4 channels, bytes or floats.

    Raises:
        ImageError: Not readable, of another number of channels than 1, 3 or 4, or not finite.
        VolumeError: The volume of a slice cannot be used.
    """
    array = _pixels(case)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or 0 in array.shape:
        raise ImageError(
            f"{case.file}: image {case.name} has shape {array.shape}; expected height x width, or that x 1, 3 or 4 "
            "channels."
        )
    if not np.isfinite(array).all():
        raise ImageError(f"{case.file}: image {case.name} holds NaN or infinite values; repair or leave it out.")
    return array


def _pixels(case: ImageCase) -> NDArray[Any]:
    """Height x width (x channels), values of 8 bits."""
    if case.axis is not None:
        assert case.index is not None
        return image_slice(case.file, case.axis, case.index) * 255.0
    if case.key is not None:
        return _fractions(_npz(case.file, case.key)[case.index], f"{case.file}: image {case.name}")
    if case.index is not None:
        return _idx(case.file)[case.index]
    return dicom_pixels(case.file) if case.file.suffix.lower() == ".dcm" else _picture(case.file)


def _fractions(array: NDArray[Any], where: str) -> NDArray[Any]:
    """Bytes as they are, fractions from 0 to 1 as shares of 255; NaN is left for others to find."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "fiu":
        raise ImageError(f"{where} holds {array.dtype}; expected bytes, or fractions from 0 to 1.")
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    if array.dtype.kind == "f" and (not finite.size or (finite.min() >= 0.0 and finite.max() <= 1.0)):
        return array * 255.0
    raise ImageError(
        f"{where} holds {array.dtype} from {finite.min()} to {finite.max()}; expected bytes, or fractions from 0 to 1."
    )


@lru_cache(maxsize=4)
def _npz(path: Path, key: str) -> NDArray[Any]:
    return npz_array(path, key, str(path))


@lru_cache(maxsize=4)
def _idx(path: Path) -> NDArray[np.uint8]:
    return idx_array(path)


def _picture(path: Path) -> NDArray[Any]:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            frames = getattr(picture, "n_frames", 1)
            if frames > 1:
                raise ImageError(f"{path}: holds {frames} pictures; write one a file.")
            upright = ImageOps.exif_transpose(picture)  # cameras note how they were held instead of turning the pixels
            if picture.mode == "F" or picture.mode.startswith("I"):
                values = np.asarray(upright)
                found = _fractions(values, str(path)) if picture.mode == "F" else _sixteen_bits(values, path)
                return 255.0 - found if _white_is_zero(picture) else found
            return np.asarray(upright.convert("L" if picture.mode in ("1", "L", "LA") else "RGB"))
    except FileNotFoundError:
        raise ImageError(f"{path}: there is no such image.") from None
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"{path}: cannot be read as an image ({error}).") from None


def _white_is_zero(picture: Image.Image) -> bool:
    """Whether a TIFF stores its negative, as digitised films do; Pillow turns round the 8 bits alone."""
    return getattr(picture, "tag_v2", {}).get(_PHOTOMETRIC) == 0


def _sixteen_bits(array: NDArray[Any], path: Path) -> NDArray[np.float64]:
    if array.min() < 0 or array.max() > 65535:
        raise ImageError(f"{path}: holds values from {array.min()} to {array.max()}; expected 8 or 16 bits.")
    return array / 257.0
