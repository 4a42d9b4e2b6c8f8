"""One job of the tree: a node, its own relaxation, and a small branch and bound below it.

The job is a pure function of what it is given, so that it can run in any process.
"""

from __future__ import annotations

import heapq
import math
import time
from dataclasses import dataclass, field, replace

import numpy as np

from milpq._arrays import Float64Array, frozen
from milpq.bounds.symbolic import differential
from milpq.bounds.values import Bounds
from milpq.errors import OutOfTimeError
from milpq.merge import Cubes, Problem
from milpq.milp.backends.protocol import Backend, Session, Solution, SolveOptions
from milpq.milp.encode import Encoder, Encoding
from milpq.milp.safe import safe_infeasible, safe_upper_bound
from milpq.milp.scaling import ScaledSession
from milpq.search.cells import bound_cells, parts_of
from milpq.search.codes import count_codes
from milpq.search.enumerate import enumerate_cubes
from milpq.search.execution import Execution, execution_s, signed
from milpq.search.inputs import FeedableInputs
from milpq.search.slopes import float_slopes
from milpq.search.tree.branching import Branching, Gains, Prices, branchings
from milpq.search.tree.jobs import Done, Effort, Job
from milpq.search.tree.leaf import Evidence, EvidenceKind, Leaf, Node
from milpq.search.tree.region import Box, anchor_encoding, input_cubes, restrict

_NONZEROS, _LEAST_PROGRAMS = 2_000_000, 16
"""A job solves as many programs as have so many nonzeros together, so that its results do not keep waiting."""

_STARTS = 16
"""Points handed back as starts for a witness search."""

_EXECUTION_S, _ENTRIES = 0.1, 1 << 20
"""Processor seconds that executing all codes of a node may take, and numbers that their inputs may be."""

_LEAST_CODES, _LEAST_CELLS = 4096, 512
"""Codes and cells that are always few."""

_MOST_PARTS = 256
"""Parts of a node whose slopes are taken apart."""

_FEWER = 8
"""Cells are bounded anew where a node has so many times fewer: their slopes are then those of a smaller cube."""

_SETTLED = 1e-10
"""A bound this close, relatively, to what an input of the node attains cannot be improved in float64."""


@dataclass(frozen=True, slots=True, eq=False)
class TreeWork:
    """The job as a callable.

    Parameters
    ----------
    problem : Problem
    bounds : Bounds
        Valid on the root cube.
    backend : Backend
    effort : Effort
    """

    problem: Problem
    bounds: Bounds
    backend: Backend
    effort: Effort
    _encoder: Encoder = field(init=False, repr=False)
    _execution: Execution = field(init=False, repr=False)
    _inputs: FeedableInputs = field(init=False, repr=False)
    _stopped: list[bool] = field(init=False, repr=False, default_factory=list[bool])

    def __post_init__(self) -> None:
        object.__setattr__(self, "_encoder", Encoder(self.problem))
        object.__setattr__(self, "_execution", Execution(self.problem))
        object.__setattr__(self, "_inputs", FeedableInputs(self.problem))

    def start(self) -> None:
        """Have jobs run, where they had been stopped."""
        self._stopped.clear()

    def stop(self) -> None:
        """Have the jobs under way in other threads end with what they have."""
        self._stopped.append(True)

    @property
    def stopped(self) -> bool:
        """Whether to stop."""
        return bool(self._stopped)

    @property
    def execution(self) -> Execution:
        """Both networks, ready to run."""
        return self._execution

    @property
    def inputs(self) -> FeedableInputs:
        """The inputs that can be fed."""
        return self._inputs

    def __call__(self, job: Job) -> Done:
        """Work on a node.

        Raises
        ------
        KeyboardInterrupt
            Ctrl-C, when the solver has stopped.
        """
        node = job.node

        def late() -> bool:
            return self.stopped or (job.deadline is not None and time.monotonic() >= job.deadline)

        try:
            found = anchor_encoding(self._encoder, self.bounds, node.decisions, late)
        except OutOfTimeError:
            return Done([node], [], (), job.pool, job.gains, 0, np.zeros((0, self._inputs.size)))
        depth = len(node.decisions)
        if found is None:
            empty = Node(node.objective, node.decisions, -math.inf, Evidence("propagation", depth))
            return Done([], [empty], (), job.pool, Gains(), 0, np.zeros((0, self._inputs.size)))
        encoding = found[0]
        if job.deadline is not None and time.monotonic() >= job.deadline:
            return Done([node], [], (), job.pool, Gains(), 0, np.zeros((0, self._inputs.size)))
        with ScaledSession(self.backend, encoding.solver_model.relaxed()) as session:
            return _Subtree(self, job, encoding, session).run()


