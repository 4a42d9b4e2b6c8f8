"""The stages of a run that need no solver: propagated bounds, sampling, witnesses, enumeration, splitting."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

import numpy as np

import milpq
from milpq._arrays import Float64Array
from milpq.bounds import differential, interval, optimized, symbolic
from milpq.bounds.symbolic import differential_within
from milpq.bounds.values import Bounds
from milpq.merge import Cubes, Problem
from milpq.network.nodes import Affine
from milpq.search.behind import bounds_behind, narrowest
from milpq.search.bounding import DEVICE_BATCH, fitting
from milpq.search.budget import Budget
from milpq.search.checkpoint import Journal
from milpq.search.enumerate import count_codes, enumerate_codes
from milpq.search.execution import execution_s
from milpq.search.executor import Executor, open_executor, working
from milpq.search.inputs import FeedableInputs
from milpq.search.inside import CuttingInside, last_narrow
from milpq.search.phases import PhaseOptions, PhaseResult, PhaseSearch
from milpq.search.pool import WitnessPool
from milpq.search.split import SplitOptions, split_search
from milpq.search.witness import WitnessOptions, search_witnesses
from milpq.verify.options import Options
from milpq.verify.run import Run
from milpq.verify.sampling import sample

SAMPLES: Final = 10_000
"""Random inputs executed in every run and checked against every bound."""

_SAMPLING_S: Final = 20.0
"""Networks whose execution is slow get fewer samples: about so many seconds of them, by `execution_s`."""
_WITNESS_S: Final = 10.0

PROPAGATIONS: Final[dict[str, Callable[[Problem, Cubes, Callable[[], bool]], Bounds]]] = {
    "symbolic": symbolic,
    "differential": differential,
}

_PROPAGATION_SHARES: Final = {"symbolic": 0.25, "differential": 0.6}
"""Of the time that is left, for the layers of one propagation; the outputs come after them."""

FEW_INPUTS: Final = 8
"""Up to so many inputs, splitting the region beats a mixed-integer program."""

_OPTIMIZING_S: Final = 60.0
"""Seconds of slope optimization where there is no time limit; a share of the time left where there is."""

_OPTIMIZING_SHARE: Final = 0.25

_INSIDE_SHARE: Final = 0.6
"""Share of the time left for bounds inside by cutting phases."""

_NEAR: Final = 2.5
"""An upper end within this factor of the lower one needs no more bounds inside: the branch and bound closes digits, ± 1
code, in 6,000 programs without them and in 15,000 within them."""

_ENUMERATION_S: Final = 120.0
"""Processor seconds that executing every code may take at most, where inputs are few and nothing else helps."""

_ENUMERATION_FIRST_S: Final = 6.0
"""The same before inputs are split: what is enumerated is exact, but seldom faster."""

_ENUMERATION_OF_MANY_S: Final = 20.0
"""The same where inputs are many: searches over phases and steps do not count codes."""

_ENUMERATED_NUMBER_S: Final = 1e-8
"""Processor seconds beside the execution of a code, for each input made and each objective compared."""

_ENUMERATION_SHARE: Final = 0.7
"""Share of the time left that an enumeration may use: one that is not finished has shown nothing."""
_WITNESS_OPERATIONS: Final = 4e10


def propagate(run: Run, method: str) -> None:
    """Bound the root cube by one of the propagations, and keep the tightest bounds on every value."""
    run.tell(method)
    with run.timed("bound") as watch:
        root, budget = run.problem.domain.root, run.part(_PROPAGATION_SHARES.get(method, 1.0))
        if method == "interval":
            bounds = interval(run.problem, root)
        else:
            bounds = PROPAGATIONS[method](run.problem, root, lambda: budget.spent)
        upper = objectives(run, bounds)
        run.bounds = bounds if run.bounds is None else run.bounds.intersect(bounds)
    run.commit(method, upper, watch.elapsed_s)


def objectives(run: Run, bounds: Bounds) -> Float64Array:
    """Return the upper bounds on the objectives that bounds on one cube give, shape (objectives,)."""
    difference, outputs = bounds.difference, run.problem.outputs
    return np.concatenate([difference.upper[0, outputs], -difference.lower[0, outputs]])


def sample_inputs(run: Run) -> None:
    """Execute random inputs: statistics, first witnesses, and a check on every bound to come."""
    run.tell("sampling")
    with run.timed("search"):
        points = max(1, min(SAMPLES, int(_SAMPLING_S / execution_s(run.problem))))
        run.sampled, pool = sample(run.problem, points, run.options.seed, run.bracket.pool, run.part(0.2))
    run.bracket.add_witnesses(pool)
    run.tell("sampling")


def find_witnesses(run: Run, starts: Float64Array | None = None, share: float = 0.15) -> None:
    """Search for an input with a large difference.

    Parameters
    ----------
    starts : float64, shape (points, inputs), optional
        Inputs a solver has proposed.
    share : float
        Of the time that is left, and of the usual effort.
    """
    run.tell("witness")
    options = WitnessOptions(evaluations=_evaluations(run.problem, share / 0.15), seed=run.options.seed)
    with run.timed("search"):
        pool = search_witnesses(
            run.problem, options, pool=run.bracket.pool, starts=starts, budget=run.part(share)
        )
    run.bracket.add_witnesses(pool)
    run.tell("witness")


def _evaluations(problem: Problem, effort: float = 1.0) -> int:
    """Return how many executions a witness search is worth."""
    nodes = (node for node in problem.float_network.nodes if isinstance(node, Affine))
    weights = sum(float(np.prod(term.matrix.shape)) for node in nodes for term in node.terms)
    most = effort * min(max(_WITNESS_OPERATIONS / max(weights, 1.0), 2_000.0), 200_000.0)
    return int(min(most, _WITNESS_S / execution_s(problem))) + 1


def execute_inputs(run: Run, points: Float64Array) -> WitnessPool:
    """Execute the feedable inputs next to some points, shape (points, inputs)."""
    inputs = FeedableInputs(run.problem)
    fed = inputs.snap(points)
    return run.bracket.pool.update(fed, inputs.levels(fed), *run.problem.differences(fed))


def can_enumerate(run: Run, *, first: bool = True) -> bool:
    """Tell whether every code of the domain can be executed in reasonable time, and in the time that is left.

    Parameters
    ----------
    first : bool
        Whether splitting, which leaves a gap, has not been tried yet.
    """
    problem = run.problem
    if problem.domain.kind != "codes":
        return False
    numbers = problem.merged.input_size + 2 * len(problem.outputs)
    each = execution_s(problem) + numbers * _ENUMERATED_NUMBER_S
    seconds = float(count_codes(problem.domain.root)[0]) * each
    left = run.budget.time_limit_s
    left = np.inf if left is None else left - run.budget.elapsed_s
    few = problem.merged.input_size <= FEW_INPUTS
    # Without a time limit the choice does not depend on the number of workers, for an answer that does not.
    most = _ENUMERATION_OF_MANY_S
    if few:
        most = _ENUMERATION_FIRST_S if first and run.options.gap > 0.0 else _ENUMERATION_S
    return seconds <= min(most, 0.5 * left * run.options.jobs)


def enumerate_domain(run: Run) -> None:
    """Execute every code of the domain; exact where there was time for all of them.

    Where that takes long, a search for witnesses comes first, for whoever does not wait for the end.
    """
    if count_codes(run.problem.domain.root)[0] > _evaluations(run.problem):
        find_witnesses(run)
        if run.finished:
            return
    run.tell("enumeration")

    def listen(done: int, total: int) -> None:
        run.tell("enumeration", f"{done:,} of {total:,} codes")

    with run.timed("search") as watch, executor(run) as workers:
        found = enumerate_codes(
            run.problem,
            executor=workers,
            budget=run.part(_ENUMERATION_SHARE),
            on_progress=listen,
            journal=run.section("enumeration"),
        )
    run.bracket.add_witnesses(found.pool)
    if found.complete:
        run.commit("enumeration", found.upper, watch.elapsed_s, nodes=found.codes)


def split(run: Run, share: float = 1.0, limit_s: float | None = None) -> None:
    """Split the region into cubes until the gap is closed, the tolerance decided, or time is up.

    Witnesses are searched for beside it.

    Parameters
    ----------
    limit_s : float, optional
        Seconds at most, where the run has no time limit.
    """
    run.tell("split")
    device = run.options.device
    options = SplitOptions(
        gap=run.options.gap,
        tolerance=run.options.tolerance,
        batch=None if device == "cpu" else DEVICE_BATCH,
        first_evaluations=_evaluations(run.problem),
        seed=run.options.seed,
    )

    def listen(lower: float, upper: float, open_cubes: int, closed_cubes: int) -> None:
        run.tell("split", f"{open_cubes:,} open cubes, {closed_cubes:,} closed", lower=lower, upper=upper)

    with run.timed("search") as watch, executor(run) as workers:
        found = split_search(
            run.problem,
            fitting(run.problem, device),
            options,
            pool=run.bracket.pool,
            upper=run.bracket.objectives,
            executor=workers,
            budget=Budget(limit_s) if run.budget.time_limit_s is None else run.part(share),
            on_progress=listen,
            journal=run.section("split"),
        )
    run.bracket.add_witnesses(found.pool)
    run.commit("split", found.upper, watch.elapsed_s, nodes=found.bounded_cubes)
    if found.status == "interrupted":
        raise KeyboardInterrupt
    if found.status == "lost":
        run.bracket.notes.append("memory ran out while splitting; the bracket is what was known by then")


def open_journal(problem: Problem, options: Options) -> Journal | None:
    """Return the journal asked for; what was closed under one gap may be too loose under another."""
    if options.journal is None:
        return None
    effort = f"milpq {milpq.__version__}, gap {options.gap!r}, tolerance {options.tolerance!r}"
    return Journal(options.journal, problem, effort, resume=options.resume)


def optimize(run: Run) -> None:
    """Tighten the bounds of the root cube by optimized slopes; an earlier run may have done it."""
    run.tell("optimized")
    if run.restore_bounds("optimized"):
        return
    assert run.bounds is not None
    limit = run.part(_OPTIMIZING_SHARE).time_limit_s
    budget = Budget(_OPTIMIZING_S if limit is None else limit)
    # Batches share the relaxation, so they are for threads of this process.
    with run.timed("bound") as watch, working(open_executor("local", run.options.jobs)) as workers:
        run.bounds = optimized(run.problem, run.bounds, stop=lambda: budget.spent, spread=workers.map)
    run.commit("optimized", objectives(run, run.bounds), watch.elapsed_s)
    run.keep_bounds("optimized")


def cut_inside(run: Run) -> None:
    """Tighten bounds inside by cutting phases in front of narrow layers; an earlier run may have done it.

    Where few numbers lead on, the float network behind them is bounded on cubes of these.  Backward substitution
    carries what was found to the layers behind, in a second where slopes take minutes.  Where slopes have come near
    the witness, what is left is for searches that look at the outputs alone.
    """
    if run.finished or run.restore_bounds("inside"):
        return
    assert run.bounds is not None
    near = run.bracket.upper <= _NEAR * run.bracket.lower
    last = 0 if near else last_narrow(run.problem, run.bounds)
    if not last:
        # A run that goes on must not choose otherwise: its searches begin within these.
        run.keep_bounds("inside")
        return
    run.tell("inside")
    budget = run.part(_INSIDE_SHARE)
    with run.timed("bound") as watch, working(open_executor("local", run.options.jobs)) as workers:
        narrow = narrowest(run.problem.merged)

        def behind(bounds: Bounds, share: Budget) -> Bounds:
            return bounds_behind(run.problem, bounds, narrow, share, workers.map)

        inside = CuttingInside(run.problem, last, budget, workers.map, narrow, behind)
        run.bounds = optimized(
            run.problem, run.bounds, stop=lambda: budget.spent, spread=workers.map, inside=inside
        )
        if inside.found is not None:
            # Layers that there was no time for have not met it.
            run.bounds = run.bounds.intersect(inside.found)
        rest = run.part(_PROPAGATION_SHARES["differential"])
        root = run.problem.domain.root
        found = differential_within(run.problem, root, run.bounds, lambda: rest.spent)
        run.bounds = run.bounds.intersect(found)
    run.commit("inside", objectives(run, run.bounds), watch.elapsed_s)
    run.keep_bounds("inside")


def phase_searching(run: Run) -> PhaseSearch:
    """Return a search by cutting phases and rounding steps, within the bounds known by now."""
    assert run.bounds is not None
    options = PhaseOptions(
        gap=run.options.gap,
        tolerance=run.options.tolerance,
        seed=run.options.seed,
    )
    return PhaseSearch(
        run.problem, run.bounds, options, upper=run.bracket.objectives, journal=run.section("phases")
    )


def cut_phases(run: Run, search: PhaseSearch, budget: Budget) -> PhaseResult:
    """Start or go on with a search over phases and rounding steps."""
    run.tell("phases")

    def listen(lower: float, upper: float, open_nodes: int, nodes: int) -> None:
        run.tell("phases", f"{open_nodes:,} open nodes of {nodes:,}", lower=lower, upper=upper)

    with run.timed("search"), executor(run) as workers:
        found = search.go(pool=run.bracket.pool, executor=workers, budget=budget, on_progress=listen)
    run.bracket.add_witnesses(found.pool)
    run.commit("phases", found.upper, found.time_s, nodes=found.nodes)
    if found.status == "interrupted":
        raise KeyboardInterrupt
    return found


@contextmanager
def executor(run: Run, *, interpreted: bool = False) -> Generator[Executor]:
    """Give the workers that `executor` and `jobs` ask for; see `open_executor`."""
    workers = open_executor(run.options.executor, run.options.jobs, interpreted=interpreted)
    try:
        with working(workers):
            yield workers
    finally:
        run.bracket.notes.extend(workers.notes)
