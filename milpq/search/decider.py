"""Trees of decisions: each bound of a claim proved by deciding steps and phases, each leaf with its multipliers.

Where inputs are too many to be split, what the networks do is decided instead: on which side of a threshold an
accumulator lies, on which side of its kink a neuron.  The multipliers of a leaf are the duals of a linear program over
its symbols and the facts of its activations.  Nothing here needs to be believed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import scipy.sparse as sp

from milpq._arrays import Float64Array, Int64Array, frozen
from milpq.certificate.facts import Facts, Multipliers, dual_upper, objective_form
from milpq.certificate.format import BOUND, DUAL
from milpq.certificate.forms import Form, padded
from milpq.certificate.tree import Splitter
from milpq.certificate.zonotope import Layer, Trace, Zonotope
from milpq.merge import Problem
from milpq.milp.backends.protocol import Backend, Solution
from milpq.milp.model import LinearModel
from milpq.search.budget import Budget
from milpq.search.proof import SLACK, Tree, part_cubes

_AT_ONCE: Final = 8
_SLACK: Final = 3e-10
"""Relative, in place of `SLACK`: sums with large multipliers depend more on the order of summation."""

_FAR: Final = 4.0
"""How far below zero a leaf without inputs is shown to be, in ranges of the objective."""

_WHOLE: Final = 1e-6
"""An accumulator this close to an integer is taken for it."""

_LEAST: Final = 1e-9
"""Multipliers below this share of the largest are dropped."""


class Decider:
    """Proves the bounds of a claim one by one.

    Parameters
    ----------
    backend : Backend
        Solves the linear programs; its answers are hints.
    """

    def __init__(self, problem: Problem, zonotope: Zonotope, backend: Backend) -> None:
        self._problem, self._zonotope, self._backend = problem, zonotope, backend
        self._splitter = Splitter(problem.domain, zonotope.whole)
        self._goal = np.inf
        self._trees: list[Tree] = []
        self._open: list[tuple[float, int, int, tuple[int, float]]] = []
        self._gains: dict[tuple[int, int], tuple[float, int]] = {}

    def run(
        self, goal: float, budget: Budget, on_progress: Callable[[float, int, int], None] | None
    ) -> tuple[Tree, ...]:
        """Decide until every leaf of every tree is within the goal or the budget spent, the worst leaves first."""
        self._goal = goal
        root = self._splitter.root()
        upper = self._zonotope.upper(part_cubes(self._problem, self._splitter, [root]))[0]
        upper += SLACK * np.abs(upper)
        self._trees = [Tree(root, objective, 1) for objective in range(len(upper))]
        for objective, tree in enumerate(self._trees):
            tree.settle(0, BOUND, upper[objective : objective + 1])
        try:
            for objective in np.argsort(-upper).tolist():
                if upper[objective] > goal and not budget.spent:
                    self._bound(objective, [0])
            while self._open and not budget.spent:
                objective = self._open[0][1]
                tree = self._trees[objective]
                children: list[int] = []
                tried: list[tuple[float, int]] = []
                while self._open and self._open[0][1] == objective and len(children) < 2 * _AT_ONCE:
                    bound, _, number, way = heapq.heappop(self._open)
                    halves = self._splitter.split(tree.parts([number])[0], *way)
                    children += tree.split(number, *way, halves)
                    tried.append((-bound, way[0]))
                self._bound(objective, children)
                self._learn(tree, tried, children)
                if on_progress is not None:
                    proved = -self._open[0][0] if self._open else goal
                    leaves = sum(tree.leaves for tree in self._trees)
                    on_progress(proved, len(self._open), leaves - len(self._open))
        except KeyboardInterrupt:
            pass
        return tuple(self._trees)

    def _bound(self, objective: int, numbers: list[int]) -> None:
        """Bound leaves, and keep those open that miss the goal and can be decided further."""
        tree = self._trees[objective]
        parts = tree.parts(numbers)
        trace = self._zonotope.trace(
            part_cubes(self._problem, self._splitter, parts), self._splitter.limits(parts), keep=True
        )
        form = objective_form(self._problem, trace, objective)
        upper = np.where(trace.empty, -np.inf, form.ends(form.spread())[1][0])
        upper += SLACK * np.abs(np.where(trace.empty, 0.0, upper))
        for leaf, number in enumerate(numbers):
            tree.settle(number, BOUND, upper[leaf : leaf + 1])
        missed = np.flatnonzero(upper > self._goal).tolist()
        if not missed:
            return
        facts = [Facts.of(layer) for layer in trace.layers]
        solved = [_Program.solve(self._backend, trace, facts, form, leaf) for leaf in missed]
        multipliers = Multipliers(
            np.repeat(np.array(missed), [len(program.facts) for program in solved]),
            np.concatenate([program.facts for program in solved]),
            np.concatenate([program.weights for program in solved]),
        )
        dual = dual_upper(trace, form, multipliers)
        dual += _SLACK * np.abs(np.where(trace.empty, 0.0, dual))
        for leaf, program in zip(missed, solved, strict=True):
            number, bound = numbers[leaf], float(upper[leaf])
            if dual[leaf] < bound:
                bound = float(dual[leaf])
                tree.settle(number, DUAL, dual[leaf : leaf + 1], (program.facts, program.weights))
            if bound > self._goal:
                way = self._way(trace, program, leaf, objective)
                if way is not None:
                    heapq.heappush(self._open, (-bound, objective, number, way))

    def _learn(self, tree: Tree, tried: list[tuple[float, int]], children: list[int]) -> None:
        """Note how much decisions about each quantity have gained, both halves together."""
        for row, (bound, dimension) in enumerate(tried):
            below = [
                max(float(tree.bound(number)[0]), self._goal) for number in children[2 * row : 2 * row + 2]
            ]
            total, count = self._gains.get((tree.objective, dimension), (0.0, 0))
            self._gains[tree.objective, dimension] = total + max(bound - 0.5 * sum(below), 0.0), count + 1

    def _way(self, trace: Trace, program: _Program, leaf: int, objective: int) -> tuple[int, float] | None:
        """Return what to decide, and where: what has gained most so far; the noise at stake for what is new."""
        ways: list[tuple[float, int, float]] = []
        start = self._problem.merged.input_size
        for layer in trace.layers:
            size = layer.node.size
            for column, neuron, on_float in _noises(layer, leaf, trace.symbols.shared):
                cost = abs(float(program.reduced[column]))
                if on_float or layer.stairs is None:
                    for face, ends in ((0, layer.a_ends), (size, layer.v_ends)):
                        cut = _kink(layer, ends[0][neuron, leaf], ends[1][neuron, leaf])
                        if cut is not None and not (face and layer.stairs is not None):
                            ways.append((cost, start + face + neuron, cut))
                            break
                else:
                    cut = _threshold(layer, neuron, leaf, program)
                    if cut is not None:
                        ways.append((cost, start + size + neuron, cut))
            start += 2 * size
        if not ways:
            return None
        known = [self._gains.get((objective, way[1]), (0.0, 0)) for way in ways]
        usual = sum(total for total, _ in known) / max(sum(count for _, count in known), 1)
        most = max(1e-300, *(cost for cost, _, _ in ways))
        scores = [
            # What is new counts as if it had gained twice the usual once, in proportion to its noise.
            (total + 2.0 * usual * cost / most) / (count + 1.0)
            for (total, count), (cost, _, _) in zip(known, ways, strict=True)
        ]
        best = max(range(len(ways)), key=lambda k: (scores[k], ways[k][0]))
        return ways[best][1], ways[best][2]


def _kink(layer: Layer, low: float, high: float) -> float | None:
    """Return a kink of the clamp inside an interval."""
    return next((kink for kink in (layer.node.lower, layer.node.upper) if low < kink < high), None)


def _threshold(layer: Layer, neuron: int, leaf: int, program: _Program) -> float | None:
    """Return the last accumulator below the threshold next to where the linear program is."""
    assert layer.stairs is not None
    unit = float(layer.stairs.unit[neuron, 0])
    low, high = (float(end[neuron, leaf]) / unit for end in layer.v_ends)
    low, high = np.ceil(low - _WHOLE), np.floor(high + _WHOLE)
    thresholds = layer.stairs.step.thresholds[layer.stairs.step.rows[neuron]].astype(np.float64)
    inside = thresholds[(thresholds > low) & (thresholds <= high)]
    if not len(inside):
        return None
    at = 0.5 * (low + high)
    if program.point is not None:
        row = _padded(layer.a, neuron, leaf, program) + _padded(layer.d, neuron, leaf, program)
        at = float(row[0] + row[1:] @ program.point) / unit
    return float(inside[np.argmin(np.abs(inside - 0.5 - at))]) - 1.0


def _noises(layer: Layer, leaf: int, shared: int) -> list[tuple[int, int, bool]]:
    """Return the symbols an activation made for a leaf: column of the program, neuron, whether it is of ``h``."""
    found: list[tuple[int, int, bool]] = []
    for matrix, first, offset, on_float in (
        (layer.h.shared[:, leaf], layer.a.shared.shape[2], -1, True),
        (layer.delta.own[:, leaf], layer.d.own.shape[2], shared - 1, False),
    ):
        for column in range(first, matrix.shape[1]):
            neuron = int(np.argmax(np.abs(matrix[:, column])))
            if matrix[neuron, column] != 0.0:
                found.append((column + offset, neuron, on_float))
    return found


def _padded(form: Form, neuron: int, leaf: int, program: _Program) -> Float64Array:
    """Return one neuron's coefficients on all symbols of a program, the centre first."""
    row = np.zeros(1 + len(program.reduced))
    row[: form.shared.shape[2]] = form.shared[neuron, leaf]
    row[program.shared : program.shared + form.own.shape[2]] = form.own[neuron, leaf]
    return row


