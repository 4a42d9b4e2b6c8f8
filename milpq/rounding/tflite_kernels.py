"""The operators without weights of TFLite's own kernels and of XNNPACK, as plain integer functions.

References
----------
TensorFlow Lite, ``kernels/add.cc``, ``kernels/internal/reference/{add,requantize}.h``,
``reference/integer_ops/{pooling,mean}.h``, ``kernels/activations.cc``; XNNPACK,
``src/microparams-init.c`` (``xnn_init_qs8_add_minmax_*``, ``xnn_init_qs8_cvt_*``) and ``src/operators/reduce-nd.c``.
"""

from __future__ import annotations

import numpy as np

from milpq._arrays import Int64Array
from milpq.errors import TargetError
from milpq.rounding.activation import CodeRange, activation_codes
from milpq.rounding.arithmetic import quantize_multiplier
from milpq.rounding.kernels import (
    ACTIVATION_OF,
    AverageKernel,
    PairSum,
    Quantization,
    SumKernel,
    UnaryKernel,
    check_scales,
    shifted_addends,
)
from milpq.rounding.requantization import Requantizer
from milpq.rounding.requantizers import FixedPointRounding

_LEFT_SHIFT = 20
_LEFT_SHIFT_WIDE = 15
"""Fractional bits that ADD gives its operands, int8 ones and wider ones."""

_XNNPACK_ADD_RATIOS = 2.0**-10, 2.0**8
_XNNPACK_ADD_BITS = 21
_XNNPACK_CONVERT_RATIOS = 2.0**-8, 2.0**7


def fixed_point_unary(kernel: UnaryKernel, rounding: FixedPointRounding) -> Int64Array:
    """Return the table of RELU, RELU6, RELU_N1_TO_1 or QUANTIZE from codes to codes."""
    source, result = kernel.source, kernel.result
    check_scales(source, result)
    lower, upper = activation_codes(
        None, ACTIVATION_OF[kernel.kind], result.scale, result.zero_point, result.range
    )
    multiplier, shift = quantize_multiplier(np.array([source.scale / result.scale]))
    scaled = rounding(source.range.codes - source.zero_point, multiplier, shift)
    return np.clip(scaled + result.zero_point, lower, upper)


def clip_unary(kernel: UnaryKernel) -> Int64Array:
    """Return the table of a kernel that clips codes and leaves the scale as it is."""
    source = kernel.source
    activation = ACTIVATION_OF[kernel.kind]
    lower, upper = activation_codes(None, activation, source.scale, source.zero_point, source.range)
    return np.clip(source.range.codes, lower, upper)


def fixed_point_sum(kernel: SumKernel, rounding: FixedPointRounding) -> PairSum:
    """Return TFLite's ADD: both operands to a common scale with 20 more bits (15 of wide codes), and back."""
    first, second, result = kernel.first, kernel.second, kernel.result
    wide = any(operand.range.upper - operand.range.lower > 255 for operand in (first, second))
    fraction = _LEFT_SHIFT_WIDE if wide else _LEFT_SHIFT
    check_scales(first, second, result)
    common = 2.0 * max(first.scale, second.scale)

    def addends(operand: Quantization) -> Int64Array:
        multiplier, shift = quantize_multiplier(np.array([operand.scale / common]))
        return rounding((operand.range.codes - operand.zero_point) << fraction, multiplier, shift)

    multiplier, shift = quantize_multiplier(np.array([common / (2.0**fraction * result.scale)]))
    lower, upper = activation_codes(None, kernel.activation, result.scale, result.zero_point, result.range)

    def output(total: Int64Array) -> Int64Array:
        return np.clip(rounding(total, multiplier, shift) + result.zero_point, lower, upper)

    return PairSum(addends(first), addends(second), output)


