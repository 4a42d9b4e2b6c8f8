"""Write a quantized model of fully connected layers as an int8 `.tflite`."""

# The `tflite` package is generated and untyped, and so is the builder it works on.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any, Final

import flatbuffers
import numpy as np
import numpy.typing as npt
import tflite

from milpq.errors import UnsupportedModelError
from milpq.formats._export import ExportLayer, ends_in_sigmoid, export_layers
from milpq.network.quantized_model import QuantizedModel
from milpq.rounding.activation import activation_codes

SCHEMA_VERSION: Final = 3
FILE_IDENTIFIER: Final = b"TFL3"
BUFFER_ALIGNMENT: Final = 16
"""Byte alignment the schema demands of tensor data; microcontrollers read it in place."""

TARGETS: Final = ("tflm", "litert-xnnpack", "litert-ref", "litert-nodelegate", "cmsis-single")
"""The targets that run `.tflite` files."""

_OPERATORS: Final = (
    (tflite.BuiltinOperator.FULLY_CONNECTED, 4),
    (tflite.BuiltinOperator.LOGISTIC, 2),
)
"""The operators and the version of each that brought int8 operands."""

_PROBABILITIES: Final = (np.array([1.0 / 256.0], dtype=np.float32), -128)
"""Scale and zero point; the int8 LOGISTIC gives no others."""

_ACTIVATIONS: Final = {
    "none": tflite.ActivationFunctionType.NONE,
    "relu": tflite.ActivationFunctionType.RELU,
    "relu6": tflite.ActivationFunctionType.RELU6,
    "relu_n1_to_1": tflite.ActivationFunctionType.RELU_N1_TO_1,
}


def tflite_bytes(model: QuantizedModel) -> bytes:
    """Return a model as a `.tflite` file of FULLY_CONNECTED operators with int8 input and output.

    A final sigmoid that `model.note` tells of becomes a LOGISTIC.

    Raises
    ------
    UnsupportedModelError
        It is no chain of int8 layers with int32 biases and symmetric weights, or it states the rounding of
        another runtime; the layer is named.
    """
    layers = export_layers(model, ".tflite", TARGETS)
    for layer in layers:
        _check(layer, model.origin)
    return _Writer(layers, model).content()


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


