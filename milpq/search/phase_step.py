"""One step of the search over phases: cut nodes, bound the parts, choose the next cuts.

The step is a pure function of its batch, so that it can run in any process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from milpq._arrays import BoolArray, Float64Array, Int64Array
from milpq.bounds.hull import Ranges
from milpq.bounds.lagrangian import Lagrangian, Objectives, never, output_objectives
from milpq.bounds.optimized import FIRST_STEP
from milpq.bounds.sweep import Choice
from milpq.bounds.values import Bounds
from milpq.merge.problem import Problem
from milpq.search.execution import Execution
from milpq.search.inputs import FeedableInputs
from milpq.search.phase_branching import Experience, Trial
from milpq.search.phase_nodes import Cuts, Offers, PhaseNodes, offer_cuts
from milpq.search.pool import WitnessPool

_ROOT_STEPS: Final = 300
_MANY_STEPS: Final = 100
_LAST_STEPS: Final = 600

_FEW_ROOTS: Final = 8
"""Up to so many, roots get long ascents and try cuts out; of more, most will never be cut."""

_LONGEST: Final = 2
"""Steps are tripled as often as a bound has stalled, but not more often than this."""

_PROGRESS: Final = 0.01
"""Part of the first step that a bound has to come down by, or it has stalled."""

_LATER: Final = 1.0
"""First step of an ascent that goes on from a parent's multipliers, as a part of one from nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class PhaseWork:
    """What became of a batch.

    Parameters
    ----------
    nodes : PhaseNodes
        Parts that stay open.
    highest : float64, shape (objectives,)
        The highest bound of the parts that need no more work.
    closed : int
        Their number.
    pool : WitnessPool
        Inputs executed on the way.
    experience : Experience
        What cuts tried out have taught.
    """

    nodes: PhaseNodes
    highest: Float64Array
    closed: int
    pool: WitnessPool
    experience: Experience


