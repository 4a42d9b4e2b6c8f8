"""What the int8 formats have in common: a quantized model as a chain of int8 layers, or why it is none."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from milpq._arrays import Float64Array, Int64Array, Matrix
from milpq.errors import UnsupportedModelError
from milpq.formats._float_builder import SIGMOID_NOTE
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
    weights : int8, shape (neurons, inputs)
        Codes.
    weight_zero_points : int8, shape (channels,)
    weight_scales : float64 holding float32 values, shape (1,) per tensor, (neurons,) per channel
    bias : int32, shape (neurons,)
    code_lower, code_upper : int
        Smallest and largest output code after the activation.
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


def export_layers(model: QuantizedModel, ending: str, targets: Collection[str]) -> tuple[ExportLayer, ...]:
    """Return the layers of an int8 model.

    Parameters
    ----------
    ending : str
        Of the file, for messages.
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
    layers: list[ExportLayer] = []
    for number, layer in enumerate(model.layers):
        where = f"{model.origin}: layer {layer.name!r}"
        if not isinstance(layer, QuantizedLinear) or layer.source != number:
            raise UnsupportedModelError(f"{where}: breaks the chain of fully connected layers; {_OPEN_FILE}")
        layers.append(_export_layer(layer, where, ending, targets))
    return tuple(layers)


def _export_layer(layer: QuantizedLinear, where: str, ending: str, targets: Collection[str]) -> ExportLayer:
    stated = layer.requantization
    if stated is None:
        raise UnsupportedModelError(f"{where}: leaves its accumulators unrounded; {_OPEN_FILE}")
    if isinstance(stated, StatedRequantization):
        target = str(stated.statement.get("target", "a rounding of its own"))
        if target.partition(":")[0] not in targets:
            raise UnsupportedModelError(
                f"{where}: rounds as {target}, but {ending} runs on {', '.join(targets)}; {_OPEN_FILE}"
            )
    if not isinstance(layer.weights, np.ndarray):
        raise UnsupportedModelError(f"{where}: has sparse weights; {_OPEN_FILE}")
    if not (stated.code_lower >= CODE_LOWER and stated.code_upper <= CODE_UPPER):
        raise UnsupportedModelError(f"{where}: its codes are not int8, as {ending} needs; {_OPEN_FILE}")
    per_channel = _is_per_channel(layer, where)
    zero_points = _zero_points(layer.weights, per_channel)
    if (zero_points < CODE_LOWER).any() or (zero_points > CODE_UPPER).any():
        raise UnsupportedModelError(f"{where}: its weights are not int8, as {ending} needs; {_OPEN_FILE}")
    codes = layer.weights + zero_points[:, None]
    if (np.abs(layer.bias) >= 2**31).any():
        raise UnsupportedModelError(f"{where}: a bias does not fit int32")
    return ExportLayer(
        layer.name,
        codes.astype(np.int8),
        zero_points.astype(np.int8),
        layer.weight_scales if per_channel else layer.weight_scales[:1],
        layer.bias.astype(np.int32),
        layer.activation,
        stated.output_scale,
        stated.output_zero_point,
        stated.code_lower,
        stated.code_upper,
    )


def _is_per_channel(layer: QuantizedLinear, where: str) -> bool:
    """Tell whether a layer states a scale for each neuron; one scale may be stored once for all."""
    stated = layer.requantization
    if isinstance(stated, Requantization) and not stated.per_channel:
        return False
    if len(layer.weight_scales) == 1:
        return False
    if not np.array_equal(layer.channel, np.arange(len(layer.bias))):
        raise UnsupportedModelError(f"{where}: its channels are not its neurons; {_OPEN_FILE}")
    return True


def _zero_points(levels: Matrix, per_channel: bool) -> Int64Array:
    """Return the zero points nearest to 0 that put the levels into int8 codes, shape (channels,).

    The weights hold levels, codes minus zero point; where no zero point does it, the result is out of int8.
    """
    assert isinstance(levels, np.ndarray)
    axis = 1 if per_channel else None
    low, high = np.atleast_1d(levels.min(axis=axis)), np.atleast_1d(levels.max(axis=axis))
    zero_points = np.where(low < CODE_LOWER, CODE_LOWER - low, np.minimum(CODE_UPPER - high, 0.0))
    impossible = high + zero_points > CODE_UPPER
    return np.where(impossible, 2**15, zero_points).astype(np.int64)
