"""Which files a prediction writes, checked before any work and written after it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medcontrast.errors import OutputError
from medcontrast.files import require_free, staged
from medcontrast.inference.inputs import Scan
from medcontrast.inference.predict import Prediction
from medcontrast.inference.record import write_record
from medcontrast.volume import write_image, write_label
from medcontrast.volume.segments import is_own_export, require_no_edits

_EXPORT_ENDINGS = ("seg.nrrd", "ctbl")


@dataclass(frozen=True)
class Outputs:
    """Files of one scan.

    Attributes:
        mask: The label map.
        record: The JSON beside it.
        probabilities: One map a class, or None.
        entropy: The uncertainty map, or None.
        exported: Files that an export of the mask will write.
        others: What another run of this name may have left, and this one does not write.
    """

    mask: Path
    record: Path
    probabilities: Path | None = None
    entropy: Path | None = None
    exported: tuple[Path, ...] = ()
    others: tuple[Path, ...] = ()

    def files(self) -> list[Path]:
        """Every file, the record last: where it stands, the others are whole."""
        maps = [path for path in (self.probabilities, self.entropy) if path is not None]
        return [self.mask, *maps, *self.exported, self.record]


def plan_outputs(
    scans: Iterable[Scan],
    folder: Path,
    *,
    probabilities: bool = False,
    entropy: bool = False,
    export_endings: Sequence[str] = (),
) -> list[Outputs]:
    """Names the files of every scan: NAME_seg.nii.gz, NAME_seg.json, NAME_prob.nii.gz, NAME_entropy.nii.gz."""
    scans = list(scans)
    inputs = {image.resolve() for scan in scans for image in scan.images}

    def plan(name: str) -> Outputs:
        probability_map, entropy_map = folder / f"{name}_prob.nii.gz", folder / f"{name}_entropy.nii.gz"
        outputs = Outputs(
            folder / f"{name}_seg.nii.gz",
            folder / f"{name}_seg.json",
            probability_map if probabilities else None,
            entropy_map if entropy else None,
            tuple(folder / f"{name}_seg.{ending}" for ending in export_endings),
        )
        possible = (probability_map, entropy_map, *(folder / f"{name}_seg.{ending}" for ending in _EXPORT_ENDINGS))
        written = outputs.files()
        others = (path for path in possible if path not in written and path.resolve() not in inputs)
        return replace(outputs, others=tuple(others))

    return [plan(scan.name) for scan in scans]


def require_outputs(outputs: Sequence[Outputs], scans: Iterable[Scan], *, overwrite: bool) -> None:
    """Checks that every file can be written; changes nothing.

    Raises:
        OutputError: An output exists already, is one of the inputs, its folder cannot be written to, or it is an export
            that somebody has saved since.
    """
    files = [path for planned in outputs for path in planned.files()]
    inputs = {image.resolve() for scan in scans for image in scan.images}
    for path in files:
        if path.resolve() in inputs:
            raise OutputError(f"{path}: is one of the inputs and would be written over; choose another folder with -o.")
    require_free(*files, overwrite=overwrite)
    if overwrite:
        require_no_edits([path for planned in outputs for path in planned.exported])


def write_prediction(prediction: Prediction, outputs: Outputs, *, overwrite: bool) -> None:
    """Writes maps, mask and record, all of them or none, the record last.

    With `overwrite`, what an earlier run or export made of this name goes once the new files are whole: record, maps
    and exports of an old mask must never stand beside a new one.

    Raises:
        OutputError: A file exists already or cannot be written, or is an export that was saved since; all is then left.
    """
    grid, record = prediction.grid, dict(prediction.record)
    files = [path for path in outputs.files() if path not in outputs.exported]
    with staged(outputs.mask.parent, *(path.name for path in files)) as stage:
        if outputs.probabilities is not None and prediction.probabilities is not None:
            write_image(stage / outputs.probabilities.name, prediction.probabilities, grid)
            record["probabilities"] = f"{outputs.probabilities.name}: one map a class, background first"
        if outputs.entropy is not None and prediction.entropy is not None:
            write_image(stage / outputs.entropy.name, prediction.entropy, grid)
            record["entropy"] = f"{outputs.entropy.name}: entropy in nats over ln(classes), 0 sure to 1 undecided"
        write_label(stage / outputs.mask.name, prediction.label_map, grid)
        write_record(stage / outputs.record.name, {"mask": outputs.mask.name, **record})
        require_free(*files, overwrite=overwrite)
        if overwrite:
            require_no_edits(outputs.exported)  # again: somebody may have corrected it while this was predicted
            _remove_earlier(outputs)


def _remove_earlier(outputs: Outputs) -> None:
    """Removes what the files of an old mask are known to be by; anything else of such a name is somebody's."""
    try:
        record = json.loads(outputs.record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = None
    named = [str(record.get(key)) for key in ("probabilities", "entropy")] if isinstance(record, dict) else []
    for path in outputs.others:
        ours = any(words.startswith(f"{path.name}: ") for words in named)
        if ours or is_own_export(path):
            _remove(path)
    for path in (*outputs.exported, outputs.record):  # the record last: until then the others can be known
        _remove(path)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path}: is of an earlier run and cannot be removed ({error.strerror or error}); choose another folder "
            "with -o."
        ) from None
