"""What a run trains: segmentation of volumes, or pre-training on images. The loop knows one interface of both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from medcontrast.batch import Batch, StepInfo
from medcontrast.checkpoint import header_recipe
from medcontrast.data.images.images import make_image_loader
from medcontrast.data.images.manifest import ImageManifest, training_digest
from medcontrast.data.images.parents import parent_rows, training_parents
from medcontrast.data.images.sources import fields_of, listed_fields
from medcontrast.data.manifest import Manifest
from medcontrast.data.sampler import TwoStreamSampler
from medcontrast.data.scan_facts import scan_facts
from medcontrast.data.seen_values import SeenValues
from medcontrast.data.volumes import PatchDataset, lost_structures, make_loader
from medcontrast.engine.build import make_encoder, make_generator_method, make_method, make_pretraining_method
from medcontrast.engine.generator.generator import UNIFORM, header_parents
from medcontrast.engine.generator.start import require_same_parents
from medcontrast.engine.run import Run
from medcontrast.engine.validate import Validator
from medcontrast.errors import CheckpointError, InputError
from medcontrast.methods import Method
from medcontrast.networks.encoders2d import Encoder
from medcontrast.networks.parents import Parents
from medcontrast.networks.transfer import encoder_of, load_encoder, load_generator_tensors
from medcontrast.say import quoted
from medcontrast.settings import PretrainRecipe, Recipe, pretrains
from medcontrast.settings.generator import GeneratorMethodSettings, HVAEFinetuneSettings
from medcontrast.transforms.image_views import ImageViews
from medcontrast.transforms.views import Views

Autocast = Callable[[], AbstractContextManager[None]]


class Job(ABC):
    """Data, views and method of a run, and what becomes of its network.

    Attributes:
        method: Networks and losses.
        validate_every: Steps between two validations; None where there are none.
        chosen_on: Names of the cases that validations are of.
    """

    method: Method
    validate_every: int | None = None
    chosen_on: tuple[str, ...] = ()

    @abstractmethod
    def loader(self, *, rank: int, world_size: int, start_step: int) -> tuple[DataLoader[Any], TwoStreamSampler]:
        """The batches of one process, from a step on."""

    @abstractmethod
    def with_views(self, batch: Batch, info: StepInfo) -> Batch:
        """The batch with its views, made on the device it lies on; what is `ON_CPU` stays where it is."""

    @abstractmethod
    def network(self) -> nn.Module:
        """The network that a run leaves behind, a part of the method."""

    @abstractmethod
    def header(self) -> dict[str, Any]:
        """What its file says of it, beside the recipe and the step."""

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Cases of every split that training uses."""

    @abstractmethod
    def next_command(self, folder: Path) -> str:
        """What a user does with the finished run."""

    def validator(self, device: torch.device, autocast: Autocast) -> Validator | None:
        """Scores the network while it trains, where the recipe asks for it."""
        return None

    def warnings(self, loader: DataLoader[Any], validator: Validator | None) -> list[str]:
        """Sentences on what became of its cases on the way to the network."""
        return []

    def require_same_meaning(self, header: dict[str, Any], *, where: Path) -> None:
        """Refuses to go on from a checkpoint whose network was told other numbers than this one would be.

        Args:
            header: The checkpoint's.
            where: File named in messages.

        Raises:
            CheckpointError: Naming both.
        """
        return

    @abstractmethod
    def take_over(self, tensors: dict[str, Tensor], header: dict[str, Any], *, where: Path) -> str:
        """Starts the method from a checkpoint.

        Args:
            tensors: Of the checkpoint's network.
            header: The checkpoint's.
            where: File named in messages.

        Returns:
            A sentence that says how many tensors were taken.

        Raises:
            CheckpointError: None fits, or it is of another architecture.
        """


