"""The state of one run: the bracket, the budget, and who is told about them."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from milpq._arrays import Float64Array
from milpq.bounds.values import Bounds
from milpq.merge import Problem
from milpq.milp.encode import Encoder
from milpq.search.bounds_state import KEPT, BoundsState
from milpq.search.budget import Budget
from milpq.search.checkpoint import Journal, Section
from milpq.search.decider import Leaves
from milpq.verify.bracket import Bracket, Progress, Trust
from milpq.verify.options import Options
from milpq.verify.sampling import Sampled


@dataclass(slots=True)
class Run:
    """What the stages of a run share and change.

    Parameters
    ----------
    problem : Problem
    options : Options
    bracket : Bracket
    budget : Budget
        Time left for the whole run.
    certified : bool
        Whether a certificate is wanted.
    leaves : Leaves, optional
        Of the last branch and bound on linear programs, where a certificate is wanted.
    journal : Journal, optional
        Where searches leave their states, and what they go on from.
    certificate_path, proved_upper : str and float, optional
        The certificate file that was written, and the upper end that it proves.
    """

    problem: Problem
    options: Options
    bracket: Bracket
    budget: Budget
    started: float = field(default_factory=time.monotonic)
    bounds: Bounds | None = None
    sampled: Sampled | None = None
    solver: str | None = None
    encoder: Encoder | None = None
    certified: bool = False
    leaves: Leaves | None = None
    journal: Journal | None = None
    certificate_path: str | None = None
    proved_upper: float | None = None
    time_s: dict[str, float] = field(default_factory=lambda: {"bound": 0.0, "search": 0.0})

    @property
    def decided(self) -> bool:
        """Tell whether nothing more needs to be known."""
        tolerance, bracket = self.options.tolerance, self.bracket
        if tolerance is not None and (bracket.upper <= tolerance or bracket.lower > tolerance):
            return True
        return bracket.closed(self.options.gap)

    @property
    def finished(self) -> bool:
        """Tell whether to stop: decided, or out of time."""
        return self.decided or self.budget.spent

    def section(self, name: str) -> Section | None:
        """Return the part of the journal that belongs to a search."""
        return None if self.journal is None else self.journal.section(name)

    def keep_bounds(self, stage: str) -> None:
        """Have the journal keep the bounds of the whole domain, which nodes of later searches refer to."""
        section, bounds = self.section("bounds"), self.bounds
        if section is not None and bounds is not None:
            section.save(lambda: BoundsState(stage, bounds, self.bracket.checked).arrays(), now=True)

    def restore_bounds(self, stage: str) -> bool:
        """Take the bounds that an earlier run has kept after a stage; tell whether there are any."""
        section = self.section("bounds")
        state = None if section is None else section.state
        if section is None or state is None:
            return False
        with section.restoring():
            known = BoundsState.of(state, self.problem)
        if KEPT.index(known.stage) < KEPT.index(stage):
            return False
        self.bounds = known.bounds
        self.commit("journal", known.upper, 0.0)
        return True

    def wants(self, stage: str) -> bool:
        """Tell whether to run a stage of the ladder.

        An explicit method runs all stages up to itself while there is time; ``auto`` stops once decided.
        """
        if not self.options.includes(stage) or self.budget.spent:
            return False
        return self.options.method != "auto" or not self.decided

    def part(self, share: float) -> Budget:
        """Return a budget of a share of the time that is left."""
        limit = self.budget.time_limit_s
        left = None if limit is None else max(0.0, share * (limit - self.budget.elapsed_s))
        return Budget(left)

    def commit(
        self,
        method: str,
        upper: Float64Array,
        time_s: float,
        *,
        nodes: int | None = None,
        trust: Trust = "checked",
    ) -> None:
        """Enter what a method has shown: upper bounds on the objectives."""
        self.bracket.record(method, upper, time_s, nodes)
        self.bracket.tighten(method, upper, trust=trust)
        self.tell(method)

    def tell(self, stage: str, detail: str = "", *, lower: float = 0.0, upper: float = float("inf")) -> None:
        """Note and report progress; `lower` and `upper` are what a stage at work knows beyond the bracket."""
        known = self.bracket
        event = Progress(
            stage,
            max(known.lower, lower),
            max(0.0, min(known.upper, upper)),
            time.monotonic() - self.started,
            detail,
        )
        known.note(event)
        if self.options.on_progress is not None:
            self.options.on_progress(event)

    @contextmanager
    def timed(self, kind: str) -> Generator[Stopwatch]:
        """Measure a stage and add its time to that of its kind, ``bound`` or ``search``."""
        watch = Stopwatch()
        try:
            yield watch
        finally:
            self.time_s[kind] += watch.elapsed_s


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Seconds since it was made."""

    started: float = field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        """Seconds of wall time."""
        return time.monotonic() - self.started
