"""Validation inside a run, what it leaves behind, and resumes of a run whose cases were edited. Property, sentences."""

from __future__ import annotations

import dataclasses
import json
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from rich.console import Console

from medcontrast.checkpoint import load_resume, load_weights, read_header, save_resume
from medcontrast.data.prepared import PreparedCase
from medcontrast.engine import validate
from medcontrast.engine.loop import Trainer
from medcontrast.engine.run import Run
from medcontrast.engine.stopping import StopRequest
from medcontrast.engine.validate import Validator
from medcontrast.errors import CheckpointError, InputError, NonFiniteOutputError
from medcontrast.labels import LabelTable


def test_the_recipe_may_ask_for_the_student(tiny, tmp_path, monkeypatch):
    """It is validated, then, as well: best.safetensors holds what its Dice is of."""
    seen, plain = [], Validator.__call__
    monkeypatch.setattr(
        Validator, "__call__", lambda self, network, step: seen.append(network) or plain(self, network, step)
    )
    tree = tiny.set_key(tiny.recipe_tree("mean_teacher", steps=2, validate_every=1), "inference.network", "student")
    run = tiny.make_run(tmp_path, tree, validation=1)
    trainer = tiny.train(run)
    assert len(seen) == 2 and all(network is trainer.method.student for network in seen)
    weights, header = load_weights(run.folder / "last.safetensors")
    assert header["network"] == "student"
    student = trainer.method.student.state_dict()
    assert all(torch.equal(weights[name], student[name]) for name in weights)


def test_an_output_that_is_not_finite_names_the_case_and_what_training_may_do(tiny, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise NonFiniteOutputError("the output is NaN")

    monkeypatch.setattr(validate, "predict_case", broken)
    run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=3, validate_every=2), validation=1)
    sentence = (
        r"^Validation case \S+: the output is NaN; go on without validation \(`--set train\.validate_every=null`\), or"
    )
    with pytest.raises(NonFiniteOutputError, match=sentence):
        tiny.train(run)
    resumed = Run.open(run.folder, ["train.validate_every=null"])
    trainer = Trainer(resumed, Fabric(accelerator="cpu", devices=1), Console(quiet=True))
    trainer.resume()
    trainer.fit(tiny.stop_after(0))
    assert trainer.state.step == 3


def test_the_last_step_is_validated_whatever_the_interval(tiny, tmp_path):
    for every, expected in ((2, [2, 3]), (50, [3])):
        run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=3, validate_every=every), validation=1, name=f"v{every}")
        tiny.train(run)
        assert [record["step"] for record in tiny.read_log(run) if "validation_dice" in record] == expected
        assert (run.folder / "best.safetensors").is_file()


def test_an_equal_dice_later_does_not_replace_the_best(tiny, tmp_path, monkeypatch):
    found, plain = iter([0.25, 0.5, 0.5, 0.25]), Validator.__call__
    monkeypatch.setattr(
        Validator,
        "__call__",
        lambda self, network, step: dataclasses.replace(plain(self, network, step), mean_dice=next(found)),
    )
    run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=4, validate_every=1), validation=1)
    state = tiny.train(run).state
    assert (state.best_step, state.best_dice) == (2, 0.5)
    assert read_header(run.folder / "best.safetensors")["step"] == 2


def test_a_run_is_saved_before_it_is_validated(tiny, tmp_path, monkeypatch):
    """Whoever sends a signal, before or meanwhile, may kill what does not end soon."""
    saved, plain = [], Validator.__call__

    def validate(self, network, step):
        saved.append(load_resume(run.resume_file)["progress"]["step"])
        return plain(self, network, step)

    monkeypatch.setattr(Validator, "__call__", validate)
    run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=4, validate_every=2, save_every=100), validation=1)
    tiny.train(run, steps=2)
    assert saved == [2]
    tiny.train(tiny.open_run(run.folder), resume=True)
    assert saved == [2, 4]
    assert load_resume(run.resume_file)["progress"]["best_step"] in (2, 4)


def test_a_signal_during_a_validation_ends_the_run_after_it(tiny, tmp_path, monkeypatch):
    stop, plain = StopRequest(), Validator.__call__

    def validate(self, network, step):
        stop.reason = "SIGTERM was received"
        return plain(self, network, step)

    monkeypatch.setattr(Validator, "__call__", validate)
    run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=6, validate_every=2, save_every=100), validation=1)
    trainer = Trainer(run, Fabric(accelerator="cpu", devices=1), Console(quiet=True))
    assert trainer.fit(stop).step == 2
    saved = load_resume(run.resume_file)["progress"]
    assert (saved["step"], saved["best_step"]) == (2, 2)


