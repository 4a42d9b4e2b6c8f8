"""Read an int8 `.tflite` model of fully connected layers as a QuantizedModel."""

from __future__ import annotations

import math

import numpy as np

from milpq._arrays import Int64Array
from milpq.errors import InvalidNetworkError, ModelFileError, TargetError, UnsupportedModelError
from milpq.formats._files import PathLike
from milpq.formats._float_builder import MAX_VALUES, MAX_WEIGHTS, SIGMOID_NOTE
from milpq.formats.tflite_reader import TfliteGraph, TfliteOperator, TfliteTensor, read_tflite
from milpq.network.quantized_model import (
    QuantizedLayer,
    QuantizedLinear,
    QuantizedLogistic,
    QuantizedModel,
)
from milpq.rounding.activation import CODE_LOWER, CODE_UPPER, activation_codes
from milpq.rounding.requantization import Requantization


def read_int8_tflite(path: PathLike, *, keep_final_activation: bool = False) -> QuantizedModel:
    """Return what an int8 `.tflite` file states, its rounding left to a target.

    QUANTIZE at the start and DEQUANTIZE at the end are the boundary of the integer network.  A LOGISTIC at
    the end is left out, and `note` says so, unless `keep_final_activation`.

    Raises
    ------
    ModelFileError
        The file is missing, damaged or no `.tflite` file.
    UnsupportedModelError
        It uses an operator, type or option that milpq does not read; the operator is named.
    InvalidNetworkError
        Scales, zero points or shapes are inconsistent; the tensor is named.
    """
    return quantized_model(read_tflite(path), keep_final_activation=keep_final_activation)


def quantized_model(graph: TfliteGraph, *, keep_final_activation: bool = False) -> QuantizedModel:
    """Return the model of an already parsed int8 file."""
    return _Walker(graph, keep_final_activation=keep_final_activation).model()


