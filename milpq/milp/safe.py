"""Bounds that hold whatever the solver says: dual solutions evaluated with outward rounding.

For ``max cᵀx`` over ``row_lower ≤ A x ≤ row_upper, lower ≤ x ≤ upper`` and *any* vector ``y`` of row duals,

    ``cᵀx = yᵀ(A x) + rᵀx ≤ Σ_i max(y_i·row_lower_i, y_i·row_upper_i) + Σ_j max(r_j·lower_j, r_j·upper_j)``

with ``r = c − Aᵀy``, ``y_i`` put to zero where the side it would need is infinite.  A wrong ``y`` gives a
weak bound, never a wrong one.  Integrality is ignored, so the bound holds for the mixed-integer model too.

References: A. Neumaier and O. Shcherbina, *Safe bounds in linear and mixed-integer linear programming*,
Mathematical Programming 99 (2004), section 3.  N. Higham, *Accuracy and Stability of Numerical Algorithms*,
Lemmas 3.1 and 3.3 (the rules for ``γ_n``).
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from milpq._arrays import UNIT_ROUNDOFF, Float64Array, Int64Array, gamma
from milpq.errors import UsageError
from milpq.milp.model import LinearModel

_TINY = 2.0**-1074  # the smallest positive float64: more than a product loses to underflow
_GRID_BITS = 60
_Integers: TypeAlias = npt.NDArray[np.object_]


def safe_upper_bound(
    model: LinearModel,
    objective: Float64Array,
    duals: Float64Array | None,
    lower: Float64Array | None = None,
    upper: Float64Array | None = None,
    *,
    exact: bool = False,
) -> float:
    """Return an upper bound on ``objective · x`` over the linear relaxation, valid for any `duals`.

    Parameters
    ----------
    model : LinearModel
    objective : float64 array of shape ``(columns,)``
        Finite.
    duals : float64 array of shape ``(rows,)``, or None
        Row duals in the sign convention of `Solution.duals`: positive where the upper side of the row holds
        the maximum down.  Entries that are NaN or infinite count as zero; None means all zero.
    lower, upper : float64 arrays of shape ``(columns,)``, optional
        Column bounds in place of the model's own: the box of a branch-and-bound node, for instance.
    exact : bool
        Evaluate in integers instead of float64.  Loses only the rounding of the duals to multiples of
        ``2^−60`` of the largest objective coefficient; some 50 times slower.

    Returns
    -------
    float
        The smaller of the dual bound and the bound of the box alone; ``+inf`` only when these overflow.

    Raises
    ------
    UsageError
        An objective or bounds that are not finite, or an array of a wrong shape.

    Notes
    -----
    *Soundness:* the result is at least the supremum in exact arithmetic over the model as stored.  Checked in
    ``tests/soundness/test_lying_duals.py`` against evaluation in fractions.
    """
    objective, low, high = _checked(model, objective, lower, upper)
    evaluate = _evaluate_exactly if exact else _evaluate_rounded
    trivial = evaluate(model, objective, np.zeros(model.rows), low, high)
    if duals is None or model.rows == 0:
        return trivial
    projected = _projected(model, duals)
    if not projected.any():
        return trivial
    bound = evaluate(model, objective, projected, low, high)
    return min(bound, trivial) if math.isfinite(bound) else trivial


def safe_infeasible(
    model: LinearModel,
    ray: Float64Array | None,
    lower: Float64Array | None = None,
    upper: Float64Array | None = None,
    *,
    exact: bool = False,
) -> bool:
    """Return whether `ray` proves that the model has no point (Farkas), in exact arithmetic.

    Parameters
    ----------
    model : LinearModel
    ray : float64 array of shape ``(rows,)``, or None
        A dual ray of either sign (solvers differ): the bound of ``0·x`` it gives must be negative.
    lower, upper : float64 arrays of shape ``(columns,)``, optional
        Column bounds in place of the model's own.
    exact : bool
        As in `safe_upper_bound`.

    Notes
    -----
    *Soundness:* True is a proof; False says nothing.
    """
    if ray is None:
        return False
    zero, up = np.zeros(model.columns), np.asarray(ray, dtype=np.float64)
    return any(safe_upper_bound(model, zero, y, lower, upper, exact=exact) < 0.0 for y in (up, -up))


def _checked(
    model: LinearModel, objective: Float64Array, lower: Float64Array | None, upper: Float64Array | None
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return the objective and the box as float64 arrays, or raise `UsageError`."""
    arrays = (objective, model.lower if lower is None else lower, model.upper if upper is None else upper)
    for name, array in zip(("objective", "lower", "upper"), arrays, strict=True):
        if np.shape(array) != (model.columns,):
            raise UsageError(f"{name} has shape {np.shape(array)}, expected ({model.columns},)")
        if not bool(np.all(np.isfinite(array))):
            raise UsageError(f"{name} has entries that are not finite")
    result = tuple(np.asarray(array, dtype=np.float64) for array in arrays)
    if bool(np.any(result[1] > result[2])):
        raise UsageError("lower exceeds upper: the box is empty")
    return result[0], result[1], result[2]


