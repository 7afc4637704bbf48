"""Tests of grids of encoders: whole (a tiny grid, stopped and resumed), by hand (tables of known records)."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from medcontrast import checkpoint
from medcontrast.data.images.manifest import load_image_manifest
from medcontrast.data.images.sources import ImageCase
from medcontrast.engine.benchmark.encoder_records import ProbeRecord, pixels_digest, units_text
from medcontrast.engine.benchmark.encoder_report import EncoderLine, write_probe_report
from medcontrast.engine.probe.images import image_units, probe_images
from medcontrast.engine.stopping import StopRequest
from medcontrast.errors import InputError
from medcontrast.settings.grid import ProbeGridSettings, load_grid

NAMES = ["moco-0", "moco-1", "simclr-0"]


@pytest.fixture
def grid(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.write_images(tmp_path / "data")
    tree = tiny.pretrain_tree()
    tiny.write_recipe(tmp_path / "simclr.yaml", tree)
    tree["augment"]["views"] = {"query": {}, "key": {}}
    tree["method"] = {"name": "moco_v2", "embedding_channels": 8, "queue": 16}
    tiny.write_recipe(tmp_path / "moco.yaml", tree)
    content = {
        "kind": "probe",
        "name": "tiny",
        "title": "Tiny encoders",
        "fractions": [1.0, 0.5],
        "runs": 2,
        "set": ["train.steps=2"],
        "baseline": "moco",
        "rows": {"moco": {"recipe": "moco.yaml"}, "simclr": {"recipe": "simclr.yaml", "runs": 1}},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def test_a_grid_runs_to_its_tables_and_again_from_records_alone(cli, grid):
    found = cli("benchmark", grid)
    assert found.code == 0, found.err
    results = Path("benchmarks/results/tiny")
    assert sorted(path.stem for path in results.glob("*.json")) == NAMES
    table = (results / "table.md").read_text(encoding="utf-8")
    assert table.count("| moco | 2 |") == 4
    assert "**linear probe, 100 % of the labels**" in table
    assert "**nearest neighbours, 50 % of the labels**" in table
    assert (results / "picture.png").read_bytes()[:4] == b"\x89PNG"
    record = json.loads((results / "moco-1.json").read_text(encoding="utf-8"))
    assert (record["recipe"]["seed"], record["images"], record["facts"]["step"]) == (1, 12, 2)
    assert set(record["hits"]) == {"linear 1", "linear 0.5", "knn 1", "knn 0.5"}
    assert record["units"] == "0-11"
    again = cli("benchmark", grid, "--report", "--work", "nowhere")
    assert again.code == 0
    assert (results / "table.md").read_text(encoding="utf-8") == table


def test_a_grid_probes_labels_that_classes_contain(cli, grid):
    content = yaml.safe_load(grid.read_text(encoding="utf-8"))
    content |= {"classifiers": ["multilabel"], "fractions": [1.0]}
    grid.write_text(yaml.safe_dump(content), encoding="utf-8")
    refused = cli("benchmark", grid, "--only", "moco-0")
    assert refused.code == 2
    assert "multilabel tells labels that classes contain, but" in refused.err
    assert 'manifest.json has no table "contains", class -> its labels.' in refused.err
    assert not list(Path("runs").rglob("*.safetensors"))  # before anything is trained
    manifest = Path("data/manifest.json")
    tree = json.loads(manifest.read_text(encoding="utf-8"))
    manifest.write_text(json.dumps({**tree, "contains": {"plain": ["calm"], "striped": ["loud", "even"]}}))
    done = cli("benchmark", grid, "--only", "moco-0")
    assert done.code == 0, done.err
    record = ProbeRecord.load(Path("benchmarks/results/tiny/moco-0.json"))
    assert set(record.hits) == {"multilabel 1"} and len(record.hits["multilabel 1"]) == 12
    table = Path("benchmarks/results/tiny/table.md").read_text(encoding="utf-8")
    assert "**multi-label probe, 100 % of the labels**" in table
    assert "By the multi-label probe an image is right where" in table


def without_times(path):
    """A record, and how many parts its training was made in."""
    record = ProbeRecord.load(path)
    facts = {key: value for key, value in record.facts.items() if key not in ("train_seconds", "written", "earlier")}
    return dataclasses.replace(record, facts=facts), 1 + len(record.facts.get("earlier", ()))


def test_a_cell_stopped_in_mid_training_goes_on_to_the_same_record(cli, grid, monkeypatch):
    assert cli("benchmark", grid, "--only", "moco-0", "--results", "straight", "--work", "w1").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "due", lambda stop: True)
        stopped = cli("benchmark", grid, "--only", "moco")
    assert "moco-0: training" in stopped.out
    assert "2 cells are not finished; the same command goes on with them." in stopped.out
    work = Path("runs/benchmarks/tiny")
    assert checkpoint.load_resume(work / "moco-0/last.pt")["progress"]["step"] == 1
    assert not list(Path("benchmarks").rglob("*.json")) and not (work / "moco-1").exists()
    again = cli("benchmark", grid, "--only", "moco-0")
    assert again.code == 0 and "moco-0: resuming" in again.out
    (ours, parts), (theirs, one) = (
        without_times(Path(folder) / "moco-0.json") for folder in ("benchmarks/results/tiny", "straight")
    )
    assert ours == theirs and (parts, one) == (2, 1)


def test_a_record_without_units_is_refused_and_its_kept_run_scored_again(cli, grid):
    assert cli("benchmark", grid, "--only", "simclr-0").code == 0
    path = Path("benchmarks/results/tiny/simclr-0.json")
    whole = path.read_text(encoding="utf-8")
    content = json.loads(whole)
    del content["units"]
    path.write_text(json.dumps(content), encoding="utf-8")
    found = cli("benchmark", grid, "--report")
    assert found.code == 2
    assert found.err == (
        f"{path}: this record does not say which images are of one unit (a patient, or a source image), so that its "
        "intervals could be too narrow; delete it to score its run again.\n"
    )
    path.unlink()
    again = cli("benchmark", grid, "--only", "simclr-0")
    assert again.code == 0 and "simclr-0: training" not in again.out
    assert path.read_text(encoding="utf-8") == whole


def test_units_by_hand():
    def case(name, **known):
        return ImageCase(name, Path("x"), **known)

    cases = [case("u"), case("v", patient="p"), case("w", patient="p"), case("p"), case("u2", quality="low")]
    assert image_units(cases).tolist() == [0, 1, 1, 2, 3]  # an image called p is not of the patient p
    assert units_text([0, 0, 0, 1, 2, 2, 0]) == "0x3 1 2x2 0"
    assert units_text([0, 0, 1, 1, 2, 2, 3, 7, 8, 6]) == "0-2x2 3 7-8 6"


def test_a_degraded_copy_and_its_original_are_one_unit(cli, tiny, tmp_path):
    source = tiny.write_images(tmp_path / "data")
    assert cli("data", "degrade", source, "-o", tmp_path / "worse", "--kind", "xray", "--size", 16).code == 0
    path = tmp_path / "worse/manifest.json"
    data = tiny.recipe_from(tiny.pretrain_tree()).data
    scored = probe_images(load_image_manifest(path), data).scored
    assert image_units(scored).tolist() == [*range(12), *range(12)]
    assert {case.patient for case in scored} == {f"test/{number:02d}.png" for number in range(12)}


def test_records_tell_pixels_and_targets_apart_and_old_ones_stay_valid(cli, grid):
    assert cli("benchmark", grid, "--only", "simclr-0").code == 0
    path = Path("benchmarks/results/tiny/simclr-0.json")
    cases = load_image_manifest(Path("data/manifest.json")).cases("test")
    assert ProbeRecord.load(path).pixels_hash == pixels_digest(cases) != pixels_digest(cases[:-1])
    assert pixels_digest(cases) != pixels_digest([dataclasses.replace(cases[0], target=1), *cases[1:]])
    cases[0].file.write_bytes(cases[2].file.read_bytes())
    assert ProbeRecord.load(path).pixels_hash != pixels_digest(cases)
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["pixels_hash"]
    path.write_text(json.dumps(content), encoding="utf-8")
    assert ProbeRecord.load(path).pixels_hash is None
    assert cli("benchmark", grid, "--report").code == 0


def test_a_changed_recipe_refuses_the_old_record(cli, grid):
    assert cli("benchmark", grid, "--only", "moco-0").code == 0
    text = grid.read_text(encoding="utf-8").replace("train.steps=2", "train.steps=3")
    grid.write_text(text, encoding="utf-8")
    found = cli("benchmark", grid, "--report")
    assert found.code == 2
    assert "this record was made with train.steps 2, but the grid now asks for 3." in found.err


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("kind", "prob", "kind: input should be 'probe', but got 'prob'"),
        ("baseline", "mocco", "baseline 'mocco' is none of the rows moco, simclr"),
        ("fractions", [], "fractions holds one value at least, each once, but is []"),
        ("groups", {"domain": ["A", "A"]}, "groups.domain holds one value at least, each once, but is ['A', 'A']"),
        ("groups", {"scanner": ["A"]}, "groups.scanner"),
        (
            "rows",
            {"moco": {"recipe": "volumes.yaml"}},
            "method supervised segments volumes; this needs a recipe of one",
        ),
    ],
)
def test_what_a_faulty_grid_gets(cli, tiny, grid, key, value, sentence):
    tiny.write_recipe(grid.parent / "volumes.yaml", tiny.recipe_tree())
    content = yaml.safe_load(grid.read_text(encoding="utf-8"))
    content[key] = value
    grid.write_text(yaml.safe_dump(content), encoding="utf-8")
    found = cli("benchmark", grid)
    assert found.code == 2
    assert sentence in found.err


def record(row, run, hits, **extra):
    """8 images: 4 of high quality, then the same 4 of low quality; 4 units."""
    quality = {"high": "11110000", "low": "00001111"}
    facts = {
        "split": "test",
        "manifest": "toy",
        "classes": 2,
        "step": 5,
        "student_parameters": 1e6,
        "train_seconds": 36,
    }
    recipe = {"train": {"rows": 4}, "augment": {"views": {"query": {}, "key": {}}}}
    plain = {"recipe": recipe, "recipe_hash": "", "images": 8, "images_hash": "x", "groups": {"quality": quality}}
    plain["units"] = "0 1 2 3 0 1 2 3"
    return ProbeRecord(row=row, run=run, **{**plain, "hits": {"linear 1": hits}, "facts": facts, **extra})


def settings(**extra):
    plain = {"kind": "probe", "name": "toy", "title": "Toy", "classifiers": ["linear"], "runs": 2, "baseline": "a"}
    rows = {"a": {"recipe": "a.yaml"}, "b": {"recipe": "b.yaml"}, "c": {"recipe": "c.yaml"}}
    return ProbeGridSettings.model_validate_json(json.dumps({**plain, "rows": rows, **extra}))


def table(text):
    """Row -> head of a column -> what stands there, of the one table of a text."""
    lines = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {cells[0]: dict(zip(lines[0], cells, strict=True)) for cells in lines[1:]}


def test_the_table_by_hand(tmp_path):
    records = {
        "a-0": record("a", 0, "11110000"),
        "a-1": record("a", 1, "11110011"),
        "b-0": record("b", 0, "11101110"),
        "b-1": record("b", 1, "11111110"),
    }
    text = write_probe_report(settings(drop="quality"), records, tmp_path)
    rows = table(text)
    heads = ["row", "runs", "accuracy", "SD over runs", "quality high", "quality low", "lost"]
    assert list(rows["a"]) == [*heads, "against a", "lost, against a", "parameters", "hours"]
    assert rows["a"]["runs"] == "2"
    assert rows["a"]["accuracy"].startswith("0.6250 (")
    assert rows["a"]["SD over runs"] == f"{np.std([0.5, 0.75], ddof=1):.4f}"
    assert [rows[row]["quality high"] for row in "ab"] == ["1.0000", "0.8750"]
    assert [rows[row]["quality low"] for row in "ab"] == ["0.2500", "0.7500"]
    assert rows["a"]["lost"].startswith("0.7500 (")
    assert rows["b"]["against a"].startswith("+0.1875 (")
    assert rows["b"]["lost, against a"].startswith("-0.6250 (")
    assert list(rows) == ["a", "b"] and "\n\nNot run yet: c.\n\n" in text
    assert "8 test images of toy in 4 units, 2 classes." in text
    assert "Encoders are frozen after 5 steps of 4 rows, 2 views of each." in text


def test_intervals_and_tests_are_over_units(tmp_path):
    # both images of units 0 and 1 are right: four draws of a coin, none of which is right once in 16; of eight images,
    # one at most would be in 9 of 256
    text = write_probe_report(settings(), {"a-0": record("a", 0, "11001100")}, tmp_path)
    assert table(text)["a"]["accuracy"] == "0.5000 (0.0000 to 1.0000)"
    # of the four answers to each unit 1, 2, 3 and 4 are right, against none: the smallest p of four units is 2 / 2^4
    records = {f"a-{run}": record("a", run, "00000000") for run in (0, 1)}
    records |= {"b-0": record("b", 0, "11110111"), "b-1": record("b", 1, "00110001")}
    rows = table(write_probe_report(settings(), records, tmp_path))
    assert rows["b"]["accuracy"].startswith("0.6250 (")
    assert rows["b"]["SD over runs"] == f"{np.std([7 / 8, 3 / 8], ddof=1):.4f}"
    assert rows["b"]["against a"].startswith("+0.6250 (") and rows["b"]["against a"].endswith(", p 0.125")


def test_scores_are_averaged_within_a_unit_over_the_images_of_the_group():
    known = {"images": 4, "units": "0x3 1", "groups": {"domain": {"A": "1101", "B": "0010"}}}
    line = EncoderLine("a", 1, (record("a", 0, "1011", **known),))
    assert line.right("linear 1")[0].tolist() == [2 / 3, 1.0]
    assert line.in_group("linear 1", "domain", "A")[0].tolist() == [0.5, 1.0]
    assert line.in_group("linear 1", "domain", "B")[0].tolist() == [1.0]


def test_a_group_is_compared_as_all_images_are(tmp_path):
    # four digits under two scanners each
    known = {"units": "0x2 1x2 2x2 3x2", "groups": {"domain": {"haze": "01010101", "plain": "10101010"}}}
    records = {"a-0": record("a", 0, "11111000", **known), "b-0": record("b", 0, "11011111", **known)}
    records["c-0"] = record("c", 0, "10101010", **known)
    grid = settings(groups={"domain": ["haze"]}, default="b")
    rows = table(write_probe_report(grid, records, tmp_path))
    assert list(rows["a"])[3:9] == [
        "domain haze",
        "domain plain",
        "against a",
        "against b",
        "domain haze, against a",
        "domain haze, against b",
    ]
    assert [rows[row]["domain haze"] for row in "abc"] == [
        "0.5000 (0.0000 to 1.0000)",
        "1.0000 (1.0000 to 1.0000)",
        "0.0000 (0.0000 to 0.0000)",
    ]
    assert [rows[row]["domain plain"] for row in "abc"] == ["0.7500", "0.7500", "1.0000"]
    assert rows["a"]["domain haze, against a"] == rows["b"]["domain haze, against b"] == "-"
    assert rows["b"]["domain haze, against a"].startswith("+0.5000 (+0.0000 to +1.0000), p ")
    assert rows["c"]["domain haze, against b"].startswith("-1.0000 (-1.0000 to -1.0000), p ")
    lines = list(csv.DictReader((tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()))
    found = {(line["row"], line["group"]): line for line in lines}
    assert [found["b", "domain haze"][f"against_a{part}"] for part in ("", "_low", "_high")] == ["0.5", "0", "1"]
    p = float(found["b", "domain haze"]["against_a_p"])
    assert rows["b"]["domain haze, against a"].endswith(f", p {p:.3f}")
    assert found["b", "domain haze"]["accuracy"] == found["b", "domain haze"]["low"] == "1"
    assert found["b", "domain plain"]["against_a"] == found["a", ""]["against_a"] == ""
    assert float(found["b", ""]["against_a"]) == 0.25


def test_the_csv_holds_what_is_lost(tmp_path):
    records = {"a-0": record("a", 0, "11110000"), "b-0": record("b", 0, "11101110")}
    write_probe_report(settings(drop="quality"), records, tmp_path)
    lines = list(csv.DictReader((tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()))
    found = {line["row"]: line for line in lines if line["group"] == "lost"}
    assert [found[row]["accuracy"] for row in "ab"] == ["1", "0"]
    assert (found["a"]["against_a"], found["b"]["against_a"]) == ("", "-1")


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        ({"quality": ["hgh"]}, "groups: no scored image is of quality 'hgh'; there are high, low."),
        ({"domain": ["haze"]}, "groups: no scored image is of domain 'haze'; they do not differ by domain."),
    ],
)
def test_a_group_that_does_not_occur(cli, grid, tmp_path, groups, sentence):
    with pytest.raises(InputError) as error:
        write_probe_report(settings(groups=groups), {"a-0": record("a", 0, "11110000")}, tmp_path)
    assert str(error.value) == sentence
    content = yaml.safe_load(grid.read_text(encoding="utf-8"))
    content["groups"] = {"domain": ["C"]}
    grid.write_text(yaml.safe_dump(content), encoding="utf-8")
    found = cli("benchmark", grid, "--only", "simclr-0")
    assert (found.code, found.err) == (2, "groups: no scored image is of domain 'C'; there are A, B.\n")


def test_unequal_training_and_the_note_stand_below_the_table(tmp_path):
    four = {"train": {"rows": 4}, "augment": {"views": {name: {} for name in ("q", "k", "q_low", "k_low")}}}
    facts = {**record("b", 0, "11110000").facts, "step": 3}
    records = {"a-0": record("a", 0, "11110000"), "b-0": record("b", 0, "11110000", recipe=four, facts=facts)}
    text = write_probe_report(settings(note="What b was told."), records, tmp_path)
    assert (
        "Encoders are frozen after unequal training, in steps x rows a step x views of a row: a 5 x 4 x 2; b 3 x 4 x 4."
        in text
    )
    assert text.endswith("\n\nWhat b was told.")
    assert (tmp_path / "table.md").read_text(encoding="utf-8").endswith("\n\nWhat b was told.\n")


def test_warnings_of_probes_stand_below_the_table(tmp_path):
    def warned(row, run, *warnings):
        return record(row, run, "11110000", facts={**record(row, run, "").facts, "warnings": list(warnings)})

    twice, lonely = "2 of 8 scored images are copies.", "domain C occurs once."
    records = {"a-0": warned("a", 0, twice), "a-1": warned("a", 1, twice, lonely), "b-0": warned("b", 0, twice)}
    text = write_probe_report(settings(), records, tmp_path)
    assert text.endswith(f" Warning: {twice} Warning of a: {lonely}")
    records["c-0"] = record("c", 0, "11110000")  # of before
    assert f"Warning of a, b: {twice}" in write_probe_report(settings(), records, tmp_path)


def test_a_grid_keeps_the_warnings_of_its_probes(cli, grid):
    source, copy = Path("data/train/03.png"), Path("data/test/05.png")
    copy.write_bytes(source.read_bytes())
    assert cli("benchmark", grid, "--only", "simclr-0").code == 0
    (warning,) = ProbeRecord.load(Path("benchmarks/results/tiny/simclr-0.json")).facts["warnings"]
    assert warning.startswith("1 of 12 scored images have the pixels of a training image, such as test/05.png;")
    assert warning in Path("benchmarks/results/tiny/table.md").read_text(encoding="utf-8")


def test_records_of_other_images_are_not_compared(tmp_path):
    records = {"a-0": record("a", 0, "11110000"), "b-0": record("b", 0, "11110000", images_hash="y")}
    with pytest.raises(InputError, match=r"^Records b-0 and a-0 hold other images, so they cannot be compared\.$"):
        write_probe_report(settings(), records, tmp_path)
    records = {
        f"{row}-0": record(row, 0, "11110000", pixels_hash=hash_)
        for row, hash_ in zip("abc", (None, "p", "q"), strict=True)
    }
    with pytest.raises(InputError, match=r"^Records c-0 and b-0 hold images of the same names with other pixels or "):
        write_probe_report(settings(), records, tmp_path)
    del records["c-0"]  # one of before has the names alone
    assert write_probe_report(settings(), records, tmp_path)
    uneven = {"high": "11100000", "low": "00011111"}
    records = {"a-0": record("a", 0, "11110000", groups={"quality": uneven})}
    with pytest.raises(InputError, match=r"^drop quality: needs two groups with images of the same units, but got"):
        write_probe_report(settings(drop="quality"), records, tmp_path)
    alone = {"a-0": record("a", 0, "11110000", units="0 1 2 3 4 5 6 7")}
    with pytest.raises(InputError, match=r"\{'high': 4, 'low': 4\}; both versions of an image need one `patient`"):
        write_probe_report(settings(drop="quality"), alone, tmp_path)
    with pytest.raises(InputError, match=r"^Records b-0 and a-0 take other images for one unit"):
        write_probe_report(settings(), {**alone, "b-0": record("b", 0, "11110000")}, tmp_path)
    with pytest.raises(InputError, match=r"^Record a-0 has no 'knn 1', which the grid asks for"):
        write_probe_report(settings(classifiers=["knn"]), {"a-0": record("a", 0, "11110000")}, tmp_path)


@pytest.mark.parametrize("count", [5, 8, 9])
def test_a_record_keeps_four_digits_as_one_and_comes_back(tmp_path, count):
    hits, group = "101100011"[:count], "010111010"[:count]
    extra = {"images": count, "units": units_text([0, 0, 1, 1, 2, 3, 9, 4, 5][:count])}
    made = record("a", 0, hits, groups={"quality": {"high": group}}, **extra)
    made.save(tmp_path / "a-0.json")
    kept = json.loads((tmp_path / "a-0.json").read_text())
    assert kept["hits"]["linear 1"] == {5: "xb0", 8: "xb1", 9: "xb18"}[count]
    read = ProbeRecord.load(tmp_path / "a-0.json")
    assert read == made
    assert read.unit_numbers().tolist() == [0, 0, 1, 1, 2, 3, 9, 4, 5][:count]
    kept["hits"] = {"linear 1": hits}  # as records of before
    (tmp_path / "a-0.json").write_text(json.dumps(kept))
    assert ProbeRecord.load(tmp_path / "a-0.json") == made


@pytest.mark.parametrize(
    "change",
    [
        {"images": 7},
        {"hits": {"linear 1": "1111000x"}},
        {"hits": {"linear 1": "xfg"}},
        {"hits": {"linear 1": "xf00"}},
        {"units": "0x7"},
        {"units": "0x7 one"},
        {"units": "0-6"},
    ],
)
def test_a_damaged_record_is_named(tmp_path, change):
    record("a", 0, "11110000").save(tmp_path / "a-0.json")
    content = json.loads((tmp_path / "a-0.json").read_text())
    (tmp_path / "a-0.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(InputError, match=r"a-0\.json: not a probe record .*; delete it to run its cell again\.$"):
        ProbeRecord.load(tmp_path / "a-0.json")


def test_shipped_grids_of_encoders_load_and_name_recipes_that_are_there():
    folder = Path(__file__).parents[2] / "recipes/benchmarks"
    grids = [load_grid(path) for path in sorted(folder.glob("*.yaml"))]
    chosen = [grid for grid in grids if isinstance(grid, ProbeGridSettings)]
    assert len(chosen) >= 2
    by_name = {grid.name: grid for grid in chosen}
    assert by_name["morphomnist"].groups == {"domain": ("haze",)}
    assert all(by_name[name].note for name in ("morphomnist", "pneumonia28", "pairs"))
    for grid in chosen:
        assert all((folder / row.recipe).is_file() for row in grid.rows.values())
