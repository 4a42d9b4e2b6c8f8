"""Sigmoid and tanh as rows: lines around the curve, and segments of it with binaries.

The lines hold the graph of the curve between them, for relaxations.  A mixed-integer model also cuts the range into
segments by the incremental formulation: with breakpoints ``t_0 < … < t_n``, shares ``z_i`` of segments and binaries
``p_i`` for ``x ≥ t_i``,

    ``x = t_0 + Σ w_i·z_i``,  ``z_i ≤ p_i ≤ z_{i−1}``,  ``y ∈ y_0 + Σ Δ_i·z_i + [e, ē]``,

where ``[e, ē]`` holds what the chords of all segments miss: the gap between such a model and execution.

*Soundness:* of an executed point, ``z_i`` is 1 below its segment and 0 above, and ``p_i`` is 1 from ``t_i`` on.  Widths
``w_i`` are within one rounding of the distances, which the sides of the row give room for.  ``[e, ē]`` comes from
`milpq.bounds.curves.peak` of the chord's slope as computed.

References: M. Padberg, *Approximating separable nonlinear functions via mixed zero-one programs* (the incremental
formulation; its relaxation is the convex hull of the segments).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from milpq._arrays import UNIT_ROUNDOFF, Float64Array, Int64Array
from milpq.bounds.curves import image, peak
from milpq.bounds.outward import TINY, down, largest, up
from milpq.bounds.planes import PlanePair
from milpq.bounds.values import Interval, ValueBounds
from milpq.milp.encode_clamp import Face
from milpq.milp.faces import Part, Side, meet, narrow_to
from milpq.milp.model import ModelBuilder
from milpq.network.curves import Curve

SEGMENTS = 8
"""Segments of each curve in a mixed-integer model."""

_TANGENTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where along its range the lines around a curve have its slope."""

_NARROW = 1e-9
"""Ranges narrower than this have no segments: their chord misses less than what solvers tolerate."""


@dataclass(frozen=True, slots=True, eq=False)
class CurvePart:
    """``y = f(x)``.

    Parameters
    ----------
    shares, phases : int64, shape (neurons, segments) and (neurons, segments − 1)
        Columns of ``z`` and ``p``; no rows without segments.
    breakpoints : float64, shape (neurons, segments + 1)
    neurons : int64
        Which neurons the segments are of.
    face : Face
        Which side of the merged value it is on.
    """

    curve: Curve
    source: Side
    result: Side
    neurons: Int64Array
    breakpoints: Float64Array
    shares: Int64Array
    phases: Int64Array
    face: Face

    def fill(self, point: Float64Array) -> None:
        """Apply the curve."""
        x = point[self.source.columns]
        point[self.result.columns] = self.curve.value(x)
        if len(self.neurons):
            x = x[self.neurons][:, None]
            start, stop = self.breakpoints[:, :-1], self.breakpoints[:, 1:]
            point[self.shares] = np.clip((x - start) / (stop - start), 0.0, 1.0)
            point[self.phases] = x >= self.breakpoints[:, 1:-1]

    def narrow(self, lower: Float64Array, upper: Float64Array) -> None:
        """Apply the curve to the bounds, and decide the segments that they leave or miss."""
        x = Interval(lower[self.source.columns], upper[self.source.columns])
        found = image(self.curve, x)
        narrow_to(lower, upper, self.result.columns, found.lower, found.upper)
        if len(self.neurons):
            inner = self.breakpoints[:, 1:-1]
            low, high = x.lower[self.neurons][:, None], x.upper[self.neurons][:, None]
            narrow_to(lower, upper, self.phases.ravel(), (low >= inner).ravel(), (high >= inner).ravel())


def add_curve(
    builder: ModelBuilder,
    parts: list[Part],
    name: str,
    face: Face,
    source: Side,
    curve: Curve,
    known: tuple[Float64Array, Float64Array],
    *,
    segments: bool,
) -> CurvePart:
    """Add the column ``y`` and the rows of a curve.

    Parameters
    ----------
    known : (lower, upper), float64, shape (neurons,)
        Bounds on the result.
    segments : bool
        Add the segments with their binaries.
    """
    found = image(curve, Interval(source.lower, source.upper))
    lower, upper = meet(f"{name}/{face}", (found.lower, found.upper), known)
    columns = builder.add_columns(lower, upper, count=source.size, name=f"{name}/{face}")
    result = Side(columns, lower, upper)
    _add_lines(builder, f"{name}/{face}", source, columns, curve)
    none = np.zeros(0, dtype=np.int64)
    part = CurvePart(curve, source, result, none, np.zeros((0, 2)), none[:, None], none[:, None], face)
    if segments:
        at = np.flatnonzero(source.upper - source.lower > _NARROW)
        if len(at):
            part = _add_segments(builder, f"{name}/{face}", source, result, curve, at, face)
    parts.append(part)
    return part


