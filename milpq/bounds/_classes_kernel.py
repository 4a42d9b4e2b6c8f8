"""The distinct hidden codes that the codes of a cube lead to, found by walking over the cube: compiled.

All of it is integer arithmetic on numbers below 2^53, and exact.
"""

# Elements of numpy arrays are arrays to the type checker; what is compiled sees the scalars they are.
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from milpq._arrays import BoolArray, Float64Array, Int32Array, Int64Array
from milpq._compiled import compiled, entry
from milpq.bounds.zonotope.phases import reached

Layer: TypeAlias = tuple[Int64Array, Int64Array, Int64Array, Int64Array, Int64Array]
"""A first layer: weights (neurons, inputs), biases, and thresholds, values and rows of its step function."""

_FEW, _SHARE = 32, 0.6
"""Cubes of more classes than a few and this share of their codes are given up: most of their codes are classes of
their own, and a class saves no execution."""

_FAR = np.int64(2**62)


@entry
def collect(
    layer: Layer,
    lower: Int64Array,
    upper: Int64Array,
    start: int,
    most: int,
    levels: Float64Array,
    owner: Int64Array,
    complete: BoolArray,
) -> tuple[int, int]:
    """Find the distinct levels of a first layer over the codes of some cubes, as far as there is room.

    Parameters
    ----------
    layer : Layer
    lower, upper : int64, shape (cubes, inputs)
        Levels of the inputs, both ends included.
    start : int
        The first cube to work on.
    most : int
        Cubes of more distinct vectors are given up.
    levels : float64, shape (room, neurons)
        Set to the distinct level vectors of one cube after the other; at least `most` rows.
    owner : int64, shape (room,)
        Set to the cube of each.
    complete : bool, shape (cubes,)
        Set to whether a cube's vectors are all there.

    Returns
    -------
    The first cube that was not worked on, and the number of rows set.
    """
    weights, bias, thresholds, values, rows = layer
    neurons, inputs = weights.shape
    slots = 4
    while slots < 2 * (most + 1):
        slots *= 2
    table = np.empty(slots, np.int64)
    hashes = np.empty(most, np.int64)
    seen = np.empty((most, neurons), np.int32)
    constant = np.empty(neurons, np.int64)
    undecided = np.empty(neurons, np.int64)
    used = 0
    for cube in range(start, len(lower)):
        codes = 1.0
        for i in range(inputs):
            codes *= upper[cube, i] - lower[cube, i] + 1
        room = min(most, _FEW + int(min(_SHARE * codes, 1.0 * most)))
        if used + room > len(levels):
            return cube, used
        count = np.int64(0)
        for j in range(neurons):
            least = most_ = bias[j]
            for i in range(inputs):
                w = weights[j, i]
                least += w * (lower[cube, i] if w > 0 else upper[cube, i])
                most_ += w * (upper[cube, i] if w > 0 else lower[cube, i])
            row = rows[j]
            first, last = reached(thresholds[row], least), reached(thresholds[row], most_)
            constant[j] = values[row, first]
            if values[row, first] != values[row, last]:
                undecided[count] = j
                count += 1
        slots = 4
        while slots < 2 * (room + 1):
            slots *= 2
        found = _walk(
            weights,
            bias,
            thresholds,
            rows,
            undecided[:count],
            lower[cube],
            upper[cube],
            table[:slots],
            hashes[:room],
            seen,
        )
        complete[cube] = found >= 0
        for c in range(found):
            owner[used] = cube
            for j in range(neurons):
                levels[used, j] = constant[j]
            for u in range(count):
                j = undecided[u]
                levels[used, j] = values[rows[j], seen[c, u]]
            used += 1
    return len(lower), used


@compiled
def _walk(
    weights: Int64Array,
    bias: Int64Array,
    thresholds: Int64Array,
    rows: Int64Array,
    undecided: Int64Array,
    lower: Int64Array,
    upper: Int64Array,
    table: Int64Array,
    hashes: Int64Array,
    seen: Int32Array,
) -> int:
    """Visit every code of a cube, and note each new vector of plateaus of the undecided neurons.

    Sets rows of `seen`; returns their number, or −1 where there is no room for all.
    """
    inputs, count, steps = len(lower), len(undecided), thresholds.shape[1]
    inner = _slowest(weights, undecided, lower, upper)
    length = upper[inner] - lower[inner] + 1
    code = lower.copy()
    # Accumulators at the first code of a run along the inner input, and along the run.
    base, accumulator = np.empty(count, np.int64), np.empty(count, np.int64)
    plateau = np.zeros(count, np.int64)
    # The plateau that each neuron is on holds accumulators from `floor` up to, but not including, `ceiling`.
    floor, ceiling = np.full(count, _FAR), np.full(count, -_FAR)
    slope, mixer = np.empty(count, np.int64), np.empty(count, np.int64)
    weight = np.empty((inputs, count), np.int64)
    for u in range(count):
        j = undecided[u]
        base[u] = bias[j]
        for i in range(inputs):
            weight[i, u] = weights[j, i]
            base[u] += weights[j, i] * code[i]
        slope[u] = weights[j, inner]
        mixer[u] = (u * 2 + 1) * np.int64(0x1E3779B97F4A7C15) + u * u * np.int64(0x3F58476D1CE4E5B9)
    table[:] = -1
    mask, found = np.int64(len(table) - 1), 0
    hashed = np.int64(0)
    while True:
        accumulator[:] = base
        for at in range(length):
            outside = 0
            for u in range(count):
                outside += (accumulator[u] >= ceiling[u]) | (accumulator[u] < floor[u])
            # The first code of all is outside of every plateau; without undecided neurons it is all there is to see.
            if outside > 0 or found == 0:
                for u in range(count):
                    if accumulator[u] >= ceiling[u] or accumulator[u] < floor[u]:
                        mine = thresholds[rows[undecided[u]]]
                        here = reached(mine, accumulator[u])
                        hashed += (here - plateau[u]) * mixer[u]
                        plateau[u] = here
                        floor[u] = mine[here - 1] if here > 0 else -_FAR
                        ceiling[u] = mine[here] if here < steps else _FAR
                slot = ((hashed * np.int64(0x14F6CDD1D2B4C3A7)) >> 33) & mask
                while True:
                    known = table[slot]
                    if known < 0:
                        if found == len(hashes):
                            return -1
                        table[slot], hashes[found] = found, hashed
                        for u in range(count):
                            seen[found, u] = plateau[u]
                        found += 1
                        break
                    if hashes[known] == hashed:
                        differing = 0
                        for u in range(count):
                            differing += seen[known, u] != plateau[u]
                        if differing == 0:
                            break
                    slot = (slot + 1) & mask
            if at + 1 < length:
                for u in range(count):
                    accumulator[u] += slope[u]
        i = inputs - 1
        while i >= 0 and (i == inner or code[i] == upper[i]):
            if i != inner:
                for u in range(count):
                    base[u] -= weight[i, u] * (upper[i] - lower[i])
                code[i] = lower[i]
            i -= 1
        if i < 0:
            return found
        code[i] += 1
        for u in range(count):
            base[u] += weight[i, u]


@compiled
def _slowest(weights: Int64Array, undecided: Int64Array, lower: Int64Array, upper: Int64Array) -> int:
    """Return the input along which accumulators change least, among those that change at all."""
    best, least = len(lower) - 1, np.inf
    for i in range(len(lower)):
        total = 0.0
        for u in range(len(undecided)):
            total += abs(weights[undecided[u], i])
        if upper[i] > lower[i] and total < least:
            best, least = i, total
    return best
