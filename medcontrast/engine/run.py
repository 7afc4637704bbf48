"""The run folder: resolved recipe, manifest, facts, log, checkpoints.

resolved.yaml   the whole recipe, every default written out; `medcontrast train` takes it
manifest.json   the cases and labels of the run
run.json        versions, device, git commit, derived values
log.jsonl       one JSON object a line
last.pt         everything a resume needs
last.safetensors, best.safetensors   weights for inference
tensorboard/, overlays/              curves and pictures
.replaced/      an earlier run that --overwrite set aside, whole, until this one has a checkpoint
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import medcontrast
from medcontrast.data.fit import recipe_manifest, require_files, require_fit
from medcontrast.data.images.manifest import ImageManifest
from medcontrast.data.manifest import Manifest
from medcontrast.engine.run_files import (
    FACTS,
    LOCK,
    LOG,
    MANIFEST,
    RECIPE,
    held,
    never_trained,
    put_back,
    require_run_folder,
    set_aside,
    where_the_earlier_lies,
)
from medcontrast.errors import CheckpointError, InputError, OutputError, RecipeError
from medcontrast.files import make_folder, require_free, write_text
from medcontrast.say import quoted
from medcontrast.settings import AnyRecipe, load_recipe, recipe_to_yaml
from medcontrast.settings.compare import first_difference

CHANGEABLE_ON_RESUME = (
    "train.steps",
    "train.validate_every",
    "train.save_every",
    "train.log_every",
    "train.precision",
    "data.workers",
    "data.cache",
    "data.root",
)


@dataclass(frozen=True)
class Run:
    """A folder with one training run in it."""

    folder: Path
    recipe: AnyRecipe
    manifest: Manifest | ImageManifest

    @property
    def resume_file(self) -> Path:
        """Everything a resume needs."""
        from medcontrast.checkpoint import RESUME  # with torch, which making a run folder does without

        return self.folder / RESUME

    @classmethod
    def create(cls, folder: Path, recipe: AnyRecipe, recipe_path: Path, *, overwrite: bool = False) -> Run:
        """Makes the folder and writes what is known before training.

        With `overwrite`, what an earlier run wrote there is set aside until the new one has a checkpoint (run_files).

        Raises:
            InputError: Another process trains a run there.
            OutputError: The folder holds something already, or cannot be written.
        """
        with cls.begun(folder, recipe, recipe_path, overwrite=overwrite) as run:
            return run

    @classmethod
    @contextmanager
    def begun(cls, folder: Path, recipe: AnyRecipe, recipe_path: Path, *, overwrite: bool = False) -> Iterator[Run]:
        """As `create`, and holds the folder, so that no other process begins a run there before this one trains."""
        manifest = recipe_manifest(recipe, recipe_path)
        require_fit(recipe, manifest, where=str(recipe_path))
        require_files(recipe, manifest)
        _require_room(folder, overwrite)  # before anything is written there
        require_free(folder / RECIPE, overwrite=True)
        make_folder(folder)
        with held(folder):
            _require_room(folder, overwrite)  # as it is now that no other process changes it
            if any(path.name != LOCK for path in folder.iterdir()):
                _require_kept(recipe, recipe_path, folder)
                set_aside(folder)
            yield cls._written(folder, manifest, resolve_paths(recipe, recipe_path))

    @classmethod
    def _written(cls, folder: Path, manifest: Manifest | ImageManifest, resolved: AnyRecipe) -> Run:
        raw = dict(manifest.raw)
        if raw.get("root"):
            raw["root"] = str(manifest.root)
        try:
            # the recipe first: it makes this a run folder, which may be made again, whenever a kill comes
            write_text(folder / RECIPE, recipe_to_yaml(resolved))
            write_text(folder / MANIFEST, json.dumps(raw, indent=1, ensure_ascii=False) + "\n")
            return cls.open(folder)
        except BaseException:
            put_back(folder)
            raise

    @classmethod
    def open(cls, folder: Path, overrides: Sequence[str] = ()) -> Run:
        """Opens a run that was created before.

        Args:
            folder: The run folder; nothing in it changes.
            overrides: KEY=VALUE over its recipe; `keep_recipe` writes them down.

        Raises:
            CheckpointError: Not a run folder.
            RecipeError: An override changes what a resume must keep.
        """
        if not (folder / RECIPE).is_file():
            raise CheckpointError(f"{folder}: not a run folder (it has no resolved.yaml).")
        for override in overrides:
            if override.partition("=")[0].strip() not in CHANGEABLE_ON_RESUME:
                raise RecipeError(
                    f"--set {override}: a resumed run keeps its recipe; only {', '.join(CHANGEABLE_ON_RESUME)} may "
                    f"change."
                )
        recipe = load_recipe(folder / RECIPE, overrides)
        run = cls(folder, recipe, recipe_manifest(recipe, folder / RECIPE))
        require_fit(recipe, run.manifest, where=str(folder / RECIPE))
        return run

    def keep_recipe(self) -> None:
        """Writes the recipe down, overrides included."""
        write_text(self.folder / RECIPE, recipe_to_yaml(self.recipe))

    def require_recipe(self, saved: dict[str, Any]) -> None:
        """Refuses to go on under another recipe than the checkpoint's, as after resolved.yaml was edited by hand.

        Raises:
            RecipeError: Naming the first setting that differs.
        """
        found = first_difference(saved, self.recipe.model_dump(mode="json"), free=CHANGEABLE_ON_RESUME.__contains__)
        if found is not None:
            raise RecipeError(
                f"{self.folder / RECIPE}: {found.key} is {found.new}, but the checkpoint was trained with "
                f"{found.old}. Put it back, or train anew in another folder."
            )

    def require_same_cases(self, saved: dict[str, Any], now: dict[str, Any]) -> None:
        """Refuses to go on with other cases, channels or labels, as after manifest.json was edited by hand.

        Args:
            saved: Header of the checkpoint; what an earlier version did not say of the training cases is not compared.
            now: Header that a checkpoint would have now.

        Raises:
            CheckpointError: Naming what differs.
        """
        for key, words in (("labels", "labels"), ("channels", "channels"), ("trained_on", "training cases")):
            ours = now[key]
            if key == "trained_on" and isinstance(saved.get(key), dict):
                ours = {name: value for name, value in ours.items() if name in saved[key]}
            if saved.get(key) != ours:
                raise CheckpointError(
                    f"{self.folder / MANIFEST}: its {words} are not those of the checkpoint. Put them back, or train "
                    "anew in another folder."
                )

    def write_facts(self, facts: dict[str, Any], *, resumed: bool = False) -> None:
        """Writes run.json: versions, commit, what the caller derived; and what it said of a resumed run before."""
        path = self.folder / FACTS
        content = {
            "medcontrast": medcontrast.__version__,
            "git_commit": _git_commit(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "versions": {name: metadata.version(name) for name in ("torch", "monai", "lightning-fabric", "numpy")},
            "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **facts,
        }
        if resumed and path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            earlier = before.pop("earlier", [])
            # of all sessions: the weights began there, and some of the steps were rounded
            lasting = {key: before[key] for key in ("init_from", "bfloat16_rounded") if key in before}
            content = {**lasting, **content, "earlier": [*earlier, before]}
        write_text(path, json.dumps(content, indent=1) + "\n")

    def log(self, record: dict[str, Any]) -> None:
        """Appends one line to the log."""
        with (self.folder / LOG).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    def cut_log(self, step: int, *, validated: bool) -> None:
        """Drops every log line of a later step, so that the log tells one story after a resume.

        Args:
            step: The last that was saved.
            validated: Whether it was saved with what its validation gave; else that is made again.
        """
        path = self.folder / LOG
        if not path.exists():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # the process was killed while writing this line
                continue
            again = record["step"] == step and "validation_dice" in record and not validated
            if record["step"] <= step and not again:
                kept.append(line + "\n")
        write_text(path, "".join(kept))


def run_beside(checkpoint: Path, *, ask: str, root: Path | None = None) -> Run:
    """The run that a checkpoint is, or lies in.

    Args:
        checkpoint: A run folder or a file.
        ask: What --manifest would say, for example "which cases to score".
        root: Where its data lies now; by default where it lay in training.

    Raises:
        InputError: It lies in no run folder.
    """
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
    if not (folder / RECIPE).is_file():
        raise InputError(f"{checkpoint}: lies in no run folder (no {RECIPE} beside it); say {ask} with --manifest M.")
    return Run.open(folder, at_root(root))


def at_root(root: Path | None) -> tuple[str, ...]:
    """What `Run.open` takes so that paths start from this folder."""
    return () if root is None else (f"data.root={json.dumps(str(root.absolute()))}",)


def resolve_paths(recipe: AnyRecipe, recipe_path: Path) -> AnyRecipe:
    """Paths relative to the recipe file would mean something else in the run folder."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else str((recipe_path.parent / path).absolute())

    data = recipe.data.model_copy(update={"manifest": "manifest.json", "root": absolute(recipe.data.root)})
    train = recipe.train.model_copy(update={"init_from": absolute(recipe.train.init_from)})
    return recipe.model_copy(update={"data": data, "train": train})


def _require_room(folder: Path, overwrite: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite and not never_trained(folder):
        earlier = where_the_earlier_lies(folder)
        go_on = "Choose" if earlier else f"Go on with `medcontrast train --resume {quoted(folder)}`, choose"
        raise OutputError(
            f"{folder}: this folder holds something already. {go_on} another with -o, or add --overwrite to begin "
            f"anew.{earlier}"
        )
    require_run_folder(folder)


def _require_kept(recipe: AnyRecipe, recipe_path: Path, folder: Path) -> None:
    """Refuses to begin a run anew from its own old checkpoint, which would be removed first."""
    source = resolve_paths(recipe, recipe_path).train.init_from
    if source is not None and Path(source).resolve().is_relative_to(folder.resolve()):
        raise OutputError(
            f"{folder}: train.init_from takes its tensors from this folder, which --overwrite would empty first; "
            "choose another folder with -o."
        )


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(medcontrast.__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
