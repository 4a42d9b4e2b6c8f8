"""Sigmoid and tanh in gemmlowp's fixed point, as the microcontroller kernels compute them.

Numbers are int64 arrays that hold int32 values; how many of their bits are fractional is said of each.

References
----------
gemmlowp, ``fixedpoint/fixedpoint.h``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from milpq._arrays import Int64Array
from milpq.errors import TargetError
from milpq.rounding.arithmetic import (
    INT32_LOWER,
    INT32_UPPER,
    double_rounding,
    quantize_multiplier,
    rounding_divide_by_power_of_two,
    saturating_rounding_doubling_high_multiply,
)

INPUT_INTEGER_BITS = 4
"""Integer bits, besides the sign, of what `fixed_sigmoid` and `fixed_tanh` read."""

INPUT_FRACTION_BITS = 31 - INPUT_INTEGER_BITS


def fixed_point_table(
    function: Callable[[Int64Array], Int64Array],
    operator: str,
    input_scale: float,
    input_zero_point: int,
    result_bits: int,
    output_zero_point: int,
) -> Int64Array:
    """Return the output codes of the input codes −128 … 127 of a kernel that evaluates a function in fixed point.

    Parameters
    ----------
    function : `fixed_sigmoid` or `fixed_tanh`
    result_bits : int
        The output scale is ``2^−result_bits``.

    Raises
    ------
    TargetError
        The kernel is undefined for so small a scale.
    """
    multiplier, shift = quantize_multiplier(np.array([input_scale * 2.0**INPUT_FRACTION_BITS]))
    if shift[0] < 0:
        raise TargetError(
            f"{operator}: input scale {input_scale:g} is below 2^-28, undefined in these kernels"
        )
    largest = ((1 << INPUT_INTEGER_BITS) - 1) << INPUT_FRACTION_BITS
    radius = largest >> int(shift[0])
    centred = np.arange(-128, 128, dtype=np.int64) - input_zero_point
    inside = np.abs(centred) < radius
    real = double_rounding(np.where(inside, centred, 0), multiplier, shift)
    table = rounding_divide_by_power_of_two(function(real), np.int64(31 - result_bits)) + output_zero_point
    table = np.where(inside, np.clip(table, -128, 127), np.where(centred >= radius, 127, -128))
    # The kernel asks for the lower end first, so a radius of zero sends a centred code of zero there.
    return np.where(centred <= -radius, -128, table)


def fixed_sigmoid(value: Int64Array) -> Int64Array:
    """Return 1/(1 + e^−x), 31 fractional bits, of x with 27 fractional bits."""
    positive = _reciprocal_of_half_sum(_exp_of_negative(-np.abs(value), INPUT_INTEGER_BITS))
    # Reading 2/(1 + t) with one integer bit instead of two halves it.
    positive = _saturating_shift_left(positive, 1)
    result = np.where(value > 0, positive, INT32_UPPER - positive)
    return np.where(value == 0, np.int64(1) << 30, result)


def fixed_tanh(value: Int64Array) -> Int64Array:
    """Return tanh x, 31 fractional bits, of x with 27 fractional bits."""
    # The same bits with one more before the point are 2x.
    power = _exp_of_negative(-np.abs(value), INPUT_INTEGER_BITS + 1)
    one = np.int64(1) << 29
    # (1 − t)/(1 + t) = 2/(1 + t) − 1.
    size = _saturating_shift_left(_reciprocal_of_half_sum(power) - one, 2)
    return np.where(value == 0, np.int64(0), np.where(value > 0, size, -size))


def _exp_of_negative(value: Int64Array, integer_bits: int) -> Int64Array:
    """Return e^x, 31 fractional bits, of x <= 0 with so many integer bits."""
    fraction_bits = 31 - integer_bits
    quarter = np.int64(1) << (fraction_bits - 2)
    remainder = (value & (quarter - 1)) - quarter
    result = _exp_near_zero(_saturating_shift_left(remainder, integer_bits))
    rest = remainder - value
    for exponent in range(-2, integer_bits):
        bit = np.int64(1) << (fraction_bits + exponent)
        factor = _unit(math.exp(-(2.0**exponent)))
        scaled = saturating_rounding_doubling_high_multiply(result, factor)
        result = np.where(rest & bit != 0, scaled, result)
    return np.where(value == 0, INT32_UPPER, result)


def _unit(value: float) -> np.int64:
    """Return a real number in [-1, 1] with 31 fractional bits."""
    return np.int64(round(value * 2.0**31))


def _exp_near_zero(value: Int64Array) -> Int64Array:
    """Return e^x of x in [-1/4, 0), both with 31 fractional bits: a Taylor polynomial around -1/8."""
    multiply = saturating_rounding_doubling_high_multiply
    one, two = np.int64(1), np.int64(2)
    centre = np.full_like(value, _unit(math.exp(-0.125)))
    x = value + (np.int64(1) << 28)
    square = multiply(x, x)
    cube, fourth = multiply(square, x), multiply(square, square)
    tail = multiply(rounding_divide_by_power_of_two(fourth, two) + cube, _unit(1.0 / 3.0))
    return centre + multiply(centre, x + rounding_divide_by_power_of_two(tail + square, one))


def _reciprocal_of_half_sum(value: Int64Array) -> Int64Array:
    """Return 2/(1 + x), 29 fractional bits, of x in [0, 1] with 31: three Newton-Raphson steps."""
    multiply = saturating_rounding_doubling_high_multiply
    half_denominator = (value + INT32_UPPER + 1) >> 1
    # Two integer bits from here on; 48/17 − 32/17·d is the best linear first guess.
    guess = np.int64(round(48.0 / 17.0 * 2.0**29))
    slope = np.int64(round(-32.0 / 17.0 * 2.0**29))
    x = guess + multiply(half_denominator, slope)
    for _ in range(3):
        error = (np.int64(1) << 29) - multiply(half_denominator, x)
        x = x + _saturating_shift_left(multiply(x, error), 2)
    return x


def _saturating_shift_left(value: Int64Array, exponent: int) -> Int64Array:
    """Return ``value << exponent``, clipped to int32."""
    return np.clip(value << exponent, INT32_LOWER, INT32_UPPER)
