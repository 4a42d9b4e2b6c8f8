"""Branch and bound over phases and rounding steps: for inputs too many to split.

Nodes are bounded by Lagrangian relaxation (`milpq.bounds.lagrangian`), many at once; the worst are cut next.

References: Wang et al., *Beta-CROWN*, NeurIPS 2021, for branch and bound on batches of phases.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from milpq._arrays import Float64Array, frozen
from milpq.bounds.values import Bounds
from milpq.errors import SoundnessError, UsageError
from milpq.merge import Problem
from milpq.search.budget import Budget
from milpq.search.checkpoint import Arrays, Section, executed, witnesses_of
from milpq.search.executor import Executor, SerialExecutor
from milpq.search.ordered import AHEAD
from milpq.search.phase_branching import TRIALS, Experience
from milpq.search.phase_nodes import PhaseNodes
from milpq.search.phase_state import PhaseState
from milpq.search.phase_step import PhaseJob, PhaseStep, PhaseWork
from milpq.search.pool import WitnessPool
from milpq.search.witness import WitnessOptions, search_witnesses

PhaseStatus: TypeAlias = Literal["closed", "certified", "violated", "exhausted", "limit", "interrupted"]
"""``closed``: the gap is reached.  ``exhausted``: no node is left that a cut could improve, yet the gap is not
reached.  ``limit``: time or nodes ran out."""

_FEW, _SELDOM = 200, 16
"""More open nodes than so many are gone through only after every so many jobs, and at the end."""


@dataclass(frozen=True, slots=True)
class PhaseOptions:
    """How to search.

    Parameters
    ----------
    gap : float
        Stop at ``upper <= lower·(1 + gap)``.
    tolerance : float or None
        Stop once the largest ``|f_q − f|`` is known to be at most, or above, this.
    max_nodes : int or None
        Stop after bounding so many.
    memory_bytes : int
        Room for open nodes; once it is taken the search goes depth first.
    batch : int
        Nodes cut in one job at most.
    steps : int
        Gradient steps for the bound of a node.
    tried_nodes : int
        The first so many nodes try their cuts out before they choose.
    witness_evaluations : int
        Executions of each local witness search; 0 for none.
    witness_rounds : int
        Jobs between two of them.
    seed : int
    """

    gap: float = 1e-3
    tolerance: float | None = None
    max_nodes: int | None = None
    memory_bytes: int = 1 << 29
    batch: int = 32
    steps: int = 20
    tried_nodes: int = 200
    witness_evaluations: int = 2_000
    witness_rounds: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.gap >= 0.0 or min(self.batch, self.witness_rounds) < 1:
            raise UsageError("search over phases: counts must be positive and the gap not negative")


@dataclass(frozen=True, slots=True, eq=False)
class PhaseResult:
    """A bracket on every objective, valid whenever the search stopped.

    Parameters
    ----------
    upper : float64, shape (objectives,)
        Those of objectives that did not matter for the largest difference may be loose.
    pool : WitnessPool
    nodes, open_nodes : int
        Bounded altogether, and left.
    time_s : float
        Seconds, altogether.
    """

    status: PhaseStatus
    upper: Float64Array
    pool: WitnessPool
    nodes: int
    open_nodes: int
    time_s: float


def phase_search(
    problem: Problem,
    bounds: Bounds,
    options: PhaseOptions | None = None,
    *,
    pool: WitnessPool | None = None,
    upper: Float64Array | None = None,
    executor: Executor | None = None,
    budget: Budget | None = None,
    on_progress: Callable[[float, float, int, int], None] | None = None,
    journal: Section | None = None,
) -> PhaseResult:
    """Search by cutting phases and rounding steps.

    Parameters
    ----------
    bounds : Bounds
        On the whole domain; the tighter, the better.
    pool, upper, executor, budget
        As for `milpq.search.split.split_search`; evaluations of the budget are nodes.
    on_progress : callable, optional
        Given lower and upper bound on the largest ``|f_q − f|``, open nodes and all nodes.
    journal : Section, optional
        Where the search goes on from, and leaves its state now and then and when it stops.

    Returns
    -------
    PhaseResult
        Also after ``KeyboardInterrupt``, with the bracket of the last job.

    Raises
    ------
    SoundnessError
        An executed input exceeds the bound of its objective.

    *Soundness:* a node is only ever replaced by two parts that cover it, and leaves the open set only with
    its bound entered into the upper bound reported.
    """
    search = PhaseSearch(problem, bounds, options, upper=upper, journal=journal)
    return search.go(pool=pool, executor=executor, budget=budget, on_progress=on_progress)


class PhaseSearch:
    """A search that can be stopped and gone on with; parameters as of `phase_search`."""

    def __init__(
        self,
        problem: Problem,
        bounds: Bounds,
        options: PhaseOptions | None = None,
        *,
        upper: Float64Array | None = None,
        journal: Section | None = None,
    ) -> None:
        self._journal = journal
        self._problem, self._options = problem, options or PhaseOptions()
        self._executor: Executor = SerialExecutor()
        self._budget = Budget()
        self._on_progress: Callable[[float, float, int, int], None] | None = None
        self._pool = WitnessPool.empty(problem)
        difference, outputs = bounds.difference, problem.outputs
        known = np.concatenate([difference.upper[0, outputs], -difference.lower[0, outputs]])
        self._upper: Float64Array = known if upper is None else np.minimum(upper, known)
        self._closed: Float64Array = np.full(len(known), -np.inf)
        self._heap: list[tuple[float, int, PhaseNodes]] = []
        self._working: deque[list[tuple[float, int, PhaseNodes]]] = deque()
        self._nodes = self._rounds = self._bytes = 0
        self._time_s = 0.0
        self._work = PhaseStep(problem, bounds, self._options.steps)
        self._roots = self._work.roots
        self._experience = Experience.none(self._work.relaxation.open)
        state = None if journal is None else journal.state
        if journal is not None and state is not None:
            with journal.restoring():
                sizes = problem.merged.input_size, len(known), self._work.relaxation.open
                self._restore(PhaseState.of(state, *sizes))

    @property
    def nodes(self) -> int:
        """Nodes so far, those before a journal was gone on from included."""
        return self._nodes

    def go(
        self,
        *,
        pool: WitnessPool | None = None,
        executor: Executor | None = None,
        budget: Budget | None = None,
        on_progress: Callable[[float, float, int, int], None] | None = None,
    ) -> PhaseResult:
        """Search until the answer is found or the budget spent; called again, go on."""
        self._executor, self._budget = executor or SerialExecutor(), budget or Budget()
        self._on_progress = on_progress
        if pool is not None:
            self._pool = self._pool.join(pool)
        try:
            self._begin()
            status = self._run()
        except KeyboardInterrupt:
            status = "interrupted"
        self._time_s += self._budget.elapsed_s
        if self._journal is not None:
            self._journal.save(self._state, now=True)
        return PhaseResult(
            status,
            frozen(self._upper.copy()),
            self._pool,
            self._nodes,
            len(self._heap),
            self._time_s,
        )

    def _begin(self) -> None:
        """Bound the whole domain, for the objectives that are left to do so."""
        while self._roots and not self._budget.spent:
            self._commit(self._work.root(self._roots[0], self._threshold(), lambda: self._budget.spent))

    def _run(self) -> PhaseStatus:
        """Work until something says stop."""
        status = self._status()
        if status is not None:
            return status
        try:
            with closing(self._executor.map(self._work, self._jobs(), self._budget)) as works:
                for work in works:
                    self._commit(work)
                    self._rounds += 1
                    status = self._status()
                    if status is not None:
                        return status
                    if self._rounds % self._options.witness_rounds == 0:
                        self._look_around()
        finally:
            # What was taken and not replaced stays open, whatever stopped the search.
            while self._working:
                for entry in self._working[-1]:
                    heapq.heappush(self._heap, entry)
                    self._bytes += entry[2].size_bytes
                self._working.pop()
            self._commit(None)
        return self._status() or "limit"

    def _jobs(self) -> Iterator[PhaseJob | None]:
        """Give out the next job, by what is known when it is asked for; None where no node is free."""
        while True:
            if not self._heap:
                yield None
                continue
            taken = self._take()
            tries = self._experience.count < TRIALS * self._options.tried_nodes
            nodes = PhaseNodes.concatenate([node for _, _, node in taken])
            yield PhaseJob(nodes, self._threshold(), self._experience, tries, self._budget.deadline)

    def _threshold(self) -> Float64Array:
        lower = self._pool.largest
        threshold = lower * (1.0 + self._options.gap)
        if self._options.tolerance is not None:
            threshold = max(threshold, self._options.tolerance)
        return np.full(len(self._upper), threshold)

    def _take(self) -> list[tuple[float, int, PhaseNodes]]:
        """Take the nodes to cut next: the worst, or the youngest while memory is short."""
        most = min(self._options.batch, self._work.relaxation.rows)
        taken: list[tuple[float, int, PhaseNodes]] = []
        self._working.append(taken)
        # A node is entered before it is removed: interrupted anywhere, every point stays covered.
        if self._bytes > self._options.memory_bytes:
            self._heap.sort(key=lambda entry: entry[1])
            taken.extend(self._heap[-most:])
            del self._heap[-most:]
            heapq.heapify(self._heap)
        else:
            # A few open nodes are for all workers.
            for _ in range(min(most, -(-len(self._heap) // AHEAD))):
                taken.append(self._heap[0])
                heapq.heappop(self._heap)
        self._bytes -= sum(node.size_bytes for _, _, node in taken)
        return taken

    def _commit(self, work: PhaseWork | None) -> None:
        """Take in what became of the oldest job under way, or of a root, and hold the witnesses against the bounds."""
        if work is not None:
            self._pool = self._pool.join(work.pool)
            self._experience = self._experience.join(work.experience)
            threshold = self._threshold()
            self._closed = np.maximum(self._closed, work.highest)
            for row in range(len(work.nodes)):
                node = work.nodes.select(np.array([row]))
                upper, objective = float(node.upper[0]), int(node.objective[0])
                self._nodes += 1
                if upper <= threshold[objective]:
                    self._closed[objective] = max(self._closed[objective], upper)
                    continue
                heapq.heappush(self._heap, (-upper, self._nodes, node))
                self._bytes += node.size_bytes
            self._nodes += work.closed
            self._budget.used += len(work.nodes) + work.closed
            # Only now: whatever interrupts this, no part of the domain is lost.
            if self._working:
                self._working.popleft()
            else:
                del self._roots[0]
        self._upper = np.minimum(self._upper, self._highest())
        wrong = np.flatnonzero(self._pool.lower > self._upper)
        if len(wrong):
            k = int(wrong[0])
            raise SoundnessError(
                f"a witness shows {float(self._pool.lower[k])!r} for objective {k}, above its upper bound "
                f"{float(self._upper[k])!r} of the search over phases"
            )
        if self._journal is not None:
            self._journal.save(self._state)
        if self._on_progress is not None:
            self._on_progress(self._pool.largest, float(self._upper.max()), len(self._heap), self._nodes)

    def _state(self) -> Arrays:
        # Jobs under way count as not begun; of an interrupted move both ends hold a node.
        entries = [*self._heap, *(entry for part in self._working for entry in part)]
        nodes = {number: node for _, number, node in entries}
        order = np.array(list(nodes), dtype=np.int64)
        state = PhaseState(
            PhaseNodes.concatenate([self._work.none, *nodes.values()]),
            order,
            self._upper,
            self._closed,
            np.concatenate([np.zeros(0, dtype=np.int64), *self._roots]),
            self._experience,
            witnesses_of(self._pool),
            np.array([self._nodes, self._rounds]),
        )
        return state.arrays()

    def _restore(self, state: PhaseState) -> None:
        """Go on from a state; its witnesses are executed, and check its bounds."""
        self._pool = executed(self._problem, state.witnesses, self._pool)
        self._upper, self._closed = np.minimum(self._upper, state.upper), state.closed.copy()
        self._experience = state.experience
        self._nodes, self._rounds = state.counts.tolist()
        left = set(state.roots.tolist())
        self._roots = [part for part in self._roots if left.issuperset(part.tolist())]
        nodes = (state.nodes.select(np.array([row])) for row in range(len(state.nodes)))
        self._heap = [
            (-float(node.upper[0]), number, node)
            for number, node in zip(state.order.tolist(), nodes, strict=True)
        ]
        heapq.heapify(self._heap)
        self._bytes = sum(node.size_bytes for _, _, node in self._heap)
        self._commit(None)

    def _highest(self) -> Float64Array:
        """Return bounds on the objectives over all nodes; of many nodes mostly one for all objectives."""
        highest = self._closed.copy()
        for objectives in self._roots:
            highest[objectives] = np.inf
        taken = (entry for part in self._working for entry in part)
        if len(self._heap) > _FEW and self._working and self._rounds % _SELDOM:
            most = max(-negative for negative, _, _ in (self._heap[0], *taken))
            return np.maximum(highest, most)
        for negative, _, node in (*self._heap, *taken):
            objective = int(node.objective[0])
            highest[objective] = max(highest[objective], -negative)
        return highest

    def _status(self) -> PhaseStatus | None:
        """Return why to stop, or None."""
        tolerance, options = self._options.tolerance, self._options
        if tolerance is not None and self._pool.largest > tolerance:
            return "violated"
        if self._upper.max() <= self._threshold().max():
            return "closed" if tolerance is None else "certified"
        if self._budget.spent:
            return "interrupted" if self._budget.cancelled() else "limit"
        if not (self._heap or self._working):
            return "exhausted"
        if options.max_nodes is not None and self._nodes >= options.max_nodes:
            return "limit"
        return None

    def _look_around(self) -> None:
        """Search for better witnesses near the known ones."""
        if not self._options.witness_evaluations:
            return
        options = WitnessOptions(
            evaluations=self._options.witness_evaluations, seed=self._options.seed + self._rounds
        )
        budget = self._budget.part(self._options.witness_evaluations)
        self._pool = search_witnesses(self._problem, options, pool=self._pool, budget=budget)
