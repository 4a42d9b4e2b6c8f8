"""The tables of a `.tflite` file: tensors, operators and buffers, packed as the schema has them."""

# The `tflite` package is generated and untyped, and so is the builder it works on.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import flatbuffers
import numpy as np
import numpy.typing as npt
import tflite

from milpq.rounding.activation import Activation

SCHEMA_VERSION: Final = 3
FILE_IDENTIFIER: Final = b"TFL3"
BUFFER_ALIGNMENT: Final = 16
"""Byte alignment the schema demands of tensor data; microcontrollers read it in place."""

_VERSIONS: Final = {
    "ADD": 2,
    "AVERAGE_POOL_2D": 2,
    "CONCATENATION": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "FULLY_CONNECTED": 4,
    "LOGISTIC": 2,
    "MAX_POOL_2D": 2,
    "MEAN": 2,
    "PAD": 2,
    "PADV2": 2,
    "QUANTIZE": 2,
    "RELU": 2,
    "RELU6": 2,
    "RELU_N1_TO_1": 1,
    "RESHAPE": 1,
    "TANH": 2,
}
"""The version of each operator that brought int8 operands."""

_ACTIVATIONS: Final[dict[Activation, int]] = {
    "none": tflite.ActivationFunctionType.NONE,
    "relu": tflite.ActivationFunctionType.RELU,
    "relu6": tflite.ActivationFunctionType.RELU6,
    "relu_n1_to_1": tflite.ActivationFunctionType.RELU_N1_TO_1,
}


class TableWriter:
    """Collects tensors and operators, then packs the tables from the inside out, as flatbuffers are built."""

    def __init__(self) -> None:
        self.builder: Any = flatbuffers.Builder(1024)
        self.buffers: list[bytes] = [b""]
        self.codes: list[str] = []
        # Planned first: the codes of all operators are written before tensors, and these before operators.
        self.tensors: list[Callable[[], int]] = []
        self.operators: list[tuple[str, list[int], int, Callable[[], tuple[int, int]] | None]] = []

    def append(
        self,
        name: str,
        inputs: list[int],
        output: int,
        kind: str | None = None,
        options: Mapping[str, int] | None = None,
        activation: Activation | None = None,
    ) -> None:
        """Plan an operator, perhaps with a table of options."""
        if name not in self.codes:
            self.codes.append(name)
        stated = dict(options or {})
        if activation is not None:
            stated["FusedActivationFunction"] = _ACTIVATIONS[activation]
        write = None if kind is None else partial(self.write_options, kind, stated)
        self.operators.append((name, inputs, output, write))

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...] | None,
        kind: str,
        scales: npt.NDArray[np.float32] | None,
        values: npt.NDArray[Any] | None = None,
        *,
        zero_point: int = 0,
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

    def content(self, source: int, result: int) -> bytes:
        """Return the finished file, of one input and one output tensor."""
        builder = self.builder
        codes = self.tables([self.operator_code(name) for name in self.codes])
        subgraphs = self.tables([self.subgraph(source, result)])
        buffers = self.tables([self.buffer(data) for data in self.buffers])
        tflite.ModelStart(builder)
        tflite.ModelAddVersion(builder, SCHEMA_VERSION)
        tflite.ModelAddOperatorCodes(builder, codes)
        tflite.ModelAddSubgraphs(builder, subgraphs)
        tflite.ModelAddBuffers(builder, buffers)
        builder.Finish(tflite.ModelEnd(builder), FILE_IDENTIFIER)
        return bytes(builder.Output())

    def subgraph(self, source: int, result: int) -> int:
        """Write the graph: tensors first, then the operators that connect them."""
        builder = self.builder
        tensors = self.tables([write() for write in self.tensors])
        inputs, outputs = self.integers([source]), self.integers([result])
        operators = self.tables([self.operator(*parts) for parts in self.operators])
        name = builder.CreateString("main")
        tflite.SubGraphStart(builder)
        tflite.SubGraphAddTensors(builder, tensors)
        tflite.SubGraphAddInputs(builder, inputs)
        tflite.SubGraphAddOutputs(builder, outputs)
        tflite.SubGraphAddOperators(builder, operators)
        tflite.SubGraphAddName(builder, name)
        return int(tflite.SubGraphEnd(builder))

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

    def write_options(self, kind: str, options: dict[str, int]) -> tuple[int, int]:
        """Write the options of an operator; return their kind and place."""
        builder = self.builder
        getattr(tflite, f"{kind}Start")(builder)
        for name, number in options.items():
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
