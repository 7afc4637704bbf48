"""What docs/findings.md and docs/findings_encoders.md say, held to the committed records: property."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from medcontrast.engine.benchmark.encoder_records import ProbeRecord
from medcontrast.engine.benchmark.records import Record
from medcontrast.metrics.comparison import Difference, difference

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
READINGS = ("linear 1", "linear 0.1", "knn 1", "knn 0.1")


def under_the_rarest_scanner(row: str, reading: str) -> dict[int, NDArray[np.float64]]:
    """Run -> 1 where a digit under haze is recognised; every digit is one unit, seen once by each scanner."""
    found = {}
    for path in sorted((RESULTS / "morphomnist").glob(f"{row}-[0-9].json")):
        record = ProbeRecord.load(path)
        inside = record.members("domain")["haze"]
        units = record.unit_numbers()[inside]
        assert len(set(units.tolist())) == len(units) == 2000
        found[record.run] = record.right(reading)[inside]
    assert found
    return found


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("other", ["simclr", "simclr_plus"])
def test_counterfactual_pairs_help_under_the_rarest_scanner(reading: str, other: str) -> None:
    gain = difference(under_the_rarest_scanner("cf_simclr", reading), under_the_rarest_scanner(other, reading))
    assert gain is not None and gain.interval.low is not None
    assert len(gain.by_run) == 3
    assert gain.interval.low > 0


@pytest.mark.parametrize("reading", READINGS)
def test_pairs_by_the_scanners_themselves_are_the_upper_bound(reading: str) -> None:
    above = difference(under_the_rarest_scanner("exact", reading), under_the_rarest_scanner("cf_simclr", reading))
    assert above is not None and above.interval.low is not None
    assert len(above.by_run) == 3
    assert above.interval.low > 0


def gain_in_dice(
    grid: str, target: str, row: str, other: str, labeled: int = 8, without: frozenset[str] = frozenset()
) -> Difference:
    """Of a row over another, paired by case over the runs that both have, some cases left out."""
    scores = []
    for name in (row, other):
        records = map(Record.load, sorted((RESULTS / grid).glob(f"{name}-{labeled}-[0-9].json")))
        # a peer lists its cases in another order
        scores.append({each.run: _by_case(each, target, without) for each in records})
    found = difference(*scores)
    assert found is not None
    return found


def _by_case(record: Record, target: str, without: frozenset[str]) -> NDArray[np.float64]:
    found = dict(zip(record.cases, record.scores[target]["dice"], strict=True))
    return np.array([found[case] for case in sorted(found.keys() - without)])


@pytest.mark.parametrize(
    ("grid", "target", "row"),
    [
        (
            "hippocampus",
            "hippocampus",
            "| whole | 0.8804 | 0.8797 | +0.0007 (-0.0035 to +0.0037), p 0.25 | {} | 0.8884 |",
        ),
        ("hippocampus", "hippocampus anterior", "| +0.0027 (-0.0012 to +0.0067) | {} | 0.8711 |"),
        ("hippocampus", "hippocampus posterior", "| +0.0011 (-0.0062 to +0.0063) | {} | 0.8602 |"),
        ("hippocampus_recipes", "hippocampus", "| 0.002 | 32 of 40 | {} | 0.8986 |"),
    ],
)
def test_gains_without_the_one_scan_are_those_of_the_records(grid: str, target: str, row: str) -> None:
    page = (RESULTS.parents[1] / "docs" / "findings.md").read_text(encoding="utf-8")
    gain = gain_in_dice(grid, target, "fba_net", "supervised", without=frozenset({"hippocampus_221"})).interval
    assert row.format(f"{gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})") in page


@pytest.mark.parametrize("other", ["supervised", "mean_teacher"])
def test_the_default_is_ahead_on_the_left_atrium(other: str) -> None:
    gain = gain_in_dice("left_atrium_125", "left atrium", "fba_net", other)
    assert len(gain.by_run) == 2
    assert gain.interval.low is not None and gain.interval.low > 0


def test_the_default_is_ahead_on_the_left_atrium_by_the_recipes_too() -> None:
    gain = gain_in_dice("left_atrium_125_recipes", "left atrium", "fba_net", "supervised")
    assert gain.interval.low is not None and gain.interval.low > 0
    assert len(gain.by_run) == 2 and min(gain.by_run) > 0.01 and gain.better == 15
    at_half = gain_in_dice("left_atrium_125", "left atrium", "fba_net", "supervised")
    assert gain.interval.mean < at_half.interval.mean  # a third of it went to the baseline


@pytest.mark.parametrize(("other", "better"), [("mean_teacher", 14), ("bcp", 9)])
def test_by_the_recipes_the_default_is_ahead_of_the_other_methods_on_the_left_atrium(other: str, better: int) -> None:
    gain = gain_in_dice("left_atrium_125_recipes", "left atrium", "fba_net", other)
    assert gain.interval.low is not None and gain.interval.low > 0
    assert len(gain.by_run) == 2 and min(gain.by_run) > 0 and gain.better == better


def test_by_the_recipes_the_default_is_near_full_supervision_on_the_left_atrium() -> None:
    found = {}
    for row, name in (("full", "full-all-0"), ("fba_net", "fba_net-8-[01]"), ("supervised", "supervised-8-[01]")):
        records = map(Record.load, sorted((RESULTS / "left_atrium_125_recipes").glob(f"{name}.json")))
        found[row] = np.mean([_by_case(record, "left atrium", frozenset()) for record in records], axis=0)
    shares = {row: round(100 * float(found[row].mean() / found["full"].mean()), 1) for row in ("fba_net", "supervised")}
    assert shares == {"fba_net": 99.6, "supervised": 97.2}
    left = difference({0: found["full"]}, {0: found["fba_net"]})
    assert left is not None and left.interval.low is not None and 0 < left.interval.low < left.interval.mean < 0.004


def test_the_mean_teacher_gives_nothing_on_the_left_atrium_by_the_recipes_either() -> None:
    gain = gain_in_dice("left_atrium_125_recipes", "left atrium", "mean_teacher", "supervised")
    assert gain.interval.low is not None and gain.interval.low < 0 < gain.interval.high
    assert len(gain.by_run) == 2 and min(gain.by_run) < 0 < max(gain.by_run)


def corrected_p() -> dict[tuple[str, str, str], str]:
    """(row, labeled, reference) -> p of the committed table of the hippocampus, corrected over its column."""
    table = (RESULTS / "hippocampus" / "table.csv").read_text(encoding="utf-8").splitlines()
    return {
        (line["row"], line["labeled"], other): line[f"against_{other}_p"]
        for line in csv.DictReader(table)
        for other in ("supervised", "fba_net")
        if line[f"against_{other}_p"]
    }


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        (("fba_net", "8", "supervised"), "+0.0007 (-0.0035 to +0.0037), p {:.2f} |"),
        (("bcp", "8", "supervised"), "0.0067 below supervised training (0.0022 to 0.0123, p {:.2f})"),
        (("bcp", "4", "supervised"), "-0.0051 in all (-0.0102 to -0.0002; p {:.2f})"),
        (("mean_teacher", "4", "fba_net"), "`mean_teacher` it has +0.0028 (-0.0016 to +0.0068; p {:.2f})"),
        (("fba_net", "16", "supervised"), "difference +0.0002 (-0.0016 to +0.0020; p {:.2f}, of this one comparison"),
    ],
)
def test_p_is_that_of_the_table(cell: tuple[str, str, str], sentence: str) -> None:
    """A row that joins the table later changes the p of the others."""
    page = (RESULTS.parents[1] / "docs" / "findings.md").read_text(encoding="utf-8")
    assert sentence.format(float(corrected_p()[cell])) in " ".join(page.split())


@pytest.mark.parametrize("target", ["hippocampus", "hippocampus anterior", "hippocampus posterior"])
@pytest.mark.parametrize("other", ["supervised", "mean_teacher"])
def test_cps_is_ahead_on_scans_that_it_never_saw(target: str, other: str) -> None:
    gain = gain_in_dice("hippocampus", target, "cps", other)
    assert len(gain.by_run) == 3
    assert gain.interval.low is not None and gain.interval.low > 0


@pytest.mark.parametrize("other", ["supervised", "cps"])
def test_the_default_is_not_told_from_others_on_scans_that_it_never_saw(other: str) -> None:
    gain = gain_in_dice("hippocampus", "hippocampus", "fba_net", other)
    assert len(gain.by_run) == 3
    assert gain.interval.low is not None and gain.interval.high is not None
    assert gain.interval.low < 0 < gain.interval.high


@pytest.mark.parametrize("target", ["hippocampus", "hippocampus anterior", "hippocampus posterior"])
def test_the_default_is_the_best_on_the_cases_that_choose(target: str) -> None:
    for row in ("fba_net", "cps"):
        gain = gain_in_dice("hippocampus_methods_tune", target, row, "supervised")
        assert gain.interval.low is not None and gain.interval.low > 0
        assert len(gain.by_run) == 3 and min(gain.by_run) > 0
    ahead = gain_in_dice("hippocampus_methods_tune", target, "fba_net", "cps")
    assert len(ahead.by_run) == 3 and min(ahead.by_run) > 0
    assert ahead.interval.low is not None
    assert target.endswith("anterior") or ahead.interval.low > 0


@pytest.mark.parametrize("target", ["hippocampus", "hippocampus anterior", "hippocampus posterior"])
def test_with_4_labels_the_default_gains_on_the_cases_that_choose(target: str) -> None:
    gain = gain_in_dice("hippocampus_methods_tune", target, "fba_net", "supervised", labeled=4)
    assert gain.interval.low is not None and gain.interval.low > 0 and min(gain.by_run) > 0


def test_most_cases_gain_by_the_recipe_and_one_takes_it_back() -> None:
    gain = gain_in_dice("hippocampus_recipes", "hippocampus", "fba_net", "supervised")
    assert gain.better == 32 and gain.p < 0.003
    assert gain.interval.low is not None and gain.interval.high is not None
    assert gain.interval.low < 0 < gain.interval.high


def test_the_public_fba_net_loss_is_far_behind_supervised_training_of_its_network() -> None:
    loss = gain_in_dice("hippocampus_vnet", "hippocampus", "fba_legacy", "supervised")
    assert loss.interval.high is not None and loss.interval.high < -0.18


def test_one_scan_is_what_the_default_fails_on() -> None:
    losses = {}
    for row in ("fba_net", "cps"):
        records = [
            Record.load(RESULTS / "hippocampus" / f"{name}-8-{run}.json")
            for name in (row, "supervised")
            for run in range(3)
        ]
        dice = np.array([np.array(each.scores["hippocampus"]["dice"])[np.argsort(each.cases)] for each in records])
        losses[row] = dict(zip(sorted(records[0].cases), dice[3:].mean(axis=0) - dice[:3].mean(axis=0), strict=True))
    assert max(losses["cps"].values()) < 0.0022
    first, second = sorted(losses["fba_net"].values(), reverse=True)[:2]
    assert losses["fba_net"]["hippocampus_221"] == first == pytest.approx(0.0659, abs=5e-5)
    assert second < 0.009


@pytest.mark.parametrize("reading", ["linear 1", "linear 0.1", "knn 1"])
def test_leoclr_is_behind_moco_on_composites(reading: str) -> None:
    right = [
        {each.run: each.right(reading) for each in map(ProbeRecord.load, (RESULTS / "pairs").glob(f"{row}-[0-9].json"))}
        for row in ("leoclr", "moco")
    ]
    gap = difference(*right)
    assert gap is not None and gap.interval.high is not None
    assert len(gap.by_run) == 3
    assert gap.interval.high < 0


def test_with_4_labels_runs_of_the_default_do_not_agree() -> None:
    for part in ("", " anterior", " posterior"):
        gain = gain_in_dice("hippocampus", f"hippocampus{part}", "fba_net", "supervised", labeled=4)
        assert len(gain.by_run) == 3
        assert gain.interval.mean > 0 and min(gain.by_run) < 0 < max(gain.by_run)


@pytest.mark.parametrize(
    ("other", "part", "shown"),
    [
        ("bcp", "", True),
        ("bcp", " anterior", True),
        ("bcp", " posterior", True),
        ("mean_teacher", "", False),
        ("mean_teacher", " anterior", True),
    ],
)
def test_with_4_labels_what_the_default_is_ahead_of(other: str, part: str, shown: bool) -> None:
    gain = gain_in_dice("hippocampus", f"hippocampus{part}", "fba_net", other, labeled=4)
    assert len(gain.by_run) >= 3 and gain.interval.low is not None
    assert gain.interval.mean > 0 and (gain.interval.low > 0) is shown


def test_what_supervised_training_predicts_too_much_follows_its_labeled_scans() -> None:
    """Mean volume of the labeled structures in ml, from their label files, by cell; errors from the records."""
    labeled = {"4-0": 3.05, "4-1": 3.71, "4-2": 3.48, "8-0": 3.11, "8-1": 3.46, "8-2": 3.41, "16-0": 3.14}
    cells = {**{f"supervised-{cell}": size for cell, size in labeled.items()}, "full-all-0": 3.34}
    records = [Record.load(RESULTS / "hippocampus" / f"{cell}.json") for cell in cells]
    errors = [np.mean(each.scores["hippocampus"]["volume_error_ml"]) for each in records]
    assert np.corrcoef(list(cells.values()), errors)[0, 1] == pytest.approx(0.95, abs=0.005)


def test_volumes_grow_with_the_share_of_mixed_rows_where_it_goes_wrong() -> None:
    """Run 2 with 4 labels: no boxes, boxes in half of the unlabeled rows, mixtures alone; more volume, less Dice."""
    rows = ("supervised", "mean_teacher", "fba_net", "bcp")
    scores = [Record.load(RESULTS / "hippocampus" / f"{row}-4-2.json").scores["hippocampus"] for row in rows]
    volumes, dice = ([np.mean(each[name]) for each in scores] for name in ("volume_error_ml", "dice"))
    assert volumes == sorted(volumes) and dice == sorted(dice, reverse=True)


def test_mean_teacher_is_supervised_training_again() -> None:
    for labeled in (4, 8):
        gain = gain_in_dice("hippocampus", "hippocampus", "mean_teacher", "supervised", labeled=labeled)
        assert gain.interval.low is not None and gain.interval.high is not None
        assert -0.002 < gain.interval.low < 0 < gain.interval.high < 0.002


@pytest.mark.parametrize("peer", ["pymic_cps", "pymic_urpc"])
def test_cps_and_urpc_of_pymic_are_behind_the_default_on_the_hippocampus(peer: str) -> None:
    gain = gain_in_dice("hippocampus", "hippocampus", "fba_net", f"peers/{peer}")
    assert gain.interval.low is not None and gain.interval.low > 0


@pytest.mark.parametrize("row", ["fba_net", "supervised"])
@pytest.mark.parametrize("peer", ["pymic_mean_teacher", "nnunet_like"])
def test_peers_are_behind_on_the_hippocampus(row: str, peer: str) -> None:
    gain = gain_in_dice("hippocampus", "hippocampus", row, f"peers/{peer}")
    assert gain.interval.low is not None and gain.interval.low > 0


@pytest.mark.parametrize(
    ("row", "other", "sign"),
    [
        ("no_contrast", "labels_alone", 1),
        ("contrast_alone", "labels_alone", 1),
        ("noise", "labels_alone", -1),
        ("fba_net", "no_contrast", 0),
    ],
)
def test_what_each_term_does_alone(row: str, other: str, sign: int) -> None:
    interval = gain_in_dice("hippocampus_tune", "hippocampus", row, other).interval
    assert interval.low is not None and interval.high is not None
    ends = {1: interval.low > 0, -1: interval.high < 0, 0: interval.low < 0 < interval.high}
    assert ends[sign]


def test_a_pre_trained_encoder_gains_on_slices_of_the_left_atrium_and_not_of_the_hippocampus() -> None:
    for labeled in (4, 8):
        atrium = gain_in_dice("la_slices", "left atrium", "simclr", "scratch", labeled)
        assert len(atrium.by_run) == 3 and atrium.interval.low is not None and atrium.interval.low > 0
    hippocampus = gain_in_dice("hippocampus_slices", "hippocampus", "simclr", "scratch").interval
    assert hippocampus.low is not None and hippocampus.high is not None
    assert hippocampus.low < 0 < hippocampus.high < 0.005


def lost_on_chest_x_rays(row: str, reading: str) -> dict[int, np.ndarray]:
    """Run -> per X-ray: right on the clean image less right on the degraded one."""
    found = {}
    for record in map(ProbeRecord.load, (RESULTS / "chest_xray").glob(f"{row}-[0-9].json")):
        right, quality, units = record.right(reading), record.members("quality"), record.unit_numbers()
        clean, worse = quality["high"], quality["low"]
        assert units[clean].tolist() == units[worse].tolist()  # the same X-rays in the same order
        found[record.run] = right[clean].astype(float) - right[worse]
    return found


def test_degraded_views_lose_less_on_chest_x_rays_than_clean_ones() -> None:
    less = difference(lost_on_chest_x_rays("moco_degraded", "linear 1"), lost_on_chest_x_rays("moco", "linear 1"))
    assert less is not None and less.interval.high is not None
    assert len(less.by_run) == 3
    assert less.interval.high < 0


@pytest.mark.parametrize("reading", READINGS)
def test_multi_level_contrast_is_not_shown_to_lose_less_on_chest_x_rays(reading: str) -> None:
    less = difference(lost_on_chest_x_rays("multi_level", reading), lost_on_chest_x_rays("moco", reading))
    assert less is not None and less.interval.low is not None and less.interval.high is not None
    assert len(less.by_run) == 3
    assert less.interval.mean < 0 and less.interval.low < 0 < less.interval.high
