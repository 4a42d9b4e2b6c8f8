"""Bounds on every value of a merged network, for a batch of cubes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from milpq._arrays import Float64Array
from milpq.errors import DisjointBoundsError, InvalidNetworkError


@dataclass(frozen=True, slots=True, eq=False)
class Interval:
    """Elementwise ``lower <= quantity <= upper``, valid in exact arithmetic.

    Parameters
    ----------
    lower, upper : float64, shape (cubes, neurons)
    """

    lower: Float64Array
    upper: Float64Array

    def intersect(self, other: Interval, what: str = "a quantity") -> Interval:
        """Return the tighter of both bounds: the only way a bound changes.

        Raises
        ------
        DisjointBoundsError
            The two do not meet, so one of them is not a bound, or is an assumption that no point satisfies.
        InvalidNetworkError
            A bound is NaN, because numbers of the network overflow float64.
        """
        lower = np.maximum(self.lower, other.lower)
        upper = np.minimum(self.upper, other.upper)
        if not (lower <= upper).all():
            if np.isnan(lower).any() or np.isnan(upper).any():
                raise InvalidNetworkError(
                    f"bounds on {what} overflow float64: the weights or the region are too large"
                )
            cube, neuron = (int(i) for i in np.argwhere(~(lower <= upper))[0])
            raise DisjointBoundsError(
                f"bounds on {what}, neuron {neuron}, do not meet: [{self.lower[cube, neuron]!r}, "
                f"{self.upper[cube, neuron]!r}] and [{other.lower[cube, neuron]!r}, "
                f"{other.upper[cube, neuron]!r}]"
            )
        return Interval(lower, upper)

    def select(self, which: np.ndarray | slice) -> Interval:
        """Return the bounds of some of the cubes."""
        return Interval(self.lower[which], self.upper[which])


@dataclass(frozen=True, slots=True, eq=False)
class ValueBounds:
    """Bounds on the three faces of one merged value, each of shape (cubes, neurons), real units.

    Parameters
    ----------
    float_side : Interval
        ``a`` (or ``h`` after an activation).
    quantized_side : Interval
        ``v`` (or its activation).
    difference : Interval
        ``d = v − a`` (or ``δ``).
    """

    float_side: Interval
    quantized_side: Interval
    difference: Interval

    def intersect(self, other: ValueBounds, what: str = "a layer") -> ValueBounds:
        """Return the tighter bounds, face by face."""
        return ValueBounds(
            self.float_side.intersect(other.float_side, f"the float side of {what}"),
            self.quantized_side.intersect(other.quantized_side, f"the quantized side of {what}"),
            self.difference.intersect(other.difference, f"the difference of {what}"),
        )

    def select(self, which: np.ndarray | slice) -> ValueBounds:
        """Return the bounds of some of the cubes."""
        return ValueBounds(
            self.float_side.select(which), self.quantized_side.select(which), self.difference.select(which)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """Bounds on every merged value, in the order of values, and which one is the output."""

    values: tuple[ValueBounds, ...]
    output: int

    @property
    def difference(self) -> Interval:
        """Bounds on the output difference ``f_q − f``, shape (cubes, outputs)."""
        return self.values[self.output].difference

    def intersect(self, other: Bounds) -> Bounds:
        """Return the tighter bounds, value by value.

        Raises
        ------
        DisjointBoundsError
            Two bounds of one quantity do not meet.
        """
        pairs = zip(self.values, other.values, strict=True)
        return Bounds(tuple(a.intersect(b, f"value {i}") for i, (a, b) in enumerate(pairs)), self.output)

    def select(self, which: np.ndarray | slice) -> Bounds:
        """Return the bounds of some of the cubes."""
        return Bounds(tuple(value.select(which) for value in self.values), self.output)
