"""Models of one operator each that `benchmarks` has no writer for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from benchmarks.models.tflite_writer import _GraphBuilder, _quantization

Scales = npt.NDArray[np.float32]


def quantize_model(scale: float, zero_point: int, size: int) -> bytes:
    """Return a model of one QUANTIZE operator, float32 to int8, on a row (1, size)."""
    graph = _GraphBuilder()
    source = graph.tensor("input", (1, size), schema.TensorType.FLOAT32)
    result = graph.tensor("output", (1, size), schema.TensorType.INT8, _per_tensor(scale, zero_point))
    graph.operator(schema.BuiltinOperator.QUANTIZE, 1, [source], result)
    return graph.finish(source, result)


def logistic_model(scale: float, zero_point: int, size: int = 256) -> bytes:
    """Return a model of one int8 LOGISTIC operator on a row (1, size)."""
    graph = _GraphBuilder()
    source = graph.tensor("input", (1, size), schema.TensorType.INT8, _per_tensor(scale, zero_point))
    result = graph.tensor("output", (1, size), schema.TensorType.INT8, _per_tensor(1.0 / 256.0, -128))
    graph.operator(schema.BuiltinOperator.LOGISTIC, 2, [source], result)
    return graph.finish(source, result)


def tanh_model(scale: float, zero_point: int, size: int = 256) -> bytes:
    """Return a model of one int8 TANH operator on a row (1, size)."""
    graph = _GraphBuilder()
    source = graph.tensor("input", (1, size), schema.TensorType.INT8, _per_tensor(scale, zero_point))
    result = graph.tensor("output", (1, size), schema.TensorType.INT8, _per_tensor(1.0 / 128.0, 0))
    graph.operator(schema.BuiltinOperator.TANH, 2, [source], result)
    return graph.finish(source, result)


def convolution_model(
    weights: npt.NDArray[np.int8],
    bias: npt.NDArray[np.int32],
    weight_scales: Scales,
    input_scale: float,
    input_zero_point: int,
    output_scale: float,
    output_zero_point: int,
    image: tuple[int, int],
    *,
    depthwise: bool,
) -> bytes:
    """Return a model of one CONV_2D or DEPTHWISE_CONV_2D with stride 1 and padding VALID.

    Parameters
    ----------
    weights : shape (out, height, width, in), or (1, height, width, channels) for depthwise
    weight_scales : shape (1,) or (channels,)
    image : height and width of the input; a model input row is the flat image.
    """
    graph = _GraphBuilder()
    height, width = image
    channels = weights.shape[3]
    outputs = len(bias)
    quantization = _quantization(weight_scales, 0)
    quantization.quantizedDimension = 3 if depthwise else 0
    source = graph.tensor(
        "input",
        (1, height, width, channels),
        schema.TensorType.INT8,
        _per_tensor(input_scale, input_zero_point),
    )
    kernel = graph.constant("weights", weights, schema.TensorType.INT8, quantization)
    offset = graph.constant(
        "bias", bias, schema.TensorType.INT32, _quantization(np.float32(input_scale) * weight_scales, 0)
    )
    result = graph.tensor(
        "output",
        (1, height - weights.shape[1] + 1, width - weights.shape[2] + 1, outputs),
        schema.TensorType.INT8,
        _per_tensor(output_scale, output_zero_point),
    )
    if depthwise:
        code = schema.BuiltinOperator.DEPTHWISE_CONV_2D
        options = schema.DepthwiseConv2DOptionsT(
            padding=schema.Padding.VALID, strideH=1, strideW=1, depthMultiplier=1
        )
    else:
        code = schema.BuiltinOperator.CONV_2D
        options = schema.Conv2DOptionsT(padding=schema.Padding.VALID, strideH=1, strideW=1)
    options.dilationHFactor = options.dilationWFactor = 1
    graph.operator(code, 3, [source, kernel, offset], result, options)
    return graph.finish(source, result)


def _per_tensor(scale: float, zero_point: int) -> schema.QuantizationParametersT:
    return _quantization(np.array([scale], dtype=np.float32), zero_point)
