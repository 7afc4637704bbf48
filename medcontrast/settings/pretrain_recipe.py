"""The recipe of a run on images: pre-training leaves a trained encoder behind, hvae and hvae_finetune a generator."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field, model_validator

from medcontrast.settings.base import Settings
from medcontrast.settings.generator import GeneratorMethodSettings, HVAEFinetuneSettings, HVAENetworkSettings
from medcontrast.settings.images import ImageAugmentSettings, ImageDataSettings
from medcontrast.settings.multi_level import MultiLevelSettings
from medcontrast.settings.network import SPLITS, EncoderSettings
from medcontrast.settings.pretraining import DINOSettings, PretrainMethodSettings, SimCLRSettings
from medcontrast.settings.recipe import AboutSettings
from medcontrast.settings.train import PretrainSettings

ImageNetworkSettings = Annotated[EncoderSettings | HVAENetworkSettings, Field(discriminator="name")]


class PretrainRecipe(Settings):
    """One YAML file, complete on its own page; method.name tells it from a segmentation recipe."""

    about: AboutSettings
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    data: ImageDataSettings
    augment: ImageAugmentSettings = ImageAugmentSettings(views={})
    network: ImageNetworkSettings
    method: PretrainMethodSettings
    train: PretrainSettings

    @model_validator(mode="after")
    def _parts_fit(self) -> PretrainRecipe:
        parts = (_network_faults, _view_faults, _row_faults, _transformer_faults, _finetune_faults)
        faults = [fault for part in parts for fault in part(self)]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def generates(self) -> bool:
        """Whether it trains a generator of images, and no encoder."""
        return isinstance(self.method, GeneratorMethodSettings)

    @property
    def needs_counterfactuals(self) -> bool:
        """Whether a view shows counterfactuals, which the manifest must then have."""
        return any(view.source == "counterfactual" for view in self.augment.views.values())

    @property
    def needs_lesion_boxes(self) -> bool:
        """Whether a view's crop is around lesion boxes, which the manifest must then have."""
        return any(view.crop.kind == "lesion" for view in self.augment.views.values())

    def uneven_parts(self, processes: int = 1) -> str | None:
        """What is wrong with the parts into which rows fall, where they are normalised by themselves; None for nothing.

        Args:
            processes: That share a step's rows.
        """
        if self.method.name == "moco_v3" and self.train.rows // (processes * self.train.accumulate) < 2:
            return (
                f"method moco_v3 normalises its heads over the rows of a micro-batch; train.rows {self.train.rows} and "
                f"train.accumulate {self.train.accumulate} leave each of {processes} process(es) fewer than 2"
            )
        if not isinstance(self.network, EncoderSettings) or self.network.norm != "split_batch":
            return None
        together = [len(group) for group in _joined_views(self.method) if group] or [1]
        least = processes * self.train.accumulate * max(SPLITS // math.gcd(SPLITS, views) for views in together)
        if self.train.rows % least == 0:
            return None
        return (
            f"train.rows {self.train.rows} must be a multiple of {least} with network.norm split_batch, which takes "
            f"statistics of {SPLITS} equal parts of what each of {processes} process(es) passes at once "
            f"(train.accumulate {self.train.accumulate})"
        )


def _network_faults(recipe: PretrainRecipe) -> list[str]:
    network, size = recipe.network, recipe.data.size
    if recipe.generates is not isinstance(network, HVAENetworkSettings):
        wanted = "hvae" if recipe.generates else "an encoder such as resnet20"
        return [f"method {recipe.method.name} trains {wanted}, but network.name is {network.name}"]
    if isinstance(network, HVAENetworkSettings) and size % network.divisor:
        levels = len(network.filters)
        return [f"data.size {size} must be a multiple of {network.divisor} for a network of {levels} levels"]
    return []


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
    for group in _joined_views(recipe.method):
        sizes = {name: views[name].size or recipe.data.size for name in group if name in views}
        if len(set(sizes.values())) > 1:
            named = ", ".join(f"augment.views.{name} ({size} pixels)" for name, size in sizes.items())
            faults.append(f"method {recipe.method.name} joins {named} in one batch; give them one size")
    return faults


def _joined_views(method: PretrainMethodSettings) -> list[tuple[str, ...]]:
    """Views that go through the network as one tensor; all others go through it one by one."""
    if isinstance(method, SimCLRSettings):
        return [method.views]
    if isinstance(method, DINOSettings):
        return [method.views[:2], method.views[2:]]  # those that the teacher sees, and the small ones
    if isinstance(method, MultiLevelSettings):
        return [method.views[::2], method.views[1::2]]  # both qualities, of queries and of keys
    return []


def _row_faults(recipe: PretrainRecipe) -> list[str]:
    rows, faults = recipe.train.rows, []
    if rows % recipe.train.accumulate:
        faults.append(f"train.accumulate {recipe.train.accumulate} does not divide train.rows {rows}")
    if recipe.method.name == "simclr" and rows // recipe.train.accumulate < 2:
        faults.append("method simclr contrasts images within a micro-batch; it needs 2 rows or more in each")
    uneven = recipe.uneven_parts()
    return faults if uneven is None else [*faults, uneven]


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


def _finetune_faults(recipe: PretrainRecipe) -> list[str]:
    if not isinstance(recipe.method, HVAEFinetuneSettings):
        return []
    faults, first = [], recipe.method.predictor_steps
    if recipe.train.init_from is None:
        faults.append("method hvae_finetune starts from a trained generator; name its run in train.init_from")
    if isinstance(recipe.network, HVAENetworkSettings) and recipe.network.dropout:
        faults.append("network.dropout does nothing with method hvae_finetune; set it to 0")
    if recipe.train.steps <= first:
        faults.append(f"train.steps {recipe.train.steps} must be above method.predictor_steps {first}, its first ones")
    return faults