@dataclass(frozen=True, slots=True, eq=False)
class PhaseJob:
    """A batch to cut.

    Parameters
    ----------
    nodes : PhaseNodes
    threshold : float64, shape (objectives,)
        The bound at which a node needs no more work.
    experience : Experience
    tries : bool
        Whether to try cuts of the parts out.
    deadline : float or None
        When to end with what is known, in seconds of `time.monotonic`.
    """

    nodes: PhaseNodes
    threshold: Float64Array
    experience: Experience
    tries: bool
    deadline: float | None = None

    def late(self) -> bool:
        """Tell whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline


class PhaseStep:
    """The step; call it with a `PhaseJob`.

    Parameters
    ----------
    problem : Problem
    bounds : Bounds
        On the whole domain.
    steps : int
        Gradient steps for each bound but the first.
    objectives : Objectives, optional
        Of a value inside, instead of those of the problem; then no input is executed.
    """

    def __init__(
        self, problem: Problem, bounds: Bounds, steps: int, objectives: Objectives | None = None
    ) -> None:
        self.relaxation = Lagrangian(problem, bounds, None if objectives is None else objectives.value)
        self._steps = steps
        self._inside = objectives is not None
        self._objectives = output_objectives(problem) if objectives is None else objectives
        self._scale = FIRST_STEP * self.relaxation.widths(self._objectives)
        self._execution = Execution(problem)
        self._inputs = FeedableInputs(problem)
        self._problem = problem

    @property
    def roots(self) -> list[Int64Array]:
        """The objectives in batches, for `root`."""
        count, rows = len(self._objectives), self.relaxation.rows
        return [np.arange(start, min(start + rows, count), dtype=np.int64) for start in range(0, count, rows)]

    def root(self, objectives: Int64Array, threshold: Float64Array, stop: Callable[[], bool]) -> PhaseWork:
        """Bound the whole domain, one node for each of some objectives.

        Parameters
        ----------
        threshold : float64, shape (objectives of all,)
            The bound at which a node needs no more work.
        stop : callable
            Asked between gradient steps.
        """
        few = len(objectives) <= _FEW_ROOTS
        job = PhaseJob(self._whole(objectives), threshold, Experience.none(self.relaxation.open), tries=few)
        return self._bounded(job.nodes, job, self._scale, _ROOT_STEPS if few else _MANY_STEPS, stop=stop)

    @property
    def none(self) -> PhaseNodes:
        """No nodes, of the shape of all."""
        return self._whole(np.zeros(0, dtype=np.int64))

    def _whole(self, objectives: Int64Array) -> PhaseNodes:
        """Return the whole domain, one node for each of some objectives, about which nothing is known."""
        size = len(objectives)
        return PhaseNodes(
            np.repeat(self.relaxation.ranges.array, size, axis=0),
            np.zeros((size, 2 * self.relaxation.open), dtype=np.float32),
            objectives,
            np.full(size, np.inf),
            np.zeros(size, dtype=np.int64),
            np.full(size, -1, dtype=np.int64),
            np.zeros(size, dtype=np.int64),
            np.zeros(size),
            np.zeros(size),
        )

    def __call__(self, job: PhaseJob) -> PhaseWork:
        """Cut and bound nodes."""
        parts, closed = self._parts(job.nodes)
        scale = _LATER * self._scale
        return self._bounded(parts, job, scale, self._steps, closed=closed, stop=job.late)

    def _parts(self, nodes: PhaseNodes) -> tuple[PhaseNodes, int]:
        """Return the parts of nodes that are not empty, and the number of those that are."""
        ranges, origin = nodes.halves()
        ranges, empty = ranges.closed()
        parents = nodes.select(origin)
        upper = np.where(empty, -np.inf, parents.upper)
        parts = PhaseNodes(
            ranges.array,
            parents.multipliers,
            parents.objective,
            upper,
            parents.stalled,
            parents.neuron,
            parents.side,
            parents.below,
            parents.above,
        )
        return parts.select(np.flatnonzero(~empty)), int(empty.sum())

    def _bounded(
        self,
        nodes: PhaseNodes,
        job: PhaseJob,
        scale: Float64Array,
        steps: int,
        *,
        closed: int = 0,
        stop: Callable[[], bool] = never,
    ) -> PhaseWork:
        """Bound nodes and choose their cuts."""
        highest = np.full(len(self._objectives), -np.inf)
        pool = WitnessPool.empty(self._problem)
        learned = Experience.none(self.relaxation.open)
        if not len(nodes):
            return PhaseWork(nodes, highest, closed, pool, learned)
        count = len(nodes)
        nodes, mean = self._ascended(nodes, scale, steps, stop)
        pool = self._execute(mean, pool)
        open_ = np.flatnonzero(nodes.upper > job.threshold[nodes.objective])
        _raise(highest, nodes, nodes.upper <= job.threshold[nodes.objective])
        nodes = nodes.select(open_)
        offers = offer_cuts(self.relaxation, Ranges(nodes.ranges), mean.select(open_))
        cuts = job.experience.choose(offers)
        if job.tries:
            cuts, learned = self._tried(nodes, offers, job, stop) or (cuts, learned)
        nodes = cuts.of(nodes)
        uncut = np.flatnonzero(nodes.neuron < 0)
        if len(uncut):
            # Nothing to cut, so all that is left is to come closer to the optimum of the relaxation.
            last, _ = self._ascended_together(nodes.select(uncut), scale, _LAST_STEPS, stop)
            nodes.upper[uncut] = last.upper
        open_ = (nodes.upper > job.threshold[nodes.objective]) & (nodes.neuron >= 0)
        _raise(highest, nodes, ~open_)
        nodes = nodes.select(np.flatnonzero(open_))
        return PhaseWork(nodes, highest, closed + count - len(nodes), pool, learned)

    def _tried(
        self, nodes: PhaseNodes, offers: Offers, job: PhaseJob, stop: Callable[[], bool]
    ) -> tuple[Cuts, Experience] | None:
        """Choose cuts by the bounds of the parts that they make, as an ascent sees them; None if stopped."""
        trial = Trial.of(offers, job.experience)
        cut = trial.cuts.of(nodes.select(trial.rows))
        ranges, origin = cut.halves()
        ranges, empty = ranges.closed()
        parts = cut.select(origin)
        value = np.empty(len(parts))
        for start in range(0, len(parts), self.relaxation.rows):
            if stop():
                return None
            rows = slice(start, start + self.relaxation.rows)
            objectives = self._objectives.select(parts.objective[rows])
            here = Ranges(ranges.array[rows])
            value[rows] = self.relaxation.ascend(
                objectives,
                parts.multipliers[rows],
                self.relaxation.points(here),
                here,
                _LATER * self._scale[parts.objective[rows]],
                self._steps,
                stop,
                parts.neuron[rows],
            ).value
        value = np.where(empty, -np.inf, np.minimum(value, parts.upper))
        gains = (parts.upper - value).reshape(2, -1)
        most = nodes.upper - job.threshold[nodes.objective]
        return trial.settle(gains, most, self.relaxation.open)

    def _ascended(
        self, nodes: PhaseNodes, scale: Float64Array, steps: int, stop: Callable[[], bool]
    ) -> tuple[PhaseNodes, Choice]:
        """Return the nodes with better multipliers and bounds, and what their relaxation preferred.

        Nodes whose bound has stalled get longer ascents: most of them are empty, and show it late.
        """
        effort = np.minimum(nodes.stalled, _LONGEST)
        parts: list[PhaseNodes] = []
        means: list[Choice] = []
        order: list[Int64Array] = []
        for level in np.unique(effort):
            rows = np.flatnonzero(effort == level)
            part, mean = self._ascended_together(nodes.select(rows), scale, steps * 3 ** int(level), stop)
            parts.append(part)
            means.append(mean)
            order.append(rows)
        back = np.argsort(np.concatenate(order))
        mean = Choice(
            np.concatenate([part.x for part in means]),
            np.concatenate([part.points for part in means], axis=1),
            np.concatenate([part.weights for part in means], axis=1),
            np.concatenate([part.multipliers for part in means]),
        )
        return PhaseNodes.concatenate(parts).select(back), mean.select(back)

    def _ascended_together(
        self, nodes: PhaseNodes, scale: Float64Array, steps: int, stop: Callable[[], bool]
    ) -> tuple[PhaseNodes, Choice]:
        relaxation, ranges = self.relaxation, Ranges(nodes.ranges)
        objectives = self._objectives.select(nodes.objective)
        points = relaxation.points(ranges)
        found = relaxation.ascend(
            objectives,
            nodes.multipliers,
            points,
            ranges,
            scale[nodes.objective],
            steps,
            stop,
            nodes.neuron if (nodes.neuron >= 0).all() else None,
        )
        upper = np.minimum(nodes.upper, relaxation.certify(objectives, found.multipliers, points))
        with np.errstate(invalid="ignore"):
            progress = nodes.upper - upper > _PROGRESS * scale[nodes.objective]
        stalled = np.where(progress, 0, nodes.stalled + 1)
        return replace(nodes, multipliers=found.multipliers, upper=upper, stalled=stalled), found.mean

    def _execute(self, mean: Choice, pool: WitnessPool) -> WitnessPool:
        """Run both networks on the inputs that the relaxed problems preferred."""
        if self._inside:
            return pool
        points = self._inputs.snap(mean.x.astype(np.float64))
        levels = self._inputs.levels(points)
        given = None if self._problem.domain.integer is None else levels
        return pool.update(points, levels, self._execution.run(points, given), self._execution.error)


def _raise(highest: Float64Array, nodes: PhaseNodes, where: BoolArray) -> None:
    """Enter the bounds of nodes that are done."""
    np.maximum.at(highest, nodes.objective[where], nodes.upper[where])
