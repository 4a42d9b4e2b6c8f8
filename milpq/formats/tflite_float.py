"""Read a float `.tflite` model as a FloatNetwork."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from milpq._arrays import Float64Array, Int64Array
from milpq.errors import InvalidNetworkError, ModelFileError, UnsupportedModelError
from milpq.formats import _tflite_windows as windows
from milpq.formats._files import PathLike, to_float64
from milpq.formats._float_builder import SIGMOID_NOTE, SOFTMAX_NOTE, FloatBuilder
from milpq.formats.tflite_reader import TfliteGraph, TfliteOperator, read_tflite
from milpq.network.curves import SIGMOID, TANH
from milpq.network.float_network import FloatNetwork
from milpq.network.geometry import OUTSIDE
from milpq.rounding.activation import ENDS, Activation

_CLAMPS: dict[str, Activation] = {"RELU": "relu", "RELU6": "relu6", "RELU_N1_TO_1": "relu_n1_to_1"}
_ENDS = {"LOGISTIC": SIGMOID_NOTE, "SOFTMAX": SOFTMAX_NOTE}
_SMOOTH = {"LOGISTIC": SIGMOID, "TANH": TANH}


def read_float_tflite(path: PathLike) -> FloatNetwork:
    """Return the real-arithmetic function of the weights of a float `.tflite` file.

    A LOGISTIC or SOFTMAX at the end is left out, and `note` says so.

    Raises
    ------
    ModelFileError
        The file is missing, damaged or no `.tflite` file.
    UnsupportedModelError
        It uses an operator, type or option that milpq does not read; the operator is named.
    InvalidNetworkError
        A weight is NaN or infinite, or shapes do not fit; the layer is named.
    """
    return float_network(read_tflite(path))


def float_network(graph: TfliteGraph) -> FloatNetwork:
    """Return the network of an already parsed float file."""
    if not graph.is_float:
        raise UnsupportedModelError(f"{graph.path}: is not a float model: some of its tensors are quantized")
    return _Walker(graph).network()


class _Walker:
    """Runs through the operators; `values` holds the value each tensor stands for."""

    def __init__(self, graph: TfliteGraph) -> None:
        self.graph = graph
        self.builder = FloatBuilder(graph.tensors[graph.input].size, str(graph.path))
        self.values = {graph.input: 0}
        self.padded: dict[int, windows.Padded] = {}
        # The operator of a tensor that is left out if nothing follows, and the value it reads.
        self.ended: dict[int, tuple[str, int]] = {}
        self.handlers: dict[str, Callable[[TfliteOperator], int]] = {
            "FULLY_CONNECTED": self._fully_connected,
            "CONV_2D": self._convolution,
            "DEPTHWISE_CONV_2D": self._convolution,
            "AVERAGE_POOL_2D": self._pool,
            "MAX_POOL_2D": self._pool,
            "MEAN": self._mean,
            "ADD": self._add,
            "PAD": self._pad,
            "PADV2": self._pad,
            "CONCATENATION": self._concatenate,
            **dict.fromkeys(_CLAMPS, self._clamp),
            **dict.fromkeys(_SMOOTH, self._smooth),
            **dict.fromkeys(("RESHAPE", "SOFTMAX"), self._pass),
        }

    def network(self) -> FloatNetwork:
        graph = self.graph
        for operator in graph.operators:
            self._run(operator)
        if graph.output not in self.values:
            raise ModelFileError(f"{graph.path}: no operator computes the output")
        if graph.output in self.ended:
            operator, before = self.ended[graph.output]
            return self.builder.finish(before, _ENDS[operator])
        return self.builder.finish(self.values[graph.output])

    def _run(self, operator: TfliteOperator) -> None:
        where = self.graph.where(operator)
        if operator.name not in self.handlers:
            raise UnsupportedModelError(
                f"{where}: is not supported; milpq reads {', '.join(sorted(self.handlers))}"
            )
        for index in self._computed_inputs(operator):
            if index not in self.values:
                raise ModelFileError(f"{where}: reads a tensor that no operator before it computes")
            if self.ended.get(index, ("", 0))[0] == "SOFTMAX" and operator.name != "RESHAPE":
                raise UnsupportedModelError(
                    f"{where}: follows a SOFTMAX, which milpq reads only as the last operator"
                )
        source, result = operator.inputs[0], operator.outputs[0]
        self.values[result] = self.handlers[operator.name](operator)
        if operator.name in _ENDS:
            self.ended[result] = operator.name, self.values[source]
        elif operator.name == "RESHAPE" and source in self.ended:
            self.ended[result] = self.ended[source]

    def _computed_inputs(self, operator: TfliteOperator) -> list[int]:
        """Return the inputs that must be computed: the first, and any other that is no constant."""
        others = [index for index in operator.inputs[1:] if index >= 0]
        return [
            operator.inputs[0] if operator.inputs else -1,
            *(index for index in others if self.graph.tensors[index].data is None),
        ]

    def _name(self, operator: TfliteOperator) -> str:
        return self.graph.tensors[operator.outputs[0]].name

    def _fused(self, operator: TfliteOperator, value: int) -> int:
        if operator.activation == "none":
            return value
        return self.builder.clamp(self._name(operator), value, *ENDS[operator.activation])

    def _clamp(self, operator: TfliteOperator) -> int:
        return self.builder.clamp(
            self._name(operator), self.values[operator.inputs[0]], *ENDS[_CLAMPS[operator.name]]
        )

    def _pass(self, operator: TfliteOperator) -> int:
        source, result = (self.graph.tensors[index] for index in (operator.inputs[0], operator.outputs[0]))
        if source.size != result.size:
            raise InvalidNetworkError(f"{self.graph.where(operator)}: its input and output differ in size")
        return self.values[operator.inputs[0]]

    def _smooth(self, operator: TfliteOperator) -> int:
        return self.builder.smooth(self._name(operator), self._pass(operator), _SMOOTH[operator.name])

    def _weights(self, operator: TfliteOperator) -> tuple[str, Float64Array, Float64Array | None]:
        """Return name, weights and bias of a layer."""
        graph = self.graph
        if not operator.plain_weights or len(operator.inputs) < 2 or operator.inputs[1] < 0:
            raise UnsupportedModelError(f"{graph.where(operator)}: has no weights in the plain format")
        stored = graph.tensors[operator.inputs[1]]
        bias = None
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            bias = to_float64(graph.tensors[operator.inputs[2]].array("FLOAT32")).ravel()
        return stored.name or self._name(operator), to_float64(stored.array("FLOAT32")), bias

    def _fully_connected(self, operator: TfliteOperator) -> int:
        name, matrix, bias = self._weights(operator)
        if matrix.ndim != 2:
            raise InvalidNetworkError(f"{self.graph.where(operator)}: the weights are no matrix")
        value = self.builder.linear(name, self.values[operator.inputs[0]], matrix, bias)
        return self._fused(operator, value)

    def _convolution(self, operator: TfliteOperator) -> int:
        name, weights, bias = self._weights(operator)
        depthwise = operator.name == "DEPTHWISE_CONV_2D"
        matrix, convolution = windows.convolution(
            self.graph, operator, weights, self.padded.get(operator.inputs[0]), depthwise=depthwise
        )
        if bias is not None:
            if len(bias) != weights.shape[3 if depthwise else 0]:
                raise InvalidNetworkError(f"{self.graph.where(operator)}: has {len(bias)} biases")
            bias = bias[convolution.channel]
        value = self.builder.linear(name, self.values[operator.inputs[0]], matrix, bias, convolution)
        return self._fused(operator, value)

    def _pool(self, operator: TfliteOperator) -> int:
        candidates, source = windows.pool(self.graph, operator), self.values[operator.inputs[0]]
        name, made = self._name(operator), windows.image_of(self.graph.tensors[operator.outputs[0]])
        if operator.name == "AVERAGE_POOL_2D":
            value = self.builder.average(name, source, candidates)
        else:
            value = self.builder.maximum(name, source, candidates, made)
        self._note_images(operator, value, pool=True)
        return self._fused(operator, value)

    def _note_images(self, operator: TfliteOperator, value: int, *, pool: bool = False) -> None:
        values = {**self.values, operator.outputs[0]: value}
        windows.note_images(self.builder.images, self.graph, operator, values, pool=pool)

    def _mean(self, operator: TfliteOperator) -> int:
        candidates, _ = windows.mean(self.graph, operator)
        return self.builder.average(self._name(operator), self.values[operator.inputs[0]], candidates)

    def _add(self, operator: TfliteOperator) -> int:
        graph, name = self.graph, self._name(operator)
        first, second = windows.operands(graph, operator)
        if any(graph.tensors[index].data is not None for index in operator.inputs):
            constant = next(index for index in operator.inputs if graph.tensors[index].data is not None)
            values = to_float64(graph.tensors[constant].array("FLOAT32")).ravel()
            other, spread, chosen = (
                (operator.inputs[0], first, values[second])
                if constant == operator.inputs[1]
                else (operator.inputs[1], second, values[first])
            )
            return self._fused(operator, self.builder.shift(name, self._spread(other, spread), chosen))
        value = self.builder.add(
            name, self._spread(operator.inputs[0], first), self._spread(operator.inputs[1], second)
        )
        return self._fused(operator, value)

    def _spread(self, tensor: int, chosen: Int64Array) -> int:
        """Return a value broadcast to a larger shape."""
        value = self.values[tensor]
        if len(chosen) == self.graph.tensors[tensor].size:
            return value
        return self.builder.select(self.graph.tensors[tensor].name, [value], [chosen], np.zeros(len(chosen)))

    def _pad(self, operator: TfliteOperator) -> int:
        chosen, constant = windows.pad(self.graph, operator), 0.0
        padded = windows.padded_for_convolutions(self.graph, operator)
        if padded is not None:
            self.padded[operator.outputs[0]] = padded
            return self.values[operator.inputs[0]]
        if operator.name == "PADV2":
            if len(operator.inputs) < 3:
                raise InvalidNetworkError(f"{self.graph.where(operator)}: its constant is missing")
            constant = float(to_float64(self.graph.tensors[operator.inputs[2]].array("FLOAT32")).ravel()[0])
        fill = np.where(chosen == OUTSIDE, constant, 0.0)
        value = self.builder.select(self._name(operator), [self.values[operator.inputs[0]]], [chosen], fill)
        self._note_images(operator, value)
        return value

    def _concatenate(self, operator: TfliteOperator) -> int:
        chosen = windows.concatenation(self.graph, operator)
        if any(index not in self.values for index in operator.inputs):
            raise UnsupportedModelError(
                f"{self.graph.where(operator)}: joins a constant, which milpq does not read"
            )
        values = [self.values[index] for index in operator.inputs]
        value = self.builder.select(self._name(operator), values, chosen, np.zeros(len(chosen[0])))
        self._note_images(operator, value)
        return self._fused(operator, value)