@dataclass(frozen=True, slots=True, eq=False)
class _Program:
    """The linear program of one leaf, solved: multipliers, the point, and the costs of the symbols that are left.

    Parameters
    ----------
    shared : int
        Shared symbols, the constant one included; columns are the others and then the own ones.
    """

    shared: int
    facts: Int64Array
    weights: Float64Array
    reduced: Float64Array
    point: Float64Array | None

    @classmethod
    def solve(cls, backend: Backend, trace: Trace, facts: list[Facts], form: Form, leaf: int) -> _Program:
        """Maximize a form over the symbols of a leaf and its facts."""
        shared, own = trace.symbols.shared, trace.symbols.own

        def rows(part: Form) -> Float64Array:
            return np.concatenate(
                [
                    padded(part.shared[:, leaf : leaf + 1], shared)[:, 0],
                    padded(part.own[:, leaf : leaf + 1], own)[:, 0],
                ],
                axis=1,
            )

        matrices, sides, numbers = (
            [np.zeros((0, shared + own - 1))],
            [np.zeros(0)],
            [np.zeros(0, dtype=np.int64)],
        )
        start = 0
        for fact in facts:
            layer = fact.layer
            matrix, slack = np.zeros((*fact.valid.shape[:2], shared + own)), np.zeros(fact.valid.shape[:2])
            for along, part in (
                (fact.along_a, layer.a),
                (fact.along_d, layer.d),
                (fact.along_h, layer.h),
                (fact.along_delta, layer.delta),
            ):
                matrix += along[:, :, leaf, None] * rows(part)
                slack += np.abs(along[:, :, leaf]) * part.error[:, leaf]
            matrix = matrix.reshape(-1, shared + own)
            side = (fact.constant[:, :, leaf] + slack).reshape(-1) + matrix[:, 0]
            matters = fact.valid[:, :, leaf].reshape(-1) & (side < np.abs(matrix[:, 1:]).sum(axis=1))
            matrices.append(-matrix[matters, 1:])
            sides.append(side[matters])
            numbers.append(start + np.flatnonzero(matters))
            start += len(side)
        matrix, side, number = np.concatenate(matrices), np.concatenate(sides), np.concatenate(numbers)
        objective = rows(form)[0, 1:]
        solution = _solve(backend, matrix, side, objective)
        duals = _duals(solution, matrix, side, objective)
        used = np.flatnonzero(duals > _LEAST * max(float(duals.max(initial=0.0)), 1e-300))
        reduced = objective - duals[used] @ matrix[used]
        return cls(shared, number[used], duals[used], reduced, solution.point)


