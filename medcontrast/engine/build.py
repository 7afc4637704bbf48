"""From a recipe to the objects that train: network, method, optimiser, learning rate, devices."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from medcontrast import schedules
from medcontrast.bfloat16 import RoundedToBfloat16, rounds_bfloat16
from medcontrast.data.manifest import Manifest
from medcontrast.errors import InputError
from medcontrast.gpu import compute_in_float32, sound_in_16_bits
from medcontrast.methods import Method, build_method
from medcontrast.networks.build import build_network
from medcontrast.networks.encoders2d import Encoder, build_encoder
from medcontrast.networks.hvae import HVAE
from medcontrast.networks.parents import Parent, Parents
from medcontrast.settings import AnyRecipe, PretrainRecipe, Recipe
from medcontrast.settings.generator import HVAENetworkSettings
from medcontrast.settings.network import EncoderSettings
from medcontrast.settings.train import OptimizerSettings, ScheduleSettings

ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps")


def make_fabric(*, accelerator: str, devices: int, num_nodes: int, precision: str) -> Fabric:
    """Lightning Fabric for these devices; several devices train by DDP (gloo on CPUs, NCCL on GPUs).

    Raises:
        InputError: An unknown name, devices that are not there, or another number of processes than was started.
    """
    several = devices * num_nodes > 1
    if accelerator not in ACCELERATORS:
        raise InputError(f"--accelerator {accelerator}: expected one of {', '.join(ACCELERATORS)}.")
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if not {"cuda": cuda, "mps": mps, "gpu": cuda or mps}.get(accelerator, True):
        raise InputError(f"--accelerator {accelerator}: there is no such device here; take --accelerator cpu.")
    _require_started(devices, num_nodes)
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy="ddp" if several else "auto",
            precision=precision,
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        raise InputError(
            f"--accelerator {accelerator}, --devices {devices}, --precision {precision}: {error}"
        ) from None
    # on several devices Fabric would round a batch to the precision's type before the methods see it; autocast does
    # what is wanted, and on one device it is all that is done
    fabric.strategy.precision.convert_input = lambda data: data
    if rounds_bfloat16(precision, fabric.device):
        fabric.strategy.precision.forward_context = _rounding(fabric.strategy.precision.forward_context)
    if precision == "32-true":
        compute_in_float32()
    return fabric


def _rounding(autocast: Callable[[], AbstractContextManager[None]]) -> Callable[[], AbstractContextManager[None]]:
    @contextmanager
    def context() -> Iterator[None]:
        with autocast(), RoundedToBfloat16():
            yield

    return context


def _require_started(devices: int, num_nodes: int) -> None:
    # each of too many processes would train the whole run, and too few would wait for the others for ever
    if "TORCHELASTIC_RUN_ID" in os.environ:
        launcher, started = "torchrun", int(os.environ["WORLD_SIZE"])
    elif "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        launcher, started = "SLURM", int(os.environ["SLURM_NTASKS"])
    else:
        return  # Fabric starts the others itself
    if started != devices * num_nodes:
        raise InputError(
            f"{launcher} started {started} process(es) of this command, but --devices {devices} and --nodes "
            f"{num_nodes} ask for {devices * num_nodes}; give the processes a machine as --devices and the machines "
            "as --nodes (docs/scale.md)."
        )


def resolve_precision(recipe: AnyRecipe, accelerator: str) -> str:
    """`auto` becomes bf16-mixed where the device computes in bfloat16 natively and right, else 32-true.

    On CPUs it stays 32-true where the deepest level of the network is 2 voxels wide or less: the bfloat16 3x3x3
    convolution of PyTorch 2.13's CPU build then gives wrong weight gradients. On GPUs it does so for volumes where
    cuDNN's 16-bit convolutions are wrong (gpu.py). Asked for by name 16 bits are refused there.

    Args:
        recipe: Its train.precision, patch and network.
        accelerator: auto, cpu, cuda or mps.

    Raises:
        InputError: 16 bits where they would train on wrong gradients, or which the device has not.
    """
    wanted = recipe.train.precision
    if wanted == "16-mixed" and _on_cpu(accelerator):
        raise InputError(
            "precision 16-mixed: CPUs have no such mode (PyTorch would take bf16-mixed); name that, or 32-true."
        )
    narrow = isinstance(recipe, Recipe) and min(_deepest(recipe)) <= 2
    if wanted == "bf16-mixed" and _on_cpu(accelerator) and isinstance(recipe, Recipe) and narrow:
        raise InputError(
            f"precision bf16-mixed: data.patch {list(recipe.data.patch)} leaves {_deepest(recipe)} voxels at the "
            "deepest level, where PyTorch's bfloat16 convolution on CPUs gives wrong gradients. Take 32-true, or a "
            "larger patch."
        )
    on_gpu = accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available()
    sound = sound_in_16_bits() or not isinstance(recipe, Recipe)
    if on_gpu and not sound and wanted in ("bf16-mixed", "16-mixed"):
        raise InputError(
            f"precision {wanted}: 16-bit 3D convolutions of cuDNN {torch.backends.cudnn.version()}, which this PyTorch "
            "uses, are known to be wrong. Install cuDNN 9.15 or later (nvidia-cudnn-cu12 on PyPI), or take 32-true."
        )
    if wanted != "auto":
        return wanted
    if on_gpu:
        native = sound and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16-mixed" if native else "32-true"
    if accelerator == "auto" and torch.backends.mps.is_available():
        return "32-true"
    native = not narrow and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return "bf16-mixed" if native and torch.backends.mkldnn.is_available() else "32-true"


def _deepest(recipe: Recipe) -> list[int]:
    """Voxels of a patch at the deepest level of the network, along the axes it convolves."""
    network = recipe.network
    sides = zip(recipe.data.patch, network.deepest_stride, strict=True)
    return [
        -(-side // step) for axis, (side, step) in enumerate(sides) if network.encoder is None or axis != network.axis
    ]


def _on_cpu(accelerator: str) -> bool:
    other = torch.cuda.is_available() or torch.backends.mps.is_available()
    return accelerator == "cpu" or (accelerator == "auto" and not other)


def make_network_builder(recipe: Recipe, manifest: Manifest) -> Callable[[], nn.Module]:
    """A function that builds the recipe's network for the manifest's channels and classes."""
    settings = recipe.network
    return partial(
        build_network,
        settings.name,
        in_channels=len(manifest.channels),
        classes=manifest.labels.classes,
        **settings.plain(),
    )


def make_method(recipe: Recipe, manifest: Manifest) -> Method:
    """The recipe's method with weights that are a function of its seed."""
    torch.manual_seed(recipe.seed)
    return build_method(recipe.method, make_network_builder(recipe, manifest))