class _Walker:
    """Runs through the operators; `values` holds the layer value each tensor stands for."""

    def __init__(self, graph: TfliteGraph, *, keep_final_activation: bool) -> None:
        self.graph = graph
        self.keep_final_activation = keep_final_activation
        self.layers: list[QuantizedLayer] = []
        self.sizes: list[int] = []
        self.values: dict[int, int] = {}
        self.ended: dict[int, str] = {}
        self.dropped: set[int] = set()
        self.input: TfliteTensor | None = None
        self.weights = 0

    def model(self) -> QuantizedModel:
        graph = self.graph
        if graph.tensors[graph.input].kind != "FLOAT32":
            self._begin(graph.input)
        for operator in graph.operators:
            self._run(operator)
        if self.input is None:
            raise UnsupportedModelError(f"{graph.path}: is a float model where a quantized one is needed")
        if graph.output not in self.values:
            raise ModelFileError(f"{graph.path}: no operator computes the output")
        scale, zero_point = self.input.quantization()
        scales = np.full(self.input.size, scale)
        return QuantizedModel(
            scales,
            zero_point,
            CODE_LOWER,
            CODE_UPPER,
            scales,
            tuple(self.layers),
            self.values[graph.output],
            str(graph.path),
            SIGMOID_NOTE if graph.output in self.dropped else "",
        )

    def _begin(self, index: int) -> None:
        """Let value 0 be this tensor."""
        tensor = self.graph.tensors[index]
        if self.input is not None:
            raise UnsupportedModelError(f"{tensor.where}: is a second quantized input")
        _check_activation(tensor)
        if not 0 < tensor.size <= MAX_VALUES:
            raise UnsupportedModelError(
                f"{tensor.where}: has {tensor.size} values; milpq reads 1 to {MAX_VALUES}"
            )
        self.input = tensor
        self.values[index] = 0
        self.sizes.append(tensor.size)

    def _run(self, operator: TfliteOperator) -> None:
        graph = self.graph
        where = graph.where(operator)
        source = operator.inputs[0] if operator.inputs else -1
        result = operator.outputs[0]
        if operator.name == "QUANTIZE" and source == graph.input and graph.tensors[source].kind == "FLOAT32":
            if graph.tensors[source].size != graph.tensors[result].size:
                raise InvalidNetworkError(f"{where}: its input and output differ in size")
            self._begin(result)
            return
        if source not in self.values:
            raise (
                UnsupportedModelError(
                    f"{where}: works on float values, in a model that is quantized elsewhere"
                )
                if source == graph.input
                else ModelFileError(f"{where}: reads a tensor that no operator before it computes")
            )
        if source in self.ended and operator.name not in {"RESHAPE", "DEQUANTIZE"}:
            raise UnsupportedModelError(
                f"{where}: follows a {self.ended[source]}, which milpq reads only at the end"
            )
        if operator.name == "FULLY_CONNECTED":
            self._fully_connected(operator, self.values[source], graph.tensors[source])
        elif operator.name == "LOGISTIC":
            self._logistic(operator, source)
        elif operator.name in {"RESHAPE", "DEQUANTIZE"}:
            self.values[result] = self.values[source]
            if source in self.ended or operator.name == "DEQUANTIZE":
                self.ended[result] = self.ended.get(source, "DEQUANTIZE")
            if source in self.dropped:
                self.dropped.add(result)
            self._check_passed_through(operator, where)
        else:
            raise UnsupportedModelError(
                f"{where}: is not supported; milpq reads FULLY_CONNECTED, RESHAPE, QUANTIZE first, "
                "and LOGISTIC and DEQUANTIZE last"
            )

    def _check_passed_through(self, operator: TfliteOperator, where: str) -> None:
        source, result = (self.graph.tensors[index] for index in (operator.inputs[0], operator.outputs[0]))
        if operator.name == "RESHAPE" and result.kind == "INT8":
            _check_activation(result)
            if result.quantization() != source.quantization():
                raise InvalidNetworkError(f"{where}: its input and output have different scales")

    def _fully_connected(self, operator: TfliteOperator, source: int, read: TfliteTensor) -> None:
        graph = self.graph
        where = graph.where(operator)
        result = graph.tensors[operator.outputs[0]]
        if not operator.plain_weights or len(operator.inputs) < 2 or operator.inputs[1] < 0:
            raise UnsupportedModelError(f"{where}: has no weights in the plain format")
        for tensor in (read, result):
            _check_activation(tensor)
        stored = graph.tensors[operator.inputs[1]]
        weights = stored.array("INT8")
        if weights.ndim != 2 or weights.shape[1] != self.sizes[source]:
            raise InvalidNetworkError(
                f"{stored.where}: weights of shape {weights.shape} for {self.sizes[source]} inputs"
            )
        self.weights += weights.size
        if self.weights > MAX_WEIGHTS:
            raise UnsupportedModelError(f"{where}: the network has more than {MAX_WEIGHTS} weights")
        neurons = weights.shape[0]
        stored.check_scales()
        per_channel = len(stored.scales) > 1
        if len(stored.scales) not in {1, neurons} or (per_channel and stored.quantized_dimension != 0):
            raise InvalidNetworkError(f"{stored.where}: {len(stored.scales)} scales for {neurons} neurons")
        if stored.zero_points.any():
            # XNNPACK leaves such layers to other kernels, which round differently.
            raise UnsupportedModelError(
                f"{stored.where}: its zero point is {stored.zero_points[0]}; int8 weights must have "
                "zero point 0: convert the model again"
            )
        bias = np.zeros(neurons, dtype=np.int64)
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            bias = self._bias(graph.tensors[operator.inputs[2]], neurons)
        input_scale, _ = read.quantization()
        output_scale, output_zero_point = result.quantization()
        try:
            lower, upper = activation_codes(None, operator.activation, output_scale, output_zero_point)
        except TargetError as error:
            raise InvalidNetworkError(f"{where}: {error}") from error
        scales = np.broadcast_to(stored.scales, (neurons,)).copy()
        self.layers.append(
            QuantizedLinear(
                stored.name or result.name,
                source,
                weights.astype(np.float64),
                bias,
                input_scale,
                scales,
                np.arange(neurons, dtype=np.int64),
                Requantization(
                    "fully_connected",
                    input_scale,
                    scales,
                    per_channel,
                    output_scale,
                    output_zero_point,
                    lower,
                    upper,
                ),
                operator.activation,
            )
        )
        self._made(operator.outputs[0], neurons)

    def _bias(self, tensor: TfliteTensor, neurons: int) -> Int64Array:
        if tensor.zero_points.any():
            raise InvalidNetworkError(f"{tensor.where}: a bias with a zero point")
        if math.prod(tensor.shape) != neurons:
            raise InvalidNetworkError(
                f"{tensor.where}: {math.prod(tensor.shape)} biases for {neurons} neurons"
            )
        return tensor.array("INT32").astype(np.int64).ravel()

    def _logistic(self, operator: TfliteOperator, source: int) -> None:
        read, result = self.graph.tensors[source], self.graph.tensors[operator.outputs[0]]
        for tensor in (read, result):
            _check_activation(tensor)
        self.ended[operator.outputs[0]] = "LOGISTIC"
        if self.keep_final_activation:
            value = self.values[source]
            self.layers.append(
                QuantizedLogistic(result.name, value, *read.quantization(), *result.quantization())
            )
            self._made(operator.outputs[0], self.sizes[value])
        else:
            self.values[operator.outputs[0]] = self.values[source]
            self.dropped.add(operator.outputs[0])

    def _made(self, tensor: int, size: int) -> None:
        self.values[tensor] = len(self.layers)
        self.sizes.append(size)


def _check_activation(tensor: TfliteTensor) -> None:
    """Raise unless an activation tensor is int8 with one scale and a zero point in range."""
    if tensor.kind == "UINT8":
        raise UnsupportedModelError(
            f"{tensor.where}: is uint8, the legacy quantization; convert the model to int8"
        )
    if tensor.kind != "INT8":
        raise UnsupportedModelError(f"{tensor.where}: is {tensor.kind}; milpq reads int8 activations")
    _, zero_point = tensor.quantization()
    if not CODE_LOWER <= zero_point <= CODE_UPPER:
        raise InvalidNetworkError(f"{tensor.where}: its zero point {zero_point} is no int8 code")
