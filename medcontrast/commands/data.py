"""`medcontrast data`: checks, splits, and sets that a command makes; what comes before a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medcontrast.errors import InputError
from medcontrast.say import quoted

if TYPE_CHECKING:  # the command line starts without what this imports
    from medcontrast.data.images.manifest import ImageManifest

app = typer.Typer(help="Check, split, import, or make data sets.", no_args_is_help=True)

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]


@app.command("check")
def check(
    manifest: Annotated[Path, typer.Argument(help="The manifest.")],
    splits: Annotated[list[str] | None, typer.Option("--split", help="Only this split; repeatable.")] = None,
    root: Annotated[Path | None, typer.Option("--root", help="Folder the manifest's paths start from.")] = None,
    patch: Annotated[str | None, typer.Option("--patch", help="X,Y,Z voxels; smaller images are noted.")] = None,
    cases: Annotated[bool, typer.Option("--cases", help="One line a case too.")] = False,
) -> None:
    """Open every file a manifest names and say what is wrong; labels of unlabeled cases stay unopened."""
    from medcontrast.data.images.manifest import is_image_manifest

    wanted = _triple(patch, "--patch")
    if not is_image_manifest(manifest):
        ok = _check_volumes(manifest, root, splits, wanted, cases)
    elif wanted is None:
        ok = _check_images(manifest, root, splits, cases)
    else:
        raise InputError(f"--patch {patch}: is for volumes, but {manifest} lists images; leave it out.")
    if not ok:
        raise typer.Exit(2)


def _check_volumes(
    path: Path, root: Path | None, splits: list[str] | None, patch: tuple[int, int, int] | None, cases: bool
) -> bool:
    from medcontrast.commands.progress import counting
    from medcontrast.data.check import check_manifest
    from medcontrast.data.check_page import print_report
    from medcontrast.data.manifest import load_manifest

    loaded = load_manifest(path, root)
    with counting("reading") as tell:
        report = check_manifest(loaded, splits=splits, patch=patch, tell=tell)
    print_report(report, cases=cases)
    return report.ok


def _check_images(path: Path, root: Path | None, splits: list[str] | None, cases: bool) -> bool:
    from medcontrast.commands.progress import counting
    from medcontrast.data.images.check import check_image_manifest
    from medcontrast.data.images.check_page import print_image_report
    from medcontrast.data.images.manifest import load_image_manifest

    loaded = load_image_manifest(path, root)
    with counting("reading") as tell:
        report = check_image_manifest(loaded, splits=splits, tell=tell)
    print_image_report(report, cases=cases)
    return report.ok


@app.command("split")
def split(
    output: Annotated[Path, typer.Option("-o", "--output", help="Manifest to write; NAME_foldK.json with --folds.")],
    labeled: Annotated[int, typer.Option("--labeled", min=1, help="How many training cases keep their labels.")],
    source: Annotated[Path | None, typer.Argument(help="A Decathlon dataset.json or a folder of scans.")] = None,
    validation: Annotated[int, typer.Option("--validation", min=0, help="How many cases to watch.")] = 0,
    test: Annotated[int, typer.Option("--test", min=0, help="How many cases to report on.")] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the permutation.")] = 0,
    folds: Annotated[int | None, typer.Option("--folds", min=2, help="Write this many cross-validation folds.")] = None,
    inside: Annotated[
        Path | None, typer.Option("--inside", help="Take the training cases of this manifest, in their order.")
    ] = None,
    patients: Annotated[
        Path | None, typer.Option("--patients", help="CSV with the columns case and patient, or JSON.")
    ] = None,
    patient_pattern: Annotated[
        str | None,
        typer.Option("--patient-pattern", help="Regular expression that finds the patient in a case's name."),
    ] = None,
    labels: Annotated[list[str] | None, typer.Option("--label", help="VALUE=NAME, such as '1=left atrium'.")] = None,
    labels_from: Annotated[
        Path | None, typer.Option("--labels-from", help="Manifest or JSON whose label table and texts are taken.")
    ] = None,
    root: Annotated[Path | None, typer.Option("--root", help="Write paths relative to this folder.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Split a data set by a written rule and write the manifest."""
    from medcontrast.data.listing import write_manifest
    from medcontrast.data.splitting import SplitRequest, split_trees

    request = SplitRequest(
        output=output,
        labeled=labeled,
        source=source,
        validation=validation,
        test=test,
        seed=seed,
        folds=folds,
        inside=inside,
        patients=patients,
        patient_pattern=patient_pattern,
        labels=tuple(labels or ()),
        labels_from=labels_from,
        root=root,
    )
    trees, notes = split_trees(request, overwrite=overwrite)
    for path, tree in trees.items():
        write_manifest(path, tree, overwrite=overwrite)
        typer.echo(f"{path}: {_sizes(tree)}.")
    if folds is not None:
        first = quoted(next(iter(trees)))
        typer.echo(
            "One recipe serves all folds, so that their networks can be averaged: make it of the first with "
            f"`medcontrast recipe new --manifest {first} -o my.yaml`, and train the others with "
            "`--set data.manifest=FOLD -o runs/FOLD`. `medcontrast evaluate --pool RUN --pool RUN ...` joins the "
            "scores of evaluated folds into one over all cases."
        )
    for note in notes:
        typer.echo(note)


