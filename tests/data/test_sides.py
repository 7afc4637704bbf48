"""Tests of sides in the names of structures: by hand."""

from __future__ import annotations

import pytest

from medcontrast.data.sides import names_a_side, sided_pair

PAIRS = [
    ("left lung", "right lung"),
    ("L hippocampus", "R hippocampus"),
    ("hippocampus_L", "hippocampus_R"),
    ("lh", "rh"),
    ("lh.cortex", "rh.cortex"),
    ("Lung-L", "Lung-R"),
    ("kidney (l)", "kidney (r)"),
    ("kidneyLeft", "kidneyRight"),
    ("hippocampusL", "hippocampusR"),
    ("LKidney", "RKidney"),
    ("Left-Cerebral-White-Matter", "Right-Cerebral-White-Matter"),
    ("lung_upper_lobe_left", "lung_upper_lobe_right"),
    ("linke Niere", "rechte Niere"),
    ("Niere links", "Niere rechts"),
    ("linker Vorhof", "rechter Vorhof"),
    ("rein gauche", "rein droit"),
    ("oreillette gauche", "oreillette droite"),
    ("riñón izquierdo", "riñón derecho"),
    ("aurícula izquierda", "aurícula derecha"),
    ("rene sinistro", "rene destro"),
    ("LV", "RV"),
    ("LV cavity", "RV cavity"),
    ("la_wall", "ra_wall"),
]


@pytest.mark.parametrize("pair", PAIRS)
def test_names_that_differ_in_a_side_alone_are_a_pair(pair: tuple[str, str]) -> None:
    assert sided_pair(["liver", *reversed(pair), "aorta"]) == pair
    assert names_a_side(pair)


@pytest.mark.parametrize(
    "names",
    [
        ("hippocampus L",),
        ("L", "M"),
        ("left lung", "right kidney"),
        ("left lung", "left kidney"),
        ("kidney left", "right kidney"),
        ("LV", "RA"),
        ("LV", "MYO", "LA"),
        ("anterior", "posterior"),
        ("liver", "river bed"),
        ("lung", "lung right"),
        ("vertebra L1", "vertebra L2"),
    ],
)
def test_other_names_are_no_pair(names: tuple[str, ...]) -> None:
    assert sided_pair(names) is None


def test_a_word_for_a_side_counts_alone_and_a_letter_does_not() -> None:
    for name in ("left atrium", "ventricle_right", "LeftAtrium", "linker Vorhof", "aurícula izquierda"):
        assert names_a_side(["wall", name])
    for name in ("hippocampus L", "LV", "lh", "bright spots", "copyright", "cleft", "rectum", "link"):
        assert not names_a_side(["wall", name])
