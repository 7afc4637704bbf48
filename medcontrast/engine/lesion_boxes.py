"""Lesion boxes where a manifest has none: a small classifier learns the classes, Grad-CAM says what it looked at.

Letters: n images, x, y pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medcontrast.components import component_boxes
from medcontrast.data.images.images import Images
from medcontrast.data.images.lesion_boxes import Box, moved_box
from medcontrast.data.images.manifest import BOXES, MADE_BY, ImageManifest, require_apart
from medcontrast.data.images.sources import ImageCase
from medcontrast.data.images.tables import require_new_set
from medcontrast.data.listing import manifest_text
from medcontrast.engine.probe.embed import ROWS, ImageSet
from medcontrast.engine.probe.finetune import Classifier, FineTuning, classify, fine_tune
from medcontrast.engine.probe.images import hold_out, image_set
from medcontrast.errors import InputError
from medcontrast.files import relative_name, write_text
from medcontrast.metrics.classification import accuracy
from medcontrast.networks.encoders2d import Encoder, build_encoder
from medcontrast.networks.grad_cam import grad_cam, on_pixels
from medcontrast.networks.modes import evaluating
from medcontrast.render import BoxedImage, boxes_png

FILES = ("manifest.json", "lesion_boxes.png")
ENCODERS = ("resnet20", "resnet18", "resnet34", "resnet50")
"""Those whose features are the mean of a map of places, which Grad-CAM reads."""
_SHOWN = 12
_SMALL = 64
"""Sides up to this keep their grid at the start of an encoder."""


@dataclass(frozen=True)
class BoxRequest:
    """What is asked for.

    Attributes:
        size: Side in pixels that the classifier sees images at.
        channels: 1 or 3.
        encoder: One of ENCODERS.
        epochs: Passes over the training images.
        rows: Images a step.
        lr: Of AdamW, after its warm-up.
        threshold: Share of a map's maximum from which on a place belongs to a lesion.
        largest: Boxes an image at most: those of its largest components.
        seed: Of the weights, of the rows and of their mirroring.
        splits: Whose images get boxes.
    """

    size: int
    channels: int = 1
    encoder: str = "resnet20"
    epochs: int = 20
    rows: int = 32
    lr: float = 0.001
    threshold: float = 0.7
    largest: int = 1
    seed: int = 0
    splits: tuple[str, ...] = ("train",)

    def __post_init__(self) -> None:
        if self.encoder not in ENCODERS:
            raise InputError(f"encoder {self.encoder!r}: Grad-CAM reads the last map of {', '.join(ENCODERS)}.")
        if not 0.0 < self.threshold < 1.0:
            raise InputError(f"threshold {self.threshold:g}: expected a share of the maximum between 0 and 1.")


@dataclass(frozen=True)
class WrittenBoxes:
    """What was written.

    Attributes:
        manifest: The manifest.
        accuracy: Of the classifier, on images that it did not learn from.
        commonest: What naming their commonest class would give.
        judged: How many those are.
        found: Split -> images that got boxes, and images that were to get some.
    """

    manifest: Path
    accuracy: float
    commonest: float
    judged: int
    found: dict[str, tuple[int, int]]


def write_lesion_boxes(
    manifest: ImageManifest,
    folder: Path,
    request: BoxRequest,
    *,
    device: torch.device | None = None,
    overwrite: bool = False,
    tell: Callable[[str], None] = lambda what: None,
) -> WrittenBoxes:
    """Writes FILES: the manifest with boxes for images that have none and are not of the healthy class (target 0).

    The classifier learns from training images alone. Where there is no validation split, a part of them is held back
    from it and judges it.

    Args:
        manifest: Of images with targets.
        folder: Made where it is not there.
        request: How.
        device: Where to compute; default the CPU.
        overwrite: Whether files that are there are replaced.
        tell: Called with what is being done.

    Raises:
        InputError: Fewer than two classes, a class that no training image has, no image to find boxes for, or no box.
        OutputError: The files exist, are those of the manifest itself, or cannot be written.
    """
    require_new_set(manifest, folder / FILES[0], folder / FILES[1], overwrite=overwrite)
    require_apart(manifest)
    wanted = {split: _without_boxes(manifest, split) for split in request.splits}
    learned, judged = _taught(manifest)
    tell("classifier")
    place = device or torch.device("cpu")
    classifier = train_classifier(learned, len(manifest.classes), request, place)
    targets = np.array([case.target for case in judged], dtype=np.int64)
    right = accuracy(classify(classifier, _image_set(judged, request), place), targets)
    table: dict[str, Any] = dict(manifest.raw.get(BOXES, {}))
    found, shown = {}, list[BoxedImage]()
    for split, cases in wanted.items():
        tell(split)
        boxes = _boxes_of(classifier, cases, request, place)
        table |= {case.name: [list(map(int, box)) for box in some] for case, some in boxes if some}
        found[split] = sum(bool(some) for _, some in boxes), len(cases)
        shown += _pictures(classifier, [each for each in boxes if each[1]], request, place)
    if not shown:
        raise InputError(
            f"{manifest.path}: Grad-CAM finds nothing that speaks for a lesion in any image (accuracy {right:.3f} on "
            f"{len(judged)} images); train for more --epochs, or at another --size."
        )
    facts = {
        **_facts(request),
        "validation_accuracy": round(right, 4),
        "validation_images": len(judged),
        "validation_from": "validation" if manifest.sources["validation"] else "train, held back",
    }
    write_text(folder / FILES[0], manifest_text(_tree(manifest, folder, table, facts)))
    title = (
        f"Grad-CAM, {request.encoder}, threshold {request.threshold:g}: accuracy {right:.3f} on {len(judged)} images"
    )
    boxes_png(folder / FILES[1], shown, title=title)
    return WrittenBoxes(folder / FILES[0], right, float(np.bincount(targets).max() / len(targets)), len(judged), found)


def train_classifier(cases: Sequence[ImageCase], classes: int, request: BoxRequest, device: torch.device) -> Classifier:
    """An encoder with fresh weights and a linear layer, trained on these images; a function of them and the request."""
    torch.manual_seed(request.seed)
    plain = {} if request.encoder == "resnet20" else {"small_stem": request.size <= _SMALL}
    encoder = build_encoder(request.encoder, in_channels=request.channels, **plain)
    rows = min(request.rows, len(cases))
    steps = request.epochs * math.ceil(len(cases) / rows)
    return fine_tune(
        encoder,
        _image_set(cases, request),
        np.arange(len(cases)),
        feature_channels=encoder.feature_channels,
        classes=classes,
        settings=FineTuning(steps=steps, rows=rows, lr=request.lr),
        seed=request.seed,
        device=device,
    )


def class_maps(classifier: Classifier, image: Tensor, target: Tensor) -> Tensor:
    """Grad-CAM of the last stage, on the image's pixels.

    Args:
        classifier: Of a convolutional encoder.
        image: (n, c, x, y), prepared as the classifier learned them.
        target: (n,) class whose map is wanted.

    Returns:
        (n, x, y), 0 or more.
    """
    encoder = classifier.encoder
    assert isinstance(encoder, Encoder)
    head = classifier.head
    with evaluating(classifier), torch.no_grad():
        maps = encoder.stages(image)[-1]
        found = grad_cam(maps, lambda stage: functional.linear(stage.mean((-2, -1)), head.weight, head.bias), target)
    return on_pixels(found, encoder.stage_strides[-1], (image.shape[2], image.shape[3]))


def map_boxes(
    class_map: Tensor, sides: tuple[int, int], *, threshold: float, largest: int
) -> tuple[tuple[int, int, int, int], ...]:
    """Boxes around the largest parts of a map (x, y) that reach a share of its maximum; none where it is 0.

    Args:
        class_map: On the grid that the classifier saw.
        sides: Height and width in pixels of the image as it lies in its file; boxes are in its whole pixels.
        threshold: The share.
        largest: Boxes at most.
    """
    array = class_map.cpu().double().numpy()
    if array.max() <= 0.0:
        return ()
    boxes = []
    for box in component_boxes(array >= threshold * array.max(), largest):
        top, left, bottom, right = moved_box(box, (array.shape[0], array.shape[1]), sides)
        boxes.append(
            (math.floor(top), math.floor(left), min(math.ceil(bottom), sides[0]), min(math.ceil(right), sides[1]))
        )
    return tuple(boxes)


_Boxed = tuple[ImageCase, tuple[Box, ...]]


def _without_boxes(manifest: ImageManifest, split: str) -> list[ImageCase]:
    if len(manifest.classes) < 2:
        raise InputError(
            f'{manifest.path}: lesion boxes need a healthy class and another, but "classes" names '
            f"{len(manifest.classes)}."
        )
    cases = [case for case in manifest.originals(split) if case.target]
    without = [case for case in cases if not case.lesion_boxes]
    if not without:
        why = "all of them have lesion boxes" if cases else "none has a target other than the healthy class, 0"
        raise InputError(f"{manifest.path}: {split} has no image to find lesion boxes for: {why}.")
    return without


def _taught(manifest: ImageManifest) -> tuple[tuple[ImageCase, ...], tuple[ImageCase, ...]]:
    """Images that the classifier learns from, and those that judge it."""
    cases = tuple(case for case in manifest.originals("train") if case.target is not None)
    absent = [name for number, name in enumerate(manifest.classes) if all(case.target != number for case in cases)]
    if absent:
        raise InputError(f"{manifest.path}: no training image has the class {absent[0]}, so a classifier learns none.")
    if manifest.sources["validation"]:
        judged = tuple(case for case in manifest.originals("validation") if case.target is not None)
    else:
        cases, judged = hold_out(cases)
    if not judged:
        raise InputError(
            f"{manifest.path}: no image is left to judge the classifier by; add a validation split with targets."
        )
    return cases, judged


def _image_set(cases: Sequence[ImageCase], request: BoxRequest) -> ImageSet:
    return image_set(Images(cases, channels=request.channels, size=request.size))


def _maps(classifier: Classifier, images: Images, device: torch.device) -> Tensor:
    """(n, x, y) of the images' own classes."""
    shown = image_set(images)
    image, target = shown.load(range(len(shown))), torch.from_numpy(shown.targets)
    return class_maps(classifier, image.to(device), target.to(device))


