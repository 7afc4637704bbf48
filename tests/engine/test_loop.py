"""Tests of the training loop: golden run, property."""

from __future__ import annotations

import io
import json
import math

import pytest
import torch
from lightning_fabric import Fabric
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medcontrast.checkpoint import load_resume, load_weights, read_header
from medcontrast.engine.loop import Trainer
from medcontrast.engine.run import Run
from medcontrast.engine.stopping import StopRequest
from medcontrast.errors import CheckpointError, InputError, RecipeError


def saved_tensors(run):
    saved = load_resume(run.resume_file)
    flat = {f"method.{name}": value for name, value in saved["method"].items()}
    for number, state in saved["optimizer"]["state"].items():
        flat |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
    return flat


def assert_same_run(tiny, first, second):
    assert tiny.read_log(first) == tiny.read_log(second)
    left, right = saved_tensors(first), saved_tensors(second)
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def curve(run, name="train/loss"):
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    return [event.step for event in events.Scalars(name)]


GOLDEN = {
    "supervised": {"loss": [1.738533, 1.65628, 1.724133, 1.661296, 1.673486]},
    "mean_teacher": {
        "loss": [1.738537, 1.656633, 1.74036, 1.664178, 1.681079],
        "consistency": [5.6e-05, 0.000123, 0.001629, 0.000216, 0.000653],
    },
    "fba_net": {
        "loss": [1.753278, 2.213046, 3.506827, 3.525829, 3.59716],
        "consistency": [1.508921, 1.342948, 1.155358, 1.283066, 1.289028],
        "push": [6.732226, 5.940402, 6.247872, 5.858907, 6.324816],
        "pull_foreground": [0.038655, 0.040634, 0.059324, 0.027431, 0.030186],
    },
    "fba_legacy": {
        "loss": [76.954994, 76.989311, 76.960403, 76.954048, 76.938171],
        "dice": [2.58634, 2.655042, 2.597226, 2.584596, 2.552861],
        "consistency": [0.599552, 0.595042, 0.594585, 0.589237, 0.587438],
    },
}


@pytest.mark.parametrize("method", list(GOLDEN))
def test_golden_losses_of_a_sine_filled_network(tiny, tmp_path, method):
    sgd = {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.001}
    run = tiny.make_run(tmp_path, tiny.recipe_tree(method, steps=5, optimizer=sgd))
    tiny.train(run, sine=True)
    for term, values in GOLDEN[method].items():
        assert [record[term] for record in tiny.read_log(run)] == pytest.approx(values, rel=5e-4, abs=2e-6)


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """Six steps in one go, a method each, made when first asked for; beside it the data."""
    runs: dict[str, Run] = {}

    def get(method: str) -> Run:
        if method not in runs:
            folder = tmp_path_factory.mktemp(method)
            runs[method] = tiny.make_run(folder, tiny.recipe_tree(method), name="whole", validation=1)
            tiny.train(runs[method])
        return runs[method]

    return get


@pytest.mark.parametrize("method", ["supervised", "mean_teacher", "fba_net", "fba_legacy"])
def test_three_steps_and_a_resume_are_six_steps(tiny, whole, method):
    complete = whole(method)
    run = tiny.make_run(complete.folder.parent, tiny.recipe_tree(method), name="parts")
    assert tiny.train(run, steps=3).state.step == 3
    assert load_resume(run.resume_file)["progress"]["step"] == 3
    tiny.train(Run.open(run.folder), resume=True)
    assert_same_run(tiny, complete, run)
    weights, header = load_weights(run.folder / "last.safetensors")
    assert header["step"] == 6
    others, _ = load_weights(complete.folder / "last.safetensors")
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_two_runs_with_one_seed_are_equal_and_with_another_are_not(tiny, whole):
    complete = whole("fba_net")
    again = tiny.make_run(complete.folder.parent, tiny.recipe_tree("fba_net"), name="again")
    tiny.train(again)
    assert_same_run(tiny, complete, again)
    other = tiny.make_run(
        complete.folder.parent, tiny.set_key(tiny.recipe_tree("fba_net", steps=2), "seed", 4), name="other"
    )
    tiny.train(other)
    assert tiny.read_log(other)[0]["loss"] != tiny.read_log(complete)[0]["loss"]


