"""Write `.tflite` graphs of image operators, every number chosen by the caller: `tflite_writer` beyond layers in a row.

An activation tensor is described by a `Codes`: its type, scale and zero point; None stands for float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from benchmarks.models.tflite_writer import _GraphBuilder, _quantization

_OPERATORS = schema.BuiltinOperator
_FUSED = {"none": 0, "relu": 1, "relu_n1_to_1": 2, "relu6": 3}
_PADDING = {"same": schema.Padding.SAME, "valid": schema.Padding.VALID}


@dataclass(frozen=True, slots=True)
class Codes:
    """The quantization of an activation tensor; the scale is rounded to float32 on writing."""

    scale: float
    zero_point: int
    unsigned: bool = False

    @property
    def lower(self) -> int:
        """Smallest code."""
        return 0 if self.unsigned else -128


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the graph."""

    index: int
    shape: tuple[int, ...]
    codes: Codes | None


class GraphWriter:
    """Adds operators one by one; each returns the value it makes."""

    def __init__(self, shape: Sequence[int], codes: Codes | None) -> None:
        self._graph = _GraphBuilder()
        self._count = 0
        self.input = self._value("input", tuple(shape), codes)

    def convolution(
        self,
        source: Value,
        weights: npt.NDArray[Any],
        bias: npt.NDArray[Any],
        codes: Codes | None,
        *,
        weight_scales: npt.NDArray[np.float32] | None = None,
        weight_zero_point: int = 0,
        depthwise: bool = False,
        strides: tuple[int, int] = (1, 1),
        dilations: tuple[int, int] = (1, 1),
        padding: str = "valid",
        activation: str = "none",
    ) -> Value:
        """Add a convolution; weights (out, h, w, in), or (1, h, w, out) for a depthwise one."""
        kernel = self._weights(weights, weight_scales, weight_zero_point, 3 if depthwise else 0)
        offset = self._bias(bias, source, weight_scales)
        outputs = weights.shape[3] if depthwise else weights.shape[0]
        shape = self._slid(source.shape, weights.shape[1:3], strides, dilations, padding, outputs)
        options: Any = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
        options.padding, options.fusedActivationFunction = _PADDING[padding], _FUSED[activation]
        options.strideH, options.strideW = strides
        options.dilationHFactor, options.dilationWFactor = dilations
        if depthwise:
            options.depthMultiplier = outputs // source.shape[3]
        code = _OPERATORS.DEPTHWISE_CONV_2D if depthwise else _OPERATORS.CONV_2D
        return self._add(code, 3, [source.index, kernel, offset], shape, codes, options)

    def fully_connected(
        self,
        source: Value,
        weights: npt.NDArray[Any],
        bias: npt.NDArray[Any],
        codes: Codes | None,
        *,
        weight_scales: npt.NDArray[np.float32] | None = None,
        weight_zero_point: int = 0,
        activation: str = "none",
    ) -> Value:
        """Add a fully connected layer; weights (out, in)."""
        kernel = self._weights(weights, weight_scales, weight_zero_point, 0)
        offset = self._bias(bias, source, weight_scales)
        options = schema.FullyConnectedOptionsT(fusedActivationFunction=_FUSED[activation])
        shape = (math.prod(source.shape) // weights.shape[1], weights.shape[0])
        inputs = [source.index, kernel, offset]
        return self._add(_OPERATORS.FULLY_CONNECTED, 4, inputs, shape, codes, options)

    def pool(
        self,
        source: Value,
        kernel: tuple[int, int],
        *,
        average: bool,
        strides: tuple[int, int] = (1, 1),
        padding: str = "valid",
        activation: str = "none",
    ) -> Value:
        """Add a pool."""
        options = schema.Pool2DOptionsT(padding=_PADDING[padding], fusedActivationFunction=_FUSED[activation])
        options.filterHeight, options.filterWidth = kernel
        options.strideH, options.strideW = strides
        shape = self._slid(source.shape, kernel, strides, (1, 1), padding, source.shape[3])
        code = _OPERATORS.AVERAGE_POOL_2D if average else _OPERATORS.MAX_POOL_2D
        return self._add(code, 2, [source.index], shape, source.codes, options)

    def add(self, first: Value, second: Value, codes: Codes | None, activation: str = "none") -> Value:
        """Add a sum of two values of one shape, or of a value and one broadcast over it."""
        options = schema.AddOptionsT(fusedActivationFunction=_FUSED[activation])
        shape = tuple(np.broadcast_shapes(first.shape, second.shape))
        return self._add(_OPERATORS.ADD, 2, [first.index, second.index], shape, codes, options)

    def mean(
        self, source: Value, axes: Sequence[int], codes: Codes | None, *, keep_dims: bool = False
    ) -> Value:
        """Add a mean over axes."""
        named = self._graph.constant(self._name("axes"), np.array(axes, np.int32), schema.TensorType.INT32)
        shape = tuple(
            1 if axis in axes else extent
            for axis, extent in enumerate(source.shape)
            if keep_dims or axis not in axes
        )
        options = schema.ReducerOptionsT(keepDims=keep_dims)
        return self._add(_OPERATORS.MEAN, 2, [source.index, named], shape, codes, options)

    def pad(self, source: Value, padding: Sequence[tuple[int, int]], constant: int | None = None) -> Value:
        """Add a pad with the zero point, or with a constant code (PADV2)."""
        named = self._graph.constant(
            self._name("padding"), np.array(padding, np.int32), schema.TensorType.INT32
        )
        inputs, code = [source.index, named], _OPERATORS.PAD
        if constant is not None:
            kind, quantization = self._kind(source.codes)
            stored = np.array([constant]).astype(self._dtype(source.codes))
            inputs.append(self._graph.constant(self._name("value"), stored, kind, quantization))
            code = _OPERATORS.PADV2
        shape = tuple(
            extent + before + after for extent, (before, after) in zip(source.shape, padding, strict=True)
        )
        return self._add(code, 2, inputs, shape, source.codes)

    def concatenate(self, sources: Sequence[Value], axis: int, activation: str = "none") -> Value:
        """Add a concatenation of values of one quantization."""
        shape = list(sources[0].shape)
        shape[axis] = sum(source.shape[axis] for source in sources)
        options = schema.ConcatenationOptionsT(axis=axis, fusedActivationFunction=_FUSED[activation])
        inputs = [source.index for source in sources]
        return self._add(_OPERATORS.CONCATENATION, 2, inputs, tuple(shape), sources[0].codes, options)

    def reshape(self, source: Value, shape: Sequence[int]) -> Value:
        """Add a reshape; the file leaves the first extent open, so that the batch can be resized."""
        stored = np.array([-1, *shape[1:]], np.int32)
        named = self._graph.constant(self._name("shape"), stored, schema.TensorType.INT32)
        inputs = [source.index, named]
        return self._add(_OPERATORS.RESHAPE, 1, inputs, tuple(shape), source.codes)

    def unary(self, name: str, source: Value, codes: Codes | None, version: int = 2) -> Value:
        """Add an operator of one input that keeps the shape: RELU, QUANTIZE, LOGISTIC, TANH, SOFTMAX, ..."""
        options = schema.SoftmaxOptionsT(beta=1.0) if name == "SOFTMAX" else None
        return self._add(getattr(_OPERATORS, name), version, [source.index], source.shape, codes, options)

    def finish(self, output: Value) -> bytes:
        """Return the file."""
        return self._graph.finish(self.input.index, output.index)

    def _add(
        self,
        code: int,
        version: int,
        inputs: list[int],
        shape: tuple[int, ...],
        codes: Codes | None,
        options: Any = None,
    ) -> Value:
        result = self._value(self._name("value"), shape, codes)
        self._graph.operator(code, version, inputs, result.index, options)
        return result

    def _value(self, name: str, shape: tuple[int, ...], codes: Codes | None) -> Value:
        kind, quantization = self._kind(codes)
        return Value(self._graph.tensor(name, shape, kind, quantization), shape, codes)

    def _weights(
        self,
        weights: npt.NDArray[Any],
        scales: npt.NDArray[np.float32] | None,
        zero_point: int,
        dimension: int,
    ) -> int:
        kinds = {"int8": schema.TensorType.INT8, "uint8": schema.TensorType.UINT8}
        kind = kinds.get(weights.dtype.name, schema.TensorType.FLOAT32)
        quantization = None if scales is None else _quantization(scales, zero_point)
        if quantization is not None:
            quantization.quantizedDimension = dimension
        return self._graph.constant(self._name("weights"), weights, kind, quantization)

    def _bias(self, bias: npt.NDArray[Any], source: Value, scales: npt.NDArray[np.float32] | None) -> int:
        if source.codes is None or scales is None:
            return self._graph.constant(
                self._name("bias"), bias.astype(np.float32), schema.TensorType.FLOAT32
            )
        quantization = _quantization((np.float32(source.codes.scale) * scales).astype(np.float32), 0)
        return self._graph.constant(
            self._name("bias"), bias.astype(np.int32), schema.TensorType.INT32, quantization
        )

    def _name(self, what: str) -> str:
        self._count += 1
        return f"{what}{self._count}"

    @staticmethod
    def _kind(codes: Codes | None) -> tuple[int, schema.QuantizationParametersT | None]:
        if codes is None:
            return schema.TensorType.FLOAT32, None
        kind = schema.TensorType.UINT8 if codes.unsigned else schema.TensorType.INT8
        return kind, _quantization(np.array([codes.scale], np.float32), codes.zero_point)

    @staticmethod
    def _dtype(codes: Codes | None) -> type[np.generic]:
        return np.float32 if codes is None else np.uint8 if codes.unsigned else np.int8

    @staticmethod
    def _slid(
        shape: tuple[int, ...],
        kernel: Sequence[int],
        strides: Sequence[int],
        dilations: Sequence[int],
        padding: str,
        channels: int,
    ) -> tuple[int, ...]:
        result = [shape[0]]
        for extent, size, stride, dilation in zip(shape[1:3], kernel, strides, dilations, strict=True):
            room = extent if padding == "same" else extent - (size - 1) * dilation
            result.append(-(-room // stride))
        return (*result, channels)
