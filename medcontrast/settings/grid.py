"""The grid of a benchmark: recipes x labeled counts x runs, as one YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from medcontrast.errors import RecipeError
from medcontrast.settings.base import Settings
from medcontrast.settings.load import read_yaml, tree_to_json
from medcontrast.settings.sentences import sentences
from medcontrast.settings.shipped import shipped_folder

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]


class ProbeRowSettings(Settings):
    """One row of a table of encoders: a recipe, and what is changed in it."""

    recipe: str
    """Relative to the grid file."""
    set: tuple[str, ...] = ()
    """`key.subkey=value` items for this row alone, after those of the whole grid; paths start from the grid file."""
    runs: int | None = Field(default=None, ge=1)
    """Runs of this row; default: the grid's."""


class RowSettings(ProbeRowSettings):
    """One row of a table of segmentation methods."""

    labeled: tuple[int | Literal["all"], ...] | None = None
    """Labeled counts of this row; default: the grid's. `all` is full supervision."""


class ProbeGridSettings(Settings):
    """Which encoders are pre-trained and probed. Run k has seed k, for pre-training and for the labels of the probe."""

    kind: Literal["probe"]
    name: Name
    title: str
    split: Literal["validation", "test"] = "test"
    classifiers: tuple[Literal["linear", "multilabel", "knn"], ...] = ("linear", "knn")
    """The first leads the picture; `multilabel` needs a manifest whose classes contain labels."""
    fractions: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...] = (1.0,)
    """Shares of the labels that the probe learns from; the first leads the picture."""
    drop: Literal["quality", "domain"] | None = None
    """A group whose two values hold the same images: the table shows what is lost from the first to the second."""
    groups: dict[Literal["quality", "domain"], tuple[str, ...]] = Field(default_factory=dict)
    """Groups of images whose accuracy has an interval and is compared with `baseline` and `default` too."""
    runs: int = Field(default=3, ge=1)
    set: tuple[str, ...] = ()
    """`key.subkey=value` items for every row."""
    baseline: Name
    """The row that every other is compared with, beside `default`."""
    default: Name | None = None
    note: str = ""
    """Sentences that stand below the table."""
    rows: dict[Name, ProbeRowSettings]

    @model_validator(mode="after")
    def _fits(self) -> ProbeGridSettings:
        _require_rows(self)
        lists: dict[str, tuple[object, ...]] = {"classifiers": self.classifiers, "fractions": self.fractions}
        lists |= {f"groups.{kind}": names for kind, names in self.groups.items()}
        _require_distinct(lists)
        return self


class GridSettings(Settings):
    """Which cells there are. Run k has seed k and labeled subset k; subset 0 is the manifest's own order."""

    name: Name
    title: str
    manifest: str
    """Relative to the grid file. Labeled cases are drawn from its labeled and unlabeled ones together."""
    split: Literal["validation", "test"] = "validation"
    target: str
    """Label or region that the table and the picture lead with."""
    labeled: tuple[int | Literal["all"], ...]
    runs: int = Field(default=3, ge=1)
    set: tuple[str, ...] = ()
    """`key.subkey=value` items for every row: equal steps, equal labeled rows."""
    baseline: Name
    """The row that every other is compared with, beside `default`."""
    default: Name | None = None
    """The row that the project proposes; it too is compared with every other."""
    note: str = ""
    """Sentences that stand below the table."""
    rows: dict[Name, RowSettings]

    @model_validator(mode="after")
    def _fits(self) -> GridSettings:
        _require_rows(self)
        lists = {f"rows.{name}.labeled": row.labeled for name, row in self.rows.items() if row.labeled is not None}
        lists["labeled"] = self.labeled
        _require_distinct(lists)
        for count in (count for counts in lists.values() for count in counts):
            if count != "all" and count < 1:
                raise ValueError(f"labeled holds numbers from 1 up and `all`, but got {count}")
        return self


def _require_rows(grid: GridSettings | ProbeGridSettings) -> None:
    for key in ("baseline", "default"):
        row = getattr(grid, key)
        if row is not None and row not in grid.rows:
            raise ValueError(f"{key} {row!r} is none of the rows {', '.join(grid.rows)}")


def _require_distinct(lists: Mapping[str, tuple[object, ...]]) -> None:
    """Refuses an empty list, and one that would ask for the same twice."""
    for name, values in lists.items():
        if not values or len(set(values)) != len(values):
            raise ValueError(f"{name} holds one value at least, each once, but is {list(values)}")


class Cell(Settings):
    """One run of a grid."""

    row: str
    labeled: int | Literal["all"]
    run: int

    @property
    def name(self) -> str:
        """Of its record and its run folder."""
        return f"{self.row}-{self.labeled}-{self.run}"


class ProbeCell(Settings):
    """One run of a grid of encoders."""

    row: str
    run: int

    @property
    def name(self) -> str:
        """Of its record and its run folder."""
        return f"{self.row}-{self.run}"


AnyGrid = GridSettings | ProbeGridSettings


def probe_cells(grid: ProbeGridSettings) -> list[ProbeCell]:
    """Every cell, run 0 of all rows first."""
    found = [ProbeCell(row=name, run=run) for name, row in grid.rows.items() for run in range(row.runs or grid.runs)]
    return sorted(found, key=lambda cell: cell.run)


def cells(grid: GridSettings) -> list[Cell]:
    """Every cell, a number of labels after the other, run 0 of all rows first: unfinished grids compare rows."""
    found = [
        Cell(row=name, labeled=count, run=run)
        for name, row in grid.rows.items()
        for count in (grid.labeled if row.labeled is None else row.labeled)
        for run in range(row.runs or grid.runs)
    ]
    order = list(dict.fromkeys(cell.labeled for cell in found))
    return sorted(found, key=lambda cell: (order.index(cell.labeled), cell.run))


def load_grid(path: Path) -> AnyGrid:
    """Reads and validates a grid; `kind: probe` says that it is one of encoders.

    Raises:
        RecipeError: With every fault, one a line.
    """
    tree = read_yaml(path)
    settings = ProbeGridSettings if "kind" in tree else GridSettings
    try:
        return settings.model_validate_json(tree_to_json(tree, str(path)))
    except ValidationError as error:
        raise RecipeError(sentences(error, str(path), settings)) from None


def find_grid(path: Path) -> Path:
    """The file itself, else the shipped grid of that path.

    Raises:
        RecipeError: Neither exists.
    """
    shipped = shipped_folder("recipes").parent / path
    if not path.exists() and path.parts[:1] == ("recipes",) and shipped.is_file():
        return shipped
    if not path.exists():
        raise RecipeError(f"{path}: there is no such grid; those that come along stand in recipes/benchmarks/.")
    return path
