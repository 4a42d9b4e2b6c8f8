"""Exact enumeration of input codes.

Where only codes can occur, executing both networks on every code vector settles a cube; few are needed to
beat any bound.  Code vectors are numbered in mixed radix, so any range of them can be made at once and
nothing is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import numpy as np

from milpq._arrays import Float64Array, Int64Array, frozen
from milpq.errors import UsageError
from milpq.merge import Cubes, Problem
from milpq.search.budget import Budget
from milpq.search.checkpoint import Arrays, Section
from milpq.search.codes import MANY, count_codes, levels_of
from milpq.search.execution import Execution, signed
from milpq.search.executor import Executor, SerialExecutor
from milpq.search.pool import WitnessPool, enclose_difference, round_down, round_up

_PART = 1 << 14
_CANDIDATES = 64


def enumerate_cubes(
    execution: Execution, cubes: Cubes, pool: WitnessPool, threshold: Float64Array | float = np.inf
) -> tuple[Float64Array, WitnessPool]:
    """Execute every code vector of some cubes of the codes domain.

    Parameters
    ----------
    threshold : float64, shape (objectives,)
        Values that may be above get an error bound of their own, which is an order below that of the whole domain.

    Returns
    -------
    upper : float64, shape (cubes, objectives)
        Upper bounds on the objectives over each cube, within twice the execution error of the exact values.
    pool : WitnessPool
        With what was found added.

    *Soundness:* exhaustive; the error of each execution is added and the sum rounded upwards.
    """
    integer = execution.problem.domain.integer
    assert integer is not None
    assert execution.problem.domain.kind == "codes"
    largest = np.full((len(cubes), execution.objectives), -np.inf)
    total = int(count_codes(cubes).sum())
    for start in range(0, total, _PART):
        owner, levels = levels_of(cubes, start, min(start + _PART, total))
        points = integer.float_value(levels)
        difference = execution.run(points, levels)
        error = np.tile(execution.error, (len(points), 1))
        near = np.flatnonzero((signed(difference) + np.tile(error, 2) > threshold).any(axis=1))
        if len(near):
            difference[near], error[near] = execution.problem.differences(points[near])
        pool = pool.update(points, levels, difference, error)
        first = np.flatnonzero(np.diff(owner, prepend=-1))
        here = owner[first]
        highest = np.maximum.reduceat(signed(difference) + np.tile(error, 2), first, axis=0)
        largest[here] = np.maximum(largest[here], highest)
    return np.nextafter(largest, np.inf), pool


@dataclass(frozen=True, slots=True, eq=False)
class Enumeration:
    """The outcome of enumerating one cube of the codes domain.

    Parameters
    ----------
    upper : float64, shape (objectives,)
        The largest value of each objective over the cube, rounded upwards; infinite if not complete.
    pool : WitnessPool
        Its `lower` is the same value rounded downwards where `exact`.
    codes : int
        Code vectors executed.
    complete : bool
        Whether that is all of them.
    exact : bool, shape (objectives,)
        Whether the extreme was settled in exact arithmetic; otherwise it is known within the execution error.
    """

    upper: Float64Array
    pool: WitnessPool
    codes: int
    complete: bool
    exact: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class _Range:
    """One job: code vectors ``start`` to ``stop − 1`` of a cube."""

    cube: Cubes
    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class _Extremes:
    """Candidates of one range for each objective: values within the error of the largest, best first.

    `overflow` says that more candidates than are kept tie within the error.
    """

    values: list[Float64Array]
    levels: list[Int64Array]
    overflow: list[bool]

    def arrays(self, done: int) -> Arrays:
        """Return what a journal keeps after so many code vectors."""
        return {
            "done": np.array([done]),
            "values": np.concatenate(self.values),
            "levels": np.concatenate(self.levels),
            "counts": np.array([len(part) for part in self.values]),
            "overflow": np.array(self.overflow),
        }

    @classmethod
    def of(cls, arrays: Arrays) -> tuple[_Extremes, int]:
        """Return the candidates that a journal has kept, and how many code vectors they are of."""
        ends = np.cumsum(arrays["counts"])[:-1]
        return cls(
            np.split(arrays["values"], ends),
            np.split(arrays["levels"], ends),
            arrays["overflow"].tolist(),
        ), int(arrays["done"][0])


@dataclass(frozen=True, slots=True, eq=False)
class _Enumerator:
    execution: Execution

    def __call__(self, job: _Range) -> _Extremes:
        objectives = self.execution.objectives
        inputs = job.cube.lower.shape[1]
        none = _Extremes(
            [np.zeros(0)] * objectives,
            [np.zeros((0, inputs), dtype=np.int64)] * objectives,
            [False] * objectives,
        )
        integer = self.execution.problem.domain.integer
        assert integer is not None
        found = none
        for start in range(job.start, job.stop, _PART):
            _, levels = levels_of(job.cube, start, min(start + _PART, job.stop))
            values = signed(self.execution.run(integer.float_value(levels), levels))
            found = _merge(found, [values[:, k] for k in range(objectives)], levels, self.execution.error)
        return found


def enumerate_codes(
    problem: Problem,
    cube: Cubes | None = None,
    *,
    executor: Executor | None = None,
    budget: Budget | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    range_size: int = 1 << 19,
    journal: Section | None = None,
) -> Enumeration:
    """Execute every code vector of one cube (by default the whole domain) and settle its extremes exactly.

    Parameters
    ----------
    cube : Cubes of length 1, optional
    executor : Executor, optional
        Runs ranges of code vectors; the result does not depend on it.
    budget : Budget, optional
        Time limit and cancel flag.
    on_progress : callable, optional
        Given the codes done and their total after every range.
    journal : Section, optional
        Where the enumeration goes on from, and leaves its state now and then.

    Raises
    ------
    UsageError
        The domain is not one of codes, or the cube has more than 2^62 code vectors.

    *Soundness:* exhaustive execution with an error bound on the float side; the candidates for each extreme
    that lie within that error of each other are compared in exact rational arithmetic.
    """
    cube = cube or problem.domain.root
    budget = budget or Budget()
    total = int(count_codes(cube)[0])
    if problem.domain.kind != "codes" or total >= MANY or len(cube) != 1:
        raise UsageError("enumeration takes one cube of the codes domain, of fewer than 2^62 code vectors")
    execution = Execution(problem)
    found, done = None, 0
    state = None if journal is None else journal.state
    if journal is not None and state is not None:
        with journal.restoring():
            found, done = _Extremes.of(state)
    jobs = (_Range(cube, start, min(start + range_size, total)) for start in range(done, total, range_size))
    for part in (executor or SerialExecutor()).map(_Enumerator(execution), jobs, budget):
        if found is None:
            found = part
        else:
            for k in range(execution.objectives):
                _merge_one(found, k, part.values[k], part.levels[k], part.overflow[k], execution.error)
        done = min(done + range_size, total)
        budget.used = done
        if journal is not None:
            journal.save(partial(found.arrays, done))
        if on_progress is not None:
            on_progress(done, total)
    if found is None:
        nothing = np.full(execution.objectives, np.inf)
        return Enumeration(
            nothing, WitnessPool.empty(problem), 0, False, np.zeros(len(nothing), dtype=np.bool_)
        )
    return _settle(execution, found, done, budget, complete=done == total)


def _merge(
    found: _Extremes, values: list[Float64Array], levels: Int64Array, error: Float64Array
) -> _Extremes:
    result = _Extremes(list(found.values), list(found.levels), list(found.overflow))
    for k, value in enumerate(values):
        margin = 2 * error[k % len(error)]
        best = max(float(value.max()), float(found.values[k][0]) if len(found.values[k]) else -np.inf)
        near = np.flatnonzero(value >= best - 1.01 * margin)
        if len(near):
            _merge_one(result, k, value[near], levels[near], False, error)
    return result


def _merge_one(
    found: _Extremes, k: int, values: Float64Array, levels: Int64Array, overflow: bool, error: Float64Array
) -> None:
    before = float(found.values[k][0]) if len(found.values[k]) else -np.inf
    values = np.concatenate([found.values[k], values])
    levels = np.concatenate([found.levels[k], levels])
    order = np.argsort(-values, kind="stable")
    values, levels = values[order], levels[order]
    near = values >= values[0] - 2.02 * error[k % len(error)]
    # An overflow below the margin of a better value has lost nothing that matters.
    kept = found.overflow[k] and before >= values[0] - 2.02 * error[k % len(error)]
    found.overflow[k] = bool(kept or overflow or near.sum() > _CANDIDATES)
    found.values[k], found.levels[k] = values[near][:_CANDIDATES], levels[near][:_CANDIDATES]


def _settle(
    execution: Execution, found: _Extremes, codes: int, budget: Budget, *, complete: bool
) -> Enumeration:
    """Compare the candidates in exact arithmetic and round the extremes outwards.

    Where time is up before all of those of an objective are compared, its extreme is known within the execution error.
    """
    problem = execution.problem
    integer = problem.domain.integer
    assert integer is not None
    pool = WitnessPool.empty(problem)
    objectives, chosen = execution.objectives, len(problem.outputs)
    points, levels = pool.points.copy(), pool.levels.copy()
    values, lower, upper = (np.full(objectives, -np.inf) for _ in range(3))
    exact = np.zeros(objectives, dtype=np.bool_)
    for k in range(objectives):
        error = float(execution.error[k % chosen])
        values[k], levels[k] = found.values[k][0], found.levels[k][0]
        lower[k] = np.nextafter(values[k] - error, -np.inf)
        loose = float(np.nextafter(values[k] + error, np.inf))
        best: Fraction | None = None
        highest: list[Fraction] = []
        for candidate in found.levels[k]:
            if budget.spent:
                break
            least, most = enclose_difference(problem, integer.float_value(candidate))[k % chosen]
            if k >= chosen:
                least, most = -most, -least
            highest.append(most)
            if best is None or least > best:
                best = least
                values[k], lower[k], levels[k] = float(best), round_down(best), candidate
        points[k] = integer.float_value(levels[k])
        exact[k] = not found.overflow[k] and len(highest) == len(found.levels[k])
        upper[k] = (round_up(max(highest)) if exact[k] else loose) if complete else np.inf
    frozen_pool = WitnessPool(frozen(points), frozen(levels), frozen(values), frozen(lower), problem.outputs)
    return Enumeration(frozen(upper), frozen_pool, codes, complete, frozen(exact))