def xnnpack_sum(target: object, kernel: SumKernel) -> PairSum:
    """Return XNNPACK's ADD: multipliers of 21 bits, one shift, half up."""
    result = kernel.result
    low, high = _XNNPACK_ADD_RATIOS
    addends, shift = shifted_addends(
        kernel,
        _XNNPACK_ADD_BITS,
        _XNNPACK_ADD_RATIOS,
        f"litert-xnnpack: XNNPACK leaves an ADD whose scales differ by a factor outside [{low:g}, {high:g}) "
        "to other kernels; use litert-nodelegate",
    )
    lower, upper = activation_codes(target, kernel.activation, result.scale, result.zero_point, result.range)

    def output(total: Int64Array) -> Int64Array:
        return np.clip(((total + (1 << (shift - 1))) >> shift) + result.zero_point, lower, upper)

    return PairSum(*addends, output)


def xnnpack_convert(kernel: UnaryKernel) -> Int64Array:
    """Return XNNPACK's QUANTIZE from codes to codes: a multiplier with 8 fractional bits, half up."""
    source, result = kernel.source, kernel.result
    check_scales(source, result)
    ratio = np.float32(source.scale) / np.float32(result.scale)
    low, high = _XNNPACK_CONVERT_RATIOS
    if not low <= ratio <= high:
        raise TargetError(
            f"litert-xnnpack: XNNPACK leaves a QUANTIZE whose scales differ by a factor outside [{low:g}, {high:g}] "
            "to other kernels; use litert-nodelegate"
        )
    multiplier = int(np.rint(np.float32(256) * ratio))
    scaled = ((source.range.codes - source.zero_point) * multiplier + 128) >> 8
    return np.clip(scaled + result.zero_point, result.range.lower, result.range.upper)


def rounded_average(kernel: AverageKernel, counts: Int64Array) -> Requantizer:
    """Return AVERAGE_POOL_2D: the sum of *codes* over their number, halves away from zero."""
    source, result = kernel.source, kernel.result
    if source != result:
        raise TargetError("AVERAGE_POOL_2D: its input and output must have one quantization")
    check_scales(source)
    lower, upper = activation_codes(None, kernel.activation, result.scale, result.zero_point, result.range)
    column = counts[:, None]

    def average(levels: Int64Array) -> Int64Array:
        total = levels + column * source.zero_point
        size = (np.abs(total) + column // 2) // column
        return np.clip(np.where(total > 0, size, -size), lower, upper)

    return average


def fixed_point_mean(kernel: AverageKernel, counts: Int64Array, rounding: FixedPointRounding) -> Requantizer:
    """Return MEAN: one multiplier for the scales and the count, the count divided into it in integers."""
    source, result = kernel.source, kernel.result
    check_scales(source, result)
    multiplier, shift = quantize_multiplier(np.array([source.scale / result.scale]))
    bits = np.array([min(int(count).bit_length() - 1, 32, 31 + int(shift[0])) for count in counts])
    column, right = ((multiplier << bits) // counts)[:, None], (shift - bits)[:, None]
    limits: CodeRange = result.range

    def mean(levels: Int64Array) -> Int64Array:
        return np.clip(rounding(levels, column, right) + result.zero_point, limits.lower, limits.upper)

    return mean


def xnnpack_mean(kernel: AverageKernel, counts: Int64Array) -> Requantizer:
    """Return XNNPACK's MEAN of any axes: ``rint(Σ codes · m + b)`` in float32.

    ``m`` is the quotient of the scales times the reciprocal of the count, and ``b`` the output zero point less what the
    input zero points of the sum are worth; both are float32, too, and so is each operation.
    """
    source, result = kernel.source, kernel.result
    check_scales(source, result)
    ratio = np.float32(source.scale) / np.float32(result.scale)
    factor = ratio * (np.float32(1) / counts.astype(np.float32))
    zero = counts * source.zero_point
    offset = np.float32(result.zero_point) - zero.astype(np.float32) * factor
    limits: CodeRange = result.range

    def mean(levels: Int64Array) -> Int64Array:
        sums = (levels + zero[:, None]).astype(np.float32)
        codes = np.rint(sums * factor[:, None] + offset[:, None])
        return np.clip(codes, limits.lower, limits.upper).astype(np.int64)

    return mean
