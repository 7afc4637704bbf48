"""A case after the deterministic transforms, and where it is kept: in memory, on disk, or nowhere.

Letters: c channels, x, y, z voxels.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from medcontrast import __version__
from medcontrast.data.manifest import Case
from medcontrast.errors import ManifestError
from medcontrast.files import write_atomically
from medcontrast.labels import LabelTable
from medcontrast.settings.data import DataSettings
from medcontrast.transforms.volume3d import on_grid_of, prepare_image, prepare_label
from medcontrast.volume import Grid, NiftiFields, Volume, read_volume, require_usable_image
from medcontrast.volume.segments import read_label_map, record_file
from medcontrast.volume.text_headers import data_files

_FORMAT = 4
"""Goes up when files of the disk cache change their meaning."""


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """One case as the network sees it.

    Attributes:
        name: Case name.
        image: (c, x, y, z) float32 in canonical orientation and network units.
        label: (1, x, y, z) int16 class indices, -1 where ignored; None where no label was read.
        affine: (4, 4), voxels of `image` to world RAS+ in mm.
        grid: The scan's own grid, which predictions go back to.
        lost: Names of structures that the label file holds and `label`, resampled, has no voxel of.
    """

    name: str
    image: NDArray[np.float32]
    label: NDArray[np.int16] | None
    affine: NDArray[np.float64]
    grid: Grid
    lost: tuple[str, ...] = ()

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel sizes of `image`."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)


def load_case(case: Case, data: DataSettings, labels: LabelTable, *, read_label: bool = True) -> PreparedCase:
    """Reads a case and prepares it; nothing in it is random.

    Args:
        case: Paths of its files.
        data: Spacing and intensity.
        labels: The label table.
        read_label: False leaves the label file alone: it is not even looked for.

    Raises:
        VolumeError: A file cannot be used, the files do not lie on one grid, or a label value is unknown.
        ManifestError: A label is wanted, but the case names none.
    """
    volumes = [read_volume(path, "image") for path in case.images]
    for volume in volumes:
        require_usable_image(volume)
    image = prepare_image(volumes, spacing_mm=data.spacing_mm, intensity=data.intensity)
    indices = None
    lost: tuple[str, ...] = ()
    if read_label:
        if case.label is None:
            raise ManifestError(
                f"case {case.name}: it has no label file, but its label is needed; name one in the manifest."
            )
        stored, _ = read_label_map(case.label, labels)  # what it reads by name is told by `data check`
        # its own grid may round otherwise than the image's, and resampling would then end in another number of voxels
        stored = on_grid_of(stored, volumes[0])
        indices = prepare_label(stored, labels, spacing_mm=data.spacing_mm).as_tensor().numpy().astype(np.int16)
        lost = () if data.spacing_mm is None else _lost(stored, indices, labels)
    affine = image.affine.numpy().astype(np.float64)
    return PreparedCase(case.name, image.as_tensor().numpy(), indices, affine, volumes[0].grid, lost)


def _lost(stored: Volume, indices: NDArray[np.int16], labels: LabelTable) -> tuple[str, ...]:
    """What is thinner than the voxels that it is resampled to may fall between them."""
    before, after = set(np.unique(stored.array).tolist()), set(np.unique(indices).tolist())
    return tuple(
        label.name for index, label in enumerate(labels.labels, 1) if label.value in before and index not in after
    )


class PreparedCases:
    """Cases of one kind, prepared when first asked for.

    Args:
        cases: The cases.
        data: Spacing, intensity, and where prepared cases stay (`cache`).
        labels: The label table.
        read_labels: Whether label files are opened at all; False for the unlabeled cases.
        folder: Of the disk cache; default: MEDCONTRAST_CACHE, else the user's cache folder.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        data: DataSettings,
        labels: LabelTable,
        *,
        read_labels: bool,
        folder: Path | None = None,
    ) -> None:
        self.cases, self.data, self.labels, self.read_labels = tuple(cases), data, labels, read_labels
        self.folder = default_cache_folder() if folder is None else folder
        self.lost: dict[str, tuple[str, ...]] = {}
        """Cases prepared so far whose label lost structures in resampling, and which."""
        self._memory: dict[int, PreparedCase] = {}
        self._files: dict[int, Path] = {}

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int) -> PreparedCase:
        kept = self._memory.get(index)
        if kept is not None:
            return kept
        case = self._from_disk(index) if self.data.cache == "disk" else self._load(self.cases[index])
        if case.lost:
            self.lost[case.name] = case.lost
        if self.data.cache == "memory":
            self._memory[index] = case
        return case

    def __iter__(self) -> Iterator[PreparedCase]:
        return (self[index] for index in range(len(self)))

    def preload(self) -> None:
        """Prepares every case that the cache keeps; before loader processes start, so that they share the memory."""
        if self.data.cache == "none":
            return
        # unpacking files frees the interpreter, so threads help; more of them would only hold more memory
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for _ in pool.map(self.__getitem__, range(len(self))):
                pass

    def _load(self, case: Case) -> PreparedCase:
        return load_case(case, self.data, self.labels, read_label=self.read_labels)

    def _from_disk(self, index: int) -> PreparedCase:
        case = self.cases[index]
        if index not in self._files:
            key = self._key(case)
            if key is None:
                return self._load(case)  # which says what is missing
            self._files[index] = self.folder / f"{key}.safetensors"
        path = self._files[index]
        try:
            return _read(path, case.name)
        except (OSError, SafetensorError, KeyError, ValueError):
            prepared = self._load(case)  # not there yet, or damaged
        write_atomically(path, lambda file: file.write(_content(prepared)))
        return _read(path, case.name)

    def _key(self, case: Case) -> str | None:
        """A hash of all that a prepared case depends on; None where a file is missing."""
        files = list(case.images)
        if self.read_labels and case.label is not None:
            files.append(case.label)
            record = record_file(case.label)  # whose names say what the label's values mean
            files += [record] if record.is_file() else []
        try:
            identities = [_identity(path) for path in files]
        except (OSError, ValueError):  # the second of a damaged header, whose names are none
            return None
        facts = {
            "format": [_FORMAT, __version__, metadata.version("monai")],
            "files": identities,
            "spacing_mm": self.data.spacing_mm,
            "intensity": self.data.intensity.model_dump(mode="json"),
            # names too: segments of a .seg.nrrd are read by them
            "labels": self.labels.to_json() if self.read_labels else None,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def default_cache_folder() -> Path:
    """MEDCONTRAST_CACHE, else medcontrast/ in the user's cache folder."""
    chosen = os.environ.get("MEDCONTRAST_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medcontrast"


def _identity(path: Path) -> list[Any]:
    """Path, time and size of a file, of every slice of a DICOM folder, of a header file and the files it names."""
    parts = [path]
    if path.is_dir():
        parts = sorted(path.iterdir())
    elif path.suffix.lower() in (".nhdr", ".mhd"):
        parts = [path, *data_files(path)]
    stats = [(part.name, part.stat()) for part in parts]
    return [str(path.absolute()), [[name, stat.st_mtime_ns, stat.st_size] for name, stat in stats]]


def _content(case: PreparedCase) -> bytes:
    arrays: dict[str, NDArray[Any]] = {"image": case.image, "affine": case.affine, "grid_affine": case.grid.affine}
    if case.label is not None:
        arrays["label"] = case.label
    nifti = None if case.grid.nifti is None else asdict(case.grid.nifti)
    header = {"shape": case.grid.shape, "nifti": nifti, "warnings": case.grid.warnings, "lost": case.lost}
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return safetensors.numpy.save(arrays, metadata={"grid": json.dumps(header)})


def _read(path: Path, name: str) -> PreparedCase:
    """Maps a file of the cache; pages are read when a crop needs them."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["grid"])
        arrays = {key: file.get_tensor(key).numpy() for key in file.keys()}  # noqa: SIM118
    nifti = None if header["nifti"] is None else NiftiFields(**_tuples(header["nifti"]))
    grid = Grid(tuple(header["shape"]), arrays["grid_affine"], nifti, tuple(header["warnings"]))
    return PreparedCase(name, arrays["image"], arrays.get("label"), arrays["affine"], grid, tuple(header["lost"]))


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    frozen = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    frozen["srow"] = tuple(tuple(row) for row in fields["srow"])
    return frozen
