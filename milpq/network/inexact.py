"""Real operations that a runtime computes only nearly: what is known of their result is a certified band.

They stand in the real-arithmetic skeleton of a network that is executed in float32 (`dynamic_network`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from milpq._arrays import Float64Array, frozen

ROUNDOFF32 = 2.0**-24
"""Largest relative error of one float32 operation."""

_UNDERFLOW = 1e-34
"""Covers what float32 loses below its normal range, 255 levels of it."""

_WIDER = 1.0 + 2.0**-40
"""Covers the float64 rounding of a band itself, a few operations each."""

_LEVELS = 255


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """What a nearly computed value can be, over bounds on its source; shapes (cubes, neurons).

    Parameters
    ----------
    residue_lower, residue_upper : float64
        Of the result minus the source.
    lower, upper : float64
        Of the result itself.
    """

    residue_lower: Float64Array
    residue_upper: Float64Array
    lower: Float64Array
    upper: Float64Array


@dataclass(frozen=True, slots=True, eq=False)
class Float32Error:
    """The rounding of float32 arithmetic: within ``relative·|value| + absolute`` of its source.

    Parameters
    ----------
    absolute : float64, shape (neurons,)
    """

    name: str
    source: int
    relative: float
    absolute: Float64Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "absolute", frozen(np.array(self.absolute, dtype=np.float64)))

    @property
    def sources(self) -> tuple[int, ...]:
        """Value indices this node reads."""
        return (self.source,)

    def band(self, lower: Float64Array, upper: Float64Array) -> Band:
        """Return the band over bounds of the source, shape (cubes, neurons)."""
        size = np.maximum(np.abs(lower), np.abs(upper))
        radius = (self.relative * size + self.absolute) * _WIDER
        return Band(-radius, radius, _below(lower - radius), _above(upper + radius))


@dataclass(frozen=True, slots=True, eq=False)
class DynamicQuantization:
    """ONNX's DynamicQuantizeLinear and back: 256 levels between the least and the largest neuron, 0 among them.

    The scale is that of the values at hand, so it varies over a region, and with it every level.

    *Soundness:* with ``s`` the scale and ``u = 2^-24``, the level ``n = rint(clip(fl(x / s), −z, 255 − z))``
    differs from ``x / s`` by at most ``1/2 + 256 u`` where nothing is clipped.  The zero point
    ``z = rint(clip(−fl(m / s)))`` lies within ``1/2 + 512 u`` of ``−m / s`` for the least value ``m``, and
    ``(M − m) / s <= 255 (1 + 3 u)`` for the largest value ``M``; so a value that is clipped lies less than
    ``1/2 + 2048 u`` beyond the end.  Hence ``|s n − x| <= s (1/2 + 2^-12)``.  Where the scale is known better
    than that, the levels at the ends of the source bound the result: ``n`` is nondecreasing in ``x``.
    """

    name: str
    source: int

    @property
    def sources(self) -> tuple[int, ...]:
        """Value indices this node reads."""
        return (self.source,)

    def scales(self, lower: Float64Array, upper: Float64Array) -> tuple[Float64Array, Float64Array]:
        """Return the smallest and largest scale over bounds of the source, shape (cubes, 1), rounded outwards."""
        least = np.maximum(lower.max(axis=1, keepdims=True), 0.0) - np.minimum(
            upper.min(axis=1, keepdims=True), 0.0
        )
        most = np.maximum(upper.max(axis=1, keepdims=True), 0.0) - np.minimum(
            lower.min(axis=1, keepdims=True), 0.0
        )
        slack = 2.0**-22
        return least / _LEVELS * (1 - slack), most / _LEVELS * (1 + slack) + _UNDERFLOW

    def band(self, lower: Float64Array, upper: Float64Array) -> Band:
        """Return the band over bounds of the source, shape (cubes, neurons)."""
        small, large = self.scales(lower, upper)
        radius = np.broadcast_to((large * (0.5 + 2.0**-12) + _UNDERFLOW) * _WIDER, lower.shape)
        # fl(x / s) lies within u of x / s; the quotient here errs by less than that, and both by less than 2^-22.
        slack = 2.0**-22
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            low = np.where(lower >= 0, lower / large, lower / small)
            high = np.where(upper >= 0, upper / small, upper / large)
        low = np.where(np.isnan(low), -_LEVELS, low - slack * np.abs(low))
        high = np.where(np.isnan(high), _LEVELS, high + slack * np.abs(high))
        first = np.rint(np.clip(low, -_LEVELS, _LEVELS))
        last = np.rint(np.clip(high, -_LEVELS, _LEVELS))
        by_level_lower = first * np.where(first >= 0, small, large)
        by_level_upper = last * np.where(last >= 0, large, small)
        return Band(
            -radius,
            radius,
            np.maximum(_below(by_level_lower), _below(lower - radius)),
            np.minimum(_above(by_level_upper), _above(upper + radius)),
        )


Inexact: TypeAlias = Float32Error | DynamicQuantization


def _below(value: Float64Array) -> Float64Array:
    return value - np.abs(value) * 2.0**-48 - 1e-300


def _above(value: Float64Array) -> Float64Array:
    return value + np.abs(value) * 2.0**-48 + 1e-300
