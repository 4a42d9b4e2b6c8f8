"""What a model file says about the operators that hold no weights, and what a target states of them.

A target need not know any of these operators; one that does satisfies the protocol here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np

from milpq._arrays import Int64Array, frozen
from milpq.errors import TargetError
from milpq.rounding.activation import INT8, Activation, CodeRange
from milpq.rounding.requantization import Requantizer

UnaryKind: TypeAlias = Literal["requantize", "relu", "relu6", "relu_n1_to_1", "logistic", "tanh"]

ACTIVATION_OF: dict[UnaryKind, Activation] = {
    "requantize": "none",
    "relu": "relu",
    "relu6": "relu6",
    "relu_n1_to_1": "relu_n1_to_1",
}
"""The clamp that the float original applies, of the operators whose original is one."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """Scale (a float32 value, held as float), zero point and range of an activation tensor."""

    scale: float
    zero_point: int
    range: CodeRange = INT8


CURVES: dict[UnaryKind, Quantization] = {
    "logistic": Quantization(1.0 / 256.0, -128),
    "tanh": Quantization(1.0 / 128.0, 0),
}
"""The output quantization that the int8 specification fixes for each."""


@dataclass(frozen=True, slots=True)
class UnaryKernel:
    """An operator from codes to codes, element by element."""

    kind: UnaryKind
    source: Quantization
    result: Quantization


@dataclass(frozen=True, slots=True)
class SumKernel:
    """A quantized ADD of two tensors, with its fused activation.

    Parameters
    ----------
    as_unsigned : bool
        Whether the runtime turns int8 codes into uint8 ones first, 128 larger; some roundings know their zero point.
    """

    first: Quantization
    second: Quantization
    result: Quantization
    activation: Activation
    as_unsigned: bool = False


@dataclass(frozen=True, slots=True)
class AverageKernel:
    """An average pool, or a mean over axes.

    Parameters
    ----------
    kind : which operator
    spatial_keep : bool
        A mean over both spatial axes of an image that keeps them; some runtimes have a kernel of its own for that.
    as_unsigned : bool
        As in `SumKernel`.
    """

    kind: Literal["pool", "mean"]
    source: Quantization
    result: Quantization
    activation: Activation
    spatial_keep: bool = False
    as_unsigned: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class PairSum:
    """How a runtime adds: ``output(first[x] + second[y])``.

    Parameters
    ----------
    first, second : int64, shape (codes,)
        Addend of each code of an operand, nondecreasing.
    output : callable
        Sums, any shape, to codes; nondecreasing.
    """

    first: Int64Array
    second: Int64Array
    output: Callable[[Int64Array], Int64Array]


@runtime_checkable
class SupportsKernels(Protocol):
    """A target that states what its operators without weights compute."""

    def unary_codes(self, kernel: UnaryKernel) -> Int64Array:
        """Return the output code of every input code, in their order."""
        ...

    def pair_sum(self, kernel: SumKernel) -> PairSum:
        """Return how ADD computes."""
        ...

    def average(self, kernel: AverageKernel, counts: Int64Array) -> Requantizer:
        """Return the function from sums of levels (code − zero point) to codes, one row per count.

        Parameters
        ----------
        counts : int64, shape (rows,)
            How many codes are summed.
        """
        ...


@runtime_checkable
class NeedsPowerOfTwoPools(Protocol):
    """A target whose windowed averages are known only where the scale of what they read is a power of two."""

    @property
    def power_of_two_pools(self) -> bool:
        """Whether it is so."""
        ...


def power_of_two_pools(target: object) -> bool:
    """Tell whether a target needs a power-of-two scale in front of a windowed average."""
    return isinstance(target, NeedsPowerOfTwoPools) and target.power_of_two_pools


def unary_table(target: object, kernel: UnaryKernel) -> Int64Array:
    """Return the output code of every input code of an operator on a target; checked to be nondecreasing.

    Raises
    ------
    TargetError
        The target does not have the operator or does not take these parameters.
    """
    source, result = kernel.source, kernel.result
    if kernel.kind in CURVES and (source.range != INT8 or result.range != INT8):
        raise TargetError(f"{kernel.kind.upper()}: milpq knows it for int8 only")
    check_scales(source, result)
    table = supported(target, kernel.kind.upper()).unary_codes(kernel)
    if table.shape != source.range.codes.shape or (np.diff(table) < 0).any():
        raise TargetError(f"{kernel.kind.upper()}: the table is not monotone")
    return frozen(table)


def supported(target: object, operator: str) -> SupportsKernels:
    """Return the target as one that states its operators.

    Raises
    ------
    TargetError
        It does not.
    """
    if not isinstance(target, SupportsKernels):
        raise unknown_operator(target, operator)
    return target


def unknown_operator(target: object, operator: str) -> TargetError:
    """Return the error of an operator whose integers no one has stated for a target."""
    name = getattr(target, "name", target)
    return TargetError(f"target {name}: its {operator} is not known to milpq; use another target")


def check_scales(*tensors: Quantization) -> None:
    """Raise TargetError unless every scale is a positive finite float32 value."""
    for tensor in tensors:
        scale = tensor.scale
        if not (math.isfinite(scale) and scale > 0 and float(np.float32(scale)) == scale):
            raise TargetError(f"scale {scale!r} is not a positive float32 value")


def shifted_addends(
    kernel: SumKernel, bits: int, ratios: tuple[float, float], refusal: str
) -> tuple[tuple[Int64Array, Int64Array], int]:
    """Return what each operand of a sum adds, by multipliers that share one shift, and that shift.

    Parameters
    ----------
    bits : int
        Of the larger multiplier.
    ratios : pair of float
        What a scale may be of the result's: at least the first, below the second.
    refusal : str

    Raises
    ------
    TargetError
        With the words of `refusal`, for other ratios.
    """
    operands, result = (kernel.first, kernel.second), kernel.result
    check_scales(*operands, result)
    first, second = (np.float32(operand.scale) / np.float32(result.scale) for operand in operands)
    if min(first, second) < ratios[0] or max(first, second) >= ratios[1]:
        raise TargetError(refusal)
    shift = bits - int(np.frexp(max(first, second))[1])

    def addend(ratio: np.float32, operand: Quantization) -> Int64Array:
        return int(np.rint(np.float64(ratio) * 2.0**shift)) * (operand.range.codes - operand.zero_point)

    return (addend(first, operands[0]), addend(second, operands[1])), shift