def _duals(
    solution: Solution, matrix: Float64Array, side: Float64Array, objective: Float64Array
) -> Float64Array:
    """Return multipliers: the duals, or a multiple of a Farkas ray that brings the objective down without end."""
    if solution.duals is not None:
        return np.maximum(np.nan_to_num(solution.duals), 0.0)
    if solution.ray is not None:
        for ray in (solution.ray, -solution.ray):
            y = np.maximum(np.nan_to_num(ray), 0.0)
            value = float(y @ side + np.abs(y @ matrix).sum())
            if value < 0.0:
                return y * (_FAR * float(np.abs(objective).sum()) / -value)
    return np.zeros(len(side))


def _solve(backend: Backend, matrix: Float64Array, side: Float64Array, objective: Float64Array) -> Solution:
    sparse = sp.csr_array(matrix)
    columns = len(objective)
    model = LinearModel(
        frozen(np.full(columns, -1.0)),
        frozen(np.ones(columns)),
        frozen(np.zeros(columns, dtype=np.bool_)),
        frozen(np.full(len(side), -np.inf)),
        frozen(side.copy()),
        frozen(sparse.indptr.astype(np.int64)),
        frozen(sparse.indices.astype(np.int64)),
        frozen(sparse.data.copy()),
    )
    with backend.open(model) as session:
        solution = session.maximize(objective)
    if solution.interrupted:
        raise KeyboardInterrupt
    return solution
