"""One pair of activations in affine form: the phase cases, with rounding steps and saturation.

Given ranges of the float pre-activation ``a``, of the quantized one ``v = a + d`` and of ``d``, every function
here returns coefficients of an affine enclosure.  `activate` also returns one *pad* for all roundings made here:
with it added to the noise, the enclosures hold in exact arithmetic for the coefficients as returned.

References: the differential zonotope of Teuber, Kern et al., *Revisiting Differential Verification:
Equivalence Verification with Confidence* (VeryDiff, TACAS 2025), extended here by the residue of rounding
steps, by saturation, and by outward rounding.
"""

from __future__ import annotations

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq._compiled import compiled
from milpq.bounds.zonotope.smooth import Smooth, curve_difference, lines, value
from milpq.network.curves import CURVE_ERROR

_U = 2.0**-53
_TINY = 1e-300
_LARGEST_ACCUMULATOR = float(2**40 - 1)


@compiled
def clip(x: float, lower: float, upper: float) -> float:
    """Return ``min(max(x, lower), upper)``."""
    return min(max(x, lower), upper)


@compiled
def chord(low: float, high: float, lower: float, upper: float) -> tuple[float, float, float]:
    """Return ``(s, m, r)`` with ``clip(x) ∈ s·x + m ± r`` for ``x`` in [low, high], ``s`` in [0, 1].

    ``clip(x) − s·x`` is piecewise linear for any ``s``: its extremes lie at the ends and at the kinks.
    """
    at_low, at_high = clip(low, lower, upper), clip(high, lower, upper)
    slope = clip((at_high - at_low) / (high - low), 0.0, 1.0) if high > low else 0.0
    first, last = at_low - slope * low, at_high - slope * high
    least, most = min(first, last), max(first, last)
    if low < lower < high:
        kink = lower - slope * lower
        least, most = min(least, kink), max(most, kink)
    if low < upper < high:
        kink = upper - slope * upper
        least, most = min(least, kink), max(most, kink)
    return slope, 0.5 * (least + most), 0.5 * (most - least)


@compiled
def chord_in_difference(low: float, high: float) -> tuple[float, float, float]:
    """Return ``(s, m, r)`` with ``φ(a + d) − φ(a) ∈ s·d + m ± r`` for any clamp φ and ``d`` in [low, high].

    As φ is nondecreasing and 1-Lipschitz the difference lies between 0 and ``d``.  Less ``s·d`` it lies
    between ``−s·d`` and ``(1 − s)·d``, whose extremes lie at the ends of ``d`` and at 0.
    """
    slope = high / (high - low) if low < 0.0 < high else 0.0
    above, below = max(high, 0.0), min(low, 0.0)
    most = max((1.0 - slope) * above, -slope * below)
    least = min(-slope * above, (1.0 - slope) * below)
    return slope, 0.5 * (least + most), 0.5 * (most - least)


@compiled
def residue(
    thresholds: Int64Array,
    levels: Int64Array,
    largest: Float64Array,
    smallest: Float64Array,
    scale: float,
    out: float,
    lower: float,
    upper: float,
    bottom: float,
    top: float,
    curve: Smooth,
    low: float,
    high: float,
) -> tuple[float, float, float, float]:
    """Return the range of ``φ_q(v) − base(v)`` and that of ``φ_q(v)`` for ``v`` in [low, high].

    The scalar form of `milpq.bounds.residue.Residue.band`; up to the pad of `activate`.

    Parameters
    ----------
    thresholds, levels : int64, shapes (steps,) and (steps + 1,)
        The neuron's row of the step function.
    largest, smallest : float64, shape (powers, steps + 1)
        The neuron's residue tables.
    scale, out, lower, upper, bottom, top, curve
        Scales of accumulator and level, the clamp and the saturation, or the curve.
    """
    slack = 2.0**-50
    start, stop = low / scale, high / scale
    start = clip(np.ceil(start - slack * abs(start) - _TINY), -_LARGEST_ACCUMULATOR, _LARGEST_ACCUMULATOR)
    stop = clip(np.floor(stop + slack * abs(stop) + _TINY), -_LARGEST_ACCUMULATOR, _LARGEST_ACCUMULATOR)
    stop = max(start, stop)
    first, last = reached(thresholds, start), reached(thresholds, stop)
    at_low, at_high = out * levels[first], out * levels[last]
    if curve[2] > 0.0:
        most, least = at_low - value(curve, scale * start), at_high - value(curve, scale * stop)
    else:
        most = at_low - clip(clip(scale * start, lower, upper), bottom, top)
        least = at_high - clip(clip(scale * stop, lower, upper), bottom, top)
    inside = last - first
    if inside > 0:
        power, span = 0, 1
        while 2 * span <= inside:
            power, span = power + 1, 2 * span
        most = max(most, largest[power, first + 1], largest[power, last - span + 1])
        least = min(least, smallest[power, first], smallest[power, last - span])
    return least, most, at_low, at_high