@dataclass(slots=True, eq=False)
class _Open:
    """An evaluated node of the subtree, with the point, duals and basis of its program where there are any.

    `value` is the bound of its own program, which may be above that of the node: bounds that were known before may
    be tighter than the relaxation.  `cells` is how many cells the last ancestor had whose cells were bounded.
    """

    node: Node
    box: Box
    value: float
    point: Float64Array | None = None
    duals: Float64Array | None = None
    basis: object | None = None
    cells: float = math.inf


class _Subtree:
    """A branch and bound below one node, on one relaxation: dives from the best node, over and over."""

    def __init__(self, work: TreeWork, job: Job, encoding: Encoding, session: Session) -> None:
        self._work, self._effort = work, work.effort
        self._encoding, self._session = encoding, session
        self._model, self._prices = encoding.model, Prices(encoding)
        self._anchor = len(job.node.decisions)
        self._root = job.node
        self._k = job.node.objective
        chosen = len(work.problem.outputs)
        self._output = int(work.problem.outputs[self._k % chosen])
        self._sign = 1 if self._k < chosen else -1
        self._objective = encoding.objective(self._k % chosen, self._sign)
        self._column = int(encoding.differences[self._k % chosen])
        self._session_box = Box(encoding.solver_model.lower, encoding.solver_model.upper)
        self._heap: list[tuple[float, int, _Open]] = []
        self._leaves: list[Leaf] = []
        self._points: list[tuple[float, Float64Array]] = []
        self._count = 0
        share = int(_NONZEROS / max(self._model.nonzeros, 1))
        self._most_programs = min(work.effort.programs, max(share, _LEAST_PROGRAMS))
        fast = min(int(_EXECUTION_S / execution_s(work.problem)), _ENTRIES // work.inputs.size)
        codes, cells = self._effort.enumerate_codes, self._effort.enumerate_cells
        self._most_codes = max(_LEAST_CODES, fast) if codes is None else codes
        self._most_cells = max(_LEAST_CELLS, fast) if cells is None else cells
        self._noise = 4.0 * float(work.execution.error[self._k % chosen])
        self._deadline = job.deadline
        self.pool = job.pool
        self.gains, self.learned = Gains(dict(job.gains.sums)), Gains()
        self.programs = 0

    def run(self) -> Done:
        """Work until nothing is open or the effort is spent."""
        self._push(self._evaluate(self._root, Box(self._model.lower, self._model.upper), None))
        current = self._pop()
        while current is not None:
            if self.programs >= self._most_programs or self._out_of_time():
                self._push(current)
                break
            best = self._branch(current)
            current = best if best is not None and self._is_open(best) else self._pop()
        self._points.sort(key=lambda pair: -pair[0])
        inputs = self._work.inputs.size
        points = np.array([x for _, x in self._points[:_STARTS]]).reshape(-1, inputs)
        nodes = [entry.node for _, _, entry in self._heap]
        return Done(
            nodes, self._leaves, self._model.row_blocks, self.pool, self.learned, self.programs, points
        )

    def _threshold(self) -> float:
        return self._effort.threshold(self.pool, self._k)

    def _left_s(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _out_of_time(self) -> bool:
        return self._work.stopped or (self._deadline is not None and time.monotonic() >= self._deadline)

    def _is_open(self, entry: _Open) -> bool:
        """Tell whether a node needs more work; close it otherwise."""
        if entry.node.upper > self._threshold():
            return True
        self._leaves.append(entry.node)
        return False

    def _push(self, entry: _Open | None) -> None:
        if entry is not None and self._is_open(entry):
            self._count += 1
            heapq.heappush(self._heap, (-entry.node.upper, self._count, entry))

    def _pop(self) -> _Open | None:
        while self._heap:
            entry = heapq.heappop(self._heap)[2]
            if self._is_open(entry):
                return entry
        return None

    def _branch(self, entry: _Open) -> _Open | None:
        """Replace a node by two; return the one to go on with, the other is kept."""
        entry, ways = self._settled(entry)
        if not self._is_open(entry):
            return None
        if not ways:
            self._leaves.append(entry.node)
            return None
        children = [child for child in self._choose(entry, ways) if self._is_open(child)]
        children.sort(key=lambda child: child.node.upper)
        for child in children[:-1]:
            self._push(child)
        return children[-1] if children else None

    def _settled(self, entry: _Open) -> tuple[_Open, list[Branching]]:
        """Return a node, with a better bound where it holds few codes, and what to branch on.

        There is nothing to branch on where its bound is attained, or cannot be improved.
        """
        entry, exhausted = self._by_execution(entry)
        point, seen = entry.point, -math.inf
        if exhausted or entry.node.upper <= self._threshold():
            return entry, []
        if point is not None and bool(np.isfinite(point).all()):
            seen = self._execute(entry.node, point)
        if entry.node.upper - seen <= _SETTLED * abs(entry.node.upper) + self._noise:
            return entry, []
        prices = self._prices.of(self._objective, entry.duals)
        return entry, branchings(self._encoding, entry.box, point, self._output, prices)

    def _by_execution(self, entry: _Open) -> tuple[_Open, bool]:
        """Return a node of few codes with the bound that executing them gives, and whether that is the last word."""
        domain = self._work.problem.domain
        cubes = (
            None if domain.integer is None else input_cubes(self._encoding, entry.box.lower, entry.box.upper)
        )
        if cubes is None:
            return entry, False
        codes = int(count_codes(cubes)[0])
        if domain.kind == "codes" and codes <= self._most_codes:
            upper, self.pool = enumerate_cubes(self._work.execution, cubes, self.pool)
            node = self._tightened(entry.node, float(upper[0, self._k]), "enumeration")
            return replace(entry, node=node), True
        fewer = _FEWER * codes <= entry.cells or (codes <= _FEWER and codes < entry.cells)
        if domain.kind == "continuous" and codes <= self._most_cells and fewer:
            upper = self._bound_cells(cubes)
            return replace(entry, node=self._tightened(entry.node, upper, "cells"), cells=codes), False
        return entry, False

    def _bound_cells(self, cubes: Cubes) -> float:
        """Return a bound on the objective over every cell of a node.

        The slopes are those of whole parts of the cube: the centre of a cell, where both networks run, and the way
        from it may lie outside of what the decisions leave.
        """
        work = self._work
        parts = parts_of(work.problem.domain, cubes, _MOST_PARTS)
        known = np.full((len(parts), work.execution.objectives), np.inf)
        slopes = float_slopes(work.problem, differential(work.problem, parts))
        threshold = np.full(work.execution.objectives, self._threshold())
        cells = bound_cells(work.execution, parts, known, slopes, threshold)
        self.pool = cells.witnesses(work.execution, work.inputs, self.pool)
        return float(cells.parent_upper[:, self._k].max())

    def _choose(self, entry: _Open, ways: list[Branching]) -> list[_Open]:
        """Return the children of the branching that promises most, having tried out those little is known of."""
        effort, gains, k = self._effort, self.gains, self._k
        ways = sorted(ways[: 4 * effort.candidates], key=lambda way: -gains.score(k, way))
        known = next((way for way in ways if gains.tries(k, way) >= effort.reliable), None)
        best, best_score = None, -1.0
        for way in ways[: effort.candidates]:
            if gains.tries(k, way) >= effort.reliable or (best is not None and self._out_of_time()):
                continue
            children = [self._child(entry, way, side) for side in (0, 1)]
            if min(child.node.upper for child in children) <= self._threshold():
                return children
            score = math.prod(max(entry.value - child.value, 1e-12) for child in children)
            if score > best_score:
                best, best_score = children, score
        if best is None or (known is not None and gains.score(k, known) > best_score):
            way = known or ways[0]
            return [self._child(entry, way, side) for side in (0, 1)]
        return best

    def _child(self, entry: _Open, way: Branching, side: int) -> _Open:
        """Return an evaluated child."""
        decision = way.low if side == 0 else way.high
        node = replace(entry.node, decisions=(*entry.node.decisions, decision))
        child = self._evaluate(node, restrict(self._encoding, entry.box, decision), entry.basis)
        child.cells = entry.cells
        gain = None
        if child.value > -math.inf:
            gain = max(entry.value - max(child.value, self._threshold()), 0.0)
        for gains in (self.gains, self.learned):
            gains.add(self._k, way, side, gain)
        return child

    def _evaluate(self, node: Node, box: Box | None, basis: object | None) -> _Open:
        """Bound a node: by propagation, and then by its linear program."""
        if box is None:
            nothing = Box(self._model.lower, self._model.upper)
            return _Open(self._tightened(node, -math.inf, "propagation"), nothing, -math.inf)
        end = box.upper[self._column] if self._sign > 0 else -box.lower[self._column]
        node = self._tightened(node, float(end), "propagation")
        if node.upper <= self._threshold():
            return _Open(node, box, node.upper)
        solution = self._solve(box, basis)
        if solution.status == "infeasible" and safe_infeasible(
            self._model, solution.ray, box.lower, box.upper
        ):
            return _Open(self._tightened(node, -math.inf, "infeasible", solution.ray), box, -math.inf)
        upper = safe_upper_bound(self._model, self._objective, solution.duals, box.lower, box.upper)
        if upper > self._threshold() > solution.claimed_bound:
            # What the rounding of the evaluation costs would cost a branching.
            upper = min(upper, self._exactly(solution.duals, box))
        node = self._tightened(node, upper, "dual", solution.duals)
        value = min(upper, float(end))
        if node.upper <= self._threshold():
            return _Open(node, box, value)
        return _Open(node, box, value, solution.point, solution.duals, self._session.basis())

    def _exactly(self, duals: Float64Array | None, box: Box) -> float:
        return safe_upper_bound(self._model, self._objective, duals, box.lower, box.upper, exact=True)

    def _solve(self, box: Box, basis: object | None) -> Solution:
        """Solve the linear program of a box."""
        known = self._session_box
        changed = np.flatnonzero((box.lower != known.lower) | (box.upper != known.upper))
        if len(changed):
            self._session.set_bounds(changed, box.lower[changed], box.upper[changed])
        self._session_box = box
        if basis is not None:
            self._session.set_basis(basis)
        self.programs += 1
        solution = self._session.maximize(self._objective, SolveOptions(time_limit=self._left_s()))
        if solution.interrupted:
            raise KeyboardInterrupt
        return solution

    def _execute(self, node: Node, point: Float64Array) -> float:
        """Run both networks at the feedable input next to a point; return the objective there."""
        work = self._work
        fed = work.inputs.snap(self._encoding.point_to_input(point)[None])
        levels = work.inputs.levels(fed)
        difference = work.execution.run(fed, None if work.problem.domain.integer is None else levels)
        self.pool = self.pool.update(fed, levels, difference, work.execution.error)
        self._points.append((node.upper, fed[0]))
        return float(signed(difference)[0, self._k])

    def _tightened(
        self, node: Node, upper: float, kind: EvidenceKind, duals: Float64Array | None = None
    ) -> Node:
        """Return a node with a new bound and its evidence, where that bound is better."""
        if not upper < node.upper:
            return node
        rows = values = None
        if duals is not None:
            rows = frozen(np.flatnonzero(np.isfinite(duals) & (duals != 0.0)))
            values = frozen(duals[rows])
        evidence = Evidence(kind, len(node.decisions), self._anchor, rows, values)
        return Node(node.objective, node.decisions, upper, evidence)
