"""Points whose convex hull holds the graph of a pair of curves (sigmoid, tanh) over ranges of its two sides.

The graph ``(a, d) ↦ (h, δ)`` lies in a product of two polygons.  One holds ``(a, f(a))``: over each part of the range
of ``a`` a chord is lifted and lowered until the curve lies between.  The other is the better one, neuron by neuron, of

- ``(d, δ)``: by the mean value theorem ``f(a + d) − f(a)`` lies between ``m·d`` and ``M·d``, with the slopes between
  ``a`` and ``v``; the larger of the two is convex and the smaller concave in ``d``, so the four points at the ends of
  ``d`` hold all of it, and what a rounding step adds (`milpq.bounds.residue`) moves them apart;
- ``(d, z)``: ``z = h + δ`` between its least and largest value, which few levels leave.

*Soundness:* every coordinate is rounded outwards by its own errors; `milpq.bounds.curves.peak` holds for any slope.
"""

from __future__ import annotations

import numpy as np

from milpq._arrays import UNIT_ROUNDOFF, Float64Array
from milpq.bounds.curves import image, peak
from milpq.bounds.outward import TINY, down, up
from milpq.bounds.residue import Residue
from milpq.bounds.values import Interval
from milpq.network.curves import Curve

PARTS = 4
"""Parts of the range of ``a``."""


def curve_points(
    curve: Curve, residue: Residue | None, a: Interval, v: Interval, d: Interval
) -> tuple[Float64Array, ...]:
    """Return ``a``, ``d``, ``h`` and ``δ`` of the points over ranges of shape (nodes, neurons).

    Parameters
    ----------
    residue : Residue or None
        Of the step of the quantized side, where it has one.

    Returns
    -------
    tuple of four float64 of shape (nodes, neurons, points)
    """
    x, h = _outline(curve, a)
    corners, at_delta, at_z, apart = _corners(curve, residue, a, v, d)
    count = x.shape[-1] * corners.shape[-1]

    def spread(part: Float64Array) -> Float64Array:
        whole = np.broadcast_to(part, (*x.shape, corners.shape[-1]))
        return whole.reshape(*x.shape[:-1], count)

    delta = np.where(apart[..., None, None], at_z[..., None, :] - h[..., None], at_delta[..., None, :])
    return spread(x[..., None]), spread(corners[..., None, :]), spread(h[..., None]), spread(delta)


def _outline(curve: Curve, a: Interval) -> tuple[Float64Array, Float64Array]:
    """Return points ``(a, h)`` whose hull holds the curve, shape (nodes, neurons, points) each."""
    width = a.upper - a.lower
    at = [
        a.lower,
        *(np.clip(a.lower + k / PARTS * width, a.lower, a.upper) for k in range(1, PARTS)),
        a.upper,
    ]
    values = [curve.odd(x) for x in at]
    high = [np.full_like(a.lower, -np.inf) for _ in at]
    low = [np.full_like(a.lower, np.inf) for _ in at]
    for k in range(PARTS):
        span = at[k + 1] - at[k]
        slope = (values[k + 1] - values[k]) / np.where(span > 1e-150, span, np.inf)
        slope = np.clip(slope, 0.0, curve.steepest)
        above, below = peak(curve, slope, at[k], at[k + 1]), -peak(curve, slope, -at[k + 1], -at[k])
        for end in (k, k + 1):
            line = slope * at[end]
            slack = 4 * UNIT_ROUNDOFF * (1.0 + np.abs(line) + np.abs(above) + np.abs(below)) + TINY
            high[end] = np.maximum(high[end], curve.centre + (line + above) + slack)
            low[end] = np.minimum(low[end], curve.centre + (line + below) - slack)
    return np.stack([*at, *at], axis=-1), np.stack([*high, *low], axis=-1)


def _corners(
    curve: Curve, residue: Residue | None, a: Interval, v: Interval, d: Interval
) -> tuple[Float64Array, Float64Array, Float64Array, np.ndarray]:
    """Return ``d``, ``δ`` and ``z`` at four points, shape (nodes, neurons, 4) each, and where ``z`` is to be taken."""
    least, most = curve.slopes(np.minimum(a.lower, v.lower), np.maximum(a.upper, v.upper))
    rounding, reached = Interval(np.zeros_like(d.lower), np.zeros_like(d.lower)), image(curve, v)
    if residue is not None:
        rounding, reached, _ = residue.band(*residue.accumulators(v))
    ends: list[Float64Array] = []
    for end in (d.lower, d.upper):
        ends.append(down(down(np.minimum(least * end, most * end)) + rounding.lower))
        ends.append(up(up(np.maximum(least * end, most * end)) + rounding.upper))
    thickness = np.maximum(ends[1] - ends[0], ends[3] - ends[2])
    d_ends = [d.lower, d.lower, d.upper, d.upper]
    z_ends = [reached.lower, reached.upper] * 2
    apart = reached.upper - reached.lower < thickness
    return np.stack(d_ends, axis=-1), np.stack(ends, axis=-1), np.stack(z_ends, axis=-1), apart
