"""Bounds by forward propagation of a differential zonotope."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from milpq._arrays import UNIT_ROUNDOFF, Float64Array
from milpq.bounds.forward import input_bounds
from milpq.bounds.interval import interval
from milpq.bounds.values import Bounds, Interval, ValueBounds
from milpq.bounds.zonotope.kernel import sweep
from milpq.bounds.zonotope.pack import Packed, pack
from milpq.merge.domain import Cubes
from milpq.merge.problem import Problem

FEW_INPUTS = 32
"""Beyond, the share of each input in the looseness is not worth its cost."""


@dataclass(frozen=True, slots=True, eq=False)
class ZonotopeBounds:
    """What one sweep says of a batch of cubes.

    Parameters
    ----------
    upper : float64, shape (cubes, 2·chosen)
        Upper bounds on ``f_q − f`` of the chosen outputs, then on ``f − f_q``; infinite after an overflow.
    float_side : Interval, shape (cubes, chosen)
        Bounds on the chosen outputs of ``f``.
    score : float64, shape (cubes, inputs)
        How much of the looseness of the objective farthest above its threshold each input causes; zero
        with more than `FEW_INPUTS` inputs.
    towards : float64, shape (cubes, inputs)
        A corner of each cube where that objective is likely to be large.
    values : Bounds or None
        Bounds on every value, where asked for.
    """

    upper: Float64Array
    float_side: Interval
    score: Float64Array
    towards: Float64Array
    values: Bounds | None


def zonotope(problem: Problem, cubes: Cubes) -> Bounds:
    """Bound every value of the merged network over each cube.

    Intersected with interval bounds, which no affine form implies.

    *Soundness:* see `milpq.bounds.zonotope.kernel` and `milpq.bounds.zonotope.phases`.
    """
    threshold = np.full(2 * len(problem.outputs), np.inf)
    values = zonotope_objectives(problem, cubes, threshold, every=True).values
    assert values is not None
    return values.intersect(interval(problem, cubes))


def zonotope_objectives(
    problem: Problem, cubes: Cubes, threshold: Float64Array, *, every: bool = False
) -> ZonotopeBounds:
    """Bound the objectives over each cube, and say where to split it.

    Parameters
    ----------
    threshold : float64, shape (2·chosen,)
        Bounds below these are of no interest; those above are improved where that looks cheap.
    every : bool
        Whether to return the bounds on every value too.
    """
    net = pack(problem.merged)
    count, inputs = cubes.lower.shape
    slope, rest_lower, rest_upper = _input_difference(problem, cubes)
    chosen = len(problem.outputs)
    objectives, float_side = np.empty((2, count, 2 * chosen))
    score = np.zeros((count, inputs if inputs <= FEW_INPUTS else 0))
    towards = np.empty((count, inputs))
    neurons = len(net.neurons)
    everything = np.empty((count if every else 0, 6, neurons))
    sweep(
        net,
        # Copies, as read-only arrays would be another signature and compiled again.
        np.array(cubes.lower),
        np.array(cubes.upper),
        slope,
        np.array(rest_lower),
        np.array(rest_upper),
        np.array(problem.outputs),
        np.array(threshold),
        objectives,
        float_side,
        score,
        towards,
        everything,
    )
    if not score.size:
        score = np.zeros((count, inputs))
    values = _bounds(problem, cubes, net, everything) if every else None
    of_float = Interval(float_side[:, :chosen], float_side[:, chosen:])
    return ZonotopeBounds(objectives, of_float, score, towards, values)


def _input_difference(problem: Problem, cubes: Cubes) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return ``slope`` and bounds on ``δ − slope·x`` of the input, shapes (cubes, inputs).

    Between codes ``δ = scale·level − x`` falls with slope −1; over the codes alone both readings are
    proportional to the level, so ``δ = (scale/float_scale − 1)·x`` but for rounding.
    """
    domain = problem.domain
    lower, upper = domain.difference(cubes)
    slope = np.zeros_like(lower)
    integer = domain.integer
    if integer is None:
        return slope, lower, upper
    at_lower, at_upper = integer.scale * cubes.level_lower, integer.scale * cubes.level_upper
    size = np.maximum(np.abs(at_lower), np.abs(at_upper))
    size = size + np.maximum(np.abs(cubes.lower), np.abs(cubes.upper))
    if domain.kind == "codes":
        slope[:] = (integer.scale - integer.float_scale) / integer.float_scale
        pad = 8 * UNIT_ROUNDOFF * size
        return slope, -pad, pad
    one = cubes.level_lower == cubes.level_upper
    slope[one] = -1.0
    pad = 2 * UNIT_ROUNDOFF * np.abs(at_lower)
    return slope, np.where(one, at_lower - pad, lower), np.where(one, at_upper + pad, upper)


def _bounds(problem: Problem, cubes: Cubes, net: Packed, everything: Float64Array) -> Bounds:
    """Return the sweep's bounds value by value, met with what is known of the input."""
    values: list[ValueBounds] = []
    first = net.values["first"].tolist()
    for start, end in itertools.pairwise(first):
        part = everything[:, :, start:end]
        a, v, d = (Interval(part[:, 2 * i], part[:, 2 * i + 1]) for i in range(3))
        values.append(ValueBounds(a, v, d))
    values[0] = values[0].intersect(input_bounds(problem, cubes), "the input")
    return Bounds(tuple(values), net.output)
