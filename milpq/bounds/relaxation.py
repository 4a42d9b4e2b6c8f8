"""The relaxation of one merged activation: planes of ``h`` in ``a`` and of ``δ`` in ``(a, d)``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpq._arrays import UNIT_ROUNDOFF, Float64Array
from milpq.bounds.curves import curve_pair_planes, curve_planes
from milpq.bounds.forward import ResidueBand
from milpq.bounds.outward import TINY, down, largest, up
from milpq.bounds.planes import (
    Plane,
    PlaneChoice,
    PlanePair,
    clamp_pair_planes,
    clamp_planes,
    relu_planes_at,
)
from milpq.bounds.values import Interval, ValueBounds
from milpq.merge.nodes import MergedActivation


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """``centre ± radius`` of a family of planes: what backward substitution multiplies by ``C`` and ``|C|``.

    Each array has shape (cubes, neurons).  `weight` bounds the magnitude of all parts, for the rounding
    slack.
    """

    slope_a: Float64Array
    slope_a_radius: Float64Array
    slope_d: Float64Array
    slope_d_radius: Float64Array
    offset: Float64Array
    offset_radius: Float64Array
    weight: Float64Array

    @classmethod
    def of(cls, planes: PlanePair, a: Interval, d: Interval) -> Band:
        """Return the band between two planes.

        *Soundness:* centre ± radius differ from the planes by one rounding each, which the caller's slack, a
        multiple of `weight`, covers.
        """
        low, high = planes.lower, planes.upper
        size_a, size_d = largest(a.lower, a.upper), largest(d.lower, d.upper)
        weight = (
            (np.abs(low.slope_a) + np.abs(high.slope_a)) * size_a
            + (np.abs(low.slope_d) + np.abs(high.slope_d)) * size_d
            + np.abs(low.offset)
            + np.abs(high.offset)
        )
        return cls(
            0.5 * (high.slope_a + low.slope_a),
            0.5 * (high.slope_a - low.slope_a),
            0.5 * (high.slope_d + low.slope_d),
            0.5 * (high.slope_d - low.slope_d),
            0.5 * (high.offset + low.offset),
            0.5 * (high.offset - low.offset),
            weight + TINY,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Relaxation:
    """The bands of ``h`` and of ``δ`` of one activation."""

    float_side: Band
    difference: Band


def relax(
    node: MergedActivation, band: ResidueBand | None, source: ValueBounds, *, carry_difference: bool
) -> Relaxation:
    """Return the relaxation of a merged activation over bounds on its source.

    Parameters
    ----------
    carry_difference : bool
        Use the phase cases of the pair; otherwise the two activations are relaxed apart.
    """
    a, d = source.float_side, source.difference
    float_planes, pair = activation_planes(node, band, source, carry_difference=carry_difference)
    return Relaxation(Band.of(float_planes, a, d), Band.of(pair, a, d))


def activation_planes(
    node: MergedActivation, band: ResidueBand | None, source: ValueBounds, *, carry_difference: bool
) -> tuple[PlanePair, PlanePair]:
    """Return the planes of ``h`` and of ``δ``, moved outwards so that they hold with their slopes taken exactly."""
    a, v, d = source.float_side, source.quantized_side, source.difference
    zero = np.zeros_like(a.lower)
    low_slope, low_offset, high_slope, high_offset = _planes(node, a)
    float_planes = PlanePair(Plane(low_slope, zero, low_offset), Plane(high_slope, zero, high_offset))
    if carry_difference:
        pair = (
            clamp_pair_planes(a, v, d, node.lower, node.upper)
            if node.curve is None
            else curve_pair_planes(node.curve, a, v, d)
        )
    else:
        low_v, low_v_offset, high_v, high_v_offset = _planes(node, v)
        pair = PlanePair(
            Plane(low_v - high_slope, low_v, low_v_offset - high_offset),
            Plane(high_v - low_slope, high_v, high_v_offset - low_offset),
        )
    if band is not None:
        pair = _with_step(node, band, source, pair, float_planes)
    return float_planes.widened(a, d), pair.widened(a, d)


def _planes(node: MergedActivation, x: Interval) -> tuple[Float64Array, ...]:
    """Return the planes of one side's activation: slope and offset of the lower, then of the upper one."""
    return clamp_planes(x, node.lower, node.upper) if node.curve is None else curve_planes(node.curve, x)


