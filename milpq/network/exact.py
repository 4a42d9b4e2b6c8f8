"""Affine maps in exact arithmetic: big integers over common denominators, as fractions would cancel at every step."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import lcm
from operator import mul

import numpy as np

from milpq._arrays import Float64Array, Matrix
from milpq.network.nodes import Affine


def affine_ends(
    node: Affine, lower: list[list[Fraction]], upper: list[list[Fraction]]
) -> tuple[list[Fraction], list[Fraction]]:
    """Return the exact ends of an affine node over intervals of its sources.

    Parameters
    ----------
    lower, upper
        Of every value.  Where those of all sources are the same lists, so are the result's.
    """
    least = [Fraction(float(b)) for b in node.bias]
    same = all(lower[source] is upper[source] for source in node.sources)
    most = least if same else least.copy()
    for term in node.terms:
        low, high = lower[term.source], upper[term.source]
        if same:
            _add(least, term.matrix, low, low)
        else:
            _add(least, term.matrix, low, high)
            _add(most, term.matrix, high, low)
    return least, most


def _add(
    total: list[Fraction], matrix: Matrix, on_positive: list[Fraction], on_negative: list[Fraction]
) -> None:
    """Add a product to a total, its positive weights on one vector and its negative ones on another."""
    same = on_positive is on_negative
    unit = lcm(*(x.denominator for x in (*on_positive, *(() if same else on_negative))))
    plus, minus = (
        [x.numerator * (unit // x.denominator) for x in side] for side in (on_positive, on_negative)
    )
    for row in range(len(total)):
        columns, weights = _row(matrix, row)
        if not len(columns):
            continue
        integers, shift = _integers(weights)
        if same:
            values: Sequence[int] = [plus[column] for column in columns]
        else:
            values = [
                plus[column] if weight > 0 else minus[column]
                for column, weight in zip(columns, integers, strict=True)
            ]
        product = sum(map(mul, integers, values))
        total[row] += Fraction(product << max(shift, 0), unit << max(-shift, 0))


def _integers(weights: Float64Array) -> tuple[list[int], int]:
    """Return integers and a power of two that together make up float64 numbers exactly."""
    mantissa, exponent = np.frexp(weights)
    whole = np.ldexp(mantissa, 53).astype(np.int64)
    least = int(exponent.min())
    shifts = exponent.astype(np.int64) - least
    return [int(m) << s for m, s in zip(whole.tolist(), shifts.tolist(), strict=True)], least - 53


def _row(matrix: Matrix, row: int) -> tuple[list[int], Float64Array]:
    """Return the columns of a row that have a weight, and the weights."""
    if isinstance(matrix, np.ndarray):
        columns = np.flatnonzero(matrix[row])
        return columns.tolist(), matrix[row, columns]
    start, stop = matrix.indptr[row], matrix.indptr[row + 1]
    return matrix.indices[start:stop].tolist(), matrix.data[start:stop]
