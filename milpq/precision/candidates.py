"""One configuration under examination: its problem, executed attacks on it, and proofs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from milpq._arrays import Float64Array
from milpq.bounds import differential
from milpq.errors import SoundnessError
from milpq.merge import Problem
from milpq.network.quantized_model import QuantizedModel
from milpq.precision.configurations import Widths
from milpq.precision.result import Record, Verdict
from milpq.search.inputs import FeedableInputs
from milpq.search.witness import WitnessOptions, search_witnesses

RANDOM_INPUTS = 2000
SEARCH_EVALUATIONS = 20_000
POOL = 512
"""Most inputs kept to try on other configurations."""


@dataclass(slots=True)
class WitnessStore:
    """Inputs on which some configuration differed most: neighbours fail on the same ones.

    All configurations share the input's codes, so an input that one of them can be fed, all can.
    """

    points: list[Float64Array] = field(default_factory=list[Float64Array])

    def add(self, point: Float64Array) -> None:
        """Keep an input."""
        if not any(np.array_equal(point, known) for known in self.points):
            self.points = [*self.points[1 - POOL :], point]


@dataclass(slots=True, eq=False)
class Candidate:
    """A configuration and what is known of it so far.

    Parameters
    ----------
    model : QuantizedModel or None
        None where it cannot be quantized so; `refusal` says why.
    """

    widths: Widths
    cost: int
    model: QuantizedModel | None
    problem: Problem | None
    refusal: str = ""
    lower: float = 0.0
    upper: float = math.inf
    checked: bool = True
    verdict: Verdict = "undecided"
    by: str = ""
    stage: int = 0
    measured: bool = False

    def record(self) -> Record:
        """Return what is known."""
        return Record(self.widths, self.cost, self.lower, self.upper, self.checked, self.verdict, self.by)

    def attack(self, store: WitnessStore, enough: float, seed: int) -> None:
        """Execute inputs, from quick to thorough, until one differs by more than `enough`.

        Inputs that other configurations failed on come first, then random ones, then a witness search.  What
        was done before is not repeated.

        *Soundness:* `lower` is a bit-exact execution less the bound on the float side's rounding.
        """
        problem = self.problem
        assert problem is not None
        inputs = FeedableInputs(problem)
        while self.lower <= enough and self.stage < 3:
            self.stage += 1
            if self.stage == 1:
                if store.points:
                    self._execute(problem, inputs.snap(np.stack(store.points)), store, "transferred witness")
            elif self.stage == 2:
                generator = np.random.default_rng(seed)
                self._execute(problem, inputs.random(generator, RANDOM_INPUTS), store, "random inputs")
            else:
                options = WitnessOptions(evaluations=SEARCH_EVALUATIONS, seed=seed)
                starts = np.stack(store.points[-8:]) if store.points else None
                found = search_witnesses(problem, options, starts=starts).best
                if found is not None:
                    self._execute(problem, found.point[None], store, "witness search")

    def _execute(self, problem: Problem, points: Float64Array, store: WitnessStore, by: str) -> None:
        difference, error = problem.differences(points)
        lower = np.nextafter(np.abs(difference) - error, -np.inf).max(axis=1)
        best = int(np.argmax(lower))
        store.add(points[best])
        if lower[best] > self.lower:
            self.raise_lower(float(lower[best]), by)

    def raise_lower(self, lower: float, by: str) -> None:
        """Enter a difference that an executed input shows."""
        if lower > self.lower:
            self.lower, self.by = lower, by
        self._check()

    def propagate(self) -> None:
        """Bound the difference by propagation over the whole region, a matter of milliseconds.

        *Soundness:* `milpq.bounds`, rounded outwards.
        """
        problem = self.problem
        assert problem is not None
        found = differential(problem, problem.domain.root).difference
        ends = np.maximum(found.upper[0, problem.outputs], -found.lower[0, problem.outputs])
        self.lower_upper(max(0.0, float(ends.max())), checked=True)

    def lower_upper(self, upper: float, *, checked: bool) -> None:
        """Enter a bound."""
        if upper < self.upper:
            self.upper, self.checked = upper, checked
        self._check()

    def _check(self) -> None:
        """Compare the ends: a proved bound must hold, a solver's claim that does not is dropped."""
        if self.lower <= self.upper:
            return
        if self.checked:
            raise SoundnessError(
                f"bits {self.widths}: an executed input differs by {self.lower!r}, above the bound {self.upper!r}"
            )
        self.upper, self.checked = math.inf, True