def test_resume_cuts_log_and_curves_back_to_the_checkpoint(tiny, whole):
    complete = whole("supervised")
    run = tiny.make_run(complete.folder.parent, tiny.recipe_tree(), name="cut")
    tiny.train(run, steps=3)
    kept = run.resume_file.read_bytes()
    tiny.train(Run.open(run.folder), resume=True, steps=2)  # killed at step 5, after the checkpoint of step 3
    run.resume_file.write_bytes(kept)
    with (run.folder / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 6, "lo')
    tiny.train(Run.open(run.folder), resume=True)
    assert_same_run(tiny, complete, run)
    assert curve(run) == [1, 2, 3, 4, 5, 6]


def test_a_run_killed_before_its_first_save_starts_its_curves_anew(tiny, tmp_path):
    run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=3))
    tiny.train(run, steps=1)
    fresh = tiny.make_run(tmp_path, tiny.recipe_tree(steps=3), name="fresh")
    trainer = Trainer(fresh, Fabric(accelerator="cpu", devices=1), Console(quiet=True))
    trainer.save()
    run.resume_file.write_bytes(fresh.resume_file.read_bytes())
    tiny.train(Run.open(run.folder), resume=True)
    assert [record["step"] for record in tiny.read_log(run)] == [1, 2, 3]
    assert curve(run) == [1, 2, 3]


def test_a_finished_run_goes_on_with_more_steps(tiny, whole):
    constant = {"schedule": {"name": "constant"}}
    folder = whole("mean_teacher").folder.parent
    long = tiny.make_run(folder, tiny.recipe_tree("mean_teacher", **constant), name="long")
    tiny.train(long)
    run = tiny.make_run(folder, tiny.recipe_tree("mean_teacher", steps=3, **constant), name="short")
    tiny.train(run)
    with pytest.raises(InputError, match=r"short: this run is finished \(3 of 3 steps\)\. To go on, ask for more: "):
        tiny.train(Run.open(run.folder), resume=True)
    tiny.train(Run.open(run.folder, ["train.steps=6"]), resume=True)
    assert_same_run(tiny, long, run)


def test_resume_with_two_loader_workers_is_the_same_run(tiny, whole):
    complete = whole("supervised")
    run = tiny.make_run(complete.folder.parent, tiny.recipe_tree(), name="workers")
    tiny.train(Run.open(run.folder, ["data.workers=2"]), steps=3)
    tiny.train(Run.open(run.folder), resume=True)
    assert_same_run(tiny, complete, run)


def test_dropout_draws_are_a_function_of_the_step(tiny, tmp_path):
    tree = tiny.recipe_tree()
    tree["network"] = {"name": "vnet", "filters": 2, "norm": "group", "dropout": 0.5}
    complete, run = (tiny.make_run(tmp_path, tree, name=name) for name in ("whole", "parts"))
    tiny.train(complete)
    tiny.train(run, steps=3)
    torch.rand(7)  # somebody else draws from the global generator in between
    tiny.train(Run.open(run.folder, ["data.workers=1"]), resume=True)
    assert_same_run(tiny, complete, run)


