"""The largest differences over one cube by mixed-integer programs: one model, two solves per output.

What a mixed-integer solver claims is a hint with a margin: its bounds are reported as *solver trusted*,
an upper bound that an executed input contradicts is thrown away, and its points are only inputs to
execute.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from milpq._arrays import Float64Array
from milpq.bounds.values import Bounds
from milpq.errors import UsageError
from milpq.merge.domain import Cubes
from milpq.merge.problem import Problem
from milpq.milp.backends.protocol import Backend, Progress, Session, Solution, SolveOptions
from milpq.milp.encode import Encoder, Encoding
from milpq.milp.scaling import ScaledSession

_TOLERANCE = 1e-7  # of the range of the objective: ten times what tolerances of 1e-6 cost against enumeration

_AGAIN = 1.5  # times what was spent: a second try starts from nothing, so it must be worth it
_LEAST_S = 0.1

Outcome: TypeAlias = Literal["optimal", "bounded", "stopped", "skipped", "contradicted", "unsolved"]
"""How one objective ended.

``optimal``: within the gap.  ``bounded``: the time was up; the bracket holds.  ``stopped``: enough was
known. ``skipped``: it could not matter.  ``contradicted``: the solver claimed less than an execution
shows; its claim is dropped.  ``unsolved``: not reached, or the solver failed.
"""


@dataclass(frozen=True, slots=True)
class SolveProgress:
    """Where a run of `maximize_outputs` stands.

    Parameters
    ----------
    position, sign : int
        The objective being solved: ``sign · (f_q − f)`` of ``problem.outputs[position]``.
    objective_lower, objective_upper : float
        What the solver claims about it so far.
    lower, upper : float
        The bracket on the largest objective: executed, and certified or solver trusted.
    nodes : int
    time_s : float
        Since the start of the run.
    """

    position: int
    sign: int
    objective_lower: float
    objective_upper: float
    lower: float
    upper: float
    nodes: int
    time_s: float


@dataclass(frozen=True, slots=True, eq=False)
class MilpOptions:
    """Limits and hints of `maximize_outputs`.

    Parameters
    ----------
    time_limit : float, optional
        Seconds for all objectives together; what one leaves, the next ones may use.
    gap_relative : float
        Relative gap at which an objective counts as solved.
    threads, seed : int
    tolerance : float, optional
        Stop an objective once it is known to be below or above.
    largest_only : bool
        Only the largest objective matters: skip or stop those that cannot exceed what has been attained.
    attained : float
        A difference that an execution is known to attain, for `largest_only`.
    starts : float64, shape (points, inputs), optional
        Inputs of the cube to start from, such as witnesses.
    on_progress : callable, optional
        Called now and then, in another thread perhaps; returning False ends the run.
    """

    time_limit: float | None = None
    gap_relative: float = 1e-9
    threads: int = 1
    seed: int = 0
    tolerance: float | None = None
    largest_only: bool = False
    attained: float = 0.0
    starts: Float64Array | None = None
    on_progress: Callable[[SolveProgress], bool] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ObjectiveResult:
    """What is known about one objective ``sign · (f_q − f)`` of ``problem.outputs[position]``.

    Parameters
    ----------
    upper : float
        Claimed by the solver with a margin for its tolerances, or the certified bound it started with where
        `solver_trusted` is False.
    attained : float
        Attained by execution at `input`, rounded down; ``−inf`` without an input.
    input : float64, shape (inputs,), or None
    nodes : int
    time_s : float
        Of all tries together.
    """

    position: int
    sign: int
    outcome: Outcome
    upper: float
    solver_trusted: bool
    attained: float
    input: Float64Array | None
    nodes: int
    time_s: float


@dataclass(frozen=True, slots=True, eq=False)
class MilpResult:
    """The results of all objectives, by position, sign 1 before −1, and how the run ended.

    Parameters
    ----------
    inputs : float64, shape (points, inputs)
        Every input a solver has proposed.
    interrupted : bool
        Ctrl-C, or the progress callback, ended the run early.
    """

    objectives: tuple[ObjectiveResult, ...]
    inputs: Float64Array
    nodes: int
    interrupted: bool
    time_s: float

    @property
    def upper(self) -> float:
        """Upper bound on the largest objective."""
        return max(result.upper for result in self.objectives)

    @property
    def attained(self) -> float:
        """Largest objective attained by execution."""
        return max(result.attained for result in self.objectives)


def maximize_outputs(
    problem: Problem,
    cubes: Cubes,
    bounds: Bounds,
    backend: Backend,
    options: MilpOptions | None = None,
    *,
    encoder: Encoder | None = None,
) -> MilpResult:
    """Maximize and minimize the difference of each chosen output over one cube.

    The model is made and handed to the solver once.  Objectives come in the order of their upper bounds,
    largest first.

    Parameters
    ----------
    bounds : Bounds
        Valid on the cube.
    encoder : Encoder, optional
        Of this problem, to encode with.

    Notes
    -----
    *Soundness:* upper bounds are the solver's, and only as right as the solver; see `ObjectiveResult`.
    Attained values come from `Problem.differences` less its error bound.
    """
    run = _Run(problem, cubes, bounds, options or MilpOptions(), encoder or Encoder(problem))
    return run.solve(backend)


class _Run:
    """One call of `maximize_outputs`."""

    def __init__(
        self, problem: Problem, cubes: Cubes, bounds: Bounds, options: MilpOptions, encoder: Encoder
    ) -> None:
        self.problem, self.options = problem, options
        self.started = time.perf_counter()
        self.encoding: Encoding = encoder.encode(cubes, bounds)
        known, outputs = bounds.difference, problem.outputs
        self.results: dict[tuple[int, int], ObjectiveResult] = {}
        for position, output in enumerate(outputs.tolist()):
            for sign, end in ((1, known.upper[0, output]), (-1, -known.lower[0, output])):
                self.results[position, sign] = ObjectiveResult(
                    position, sign, "unsolved", float(end), False, -math.inf, None, 0, 0.0
                )
        self.certified = {key: result.upper for key, result in self.results.items()}
        self.proposed: list[Float64Array] = []
        self.stopped = False
        if options.starts is not None and len(options.starts):
            if options.starts.shape[1] != problem.merged.input_size:
                raise UsageError(
                    f"starts have {options.starts.shape[1]} inputs each, not {problem.merged.input_size}"
                )
            self.execute(options.starts)

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self.started

    @property
    def attained(self) -> float:
        return max(self.options.attained, *(result.attained for result in self.results.values()))

    @property
    def upper(self) -> float:
        return max(result.upper for result in self.results.values())

    def execute(self, points: Float64Array) -> None:
        """Run both networks at inputs and keep the best input of every objective."""
        difference, error = self.problem.differences(points)
        for (position, sign), result in self.results.items():
            value = sign * difference[:, position] - error[:, position]
            best = int(np.argmax(value))
            if value[best] > result.attained:
                self.results[position, sign] = replace(
                    result, attained=float(value[best]), input=points[best].copy()
                )

    def solve(self, backend: Backend) -> MilpResult:
        """Solve every objective; go round again with what time is left for those that ran out of theirs."""
        try:
            with ScaledSession(backend, self.encoding.solver_model, self.encoding.counts) as session:
                open_ = list(self.results)
                while open_ and not self.stopped:
                    open_.sort(key=lambda key: -self.results[key].upper)
                    for index, key in enumerate(open_):
                        if not self.stopped:
                            self.solve_one(session, key, len(open_) - index)
                    open_ = self.worth_another_try()
        except KeyboardInterrupt:
            self.stopped = True
        ordered = [
            self.believable(self.results[key]) for key in sorted(self.results, key=lambda k: (k[0], -k[1]))
        ]
        inputs = np.stack(self.proposed) if self.proposed else np.zeros((0, self.problem.merged.input_size))
        nodes = sum(result.nodes for result in ordered)
        return MilpResult(tuple(ordered), inputs, nodes, self.stopped, self.elapsed_s)

    def worth_another_try(self) -> list[tuple[int, int]]:
        """Return the objectives that ran out of time and could have clearly more now, starting over."""
        limit, threshold = self.options.time_limit, self.threshold()
        if limit is None:
            return []
        late = [
            key
            for key, result in self.results.items()
            if result.outcome == "bounded" and (threshold is None or result.upper > threshold)
        ]
        share = (limit - self.elapsed_s) / max(len(late), 1)
        return [key for key in late if share > max(_AGAIN * self.results[key].time_s, _LEAST_S)]

    def believable(self, result: ObjectiveResult) -> ObjectiveResult:
        """Return a result without a claim that an input of another solve has contradicted."""
        if result.solver_trusted and result.upper < result.attained:
            certified = self.certified[result.position, result.sign]
            return replace(result, outcome="contradicted", upper=certified, solver_trusted=False)
        return result

    def threshold(self) -> float | None:
        """Return the value below which an upper bound settles an objective."""
        values = [] if self.options.tolerance is None else [self.options.tolerance]
        if self.options.largest_only and self.attained > -math.inf:
            values.append(self.attained)
        return max(values) if values else None

    def solve_one(self, session: Session, key: tuple[int, int], left: int) -> None:
        """Solve one objective with its share of the time."""
        options, before = self.options, self.results[key]
        threshold = self.threshold()
        if threshold is not None and before.upper <= threshold:
            known: Outcome = "skipped" if before.outcome == "unsolved" else "stopped"
            self.results[key] = replace(before, outcome=known)
            return
        share = None
        if options.time_limit is not None:
            rest = options.time_limit - self.elapsed_s
            if rest <= 0.0:
                return
            share = rest / left
        start = None if before.input is None else self.encoding.start_from_input(before.input)
        solution = session.maximize(
            self.encoding.objective(*key),
            SolveOptions(
                time_limit=share,
                gap_relative=options.gap_relative,
                threads=options.threads,
                start=start,
                stop_when_bound_below=threshold,
                stop_when_value_above=options.tolerance,
                on_progress=None if options.on_progress is None else self.listener(key),
                seed=options.seed,
            ),
        )
        if solution.point is not None:
            proposed = self.encoding.point_to_input(solution.point)
            self.proposed.append(proposed)
            self.execute(proposed[None])
        self.results[key] = self.judged(self.results[key], solution)
        if solution.interrupted or solution.status == "interrupted":
            self.stopped = True

    def listener(self, key: tuple[int, int]) -> Callable[[Progress], bool]:
        report = self.options.on_progress
        assert report is not None

        def listen(progress: Progress) -> bool:
            before = self.results[key]
            upper = min(progress.claimed_bound, before.upper)
            others = max(
                (result.upper for other, result in self.results.items() if other != key), default=-math.inf
            )
            value = max(progress.claimed_value, before.attained)
            return report(
                SolveProgress(
                    *key, value, upper, self.attained, max(upper, others), progress.nodes, self.elapsed_s
                )
            )

        return listen

    def judged(self, before: ObjectiveResult, solution: Solution) -> ObjectiveResult:
        """Return what a solution adds to what is known."""
        column = self.encoding.differences[before.position]
        model = self.encoding.model
        claimed = solution.claimed_bound
        margin = _TOLERANCE * float(model.upper[column] - model.lower[column])
        margin += (self.options.gap_relative + 1e-12) * abs(claimed) if math.isfinite(claimed) else 0.0
        upper = claimed + margin
        outcome: Outcome = "bounded"
        if solution.status == "optimal":
            outcome = "optimal"
        elif solution.status == "stopped":
            outcome = "stopped"
        elif solution.status == "error":
            outcome = "unsolved"
        if solution.status == "infeasible" or upper < before.attained:
            # Every cube has a point, and an executed one is no matter of opinion.
            upper, outcome = math.inf, "contradicted"
        trusted = upper < before.upper
        return replace(
            before,
            outcome=outcome,
            upper=upper if trusted else before.upper,
            solver_trusted=trusted or before.solver_trusted,
            nodes=before.nodes + solution.nodes,
            time_s=before.time_s + solution.time_s,
        )
