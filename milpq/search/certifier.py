"""Finding the trees of a certificate: what to split until the checker's own methods prove the goal.

Nothing here needs to be believed.  What is written is trees and a claim; ``milpq.certificate`` proves them again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from milpq._arrays import Float64Array
from milpq.bounds import differential, interval
from milpq.bounds.values import Bounds
from milpq.certificate.execution import Execution
from milpq.certificate.format import BOUND, EXECUTED, REWRITTEN
from milpq.certificate.tree import Splitter
from milpq.certificate.zonotope import Zonotope
from milpq.merge import Cubes, Problem
from milpq.milp.backends.protocol import Backend
from milpq.search.budget import Budget
from milpq.search.codes import count_codes
from milpq.search.decider import Decider, Leaves
from milpq.search.halves import choose
from milpq.search.planes import rewrite, work
from milpq.search.proof import DUAL_SLACK, SLACK, Tree, raised, sizes
from milpq.search.slopes import influence

FEW_INPUTS: Final = 8
"""Up to so many inputs the region is split; with more, what the networks do is decided."""

_MOST_NEURONS: Final = 20_000
_MOST_OBJECTIVES: Final = 64
"""Beyond so many, linear programs and decisions do not pay."""

_REWRITING_S: Final = 1e-6
"""Processor seconds for each coefficient that is rewritten, roughly."""

_FORM_BYTES: Final = 1 << 21
_FEW_CODES: Final = 256
_FEW_CELLS: Final = 64
_LOOSE: Final = 1e-8
"""How much above the goal, relatively, counts as reached: the goal may be attained."""


@dataclass(frozen=True, slots=True, eq=False)
class Certification:
    """Trees and what they prove together.

    Parameters
    ----------
    upper : float64, shape (objectives,)
    complete : bool
        Whether the goal was reached on every leaf.
    """

    upper: Float64Array
    trees: tuple[Tree, ...]
    complete: bool

    @property
    def leaves(self) -> int:
        """How many leaves the trees have."""
        return sum(tree.leaves for tree in self.trees)


class Certifier:
    """Proves the largest difference of a problem to be within a goal.

    Parameters
    ----------
    problem : Problem

    Raises
    ------
    CertificateError
        The problem has layers that certificates do not cover.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._goal: Float64Array = np.full(2 * len(problem.outputs), np.inf)
        self._zonotope = Zonotope(problem)
        self._execution = Execution(problem, self._zonotope, self._goal)
        self._splitter = Splitter(problem.domain, self._zonotope.whole)
        self._tree = Tree(self._splitter.root(), -1, len(self._goal))
        self._few = {"codes": _FEW_CODES, "continuous": _FEW_CELLS, "real": 0}[problem.domain.kind]
        self._open: list[tuple[float, int]] = []
        self._batch = self._zonotope.leaves_in(_FORM_BYTES)

    def run(
        self,
        goal: float,
        budget: Budget,
        backend: Backend | None = None,
        on_progress: Callable[[float, int, int], None] | None = None,
        bounds: Bounds | None = None,
        known: Leaves | None = None,
    ) -> Certification:
        """Split until the goal is reached or the budget spent.

        Parameters
        ----------
        goal : float
            Upper bound on the largest ``|f_q − f|`` that is to be proved.
        budget : Budget
            When to stop; the certificate then proves less.
        backend : Backend, optional
            Solves linear programs where inputs are too many to be split.
        on_progress : callable, optional
            Given what is proved so far, and the numbers of open and of closed leaves.
        bounds : Bounds, optional
            Known of the root cube.
        known : Leaves, optional
            Of a branch and bound that has been done.

        Returns
        -------
        Certification
            Also after ``KeyboardInterrupt``.

        Raises
        ------
        CertificateError
            Bounds overflow float64.
        """
        # Where codes are executed, what is attained can be proved to the last bit.
        few = self._problem.merged.input_size <= FEW_INPUTS
        few |= bool((self._zonotope.upper(self._problem.domain.root) <= goal).all())
        goal *= 1.0 if self._problem.domain.kind == "codes" and few else 1.0 + _LOOSE
        if few:
            tree = self._split(goal, budget, on_progress)
            return Certification(tree.upper, (tree,), bool(tree.upper.max() <= goal))
        whole = self._whole(goal, budget)
        if whole.complete or backend is None or not self._can_decide:
            return whole
        root = self._problem.domain.root
        decider = Decider(self._problem, self._zonotope, backend, bounds or differential(self._problem, root))
        trees = decider.run(goal, budget, on_progress, known)
        upper = np.concatenate([tree.upper for tree in trees])
        if whole.upper.max() < upper.max():
            return whole
        return Certification(upper, trees, bool(upper.max() <= goal))

    @property
    def _can_decide(self) -> bool:
        """Whether linear programs can be expected to gain anything in a few minutes."""
        merged = self._problem.merged
        small = sum(node.size for node in merged.nodes) <= _MOST_NEURONS
        return merged.is_exact and small and len(self._goal) <= _MOST_OBJECTIVES

    def _whole(self, goal: float, budget: Budget) -> Certification:
        """Prove what can be without any split."""
        problem, zonotope, root = self._problem, self._zonotope, self._problem.domain.root
        left = np.inf if budget.time_limit_s is None else budget.time_limit_s - budget.elapsed_s
        kind, planes, tree = BOUND, None, self._tree
        if work(problem) * _REWRITING_S < left:
            kind, (upper, planes) = REWRITTEN, rewrite(problem, zonotope, root)
        else:
            upper = zonotope.upper(root)
        size = sizes(problem, zonotope.trace(root, None))
        tree.settle(0, kind, raised(upper, size, DUAL_SLACK)[0], planes=planes)
        return Certification(tree.upper, (tree,), bool(tree.upper.max() <= goal))

    def _split(
        self, goal: float, budget: Budget, on_progress: Callable[[float, int, int], None] | None
    ) -> Tree:
        """Split the region, the worst parts first."""
        self._goal = np.full(len(self._goal), goal)
        self._execution = Execution(self._problem, self._zonotope, self._goal)
        try:
            self._bound([0])
            while self._open and not budget.spent:
                worst = [heapq.heappop(self._open)[1] for _ in range(min(self._batch, len(self._open)))]
                self._bound(self._halve(worst))
                if on_progress is not None:
                    proved = -self._open[0][0] if self._open else goal
                    on_progress(proved, len(self._open), self._tree.leaves - len(self._open))
        except KeyboardInterrupt:
            pass
        self._tree.prune()
        return self._tree

    def _bound(self, numbers: list[int]) -> None:
        """Bound leaves by what suits each, and keep those open that miss the goal and can be split."""
        if not numbers:
            return
        cubes = self._cubes(numbers)
        executed = count_codes(cubes) <= self._few
        for kind, rows in ((BOUND, np.flatnonzero(~executed)), (EXECUTED, np.flatnonzero(executed))):
            if not len(rows):
                continue
            part = cubes.select(rows)
            upper = np.full((len(rows), len(self._goal)), -np.inf)
            some = np.flatnonzero((part.lower <= part.upper).all(axis=1))
            exact = kind == EXECUTED and self._problem.domain.kind == "codes"
            if len(some):
                leaves = part.select(some)
                if exact:
                    upper[some] = self._execution.upper(leaves)
                else:
                    trace = self._zonotope.trace(leaves, None)
                    bounds = self._zonotope.bounds(trace) if kind == BOUND else self._execution.upper(leaves)
                    upper[some] = raised(bounds, sizes(self._problem, trace), SLACK)
            for row, bound in zip(rows.tolist(), upper, strict=True):
                number = numbers[row]
                self._tree.settle(number, kind, bound)
                if not exact and (bound > self._goal).any():
                    heapq.heappush(self._open, (-float(bound.max()), number))

    def _halve(self, numbers: list[int]) -> list[int]:
        """Split leaves along the most promising input each, and return the numbers of the halves."""
        cubes = self._cubes(numbers)
        score = (cubes.upper - cubes.lower) * influence(self._problem, interval(self._problem, cubes))
        dimension, possible = choose(self._problem.domain, cubes, score)
        halves: list[int] = []
        parts = self._tree.parts(numbers)
        for row in np.flatnonzero(possible).tolist():
            d = int(dimension[row])
            first, last = int(cubes.level_lower[row, d]), int(cubes.level_upper[row, d])
            middle = float(0.5 * cubes.lower[row, d] + 0.5 * cubes.upper[row, d])
            cut = float((first + last) // 2) if last > first else middle
            halves += self._tree.split(numbers[row], d, cut, self._splitter.split(parts[row], d, cut))
        return halves

    def _cubes(self, numbers: list[int]) -> Cubes:
        return self._splitter.cubes(self._tree.parts(numbers))