def _boxes_of(
    classifier: Classifier, cases: Sequence[ImageCase], request: BoxRequest, device: torch.device
) -> list[_Boxed]:
    found: list[_Boxed] = []
    for start in range(0, len(cases), ROWS):
        part = cases[start : start + ROWS]
        images = Images(part, channels=request.channels, size=request.size)
        for number, each in enumerate(_maps(classifier, images, device)):
            sides = images.sides(number)
            found.append((part[number], map_boxes(each, sides, threshold=request.threshold, largest=request.largest)))
    return found


def _pictures(
    classifier: Classifier, boxed: Sequence[_Boxed], request: BoxRequest, device: torch.device
) -> list[BoxedImage]:
    """Some images with their maps and boxes, evenly spread over the split."""
    some = [boxed[number] for number in np.linspace(0, len(boxed) - 1, min(_SHOWN, len(boxed))).round().astype(int)]
    if not some:
        return []
    cases = [case for case, _ in some]
    images = Images(cases, channels=request.channels, size=request.size)
    maps = _maps(classifier, images, device).cpu().numpy()
    grid = (request.size, request.size)
    return [
        BoxedImage(
            images[number].transpose(1, 2, 0),
            maps[number],
            [moved_box(box, images.sides(number), grid) for box in boxes],
            Path(case.name).name,
        )
        for number, (case, boxes) in enumerate(some)
    ]


def _facts(request: BoxRequest) -> dict[str, Any]:
    return {"method": "Grad-CAM", **{key: list(v) if key == "splits" else v for key, v in vars(request).items()}}


def _tree(manifest: ImageManifest, folder: Path, table: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """The manifest with boxes; its paths still start from the images' own folder."""
    tree = {key: value for key, value in manifest.raw.items() if key not in (BOXES, MADE_BY)}
    tree["name"] = f"{manifest.name}_boxes"
    tree["root"] = relative_name(manifest.root.resolve(), folder.resolve())
    return {**tree, MADE_BY: facts, BOXES: table}
