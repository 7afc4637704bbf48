"""The images of a probe, out of a manifest: which are fitted, which choose, which are scored, and what was left out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from medcontrast.data.images.images import Images
from medcontrast.data.images.manifest import ImageManifest, require_apart
from medcontrast.data.images.parents import as_category
from medcontrast.data.images.sources import ImageCase, fields_of, listed_fields
from medcontrast.engine.probe.embed import ImageSet
from medcontrast.engine.probe.probe import ProbeSets
from medcontrast.errors import InputError
from medcontrast.settings.images import ImageDataSettings
from medcontrast.transforms.draws import row_generator

MEAN, STD = (float(ImageDataSettings.model_fields[key].default) for key in ("mean", "std"))
"""Of images that no recipe prepares: a recipe's defaults."""
SCORED = ("test", "validation")
MOST_GROUPS = 20
"""Values of an attribute that images are grouped by; more of them are measurements."""
HELD_OUT = 0.2
"""Share of the training images that chooses the linear probe's strength where no validation split does."""


@dataclass(frozen=True, eq=False)
class ProbeImages:
    """What a probe works on.

    Attributes:
        sets: The images.
        scored: What is known of every test image.
        sizes: How many images are fitted, how many choose and how many are scored.
        notes: What a reader must know of how the parts came about.
        warnings: What makes a figure doubtful.
    """

    sets: ProbeSets
    scored: tuple[ImageCase, ...]
    sizes: dict[str, int]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class ProbeCases:
    """What is known of the images of a probe before any is read.

    Attributes:
        fitted: Those that classifiers learn from.
        choosing: Those that choose the linear probe's strength.
        scored: Those that are scored.
        groups: Kind of group -> the group of every scored image.
        notes: What a reader must know of how the parts came about.
    """

    fitted: tuple[ImageCase, ...]
    choosing: tuple[ImageCase, ...]
    scored: tuple[ImageCase, ...]
    groups: dict[str, list[str]]
    notes: tuple[str, ...]


def probe_cases(manifest: ImageManifest, *, split: str = "test", group_by: Sequence[str] = ()) -> ProbeCases:
    """Finds the images that have a target; opens none of them.

    Args:
        manifest: Its `train` split is fitted.
        split: Scored; where it is not `test`, or there is no validation split, a part of `train` does the choosing.
        group_by: Attributes by which images are grouped too, such as sex, of a few values each.

    Raises:
        InputError: A split that cannot be scored, a split or a class without images, fewer than two classes, or an
            attribute that makes no groups.
        ManifestError: A source that cannot be used, or splits that overlap.
    """
    if split not in SCORED:
        raise InputError(f"--split {split}: a probe learns from train and is scored on {' or '.join(SCORED)}.")
    if len(manifest.classes) < 2:
        raise InputError(f'{manifest.path}: a probe tells classes apart, but "classes" names {len(manifest.classes)}.')
    require_apart(manifest)
    notes: list[str] = []
    train, test = (_with_target(manifest, name, notes) for name in ("train", split))
    _require_every_class(manifest, {"train": train, split: test})
    if split == "test" and manifest.sources["validation"]:
        validation = _with_target(manifest, "validation", notes)
    else:
        train, validation = hold_out(train)
        if not validation:
            raise InputError(
                f"{manifest.path}: {len(train)} training images are too few to hold a part of them back for "
                "validation; add a validation split."
            )
        notes.append(
            f"{len(validation)} of {len(train) + len(validation)} training images are held back to choose the linear "
            "probe's strength, as no validation split does."
        )
    groups = _groups(test) | _groups_by(group_by, test, f"{manifest.path}: {split}")
    return ProbeCases(train, validation, test, groups, tuple(notes))


