"""The operands of quantized ONNX operators: activations, weights and bias, in QOperator and in QDQ files."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from milpq._arrays import Float64Array, Int64Array, Matrix
from milpq.errors import InvalidNetworkError
from milpq.formats._float_builder import repeat_rows
from milpq.formats._onnx_quantized_values import Codes, Dequantized, QuantizedStep, Stored
from milpq.formats._onnx_windows import sliding_windows
from milpq.formats._quantized_builder import LinearPart, pairs_saturate
from milpq.network.geometry import Layout, convolution_matrix
from milpq.network.images import Convolution
from milpq.rounding.requantization import Operator

LAYOUT: Layout = "channels_first"


def linear_part(
    step: QuantizedStep,
    source: Codes,
    weights: Stored,
    rows: Int64Array,
    bias: Int64Array | None,
    operator: Operator,
    place: Callable[[Float64Array], tuple[Matrix, Int64Array]],
    *,
    converted: bool,
    convolution: Convolution | None = None,
) -> LinearPart:
    """Return the layer of weights whose codes are `rows`, one row a channel.

    Parameters
    ----------
    rows : int64, shape (channels, weights a channel)
    bias : int64, shape (channels,), or None
    place : callable
        Centered weights (channels, …) to the matrix over the flat input and the channel of each neuron.
    converted : bool
        Whether ONNX Runtime turns int8 activations into uint8 (it does in QDQ graphs, on x86).
    """
    channels = len(rows)
    kind = weights.codes.dtype.name
    if kind not in {"int8", "uint8"} or (source.kind, kind) == ("int8", "uint8"):
        raise step.unsupported(
            f"has {kind} weights for {source.kind} activations, which ONNX Runtime does not fuse; use int8 weights"
        )
    if weights.scale.size not in {1, channels}:
        raise step.damaged(f"has {weights.scale.size} weight scales for {channels} channels")
    zero_points = np.broadcast_to(weights.zero_point.ravel(), (channels,))
    matrix, channel = place((rows - zero_points[:, None]).astype(np.float64))
    offsets = np.zeros(channels, dtype=np.int64) if bias is None else bias
    if len(offsets) != channels:
        raise InvalidNetworkError(f"{step.where}: {len(offsets)} biases for {channels} channels")
    narrow = kind == "int8" and (converted or source.kind == "uint8") and pairs_saturate(rows)
    return LinearPart(
        step.name,
        step.where,
        operator,
        source.value,
        matrix,
        offsets[channel],
        np.broadcast_to(weights.scale.ravel(), (channels,)).copy(),
        channel,
        weights.scale.size > 1,
        narrow,
        convolution,
    )


def product(
    step: QuantizedStep,
    source: Codes,
    weights: Stored,
    bias: Int64Array | None,
    *,
    transposed: bool,
    converted: bool,
) -> tuple[LinearPart, tuple[int, ...]]:
    """Return the layer ``source @ weights + bias`` and the shape of its result."""
    step.layer_input(source)
    if weights.codes.ndim != 2 or not source.shape:
        raise step.unsupported(
            f"multiplies shapes {source.shape} and {weights.codes.shape}; milpq needs a matrix"
        )
    codes = weights.codes.astype(np.int64)
    rows = codes if transposed else codes.T
    if weights.scale.size > 1 and weights.axis != (0 if transposed else 1):
        raise step.unsupported("has one weight scale per input; milpq reads one a tensor or one per output")
    if rows.shape[1] != source.shape[-1]:
        raise InvalidNetworkError(
            f"{step.where}: weights for {rows.shape[1]} inputs, but {source.shape[-1]} come in"
        )
    count = math.prod(source.shape[:-1])

    def place(matrix: Float64Array) -> tuple[Matrix, Int64Array]:
        return repeat_rows(matrix, count), np.tile(np.arange(len(matrix), dtype=np.int64), count)

    part = linear_part(step, source, weights, rows, bias, "fully_connected", place, converted=converted)
    return part, (*source.shape[:-1], len(rows))


def weights_of(step: QuantizedStep, position: int, *, axis: int) -> Stored:
    """Return the weights of a QLinear operator: codes, scale and zero point at three inputs."""
    codes = step.constant(position, "weights")
    scales, zero_points, kind = step.scales(position + 1, position + 2)
    if kind != codes.dtype.name:
        raise step.damaged(f"has {codes.dtype.name} weights with a {kind} zero point")
    return Stored(codes, scales.ravel(), zero_points.ravel(), axis)


def operand(step: QuantizedStep, position: int) -> Codes:
    """Return the activation of a QLinear operator: codes, scale and zero point at three inputs."""
    source = step.value(position)
    if not isinstance(source, Codes):
        raise step.unsupported(f"its input {position} is not quantized by an operator before it")
    grid, kind = step.grid(position + 1, position + 2, source.kind)
    if kind != source.kind:
        raise step.damaged(f"has a {kind} zero point for {source.kind} codes")
    # Such operators compute with the codes as they are, whatever made them.
    return replace(step.read_on(step.layer_input(source), grid), by_quantize=False)


def integer_bias(step: QuantizedStep, position: int) -> Int64Array | None:
    """Return the optional int32 bias of a QLinear operator."""
    if not step.has(position):
        return None
    bias = step.constant(position, "bias")
    if bias.dtype != np.int32:
        raise step.unsupported(f"has a {bias.dtype} bias; milpq reads int32")
    return bias.astype(np.int64).ravel()


def dequantized(step: QuantizedStep, position: int) -> Codes:
    """Return the activation that a float operator of a QDQ graph reads."""
    source = step.value(position)
    if not isinstance(source, Dequantized):
        raise step.unsupported(
            f"computes in float on an input {position} that no DequantizeLinear gives; quantize every layer"
        )
    if source.codes.kind == "int8" and not source.codes.by_quantize:
        raise step.unsupported(
            "computes in float on int8 codes that no QuantizeLinear made, which ONNX Runtime may run in several ways; "
            "use QDQ or QOperator format throughout"
        )
    return step.layer_input(source.codes)


def dequantized_weights(step: QuantizedStep, position: int) -> Stored:
    source = step.value(position)
    if not isinstance(source, Stored):
        raise step.unsupported(
            f"its input {position} is no constant behind a DequantizeLinear; quantize the weights"
        )
    return source


def dequantized_bias(step: QuantizedStep, position: int, source: Codes, weights: Stored) -> Int64Array | None:
    """Return the optional bias of a fused operator: int32, on input scale times weight scale."""
    if not step.has(position):
        return None
    bias = step.value(position)
    if not isinstance(bias, Stored) or bias.codes.dtype != np.int32 or bias.zero_point.any():
        raise step.unsupported("has a bias that is not int32 behind a DequantizeLinear; quantize the bias")
    grid = step.builder.grid(source.value)
    assert grid is not None
    product = grid.scale * weights.scale
    if np.abs(bias.scale - product).max() > 1e-5 * product.max():
        raise step.unsupported(
            "has a bias scale other than input scale times weight scale; quantize it on that scale"
        )
    return bias.codes.astype(np.int64).ravel()


def convolution(
    step: QuantizedStep, source: Codes, weights: Stored, bias: Int64Array | None, *, converted: bool
) -> tuple[LinearPart, tuple[int, ...]]:
    """Return a convolution layer and the shape of its result, (1, channels, *extents)."""
    step.layer_input(source)
    codes = weights.codes
    if len(source.shape) != codes.ndim or codes.ndim < 3 or source.shape[0] != 1:
        raise step.unsupported(f"convolves shape {source.shape} with {codes.shape}; milpq reads a batch of 1")
    groups = int(step.options.get("group", 1))
    outputs = codes.shape[0]
    if groups < 1 or outputs % groups or codes.shape[1] * groups != source.shape[1]:
        raise step.damaged(f"kernel {codes.shape} and {groups} groups do not fit {source.shape[1]} channels")
    if weights.scale.size > 1 and weights.axis != 0:
        raise step.unsupported("has weight scales along another axis than its output channels")
    windows = sliding_windows(step, source.shape[2:], codes.shape[2:])

    def place(kernel: Float64Array) -> tuple[Matrix, Int64Array]:
        return convolution_matrix(kernel.reshape(codes.shape), windows, groups, LAYOUT)

    slides = Convolution(windows, source.shape[1], outputs, groups, LAYOUT)

    operator: Operator = "depthwise" if groups > 1 and groups == source.shape[1] else "conv"
    rows = codes.astype(np.int64).reshape(outputs, -1)
    part = linear_part(
        step, source, weights, rows, bias, operator, place, converted=converted, convolution=slides
    )
    return part, (1, outputs, *windows.result)
