"""One pair of curves (sigmoid, tanh) in affine form: scalar formulas, compiled.

The curve is ``f(x) = centre + s(x)`` with the odd part ``s`` of `milpq.network.curves`, whose arithmetic is repeated
here operation by operation, so that its error bound holds here too.  A curve is given as the triple
``(centre, amplitude, rate)``; a rate of 0 stands for none.

The difference ``f(a + d) − f(a)`` over a small cube is enclosed to second order: with ``ac`` and ``dc`` in the middle,
walk from ``(ac, dc)`` to ``(a, dc)``, where the derivative is ``f'(a + dc) − f'(a) = f''(ξ)·dc``, and on to ``(a, d)``,
where it is ``f'(a + t)``.  So for any ``q`` and ``k``

    ``f(a + d) − f(a) = [f(ac + dc) − f(ac)] + q·(a − ac) + k·(d − dc) ± (|F''·dc − q|·ra + |F' − k|·rd)``

with enclosures ``F''`` and ``F'`` over what the walk can meet.  What is left falls with the square of the cube.
"""

# pyright: reportArgumentType=false

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np

from milpq._compiled import compiled
from milpq.network.curves import CURVE_ERROR, FARTHEST, LN2_HIGH, LN2_LOW, LOG2_E, TAYLOR

_U = 2.0**-53
_TINY = 1e-300
_BEND, _BEND_AT = 0.38490017945975056, 0.5773502691896258
"""The largest ``w·(1 − w²)`` for ``w`` in [0, 1], and where."""
_BEND_ERROR = 2.0**-46

Smooth: TypeAlias = tuple[float, float, float]


@compiled
def _exponential(y: float) -> float:
    """Return ``e^−y`` of ``y >= 0`` as `milpq.network.curves` does."""
    x = -min(y, FARTHEST)
    k = np.rint(x * LOG2_E)
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    total = TAYLOR[0]
    for i in range(1, len(TAYLOR)):
        total = total * r + TAYLOR[i]
    total = total * r + 1.0
    total = total * r + 1.0
    return math.ldexp(total, int(k))


@compiled
def odd(curve: Smooth, x: float) -> float:
    """Return ``s(x)`` within `CURVE_ERROR`."""
    t = _exponential(curve[2] * abs(x))
    y = curve[1] * ((1.0 - t) / (1.0 + t))
    return y if x >= 0.0 else -y


@compiled
def value(curve: Smooth, x: float) -> float:
    """Return ``f(x)`` within `CURVE_ERROR`."""
    return curve[0] + odd(curve, x)


@compiled
def _slope(curve: Smooth, x: float) -> float:
    """Return ``f'(x)`` within `CURVE_ERROR`."""
    t = _exponential(curve[2] * abs(x))
    return 2.0 * curve[1] * curve[2] * (t / ((1.0 + t) * (1.0 + t)))


@compiled
def _slopes(curve: Smooth, low: float, high: float) -> tuple[float, float]:
    """Return bounds on ``f'`` over an interval."""
    nearest, farthest = max(low, -high, 0.0), max(-low, high)
    steepest = 0.5 * curve[1] * curve[2]
    least = max(_slope(curve, farthest) - CURVE_ERROR, 0.0)
    most = steepest if nearest == 0.0 else min(_slope(curve, nearest) + CURVE_ERROR, steepest)
    return least, most


@compiled
def _bends(curve: Smooth, low: float, high: float) -> tuple[float, float]:
    """Return bounds on ``f''`` over an interval.

    With ``w = s/amplitude`` it is ``−amplitude·rate²/2·w(1 − w²)``; ``w`` errs by `CURVE_ERROR` over the amplitude, at
    least 1/2, and the product by twice that and a few roundings.
    """
    first, last = odd(curve, low) / curve[1], odd(curve, high) / curve[1]
    at_first, at_last = first * (1.0 - first * first), last * (1.0 - last * last)
    least, most = min(at_first, at_last), max(at_first, at_last)
    if first - _BEND_ERROR < _BEND_AT < last + _BEND_ERROR:
        most = _BEND
    if first - _BEND_ERROR < -_BEND_AT < last + _BEND_ERROR:
        least = -_BEND
    factor = 0.5 * curve[1] * curve[2] * curve[2]
    return -factor * (most + _BEND_ERROR), -factor * (least - _BEND_ERROR)


