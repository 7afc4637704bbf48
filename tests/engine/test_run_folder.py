"""Tests of run folders: by hand (exact sentences), property."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from medcontrast.engine import run as run_module
from medcontrast.engine.run import Run
from medcontrast.engine.run_files import forget_replaced, held, put_back
from medcontrast.engine.session import train_run
from medcontrast.errors import CheckpointError, InputError, ManifestError, OutputError, RecipeError
from medcontrast.settings import load_recipe


@pytest.fixture
def recipe(tiny, tmp_path):
    tiny.write_data(tmp_path / "data", validation=1)
    return tiny.write_recipe(tmp_path / "tiny.yaml", tiny.recipe_tree())


def create(path, folder, *overrides, **options):
    return Run.create(folder, load_recipe(path, overrides), path, **options)


def test_the_resolved_recipe_makes_the_same_run(recipe, tmp_path):
    first = create(recipe, tmp_path / "first")
    assert sorted(path.name for path in first.folder.iterdir()) == [".lock", "manifest.json", "resolved.yaml"]
    second = create(first.folder / "resolved.yaml", tmp_path / "second")
    assert second.recipe == first.recipe
    assert (second.manifest.labeled, second.manifest.labels) == (first.manifest.labeled, first.manifest.labels)
    assert [case.images[0].exists() for case in second.manifest.labeled] == [True, True]


def test_a_root_relative_to_the_recipe_means_the_same_in_the_run_folder(tiny, recipe, tmp_path):
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    del manifest["root"]
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(manifest))
    tree = tiny.set_key(tiny.recipe_tree(init_from="runs/a"), "data.root", "data")
    path = tiny.write_recipe(tmp_path / "rooted.yaml", tree)
    run = create(path, tmp_path / "deep" / "run")
    assert run.manifest.root == tmp_path / "data"
    assert run.manifest.labeled[0].images[0].exists()
    assert run.recipe.train.init_from == str(tmp_path / "runs" / "a")


def test_an_existing_folder_is_never_written_over(recipe, tmp_path):
    folder = tmp_path / "run"
    create(recipe, folder)
    (folder / "last.pt").write_bytes(b"precious")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    sentence = (
        rf"^{folder}: this folder holds something already\. Go on with `medcontrast train --resume {folder}`, "
        r"choose another with -o, or add --overwrite to begin anew\.$"
    )
    with pytest.raises(OutputError, match=sentence):
        create(recipe, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_overwrite_costs_nothing_where_a_scan_is_missing(recipe, tmp_path):
    run = create(recipe, tmp_path / "run")
    (run.folder / "last.pt").write_bytes(b"precious")
    run.manifest.unlabeled[0].images[0].unlink()
    create(recipe, tmp_path / "other")  # supervised: opens no unlabeled scan
    semi_supervised = ("method={name: mean_teacher}", "train.unlabeled_rows=2")
    with pytest.raises(ManifestError, match=r"files are not there, the first is .*\. The data folder is "):
        create(recipe, run.folder, *semi_supervised, overwrite=True)
    assert (run.folder / "last.pt").read_bytes() == b"precious"


def test_overwrite_takes_away_what_a_run_writes_and_nothing_else(recipe, tmp_path):
    folder = tmp_path / "run"
    create(recipe, folder)
    for name in ("last.pt", "last.safetensors", "best.safetensors", "log.jsonl", "run.json", "notes.txt"):
        (folder / name).write_text("old")
    scores = {"evaluation_test_last": "evaluation.json", "evaluation_other_test_best": "evaluation.json"}
    scores["evaluation_validation_last"] = "report.json"  # a kill came before its facts
    scores |= {"probe_test": "probe.json", "probe_notes": "mine.json", "evaluation": "evaluation.json"}
    for name, file in {"tensorboard": "file", "overlays": "file", **scores}.items():
        (folder / name).mkdir()
        (folder / name / file).write_text("old")
    create(recipe, folder, "train.steps=9", overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock",
        ".replaced",
        "evaluation",
        "manifest.json",
        "notes.txt",
        "probe_notes",
        "resolved.yaml",
    ]
    assert Run.open(folder).recipe.train.steps == 9
    forget_replaced(folder)
    assert not (folder / ".replaced").exists() and (folder / "resolved.yaml").exists()


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture
def trained(recipe, tmp_path):
    """A run that was trained, and what is in its folder."""
    folder = create(recipe, tmp_path / "run").folder
    for name in (
        "last.pt",
        "last.safetensors",
        "log.jsonl",
        "run.json",
        "tensorboard/events",
        "evaluation_a/evaluation.json",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("old")
    return folder, contents(folder)


def test_a_run_that_fails_before_its_first_checkpoint_puts_the_old_one_back(recipe, trained):
    folder, before = trained
    create(recipe, folder, "train.steps=9", overwrite=True)
    (folder / "tensorboard").mkdir()
    (folder / "tensorboard" / "other").write_text("new")
    put_back(folder)
    assert contents(folder) == before


def test_a_folder_that_cannot_be_written_keeps_the_old_run(recipe, trained, monkeypatch):
    folder, before = trained
    monkeypatch.setattr(run_module, "write_text", failing)
    with pytest.raises(OutputError, match="disk is full"):
        create(recipe, folder, "train.steps=9", overwrite=True)
    assert contents(folder) == before


def failing(*arguments, **settings):
    raise OutputError("disk is full")


def test_with_a_checkpoint_the_new_run_stays(recipe, trained):
    folder, _ = trained
    create(recipe, folder, "train.steps=9", overwrite=True)
    (folder / "last.pt").write_text("new")
    put_back(folder)
    assert (folder / "last.pt").read_text() == "new" and Run.open(folder).recipe.train.steps == 9
    create(recipe, folder, "train.steps=7", overwrite=True)  # a kill came before the old run was forgotten
    put_back(folder)
    assert (folder / "last.pt").read_text() == "new" and Run.open(folder).recipe.train.steps == 9


@pytest.mark.parametrize("moves", range(9))
def test_a_kill_while_the_old_run_is_set_aside_loses_nothing(recipe, trained, monkeypatch, moves):
    """Nor does one while it is put back."""
    folder, before = trained
    rename = Path.rename

    class Killed(BaseException):
        pass

    def until_killed(path, target):
        if len(done) == moves:
            raise Killed
        done.append(path)
        return rename(path, target)

    done = []
    monkeypatch.setattr(Path, "rename", until_killed)
    with pytest.raises(Killed) if moves < 8 else nullcontext():
        create(recipe, folder, "train.steps=9", overwrite=True)
    monkeypatch.undo()
    create(recipe, folder, "train.steps=7", overwrite=True)
    done.clear()
    monkeypatch.setattr(Path, "rename", until_killed)
    with pytest.raises(Killed) if moves < 8 else nullcontext():
        put_back(folder)
    monkeypatch.undo()
    create(recipe, folder, "train.steps=7", overwrite=True)
    put_back(folder)
    assert contents(folder) == before


def test_messages_say_where_the_run_lies_that_an_interrupted_overwrite_was_to_replace(recipe, trained):
    folder, _ = trained
    create(recipe, folder, "train.steps=9", overwrite=True)  # and a kill comes now
    where = rf" The run that an interrupted --overwrite was to replace lies whole in {folder}/\.replaced\.$"
    with pytest.raises(CheckpointError, match=r"train it again with --overwrite\." + where):
        train_run(folder, resume=True)
    with pytest.raises(OutputError, match=r"already\. Choose another with -o, or add --overwrite to .*\." + where):
        create(recipe, folder, "train.steps=7")
    (folder / "last.pt").write_text("new")  # nothing is left to go back to
    with pytest.raises(OutputError, match=r"--overwrite to begin anew\.$"):
        create(recipe, folder, "train.steps=7")


def test_overwrite_leaves_other_folders_and_files_alone(recipe, tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("words")
    with pytest.raises(OutputError, match=r"--overwrite replaces run folders alone, and this is not one"):
        create(recipe, folder, overwrite=True)
    assert [path.name for path in folder.iterdir()] == ["chapter.txt"]
    file = tmp_path / "file"
    file.write_text("words")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=rf"^{file}: "):
            create(recipe, file, overwrite=overwrite)
    assert file.read_text() == "words"


def test_a_faulty_recipe_takes_nothing_away(recipe, tmp_path):
    folder = tmp_path / "run"
    create(recipe, folder)
    (folder / "last.pt").write_bytes(b"precious")
    with pytest.raises(RecipeError, match=r"train\.validate_every"):
        path = tmp_path / "data" / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "validation": []}))
        create(recipe, folder, "train.validate_every=2", overwrite=True)
    assert (folder / "last.pt").read_bytes() == b"precious"


def test_a_run_that_never_trained_may_be_made_again(recipe, tmp_path):
    create(recipe, tmp_path / "run")
    for steps in (3, 4):  # as often as somebody likes
        assert create(recipe, tmp_path / "run", f"train.steps={steps}").recipe.train.steps == steps
    assert not (tmp_path / "run" / ".replaced").exists()


@pytest.mark.parametrize("left", [[".lock"], [".lock", ".resolved.yaml.0a1b2c3d.tmp"], ["resolved.yaml"]])
def test_what_a_kill_left_of_a_run_that_was_being_made_is_in_nobodys_way(recipe, tmp_path, left):
    folder = tmp_path / "run"
    create(recipe, folder)
    for path in folder.iterdir():
        if path.name not in left:
            path.unlink()
    for name in left:
        (folder / name).touch()
    assert create(recipe, folder, "train.steps=3").recipe.train.steps == 3
    (folder / "last.pt").touch()
    with pytest.raises(OutputError, match="holds something already"):
        create(recipe, folder)


def test_a_run_that_another_process_trains_is_not_replaced(recipe, tmp_path):
    run = create(recipe, tmp_path / "run")
    before = (run.folder / "resolved.yaml").read_text()
    sentence = rf"^{run.folder}: another process trains this run; wait for its end, or stop it\.$"
    with FileLock(run.folder / ".lock"):  # as another process has it
        with pytest.raises(InputError, match=sentence), held(run.folder):
            pass
        with pytest.raises(InputError, match=sentence):
            create(recipe, run.folder, "train.steps=9", overwrite=True)
        assert (run.folder / "resolved.yaml").read_text() == before
    create(recipe, run.folder, "train.steps=9", overwrite=True)


def test_who_holds_a_run_may_hold_it_again(recipe, tmp_path, monkeypatch):
    run = create(recipe, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    with held(run.folder):
        with held(Path("run")):
            pass
        with pytest.raises(Timeout), FileLock(run.folder / ".lock", timeout=0):
            pass
    with FileLock(run.folder / ".lock", timeout=0):
        pass


def test_a_run_is_held_from_its_making_on(recipe, tmp_path):
    """A second start in the seconds before the first one trains must not take its place."""
    with Run.begun(tmp_path / "run", load_recipe(recipe), recipe) as run:
        assert run.recipe == Run.open(run.folder).recipe
        with pytest.raises(Timeout), FileLock(run.folder / ".lock", timeout=0):
            pass
    (run.folder / "last.pt").touch()
    sentence = rf"^{run.folder}: this run has a checkpoint already; resume it, or make it anew\.$"
    with pytest.raises(InputError, match=sentence):
        train_run(run.folder, resume=False, accelerator="cpu")


def test_somebodys_folder_stays_as_it_is(recipe, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "scan.nii").touch()
    for overwrite in (False, True):
        with pytest.raises(OutputError):
            create(recipe, tmp_path / "mine", overwrite=overwrite)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["scan.nii"]


def test_an_empty_folder_is_free(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    run = create(recipe, tmp_path / "run")
    assert (run.folder / "resolved.yaml").is_file() and not run.resume_file.exists()


def test_a_folder_that_cannot_be_written(recipe, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot be written \(.*file is no folder\); name another output\.$"):
        create(recipe, tmp_path / "file" / "run")


def test_no_run_folder(tmp_path):
    with pytest.raises(CheckpointError, match=rf"^{tmp_path}: not a run folder \(it has no resolved\.yaml\)\.$"):
        Run.open(tmp_path)


def test_a_resumed_run_keeps_its_recipe(recipe, tmp_path):
    folder = create(recipe, tmp_path / "run").folder
    before = (folder / "resolved.yaml").read_text()
    for override in ("train.optimizer.lr=0.1", "seed=2", "method.name=fba_net", "train=3"):
        with pytest.raises(
            RecipeError, match=rf"^--set {override}: a resumed run keeps its recipe; only train\.steps, "
        ):
            Run.open(folder, [override])
    assert (folder / "resolved.yaml").read_text() == before
    changed = Run.open(folder, ["train.steps=12", "data.workers=1"])
    assert changed.recipe.train.steps == 12
    assert (folder / "resolved.yaml").read_text() == before  # until it is sure that the run goes on
    changed.keep_recipe()
    assert Run.open(folder).recipe == changed.recipe


def test_validating_needs_validation_cases(tiny, tmp_path):
    tiny.write_data(tmp_path / "data")
    path = tiny.write_recipe(tmp_path / "tiny.yaml", tiny.recipe_tree("fba_net", validate_every=5))
    with pytest.raises(RecipeError, match=r"^1 fault in .*tiny\.yaml:") as caught:
        create(path, tmp_path / "run")
    assert str(caught.value).splitlines()[1] == (
        f"  - train.validate_every 5: {tmp_path / 'data' / 'manifest.json'} has no validation cases, and test cases "
        "choose nothing; set it to null, and training keeps `last` alone"
    )
    assert not (tmp_path / "run").exists()


def test_every_misfit_of_recipe_and_manifest_at_once(tiny, tmp_path):
    tiny.write_data(tmp_path / "data", labeled=0, unlabeled=0, test=1)
    path = tiny.write_recipe(tmp_path / "tiny.yaml", tiny.recipe_tree("fba_net", validate_every=5))
    with pytest.raises(RecipeError, match=r"^3 faults in ") as caught:
        create(path, tmp_path / "run")
    keys = [line.split(":")[0].strip(" -") for line in str(caught.value).splitlines()[1:]]
    assert keys == ["data.manifest", "train.unlabeled_rows 2", "train.validate_every 5"]


def test_facts_and_log(recipe, tmp_path):
    run = create(recipe, tmp_path / "run")
    run.write_facts({"device": "cpu"})
    facts = json.loads((run.folder / "run.json").read_text())
    assert facts["device"] == "cpu"
    assert {"medcontrast", "git_commit", "python", "versions", "written"} <= facts.keys()
    start = {"file": "a/last.safetensors"}
    run.write_facts({"device": "cuda:0", "gpu": "x", "init_from": start, "bfloat16_rounded": True}, resumed=True)
    run.write_facts({"device": "cpu"}, resumed=True)
    facts = json.loads((run.folder / "run.json").read_text())
    assert facts["device"] == "cpu" and "gpu" not in facts  # of the session before
    assert (facts["init_from"], facts["bfloat16_rounded"]) == (start, True)  # of the run
    assert [part["device"] for part in facts["earlier"]] == ["cpu", "cuda:0"]
    assert all("earlier" not in part for part in facts["earlier"])
    run.write_facts({"device": "cpu"})
    assert "earlier" not in json.loads((run.folder / "run.json").read_text())
    run.cut_log(3, validated=True)  # there is none yet
    for step in (1, 2, 3):
        run.log({"step": step})
    run.cut_log(2, validated=False)
    assert [json.loads(line)["step"] for line in (run.folder / "log.jsonl").read_text().splitlines()] == [1, 2]
