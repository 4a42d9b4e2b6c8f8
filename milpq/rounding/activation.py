"""The output codes at which a fused activation clips, which is all that is left of it in an integer layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np

from milpq.errors import TargetError
from milpq.rounding.arithmetic import round_half_away
from milpq.rounding.requantization import INT8, UINT8, CodeRange, Requantization

__all__ = [
    "CODE_LOWER",
    "CODE_UPPER",
    "ENDS",
    "INT8",
    "UINT8",
    "Activation",
    "CodeRange",
    "SupportsActivationCode",
    "activation_codes",
    "fused_on_target",
    "tflite_activation_code",
    "xnnpack_activation_code",
]

Activation: TypeAlias = Literal["none", "relu", "relu6", "relu_n1_to_1"]

CODE_LOWER = -128
CODE_UPPER = 127


ENDS: dict[Activation, tuple[float, float]] = {
    "none": (-np.inf, np.inf),
    "relu": (0.0, np.inf),
    "relu6": (0.0, 6.0),
    "relu_n1_to_1": (-1.0, 1.0),
}
"""The interval of reals each activation clips to."""


@runtime_checkable
class SupportsActivationCode(Protocol):
    """A target that converts the finite ends of an activation to codes in its own way."""

    def activation_code(self, real: float, output_scale: float, output_zero_point: int) -> int:
        """Return the code of a real end of an activation, not yet clipped to int8."""
        ...


def activation_codes(
    target: object,
    activation: Activation,
    output_scale: float,
    output_zero_point: int,
    limits: CodeRange = INT8,
) -> tuple[int, int]:
    """Return the smallest and largest output code under a fused activation.

    Runtimes disagree here: TFLite and what follows it round ``6/s`` half away from zero and then add the zero
    point, XNNPACK adds first and rounds half to even.  The limits can differ by one either way.

    Parameters
    ----------
    target : Target
        TFLite's conversion applies unless the target satisfies `SupportsActivationCode`.
    output_scale : float32 value, held as float
    limits : CodeRange
        The codes there are.

    Raises
    ------
    TargetError
        The limits leave no code, or the scale is 0 in the float32 that runtimes compute limits in.
    """

    def code(real: float, saturated: int) -> int:
        if np.isinf(real):
            return saturated
        if np.float32(output_scale) == 0:
            raise TargetError(
                f"{activation}: an output scale of {output_scale:g} is 0 in float32; state a larger scale"
            )
        if isinstance(target, SupportsActivationCode):
            found = target.activation_code(real, output_scale, output_zero_point)
        else:
            found = tflite_activation_code(real, output_scale, output_zero_point)
        return min(max(found, limits.lower), limits.upper)

    lower, upper = ENDS[activation]
    code_lower, code_upper = code(lower, limits.lower), code(upper, limits.upper)
    if code_lower > code_upper:
        raise TargetError(f"{activation}: its output codes {code_lower} to {code_upper} are an empty range")
    return code_lower, code_upper


def fused_on_target(target: object, activation: Activation, requantization: Requantization) -> Requantization:
    """Return a requantization whose code limits are those the target computes for its fused activation.

    Only limits that are TFLite's for this activation are replaced, so limits a file states otherwise stay.

    Parameters
    ----------
    requantization : Requantization
        With the limits `activation_codes` gives for TFLite, as a reader that knows no target fills them in.
    """
    scale, zero_point = requantization.output_scale, requantization.output_zero_point
    stated = (requantization.code_lower, requantization.code_upper)
    if stated != activation_codes(None, activation, scale, zero_point, requantization.limits):
        return requantization
    code_lower, code_upper = activation_codes(target, activation, scale, zero_point, requantization.limits)
    return replace(requantization, code_lower=code_lower, code_upper=code_upper)


def tflite_activation_code(real: float, output_scale: float, output_zero_point: int) -> int:
    """Return ``zero point + round(real / scale)``: float32, halves away from zero.

    References
    ----------
    TensorFlow Lite, ``kernels/kernel_util.cc``: ``CalculateActivationRangeQuantized``.
    """
    quotient = np.array([real], dtype=np.float32) / np.float32(output_scale)
    return output_zero_point + int(np.clip(round_half_away(quotient), -(2.0**31), 2.0**31)[0])


def xnnpack_activation_code(real: float, output_scale: float, output_zero_point: int) -> int:
    """Return ``rint(real / scale + zero point)``: float32, halves to even, after the sum.

    References
    ----------
    XNNPACK, ``xnn_qs8_quantize``.
    """
    quotient = np.array([real], dtype=np.float32) / np.float32(output_scale)
    code = np.rint(quotient + np.float32(output_zero_point))
    return int(np.clip(code, -(2.0**31), 2.0**31)[0])
