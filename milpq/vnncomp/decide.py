"""Deciding a question: sampling, the search of ``milpq.bound`` where it fits, and a branch and bound of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal, TypeAlias

import numpy as np

from milpq._arrays import Float64Array
from milpq.bounds import differential
from milpq.formats.vnnlib_query import And, Comparison, Formula, Or
from milpq.merge import Cubes, Problem
from milpq.search.budget import Budget
from milpq.search.halves import choose, halve
from milpq.search.inputs import FeedableInputs
from milpq.search.pool import round_down
from milpq.search.slopes import influence
from milpq.verify import bound
from milpq.vnncomp.bounds import margin, possible
from milpq.vnncomp.question import Question
from milpq.vnncomp.replay import Counterexample

Replayer: TypeAlias = Callable[[Float64Array], "Counterexample | None"]
Verdict: TypeAlias = Literal["sat", "unsat", "unknown", "timeout"]
_SAMPLES: Final = 20_000
_BATCH: Final = 256
_CLEARLY: Final = 1e-3
_LATE: Final = 0.9
"""Share of the time from which an undecided search has run out of it."""

_TRIES: Final = 5
"""Points replayed of one batch; a replay in exact arithmetic takes a second or so."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is known about a question.

    Parameters
    ----------
    verdict : Verdict
        ``sat`` only with a replayed counterexample, ``unsat`` only by bounds that are rounded outwards.
    reason : str
        For people.
    """

    verdict: Verdict
    reason: str
    counterexample: Counterexample | None = None


def decide(
    question: Question,
    problem: Problem,
    replay: Replayer,
    budget: Budget,
    *,
    seed: int = 0,
) -> Answer:
    """Decide whether some input of the box satisfies the condition.

    Parameters
    ----------
    problem : Problem
        Both networks over the box, rounded outwards to float64.
    replay : callable
        Turns a point into a counterexample, or into None.
    """
    found = _sample(question, problem, replay, seed)
    if found is not None:
        return Answer("sat", "a random input satisfies everything asserted", found)
    close = closeness(question)
    if close is not None and not budget.spent:
        answer = _bound(problem, close, replay, budget, seed)
        if close.whole or answer.verdict in {"sat", "unsat"}:
            return answer
    return _Search(question, problem, replay, budget).run()


@dataclass(frozen=True, slots=True)
class Closeness:
    """What refutes a condition: ``|Y_g − Y_f| <= tolerance`` for some outputs.

    Parameters
    ----------
    whole : bool
        Only that refutes it: the condition says no more than that one of these outputs differs by more.
    """

    tolerance: float
    outputs: tuple[int, ...]
    whole: bool


def closeness(question: Question) -> Closeness | None:
    """Return what refutes a condition made of alternatives ``Y_g[j] − Y_f[j]`` above or below some level.

    None for any other condition, and where a level is on the wrong side of zero.
    """
    sides: set[tuple[int, bool]] = set()
    tolerances: set[float] = set()
    for part in _alternatives(question.condition):
        side = None if not isinstance(part, Comparison) else _side(question, part)
        if side is None:
            return None
        index, above, level, strict = side
        if level < 0 or (level == 0 and not strict):
            return None
        sides.add((index, above))
        tolerance = round_down(level)
        # A bound equal to the level does not refute ``>=``.
        tolerances.add(tolerance if strict or tolerance < level else float(np.nextafter(tolerance, 0.0)))
    if not sides:
        return None
    outputs = tuple(sorted({index for index, _ in sides}))
    return Closeness(min(tolerances), outputs, len(sides) == 2 * len(outputs) and len(tolerances) == 1)


def _alternatives(formula: Formula) -> list[Formula]:
    """Return the alternatives of a formula, through conjunctions and alternatives of one part."""
    if isinstance(formula, Or):
        return [inner for part in formula.parts for inner in _alternatives(part)]
    if isinstance(formula, And) and len(formula.parts) == 1:
        return _alternatives(formula.parts[0])
    return [formula]


def _side(question: Question, atom: Comparison) -> tuple[int, bool, Fraction, bool] | None:
    """Return output, direction, level and strictness of ``±(Y_g[j] − Y_f[j])`` above a level; None for others."""
    factors = dict(atom.terms)
    if len(factors) != 2:
        return None
    indices = {index for _, index in factors}
    names = {name for name, _ in factors}
    if len(indices) != 1 or names != {question.first.output.name, question.second.output.name}:
        return None
    index = indices.pop()
    factor = factors[question.second.output.name, index]
    if factor != -factors[question.first.output.name, index] or atom.relation in {"==", "!="}:
        return None
    # factor·(Y_g − Y_f) + constant  relation  0
    above = (factor > 0) == (atom.relation in {">", ">="})
    level = -atom.constant / factor
    return index, above, level if above else -level, atom.relation in {"<", ">"}


def _sample(
    question: Question,
    problem: Problem,
    replay: Replayer,
    seed: int,
) -> Counterexample | None:
    points = FeedableInputs(problem).random(np.random.default_rng(seed), _SAMPLES)
    return _best(question, problem, replay, points)


def _best(
    question: Question,
    problem: Problem,
    replay: Replayer,
    points: Float64Array,
) -> Counterexample | None:
    """Replay the points that satisfy the condition by the largest margin."""
    first = problem.float_network.evaluate(points)
    slack = margin(question, question.condition, points, first, problem.run_quantized(points))
    for index in np.argsort(-slack, kind="stable")[:_TRIES].tolist():
        if slack[index] < 0:
            return None
        found = replay(points[index])
        if found is not None:
            return found
    return None


def _bound(
    problem: Problem,
    close: Closeness,
    replay: Replayer,
    budget: Budget,
    seed: int,
) -> Answer:
    """Decide by the search of ``milpq.bound`` whether outputs stay close.

    The search stops at the first input above the tolerance, perhaps by less than float32 keeps; it then looks for one
    that is above by more.
    """
    tolerance = close.tolerance
    for level in (tolerance, tolerance + _CLEARLY * max(tolerance, 1e-3)):
        limit = None if budget.time_limit_s is None else max(0.1, budget.time_limit_s - budget.elapsed_s)
        if limit is not None and not close.whole:
            # What this cannot decide is left for the search of any condition.
            limit *= 0.5
        result = bound(
            problem.float_network,
            problem.quantized,
            problem.domain.box,
            outputs=close.outputs,
            tolerance=level,
            time_limit=limit,
            seed=seed,
        )
        if result.certificate.checked_upper <= tolerance:
            return Answer("unsat", result.verdict)
        if result.witness is not None:
            found = replay(result.witness.input)
            if found is not None:
                return Answer("sat", result.verdict, found)
        if result.status == "interrupted":
            raise KeyboardInterrupt
        if result.status == "undecided":
            late = limit is not None and budget.elapsed_s >= _LATE * (budget.time_limit_s or 0.0)
            return Answer("timeout" if late else "unknown", result.verdict)
    return Answer("unknown", f"{result.verdict}; but float32 does not replay it")


class _Search:
    """Branch and bound over cubes of the input for conditions of any shape."""

    def __init__(
        self,
        question: Question,
        problem: Problem,
        replay: Replayer,
        budget: Budget,
    ) -> None:
        self._question = question
        self._problem = problem
        self._replay = replay
        self._budget = budget

    def run(self) -> Answer:
        """Split until no cube may satisfy the condition, one does, or time is up."""
        problem, question = self._problem, self._question
        inputs = FeedableInputs(problem)
        stack: list[Cubes] = [problem.domain.root]
        bounded, whole = 0, 0
        while stack:
            if self._budget.spent:
                return Answer("timeout", f"{sum(map(len, stack)):,} cubes are open after {bounded:,}")
            cubes = stack.pop()
            if len(cubes) > _BATCH:
                stack.append(cubes.select(slice(_BATCH, None)))
                cubes = cubes.select(slice(0, _BATCH))
            bounds = differential(problem, cubes)
            bounded += len(cubes)
            open_ = np.flatnonzero(possible(question, question.condition, bounds))
            if not len(open_):
                continue
            cubes, bounds = cubes.select(open_), bounds.select(open_)
            middle = inputs.snap(0.5 * cubes.lower + 0.5 * cubes.upper)
            found = _best(question, problem, self._replay, middle)
            if found is not None:
                return Answer("sat", f"found after {bounded:,} cubes", found)
            score = (cubes.upper - cubes.lower) * influence(problem, bounds)
            dimension, can_split = choose(problem.domain, cubes, score)
            whole += int((~can_split).sum())
            inside = np.flatnonzero(can_split)
            if len(inside):
                stack.append(halve(problem.domain, cubes.select(inside), dimension[inside]))
        if whole:
            return Answer("unknown", f"{whole:,} cubes are single points of float64 and stay undecided")
        return Answer("unsat", f"no input of {bounded:,} cubes satisfies what is asserted")
