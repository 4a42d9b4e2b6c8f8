"""The stages of a run that ask a solver: linear programs, and the mixed-integer program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from milpq._arrays import Float64Array
from milpq.bounds.values import Bounds
from milpq.milp.backends import Backend, choose_backend
from milpq.milp.encode import Encoder
from milpq.milp.relax import LpBound, lp_bound, obbt
from milpq.milp.solve import MilpOptions, MilpResult, SolveProgress, maximize_outputs
from milpq.search.budget import Budget
from milpq.search.checkpoint import Arrays
from milpq.search.decider import Leaves
from milpq.search.execution import execution_s
from milpq.search.executor import Executor
from milpq.search.tree import TreeOptions, TreeResult, TreeSearch
from milpq.search.tree.state import TreeState, unpack_nodes
from milpq.verify import stages
from milpq.verify.options import Options
from milpq.verify.run import Run

_TIGHTENING_S: Final = 60.0
"""Seconds of bound tightening where there is no time limit; a share of the time left where there is."""

_LEAST_GAP: Final = 1e-9

_TRIAL_S: Final = 8.0
"""Seconds of a trial at most."""

_LONGEST_TRIAL_S: Final = 80.0
"""Seconds of a trial at most where it is limited by what it does."""

_TRIAL_SHARE: Final = 0.1
"""Share of the time left that a trial may use."""

_NODE_S: Final = 1.2e-3, 60.0
_PROGRAM_S: Final = 2e-3, 1500.0
"""Roughly how long a node of the search over phases and a linear program take: seconds, plus so many executions."""


_WORTHWHILE: Final = 1e-3
"""Part of the bound that the second search has to take off, beyond the first, to go on instead of it."""


def check_solver(options: Options) -> Backend:
    """Return the backend asked for.

    Raises
    ------
    SolverUnavailableError
        There is no such solver, or it is not installed.
    """
    return choose_backend(options.solver).backend


def bound_by_lp(run: Run) -> None:
    """Bound by linear programs over the root cube; then tighten the bounds inside and bound again.

    An earlier run may have done it.
    """
    backend, encoder = _prepare(run)
    if run.restore_bounds("lp"):
        return
    run.tell("lp")
    with run.timed("bound") as watch:
        found = _linear_programs(run, backend, encoder, run.part(0.3).time_limit_s)
    run.commit("lp", _upper(found), watch.elapsed_s)
    stages.find_witnesses(run, found.points, share=0.05)
    if not run.wants("lp"):
        return
    run.tell("lp", "tightening the bounds inside")
    left = run.part(0.3).time_limit_s
    with run.timed("bound"):
        bounds = _bounds(run)
        run.bounds = obbt(
            run.problem,
            run.problem.domain.root,
            bounds,
            backend,
            _TIGHTENING_S if left is None else left,
            encoder=encoder,
        )
        again = _linear_programs(run, backend, encoder, run.part(0.3).time_limit_s)
    upper = np.minimum(np.minimum(_upper(found), _upper(again)), stages.objectives(run, run.bounds))
    run.commit("lp", upper, watch.elapsed_s)
    run.keep_bounds("lp")
    stages.find_witnesses(run, again.points, share=0.05)


def bound_by_milp(run: Run) -> None:
    """Close the gap of the mixed-integer program of the root cube.

    By our own branch and bound, whose bounds need no trust; a solver that was asked for by name solves the program
    itself.
    """
    if run.options.solver == "auto":
        with stages.executor(run, interpreted=True) as workers:
            _search_tree(run, _tree(run), workers, run.part(1.0))
    else:
        _solve_natively(run)


def search_phases_or_programs(run: Run) -> None:
    """Answer for many inputs: tighten slopes, then let two searches show in a trial which one is to go on.

    Cutting phases bounds thousands of nodes a second loosely, linear programs a few tightly; neither wins on every
    network.  The one that is ahead goes on with what it has, and the other takes over once nothing is left to
    cut.  A solver asked for by name takes the place of the second.
    """
    stages.optimize(run)
    stages.cut_inside(run)
    if run.finished:
        return
    phases = stages.phase_searching(run)
    by_phases = stages.cut_phases(run, phases, _trial(run, _NODE_S, phases.nodes))
    if run.finished or run.options.solver != "auto":
        return
    with stages.executor(run, interpreted=True) as workers:
        tree = _tree(run)
        by_tree = _search_tree(run, tree, workers, _trial(run, _PROGRAM_S, tree.programs))
        if run.finished:
            return
        behind = by_tree.upper.max() < (1 - _WORTHWHILE) * by_phases.upper.max()
        if not behind and by_phases.status == "limit":
            stages.cut_phases(run, phases, run.part(1.0))
        if not run.finished:
            _search_tree(run, tree, workers, run.part(1.0))


def _trial(run: Run, each_s: tuple[float, float], done: int) -> Budget:
    """Return the budget of a trial.

    Without a time limit it is one of nodes or programs, so that the run does the same whenever it is run, also where it
    goes on from a journal that holds `done` of them; the time is then there only for networks on which these take far
    longer than thought.
    """
    limit = run.part(_TRIAL_SHARE).time_limit_s
    if limit is not None:
        return Budget(min(limit, _TRIAL_S))
    constant, executions = each_s
    most = int(_TRIAL_S / (constant + executions * execution_s(run.problem))) + 1
    return Budget(_LONGEST_TRIAL_S, most, used=done)


def _tree(run: Run) -> TreeSearch:
    """Return a branch and bound on the linear relaxation (`milpq.search.tree`)."""
    backend, _ = _prepare(run)
    if "duals" not in backend.features:
        backend = choose_backend("highs").backend
    options = TreeOptions(
        gap=run.options.gap,
        tolerance=run.options.tolerance,
        seed=run.options.seed,
    )
    run.leaves = Leaves() if run.certified else None
    search = TreeSearch(run.problem, _bounds(run), backend, options, upper=run.bracket.objectives)
    section = run.section("tree")
    state = None if section is None else section.state
    if section is not None and state is not None:
        with section.restoring():
            _restore(run, search, state)
    return search


def _restore(run: Run, search: TreeSearch, state: Arrays) -> None:
    """Go on from an earlier run's branch and bound."""
    nodes = unpack_nodes(state, "open")
    search.restore(TreeState.of(state, nodes))
    if run.certified and "leaves_head" in state:
        run.leaves = Leaves.restored(state, nodes)
    elif run.certified:
        run.leaves = None
        run.bracket.notes.append(
            "the journal was begun without --certificate and holds no evidence; the certificate is searched for anew"
        )


