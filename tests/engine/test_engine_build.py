"""Tests of what a recipe is turned into: by hand, property."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

from medcontrast.engine.build import learning_rate, make_fabric, make_method, make_optimizer, resolve_precision
from medcontrast.errors import InputError, RecipeError
from medcontrast.settings.train import OptimizerSettings, ScheduleSettings


@pytest.fixture
def on_cpu_with_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)


def test_auto_is_bfloat16_only_where_it_is_native_and_right(tiny, on_cpu_with_bfloat16, monkeypatch):
    recipe = tiny.make_recipe(precision="auto")
    assert resolve_precision(recipe, "auto") == "bf16-mixed"
    assert resolve_precision(recipe, "cpu") == "bf16-mixed"
    assert resolve_precision(tiny.make_recipe(precision="32-true"), "cpu") == "32-true"
    # 2 voxels at the deepest level: oneDNN's weight gradients hold uninitialised memory there
    small = tiny.recipe_from(tiny.set_key(tiny.recipe_tree(precision="auto"), "data.patch", [8, 16, 16]))
    assert resolve_precision(small, "cpu") == "32-true"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert resolve_precision(recipe, "cpu") == "32-true"


def test_bfloat16_is_refused_where_its_gradients_are_wrong(tiny, on_cpu_with_bfloat16):
    tree = tiny.recipe_tree(precision="bf16-mixed")
    small = tiny.recipe_from(tiny.set_key(tree, "data.patch", [8, 16, 16]))
    with pytest.raises(
        InputError, match=r"leaves \[2, 4, 4\] voxels at the deepest level.* Take 32-true, or a larger patch"
    ):
        resolve_precision(small, "cpu")
    assert resolve_precision(small, "cuda") == "bf16-mixed"


@pytest.mark.parametrize("asked", ["bf16-mixed", "16-mixed"])
def test_16_bits_are_refused_where_cudnn_gives_wrong_convolutions(tiny, monkeypatch, asked):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    with pytest.raises(InputError, match=f"precision {asked}: 16-bit 3D convolutions of cuDNN 91002.* or take 32-true"):
        resolve_precision(tiny.make_recipe(precision=asked), "cuda")
    assert resolve_precision(tiny.make_recipe(precision="auto"), "auto") == "32-true"
    assert resolve_precision(tiny.make_recipe(precision="32-true"), "cuda") == "32-true"
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91501)
    assert resolve_precision(tiny.make_recipe(precision=asked), "cuda") == asked
    assert resolve_precision(tiny.make_recipe(precision="auto"), "cuda") == "bf16-mixed"


@pytest.mark.parametrize(("precision", "rounds"), [("32-true", False), ("bf16-mixed", True)])
def test_float32_convolutions_are_not_rounded_to_tf32(monkeypatch, precision, rounds):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    make_fabric(accelerator="cpu", devices=1, num_nodes=1, precision=precision)
    assert torch.backends.cudnn.allow_tf32 is rounds


@pytest.mark.parametrize(("precision", "rounds"), [("bf16-mixed", True), ("32-true", False)])
def test_bfloat16_is_rounded_where_the_cpu_has_none(monkeypatch, precision, rounds):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    fabric = make_fabric(accelerator="cpu", devices=1, num_nodes=1, precision=precision)
    rounded = []
    monkeypatch.setattr("medcontrast.bfloat16._round", lambda value: rounded.append(value) or value)
    image, weight = torch.ones(1, 2), torch.ones(3, 2)
    with fabric.autocast():
        linear(image, weight)
    linear(image, weight)  # outside
    assert len(rounded) == (2 if rounds else 0)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_chosen_precision_stays(tiny, precision):
    assert resolve_precision(tiny.make_recipe(precision=precision), "cpu") == precision


def test_16_mixed_is_for_gpus_alone(tiny):
    """Else PyTorch trains in bfloat16 instead, behind the guards of bfloat16, and the record says 16-mixed."""
    recipe = tiny.make_recipe(precision="16-mixed")
    with pytest.raises(InputError, match=r"^precision 16-mixed: CPUs have no such mode .* name that, or 32-true\.$"):
        resolve_precision(recipe, "cpu")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"accelerator": "tpu"}, r"^--accelerator tpu: expected one of auto, cpu, cuda, gpu, mps\.$"),
        ({"accelerator": "cuda", "devices": 2}, r"^--accelerator cuda, --devices 2, --precision 32-true: "),
    ],
)
def test_devices_that_are_not_there(monkeypatch, words, sentence):
    """Of two GPUs one is there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr("lightning_fabric.accelerators.cuda.num_cuda_devices", lambda: 1)
    plain = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "precision": "32-true", **words}
    with pytest.raises(InputError, match=sentence):
        make_fabric(**plain)


