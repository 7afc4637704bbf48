"""Tests of benchmarks/peers: by hand (conversion, stand-ins, configuration, notes), whole (a peer's run to its row)."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from medcontrast.data.manifest import load_manifest
from medcontrast.engine.benchmark.records import Record
from medcontrast.errors import InputError

ROOT = Path(__file__).parents[2]
# What a peer does, with nothing learned: masks are copies of the reference, but empty for the first case.
PRETENDER = """
import json, shutil, sys
from pathlib import Path
import nibabel
folder = Path(sys.argv[1])
job = json.loads((folder / "job.json").read_text())
(folder / "predictions").mkdir()
for number, path in enumerate(sorted((folder / "reference").iterdir())):
    shutil.copy(path, folder / "predictions" / path.name)
    if number == 0:
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(image.get_fdata().astype("uint8") * 0, image.affine),
                     folder / "predictions" / path.name)
facts = {"peer": {"name": "Pretender", "version": "1.0"}, "settings": {"rate": 0.5}, "step": job["steps"],
         "train_seconds": 3, "trained_parameters": 2_000_000, "notes": ["it learned nothing"]}
(folder / "facts.json").write_text(json.dumps(facts))
"""


@pytest.fixture
def peers(monkeypatch):
    """The scripts of benchmarks/peers as modules; none of them needs PyMIC to be imported."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "peers"))
    import peer_cases
    import pymic_job
    import pymic_stubs
    import run_peer

    return SimpleNamespace(cases=peer_cases, job=pymic_job, stubs=pymic_stubs, run=run_peer)


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.reader(stream))


def test_cases_are_linked_and_listed(peers, tiny, tmp_path):
    manifest = load_manifest(tiny.write_data(tmp_path / "data", labeled=2, unlabeled=3, validation=1, channels=2))
    job = tmp_path / "job"
    peers.cases.write_cases(manifest, "validation", job, {"steps": 5})
    assert rows_of(job / "labeled.csv") == [
        ["image", "image_1", "label"],
        ["images/case_00.nii", "images/case_00_channel1.nii", "labels/case_00.nii"],
        ["images/case_01.nii", "images/case_01_channel1.nii", "labels/case_01.nii"],
    ]
    assert rows_of(job / "watched.csv") == rows_of(job / "labeled.csv")[:2]
    assert [row[0] for row in rows_of(job / "unlabeled.csv")] == [
        "image", "images/case_02.nii", "images/case_03.nii", "images/case_04.nii",
    ]  # fmt: skip
    assert rows_of(job / "test.csv") == [
        ["image", "image_1"],
        ["images/case_05.nii", "images/case_05_channel1.nii"],
    ]
    assert (job / "images/case_03_channel1.nii").resolve() == tmp_path / "data/images/case_03_1.nii"
    assert (job / "reference/case_05.nii").resolve() == tmp_path / "data/labels/case_05.nii"
    content = json.loads((job / "job.json").read_text(encoding="utf-8"))
    assert content == {"steps": 5, "channels": 2, "classes": 3, "labels": {"1": "front", "2": "back"}}
    assert peers.cases.read_list(job / "labeled.csv")[1][2] == job / "labels/case_01.nii"


def test_a_peer_is_shown_no_label_of_unlabeled_or_scored_cases(peers, tiny, tmp_path):
    manifest = load_manifest(tiny.write_data(tmp_path / "data", labeled=1, unlabeled=2, validation=2))
    peers.cases.write_cases(manifest, "validation", tmp_path / "job", {})
    assert [path.name for path in (tmp_path / "job/labels").iterdir()] == ["case_00.nii"]
    listed = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "job").glob("*.csv"))
    assert "reference" not in listed


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"labels": {"0": "background", "3": "front"}}, r"got \[0, 3\], ignored None"),
        ({"ignore_label": 9}, r"got \[0, 1, 2\], ignored 9"),
    ],
)
def test_label_values_that_peers_cannot_take_are_refused(peers, tiny, tmp_path, extra, message):
    manifest = load_manifest(tiny.write_data(tmp_path / "data", validation=1, **extra))
    with pytest.raises(InputError, match=message):
        peers.cases.write_cases(manifest, "validation", tmp_path / "job", {})


def test_a_missing_scan_is_named(peers, tiny, tmp_path):
    manifest = load_manifest(tiny.write_data(tmp_path / "data", validation=1))
    (tmp_path / "data/images/case_01_0.nii").unlink()
    with pytest.raises(InputError, match=r"case_01_0\.nii: peers read NIfTI files"):
        peers.cases.write_cases(manifest, "validation", tmp_path / "job", {})


