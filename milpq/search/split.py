"""Anytime branch and bound over cubes of the input, best first and in batches.

Batches of the cubes with the highest bounds become jobs, a few at a time: each cube is split along one input, the
halves are bounded, and those that cannot matter closed.  At any moment the highest bound of an open or closed cube
is an upper bound on the answer, and the best executed input a lower one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from milpq._arrays import Float64Array, Int64Array, frozen
from milpq.errors import SoundnessError, WorkersLostError
from milpq.merge import Cubes, Problem
from milpq.search.bounding import Bounding
from milpq.search.branch import Batch, Branching, Worked
from milpq.search.budget import Budget
from milpq.search.checkpoint import Arrays, Section, executed
from milpq.search.executor import Executor, SerialExecutor
from milpq.search.frontier import Frontier
from milpq.search.lookout import Lookout
from milpq.search.ordered import AHEAD
from milpq.search.pace import Pace
from milpq.search.pool import WitnessPool
from milpq.search.split_options import SplitOptions
from milpq.search.split_state import SplitState
from milpq.search.witness import WitnessOptions

SplitStatus: TypeAlias = Literal[
    "closed", "certified", "violated", "exhausted", "limit", "interrupted", "lost"
]
"""``closed``: the gap is reached.  ``certified``/``violated``: the tolerance is decided.  ``exhausted``: no
cube is left that splitting could improve, yet the gap is not reached.  ``limit``: time or cubes ran out.
``lost``: memory ran out, here or in the workers."""

Progress: TypeAlias = Callable[[float, float, int, int], None]
"""Given the lower and upper bound on the largest ``|f_q − f|``, and the numbers of open and of closed
cubes."""


@dataclass(frozen=True, slots=True, eq=False)
class SplitResult:
    """A bracket on every objective, valid whenever the search stopped.

    Parameters
    ----------
    status : SplitStatus
    upper : float64, shape (objectives,)
        Upper bounds; those of objectives that did not matter for the question asked may be loose.
    pool : WitnessPool
        Lower bounds with their witnesses.
    open_cubes, closed_cubes, bounded_cubes : int
        Cubes left, settled, and bounded altogether.
    rounds : int
        Jobs done.
    time_s : float
    open, open_upper
        The cubes left with their bounds (cubes, objectives), worst first, at most `KEPT` of them.
    """

    status: SplitStatus
    upper: Float64Array
    pool: WitnessPool
    open_cubes: int
    closed_cubes: int
    bounded_cubes: int
    rounds: int
    time_s: float
    open: Cubes
    open_upper: Float64Array

    @property
    def bracket(self) -> tuple[float, float]:
        """Bounds on the largest ``|f_q − f|`` over the domain and the chosen outputs."""
        return self.pool.largest, float(self.upper.max())


KEPT = 4096
"""Open cubes that a result carries at most."""

_LEAST = 8
"""Cubes of a job, where there are so many."""

_LOOKED_AT = 1 << 16
"""Open cubes that are looked through for a job."""


def split_search(
    problem: Problem,
    bounding: Bounding,
    options: SplitOptions | None = None,
    *,
    pool: WitnessPool | None = None,
    upper: Float64Array | None = None,
    executor: Executor | None = None,
    budget: Budget | None = None,
    on_progress: Progress | None = None,
    on_closed: Callable[[Worked], None] | None = None,
    journal: Section | None = None,
) -> SplitResult:
    """Search by splitting the input domain.

    Parameters
    ----------
    bounding : Bounding
        How cubes are bounded; see ``milpq.search.bounding``.
    pool : WitnessPool, optional
        Known witnesses.
    upper : float64, shape (objectives,), optional
        Known upper bounds.
    executor : Executor, optional
        Where batches run.  The answer does not depend on it unless the time limit cuts the search, or it has more
        than `milpq.search.ordered.AHEAD` workers.
    budget : Budget, optional
        Time limit and cancel flag.
    on_progress : callable, optional
    on_closed : callable, optional
        Given every batch of work done; its `closed` cubes and the `open` ones of the result cover the domain.
    journal : Section, optional
        Where the search goes on from, and leaves its state now and then and at the end.

    Returns
    -------
    SplitResult
        Also after ``KeyboardInterrupt``, or when memory runs out, with the bracket of the last job.

    Raises
    ------
    SoundnessError
        An executed input left the bounds of a cube that holds it.

    *Soundness:* a cube is only ever replaced by parts that cover it, and leaves the open set only with its
    bound entered into the upper bound reported.
    """
    options = options or SplitOptions()
    search = _Split(
        problem,
        Branching(
            problem,
            bounding,
            2 * bounding.executions if options.enumerate_codes is None else options.enumerate_codes,
            options.enumerate_cells,
            keep_closed=on_closed is not None,
        ),
        options,
        pool or WitnessPool.empty(problem),
        executor or SerialExecutor(),
        budget or Budget(),
        (on_progress, on_closed),
        journal,
    )
    try:
        search.begin(upper)
        status = search.run()
    except KeyboardInterrupt:
        status = "interrupted"
    except (MemoryError, WorkersLostError):
        status = "lost"
    return search.result(status)


class _Split:
    """State of one search."""

    def __init__(
        self,
        problem: Problem,
        work: Branching,
        options: SplitOptions,
        pool: WitnessPool,
        executor: Executor,
        budget: Budget,
        listeners: tuple[Progress | None, Callable[[Worked], None] | None],
        journal: Section | None,
    ) -> None:
        self._problem = problem
        self._work = work
        self._options = options
        self._executor = executor
        self._budget = budget
        self._on_progress, self._on_closed = listeners
        self._journal = journal
        objectives = 2 * len(problem.outputs)
        self._frontier = Frontier(problem.merged.input_size, objectives)
        self._pool = pool
        self._upper: Float64Array = np.full(objectives, np.inf)
        self._closed_upper: Float64Array = np.full(objectives, -np.inf)
        self._closed = self._bounded = self._rounds = self._jobs = 0
        self._planned: deque[int] = deque()
        self._committing = True
        self._pace = Pace(work, chosen=options.enumerate_codes is not None)
        self._batch = options.batch or self._pace.batch()
        room = options.memory_bytes // Frontier.bytes_per_cube(problem.merged.input_size, objectives)
        self._room = max(2 * self._batch, room)
        looks = options.witness_evaluations, options.seed
        looking = WitnessOptions(looks[0], looks[1], each=options.each) if looks[0] else None
        price = work.bounding.executions
        self._lookout = Lookout(problem, executor, looking, options.first_evaluations, price)

    def begin(self, upper: Float64Array | None) -> None:
        """Bound the whole domain."""
        objectives = len(self._upper)
        known = np.full((1, objectives), np.inf) if upper is None else upper[None].copy()
        self._upper = known[0]
        state = None if self._journal is None else self._journal.state
        if self._journal is not None and state is not None:
            with self._journal.restoring():
                self._restore(SplitState.read(state, self._problem.merged.input_size, objectives))
            return
        self._look_out(None)
        batch = Batch(self._problem.domain.root, known, None, self._threshold(), self._pool)
        self._commit(0, list(self._executor.map(self._work, [batch])))
        self._jobs = 1

    def run(self) -> SplitStatus:
        """Work until something says stop."""
        status = self._work_off()
        if status in {"exhausted", "limit"}:
            self._pool = self._lookout.finish(self._pool, self._budget)
            self._commit(0, [])
            status = self._status() or "limit"
        return status

    def _work_off(self) -> SplitStatus:
        """Work until something says stop, or there is nothing to do."""
        status = self._status()
        if status is not None:
            return status
        with closing(self._executor.map(self._work, self._batches(), self._budget)) as works:
            for job, work in enumerate(works, start=self._jobs):
                self._rounds += 1
                self._commit(job, [work])
                if self._journal is not None:
                    self._journal.save(self._state)
                status = self._status()
                if status is not None:
                    return status
                self._look_out(work.cubes)
        return self._status() or "limit"

    def _batches(self) -> Iterator[Batch | None]:
        """Give out the next batch, by what is known when it is asked for; None where no cube is free."""
        while True:
            if not self._planned:
                self._plan()
            if not self._planned:
                yield None
                continue
            job = self._planned.popleft()
            cubes, upper, dimension = self._frontier.get(self._frontier.taken(job))
            self._pace.give(cubes)
            yield Batch(cubes, upper, dimension, self._threshold(), self._pool, self._pace.leaf_codes)

    def _plan(self) -> None:
        """Choose the cubes of the next job, or jobs: looking for the worst of a million takes as long as a job."""
        if self._pace.due:
            self._pace.judge(self._frontier.get(slice(None))[0])
        rows = self._select(1 + len(self._frontier) // _LOOKED_AT)
        for part in self._pace.jobs(self._frontier.get(rows)[0], self._batch):
            self._frontier.take(rows[part], self._jobs)
            self._planned.append(self._jobs)
            self._jobs += 1

    def result(self, status: SplitStatus) -> SplitResult:
        """Return the bracket as of the last commit."""
        self._lookout.end()
        if self._journal is not None and not self._committing:
            self._journal.save(self._state, now=True)
        if self._committing:
            # Interrupted between two states of the open set: the whole domain is what surely covers the rest.
            cubes, upper, count = self._problem.domain.root, self._upper[None], 1
        else:
            self._lower_upper()
            count = len(self._frontier)
            rows = np.argsort(-self._priority(), kind="stable")[:KEPT]
            cubes, upper, _ = self._frontier.get(rows)
        return SplitResult(
            status,
            frozen(self._upper.copy()),
            self._pool,
            count,
            self._closed,
            self._bounded,
            self._rounds,
            self._budget.elapsed_s,
            cubes,
            upper,
        )

    def _state(self) -> Arrays:
        ends, counts = (self._upper, self._closed_upper), (self._closed, self._bounded, self._rounds)
        return SplitState.of(self._frontier, ends, self._pool, counts).arrays()

    def _restore(self, state: SplitState) -> None:
        """Go on from a state; its witnesses are executed, and check its bounds."""
        self._pool = executed(self._problem, state.witnesses, self._pool)
        state.fill(self._frontier)
        self._closed_upper, self._upper = state.closed_upper, np.minimum(self._upper, state.known_upper)
        self._closed, self._bounded, self._rounds = state.counts.tolist()
        self._commit(0, [])

    def _threshold(self) -> Float64Array:
        return self._options.threshold(self._pool)

    def _priority(self) -> Float64Array:
        """Return how much each open cube matters, shape (open,)."""
        bound = self._frontier.bound
        if not self._options.each:
            return bound.max(axis=1)
        threshold = self._threshold()
        return (bound - np.where(np.isfinite(threshold), threshold, 0.0)).max(axis=1)

    def _select(self, jobs: int) -> Int64Array:
        """Return the rows to split next: the worst, or the last ones while memory is short."""
        batch, free = self._batch, self._room - len(self._frontier)
        if free < 2 * AHEAD * batch * jobs:
            # The halves of the cubes pushed last are dived into, so the open set grows by at most one small
            # batch for each level of splitting below the present ones.
            return self._frontier.last(max(1, min(batch, max(free, 0) // (2 * AHEAD) + 8)))
        # A few open cubes are for all workers.
        share = -(-len(self._frontier) // AHEAD)
        return self._frontier.worst(min(batch * jobs, max(share, _LEAST)), self._priority())

    def _commit(self, job: int, works: list[Worked]) -> None:
        """Replace the cubes of a job by what became of them."""
        for work in works:
            self._pool = self._pool.join(work.pool)
        frontier, closed_upper, threshold = self._frontier, self._closed_upper, self._threshold()
        self._committing = True
        frontier.remove(job)
        for work in works:
            is_open = (work.upper > threshold).any(axis=1)
            kept, gone = np.flatnonzero(is_open), np.flatnonzero(~is_open)
            frontier.push(work.cubes.select(kept), work.upper[kept], work.dimension[kept])
            leaving = [closed_upper[None], work.highest[None], work.upper[gone]]
            closed_upper = np.concatenate(leaving).max(axis=0)
            self._closed += work.closed_cubes + len(gone)
            self._bounded += work.closed_cubes + len(work.cubes)
            if self._on_closed is not None:
                self._on_closed(work.with_closed(kept, gone))
        self._closed_upper = closed_upper
        if works and not self._planned:
            self._lower_upper()
        self._committing = False
        wrong = np.flatnonzero(self._pool.lower > self._upper)
        if len(wrong):
            k = int(wrong[0])
            raise SoundnessError(
                f"a witness shows {float(self._pool.lower[k])!r} for objective {k}, above its upper bound "
                f"{float(self._upper[k])!r}"
            )
        if self._on_progress is not None:
            lower, upper = self._pool.largest, float(self._upper.max())
            self._on_progress(lower, upper, len(frontier), self._closed)

    def _lower_upper(self) -> None:
        """Bound the objectives by all cubes there are."""
        highest = self._frontier.bound.max(axis=0, initial=-np.inf)
        self._upper = np.minimum(self._upper, np.maximum(highest, self._closed_upper))

    def _status(self) -> SplitStatus | None:
        """Return why to stop, or None."""
        tolerance, options = self._options.tolerance, self._options
        if tolerance is not None:
            if self._pool.largest > tolerance:
                return "violated"
            if self._upper.max() <= tolerance:
                return "certified"
        goal = self._threshold() if tolerance is None else np.full(len(self._upper), tolerance)
        relevant = self._upper if options.each else self._upper.max(keepdims=True)
        if (relevant <= (goal if options.each else goal[:1])).all():
            return "closed"
        if not len(self._frontier):
            return "exhausted"
        if options.max_cubes is not None and self._bounded >= options.max_cubes:
            return "limit"
        if self._budget.spent:
            return "interrupted" if self._budget.cancelled() else "limit"
        return None

    def _look_out(self, cubes: Cubes | None) -> None:
        """Take in witnesses that are due, and have others searched for, from some cubes besides the known ones."""
        self._pool = self._lookout.collect(self._pool, self._pace.spent, self._budget)
        if self._lookout.opening or self._rounds % self._options.witness_rounds == 0:
            starts = None if cubes is None else 0.5 * cubes.lower[:64] + 0.5 * cubes.upper[:64]
            self._lookout.begin(self._pool, self._pace.spent, self._budget, starts)
