"""What the int8 formats have in common: a quantized model as a chain of int8 layers, or why it is none."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from milpq._arrays import Float64Array, Int64Array
from milpq.errors import UnsupportedModelError
from milpq.formats._float_builder import SIGMOID_NOTE
from milpq.network.geometry import Layout
from milpq.network.images import Convolution, Image
from milpq.network.layout import order_of, permuted
from milpq.network.quantized_model import QuantizedLinear, QuantizedModel, StatedRequantization
from milpq.rounding.activation import CODE_LOWER, CODE_UPPER, Activation
from milpq.rounding.requantization import Requantization

_OPEN_FILE = "write the open file (.json)"


def ends_in_sigmoid(model: QuantizedModel) -> bool:
    """Tell whether the model was answered at the input of a final sigmoid, which files therefore get back."""
    return SIGMOID_NOTE in model.note


@dataclass(frozen=True, slots=True, eq=False)
class ExportLayer:
    """One layer as a file states it.

    Parameters
    ----------
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
    weights: npt.NDArray[np.int8]
    weight_zero_points: npt.NDArray[np.int8]
    weight_scales: Float64Array
    bias: npt.NDArray[np.int32]
    activation: Activation
    output_scale: float
    output_zero_point: int
    code_lower: int
    code_upper: int
    convolution: Convolution | None

    @property
    def size(self) -> int:
        """Number of neurons."""
        return len(self.bias) if self.convolution is None else self.convolution.result.size


@dataclass(frozen=True, slots=True, eq=False)
class Export:
    """A chain of int8 layers, its images in the layout of the file.

    Parameters
    ----------
    image : Image or None
        What the input is; flat where None.
    """

    layers: tuple[ExportLayer, ...]
    image: Image | None


def export_model(model: QuantizedModel, ending: str, layout: Layout, targets: Collection[str]) -> Export:
    """Return the layers of an int8 model.

    Parameters
    ----------
    ending : str
        Of the file, for messages.
    layout : Layout
        Of images in such files; input and output change their order with it.
    targets : collection of str
        Ids of the targets that run such files.

    Raises
    ------
    UnsupportedModelError
        The model is no chain of int8 layers, or states a rounding that the file cannot; the layer is named.
    """
    if (model.input_code_lower, model.input_code_upper) != (CODE_LOWER, CODE_UPPER):
        raise UnsupportedModelError(f"{model.origin}: its input is not int8, as {ending} needs; {_OPEN_FILE}")
    if len(np.unique(model.input_scale)) != 1 or (model.float_scale != model.input_scale).any():
        raise UnsupportedModelError(f"{model.origin}: its input has no single scale; {_OPEN_FILE}")
    if model.output != len(model.layers):
        raise UnsupportedModelError(f"{model.origin}: its output is not the last layer; {_OPEN_FILE}")
    images = model.images or (None,) * (len(model.layers) + 1)
    layers: list[ExportLayer] = []
    for number, layer in enumerate(model.layers):
        where = f"{model.origin}: layer {layer.name!r}"
        if not isinstance(layer, QuantizedLinear) or layer.source != number:
            raise UnsupportedModelError(
                f"{where}: breaks the chain of fully connected layers and convolutions; {_OPEN_FILE}"
            )
        orders = order_of(images[number + 1], layout), order_of(images[number], layout)
        layers.append(_export_layer(_relaid(layer, *orders), layout, where, ending, targets))
    image = None if images[0] is None else replace(images[0], layout=layout)
    return Export(tuple(layers), image)


def _relaid(layer: QuantizedLinear, rows: Int64Array | None, columns: Int64Array | None) -> QuantizedLinear:
    """Return a layer with its neurons, and those that it reads, in another order."""
    bias, channel = (part if rows is None else part[rows] for part in (layer.bias, layer.channel))
    return replace(layer, weights=permuted(layer.weights, rows, columns), bias=bias, channel=channel)


def _export_layer(
    layer: QuantizedLinear, layout: Layout, where: str, ending: str, targets: Collection[str]
) -> ExportLayer:
    stated = layer.requantization
    if stated is None:
        raise UnsupportedModelError(f"{where}: leaves its accumulators unrounded; {_OPEN_FILE}")
    if isinstance(stated, StatedRequantization):
        target = str(stated.statement.get("target", "a rounding of its own"))
        if target.partition(":")[0] not in targets:
            raise UnsupportedModelError(
                f"{where}: rounds as {target}, but {ending} runs on {', '.join(targets)}; {_OPEN_FILE}"
            )
    if not (stated.code_lower >= CODE_LOWER and stated.code_upper <= CODE_UPPER):
        raise UnsupportedModelError(f"{where}: its codes are not int8, as {ending} needs; {_OPEN_FILE}")
    convolution = None if layer.convolution is None else layer.convolution.in_layout(layout)
    levels, bias, of_row = _rows(layer, convolution, where)
    per_channel = _is_per_channel(layer, of_row, where)
    zero_points = _zero_points(levels, per_channel)
    if (zero_points < CODE_LOWER).any() or (zero_points > CODE_UPPER).any():
        raise UnsupportedModelError(f"{where}: its weights are not int8, as {ending} needs; {_OPEN_FILE}")
    if (np.abs(bias) >= 2**31).any():
        raise UnsupportedModelError(f"{where}: a bias does not fit int32")
    return ExportLayer(
        layer.name,
        (levels + zero_points.reshape(-1, *[1] * (levels.ndim - 1))).astype(np.int8),
        zero_points.astype(np.int8),
        layer.weight_scales if per_channel else layer.weight_scales[:1],
        bias.astype(np.int32),
        layer.activation,
        stated.output_scale,
        stated.output_zero_point,
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
            raise UnsupportedModelError(f"{where}: is sparse, but no convolution; {_OPEN_FILE}")
        return layer.weights, layer.bias, layer.channel
    try:
        levels = convolution.weights(layer.weights)
    except ValueError as error:
        raise UnsupportedModelError(f"{where}: is no convolution any more ({error}); {_OPEN_FILE}") from None
    channel = convolution.channel
    first = np.zeros(convolution.outputs, dtype=np.int64)
    first[channel[::-1]] = np.arange(len(channel))[::-1]
    bias, of_row = layer.bias[first], layer.channel[first]
    if (bias[channel] != layer.bias).any() or (of_row[channel] != layer.channel).any():
        raise UnsupportedModelError(f"{where}: has a bias or scale of its own at each position; {_OPEN_FILE}")
    return levels, bias, of_row


def _is_per_channel(layer: QuantizedLinear, of_row: Int64Array, where: str) -> bool:
    """Tell whether a layer states a scale for each channel; one scale may be stored once for all."""
    stated = layer.requantization
    if isinstance(stated, Requantization) and not stated.per_channel:
        return False
    if len(layer.weight_scales) == 1:
        return False
    if not np.array_equal(of_row, np.arange(len(of_row))):
        raise UnsupportedModelError(f"{where}: its scales are not one a channel; {_OPEN_FILE}")
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