def _search_tree(run: Run, search: TreeSearch, workers: Executor, budget: Budget) -> TreeResult:
    """Start or go on with a branch and bound."""
    run.tell("milp")

    def listen(lower: float, upper: float, open_nodes: int, programs: int) -> None:
        detail = f"{open_nodes:,} open nodes, {programs:,} linear programs"
        run.tell("milp", detail, lower=lower, upper=upper)

    leaves, section = run.leaves, run.section("tree")

    def state() -> Arrays:
        known = search.state()
        return known.arrays() | ({} if leaves is None else leaves.arrays(known.nodes))

    with run.timed("search"):
        found = search.go(
            pool=run.bracket.pool,
            executor=workers,
            budget=budget,
            on_progress=listen,
            on_done=None if leaves is None else leaves.add,
            on_round=None if section is None else lambda: section.save(state),
        )
    if section is not None:
        section.save(state, now=True)
    if leaves is not None:
        leaves.finish(found)
    run.bracket.add_witnesses(found.pool)
    run.commit("milp", found.upper, found.time_s, nodes=found.leaves + len(found.open))
    if found.status == "interrupted":
        raise KeyboardInterrupt
    return found


def _solve_natively(run: Run) -> None:
    """Have a solver solve the mixed-integer program, the largest difference first.

    What the solver claims enters the bracket as trusted to the solver; its points are executed.
    """
    backend, encoder = _prepare(run)
    run.tell("milp")
    pool = run.bracket.pool
    options = MilpOptions(
        time_limit=run.part(1.0).time_limit_s,
        gap_relative=max(run.options.gap / 3, _LEAST_GAP),
        threads=run.options.jobs,
        seed=run.options.seed,
        tolerance=run.options.tolerance,
        largest_only=True,
        attained=run.bracket.lower,
        starts=np.unique(pool.points[np.isfinite(pool.lower)], axis=0),
        on_progress=_listener(run) if run.options.on_progress is not None else None,
    )
    with run.timed("search") as watch:
        found = maximize_outputs(
            run.problem, run.problem.domain.root, _bounds(run), backend, options, encoder=encoder
        )
        _add_witnesses(run, found)
    chosen = len(run.problem.outputs)
    upper, claimed = np.full(2 * chosen, np.inf), np.full(2 * chosen, np.inf)
    for result in found.objectives:
        k = result.position + (0 if result.sign > 0 else chosen)
        upper[k] = result.upper
        claimed[k] = result.upper if result.solver_trusted else np.inf
    run.bracket.record("milp", upper, watch.elapsed_s, found.nodes)
    run.bracket.tighten(backend.name, claimed, trust="solver_trusted")
    run.tell("milp")
    if found.interrupted:
        raise KeyboardInterrupt
    if len(found.inputs) and not run.finished:
        stages.find_witnesses(run, found.inputs, share=0.15)


def _prepare(run: Run) -> tuple[Backend, Encoder]:
    backend = check_solver(run.options)
    run.solver = f"{backend.name} {backend.version() or ''}".strip()
    if run.encoder is None:
        run.encoder = Encoder(run.problem)
    return backend, run.encoder


def _bounds(run: Run) -> Bounds:
    """Return the bounds of the root cube, which the first propagation has made."""
    if run.bounds is None:
        stages.propagate(run, "interval")
    assert run.bounds is not None
    return run.bounds


def _linear_programs(run: Run, backend: Backend, encoder: Encoder, time_limit: float | None) -> LpBound:
    return lp_bound(
        run.problem, run.problem.domain.root, _bounds(run), backend, time_limit=time_limit, encoder=encoder
    )


def _upper(found: LpBound) -> Float64Array:
    return np.concatenate([found.upper, -found.lower])


def _add_witnesses(run: Run, found: MilpResult) -> None:
    """Execute what the solver has proposed, moved to inputs that can be fed."""
    if len(found.inputs):
        run.bracket.add_witnesses(stages.execute_inputs(run, found.inputs))


def _listener(run: Run) -> Callable[[SolveProgress], bool]:
    def listen(progress: SolveProgress) -> bool:
        sign = "+" if progress.sign > 0 else "−"
        run.tell(
            "milp",
            f"{sign}output {int(run.problem.outputs[progress.position])}, {progress.nodes:,} nodes",
            lower=progress.lower,
            upper=progress.upper,
        )
        return True

    return listen
