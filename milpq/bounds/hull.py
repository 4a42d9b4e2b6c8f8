"""Points whose convex hull holds the graph of an activation pair over ranges of its two sides.

An *open* neuron maps ``(a, d)`` to ``(h, δ)`` by ``h = φ(a)``, ``δ = φ_q(a + d) − φ(a)``: piecewise affine, the
pieces cut out of the ranges by lines ``a = const`` and ``v = a + d = const``.  The largest value of any linear
functional over the graph lies at a vertex of a piece, and every vertex is where two lines of different
direction meet, so the points below are all that a Lagrangian bound needs to know about a neuron.  Splitting a
neuron (a phase, a rounding step, a part of a range) is choosing other ranges.

A step with more than `EXACT_STEPS` thresholds in range is taken as its clamp plus a residue of either
extreme, which holds all of its plateaus.  Curves have a hull of their own, `milpq.bounds.curve_hull`.

*Soundness:* points are within eight roundings of their coordinates' sizes of the true vertices; a point is
kept unless it lies further than that outside the ranges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from milpq._arrays import UNIT_ROUNDOFF, BoolArray, Float64Array, Int64Array
from milpq.bounds.curve_hull import curve_points
from milpq.bounds.outward import TINY, down, up
from milpq.bounds.residue import Residue
from milpq.bounds.values import Interval, ValueBounds
from milpq.merge.nodes import MergedActivation
from milpq.rounding.step import NEVER

EXACT_STEPS = 3
"""Thresholds up to which the plateaus of a step are taken one by one."""

_ROUNDINGS = 16 * UNIT_ROUNDOFF

_Values: TypeAlias = Callable[[Float64Array], list[tuple[Float64Array, BoolArray]]]


@dataclass(frozen=True, slots=True, eq=False)
class Ranges:
    """Bounds on ``a``, ``v`` and ``d`` of neurons, in several nodes of a search.

    Parameters
    ----------
    array : float64, shape (nodes, 6, neurons)
        Lower and upper bounds of ``a``, of ``v`` and of ``d``.
    """

    array: Float64Array

    @classmethod
    def of(cls, value: ValueBounds, neurons: Int64Array) -> Ranges:
        """Return the ranges of some neurons of a value."""
        sides = (value.float_side, value.quantized_side, value.difference)
        ends = [end[:, neurons] for side in sides for end in (side.lower, side.upper)]
        return cls(np.stack(ends, axis=1))

    def __len__(self) -> int:
        return len(self.array)

    @property
    def a(self) -> tuple[Float64Array, Float64Array]:
        """Bounds on ``a``, shape (nodes, neurons) each."""
        return self.array[:, 0], self.array[:, 1]

    @property
    def v(self) -> tuple[Float64Array, Float64Array]:
        """Bounds on ``v``."""
        return self.array[:, 2], self.array[:, 3]

    @property
    def d(self) -> tuple[Float64Array, Float64Array]:
        """Bounds on ``d``."""
        return self.array[:, 4], self.array[:, 5]

    def closed(self) -> tuple[Ranges, BoolArray]:
        """Return the ranges after each of ``a``, ``v``, ``d`` has bounded the others, and which nodes are empty.

        Empty ranges are put to a point, so that what follows need not care.
        """
        (al, au), (vl, vu), (dl, du) = self.a, self.v, self.d
        dl, du = np.maximum(dl, down(vl - au)), np.minimum(du, up(vu - al))
        vl, vu = np.maximum(vl, down(al + dl)), np.minimum(vu, up(au + du))
        al, au = np.maximum(al, down(vl - du)), np.minimum(au, up(vu - dl))
        empty = np.asarray(((al > au) | (vl > vu) | (dl > du)).any(axis=1))
        ends = [al, np.maximum(al, au), vl, np.maximum(vl, vu), dl, np.maximum(dl, du)]
        return Ranges(np.stack(ends, axis=1)), empty

    def largest(self) -> Float64Array:
        """Return ``|a| + |v| + |d|`` at most, shape (neurons,), over all nodes."""
        size = np.abs(self.array).max(axis=0)
        return np.maximum(size[0], size[1]) + np.maximum(size[2], size[3]) + np.maximum(size[4], size[5])


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Points of the graph ``(a, d, h, δ)``, each array of shape (nodes, neurons, points)."""

    a: Float64Array
    d: Float64Array
    h: Float64Array
    delta: Float64Array