def add_planes(
    builder: ModelBuilder, name: str, source: Side, before: Side, difference: Side, pair: PlanePair
) -> None:
    """Add rows for the planes of ``δ`` in ``(a, d)``.

    Parameters
    ----------
    source, before, difference : Side
        ``a``, ``d`` and ``δ``.
    pair : PlanePair
        Of one cube; valid with its slopes taken exactly.
    """
    for plane, kind in ((pair.lower, "below"), (pair.upper, "above")):
        terms = [
            (difference.columns, 1.0),
            (source.columns, -plane.slope_a[0]),
            (before.columns, -plane.slope_d[0]),
        ]
        sides = (plane.offset[0], np.inf) if kind == "below" else (-np.inf, plane.offset[0])
        builder.add_rows(terms, *sides, name=f"{name}/{kind}")


def add_segment_planes(
    builder: ModelBuilder,
    name: str,
    part: CurvePart,
    before: Side,
    difference: Side,
    planes: Callable[[ValueBounds], PlanePair],
    bounds: ValueBounds,
) -> None:
    """Add rows for the planes of ``δ`` that hold while ``a`` is in one segment, switched by its binaries.

    Parameters
    ----------
    part : CurvePart
        Of the float side.
    planes : callable
        Planes of ``δ`` over bounds on the source, one cube a segment.
    bounds : ValueBounds
        On the source, one cube.

    *Soundness:* ``p_i − p_{i+1}`` is 1 of the segment that holds ``a`` alone; elsewhere the row gives as much room as
    ``δ`` and the plane can differ by over their ranges.
    """
    at = part.neurons
    if not len(at):
        return
    pair = planes(_by_segment(part, bounds))
    x, d, delta = part.source.at(at), before.at(at), difference.at(at)
    for i in range(SEGMENTS):
        # 1 − (p_i − p_{i+1}), with p_0 = 1 and p_n = 0.
        outside = [
            (part.phases[:, k], sign) for k, sign in ((i - 1, -1.0), (i, 1.0)) if 0 <= k < SEGMENTS - 1
        ]
        absent = 0.0 if i == 0 else 1.0
        for plane, sign, kind in ((pair.upper, 1.0, "above"), (pair.lower, -1.0, "below")):
            slope_a, slope_d, offset = (
                array[i, at] for array in (plane.slope_a, plane.slope_d, plane.offset)
            )
            parts = [
                np.maximum(-sign * slope * side.lower, -sign * slope * side.upper)
                for slope, side in ((slope_a, x), (slope_d, d))
            ]
            parts += [np.maximum(sign * delta.lower, sign * delta.upper), -sign * offset]
            reach, size = sum(parts, np.zeros(len(at))), sum(map(np.abs, parts), np.zeros(len(at)))
            room = np.maximum(reach + 2.0**-48 * size + TINY, 0.0)
            terms = [(delta.columns, sign), (x.columns, -sign * slope_a), (d.columns, -sign * slope_d)]
            terms += [(columns, -switch * room) for columns, switch in outside]
            side = sign * offset + absent * room
            slack = 2.0**-50 * (np.abs(offset) + room)
            builder.add_rows(terms, -np.inf, side + slack, name=f"{name}/{kind}{i}", neurons=at)


def _by_segment(part: CurvePart, bounds: ValueBounds) -> ValueBounds:
    """Return the bounds on the source with one cube for each segment of the float side."""
    a, v, d = bounds.float_side, bounds.quantized_side, bounds.difference
    low, high = np.repeat(a.lower, SEGMENTS, axis=0), np.repeat(a.upper, SEGMENTS, axis=0)
    low[:, part.neurons], high[:, part.neurons] = part.breakpoints[:, :-1].T, part.breakpoints[:, 1:].T
    least, most = down(low + d.lower), up(high + d.upper)
    met = np.maximum(least, v.lower), np.minimum(most, v.upper)
    # A segment that the quantized side rules out needs no bounds of its own.
    empty = met[0] > met[1]
    quantized = Interval(np.where(empty, least, met[0]), np.where(empty, most, met[1]))
    wide = Interval(np.repeat(d.lower, SEGMENTS, axis=0), np.repeat(d.upper, SEGMENTS, axis=0))
    return ValueBounds(Interval(low, high), quantized, wide)


