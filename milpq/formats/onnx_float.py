"""Read a float ONNX graph as a FloatNetwork."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from milpq.errors import ModelFileError, UnsupportedModelError
from milpq.formats._files import PathLike
from milpq.formats._float_builder import SIGMOID_NOTE, SOFTMAX_NOTE, FloatBuilder
from milpq.formats._onnx_operators import HANDLERS, REMEDIES, SHAPE_ONLY
from milpq.formats._onnx_step import Computed, Step, Value
from milpq.formats._onnx_tensors import (
    attributes,
    constants,
    input_shape,
    needed_nodes,
    node_label,
    only_input,
)
from milpq.network.float_network import FloatNetwork

if TYPE_CHECKING:
    import onnx


NOTES = {"Sigmoid": SIGMOID_NOTE, "Softmax": SOFTMAX_NOTE}
"""What `note` says of a network whose last operator is left out."""


def float_network(model: onnx.ModelProto, path: PathLike) -> FloatNetwork:
    """Return the real-arithmetic function of the constants stored in a float ONNX graph.

    Values are flattened in row-major order without the batch dimension.  A sigmoid or softmax at the end is left out,
    and `note` says so.  Constants behind a DequantizeLinear stand for ``scale · (code − zero point)``.

    Raises
    ------
    ModelFileError
        The graph is damaged.
    UnsupportedModelError
        It uses an operator, option, type or external file that milpq does not read; the operator is named.
    InvalidNetworkError
        A constant is NaN or infinite, or shapes do not fit; the layer is named.
    """
    graph = model.graph
    known = constants(graph, path)
    given = only_input(graph, known, path)
    shape = input_shape(given, path)
    builder = FloatBuilder(math.prod(shape), str(path))
    reader = _Reader(path, builder, dict(known))
    reader.values[given.name] = Computed(0, shape)
    for node in needed_nodes(graph):
        reader.run(node)
    output_name = graph.output[0].name
    output = reader.values.get(output_name)
    if not isinstance(output, Computed):
        raise ModelFileError(f"{path}: no operator computes the output {output_name!r} from the input")
    if output.after:
        return builder.finish(output.before, NOTES[output.after])
    return builder.finish(output.index)


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
            remedy = REMEDIES.get(node.op_type, f"milpq reads {', '.join(sorted(HANDLERS))}")
            raise UnsupportedModelError(
                f"{self.path}: operator {domain}{node.op_type} {node_label(node)!r} is not supported; {remedy}"
            )
        where = f"{self.path}: operator {node.op_type} {node_label(node)!r}"
        sources: list[Value | None] = []
        for name in node.input:
            if name and name not in self.values:
                raise ModelFileError(f"{where} reads {name!r}, which nothing before it computes")
            sources.append(self.values[name] if name else None)
        if not node.output:
            raise ModelFileError(f"{where} has no output")
        step = Step(self.builder, node_label(node), where, sources, attributes(node, self.path))
        after = {source.after for source in sources if isinstance(source, Computed)}
        if "Softmax" in after and node.op_type not in SHAPE_ONLY:
            raise step.unsupported("follows a Softmax, which milpq reads only as the last operator")
        self.values[node.output[0]] = handler(step)
