"""The label table: value -> name, colour, SNOMED codes; and named regions that join several labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from medcontrast.errors import ManifestError

IGNORE_INDEX = -1
"""Class index of voxels that no loss and no metric looks at: ignored voxels and whole unlabeled rows."""


def is_known(label: Any) -> Any:
    """Where class indices, a tensor or an array, count: every negative one is ignored, -1 here and PyTorch's -100."""
    return label >= 0


# Distinct, colour-blind safe hues (Okabe and Ito 2008) for labels that name no colour of their own.
_DEFAULT_COLORS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_SHADES = ((0, 0.0), (0, 0.4), (255, 0.5), (0, 0.65), (255, 0.75))
"""Round after round of the colours: towards black or white, and how far."""
_BACKGROUND = ("background", "unlabeled", "unlabelled", "clear", "clear label", "nothing", "none", "rest", "other")
"""Names of the value 0, in small letters."""
_FORBIDDEN_IN_NAMES = "|~^\n\r"


@dataclass(frozen=True)
class Code:
    """One coded concept, for example SCT 82471001 "Left atrium"."""

    scheme: str
    value: str
    meaning: str

    @classmethod
    def from_json(cls, value: object, where: str) -> Code:
        """Reads `[scheme, value, meaning]`."""
        if (
            not isinstance(value, (list, tuple))
            or len(value) != 3
            or not all(isinstance(part, str) and part for part in value)
        ):
            raise ManifestError(
                f"{where}: expected a code as [scheme, value, meaning], for example "
                f'["SCT", "82471001", "Left atrium"], but got {value!r}.'
            )
        if any(character in part for part in value for character in _FORBIDDEN_IN_NAMES):
            raise ManifestError(f"{where}: a code must not contain | ~ ^ or a line break, but got {value!r}.")
        return cls(*value)

    def to_json(self) -> list[str]:
        """The `[scheme, value, meaning]` form."""
        return [self.scheme, self.value, self.meaning]


ANATOMICAL_STRUCTURE = Code("SCT", "123037004", "Anatomical Structure")
"""The category that 3D Slicer's own terminology lists use for organs."""


@dataclass(frozen=True)
class Label:
    """One foreground structure.

    Attributes:
        value: Integer stored in label files; positive.
        name: What a person reads, for example "left atrium".
        color: Red, green, blue, each 0-255.
        category: Coded category, used only when `type` is given.
        type: Coded structure, or None.
        type_modifier: Coded refinement such as left or anterior, or None.
    """

    value: int
    name: str
    color: tuple[int, int, int]
    category: Code = ANATOMICAL_STRUCTURE
    type: Code | None = None
    type_modifier: Code | None = None


@dataclass(frozen=True)
class LabelTable:
    """Every label of a data set, in the order of the network's output channels.

    Channel 0 is background (value 0); `labels[k]` is channel k + 1. Values need not be dense.

    Attributes:
        labels: The foreground labels.
        ignore_value: Label-file value of voxels that nothing learns from or is scored on, or None.
        regions: Named unions of label values, for example {"whole": (1, 2)}; reported by the evaluation.
    """

    labels: tuple[Label, ...]
    ignore_value: int | None = None
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        """Number of output channels, background included."""
        return len(self.labels) + 1

    @property
    def values(self) -> tuple[int, ...]:
        """Label-file value of every channel, background (0) first."""
        return (0, *(label.value for label in self.labels))

    @property
    def targets(self) -> dict[str, tuple[int, ...]]:
        """What an evaluation scores: each label by name, then each region, as tuples of label values."""
        return {**{label.name: (label.value,) for label in self.labels}, **self.regions}

    @classmethod
    def from_record(cls, record: Any, *, where: str) -> LabelTable:
        """Of a mask's record, which holds the whole table under "labels", or of what is a table itself: `from_json`."""
        table = record.get("labels") if isinstance(record, dict) else None
        return cls.from_json(table if isinstance(table, dict) and "labels" in table else record, where=where)

    @classmethod
    def from_json(cls, table: Any, *, where: str = "labels") -> LabelTable:
        """Reads the manifest's form.

        Args:
            table: `{"labels": {"0": "background", "1": "name" | {"name", "color", "category", "type",
                "type_modifier"}}, "ignore_label": 255, "regions": {"whole": [1, 2]}}`; other keys are left alone.
            where: File named in messages.

        Raises:
            ManifestError: Something in the table is not usable.
        """
        if not isinstance(table, dict) or not isinstance(table.get("labels"), dict):
            raise ManifestError(
                f'{where}: expected "labels" as {{"0": "background", "1": "name", ...}}, '
                f"but got {table.get('labels') if isinstance(table, dict) else table!r}."
            )
        entries: dict[int, Any] = {}
        for key, entry in table["labels"].items():
            if _value(key, where) in entries:
                raise ManifestError(f"{where}: label value {_value(key, where)} stands in the table twice.")
            entries[_value(key, where)] = entry
        _require_background(entries.get(0), where)
        labels = tuple(
            _label(value, entry, position, where)
            for position, (value, entry) in enumerate(sorted((v, e) for v, e in entries.items() if v != 0))
        )
        if not labels:
            raise ManifestError(f"{where}: the label table names no structure besides background.")
        names = [label.name for label in labels]
        if len(set(names)) != len(names):
            raise ManifestError(f"{where}: label names must differ, but got {names}.")
        return cls(labels, _ignore(table, labels, where), _regions(table, labels, where))

    def to_json(self) -> dict[str, Any]:
        """The form that `from_json` reads, every default written out."""
        labels: dict[str, Any] = {"0": "background"}
        for label in self.labels:
            entry: dict[str, Any] = {"name": label.name, "color": list(label.color)}
            if label.type is not None:
                entry["category"] = label.category.to_json()
                entry["type"] = label.type.to_json()
            if label.type_modifier is not None:
                entry["type_modifier"] = label.type_modifier.to_json()
            labels[str(label.value)] = entry
        out: dict[str, Any] = {"labels": labels}
        if self.ignore_value is not None:
            out["ignore_label"] = self.ignore_value
        if self.regions:
            out["regions"] = {name: list(values) for name, values in self.regions.items()}
        return out


