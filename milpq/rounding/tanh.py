"""The int8 TANH operator as a table of 256 codes, computed as the runtimes compute it."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import numpy as np

from milpq._arrays import Int64Array
from milpq.errors import TargetError
from milpq.rounding.arithmetic import Float32Array, round_half_away
from milpq.rounding.gemmlowp import fixed_point_table, fixed_tanh
from milpq.rounding.logistic import checked_table, settled

OUTPUT_SCALE = 1.0 / 128.0
OUTPUT_ZERO_POINT = 0
"""The output quantization that the int8 specification fixes for TANH."""


@runtime_checkable
class SupportsTanh(Protocol):
    """A target that also states what its TANH operator computes."""

    def tanh_codes(
        self, input_scale: float, input_zero_point: int, output_scale: float, output_zero_point: int
    ) -> Int64Array:
        """Return the output codes of the input codes -128 … 127, int64, shape (256,)."""
        ...


def tanh_table(
    target: object,
    input_scale: float,
    input_zero_point: int,
    output_scale: float = OUTPUT_SCALE,
    output_zero_point: int = OUTPUT_ZERO_POINT,
) -> Int64Array:
    """Return what the TANH operator of a target makes of each input code, as `logistic_table` does.

    Raises
    ------
    TargetError
        The target has no int8 TANH, does not take these parameters, or the table would not be monotone.
    """
    if not isinstance(target, SupportsTanh):
        name = getattr(target, "name", target)
        raise TargetError(f"target {name}: its int8 TANH is not known to milpq; remove the operator")
    return checked_table(
        "TANH", target.tanh_codes, input_scale, input_zero_point, output_scale, output_zero_point
    )


def float_tanh_half_even(
    input_scale: float, input_zero_point: int, output_scale: float, output_zero_point: int
) -> Int64Array:
    """Return XNNPACK's table: all in float32, halves to even after the zero point.

    Shape (256,).  See `settled` for the float32 tanh; glibc's is within two units in the last place.

    References
    ----------
    XNNPACK, ``src/reference/unary-elementwise.cc`` (``TanhOp``) and ``reference-utils.h`` (``quantize``).
    """
    scaled = _tanh(input_scale, input_zero_point) * (np.float32(1) / np.float32(output_scale))
    return settled("TANH", np.rint(scaled + np.float32(output_zero_point)), input_scale)


def float_tanh_half_away(
    input_scale: float, input_zero_point: int, output_scale: float, output_zero_point: int
) -> Int64Array:
    """Return the table of TFLite's own kernels: in float32, halves away from zero before the zero point.

    Shape (256,).  See `settled` for the float32 tanh; glibc's is within two units in the last place.

    References
    ----------
    TensorFlow Lite, ``kernels/activations.cc`` and ``kernels/internal/common.h`` (``LUTPopulate``).
    """
    scaled = _tanh(input_scale, input_zero_point) * (np.float32(1) / np.float32(output_scale))
    return settled("TANH", round_half_away(scaled) + np.float32(output_zero_point), input_scale)


def fixed_point_tanh(
    input_scale: float, input_zero_point: int, output_scale: float, output_zero_point: int
) -> Int64Array:
    """Return the table of the microcontroller kernels, computed in gemmlowp's fixed point.

    Shape (256,).  `output_scale` has to be 1/128: the kernel ignores it.

    References
    ----------
    TensorFlow Lite, ``kernels/internal/reference/integer_ops/tanh.h``; TensorFlow Lite Micro,
    ``micro/kernels/tanh.cc``.
    """
    if output_scale != OUTPUT_SCALE or output_zero_point != OUTPUT_ZERO_POINT:
        raise TargetError("TANH: these kernels always give scale 1/128 and zero point 0")
    return fixed_point_table(fixed_tanh, "TANH", input_scale, input_zero_point, 7, OUTPUT_ZERO_POINT)


def _tanh(input_scale: float, input_zero_point: int) -> Float32Array:
    """Return the float32 tanh of every code, correctly rounded and two units in the last place off; (3, 256)."""
    real = (np.arange(-128, 128) - input_zero_point).astype(np.float32) * np.float32(input_scale)
    near = np.array([math.tanh(value) for value in real.tolist()]).astype(np.float32)
    away = 2 * np.spacing(np.abs(near))
    return np.stack([near, near - away, near + away])