def _with_step(
    node: MergedActivation,
    band: ResidueBand,
    source: ValueBounds,
    pair: PlanePair,
    float_planes: PlanePair,
) -> PlanePair:
    """Add saturation and rounding to the pair's planes, or take the image of the step minus ``h`` if tighter."""
    a, v, d = source.float_side, source.quantized_side, source.difference
    zero = np.zeros_like(a.lower)
    pair = pair + _saturation_planes(node, band, v)
    # Slack for the sums of offsets whose parts may cancel.
    slack = (
        16
        * UNIT_ROUNDOFF
        * (
            largest(v.lower, v.upper)
            + largest(band.image.lower, band.image.upper)
            + largest(a.lower, a.upper)
            + (0.0 if node.curve is None else 1.0)
        )
    )
    low, high = pair.lower, pair.upper
    rounded = PlanePair(
        Plane(low.slope_a, low.slope_d, low.offset + band.residue.lower - slack),
        Plane(high.slope_a, high.slope_d, high.offset + band.residue.upper + slack),
    )
    middle = 0.5 * (a.lower + a.upper), 0.5 * (d.lower + d.upper)
    upper, lower = PlaneChoice(*middle, 1.0), PlaneChoice(*middle, -1.0)
    upper.offer(rounded.upper)
    lower.offer(rounded.lower)
    h_low, h_high = float_planes.lower, float_planes.upper
    upper.offer(Plane(-h_low.slope_a, zero, band.image.upper - h_low.offset + slack))
    lower.offer(Plane(-h_high.slope_a, zero, band.image.lower - h_high.offset - slack))
    return PlanePair(lower.plane(), upper.plane())


def _saturation_planes(node: MergedActivation, band: ResidueBand, v: Interval) -> PlanePair:
    """Return planes of ``base(v) − φ(v) = relu(low − φ(v)) − relu(φ(v) − top)`` in ``v = a + d``.

    Where ``φ`` has no upper end and ``top`` lies above its lower end, ``relu(φ(v) − top) = relu(v − top)``;
    where it has no lower end and ``low`` lies below its upper end, ``relu(low − φ(v)) = relu(low − v)``.
    Otherwise the part is monotone in ``v`` and enters as its range.
    """
    low, top = band.saturation_lower, band.saturation_upper
    if np.isinf(low).all() and np.isinf(top).all():
        none = np.zeros_like(v.lower)
        return PlanePair(Plane(none, none, none), Plane(none, none, none))
    clamped = [np.clip(end, node.lower, node.upper) for end in (v.lower, v.upper)]
    zero = np.zeros_like(v.lower)
    if np.isinf(node.upper) and (top >= node.lower).all():
        over = relu_planes_at(v.lower, v.upper, top)
    else:
        over = (zero, down(np.maximum(clamped[0] - top, 0.0)), zero, up(np.maximum(clamped[1] - top, 0.0)))
    if np.isinf(node.lower) and (low <= node.upper).all():
        under = relu_planes_at(-v.upper, -v.lower, -low)
    else:
        under = (zero, down(np.maximum(low - clamped[1], 0.0)), zero, up(np.maximum(low - clamped[0], 0.0)))
    # relu(low − v) is planed in w = −v: a slope s in w is −s in v.
    low_slope, low_offset = -under[0] - over[2], under[1] - over[3]
    high_slope, high_offset = -under[2] - over[0], under[3] - over[1]
    return PlanePair(Plane(low_slope, low_slope, low_offset), Plane(high_slope, high_slope, high_offset))
