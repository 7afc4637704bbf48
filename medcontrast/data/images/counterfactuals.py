"""Which counterfactuals an image has, and which of them a row is paired with."""

from __future__ import annotations

from collections.abc import Sequence

from medcontrast.data.images.sources import ImageCase, no_counterfactuals
from medcontrast.data.sampler import RowKey
from medcontrast.errors import InputError
from medcontrast.transforms.draws import row_generator


class Counterfactuals:
    """The images of a split and their counterfactuals.

    Attributes:
        cases: The images in their order, then the counterfactuals.
        images: How many of the cases are images.

    Paper: Roschewitz 2025, section 3.3: with a counterfactual for every other domain, a draw among these and the image
        itself is uniform over domains, own one included.
    """

    def __init__(self, cases: Sequence[ImageCase], *, seed: int, where: str) -> None:
        """Finds the image that each counterfactual is of.

        Args:
            cases: Of one split; `of` names the image, by its name in the same split.
            seed: Of the run; with step and row it decides every draw.
            where: Manifest and split, for messages.

        Raises:
            InputError: There are none, one is of an image that is not there, or two of one image
                with a domain or attributes, the image itself among them, are the same in these and in the target.
        """
        images = [case for case in cases if case.of is None]
        others = [case for case in cases if case.of is not None]
        if not others:
            raise InputError(f"{no_counterfactuals(images, where)}.")
        places = {case.name: place for place, case in enumerate(images)}
        self.cases, self.images, self.seed = (*images, *others), len(images), seed
        self._choices = [[place] for place in range(len(images))]
        for number, case in enumerate(others):
            place = places.get(str(case.of))
            if place is None:
                raise InputError(f"{where}: {case.name} is of {case.of}, which is no image of this split.")
            self._choices[place].append(len(images) + number)
        _require_one_a_value(images, others, where)

    def choices(self, place: int) -> tuple[int, ...]:
        """Places in `cases` that a row of this image draws from: the image itself first."""
        return tuple(self._choices[place])

    def partner(self, key: RowKey) -> int:
        """The place in `cases` that this row of this step is paired with, each of `choices` as likely."""
        choices = self._choices[key.case_index]
        return choices[int(row_generator(self.seed, key.step, key.row, "counterfactual").integers(len(choices)))]


def _require_one_a_value(images: Sequence[ImageCase], others: Sequence[ImageCase], where: str) -> None:
    """Refuses counterfactuals among which a draw would not be uniform over values, such as those of two generators."""
    found: dict[tuple[object, ...], str] = {}
    for case in (*images, *others):
        if case.domain is None and not case.attributes:
            continue  # nothing is known of what was changed
        facts = (case.of or case.name, case.domain, case.target, *sorted(case.attributes.items()))
        first = found.setdefault(facts, case.name)
        if first != case.name:
            same = "" if case.domain is None else f" in domain {case.domain}"
            if first == case.of:
                raise InputError(
                    f"{where}: {case.name} is a counterfactual of {first} with the image's own domain, target and "
                    "attributes, which would be drawn more often than others; take it out."
                )
            raise InputError(
                f"{where}: {first} and {case.name} are both counterfactuals of {case.of}{same} with the same "
                "attributes, which would be drawn more often than others; keep one of them."
            )
