"""Bounds inside the network by cutting phases and steps, layer by layer: as far as its last narrow layer.

What a relaxation loses at a kink is charged again by every layer behind it, so where phases are open the bounds on
differences grow by a factor a layer, far beyond what rounding alone can do.  A narrow layer is where that can be
stopped: its few ranges are bounded by small branch and bounds over the phases in front of it, and all that lies
behind starts from those.  Wider layers are worth the same where a narrow one lies behind them: its ranges are no
better than what they rest on.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq.bounds.lagrangian import Objectives
from milpq.bounds.optimized import face_objectives, open_neurons, tightened
from milpq.bounds.values import Bounds, ValueBounds
from milpq.merge.nodes import MergedActivation, MergedAffine
from milpq.merge.problem import Problem
from milpq.search.budget import Budget
from milpq.search.phase_branching import TRIALS, Experience
from milpq.search.phase_nodes import PhaseNodes
from milpq.search.phase_step import PhaseJob, PhaseStep, PhaseWork

NARROW: Final = 48
"""Open neurons of a narrow layer at most."""

_WIDEST: Final = 256
"""Open neurons of a layer in front of a narrow one up to which its ranges are bounded in this way."""

_NODES: Final = 40
"""Nodes for each bound at most: in a layer's share of the time up to `_NODES_S` seconds, and in as many more again."""

_NODES_S: Final = 8.0

_MOST_BYTES: Final = 2**28
"""What the nodes of a layer may hold at most."""

_STEPS: Final = 20
"""Gradient steps of a node, as in the search over phases."""

_TRIED_NODES: Final = 100
"""Nodes of a layer that try their cuts out."""

_JOBS: Final = 4
"""Batches of one round, worked on together: the same for any number of workers."""

_BATCH: Final = 32

Spread: TypeAlias = Callable[[Callable[[PhaseJob], PhaseWork], list[PhaseJob]], Iterable[PhaseWork]]
"""Has a function work on every job, perhaps in several threads; results in order, as of ``map``."""

Behind: TypeAlias = Callable[[Bounds, Budget], Bounds]
"""Given bounds and a budget: the same with tighter ones behind a narrow value (`milpq.search.behind`)."""


def last_narrow(problem: Problem, bounds: Bounds) -> int:
    """Return up to which value ranges are worth bounding by cutting phases; 0 for none.

    Where all layers between the first activation and the last are narrow that is the output.  Else it is the last
    narrow one that another layer between them lies behind: a wide one would take the time, and charges what it
    loses whatever is known in front of it.
    """
    merged = problem.merged
    ends = {merged.output, *merged.nodes[merged.output - 1].sources}
    inner = [
        (value, len(open_neurons(merged, bounds.values[value], value)))
        for value, node in enumerate(merged.nodes, 1)
        if isinstance(node, MergedAffine) and value not in ends and any(node.sources)
    ]
    if not merged.is_exact:
        return 0
    if 0 < max((count for _, count in inner), default=0) <= NARROW:
        return merged.output
    return max((value for value, count in inner[:-1] if 0 < count <= NARROW), default=0)


class CuttingInside:
    """What bounds layers for `milpq.bounds.optimized`, each in its share of the time that is left.

    Parameters
    ----------
    last : int
        The last value whose ranges are worth it (`last_narrow`).
    budget : Budget
        For all layers, those for which slopes will do and the outputs too.
    narrow : int
        The value that `behind` starts from; 0 for none.
    behind : callable
        Tightens what lies behind `narrow`, once all in front of it is known; later layers start from that.

    Attributes
    ----------
    found : Bounds or None
        What `behind` has found; valid on the root.
    """

    def __init__(
        self,
        problem: Problem,
        last: int,
        budget: Budget,
        spread: Spread = map,
        narrow: int = 0,
        behind: Behind | None = None,
    ) -> None:
        self._problem, self._last, self._budget, self._spread = problem, last, budget, spread
        self._narrow, self._behind = narrow, behind
        nodes = problem.merged.nodes
        self._layers = [v for v, node in enumerate(nodes, 1) if isinstance(node, MergedAffine) and v <= last]
        self.found: Bounds | None = None

    def __call__(self, bounds: Bounds, value: int, neurons: Int64Array) -> ValueBounds | None:
        """Return tighter bounds on the open neurons of a value; None where slopes will do."""
        if self.found is None and self._behind is not None and value > self._narrow > 0:
            self.found = self._behind(bounds, self._share(value))
        if self.found is not None:
            bounds = bounds.intersect(self.found)
        if value > self._last or len(neurons) > _WIDEST:
            # What cubes of few numbers show of a wide layer, slopes would take minutes to add to.
            return None if self.found is None else bounds.values[value]
        return cut_inside(
            self._problem, bounds, value, neurons, budget=self._share(value), spread=self._spread
        )

    def _share(self, value: int) -> Budget:
        left = sum(1 for layer in self._layers if layer >= value) + 1
        limit = self._budget.time_limit_s
        return Budget(None if limit is None else max(0.0, limit - self._budget.elapsed_s) / left)


