"""How much a search that splits gives out at once, and when it takes to executing what is left."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from milpq._arrays import Int64Array
from milpq.merge import Cubes
from milpq.search.branch import Branching
from milpq.search.codes import count_codes

LEAF: Final = 1 << 16
"""Codes of the cubes that are executed once that is faster than splitting."""

_TRIAL: Final = 0.25
"""Splitting is judged once it has taken this part of what executing all open codes would take."""

_AGAIN: Final = 1.05
"""Growth of the work between two judgements: counting open codes takes as long as a job where cubes are many."""

_JOB_CODES: Final = 1 << 18
"""Executions that a job may take, or the time of as many."""


@dataclass(slots=True, eq=False)
class Pace:
    """Compares how fast splitting closes codes with how fast they are executed.

    Work is counted, not timed, so that a search takes the same way at every run.

    Parameters
    ----------
    work : Branching
    chosen : bool
        Whether small cubes alone are to be executed, as was asked for.

    Attributes
    ----------
    spent : int
        Work given out so far, in cubes bounded.
    leaf_codes : int
        Cubes of at most so many codes are to be executed now, besides those that `work` executes in any case.
    """

    work: Branching
    chosen: bool
    spent: int = 0
    leaf_codes: int = 0
    _marks: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])

    def batch(self) -> int:
        """Return how many cubes to split at once: a job should fit the caches and take a second at most."""
        work, problem = self.work, self.work.problem
        neurons = sum(node.size for node in problem.merged.nodes)
        # Linear bounds hold neurons × inputs numbers for each cube; some cubes are enumerated.
        held = neurons * problem.merged.input_size
        executed = neurons * neurons // 4 * (work.enumerate_codes if problem.domain.kind == "codes" else 1)
        return int(np.clip(min(4_000_000 // held, 4_000_000_000 // max(executed, 1)), 4, 256))

    def give(self, cubes: Cubes) -> None:
        """Note that a batch was given out."""
        self.spent += int(self.work.prices(cubes, self.leaf_codes).sum())

    def jobs(self, cubes: Cubes, batch: int) -> list[Int64Array]:
        """Divide cubes among jobs of at most `batch` of them, in their order; return their rows."""
        prices = self.work.prices(cubes, self.leaf_codes)
        most = max(2 * batch, _JOB_CODES // self.work.bounding.executions)
        parts: list[Int64Array] = []
        start = 0
        while start < len(prices):
            fitting = int(np.searchsorted(np.cumsum(prices[start : start + batch]), most, side="right"))
            stop = start + max(1, fitting)
            parts.append(np.arange(start, stop))
            start = stop
        return parts

    @property
    def due(self) -> bool:
        """Whether it is time to judge by the open codes."""
        if self.chosen or self.leaf_codes or self.work.problem.domain.kind != "codes":
            return False
        return not self._marks or self.spent * self.work.bounding.executions >= _AGAIN * self._marks[-1][0]

    def judge(self, cubes: Cubes) -> None:
        """Have larger cubes executed once splitting has closed fewer codes than executions would have.

        Parameters
        ----------
        cubes : Cubes
            The open ones.
        """
        work, codes = self.spent * self.work.bounding.executions, float(count_codes(cubes).sum())
        self._marks.append((work, codes))
        while len(self._marks) > 2 and self._marks[1][0] <= 0.5 * work:
            del self._marks[0]
        then, before = self._marks[0]
        if work >= _TRIAL * codes and before - codes < work - then:
            self.leaf_codes = LEAF