def probe_images(
    manifest: ImageManifest, data: ImageDataSettings, *, split: str = "test", group_by: Sequence[str] = ()
) -> ProbeImages:
    """Reads the images of `probe_cases`, prepared as pre-training saw them but for its views.

    Args:
        manifest: As for `probe_cases`, and split and group_by too.
        data: Of the pre-training recipe: size, channels, mean and std.
        split: Scored.
        group_by: Attributes by which images are grouped.

    Raises:
        InputError: As for `probe_cases`.
        ManifestError: As for `probe_cases`.
        ImageError: An image that cannot be read.
    """
    cases = probe_cases(manifest, split=split, group_by=group_by)
    parts = [
        Images(part, channels=data.channels, size=data.size, keep=data.cache == "memory")
        for part in (cases.fitted, cases.choosing, cases.scored)
    ]
    fitted, choosing, scored = (
        image_set(part, mean=data.mean, std=data.std, groups=of)
        for part, of in zip(parts, ({}, {}, cases.groups), strict=True)
    )
    sets = ProbeSets(fitted, choosing, scored, len(manifest.classes), _contained(manifest))
    sizes = {"fitted": len(fitted), "choosing": len(choosing), "scored": len(scored)}
    doubtful = [*_unseen(manifest, cases.choosing), *_lonely(cases.groups, split), *_copies(parts[:2], parts[2])]
    return ProbeImages(sets, cases.scored, sizes, cases.notes, tuple(doubtful))


def _contained(manifest: ImageManifest) -> NDArray[np.bool_] | None:
    """(classes, labels) Which labels each class contains; None where the manifest does not say."""
    if not manifest.contains:
        return None
    return np.array([[label in manifest.contains[name] for label in manifest.labels] for name in manifest.classes])


def hold_out(
    cases: Sequence[ImageCase], share: float = HELD_OUT
) -> tuple[tuple[ImageCase, ...], tuple[ImageCase, ...]]:
    """A part of the images, class by class and patients whole; a patient who has the last images of a class stays.

    Returns:
        Those that stay and those held back, each in order; the same for the same images.
    """
    units: dict[str, list[int]] = {}
    for place, case in enumerate(cases):
        units.setdefault(_unit(case), []).append(place)
    classes: dict[int, list[list[int]]] = {}
    for places in units.values():
        classes.setdefault(cases[places[0]].target or 0, []).append(places)
    held: set[int] = set()
    left = Counter(case.target for case in cases)
    for target, members in sorted(classes.items()):
        count = min(math.floor(share * len(members) + 0.5), len(members) - 1)
        for number in row_generator(0, 0, target, "validation of a probe").permutation(len(members))[:count]:
            own = Counter(cases[place].target for place in members[number])
            if all(left[each] > images for each, images in own.items()):
                left -= own
                held |= set(members[number])
    kept = tuple(case for place, case in enumerate(cases) if place not in held)
    return kept, tuple(cases[place] for place in sorted(held))


def image_units(cases: Sequence[ImageCase]) -> NDArray[np.int64]:
    """(n,) Number of each image's unit, from 0 up in order of their first images.

    A unit is the images of one patient; where none is known, an image by itself. Images of one unit are right and wrong
    together, so that intervals and tests are over units.
    """
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(_unit(case), len(numbers)) for case in cases], dtype=np.int64)


