"""One method on one problem: the stages of `milpq.bound`, and the baselines."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from milpq.bench import baselines
from milpq.bench.suite import MethodName
from milpq.merge import Problem
from milpq.network.integer_network import IntegerNetwork
from milpq.verify import Progress, Result, bound


@dataclass(frozen=True, slots=True)
class Effort:
    """What a method may spend, and how.

    Parameters
    ----------
    method : MethodName
    tolerance : float or None
        Real units.
    solver : str
    gap : float
        Relative.
    time_s : float or None
        Seconds.
    jobs, seed : int
    """

    method: MethodName
    tolerance: float | None = None
    solver: str = "auto"
    gap: float = 1e-4
    time_s: float | None = None
    jobs: int = 1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a method gave; differences in real units, times in seconds.

    Parameters
    ----------
    status : str
        As in `milpq.verify.Result`.
    lower, upper : float
        `lower` is attained by an execution, 0 where the method runs none.
    trust : str
        ``checked`` or ``solver_trusted``.
    method_s, total_s : float
        Of the method's own stage, and of everything before it too.
    nodes : int or None
    lsb : float or None
        Real value of one output code.
    sampled_points, sampled_max, rmse, sqnr_db
        Of random inputs; None where there were none.
    cpu_s : float or None
        Processor seconds for all of it, those of worker processes among them.
    trace : tuple of (time_s, lower, upper)
        How the bracket moved.
    note : str
    """

    status: str
    lower: float
    upper: float
    trust: str
    method_s: float
    total_s: float
    nodes: int | None = None
    lsb: float | None = None
    sampled_points: int | None = None
    sampled_max: float | None = None
    rmse: float | None = None
    sqnr_db: float | None = None
    cpu_s: float | None = None
    trace: tuple[tuple[float, float, float], ...] = ()
    note: str = ""


def run_method(
    problem: Problem, effort: Effort, on_progress: Callable[[Progress], None] | None = None
) -> Outcome:
    """Run one method on a problem.

    Raises
    ------
    MilpqError
        As `milpq.bound`.
    """
    started = _processor_s()
    if effort.method in {"separate", "separate-milp", "naive-milp"}:
        outcome = _baseline(problem, effort)
    else:
        outcome = _bounded(problem, effort, on_progress)
    return replace(outcome, cpu_s=_processor_s() - started)


def _processor_s() -> float:
    """Return the processor seconds of this process, and of those it has started and seen end."""
    return sum(os.times()[:4])


def _bounded(problem: Problem, effort: Effort, on_progress: Callable[[Progress], None] | None) -> Outcome:
    real = problem.domain.integer is None
    result = bound(
        problem.float_network,
        problem.quantized,
        problem.domain.box,
        input_domain=None if real else problem.domain.kind,
        outputs=problem.outputs.tolist(),
        tolerance=effort.tolerance,
        method=effort.method,
        solver=effort.solver,
        gap=effort.gap,
        time_limit=effort.time_s,
        jobs=effort.jobs,
        seed=effort.seed,
        on_progress=on_progress,
    )
    return _outcome(result, effort.method)


def _outcome(result: Result, method: str) -> Outcome:
    own = [record for record in result.methods if record.name == method]
    sampled = result.sampled
    nodes = [record.nodes for record in result.methods if record.nodes is not None]
    return Outcome(
        result.status,
        result.lower,
        result.upper,
        result.certificate.trust,
        own[0].time_s if own else result.time_s.bound + result.time_s.search,
        result.time_s.bound + result.time_s.search,
        sum(nodes) if nodes else None,
        result.lsb,
        None if sampled is None else sampled.points,
        None if sampled is None else sampled.max,
        None if sampled is None else sampled.rmse,
        None if sampled is None else sampled.sqnr_db,
        trace=tuple(
            (moment.time_s, moment.lower, moment.upper)
            for moment in result.history
            if math.isfinite(moment.upper)
        ),
        note="; ".join(result.problem.notes),
    )


def _baseline(problem: Problem, effort: Effort) -> Outcome:
    started = time.monotonic()
    limits = baselines.Limits(effort.solver, effort.time_s, effort.jobs, effort.seed, effort.gap)
    if effort.method == "separate":
        found = baselines.separate(problem)
    elif effort.method == "separate-milp":
        found = baselines.separate_milp(problem, limits)
    else:
        found = baselines.naive_milp(problem, limits)
    total_s = time.monotonic() - started
    quantized = problem.quantized
    lsb = None
    if isinstance(quantized, IntegerNetwork):
        lsb = float(quantized.output_scale[problem.outputs].max())
    return Outcome(
        _status(found, effort),
        found.lower,
        found.upper,
        "solver_trusted" if found.solver_trusted else "checked",
        found.time_s,
        total_s,
        found.nodes,
        lsb,
        trace=((total_s, found.lower, found.upper),),
        note="" if found.complete else "the time limit ended a solve; the bound is the one so far",
    )


def _status(found: baselines.Baseline, effort: Effort) -> str:
    if effort.tolerance is not None:
        if found.lower > effort.tolerance:
            return "violated"
        return "certified" if found.upper <= effort.tolerance else "undecided"
    closed = found.upper - found.lower <= effort.gap * found.upper
    return "optimal" if closed else "bounded"
