"""The int8 operators LOGISTIC and TANH as tables of 256 codes, computed as TFLite's runtimes compute them.

A C library's exponential and hyperbolic tangent differ from release to release in the last places.  A table is given
only where that cannot move any of its codes.

References
----------
XNNPACK, ``src/reference/unary-elementwise.cc`` (``SigmoidOp``, ``TanhOp``) and ``reference-utils.h`` (``quantize``);
TensorFlow Lite, ``kernels/activations.cc``, ``kernels/internal/common.h`` (``LUTPopulate``) and
``kernels/internal/reference/integer_ops/{logistic,tanh}.h``; gemmlowp, ``fixedpoint.h``; TensorFlow Lite Micro,
``micro/kernels/{logistic_common,tanh}.cc``.
"""

from __future__ import annotations

import math

import numpy as np

from milpq._arrays import Int64Array
from milpq.errors import TargetError
from milpq.rounding.arithmetic import Float32Array, round_half_away
from milpq.rounding.gemmlowp import fixed_point_table, fixed_sigmoid, fixed_tanh
from milpq.rounding.kernels import CURVES, Quantization, UnaryKernel

_ONE = np.float32(1)

_FIXED = {"logistic": fixed_sigmoid, "tanh": fixed_tanh}


def xnnpack_curve(kernel: UnaryKernel) -> Int64Array:
    """Return XNNPACK's table: the sigmoid in double, the rest in float32, halves to even after the zero point."""
    if kernel.kind == "logistic":
        real = (kernel.source.range.codes - kernel.source.zero_point).astype(np.float32)
        real *= np.float32(kernel.source.scale)
        values = _double_sigmoid(real)
    else:
        values = _tanh(kernel.source)
    result = kernel.result
    scaled = values * (_ONE / np.float32(result.scale)) + np.float32(result.zero_point)
    return _settled(kernel, np.rint(scaled))


def float32_curve(kernel: UnaryKernel) -> Int64Array:
    """Return the table of TFLite's own kernels: all in float32, halves away from zero before the zero point."""
    values = _float32_sigmoid(kernel.source) if kernel.kind == "logistic" else _tanh(kernel.source)
    scaled = round_half_away(values * (_ONE / np.float32(kernel.result.scale)))
    return _settled(kernel, scaled + np.float32(kernel.result.zero_point))


def fixed_point_curve(kernel: UnaryKernel) -> Int64Array:
    """Return the table of the microcontroller kernels, computed in gemmlowp's fixed point.

    Raises
    ------
    TargetError
        The result has not the quantization that the int8 specification fixes; the kernels ignore what it says.
    """
    source, result = kernel.source, kernel.result
    fixed = CURVES[kernel.kind]
    bits = -int(math.log2(fixed.scale))
    if result != fixed:
        raise TargetError(
            f"{kernel.kind.upper()}: these kernels always give scale 1/{1 << bits} and zero point {fixed.zero_point}"
        )
    function = _FIXED[kernel.kind]
    return fixed_point_table(
        function, kernel.kind.upper(), source.scale, source.zero_point, bits, fixed.zero_point
    )


def _settled(kernel: UnaryKernel, codes: Float32Array) -> Int64Array:
    """Return the codes of one table, where they do not depend on how the C library rounds its function.

    Parameters
    ----------
    codes : float32, shape (ways, 256)
        As they are with the nearest value of the function, and with those that are as far away as libraries can be.
    """
    table = np.clip(codes, kernel.result.range.lower, kernel.result.range.upper).astype(np.int64)
    if (table != table[0]).any():
        raise TargetError(
            f"{kernel.kind.upper()} with input scale {kernel.source.scale!r}: a value lies so near the middle between "
            "two codes that the machine's C library decides; quantize with a slightly different scale"
        )
    return table[0]


def _double_sigmoid(real: Float32Array) -> Float32Array:
    """Return the sigmoid, with exponentials of two units in the last place of a double more and less; (3, 256)."""
    clipped = np.clip(real.astype(np.float64), -100.0, 100.0)
    near = np.array([math.exp(value) for value in clipped.tolist()])
    away = 2 * np.spacing(near)
    power = np.stack([near, near - away, near + away])
    sigmoid = (power / (1.0 + power)).astype(np.float32)
    return np.where(real > 100, _ONE, np.where(real < -100, np.float32(0), sigmoid))


def _float32_sigmoid(source: Quantization) -> Float32Array:
    """Return the sigmoid, with float32 exponentials of a unit in the last place more and less; (3, 256).

    glibc's errs by 0.502 units.
    """
    real = np.float32(source.scale) * (source.range.codes - source.zero_point).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        near = np.exp(-real.astype(np.float64)).astype(np.float32)
        away = np.where(np.isfinite(near), np.spacing(near), np.float32(0))
        power = np.stack([near, near - away, near + away])
        return _ONE / (_ONE + power)


def _tanh(source: Quantization) -> Float32Array:
    """Return the float32 tanh, with two units in the last place more and less, as glibc's may err; (3, 256)."""
    real = (source.range.codes - source.zero_point).astype(np.float32) * np.float32(source.scale)
    near = np.array([math.tanh(value) for value in real.tolist()]).astype(np.float32)
    away = 2 * np.spacing(np.abs(near))
    return np.stack([near, near - away, near + away])