@compiled
def _above(curve: Smooth, slope: float, x: float) -> float:
    """Return a number at least ``s(x) − slope·x``."""
    line = slope * x
    return (odd(curve, x) - line) + (CURVE_ERROR + 4 * _U * (1.0 + abs(line)))


@compiled
def _peak(curve: Smooth, slope: float, low: float, high: float) -> float:
    """Return an upper bound of ``s(x) − slope·x`` over an interval: `milpq.bounds.curves.peak` of one."""
    result = -np.inf
    if low < 0.0:
        result = max(_above(curve, slope, low), _above(curve, slope, min(high, 0.0)))
    if high > 0.0 or low >= 0.0:
        right = max(low, 0.0)
        end = max(high, 0.0)
        w = math.sqrt(min(max(1.0 - slope / (0.5 * curve[1] * curve[2]), 0.0), 1.0 - 2.0**-52))
        touch = min(max(math.log1p(2.0 * w / (1.0 - w)) / curve[2], right), end)
        height, tangent = odd(curve, touch), _slope(curve, touch)
        concave = -np.inf
        for x in (right, end):
            away = x - touch
            size = abs(height) + tangent * abs(away) + abs(slope * x)
            here = height + tangent * away - slope * x
            concave = max(concave, here + (CURVE_ERROR * (1.0 + abs(away)) + 8 * _U * size) + _TINY)
        flat = curve[1] - min(slope * right, slope * end)
        result = max(result, min(concave, flat + 4 * _U * (1.0 + abs(slope) * end)))
    return result


@compiled
def _band(curve: Smooth, slope: float, low: float, high: float) -> tuple[float, float, float]:
    """Return ``(slope, m, r)`` with ``f(x) ∈ slope·x + m ± r``; `s` is odd, so that the lower end mirrors the upper."""
    most, least = _peak(curve, slope, low, high), -_peak(curve, slope, -high, -low)
    return slope, curve[0] + (0.5 * least + 0.5 * most), 0.5 * most - 0.5 * least


@compiled
def lines(curve: Smooth, low: float, high: float) -> tuple[float, float, float]:
    """Return ``(k, m, r)`` with ``f(x) ∈ k·x + m ± r`` over an interval, ``k`` in [0, 1].

    Parallel lines are closest along the chord where the curve bends one way; around 0 other slopes may do better.
    """
    steepest, width = 0.5 * curve[1] * curve[2], high - low
    if width > 1e-150:
        chord = min(max((odd(curve, high) - odd(curve, low)) / width, 0.0), steepest)
    else:
        chord = _slope(curve, low)
    best = _band(curve, chord, low, high)
    if low < 0.0 < high:
        for slope in (_slope(curve, low), _slope(curve, high)):
            other = _band(curve, slope, low, high)
            if other[2] < best[2]:
                best = other
    return best


@compiled
def curve_difference(
    curve: Smooth,
    a_low: float,
    a_high: float,
    v_low: float,
    v_high: float,
    d_low: float,
    d_high: float,
) -> tuple[float, float, float, float]:
    """Return ``(k, q, m, r)`` with ``f(a + d) − f(a) ∈ k·d + q·a + m ± r``, coefficients at most 1 in magnitude.

    The better one of the mean value theorem, with the slopes between ``a`` and ``v``, and of the second order.
    """
    least, most = _slopes(curve, min(a_low, v_low), max(a_high, v_high))
    k, q, m = 0.5 * least + 0.5 * most, 0.0, 0.0
    r = (0.5 * most - 0.5 * least) * max(d_high, -d_low)
    ac, dc = 0.5 * a_low + 0.5 * a_high, 0.5 * d_low + 0.5 * d_high
    if abs(dc) > 1.0:
        return k, q, m, r
    pad = 8 * _U * (abs(a_low) + abs(a_high) + abs(d_low) + abs(d_high)) + _TINY
    ra, rd = max(a_high - ac, ac - a_low) + pad, max(d_high - dc, dc - d_low) + pad
    bend_least, bend_most = _bends(curve, min(a_low, a_low + dc) - pad, max(a_high, a_high + dc) + pad)
    least, most = _slopes(curve, a_low + d_low - pad, a_high + d_high + pad)
    radius = (0.5 * most - 0.5 * least) * rd + (0.5 * bend_most - 0.5 * bend_least) * abs(dc) * ra
    if radius < r:
        k, q, r = 0.5 * least + 0.5 * most, (0.5 * bend_least + 0.5 * bend_most) * dc, radius
        m = (odd(curve, ac + dc) - odd(curve, ac)) - k * dc - q * ac
    return k, q, m, r
