"""Anytime branch and bound over phases, steps, codes and inputs, best first.

The open nodes of all objectives share one queue and one incumbent.  The node with the highest bound becomes the next
job (`milpq.search.tree.work`), which makes a relaxation of its own and searches below it for a while; a few jobs are
under way at any time.  The highest bound of an open node or a leaf is always an upper bound on the answer, and
the best executed input a lower one.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from milpq._arrays import Float64Array, frozen
from milpq.bounds.values import Bounds
from milpq.errors import SoundnessError, UsageError
from milpq.merge import Problem
from milpq.milp.backends.protocol import Backend
from milpq.search.budget import Budget
from milpq.search.checkpoint import executed, witnesses_of
from milpq.search.executor import Executor, SerialExecutor
from milpq.search.pool import WitnessPool
from milpq.search.tree.branching import Gains
from milpq.search.tree.jobs import DEFAULT_EFFORT, Done, Effort, Job
from milpq.search.tree.leaf import Evidence, Node
from milpq.search.tree.state import TreeState
from milpq.search.tree.work import TreeWork
from milpq.search.witness import WitnessOptions, search_witnesses

TreeStatus: TypeAlias = Literal["closed", "certified", "violated", "exhausted", "limit", "interrupted"]
"""``closed``: the gap is reached.  ``certified``/``violated``: the tolerance is decided.  ``exhausted``: no node
is left that branching could improve, yet the gap is not reached.  ``limit``: time or programs ran out."""

Progress: TypeAlias = Callable[[float, float, int, int], None]
"""Given the lower and upper bound on the largest ``|f_q − f|``, and the numbers of open nodes and of linear
programs."""


@dataclass(frozen=True, slots=True)
class TreeOptions:
    """How to search.

    Parameters
    ----------
    gap : float
        Stop at ``upper − lower <= gap·upper``.
    tolerance : float or None
        Stop once the largest ``|f_q − f|`` is known to be at most, or above, this.
    each : bool
        Close the gap of every objective by itself instead of that of the largest difference of all.
    max_programs : int or None
        Stop after so many linear programs.
    effort : Effort
    witness_evaluations : int
        Executions of each local witness search, run after jobs 1, 2, 4, 8 and so on; 0 for none.
    seed : int
    """

    gap: float = 1e-4
    tolerance: float | None = None
    each: bool = False
    max_programs: int | None = None
    effort: Effort = DEFAULT_EFFORT
    witness_evaluations: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.gap < 1.0:
            raise UsageError("the gap must be at least 0 and below 1")


@dataclass(frozen=True, slots=True, eq=False)
class TreeResult:
    """A bracket on every objective, valid whenever the search stopped.

    Parameters
    ----------
    status : TreeStatus
    upper : float64, shape (objectives,)
        Upper bounds; those of objectives that did not matter for the question asked may be loose.
    pool : WitnessPool
        Lower bounds with their witnesses.
    open : tuple of Node
        Nodes left, the highest bound first.
    leaves, programs, rounds : int
        Leaves, linear programs solved, and jobs done.
    time_s : float
    """

    status: TreeStatus
    upper: Float64Array
    pool: WitnessPool
    open: tuple[Node, ...]
    leaves: int
    programs: int
    rounds: int
    time_s: float

    @property
    def bracket(self) -> tuple[float, float]:
        """Bounds on the largest ``|f_q − f|`` over the domain and the chosen outputs."""
        return self.pool.largest, max(0.0, float(self.upper.max()))


def tree_search(
    problem: Problem,
    bounds: Bounds,
    backend: Backend,
    options: TreeOptions | None = None,
    *,
    pool: WitnessPool | None = None,
    upper: Float64Array | None = None,
    executor: Executor | None = None,
    budget: Budget | None = None,
    on_progress: Progress | None = None,
    on_done: Callable[[Done], None] | None = None,
) -> TreeResult:
    """Search by branch and bound.

    Parameters
    ----------
    bounds : Bounds
        Valid on the root cube; the tighter, the better the relaxations.
    backend : Backend
        Solves the linear programs.  Its answers are hints.
    pool : WitnessPool, optional
        Known witnesses.
    upper : float64, shape (objectives,), optional
        Known upper bounds.
    executor : Executor, optional
        Where jobs run.  The answer does not depend on it unless the time limit cuts the search, or it has more than
        `milpq.search.ordered.AHEAD` workers.
    budget : Budget, optional
        Time limit and cancel flag; its evaluations are linear programs.
    on_progress : callable, optional
    on_done : callable, optional
        Given every job done, before its leaves are forgotten, and every open node that later needs no more work, as a
        leaf of a job without rows.  These and the open nodes of the result cover the domain for each objective.

    Returns
    -------
    TreeResult
        Also after ``KeyboardInterrupt``, with the bracket so far.

    Raises
    ------
    SoundnessError
        An executed input exceeds an upper bound.

    *Soundness:* a node is only ever replaced by nodes that cover it, and leaves the queue only with its bound
    entered into the upper bound reported.  No bound rests on what the backend claims.
    """
    search = TreeSearch(problem, bounds, backend, options, upper=upper)
    return search.go(pool=pool, executor=executor, budget=budget, on_progress=on_progress, on_done=on_done)


class TreeSearch:
    """A search that can be stopped and gone on with; parameters as of `tree_search`."""

    def __init__(
        self,
        problem: Problem,
        bounds: Bounds,
        backend: Backend,
        options: TreeOptions | None = None,
        *,
        upper: Float64Array | None = None,
    ) -> None:
        self._problem, self._options = problem, options or TreeOptions()
        chosen = self._options
        effort = replace(chosen.effort, gap=chosen.gap, tolerance=chosen.tolerance, each=chosen.each)
        self._work = TreeWork(problem, bounds, backend, effort)
        self._executor: Executor = SerialExecutor()
        self._budget = Budget()
        self._on_progress: Progress | None = None
        self._on_done: Callable[[Done], None] | None = None
        self._pool = WitnessPool.empty(problem)
        self._gains = Gains()
        self._queue: list[tuple[float, int, Node]] = []
        self._working: deque[Node] = deque()
        self._closed: Float64Array = np.full(2 * len(problem.outputs), -np.inf)
        self._leaves = self._programs = self._rounds = self._count = 0
        self._time_s = 0.0
        self._begin(bounds, upper)

    @property
    def programs(self) -> int:
        """Linear programs so far, those of a state that it went on from included."""
        return self._programs

    def state(self) -> TreeState:
        """Return where the search stands; jobs under way count as not begun."""
        working = [(-node.upper, self._count + 1 + place, node) for place, node in enumerate(self._working)]
        entries = [*self._queue, *working]
        return TreeState(
            tuple(node for _, _, node in entries),
            np.array([number for _, number, _ in entries], dtype=np.int64),
            self._closed,
            self._gains,
            witnesses_of(self._pool),
            np.array([self._leaves, self._programs, self._rounds, self._count + len(working)]),
        )

    def restore(self, state: TreeState) -> None:
        """Go on from a state; its witnesses are executed, and check its bounds."""
        self._pool = executed(self._problem, state.witnesses, self._pool)
        self._queue = [
            (-node.upper, number, node)
            for number, node in zip(state.order.tolist(), state.nodes, strict=True)
        ]
        heapq.heapify(self._queue)
        self._working.clear()
        self._closed, self._gains = state.closed, state.gains
        self._leaves, self._programs, self._rounds, self._count = state.counts.tolist()
        self._check()

    def go(
        self,
        *,
        pool: WitnessPool | None = None,
        executor: Executor | None = None,
        budget: Budget | None = None,
        on_progress: Progress | None = None,
        on_done: Callable[[Done], None] | None = None,
        on_round: Callable[[], None] | None = None,
    ) -> TreeResult:
        """Search until the answer is found or the budget spent; called again, go on.

        Parameters
        ----------
        on_round : callable, optional
            Told after every job; `state` says then where the search stands.
        """
        self._executor, self._budget = executor or SerialExecutor(), budget or Budget()
        self._on_progress, self._on_done = on_progress, on_done
        if pool is not None:
            self._pool = self._pool.join(pool)
        for node in self._working:  # of jobs that were dropped
            self._push(node)
        self._working.clear()
        self._work.start()
        try:
            status = self._run(on_round)
        except KeyboardInterrupt:
            status = "interrupted"
        finally:
            self._work.stop()
        self._time_s += self._budget.elapsed_s
        return self._result(status)

    def _begin(self, bounds: Bounds, upper: Float64Array | None) -> None:
        """Queue the root of every objective."""
        difference, outputs = bounds.difference, self._problem.outputs
        known = np.concatenate([difference.upper[0, outputs], -difference.lower[0, outputs]])
        known = known if upper is None else np.minimum(known, upper)
        for objective, bound in enumerate(known.tolist()):
            self._push(Node(objective, (), bound, Evidence("root", 0)))

    def _run(self, on_round: Callable[[], None] | None) -> TreeStatus:
        """Work until something says stop."""
        status = self._status()
        if status is not None:
            return status
        with closing(self._executor.map(self._work, self._jobs(), self._budget)) as results:
            for done in results:
                self._commit(done)
                self._rounds += 1
                status = self._status()
                if status is not None:
                    return status
                if self._rounds & (self._rounds - 1) == 0:
                    self._local_search(done)
                if on_round is not None:
                    on_round()
        return self._status() or "limit"

    def _jobs(self) -> Iterator[Job | None]:
        """Give out the next job, by what is known when it is asked for; None where no node is free."""
        while True:
            if self._take():
                yield Job(self._working[-1], self._pool, self._gains, self._budget.deadline)
            else:
                yield None

    def _result(self, status: TreeStatus) -> TreeResult:
        """Return the bracket as of now."""
        nodes = sorted(
            [entry[2] for entry in self._queue] + list(self._working), key=lambda node: -node.upper
        )
        return TreeResult(
            status,
            frozen(self._upper()),
            self._pool,
            tuple(nodes),
            self._leaves,
            self._programs,
            self._rounds,
            self._time_s,
        )

    def _upper(self) -> Float64Array:
        """Return the upper bounds on the objectives."""
        result = self._closed.copy()
        for node in (*(entry[2] for entry in self._queue), *self._working):
            result[node.objective] = max(result[node.objective], node.upper)
        return result

    def _push(self, node: Node) -> None:
        self._count += 1
        heapq.heappush(self._queue, (-node.upper, self._count, node))

    def _threshold(self, objective: int) -> float:
        return self._work.effort.threshold(self._pool, objective)

    def _take(self) -> bool:
        """Take the node with the highest bound to work on, if any; close those that need no more work."""
        while self._queue:
            node = self._queue[0][2]
            wanted = node.upper > self._threshold(node.objective)
            if wanted:
                self._working.append(node)
            else:
                self._close(node)
                if self._on_done is not None:
                    self._on_done(Done([], [node], (), self._pool, Gains(), 0, np.zeros((0, 0))))
            heapq.heappop(self._queue)
            if wanted:
                return True
        return False

    def _close(self, node: Node) -> None:
        self._closed[node.objective] = max(self._closed[node.objective], node.upper)
        self._leaves += 1

    def _commit(self, done: Done) -> None:
        """Replace a node by what became of it; interrupted anywhere, every point stays covered."""
        self._pool = self._pool.join(done.pool)
        self._programs += done.programs
        self._budget.used += done.programs
        self._gains = self._gains.join(done.learned)
        for node in done.open:
            self._push(node)
        for leaf in done.leaves:
            self._close(leaf)
        if self._on_done is not None:
            self._on_done(done)
        self._working.popleft()
        self._check()

    def _check(self) -> None:
        """Hold the witnesses against the bounds, and report both."""
        upper = self._upper()
        wrong = np.flatnonzero(self._pool.lower > upper)
        if len(wrong):
            k = int(wrong[0])
            raise SoundnessError(
                f"a witness shows {float(self._pool.lower[k])!r} for objective {k}, above its upper bound "
                f"{float(upper[k])!r}"
            )
        if self._on_progress is not None:
            self._on_progress(
                self._pool.largest, max(0.0, float(upper.max())), len(self._queue), self._programs
            )

    def _status(self) -> TreeStatus | None:
        """Return why to stop, or None."""
        tolerance, options = self._options.tolerance, self._options
        upper = self._upper()
        if tolerance is not None:
            if self._pool.largest > tolerance:
                return "violated"
            if upper.max() <= tolerance:
                return "certified"
        objectives = range(len(upper))
        if all(upper[k] <= self._threshold(k) for k in objectives):
            return "closed"
        if not (self._queue or self._working):
            return "exhausted"
        if options.max_programs is not None and self._programs >= options.max_programs:
            return "limit"
        if self._budget.spent:
            return "interrupted" if self._budget.cancelled() else "limit"
        return None

    def _local_search(self, done: Done) -> None:
        """Search for better witnesses from the inputs of relaxations."""
        evaluations = self._options.witness_evaluations
        if not evaluations:
            return
        options = WitnessOptions(
            evaluations=evaluations, seed=self._options.seed + self._rounds, each=self._options.each
        )
        budget = self._budget.part(evaluations)
        self._pool = search_witnesses(
            self._problem, options, pool=self._pool, starts=done.points, budget=budget
        )
