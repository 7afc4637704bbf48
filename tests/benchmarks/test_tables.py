"""The committed tables of recipes/README.md, made again from the committed records: regression."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from medcontrast.engine.benchmark.records import PEERS, deciding, recipe_digest

ROOT = Path(__file__).parents[2]
TABLES = sorted((ROOT / "benchmarks" / "results").glob("*/table.md"))


def test_every_grid_has_a_table_with_records_or_without() -> None:
    page = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    recorded = {path.parent.name for path in (ROOT / "benchmarks" / "results").glob("*/*-*.json")}
    grids = {path.stem for path in (ROOT / "recipes" / "benchmarks").glob("*.yaml")}
    assert recorded <= grids == {path.parent.name for path in TABLES} and len(recorded) > 5
    for name in grids:
        assert f"<!-- benchmark {name} -->" in page


@pytest.mark.parametrize("folder", [table.parent for table in TABLES], ids=lambda folder: folder.name)
def test_committed_records_have_the_recipe_that_their_hash_names(folder: Path) -> None:
    records = sorted(folder.rglob("*.json"))
    if not records:
        pytest.skip("this grid has no record yet")
    for path in records:
        record = json.loads(path.read_text(encoding="utf-8"))
        settings = record["recipe"] if path.parent.name == PEERS else deciding(record["recipe"])
        assert recipe_digest(settings) == record["recipe_hash"], path


@pytest.mark.slow  # 10,000 resamples of every comparison
@pytest.mark.parametrize("table", TABLES, ids=lambda path: path.parent.name)
def test_a_committed_table_is_what_its_records_give(cli, tmp_path, monkeypatch, table: Path) -> None:
    """Without data: from the records alone."""
    monkeypatch.delenv("MEDCONTRAST_DATA", raising=False)
    name, page = table.parent.name, tmp_path / "README.md"
    shutil.copytree(table.parent, tmp_path / "results")
    shutil.copy(ROOT / "recipes" / "README.md", page)
    grid = ROOT / "recipes" / "benchmarks" / f"{name}.yaml"
    made = cli("benchmark", grid, "--report", "--results", tmp_path / "results", "--into", page)
    assert made.code == 0, made.err
    for file in (path.name for path in table.parent.glob("table.*")):
        assert (tmp_path / "results" / file).read_bytes() == (table.parent / file).read_bytes()
    assert page.read_bytes() == (ROOT / "recipes" / "README.md").read_bytes()
