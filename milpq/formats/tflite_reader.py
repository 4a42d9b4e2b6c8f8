"""Defensive access to `.tflite` flatbuffers: one subgraph with its tensors, quantization and operators.

Every length is checked against the file before anything is allocated, and every way the generated accessors
can fail on a damaged file becomes a ModelFileError.
"""

# The `tflite` package is generated and untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from milpq._arrays import Float64Array, Int64Array
from milpq.errors import InvalidNetworkError, ModelFileError, UnsupportedModelError
from milpq.formats._files import PathLike, read_bytes, to_float64
from milpq.rounding.activation import ENDS, Activation

MAX_ENTRIES = 100_000
"""Largest number of tensors, operators or buffers read."""

_IDENTIFIER = b"TFL3"
_DAMAGE = (struct.error, IndexError, ValueError, TypeError, OverflowError, KeyError, AttributeError)
_DTYPES = {"FLOAT32": "<f4", "INT8": "i1", "UINT8": "u1", "INT32": "<i4"}
_WINDOW = ("Padding", "StrideH", "StrideW")
_OPTIONS = {
    "FULLY_CONNECTED": ("FullyConnectedOptions", ("FusedActivationFunction", "WeightsFormat")),
    "CONV_2D": (
        "Conv2DOptions",
        (*_WINDOW, "DilationHFactor", "DilationWFactor", "FusedActivationFunction"),
    ),
    "DEPTHWISE_CONV_2D": (
        "DepthwiseConv2DOptions",
        (*_WINDOW, "DilationHFactor", "DilationWFactor", "FusedActivationFunction"),
    ),
    "AVERAGE_POOL_2D": (
        "Pool2DOptions",
        (*_WINDOW, "FilterHeight", "FilterWidth", "FusedActivationFunction"),
    ),
    "MAX_POOL_2D": (
        "Pool2DOptions",
        (*_WINDOW, "FilterHeight", "FilterWidth", "FusedActivationFunction"),
    ),
    "ADD": ("AddOptions", ("FusedActivationFunction",)),
    "CONCATENATION": ("ConcatenationOptions", ("Axis", "FusedActivationFunction")),
    "MEAN": ("ReducerOptions", ("KeepDims",)),
}
"""The numbers read from an operator's table of options, by the names of the schema."""


@dataclass(frozen=True, slots=True, eq=False)
class TfliteTensor:
    """One tensor.

    Parameters
    ----------
    kind : str
        Element type as the schema names it: ``"INT8"``, ``"FLOAT32"``, ...
    data : memoryview or None
        Stored values; None for a tensor that is computed.
    scales : float64 holding float32 values, shape (channels,)
        Empty for a tensor that is not quantized.
    zero_points : int64, shape (channels,)
    """

    path: PathLike
    name: str
    kind: str
    shape: tuple[int, ...]
    data: memoryview | None
    scales: Float64Array
    zero_points: Int64Array
    quantized_dimension: int

    @property
    def size(self) -> int:
        """Number of elements, the batch dimension included."""
        return math.prod(self.shape)

    @property
    def where(self) -> str:
        """How messages name this tensor."""
        return f"{self.path}: tensor {self.name!r}"

    def array(self, kind: str) -> npt.NDArray[Any]:
        """Return the stored values of a constant tensor of the given kind.

        Raises
        ------
        UnsupportedModelError
            It is of another kind, or computed.
        """
        if self.kind != kind:
            raise UnsupportedModelError(f"{self.where}: is {self.kind} where milpq reads {kind}")
        if self.data is None:
            raise UnsupportedModelError(f"{self.where}: is computed where milpq needs a constant")
        return np.frombuffer(self.data, dtype=_DTYPES[kind]).reshape(self.shape)

    def quantization(self) -> tuple[float, int]:
        """Return the one scale and zero point of an activation tensor.

        Raises
        ------
        InvalidNetworkError
            It has none, several, or a scale that is not positive and finite.
        """
        if len(self.scales) != 1:
            raise InvalidNetworkError(f"{self.where}: has {len(self.scales)} scales where one is needed")
        self.check_scales()
        return float(self.scales[0]), int(self.zero_points[0])

    def check_scales(self) -> None:
        """Raise InvalidNetworkError unless all scales are positive and finite and match the zero points."""
        if not (np.isfinite(self.scales).all() and (self.scales > 0).all()):
            raise InvalidNetworkError(f"{self.where}: a scale is not positive and finite")
        if self.zero_points.shape != self.scales.shape:
            raise InvalidNetworkError(
                f"{self.where}: has {len(self.scales)} scales but {len(self.zero_points)} zero points"
            )


