"""Requantizers for numbers a file states itself: explicit multipliers and shifts, and powers of two.

Targets (`milpq.rounding.targets`) derive these numbers from scales and then use the same functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import numpy as np

from milpq._arrays import Int64Array, frozen
from milpq.errors import TargetError
from milpq.rounding import arithmetic
from milpq.rounding.requantization import Requantizer

_Rounding = TypeVar("_Rounding")

FixedPointRounding = Callable[[Int64Array, Int64Array, Int64Array], Int64Array]
"""Accumulators, multiplier and shift to the scaled, rounded value without zero point."""

ShiftRounding = Callable[[Int64Array, Int64Array], Int64Array]
"""Accumulators and a right shift >= 0 to the shifted, rounded value."""

EXPLICIT_ROUNDINGS: Final[dict[str, FixedPointRounding]] = {
    "double": arithmetic.double_rounding,
    "single": arithmetic.single_rounding,
    "ruy-x86": arithmetic.ruy_x86_rounding,
}
"""Rounding modes an explicit multiplier and shift can name."""


def _floor_shift_right(value: Int64Array, exponent: Int64Array) -> Int64Array:
    return value >> exponent


POWER_OF_TWO_ROUNDINGS: Final[dict[str, ShiftRounding]] = {
    "half-up": arithmetic.half_up_shift_right,
    "floor": _floor_shift_right,
    "half-even": arithmetic.half_even_shift_right,
    "half-away": arithmetic.rounding_divide_by_power_of_two,
    "toward-zero": arithmetic.toward_zero_shift_right,
}
"""Rounding modes a power-of-two shift can name."""

LARGEST_SHIFT = 62
"""Largest right shift that int64 arithmetic here holds without overflow."""


def explicit_requantizer(
    multiplier: Int64Array,
    shift: Int64Array,
    rounding: str,
    output_zero_point: int,
    code_lower: int,
    code_upper: int,
) -> Requantizer:
    """Return ``clip(round(acc · multiplier · 2^(shift − 31)) + zero point, code_lower, code_upper)``.

    Parameters
    ----------
    multiplier : int64, shape (channels,), in [0, 2^31)
    shift : int64, shape (channels,), in [-31, 30]; positive shifts left
    rounding : a key of `EXPLICIT_ROUNDINGS`
    output_zero_point, code_lower, code_upper : int
        In codes; a fused activation is part of the limits.

    Raises
    ------
    TargetError
        Unknown rounding, or a multiplier or shift out of its range.
    """
    function = _choose(EXPLICIT_ROUNDINGS, rounding, "rounding of an explicit multiplier")
    multiplier = _column(multiplier, "multiplier", 0, 2**31 - 1)
    shift = _column(shift, "shift", -31, 30)
    if len(multiplier) != len(shift):
        raise TargetError(
            f"{len(multiplier)} multipliers but {len(shift)} shifts: give one of each per channel"
        )

    def requantize(accumulator: Int64Array) -> Int64Array:
        scaled = function(accumulator, multiplier, shift)
        return np.clip(scaled + output_zero_point, code_lower, code_upper)

    return requantize


def power_of_two_requantizer(
    shift: Int64Array,
    rounding: str,
    output_zero_point: int,
    code_lower: int,
    code_upper: int,
) -> Requantizer:
    """Return ``clip(round(acc · 2^−shift) + zero point, code_lower, code_upper)``.

    Parameters
    ----------
    shift : int64, shape (channels,), in [-31, 62]; positive shifts right
    rounding : a key of `POWER_OF_TWO_ROUNDINGS`
    output_zero_point, code_lower, code_upper : int
        In codes; a fused activation is part of the limits.

    Raises
    ------
    TargetError
        Unknown rounding, or a shift out of its range.
    """
    function = _choose(POWER_OF_TWO_ROUNDINGS, rounding, "rounding of a power-of-two shift")
    column = _column(shift, "shift", -31, LARGEST_SHIFT)
    right = np.maximum(column, 0)
    half = (np.int64(1) << right) >> 1 if rounding == "half-up" else np.zeros_like(right)

    def requantize(accumulator: Int64Array) -> Int64Array:
        # Kernels add half a step in the 32-bit accumulator itself.
        arithmetic.require_int32(accumulator + half, "an accumulator leaves int32 when rounded")
        scaled = function(arithmetic.shift_left(accumulator, -column), right)
        return np.clip(scaled + output_zero_point, code_lower, code_upper)

    return requantize


def _choose(roundings: dict[str, _Rounding], name: str, what: str) -> _Rounding:
    if name not in roundings:
        raise TargetError(f"{what}: {name!r} is none of {', '.join(roundings)}")
    return roundings[name]


def _column(values: Int64Array, what: str, lower: int, upper: int) -> Int64Array:
    """Return a frozen copy of shape (channels, 1), every value checked."""
    values = np.array(values, dtype=np.int64)
    if values.ndim != 1 or not values.size:
        raise TargetError(f"requantization {what}: must have shape (channels,), not {values.shape}")
    if values.min() < lower or values.max() > upper:
        raise TargetError(
            f"requantization {what}: {values.min()} to {values.max()} leaves [{lower}, {upper}]"
        )
    return frozen(values[:, None].copy())