def _projected(model: LinearModel, duals: Float64Array) -> Float64Array:
    """Return the duals with zeros where they are not finite or need a side that is infinite."""
    y = np.asarray(duals, dtype=np.float64)
    if y.shape != (model.rows,):
        raise UsageError(f"duals have shape {y.shape}, expected ({model.rows},)")
    usable = np.isfinite(y) & ~((y > 0) & np.isinf(model.row_upper)) & ~((y < 0) & np.isinf(model.row_lower))
    return np.where(usable, y, 0.0)


def _evaluate_rounded(
    model: LinearModel, c: Float64Array, y: Float64Array, lower: Float64Array, upper: Float64Array
) -> float:
    """Evaluate the dual bound in float64, rounded upwards; not finite when something overflows."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        if y.any():
            # Computed r is off by at most γ_{n+2} (|c| + |A|ᵀ|y|), and the computed |c| + |A|ᵀ|y| by the same
            # factor; γ_k / (1 − γ_k) ≤ γ_{2k}, and 8 more units cover the roundings of this line itself.
            products = model.values * y[model.entry_rows()]
            size = model.columns
            counts = np.bincount(model.indices, minlength=size).astype(np.float64)
            reduced = c - np.bincount(model.indices, weights=products, minlength=size)
            magnitude = np.abs(c) + np.bincount(model.indices, weights=np.abs(products), minlength=size)
            units = (2.0 * counts + 12.0) * UNIT_ROUNDOFF
            error = units / (1.0 - units) * magnitude + (counts + 4.0) * _TINY
            side = np.where(y > 0, model.row_upper, model.row_lower)
            used = y != 0
            row_terms = y[used] * side[used]
        else:
            reduced, error, row_terms = c, np.zeros(0), np.zeros(0)
        terms = [row_terms, np.maximum(reduced * lower, reduced * upper)]
        if error.size:
            terms.append(error * np.maximum(np.abs(lower), np.abs(upper)))
        total, slack = _tree_sum(np.concatenate(terms))
        bound = total + slack
    return math.nextafter(bound, math.inf) if math.isfinite(bound) else math.inf


def _tree_sum(terms: Float64Array) -> tuple[float, float]:
    """Return the float64 sum of `terms` and an upper bound on its error, one rounding in each term included.

    Adding in a balanced tree makes each term take part in only ``log2 n`` roundings, so the error is some
    hundred times less than the one that holds for any order.
    """
    sums = np.stack([terms, np.abs(terms)])
    levels = 0
    while sums.shape[1] > 1:
        half = (sums.shape[1] + 1) // 2
        folded = sums[:, :half].copy()
        folded[:, : sums.shape[1] - half] += sums[:, half:]
        sums, levels = folded, levels + 1
    if not sums.size:
        return 0.0, 0.0
    slack = gamma(2 * (levels + 3) + 8) * float(sums[1, 0]) + (terms.size + 4) * _TINY
    return float(sums[0, 0]), slack


def _evaluate_exactly(
    model: LinearModel, c: Float64Array, y: Float64Array, lower: Float64Array, upper: Float64Array
) -> float:
    """Evaluate the dual bound in integers, rounding only the duals (to a grid) and the result (upwards)."""
    box, box_bits = _integers(np.stack([lower, upper]))
    reduced, reduced_bits = _integers(c)
    row_total, row_bits = 0, 0
    if y.any():
        grid_bits = _GRID_BITS - math.frexp(float(np.max(np.abs(c))) or float(np.max(np.abs(y))))[1]
        y_grid = _on_grid(y, grid_bits)
        values, value_bits = _integers(model.values)
        used = np.flatnonzero(y_grid)
        positive = y[used] > 0
        sides, side_bits = _integers(np.where(positive, model.row_upper[used], model.row_lower[used]))
        row_total, row_bits = sum((y_grid[used] * sides).tolist()), grid_bits + side_bits
        product = _column_sums(model, values * y_grid[model.entry_rows()])
        product_bits = value_bits + grid_bits
        bits = max(reduced_bits, product_bits)
        reduced = reduced * (1 << (bits - reduced_bits)) - product * (1 << (bits - product_bits))
        reduced_bits = bits
    column_total = sum(np.maximum(reduced * box[0], reduced * box[1]).tolist())
    column_bits = reduced_bits + box_bits
    bits = max(row_bits, column_bits)
    total = (int(row_total) << (bits - row_bits)) + (int(column_total) << (bits - column_bits))
    return _rounded_up(total, bits)


def _integers(array: Float64Array) -> tuple[_Integers, int]:
    """Return Python integers ``n`` and ``bits`` with ``array = n · 2^−bits`` exactly."""
    mantissa, exponent = np.frexp(array)
    whole = (mantissa * 2.0**53).astype(np.int64).astype(object)
    powers = exponent.astype(np.int64) - 53
    nonzero = mantissa != 0
    least = int(powers[nonzero].min()) if nonzero.any() else 0
    least = min(least, 0)
    shifts = np.where(nonzero, powers - least, 0).astype(object)
    return np.asarray(np.left_shift(whole, shifts), dtype=object), -least


def _on_grid(y: Float64Array, bits: int) -> _Integers:
    """Return ``y · 2^bits`` rounded towards zero to Python integers; the sign never changes."""
    whole, own_bits = _integers(y)
    shift = bits - own_bits
    if shift >= 0:
        return whole * (1 << shift)
    signs = np.sign(y).astype(np.int64).astype(object)
    return signs * (abs(whole) >> -shift)


def _column_sums(model: LinearModel, products: _Integers) -> _Integers:
    """Return the sums of the entries of each column, shape ``(columns,)``."""
    sums: npt.NDArray[Any] = np.zeros(model.columns, dtype=object)
    if products.size:
        order = np.argsort(model.indices, kind="stable")
        ordered = model.indices[order]
        starts: Int64Array = np.flatnonzero(np.diff(ordered, prepend=-1))
        sums[ordered[starts]] = np.add.reduceat(products[order], starts)
    return sums


def _rounded_up(numerator: int, bits: int) -> float:
    """Return the least float64 at or above ``numerator · 2^−bits``, up to one unit; ``inf`` on overflow."""
    try:
        nearest = numerator / (1 << bits)  # correctly rounded by Python for integers of any size
    except OverflowError:
        return math.inf if numerator > 0 else -math.nextafter(math.inf, 0.0)
    above, below = nearest.as_integer_ratio()
    if above * (1 << bits) < numerator * below:
        return math.nextafter(nearest, math.inf)
    return nearest