@dataclass(frozen=True, slots=True)
class TfliteOperator:
    """One operator: its name in the schema, tensor indices (−1: an input left out), fused activation.

    `options` holds the other numbers of its table of options, by the names of the schema.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    activation: Activation
    options: Mapping[str, int]

    @property
    def plain_weights(self) -> bool:
        """Tell whether fully connected weights are stored row by row."""
        return self.options.get("WeightsFormat", 0) == 0


@dataclass(frozen=True, slots=True, eq=False)
class TfliteGraph:
    """The only subgraph of a file, with one input and one output."""

    path: PathLike
    tensors: tuple[TfliteTensor, ...]
    operators: tuple[TfliteOperator, ...]
    input: int
    output: int

    def where(self, operator: TfliteOperator) -> str:
        """How messages name an operator: by its output tensor."""
        return f"{self.path}: operator {operator.name} {self.tensors[operator.outputs[0]].name!r}"

    @property
    def is_float(self) -> bool:
        """Tell whether the network is a float one: no tensor between its operators is quantized."""
        computed = (self.tensors[index] for operator in self.operators for index in operator.outputs)
        return self.tensors[self.input].kind == "FLOAT32" and all(
            tensor.kind == "FLOAT32" for tensor in computed
        )


def read_tflite(path: PathLike) -> TfliteGraph:
    """Return the subgraph of a `.tflite` file.

    Raises
    ------
    ModelFileError
        The file is missing, damaged or no `.tflite` file.
    UnsupportedModelError
        It has several subgraphs, inputs or outputs, or stores tensors in a way milpq does not read.
    """
    content = read_bytes(path)
    if content[4:8] != _IDENTIFIER:
        raise ModelFileError(f"{path}: is not a .tflite file (its identifier is not TFL3)")
    try:
        return _Parser(path, content).graph()
    except (ModelFileError, UnsupportedModelError):
        raise
    except _DAMAGE as error:
        raise ModelFileError(f"{path}: the .tflite file is damaged or truncated ({error})") from error


class _Parser:
    def __init__(self, path: PathLike, content: bytes) -> None:
        import tflite

        self.path = path
        self.content = content
        self.model: Any = tflite.Model.GetRootAs(content, 0)
        self._operator_names = _names(tflite.BuiltinOperator)
        self._kind_names = _names(tflite.TensorType)
        self._activation_names = _names(tflite.ActivationFunctionType)

    def graph(self) -> TfliteGraph:
        subgraphs = self.count(self.model.SubgraphsLength(), 4, "subgraphs")
        if subgraphs != 1:
            raise UnsupportedModelError(
                f"{self.path}: has {subgraphs} subgraphs; milpq reads models with one"
            )
        subgraph = self.model.Subgraphs(0)
        tensors = tuple(
            self.tensor(subgraph.Tensors(index))
            for index in range(self.count(subgraph.TensorsLength(), 4, "tensors"))
        )
        ends: list[int] = []
        for kind, indices in (
            ("inputs", self.vector(subgraph.InputsLength, subgraph.InputsAsNumpy, 4)),
            ("outputs", self.vector(subgraph.OutputsLength, subgraph.OutputsAsNumpy, 4)),
        ):
            if len(indices) != 1:
                raise UnsupportedModelError(
                    f"{self.path}: has {len(indices)} {kind}; milpq reads models with one"
                )
            ends.append(self.checked_index(int(indices[0]), len(tensors)))
        operators = tuple(
            self.operator(subgraph.Operators(index), len(tensors))
            for index in range(self.count(subgraph.OperatorsLength(), 4, "operators"))
        )
        if tensors[ends[0]].data is not None:
            raise ModelFileError(f"{self.path}: its input is a constant")
        return TfliteGraph(self.path, tensors, operators, ends[0], ends[1])

    def tensor(self, tensor: Any) -> TfliteTensor:
        name = self.text(tensor.Name())
        where = f"{self.path}: tensor {name!r}"
        kind = self._kind_names.get(tensor.Type(), f"type {tensor.Type()}")
        if tensor.Sparsity() is not None or tensor.IsVariable():
            raise UnsupportedModelError(f"{where}: is sparse or a variable, which milpq does not read")
        shape = tuple(int(extent) for extent in self.vector(tensor.ShapeLength, tensor.ShapeAsNumpy, 4))
        # A dimension of −1 is a batch the file leaves open.
        shape = tuple(1 if extent == -1 and axis == 0 else extent for axis, extent in enumerate(shape))
        if any(extent <= 0 for extent in shape):
            raise UnsupportedModelError(
                f"{where}: has the shape {shape}; milpq needs fixed positive dimensions"
            )
        data = self.buffer(tensor.Buffer(), where)
        if data is not None and kind in _DTYPES:
            expected = math.prod(shape) * np.dtype(_DTYPES[kind]).itemsize
            if expected != len(data):
                raise ModelFileError(
                    f"{where}: shape {shape} of {kind} needs {expected} bytes, but its buffer has "
                    f"{len(data)}; the file is damaged"
                )
        scales = np.empty(0)
        zero_points = np.empty(0, dtype=np.int64)
        dimension = 0
        quantization = tensor.Quantization()
        if quantization is not None:
            if quantization.DetailsType() != 0:
                raise UnsupportedModelError(f"{where}: has a custom quantization")
            scales = to_float64(self.vector(quantization.ScaleLength, quantization.ScaleAsNumpy, 4))
            zero_points = self.vector(quantization.ZeroPointLength, quantization.ZeroPointAsNumpy, 8)
            zero_points = zero_points.astype(np.int64)
            dimension = int(quantization.QuantizedDimension())
        return TfliteTensor(self.path, name, kind, shape, data, scales, zero_points, dimension)

    def buffer(self, index: int, where: str) -> memoryview | None:
        self.checked_index(index, self.count(self.model.BuffersLength(), 4, "buffers"))
        buffer = self.model.Buffers(index)
        if buffer is None:
            return None
        if buffer.Offset() > 1 or buffer.Size() > 1:
            raise UnsupportedModelError(
                f"{where}: its data lie outside of the flatbuffer, which milpq does not read"
            )
        length = buffer.DataLength()
        if length == 0:
            return None
        if length > len(self.content):
            raise ModelFileError(f"{where}: claims {length} bytes of data in a file of {len(self.content)}")
        return memoryview(buffer.DataAsNumpy())

    def operator(self, operator: Any, tensors: int) -> TfliteOperator:
        import tflite

        codes = self.count(self.model.OperatorCodesLength(), 4, "operator codes")
        code = self.model.OperatorCodes(self.checked_index(operator.OpcodeIndex(), codes))
        builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        name = self._operator_names.get(builtin, f"operator {builtin}")
        if name == "CUSTOM":
            name = f"CUSTOM {self.text(code.CustomCode())}"
        inputs = self.vector(operator.InputsLength, operator.InputsAsNumpy, 4)
        outputs = self.vector(operator.OutputsLength, operator.OutputsAsNumpy, 4)
        if len(outputs) == 0:
            raise ModelFileError(f"{self.path}: operator {name} has no output")
        options: dict[str, int] = {}
        if name in _OPTIONS:
            kind, fields = _OPTIONS[name]
            if operator.BuiltinOptionsType() == getattr(tflite.BuiltinOptions, kind):
                table = operator.BuiltinOptions()
                reader: Any = getattr(tflite, kind)()
                reader.Init(table.Bytes, table.Pos)
                options = {field: int(getattr(reader, field)()) for field in fields}
        code_number = options.pop("FusedActivationFunction", 0)
        activation: str = self._activation_names.get(code_number, str(code_number))
        fused: Activation | None = next((known for known in ENDS if known == activation.lower()), None)
        if fused is None:
            raise UnsupportedModelError(
                f"{self.path}: operator {name}: fused activation {activation} is not supported"
            )
        return TfliteOperator(
            name,
            tuple(-1 if index == -1 else self.checked_index(int(index), tensors) for index in inputs),
            tuple(self.checked_index(int(index), tensors) for index in outputs),
            fused,
            options,
        )

    def vector(self, length: Callable[[], int], values: Callable[[], Any], itemsize: int) -> npt.NDArray[Any]:
        """Return a vector of numbers, its length checked against the file first."""
        count = length()
        if count * itemsize > len(self.content):
            raise ModelFileError(f"{self.path}: a list claims {count} entries, more than the file holds")
        return np.asarray(values()) if count else np.empty(0, dtype=np.int64)

    def count(self, count: int, itemsize: int, what: str) -> int:
        if count * itemsize > len(self.content):
            raise ModelFileError(f"{self.path}: claims {count} {what}, more than the file holds")
        if count > MAX_ENTRIES:
            raise UnsupportedModelError(f"{self.path}: has {count} {what}; milpq reads up to {MAX_ENTRIES}")
        return count

    def checked_index(self, index: int, count: int) -> int:
        if not 0 <= index < count:
            raise ModelFileError(f"{self.path}: refers to entry {index} of {count}; the file is damaged")
        return index

    def text(self, raw: bytes | None) -> str:
        text = (raw or b"")[:200].decode("utf-8", errors="replace")
        return "".join(character if character.isprintable() else "?" for character in text)


def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}
