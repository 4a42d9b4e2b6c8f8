"""Levels of many real inputs by their quantizer: compiled."""

# Elements of numpy arrays are arrays to the type checker; what is compiled sees the scalars they are.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq._compiled import entry


@entry
def read(
    points: Float64Array,
    tables: Float64Array,
    rows: Int64Array,
    reach: Float64Array,
    level_lower: int,
    levels: Int64Array,
) -> bool:
    """Set levels to ``level_lower`` plus the number of float32 numbers of a table that an input reaches.

    Parameters
    ----------
    points : float64, shape (points, inputs)
    tables : float64 holding float32 numbers or infinities, shape (distinct, steps)
        Nondecreasing along the last axis.
    rows : int64, shape (inputs,)
        Which table each input has.
    reach : float64, shape (inputs,)
    levels : int64, shape (points, inputs)
        Set.

    Returns
    -------
    Whether every input is a number within `reach`.

    Notes
    -----
    Where steps are even the first guess is right.  It is only a guess: the search goes on from it until the number is
    between its neighbours in the table.
    """
    steps = tables.shape[1]
    first, dense = np.zeros(len(tables)), np.zeros(len(tables))
    for row in range(len(tables)):
        low, high = 0, steps - 1
        while low < high and not np.isfinite(tables[row, low]):
            low += 1
        while low < high and not np.isfinite(tables[row, high]):
            high -= 1
        if low < high and tables[row, low] < tables[row, high]:
            dense[row] = (high - low) / (tables[row, high] - tables[row, low])
            first[row] = tables[row, low] - (low + 1) / dense[row]
    for p in range(len(points)):
        for i in range(len(rows)):
            if not abs(points[p, i]) <= reach[i]:
                return False
            x = np.float64(np.float32(points[p, i]))
            table = tables[rows[i]]
            guess = (x - first[rows[i]]) * dense[rows[i]]
            at = int(guess) if 0.0 < guess < steps else (0 if guess <= 0.0 else steps)
            while at > 0 and x < table[at - 1]:
                at -= 1
            while at < steps and x >= table[at]:
                at += 1
            levels[p, i] = level_lower + at
    return True
