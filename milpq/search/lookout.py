"""Witness searches beside a branch and bound.

What a search finds is handed over once so much other work has been given out as takes about as long: at a place that
depends on the work, never on who was faster.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from milpq._arrays import Float64Array
from milpq.merge import Problem
from milpq.search.budget import Budget
from milpq.search.ordered import Aside, OrderedExecutor
from milpq.search.pool import WitnessPool, sharpen
from milpq.search.witness import WitnessOptions, search_witnesses

_SHARE: Final = 0.15
"""Of the time that is left, for one search at most."""

_PARTS: Final = 4
"""So many times the first of the first searches are all of them at most."""

_DEAR: Final = 3
"""Plain executions that take as long as one of a search, which makes its input and follows gradients."""

_GAIN: Final = 1e-3
"""Part that one of the first searches has to add to a witness for another one to follow."""


@dataclass(slots=True)
class Flag:
    """Says whether to stop; jobs in threads see it, those in other processes run to their end."""

    raised: bool = False

    def __call__(self) -> bool:
        """Tell whether it is raised."""
        return self.raised


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """A witness search as a job.

    Parameters
    ----------
    options : WitnessOptions
    pool : WitnessPool
    starts : float64, shape (points, inputs), or None
    limit_s : float or None
        Seconds from the start of the job.
    stopped : Flag
    """

    options: WitnessOptions
    pool: WitnessPool
    starts: Float64Array | None
    limit_s: float | None
    stopped: Flag


@dataclass(frozen=True, slots=True, eq=False)
class Looking:
    """What is to be done with a `Look`."""

    problem: Problem

    def __call__(self, look: Look) -> WitnessPool:
        """Return the pool of the job with what was found."""
        budget = Budget(look.limit_s, look.options.evaluations, look.stopped)
        found = search_witnesses(
            self.problem, look.options, pool=look.pool, starts=look.starts, budget=budget
        )
        return sharpen(self.problem, found)


class Lookout:
    """Has witnesses searched for, one search at a time.

    The first searches follow upon each other, each with as many executions as all before it, until one gains
    nothing; the others are begun when they are asked for.

    Parameters
    ----------
    problem : Problem
    executor : OrderedExecutor
    options : WitnessOptions or None
        Of one search; the seed is that of the first.  None for no search at all.
    first : int
        Executions of the first searches together, at most.
    price : int
        Plain executions that take as long as a unit of the other work.
    """

    def __init__(
        self,
        problem: Problem,
        executor: OrderedExecutor[Any],
        options: WitnessOptions | None,
        first: int,
        price: int,
    ) -> None:
        self._looking, self._executor = Looking(problem), executor
        self._options, self._first, self._price = options, first, price
        self._stopped = Flag()
        self._aside: Aside[WitnessPool] | None = None
        self._due = self._count = self._executions = 0
        self._opening = True

    @property
    def opening(self) -> bool:
        """Whether the next of the first searches waits to be begun."""
        return self._opening and self._aside is None

    def begin(
        self, pool: WitnessPool, units: int, budget: Budget, starts: Float64Array | None = None
    ) -> None:
        """Begin a search, unless one is under way.

        Parameters
        ----------
        pool : WitnessPool
            Known witnesses.
        units : int
            Other work that has been given out.
        budget : Budget
            Of the branch and bound.
        starts : float64, shape (points, inputs), optional
        """
        options = self._options
        if self._aside is not None or options is None:
            return
        first = min(self._executions or self._first // _PARTS, self._first - self._executions)
        executions = max(options.evaluations, first if self._opening else 0)
        left = budget.part(executions).time_limit_s
        chosen = replace(options, evaluations=executions, seed=options.seed + self._count)
        look = Look(chosen, pool, starts, None if left is None else _SHARE * left, self._stopped)
        self._count += 1
        self._executions += executions
        self._due = units + _DEAR * executions // self._price
        self._aside = self._executor.aside(self._looking, look)

    def collect(self, pool: WitnessPool, units: int, budget: Budget) -> WitnessPool:
        """Return the pool with what a search has found that is due."""
        return self.finish(pool, budget) if units >= self._due else pool

    def finish(self, pool: WitnessPool, budget: Budget) -> WitnessPool:
        """Return the pool with what the search under way finds; one without time left only ends."""
        if self._aside is None:
            return pool
        self._stopped.raised = budget.ended
        found = None if budget.ended and self._aside.cancel() else self._aside.result(budget)
        self._aside = None
        joined = pool if found is None else pool.join(found)
        known = np.isfinite(pool.lower)
        before = pool.lower[known]
        gained = bool((joined.lower[known] - before > _GAIN * np.abs(before)).any())
        self._opening = self._executions < self._first and (gained or self._count == 1)
        return joined

    def end(self) -> None:
        """Drop the search under way."""
        self._stopped.raised = True
        if self._aside is not None:
            self._aside.cancel()
            self._aside = None
