"""A quantized sum of two operands as a step function of one small integer combination of them.

Runtimes add ``output(first[x] + second[y])`` with tables of 20 or more fractional bits.  Over the 65,536 pairs of codes
that occur, far smaller numbers ``a·x + b·y`` tell the same output codes apart.  They are searched for here, and every
pair is checked, so nothing is approximated; where none is found the runtime's own tables are used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from milpq._arrays import Int64Array, frozen
from milpq.rounding.step import NEVER, StepFunction

MOST_PAIRS = 2**20
"""Of more pairs of codes than these the runtime's own tables are taken."""

_LARGEST_SUM = 2**31 - 1
"""Sums of addends stay in int32, as accumulators do."""

_BITS = range(7, 23)
_NEIGHBOURS = (0, 1, -1, 2, -2)


@dataclass(frozen=True, slots=True, eq=False)
class FittedSum:
    """Addends of every level of both operands, and the step function of their sum.

    Parameters
    ----------
    addends : two int64 arrays of shape (levels,), nondecreasing
    thresholds, levels : int64, shape (1, steps) and (1, steps + 1)
        As of `StepFunction`.
    """

    addends: tuple[Int64Array, Int64Array]
    thresholds: Int64Array
    levels: Int64Array


def fit_sum(
    first: Int64Array,
    second: Int64Array,
    output: Callable[[Int64Array], Int64Array],
    level_lower: int,
    level_upper: int,
    reach: list[tuple[int, int]],
) -> FittedSum:
    """Return the smallest addends found that give every pair of levels the output level of the runtime.

    Parameters
    ----------
    first, second : int64, shape (levels,)
        The runtime's addends of the levels of either operand, from the lowest reachable one upwards.
    output : callable
        Sums to levels, nondecreasing.
    level_lower, level_upper : int
        Levels the output can hold.
    reach : lowest and highest level of both operands
    """
    if len(first) * len(second) > MOST_PAIRS:
        return _as_it_is(first, second, output, level_lower, level_upper)
    table = output(first[:, None] + second[None, :])
    lowest, highest = int(table.min()), int(table.max())
    steps = np.arange(lowest + 1, highest + 1)
    # For each level of the first operand, the first index of the second one that reaches each output level.
    ends = np.stack([np.searchsorted(row, steps) for row in table])
    x, y = (np.arange(low, high + 1, dtype=np.int64) for low, high in reach)
    slopes = [float(values[-1] - values[0]) / max(len(values) - 1, 1) for values in (first, second)]
    for weights in _candidates(slopes):
        addends = weights[0] * x, weights[1] * y
        if sum(int(np.abs(addend).max()) for addend in addends) > _LARGEST_SUM:
            break
        found = _thresholds(addends, ends)
        if found is not None:
            levels = np.arange(level_lower, level_upper + 1, dtype=np.int64)
            thresholds = np.full(len(levels) - 1, NEVER)
            thresholds[: lowest - level_lower] = -NEVER
            thresholds[lowest - level_lower : highest - level_lower] = found
            return FittedSum(addends, frozen(thresholds[None]), frozen(levels[None]))
    return _as_it_is(first, second, output, level_lower, level_upper)


def _as_it_is(
    first: Int64Array,
    second: Int64Array,
    output: Callable[[Int64Array], Int64Array],
    level_lower: int,
    level_upper: int,
) -> FittedSum:
    """Return the runtime's own tables."""
    function = StepFunction.from_function(
        output,
        np.array([first[0] + second[0]]),
        np.array([first[-1] + second[-1]]),
        level_lower,
        level_upper,
    )
    return FittedSum((frozen(first.copy()), frozen(second.copy())), function.thresholds, function.values)


def _candidates(slopes: list[float]) -> list[tuple[int, int]]:
    """Return pairs of weights in about the ratio of the slopes, small ones first."""
    big, small = max(slopes), min(slopes)
    if big <= 0.0:
        return [(0, 0)]
    pairs: list[tuple[int, int]] = []
    for bits in _BITS:
        for neighbour in _NEIGHBOURS:
            other = round(2**bits * small / big) + neighbour
            if 0 <= other <= 2**bits and (other > 0 or small == 0.0):
                pairs.append((2**bits, other) if slopes[0] >= slopes[1] else (other, 2**bits))
    return pairs


def _thresholds(addends: tuple[Int64Array, Int64Array], ends: Int64Array) -> Int64Array | None:
    """Return a threshold between the sums below and those that reach each output level, if there is one."""
    first, second = addends
    padded = np.concatenate([second, [NEVER]])
    reached = (first[:, None] + padded[ends]).min(axis=0)
    padded = np.concatenate([[-NEVER], second])
    below = (first[:, None] + padded[ends]).max(axis=0)
    if (below >= reached).any():
        return None
    # In the middle, for the largest margin; the result is in (below, reached].
    return below + (reached - below + 1) // 2
