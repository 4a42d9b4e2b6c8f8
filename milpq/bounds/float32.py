"""How far the float network as run in float32 can be from its real-arithmetic function."""

from __future__ import annotations

import numpy as np

from milpq._arrays import Float64Array, Matrix, gamma
from milpq.bounds.outward import largest, up
from milpq.bounds.values import Bounds
from milpq.merge.nodes import Merged, MergedAffine
from milpq.network.nodes import absolute, apply_matrix

UNIT_ROUNDOFF32 = 2.0**-24
"""Largest relative error of one float32 operation rounded to nearest."""

SMALLEST32 = 2.0**-149
"""Largest absolute error of one float32 operation that underflows."""


def float32_error(merged: Merged, bounds: Bounds) -> Float64Array:
    """Bound ``|f32(x) − f(x)|`` over the cubes of some bounds, in whatever order float32 sums are taken.

    Parameters
    ----------
    bounds : Bounds
        On every merged value; the float sides are used.

    Returns
    -------
    float64, shape (outputs,)
        The largest over the cubes.

    Notes
    -----
    The model: inputs are float32 numbers; products, sums and fused products are rounded to nearest float32; a
    clamp is exact.  Kernels that compute in less (bfloat16, TF32) or by other formulas (Winograd) are not
    covered.

    *Soundness:* a float32 sum of ``n`` products and a bias, its weights rounded to float32 too, errs by at most
    ``γ_{n+3} (Σ|w||h| + |b|)`` for the float32 unit (Higham, sec. 3.1; any order), plus ``2^-149`` for each
    operation that underflows.  Here ``|h|`` is at most its bound plus the error carried so far.
    """
    errors: list[Float64Array] = [np.zeros(bounds.values[0].float_side.lower.shape)]
    for node in merged.nodes:
        if not isinstance(node, MergedAffine):
            errors.append(errors[node.source])
            continue
        carried = np.zeros((1, node.size))
        size = np.abs(node.float_bias)[None, :]
        operations = (node.float_bias != 0).astype(np.float64)
        for term in node.terms:
            matrix, source = absolute(term.float_matrix), bounds.values[term.source].float_side
            error = errors[term.source]
            carried = carried + apply_matrix(matrix, error)
            size = size + apply_matrix(matrix, largest(source.lower, source.upper) + error)
            operations = operations + _inexact_products(term.float_matrix)
        terms = operations + 3.0
        relative = terms * UNIT_ROUNDOFF32 / (1.0 - terms * UNIT_ROUNDOFF32)
        fresh = np.where(operations > 0, relative * size + terms * SMALLEST32, 0.0)
        # Lifted for the float64 rounding of these sums, of fewer terms than inputs + 8.
        width = sum(term.float_matrix.shape[1] for term in node.terms)
        errors.append(up((carried + fresh) * (1.0 + 4 * gamma(width + 8)), 4))
    return errors[merged.output].max(axis=0)


def _inexact_products(matrix: Matrix) -> Float64Array:
    """Count the operations of each row; a row that copies or negates one value has none."""
    rows = np.asarray((matrix != 0).sum(axis=1), dtype=np.float64).ravel()
    values = matrix if isinstance(matrix, np.ndarray) else matrix.data
    copies = bool((np.abs(values[values != 0]) == 1.0).all())
    return np.where((rows == 1) & copies, 0.0, rows)
