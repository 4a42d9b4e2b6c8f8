"""The loops of an ascent over activations, compiled: one row of coefficients at a time stays in the caches.

All of it is float32 and proposes multipliers; nothing here is a bound.
"""

# Elements of numpy arrays are arrays to the type checker; what is compiled sees the scalars they are.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from milpq._arrays import Int64Array
from milpq._compiled import entry

_Array: TypeAlias = npt.NDArray[np.float32]


@entry
def bend(
    on: tuple[_Array, _Array],
    settled: _Array,
    open_at: Int64Array,
    start: int,
    shifts: _Array,
    slopes: _Array,
    points: _Array,
    back: tuple[_Array, _Array],
    multipliers: _Array,
    chosen: _Array,
    total: _Array,
) -> None:
    """Carry coefficients from the output of an activation to its input, its open neurons by multipliers.

    Parameters
    ----------
    on : float32, shape (rows, live) each
        Coefficients on ``h`` and ``δ``.
    settled : float32, shape (5, live)
        As in `milpq.bounds.settled.Settled`, in its order.
    open_at : int64, shape (open here,)
        Positions of the open neurons among the live ones.
    start : int
        Place of the first of them among all open neurons.
    shifts : float32, shape (rows, 2·open)
    slopes : float32, shape (3, nodes, open)
    points : float32, shape (4, nodes, open here, points)
    back : float32, shape (rows, live) each
        Set to the coefficients on ``a`` and ``d``.
    multipliers, chosen, total
        Entries of these neurons are set, or added to: shapes (rows, 2·open), (6, rows, open), (rows,).
    """
    on_float, on_difference = on
    on_a, on_d = back
    rows, live = on_float.shape
    count = shifts.shape[1] // 2
    one_node, one_slope = points.shape[1] == 1, slopes.shape[1] == 1
    for row in range(rows):
        value = np.float32(0.0)
        for i in range(live):
            of, od = on_float[row, i], on_difference[row, i]
            value += of * settled[1, i] + od * settled[4, i]
            on_a[row, i] = of * settled[0, i] + od * settled[2, i]
            on_d[row, i] = od * settled[3, i]
        node = 0 if one_node else row
        slope = 0 if one_slope else row
        for k in range(len(open_at)):
            i, j = open_at[k], start + k
            on_h, on_delta = on_float[row, i], on_difference[row, i]
            gamma = shifts[row, j] + slopes[0, slope, j] * on_h + slopes[1, slope, j] * on_delta
            eta = shifts[row, count + j] + slopes[2, slope, j] * on_delta
            best, at = np.float32(-np.inf), 0
            for p in range(points.shape[3]):
                here = (
                    on_h * points[2, node, k, p]
                    + on_delta * points[3, node, k, p]
                    - gamma * points[0, node, k, p]
                    - eta * points[1, node, k, p]
                )
                if here > best:
                    best, at = here, p
            value += best
            multipliers[row, j], multipliers[row, count + j] = gamma, eta
            for part in range(4):
                chosen[part, row, j] = points[part, node, k, at]
            chosen[4, row, j], chosen[5, row, j] = on_h, on_delta
            on_a[row, i], on_d[row, i] = gamma, eta
        total[row] += value


@entry
def follow(
    before: _Array,
    picked: Int64Array,
    settled: _Array,
    open_at: Int64Array,
    start: int,
    slopes: _Array,
    chosen: _Array,
    after: _Array,
    gradient: _Array,
) -> None:
    """Carry the values implied by a choice through an activation, and note where they miss what was chosen.

    Parameters
    ----------
    before : float32, shape (rows, 2·neurons of the source)
        ``a``, then ``d``.
    picked : int64, shape (live,)
        Which of the source's neurons the activation reads.
    after : float32, shape (rows, 2·live)
        Set to ``h``, then ``δ``.
    gradient : float32, shape (rows, 2·open)
        Entries of these neurons are set.
    """
    rows, live = after.shape[0], len(picked)
    source, count = before.shape[1] // 2, gradient.shape[1] // 2
    one_slope = slopes.shape[1] == 1
    for row in range(rows):
        slope = 0 if one_slope else row
        for i in range(live):
            a, d = before[row, picked[i]], before[row, source + picked[i]]
            after[row, i] = a * settled[0, i] + settled[1, i]
            after[row, live + i] = a * settled[2, i] + d * settled[3, i] + settled[4, i]
        for k in range(len(open_at)):
            i, j = open_at[k], start + k
            of_a = before[row, picked[i]] - chosen[0, row, j]
            of_d = before[row, source + picked[i]] - chosen[1, row, j]
            gradient[row, j], gradient[row, count + j] = of_a, of_d
            after[row, i] = chosen[2, row, j] + slopes[0, slope, j] * of_a
            after[row, live + i] = chosen[3, row, j] + slopes[1, slope, j] * of_a + slopes[2, slope, j] * of_d


@entry
def descend(
    shifts: _Array,
    gradient: _Array,
    inverse: _Array,
    rate: _Array,
    mean: _Array,
    square: _Array,
    keep: tuple[float, float],
    length: float,
) -> None:
    """Take a step of Adam: `gradient` times `inverse`, lengths `rate` times `length`.

    Parameters
    ----------
    keep : pair of float
        What the running mean and mean square keep of themselves.
    """
    keep_mean, keep_square = np.float32(keep[0]), np.float32(keep[1])
    one, least, length32 = np.float32(1.0), np.float32(1e-8), np.float32(length)
    several, each = inverse.shape[0] > 1, rate.shape[0] > 1
    for row in range(shifts.shape[0]):
        node, line = (row if several else 0), (row if each else 0)
        for j in range(shifts.shape[1]):
            g = gradient[row, j] * inverse[node, j]
            m = keep_mean * mean[row, j] + (one - keep_mean) * g
            s = keep_square * square[row, j] + (one - keep_square) * g * g
            mean[row, j], square[row, j] = m, s
            shifts[row, j] -= rate[line, j] * length32 * m / (np.sqrt(s) + least)


def compile_ascent() -> None:
    """Have all of this compiled, which takes seconds once on every machine."""
    none, index = np.zeros((1, 2), dtype=np.float32), np.zeros(1, dtype=np.int64)
    settled, slopes = np.zeros((5, 1), dtype=np.float32), np.zeros((3, 1, 1), dtype=np.float32)
    points, chosen = np.zeros((4, 1, 1, 1), dtype=np.float32), np.zeros((6, 1, 1), dtype=np.float32)
    one = np.zeros((1, 1), dtype=np.float32)
    bend(
        (one, one),
        settled,
        index,
        0,
        none,
        slopes,
        points,
        (one, one),
        none.copy(),
        chosen,
        none[0, :1].copy(),
    )
    follow(none, index, settled, index, 0, slopes, chosen[:4], none.copy(), none.copy())
    descend(none.copy(), none, none, none, none.copy(), none.copy(), (0.9, 0.99), 1.0)