@app.command("phantom")
def phantom(
    folder: Annotated[Path, typer.Argument(help="Folder to write to.")],
    labeled: Annotated[int, typer.Option("--labeled", min=0, help="Cases with labels.")] = 4,
    unlabeled: Annotated[int, typer.Option("--unlabeled", min=0, help="Cases without.")] = 36,
    validation: Annotated[int, typer.Option("--validation", min=0, help="Cases to watch.")] = 8,
    test: Annotated[int, typer.Option("--test", min=0, help="Cases to report on.")] = 8,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the whole data set.")] = 0,
    shape: Annotated[str, typer.Option("--shape", help="Voxels X,Y,Z; cases differ a little.")] = "64,64,40",
    manifest_name: Annotated[
        str | None, typer.Option("--manifest-name", help="Name written into FOLDER/manifest.json.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make left-atrium-like scans with known truth; the same ones for the same seed."""
    from medcontrast.commands.progress import counting
    from medcontrast.data.makers.phantom import write_phantom

    with counting("making") as tell:
        path = write_phantom(
            folder,
            seed=seed,
            labeled=labeled,
            unlabeled=unlabeled,
            validation=validation,
            test=test,
            shape=_triple(shape, "--shape") or (64, 64, 40),
            name=manifest_name,
            overwrite=overwrite,
            tell=tell,
        )
    counts = {"labeled": labeled, "unlabeled": unlabeled, "validation": validation, "test": test}
    typer.echo(f"{path}: {', '.join(f'{count} {name}' for name, count in counts.items() if count)}.")


@app.command("composites")
def composites(
    manifest: Annotated[Path, typer.Argument(help="A manifest of images, each of one object with a target.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write to.")],
    canvas: Annotated[int, typer.Option("--canvas", min=8, help="Side of a composite in pixels.")] = 32,
    side: Annotated[int, typer.Option("--side", min=4, help="Side of an object in it.")] = 16,
    channels: Annotated[int, typer.Option("--channels", help="1 or 3.")] = 3,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of pairs and places.")] = 0,
    root: Annotated[Path | None, typer.Option("--root", help="Folder the manifest's paths start from.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Put two objects of different classes on one canvas, as many composites as there are images."""
    from medcontrast.commands.progress import counting
    from medcontrast.data.images.manifest import load_image_manifest
    from medcontrast.data.makers.composites import write_composites

    _require_channels(channels)
    loaded = load_image_manifest(manifest, root)
    with counting("composing") as tell:
        path = write_composites(
            loaded, output, canvas=canvas, side=side, channels=channels, seed=seed, overwrite=overwrite, tell=tell
        )
    typer.echo(f"{path}: {_image_sizes(loaded)}.")


@app.command("degrade")
def degrade(
    manifest: Annotated[Path, typer.Argument(help="A manifest of images with targets and a test split.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write to.")],
    kind: Annotated[str, typer.Option("--kind", help="fundus or xray.")],
    size: Annotated[int, typer.Option("--size", min=8, help="Side of the images in pixels.")],
    severity: Annotated[float, typer.Option("--severity", min=0.0, max=1.0, help="Scales every amount.")] = 1.0,
    channels: Annotated[int, typer.Option("--channels", help="1 or 3.")] = 1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the draws.")] = 0,
    root: Annotated[Path | None, typer.Option("--root", help="Folder the manifest's paths start from.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a data set whose test images stand twice, as they are and degraded."""
    from medcontrast.commands.progress import counting
    from medcontrast.data.images.manifest import load_image_manifest
    from medcontrast.data.makers.degraded import write_degraded
    from medcontrast.settings.degrade import FundusDegradeSettings, XrayDegradeSettings

    if kind not in ("fundus", "xray"):
        raise InputError(f"--kind {kind}: expected fundus or xray.")
    _require_channels(channels)
    settings = (
        FundusDegradeSettings(kind="fundus", severity=severity)
        if kind == "fundus"
        else XrayDegradeSettings(kind="xray", severity=severity)
    )
    loaded = load_image_manifest(manifest, root)
    with counting("writing") as tell:
        path = write_degraded(
            loaded, output, settings, size=size, channels=channels, seed=seed, overwrite=overwrite, tell=tell
        )
    counts = ", ".join(f"{len(loaded.originals(name))} {name}" for name in loaded.splits())
    typer.echo(f"{path}: {counts} images; the test images a second time, degraded.")


@app.command("boxes")
def boxes(
    manifest: Annotated[Path, typer.Argument(help="A manifest of images with targets, the healthy class first.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write to.")],
    size: Annotated[int, typer.Option("--size", min=8, help="Side in pixels at which images are classified.")],
    channels: Annotated[int, typer.Option("--channels", help="1 or 3.")] = 1,
    encoder: Annotated[str, typer.Option("--encoder", help="resnet20, resnet18, resnet34 or resnet50.")] = "resnet20",
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Passes over the training images.")] = 20,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Images a step.")] = 32,
    lr: Annotated[float, typer.Option("--lr", min=0.0, help="Learning rate of AdamW.")] = 0.001,
    threshold: Annotated[float, typer.Option("--threshold", help="Share of a map's maximum.")] = 0.7,
    largest: Annotated[int, typer.Option("--largest", min=1, help="Boxes an image at most.")] = 1,
    splits: Annotated[
        list[str] | None, typer.Option("--split", help="Whose images get boxes; repeatable; default train.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the classifier.")] = 0,
    root: Annotated[Path | None, typer.Option("--root", help="Folder the manifest's paths start from.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1, mps.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Find lesion boxes by Grad-CAM of a small classifier, for images of a manifest that have none."""
    _require_channels(channels)

    from medcontrast.commands.progress import counting
    from medcontrast.data.images.manifest import load_image_manifest
    from medcontrast.engine.lesion_boxes import BoxRequest, write_lesion_boxes
    from medcontrast.inference.device import resolve_device

    request = BoxRequest(
        size=size,
        channels=channels,
        encoder=encoder,
        epochs=epochs,
        rows=rows,
        lr=lr,
        threshold=threshold,
        largest=largest,
        seed=seed,
        splits=tuple(dict.fromkeys(splits or ("train",))),
    )
    loaded, place = load_image_manifest(manifest, root), resolve_device(device)
    with counting("finding boxes") as tell:
        written = write_lesion_boxes(loaded, output, request, device=place, overwrite=overwrite, tell=tell)
    typer.echo(
        f"Classifier: accuracy {written.accuracy:.4f} on {written.judged} images that it did not learn from "
        f"({written.commonest:.4f} by naming their commonest class)."
    )
    if written.accuracy <= written.commonest:
        typer.echo(
            "Warning: it tells no classes apart, so its boxes are where no lesion need be; train it for more --epochs, "
            "at another --size or another --lr.",
            err=True,
        )
    counts = ", ".join(f"{some} of {all_} images of {split}" for split, (some, all_) in written.found.items())
    healthy = f"healthy is the first class, {loaded.classes[0]}"
    typer.echo(f"{written.manifest}: boxes for {counts} that are not healthy and had none ({healthy}).")


@app.command("scanners")
def scanners(
    manifest: Annotated[Path, typer.Argument(help="A manifest of clean images.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write to.")],
    size: Annotated[int, typer.Option("--size", min=8, help="Side of the images in pixels.")],
    shares: Annotated[
        list[str] | None,
        typer.Option("--share", help="SCANNER=PERCENT of the training images, over the defaults; repeatable."),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Add what the other scanners see of training images, as counterfactuals.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of scanners and noise.")] = 0,
    root: Annotated[Path | None, typer.Option("--root", help="Folder the manifest's paths start from.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Let five simulated scanners see a data set: one each training image, all of them every other."""
    from medcontrast.commands.progress import counting
    from medcontrast.data.images.manifest import load_image_manifest
    from medcontrast.data.makers.scanner_sets import write_scanners

    loaded = load_image_manifest(manifest, root)
    with counting("rendering") as tell:
        path = write_scanners(
            loaded,
            output,
            size=size,
            shares=_scanner_shares(shares or ()),
            exact=exact,
            seed=seed,
            overwrite=overwrite,
            tell=tell,
        )
    typer.echo(f"{path}: {_image_sizes(load_image_manifest(path))}.")


def _scanner_shares(texts: Sequence[str]) -> tuple[float, ...]:
    from medcontrast.transforms.scanners import SCANNERS, SHARES

    found = dict(zip(SCANNERS, SHARES, strict=True))
    for text in texts:
        name, _, number = text.partition("=")
        try:
            value = float(number) / 100.0
        except ValueError:
            value = -1.0
        if name not in found or not 0.0 <= value <= 1.0:
            raise InputError(f"--share {text}: expected SCANNER=PERCENT, of {', '.join(SCANNERS)}, such as gamma=4.4.")
        found[name] = value
    return tuple(found.values())


@app.command("import")
def import_(
    form: Annotated[str, typer.Argument(help="la-h5 or la-nrrd, the left atrium's two public forms.")],
    source: Annotated[Path, typer.Argument(help="Folder of case folders.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write to.")],
    train_list: Annotated[
        Path | None, typer.Option("--train-list", help="File of names, in their public order.")
    ] = None,
    test_list: Annotated[Path | None, typer.Option("--test-list", help="File of names.")] = None,
    labeled: Annotated[int, typer.Option("--labeled", min=1, help="How many of --train-list keep their labels.")] = 8,
    whole: Annotated[
        bool, typer.Option("--whole", help="Of la-nrrd leave scans whole and their values as they are.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Convert a public data set to NIfTI; with --train-list also write OUTPUT/manifest.json.

    Scans come out as the left atrium's recipes take them: z-scored, then cropped around the atrium in x and y.
    """
    from medcontrast.commands.progress import counting
    from medcontrast.data.listing import names_from_file, write_manifest
    from medcontrast.data.makers.importers import import_la, la_tree
    from medcontrast.files import require_free

    train = names_from_file(train_list) if train_list is not None else []
    test = names_from_file(test_list) if test_list is not None else []
    path = output / "manifest.json"
    if test and not train:
        raise InputError("--test-list goes with --train-list: a manifest needs cases to train on.")
    tree = None
    if train:
        require_free(path, overwrite=overwrite)
        tree = la_tree(train, test, labeled=labeled, name=f"la_{labeled}of{len(train)}", form=form, whole=whole)
    with counting("writing") as tell:
        names = import_la(form, source, output, train=train, test=test, whole=whole, overwrite=overwrite, tell=tell)
    typer.echo(f"{output}: {len(names)} case(s).")
    if tree is not None:
        write_manifest(path, {**tree, "root": "."}, overwrite=overwrite)
        typer.echo(f"{path}: {_sizes(tree)}.")


def _image_sizes(manifest: ImageManifest) -> str:
    return f"{', '.join(f'{len(manifest.cases(name))} {name}' for name in manifest.splits())} images"


def _require_channels(channels: int) -> None:
    if channels not in (1, 3):
        raise InputError(f"--channels {channels}: 1 for grey or 3 for colour.")


def _sizes(tree: dict[str, object]) -> str:
    from medcontrast.data.manifest import SPLITS

    return ", ".join(f"{len(entries)} {name}" for name in SPLITS if isinstance(entries := tree.get(name), list))


def _triple(text: str | None, option: str) -> tuple[int, int, int] | None:
    if text is None:
        return None
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise InputError(f"{option} {text}: expected three whole numbers such as 64,64,40.")
    return int(parts[0]), int(parts[1]), int(parts[2])
