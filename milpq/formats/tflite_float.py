"""Read a float `.tflite` model of fully connected layers as a FloatNetwork."""

from __future__ import annotations

from milpq.errors import InvalidNetworkError, ModelFileError, UnsupportedModelError
from milpq.formats._files import PathLike, to_float64
from milpq.formats._float_builder import SIGMOID_NOTE, FloatBuilder
from milpq.formats.tflite_reader import TfliteGraph, TfliteOperator, read_tflite
from milpq.network.float_network import FloatNetwork
from milpq.rounding.activation import ENDS, Activation

_OPERATORS: dict[str, Activation] = {"RELU": "relu", "RELU6": "relu6", "RELU_N1_TO_1": "relu_n1_to_1"}


def read_float_tflite(path: PathLike) -> FloatNetwork:
    """Return the real-arithmetic function of the weights of a float `.tflite` file.

    A LOGISTIC at the end is left out, and `note` says so.

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
    builder = FloatBuilder(graph.tensors[graph.input].size, str(graph.path))
    values = {graph.input: 0}
    after_logistic: set[int] = set()
    for operator in graph.operators:
        where = graph.where(operator)
        source = operator.inputs[0] if operator.inputs else -1
        if source not in values:
            raise ModelFileError(f"{where}: reads a tensor that no operator before it computes")
        if source in after_logistic and operator.name != "RESHAPE":
            raise UnsupportedModelError(
                f"{where}: follows a LOGISTIC, which milpq reads only as the last operator"
            )
        result = operator.outputs[0]
        name = graph.tensors[result].name
        if operator.name == "FULLY_CONNECTED":
            values[result] = _fully_connected(graph, operator, builder, values[source])
        elif operator.name in _OPERATORS:
            values[result] = builder.clamp(name, values[source], *ENDS[_OPERATORS[operator.name]])
        elif operator.name in {"RESHAPE", "LOGISTIC"}:
            if operator.name == "LOGISTIC" or source in after_logistic:
                after_logistic.add(result)
            values[result] = values[source]
        else:
            raise UnsupportedModelError(
                f"{where}: is not supported; milpq reads FULLY_CONNECTED, RELU, RELU6, RESHAPE "
                "and a final LOGISTIC"
            )
    if graph.output not in values:
        raise ModelFileError(f"{graph.path}: no operator computes the output")
    return builder.finish(values[graph.output], SIGMOID_NOTE if graph.output in after_logistic else "")


def _fully_connected(graph: TfliteGraph, operator: TfliteOperator, builder: FloatBuilder, source: int) -> int:
    where = graph.where(operator)
    if not operator.plain_weights or len(operator.inputs) < 2 or operator.inputs[1] < 0:
        raise UnsupportedModelError(f"{where}: has no weights in the plain format")
    weights = graph.tensors[operator.inputs[1]]
    name = weights.name or graph.tensors[operator.outputs[0]].name
    matrix = to_float64(weights.array("FLOAT32"))
    if matrix.ndim != 2:
        raise InvalidNetworkError(f"{weights.where}: the weights are no matrix")
    bias = None
    if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
        bias = to_float64(graph.tensors[operator.inputs[2]].array("FLOAT32")).ravel()
    value = builder.linear(name, source, matrix, bias)
    if operator.activation == "none":
        return value
    return builder.clamp(graph.tensors[operator.outputs[0]].name, value, *ENDS[operator.activation])
