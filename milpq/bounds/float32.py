"""How far the float network as run in float32 can be from its real-arithmetic function."""

from __future__ import annotations

import numpy as np

from milpq._arrays import Float64Array, gamma
from milpq.bounds.outward import largest, up
from milpq.bounds.values import Bounds, Interval
from milpq.errors import UnsupportedModelError
from milpq.merge.nodes import Merged, MergedActivation, MergedAffine
from milpq.network.nodes import absolute, apply_matrix, entries

UNIT_ROUNDOFF32 = 2.0**-24
"""Largest relative error of one float32 operation rounded to nearest."""

SMALLEST32 = 2.0**-126
"""Largest absolute error of one float32 number or operation that underflows, be it flushed to zero."""

LARGEST32 = 3.4e38
"""Below the largest float32 number: sums that may come above can overflow."""


def float32_error(merged: Merged, bounds: Bounds) -> Float64Array:
    """Bound ``|f32(x) − f(x)|`` over the cubes of some bounds, in whatever order float32 sums are taken.

    Parameters
    ----------
    bounds : Bounds
        On every merged value; the float sides are used.

    Returns
    -------
    float64, shape (outputs,)
        The largest over the cubes; infinite where a float32 sum may overflow.

    Raises
    ------
    UnsupportedModelError
        An activation is a sigmoid or tanh.

    Notes
    -----
    The model: inputs, weights, biases and ends of clamps are rounded to float32 (what a code stands for, scale times
    level, seldom is a float32 number); products, sums and fused products are rounded to nearest float32, underflow
    being gradual or flushed to zero; a clamp is exact.  Kernels that compute in less (bfloat16, TF32) or by other
    formulas (Winograd), and batch normalizations computed apart from the layer they are folded into here, are not
    covered.

    *Soundness:* a float32 sum of ``n`` products and a bias, its weights rounded to float32 too, errs by at most
    ``γ_{n+3} (Σ|w||h| + |b|)`` for the float32 unit (Higham, sec. 3.1; any order), plus ``2^-126`` for each
    operation, weight and operand that underflows, carried through the other factor.  Here ``|h|`` is at most its
    bound plus the error carried so far.  A row that copies or negates one value does not round, but the sum of
    two copies does.  A clamp moves by no more than its ends do.
    """
    errors: list[Float64Array] = [_input_error(bounds.values[0].float_side)]
    for node in merged.nodes:
        if isinstance(node, MergedAffine):
            error = _affine_error(node, errors, bounds)
        elif node.curve is not None:
            raise UnsupportedModelError(
                f"layer {node.name!r}: how float32 runtimes compute a {node.curve.name} differs; use "
                "--float-arithmetic real"
            )
        else:
            error = up(errors[node.source] + _ends_error(node))
        if not np.isfinite(error).all():
            return np.full(merged.output_size, np.inf)
        errors.append(error)
    return errors[merged.output].max(axis=0)


def _input_error(side: Interval) -> Float64Array:
    """Return how far rounding to float32 moves inputs; not finite where they overflow."""
    reach = largest(side.lower, side.upper)
    return np.where(reach < LARGEST32, up(UNIT_ROUNDOFF32 * reach + SMALLEST32), np.inf)


def _affine_error(node: MergedAffine, errors: list[Float64Array], bounds: Bounds) -> Float64Array:
    """Bound the error of an affine node, shape (cubes, neurons); not finite where a sum may overflow."""
    carried, faint = np.zeros((1, node.size)), np.zeros((1, node.size))
    size = np.abs(node.float_bias)[None, :]
    operations = (node.float_bias != 0).astype(np.float64)
    copies = node.float_bias == 0
    for term in node.terms:
        matrix, side = absolute(term.float_matrix), bounds.values[term.source].float_side
        weights, error = entries(matrix), errors[term.source]
        reach = largest(side.lower, side.upper) + error
        carried = carried + apply_matrix(matrix, error)
        size = size + apply_matrix(matrix, reach)
        faint = faint + apply_matrix(matrix, np.ones_like(reach))
        if ((weights != 0) & (weights < SMALLEST32)).any():
            faint = faint + matrix.shape[1] * reach.max(axis=1, keepdims=True)
        stored = (
            np.count_nonzero(matrix, axis=1) if isinstance(matrix, np.ndarray) else np.diff(matrix.indptr)
        )
        operations = operations + np.asarray(stored, dtype=np.float64)
        copies = copies & bool((weights[weights != 0] == 1.0).all())
        if (weights > LARGEST32).any():
            return np.full(size.shape, np.inf)
    terms = operations + 3.0
    relative = terms * UNIT_ROUNDOFF32 / np.maximum(1.0 - terms * UNIT_ROUNDOFF32, 0.0)
    fresh = relative * size + (terms + faint) * SMALLEST32
    fresh = np.where(size + fresh < LARGEST32, fresh, np.inf)
    fresh = np.where(copies & (operations <= 1), 0.0, fresh)
    # Lifted for the float64 rounding of these sums, of fewer terms than inputs + 8.
    width = sum(term.float_matrix.shape[1] for term in node.terms)
    return up((carried + fresh) * (1.0 + 4 * gamma(width + 8)), 4)


def _ends_error(node: MergedActivation) -> float:
    """Return how far rounding to float32 moves the ends of a clamp."""
    ends = np.array([end for end in (node.lower, node.upper) if np.isfinite(end)])
    if (np.abs(ends) > LARGEST32).any():
        return np.inf
    # The difference of two numbers this close is exact.
    return float(np.abs(ends - ends.astype(np.float32).astype(np.float64)).max(initial=0.0))
