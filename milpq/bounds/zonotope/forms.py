"""Operations on the affine forms of one value: their generators, magnitudes and ranges.

Generators ``h`` (of the float side) and ``d`` (of the difference) have shape (rows, neurons), one row for each
noise symbol; ``only_d`` marks the symbols that do not occur in any ``h``.
"""

from __future__ import annotations

import numpy as np

from milpq._arrays import BoolArray, Float64Array
from milpq.bounds.zonotope._compiled import compiled
from milpq.bounds.zonotope.pack import Packed

_U = 2.0**-53


@compiled
def generators(net: Packed, flat: Float64Array, value: int) -> Float64Array:
    """Return the generators of a value, shape (rows, neurons); a view."""
    return flat[net.cells[value] : net.cells[value + 1]].reshape(net.rows[value], net.sizes[value])


@compiled
def clear(gh: Float64Array, gd: Float64Array, row: int, size: int) -> None:
    """Set one symbol's generators of a value to zero."""
    for o in range(size):
        gh[row, o] = 0.0
        gd[row, o] = 0.0


@compiled
def unit(shares: Float64Array, row: int, i: int) -> None:
    """Say that a symbol is due to input ``i`` alone."""
    for k in range(shares.shape[1]):
        shares[row, k] = 1.0 if k == i else 0.0


@compiled
def share(h: Float64Array, rows: int, j: int, only_d: BoolArray, shares: Float64Array, row: int) -> None:
    """Set how much each input has to do with a new symbol: its share in the range of ``a``."""
    inputs = shares.shape[1]
    total = 0.0
    for i in range(inputs):
        shares[row, i] = 0.0
    for r in range(rows):
        if not only_d[r] and h[r, j] != 0.0:
            size = abs(h[r, j])
            total += size
            for i in range(inputs):
                shares[row, i] += size * shares[r, i]
    if total > 0.0:
        for i in range(inputs):
            shares[row, i] /= total


@compiled
def add_affine(
    source_h: Float64Array,
    source_d: Float64Array,
    rows: int,
    only_d: BoolArray,
    weights: Float64Array,
    quantized: Float64Array,
    change: Float64Array,
    h: Float64Array,
    d: Float64Array,
) -> None:
    """Add the images of the generators of one term: ``h += G·Wᵀ``, ``d += G'·Ŵᵀ + G·(Ŵ − W)ᵀ``."""
    inputs, outputs = weights.shape
    for r in range(rows):
        if not only_d[r]:
            for j in range(inputs):
                factor = source_h[r, j]
                if factor != 0.0:
                    for o in range(outputs):
                        h[r, o] += factor * weights[j, o]
                    for o in range(outputs):
                        d[r, o] += factor * change[j, o]
        for j in range(inputs):
            factor = source_d[r, j]
            if factor != 0.0:
                for o in range(outputs):
                    d[r, o] += factor * quantized[j, o]


@compiled
def ranges(
    gh: Float64Array,
    gd: Float64Array,
    rows: int,
    only_d: BoolArray,
    size: int,
    first: int,
    ch: Float64Array,
    cd: Float64Array,
    sh: Float64Array,
    sd: Float64Array,
    mh: Float64Array,
    md: Float64Array,
    bounds: Float64Array,
) -> bool:
    """Set magnitudes and bounds of a value's neurons from their forms; tell whether they are all finite."""
    spread = np.zeros((3, size))
    for r in range(rows):
        if only_d[r]:
            for o in range(size):
                spread[1, o] += abs(gd[r, o])
                spread[2, o] += abs(gd[r, o])
        else:
            for o in range(size):
                spread[0, o] += abs(gh[r, o])
                spread[1, o] += abs(gh[r, o] + gd[r, o])
                spread[2, o] += abs(gd[r, o])
    lift = 1.0 + (rows + 16) * _U
    finite = True
    for o in range(size):
        k = first + o
        a, d = ch[k], cd[k]
        ra = (spread[0, o] + sh[k]) * lift + 4 * _U * abs(a)
        rd = (spread[2, o] + sd[k]) * lift + 4 * _U * abs(d)
        rv = (spread[1, o] + sh[k] + sd[k]) * lift + 4 * _U * (abs(a) + abs(d))
        mh[k], md[k] = (abs(a) + ra) * lift, (abs(d) + rd) * lift
        bounds[0, k], bounds[1, k] = a - ra, a + ra
        bounds[4, k], bounds[5, k] = d - rd, d + rd
        pad = 4 * _U * (mh[k] + md[k])
        bounds[2, k] = max(a + d - rv, a - ra + d - rd - pad)
        bounds[3, k] = min(a + d + rv, a + ra + d + rd + pad)
        finite = finite and mh[k] + md[k] < np.inf
    return finite
