"""The affine forms of all values of one cube, and the operations on those of one value.

Generators ``h`` (of the float side) and ``d`` (of the difference) have shape (rows, neurons), one row for each
noise symbol, in the order in which the symbols are made.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from milpq._arrays import BoolArray, Float64Array, Int64Array
from milpq._compiled import compiled
from milpq.bounds.zonotope.pack import Packed, Records

_U = 2.0**-53

FREE, ACTIVE, DEAD, FALLS, RISES = 0, 1, 2, 3, 4
"""What is decided about a pair of ReLUs: nothing; both active; both dead; the float side alone active; the
quantized side alone active."""


STATE: Final = np.dtype([(name, np.int64) for name in ("used", "before", "facts", "ranged")], align=True)
"""How far the forms are.

``used``: symbols that a value's generators know; ``ranged``: 1 where the value's bounds are wanted.  ``before``,
``facts``: symbols made, and facts known, before a node.  A *fact* is a linear form that is nonnegative where the
decided phases are as decided.
"""

CENTRE_H, CENTRE_D, SLACK_H, SLACK_D, SIZE_H, SIZE_D = range(6)
"""What a neuron's two forms have: centres, slacks, and bounds on the magnitude of each."""


class Forms(NamedTuple):
    """Affine forms; neuron arrays as in `Packed`.

    Attributes
    ----------
    h, d : float64
        Generators of all values, one after another.
    form : float64, shape (6, neurons)
        Rows as named above.
    bounds : float64, shape (6, neurons)
        Lower and upper bounds on ``a``, ``v`` and ``d``.
    states : STATE, shape (nodes + 1,)
    only_d : bool, shape (symbols,)
        Symbols that occur in no ``h``.
    owner : int64, shape (symbols,)
        The neuron whose activation made the symbol; −1 for an input.
    shares : float64, shape (symbols, inputs) or (symbols, 0)
        How much each input has to do with each symbol.
    decided : int64, shape (neurons,)
        Decided phases, by the neuron of the activation.
    fact : float64, shape (facts, 1 + symbols)
        Centre (slack added) and generators of each fact.
    """

    h: Float64Array
    d: Float64Array
    form: Float64Array
    bounds: Float64Array
    states: Records
    only_d: BoolArray
    owner: Int64Array
    shares: Float64Array
    decided: Int64Array
    fact: Float64Array


@compiled
def generators(net: Packed, flat: Float64Array, value: int) -> Float64Array:
    """Return the generators of a value, shape (rows, neurons); a view."""
    packed = net.values[value]
    return flat[packed.cells : net.values[value + 1].cells].reshape(packed.rows, packed.width)


@compiled
def clear(h: Float64Array, d: Float64Array, row: int, size: int) -> None:
    """Set one symbol's generators of a value to zero."""
    for o in range(size):
        h[row, o] = 0.0
        d[row, o] = 0.0


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
def ranges(net: Packed, forms: Forms, value: int) -> bool:
    """Set magnitudes and bounds of a value's neurons from their forms; tell whether they are all finite."""
    size, first, rows = net.values[value].width, net.values[value].first, forms.states[value].used
    h, d = generators(net, forms.h, value), generators(net, forms.d, value)
    form, bounds, only_d = forms.form, forms.bounds, forms.only_d
    spread = np.zeros((3, size))
    for r in range(rows):
        if only_d[r]:
            for o in range(size):
                spread[1, o] += abs(d[r, o])
                spread[2, o] += abs(d[r, o])
        else:
            for o in range(size):
                spread[0, o] += abs(h[r, o])
                spread[1, o] += abs(h[r, o] + d[r, o])
                spread[2, o] += abs(d[r, o])
    lift = 1.0 + (rows + 16) * _U
    finite = True
    for o in range(size):
        k = first + o
        a, b, slack_h, slack_d = form[CENTRE_H, k], form[CENTRE_D, k], form[SLACK_H, k], form[SLACK_D, k]
        ra = (spread[0, o] + slack_h) * lift + 4 * _U * abs(a)
        rd = (spread[2, o] + slack_d) * lift + 4 * _U * abs(b)
        rv = (spread[1, o] + slack_h + slack_d) * lift + 4 * _U * (abs(a) + abs(b))
        size_h, size_d = (abs(a) + ra) * lift, (abs(b) + rd) * lift
        form[SIZE_H, k], form[SIZE_D, k] = size_h, size_d
        bounds[0, k], bounds[1, k] = a - ra, a + ra
        bounds[4, k], bounds[5, k] = b - rd, b + rd
        pad = 4 * _U * (size_h + size_d)
        bounds[2, k] = max(a + b - rv, a - ra + b - rd - pad)
        bounds[3, k] = min(a + b + rv, a + ra + b + rd + pad)
        finite = finite and size_h + size_d < np.inf
    return finite
