"""Where a condition can hold: bounds on its comparisons over cubes, and how far points are from satisfying it."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from milpq._arrays import BoolArray, Float64Array, gamma
from milpq.bounds.outward import largest
from milpq.bounds.values import Bounds, Interval
from milpq.formats.vnnlib_query import And, Comparison, Formula, Or
from milpq.search.pool import round_down, round_up
from milpq.vnncomp.question import Question


def possible(question: Question, formula: Formula, bounds: Bounds) -> BoolArray:
    """Tell for which cubes a formula may hold, shape (cubes,).

    *Soundness:* where it says no, no input of the cube satisfies the formula in real arithmetic.
    """
    if isinstance(formula, And):
        result = np.ones(len(bounds.difference.lower), dtype=np.bool_)
        for part in formula.parts:
            result &= possible(question, part, bounds)
        return result
    if isinstance(formula, Or):
        result = np.zeros(len(bounds.difference.lower), dtype=np.bool_)
        for part in formula.parts:
            result |= possible(question, part, bounds)
        return result
    reach = _range(question, formula, bounds)
    match formula.relation:
        case "<=":
            return reach.lower <= 0
        case "<":
            return reach.lower < 0
        case ">=":
            return reach.upper >= 0
        case ">":
            return reach.upper > 0
        case "==":
            return (reach.lower <= 0) & (reach.upper >= 0)
        case "!=":
            return (reach.lower != 0) | (reach.upper != 0)


def margin(
    question: Question, formula: Formula, points: Float64Array, first: Float64Array, second: Float64Array
) -> Float64Array:
    """Return by how much points satisfy a formula, negative where they do not, shape (points,); in float64 alone.

    Parameters
    ----------
    points, first, second : float64, shape (points, ...)
        Inputs, and the outputs of both networks there.
    """
    if isinstance(formula, And):
        parts = [margin(question, part, points, first, second) for part in formula.parts]
        return np.min([np.full(len(points), np.inf), *parts], axis=0)
    if isinstance(formula, Or):
        parts = [margin(question, part, points, first, second) for part in formula.parts]
        return np.max([np.full(len(points), -np.inf), *parts], axis=0)
    columns = {
        question.first.input.name: points,
        question.first.output.name: first,
        question.second.output.name: second,
    }
    total = np.full(len(points), float(formula.constant))
    for (name, index), factor in formula.terms:
        total = total + float(factor) * columns[name][:, index]
    match formula.relation:
        case "<=" | "<":
            return -total
        case ">=" | ">":
            return total
        case "==":
            return -np.abs(total)
        case "!=":
            return np.abs(total)


def _range(question: Question, atom: Comparison, bounds: Bounds) -> Interval:
    """Return bounds on the left side of a comparison over each cube, shape (cubes,).

    Outputs enter by the float side and the difference, by the other side and the difference, and by both sides; the
    tightest counts.
    """
    first, second = question.first.output.name, question.second.output.name
    output = bounds.values[bounds.output]
    on_input: list[tuple[int, Fraction]] = []
    on_first: dict[int, Fraction] = {}
    on_second: dict[int, Fraction] = {}
    for (name, index), factor in atom.terms:
        if name == question.first.input.name:
            on_input.append((index, factor))
        elif name == first:
            on_first[index] = on_first.get(index, Fraction(0)) + factor
        else:
            assert name == second
            on_second[index] = on_second.get(index, Fraction(0)) + factor
    both = {j: on_first.get(j, Fraction(0)) + on_second.get(j, Fraction(0)) for j in {*on_first, *on_second}}
    forms = (
        [(output.float_side, both), (output.difference, on_second)],
        [(output.quantized_side, both), (output.difference, {j: -c for j, c in on_first.items()})],
        [(output.float_side, on_first), (output.quantized_side, on_second)],
    )
    lower, upper = np.array(-np.inf), np.array(np.inf)
    for form in forms:
        parts = [(side, j, c) for side, factors in form for j, c in factors.items() if c]
        parts += [(bounds.values[0].float_side, i, c) for i, c in on_input]
        reach = _linear(parts, atom.constant, len(output.difference.lower))
        lower, upper = np.maximum(lower, reach.lower), np.minimum(upper, reach.upper)
    return Interval(lower, upper)


def _linear(parts: list[tuple[Interval, int, Fraction]], constant: Fraction, cubes: int) -> Interval:
    """Return the interval of a linear expression, rounded outwards.

    *Soundness:* factors are float64 numbers next to the exact ones, one rounding each; the sum of n products errs by
    at most ``γ_{n+3}`` of the sum of magnitudes.
    """
    lower = np.full(cubes, round_down(constant))
    upper = np.full(cubes, round_up(constant))
    if not parts:
        return Interval(lower, upper)
    size = np.full(cubes, abs(float(constant)))
    for side, index, factor in parts:
        value = float(factor)
        low, high = side.lower[:, index], side.upper[:, index]
        ends = (value * low, value * high) if value >= 0 else (value * high, value * low)
        lower, upper = lower + ends[0], upper + ends[1]
        size = size + abs(value) * largest(low, high)
    if not all(math.isfinite(float(factor)) for _, _, factor in parts):
        return Interval(np.full(cubes, -np.inf), np.full(cubes, np.inf))
    slack = gamma(2 * len(parts) + 8) * size + 1e-300
    return Interval(lower - slack, upper + slack)
