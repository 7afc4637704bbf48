"""By hand: colour tables line by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from medcontrast.errors import OutputError
from medcontrast.export import write_color_table
from medcontrast.labels import LabelTable

TABLE = LabelTable.from_json(
    {
        "labels": {
            "0": "background",
            "1": {"name": "left atrium", "color": [203, 108, 81], "type": ["SCT", "82471001", "Left atrium"]},
            "4": {"name": 'scar, "dense"', "color": [0, 10, 255]},
        }
    }
)


def test_ctbl(tmp_path: Path) -> None:
    write_color_table(tmp_path / "mask.ctbl", TABLE)
    assert (tmp_path / "mask.ctbl").read_text().splitlines() == [
        "# Color table file: index name R G B A",
        "0 Background 0 0 0 0",
        "1 left_atrium 203 108 81 255",
        '4 scar,_"dense" 0 10 255 255',
    ]


def test_faults(tmp_path: Path) -> None:
    with pytest.raises(
        OutputError, match=r"table\.json: a colour table is written as \.ctbl; name the output accordingly"
    ):
        write_color_table(tmp_path / "table.json", TABLE)
    (tmp_path / "table.ctbl").write_text("")
    with pytest.raises(OutputError, match=r"table\.ctbl: exists already; add --overwrite"):
        write_color_table(tmp_path / "table.ctbl", TABLE)
    write_color_table(tmp_path / "table.ctbl", TABLE, overwrite=True)
    assert (tmp_path / "table.ctbl").read_text().startswith("# Color table file")
