"""Linear planes around activations: the relaxations that backward substitution uses.

A *plane pair* bounds a scalar ``r`` by ``lower <= r <= upper``, both affine in the float pre-activation ``a``
and the difference ``d = v − a``.  Each candidate below is valid for its phase case; where several are, the
one that is tightest at the centre of the box is kept, which minimizes its mean over the box.

*Soundness:* slopes are results of at most four float64 roundings; a plane with exact slopes and offset is
valid (proofs beside the formulas), so the offset is moved outwards by ``16 u (|p_a||a| + |p_d||d| + |q|)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpq._arrays import UNIT_ROUNDOFF, BoolArray, Float64Array
from milpq.bounds.outward import TINY, largest
from milpq.bounds.values import Interval

_SLACK = 16 * UNIT_ROUNDOFF


@dataclass(frozen=True, slots=True, eq=False)
class Plane:
    """``slope_a·a + slope_d·d + offset``, each of shape (cubes, neurons)."""

    slope_a: Float64Array
    slope_d: Float64Array
    offset: Float64Array

    def __add__(self, other: Plane) -> Plane:
        """Return the sum of two planes (its rounding is covered by `widened`)."""
        return Plane(self.slope_a + other.slope_a, self.slope_d + other.slope_d, self.offset + other.offset)

    def __neg__(self) -> Plane:
        """Return the negated plane."""
        return Plane(-self.slope_a, -self.slope_d, -self.offset)


@dataclass(frozen=True, slots=True, eq=False)
class PlanePair:
    """A lower and an upper plane of one quantity."""

    lower: Plane
    upper: Plane

    def __add__(self, other: PlanePair) -> PlanePair:
        """Return planes of the sum of two quantities."""
        return PlanePair(self.lower + other.lower, self.upper + other.upper)

    def __neg__(self) -> PlanePair:
        """Return planes of the negated quantity."""
        return PlanePair(-self.upper, -self.lower)

    def widened(self, a: Interval, d: Interval) -> PlanePair:
        """Return the pair moved outwards to cover the rounding of slopes and offsets."""
        size_a, size_d = largest(a.lower, a.upper), largest(d.lower, d.upper)

        def slack(plane: Plane) -> Float64Array:
            weight = np.abs(plane.slope_a) * size_a + np.abs(plane.slope_d) * size_d + np.abs(plane.offset)
            return _SLACK * (weight + size_a + size_d) + TINY

        low, high = self.lower, self.upper
        return PlanePair(
            Plane(low.slope_a, low.slope_d, low.offset - slack(low)),
            Plane(high.slope_a, high.slope_d, high.offset + slack(high)),
        )


def relu_planes(x: Interval, kink: float = 0.0) -> tuple[Float64Array, ...]:
    """Return ``(lower_slope, lower_offset, upper_slope, upper_offset)`` of ``relu(x − kink)`` in ``x``.

    Upper: the chord.  Lower: slope 0 or 1, whichever loses less area (CROWN's adaptive choice).

    References: Zhang et al., *Efficient Neural Network Robustness Certification with General Activation
    Functions*.
    """
    low, high = x.lower - kink, x.upper - kink
    unstable = (low < 0) & (high > 0)
    active = low >= 0
    width = np.where(unstable, high - low, 1.0)
    upper_slope = np.where(unstable, high / width, active)
    lower_slope = np.where(unstable, high > -low, active).astype(np.float64)
    upper_offset = -upper_slope * np.where(unstable, x.lower, kink)
    return lower_slope, -lower_slope * kink, upper_slope, upper_offset


def clamp_planes(x: Interval, lower: float, upper: float) -> tuple[Float64Array, ...]:
    """Return the four arrays of `relu_planes` for ``min(max(x, lower), upper)``.

    Uses ``clamp = lower + relu(x − lower) − relu(x − upper)``, without the parts of infinite ends.
    """
    one, zero = np.ones_like(x.lower), np.zeros_like(x.lower)
    if np.isfinite(lower):
        low_slope, low_offset, high_slope, high_offset = relu_planes(x, lower)
        low_offset, high_offset = low_offset + lower, high_offset + lower
    else:
        low_slope, low_offset, high_slope, high_offset = one, zero, one, zero
    if np.isfinite(upper):
        cut = relu_planes(x, upper)
        low_slope, low_offset = low_slope - cut[2], low_offset - cut[3]
        high_slope, high_offset = high_slope - cut[0], high_offset - cut[1]
    return low_slope, low_offset, high_slope, high_offset


def relu_pair_planes(a: Interval, v: Interval, d: Interval, kink: float = 0.0) -> PlanePair:
    """Return planes of ``r = relu(v − kink) − relu(a − kink)`` with ``v = a + d``.

    The phase cases, with ``a`` and ``v`` measured from the kink:

    - both active ``r = d``; both dead ``r = 0``;
    - one side stable: ``r`` is exact in the ReLU of the other, which is relaxed alone;
    - both unstable: chords in ``d`` (U1, L1), the guarded cuts U2, U3, L2, L3, and the two ReLUs apart.

    Proof of U1: ``r <= max(d, 0)`` as ReLU is nondecreasing and 1-Lipschitz, and the chord lies above it.
    U2 ``r <= d − dl(1 − a/ua)``, needs ``ua >= −dl``: for ``a, v >= 0``, ``r = d`` and the rest is >= 0; for
    ``v < 0 <= a``, ``r = −a`` and ``d − dl + dl·a/ua >= dl·a/ua >= −a``; for ``a < 0`` the right side is at
    least ``max(d − dl, 0) + ...`` with ``dl·a/ua >= 0``, above both 0 and ``v = a + d``.  U3
    ``r <= du(1 − a/la)``, needs ``−la >= du``, and L1 to L3 follow by exchanging the two sides (``a ↔ v``,
    ``d ↔ −d``).
    """
    al, au = a.lower - kink, a.upper - kink
    vl, vu = v.lower - kink, v.upper - kink
    dl, du = d.lower, d.upper
    a_low, a_low_offset, a_high, a_high_offset = relu_planes(a, kink)
    v_low, v_low_offset, v_high, v_high_offset = relu_planes(v, kink)
    # The two ReLUs apart: exact for every stable/stable case, and exact in the stable side otherwise.
    apart_upper = Plane(v_high - a_low, v_high, v_high_offset - a_low_offset)
    apart_lower = Plane(v_low - a_high, v_low, v_low_offset - a_high_offset)
    zero = np.zeros_like(dl)
    straddles = (dl < 0) & (du > 0)
    width = np.where(straddles, du - dl, 1.0)
    middle_a, middle_d = 0.5 * (a.lower + a.upper), 0.5 * (dl + du)

    slope = np.where(straddles, du / width, dl >= 0)
    upper = PlaneChoice(middle_a, middle_d, 1.0)
    upper.offer(apart_upper)
    upper.offer(Plane(zero, slope, np.where(straddles, -slope * dl, 0.0)))
    valid = (dl < 0) & (au > 0) & (au >= -dl) & (al <= 0)
    ratio = _quotient(dl, au, valid)
    upper.offer(Plane(ratio, zero + 1.0, -dl - ratio * kink), valid)
    valid = (du > 0) & (al < 0) & (-al >= du) & (au >= 0)
    ratio = _quotient(du, al, valid)
    upper.offer(Plane(-ratio, zero, du + ratio * kink), valid)

    slope = np.where(straddles, -dl / width, du <= 0)
    lower = PlaneChoice(middle_a, middle_d, -1.0)
    lower.offer(apart_lower)
    lower.offer(Plane(zero, slope, np.where(straddles, -slope * du, 0.0)))
    valid = (du > 0) & (vu > 0) & (vu >= du) & (vl <= 0)
    ratio = _quotient(du, vu, valid)
    lower.offer(Plane(ratio, 1.0 + ratio, -du - ratio * kink), valid)
    valid = (dl < 0) & (vl < 0) & (vl <= dl) & (vu >= 0)
    ratio = _quotient(dl, vl, valid)
    lower.offer(Plane(-ratio, -ratio, dl + ratio * kink), valid)
    return PlanePair(lower.plane(), upper.plane())


def _quotient(part: Float64Array, whole: Float64Array, valid: BoolArray) -> Float64Array:
    """Return ``part / whole``, at most 1 in magnitude where `valid`; 0 elsewhere, where it may overflow."""
    return np.where(valid, part, 0.0) / np.where(valid, whole, 1.0)


def clamp_pair_planes(a: Interval, v: Interval, d: Interval, lower: float, upper: float) -> PlanePair:
    """Return planes of ``φ(v) − φ(a)`` for the clamp ``φ``, as a sum over its finite kinks."""
    if np.isfinite(lower):
        planes = relu_pair_planes(a, v, d, lower)
    else:
        identity = Plane(np.zeros_like(a.lower), np.ones_like(a.lower), np.zeros_like(a.lower))
        planes = PlanePair(identity, identity)
    if np.isfinite(upper):
        planes = planes + -relu_pair_planes(a, v, d, upper)
    return planes


def relu_planes_at(low: Float64Array, high: Float64Array, kink: Float64Array) -> tuple[Float64Array, ...]:
    """Return `relu_planes` of ``relu(x − kink)`` with a kink of its own for every neuron."""
    unstable = (low < kink) & (high > kink)
    active = low >= kink
    width = np.where(unstable, high - low, 1.0)
    upper_slope = np.where(unstable, (high - kink) / width, active)
    lower_slope = np.where(unstable, high - kink > kink - low, active).astype(np.float64)
    upper_offset = -upper_slope * np.where(unstable, low, kink)
    return lower_slope, -lower_slope * kink, upper_slope, upper_offset


class PlaneChoice:
    """Keeps, neuron by neuron, the plane that is tightest at the centre of the box."""

    def __init__(self, middle_a: Float64Array, middle_d: Float64Array, sign: float) -> None:
        self._middle_a, self._middle_d, self._sign = middle_a, middle_d, sign
        self._best: Plane | None = None
        self._value = np.empty(0)

    def offer(self, plane: Plane, valid: BoolArray | None = None) -> None:
        """Consider a plane that bounds the quantity wherever `valid` holds."""
        value = plane.slope_a * self._middle_a + plane.slope_d * self._middle_d + plane.offset
        if self._best is None:
            self._best, self._value = plane, value
            return
        better = self._sign * value < self._sign * self._value
        if valid is not None:
            better &= valid
        best = self._best
        self._best = Plane(
            np.where(better, plane.slope_a, best.slope_a),
            np.where(better, plane.slope_d, best.slope_d),
            np.where(better, plane.offset, best.offset),
        )
        self._value = np.where(better, value, self._value)

    def plane(self) -> Plane:
        """Return the planes kept."""
        assert self._best is not None
        return self._best
