"""Read a float ONNX graph of dense layers and ReLUs as a FloatNetwork."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from milpq.errors import ModelFileError, UnsupportedModelError
from milpq.formats._files import PathLike
from milpq.formats._float_builder import SIGMOID_NOTE, FloatBuilder
from milpq.formats._onnx_operators import HANDLERS, REMEDIES, SHAPE_ONLY
from milpq.formats._onnx_step import Computed, Step, Value
from milpq.formats._onnx_tensors import attributes, input_shape, parse_onnx, tensor_to_array
from milpq.network.float_network import FloatNetwork

if TYPE_CHECKING:
    import onnx


def read_float_onnx(path: PathLike) -> FloatNetwork:
    """Return the real-arithmetic function of the constants stored in a float ONNX file.

    Values are flattened in row-major order without the batch dimension.  A sigmoid at the end is left out,
    and `note` says so.

    Raises
    ------
    ModelFileError
        The file is missing, damaged or no ONNX model.
    UnsupportedModelError
        It uses an operator, option, type or external file that milpq does not read; the operator is named.
    InvalidNetworkError
        A constant is NaN or infinite, or shapes do not fit; the layer is named.
    """
    model = parse_onnx(path)
    graph = model.graph
    if graph.sparse_initializer:
        raise UnsupportedModelError(f"{path}: has sparse initializers; store them dense")
    constants: dict[str, npt.NDArray[Any]] = {
        tensor.name: tensor_to_array(tensor, path) for tensor in graph.initializer
    }
    inputs = [value for value in graph.input if value.name not in constants]
    for kind, values in (("inputs", inputs), ("outputs", list(graph.output))):
        if len(values) != 1:
            raise UnsupportedModelError(f"{path}: has {len(values)} {kind}; milpq reads networks with one")
    shape = input_shape(inputs[0], path)
    builder = FloatBuilder(math.prod(shape), str(path))
    reader = _Reader(path, builder, dict(constants))
    reader.values[inputs[0].name] = Computed(0, shape)
    output_name = graph.output[0].name
    for node in _needed_nodes(graph, output_name):
        reader.run(node)
    output = reader.values.get(output_name)
    if not isinstance(output, Computed):
        raise ModelFileError(f"{path}: no operator computes the output {output_name!r} from the input")
    return builder.finish(output.index, SIGMOID_NOTE if output.after_sigmoid else "")


def _needed_nodes(graph: onnx.GraphProto, output_name: str) -> list[onnx.NodeProto]:
    """Return the nodes that the output depends on, in the order of the file."""
    needed = {output_name}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output):
            kept.append(node)
            needed.update(node.input)
    return kept[::-1]


class _Reader:
    """Runs through the nodes of one graph; `values` holds what each name stands for so far."""

    def __init__(self, path: PathLike, builder: FloatBuilder, values: dict[str, Value]) -> None:
        self.path = path
        self.builder = builder
        self.values = values

    def run(self, node: onnx.NodeProto) -> None:
        """Append one node."""
        handler = HANDLERS.get(node.op_type) if node.domain in {"", "ai.onnx"} else None
        if handler is None:
            domain = f"{node.domain}." if node.domain else ""
            remedy = REMEDIES.get(node.op_type, "milpq reads dense layers with ReLU or Clip")
            raise UnsupportedModelError(
                f"{self.path}: operator {domain}{node.op_type} {_label(node)!r} is not supported; {remedy}"
            )
        where = f"{self.path}: operator {node.op_type} {_label(node)!r}"
        sources: list[Value | None] = []
        for name in node.input:
            if name and name not in self.values:
                raise ModelFileError(f"{where} reads {name!r}, which nothing before it computes")
            sources.append(self.values[name] if name else None)
        if not node.output:
            raise ModelFileError(f"{where} has no output")
        step = Step(self.builder, _label(node), where, sources, attributes(node, self.path))
        after_sigmoid = any(isinstance(source, Computed) and source.after_sigmoid for source in sources)
        if after_sigmoid and node.op_type not in SHAPE_ONLY:
            raise step.unsupported("follows a Sigmoid, which milpq reads only as the last operator")
        self.values[node.output[0]] = handler(step)


def _label(node: onnx.NodeProto) -> str:
    return node.name or (node.output[0] if node.output else "") or node.op_type