class Segmentation(Job):
    """A segmentation network, learned from volumes."""

    def __init__(self, folder: Path, recipe: Recipe, manifest: Manifest) -> None:
        self.folder, self.recipe, self.manifest = folder, recipe, manifest
        self.method = make_method(recipe, manifest)
        self.views = Views(recipe.augment, recipe.data.patch)
        self.validate_every = recipe.train.validate_every
        self.chosen_on = tuple(case.name for case in manifest.validation) if self.validate_every else ()

    def loader(self, *, rank: int, world_size: int, start_step: int) -> tuple[DataLoader[Any], TwoStreamSampler]:
        return make_loader(self.recipe, self.manifest, rank=rank, world_size=world_size, start_step=start_step)

    def with_views(self, batch: Batch, info: StepInfo) -> Batch:
        views, label = self.views(
            batch["image"],
            batch["label"],
            seed=info.seed,
            step=info.step,
            rows=batch["index"],
            spacing_mm=batch.get("spacing_mm"),
        )
        out: Batch = {**batch, "views": views, "label": label}  # type: ignore[typeddict-item]
        return out

    def network(self) -> nn.Module:
        student = self.recipe.inference.network == "student"
        return self.method.student if student else self.method.inference_network()

    @cached_property
    def _scan_facts(self) -> dict[str, Any]:
        return scan_facts(self.manifest, self.recipe)

    def header(self) -> dict[str, Any]:
        return {
            "labels": self.manifest.labels.to_json(),
            "channels": list(self.manifest.channels),
            **self._scan_facts,
        }

    def sizes(self) -> dict[str, int]:
        return {name: len(cases) for name, cases in self.manifest.splits()}

    def next_command(self, folder: Path) -> str:
        filled = [name for name, _ in self.manifest.splits()]
        split = next((name for name in ("validation", "test") if name in filled), None)
        if split is None:
            return f"medcontrast infer --ckpt {quoted(folder)} SCAN"
        return f"medcontrast evaluate --ckpt {quoted(folder)} --split {split}"

    def validator(self, device: torch.device, autocast: Autocast) -> Validator | None:
        return Validator(self.folder, self.recipe, self.manifest, device, autocast) if self.validate_every else None

    def warnings(self, loader: DataLoader[Any], validator: Validator | None) -> list[str]:
        assert isinstance(loader.dataset, PatchDataset)
        sentences: list[str | None] = [lost_structures(loader.dataset.labeled, "labeled")]
        sentences += [] if validator is None else [lost_structures(validator.cases, "validation")]
        values = SeenValues.from_header(self._scan_facts)
        sentences += [] if values is None else [values.far_from_unit(self.recipe.data.intensity)]
        return [sentence for sentence in sentences if sentence]

    def take_over(self, tensors: dict[str, Tensor], header: dict[str, Any], *, where: Path) -> str:
        """Of a segmentation, tensors of the same name and shape; of pre-training every tensor of its encoder, or none.

        Raises:
            CheckpointError: Nothing fits, the encoder is of another architecture, or it is a generator.
        """
        total = len(self.method.student.state_dict())
        if "parents" in header:
            raise CheckpointError(
                f"{where}: holds a generator of images; a segmentation starts from another segmentation or an encoder."
            )
        if not pretrains(header["recipe"]):
            loaded = self.method.load_student(tensors)
            if loaded == 0:
                raise CheckpointError(
                    f"{where}: none of its tensors fits this network by name and shape; see train.init_from."
                )
            few = ""
            if 2 * loaded < total:
                few = (
                    " Warning: the others have other names or shapes there and start anew, so that little of what it "
                    "learned is here; take the network and its settings from the checkpoint's recipe."
                )
            return f"Initialised {loaded} of {total} tensors from {where}.{few}"
        place, encoder = encoder_of(self.method.student)
        if encoder is None:
            raise CheckpointError(
                f"{where}: holds an encoder of images, and network {self.recipe.network.name} has none; take network "
                "unet2d, or leave train.init_from out."
            )
        loaded = load_encoder(encoder, tensors, where=str(where))
        # a teacher gets what its student got
        self.method.load_student({f"{place}.{name}": value for name, value in encoder.state_dict().items()})
        return f"Initialised {loaded} of {total} tensors, the whole encoder, from {where}."


class ImageJob(Job):
    """What learns from images and leaves the method's own network behind."""

    def __init__(self, recipe: PretrainRecipe, manifest: ImageManifest) -> None:
        self.recipe, self.manifest = recipe, manifest

    def network(self) -> nn.Module:
        return self.method.inference_network()

    def header(self) -> dict[str, Any]:
        return {
            "labels": {"classes": list(self.manifest.classes)},
            "channels": [f"channel {number}" for number in range(self.recipe.data.channels)],
            "trained_on": {
                "manifest": self.manifest.name,
                "images": self.sizes()["train"],
                "images_hash": self._images_digest,
            },
        }

    @cached_property
    def _images_digest(self) -> str:
        return training_digest(self.manifest)

    def sizes(self) -> dict[str, int]:
        return {"train": len(self.manifest.originals("train"))}


class Pretraining(ImageJob):
    """An encoder, learned from images without their labels."""

    def __init__(self, recipe: PretrainRecipe, manifest: ImageManifest) -> None:
        super().__init__(recipe, manifest)
        self.method = make_pretraining_method(recipe)
        self.views = ImageViews(recipe.augment, mean=recipe.data.mean, std=recipe.data.std)

    def loader(self, *, rank: int, world_size: int, start_step: int) -> tuple[DataLoader[Any], TwoStreamSampler]:
        return make_image_loader(self.recipe, self.manifest, rank=rank, world_size=world_size, start_step=start_step)

    def with_views(self, batch: Batch, info: StepInfo) -> Batch:
        views = self.views(
            batch["image"],
            seed=info.seed,
            step=info.step,
            rows=batch["index"],
            quality=batch.get("quality"),
            partner=batch.get("partner"),
            lesion_box=batch.get("lesion_box"),
        )
        return {**batch, "views": views}

    def next_command(self, folder: Path) -> str:
        scored = [split for split in ("test", "validation") if self.manifest.sources[split]]
        if len(self.manifest.classes) < 2 or not scored:  # there is nothing to probe it by
            return f"medcontrast train RECIPE_OF_SLICES --set train.init_from={quoted(folder)}"
        split = "" if scored[0] == "test" else f" --split {scored[0]}"
        return f"medcontrast probe --ckpt {quoted(folder)}{split}"

    def take_over(self, tensors: dict[str, Tensor], header: dict[str, Any], *, where: Path) -> str:
        """Every tensor of an encoder is taken, or none; heads start anew, as no checkpoint holds them.

        Raises:
            CheckpointError: It holds no such encoder, or one of another architecture.
        """
        student = self.method.student
        assert isinstance(student, Encoder)
        if "parents" in header:
            raise CheckpointError(f"{where}: holds a generator of images; an encoder starts from another encoder.")
        loaded = load_encoder(student, tensors, where=str(where))
        _require_same_untold(student, header, where)
        self.method.load_student(student.state_dict())  # an averaged encoder starts from it too
        return f"Initialised {loaded} of {loaded} tensors from {where}."


