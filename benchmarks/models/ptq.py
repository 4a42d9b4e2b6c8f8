"""Min/max post-training quantization of a small ReLU network to int8, in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.models.tflite_writer import Activation, FloatLayer, Layer

LOWEST_CODE, HIGHEST_CODE = -128, 127
WEIGHT_LIMIT = 127
"""Weights use the narrow range [-127, 127], so that the zero point 0 is its centre."""


@dataclass(frozen=True, slots=True)
class QuantizedNetwork:
    """An int8 network: the quantization of its input and its layers in order."""

    input_scale: np.float32
    input_zero_point: int
    layers: tuple[Layer, ...]


def quantize(
    layers: Sequence[FloatLayer], calibration: npt.NDArray[np.float32], *, per_channel: bool
) -> QuantizedNetwork:
    """Quantize `layers` with the activation ranges seen on `calibration`, shape (samples, in)."""
    input_scale, input_zero_point = _activation_parameters(calibration)
    scale = input_scale
    values = calibration
    quantized: list[Layer] = []
    for layer in layers:
        values = apply(layer, values)
        output_scale, output_zero_point = _activation_parameters(values)
        quantized.append(
            _quantize_layer(layer, scale, output_scale, output_zero_point, per_channel=per_channel)
        )
        scale = output_scale
    return QuantizedNetwork(input_scale, input_zero_point, tuple(quantized))


def apply(layer: FloatLayer, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the float32 outputs of `layer`, shape (samples, out)."""
    result: npt.NDArray[np.float32] = values @ layer.weights.T
    if layer.bias is not None:
        result = result + layer.bias
    if layer.activation is not Activation.NONE:
        result = np.maximum(result, np.float32(0))
    if layer.activation is Activation.RELU6:
        result = np.minimum(result, np.float32(6))
    return result


def _activation_parameters(values: npt.NDArray[np.float32]) -> tuple[np.float32, int]:
    """Return the scale and zero point that map the range of `values`, and 0, onto int8."""
    low = min(float(values.min()), 0.0)
    high = max(float(values.max()), 0.0)
    if low == high:
        return np.float32(1), 0
    scale = np.float32((high - low) / (HIGHEST_CODE - LOWEST_CODE))
    zero_point = round(LOWEST_CODE - low / float(scale))
    return scale, min(max(zero_point, LOWEST_CODE), HIGHEST_CODE)


def _quantize_layer(
    layer: FloatLayer,
    input_scale: np.float32,
    output_scale: np.float32,
    output_zero_point: int,
    *,
    per_channel: bool,
) -> Layer:
    """Round the weights and biases of one layer to the nearest codes."""
    weights = layer.weights.astype(np.float64)
    axis = 1 if per_channel else None
    peaks = np.atleast_1d(np.abs(weights).max(axis=axis))
    # A row of zeros has no scale of its own; any positive one represents it.
    weight_scales = np.where(peaks > 0, peaks / WEIGHT_LIMIT, 1.0).astype(np.float32)
    codes = np.rint(weights / weight_scales.astype(np.float64)[:, None])
    bias = None
    if layer.bias is not None:
        # The float32 product is the scale that the file states for the bias.
        bias_scales = (input_scale * weight_scales).astype(np.float64)
        bias = np.rint(layer.bias.astype(np.float64) / bias_scales).astype(np.int32)
    return Layer(
        weights=codes.astype(np.int8),
        bias=bias,
        weight_scales=weight_scales,
        output_scale=float(output_scale),
        output_zero_point=output_zero_point,
        activation=layer.activation,
    )
