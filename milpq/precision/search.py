"""The search over widths.

Nothing is assumed about how the error depends on the widths: it is not monotone in them, because one more bit
moves every weight.  A configuration is left out for one of two reasons only.  It costs at least as much as a
certified one; or an input was executed on it that differs by more than what is asked for: the tolerance, or,
for the front, the certified error of something no dearer.  The rest is decided by the verifier.

Configurations are taken by ascending cost, because all those cheaper than the answer have to be excluded in
any order; those of one cost by the differences they are known to show, the most promising first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from milpq.errors import AccumulatorOverflowError, InvalidNetworkError, TargetError, UsageError
from milpq.merge import DomainKind, Problem
from milpq.network.float_network import FloatNetwork
from milpq.network.quantized_model import QuantizedModel
from milpq.precision.candidates import Candidate, WitnessStore
from milpq.precision.configurations import Costs, Widths, by_cost, count_configurations
from milpq.precision.result import Effort, SearchProgress, Status
from milpq.region.box import Box
from milpq.search.budget import Budget
from milpq.verify import Result, bound

_OUT_OF_TIME = "out of time"

DESCENT_FROM = 4096
"""With more configurations than this, a descent from the first certified one comes before the rest."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How to search.

    Parameters
    ----------
    tolerance : float
        Largest difference allowed, real units.
    front : bool
        Also measure the configurations of the front of cost against certified error, up to the answer.
    gap : float
        Relative gap to which those are measured; a configuration that is better by less may be left out.
    time_limit : float or None
        Seconds for everything.
    question_limit : float or None
        Seconds for one call of the verifier.
    solver, jobs, seed
        Of the verifier.
    on_progress : callable or None

    Raises
    ------
    UsageError
        A value is out of its range.
    """

    tolerance: float
    front: bool = True
    gap: float = 0.01
    time_limit: float | None = None
    question_limit: float | None = 60.0
    solver: str = "auto"
    jobs: int = 1
    seed: int = 0
    on_progress: Callable[[SearchProgress], None] | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.tolerance < math.inf:
            raise UsageError(f"the tolerance must be a finite number above 0, not {self.tolerance}")
        if not 0.0 <= self.gap < 1.0:
            raise UsageError(f"the gap must be at least 0 and below 1, not {self.gap}")
        for what, limit in (("time limit", self.time_limit), ("question limit", self.question_limit)):
            if limit is not None and not 0.0 < limit < math.inf:
                raise UsageError(f"the {what} must be a positive number of seconds, not {limit}")


@dataclass(slots=True, eq=False)
class PrecisionSearch:
    """One search.

    Parameters
    ----------
    quantize : callable
        Makes the model of a configuration; may raise AccumulatorOverflowError or TargetError.
    choices : the widths each layer may have, ascending
    """

    float_network: FloatNetwork
    quantize: Callable[[Widths], QuantizedModel]
    choices: Sequence[Sequence[int]]
    costs: Costs
    box: Box
    input_domain: DomainKind | None
    outputs: list[int] | None
    options: SearchOptions
    budget: Budget = field(init=False)
    _known: dict[Widths, Candidate] = field(default_factory=dict[Widths, Candidate])
    _store: WitnessStore = field(default_factory=WitnessStore)
    _best: Candidate | None = None
    _calls: Counter[str] = field(default_factory=Counter[str])

    def __post_init__(self) -> None:
        self.budget = Budget(self.options.time_limit)

    def run(self) -> tuple[Status, Candidate | None, tuple[Candidate, ...]]:
        """Return the status, the cheapest certified configuration, and all that were examined."""
        complete = interrupted = False
        try:
            self._promise()
            complete = self._ascend()
            if self.options.front and self._best is not None:
                self._measure(self._best)
        except KeyboardInterrupt:
            interrupted = True
        return self._status(complete, interrupted=interrupted), self._best, tuple(self._known.values())

    def effort(self) -> Effort:
        """Return what the search took."""
        known = self._known.values()
        killed = Counter(found.by for found in known if found.verdict == "violated")
        propagated = sum(found.by == "propagation" for found in known if found.verdict == "certified")
        return Effort(
            count_configurations(self.choices),
            len(self._known),
            dict(sorted(killed.items())),
            propagated,
            self._calls["decide"],
            self._calls["measure"],
        )

    def _promise(self) -> None:
        """Find a certified configuration soon: equal widths, ascending; then step down layer by layer."""
        for width in sorted({width for widths in self.choices for width in widths}):
            equal = tuple(min(widths, key=lambda have: abs(have - width)) for widths in self.choices)
            if self.budget.spent or self._decide(self._candidate(equal)):
                break
        if self._best is None or count_configurations(self.choices) <= DESCENT_FROM:
            return
        layers = sorted(range(len(self.choices)), key=lambda layer: -self.costs.per_bit[layer])
        stepped = True
        while stepped and not self.budget.spent:
            stepped = False
            for layer in layers:
                widths = self._best.widths
                step = self.choices[layer].index(widths[layer])
                if step and not self.budget.spent:
                    lower = (*widths[:layer], self.choices[layer][step - 1], *widths[layer + 1 :])
                    stepped |= self._decide(self._candidate(lower))

    def _ascend(self) -> bool:
        """Go through the configurations by cost; tell whether all cheaper than the answer were examined."""
        # What shows no more than this may belong to the front: it may be better, by more than the gap.
        worth = math.inf if self.options.front else 0.0
        for cost, group in by_cost(self.choices, self.costs):
            if self._best is not None and cost >= self._best.cost:
                return True
            members: list[Candidate] = []
            for widths in group:
                if self.budget.spent:
                    return False
                found = self._candidate(widths)
                if found.verdict != "refused":
                    found.attack(self._store, max(self.options.tolerance, worth), self._seed)
                    members.append(found)
            for found in sorted(members, key=lambda member: (member.lower, member.widths)):
                if self.budget.spent:
                    return False
                if self._decide(found):
                    return True
                if found.lower < worth:
                    self._measure(found)
                    worth = min(worth, (1.0 - self.options.gap) * found.upper)
                    if self._decide(found):
                        return True
                # Thousands of networks would fill the memory; what is known of this one stays.
                found.model = found.problem = None
        return True

    def _candidate(self, widths: Widths) -> Candidate:
        """Return a configuration, quantized the first time it is asked for."""
        if widths not in self._known:
            cost = self.costs.of(widths)
            try:
                model = self.quantize(widths)
                integer = model.on_target(None)
                problem = Problem.create(
                    self.float_network, integer, self.box, self.input_domain, self.outputs
                )
                found = Candidate(widths, cost, model, problem)
            except (AccumulatorOverflowError, TargetError, InvalidNetworkError) as error:
                found = Candidate(widths, cost, None, None, str(error), verdict="refused", by=str(error))
            self._known[widths] = found
            self._tell(cost)
        return self._known[widths]

    def _decide(self, found: Candidate) -> bool:
        """Decide the tolerance; tell whether the configuration is certified and the cheapest so far."""
        tolerance = self.options.tolerance
        if found.verdict == "refused":
            return False
        if found.verdict == "undecided" and found.by != _OUT_OF_TIME:
            found.attack(self._store, tolerance, self._seed)
            if found.lower <= tolerance:
                found.propagate()
                if found.upper <= tolerance:
                    found.by = "propagation"
                else:
                    self._ask(found, "decide", tolerance=tolerance)
            self._settle(found)
        if found.verdict != "certified" or (self._best is not None and found.cost >= self._best.cost):
            return False
        self._best = found
        self._tell(found.cost)
        return True

    def _settle(self, found: Candidate) -> None:
        """Compare what is known of a configuration with the tolerance."""
        if found.lower > self.options.tolerance:
            found.verdict = "violated"
        elif found.upper <= self.options.tolerance:
            found.verdict = "certified"
        else:
            found.by = _OUT_OF_TIME

    def _measure(self, found: Candidate) -> None:
        """Close the bracket of a configuration of the front, to the gap asked for."""
        if found.measured or self.budget.spent:
            return
        if math.isinf(found.upper):
            found.propagate()
        if found.upper - found.lower <= self.options.gap * found.upper:
            return
        found.measured = True
        self._ask(found, "measure", gap=self.options.gap)

    def _ask(
        self, found: Candidate, purpose: str, *, tolerance: float | None = None, gap: float = 1e-4
    ) -> None:
        """Call the exact verifier and enter its bracket."""
        options = self.options
        left = None if options.time_limit is None else options.time_limit - self.budget.elapsed_s
        limits = [limit for limit in (left, options.question_limit) if limit is not None]
        assert found.problem is not None
        self._calls[purpose] += 1
        result: Result = bound(
            self.float_network,
            found.problem.quantized,
            self.box,
            input_domain=None if self.input_domain is None else str(self.input_domain),
            outputs=self.outputs,
            tolerance=tolerance,
            gap=gap,
            solver=options.solver,
            time_limit=max(0.01, min(limits)) if limits else None,
            jobs=options.jobs,
            seed=options.seed,
        )
        if result.status == "interrupted":
            raise KeyboardInterrupt
        if result.witness is not None:
            self._store.add(result.witness.input)
        by = found.by
        found.raise_lower(result.lower, "verifier")
        found.lower_upper(result.upper, checked=result.certificate.trust == "checked")
        found.by = "verifier" if purpose == "decide" else by
        self._settle(found)

    def _status(self, complete: bool, *, interrupted: bool) -> Status:
        best = self._best
        if interrupted:
            return "interrupted"
        open_ = any(
            found.verdict == "undecided" and (best is None or found.cost < best.cost)
            for found in self._known.values()
        )
        if best is not None:
            return "optimal" if complete and not open_ else "certified"
        refused = any(found.verdict == "refused" for found in self._known.values())
        return "infeasible" if complete and not open_ and not refused else "undecided"

    @property
    def _seed(self) -> int:
        return self.options.seed

    def _tell(self, cost: int) -> None:
        if self.options.on_progress is not None:
            best = None if self._best is None else self._best.cost
            self.options.on_progress(
                SearchProgress(len(self._known), cost, best, self._calls.total(), self.budget.elapsed_s)
            )
