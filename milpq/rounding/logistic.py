"""The int8 LOGISTIC operator as a table of 256 codes, computed as the runtimes compute it.

Every such table is nondecreasing (`logistic_table` checks it), so a LOGISTIC after a layer is part of that
layer's step function.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import numpy as np

from milpq._arrays import Int64Array, frozen
from milpq.errors import TargetError
from milpq.rounding.arithmetic import (
    INT32_LOWER,
    INT32_UPPER,
    double_rounding,
    quantize_multiplier,
    round_half_away,
    rounding_divide_by_power_of_two,
    saturating_rounding_doubling_high_multiply,
)

OUTPUT_SCALE = 1.0 / 256.0
OUTPUT_ZERO_POINT = -128
"""The output quantization that the int8 specification fixes for LOGISTIC."""

_CODES = frozen(np.arange(-128, 128, dtype=np.int64))
_INPUT_INTEGER_BITS = 4
_INPUT_FRACTION_BITS = 31 - _INPUT_INTEGER_BITS


@runtime_checkable
class SupportsLogistic(Protocol):
    """A target that also states what its LOGISTIC operator computes."""

    def logistic_codes(
        self, input_scale: float, input_zero_point: int, output_scale: float, output_zero_point: int
    ) -> Int64Array:
        """Return the output codes of the input codes -128 … 127, int64, shape (256,)."""
        ...


def logistic_table(
    target: object,
    input_scale: float,
    input_zero_point: int,
    output_scale: float = OUTPUT_SCALE,
    output_zero_point: int = OUTPUT_ZERO_POINT,
) -> Int64Array:
    """Return what the LOGISTIC operator of a target makes of each input code.

    Parameters
    ----------
    target : Target
        One that satisfies `SupportsLogistic`.
    input_scale, output_scale : float32 values, held as float
    input_zero_point, output_zero_point : int, in codes

    Returns
    -------
    int64, shape (256,): the output code of input code ``index − 128``.

    Raises
    ------
    TargetError
        The target has no int8 LOGISTIC, does not take these parameters, or the table would not be monotone.
    """
    if not isinstance(target, SupportsLogistic):
        name = getattr(target, "name", target)
        raise TargetError(f"target {name}: its int8 LOGISTIC is not known to milpq; remove the operator")
    for scale in (input_scale, output_scale):
        if not (math.isfinite(scale) and scale > 0 and float(np.float32(scale)) == scale):
            raise TargetError(f"LOGISTIC: scale {scale!r} is not a positive float32 value")
    table = target.logistic_codes(input_scale, input_zero_point, output_scale, output_zero_point)
    if table.shape != (256,) or (np.diff(table) < 0).any():
        raise TargetError(f"LOGISTIC with input scale {input_scale!r}: the table is not monotone")
    return frozen(table)


def float_logistic_half_even(
    input_scale: float, input_zero_point: int, output_scale: float, output_zero_point: int
) -> Int64Array:
    """Return XNNPACK's table: sigmoid in double, the rest in float32, halves to even after the zero point.

    Shape (256,).  The exponential is that of the C library; nothing but a value within its last place of a
    tie could depend on which one.

    References
    ----------
    XNNPACK, ``src/reference/unary-elementwise.cc`` (``SigmoidOp``) and ``reference-utils.h`` (``quantize``).
    """
    real = (_CODES - input_zero_point).astype(np.float32) * np.float32(input_scale)
    clipped = np.clip(real.astype(np.float64), -100.0, 100.0)
    power = np.array([math.exp(value) for value in clipped.tolist()])
    sigmoid = (power / (1.0 + power)).astype(np.float32)
    sigmoid = np.where(real > 100, np.float32(1), np.where(real < -100, np.float32(0), sigmoid))
    scaled = sigmoid * (np.float32(1) / np.float32(output_scale)) + np.float32(output_zero_point)
    return np.clip(np.rint(scaled), -128, 127).astype(np.int64)


def float_logistic_half_away(
    input_scale: float, input_zero_point: int, output_scale: float, output_zero_point: int
) -> Int64Array:
    """Return the table of TFLite's own kernels: all in float32, halves away from zero.

    Shape (256,).  The float32 exponential is taken as correctly rounded; glibc's is within 0.502 ulp.

    References
    ----------
    TensorFlow Lite, ``kernels/activations.cc`` and ``kernels/internal/common.h`` (``LUTPopulate``).
    """
    real = np.float32(input_scale) * (_CODES - input_zero_point).astype(np.float32)
    one = np.float32(1)
    with np.errstate(over="ignore"):
        power = np.exp(-real.astype(np.float64)).astype(np.float32)
        sigmoid = one / (one + power)
    scaled = round_half_away(sigmoid * (one / np.float32(output_scale))) + np.float32(output_zero_point)
    return np.clip(scaled, -128, 127).astype(np.int64)


def fixed_point_logistic(
    input_scale: float, input_zero_point: int, output_scale: float, output_zero_point: int
) -> Int64Array:
    """Return the table of the microcontroller kernels, computed in gemmlowp's fixed point.

    Shape (256,).  `output_scale` has to be 1/256: the kernel ignores it.

    References
    ----------
    TensorFlow Lite, ``kernels/internal/reference/integer_ops/logistic.h``; gemmlowp ``fixedpoint.h``;
    TensorFlow Lite Micro, ``micro/kernels/logistic_common.cc``.
    """
    if output_scale != OUTPUT_SCALE or output_zero_point != OUTPUT_ZERO_POINT:
        raise TargetError("LOGISTIC: these kernels always give scale 1/256 and zero point -128")
    multiplier, shift = quantize_multiplier(np.array([input_scale * 2.0**_INPUT_FRACTION_BITS]))
    if shift[0] < 0:
        raise TargetError(f"LOGISTIC: input scale {input_scale:g} is below 2^-28, undefined in these kernels")
    largest = ((1 << _INPUT_INTEGER_BITS) - 1) << _INPUT_FRACTION_BITS
    radius = largest >> int(shift[0])
    centred = _CODES - input_zero_point
    inside = np.abs(centred) < radius
    real = double_rounding(np.where(inside, centred, 0), multiplier, shift)
    table = rounding_divide_by_power_of_two(_logistic(real), np.int64(31 - 8)) + OUTPUT_ZERO_POINT
    table = np.where(inside, np.clip(table, -128, 127), np.where(centred >= radius, 127, -128))
    # The kernel asks for the lower end first, so a radius of zero sends a centred code of zero there.
    return np.where(centred <= -radius, -128, table)


def _unit(value: float) -> np.int64:
    """Return a real number in [-1, 1] with 31 fractional bits."""
    return np.int64(round(value * 2.0**31))


def _logistic(value: Int64Array) -> Int64Array:
    """Return 1/(1 + e^−x), 31 fractional bits, of x with 4 integer and 27 fractional bits."""
    positive = _reciprocal_of_one_plus(_exp_of_negative(-np.abs(value)))
    result = np.where(value > 0, positive, INT32_UPPER - positive)
    return np.where(value == 0, np.int64(1) << 30, result)


def _exp_of_negative(value: Int64Array) -> Int64Array:
    """Return e^x, 31 fractional bits, of x <= 0 with 27 fractional bits."""
    quarter = np.int64(1) << (_INPUT_FRACTION_BITS - 2)
    remainder = (value & (quarter - 1)) - quarter
    result = _exp_near_zero(_saturating_shift_left(remainder, _INPUT_INTEGER_BITS))
    rest = remainder - value
    for exponent in range(-2, _INPUT_INTEGER_BITS):
        bit = np.int64(1) << (_INPUT_FRACTION_BITS + exponent)
        factor = _unit(math.exp(-(2.0**exponent)))
        scaled = saturating_rounding_doubling_high_multiply(result, factor)
        result = np.where(rest & bit != 0, scaled, result)
    return np.where(value == 0, INT32_UPPER, result)


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


def _reciprocal_of_one_plus(value: Int64Array) -> Int64Array:
    """Return 1/(1 + x) of x in [0, 1], both with 31 fractional bits: three Newton-Raphson steps."""
    multiply = saturating_rounding_doubling_high_multiply
    half_denominator = (value + INT32_UPPER + 1) >> 1
    # Two integer bits from here on; 48/17 − 32/17·d is the best linear first guess.
    guess = np.int64(round(48.0 / 17.0 * 2.0**29))
    slope = np.int64(round(-32.0 / 17.0 * 2.0**29))
    x = guess + multiply(half_denominator, slope)
    for _ in range(3):
        error = (np.int64(1) << 29) - multiply(half_denominator, x)
        x = x + _saturating_shift_left(multiply(x, error), 2)
    # x is 2/(1 + value); reading it with one integer bit halves it.
    return _saturating_shift_left(x, 1)


def _saturating_shift_left(value: Int64Array, exponent: int) -> Int64Array:
    """Return ``value << exponent``, clipped to int32."""
    return np.clip(value << exponent, INT32_LOWER, INT32_UPPER)
