"""The recipe: one frozen object that says everything about a run."""

from __future__ import annotations

from pydantic import Field, model_validator

from medcontrast.settings.base import Settings
from medcontrast.settings.data import LEAST_SIDE, AugmentSettings, DataSettings
from medcontrast.settings.methods import (
    BCPSettings,
    CPSSettings,
    FBALegacySettings,
    FBANetSettings,
    MCNetSettings,
    MethodSettings,
    SupervisedSettings,
)
from medcontrast.settings.network import NetworkSettings
from medcontrast.settings.train import EvaluationSettings, InferenceSettings, TrainSettings


class AboutSettings(Settings):
    """What a person wants to know before starting; `medcontrast recipes` lists it."""

    command: str
    needs: str
    """Data and where it comes from."""
    gives: str
    """Result to expect, with where it was measured."""
    cost: str
    """Time and hardware."""


class Recipe(Settings):
    """One YAML file, complete on its own page."""

    about: AboutSettings
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    data: DataSettings
    augment: AugmentSettings = AugmentSettings()
    network: NetworkSettings
    method: MethodSettings
    train: TrainSettings
    inference: InferenceSettings = InferenceSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        faults = [*_patch_faults(self), *_view_faults(self), *_row_faults(self), *_method_faults(self)]
        if faults:
            raise ValueError("; ".join(faults))
        return self


def _patch_faults(recipe: Recipe) -> list[str]:
    faults = _thin_faults(recipe)
    patch, divisor = recipe.data.patch, recipe.network.patch_divisor
    alone = (
        f"leaves one voxel at the deepest level of network {recipe.network.name}, which instance normalisation cannot "
        f"work on; make one side {2 * max(divisor)} or take another norm"
    )
    if any(side % step for side, step in zip(patch, divisor, strict=True)):
        nearest = [max(step, round(side / step) * step) for side, step in zip(patch, divisor, strict=True)]
        faults.append(
            f"data.patch {list(patch)} must be multiples of {list(divisor)} for network {recipe.network.name}; "
            f"the nearest is {nearest}"
        )
    elif patch == divisor and recipe.network.norm == "instance":
        faults.append(f"data.patch {list(patch)} {alone}")
    window = recipe.inference.window
    if window is not None and any(side % step for side, step in zip(window, divisor, strict=True)):
        faults.append(
            f"inference.window {list(window)} must be multiples of {list(divisor)} for network {recipe.network.name}"
        )
    elif window == divisor and recipe.network.norm == "instance":
        faults.append(f"inference.window {list(window)} {alone}")
    for axis in recipe.augment.spatial.rotate90_axes:
        first, second = (patch[other] for other in range(3) if other != axis)
        if first != second:
            faults.append(
                f"augment.spatial.rotate90_axes names axis {axis}, but data.patch {list(patch)} is not square across it"
            )
    return faults


def _thin_faults(recipe: Recipe) -> list[str]:
    """Of sides that are short, or one voxel long as those of slices are."""
    network, faults = recipe.network, []
    free = network.axis if network.name == "unet2d" else None
    for name, sides in (("data.patch", recipe.data.patch), ("inference.window", recipe.inference.window)):
        short = [axis for axis, side in enumerate(sides or ()) if side < LEAST_SIDE and axis != free]
        if short and sides:
            faults.append(
                f"{name}.{short[0]}: must be {LEAST_SIDE} or more, but got {sides[short[0]]}"
                + ("" if free is None else f"; only axis {free}, that of the slices, may be shorter")
            )
    spatial = recipe.augment.spatial
    tilted = [axis for axis in spatial.rotation_axes if axis != free]
    if free is not None and recipe.data.patch[free] == 1 and spatial.rotation_degrees and tilted:
        faults.append(
            f"augment.spatial.rotation_axes {list(spatial.rotation_axes)} would tilt slices of one voxel out of "
            f"data.patch {list(recipe.data.patch)}; set it to [{free}]"
        )
    return faults