def group_members(names: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    """Group -> (n,) which images belong to it, of the group of every image."""
    return {name: np.array(names) == name for name in sorted(set(names))}


def _unit(case: ImageCase) -> str:
    return f"image {case.name}" if case.patient is None else f"patient {case.patient}"


def _with_target(manifest: ImageManifest, split: str, notes: list[str]) -> tuple[ImageCase, ...]:
    cases = manifest.originals(split)
    known = tuple(case for case in cases if case.target is not None)
    if not known:
        fields = listed_fields(fields_of([vars(case) for case in cases]))
        raise InputError(
            f"{manifest.path}: none of the {len(cases)} images of {split} has a target, which a probe needs; they have "
            f"{fields}."
        )
    if len(known) < len(cases):
        notes.append(f"{len(cases) - len(known)} of {len(cases)} images of {split} have no target and are left out.")
    return known


def _require_every_class(manifest: ImageManifest, parts: dict[str, tuple[ImageCase, ...]]) -> None:
    for split, cases in parts.items():
        present = {case.target for case in cases}
        if len(present) == 1:
            only = manifest.classes[cases[0].target or 0]
            raise InputError(f"{manifest.path}: all {len(cases)} images of {split} are of one class, {only}.")
        absent = [name for target, name in enumerate(manifest.classes) if target not in present]
        if absent:
            raise InputError(
                f"{manifest.path}: the class {absent[0]} does not occur among the {len(cases)} images of {split}; "
                "add some, or take it out of classes."
            )


def _unseen(manifest: ImageManifest, validation: Sequence[ImageCase]) -> list[str]:
    present = {case.target for case in validation}
    return [
        f"the class {name} does not occur among the {len(validation)} images that choose the linear probe's strength."
        for target, name in enumerate(manifest.classes)
        if target not in present
    ]


def _groups(cases: Sequence[ImageCase]) -> dict[str, list[str]]:
    """The group of every image, for each kind of group that tells images apart."""
    kinds = {
        "domain": [case.domain or "(none)" for case in cases],
        "quality": [case.quality or "high" for case in cases],
    }
    return {kind: names for kind, names in kinds.items() if len(set(names)) > 1}


def _groups_by(attributes: Sequence[str], cases: Sequence[ImageCase], where: str) -> dict[str, list[str]]:
    """Attribute -> its value of every image; at most MOST_GROUPS of them."""
    found = {}
    for name in attributes:
        values = [as_category(case.attributes[name]) if name in case.attributes else "(none)" for case in cases]
        count = len(set(values))
        if set(values) == {"(none)"}:
            known = ", ".join(sorted({key for case in cases for key in case.attributes})) or "none"
            raise InputError(f"{where}: no image has an attribute {name!r} to group by; there are {known}.")
        if not 1 < count <= MOST_GROUPS:
            raise InputError(
                f"{where}: {name} has {count} value{'' if count == 1 else 's'}, but groups are made of 2 to "
                f"{MOST_GROUPS}; add an attribute with a number a group."
            )
        found[name] = values
    return found


def _lonely(groups: dict[str, list[str]], split: str) -> list[str]:
    return [
        f"{kind} {name} occurs once in {split}; its figures are those of one image."
        for kind, names in groups.items()
        for name, count in sorted(Counter(names).items())
        if count == 1
    ]


def _copies(known: Sequence[Images], scored: Images) -> list[str]:
    """A warning where scored images are training images under other names; images of one value are alike anyway."""
    if not scored.keep:  # reading all of them once more would cost more than embedding them
        return []
    seen = {sha256(part[place].tobytes()).digest() for part in known for place in range(len(part))}
    pixels = ((case.name, scored[place]) for place, case in enumerate(scored.cases))
    twice = [name for name, image in pixels if image.min() < image.max() and sha256(image.tobytes()).digest() in seen]
    if not twice:
        return []
    count = f"{len(twice)} of {len(scored)} scored images have the pixels of a training image"
    return [f"{count}, such as {twice[0]}; `medcontrast data check` names both."]


def image_set(
    images: Images, *, mean: float = MEAN, std: float = STD, groups: dict[str, list[str]] | None = None
) -> ImageSet:
    """Images with targets, read at once where they are kept, in units of (value - mean) / std of values in 0..1.

    Args:
        images: All with a target.
        mean: Taken from the values.
        std: They are divided by it after that.
        groups: Kind of group -> the group of every image.
    """
    images.preload()

    def load(places: Sequence[int]) -> Tensor:
        return (images.load(places) - mean) / std

    targets = np.array([case.target for case in images.cases], dtype=np.int64)
    return ImageSet(load, targets, groups or {}, image_units(images.cases))