def cut_inside(
    problem: Problem,
    bounds: Bounds,
    value: int,
    neurons: Int64Array,
    *,
    budget: Budget,
    spread: Spread = map,
) -> ValueBounds:
    """Tighten the bounds on both sides and the difference of some neurons of a value.

    Parameters
    ----------
    bounds : Bounds
        Valid on the root of the domain; one cube.
    neurons : int64, shape (open,)
    budget : Budget
    spread : callable
        Where batches run.

    *Soundness:* as the search over phases: a node is only replaced by two parts that cover it, and the bound of an
    objective is the highest of its nodes.
    """
    objectives = face_objectives(problem, value, neurons)
    step = PhaseStep(problem, bounds, _STEPS, objectives)
    search = _Search(step, _thresholds(problem, bounds, objectives))
    search.run(budget, spread)
    return tightened(bounds.values[value], objectives, search.upper)


def _thresholds(problem: Problem, bounds: Bounds, objectives: Objectives) -> Float64Array:
    """Return what bounds need not get below: the other end, and the last kink that a float side can get past."""
    known = bounds.values[objectives.value]
    on_float, on_difference = objectives.on_float, objectives.on_difference
    result: Float64Array = np.empty(len(objectives))
    for side, about, sign in (
        (known.float_side, on_difference == 0, on_float),
        (known.difference, on_float == 0, on_difference),
        (known.quantized_side, on_float == on_difference, on_float),
    ):
        lower, upper = side.lower[0, objectives.neurons], side.upper[0, objectives.neurons]
        result[about] = np.where(sign > 0, lower, -upper)[about]
    for node in problem.merged.nodes:
        if isinstance(node, MergedActivation) and node.source == objectives.value and node.curve is None:
            kinks = [kink for kink in (node.lower, node.upper) if np.isfinite(kink)]
            if kinks:
                last = np.where(on_float > 0, min(kinks), -max(kinks))
                about = on_difference == 0
                result[about] = np.maximum(result, last)[about]
    return result


class _Search:
    """The nodes of all objectives of a layer; the worst of each are cut in turns."""

    def __init__(self, step: PhaseStep, threshold: Float64Array) -> None:
        self._step, self._threshold = step, threshold
        count = len(threshold)
        self._open: list[list[tuple[float, int, PhaseNodes]]] = [[] for _ in range(count)]
        self._closed: Float64Array = np.full(count, -np.inf)
        self._unbounded = np.ones(count, dtype=np.bool_)
        self._experience = Experience.none(step.relaxation.open)
        self._nodes = 0

    @property
    def upper(self) -> Float64Array:
        """Upper bounds of the objectives; infinite where there was no time for any."""
        worst = [-heap[0][0] if heap else -np.inf for heap in self._open]
        return np.where(self._unbounded, np.inf, np.maximum(self._closed, worst))

    def run(self, budget: Budget, spread: Spread) -> None:
        """Bound the whole domain, then cut until nodes or time run out."""
        for part in self._step.roots:
            if budget.spent:
                return
            self._commit(self._step.root(part, self._threshold, lambda: budget.spent))
            self._unbounded[part] = False
        most = self._most(budget)
        while self._nodes < most and not budget.spent:
            taken = self._take()
            if not taken:
                return
            tries = self._experience.count < TRIALS * _TRIED_NODES
            size = -(-len(taken) // _JOBS)
            jobs = [
                PhaseJob(
                    PhaseNodes.concatenate(taken[first : first + size]),
                    self._threshold,
                    self._experience,
                    tries,
                    budget.deadline,
                )
                for first in range(0, len(taken), size)
            ]
            for work in list(spread(self._step, jobs)):
                self._commit(work)

    def _most(self, budget: Budget) -> int:
        """Return how many nodes to make: more where there is time for them, none that memory has no room for."""
        limit = budget.time_limit_s
        each = int(_NODES * max(1.0, 0.0 if limit is None else limit / _NODES_S))
        none = self._step.none
        size = none.ranges.itemsize * int(np.prod(none.ranges.shape[1:])) + none.multipliers.itemsize * int(
            none.multipliers.shape[1]
        )
        return min(each * len(self._threshold), _MOST_BYTES // max(size, 1))

    def _take(self) -> list[PhaseNodes]:
        """Remove the worst nodes of every objective that a cut could still improve."""
        batch = _JOBS * min(_BATCH, self._step.relaxation.rows)
        left = [k for k, heap in enumerate(self._open) if heap and -heap[0][0] > self._closed[k]]
        each = max(1, batch // max(len(left), 1))
        return [heapq.heappop(self._open[k])[2] for k in left for _ in range(min(each, len(self._open[k])))]

    def _commit(self, work: PhaseWork) -> None:
        self._closed = np.maximum(self._closed, work.highest)
        self._experience = self._experience.join(work.experience)
        for row in range(len(work.nodes)):
            node = work.nodes.select(np.array([row]))
            self._nodes += 1
            heapq.heappush(self._open[int(node.objective[0])], (-float(node.upper[0]), self._nodes, node))
        self._nodes += work.closed