def test_a_label_may_be_called_as_a_key_of_the_log(tiny, tmp_path):
    tree = tiny.recipe_tree(steps=2, validate_every=2)
    run = tiny.make_run(tmp_path, tree, validation=1)
    manifest = run.folder / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["labels"] = {"0": "background", "1": "step", "2": "validation_dice"}
    manifest.write_text(json.dumps(content), encoding="utf-8")
    run = tiny.open_run(run.folder)
    trainer = tiny.train(run)
    (record,) = [record for record in tiny.read_log(run) if "validation_dice" in record]
    assert (record["step"], record["validation_dice"]) == (2, trainer.state.best_dice)


def test_other_validation_cases_are_refused_once_a_best_was_chosen(tiny, tmp_path):
    run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=4, validate_every=2), validation=2)
    tiny.train(run, steps=2)
    manifest = run.folder / "manifest.json"
    plain = manifest.read_text(encoding="utf-8")
    content = json.loads(plain)
    content["validation"] = content["validation"][:1]
    manifest.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CheckpointError, match="its validation cases are not those by which the best network was cho"):
        tiny.train(tiny.open_run(run.folder), resume=True)
    manifest.write_text(plain, encoding="utf-8")
    assert tiny.train(tiny.open_run(run.folder), resume=True).state.step == 4


class KilledError(Exception):
    """Stands for a kill: nothing is saved after it."""


def killed(*_, **__):
    raise KilledError


def killed_in(monkeypatch, place, name):
    monkeypatch.setattr(place, name, killed)


def validated(tiny, run):
    return [record["step"] for record in tiny.read_log(run) if "validation_dice" in record]


def test_a_validation_that_was_logged_and_not_saved_is_logged_once(tiny, tmp_path, monkeypatch):
    run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=4, validate_every=2, save_every=100), validation=1)
    with monkeypatch.context() as patched, pytest.raises(KilledError, match=r"^$"):
        save = Trainer.save
        patched.setattr(Trainer, "save", lambda self: killed() if self.state.validated_step == 2 else save(self))
        tiny.train(run)
    assert validated(tiny, run) == [2]
    tiny.train(tiny.open_run(run.folder), resume=True)
    assert validated(tiny, run) == [2, 4]


@pytest.mark.parametrize("step", [2, 4])
def test_a_validation_that_a_kill_cut_off_is_made_up_for(tiny, tmp_path, monkeypatch, step):
    """In the middle of a run, and at its last step, which then is not finished."""
    run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=4, validate_every=2, save_every=100), validation=1)
    if step == 4:
        tiny.train(run, steps=2)
    with monkeypatch.context() as patched, pytest.raises(KilledError, match=r"^$"):
        killed_in(patched, Validator, "__call__")
        tiny.train(tiny.open_run(run.folder), resume=step == 4)
    assert step not in validated(tiny, run)
    assert tiny.train(tiny.open_run(run.folder), resume=True).state.step == 4
    assert validated(tiny, run) == [2, 4]
    with pytest.raises(InputError, match="this run is finished"):
        tiny.train(tiny.open_run(run.folder), resume=True)


def test_a_kill_after_a_validation_forgets_no_best(tiny, tmp_path, monkeypatch):
    """The next save would come a hundred steps later."""
    worse, plain = iter([0.5, 0.1]), Validator.__call__

    def validate(self, network, step):
        return dataclasses.replace(plain(self, network, step), mean_dice=next(worse))

    monkeypatch.setattr(Validator, "__call__", validate)
    run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=4, validate_every=2, save_every=100), validation=1)
    steps, step = [], Trainer._step

    def third_is_killed(self, *args):
        steps.append(args[-1].step)
        if steps[-1] == 2:
            raise KilledError
        return step(self, *args)

    with monkeypatch.context() as patched, pytest.raises(KilledError, match=r"^$"):
        patched.setattr(Trainer, "_step", third_is_killed)
        tiny.train(run)
    trainer = tiny.train(tiny.open_run(run.folder), resume=True)
    assert (trainer.state.best_step, trainer.state.best_dice) == (2, 0.5)
    assert read_header(run.folder / "best.safetensors")["step"] == 2
    assert validated(tiny, run) == [2, 4]


def test_a_checkpoint_that_says_no_validated_step_is_resumed_as_before(tiny, tmp_path):
    run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=4, validate_every=2), validation=1)
    tiny.train(run, steps=2)
    saved = load_resume(run.resume_file)
    del saved["progress"]["validated_step"]
    save_resume(run.resume_file, saved)
    tiny.train(tiny.open_run(run.folder), resume=True)
    assert validated(tiny, run) == [2, 4]