class _Writer:
    """Packs the tables from the inside out, as flatbuffers are built."""

    def __init__(self, layers: tuple[ExportLayer, ...], model: QuantizedModel) -> None:
        self.builder: Any = flatbuffers.Builder(1024)
        self.layers = layers
        self.model = model
        self.tensors: list[int] = []
        self.buffers: list[bytes] = [b""]

    def content(self) -> bytes:
        """Return the finished file."""
        builder = self.builder
        used = _OPERATORS[: 2 if ends_in_sigmoid(self.model) else 1]
        codes = self.tables([self.operator_code(*operator) for operator in used])
        subgraphs = self.tables([self.subgraph()])
        buffers = self.tables([self.buffer(data) for data in self.buffers])
        tflite.ModelStart(builder)
        tflite.ModelAddVersion(builder, SCHEMA_VERSION)
        tflite.ModelAddOperatorCodes(builder, codes)
        tflite.ModelAddSubgraphs(builder, subgraphs)
        tflite.ModelAddBuffers(builder, buffers)
        builder.Finish(tflite.ModelEnd(builder), FILE_IDENTIFIER)
        return bytes(builder.Output())

    def subgraph(self) -> int:
        """Write the graph: tensors first, then the operators that connect them."""
        builder, model = self.builder, self.model
        scale = np.array([model.input_scale[0]], dtype=np.float32)
        value = self.tensor("input", (1, len(model.input_scale)), "INT8", scale, model.input_zero_point)
        ends: list[tuple[list[int], int, int]] = []
        for index, layer in enumerate(self.layers):
            name = f"layer{index}"
            scales = layer.weight_scales.astype(np.float32)
            weights = self.tensor(f"{name}/weights", None, "INT8", scales, 0, layer.weights)
            bias = self.tensor(f"{name}/bias", None, "INT32", scale * scales, 0, layer.bias)
            scale = np.array([layer.output_scale], dtype=np.float32)
            result = self.tensor(
                f"{name}/output", (1, len(layer.bias)), "INT8", scale, layer.output_zero_point
            )
            ends.append(([value, weights, bias], result, _ACTIVATIONS[layer.activation]))
            value = result
        logistic: list[tuple[int, int]] = []
        if ends_in_sigmoid(model):
            shape = (1, len(self.layers[-1].bias))
            logistic.append((value, self.tensor("logistic", shape, "INT8", *_PROBABILITIES)))
            value = logistic[0][1]
        tensors = self.tables(self.tensors)
        inputs, outputs = self.integers([0]), self.integers([value])
        operators = self.tables([
            *(self.operator(read, given, activation) for read, given, activation in ends),
            *(self.operator([value], result, None) for value, result in logistic),
        ])  # fmt: skip
        name = builder.CreateString("main")
        tflite.SubGraphStart(builder)
        tflite.SubGraphAddTensors(builder, tensors)
        tflite.SubGraphAddInputs(builder, inputs)
        tflite.SubGraphAddOutputs(builder, outputs)
        tflite.SubGraphAddOperators(builder, operators)
        tflite.SubGraphAddName(builder, name)
        return int(tflite.SubGraphEnd(builder))

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...] | None,
        kind: str,
        scales: npt.NDArray[np.float32],
        zero_point: int,
        values: npt.NDArray[Any] | None = None,
    ) -> int:
        """Write a tensor, per channel of dimension 0 if it has several scales, and return its index."""
        builder = self.builder
        buffer = 0
        if values is not None:
            shape = values.shape
            buffer = len(self.buffers)
            self.buffers.append(np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).tobytes())
        assert shape is not None
        extents = self.integers(shape)
        label = builder.CreateString(name)
        scale = builder.CreateNumpyVector(scales.astype("<f4"))
        zero_points = builder.CreateNumpyVector(np.full(len(scales), zero_point, dtype="<i8"))
        tflite.QuantizationParametersStart(builder)
        tflite.QuantizationParametersAddScale(builder, scale)
        tflite.QuantizationParametersAddZeroPoint(builder, zero_points)
        quantization = tflite.QuantizationParametersEnd(builder)
        tflite.TensorStart(builder)
        tflite.TensorAddShape(builder, extents)
        tflite.TensorAddType(builder, getattr(tflite.TensorType, kind))
        tflite.TensorAddBuffer(builder, buffer)
        tflite.TensorAddName(builder, label)
        tflite.TensorAddQuantization(builder, quantization)
        tflite.TensorAddHasRank(builder, True)
        self.tensors.append(tflite.TensorEnd(builder))
        return len(self.tensors) - 1

    def operator_code(self, code: int, version: int) -> int:
        """Write an operator code; both lie below 127, where the old field must repeat the new one."""
        builder = self.builder
        tflite.OperatorCodeStart(builder)
        tflite.OperatorCodeAddDeprecatedBuiltinCode(builder, code)
        tflite.OperatorCodeAddVersion(builder, version)
        tflite.OperatorCodeAddBuiltinCode(builder, code)
        return int(tflite.OperatorCodeEnd(builder))

    def operator(self, inputs: list[int], output: int, activation: int | None) -> int:
        """Write a FULLY_CONNECTED with its activation, or a LOGISTIC without one."""
        builder = self.builder
        read, given = self.integers(inputs), self.integers([output])
        options = None
        if activation is not None:
            tflite.FullyConnectedOptionsStart(builder)
            tflite.FullyConnectedOptionsAddFusedActivationFunction(builder, activation)
            options = tflite.FullyConnectedOptionsEnd(builder)
        tflite.OperatorStart(builder)
        if options is None:
            tflite.OperatorAddOpcodeIndex(builder, 1)
        tflite.OperatorAddInputs(builder, read)
        tflite.OperatorAddOutputs(builder, given)
        if options is not None:
            tflite.OperatorAddBuiltinOptionsType(builder, tflite.BuiltinOptions.FullyConnectedOptions)
            tflite.OperatorAddBuiltinOptions(builder, options)
        return int(tflite.OperatorEnd(builder))

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
