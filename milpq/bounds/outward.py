"""Outward rounding: how float64 results become bounds that hold in exact arithmetic.

Every elementary result ``r`` of round-to-nearest float64 differs from the exact one by at most
``UNIT_ROUNDOFF·|r|`` (plus ``TINY`` where it underflows), so moving it by a few such units is safe.
"""

from __future__ import annotations

import numpy as np

from milpq._arrays import UNIT_ROUNDOFF, Float64Array, Matrix, gamma
from milpq.network.nodes import apply_matrix

TINY = 1e-300
"""Covers every underflow: larger than any sum of fewer than 2^50 subnormal roundings."""


def down(value: Float64Array, roundings: int = 1) -> Float64Array:
    """Return a number at most the exact one, for a result of that many roundings of its own size."""
    return value - (np.abs(value) * ((roundings + 1) * UNIT_ROUNDOFF) + TINY)


def up(value: Float64Array, roundings: int = 1) -> Float64Array:
    """Return a number at least the exact one, for a result of that many roundings of its own size."""
    return value + (np.abs(value) * ((roundings + 1) * UNIT_ROUNDOFF) + TINY)


def largest(lower: Float64Array, upper: Float64Array) -> Float64Array:
    """Return the largest absolute value of an interval (exact)."""
    return np.maximum(np.abs(lower), np.abs(upper))


def times(values: Float64Array, matrix: Matrix) -> Float64Array:
    """Return ``values @ matrix`` for values of shape (..., rows), dense or sparse matrix alike."""
    if isinstance(matrix, np.ndarray):
        return values @ matrix
    flat = values.reshape(-1, values.shape[-1])
    return np.ascontiguousarray((matrix.T @ flat.T).T).reshape(*values.shape[:-1], matrix.shape[1])


def affine_image(
    matrix: Matrix,
    size: Matrix,
    lower: Float64Array,
    upper: Float64Array,
) -> tuple[Float64Array, Float64Array]:
    """Return centre and radius of ``matrix @ x`` over an interval, the radius rounded up.

    Parameters
    ----------
    matrix : shape (outputs, inputs); entries within one relative float64 rounding of the exact ones
    size : ``|matrix|``
    lower, upper : float64, shape (cubes, inputs)

    *Soundness:* with ``x = c + t, |t| <= r`` the exact image is ``Wc ± |W| r``; the float64 product of n
    terms errs by at most ``γ_n |W||c|``, one more rounding each for the entries of W and for c, so
    ``|W| (r + γ_{n+3} (|c| + r))`` (computed, and lifted for its own rounding) covers everything.
    """
    centre = 0.5 * lower + 0.5 * upper
    radius = up(np.maximum(upper - centre, centre - lower))
    error = gamma(matrix.shape[1] + 8)
    product = apply_matrix(matrix, centre)
    spread = apply_matrix(size, radius + error * (np.abs(centre) + radius))
    return product, spread * (1 + 2 * error) + TINY
