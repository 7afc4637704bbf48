"""Which case stands in which row of which step: a pure function, so that resuming needs only the step.

Rows of a step are numbered over all processes and micro-batches: labeled rows 0..L-1, unlabeled rows L..L+U-1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from medcontrast.errors import InputError
from medcontrast.transforms.draws import row_generator


class RowKey(NamedTuple):
    """All that a row of a batch is made from, the seed aside.

    Attributes:
        step: Optimiser step.
        row: Number of the row in the step, over all processes and micro-batches.
        case_index: Position among the labeled cases, or among the unlabeled ones.
        labeled: Which of the two.
    """

    step: int
    row: int
    case_index: int
    labeled: bool


class TwoStreamSampler(Sampler[list[RowKey]]):
    """Walks through labeled and unlabeled cases at the same time, each in its own shuffled rounds.

    A stream's position is step * rows + row. Every `n` positions are one round, in which each case stands once;
    the order of a round is a function of (seed, stream, round). Micro-batches come in order; the processes of one
    micro-batch take contiguous shares of its labeled and of its unlabeled rows.

    Args:
        n_labeled: Labeled cases.
        n_unlabeled: Unlabeled cases; 0 only without unlabeled rows.
        labeled_rows: Labeled rows of a step, over all processes and micro-batches.
        unlabeled_rows: Unlabeled rows of a step.
        seed: Seed of the run.
        steps: Steps of the whole run.
        start_step: First step to give; where a resumed run goes on.
        rank: This process.
        world_size: Processes.
        micro_batches: Parts that a step is split into.

    Raises:
        InputError: A stream has rows but no cases, or its rows cannot be shared out evenly.
    """

    def __init__(
        self,
        n_labeled: int,
        n_unlabeled: int,
        labeled_rows: int,
        unlabeled_rows: int,
        seed: int,
        *,
        steps: int,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
        micro_batches: int = 1,
    ) -> None:
        for kind, cases, rows in (("labeled", n_labeled, labeled_rows), ("unlabeled", n_unlabeled, unlabeled_rows)):
            if rows and not cases:
                raise InputError(
                    f"train.{kind}_rows is {rows}, but the manifest has no {kind} cases; "
                    f"add some or set train.{kind}_rows to 0."
                )
            if rows % (world_size * micro_batches):
                raise InputError(
                    f"train.{kind}_rows {rows} cannot be shared evenly by {world_size} process(es) with "
                    f"train.accumulate {micro_batches}; make it a multiple of {world_size * micro_batches}."
                )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} does not lie in 0..{world_size - 1}")
        self.cases = (n_labeled, n_unlabeled)
        self.rows = (labeled_rows, unlabeled_rows)
        self.seed, self.steps, self.start_step = seed, steps, start_step
        self.rank, self.world_size, self.micro_batches = rank, world_size, micro_batches

    def __len__(self) -> int:
        return max(0, self.steps - self.start_step) * self.micro_batches

    def __iter__(self) -> Iterator[list[RowKey]]:
        for step in range(self.start_step, self.steps):
            for micro_batch in range(self.micro_batches):
                yield self.batch(step, micro_batch)

    def batch(self, step: int, micro_batch: int = 0) -> list[RowKey]:
        """This process's rows of one micro-batch, labeled rows first."""
        part = micro_batch * self.world_size + self.rank
        keys = []
        for labeled, first, rows in ((True, 0, self.rows[0]), (False, self.rows[0], self.rows[1])):
            share = rows // (self.world_size * self.micro_batches)
            places = range(part * share, (part + 1) * share)
            keys += [RowKey(step, first + place, self._case(labeled, step * rows + place), labeled) for place in places]
        return keys

    def epoch(self, step: int) -> int:
        """Full passes over the labeled cases before this step."""
        return step * self.rows[0] // self.cases[0] if self.cases[0] else 0

    def _case(self, labeled: bool, position: int) -> int:
        cases, stream = (self.cases[0], "labeled order") if labeled else (self.cases[1], "unlabeled order")
        return int(_order(cases, self.seed, stream, position // cases)[position % cases])


class ImageSampler(TwoStreamSampler):
    """One stream of images whose every step lies within a round, so that no image stands in a step twice.

    The images that a round has left after its last whole step sit out; which these are differs from round to round.
    """

    def epoch(self, step: int) -> int:
        """Whole rounds before this step."""
        return step // (self.cases[0] // self.rows[0])

    def _case(self, labeled: bool, position: int) -> int:
        rows, cases = self.rows[0], self.cases[0]
        step, row = divmod(position, rows)
        place = step % (cases // rows) * rows + row
        return int(_order(cases, self.seed, "labeled order", self.epoch(step))[place])


class BalancedSampler(TwoStreamSampler):
    """Draws images with replacement, so that rare domains are seen more often than they occur.

    A row's domain d has the probability balance / D + (1 - balance) n_d / n, with D domains; its image is any of d.
    Each draw is a function of (seed, step, row).

    Args:
        domains: Of every image.
        balance: From 0 (domains as they occur) to 1 (uniform).
        rows: Of a step, over all processes and micro-batches.
        seed: Seed of the run.
        steps: Steps of the whole run.
        start_step: As for TwoStreamSampler, and so are the rest.

    Paper: Roschewitz 2025; public code, sampler with alpha 0.5.
    """

    def __init__(
        self,
        domains: Sequence[str],
        balance: float,
        rows: int,
        seed: int,
        *,
        steps: int,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
        micro_batches: int = 1,
    ) -> None:
        super().__init__(
            len(domains),
            0,
            rows,
            0,
            seed,
            steps=steps,
            start_step=start_step,
            rank=rank,
            world_size=world_size,
            micro_batches=micro_batches,
        )
        _, place = np.unique(np.array(domains), return_inverse=True)
        self.members = [np.flatnonzero(place == number) for number in range(place.max() + 1)]
        counts = np.array([len(members) for members in self.members])
        self.shares = balance / len(counts) + (1.0 - balance) * counts / counts.sum()

    def _case(self, labeled: bool, position: int) -> int:
        step, row = divmod(position, self.rows[0])
        generator = row_generator(self.seed, step, row, "balanced draw")
        members = self.members[int(np.searchsorted(np.cumsum(self.shares)[:-1], generator.random(), side="right"))]
        return int(members[generator.integers(len(members))])


@lru_cache(maxsize=8)
def _order(cases: int, seed: int, stream: str, round_: int) -> np.ndarray:
    return row_generator(seed, round_, 0, stream).permutation(cases)
