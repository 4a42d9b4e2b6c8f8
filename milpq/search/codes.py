"""Counting and numbering the code vectors of cubes."""

from __future__ import annotations

import numpy as np

from milpq._arrays import Int64Array
from milpq.merge import Cubes

MANY = np.int64(2**62)
"""What `count_codes` says of any number of code vectors at least this large."""


def count_codes(cubes: Cubes) -> Int64Array:
    """Return the number of code vectors of each cube, shape (cubes,); never more than `MANY`."""
    widths = cubes.level_upper - cubes.level_lower + 1
    with np.errstate(over="ignore"):  # infinity is many
        count = np.prod(widths.astype(np.float64), axis=1)
    return np.where(count < float(MANY), np.prod(widths, axis=1), MANY)


def levels_of(cubes: Cubes, start: int, stop: int) -> tuple[Int64Array, Int64Array]:
    """Return code vectors number `start` to `stop − 1` of all cubes, one cube after the other.

    Returns
    -------
    owner : int64, shape (stop − start,)
        Index of the cube of each; nondecreasing.
    levels : int64, shape (stop − start, inputs)
        The last input changes fastest.
    """
    widths = cubes.level_upper - cubes.level_lower + 1
    ends = np.cumsum(count_codes(cubes))
    rest = np.arange(start, stop, dtype=np.int64)
    if len(cubes) == 1:
        owner = np.zeros(len(rest), dtype=np.int64)
    else:
        owner = np.searchsorted(ends, rest, side="right")
        rest = rest - np.concatenate([[0], ends[:-1]])[owner]
    levels = np.empty((len(rest), widths.shape[1]), dtype=np.int64)
    for i in range(widths.shape[1] - 1, -1, -1):
        width = widths[0, i] if len(cubes) == 1 else widths[owner, i]
        quotient = rest // width
        levels[:, i] = rest - quotient * width
        rest = quotient
    levels += cubes.level_lower[owner]
    return owner, levels
