"""Activations as the checker bounds them: clamps, the curves sigmoid and tanh, and curves that are cut off.

A curve is ``centre + s(x)``, where ``s`` is odd, convex below 0, concave above, and its slope falls with the distance
from 0.  No more than that is used of it here, and that `milpq.network.curves` knows its value and its slope within
`CURVE_ERROR`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from milpq._arrays import BoolArray, Float64Array
from milpq.certificate.forms import ROUNDED, TINY, Ends, less, middle
from milpq.merge import MergedActivation
from milpq.network.curves import CURVE_ERROR, Curve

CELLS: Final = 16
"""Chords that a curve is taken for between the ends of an interval."""

Pieces: TypeAlias = tuple[Float64Array, Float64Array, Float64Array, BoolArray]
"""Points between which the ends of a value are linear, these ends at each, and which count; of shape
(points, neurons, leaves)."""


@dataclass(frozen=True, slots=True, eq=False)
class Activation:
    """``φ(x) = min(max(x, lower), upper)``, or the same of a curve; its ends are numbers or of shape (neurons, 1).

    All arrays are of shape (neurons, leaves); *Soundness:* what is returned is rounded outwards.
    """

    lower: float | Float64Array
    upper: float | Float64Array
    curve: Curve | None = None

    @classmethod
    def of(cls, node: MergedActivation) -> Activation:
        """Return the activation of a node."""
        curve = node.curve
        return cls(node.lower, node.upper) if curve is None else cls(curve.lower, curve.upper, curve)

    def image(self, value: Ends) -> Ends:
        """Return the ends of ``φ`` over intervals, also over one point each."""
        low, high = value
        if self.curve is not None:
            low, high = self.curve.value(low) - 2 * CURVE_ERROR, self.curve.value(high) + 2 * CURVE_ERROR
        return np.clip(low, self.lower, self.upper), np.clip(high, self.lower, self.upper)

    def secant(self, value: Ends) -> Float64Array:
        """Return a slope for intervals: exactly 1 where all of one is passed on."""
        image, width = self.image(value), value[1] - value[0]
        steepest = 1.0 if self.curve is None else self.curve.steepest
        rise = np.minimum(image[1] - image[0], steepest * width)
        return np.divide(rise, width, out=np.zeros_like(width), where=width > 0)

    @property
    def is_linear(self) -> bool:
        """Whether every value is passed on."""
        return self.curve is None and bool(np.all(self.lower == -np.inf) and np.all(self.upper == np.inf))

    def slopes(self, a: Ends, v: Ends) -> Ends:
        """Return the least and the largest slope of ``φ`` between any two points of two intervals."""
        if self.curve is not None:
            return self.curve.slopes(np.minimum(a[0], v[0]), np.maximum(a[1], v[1]))
        return np.full_like(a[0], float(self.is_linear)), np.ones_like(a[0])

    def graph(
        self, value: Ends, at: Float64Array | None = None, bends: tuple[Float64Array, ...] = ()
    ) -> Pieces:
        """Return `Pieces` of ``φ`` over intervals; the same bounds `at` other points, of shape (..., neurons, leaves).

        Those of a clamp are also linear between any other `bends`.

        *Soundness:* where all slopes lie in [m, M], a function is within ``gap = (M − m)·w/4`` of its chord over a
        width w.  So chords between ends that are moved by the gap hold it, and at any point they are within twice the
        gap of it.
        """
        if self.curve is None:
            kinks = [kink for kink in (self.lower, self.upper, *bends) if np.isfinite(kink).all()]
            points = np.stack([*value, *(np.clip(kink, *value) for kink in kinks)]) if at is None else at
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


def line(pieces: Pieces, slope: Float64Array, image: Ends) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return slope, centre and radius of the band along a slope, or of a level one where that is narrower."""
    sloped, level = (slope, *band(pieces, slope)), (np.zeros_like(slope), *middle(*image))
    slope, centre, radius = (
        np.where(less(level[2], sloped[2]), *both) for both in zip(level, sloped, strict=True)
    )
    return slope, centre, radius
