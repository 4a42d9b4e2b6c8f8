"""The operators without weights of ONNX Runtime: QLinearAdd and the pools that average, in float32.

References
----------
ONNX Runtime, MLAS ``qladd.cpp`` (``MlasQLinearAddKernelHelper``) and ``qlgavgpool.cpp``;
``contrib_ops/cpu/quantization/qlinear_pool.cc``.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from milpq._arrays import Int64Array
from milpq.errors import TargetError
from milpq.rounding.activation import CodeRange
from milpq.rounding.arithmetic import float32_fused, float32_half_even
from milpq.rounding.kernels import AverageKernel, PairSum, Quantization, SumKernel, check_scales
from milpq.rounding.requantization import Requantizer

MOST_CODES = 256

_SUM_BITS = 38
"""Sums of addends stay below 2^39, as step functions hold them."""


def ort_sum(kernel: SumKernel) -> PairSum:
    """Return QLinearAdd: ``rint(fma(a, sa/sc, fma(b, sb/sc, zc − fma(sa/sc, za, sb/sc·zb))))`` in float32.

    Fused operations round, so the result is no function of a weighted sum by construction.  It is one for
    the 65,536 pairs of codes wherever no two pairs with nearly equal sums are rounded against their order; that
    is checked here, pair by pair.

    Raises
    ------
    TargetError
        It is not for these scales.
    """
    first, second, result = (
        _executed(tensor, as_unsigned=kernel.as_unsigned)
        for tensor in (kernel.first, kernel.second, kernel.result)
    )
    if len(first.range.codes) > MOST_CODES or len(second.range.codes) > MOST_CODES:
        raise TargetError("ort: QLinearAdd takes codes of 8 bits")
    check_scales(first, second, result)
    ratios = [np.float32(operand.scale) / np.float32(result.scale) for operand in (first, second)]
    # The zero point of the result is part of what is rounded.
    offset = float32_fused(
        np.array([ratios[0]]),
        np.array([first.zero_point], dtype=np.float32),
        np.array([ratios[1] * np.float32(second.zero_point)]),
    )
    fixed = np.float32(result.zero_point) - offset[0]
    x, y = (operand.range.codes.astype(np.float32) for operand in (first, second))
    inner = float32_fused(y, np.full(len(y), ratios[1]), np.full(len(y), fixed))
    shape = len(x), len(y)
    total = float32_fused(
        np.broadcast_to(x[:, None], shape), np.full(shape, ratios[0]), np.broadcast_to(inner[None, :], shape)
    )
    codes = np.clip(np.rint(total), result.range.lower, result.range.upper).astype(np.int64)
    codes -= result.range.lower - kernel.result.range.lower
    unit = 2.0 ** (_SUM_BITS - 8 - np.ceil(np.log2(float(max(ratios)))))
    addends = [
        np.rint(np.float64(ratio) * unit * (operand.range.codes - operand.zero_point)).astype(np.int64)
        for ratio, operand in zip(ratios, (first, second), strict=True)
    ]
    sums = (addends[0][:, None] + addends[1][None, :]).ravel()
    order = np.lexsort((codes.ravel(), sums))
    sums, reached = sums[order], codes.ravel()[order]
    if (np.diff(reached) < 0).any() or (np.diff(reached)[np.diff(sums) == 0] != 0).any():
        raise TargetError(
            "ort: float32 rounds this addition against the order of its exact sums, which milpq does not encode; "
            "quantize with slightly different scales"
        )

    def output(total: Int64Array) -> Int64Array:
        at = np.searchsorted(sums, total, side="right") - 1
        return reached[np.maximum(at, 0)]

    return PairSum(addends[0], addends[1], output)


def ort_average(kernel: AverageKernel, counts: Int64Array) -> Requantizer:
    """Return the function from sums of levels to codes of both pools that average.

    A global pool (``mean``) multiplies the sum of levels by ``s_in / (s_out · count)``.  A windowed one sums the
    dequantized numbers, ``rint((sum / count) / s_out + z)``: a function of the sum of levels only where
    the products with the scale are exact.

    Raises
    ------
    TargetError
        A windowed pool whose input scale is no power of two.
    """
    source, result = kernel.source, kernel.result
    check_scales(source, result)
    if kernel.kind == "pool":
        return _windowed_average(kernel, counts)
    scaled = np.float32(result.scale) * counts.astype(np.float32)
    factor = (np.float32(source.scale) / scaled)[:, None]
    zero_point, limits = result.zero_point, result.range

    def requantize(sums: Int64Array) -> Int64Array:
        levels = float32_half_even(sums, factor, limits.lower - zero_point, limits.upper - zero_point)
        return levels + zero_point

    return requantize


_CURVE_ERRORS = {"Sigmoid": 2.0**-22, "Tanh": 2.0**-21}
"""How far MLAS's float32 sigmoid and tanh are from the true ones at most: 1.6e-7 and 3.3e-7 were seen in two million
values each.  Their last bits depend on the processor's instructions."""