def make_encoder_builder(recipe: PretrainRecipe) -> Callable[[], Encoder]:
    """A function that builds the recipe's encoder with fresh weights."""
    assert isinstance(recipe.network, EncoderSettings)
    plain = recipe.network.plain()
    return partial(build_encoder, in_channels=recipe.data.channels, **plain)


def make_encoder(recipe: PretrainRecipe, seed: int) -> Encoder:
    """The recipe's encoder as a run of this seed starts from it."""
    torch.manual_seed(seed)
    return make_encoder_builder(recipe)()


def make_pretraining_method(recipe: PretrainRecipe) -> Method:
    """The same as `make_method` for a recipe that pre-trains an encoder."""
    torch.manual_seed(recipe.seed)
    return build_method(recipe.method, make_encoder_builder(recipe))


def build_generator(recipe: PretrainRecipe, parents: Sequence[Parent]) -> HVAE:
    """The recipe's generator with fresh weights, for images in 0..1 with these parents."""
    assert isinstance(recipe.network, HVAENetworkSettings)
    side = recipe.data.size
    return HVAE(Parents(parents), in_channels=recipe.data.channels, sides=(side, side), **recipe.network.plain())


def make_generator_method(recipe: PretrainRecipe, parents: Sequence[Parent]) -> Method:
    """The same as `make_method` for a recipe that trains a generator."""
    torch.manual_seed(recipe.seed)
    return build_method(recipe.method, partial(build_generator, recipe, parents))


def make_optimizer(settings: OptimizerSettings, method: Method) -> Optimizer:
    """SGD or AdamW over everything that takes a gradient, one group for each of the method's parts."""
    parameters = [{"params": part} for part in method.parts().values()]
    if settings.name == "sgd":
        return SGD(
            parameters,
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            nesterov=settings.nesterov,
        )
    return AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)


def learning_rate(optimizer: OptimizerSettings, schedule: ScheduleSettings, step: int, total: int) -> float:
    """The rate of one step."""
    if schedule.name == "poly":
        factor = schedules.polynomial(step, total, power=schedule.power)
    elif schedule.name == "cosine":
        factor = schedules.cosine(step, total)
    elif schedule.name == "step":
        factor = schedules.staircase(step, total, every=schedule.every, factor=schedule.factor)
    else:
        factor = schedules.constant(step, total)
    return optimizer.lr * factor * schedules.warm_up(step, schedule.warm_up_steps)