def _view_faults(recipe: Recipe) -> list[str]:
    """Of views and mirrored versions that nothing would see."""
    method, augment, faults = recipe.method, recipe.augment, []
    without_teacher = isinstance(method, (SupervisedSettings, CPSSettings, MCNetSettings, FBALegacySettings))
    if without_teacher and augment.weak.changes_anything:
        faults.append(
            f"augment.weak is what a teacher sees, and method {method.name} has none: networks learn from "
            "augment.strong; leave augment.weak out, or set its probability to 0"
        )
    if recipe.inference.flips and not augment.spatial.flip_axes:
        faults.append(
            "inference.flips averages versions mirrored along augment.spatial.flip_axes, which names no axis; set it "
            "to false"
        )
    return faults


def _row_faults(recipe: Recipe) -> list[str]:
    train = recipe.train
    faults = [
        f"train.accumulate {train.accumulate} does not divide train.{name} {rows}"
        for name, rows in train.streams.items()
        if rows % train.accumulate
    ]
    if isinstance(recipe.method, SupervisedSettings):
        if train.unlabeled_rows:
            faults.append(
                f"method supervised learns from labels alone; set train.unlabeled_rows 0, not {train.unlabeled_rows}"
            )
    elif not train.unlabeled_rows:
        faults.append(f"method {recipe.method.name} learns from unlabeled scans; set train.unlabeled_rows to 1 or more")
    return faults


def _method_faults(recipe: Recipe) -> list[str]:
    method = recipe.method
    faults = []
    if isinstance(method, FBANetSettings) and method.contrast.region:
        region = method.contrast.region
        if any(side % region for side in recipe.data.patch):
            faults.append(f"method.contrast.region {region} does not divide data.patch {list(recipe.data.patch)}")
    if isinstance(method, BCPSettings):
        faults += _bcp_faults(method, recipe.train)
    rows, parts = recipe.train.unlabeled_rows, recipe.train.accumulate
    if isinstance(method, FBANetSettings) and method.consistency.paste_from == "unlabeled" and rows // parts == 1:
        faults.append(
            "method.consistency.paste_from unlabeled exchanges boxes of unlabeled rows and needs 2 of them in a "
            f"micro-batch, but train.unlabeled_rows {rows} and train.accumulate {parts} leave one"
        )
    several = recipe.network.decoders > 1
    if isinstance(method, MCNetSettings) and not several:
        faults.append("method mc_net needs network vnet or dynunet with decoders: 2 or 3")
    if several and not isinstance(method, (FBALegacySettings, FBANetSettings, MCNetSettings)):
        faults.append(
            f"network.decoders {recipe.network.decoders} is for methods mc_net, fba_net and fba_legacy; "
            f"{method.name} uses one"
        )
    if isinstance(method, FBANetSettings) and not several:
        own, fields = method.consistency, type(method.consistency).model_fields
        faults += [
            f"method.consistency.{name} does nothing with network.decoders: 1; leave it out"
            for name in ("mutual_weight", "mutual_temperature")
            if getattr(own, name) != fields[name].default
        ]
    if not isinstance(method, FBALegacySettings):
        return faults
    if method.patch != recipe.data.patch:
        faults.append(f"method.patch {list(method.patch)} must be data.patch {list(recipe.data.patch)}")
    if recipe.network.name != "vnet" or recipe.network.decoders != 3:
        faults.append("method fba_legacy needs network vnet with decoders: 3")
    return faults


def _bcp_faults(method: BCPSettings, train: TrainSettings) -> list[str]:
    faults = []
    if method.pretrain_steps >= train.steps:
        faults.append(
            f"method.pretrain_steps {method.pretrain_steps} must be less than train.steps {train.steps}: after them "
            "unlabeled scans are learned from"
        )
    if method.pretrain_steps and train.labeled_rows // train.accumulate < 2:
        faults.append(
            "method bcp pastes between labeled rows in its method.pretrain_steps and needs 2 of them in a micro-batch, "
            f"but train.labeled_rows {train.labeled_rows} and train.accumulate {train.accumulate} leave one"
        )
    if train.unlabeled_rows > train.labeled_rows:
        faults.append(
            f"method bcp pastes into as many unlabeled rows as there are labeled ones, but train.unlabeled_rows "
            f"{train.unlabeled_rows} are more than train.labeled_rows {train.labeled_rows}; the others would teach "
            "nothing"
        )
    return faults
