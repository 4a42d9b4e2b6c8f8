"""The int8 LOGISTIC operator as a table of 256 codes, computed as the runtimes compute it.

Every such table is nondecreasing (`logistic_table` checks it), so a LOGISTIC after a layer is part of that
layer's step function.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from milpq._arrays import Int64Array, frozen
from milpq.errors import TargetError
from milpq.rounding.arithmetic import Float32Array, round_half_away
from milpq.rounding.gemmlowp import fixed_point_table, fixed_sigmoid

OUTPUT_SCALE = 1.0 / 256.0
OUTPUT_ZERO_POINT = -128
"""The output quantization that the int8 specification fixes for LOGISTIC."""

_CODES = frozen(np.arange(-128, 128, dtype=np.int64))


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
    return checked_table(
        "LOGISTIC", target.logistic_codes, input_scale, input_zero_point, output_scale, output_zero_point
    )


def checked_table(
    operator: str,
    codes: Callable[[float, int, float, int], Int64Array],
    input_scale: float,
    input_zero_point: int,
    output_scale: float,
    output_zero_point: int,
) -> Int64Array:
    """Return a table of 256 codes; raise TargetError for scales that are no float32, or one that is not monotone."""
    for scale in (input_scale, output_scale):
        if not (math.isfinite(scale) and scale > 0 and float(np.float32(scale)) == scale):
            raise TargetError(f"{operator}: scale {scale!r} is not a positive float32 value")
    table = codes(input_scale, input_zero_point, output_scale, output_zero_point)
    if table.shape != (256,) or (np.diff(table) < 0).any():
        raise TargetError(f"{operator} with input scale {input_scale!r}: the table is not monotone")
    return frozen(table)


def float_logistic_half_even(
    input_scale: float, input_zero_point: int, output_scale: float, output_zero_point: int
) -> Int64Array:
    """Return XNNPACK's table: sigmoid in double, the rest in float32, halves to even after the zero point.

    Shape (256,).  The exponential is that of the C library, within two units in the last place of a double; see
    `settled`.

    References
    ----------
    XNNPACK, ``src/reference/unary-elementwise.cc`` (``SigmoidOp``) and ``reference-utils.h`` (``quantize``).
    """
    real = (_CODES - input_zero_point).astype(np.float32) * np.float32(input_scale)
    clipped = np.clip(real.astype(np.float64), -100.0, 100.0)
    near = np.array([math.exp(value) for value in clipped.tolist()])
    away = 2 * np.spacing(near)
    power = np.stack([near, near - away, near + away])
    sigmoid = (power / (1.0 + power)).astype(np.float32)
    sigmoid = np.where(real > 100, np.float32(1), np.where(real < -100, np.float32(0), sigmoid))
    scaled = sigmoid * (np.float32(1) / np.float32(output_scale)) + np.float32(output_zero_point)
    return settled("LOGISTIC", np.rint(scaled), input_scale)


def float_logistic_half_away(
    input_scale: float, input_zero_point: int, output_scale: float, output_zero_point: int
) -> Int64Array:
    """Return the table of TFLite's own kernels: all in float32, halves away from zero.

    Shape (256,).  The float32 exponential is that of the C library, within a unit in the last place of the nearest
    number (glibc's errs by 0.502 units); see `settled`.

    References
    ----------
    TensorFlow Lite, ``kernels/activations.cc`` and ``kernels/internal/common.h`` (``LUTPopulate``).
    """
    real = np.float32(input_scale) * (_CODES - input_zero_point).astype(np.float32)
    one = np.float32(1)
    with np.errstate(over="ignore", invalid="ignore"):
        near = np.exp(-real.astype(np.float64)).astype(np.float32)
        away = np.where(np.isfinite(near), np.spacing(near), np.float32(0))
        power = np.stack([near, near - away, near + away])
        sigmoid = one / (one + power)
    scaled = round_half_away(sigmoid * (one / np.float32(output_scale))) + np.float32(output_zero_point)
    return settled("LOGISTIC", scaled, input_scale)


def settled(operator: str, codes: Float32Array, input_scale: float) -> Int64Array:
    """Return the codes of one table, where they do not depend on how the C library rounds its function.

    C libraries differ from release to release in the last places.

    Parameters
    ----------
    codes : float32, shape (ways, 256)
        As they are with the nearest value of the function, and with those that are as far away as libraries can be.

    Raises
    ------
    TargetError
        A value lies so near the middle between two codes that they do.
    """
    table = np.clip(codes, -128, 127).astype(np.int64)
    if (table != table[0]).any():
        raise TargetError(
            f"{operator} with input scale {input_scale!r}: a value lies so near the middle between two codes that "
            "the machine's C library decides; quantize with a slightly different scale"
        )
    return table[0]


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
    return fixed_point_table(fixed_sigmoid, "LOGISTIC", input_scale, input_zero_point, 8, OUTPUT_ZERO_POINT)