@dataclass(frozen=True, slots=True, eq=False)
class OpenActivation:
    """Some neurons of one merged activation, whose pair of phases or step is not settled.

    Parameters
    ----------
    node : MergedActivation
        Restricted to the neurons.
    neurons : int64, shape (open,)
        Their indices in the layer.
    residue : Residue or None
        Of the restricted node, where it has a step.
    """

    node: MergedActivation
    neurons: Int64Array
    residue: Residue | None

    @classmethod
    def of(cls, node: MergedActivation, neurons: Int64Array) -> OpenActivation:
        """Restrict an activation to some neurons."""
        step, scale_in, scale_out = node.step, node.scale_in, node.scale_out
        if step is None or scale_in is None or scale_out is None:
            return cls(replace(node, size=len(neurons)), neurons, None)
        restricted = replace(
            node,
            size=len(neurons),
            step=step.select(neurons),
            scale_in=scale_in[neurons],
            scale_out=scale_out[neurons],
        )
        return cls(restricted, neurons, Residue.of(restricted))

    @property
    def kinks(self) -> list[float]:
        """The finite ends of ``φ``; a curve has none."""
        return [kink for kink in (self.node.lower, self.node.upper) if np.isfinite(kink)]

    def phi(self, value: Float64Array) -> Float64Array:
        """Return the float activation."""
        return self.node.phi(value)

    def image(self, a: Float64Array, v: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return ``(h, z)`` at points, shape (nodes, neurons) each; not rounded outwards, for estimates."""
        node = self.node
        if node.step is None or node.scale_in is None or node.scale_out is None:
            return self.phi(a), self.phi(v)
        return self.phi(a), node.scale_out * node.step(np.rint(v / node.scale_in).astype(np.int64))

    def chords(self, ranges: Ranges) -> tuple[Float64Array, Float64Array]:
        """Return the slopes of ``φ`` and ``φ_q`` from end to end of ``a`` and of ``v``, (nodes, neurons) each."""
        (al, au), (vl, vu) = ranges.a, ranges.v
        low, high = self.image(al, vl), self.image(au, vu)
        width = [np.where(end[1] > end[0], end[1] - end[0], np.inf) for end in ((al, au), (vl, vu))]
        return (high[0] - low[0]) / width[0], np.minimum((high[1] - low[1]) / width[1], 1.0)

    def points(self, ranges: Ranges) -> Points:
        """Return points whose hull holds the graph over the ranges of each node."""
        if self.node.curve is not None:
            sides = (Interval(*ends) for ends in (ranges.a, ranges.v, ranges.d))
            return Points(*curve_points(self.node.curve, self.residue, *sides))
        found = _Crossings(self, ranges)
        if self.residue is None:
            kinks = [np.full(ranges.a[0].shape, kink) for kink in self.kinks]
            found.cross(
                kinks, [self.phi(kink) for kink in kinks], [np.ones(k.shape, np.bool_) for k in kinks]
            )
            found.corners(lambda v: [(self.phi(v), np.ones(v.shape, dtype=np.bool_))])
        else:
            _StepLines(self, self.residue, ranges).offer(found)
        return found.points()


class _Crossings:
    """Collects where lines meet, with the value of the quantized activation there."""

    def __init__(self, layer: OpenActivation, ranges: Ranges) -> None:
        self._layer = layer
        self._a, self._d = ranges.a, ranges.d
        (al, au), (dl, du) = self._a, self._d
        size = np.maximum(np.abs(al), np.abs(au)) + np.maximum(np.abs(dl), np.abs(du))
        self._tolerance = _ROUNDINGS * size + TINY
        true = np.ones(al.shape, dtype=np.bool_)
        self._a_lines = [(al, true), (au, true)]
        for kink in layer.kinks:
            self._a_lines.append((np.full(al.shape, kink), (al < kink) & (kink < au)))
        self._found: list[tuple[Float64Array, Float64Array, Float64Array, BoolArray]] = []

    def corners(self, step: _Values) -> None:
        """Add where lines ``a = const`` meet the ends of ``d``.

        Parameters
        ----------
        step : callable
            Gives the values of ``φ_q`` possible at ``v`` and where each is.
        """
        for a, valid in self._a_lines:
            for d in self._d:
                for z, here in step(a + d):
                    self._found.append((a, d, z, valid & here))

    def cross(self, lines: list[Float64Array], values: list[Float64Array], valid: list[BoolArray]) -> None:
        """Add where lines ``v = const`` meet those of ``a`` and ``d``; `values` is ``φ_q`` along each line."""
        (al, au), (dl, du) = self._a, self._d
        for v, z, here in zip(lines, values, valid, strict=True):
            tolerance = self._tolerance + _ROUNDINGS * np.abs(v)
            for a, valid_a in self._a_lines:
                d = v - a
                self._found.append((a, d, z, here & valid_a & (d >= dl - tolerance) & (d <= du + tolerance)))
            for d in self._d:
                a = v - d
                self._found.append((a, d, z, here & (a >= al - tolerance) & (a <= au + tolerance)))

    def points(self) -> Points:
        """Return the valid points, padded with copies of one of them."""
        a, d, z = (np.stack([part[i] for part in self._found], axis=2) for i in range(3))
        valid = np.stack([part[3] for part in self._found], axis=2)
        count = int(valid.sum(axis=2).max(initial=1))
        order = np.argsort(~valid, axis=2, kind="stable")[:, :, : max(count, 1)]
        kept = np.take_along_axis(valid, order, axis=2)
        order = np.where(kept, order, order[:, :, :1])
        a, d, z = (np.take_along_axis(part, order, axis=2) for part in (a, d, z))
        h = self._layer.phi(a)
        return Points(a, d, h, z - h)


class _StepLines:
    """The lines ``v = const`` of steps: plateau ends, or the kinks of the clamp that a step rounds."""

    def __init__(self, layer: OpenActivation, residue: Residue, ranges: Ranges) -> None:
        self._residue = residue
        self._node = layer.node
        self._layer = layer
        step = residue.step
        vl, vu = ranges.v
        low, high = residue.accumulators(Interval(vl, vu))
        self._band, _, inside = residue.band(low, high)
        self._exact = inside <= EXACT_STEPS
        self._ends = np.maximum(vl, residue.scale_in * low), np.minimum(vu, residue.scale_in * high)
        first = step.plateau(low)
        self.starts: list[Float64Array] = []
        self.stops: list[Float64Array] = []
        self.values: list[Float64Array] = []
        self.valid: list[BoolArray] = []
        last_column = step.thresholds.shape[1] - 1
        for k in range(EXACT_STEPS + 1):
            plateau = np.minimum(first + k, step.values.shape[1] - 1)
            start = (
                step.thresholds[step.rows, np.clip(plateau - 1, 0, last_column)] if last_column >= 0 else low
            )
            stop = (
                step.thresholds[step.rows, np.clip(plateau, 0, last_column)] - 1 if last_column >= 0 else high
            )
            start = low if k == 0 else np.maximum(start, low)
            stop = np.where(k == inside, high, np.minimum(stop, high))
            self.starts.append(residue.scale_in * start)
            self.stops.append(residue.scale_in * stop)
            self.values.append(residue.scale_out * step.values[step.rows, plateau])
            self.valid.append(self._exact & (k <= inside) & (start <= stop) & (np.abs(stop) < NEVER))

    def offer(self, found: _Crossings) -> None:
        """Add the points of all lines and corners."""
        for start, stop, value, valid in zip(self.starts, self.stops, self.values, self.valid, strict=True):
            found.cross([start, stop], [value, value], [valid, valid])
        loose = ~self._exact
        if loose.any():
            low, high = self._ends
            lines, valid = [low, high], [loose, loose]
            for kink in (self._bottom(), self._top()):
                line = np.broadcast_to(kink, low.shape)
                lines.append(line)
                valid.append(loose & (low < line) & (line < high))
            for extreme in (self._band.lower, self._band.upper):
                found.cross(lines, [self._base(line) + extreme for line in lines], valid)
        found.corners(self._values)

    def _values(self, v: Float64Array) -> list[tuple[Float64Array, BoolArray]]:
        """Return the values of ``φ_q`` possible at ``v`` with where each is."""
        tolerance = _ROUNDINGS * (np.abs(v) + np.abs(self._ends[0]) + np.abs(self._ends[1])) + TINY
        result: list[tuple[Float64Array, BoolArray]] = []
        value, here = self.values[0], np.zeros(v.shape, dtype=np.bool_)
        for start, stop, z, valid in zip(self.starts, self.stops, self.values, self.valid, strict=True):
            inside = valid & (v >= start - tolerance) & (v <= stop + tolerance)
            value, here = np.where(inside, z, value), here | inside
        loose = ~self._exact & (v >= self._ends[0] - tolerance) & (v <= self._ends[1] + tolerance)
        base = self._base(v)
        result.append((np.where(loose, base + self._band.lower, value), here | loose))
        if loose.any():
            result.append((base + self._band.upper, loose))
        return result

    def _bottom(self) -> Float64Array:
        return np.maximum(self._node.lower, self._residue.saturation_lower)

    def _top(self) -> Float64Array:
        return np.minimum(self._node.upper, self._residue.saturation_upper)

    def _base(self, v: Float64Array) -> Float64Array:
        residue = self._residue
        return np.clip(self._layer.phi(v), residue.saturation_lower, residue.saturation_upper)
