"""Lines and planes around sigmoid and tanh, and the images of intervals under them.

Everything rests on two facts about the odd part ``s`` of a curve: it is convex below 0 and concave above, and its
slope falls with the distance from 0.  Slopes of lines are free choices; what makes a line valid is its offset, the
largest ``s(x) − k·x`` over the interval, which `peak` bounds rigorously for any ``k``.  So how slopes are chosen
never matters for soundness.

References: Zhang et al., *Efficient Neural Network Robustness Certification with General Activation Functions* (the
cases of an S-shaped curve).
"""

from __future__ import annotations

import numpy as np

from milpq._arrays import UNIT_ROUNDOFF, Float64Array
from milpq.bounds.outward import TINY, down, up
from milpq.bounds.planes import Plane, PlaneChoice, PlanePair
from milpq.bounds.values import Interval
from milpq.network.curves import CURVE_ERROR, Curve

_TOUCHES = (1.0, 0.7, 0.4)
"""Where tangents are tried, between the point of an interval nearest to 0 and its end."""


def image(curve: Curve, x: Interval) -> Interval:
    """Return bounds on the curve over intervals."""
    # The value errs by `CURVE_ERROR`; one more covers the sum.
    lower = curve.value(x.lower) - 2 * CURVE_ERROR
    upper = curve.value(x.upper) + 2 * CURVE_ERROR
    return Interval(np.maximum(lower, curve.lower), np.minimum(upper, curve.upper))


def peak(curve: Curve, slope: Float64Array, lower: Float64Array, upper: Float64Array) -> Float64Array:
    """Return upper bounds of ``s(x) − slope·x`` over intervals, for any slopes.

    *Soundness:* on the part below 0 the function is convex, so its largest value lies at an end.  On the part from 0
    on, ``s`` lies below each of its tangents, and a tangent minus ``slope·x`` is largest at an end too; the tangent is
    taken about where the curve has that slope, so hardly anything is lost.  Each value of ``s`` and its slope errs by
    `CURVE_ERROR`, and the sums by four roundings of their parts.
    """
    left, right = np.minimum(upper, 0.0), np.maximum(lower, 0.0)
    convex = np.maximum(_above(curve, slope, np.minimum(lower, 0.0)), _above(curve, slope, left))
    touch = np.clip(curve.touching(slope), right, np.maximum(upper, 0.0))
    height, tangent = curve.odd(touch), curve.slope(touch)
    concave = np.full_like(convex, -np.inf)
    for end in (right, np.maximum(upper, 0.0)):
        away = end - touch
        size = np.abs(height) + tangent * np.abs(away) + np.abs(slope * end)
        value = height + tangent * away - slope * end
        value = value + (CURVE_ERROR * (1.0 + np.abs(away)) + 8 * UNIT_ROUNDOFF * size) + TINY
        concave = np.maximum(concave, value)
    flat = curve.amplitude - np.minimum(slope * right, slope * upper)
    flat = flat + 4 * UNIT_ROUNDOFF * (1.0 + np.abs(slope) * np.maximum(right, upper))
    concave = np.minimum(concave, flat)
    result = np.where(lower < 0.0, convex, -np.inf)
    return np.maximum(result, np.where(upper > 0.0, concave, np.where(lower < 0.0, -np.inf, convex)))


def _above(curve: Curve, slope: Float64Array, x: Float64Array) -> Float64Array:
    """Return a number at least ``s(x) − slope·x``."""
    line = slope * x
    return (curve.odd(x) - line) + (CURVE_ERROR + 4 * UNIT_ROUNDOFF * (1.0 + np.abs(line)))


def odd_planes(curve: Curve, x: Interval) -> tuple[Float64Array, ...]:
    """Return ``(lower_slope, lower_offset, upper_slope, upper_offset)`` of ``s(x)`` in ``x``.

    Of some chords and tangents the one that is tightest in the middle is taken.
    """
    upper = _upper_line(curve, x.lower, x.upper)
    # s is odd: what lies above −s(x) = s(−x) lies below s(x) when negated.
    lower = _upper_line(curve, -x.upper, -x.lower)
    return lower[0], -lower[1], upper[0], upper[1]


def _upper_line(curve: Curve, lower: Float64Array, upper: Float64Array) -> tuple[Float64Array, Float64Array]:
    width = upper - lower
    wide = width > 1e-150
    chord = (curve.odd(upper) - curve.odd(lower)) / np.where(wide, width, 1.0)
    middle = 0.5 * lower + 0.5 * upper
    slopes = [np.where(wide, np.clip(chord, 0.0, curve.steepest), curve.slope(middle))]
    nearest, end = np.maximum(middle, 0.0), np.maximum(upper, 0.0)
    slopes += [curve.slope(nearest + (end - nearest) * (1.0 - share)) for share in _TOUCHES]
    best_slope, best = slopes[0], np.full_like(middle, np.inf)
    best_offset = best
    for slope in slopes:
        offset = peak(curve, slope, lower, upper)
        value = slope * middle + offset
        better = value < best
        best_slope = np.where(better, slope, best_slope)
        best_offset, best = np.where(better, offset, best_offset), np.where(better, value, best)
    return best_slope, best_offset