def test_stand_ins_are_what_import_finds(peers, monkeypatch):
    names = [name for name in sys.modules if name.partition(".")[0] in ("torchvision", "timm", "imops")]
    for name in names:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(peers.stubs.importlib.util, "find_spec", lambda _: None)
    assert peers.stubs.install_stubs() == ["torchvision", "timm", "imops"]
    composed = sys.modules["torchvision"].transforms.Compose([lambda x: x + 1, lambda x: x * 10])
    assert composed(2) == 30
    layers = sys.modules["timm.models.layers"]
    assert sys.modules["timm"].models.layers is layers
    for name in ("DropPath", "to_2tuple", "trunc_normal_"):
        with pytest.raises(NotImplementedError, match=rf"timm\.models\.layers\.{name} is a stand-in"):
            getattr(layers, name)(0.1)
    assert peers.stubs.install_stubs() == []


def test_an_installed_package_is_left_alone(peers, monkeypatch):
    monkeypatch.setattr(sys, "modules", {"torchvision": 1, "timm": 2, "imops": 3})
    assert peers.stubs.install_stubs() == []
    assert sys.modules == {"torchvision": 1, "timm": 2, "imops": 3}


def make_job(method, **changes):
    job = {"method": method, "steps": 100, "seed": 3, "channels": 1, "classes": 3, "patch": [32, 48, 24]}
    return {**job, "labeled_rows": 4, "unlabeled_rows": 4, "mirror_axes": [0], **changes}


def test_the_configuration_asks_what_the_job_asks(peers, tmp_path):
    made = peers.job.make_configuration(make_job("UAMT"), tmp_path)
    assert (made["training"]["iter_max"], made["training"]["iter_valid"], made["training"]["iter_save"]) == (
        100,
        2,
        100,
    )
    assert made["training"]["random_seed"] == 3
    assert (made["dataset"]["train_batch_size"], made["dataset"]["train_batch_size_unlab"]) == (4, 4)
    assert made["dataset"]["patch_size"] == [24, 48, 32]
    assert made["semi_supervised_learning"]["rampup_end"] == 30
    assert made["network"]["net_type"] == "UNet"
    assert "deep_supervise" not in made["training"]
    flips = {name: made["dataset"][f"randomflip_flip_{name}"] for name in ("width", "height", "depth")}
    assert flips == {"width": True, "height": False, "depth": False}
    assert "LabelToProbability" not in made["dataset"]["train_transform_unlab"]
    assert "reference" not in json.dumps(made)
    assert peers.job.make_configuration(make_job("CPS"), tmp_path)["network"]["net_type"] == ["UNet", "UNet"]
    pyramid = peers.job.make_configuration(make_job("URPC"), tmp_path)
    assert pyramid["network"]["multiscale_pred"] and pyramid["training"]["deep_supervise"]


def test_steps_that_pymic_would_exceed_are_refused(peers):
    assert [peers.job.interval(steps) for steps in (1, 20, 100, 1000, 2600)] == [1, 1, 2, 20, 52]
    with pytest.raises(ValueError, match=r"--steps 1030: PyMIC trains in intervals of 20 steps"):
        peers.job.interval(1030)


def test_notes_say_what_the_checks_found(peers):
    dead = {"largest_student_parameter": 1.5, "largest_teacher_parameter": 0.0}
    assert ["run as released" in note for note in peers.job.notes_of(dead)] == [True]
    assert peers.job.notes_of({**dead, "flips_along_depth_in_64": 30, "largest_teacher_parameter": 1.4}) == []
    assert peers.job.notes_of({"flips_along_depth_in_64": 0}) == ["its flip never acts along the last axis"]
    unlogged = {"missing_in_log": "'loss_sup'"}
    assert peers.job.notes_of(unlogged)[0].startswith("as released it stops when it logs 'loss_sup'")


@pytest.fixture
def pretender(peers, tiny, tmp_path, monkeypatch):
    """A peer that copies the reference, the tiny manifest, and a command line for it."""
    script = tmp_path / "pretender.py"
    script.write_text(PRETENDER, encoding="utf-8")
    monkeypatch.setitem(peers.run.PEERS_KNOWN, "pymic_cps", peers.run.Peer(str(script), "CPS"))
    manifest = tiny.write_data(tmp_path / "data", labeled=2, unlabeled=3, validation=2)

    def command(*words):
        fixed = ["pymic_cps", "--manifest", manifest, "--work", tmp_path / "work", "--results", tmp_path / "out/peers"]
        return peers.run.parse([str(word) for word in (*fixed, *words)])

    return SimpleNamespace(command=command, run=peers.run.run, script=script, manifest=manifest)