def test_every_micro_batch_of_every_step_has_its_own_dropout(tiny, tmp_path):
    tree = tiny.recipe_tree(labeled_rows=4, accumulate=2, steps=4)
    tree["network"] = {"name": "vnet", "filters": 2, "norm": "group", "dropout": 0.5}

    def masks_of(run, *, steps, resume=False):
        trainer, masks = Trainer(run, Fabric(accelerator="cpu", devices=1), Console(quiet=True)), []
        dropout = trainer.method.student.encoder.dropout
        dropout.register_forward_pre_hook(lambda _, inputs: (torch.ones_like(inputs[0]),))  # what comes out is the mask
        dropout.register_forward_hook(lambda _, inputs, output: masks.append(tuple(output.flatten().tolist())))
        if resume:
            trainer.resume()
        trainer.fit(tiny.stop_after(steps))
        return masks

    whole = masks_of(tiny.make_run(tmp_path, tree, name="whole"), steps=4)
    assert len(whole) == len(set(whole)) == 8
    parts = tiny.make_run(tmp_path, tree, name="parts")
    first = masks_of(parts, steps=2)
    torch.rand(7)  # somebody else draws from the global generator in between
    assert first + masks_of(Run.open(parts.folder), steps=2, resume=True) == whole


def test_label_files_of_unlabeled_cases_are_never_opened(tiny, whole):
    complete = whole("fba_net")
    for case in complete.manifest.unlabeled:
        case.label.unlink()
    run = tiny.make_run(complete.folder.parent, tiny.recipe_tree("fba_net"), name="no_labels")
    tiny.train(run)
    assert_same_run(tiny, complete, run)


def test_accumulating_two_micro_batches_equals_one_batch(tiny, tmp_path):
    for parts in (1, 2):
        run = tiny.make_run(
            tmp_path, tiny.recipe_tree(labeled_rows=4, accumulate=parts, steps=3), name=f"parts_{parts}"
        )
        tiny.train(run)
    one, two = (tiny.read_log(Run.open(tmp_path / f"parts_{parts}")) for parts in (1, 2))
    for left, right in zip(one, two, strict=True):
        assert left == pytest.approx(right, rel=1e-4)


def test_the_teacher_moves_once_per_step_and_not_per_micro_batch(tiny, tmp_path):
    run = tiny.make_run(tmp_path, tiny.recipe_tree("mean_teacher", accumulate=2, steps=2))
    trainer = Trainer(run, Fabric(accelerator="cpu", devices=1), Console(quiet=True))
    seen = []
    trainer.method.after_step = lambda info: seen.append(info.step)
    trainer.fit(tiny.stop_after(2))
    assert seen == [0, 1]


def test_the_rate_follows_the_schedule(tiny, tmp_path):
    train = {"optimizer": {"name": "sgd", "lr": 0.1}, "schedule": {"name": "poly", "power": 1.0, "warm_up_steps": 2}}
    run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=4, **train))
    tiny.train(run)
    rates = [record["lr"] for record in tiny.read_log(run)]
    assert rates == pytest.approx([0.1 * 0.5, 0.1 * 0.75, 0.1 * 0.5, 0.1 * 0.25])


def test_clipping_bounds_the_step(tiny, tmp_path):
    sgd = {"name": "sgd", "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=1, clip_norm=0.001, optimizer=sgd))
    trainer = Trainer(run, Fabric(accelerator="cpu", devices=1), Console(quiet=True))
    before = [parameter.detach().clone() for parameter in trainer.parameters]
    trainer.fit(tiny.stop_after(1))
    moved = [(new.detach() - old).square().sum() for new, old in zip(trainer.parameters, before, strict=True)]
    assert float(torch.stack(moved).sum().sqrt()) == pytest.approx(0.001, rel=1e-2)
    assert tiny.read_log(run)[0]["gradient_norm"] > 0.001


def test_a_scaler_of_the_loss_goes_on_where_it_was(tiny, tmp_path, monkeypatch):
    """16-mixed needs a GPU; its scaler is put in the place where Fabric keeps it."""
    run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=4))

    def trained(scale, steps, *, resume):
        trainer = Trainer(run, Fabric(accelerator="cpu", devices=1), Console(quiet=True))
        kept = {"scale": scale}
        precision = trainer.fabric.strategy.precision
        monkeypatch.setattr(precision, "state_dict", lambda: dict(kept))
        monkeypatch.setattr(precision, "load_state_dict", kept.update)
        if resume:
            trainer.resume()
        trainer.fit(tiny.stop_after(steps))
        return kept["scale"]

    assert trained(512.0, 2, resume=False) == 512.0
    assert trained(65536.0, 4, resume=True) == 512.0


