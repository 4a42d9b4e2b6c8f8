"""The arithmetic of requantization, one primitive a runtime is built from, vectorized.

Fixed-point primitives take and return int64 arrays that hold int32 values; arrays broadcast.  A step of the
original that would leave its 32-bit register raises `AccumulatorOverflowError`: the result is undefined
behaviour in C, wraps in practice, and is then no longer monotone in the accumulator.

*Soundness:* every primitive is exact.  The tests compare the runtimes themselves with the targets built from
these, bit for bit.
"""

from __future__ import annotations

from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from milpq._arrays import BoolArray, Float64Array, Int64Array
from milpq.errors import AccumulatorOverflowError, TargetError

_Float = TypeVar("_Float", np.float32, np.float64)

Float32Array: TypeAlias = npt.NDArray[np.float32]

Int64: TypeAlias = Int64Array | np.int64
"""An array of integers or one that goes with every element."""

INT32_LOWER = -(2**31)
INT32_UPPER = 2**31 - 1
MULTIPLIER_BITS = 31
"""Fractional bits of a fixed-point multiplier: ``multiplier · 2^(shift − 31)`` is the real factor."""

_REMEDY = "narrow the input region, or quantize with a larger output scale"


def quantize_multiplier(factor: Float64Array) -> tuple[Int64Array, Int64Array]:
    """Return the fixed-point ``(multiplier, shift)`` nearest to real factors.

    Parameters
    ----------
    factor : float64, nonnegative and finite
        Input scale times weight scale over output scale.

    Returns
    -------
    multiplier : int64 in {0} ∪ [2^30, 2^31)
    shift : int64; positive shifts left.  Factors below 2^-32 become zero.

    Raises
    ------
    TargetError
        A factor is negative, not finite, or needs a left shift above 30.

    References
    ----------
    TensorFlow Lite, ``kernels/internal/quantization_util.cc``, ``QuantizeMultiplier``.
    """
    if not (np.isfinite(factor) & (factor >= 0)).all():
        raise TargetError(
            "requantization factor: must be finite and not negative; check the scales of the layer"
        )
    fraction, exponent = np.frexp(factor)
    multiplier = np.floor(fraction * 2.0**MULTIPLIER_BITS + 0.5).astype(np.int64)
    shift = exponent.astype(np.int64)
    carried = multiplier == 2**MULTIPLIER_BITS
    multiplier = np.where(carried, multiplier // 2, multiplier)
    shift = np.where(carried, shift + 1, shift)
    vanishes = (shift < -31) | (multiplier == 0)
    multiplier, shift = np.where(vanishes, 0, multiplier), np.where(vanishes, 0, shift)
    if (shift > 30).any():
        raise TargetError(f"requantization factor {float(factor.max()):g}: fixed-point runtimes stop at 2^30")
    return multiplier, shift


def shift_left(accumulator: Int64Array, shift: Int64Array) -> Int64Array:
    """Return ``accumulator << max(shift, 0)``, which has to stay in int32.

    Raises
    ------
    AccumulatorOverflowError
        The runtime would wrap.
    """
    shifted = accumulator << np.maximum(shift, 0)
    require_int32(shifted, "an accumulator wraps when a requantization factor above 1 shifts it left")
    return shifted


def saturating_rounding_doubling_high_multiply(value: Int64Array, multiplier: Int64) -> Int64Array:
    """Return ``(value·multiplier + 2^30) >> 31``: the high half of twice the product, half up for both signs.

    The saturating case of the name, both factors −2^31, cannot occur with multipliers >= 0.

    References
    ----------
    gemmlowp, ``fixedpoint/fixedpoint.h``, ``SaturatingRoundingDoublingHighMul`` (ARM's SQRDMULH).
    """
    # gemmlowp nudges by 1 − 2^30 below zero and divides towards zero; both amount to this floor.
    return (value * multiplier + (1 << (MULTIPLIER_BITS - 1))) >> MULTIPLIER_BITS


def rounding_divide_by_power_of_two(value: Int64Array, exponent: Int64) -> Int64Array:
    """Return ``value / 2^exponent`` to the nearest integer, halves away from zero.

    References
    ----------
    gemmlowp, ``fixedpoint/fixedpoint.h``, ``RoundingDivideByPOT``.
    """
    mask = (np.int64(1) << exponent) - 1
    threshold = (mask >> 1) + (value < 0)
    return (value >> exponent) + ((value & mask) > threshold)


def half_up_shift_right(value: Int64Array, exponent: Int64) -> Int64Array:
    """Return ``value / 2^exponent`` to the nearest integer, halves towards plus infinity."""
    half = (np.int64(1) << exponent) >> 1
    return (value + half) >> exponent


def half_even_shift_right(value: Int64Array, exponent: Int64) -> Int64Array:
    """Return ``value / 2^exponent`` to the nearest integer, halves to the even one."""
    mask = (np.int64(1) << exponent) - 1
    half = (np.int64(1) << exponent) >> 1
    floor = value >> exponent
    remainder = value & mask
    up = (remainder > half) | ((remainder == half) & (floor % 2 == 1) & (exponent > 0))
    return floor + up


def toward_zero_shift_right(value: Int64Array, exponent: Int64) -> Int64Array:
    """Return ``value / 2^exponent`` truncated toward zero, as C's integer division."""
    mask = (np.int64(1) << exponent) - 1
    return (value + np.where(value < 0, mask, 0)) >> exponent


def double_rounding(accumulator: Int64Array, multiplier: Int64Array, shift: Int64Array) -> Int64Array:
    """Multiply by ``multiplier · 2^(shift − 31)``, rounding twice.

    References
    ----------
    TensorFlow Lite, ``kernels/internal/common.cc``, ``MultiplyByQuantizedMultiplier`` without
    ``TFLITE_SINGLE_ROUNDING``; CMSIS-NN ``arm_nn_requantize``.
    """
    high = saturating_rounding_doubling_high_multiply(shift_left(accumulator, shift), multiplier)
    return rounding_divide_by_power_of_two(high, np.maximum(-shift, 0))


def ruy_x86_rounding(accumulator: Int64Array, multiplier: Int64Array, shift: Int64Array) -> Int64Array:
    """Multiply by ``multiplier · 2^(shift − 31)``, rounding twice, both times half up.

    References
    ----------
    ruy, ``kernel_avx2_fma.cc`` and ``kernel_avx512.cc``: the vector code rounds its right shift half up where
    ruy's portable code rounds it half away from zero.
    """
    high = saturating_rounding_doubling_high_multiply(shift_left(accumulator, shift), multiplier)
    return half_up_shift_right(high, np.maximum(-shift, 0))


def single_rounding(accumulator: Int64Array, multiplier: Int64Array, shift: Int64Array) -> Int64Array:
    """Multiply by ``multiplier · 2^(shift − 31)``, rounding once, half up.

    Raises
    ------
    AccumulatorOverflowError
        The result, doubled as CMSIS-NN holds it before its last shift, leaves int32.

    References
    ----------
    TensorFlow Lite with ``TFLITE_SINGLE_ROUNDING``; CMSIS-NN with ``CMSIS_NN_USE_SINGLE_ROUNDING``;
    TOSA ``apply_scale_32`` with ``double_round = false``.
    """
    require_int32(accumulator, "an accumulator leaves int32")
    total = MULTIPLIER_BITS - shift
    product = accumulator * multiplier
    require_int32(product >> (total - 1), "a requantized accumulator leaves int32")
    return (product + (np.int64(1) << (total - 1))) >> total


def round_half_away(value: npt.NDArray[_Float]) -> npt.NDArray[_Float]:
    """Return C's ``round``: nearest integer, halves away from zero, in the type given (float32 or float64).

    ``floor(x + 0.5)`` is not it: the sum rounds, for 0.49999997 in float32 to 1.
    """
    whole = np.trunc(value)
    up = (np.abs(value - whole) >= 0.5).astype(value.dtype)
    return whole + np.copysign(up, value)


def float64_half_away(accumulator: Int64Array, factor: Float64Array) -> Int64Array:
    """Multiply by a float64 factor and round half away from zero.

    References
    ----------
    LiteRT, reference fully connected kernel.
    """
    require_int32(accumulator, "an accumulator leaves int32")
    product = round_half_away(accumulator.astype(np.float64) * factor)
    require_int32(product, "a requantized accumulator leaves int32")
    return product.astype(np.int64)


def float32_half_even(accumulator: Int64Array, factor: Float32Array, lower: int, upper: int) -> Int64Array:
    """Multiply in float32, clip to ``[lower, upper]`` (code − zero point), round half to even.

    References
    ----------
    XNNPACK ``qs8-requantization/fp32``; ONNX Runtime MLAS ``MlasRequantizeOutput``.
    """
    require_int32(accumulator, "an accumulator leaves int32")
    product = accumulator.astype(np.float32) * factor
    return np.rint(np.clip(product, np.float32(lower), np.float32(upper))).astype(np.int64)


def float32_fused(value: Float32Array, factor: Float32Array, addend: Float32Array | int) -> Float32Array:
    """Return ``value · factor + addend``, rounded once to float32, as a fused multiply-add does.

    Parameters
    ----------
    addend : float32, or an integer below 2^24 in magnitude
    """
    # The product is exact in float64.  The sum is rounded to odd there, after which the rounding to float32 is
    # that of the exact sum (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", IEEE ToC 2008).
    product = value.astype(np.float64) * factor.astype(np.float64)
    added = np.asarray(addend, dtype=np.float64)
    total = product + added
    part = total - product
    with np.errstate(invalid="ignore"):
        error = (product - (total - part)) + (added - part)
        even = (total.view(np.int64) & 1) == 0
        towards = np.where(error > 0, np.inf, -np.inf)
        total = np.where((error != 0) & even & np.isfinite(total), np.nextafter(total, towards), total)
    return total.astype(np.float32)


def require_int32(value: Int64Array | Float64Array, what: str) -> None:
    """Raise `AccumulatorOverflowError`, saying `what` happens, unless every value fits int32."""
    outside: BoolArray = (value < INT32_LOWER) | (value > INT32_UPPER)
    if outside.any():
        raise AccumulatorOverflowError(f"{what}: the runtime's result is undefined; {_REMEDY}")