def test_a_peers_run_becomes_a_row_of_the_table(pretender, tiny, tmp_path, cli, monkeypatch):
    path = pretender.run(pretender.command("--steps", "5"))
    record = Record.load(path)
    assert path == tmp_path / "out/peers/pymic_cps-2-0.json"
    assert (record.row, record.labeled, record.run) == ("pymic_cps", 2, 0)
    assert record.cases == ["case_05", "case_06"]
    assert record.scores["front"]["dice"] == [0.0, 1.0]
    assert record.scores["front"]["missed"] == [1.0, 0.0]
    assert record.recipe["job"]["steps"] == 5 and record.recipe["rate"] == 0.5
    assert record.facts["labeled_cases"] == ["case_00", "case_01"]
    assert (record.facts["unlabeled"], record.facts["peer"]["name"]) == (3, "Pretender")
    tiny.write_recipe(tmp_path / "supervised.yaml", tiny.recipe_tree("supervised"))
    grid = {"name": "tiny", "title": "Tiny", "manifest": "data/manifest.json", "target": "front", "labeled": [2]}
    grid |= {"runs": 1, "set": ["train.steps=2"], "baseline": "supervised"}
    grid["rows"] = {"supervised": {"recipe": "supervised.yaml"}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(grid), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    found = cli("benchmark", "tiny.yaml", "--results", "out")
    assert found.code == 0, found.err
    row = next(line for line in found.out.splitlines() if line.startswith("| pymic_cps (peer) | 1 | 0.5000"))
    assert row.split(" | ")[-2:] == ["2.00 M", "0.00 |"]
    assert "pymic_cps (peer): Pretender 1.0, 5 steps; it learned nothing." in found.out


def test_run_k_has_seed_and_subset_k(pretender, peers, tmp_path):
    record = Record.load(pretender.run(pretender.command("--run", "1", "--labeled", "1")))
    assert (record.labeled, record.run, record.recipe["job"]["seed"]) == (1, 1, 1)
    assert len(record.facts["labeled_cases"]) == 1 and record.facts["unlabeled"] == 4
    drawn = peers.run.labeled_subset(load_manifest(pretender.manifest), 1, 1)["labeled"]
    assert record.facts["labeled_cases"] == [drawn[0]["case"]]


def test_a_job_is_made_anew_only_when_asked(pretender):
    pretender.run(pretender.command())
    with pytest.raises(InputError, match=r"pymic_cps-2-0: exists already; add --overwrite"):
        pretender.run(pretender.command())
    assert pretender.run(pretender.command("--overwrite")).is_file()


def test_a_folder_that_is_no_job_is_never_removed(pretender, tmp_path):
    precious = tmp_path / "work/pymic_cps-2-0/thesis.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("words", encoding="utf-8")
    with pytest.raises(InputError, match="exists already"):
        pretender.run(pretender.command("--overwrite"))
    assert precious.is_file()


def test_a_failing_peer_shows_its_last_lines(pretender):
    pretender.script.write_text("raise SystemExit('no memory left')", encoding="utf-8")
    with pytest.raises(InputError, match=r"(?s)log\.txt: the peer failed with exit code 1.*no memory left"):
        pretender.run(pretender.command())


def test_a_mask_that_a_peer_left_out_is_an_error(pretender):
    text = PRETENDER.replace("facts =", "next((folder / 'predictions').iterdir()).unlink()\nfacts =", 1)
    pretender.script.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="no prediction for 1 of 2 labels"):
        pretender.run(pretender.command())


def test_records_go_to_the_grid_of_the_manifest(peers, tmp_path):
    results = ROOT / "benchmarks" / "results"
    folder = peers.run.results_folder(ROOT / "data_manifests" / "hippocampus_8of160.json")
    assert folder == results / "hippocampus" / "peers"
    tune = peers.run.results_folder(ROOT / "data_manifests" / "hippocampus_tune_8of120.json")
    assert tune == results / "hippocampus_methods_tune" / "peers"
    atrium = peers.run.results_folder(ROOT / "data_manifests" / "la_8of64_val16.json")
    assert atrium == results / "left_atrium_125" / "peers"  # not la_slices, which comes before it
    assert peers.run.results_folder(tmp_path / "mine.json") == results / "mine" / "peers"


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["pymic_mean_teacher", "pymic_ua_mt", "pymic_cps", "pymic_urpc"])
def test_pymic_trains_predicts_and_is_scored(peers, tiny, tmp_path, peer):
    python = os.environ.get("PYMIC_PYTHON")
    if not python:
        pytest.skip("PYMIC_PYTHON, the Python of an environment with PyMIC, is not set")
    manifest = tiny.write_data(tmp_path / "data", labeled=2, unlabeled=2, validation=1, shape=(34, 30, 36))
    words = [
        peer,
        "--python",
        python,
        "--manifest",
        manifest,
        "--steps",
        "2",
        "--rows",
        "2",
        "--patch",
        "32",
        "32",
        "32",
    ]
    words += ["--work", tmp_path / "work", "--results", tmp_path / "out"]
    record = Record.load(peers.run.run(peers.run.parse([str(word) for word in words])))
    assert record.facts["peer"]["name"] == "PyMIC"
    assert record.facts["step"] == 2
    assert str(tmp_path) not in json.dumps(record.recipe)
    checks = record.facts["checks"]
    if peer in ("pymic_mean_teacher", "pymic_ua_mt"):
        assert checks["largest_student_parameter"] > 0
        assert (checks["largest_teacher_parameter"] == 0) == any("released" in note for note in record.facts["notes"])
