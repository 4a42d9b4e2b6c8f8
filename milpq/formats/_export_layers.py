"""Layers with weights as the int8 formats state them: from matrices back to kernels, scales and int32 biases."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from milpq._arrays import Float64Array, Int64Array
from milpq.errors import UnsupportedModelError
from milpq.network.geometry import Layout
from milpq.network.images import Convolution
from milpq.network.layout import permuted
from milpq.network.quantized_model import QuantizedLinear, StatedRequantization
from milpq.rounding.activation import CODE_LOWER, CODE_UPPER, Activation
from milpq.rounding.requantization import Requantization

OPEN_FILE = "write the open file (.json)"
"""The remedy that always helps."""


@dataclass(frozen=True, slots=True, eq=False)
class ExportLayer:
    """A fully connected layer or convolution as a file states it.

    Parameters
    ----------
    sources : tuple of int
        The value it reads.
    weights : int8, shape (neurons, inputs), or (channels, depth, *kernel) of a convolution
        Codes.
    weight_zero_points : int8, shape (channels,)
    weight_scales : float64 holding float32 values, shape (1,) per tensor, (channels,) per channel
    bias : int32, shape (channels,)
    code_lower, code_upper : int
        Smallest and largest output code after the activation.
    convolution : Convolution or None
        In the layout of the file.
    """

    name: str
    sources: tuple[int, ...]
    weights: npt.NDArray[np.int8]
    weight_zero_points: npt.NDArray[np.int8]
    weight_scales: Float64Array
    bias: npt.NDArray[np.int32]
    activation: Activation
    code_lower: int
    code_upper: int
    convolution: Convolution | None

    @property
    def size(self) -> int:
        """Number of neurons."""
        return len(self.bias) if self.convolution is None else self.convolution.result.size


def relaid(layer: QuantizedLinear, rows: Int64Array | None, columns: Int64Array | None) -> QuantizedLinear:
    """Return a layer with its neurons, and those that it reads, in another order."""
    bias, channel = (part if rows is None else part[rows] for part in (layer.bias, layer.channel))
    return replace(layer, weights=permuted(layer.weights, rows, columns), bias=bias, channel=channel)


def export_layer(layer: QuantizedLinear, source: int, layout: Layout, where: str, ending: str) -> ExportLayer:
    """Return a layer as a file states it; its rounding is for the caller to check.

    Raises
    ------
    UnsupportedModelError
        The file cannot state it.
    """
    stated = layer.requantization
    if stated is None:
        raise UnsupportedModelError(f"{where}: leaves its accumulators unrounded; {OPEN_FILE}")
    if not (stated.code_lower >= CODE_LOWER and stated.code_upper <= CODE_UPPER):
        raise UnsupportedModelError(f"{where}: its codes are not int8, as {ending} needs; {OPEN_FILE}")
    convolution = None if layer.convolution is None else layer.convolution.in_layout(layout)
    levels, bias, of_row = _rows(layer, convolution, where)
    per_channel = _is_per_channel(layer, of_row, where)
    zero_points = _zero_points(levels, per_channel)
    if (zero_points < CODE_LOWER).any() or (zero_points > CODE_UPPER).any():
        raise UnsupportedModelError(f"{where}: its weights are not int8, as {ending} needs; {OPEN_FILE}")
    if (np.abs(bias) >= 2**31).any():
        raise UnsupportedModelError(f"{where}: a bias does not fit int32")
    return ExportLayer(
        layer.name,
        (source,),
        (levels + zero_points.reshape(-1, *[1] * (levels.ndim - 1))).astype(np.int8),
        zero_points.astype(np.int8),
        layer.weight_scales if per_channel else layer.weight_scales[:1],
        bias.astype(np.int32),
        layer.activation,
        stated.code_lower,
        stated.code_upper,
        convolution,
    )


def _rows(
    layer: QuantizedLinear, convolution: Convolution | None, where: str
) -> tuple[Float64Array, Int64Array, Int64Array]:
    """Return weights, bias and number of the scale of each output channel; each neuron is one of a dense layer."""
    if convolution is None:
        if not isinstance(layer.weights, np.ndarray):
            raise UnsupportedModelError(f"{where}: is sparse, but no convolution; {OPEN_FILE}")
        return layer.weights, layer.bias, layer.channel
    try:
        levels = convolution.weights(layer.weights)
    except ValueError as error:
        raise UnsupportedModelError(f"{where}: is no convolution any more ({error}); {OPEN_FILE}") from None
    channel = convolution.channel
    first = np.zeros(convolution.outputs, dtype=np.int64)
    first[channel[::-1]] = np.arange(len(channel))[::-1]
    bias, of_row = layer.bias[first], layer.channel[first]
    if (bias[channel] != layer.bias).any() or (of_row[channel] != layer.channel).any():
        raise UnsupportedModelError(f"{where}: has a bias or scale of its own at each position; {OPEN_FILE}")
    return levels, bias, of_row


def _is_per_channel(layer: QuantizedLinear, of_row: Int64Array, where: str) -> bool:
    """Tell whether a layer states a scale for each channel; one scale may be stored once for all."""
    stated = layer.requantization
    if isinstance(stated, Requantization) and not stated.per_channel:
        return False
    if isinstance(stated, StatedRequantization) and stated.statement.get("per_channel") is False:
        return False
    if len(layer.weight_scales) == 1:
        return False
    if not np.array_equal(of_row, np.arange(len(of_row))):
        raise UnsupportedModelError(f"{where}: its scales are not one a channel; {OPEN_FILE}")
    return True


def _zero_points(levels: Float64Array, per_channel: bool) -> Int64Array:
    """Return the zero points nearest to 0 that put the levels into int8 codes, shape (channels,).

    The weights hold levels, codes minus zero point; where no zero point does it, the result is out of int8.
    """
    rows = levels.reshape(len(levels) if per_channel else 1, -1)
    low: Float64Array = rows.min(axis=1, initial=0.0)
    high: Float64Array = rows.max(axis=1, initial=0.0)
    zero_points = np.where(low < CODE_LOWER, CODE_LOWER - low, np.minimum(CODE_UPPER - high, 0.0))
    impossible = high + zero_points > CODE_UPPER
    return np.where(impossible, 2**15, zero_points).astype(np.int64)