@compiled
def reached(thresholds: Int64Array, accumulator: float) -> int:
    """Return how many thresholds are at most the accumulator (an integer, or one below 2^40 in float64)."""
    low, high = 0, len(thresholds)
    while low < high:
        middle = (low + high) // 2
        if thresholds[middle] <= accumulator:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def activate(
    lower: float,
    upper: float,
    v_lower: float,
    v_upper: float,
    stepped: bool,
    band: tuple[float, float, float, float],
    a_low: float,
    a_high: float,
    v_low: float,
    v_high: float,
    d_low: float,
    d_high: float,
) -> tuple[float, float, float, float, float, float, float, float, float, float, float]:
    """Return the enclosure of one pair of activations.

    Parameters
    ----------
    lower, upper
        The clamp φ.
    v_lower, v_upper
        The clamp ``base`` of the quantized side: φ cut to what the codes can represent.
    stepped, band
        Whether the quantized side rounds, and then what `residue` says.
    a_low, a_high, v_low, v_high, d_low, d_high
        Ranges.

    Returns
    -------
    s, m, r
        ``h ∈ s·a + m ± r``.
    p, q, w, dm, dr
        ``δ ∈ p·d + q·a + w·h + dm ± dr``; all coefficients at most 1 in magnitude.  Where ``w`` is not 0 the
        noise of ``h`` is shared, not added again.
    image_low, image_high
        The range of ``φ_q(v)``.
    pad
        Covers the rounding of all of these.
    """
    a_constant = a_high <= lower or a_low >= upper
    a_linear = a_low >= lower and a_high <= upper
    v_constant = v_high <= v_lower or v_low >= v_upper
    v_linear = v_low >= v_lower and v_high <= v_upper
    s, m, r = 1.0, 0.0, 0.0
    if a_constant:
        s, m = 0.0, clip(a_low, lower, upper)
    elif not a_linear:
        s, m, r = chord(a_low, a_high, lower, upper)
    t, vm, vr = 1.0, 0.0, 0.0
    if v_constant:
        t, vm = 0.0, clip(v_low, v_lower, v_upper)
    elif not v_linear:
        t, vm, vr = chord(v_low, v_high, v_lower, v_upper)
    # The two activations apart, δ = [t·v + vm ± vr] − h with v = a + d: exact wherever one side is stable,
    # as the noise of h is shared.  A linear or constant h is written out, so nothing cancels only in part.
    if a_linear:
        p, q, w, dm, dr = t, t - 1.0, 0.0, vm, vr
    elif a_constant:
        p, q, w, dm, dr = t, t, 0.0, vm - m, vr
    else:
        p, q, w, dm, dr = t, t, -1.0, vm, vr
        if not v_constant and not v_linear:
            slope, middle, radius = chord_in_difference(d_low, d_high)
            cut_high = clip(v_low, v_lower, v_upper) - clip(v_low, lower, upper)
            cut_low = clip(v_high, v_lower, v_upper) - clip(v_high, lower, upper)
            radius += 0.5 * (cut_high - cut_low)
            if radius <= vr + r:
                p, q, w, dm, dr = slope, 0.0, 0.0, middle + 0.5 * (cut_low + cut_high), radius
    image_low, image_high = clip(v_low, v_lower, v_upper), clip(v_high, v_lower, v_upper)
    if stepped:
        _, _, image_low, image_high = band
        p, q, w, dm, dr = _rounded(band, (p, q, w, dm, dr), a_linear, a_constant, m)
    # Every number above is the result of fewer than 20 roundings, each of a quantity within these magnitudes.
    size = abs(a_low) + abs(a_high) + abs(v_low) + abs(v_high) + abs(d_low) + abs(d_high)
    size += abs(image_low) + abs(image_high) + abs(m) + abs(vm)
    if stepped:
        size += abs(v_lower) + abs(v_upper)
    pad = 32 * _U * size + _TINY
    return s, m, r, p, q, w, dm, dr, image_low, image_high, pad


@compiled
def _rounded(
    band: tuple[float, float, float, float],
    smooth: tuple[float, float, float, float, float],
    a_linear: bool,
    a_constant: bool,
    m: float,
) -> tuple[float, float, float, float, float]:
    """Return ``(p, q, w, dm, dr)`` of a step from those of what it rounds; `m` is ``h`` where that is constant."""
    p, q, w, dm, dr = smooth
    least, most, image_low, image_high = band
    dm += 0.5 * (least + most)
    dr += 0.5 * (most - least)
    half = 0.5 * (image_high - image_low)
    if half < dr:
        # A step of few levels: its values less h.  Decided, it is a constant.
        dm, dr = 0.5 * (image_low + image_high), half
        if a_linear:
            p, q, w = 0.0, -1.0, 0.0
        elif a_constant:
            p, q, w, dm = 0.0, 0.0, 0.0, dm - m
        else:
            p, q, w = 0.0, 0.0, -1.0
    return p, q, w, dm, dr


@compiled
def activate_curve(
    curve: Smooth,
    stepped: bool,
    band: tuple[float, float, float, float],
    a_low: float,
    a_high: float,
    v_low: float,
    v_high: float,
    d_low: float,
    d_high: float,
) -> tuple[float, float, float, float, float, float, float, float, float, float, float]:
    """Return the enclosure of one pair of curves; parameters and results as of `activate`.

    *Soundness:* coefficients are free choices, at most 1 in magnitude; `milpq.bounds.zonotope.smooth` gives what they
    leave open.  At most eight values of the curve enter an offset, each within `CURVE_ERROR`.
    """
    s, m, r = lines(curve, a_low, a_high)
    p, q, dm, dr = curve_difference(curve, a_low, a_high, v_low, v_high, d_low, d_high)
    w = 0.0
    if dr > r:
        # The two curves apart share the noise of h.
        t, vm, vr = lines(curve, v_low, v_high)
        if vr + r < dr:
            p, q, w, dm, dr = t, t, -1.0, vm, vr
    if stepped:
        _, _, image_low, image_high = band
        p, q, w, dm, dr = _rounded(band, (p, q, w, dm, dr), False, False, m)
    else:
        image_low, image_high = value(curve, v_low), value(curve, v_high)
    size = abs(a_low) + abs(a_high) + abs(v_low) + abs(v_high) + abs(d_low) + abs(d_high)
    size += abs(image_low) + abs(image_high) + abs(m) + 2.0
    pad = 64 * _U * size + 8 * CURVE_ERROR + _TINY
    return s, m, r, p, q, w, dm, dr, image_low, image_high, pad
