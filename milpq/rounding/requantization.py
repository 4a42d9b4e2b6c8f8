"""What a model file says about a requantization, and what an inference target makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np

from milpq._arrays import Float64Array, Int64Array

Requantizer: TypeAlias = Callable[[Int64Array], Int64Array]
"""Accumulators (channels, k) to *codes* (channels, k): nondecreasing along the last axis, already clipped."""

Operator: TypeAlias = Literal["fully_connected", "conv", "depthwise"]


@dataclass(frozen=True, slots=True)
class CodeRange:
    """Codes of an activation tensor: ``-128 … 127`` for int8, ``0 … 255`` for uint8."""

    lower: int
    upper: int

    @property
    def codes(self) -> Int64Array:
        """All of them, in order."""
        return np.arange(self.lower, self.upper + 1, dtype=np.int64)


INT8 = CodeRange(-128, 127)
UINT8 = CodeRange(0, 255)


@dataclass(frozen=True, slots=True, eq=False)
class FloatBias:
    """A bias that the file holds in float32, and what of it the accumulator holds already.

    Parameters
    ----------
    real : float64 holding float32 values, shape (channels,), real units
    codes : int64, shape (channels,)
        The integer bias that accumulators contain in its place.
    """

    real: Float64Array
    codes: Int64Array


@dataclass(frozen=True, slots=True, eq=False)
class Requantization:
    """The scales, zero point and limits with which a file describes the end of one integer layer.

    Parameters
    ----------
    operator : which kernel of the runtime runs it; kernels of one runtime round differently.
    input_scale, output_scale : float32 values (held as float)
    weight_scales : float64 holding float32 values, shape (channels,)
        One scale a channel; all equal with ``per_channel=False`` and stored once per channel all the same.
    per_channel : bool
        Whether the file gives a scale per channel; some kernels compute the multiplier differently then.
    code_lower, code_upper : int
        Smallest and largest output code after the fused activation.
    pairs_saturate : bool
        Whether neighbouring products of uint8 activations and int8 weights can leave int16 together, so that
        kernels that add them in saturating int16 do not compute the accumulator.
    limits : CodeRange
        The codes of the output's type; runtimes have other kernels for uint8 than for int8.
    float_bias : FloatBias or None
        For runtimes that add it in float; None where the file holds integers.
    """

    operator: Operator
    input_scale: float
    weight_scales: Float64Array
    per_channel: bool
    output_scale: float
    output_zero_point: int
    code_lower: int
    code_upper: int
    pairs_saturate: bool = False
    limits: CodeRange = INT8
    float_bias: FloatBias | None = None

    def statement(self, target: str | None) -> dict[str, object]:
        """Return what the open network file says of it, rounded as a target does; None leaves that open."""
        return {
            "target": target,
            "operator": self.operator,
            "per_channel": self.per_channel,
            "code_type": "uint8" if self.limits == UINT8 else "int8",
            "pairs_saturate": self.pairs_saturate,
        }


class Target(Protocol):
    """An inference target: the exact requantization and input quantizer of one runtime.

    Third parties register one under the entry point group ``milpq.targets``.
    """

    @property
    def name(self) -> str:
        """The id users type, options included."""
        ...

    @property
    def summary(self) -> str:
        """One line for ``milpq targets``."""
        ...

    @property
    def input_rounding(self) -> str:
        """The rounding rule of the input quantizer; a key of ``milpq.rounding.input_quantizer.RULES``."""
        ...

    def requantizer(self, requantization: Requantization) -> Requantizer:
        """Return the executable requantization of one layer.

        Raises
        ------
        TargetError
            This target cannot run the operator or its parameters.
        """
        ...
