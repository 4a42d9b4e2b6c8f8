"""The activations of the float side as the checker bounds them: clamps, and the curves sigmoid and tanh.

A curve is ``centre + s(x)``, where ``s`` is odd, convex below 0, concave above, and its slope falls with the distance
from 0.  No more than that is used of it here, and that `milpq.network.curves` knows its value and its slope within
`CURVE_ERROR`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from milpq._arrays import BoolArray, Float64Array
from milpq.certificate.forms import ROUNDED, TINY, Ends, middle
from milpq.merge import MergedActivation
from milpq.network.curves import CURVE_ERROR, Curve

CELLS: Final = 16
"""Chords that a curve is taken for between the ends of an interval."""

Pieces: TypeAlias = tuple[Float64Array, Float64Array, Float64Array, BoolArray]
"""Points between which the ends of a value are linear, these ends at each, and which count; of shape
(points, neurons, leaves)."""


@dataclass(frozen=True, slots=True)
class Activation:
    """``φ(x) = min(max(x, lower), upper)``, or a curve.

    All arrays are of shape (neurons, leaves); *Soundness:* what is returned is rounded outwards.
    """

    lower: float
    upper: float
    curve: Curve | None = None

    @classmethod
    def of(cls, node: MergedActivation) -> Activation:
        """Return the activation of a node."""
        return cls(node.lower, node.upper, node.curve)

    def image(self, value: Ends) -> Ends:
        """Return the ends of ``φ`` over intervals, also over one point each."""
        curve = self.curve
        if curve is None:
            return np.clip(value[0], self.lower, self.upper), np.clip(value[1], self.lower, self.upper)
        low, high = curve.value(value[0]) - 2 * CURVE_ERROR, curve.value(value[1]) + 2 * CURVE_ERROR
        return np.maximum(low, curve.lower), np.minimum(high, curve.upper)

    def secant(self, value: Ends, image: Ends) -> Float64Array:
        """Return a slope for intervals whose image is given: exactly 1 where all of one is passed on."""
        width = value[1] - value[0]
        steepest = 1.0 if self.curve is None else self.curve.steepest
        rise = np.minimum(image[1] - image[0], steepest * width)
        return np.divide(rise, width, out=np.zeros_like(width), where=width > 0)

    def slopes(self, a: Ends, v: Ends) -> Ends:
        """Return the least and the largest slope of ``φ`` between any two points of two intervals."""
        if self.curve is not None:
            return self.curve.slopes(np.minimum(a[0], v[0]), np.maximum(a[1], v[1]))
        linear = self.lower == -np.inf and self.upper == np.inf
        return np.full_like(a[0], float(linear)), np.ones_like(a[0])

    def graph(self, value: Ends, at: Float64Array | None = None) -> Pieces:
        """Return `Pieces` of ``φ`` over intervals; the same bounds `at` other points, of shape (..., neurons, leaves).

        *Soundness:* where all slopes lie in [m, M], a function is within ``gap = (M − m)·w/4`` of its chord over a
        width w.  So chords between ends that are moved by the gap hold it, and at any point they are within twice the
        gap of it.
        """
        if self.curve is None:
            kinks = [np.clip(kink, *value) for kink in (self.lower, self.upper) if np.isfinite(kink)]
            points = np.stack([*value, *kinks]) if at is None else at
            return points, *self.image((points, points)), np.ones(points.shape, dtype=np.bool_)
        share = np.linspace(0.0, 1.0, CELLS + 1)[:, None, None]
        points = np.clip((1.0 - share) * value[0] + share * value[1], *value)
        points[0], points[-1] = value
        points = np.maximum.accumulate(points, axis=0)
        least, most = self.curve.slopes(points[:-1], points[1:])
        gap = (0.25 * (most - least) * np.diff(points, axis=0)).max(axis=0) * (1 + ROUNDED) + TINY
        points, gap = (points, gap) if at is None else (at, 2 * gap)
        low, high = self.image((points, points))
        return points, low - gap, high + gap, np.ones(points.shape, dtype=np.bool_)


def band(pieces: Pieces, slope: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return centre and radius with ``|value − slope·x − centre| <= radius``; any slope will do.

    *Soundness:* less a linear function the ends stay linear between the points, so the extremes lie at these.  At a
    point with ``value = x`` and slope 1 nothing is rounded; elsewhere four operations are, and the point itself.
    Where no point counts there is no value.
    """
    points, low, high, counts = pieces
    line = slope * points
    exact = (slope == 1.0) & (low == points) & (high == points)
    slack = np.where(exact | ~counts, 0.0, np.abs(low) + np.abs(high) + np.abs(line)).max(axis=0)
    bottom = np.where(counts, low - line, np.inf).min(axis=0) - ROUNDED * slack
    top = np.where(counts, high - line, -np.inf).max(axis=0) + ROUNDED * slack
    some = counts.any(axis=0)
    return middle(np.where(some, bottom, 0.0), np.where(some, top, 0.0))
