"""Finding the tree of a certificate: parts of the domain are split until the checker's own methods prove the goal.

Nothing here needs to be believed.  What is written is a tree and a claim; ``milpq.certificate`` proves it again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from milpq._arrays import Float64Array
from milpq.bounds import interval
from milpq.certificate.check import step_tables
from milpq.certificate.execution import Execution
from milpq.certificate.format import BOUND, EXECUTED, FORMAT, write_certificate
from milpq.certificate.tree import Splitter
from milpq.certificate.zonotope import Zonotope
from milpq.formats._files import PathLike
from milpq.merge import Cubes, Problem
from milpq.search.budget import Budget
from milpq.search.codes import count_codes
from milpq.search.halves import choose
from milpq.search.slopes import influence

Int32Array: TypeAlias = npt.NDArray[np.int32]

_FORM_BYTES: Final = 1 << 21
_FEW_CODES: Final = 256
_FEW_CELLS: Final = 64
_LOOSE: Final = 1e-9
"""How much above the goal, relatively, counts as reached: the goal may be attained."""

_SLACK: Final = 1e-11
"""Relative: what another machine's order of summation may change in a bound."""


@dataclass(frozen=True, slots=True, eq=False)
class Certification:
    """A tree and what it proves.

    Parameters
    ----------
    upper : float64, shape (objectives,)
    nodes : int32, shape (nodes,)
    cuts : float64, shape (splits,)
        See ``milpq.certificate.format``.
    leaves : int
    complete : bool
        Whether the goal was reached on every leaf.
    """

    upper: Float64Array
    nodes: Int32Array
    cuts: Float64Array
    leaves: int
    complete: bool


class _Tree:
    """Parts of the domain by number, in the order they were made; leaves until they are split."""

    def __init__(self, root: Float64Array, objectives: int) -> None:
        self.parts: list[Float64Array | None] = [root]
        self.kind: list[int] = [BOUND]
        self.upper: list[Float64Array] = [np.full(objectives, np.inf)]
        self.splits: dict[int, tuple[int, float, int]] = {}

    def split(
        self, number: int, dimension: int, cut: float, halves: tuple[Float64Array, Float64Array]
    ) -> None:
        self.splits[number] = dimension, cut, len(self.parts)
        self.parts[number] = None
        self.parts += halves
        self.kind += [BOUND, BOUND]
        self.upper += [self.upper[number]] * 2

    def preorder(self) -> tuple[Int32Array, Float64Array]:
        """Return the nodes and cuts as a certificate holds them."""
        nodes: list[int] = []
        cuts: list[float] = []
        stack = [0]
        while stack:
            number = stack.pop()
            if number in self.splits:
                dimension, cut, first = self.splits[number]
                nodes.append(dimension)
                cuts.append(cut)
                stack += [first + 1, first]
            else:
                nodes.append(self.kind[number])
        return np.array(nodes, dtype=np.int32), np.array(cuts, dtype=np.float64)


class Certifier:
    """Splits the domain of a problem until every leaf is proved to be within a goal.

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
        self._execution = Execution(problem, self._goal)
        self._splitter = Splitter(problem.domain)
        self._tree = _Tree(self._splitter.root(), len(self._goal))
        self._few = {"codes": _FEW_CODES, "continuous": _FEW_CELLS, "real": 0}[problem.domain.kind]
        self._open: list[tuple[float, int]] = []
        self._batch = self._zonotope.leaves_in(_FORM_BYTES)

    def run(
        self, goal: float, budget: Budget, on_progress: Callable[[float, int, int], None] | None = None
    ) -> Certification:
        """Split until the goal is reached or the budget spent.

        Parameters
        ----------
        goal : float
            Upper bound on the largest ``|f_q − f|`` that is to be proved.
        budget : Budget
            When to stop; the certificate then proves less.
        on_progress : callable, optional
            Given what is proved so far, and the numbers of open and of closed leaves.

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
        loose = 0.0 if self._problem.domain.kind == "codes" else _LOOSE
        self._goal = np.full(len(self._goal), goal * (1 + loose))
        self._execution = Execution(self._problem, self._goal)
        try:
            self._bound([0])
            while self._open and not budget.spent:
                worst = [heapq.heappop(self._open)[1] for _ in range(min(self._batch, len(self._open)))]
                self._bound(self._halve(worst))
                if on_progress is not None:
                    proved = -self._open[0][0] if self._open else goal
                    leaves = len(self._tree.parts) - len(self._tree.splits)
                    on_progress(proved, len(self._open), leaves - len(self._open))
        except KeyboardInterrupt:
            pass
        tree = self._tree
        leaves = [number for number, part in enumerate(tree.parts) if part is not None]
        upper = np.max([tree.upper[number] for number in leaves], axis=0)
        return Certification(upper, *tree.preorder(), len(leaves), bool((upper <= self._goal).all()))

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
            method = self._zonotope if kind == BOUND else self._execution
            if len(some):
                upper[some] = method.upper(part.select(some))
            exact = kind == EXECUTED and self._problem.domain.kind == "codes"
            if not exact:
                upper += _SLACK * np.abs(np.where(np.isfinite(upper), upper, 0.0))
            for row, bound in zip(rows.tolist(), upper, strict=True):
                number = numbers[row]
                self._tree.kind[number], self._tree.upper[number] = kind, bound
                if not exact and (bound > self._goal).any():
                    heapq.heappush(self._open, (-float(bound.max()), number))

    def _halve(self, numbers: list[int]) -> list[int]:
        """Split leaves along the most promising input each, and return the numbers of the halves."""
        cubes = self._cubes(numbers)
        score = (cubes.upper - cubes.lower) * influence(self._problem, interval(self._problem, cubes))
        dimension, possible = choose(self._problem.domain, cubes, score)
        halves: list[int] = []
        for row, number in enumerate(numbers):
            if not possible[row]:
                continue
            d = int(dimension[row])
            first, last = int(cubes.level_lower[row, d]), int(cubes.level_upper[row, d])
            middle = float(0.5 * cubes.lower[row, d] + 0.5 * cubes.upper[row, d])
            cut = float((first + last) // 2) if last > first else middle
            part = self._tree.parts[number]
            assert part is not None
            self._tree.split(number, d, cut, self._splitter.split(part, d, cut))
            halves += [len(self._tree.parts) - 2, len(self._tree.parts) - 1]
        return halves

    def _cubes(self, numbers: list[int]) -> Cubes:
        parts = [self._tree.parts[number] for number in numbers]
        cubes = self._splitter.cubes([part for part in parts if part is not None])
        if self._problem.domain.kind != "codes":
            return cubes
        return self._problem.domain.cubes_of_levels(cubes.level_lower, cubes.level_upper)


def write(
    path: PathLike, problem: Problem, found: Certification, target: str | None, *, dequantized: bool
) -> None:
    """Write the certificate of what has been found.

    Parameters
    ----------
    target : str, optional
        As given for the quantized model; None where the model settles its rounding.
    dequantized : bool
        Whether the float side is the integer model's own weights.
    """
    domain = problem.domain
    metadata = {
        "format": FORMAT,
        "problem": problem.hash(),
        "target": target or "",
        "domain": domain.kind,
        "float_side": "dequantized" if dequantized else "file",
    }
    tensors = {
        "region.lower": domain.box.lower,
        "region.upper": domain.box.upper,
        "outputs": problem.outputs,
        "upper": found.upper,
        "tree.node": found.nodes,
        "tree.cut": found.cuts,
    }
    write_certificate(path, metadata, tensors | step_tables(problem))
