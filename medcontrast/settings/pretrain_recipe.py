"""The recipe of a pre-training run: images in, a trained encoder out."""

from __future__ import annotations

from pydantic import Field, model_validator

from medcontrast.settings.base import Settings
from medcontrast.settings.images import ImageAugmentSettings, ImageDataSettings
from medcontrast.settings.network import EncoderSettings
from medcontrast.settings.pretraining import PretrainMethodSettings
from medcontrast.settings.recipe import AboutSettings
from medcontrast.settings.train import PretrainSettings


class PretrainRecipe(Settings):
    """One YAML file, complete on its own page; method.name tells it from a segmentation recipe."""

    about: AboutSettings
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    data: ImageDataSettings
    augment: ImageAugmentSettings
    network: EncoderSettings
    method: PretrainMethodSettings
    train: PretrainSettings

    @model_validator(mode="after")
    def _parts_fit(self) -> PretrainRecipe:
        faults = [*_view_faults(self), *_row_faults(self), *_transformer_faults(self)]
        if faults:
            raise ValueError("; ".join(faults))
        return self


def _view_faults(recipe: PretrainRecipe) -> list[str]:
    wanted, views = recipe.method.views, recipe.augment.views
    faults = [f"method {recipe.method.name} needs augment.views.{name}" for name in wanted if name not in views]
    faults += [
        f"augment.views.{name} is made for nothing: method {recipe.method.name} uses {', '.join(wanted)}"
        for name in views
        if name not in wanted
    ]
    if recipe.data.channels == 1:
        faults += [
            f"augment.views.{name}.photometric.{change} is for colour, but data.channels is 1"
            for name, view in views.items()
            for change in view.photometric.needs_colour
        ]
    return faults


def _row_faults(recipe: PretrainRecipe) -> list[str]:
    rows, faults = recipe.train.rows, []
    if rows % recipe.train.accumulate:
        faults.append(f"train.accumulate {recipe.train.accumulate} does not divide train.rows {rows}")
    if recipe.method.name in ("simclr", "moco_v3") and rows // recipe.train.accumulate < 2:
        name = recipe.method.name
        faults.append(f"method {name} contrasts images within a micro-batch; it needs 2 rows or more in each")
    return faults


def _transformer_faults(recipe: PretrainRecipe) -> list[str]:
    if recipe.network.name != "vit":
        frozen = recipe.method.name == "moco_v3" and recipe.method.freeze_patches
        return [f"method.freeze_patches is for network vit, not for {recipe.network.name}"] if frozen else []
    patch = recipe.network.stride
    sizes = {name: view.size or recipe.data.size for name, view in recipe.augment.views.items()}
    return [
        f"augment.views.{name} has {size} pixels a side, no multiple of network.patch {patch}"
        for name, size in sizes.items()
        if size % patch
    ]
