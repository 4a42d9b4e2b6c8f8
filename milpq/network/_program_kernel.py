"""Execution of a network on many points, a block of them after the other through all of its nodes: compiled."""

# Elements of numpy arrays are arrays to the type checker; what is compiled sees the scalars they are.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq._compiled import compiled, entry
from milpq.network._tile import tile1, tile2, tile3, tile4, tile5, tile6, tile7, tile8

Values: TypeAlias = Any
"""An array of the program's precision, or its type: compiled for either."""

Arrays: TypeAlias = tuple[
    Int64Array, Int64Array, Int64Array, Any, Any, Float64Array, Float64Array, Int64Array, Int64Array
]
"""Operations, tiles, rows, columns, weights, clamps, staircases, searches and numbers; see `milpq.network.program`."""

AFFINE, CLAMP, STEP = 0, 1, 2
"""Operations: kind, then for an affine node the tiles from and to; else source, target, neurons and parameters."""

SINGLE, DOUBLE, TABLE, SEARCH = 0, 1, 2, 3
"""How a neuron's step is evaluated: as an affine staircase in either precision, or by looking it up."""


@entry
def execute(
    program: Arrays,
    values: Values,
    lanes: int,
    output: int,
    points: Float64Array,
    results: Float64Array,
) -> None:
    """Run a program.

    Parameters
    ----------
    program : Arrays
    values : floating-point, shape (rows·lanes,)
        Working memory: a block of `lanes` points of each neuron; the input's first.
    output : int
        Where the output begins in `values`.
    points : float64, shape (points, inputs)
    results : float64, shape (points, outputs)
        Set.
    """
    operations, tiles, rows, columns, weights, clamps, stairs, searches, numbers = program
    inputs = points.shape[1]
    for start in range(0, len(points), lanes):
        width = min(lanes, len(points) - start)
        _transpose(points[start : start + width], values[: inputs * lanes].reshape(inputs, lanes))
        for o in range(len(operations)):
            kind, first, second, neurons, extra = operations[o]
            if kind == AFFINE:
                for t in range(first, second):
                    _multiply(tiles[t], rows, columns, weights, values)
                continue
            size = neurons * lanes
            here = values[second : second + size]
            if first != second:
                here[:] = values[first : first + size]
            if kind == CLAMP:
                _clamp(here, clamps[extra, 0], clamps[extra, 1])
                continue
            for j in range(neurons):
                one = here[j * lanes : (j + 1) * lanes]
                if searches[extra + j, 0] == SINGLE:
                    _stairs(one, stairs[extra + j], np.float32)
                elif searches[extra + j, 0] == DOUBLE:
                    _stairs(one, stairs[extra + j], np.float64)
                elif searches[extra + j, 0] == TABLE:
                    _look_up(one, searches[extra + j], numbers)
                else:
                    _search(one, searches[extra + j], numbers)
        outputs = results.shape[1]
        _transpose_back(
            values[output : output + outputs * lanes].reshape(outputs, lanes), results[start : start + width]
        )


@compiled
def _transpose(points: Float64Array, values: Values) -> None:
    """Set columns of values to points; columns past them are left, as whatever they hold is never read."""
    for i in range(values.shape[0]):
        for p in range(len(points)):
            values[i, p] = points[p, i]


@compiled
def _transpose_back(values: Values, results: Float64Array) -> None:
    for i in range(values.shape[0]):
        for p in range(len(results)):
            results[p, i] = values[i, p]


@compiled
def _multiply(tile: Int64Array, rows: Int64Array, columns: Values, weights: Values, values: Values) -> None:
    height, row, column, shift, weight, count = tile
    if height == 8:
        tile8(values, rows, columns, weights, row, column, shift, weight, count)
    elif height == 7:
        tile7(values, rows, columns, weights, row, column, shift, weight, count)
    elif height == 6:
        tile6(values, rows, columns, weights, row, column, shift, weight, count)
    elif height == 5:
        tile5(values, rows, columns, weights, row, column, shift, weight, count)
    elif height == 4:
        tile4(values, rows, columns, weights, row, column, shift, weight, count)
    elif height == 3:
        tile3(values, rows, columns, weights, row, column, shift, weight, count)
    elif height == 2:
        tile2(values, rows, columns, weights, row, column, shift, weight, count)
    else:
        tile1(values, rows, columns, weights, row, column, shift, weight, count)


@compiled
def _clamp(values: Values, lower: float, upper: float) -> None:
    low, high = values.dtype.type(lower), values.dtype.type(upper)
    for p in range(len(values)):
        x = values[p]
        x = max(low, x)
        values[p] = min(high, x)


@compiled
def _stairs(values: Values, stairs: Float64Array, precision: Values) -> None:
    """Evaluate a staircase with exactly the operations that it was tested with."""
    slope, negative, other = precision(stairs[0]), precision(stairs[1]), precision(stairs[2])
    bottom, top, zero = precision(stairs[3]), precision(stairs[4]), precision(0)
    if negative == other:
        for p in range(len(values)):
            y = np.floor(precision(values[p]) * slope + other)
            y = max(bottom, y)
            values[p] = min(top, y)
    else:
        for p in range(len(values)):
            x = precision(values[p])
            y = np.floor(x * slope + (other if x >= zero else negative))
            y = max(bottom, y)
            values[p] = min(top, y)


@compiled
def _look_up(values: Values, search: Int64Array, numbers: Int64Array) -> None:
    """Take the value of each accumulator's plateau, where thresholds follow each other."""
    start, count = search[1], search[2]
    before = numbers[start] - 1
    levels = numbers[start + count : start + 2 * count + 1]
    for p in range(len(values)):
        plateau = np.int64(values[p]) - before
        values[p] = levels[np.uint64(min(max(plateau, 0), count))]


@compiled
def _search(values: Values, search: Int64Array, numbers: Int64Array) -> None:
    """Find each accumulator's plateau among the thresholds."""
    start, count = search[1], search[2]
    thresholds, levels = numbers[start : start + count], numbers[start + count : start + 2 * count + 1]
    for p in range(len(values)):
        x = np.int64(values[p])
        low, high = np.int64(0), count
        while low < high:
            middle = (low + high) // 2
            if thresholds[middle] <= x:
                low = middle + 1
            else:
                high = middle
        values[p] = levels[low]
