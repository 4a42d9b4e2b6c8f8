"""Read an int8 or uint8 `.tflite` model as a QuantizedModel."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from milpq._arrays import Int64Array
from milpq.errors import InvalidNetworkError, ModelFileError, TargetError, UnsupportedModelError
from milpq.formats import _tflite_windows as windows
from milpq.formats._files import PathLike
from milpq.formats._float_builder import MAX_VALUES, MAX_WEIGHTS, SIGMOID_NOTE, SOFTMAX_NOTE
from milpq.formats._image_book import ImageBook
from milpq.formats._tflite_codes import RANGES, quantization
from milpq.formats.tflite_reader import TfliteGraph, TfliteOperator, TfliteTensor, read_tflite
from milpq.network.geometry import OUTSIDE
from milpq.network.quantized_model import (
    QuantizedAverage,
    QuantizedLayer,
    QuantizedLinear,
    QuantizedMaximum,
    QuantizedModel,
    QuantizedSelection,
    QuantizedSum,
    QuantizedUnary,
)
from milpq.rounding.activation import UINT8, activation_codes
from milpq.rounding.kernels import AverageKernel, Quantization, SumKernel, UnaryKernel, UnaryKind
from milpq.rounding.requantization import Operator, Requantization

_UNARY: dict[str, UnaryKind] = {
    "QUANTIZE": "requantize",
    "RELU": "relu",
    "RELU6": "relu6",
    "RELU_N1_TO_1": "relu_n1_to_1",
    "LOGISTIC": "logistic",
    "TANH": "tanh",
}
_LINEAR: dict[str, Operator] = {
    "FULLY_CONNECTED": "fully_connected",
    "CONV_2D": "conv",
    "DEPTHWISE_CONV_2D": "depthwise",
}
_ENDS = {"LOGISTIC": SIGMOID_NOTE, "SOFTMAX": SOFTMAX_NOTE}


def read_int8_tflite(path: PathLike, *, keep_final_activation: bool = False) -> QuantizedModel:
    """Return what an int8 `.tflite` file states, its rounding left to a target.

    QUANTIZE at the start and DEQUANTIZE at the end are the boundary of the integer network.  A LOGISTIC or SOFTMAX
    at the end is left out, and `note` says so; a LOGISTIC is kept with `keep_final_activation`.

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
        self.padded: dict[int, windows.Padded] = {}
        self.ended: dict[int, str] = {}
        # The operator of a tensor that is left out if nothing follows, and the value it reads.
        self.dropped: dict[int, tuple[str, int]] = {}
        self.input: TfliteTensor | None = None
        self.weights = 0
        self.images = ImageBook()
        self.handlers: dict[str, Callable[[TfliteOperator], None]] = {
            **dict.fromkeys(_LINEAR, self._linear),
            **dict.fromkeys(("AVERAGE_POOL_2D", "MEAN"), self._average),
            "MAX_POOL_2D": self._maximum,
            "ADD": self._add,
            **dict.fromkeys(("PAD", "PADV2"), self._pad),
            "CONCATENATION": self._concatenate,
            **dict.fromkeys(_UNARY, self._unary),
            **dict.fromkeys(("RESHAPE", "DEQUANTIZE", "SOFTMAX"), self._pass),
        }

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
        output, note = self.values[graph.output], ""
        if graph.output in self.dropped:
            operator, before = self.dropped[graph.output]
            note = _ENDS[operator]
            if before != output and output == len(self.layers):
                self.layers.pop()
                self.sizes.pop()
            output = before
        tensor = quantization(self.input)
        scales = np.full(self.input.size, tensor.scale)
        return QuantizedModel(
            scales,
            tensor.zero_point,
            tensor.range.lower,
            tensor.range.upper,
            scales,
            tuple(self.layers),
            output,
            str(graph.path),
            note,
            images=self.images.images(len(self.sizes)),
        )

    def _begin(self, index: int) -> None:
        """Let value 0 be this tensor."""
        tensor = self.graph.tensors[index]
        if self.input is not None:
            raise UnsupportedModelError(f"{tensor.where}: is a second quantized input")
        quantization(tensor)
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
        if operator.name not in self.handlers:
            raise UnsupportedModelError(
                f"{where}: is not supported; milpq reads {', '.join(sorted(self.handlers))}"
            )
        for index in (source, *(i for i in operator.inputs[1:] if i >= 0 and graph.tensors[i].data is None)):
            if index not in self.values:
                raise (
                    UnsupportedModelError(
                        f"{where}: works on float values, in a model that is quantized elsewhere"
                    )
                    if index == graph.input
                    else ModelFileError(f"{where}: reads a tensor that no operator before it computes")
                )
            if index in self.ended and operator.name not in {"RESHAPE", "DEQUANTIZE"}:
                raise UnsupportedModelError(
                    f"{where}: follows a {self.ended[index]}, which milpq reads only at the end"
                )
        if operator.name not in {*_LINEAR, "RESHAPE", "DEQUANTIZE", "SOFTMAX"} and any(
            graph.tensors[index].kind == "UINT8"
            for index in (*operator.inputs, *operator.outputs)
            if index >= 0
        ):
            raise UnsupportedModelError(
                f"{where}: on uint8, milpq reads layers with weights only; convert the model to int8"
            )
        self.handlers[operator.name](operator)

    def _pass(self, operator: TfliteOperator) -> None:
        """Let the result be the source: for RESHAPE, and at the end for DEQUANTIZE and SOFTMAX."""
        source, result = operator.inputs[0], operator.outputs[0]
        read, made = self.graph.tensors[source], self.graph.tensors[result]
        where = self.graph.where(operator)
        if read.size != made.size:
            raise InvalidNetworkError(f"{where}: its input and output differ in size")
        self.values[result] = self.values[source]
        if source in self.ended or operator.name != "RESHAPE":
            self.ended[result] = self.ended.get(source, operator.name)
        if operator.name == "SOFTMAX":
            self.dropped[result] = operator.name, self.values[source]
        elif source in self.dropped:
            self.dropped[result] = self.dropped[source]
        if operator.name == "RESHAPE" and made.kind in RANGES and quantization(made) != quantization(read):
            raise InvalidNetworkError(f"{where}: its input and output have different scales")

    def _linear(self, operator: TfliteOperator) -> None:
        graph = self.graph
        where = graph.where(operator)
        source, kind = self.values[operator.inputs[0]], _LINEAR[operator.name]
        tensors = [graph.tensors[index] for index in (operator.inputs[0], operator.outputs[0])]
        read, result = (quantization(tensor) for tensor in tensors)
        if not operator.plain_weights or len(operator.inputs) < 2 or operator.inputs[1] < 0:
            raise UnsupportedModelError(f"{where}: has no weights in the plain format")
        stored = graph.tensors[operator.inputs[1]]
        unsigned = read.range == UINT8
        if read.range != result.range:
            raise UnsupportedModelError(f"{where}: mixes int8 and uint8 activations; convert the model again")
        weights = stored.array("UINT8" if unsigned else "INT8").astype(np.int64)
        if unsigned and len(stored.scales) == 1 and len(stored.zero_points) == 1:
            weights = weights - int(stored.zero_points[0])
        self.weights += weights.size
        if self.weights > MAX_WEIGHTS:
            raise UnsupportedModelError(f"{where}: the network has more than {MAX_WEIGHTS} weights")
        convolution = None
        if kind == "fully_connected":
            if weights.ndim != 2 or weights.shape[1] != self.sizes[source]:
                raise InvalidNetworkError(
                    f"{stored.where}: weights of shape {weights.shape} for {self.sizes[source]} inputs"
                )
            matrix = weights.astype(np.float64)
            channel = np.arange(len(matrix), dtype=np.int64)
        else:
            matrix, convolution = windows.convolution(
                graph,
                operator,
                weights.astype(np.float64),
                self.padded.get(operator.inputs[0]),
                depthwise=kind == "depthwise",
            )
            channel = convolution.channel
            self.images.settle(source, convolution.image)
            self.weights += matrix.nnz
        axis = 3 if kind == "depthwise" else 0
        channels = weights.shape[axis]
        stored.check_scales()
        per_channel = len(stored.scales) > 1
        if len(stored.scales) not in {1, channels} or (per_channel and stored.quantized_dimension != axis):
            raise InvalidNetworkError(f"{stored.where}: {len(stored.scales)} scales for {channels} neurons")
        if unsigned and per_channel:
            raise UnsupportedModelError(
                f"{stored.where}: uint8 weights per channel, which no runtime computes"
            )
        if stored.zero_points.any() and not unsigned:
            # XNNPACK leaves such layers to other kernels, which round differently.
            raise UnsupportedModelError(
                f"{stored.where}: its zero point is {stored.zero_points[0]}; int8 weights must have "
                "zero point 0: convert the model again"
            )
        bias = np.zeros(channels, dtype=np.int64)
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            bias = self._bias(graph.tensors[operator.inputs[2]], channels)
        try:
            lower, upper = activation_codes(
                None, operator.activation, result.scale, result.zero_point, result.range
            )
        except TargetError as error:
            raise InvalidNetworkError(f"{where}: {error}") from error
        scales = np.broadcast_to(stored.scales, (channels,)).copy()
        self._made(
            operator,
            QuantizedLinear(
                stored.name or tensors[1].name,
                source,
                matrix,
                bias[channel],
                read.scale,
                scales,
                channel,
                Requantization(
                    kind,
                    read.scale,
                    scales,
                    per_channel,
                    result.scale,
                    result.zero_point,
                    lower,
                    upper,
                    limits=result.range,
                ),
                operator.activation,
                convolution,
            ),
            matrix.shape[0],
        )
        if convolution is not None:
            self.images.settle(self.values[operator.outputs[0]], convolution.result)

    def _bias(self, tensor: TfliteTensor, neurons: int) -> Int64Array:
        if tensor.zero_points.any():
            raise InvalidNetworkError(f"{tensor.where}: a bias with a zero point")
        if math.prod(tensor.shape) != neurons:
            raise InvalidNetworkError(
                f"{tensor.where}: {math.prod(tensor.shape)} biases for {neurons} neurons"
            )
        return tensor.array("INT32").astype(np.int64).ravel()

    def _average(self, operator: TfliteOperator) -> None:
        source, read, result = self._ends_of(operator)
        spatial_keep = False
        if operator.name == "MEAN":
            candidates, spatial_keep = windows.mean(self.graph, operator)
        else:
            candidates = windows.pool(self.graph, operator)
        kind = "mean" if operator.name == "MEAN" else "pool"
        kernel = AverageKernel(kind, read, result, operator.activation, spatial_keep)
        layer = QuantizedAverage(self._name(operator), source, candidates, kernel)
        self._made(operator, layer, len(candidates))

    def _maximum(self, operator: TfliteOperator) -> None:
        source, read, result = self._ends_of(operator)
        self._check_same(operator, read, result)
        candidates = windows.pool(self.graph, operator, self.padded.get(operator.inputs[0]))
        layer = QuantizedMaximum(self._name(operator), source, candidates, read, operator.activation)
        self._made(operator, layer, len(candidates))

    def _add(self, operator: TfliteOperator) -> None:
        graph = self.graph
        both = windows.operands(graph, operator)
        tensors = [graph.tensors[index] for index in operator.inputs]
        if any(tensor.data is not None for tensor in tensors):
            raise UnsupportedModelError(
                f"{graph.where(operator)}: adds a constant; fold it into the bias of a layer"
            )
        operands = [quantization(tensor) for tensor in tensors]
        result = quantization(graph.tensors[operator.outputs[0]])
        values: list[int] = []
        for index, tensor, operand, chosen in zip(operator.inputs, tensors, operands, both, strict=True):
            value = self.values[index]
            if len(chosen) != tensor.size:
                zeros = np.zeros(len(chosen), dtype=np.int64)
                layer = QuantizedSelection(tensor.name, (value,), (chosen,), zeros, operand)
                value = self._append(layer, len(chosen))
            values.append(value)
        kernel = SumKernel(operands[0], operands[1], result, operator.activation)
        self._made(operator, QuantizedSum(self._name(operator), values[0], values[1], kernel), len(both[0]))

    def _pad(self, operator: TfliteOperator) -> None:
        source, read, result = self._ends_of(operator)
        self._check_same(operator, read, result)
        chosen, level = windows.pad(self.graph, operator), 0
        padded = windows.padded_for_convolutions(self.graph, operator)
        if padded is not None:
            self.padded[operator.outputs[0]] = padded
            self.values[operator.outputs[0]] = source
            return
        if operator.name == "PADV2":
            if len(operator.inputs) < 3 or operator.inputs[2] < 0:
                raise InvalidNetworkError(f"{self.graph.where(operator)}: its constant is missing")
            constant = self.graph.tensors[operator.inputs[2]]
            self._check_same(operator, quantization(constant), read)
            level = int(constant.array(constant.kind).ravel()[0]) - read.zero_point
            padded = windows.padded_for_maxima(self.graph, operator)
            if padded is not None and level == read.range.lower - read.zero_point:
                self.padded[operator.outputs[0]] = padded
                self.values[operator.outputs[0]] = source
                return
        fill = np.where(chosen == OUTSIDE, level, 0)
        layer = QuantizedSelection(self._name(operator), (source,), (chosen,), fill, read)
        self._made(operator, layer, len(chosen))

    def _concatenate(self, operator: TfliteOperator) -> None:
        graph = self.graph
        where = graph.where(operator)
        if operator.activation != "none":
            raise UnsupportedModelError(
                f"{where}: has a fused {operator.activation}; fuse it into the layers before it"
            )
        if any(index not in self.values for index in operator.inputs):
            raise UnsupportedModelError(f"{where}: joins a constant, which milpq does not read")
        result = quantization(graph.tensors[operator.outputs[0]])
        for index in operator.inputs:
            self._check_same(operator, quantization(graph.tensors[index]), result)
        chosen = windows.concatenation(graph, operator)
        sources = tuple(self.values[index] for index in operator.inputs)
        zeros = np.zeros(len(chosen[0]), dtype=np.int64)
        layer = QuantizedSelection(self._name(operator), sources, tuple(chosen), zeros, result)
        self._made(operator, layer, len(zeros))

    def _unary(self, operator: TfliteOperator) -> None:
        source, read, result = self._ends_of(operator)
        if operator.name == "LOGISTIC" and not self.keep_final_activation:
            self.dropped[operator.outputs[0]] = operator.name, source
        kernel = UnaryKernel(_UNARY[operator.name], read, result)
        self._made(operator, QuantizedUnary(self._name(operator), source, kernel), self.sizes[source])

    def _ends_of(self, operator: TfliteOperator) -> tuple[int, Quantization, Quantization]:
        """Return the value an operator reads, and the quantizations of its input and output."""
        read, made = (self.graph.tensors[index] for index in (operator.inputs[0], operator.outputs[0]))
        return self.values[operator.inputs[0]], quantization(read), quantization(made)

    def _check_same(self, operator: TfliteOperator, first: Quantization, second: Quantization) -> None:
        if first != second:
            raise UnsupportedModelError(
                f"{self.graph.where(operator)}: its tensors differ in scale or zero point, which no runtime computes"
            )

    def _name(self, operator: TfliteOperator) -> str:
        return self.graph.tensors[operator.outputs[0]].name

    def _append(self, layer: QuantizedLayer, size: int) -> int:
        self.layers.append(layer)
        self.sizes.append(size)
        return len(self.layers)

    def _made(self, operator: TfliteOperator, layer: QuantizedLayer, size: int) -> None:
        """Append the layer of an operator."""
        result = self.graph.tensors[operator.outputs[0]]
        if result.size != size:
            raise InvalidNetworkError(
                f"{self.graph.where(operator)}: gives {size} values, but its output has the shape {result.shape}"
            )
        self.values[operator.outputs[0]] = self._append(layer, size)
        if operator.name not in {*_LINEAR, "MEAN"}:
            pool = operator.name in {"AVERAGE_POOL_2D", "MAX_POOL_2D"}
            padded = self.padded.get(operator.inputs[0])
            windows.note_images(self.images, self.graph, operator, self.values, pool=pool, padded=padded)
