"""The anytime bracket: what is known so far, and the check that it does not contradict itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np

from milpq._arrays import Float64Array, frozen
from milpq.errors import SoundnessError
from milpq.merge import Problem
from milpq.search.pool import Witness, WitnessPool

Trust: TypeAlias = Literal["checked", "solver_trusted"]
"""``checked``: an upper bound that milpq itself has evaluated with outward rounding.  ``solver_trusted``: a
solver's claim."""

HISTORY_S: Final = 0.05
"""Least time between two moments of one stage in the history."""


@dataclass(frozen=True, slots=True)
class MethodRecord:
    """What one method gave.

    Parameters
    ----------
    name : str
    upper : float
        Its own bound on the largest ``|f_q − f|`` over the chosen outputs, real units.
    time_s : float
    nodes : int or None
        Nodes, cubes or code vectors it looked at.
    """

    name: str
    upper: float
    time_s: float
    nodes: int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """The bracket at one moment, as given to ``on_progress`` and kept as the history of a run.

    Parameters
    ----------
    stage : str
        The method at work.
    lower, upper : float
        Bracket on the largest ``|f_q − f|``, real units; `upper` is infinite before the first bound.
    time_s : float
        Since the start of the run.
    detail : str
        What the stage is doing, for people.
    """

    stage: str
    lower: float
    upper: float
    time_s: float
    detail: str = ""


class Bracket:
    """The best bounds so far, one pair an objective.

    Objective ``k`` is the largest ``f_q − f`` of chosen output ``k``, objective ``chosen + k`` the largest
    ``f − f_q`` of it (see ``milpq.search.execution.signed``).

    *Soundness:* both ends only tighten.  An executed witness above a checked bound raises `SoundnessError`,
    whatever order the two arrive in; above a solver's claim it only ends the trust in that claim.
    """

    def __init__(self, problem: Problem) -> None:
        self._chosen = len(problem.outputs)
        self._root = problem.domain.root
        self._sources = ["no method"] * (2 * self._chosen)
        self.outputs = problem.outputs
        self.pool = WitnessPool.empty(problem)
        self.objectives: Float64Array = frozen(np.full(2 * self._chosen, np.inf))
        self.checked: Float64Array = self.objectives
        self.notes: list[str] = []
        self.methods: dict[str, MethodRecord] = {}
        self._history: list[Progress] = []

    @property
    def history(self) -> tuple[Progress, ...]:
        """How the bracket has moved, in the order of time; see `note`."""
        return tuple(self._history)

    @property
    def lower(self) -> float:
        """Lower end of the bracket on the largest ``|f_q − f|``."""
        return self.pool.largest

    @property
    def upper(self) -> float:
        """Upper end of the bracket on the largest ``|f_q − f|``."""
        return max(0.0, float(self.objectives.max()))

    @property
    def checked_upper(self) -> float:
        """The upper end without what rests on a solver's claim."""
        return max(0.0, float(self.checked.max()))

    @property
    def trust(self) -> Trust:
        """What the upper end rests on."""
        return "checked" if self.checked_upper <= self.upper else "solver_trusted"

    def closed(self, gap: float) -> bool:
        """Tell whether the two ends are within a relative gap, or next to each other."""
        lower, upper = self.lower, self.upper
        if not math.isfinite(upper):
            return False
        return upper - lower <= gap * upper or upper <= math.nextafter(lower, math.inf)

    def add_witnesses(self, pool: WitnessPool) -> None:
        """Join executed witnesses.

        Raises
        ------
        SoundnessError
            One of them lies above an upper bound, or outside of the region.
        """
        beyond = (pool.points < self._root.lower) | (pool.points > self._root.upper)
        outside = np.flatnonzero(np.isfinite(pool.lower) & beyond.any(axis=1))
        if len(outside):
            raise SoundnessError(
                f"soundness alarm: the input {pool.points[outside[0]].tolist()} was executed, which lies outside of "
                "the region; please report this with both models"
            )
        self.pool = self.pool.join(pool)
        self._check()

    def add_exact(self, witness: Witness) -> None:
        """Replace what is known of one objective by the exact replay of its witness.

        Raises
        ------
        SoundnessError
            It lies above an upper bound.
        """
        pool = self.pool
        k = int(np.flatnonzero(self.outputs == witness.output)[0]) + (self._chosen if witness.sign < 0 else 0)
        values, lower = pool.values.copy(), pool.lower.copy()
        values[k], lower[k] = witness.sign * witness.difference, witness.lower
        self.pool = WitnessPool(pool.points, pool.levels, frozen(values), frozen(lower), pool.outputs)
        self._check()

    def signed_ends(self) -> list[tuple[float, float, float, float]]:
        """Return ``max_lower, max_upper, min_lower, min_upper`` of ``f_q − f`` for each chosen output."""
        lower, upper, chosen = self.pool.lower.tolist(), self.objectives.tolist(), self._chosen
        return [(lower[k], upper[k], -upper[chosen + k], -lower[chosen + k]) for k in range(chosen)]

    def tighten(self, method: str, upper: Float64Array, *, trust: Trust = "checked") -> None:
        """Intersect with upper bounds on the objectives, shape (objectives,).

        Raises
        ------
        SoundnessError
            A bound lies below an executed witness.
        """
        for k in np.flatnonzero(upper < self.objectives):
            self._sources[k] = method
        self.objectives = frozen(np.fmin(self.objectives, upper))
        if trust == "checked":
            self.checked = frozen(np.fmin(self.checked, upper))
        self._check()

    def note(self, event: Progress) -> None:
        """Add a moment to the history if an end has moved or another stage is at work.

        A stage that moves its bracket thousands of times leaves one moment every `HISTORY_S` seconds.
        """
        if self._history:
            last = self._history[-1]
            if (event.stage, event.lower, event.upper) == (last.stage, last.lower, last.upper):
                return
            before = self._history[-2].time_s if len(self._history) > 1 else -math.inf
            if event.stage == last.stage and event.time_s - before < HISTORY_S:
                self._history.pop()
        self._history.append(event)

    def record(self, method: str, upper: Float64Array, time_s: float, nodes: int | None = None) -> None:
        """Note what one method gave by itself, for the table of methods; a later note replaces an earlier."""
        self.methods[method] = MethodRecord(method, max(0.0, float(np.max(upper))), time_s, nodes)

    def _check(self) -> None:
        lower = self.pool.lower
        lied = np.flatnonzero((lower > self.objectives) & (lower <= self.checked))
        if len(lied):
            # A solver's claim is a hint: contradicted by an execution, it is dropped, and the reader told.
            names = sorted({self._sources[k] for k in lied.tolist()})
            self.notes.append(f"claims of {', '.join(names)} were contradicted by an execution and dropped")
            objectives = self.objectives.copy()
            objectives[lied] = self.checked[lied]
            self.objectives = frozen(objectives)
        wrong = np.flatnonzero(lower > self.objectives)
        if not len(wrong):
            return
        k = int(wrong[0])
        sign = "f_q - f" if k < self._chosen else "f - f_q"
        raise SoundnessError(
            f"soundness alarm: {sign} of output {self.outputs[k % self._chosen]} is at least "
            f"{float(self.pool.lower[k])!r} at an executed input, above the bound "
            f"{float(self.objectives[k])!r} of {self._sources[k]}; please report this with both models"
        )
