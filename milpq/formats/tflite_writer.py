"""Write a quantized model of fully connected layers and convolutions as an int8 `.tflite`."""

# The `tflite` package is generated and untyped, and so is the builder it works on.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import flatbuffers
import numpy as np
import numpy.typing as npt
import tflite

from milpq.errors import UnsupportedModelError
from milpq.formats._export import Export, ExportLayer, ends_in_sigmoid, export_model
from milpq.formats._tflite_windows import LAYOUT
from milpq.network.geometry import same_padding
from milpq.network.images import Convolution, Image
from milpq.network.quantized_model import QuantizedModel
from milpq.rounding.activation import Activation, activation_codes

SCHEMA_VERSION: Final = 3
FILE_IDENTIFIER: Final = b"TFL3"
BUFFER_ALIGNMENT: Final = 16
"""Byte alignment the schema demands of tensor data; microcontrollers read it in place."""

TARGETS: Final = ("tflm", "litert-xnnpack", "litert-ref", "litert-nodelegate", "cmsis-single")
"""The targets that run `.tflite` files."""

_VERSIONS: Final = {
    "FULLY_CONNECTED": 4,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "PAD": 2,
    "RESHAPE": 1,
    "LOGISTIC": 2,
}
"""The version of each operator that brought int8 operands."""

_PROBABILITIES: Final = (np.array([1.0 / 256.0], dtype=np.float32), -128)
"""Scale and zero point; the int8 LOGISTIC gives no others."""

_ACTIVATIONS: Final = {
    "none": tflite.ActivationFunctionType.NONE,
    "relu": tflite.ActivationFunctionType.RELU,
    "relu6": tflite.ActivationFunctionType.RELU6,
    "relu_n1_to_1": tflite.ActivationFunctionType.RELU_N1_TO_1,
}


def tflite_bytes(model: QuantizedModel) -> bytes:
    """Return a model as a `.tflite` file of layers with int8 input and output.

    Images lie in it as (1, height, width, channels), input and output too, whatever their layout in the model.  Padding
    that is neither SAME nor VALID becomes a PAD.  A final sigmoid that `model.note` tells of becomes a LOGISTIC.

    Raises
    ------
    UnsupportedModelError
        It is no chain of int8 layers with int32 biases and symmetric weights, or it states the rounding of
        another runtime; the layer is named.
    """
    export = export_model(model, ".tflite", LAYOUT, TARGETS)
    for layer in export.layers:
        _check(layer, model.origin)
    return _Writer(export, model).content()


def _check(layer: ExportLayer, origin: str) -> None:
    where = f"{origin}: layer {layer.name!r}"
    if layer.weight_zero_points.any():
        raise UnsupportedModelError(
            f"{where}: has weight zero points, which no .tflite runtime takes; use symmetric weights"
        )
    meant = activation_codes(None, layer.activation, layer.output_scale, layer.output_zero_point)
    if meant != (layer.code_lower, layer.code_upper):
        raise UnsupportedModelError(
            f"{where}: its codes end at {layer.code_lower} and {layer.code_upper}, but a .tflite with activation "
            f"{layer.activation} ends them at {meant[0]} and {meant[1]}; write the open file (.json)"
        )
    slides = layer.convolution
    if slides is None:
        return
    if len(slides.windows.kernel) != 2:
        raise UnsupportedModelError(
            f"{where}: slides along {len(slides.windows.kernel)} axes, and a .tflite along two; write .onnx"
        )
    if slides.groups > 1 and not slides.is_depthwise:
        raise UnsupportedModelError(
            f"{where}: has {slides.groups} groups of channels, which not every .tflite runtime computes; write .onnx"
        )


@dataclass(frozen=True, slots=True)
class _Given:
    """A tensor of codes, by index."""

    tensor: int
    shape: tuple[int, ...]
    scale: npt.NDArray[np.float32]
    zero_point: int


def _shape(image: Image) -> tuple[int, ...]:
    return (1, *image.spatial, image.channels)


