"""Tests of grids of encoders: whole (a tiny grid, stopped and resumed), sentences of records that do not fit."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from probe_records import record, settings

from medcontrast import checkpoint
from medcontrast.data.images.manifest import load_image_manifest
from medcontrast.data.images.sources import ImageCase
from medcontrast.engine.benchmark.encoder_records import ProbeRecord, pixels_digest, units_text
from medcontrast.engine.benchmark.encoder_report import write_probe_report
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


@pytest.mark.parametrize(
    ("edit", "settings_", "sentence"),
    [
        (
            lambda tree: [entry.pop("quality", None) for entry in tree["test"]],
            {"drop": "quality"},
            "drop quality: needs",
        ),
        (
            lambda tree: tree.update(test=[entry for entry in tree["test"] if entry["target"] == 0]),
            {},
            "data/manifest.json: all 6 images of test are of one class, plain.",
        ),
        (
            lambda tree: [entry.update(domain="A") for entry in tree["test"]],
            {"groups": {"domain": ["A", "B"]}},
            "groups: no scored image is of domain 'A'; they do not differ by domain.",
        ),
    ],
)
def test_what_no_probe_could_use_is_found_before_anything_is_trained(cli, grid, edit, settings_, sentence):
    tree = json.loads(Path("data/manifest.json").read_text(encoding="utf-8"))
    edit(tree)
    Path("data/manifest.json").write_text(json.dumps(tree), encoding="utf-8")
    grid.write_text(yaml.safe_dump(yaml.safe_load(grid.read_text(encoding="utf-8")) | settings_), encoding="utf-8")
    found = cli("benchmark", grid)
    assert found.code == 2 and sentence in found.err, found.err
    assert not Path("runs").exists() and not Path("benchmarks").exists()


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
        {"facts": {"split": "test"}},
        {"recipe": {"train": {}}},
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
