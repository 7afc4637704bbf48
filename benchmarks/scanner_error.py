"""How far a generator's counterfactuals are from what the simulated scanners themselves render.

    python benchmarks/scanner_error.py --ckpt RUN --manifest data/morphomnist_scanners/manifest.json

Every digit of validation and test is there under all five scanners, so that a counterfactual's exact image is known.
Mean absolute differences in 0..1, and in brackets those of leaving the image as it is.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from medcontrast.data.images.images import Images
from medcontrast.data.images.manifest import ImageCase, load_image_manifest
from medcontrast.engine.generator.generator import load_generator
from medcontrast.transforms.scanners import SCANNERS


class Changes(Protocol):
    """What a generator is asked for here."""

    def counterfactual(self, image: Tensor, numbers: Tensor, intervened: Tensor) -> Tensor:
        """(b, c, x, y) under other parents (b, p)."""


def by_digit(cases: list[ImageCase], digits: int) -> list[ImageCase]:
    """The first digits under every scanner, in the order of SCANNERS, one digit after the other."""
    known: dict[str | None, dict[str | None, ImageCase]] = defaultdict(dict)
    for case in cases:
        known[case.patient][case.domain] = case
    whole = [seen for seen in known.values() if set(seen) == set(SCANNERS)]
    return [seen[scanner] for seen in whole[:digits] for scanner in SCANNERS]


def errors(generator: Changes, image: Tensor, numbers: Tensor) -> dict[tuple[str, str], tuple[float, float]]:
    """(from, to) -> difference to the exact image, of the counterfactual and of the image itself.

    Args:
        generator: Makes counterfactuals.
        image: (digits * 5, c, x, y), every digit under all scanners in their order.
        numbers: (digits * 5, p), the images' parents.
    """
    images, parents = image.unflatten(0, (-1, len(SCANNERS))), numbers.unflatten(0, (-1, len(SCANNERS)))
    found = {}
    for (one, start), (other, end) in product(enumerate(SCANNERS), repeat=2):
        if one != other:
            made = generator.counterfactual(images[:, one], parents[:, one], parents[:, other])
            exact = images[:, other]
            found[start, end] = (float((made - exact).abs().mean()), float((images[:, one] - exact).abs().mean()))
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--split", default="validation", choices=("validation", "test"))
    parser.add_argument("--digits", type=int, default=300)
    args = parser.parse_args()
    generator, manifest = load_generator(args.ckpt, torch.device("cpu")), load_image_manifest(args.manifest)
    cases = by_digit(manifest.originals(args.split), args.digits)
    data = generator.recipe.data
    image = Images(cases, channels=data.channels, size=data.size).load(range(len(cases)))
    found = errors(generator, image, generator.numbers(cases, manifest.classes, where=args.split))
    print(f"| from \\ to, {len(cases) // len(SCANNERS)} digits | " + " | ".join(SCANNERS) + " |")
    print("|---" * (len(SCANNERS) + 1) + "|")
    for start in SCANNERS:
        cells = ["-" if start == end else "{:.3f} ({:.3f})".format(*found[start, end]) for end in SCANNERS]
        print(f"| {start} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
