"""The layers of a quantized model as its file states them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from milpq._arrays import Float64Array, Int64Array, Matrix
from milpq.network.images import Convolution
from milpq.rounding.activation import Activation
from milpq.rounding.kernels import AverageKernel, Quantization, SumKernel, UnaryKernel
from milpq.rounding.requantization import Requantization, Requantizer


@dataclass(frozen=True, slots=True, eq=False)
class StatedRequantization:
    """A requantization that the file states itself, so that no target is needed for it.

    Parameters
    ----------
    requantizer : callable
        Accumulators (channels, k) to codes.
    statement : dict of str to number or list
        The file's own words, for writing the model back.
    """

    requantizer: Requantizer
    output_scale: float
    output_zero_point: int
    code_lower: int
    code_upper: int
    statement: dict[str, object]


@dataclass(frozen=True, slots=True, eq=False)
class StatedKernel:
    """What an operator without weights computes where the file states it itself, so that no target is needed for it.

    Parameters
    ----------
    target : object
        States the operator as `milpq.rounding.kernels` asks it.
    statement : dict of str to number or list
        The file's own words, for writing the model back.
    """

    target: object
    statement: dict[str, object]


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedLinear:
    """One fully connected or convolution layer of a quantized model.

    Parameters
    ----------
    source : int
        Value index it reads (0 is the input, ``k`` the result of layer ``k − 1``).
    weights : matrix of integers, shape (neurons, inputs)
        Weight codes minus their zero point.
    bias : int64, shape (neurons,)
    weight_scales : float64, shape (channels,)
    channel : int64, shape (neurons,)
        The channel of each neuron; ``arange`` for a fully connected layer.
    requantization : Requantization, or a Requantizer the file states itself, or None
        None leaves the accumulator as the output, not rounded.
    activation : str
        What the float original has here.  Targets round the ends of an activation to code limits in their own
        ways; the limits in the requantization are TFLite's.
    convolution : Convolution or None
        The convolution that the weights are.
    """

    name: str
    source: int
    weights: Matrix
    bias: Int64Array
    input_scale: float
    weight_scales: Float64Array
    channel: Int64Array
    requantization: Requantization | StatedRequantization | None
    activation: Activation = "none"
    convolution: Convolution | None = None


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedLookup:
    """A monotone table from codes to codes, such as an int8 LOGISTIC or a ReLU of its own.

    Parameters
    ----------
    table : int64, shape (codes,)
        Output code of each input code, from the smallest input code upwards; nondecreasing.
    """

    name: str
    source: int
    table: Int64Array
    input_code_lower: int
    input_zero_point: int
    output_scale: float
    output_zero_point: int


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedUnary:
    """An operator from codes to codes whose table is the target's: LOGISTIC, TANH, RELU, QUANTIZE, ..."""

    name: str
    source: int
    kernel: UnaryKernel
    stated: StatedKernel | None = None


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedSum:
    """A quantized ADD of two values of one length; what it computes is the target's."""

    name: str
    first: int
    second: int
    kernel: SumKernel
    stated: StatedKernel | None = None


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedOffset:
    """A quantized ADD of a value and a constant, such as the bias that follows a product of its own.

    Parameters
    ----------
    constant : int64, shape (neurons,)
        Codes of the second operand.
    """

    name: str
    source: int
    constant: Int64Array
    kernel: SumKernel


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedAverage:
    """An average pool or a mean.

    Parameters
    ----------
    candidates : int64, shape (neurons, window)
        Which neurons of the source each neuron averages; ``geometry.OUTSIDE`` for none.
    """

    name: str
    source: int
    candidates: Int64Array
    kernel: AverageKernel
    stated: StatedKernel | None = None


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedMaximum:
    """A max pool: codes stay as they are.

    Parameters
    ----------
    candidates : int64, shape (neurons, window)
        Which neurons of the source compete; ``geometry.OUTSIDE`` for none.
    """

    name: str
    source: int
    candidates: Int64Array
    quantization: Quantization
    activation: Activation = "none"


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedSelection:
    """A pad, concatenation, transposition, slice or broadcast: every neuron is a neuron of a source, or a constant.

    Parameters
    ----------
    sources : tuple of int
        Values of one quantization.
    chosen : tuple of int64, shape (neurons,) each
        Which neuron of the source each neuron is; ``geometry.OUTSIDE`` where it is not of this source.
    constant : int64, shape (neurons,)
        Level (code − zero point) of the neurons that are of no source; 0 elsewhere.
    """

    name: str
    sources: tuple[int, ...]
    chosen: tuple[Int64Array, ...]
    constant: Int64Array
    quantization: Quantization


QuantizedLayer: TypeAlias = (
    QuantizedLinear
    | QuantizedLookup
    | QuantizedUnary
    | QuantizedSum
    | QuantizedOffset
    | QuantizedAverage
    | QuantizedMaximum
    | QuantizedSelection
)