def _add_lines(builder: ModelBuilder, name: str, source: Side, columns: Int64Array, curve: Curve) -> None:
    """Add lines of several slopes above and below the curve."""
    low, high = source.lower, source.upper
    wide = np.where(high > low, high - low, 1.0)
    chord = np.where(high > low, (curve.odd(high) - curve.odd(low)) / wide, 0.0)
    slopes = [np.clip(chord, 0.0, curve.steepest)]
    slopes += [curve.slope(low + share * (high - low)) for share in _TANGENTS]
    for index, slope in enumerate(slopes):
        most, least = peak(curve, slope, low, high), -peak(curve, slope, -high, -low)
        terms = [(columns, 1.0), (source.columns, -slope)]
        row = down(curve.centre + least), up(curve.centre + most)
        builder.add_rows(terms, *row, name=f"{name}/line{index}")


def _add_segments(
    builder: ModelBuilder,
    name: str,
    source: Side,
    result: Side,
    curve: Curve,
    at: Int64Array,
    face: Face,
) -> CurvePart:
    low, high = source.lower[at], source.upper[at]
    points = _breakpoints(curve, low, high)
    count = len(at)
    width, heights = np.diff(points, axis=1), curve.odd(points)
    rise = np.diff(heights, axis=1)
    shares = np.stack(
        [builder.add_columns(0.0, 1.0, count=count, name=f"{name}/share") for _ in range(SEGMENTS)], axis=1
    )
    phases = np.stack(
        [
            builder.add_columns(0.0, 1.0, count=count, integer=True, name=f"{name}/phase")
            for _ in range(SEGMENTS - 1)
        ],
        axis=1,
    )
    x, y = source.columns[at], result.columns[at]
    slack = 8 * UNIT_ROUNDOFF * (high - low + largest(low, high)) + TINY
    builder.add_rows(
        [(x, 1.0), *((shares[:, i], -width[:, i]) for i in range(SEGMENTS))],
        points[:, 0] - slack,
        points[:, 0] + slack,
        name=f"{name}/place",
        neurons=at,
    )
    least, most = _missed(curve, points, heights)
    builder.add_rows(
        [(y, 1.0), *((shares[:, i], -rise[:, i]) for i in range(SEGMENTS))],
        down(curve.centre + heights[:, 0] + least, 3),
        up(curve.centre + heights[:, 0] + most, 3),
        name=f"{name}/chords",
        neurons=at,
    )
    for i in range(SEGMENTS - 1):
        for left, right, kind in (
            (shares[:, i + 1], phases[:, i], "after"),
            (phases[:, i], shares[:, i], "before"),
        ):
            builder.add_rows([(left, 1.0), (right, -1.0)], -np.inf, 0.0, name=f"{name}/{kind}{i}", neurons=at)
    return CurvePart(curve, source, result, at, points, shares, phases, face)


def _breakpoints(curve: Curve, low: Float64Array, high: Float64Array) -> Float64Array:
    """Return increasing points from end to end, denser where the curve bends; shape (neurons, segments + 1)."""
    share = np.linspace(0.0, 1.0, SEGMENTS + 1)
    bend = [np.tanh(0.25 * curve.rate * end)[:, None] for end in (low, high)]
    bent = np.clip(bend[0] + share * (bend[1] - bend[0]), -1 + 2.0**-40, 1 - 2.0**-40)
    points = np.arctanh(bent) / (0.25 * curve.rate)
    even = low[:, None] + share * (high - low)[:, None]
    # Half of each, so that no segment vanishes and far ends get some.
    points = 0.5 * np.clip(points, low[:, None], high[:, None]) + 0.5 * even
    points[:, 0], points[:, -1] = low, high
    return points


def _missed(curve: Curve, points: Float64Array, heights: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return bounds on ``s(x)`` minus the chords, over all segments, shape (neurons,) each.

    *Soundness:* on a segment the chords are ``heights[0] + Σ rise + rise_i·z``, with ``z`` the exact share.  The slope
    as computed is within four roundings of ``rise/width``, and sums of rises within as many as there are segments of
    numbers at most 2.
    """
    start, stop = points[:, :-1], points[:, 1:]
    width, rise = stop - start, np.diff(heights, axis=1)
    slope = rise / width
    base = slope * start - heights[:, :-1]
    slack = 8 * UNIT_ROUNDOFF * (2.0 * SEGMENTS + np.abs(rise) + np.abs(slope) * largest(start, stop))
    most = peak(curve, slope, start, stop) + base
    least = -peak(curve, slope, -stop, -start) + base
    return (least - slack).min(axis=1), (most + slack).max(axis=1)