def test_best_names_the_cases_that_chose_it_and_evaluate_says_so(cli, tiny, tmp_path):
    run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=2, validate_every=1), validation=2)
    tiny.train(run)
    names = [case.name for case in run.manifest.validation]
    assert read_header(run.folder / "best.safetensors")["chosen_on"] == names
    assert "chosen_on" not in read_header(run.folder / "last.safetensors")
    words = ("--split", "validation", "--manifest", run.folder / "manifest.json", "--device", "cpu")
    for file, said in (("best.safetensors", True), ("last.safetensors", False)):
        result = cli("evaluate", "--ckpt", run.folder / file, *words, "-o", tmp_path / file)
        assert result.code == 0, result.err
        warning = (
            f"Warning: 2 of 2 cases of tiny were what chose {run.folder / file}; this is not a score on new cases."
        )
        assert (warning in " ".join(result.out.split())) is said


@pytest.mark.parametrize(("key", "words"), [("labeled", "training cases"), ("labels", "labels")])
def test_cases_edited_after_the_checkpoint_are_refused(tiny, tmp_path, key, words):
    run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=4))
    tiny.train(run, steps=2)
    path = run.folder / "manifest.json"
    kept = path.read_text(encoding="utf-8")
    tree = json.loads(kept)
    if key == "labeled":
        tree["labeled"][0]["case"] = "another"
    else:
        tree["labels"] = {"0": "background", "1": "back", "2": "front"}
    path.write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"manifest\.json: its {words} are not those of the checkpoint\. Put"):
        tiny.train(Run.open(run.folder), resume=True)
    path.write_text(kept, encoding="utf-8")
    assert tiny.train(Run.open(run.folder), resume=True).state.step == 4


def test_validation_by_hand(tiny, tmp_path, monkeypatch):
    """Ignored voxels count nowhere, `mean_dice` is of labels and not of regions, the picture shows the worst case."""
    reference = np.zeros((1, 4, 4, 4), np.int16)
    reference[:, 0], reference[:, 1], reference[:, 3] = 1, 2, -1
    right = np.where(reference < 0, 1, reference)[0]  # class 1 where nothing is known
    wrong = right.copy()
    wrong[1] = 1
    said = {"a": right, "b": wrong, "c": right}
    seen = {"flips": [], "autocast": 0, "shown": None}
    cases = [
        PreparedCase(name, np.full((1, 4, 4, 4), ord(name), np.float32), reference, np.eye(4), None) for name in said
    ]

    def predict(network, image, *, flip_axes, **_):
        seen["flips"].append(tuple(flip_axes))
        assert seen["autocast"] == len(seen["flips"])
        return torch.from_numpy(said[chr(int(image.flatten()[0]))])

    @contextmanager
    def autocast():
        seen["autocast"] += 1
        yield

    monkeypatch.setattr(validate, "predict_case", predict)
    monkeypatch.setattr(validate, "overlay_grid_png", lambda path, rows, **_: seen.update(shown=rows[0].title))
    tree = tiny.recipe_tree(validate_every=1)
    tree["augment"]["spatial"] = {"flip_axes": [2]}
    run = tiny.make_run(tmp_path, tree, validation=3)
    labels = LabelTable.from_json({"labels": {"3": "front", "7": "back"}, "regions": {"whole": [3, 7]}})
    validator = Validator(run.folder, run.recipe, run.manifest, torch.device("cpu"), autocast)
    validator.cases, validator.labels = cases, labels
    report = validator(torch.nn.Identity(), 1)
    # b: of 32 voxels called front 16 are; none is called back
    assert report.by_target == pytest.approx({"front": (1 + 2 / 3 + 1) / 3, "back": 2 / 3, "whole": 1.0})
    assert report.mean_dice == pytest.approx((8 / 9 + 2 / 3) / 2)
    assert seen == {"flips": [(2,)] * 3, "autocast": 3, "shown": "b: Dice 0.333"}


@pytest.mark.parametrize(("lost", "expected"), [((), 1.0), (("front",), 0.0)])
def test_what_resampling_took_from_the_reference_is_not_found(tiny, tmp_path, monkeypatch, lost, expected):
    """An empty reference and an empty prediction agree, unless the label file holds the structure."""
    back = np.zeros((1, 4, 4, 4), np.int16)
    back[:, 1] = 2
    case = PreparedCase("a", np.zeros((1, 4, 4, 4), np.float32), back, np.eye(4), None, lost)
    monkeypatch.setattr(validate, "predict_case", lambda *_, **__: torch.from_numpy(back[0]))
    monkeypatch.setattr(validate, "overlay_grid_png", lambda *_, **__: None)
    run = tiny.make_run(tmp_path, tiny.recipe_tree(validate_every=1), validation=1)
    labels = LabelTable.from_json({"labels": {"3": "front", "7": "back"}, "regions": {"whole": [3, 7]}})
    validator = Validator(run.folder, run.recipe, run.manifest, torch.device("cpu"), nullcontext)
    validator.cases, validator.labels = [case], labels
    assert validator(torch.nn.Identity(), 1).by_target == {"front": expected, "back": 1.0, "whole": 1.0}
