"""Write fully connected `.tflite` models, int8 or float32, with every number chosen by the caller.

The tests need to set each number themselves, and operators that milpq does not write, so this module
puts them straight into the flatbuffer; `milpq quantize` writes the models that milpq quantizes itself.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

SCHEMA_VERSION = 3
FILE_IDENTIFIER = b"TFL3"
BUFFER_ALIGNMENT = 16
"""Byte alignment the schema demands of tensor data; microcontrollers read it in place."""

LOGISTIC_OUTPUT_SCALE = np.float32(1.0 / 256.0)
LOGISTIC_OUTPUT_ZERO_POINT = -128
"""The int8 LOGISTIC kernel accepts no other output quantization."""


class Activation(enum.IntEnum):
    """Activation fused into a FULLY_CONNECTED operator, by its code in the schema."""

    NONE = schema.ActivationFunctionType.NONE
    RELU = schema.ActivationFunctionType.RELU
    RELU6 = schema.ActivationFunctionType.RELU6


@dataclass(frozen=True, slots=True)
class Layer:
    """One int8 FULLY_CONNECTED operator.

    The weight zero point is 0 and the bias scale is input scale x weight scale, as the int8
    specification of LiteRT fixes them.
    """

    weights: npt.NDArray[np.int8]
    """Shape (out, in)."""
    bias: npt.NDArray[np.int32] | None
    """Shape (out,); `None` leaves the bias input of the operator out."""
    weight_scales: npt.NDArray[np.float32]
    """Shape (1,) for per-tensor weights, (out,) for per-channel ones."""
    output_scale: float
    """Rounded to float32 on writing."""
    output_zero_point: int
    activation: Activation = Activation.NONE

    def __post_init__(self) -> None:
        """Reject arrays whose types or shapes do not fit together."""
        _check(self.weights, np.int8, (None, None), "weights")
        rows = self.weights.shape[0]
        if self.bias is not None:
            _check(self.bias, np.int32, (rows,), "bias")
        _check(self.weight_scales, np.float32, (None,), "weight_scales")
        if len(self.weight_scales) not in (1, rows):
            raise ValueError(f"{len(self.weight_scales)} weight scales for {rows} outputs")


@dataclass(frozen=True, slots=True)
class FloatLayer:
    """One float32 FULLY_CONNECTED operator."""

    weights: npt.NDArray[np.float32]
    """Shape (out, in)."""
    bias: npt.NDArray[np.float32] | None
    """Shape (out,)."""
    activation: Activation = Activation.NONE

    def __post_init__(self) -> None:
        """Reject arrays whose types or shapes do not fit together."""
        _check(self.weights, np.float32, (None, None), "weights")
        if self.bias is not None:
            _check(self.bias, np.float32, (self.weights.shape[0],), "bias")


def write_fully_connected_model(
    layers: Sequence[Layer],
    input_scale: float,
    input_zero_point: int,
    *,
    quantize_input: bool = False,
    dequantize_output: bool = False,
    logistic: bool = False,
) -> bytes:
    """Return the `.tflite` bytes of int8 `layers` in sequence, for one input row of shape (1, in).

    `quantize_input` puts a QUANTIZE operator first, so that the model takes float32; `logistic`
    appends a LOGISTIC operator; `dequantize_output` puts a DEQUANTIZE operator last, so that the
    model returns float32.
    """
    _check_chain([layer.weights.shape for layer in layers])
    graph = _GraphBuilder()
    width = layers[0].weights.shape[1]
    scale = np.float32(input_scale)
    code_input = _quantization(np.array([scale]), input_zero_point)
    if quantize_input:
        source = graph.tensor("input", (1, width), schema.TensorType.FLOAT32)
        value = graph.tensor("input_int8", (1, width), schema.TensorType.INT8, code_input)
        graph.operator(schema.BuiltinOperator.QUANTIZE, 1, [source], value)
    else:
        source = value = graph.tensor("input", (1, width), schema.TensorType.INT8, code_input)
    for index, layer in enumerate(layers):
        value = _append_int8(graph, f"layer{index}", layer, value, scale)
        scale = np.float32(layer.output_scale)
    width = layers[-1].weights.shape[0]
    if logistic:
        probabilities = graph.tensor(
            "logistic",
            (1, width),
            schema.TensorType.INT8,
            _quantization(np.array([LOGISTIC_OUTPUT_SCALE]), LOGISTIC_OUTPUT_ZERO_POINT),
        )
        graph.operator(schema.BuiltinOperator.LOGISTIC, 2, [value], probabilities)
        value = probabilities
    if dequantize_output:
        result = graph.tensor("output", (1, width), schema.TensorType.FLOAT32)
        graph.operator(schema.BuiltinOperator.DEQUANTIZE, 2, [value], result)
        value = result
    return graph.finish(source, value)


def write_float_model(layers: Sequence[FloatLayer]) -> bytes:
    """Return the `.tflite` bytes of float32 `layers` in sequence, for one input row (1, in)."""
    _check_chain([layer.weights.shape for layer in layers])
    graph = _GraphBuilder()
    source = value = graph.tensor("input", (1, layers[0].weights.shape[1]), schema.TensorType.FLOAT32)
    for index, layer in enumerate(layers):
        name = f"layer{index}"
        weights = graph.constant(f"{name}/weights", layer.weights, schema.TensorType.FLOAT32)
        bias = -1
        if layer.bias is not None:
            bias = graph.constant(f"{name}/bias", layer.bias, schema.TensorType.FLOAT32)
        shape = (1, layer.weights.shape[0])
        result = graph.tensor(f"{name}/output", shape, schema.TensorType.FLOAT32)
        version = 1 if layer.bias is not None else 6
        graph.fully_connected(version, [value, weights, bias], result, layer.activation)
        value = result
    return graph.finish(source, value)


def _append_int8(graph: _GraphBuilder, name: str, layer: Layer, value: int, input_scale: np.float32) -> int:
    """Append one int8 layer reading tensor `value`; return the index of its output tensor."""
    weights = graph.constant(
        f"{name}/weights",
        layer.weights,
        schema.TensorType.INT8,
        _quantization(layer.weight_scales, 0),
    )
    bias = -1
    if layer.bias is not None:
        bias = graph.constant(
            f"{name}/bias",
            layer.bias,
            schema.TensorType.INT32,
            _quantization(input_scale * layer.weight_scales, 0),
        )
    result = graph.tensor(
        f"{name}/output",
        (1, layer.weights.shape[0]),
        schema.TensorType.INT8,
        _quantization(np.array([layer.output_scale], np.float32), layer.output_zero_point),
    )
    # Version 4 brought int8 operands, version 6 the missing bias.
    version = 4 if layer.bias is not None else 6
    graph.fully_connected(version, [value, weights, bias], result, layer.activation)
    return result


class _AlignedBuffer(schema.BufferT):
    """A buffer whose data start on a multiple of `BUFFER_ALIGNMENT`.

    The generated `BufferT` writes its vector unaligned although the schema says `force_align`.
    """

    def _pack(self, builder: flatbuffers.Builder) -> int:
        """Write the vector aligned, then the table that refers to it."""
        content = bytes(self.data or b"")
        if not content:
            return int(super().Pack(builder))
        builder.StartVector(1, len(content), BUFFER_ALIGNMENT)
        for byte in reversed(content):
            builder.PrependByte(byte)
        vector = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, vector)
        return int(schema.BufferEnd(builder))

    # The generated code packs every table through a method of this name.
    Pack = _pack


class _GraphBuilder:
    """Collects the tensors, operators and buffers of a model with one subgraph."""

    def __init__(self) -> None:
        self._tensors: list[schema.TensorT] = []
        self._operators: list[schema.OperatorT] = []
        self._codes: list[tuple[int, int]] = []
        # Buffer 0 is by convention the empty one that tensors without data share.
        self._buffers: list[schema.BufferT] = [schema.BufferT()]

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        tensor_type: int,
        quantization: schema.QuantizationParametersT | None = None,
        buffer: int = 0,
    ) -> int:
        """Add a tensor and return its index."""
        self._tensors.append(
            schema.TensorT(
                shape=list(shape),
                type=tensor_type,
                buffer=buffer,
                name=name,
                quantization=quantization,
                hasRank=True,
            )
        )
        return len(self._tensors) - 1

    def constant(
        self,
        name: str,
        values: npt.NDArray[Any],
        tensor_type: int,
        quantization: schema.QuantizationParametersT | None = None,
    ) -> int:
        """Add a tensor with data and return its index."""
        little_endian = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"))
        self._buffers.append(_AlignedBuffer(data=little_endian.tobytes()))
        return self.tensor(name, values.shape, tensor_type, quantization, len(self._buffers) - 1)

    def fully_connected(self, version: int, inputs: list[int], output: int, activation: Activation) -> None:
        """Add a FULLY_CONNECTED operator; an input of -1 is left out."""
        options = schema.FullyConnectedOptionsT(fusedActivationFunction=int(activation))
        self.operator(schema.BuiltinOperator.FULLY_CONNECTED, version, inputs, output, options)

    def operator(
        self,
        code: int,
        version: int,
        inputs: list[int],
        output: int,
        options: Any = None,
    ) -> None:
        """Add an operator with one output; `options` is the schema's table of options of its kind."""
        if (code, version) not in self._codes:
            self._codes.append((code, version))
        kind = "NONE" if options is None else type(options).__name__.removesuffix("T")
        self._operators.append(
            schema.OperatorT(
                opcodeIndex=self._codes.index((code, version)),
                inputs=inputs,
                outputs=[output],
                builtinOptionsType=getattr(schema.BuiltinOptions, kind),
                builtinOptions=options,
            )
        )

    def finish(self, model_input: int, model_output: int) -> bytes:
        """Return the finished file."""
        subgraph = schema.SubGraphT(
            tensors=self._tensors,
            inputs=[model_input],
            outputs=[model_output],
            operators=self._operators,
            name="main",
        )
        model = schema.ModelT(
            version=SCHEMA_VERSION,
            operatorCodes=[
                # Operators with codes below 127 repeat them in the old field.
                schema.OperatorCodeT(deprecatedBuiltinCode=min(code, 127), builtinCode=code, version=version)
                for code, version in self._codes
            ],
            subgraphs=[subgraph],
            buffers=self._buffers,
        )
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
        return bytes(builder.Output())


def _quantization(scales: npt.NDArray[np.float32], zero_point: int) -> schema.QuantizationParametersT:
    """Return affine quantization parameters, per channel of dimension 0 if several scales."""
    return schema.QuantizationParametersT(
        scale=scales.astype("<f4"),
        zeroPoint=np.full(len(scales), zero_point, "<i8"),
        quantizedDimension=0,
    )


def _check(
    array: npt.NDArray[Any], dtype: type[np.generic], shape: tuple[int | None, ...], name: str
) -> None:
    """Raise unless `array` has this dtype and shape (`None` fits any extent)."""
    fits = array.ndim == len(shape) and all(
        want in (None, have) for have, want in zip(array.shape, shape, strict=True)
    )
    if array.dtype != dtype or not fits:
        raise ValueError(f"{name}: want {dtype.__name__} of shape {shape}, got {array.dtype} {array.shape}")


def _check_chain(shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise unless there is a layer and each one takes what the one before it returns."""
    if not shapes:
        raise ValueError("a model needs at least one layer")
    for before, after in itertools.pairwise(shapes):
        if after[1] != before[0]:
            raise ValueError(f"a layer returns {before[0]} values and the next takes {after[1]}")
