"""Splitting cubes in two, and choosing along which input."""

from __future__ import annotations

import numpy as np

from milpq._arrays import BoolArray, Float64Array, Int64Array
from milpq.merge import Cubes, Domain


def splittable(domain: Domain, cubes: Cubes) -> BoolArray:
    """Tell along which inputs each cube can be split, shape (cubes, inputs)."""
    several = cubes.level_upper > cubes.level_lower
    if domain.kind == "codes":
        return several
    middle = 0.5 * cubes.lower + 0.5 * cubes.upper
    return several | ((cubes.lower < middle) & (middle < cubes.upper))


def choose(domain: Domain, cubes: Cubes, score: Float64Array) -> tuple[Int64Array, BoolArray]:
    """Return the best input to split along, shape (cubes,), and whether a cube can be split at all.

    Ties, such as scores that are all zero, go to the widest input.
    """
    possible = splittable(domain, cubes)
    score = np.where(possible, np.nan_to_num(score, nan=0.0), -1.0)
    best = score.max(axis=1, keepdims=True)
    width = np.where(score >= best, cubes.upper - cubes.lower, -1.0)
    return np.argmax(width, axis=1), np.any(possible, axis=1)


def halve(domain: Domain, cubes: Cubes, dimension: Int64Array) -> Cubes:
    """Split every cube along one input; the result holds all lower halves and then all upper halves.

    Codes: the range of levels is halved.  Continuous: at the code boundary nearest to the middle, or through
    a single code cell in the middle.  The halves cover the cube.
    """
    row = np.arange(len(cubes))
    level_low, level_high = cubes.level_lower[row, dimension], cubes.level_upper[row, dimension]
    low, high = cubes.lower[row, dimension], cubes.upper[row, dimension]
    middle = 0.5 * low + 0.5 * high
    level_end, level_begin = level_low, level_high
    end = begin = middle
    if domain.integer is not None:
        several = level_high > level_low
        if domain.kind == "codes":
            level_end = (level_low + level_high) // 2
            level_begin = level_end + 1
            scale = domain.integer.float_scale[dimension]
            end, begin = level_end * scale, level_begin * scale
        else:
            assert domain.integer.quantizer is not None
            # thresholds[i, t] parts level_lower + t from the level above it.
            table = domain.integer.quantizer.thresholds
            first = domain.integer.quantizer.level_lower
            level_end = np.where(several, (level_low + level_high) // 2, level_low)
            level_begin = np.where(several, level_end + 1, level_high)
            column = np.where(several, level_end - first, 0)
            boundary = np.clip(table[dimension, column], low, high)
            end = begin = np.where(several, boundary, middle)
    lower = np.concatenate([cubes.lower, cubes.lower])
    upper = np.concatenate([cubes.upper, cubes.upper])
    level_lower = np.concatenate([cubes.level_lower, cubes.level_lower])
    level_upper = np.concatenate([cubes.level_upper, cubes.level_upper])
    count = len(cubes)
    upper[row, dimension], level_upper[row, dimension] = end, level_end
    lower[count + row, dimension], level_lower[count + row, dimension] = begin, level_begin
    return Cubes(lower, upper, level_lower, level_upper)
