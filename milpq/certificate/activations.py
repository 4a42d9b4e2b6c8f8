"""The activations of the float side as the checker bounds them: clamps, and the curves sigmoid and tanh.

A curve is ``centre + s(x)``, where ``s`` is odd, convex below 0, concave above, and its slope falls with the distance
from 0.  No more than that is used of it here, and that `milpq.network.curves` knows its value and its slope within
`CURVE_ERROR`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from milpq._arrays import Float64Array
from milpq.certificate.forms import ROUNDED, TINY, Ends, clamp_band, middle
from milpq.merge import MergedActivation
from milpq.network.curves import CURVE_ERROR, Curve

CELLS: Final = 16
"""Chords that a curve is taken for between the ends of an interval."""


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

    def band(self, value: Ends) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Return slope, centre and radius with ``|φ(x) − slope·x − centre| <= radius`` over intervals."""
        curve = self.curve
        if curve is None:
            return clamp_band(value, self.lower, self.upper)
        lower, upper = value
        width = upper - lower
        chord = np.divide(
            curve.odd(upper) - curve.odd(lower), width, out=np.zeros_like(width), where=width > 0
        )
        slope = np.clip(chord, 0.0, curve.steepest)
        # s is odd, so what lies below it over an interval lies above it over the mirrored one.
        bottom, top = -_top(curve, slope, -upper, -lower), _top(curve, slope, lower, upper)
        centre, radius = middle(curve.centre + bottom, curve.centre + top)
        return slope, centre, radius + ROUNDED * (1.0 + np.abs(bottom) + np.abs(top))

    def slopes(self, a: Ends, v: Ends) -> Ends:
        """Return the least and the largest slope of ``φ`` between any two points of two intervals."""
        if self.curve is not None:
            return self.curve.slopes(np.minimum(a[0], v[0]), np.maximum(a[1], v[1]))
        linear = self.lower == -np.inf and self.upper == np.inf
        return np.full_like(a[0], float(linear)), np.ones_like(a[0])

    def lines(self, value: Ends) -> tuple[Float64Array, Float64Array]:
        """Return points (points, neurons, leaves), the ends among them, and how far ``φ`` is from its chords between.

        *Soundness:* where all slopes lie in [m, M], a function is within ``(M − m)·w/4`` of its chord over a width w.
        """
        curve = self.curve
        if curve is None:
            kinks = [np.clip(kink, *value) for kink in (self.lower, self.upper) if np.isfinite(kink)]
            return np.stack([*value, *kinks]), np.zeros_like(value[0])
        share = np.linspace(0.0, 1.0, CELLS + 1)[:, None, None]
        points = np.clip((1.0 - share) * value[0] + share * value[1], *value)
        points[0], points[-1] = value
        points = np.maximum.accumulate(points, axis=0)
        least, most = curve.slopes(points[:-1], points[1:])
        return points, (0.25 * (most - least) * np.diff(points, axis=0)).max(axis=0) * (1 + ROUNDED) + TINY


def _top(curve: Curve, slope: Float64Array, lower: Float64Array, upper: Float64Array) -> Float64Array:
    """Return no less than the largest ``s(x) − slope·x`` over intervals, for any slope.

    *Soundness:* below 0 it is convex, so largest at an end of that part.  From 0 on ``s`` lies below each of its
    tangents, here the one about where it has the slope, and a line is largest at an end, too.
    """
    result = np.full_like(slope, -np.inf)
    for x in (lower, np.clip(0.0, lower, upper)):
        size = 1.0 + np.abs(slope * x)
        below = curve.odd(x) - slope * x + 2 * CURVE_ERROR * size
        result = np.where(lower <= 0, np.maximum(result, below), result)
    touch = np.maximum(np.clip(curve.touching(slope), lower, upper), 0.0)
    height, tilt = curve.odd(touch), curve.slope(touch)
    for x in (np.maximum(lower, 0.0), upper):
        away = x - touch
        size = 1.0 + np.abs(away) + np.abs(slope * x)
        above = height + tilt * away - slope * x + 2 * CURVE_ERROR * size
        result = np.where(upper >= 0, np.maximum(result, above), result)
    return result