def test_init_from_says_how_many_tensors_fit(tiny, whole):
    complete = whole("mean_teacher")
    teacher, _ = load_weights(complete.folder / "last.safetensors")
    tree = tiny.recipe_tree("mean_teacher", steps=1, init_from=str(complete.folder))
    run = tiny.make_run(complete.folder.parent, tree, name="initialised")
    trainer = tiny.train(run, steps=1)
    expected = f"Initialised {len(teacher)} of {len(teacher)} tensors from {complete.folder / 'last.safetensors'}."
    assert trainer.console.file.getvalue().splitlines()[0] == expected
    fresh = Trainer(run, Fabric(accelerator="cpu", devices=1), Console(quiet=True))
    fresh.initialise()
    for network in (fresh.method.student, fresh.method.teacher):
        assert all(torch.equal(value, teacher[name]) for name, value in network.state_dict().items())


def test_init_from_of_another_network_takes_what_fits_or_refuses(tiny, whole):
    complete = whole("supervised")
    tree = tiny.recipe_tree(steps=1, init_from=str(complete.folder))
    for filters, few in (([4, 8, 12], False), ([6, 12, 16], True)):
        tree["network"]["filters"] = filters
        run = tiny.make_run(complete.folder.parent, tree, name=f"wider {filters}")
        trainer = Trainer(run, Fabric(accelerator="cpu", devices=1), Console(file=io.StringIO(), width=1000))
        trainer.initialise()
        said = trainer.console.file.getvalue()
        count, total = int(said.split()[1]), int(said.split()[3])
        assert 0 < count < total
        assert (2 * count < total) is few
        assert ("so that little of what it learned is here" in said) is few
    tree["network"] = {"name": "vnet", "filters": 2, "norm": "group"}
    run = tiny.make_run(complete.folder.parent, tree, name="foreign")
    with pytest.raises(CheckpointError, match=r"none of its tensors fits this network by name and shape"):
        tiny.train(run)


def test_a_relative_init_from_starts_at_the_recipe_file(tiny, whole):
    complete = whole("supervised")
    tree = tiny.recipe_tree(steps=1, init_from="whole/last.safetensors")
    run = tiny.make_run(complete.folder.parent, tree, name="relative")
    text = tiny.train(run, steps=1).console.file.getvalue()
    assert text.startswith("Initialised ")


def test_checkpoints_say_what_they_were_trained_on(tiny, whole):
    header = read_header(whole("mean_teacher").folder / "last.safetensors")
    assert header["trained_on"] == {"labeled": ["case_00", "case_01"], "unlabeled": ["case_02", "case_03"]}
    assert (header["network"], header["step"], header["channels"]) == ("teacher", 6, ["channel 0"])
    assert read_header(whole("supervised").folder / "last.safetensors")["trained_on"]["unlabeled"] == []
    for name in ("mean_teacher", "supervised"):
        folder = whole(name).folder
        weights, _ = load_weights(folder / "last.safetensors")
        resumed, _ = load_weights(folder / "last.pt")
        assert weights.keys() == resumed.keys()
        assert all(torch.equal(weights[key], resumed[key]) for key in weights)