def curve_planes(curve: Curve, x: Interval) -> tuple[Float64Array, ...]:
    """Return the four arrays of `odd_planes` for the curve itself."""
    low_slope, low_offset, high_slope, high_offset = odd_planes(curve, x)
    return low_slope, down(low_offset + curve.centre), high_slope, up(high_offset + curve.centre)


def curve_pair_planes(curve: Curve, a: Interval, v: Interval, d: Interval) -> PlanePair:
    """Return planes of ``r = f(v) − f(a)`` with ``v = a + d``.

    - The mean value theorem: ``r`` lies between ``m·d`` and ``M·d`` with the least and the largest slope of the curve
      over the hull of both ranges; above that, in ``d``, lies the chord of ``max(m·d, M·d)``, which is convex.
    - One slope ``k`` for both: ``r = k·d + [s(v) − k·v] − [s(a) − k·a]``, the brackets bounded by `peak`.
    - The two curves apart.
    """
    least, most = curve.slopes(np.minimum(a.lower, v.lower), np.maximum(a.upper, v.upper))
    zero = np.zeros_like(a.lower)
    middle_a, middle_d = 0.5 * a.lower + 0.5 * a.upper, 0.5 * d.lower + 0.5 * d.upper
    common = curve.slope(middle_a + 0.5 * middle_d)
    a_planes, v_planes = odd_planes(curve, a), odd_planes(curve, v)

    def upper(
        a: Interval,
        v: Interval,
        d: Interval,
        low_a: tuple[Float64Array, ...],
        high_v: tuple[Float64Array, ...],
    ) -> Plane:
        """Return the upper plane; of the mirrored problem for the lower one."""
        choice = PlaneChoice(0.5 * a.lower + 0.5 * a.upper, 0.5 * d.lower + 0.5 * d.upper, 1.0)
        slope, offset = _upper_chord(least, most, d)
        choice.offer(Plane(zero, slope, offset))
        choice.offer(
            Plane(
                zero,
                common,
                up(peak(curve, common, v.lower, v.upper) + peak(curve, common, -a.upper, -a.lower)),
            )
        )
        choice.offer(Plane(high_v[0] - low_a[0], high_v[0], up(high_v[1] - low_a[1])))
        return choice.plane()

    high = upper(a, v, d, a_planes[:2], v_planes[2:])
    # r(−a, −d) = −r(a, d): the upper plane of the mirrored ranges, mirrored back, lies below.
    mirrored = upper(
        _mirror(a),
        _mirror(v),
        _mirror(d),
        (a_planes[2], -a_planes[3]),
        (v_planes[0], -v_planes[1]),
    )
    return PlanePair(Plane(mirrored.slope_a, mirrored.slope_d, -mirrored.offset), high)


def _upper_chord(least: Float64Array, most: Float64Array, d: Interval) -> tuple[Float64Array, Float64Array]:
    """Return slope and offset of a line above ``max(m·d, M·d)``."""
    low, high = np.maximum(least * d.lower, most * d.lower), np.maximum(least * d.upper, most * d.upper)
    straddles = (d.lower < 0) & (d.upper > 0)
    width = np.where(straddles, d.upper - d.lower, 1.0)
    slope = np.where(straddles, (high - low) / width, np.where(d.lower >= 0, most, least))
    slope = np.clip(slope, 0.0, most)
    # Convex in d, so largest at an end once the line is taken off.
    ends = [
        value - slope * end + 4 * UNIT_ROUNDOFF * (np.abs(value) + np.abs(slope * end)) + TINY
        for value, end in ((low, d.lower), (high, d.upper))
    ]
    return slope, np.maximum(*ends)


def _mirror(x: Interval) -> Interval:
    return Interval(-x.upper, -x.lower)


def curve_difference(curve: Curve, a: Interval, v: Interval, d: Interval) -> Interval:
    """Return bounds on ``f(a + d) − f(a)``.

    *Soundness:* it grows with ``d``.  For a fixed ``d >= 0`` its derivative in ``a``, ``s'(a + d) − s'(a)``, is
    positive below ``−d/2`` and negative above, so it is largest at the point next to ``−d/2``; for ``d < 0`` it is
    minus the same function of ``a + d``, and largest at an end.  The mean value theorem gives a bound that does not
    lose small differences to rounding.
    """
    least, most = curve.slopes(np.minimum(a.lower, v.lower), np.maximum(a.upper, v.upper))
    upper = _largest_difference(curve, a, d.upper, least, most)
    lower = -_largest_difference(curve, _mirror(a), -d.lower, least, most)
    return Interval(lower, upper)


def _largest_difference(
    curve: Curve, a: Interval, d: Float64Array, least: Float64Array, most: Float64Array
) -> Float64Array:
    inner = np.clip(-0.5 * d, a.lower, a.upper)
    starts = np.where(d >= 0, inner, a.lower), np.where(d >= 0, inner, a.upper)
    moved = np.maximum(*(curve.odd(start + d) - curve.odd(start) for start in starts))
    # Two values, their difference, and a rounding of a + d: x·s'(x) is below 1/2.
    moved = moved + (2 * CURVE_ERROR + 4 * UNIT_ROUNDOFF)
    return np.minimum(moved, up(np.where(d >= 0, most, least) * d))