def _require_same_untold(encoder: Encoder, header: dict[str, Any], where: Path) -> None:
    """Refuses weights that fit, and that an encoder of other settings was trained as."""
    if not encoder.untold or not pretrains(header["recipe"]):
        return
    recipe = header_recipe(header, where)
    assert isinstance(recipe, PretrainRecipe)
    theirs = make_encoder(recipe, recipe.seed).untold
    for name, value in encoder.untold.items():
        if theirs.get(name) != value:
            raise CheckpointError(
                f"{where}: its weights fit, but were trained with network.{name} {theirs.get(name)}, and this recipe "
                f"has {value}, with which they mean nothing; set it to theirs."
            )


class Generation(ImageJob):
    """A generator of images, learned from images and their parents.

    Attributes:
        parents: What the images depend on, with values and statistics of the training split.
    """

    def __init__(self, recipe: PretrainRecipe, manifest: ImageManifest) -> None:
        assert isinstance(recipe.method, GeneratorMethodSettings)
        super().__init__(recipe, manifest)
        self.balance = recipe.method.balance
        self.cases = manifest.originals("train")
        where = f"{manifest.path}: train"
        self.parents = training_parents(recipe.method.parents, self.cases, manifest.classes, where=where)
        bare = next((case for case in self.cases if case.domain is None), None)
        if self.balance and bare is not None:
            raise InputError(
                f"{where}: image {bare.name} has no domain to balance by (it has "
                f"{listed_fields(fields_of([vars(bare)]))}); add domain to its source, or set method.balance to 0."
            )
        self.method = make_generator_method(recipe, self.parents)

    def loader(self, *, rank: int, world_size: int, start_step: int) -> tuple[DataLoader[Any], TwoStreamSampler]:
        rows = parent_rows(self.parents, self.cases, self.manifest.classes)
        return make_image_loader(
            self.recipe,
            self.manifest,
            attributes=Parents(self.parents).encode(rows),
            balance=self.balance,
            rank=rank,
            world_size=world_size,
            start_step=start_step,
        )

    def with_views(self, batch: Batch, info: StepInfo) -> Batch:
        return batch

    def header(self) -> dict[str, Any]:
        return {**super().header(), "parents": [parent._asdict() for parent in self.parents]}

    def require_same_meaning(self, header: dict[str, Any], *, where: Path) -> None:
        require_same_parents(self.parents, header_parents(header), where)

    def next_command(self, folder: Path) -> str:
        manifest = quoted(folder / "manifest.json")
        return f"medcontrast counterfactuals --ckpt {quoted(folder)} --manifest {manifest}{self._change()} -o FOLDER"

    def _change(self) -> str:
        """What must be said to intervene; nothing of the domain, which is changed where nothing is said."""
        named = {parent.name: parent.values for parent in self.parents}
        if "domain" in named:
            return ""
        name = next((name for name, values in named.items() if values is not None), self.parents[0].name)
        return f" --set {name}={'VALUE' if named[name] is None else UNIFORM}"

    def take_over(self, tensors: dict[str, Tensor], header: dict[str, Any], *, where: Path) -> str:
        """Every tensor of a generator is taken, or none; what is fine-tuned needs the same parents too.

        Raises:
            CheckpointError: It holds no generator, or one of another architecture or of other parents.
        """
        try:
            theirs = header_parents(header)
        except (KeyError, TypeError):
            raise CheckpointError(
                f"{where}: holds no generator; name a run of method hvae in train.init_from."
            ) from None
        if isinstance(self.recipe.method, HVAEFinetuneSettings):
            require_same_parents(self.parents, theirs, where)
        loaded = load_generator_tensors(self.method.student, tensors, where=str(where))
        self.method.load_student(tensors)  # the averaged weights start from them too
        return f"Initialised {loaded} of {loaded} tensors, the whole generator, from {where}."


def job_of(run: Run) -> Job:
    """The job that a run's recipe asks for."""
    recipe, manifest = run.recipe, run.manifest
    if isinstance(recipe, PretrainRecipe):
        assert isinstance(manifest, ImageManifest)
        return Generation(recipe, manifest) if recipe.generates else Pretraining(recipe, manifest)
    assert isinstance(manifest, Manifest)
    return Segmentation(run.folder, recipe, manifest)