@pytest.mark.parametrize("name", ["cuda", "gpu", "mps"])
def test_kinds_of_devices_that_are_not_there(monkeypatch, name):
    for module in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(module, "is_available", lambda: False)
    with pytest.raises(InputError, match=rf"^--accelerator {name}: there is no such device here; take --acc.* cpu\.$"):
        make_fabric(accelerator=name, devices=1, num_nodes=1, precision="32-true")


@pytest.mark.parametrize(
    ("launcher", "started"),
    [("torchrun", {"TORCHELASTIC_RUN_ID": "7", "WORLD_SIZE": "2"}), ("SLURM", {"SLURM_NTASKS": "2"})],
)
def test_another_number_of_processes_than_was_started(monkeypatch, launcher, started):
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    sentence = rf"^{launcher} started 2 process\(es\) of this command, but --devices 1 and --nodes 3 ask for 3; "
    with pytest.raises(InputError, match=sentence):
        make_fabric(accelerator="cpu", devices=1, num_nodes=3, precision="32-true")


def test_weights_are_a_function_of_the_seed(tiny, tmp_path):
    run = tiny.make_run(tmp_path, tiny.recipe_tree())
    first, second = (make_method(run.recipe, run.manifest) for _ in range(2))
    other = make_method(run.recipe.model_copy(update={"seed": 9}), run.manifest)
    for left, right, third in zip(first.parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(left, right)
        assert left.ndim < 2 or not torch.equal(left, third)


def test_the_optimiser_trains_the_student_and_never_the_teacher(tiny, tmp_path):
    run = tiny.make_run(tmp_path, tiny.recipe_tree("fba_net"))
    method = make_method(run.recipe, run.manifest)
    optimizer = make_optimizer(run.recipe.train.optimizer, method)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in method.parameters() if parameter.requires_grad}
    assert not held & {id(parameter) for parameter in method.teacher.parameters()}
    assert isinstance(optimizer, torch.optim.AdamW)
    sgd = make_optimizer(OptimizerSettings(name="sgd", lr=0.1, momentum=0.8, nesterov=True), method)
    assert (sgd.defaults["momentum"], sgd.defaults["nesterov"], sgd.defaults["lr"]) == (0.8, True, 0.1)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ({"name": "constant"}, [0.1, 0.1, 0.1]),
        ({"name": "poly", "power": 2.0}, [0.1, 0.025, 0.001]),
        ({"name": "cosine"}, [0.1, 0.05, 0.0024471741852423]),
        ({"name": "step", "every": 4, "factor": 0.5}, [0.1, 0.05, 0.025]),
        ({"name": "constant", "warm_up_steps": 10}, [0.01, 0.06, 0.1]),
    ],
)
def test_rates_by_hand(schedule, rates):
    settings = ScheduleSettings(**schedule)
    found = [learning_rate(OptimizerSettings(lr=0.1), settings, step, 10) for step in (0, 5, 9)]
    assert found == pytest.approx(rates)


def test_nesterov_without_momentum(tiny):
    tree = tiny.recipe_tree(optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.0, "nesterov": True})
    with pytest.raises(RecipeError, match=r"nesterov needs a momentum above 0"):
        tiny.recipe_from(tree)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_batch_is_not_rounded_before_a_method_sees_it(precision):
    """On several devices Fabric asks its precision to convert what a method is called with; on one it does not."""
    fabric = make_fabric(accelerator="cpu", devices=1, num_nodes=1, precision=precision)
    image = torch.rand(2, 1, 4, 4)
    assert fabric.strategy.precision.convert_input(image) is image
    with fabric.autocast():
        assert (image.flatten(1) @ image.flatten(1).T).dtype == (
            torch.bfloat16 if precision == "bf16-mixed" else torch.float32
        )