def _value(key: object, where: str) -> int:
    try:
        value = int(str(key))
    except ValueError:
        raise ManifestError(f"{where}: label values are whole numbers, but got {key!r}.") from None
    if not 0 <= value <= 65535:
        raise ManifestError(f"{where}: label values lie in 0..65535, but got {value}.")
    return value


def _require_background(entry: Any, where: str) -> None:
    name = entry.get("name") if isinstance(entry, dict) else entry
    if name is not None and str(name).strip().lower() not in _BACKGROUND:
        raise ManifestError(
            f"{where}: label 0 is called {name!r}, but 0 is the background, which is no structure; give structures "
            'values from 1 up, and call 0 "background".'
        )


def _default_color(position: int) -> tuple[int, int, int]:
    """Of the label at that place; beyond the list, its colours darker and lighter in turn."""
    turn, place = divmod(position, len(_DEFAULT_COLORS))
    toward, share = _SHADES[turn % len(_SHADES)]
    red, green, blue = (round(part + share * (toward - part)) for part in _DEFAULT_COLORS[place])
    return red, green, blue


def _label(value: int, entry: Any, position: int, where: str) -> Label:
    place = f"{where}: label {value}"
    entry = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or not entry["name"].strip():
        raise ManifestError(f"{place}: expected a name, but got {entry!r}.")
    unknown = set(entry) - {"name", "color", "category", "type", "type_modifier"}
    if unknown:
        raise ManifestError(f"{place}: unknown key {sorted(unknown)[0]!r}; known: name, color, category, type, ...")
    name = entry["name"].strip()
    if any(character in name for character in _FORBIDDEN_IN_NAMES):
        raise ManifestError(f"{place}: a name must not contain | ~ ^ or a line break, but got {name!r}.")
    color = entry.get("color", _default_color(position))
    is_triple = isinstance(color, (list, tuple)) and len(color) == 3
    if not is_triple or not all(type(part) is int and 0 <= part <= 255 for part in color):
        raise ManifestError(f"{place}: expected a colour as three whole numbers 0-255, but got {color!r}.")
    codes = {
        key: Code.from_json(entry[key], f"{place}, {key}")
        for key in ("category", "type", "type_modifier")
        if key in entry
    }
    if codes and "type" not in codes:
        raise ManifestError(f"{place}: {' and '.join(codes)} says more of a type; add type, or leave it out.")
    return Label(value, name, (color[0], color[1], color[2]), **codes)


def _ignore(table: dict[str, Any], labels: tuple[Label, ...], where: str) -> int | None:
    if table.get("ignore_label") is None:
        return None
    value = _value(table["ignore_label"], where)
    if value == 0 or value in {label.value for label in labels}:
        raise ManifestError(f"{where}: ignore_label {value} is also the value of a label; choose another, such as 255.")
    return value


def _regions(table: dict[str, Any], labels: tuple[Label, ...], where: str) -> dict[str, tuple[int, ...]]:
    regions = table.get("regions") or {}
    if not isinstance(regions, dict):
        raise ManifestError(f'{where}: expected "regions" as {{"name": [1, 2]}}, but got {regions!r}.')
    known = sorted(label.value for label in labels)
    for name, values in regions.items():
        if (
            not isinstance(values, list)
            or not values
            or not all(type(part) is int and part in known for part in values)
        ):
            raise ManifestError(f"{where}: region {name!r} joins label values out of {known}, but got {values!r}.")
        if len(set(values)) < len(values):
            raise ManifestError(f"{where}: region {name!r} joins label values, each once, but got {values!r}.")
        if name in {label.name for label in labels}:
            raise ManifestError(f"{where}: region {name!r} has the name of a label.")
    return {name: tuple(values) for name, values in regions.items()}