class _Writer:
    """Packs the tables from the inside out, as flatbuffers are built."""

    def __init__(self, export: Export, model: QuantizedModel) -> None:
        self.builder: Any = flatbuffers.Builder(1024)
        self.export = export
        self.model = model
        self.buffers: list[bytes] = [b""]
        self.codes: list[str] = []
        # Planned first: the codes of all operators are written before tensors, and these before operators.
        self.tensors: list[Callable[[], int]] = []
        self.operators: list[tuple[str, list[int], int, Callable[[], tuple[int, int]] | None]] = []

    def content(self) -> bytes:
        """Return the finished file."""
        builder = self.builder
        result = self.plan()
        codes = self.tables([self.operator_code(name) for name in self.codes])
        subgraphs = self.tables([self.subgraph(result)])
        buffers = self.tables([self.buffer(data) for data in self.buffers])
        tflite.ModelStart(builder)
        tflite.ModelAddVersion(builder, SCHEMA_VERSION)
        tflite.ModelAddOperatorCodes(builder, codes)
        tflite.ModelAddSubgraphs(builder, subgraphs)
        tflite.ModelAddBuffers(builder, buffers)
        builder.Finish(tflite.ModelEnd(builder), FILE_IDENTIFIER)
        return bytes(builder.Output())

    def plan(self) -> int:
        """Plan tensors and operators, and return the output."""
        model, image = self.model, self.export.image
        shape = (1, len(model.input_scale)) if image is None else _shape(image)
        value = self.given("input", shape, model.input_scale[0], model.input_zero_point)
        for index, layer in enumerate(self.export.layers):
            value = self.layer(f"layer{index}", layer, value)
        if not ends_in_sigmoid(model):
            return value.tensor
        tensor = self.tensor("logistic", value.shape, "INT8", *_PROBABILITIES)
        self.append("LOGISTIC", [value.tensor], tensor)
        return tensor

    def append(
        self, name: str, inputs: list[int], output: int, options: Callable[[], tuple[int, int]] | None = None
    ) -> None:
        """Plan an operator."""
        if name not in self.codes:
            self.codes.append(name)
        self.operators.append((name, inputs, output, options))

    def subgraph(self, result: int) -> int:
        """Write the graph: tensors first, then the operators that connect them."""
        builder = self.builder
        tensors = self.tables([write() for write in self.tensors])
        inputs, outputs = self.integers([0]), self.integers([result])
        operators = self.tables([self.operator(*parts) for parts in self.operators])
        name = builder.CreateString("main")
        tflite.SubGraphStart(builder)
        tflite.SubGraphAddTensors(builder, tensors)
        tflite.SubGraphAddInputs(builder, inputs)
        tflite.SubGraphAddOutputs(builder, outputs)
        tflite.SubGraphAddOperators(builder, operators)
        tflite.SubGraphAddName(builder, name)
        return int(tflite.SubGraphEnd(builder))

    def layer(self, name: str, layer: ExportLayer, value: _Given) -> _Given:
        """Write the tensors of a layer, with what brings its input into shape."""
        slides = layer.convolution
        if slides is None:
            value = self.reshaped(f"{name}/flat", value, (1, math.prod(value.shape)))
            code, weights = "FULLY_CONNECTED", layer.weights
            shape, options = (1, layer.size), partial(self.dense_options, layer.activation)
        else:
            value = self.reshaped(f"{name}/image", value, _shape(slides.image))
            windows, padding = slides.windows, tflite.Padding.VALID
            ends = windows.spatial, windows.kernel, windows.strides, windows.dilations
            if windows.padding == same_padding(*ends):
                padding = tflite.Padding.SAME
            elif any(any(pad) for pad in windows.padding):
                value = self.padded(f"{name}/padded", value, windows.padding)
            code, order = (
                ("DEPTHWISE_CONV_2D", (1, 2, 3, 0)) if slides.is_depthwise else ("CONV_2D", (0, 2, 3, 1))
            )
            weights = layer.weights.transpose(order)
            shape, options = (
                _shape(slides.result),
                partial(self.window_options, slides, padding, layer.activation),
            )
        scales = layer.weight_scales.astype(np.float32)
        axis = 3 if code == "DEPTHWISE_CONV_2D" else 0
        kernel = self.tensor(f"{name}/weights", None, "INT8", scales, 0, weights, axis)
        bias = self.tensor(f"{name}/bias", None, "INT32", value.scale * scales, 0, layer.bias)
        result = self.given(f"{name}/output", shape, layer.output_scale, layer.output_zero_point)
        self.append(code, [value.tensor, kernel, bias], result.tensor, options)
        return result

    def reshaped(self, name: str, value: _Given, shape: tuple[int, ...]) -> _Given:
        """Write a RESHAPE, if the value has another shape."""
        if value.shape == shape:
            return value
        extents = np.array([-1, *shape[1:]], dtype=np.int32)
        stated = self.tensor(f"{name}/shape", None, "INT32", None, 0, extents)
        result = self.given(name, shape, value.scale[0], value.zero_point)
        self.append("RESHAPE", [value.tensor, stated], result.tensor)
        return result

    def padded(self, name: str, value: _Given, padding: tuple[tuple[int, int], ...]) -> _Given:
        """Write a PAD of an image."""
        ends = np.array([(0, 0), *padding, (0, 0)], dtype=np.int32)
        stated = self.tensor(f"{name}/padding", None, "INT32", None, 0, ends)
        shape = tuple(
            extent + int(before + after) for extent, (before, after) in zip(value.shape, ends, strict=True)
        )
        result = self.given(name, shape, value.scale[0], value.zero_point)
        self.append("PAD", [value.tensor, stated], result.tensor)
        return result

    def given(self, name: str, shape: tuple[int, ...], scale: float, zero_point: int) -> _Given:
        """Write a tensor of codes."""
        scales = np.array([scale], dtype=np.float32)
        return _Given(self.tensor(name, shape, "INT8", scales, zero_point), shape, scales, zero_point)

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...] | None,
        kind: str,
        scales: npt.NDArray[np.float32] | None,
        zero_point: int,
        values: npt.NDArray[Any] | None = None,
        axis: int = 0,
    ) -> int:
        """Plan a tensor, per channel of dimension `axis` if it has several scales, and return its index."""
        buffer = 0
        if values is not None:
            shape = values.shape
            buffer = len(self.buffers)
            self.buffers.append(np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).tobytes())
        assert shape is not None
        stated = None if scales is None else partial(self.quantization, scales, zero_point, axis)
        self.tensors.append(partial(self.write_tensor, name, shape, kind, buffer, stated))
        return len(self.tensors) - 1

    def write_tensor(
        self, name: str, shape: tuple[int, ...], kind: str, buffer: int, scales: Callable[[], int] | None
    ) -> int:
        """Write a tensor; return its place."""
        builder = self.builder
        extents = self.integers(shape)
        label = builder.CreateString(name)
        quantization = None if scales is None else scales()
        tflite.TensorStart(builder)
        tflite.TensorAddShape(builder, extents)
        tflite.TensorAddType(builder, getattr(tflite.TensorType, kind))
        tflite.TensorAddBuffer(builder, buffer)
        tflite.TensorAddName(builder, label)
        if quantization is not None:
            tflite.TensorAddQuantization(builder, quantization)
        tflite.TensorAddHasRank(builder, True)
        return int(tflite.TensorEnd(builder))

    def quantization(self, scales: npt.NDArray[np.float32], zero_point: int, axis: int) -> int:
        """Write scales, one or one a channel of dimension `axis`, and a zero point."""
        builder = self.builder
        scale = builder.CreateNumpyVector(scales.astype("<f4"))
        zero_points = builder.CreateNumpyVector(np.full(len(scales), zero_point, dtype="<i8"))
        tflite.QuantizationParametersStart(builder)
        tflite.QuantizationParametersAddScale(builder, scale)
        tflite.QuantizationParametersAddZeroPoint(builder, zero_points)
        if axis and len(scales) > 1:
            tflite.QuantizationParametersAddQuantizedDimension(builder, axis)
        return int(tflite.QuantizationParametersEnd(builder))

    def operator_code(self, name: str) -> int:
        """Write an operator code; all lie below 127, where the old field must repeat the new one."""
        builder, code = self.builder, getattr(tflite.BuiltinOperator, name)
        tflite.OperatorCodeStart(builder)
        tflite.OperatorCodeAddDeprecatedBuiltinCode(builder, code)
        tflite.OperatorCodeAddVersion(builder, _VERSIONS[name])
        tflite.OperatorCodeAddBuiltinCode(builder, code)
        return int(tflite.OperatorCodeEnd(builder))

    def operator(
        self, name: str, inputs: list[int], output: int, write: Callable[[], tuple[int, int]] | None
    ) -> int:
        """Write an operator with its options, if it has some."""
        builder = self.builder
        read, given = self.integers(inputs), self.integers([output])
        kind, options = (0, 0) if write is None else write()
        tflite.OperatorStart(builder)
        tflite.OperatorAddOpcodeIndex(builder, self.codes.index(name))
        tflite.OperatorAddInputs(builder, read)
        tflite.OperatorAddOutputs(builder, given)
        if write is not None:
            tflite.OperatorAddBuiltinOptionsType(builder, kind)
            tflite.OperatorAddBuiltinOptions(builder, options)
        return int(tflite.OperatorEnd(builder))

    def dense_options(self, activation: Activation) -> tuple[int, int]:
        """Write the options of a FULLY_CONNECTED; return their kind and place."""
        tflite.FullyConnectedOptionsStart(self.builder)
        tflite.FullyConnectedOptionsAddFusedActivationFunction(self.builder, _ACTIVATIONS[activation])
        return tflite.BuiltinOptions.FullyConnectedOptions, tflite.FullyConnectedOptionsEnd(self.builder)

    def window_options(self, slides: Convolution, padding: int, activation: Activation) -> tuple[int, int]:
        """Write the options of a convolution; return their kind and place."""
        kind = "DepthwiseConv2DOptions" if slides.is_depthwise else "Conv2DOptions"
        builder, windows = self.builder, slides.windows
        stated = {
            "Padding": padding,
            "StrideH": windows.strides[0],
            "StrideW": windows.strides[1],
            "DilationHFactor": windows.dilations[0],
            "DilationWFactor": windows.dilations[1],
            "FusedActivationFunction": _ACTIVATIONS[activation],
        }
        if slides.is_depthwise:
            stated["DepthMultiplier"] = slides.outputs // slides.groups
        getattr(tflite, f"{kind}Start")(builder)
        for name, number in stated.items():
            getattr(tflite, f"{kind}Add{name}")(builder, number)
        return getattr(tflite.BuiltinOptions, kind), getattr(tflite, f"{kind}End")(builder)

    def buffer(self, data: bytes) -> int:
        """Write the data of a tensor, aligned; buffer 0 is the empty one that tensors without data share."""
        builder = self.builder
        vector = None
        if data:
            builder.StartVector(1, len(data), BUFFER_ALIGNMENT)
            builder.head -= len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = data
            vector = builder.EndVector()
        tflite.BufferStart(builder)
        if vector is not None:
            tflite.BufferAddData(builder, vector)
        return int(tflite.BufferEnd(builder))

    def integers(self, values: tuple[int, ...] | list[int]) -> int:
        """Write a vector of int32."""
        builder = self.builder
        builder.StartVector(4, len(values), 4)
        for value in reversed(values):
            builder.PrependInt32(value)
        return int(builder.EndVector())

    def tables(self, offsets: list[int]) -> int:
        """Write a vector of tables."""
        builder = self.builder
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())