def test_validation_chooses_best_by_its_dice(tiny, tmp_path):
    tree = tiny.recipe_tree(steps=6, validate_every=2, optimizer={"name": "adamw", "lr": 0.01})
    run = tiny.make_run(tmp_path, tree, validation=1)
    trainer = tiny.train(run)
    validations = {r["step"]: r["validation_dice"] for r in tiny.read_log(run) if "validation_dice" in r}
    assert list(validations) == [2, 4, 6]
    best = max(validations, key=lambda step: (validations[step], -step))
    assert (trainer.state.best_step, trainer.state.best_dice) == (best, validations[best])
    assert read_header(run.folder / "best.safetensors")["step"] == best
    assert sorted(path.name for path in (run.folder / "overlays").iterdir()) == [
        "step_000002.png",
        "step_000004.png",
        "step_000006.png",
    ]
    assert curve(run, "validation/front") == [2, 4, 6]
    records = [record for record in tiny.read_log(run) if "validation_dice" in record]
    assert all(record["validation_dice"] == pytest.approx((record["front"] + record["back"]) / 2) for record in records)


def test_validation_changes_nothing_in_training(tiny, whole):
    complete = whole("mean_teacher")
    run = tiny.make_run(complete.folder.parent, tiny.recipe_tree("mean_teacher", validate_every=3), name="watched")
    tiny.train(run)
    left, right = saved_tensors(complete), saved_tensors(run)
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def test_log_every_keeps_the_first_step(tiny, tmp_path):
    run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=6, log_every=3))
    tiny.train(run)
    assert [record["step"] for record in tiny.read_log(run)] == [1, 3, 6]
    first = json.loads((run.folder / "log.jsonl").read_text().splitlines()[0])
    assert list(first) == ["step", "seconds", "loss", "gradient_norm", "lr"]


def test_a_scan_smaller_than_the_patch_is_padded(tiny, tmp_path):
    run = tiny.make_run(tmp_path, tiny.recipe_tree("fba_net", steps=2), shape=(20, 17, 13))
    assert tiny.train(run).state.step == 2


def test_a_bfloat16_run_stays_finite(tiny, tmp_path):
    run = tiny.make_run(tmp_path, tiny.recipe_tree("fba_net", steps=2, precision="bf16-mixed"))
    tiny.train(run)
    assert all(math.isfinite(value) for record in tiny.read_log(run) for value in record.values())


@pytest.mark.parametrize(("precision", "inside"), [("bf16-mixed", True), ("32-true", False)])
def test_the_precision_reaches_the_networks(tiny, tmp_path, precision, inside):
    run = tiny.make_run(tmp_path, tiny.recipe_tree(steps=1, precision=precision))
    trainer = Trainer(run, Fabric(accelerator="cpu", devices=1, precision=precision), Console(quiet=True))
    seen = []
    trainer.method.student.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    trainer.fit(StopRequest())
    assert seen == [inside]


def test_a_recipe_edited_after_the_checkpoint_is_refused(tiny, whole):
    run = tiny.make_run(whole("supervised").folder.parent, tiny.recipe_tree(), name="edited")
    tiny.train(run, steps=2)
    path = run.folder / "resolved.yaml"
    text = path.read_text(encoding="utf-8")
    for old, new, sentence in (
        (
            "lr: 0.002",
            "lr: 0.1",
            r"resolved\.yaml: train\.optimizer\.lr is 0\.1, but the checkpoint was trained with 0\.002\.",
        ),
        (
            "- 4\n  - 8\n",
            "- 4\n  - 16\n",
            r"network\.filters is \[4, 16, 8\], but the checkpoint was trained with \[4, 8, 8\]",
        ),
    ):
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(RecipeError, match=sentence):
            tiny.train(Run.open(run.folder), resume=True)
    # a part that one of the two lacks is a difference as well
    path.write_text(text.replace("init_from: null", "init_from: elsewhere"), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"init_from is elsewhere, but the checkpoint was trained with nothing\."):
        tiny.train(Run.open(run.folder), resume=True)
    path.write_text(text.replace("gives: little", "gives: much"), encoding="utf-8")
    assert tiny.train(Run.open(run.folder), resume=True).state.step == 6