def ort_curve(operator: Literal["Sigmoid", "Tanh"], source: Quantization, result: Quantization) -> Int64Array:
    """Return the table of DequantizeLinear, Sigmoid or Tanh in float32, and QuantizeLinear; also of QLinearSigmoid.

    Returns
    -------
    int64, shape (codes,)

    Raises
    ------
    TargetError
        A value lies so near the middle between two codes that its code depends on the machine.

    References
    ----------
    ONNX Runtime, ``qlinear_lookup_table.h``; MLAS ``logistic.cpp`` and ``tanh.cpp``.
    """
    check_scales(source, result)
    real = (source.range.codes - source.zero_point).astype(np.float32) * np.float32(source.scale)
    if operator == "Sigmoid":
        true = np.array([1.0 / (1.0 + math.exp(-min(max(x, -700.0), 700.0))) for x in real.tolist()])
    else:
        true = np.array([math.tanh(x) for x in real.tolist()])
    error = _CURVE_ERRORS[operator]
    near = np.stack([true, true - error, true + error]).astype(np.float32)
    table = ort_quantized(near, result)
    if (table != table[0]).any():
        raise TargetError(
            f"{operator}: a value lies so near the middle between two codes that the processor's float32 "
            "decides; quantize with slightly different scales"
        )
    return table[0]


def ort_rescaled(source: Quantization, result: Quantization) -> Int64Array:
    """Return the table of DequantizeLinear and QuantizeLinear one after the other, each in float32, shape (codes,)."""
    check_scales(source, result)
    real = (source.range.codes - source.zero_point).astype(np.float32) * np.float32(source.scale)
    return ort_quantized(real, result)


def ort_quantized(real: npt.NDArray[np.float32], result: Quantization) -> Int64Array:
    """Return the codes that QuantizeLinear gives float32 numbers."""
    limits, zero_point = result.range, result.zero_point
    levels = np.clip(
        real / np.float32(result.scale),
        np.float32(limits.lower - zero_point),
        np.float32(limits.upper - zero_point),
    )
    return np.rint(levels).astype(np.int64) + zero_point


def _executed(tensor: Quantization, *, as_unsigned: bool) -> Quantization:
    """Return the quantization in which the runtime computes."""
    if not as_unsigned:
        return tensor
    limits = tensor.range
    return Quantization(
        tensor.scale, tensor.zero_point + 128, CodeRange(limits.lower + 128, limits.upper + 128)
    )


def _windowed_average(kernel: AverageKernel, counts: Int64Array) -> Requantizer:
    source, result = kernel.source, _executed(kernel.result, as_unsigned=kernel.as_unsigned)
    if math.frexp(source.scale)[0] != 0.5:
        raise TargetError(
            "ort: QLinearAveragePool adds float32 numbers, so that its result depends on more than their sum; use "
            "GlobalAveragePool, or an input scale that is a power of two"
        )
    limits, zero_point = result.range, np.float32(result.zero_point)

    def requantize(sums: Int64Array) -> Int64Array:
        # Levels times a power of two, and their sums below 2^24, are exact.
        real = sums.astype(np.float32) * np.float32(source.scale)
        scaled = (real / counts.astype(np.float32)[:, None]) / np.float32(result.scale) + zero_point
        codes = np.clip(np.rint(scaled), limits.lower, limits.upper).astype(np.int64)
        return codes - (limits.lower - kernel.result.range.lower)

    return requantize
